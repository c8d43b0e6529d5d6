//! Which member may be restarted. Pure.

use super::seen::Seen;
use crate::infra::roll::{Roll, Verdict};

/// Entries of the log a member may be behind and still count as level: what is written while the members are asked.
const LEVEL: u64 = 1000;

/// Followers first, the leader last; never one while another does not follow or lags. The leader needs not be asked
/// to hand over: etcd does so by itself when it is told to end.
pub struct Rules {
    pub seen: Seen,
    /// Why no member may go at all.
    pub held: Option<String>,
}

impl Roll for Rules {
    fn order(&self, pods: u16) -> Vec<u16> {
        let leader = self.seen.leader();
        let mut all: Vec<u16> = (0..pods).rev().collect();
        all.sort_by_key(|n| Some(*n) == leader);
        all
    }

    fn can_roll(&self, ordinal: u16) -> Verdict {
        if let Some(why) = &self.held {
            return Verdict::Wait(why.clone());
        }
        let newest = self.seen.statuses().map(|(_, status)| status.raft_applied_index).max().unwrap_or(0);
        for member in self.seen.list.iter().filter(|member| member.ordinal != Some(ordinal)) {
            match self.seen.following(member) {
                None => return Verdict::Wait(format!("{} follows no leader", member.name())),
                Some(_) if member.learner => {
                    return Verdict::Wait(format!("{} has no vote yet", member.name()));
                }
                Some(status) if newest - status.raft_applied_index > LEVEL => {
                    return Verdict::Wait(format!(
                        "{} is {} entries behind",
                        member.name(),
                        newest - status.raft_applied_index
                    ));
                }
                Some(_) => {}
            }
        }
        Verdict::Yes
    }

    fn role(&self, ordinal: u16) -> Option<&'static str> {
        let member = self.seen.list.iter().find(|member| member.ordinal == Some(ordinal))?;
        self.seen.following(member)?;
        Some(match member.learner {
            true => "learner",
            false if self.seen.leader() == Some(ordinal) => "leader",
            false => "follower",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::etcd::client::Status;
    use crate::infra::etcd::form::table::{down, follows, seen};
    use crate::infra::etcd::seen::Answer;

    fn rules(answers: Vec<Answer>) -> Rules {
        Rules { seen: seen(answers), held: None }
    }

    fn at(n: u16, index: u64) -> Answer {
        match follows(n) {
            Answer::Status(status) => Answer::Status(Status { raft_applied_index: index, ..status }),
            other => other,
        }
    }

    #[test]
    fn the_leader_is_last_and_nobody_goes_while_another_is_missing_or_behind() {
        let whole = rules(vec![follows(0), follows(1), follows(2)]);
        assert_eq!(whole.order(3), [2, 1, 0]);
        assert_eq!(whole.can_roll(2), Verdict::Yes);
        assert_eq!(whole.can_roll(0), Verdict::Yes, "it hands over when it is told to end");
        let missing = rules(vec![follows(0), down(), follows(2)]);
        assert_eq!(missing.can_roll(2), Verdict::Wait("etcd-1 follows no leader".into()));
        assert_eq!(missing.can_roll(1), Verdict::Yes, "it is the one that is missing");
        let behind = rules(vec![at(0, 5000), at(1, 3999), at(2, 5000)]);
        assert_eq!(behind.can_roll(2), Verdict::Wait("etcd-1 is 1001 entries behind".into()));
        assert_eq!(rules(vec![at(0, 5000), at(1, 4000)]).can_roll(0), Verdict::Yes);
        assert_eq!(rules(vec![follows(0)]).can_roll(0), Verdict::Yes, "nobody can take over");
        let mut learning = rules(vec![follows(0), follows(1)]);
        learning.seen.list[1].learner = true;
        assert_eq!(learning.can_roll(0), Verdict::Wait("etcd-1 has no vote yet".into()));
        let held = Rules { held: Some("it waits".into()), ..whole };
        assert_eq!(held.can_roll(2), Verdict::Wait("it waits".into()));
    }

    #[test]
    fn the_order_follows_the_leader() {
        let leads = |n| match follows(n) {
            Answer::Status(status) => Answer::Status(Status { leader: status.header.member_id, ..status }),
            other => other,
        };
        assert_eq!(rules(vec![down(), follows(1), leads(2)]).order(3), [1, 0, 2]);
    }
}
