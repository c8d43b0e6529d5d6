//! Which pod of a stateful component may be replaced next. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pods;

/// What is known of the pods when the decision is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Revision the StatefulSet would give a new pod; `None` until its controller has seen the newest template.
    pub newest: Option<String>,
    /// By ordinal, up to the number of replicas; absent while a pod does not exist.
    pub pods: Vec<Option<PodView>>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    pub revision: String,
    pub ready: bool,
    pub deleting: bool,
    /// It will not become ready by itself, and why.
    pub trouble: Option<String>,
}

/// May a pod be deleted now?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    /// Not yet, for this reason.
    Wait(String),
    /// Once another member has taken over its role.
    HandOver,
}

/// The predicates of one component over what it observed.
pub trait Roll {
    /// The ordinals in the order in which they are to be replaced.
    fn order(&self, pods: u16) -> Vec<u16>;
    /// Whether a pod that works may be replaced now.
    fn can_roll(&self, ordinal: u16) -> Verdict;
    /// What a member is among the others, where that is known.
    fn role(&self, ordinal: u16) -> Option<&'static str>;
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Delete this pod, for this reason.
    Replace(u16, &'static str),
    /// Nothing now, for this reason.
    Wait(String),
    /// Ask this member to hand its role to another; then look again.
    HandOver(u16),
    /// Every pod runs the newest template.
    Current,
}

impl View {
    pub fn new(set: &StatefulSet, pods: &BTreeMap<u16, Pod>) -> Self {
        let status = set.status.as_ref();
        let seen = status.and_then(|s| s.observed_generation) == set.metadata.generation;
        let replicas = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let view = |pod: &Pod| PodView {
            revision: pod.labels().get("controller-revision-hash").cloned().unwrap_or_default(),
            ready: pods::is_ready(pod),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            trouble: pods::trouble([pod]).map(|t| t.message),
        };
        Self {
            newest: status.filter(|_| seen).and_then(|s| s.update_revision.clone()),
            pods: (0..u16::try_from(replicas).unwrap_or(0)).map(|n| pods.get(&n).map(view)).collect(),
        }
    }
}

/// One pod at a time. A pod that is broken on an old revision loses nothing by being replaced, whatever the component
/// says; one that is broken on the newest would only break again, and stops the roll.
pub fn next(view: &View, rules: &impl Roll) -> Step {
    let Some(newest) = &view.newest else {
        return Step::Wait("the StatefulSet's controller has not seen the newest template".into());
    };
    let known = || view.pods.iter().zip(0_u16..).filter_map(|(pod, n)| Some((n, pod.as_ref()?)));
    if known().all(|(_, pod)| pod.revision == *newest && !pod.deleting && pod.trouble.is_none()) {
        return match view.pods.iter().position(Option::is_none) {
            Some(missing) => Step::Wait(format!("pod {missing} does not exist yet")),
            None => Step::Current,
        };
    }
    if let Some((n, _)) = known().find(|(_, pod)| pod.deleting) {
        return Step::Wait(format!("pod {n} is ending"));
    }
    if let Some((_, pod)) = known().find(|(_, pod)| pod.revision == *newest && pod.trouble.is_some()) {
        return Step::Wait(pod.trouble.clone().unwrap_or_default());
    }
    if let Some((n, _)) = known().find(|(_, pod)| pod.trouble.is_some()) {
        return Step::Replace(n, "it is broken on an old revision");
    }
    if let Some(missing) = view.pods.iter().position(Option::is_none) {
        return Step::Wait(format!("pod {missing} does not exist yet"));
    }
    if let Some((n, _)) = known().find(|(_, pod)| !pod.ready) {
        return Step::Wait(format!("pod {n} is starting and may be recovering"));
    }
    let old = |n: &u16| known().any(|(m, pod)| m == *n && pod.revision != *newest);
    let order = rules.order(u16::try_from(view.pods.len()).unwrap_or(u16::MAX));
    match order.into_iter().find(old).map(|n| (n, rules.can_roll(n))) {
        Some((n, Verdict::Yes)) => Step::Replace(n, "its template changed"),
        Some((n, Verdict::HandOver)) => Step::HandOver(n),
        Some((n, Verdict::Wait(why))) => {
            Step::Wait(format!("pod {n} keeps its older template for now: {why}"))
        }
        None => Step::Current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Last to first; pod 0 may not go.
    struct Rules;

    impl Roll for Rules {
        fn order(&self, pods: u16) -> Vec<u16> {
            (0..pods).rev().collect()
        }

        fn can_roll(&self, ordinal: u16) -> Verdict {
            if ordinal == 0 { Verdict::Wait("it leads".into()) } else { Verdict::Yes }
        }

        fn role(&self, ordinal: u16) -> Option<&'static str> {
            (ordinal == 0).then_some("leader")
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a pod of the view may be absent")]
    fn pod(revision: &str, state: &str) -> Option<PodView> {
        Some(PodView {
            revision: revision.into(),
            ready: state == "ready",
            deleting: state == "deleting",
            trouble: (state == "broken").then(|| "bad image".to_owned()),
        })
    }

    #[test]
    fn table() {
        let step = |newest: Option<&str>, pods: &[Option<PodView>]| {
            next(&View { newest: newest.map(Into::into), pods: pods.to_vec() }, &Rules)
        };
        let (old, new) = (pod("1", "ready"), pod("2", "ready"));
        let waits = |step: Step, why: &str| match step {
            Step::Wait(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?} instead of waiting: {why}"),
        };
        waits(step(None, std::slice::from_ref(&old)), "has not seen");
        waits(step(Some("2"), &[None]), "does not exist yet");
        assert_eq!(step(Some("2"), &[new.clone(), new.clone()]), Step::Current);
        assert_eq!(step(Some("2"), &[pod("2", "starting")]), Step::Current);
        assert_eq!(step(Some("2"), &[old.clone(), old.clone()]), Step::Replace(1, "its template changed"));
        waits(step(Some("2"), &[old.clone(), new.clone()]), "it leads");
        waits(step(Some("2"), &[old.clone(), pod("2", "starting")]), "may be recovering");
        waits(step(Some("2"), &[old.clone(), None]), "pod 1 does not exist yet");
        waits(step(Some("2"), &[old.clone(), pod("1", "deleting")]), "pod 1 is ending");
        waits(step(Some("2"), &[old.clone(), pod("2", "broken")]), "bad image");
        assert_eq!(
            step(Some("2"), &[pod("1", "broken"), old.clone()]),
            Step::Replace(0, "it is broken on an old revision"),
            "whatever the rules say"
        );
        waits(step(Some("2"), &[pod("1", "starting"), new]), "may be recovering");
    }
}
