//! What the quorum of controllers needs next. Pure.

use std::time::Duration;

use uuid::Uuid;

/// A replica further behind the active controller than this does not count: Kafka's default of
/// `controller.quorum.fetch.timeout.ms`.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Members that run this long without an active controller will not elect one by themselves.
const PATIENCE: Duration = Duration::from_mins(2);

/// A replica of the metadata log, as the active controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub id: u16,
    /// Id of the folder its log is in. A new disk has a new one.
    pub directory: Uuid,
    /// Since it last had all the log; none when it never had.
    pub behind: Option<Duration>,
}

impl Replica {
    fn is_level(&self) -> bool {
        self.behind.is_some_and(|behind| behind <= FETCH_TIMEOUT)
    }
}

/// The quorum, as the active controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The active controller.
    pub leader: u16,
    pub voters: Vec<Replica>,
    /// Replicas without a vote.
    pub observers: Vec<Replica>,
}

/// How far the cluster has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its first members are being formatted, with these ids of folders.
    Forming(Vec<(u16, Uuid)>),
    /// There was a quorum once; an empty disk is never formatted as a first member again.
    Formed,
}

/// One step towards the wanted quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first members agree: write down that the cluster is formed.
    Keep,
    /// Take away the vote of a member whose disk is gone.
    Remove(u16, Uuid),
    /// Give a member a vote.
    Add(u16, Uuid),
    /// Every member has a vote and follows.
    Settled,
    /// A quorum works; a member is on its way.
    Wait(String),
    /// No quorum works yet.
    Elect(String),
    /// Somebody has to act.
    Stuck { reason: &'static str, message: String },
}

/// The next step. `quorum` is none while no member is the active controller; `mute` is how long that has been so
/// although all wanted members run.
pub fn next(stage: &Stage, replicas: u16, quorum: Option<&Quorum>, mute: Duration) -> Step {
    let Some(quorum) = quorum else { return leaderless(stage, mute) };
    if let Stage::Forming(members) = stage {
        let level = |(id, directory): &(u16, Uuid)| {
            quorum.voters.iter().any(|v| v.id == *id && v.directory == *directory && v.is_level())
        };
        return match members.iter().find(|first| !level(first)) {
            None => Step::Keep,
            Some((id, _)) => Step::Elect(format!("waiting for kafka-{id} to join the first quorum")),
        };
    }
    let voter = |id: u16| quorum.voters.iter().find(|v| v.id == id);
    // A new disk shows as an observer of the same id; the oldest of several are disks that are gone, too.
    let newcomer = |id: u16| {
        let fresh = quorum.observers.iter().filter(|o| o.id == id && o.is_level());
        fresh.filter(|o| voter(id).is_none_or(|v| v.directory != o.directory)).min_by_key(|o| o.behind)
    };
    for id in 0..replicas {
        match (voter(id), newcomer(id)) {
            (Some(old), Some(_)) => return remove(quorum, old),
            (None, Some(new)) => return Step::Add(id, new.directory),
            _ => {}
        }
    }
    match (0..replicas).find(|id| !voter(*id).is_some_and(Replica::is_level)) {
        Some(id) => Step::Wait(format!("waiting for kafka-{id} to follow the active controller")),
        None => Step::Settled,
    }
}

/// Kafka does not refuse the removal that costs the majority.
fn remove(quorum: &Quorum, stale: &Replica) -> Step {
    let rest: Vec<_> = quorum.voters.iter().filter(|v| v.id != stale.id).collect();
    let level = rest.iter().filter(|v| v.is_level()).count();
    if level * 2 > rest.len() {
        Step::Remove(stale.id, stale.directory)
    } else {
        Step::Wait(format!(
            "kafka-{} has a new disk and keeps the vote of its old one until a majority of the others follows the active controller",
            stale.id
        ))
    }
}

fn leaderless(stage: &Stage, mute: Duration) -> Step {
    match stage {
        Stage::Formed if mute > PATIENCE => Step::Stuck {
            reason: "QuorumLost",
            message: "all members run, but no majority of the voters elects an active controller: their disks are gone, or they cannot reach each other. If network policies let port 9093 through and the disks are lost, restore the volumes from a snapshot, or, to begin with an empty Kafka, delete StatefulSet kafka, its volumes and Secret kafka-cluster".into(),
        },
        _ => Step::Elect("waiting for the members to elect an active controller".into()),
    }
}

