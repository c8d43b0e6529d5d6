//! From what is known about an object to its four conditions. Pure.

use k8s_controller::conditions::{ConditionStatus, DesiredCondition, set};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use soma_crds::condition;

use crate::events::Note;
use crate::names::reason;

/// Where an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is what its manifest asks for.
    Ready,
    /// It is on the way there, nobody needs to act.
    Progressing,
    /// Somebody has to act; the message says how.
    Degraded,
}

/// The summary of a reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub stage: Stage,
    /// It serves, perhaps an older state than the manifest asks for.
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Health {
    pub fn ready(message: impl Into<String>) -> Self {
        Self { stage: Stage::Ready, available: true, reason: reason::READY, message: message.into() }
    }

    pub fn progressing(available: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { stage: Stage::Progressing, available, reason, message: message.into() }
    }

    pub fn degraded(available: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { stage: Stage::Degraded, available, reason, message: message.into() }
    }
}

/// The conditions after `previous`; a transition time moves only when a status flips.
pub fn conditions(previous: &[Condition], generation: Option<i64>, health: &Health) -> Vec<Condition> {
    let mut all = previous.to_vec();
    let at = |stage| health.stage == stage;
    let own = |holds: bool, otherwise: &'static str| if holds { health.reason } else { otherwise };
    for (type_, holds, reason) in [
        (condition::READY, at(Stage::Ready), health.reason),
        (
            condition::AVAILABLE,
            health.available,
            if health.available { reason::SERVING } else { reason::NOT_SERVING },
        ),
        (condition::PROGRESSING, at(Stage::Progressing), own(at(Stage::Progressing), reason::SETTLED)),
        (condition::DEGRADED, at(Stage::Degraded), own(at(Stage::Degraded), reason::AS_EXPECTED)),
    ] {
        let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
        let desired = DesiredCondition::new(type_, status, reason, health.message.clone());
        // What changed is decided over the whole status, so the answer for one condition is not needed.
        let _ = set(&mut all, desired.observed_generation(generation));
    }
    all
}

/// The event of a transition: Ready has another status or another reason than before.
pub fn transition(previous: &[Condition], health: &Health) -> Option<Note> {
    let before = previous.iter().find(|c| c.type_ == condition::READY);
    let is_ready = health.stage == Stage::Ready;
    let same = before.is_some_and(|c| (c.status == "True") == is_ready && c.reason == health.reason);
    if same {
        return None;
    }
    Some(match health.stage {
        Stage::Degraded => Note::warning(health.reason, health.message.clone()),
        Stage::Ready | Stage::Progressing => Note::normal(health.reason, health.message.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(conditions: &[Condition], type_: &str) -> String {
        conditions.iter().find(|c| c.type_ == type_).unwrap().status.clone()
    }

    #[test]
    fn a_broken_revision_beside_a_serving_one_is_available_and_degraded() {
        let health = Health::degraded(true, "ImagePull", "fix the image");
        let all = conditions(&[], Some(3), &health);
        assert_eq!(status(&all, "Ready"), "False");
        assert_eq!(status(&all, "Available"), "True");
        assert_eq!(status(&all, "Progressing"), "False");
        assert_eq!(status(&all, "Degraded"), "True");
        assert!(all.iter().all(|c| c.observed_generation == Some(3) && !c.reason.is_empty()));
    }

    #[test]
    fn the_same_health_changes_nothing_and_emits_nothing() {
        let health = Health::ready("all fine");
        let once = conditions(&[], Some(1), &health);
        assert_eq!(conditions(&once, Some(1), &health), once);
        assert!(transition(&[], &health).is_some());
        assert!(transition(&once, &health).is_none());
        assert!(transition(&once, &Health::degraded(true, "X", "y")).is_some());
    }
}
