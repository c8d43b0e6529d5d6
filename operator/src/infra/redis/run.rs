//! Moves a managed Redis step by step to where it serves.

use soma_crds::RedisMode;

use super::build;
use super::client::Client;
use super::form::{self, Step};
use super::protocol::{Cluster, Place};
use super::seen::{self, Answer, Pod};
use super::users::{self, OPERATOR, Stage, Users};
use super::validate::{Managed, PORT};
use crate::apply::Writer;
use crate::check::{self, Plan};
use crate::error::{Error, chain};
use crate::events::Note;
use crate::infra::Site;
use crate::infra::component::State;
use crate::infra::roll::{Roll, Verdict};
use crate::infra::set::{self, Applied, Live};
use crate::names::{object, reason};
use crate::pods;

/// Steps of one reconcile: forming a cluster needs fewer, if every member meets every other by itself.
const MAX_STEPS: usize = 48;

/// Returns the state, and what was decided about this Redis.
pub async fn run(
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    live: &Live,
    applied: &mut Applied,
) -> Result<(State, Users), Error> {
    let objects = build::objects(site, managed)?;
    let mut plan = Plan::default();
    objects.plan(&mut plan);
    check::sound(&plan)?;
    let users = match &managed.users {
        Some(users) => users.clone(),
        None => users::begin(writer, site, managed.mode).await?,
    };
    let set = Box::pin(set::apply(writer, live, objects, applied)).await;
    let cluster = Cluster { places: places(live, managed.replicas()), password: &users.operator };
    let (mut state, rules) = match managed.mode {
        RedisMode::Standalone => {
            let state = alone(live, &users.operator).await;
            let rules = Rules { held: held(&state), pods: Vec::new() };
            (state, rules)
        }
        RedisMode::Cluster => steps(writer, site, live, &cluster, users.stage, applied).await?,
    };
    if let Some(set) = &set
        && let Some(leader) = set::roll(writer, live, set, &rules, applied).await
        && let Ok(heir) = seen::successor(&rules.pods, leader)
    {
        state = hand_over(&cluster, leader, heir).await;
    }
    Ok((state, users))
}

fn places(live: &Live, replicas: u16) -> Vec<Place> {
    let place = |n| {
        let pod = live.pods.get(&n).filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let address = pod.and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok());
        Place { address, machine: pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()) }
    };
    (0..replicas).map(place).collect()
}

/// A Redis of one member.
async fn alone(live: &Live, password: &str) -> State {
    if let Some(state) = set::unready(live, object::REDIS, 0) {
        return state;
    }
    let Some(address) = places(live, 1)[0].address else {
        return State::Starting("waiting for pod redis-0 to get an address".into());
    };
    let asked = async {
        Client::login((address.to_string(), PORT), Some(OPERATOR), Some(password)).await?.version().await
    };
    match asked.await {
        Ok(version) => State::Ready { version },
        Err(error) => State::Unreachable(chain(&error)),
    }
}

/// One step after another until nothing is left to do but to wait.
async fn steps(
    writer: &Writer,
    site: &Site<'_>,
    live: &Live,
    cluster: &Cluster<'_>,
    mut stage: Stage,
    applied: &mut Applied,
) -> Result<(State, Rules), Error> {
    let mut pods = Vec::new();
    let mut end = State::Forming("waiting for the members to settle".into());
    for _ in 0..MAX_STEPS {
        pods = cluster.look().await;
        let serving = stage == Stage::Formed && form::serves(&pods);
        let step = form::next(stage, &pods);
        if step == Step::Keep {
            users::keep_formed(writer, site).await?;
            stage = Stage::Formed;
            continue;
        }
        let done = cluster.perform(&step).await;
        if done.is_ok() {
            applied.notes.extend(told(stage, &step));
        }
        end = match (step, done) {
            (Step::Settled { version }, _) => State::Ready { version },
            (Step::Stuck { reason, message }, _) => State::Stuck { reason, message, serving },
            (Step::Wait(why), _) => waiting(why, serving, live),
            (_, Ok(true)) => continue,
            (_, Ok(false)) => waiting("a replica takes over from its master".into(), serving, live),
            (_, Err(error)) => waiting(format!("a step is tried again: {}", chain(&error)), serving, live),
        };
        break;
    }
    let rules = Rules { held: held(&end), pods };
    Ok((end, rules))
}

