//! Which member gives space back to the disk next. Pure.

use super::client::Status;
use super::seen::Seen;

/// A smaller database is not worth the pause.
const SMALL: u64 = 100 << 20;
/// Half of the file holds nothing: the pause pays.
const RATIO: u64 = 2;

/// One at a time, the leader last, and only while every member follows: the one that defragments answers nobody.
pub fn next(seen: &Seen) -> Option<u16> {
    if seen.list.is_empty() || !seen.list.iter().all(|m| !m.learner && seen.following(m).is_some()) {
        return None;
    }
    let leader = seen.leader();
    let mut fragmented: Vec<u16> =
        seen.statuses().filter(|(_, s)| is_fragmented(s)).map(|(n, _)| n).collect();
    fragmented.sort_by_key(|n| Some(*n) == leader);
    fragmented.first().copied()
}

fn is_fragmented(status: &Status) -> bool {
    status.db_size > SMALL && status.db_size > status.db_size_in_use.saturating_mul(RATIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::etcd::form::table::{down, follows, seen};
    use crate::infra::etcd::seen::Answer;

    #[test]
    fn one_at_a_time_the_leader_last_and_only_when_all_follow() {
        let sized = |n, size: u64, used: u64| match follows(n) {
            Answer::Status(status) => {
                Answer::Status(Status { db_size: size << 20, db_size_in_use: used << 20, ..status })
            }
            other => other,
        };
        let next = |answers: Vec<Answer>| next(&seen(answers));
        let tidy = || sized(1, 200, 150);
        assert_eq!(next(vec![sized(0, 200, 90), tidy(), sized(2, 200, 90)]), Some(2), "0 leads");
        assert_eq!(next(vec![sized(0, 200, 90), tidy(), tidy_of(2)]), Some(0));
        assert_eq!(next(vec![sized(0, 100, 1)]), None, "small");
        assert_eq!(next(vec![sized(0, 300, 150)]), None, "not more than half is free");
        assert_eq!(next(vec![sized(0, 301, 150)]), Some(0));
        assert_eq!(next(vec![sized(0, 200, 0)]), Some(0));
        assert_eq!(next(vec![sized(0, 200, 90), down(), sized(2, 200, 90)]), None, "one is missing");
        assert_eq!(next(Vec::new()), None);
    }

    fn tidy_of(n: u16) -> Answer {
        follows(n)
    }
}
