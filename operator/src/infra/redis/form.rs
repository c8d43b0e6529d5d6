//! From what every member says to the next step towards three masters with a replica each. Pure.
//!
//! A member that may know more is waited for, and nothing here ever takes keys away from a member that has some.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::seen::{Answer, Member, Node, Pod, Slots};
use super::users::Stage;
use crate::infra::set;
use crate::names::object;

/// Pods of a cluster.
pub const MEMBERS: u16 = 6;
/// The slots of the first masters, by ordinal.
pub const RANGES: [Slots; 3] = [0..=5460, 5461..=10922, 10923..=16383];
const SLOTS: u16 = 16384;

/// The next step. Pods are named by ordinal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Give a fresh member an epoch of its own.
    Epoch { pod: u16, epoch: u16 },
    /// Let a member meet the one at this address.
    Meet { from: u16, to: IpAddr },
    /// Give a fresh member its first slots.
    AddSlots { pod: u16, slots: Slots },
    /// Let replicas copy from a member that has its place.
    Open { pod: u16 },
    /// The data of its master is gone: let this replica be elected now.
    TakeOver { pod: u16 },
    /// Let a member follow this master.
    Replicate { pod: u16, master: String },
    /// Let a member forget one that has neither slots nor a pod.
    Forget { at: u16, id: String },
    /// Write down that the cluster is formed.
    Keep,
    /// Every slot has a master and a replica, and all agree.
    Settled { version: String },
    /// Something has yet to happen by itself.
    Wait(String),
    /// Somebody has to act.
    Stuck { reason: &'static str, message: String },
}

/// One step at a time; the cluster is formed while the Secret says so, and only repaired afterwards.
pub fn next(stage: Stage, pods: &[Pod]) -> Step {
    let view = View::new(stage, pods);
    if view.members.iter().all(|(_, member)| member.is_fresh()) && stage == Stage::Formed {
        return view
            .silent()
            .unwrap_or_else(|| lost("every volume is empty, but the cluster was formed before"));
    }
    if stage == Stage::Forming
        && let Some(waiting) = view.silent()
    {
        return waiting;
    }
    view.epoch()
        .or_else(|| view.meet())
        .or_else(|| view.add_slots())
        .or_else(|| view.open())
        .or_else(|| view.cover())
        .or_else(|| view.replicate())
        .or_else(|| view.forget())
        .or_else(|| view.silent())
        .or_else(|| view.agree())
        .unwrap_or_else(|| match stage {
            Stage::Forming => Step::Keep,
            Stage::Formed => Step::Settled { version: view.version() },
        })
}

/// Whether every slot has an owner that answers and thinks that the cluster works.
pub fn serves(pods: &[Pod]) -> bool {
    let view = View::new(Stage::Formed, pods);
    view.uncovered().is_empty() && view.members.iter().all(|(_, member)| member.ok || !member.owns())
}

fn name(n: u16) -> String {
    set::pod_name(object::REDIS, n)
}

fn lost(what: &str) -> Step {
    Step::Stuck {
        reason: "SlotsLost",
        message: format!(
            "{what}. Restore the volumes from a snapshot and delete their pods, or give up the keys as docs/components/redis.md#lost-slots says"
        ),
    }
}

/// All that is known at one moment.
struct View<'a> {
    stage: Stage,
    pods: &'a [Pod],
    members: Vec<(u16, &'a Member)>,
    /// Ids of the members that answer.
    ids: BTreeSet<&'a str>,
}

impl<'a> View<'a> {
    fn new(stage: Stage, pods: &'a [Pod]) -> Self {
        let answering = pods.iter().zip(0_u16..).filter_map(|(pod, n)| match &pod.answer {
            Answer::Member(member) => Some((n, member.as_ref())),
            Answer::Silent(_) | Answer::Refused(_) => None,
        });
        let members: Vec<_> = answering.collect();
        let ids = members.iter().map(|(_, member)| member.me.id.as_str()).collect();
        Self { stage, pods, members, ids }
    }

    /// What to do about a member that does not answer; none when all do.
    fn silent(&self) -> Option<Step> {
        self.pods.iter().zip(0_u16..).find_map(|(pod, n)| match &pod.answer {
            Answer::Member(_) => None,
            Answer::Silent(why) => Some(Step::Wait(format!("waiting for {}: {why}", name(n)))),
            Answer::Refused(why) => Some(Step::Stuck {
                reason: "RedisPasswordWrong",
                message: format!(
                    "{} refuses the operator: {why}. Restore Secret {}, or delete the pod if it started with another password",
                    name(n),
                    object::REDIS_USERS
                ),
            }),
        })
    }

    /// Only a member that knows nobody takes one.
    fn epoch(&self) -> Option<Step> {
        let mut fresh = self.members.iter().filter(|(_, member)| member.is_fresh() && member.me.epoch == 0);
        let (pod, _) = fresh.next().filter(|_| self.stage == Stage::Forming)?;
        Some(Step::Epoch { pod: *pod, epoch: pod + 1 })
    }