/// What a wait means for those who use Redis.
fn waiting(why: String, serving: bool, live: &Live) -> State {
    match (pods::trouble(live.pods.values()), serving) {
        (Some(pods::Trouble { reason, message }), true) => State::Stuck { reason, message, serving },
        (Some(trouble), false) => State::Broken(trouble),
        (None, true) => State::Repairing(why),
        (None, false) => State::Forming(why),
    }
}

/// Why no member may be restarted in this state.
fn held(state: &State) -> Option<String> {
    match state {
        State::Ready { .. } => None,
        State::Starting(why) | State::Forming(why) | State::Repairing(why) | State::Unreachable(why) => {
            Some(why.clone())
        }
        State::Broken(trouble) => Some(trouble.message.clone()),
        State::Stuck { message, .. } => Some(message.clone()),
    }
}

/// A repair in words, where the owner should hear of it.
fn told(stage: Stage, step: &Step) -> Option<Note> {
    let name = |n: &u16| set::pod_name(object::REDIS, *n);
    let what = match step {
        Step::TakeOver { pod } => format!("{} takes over: the data of its master is lost", name(pod)),
        Step::Replicate { pod, .. } => {
            format!("{} becomes the replica of a master that lacks one", name(pod))
        }
        _ => return None,
    };
    (stage == Stage::Formed).then(|| Note::normal(reason::MEMBER_CHANGED, what))
}

async fn hand_over(cluster: &Cluster<'_>, from: u16, to: u16) -> State {
    let name = |n| set::pod_name(object::REDIS, n);
    match cluster.hand_over(to).await {
        Ok(()) => State::Repairing(format!("{} hands over to {}", name(from), name(to))),
        Err(error) => State::Repairing(format!("{} cannot hand over: {}", name(from), chain(&error))),
    }
}

/// Replicas first, a master only after its replica took over; nobody while a slot lacks a master or a replica.
pub struct Rules {
    /// Why nobody may go now.
    pub held: Option<String>,
    /// The members of a cluster.
    pub pods: Vec<Pod>,
}

impl Rules {
    fn owns(&self, n: u16) -> bool {
        let pod = self.pods.get(usize::from(n));
        pod.is_some_and(|pod| matches!(&pod.answer, Answer::Member(member) if member.owns()))
    }
}

impl Roll for Rules {
    fn order(&self, pods: u16) -> Vec<u16> {
        let mut all: Vec<u16> = (0..pods).rev().collect();
        all.sort_by_key(|n| self.owns(*n));
        all
    }

    fn can_roll(&self, ordinal: u16) -> Verdict {
        if let Some(why) = &self.held {
            return Verdict::Wait(why.clone());
        }
        if !self.owns(ordinal) {
            return Verdict::Yes;
        }
        match seen::successor(&self.pods, ordinal) {
            Ok(_) => Verdict::HandOver,
            Err(why) => Verdict::Wait(why),
        }
    }

    fn role(&self, ordinal: u16) -> Option<&'static str> {
        match &self.pods.get(usize::from(ordinal))?.answer {
            Answer::Member(member) if member.owns() => Some("master"),
            Answer::Member(_) => Some("replica"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::redis::table::{formed, member};

    #[test]
    fn replicas_go_first_and_a_master_once_its_replica_is_level() {
        let rules = |pods: Vec<Pod>| Rules { held: None, pods };
        let six = rules(formed());
        assert_eq!(six.order(6), [5, 4, 3, 2, 1, 0]);
        assert_eq!((six.can_roll(5), six.can_roll(0)), (Verdict::Yes, Verdict::HandOver));
        let mut behind = formed();
        member(&mut behind, 0).offset = 5 << 20;
        assert!(matches!(rules(behind).can_roll(0), Verdict::Wait(why) if why.contains("bytes behind")));
        let mut cut_off = formed();
        member(&mut cut_off, 3).link_up = false;
        assert!(matches!(rules(cut_off).can_roll(0), Verdict::Wait(why) if why.contains("no replica")));
        let held = Rules { held: Some("redis-1 is away".into()), pods: formed() };
        assert_eq!(held.can_roll(5), Verdict::Wait("redis-1 is away".into()));
        assert_eq!(rules(Vec::new()).can_roll(0), Verdict::Yes, "one alone");
    }
}
