//! From what is known about the members to the next step. Pure.

use super::marker::Stage;
use super::seen::{Answer, Auth, Listed, Seen};
use crate::infra::set;
use crate::names::object;

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every founder answers: record that nobody may form the cluster again.
    Formed,
    /// Make both users and enable authentication.
    EnableAuth,
    /// Take this member out: it is dead, or more than was asked for.
    Remove(u64),
    /// Add this pod as a member without a vote.
    AddLearner(u16),
    /// Give this learner a vote.
    Promote(u64),
    /// Every member follows and authentication is on.
    Settled { version: String },
    /// Something has yet to start.
    Wait(String),
    /// Somebody has to act.
    Stuck { reason: &'static str, message: String },
}

/// One step at a time, and none without a majority. `wanted` are the members asked for.
pub fn next(stage: Stage, wanted: u16, seen: &Seen) -> Step {
    if let Some(stuck) = mismatch(seen) {
        return stuck;
    }
    if stage == Stage::Forming {
        return forming(seen);
    }
    if let Some(stuck) = lost(seen) {
        return stuck;
    }
    if seen.auth == Auth::Refused {
        return Step::Stuck {
            reason: "EtcdPasswordWrong",
            message: format!(
                "the password of root in Secret {} is not the one etcd knows. Restore the Secret from a backup",
                object::ETCD_CLUSTER
            ),
        };
    }
    if !seen.serves() {
        return Step::Wait(format!("no majority follows a leader: {}", first_missing(seen)));
    }
    if seen.auth != Auth::On {
        return if seen.auth == Auth::Off {
            Step::EnableAuth
        } else {
            Step::Wait("waiting to log in".into())
        };
    }
    membership(wanted, seen).unwrap_or_else(|| settled(seen))
}

/// Pods that hold different clusters were never members of one.
fn mismatch(seen: &Seen) -> Option<Step> {
    let known = |answer: &Answer| match answer {
        Answer::Mute { cluster } => Some(*cluster),
        Answer::Status(status) => Some(status.header.cluster_id),
        _ => None,
    };
    let named = |(answer, n)| Some((set::pod_name(object::ETCD, n), known(answer)?));
    let mut clusters = seen.answers.iter().zip(0_u16..).filter_map(named);
    let (first, cluster) = clusters.next()?;
    let (other, foreign) = clusters.find(|(_, found)| *found != cluster)?;
    Some(Step::Stuck {
        reason: "ClusterIdMismatch",
        message: format!(
            "{first} holds cluster {cluster:x} and {other} cluster {foreign:x}. Find out which volume is not of this cluster, and delete it with its pod: `kubectl delete pvc/data-POD pod/POD`"
        ),
    })
}

fn forming(seen: &Seen) -> Step {
    let follows = |answer: &Answer| matches!(answer, Answer::Status(status) if status.leader != 0);
    match seen.answers.iter().zip(0_u16..).find(|(answer, _)| !follows(answer)) {
        Some((answer, n)) => Step::Wait(waiting(n, Some(answer))),
        None if seen.list.iter().all(|member| member.started) && !seen.list.is_empty() => Step::Formed,
        None => Step::Wait("waiting for the members to know each other".into()),
    }
}

/// Data that no member has any more.
fn lost(seen: &Seen) -> Option<Step> {
    if !seen.answers.is_empty() && seen.answers.iter().all(|answer| *answer == Answer::Empty) {
        return Some(Step::Stuck {
            reason: "EtcdDataLost",
            message: format!(
                "every volume is empty, but Secret {} says that the cluster was formed before. Restore the volumes from a backup, or, to begin with an empty etcd, delete the Secret and the volumes: `kubectl delete secret/{} statefulset/etcd`, then `kubectl delete pvc/data-etcd-0` and the others",
                object::ETCD_CLUSTER,
                object::ETCD_CLUSTER
            ),
        });
    }
    let gone: Vec<_> = seen.voters().filter(|member| seen.is_lost(member)).map(Listed::name).collect();
    let voters = seen.voters().count();
    (!gone.is_empty() && voters - gone.len() < seen.majority()).then(|| Step::Stuck {
        reason: "QuorumLost",
        message: format!(
            "the volumes of {} are empty, and the rest of the {voters} members is no majority; nothing is done by itself, because the rest may lack the last writes. Restore a volume from a backup, or accept that loss and let one of the rest begin anew with --force-new-cluster, as docs/components/etcd.md says",
            gone.join(", ")
        ),
    })
}