/// Whether the others keep a majority that follows while this member is away.
pub fn survives_without(quorum: &Quorum, id: u16) -> bool {
    let others = quorum.voters.iter().filter(|v| v.id != id && v.is_level()).count();
    others * 2 > quorum.voters.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: u16, disk: u128, behind_ms: Option<u64>) -> Replica {
        Replica { id, directory: Uuid::from_u128(disk), behind: behind_ms.map(Duration::from_millis) }
    }

    fn quorum(voters: &[Replica], observers: &[Replica]) -> Quorum {
        Quorum { leader: 0, voters: voters.to_vec(), observers: observers.to_vec() }
    }

    fn live(id: u16, disk: u128) -> Replica {
        replica(id, disk, Some(0))
    }

    #[test]
    fn a_cluster_is_formed_once_all_first_members_follow() {
        let first = Stage::Forming((0..3).map(|n| (n, Uuid::from_u128(n.into()))).collect());
        let step = |voters: &[Replica]| next(&first, 3, Some(&quorum(voters, &[])), Duration::ZERO);
        assert!(
            matches!(next(&first, 3, None, PATIENCE * 2), Step::Elect(_)),
            "the first start may take long"
        );
        assert!(matches!(step(&[live(0, 0), live(1, 1), replica(2, 2, None)]), Step::Elect(_)));
        assert!(matches!(step(&[live(0, 0), live(1, 1), live(2, 9)]), Step::Elect(_)), "another disk");
        assert_eq!(step(&[live(0, 0), live(1, 1), live(2, 2)]), Step::Keep);
    }

    #[test]
    fn a_member_gets_a_vote_when_it_is_there() {
        let step = |replicas, voters: &[Replica], observers: &[Replica]| {
            next(&Stage::Formed, replicas, Some(&quorum(voters, observers)), Duration::ZERO)
        };
        let one = [live(0, 0)];
        assert_eq!(step(1, &one, &[]), Step::Settled);
        assert!(matches!(step(3, &one, &[]), Step::Wait(_)), "no pod yet");
        assert_eq!(step(3, &one, &[live(2, 2)]), Step::Add(2, Uuid::from_u128(2)));
        assert!(matches!(step(3, &one, &[replica(1, 1, Some(60_000))]), Step::Wait(_)), "it has gone again");
        assert_eq!(step(1, &one, &[live(1, 1)]), Step::Settled, "nobody asked for it");
    }

    #[test]
    fn a_lost_disk_loses_its_vote_only_while_a_majority_remains() {
        let step = |voters: &[Replica], observers: &[Replica]| {
            next(&Stage::Formed, 3, Some(&quorum(voters, observers)), Duration::ZERO)
        };
        let gone = replica(1, 1, Some(90_000));
        let two = [live(0, 0), gone.clone(), live(2, 2)];
        assert_eq!(step(&two, &[live(1, 7)]), Step::Remove(1, Uuid::from_u128(1)));
        assert_eq!(
            step(&[live(0, 0), live(2, 2)], &[live(1, 7)]),
            Step::Add(1, Uuid::from_u128(7)),
            "a crash between the two steps"
        );
        let newest = [replica(1, 7, Some(1500)), live(1, 8)];
        assert_eq!(step(&[live(0, 0), live(2, 2)], &newest), Step::Add(1, Uuid::from_u128(8)));
        assert!(matches!(step(&two, &[]), Step::Wait(_)), "its pod is away, its disk perhaps not");
        let one = [live(0, 0), gone, replica(2, 2, None)];
        assert!(matches!(step(&one, &[live(1, 7)]), Step::Wait(_)), "the rest has no majority");
    }

    #[test]
    fn nobody_forms_a_second_cluster() {
        let step = |mute| next(&Stage::Formed, 3, None, mute);
        assert!(matches!(step(Duration::ZERO), Step::Elect(_)), "an election takes a moment");
        assert!(matches!(step(PATIENCE * 2), Step::Stuck { reason: "QuorumLost", .. }));
    }

    #[test]
    fn a_member_may_leave_when_a_majority_follows_without_it() {
        let three = quorum(&[live(0, 0), live(1, 1), live(2, 2)], &[]);
        assert!(survives_without(&three, 0));
        let weak = quorum(&[live(0, 0), live(1, 1), replica(2, 2, Some(3000))], &[]);
        assert!(!survives_without(&weak, 0) && survives_without(&weak, 2));
    }
}