    /// Everybody knows everybody where they are now; the one that knows most begins.
    fn meet(&self) -> Option<Step> {
        let known =
            |member: &Member| member.others.iter().filter(|node| self.ids.contains(node.id.as_str())).count();
        let mut from = self.members.clone();
        from.sort_by_key(|(n, member)| (!member.owns(), usize::MAX - known(member), *n));
        let mut pending = None;
        for (a, member) in from {
            for (b, other) in self.members.iter().filter(|(b, _)| *b != a) {
                let Some(to) = self.pods[usize::from(*b)].address else { continue };
                if member.knows(&other.me.id).is_some_and(|node| node.address == Some(to)) {
                    continue;
                }
                if member.others.iter().any(|node| node.handshake && node.address == Some(to)) {
                    pending = pending.or(Some((a, *b)));
                } else {
                    return Some(Step::Meet { from: a, to });
                }
            }
            if let Some((a, b)) = pending {
                return Some(Step::Wait(format!("{} meets {}", name(a), name(b))));
            }
        }
        None
    }

    fn add_slots(&self) -> Option<Step> {
        if self.stage == Stage::Formed {
            return None;
        }
        let nodes = || self.members.iter().flat_map(|(_, m)| m.others.iter().chain([&m.me]));
        let taken = |range: &Slots| {
            nodes().flat_map(|node| &node.slots).any(|s| s.start() <= range.end() && range.start() <= s.end())
        };
        let free = RANGES.into_iter().zip(0..).find(|(range, _)| !taken(range));
        let (slots, pod) = free?;
        let (_, member) = self.members.iter().find(|(n, _)| *n == pod)?;
        member.is_empty().then_some(Step::AddSlots { pod, slots })
    }

    /// A new volume is copied from only once its member owns slots or follows a master.
    fn open(&self) -> Option<Step> {
        let placed = |m: &Member| m.owns() || m.me.master.is_some();
        let closed = self.members.iter().find(|(_, member)| placed(member) && !member.open);
        closed.map(|(pod, _)| Step::Open { pod: *pod })
    }

    /// Slots that no member owns that answers.
    fn uncovered(&self) -> Vec<Slots> {
        let mut owned: Vec<&Slots> = self.members.iter().flat_map(|(_, m)| &m.me.slots).collect();
        owned.sort_by_key(|slots| *slots.start());
        let (mut gaps, mut next) = (Vec::new(), 0);
        for slots in owned {
            if *slots.start() > next {
                gaps.push(next..=slots.start() - 1);
            }
            next = next.max(slots.end() + 1);
        }
        if next < SLOTS {
            gaps.push(next..=SLOTS - 1);
        }
        gaps
    }

    /// Nodes that are known but are no member that answers.
    fn absent(&self) -> impl Iterator<Item = (u16, &'a Node)> {
        let absent = |node: &&Node| !node.handshake && !self.ids.contains(node.id.as_str());
        self.members.iter().flat_map(move |(n, m)| m.others.iter().filter(absent).map(|node| (*n, node)))
    }

    /// Every slot has an owner. Where its data is gone, its replica takes over, if the other masters can elect it.
    fn cover(&self) -> Option<Step> {
        let gaps = self.uncovered();
        if gaps.is_empty() {
            return None;
        }
        if let Some(waiting) = self.silent() {
            return Some(waiting);
        }
        let lost_ids: BTreeSet<_> = self
            .absent()
            .filter(|(_, node)| !node.slots.is_empty())
            .map(|(_, node)| node.id.as_str())
            .collect();
        let follows = |m: &Member| m.me.master.as_deref().is_some_and(|id| lost_ids.contains(id));
        let heirs = self.members.iter().filter(|(_, member)| follows(member));
        let Some((pod, _)) = heirs.max_by_key(|(_, member)| member.offset) else {
            let ranges: Vec<_> = gaps.iter().map(|s| format!("{}-{}", s.start(), s.end())).collect();
            return Some(lost(&format!(
                "the slots {} have no owner: the volumes of their master and of its replica are lost",
                ranges.join(", ")
            )));
        };
        let alive = self.members.iter().filter(|(_, member)| member.owns()).count();
        Some(if alive > lost_ids.len() {
            Step::TakeOver { pod: *pod }
        } else {
            Step::Stuck {
                reason: "MajorityLost",
                message: format!(
                    "the volumes of most masters are lost, so no replica is elected. If they cannot be restored from a snapshot, run `kubectl exec {} -- redis-cli --user soma-operator cluster failover takeover`",
                    name(*pod)
                ),
            }
        })
    }