/// Moves the list of members towards what is wanted: one change at a time.
fn membership(wanted: u16, seen: &Seen) -> Option<Step> {
    if let Some(foreign) = seen.list.iter().find(|member| member.ordinal.is_none()) {
        return Some(Step::Stuck {
            reason: "EtcdForeignMember",
            message: format!(
                "the member {:x} at {} is none of the operator's. Remove it with `etcdctl member remove {:x}`",
                foreign.id, foreign.url, foreign.id
            ),
        });
    }
    let surplus = |member: &&Listed| member.ordinal.is_none_or(|n| n >= wanted);
    if let Some(member) = seen.list.iter().find(|member| seen.is_lost(member) || surplus(member)) {
        return Some(remove(member, seen));
    }
    if let Some(member) = seen.list.iter().find(|member| member.learner || !member.started) {
        return Some(join(member, seen));
    }
    (0..wanted).find(|n| seen.listed(*n).is_none()).map(|n| match seen.answer(n) {
        None | Some(Answer::Empty) => Step::AddLearner(n),
        Some(Answer::Silent(_)) => Step::Wait(waiting(n, seen.answer(n))),
        Some(Answer::Ended | Answer::Mute { .. } | Answer::Status(_)) => foreign_volume(n),
    })
}

/// Only while the others keep a majority among themselves.
fn remove(member: &Listed, seen: &Seen) -> Step {
    let mut rest = seen.voters().filter(|voter| voter.id != member.id);
    let (all, healthy) = rest.by_ref().fold((0, 0), |(all, healthy), voter| {
        (all + 1, healthy + usize::from(seen.following(voter).is_some()))
    });
    if healthy > all / 2 {
        Step::Remove(member.id)
    } else {
        Step::Wait(format!("{} cannot be removed while the others are no majority", member.name()))
    }
}

fn join(member: &Listed, seen: &Seen) -> Step {
    let answer = member.ordinal.and_then(|n| seen.answer(n));
    match (seen.following(member), member.ordinal) {
        (Some(_), _) if member.learner => Step::Promote(member.id),
        (_, Some(n)) => Step::Wait(waiting(n, answer)),
        (_, None) => Step::Wait(format!("waiting for {}", member.name())),
    }
}

fn foreign_volume(n: u16) -> Step {
    let pod = set::pod_name(object::ETCD, n);
    let claim = set::claim_name(object::ETCD, n);
    Step::Stuck {
        reason: "EtcdForeignVolume",
        message: format!(
            "{pod} is no member and does not start as a new one, so its volume is of a member that was removed, or of another cluster; `kubectl logs {pod} --previous` says which. If nobody needs it, delete it with its pod: `kubectl delete pvc/{claim} pod/{pod}`; a new member takes its place"
        ),
    }
}

fn settled(seen: &Seen) -> Step {
    if let Some(member) = seen.list.iter().find(|member| seen.following(member).is_none()) {
        return Step::Wait(match member.ordinal {
            Some(n) => waiting(n, seen.answer(n)),
            None => format!("waiting for {}", member.name()),
        });
    }
    let alarm = |kind: &str| {
        seen.statuses().find(|(_, status)| status.errors.iter().any(|e| e.contains(kind))).map(|(n, _)| n)
    };
    if let Some(n) = alarm("CORRUPT") {
        let pod = set::pod_name(object::ETCD, n);
        return Step::Stuck {
            reason: "EtcdCorrupt",
            message: format!(
                "etcd raised the alarm CORRUPT, seen by {pod}: a member's data differs from the others'. Find it with `etcdctl alarm list`, then delete its volume and pod"
            ),
        };
    }
    if alarm("NOSPACE").is_some() {
        return Step::Stuck {
            reason: "EtcdNoSpace",
            message: "etcd has reached its quota and refuses writes. Let spec.etcd.managed.storage.size grow, a quarter of which is the quota, or delete keys and compact; then run `kubectl exec etcd-0 -- etcdctl --user root alarm disarm` with the password of Secret etcd-cluster".into(),
        };
    }
    match seen.leader().and_then(|n| seen.statuses().find(|(m, _)| *m == n)) {
        Some((_, status)) => Step::Settled { version: status.version.clone() },
        None => Step::Wait("waiting for the members to elect a leader".into()),
    }
}

/// The first member that does not follow, in words.
fn first_missing(seen: &Seen) -> String {
    let missing = seen.answers.iter().zip(0_u16..).find(|(answer, _)| match answer {
        Answer::Status(status) => status.leader == 0,
        _ => true,
    });
    missing.map_or_else(|| "waiting for an election".into(), |(answer, n)| waiting(n, Some(answer)))
}

fn waiting(n: u16, answer: Option<&Answer>) -> String {
    let pod = set::pod_name(object::ETCD, n);
    match answer {
        None => format!("waiting for {pod}"),
        Some(Answer::Silent(why)) => format!("waiting for {pod}: {why}"),
        Some(Answer::Empty) => format!("waiting for {pod} to start with an empty volume"),
        Some(Answer::Ended) => format!("waiting for {pod}, whose container ended"),
        Some(Answer::Mute { .. }) => format!("{pod} runs, but nobody can log in there"),
        Some(Answer::Status(status)) if status.leader == 0 => format!("{pod} knows no leader"),
        Some(Answer::Status(_)) => format!("waiting for {pod} to catch up"),
    }
}

#[cfg(test)]
#[path = "table.rs"]
pub mod table;