    /// A member without data, or whose master is gone, follows a master that lacks a replica.
    fn replicate(&self) -> Option<Step> {
        let all = self.members.len() == self.pods.len();
        let masters: Vec<_> = self.members.iter().filter(|(_, member)| member.owns()).collect();
        let gone = |id: &String| all && !self.ids.contains(id.as_str());
        let idle = |m: &Member| m.is_empty() || m.me.master.as_ref().is_some_and(gone);
        // A member that does not answer may come back as the replica it was.
        let nodes = self
            .members
            .iter()
            .map(|(_, m)| &m.me)
            .chain(self.absent().filter(|_| !all).map(|(_, node)| node));
        let followers: BTreeSet<_> =
            nodes.filter_map(|node| Some((node.master.as_deref()?, node.id.as_str()))).collect();
        let count = |id: &str| followers.iter().filter(|(master, _)| *master == id).count();
        let lacking: Vec<u16> =
            masters.iter().filter(|(_, m)| count(&m.me.id) == 0).map(|(n, _)| *n).collect();
        let spare = |m: &Member| all && m.me.master.as_deref().is_some_and(|id| count(id) > 1);
        let mut free: Vec<_> = self.members.iter().filter(|(_, m)| idle(m)).map(|(n, _)| *n).collect();
        if free.is_empty() && !lacking.is_empty() {
            free.extend(self.members.iter().filter(|(_, m)| spare(m)).map(|(n, _)| *n).take(1));
        }
        let pod = *free.first()?;
        let master = match self.pair(&free, &lacking).1 {
            Some(master) => master,
            None if !all => return None,
            None => masters.iter().min_by_key(|(n, m)| (count(&m.me.id), *n)).map(|(n, _)| *n)?,
        };
        let (_, chosen) = masters.iter().find(|(n, _)| *n == master)?;
        let knows = |m: &Member| m.knows(&chosen.me.id).is_some_and(|node| node.master.is_none());
        // Redis refuses to follow what it still takes for a replica.
        if !self.members.iter().any(|(n, m)| *n == pod && knows(m)) {
            return Some(Step::Wait(format!("{} has yet to hear of {}", name(pod), name(master))));
        }
        Some(Step::Replicate { pod, master: chosen.me.id.clone() })
    }

    /// The master of the first of these pods such that as few as possible share a machine with theirs, and how many do.
    fn pair(&self, free: &[u16], masters: &[u16]) -> (usize, Option<u16>) {
        let Some((first, rest)) = free.split_first() else { return (0, None) };
        let machine = |n: u16| self.pods.get(usize::from(n)).and_then(|pod| pod.machine.as_ref());
        let shared = |a, b| usize::from(machine(a).is_some() && machine(a) == machine(b));
        let choices = masters.iter().map(|master| {
            let others: Vec<_> = masters.iter().copied().filter(|other| other != master).collect();
            (shared(*first, *master) + self.pair(rest, &others).0, Some(*master))
        });
        choices.min_by_key(|(cost, _)| *cost).unwrap_or((0, None))
    }

    fn forget(&self) -> Option<Step> {
        if self.members.len() < self.pods.len() {
            return None;
        }
        let owning: BTreeSet<_> = self
            .absent()
            .filter(|(_, node)| !node.slots.is_empty())
            .map(|(_, node)| node.id.as_str())
            .collect();
        let mut useless = self.absent().filter(|(_, node)| !owning.contains(node.id.as_str()));
        useless.next().map(|(at, node)| Step::Forget { at, id: node.id.clone() })
    }

    /// What is not as it should be although every member is in its place.
    fn agree(&self) -> Option<Step> {
        if let Some((n, member)) = self.members.iter().find(|(_, m)| !m.owns() && m.me.master.is_none()) {
            return Some(Step::Stuck {
                reason: "KeysWithoutSlots",
                message: format!(
                    "{0} has {1} keys, but no slots. If nobody needs them, delete its volume and its pod with `kubectl delete pvc/data-{0} pod/{0}`",
                    name(*n),
                    member.keys
                ),
            });
        }
        for (a, member) in &self.members {
            let differs = |other: &Node| {
                member.knows(&other.id).is_none_or(|seen| {
                    seen.failing
                        || !seen.connected
                        || seen.master != other.master
                        || seen.slots != other.slots
                })
            };
            let others = self.members.iter().filter(|(b, _)| b != a);
            let stranger = self.absent().any(|(at, _)| at == *a);
            if let Some((b, _)) = others.clone().find(|(_, other)| differs(&other.me)) {
                return Some(Step::Wait(format!("{} has yet to hear of {}", name(*a), name(*b))));
            }
            if !member.ok || stranger {
                return Some(Step::Wait(format!(
                    "{} has yet to hear that every slot has a master",
                    name(*a)
                )));
            }
            if member.me.master.is_some() && !member.link_up {
                return Some(Step::Wait(format!("{} copies the data of its master", name(*a))));
            }
        }
        None
    }

    fn version(&self) -> String {
        self.members.first().map(|(_, member)| member.version.clone()).unwrap_or_default()
    }
}
