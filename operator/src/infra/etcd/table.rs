//! The steps as a table.

use super::*;
use crate::infra::etcd::client::{Header, Status};

const CLUSTER: u64 = 7;

fn id(n: u16) -> u64 {
    100 + u64::from(n)
}

/// The status of a member; 0 leads.
pub fn follows(n: u16) -> Answer {
    Answer::Status(Status {
        header: Header { cluster_id: CLUSTER, member_id: id(n) },
        version: "3.6.16".into(),
        leader: id(0),
        ..Default::default()
    })
}

pub fn down() -> Answer {
    Answer::Silent("no answer".into())
}

/// Started voters, one per answer.
pub fn seen(answers: Vec<Answer>) -> Seen {
    let list = answers.iter().zip(0_u16..).map(|(_, n)| voter(n)).collect();
    Seen { answers, list, auth: Auth::On }
}

fn voter(n: u16) -> Listed {
    Listed { id: id(n), ordinal: Some(n), url: format!("http://{n}"), started: true, learner: false }
}

fn learner(n: u16, started: bool) -> Listed {
    Listed { learner: true, started, ..voter(n) }
}

fn leaderless(n: u16) -> Answer {
    match follows(n) {
        Answer::Status(status) => Answer::Status(Status { leader: 0, ..status }),
        other => other,
    }
}

fn with(answers: Vec<Answer>, list: Vec<Listed>) -> Seen {
    Seen { answers, list, auth: Auth::On }
}

fn formed(wanted: u16, seen: &Seen) -> Step {
    next(Stage::Formed, wanted, seen)
}

#[track_caller]
fn stuck(step: &Step) -> &'static str {
    match step {
        Step::Stuck { reason, message } => {
            let remedies = ["kubectl", "estore", "etcdctl"];
            assert!(remedies.iter().any(|remedy| message.contains(remedy)), "no remedy: {message}");
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn waits(step: Step, why: &str) {
    match step {
        Step::Wait(said) => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?} instead of waiting: {why}"),
    }
}

fn settled_here() -> Step {
    Step::Settled { version: "3.6.16".into() }
}

#[test]
fn a_first_install_goes_through_every_step_once() {
    let forming = |seen: &Seen| next(Stage::Forming, 3, seen);
    let nobody = with(vec![down(), down(), down()], Vec::new());
    waits(forming(&nobody), "etcd-0: no answer");
    waits(forming(&with(vec![Answer::Mute { cluster: CLUSTER }], Vec::new())), "etcd-0 runs");
    waits(forming(&seen(vec![follows(0), follows(1), down()])), "etcd-2");
    waits(forming(&seen(vec![follows(0), follows(1), leaderless(2)])), "etcd-2 knows no leader");
    let unpublished = Listed { started: false, ..voter(2) };
    let answers = vec![follows(0), follows(1), follows(2)];
    waits(forming(&with(answers.clone(), vec![voter(0), voter(1), unpublished])), "know each other");
    let all = seen(answers);
    assert_eq!(forming(&all), Step::Formed);
    assert_eq!(formed(3, &Seen { auth: Auth::Off, ..all.clone() }), Step::EnableAuth);
    waits(formed(3, &Seen { auth: Auth::Unknown, ..all.clone() }), "log in");
    assert_eq!(formed(3, &all), settled_here());
}

#[test]
fn it_grows_by_one_learner_at_a_time() {
    let one = seen(vec![follows(0)]);
    assert_eq!(formed(1, &one), settled_here());
    assert_eq!(formed(3, &one), Step::AddLearner(1));
    let added = with(vec![follows(0)], vec![voter(0), learner(1, false)]);
    waits(formed(3, &added), "etcd-1");
    let starting = with(vec![follows(0), down()], vec![voter(0), learner(1, false)]);
    waits(formed(3, &starting), "etcd-1: no answer");
    let too_early = with(vec![follows(0), Answer::Empty], vec![voter(0), learner(1, false)]);
    waits(formed(3, &too_early), "etcd-1 to start with an empty volume");
    let joined = with(vec![follows(0), follows(1)], vec![voter(0), learner(1, true)]);
    assert_eq!(formed(3, &joined), Step::Promote(id(1)));
    let mute = with(vec![follows(0), Answer::Mute { cluster: CLUSTER }], vec![voter(0), learner(1, true)]);
    waits(formed(3, &mute), "etcd-1");
    assert_eq!(formed(3, &seen(vec![follows(0), follows(1)])), Step::AddLearner(2));
    let unlisted = |answer| with(vec![follows(0), answer], vec![voter(0)]);
    waits(formed(3, &unlisted(down())), "etcd-1");
    assert_eq!(formed(3, &unlisted(Answer::Empty)), Step::AddLearner(1));
    let four = with((0..4).map(follows).collect(), (0..4).map(voter).collect());
    assert_eq!(formed(5, &four), Step::AddLearner(4));
}

#[test]
fn a_member_without_data_is_replaced_and_never_comes_back_as_it_was() {
    let wiped = seen(vec![follows(0), Answer::Empty, follows(2)]);
    assert_eq!(formed(3, &wiped), Step::Remove(id(1)));
    let removed = with(vec![follows(0), Answer::Empty, follows(2)], vec![voter(0), voter(2)]);
    assert_eq!(formed(3, &removed), Step::AddLearner(1));
    let learner_wiped =
        with(vec![follows(0), Answer::Empty, follows(2)], vec![voter(0), learner(1, true), voter(2)]);
    assert_eq!(formed(3, &learner_wiped), Step::Remove(id(1)));
    waits(formed(3, &seen(vec![follows(0), down(), follows(2)])), "etcd-1: no answer");
    waits(formed(3, &seen(vec![follows(0), Answer::Ended, follows(2)])), "etcd-1");
    let of_five = seen(vec![follows(0), Answer::Empty, Answer::Empty, follows(3), follows(4)]);
    assert_eq!(formed(5, &of_five), Step::Remove(id(1)), "one at a time");
    let one_silent = seen(vec![follows(0), Answer::Empty, down(), follows(3), follows(4)]);
    assert_eq!(formed(5, &one_silent), Step::Remove(id(1)), "three of the other four follow");
    let even = seen(vec![follows(0), Answer::Empty, follows(2), down()]);
    waits(formed(4, &even), "no majority");
    let surplus = with(vec![follows(0)], vec![voter(0), learner(1, false)]);
    assert_eq!(formed(1, &surplus), Step::Remove(id(1)));
}

#[test]
fn without_a_majority_nothing_is_done() {
    assert_eq!(stuck(&formed(1, &with(vec![Answer::Empty], Vec::new()))), "EtcdDataLost");
    assert_eq!(stuck(&formed(3, &with(vec![Answer::Empty; 3], Vec::new()))), "EtcdDataLost");
    let two_gone = seen(vec![Answer::Mute { cluster: CLUSTER }, Answer::Empty, Answer::Empty]);
    assert_eq!(stuck(&formed(3, &Seen { auth: Auth::Unknown, ..two_gone })), "QuorumLost");
    let of_two = seen(vec![Answer::Mute { cluster: CLUSTER }, Answer::Empty]);
    assert_eq!(stuck(&formed(3, &Seen { auth: Auth::Unknown, ..of_two })), "QuorumLost");
    let silent = Seen { auth: Auth::Unknown, ..seen(vec![Answer::Mute { cluster: 7 }, down(), down()]) };
    waits(formed(3, &silent), "no majority");
    waits(formed(3, &with(vec![Answer::Empty, Answer::Empty, down()], Vec::new())), "no majority");
    waits(formed(3, &seen(vec![leaderless(0), leaderless(1), leaderless(2)])), "knows no leader");
    waits(formed(3, &seen(vec![leaderless(0), Answer::Empty, leaderless(2)])), "no majority");
}

#[test]
fn what_is_not_of_this_cluster_is_told_apart() {
    let foreign = seen(vec![follows(0), Answer::Mute { cluster: 8 }]);
    assert_eq!(stuck(&formed(3, &foreign)), "ClusterIdMismatch");
    assert_eq!(stuck(&next(Stage::Forming, 3, &foreign)), "ClusterIdMismatch");
    let removed = with(vec![follows(0), Answer::Ended], vec![voter(0)]);
    assert_eq!(stuck(&formed(3, &removed)), "EtcdForeignVolume");
    let admitted = with(vec![follows(0), Answer::Ended], vec![voter(0), learner(1, false)]);
    waits(formed(3, &admitted), "whose container ended");
    let other = Listed { ordinal: None, ..voter(1) };
    let four = with((0..3).map(follows).collect(), vec![voter(0), voter(1), voter(2), other]);
    assert_eq!(stuck(&formed(3, &four)), "EtcdForeignMember");
    let refused = Seen { auth: Auth::Refused, ..seen(vec![Answer::Mute { cluster: CLUSTER }]) };
    assert_eq!(stuck(&formed(1, &refused)), "EtcdPasswordWrong");
}

#[test]
fn an_alarm_is_reported_with_its_remedy() {
    let alarmed = |text: &str| match follows(0) {
        Answer::Status(status) => Answer::Status(Status { errors: vec![text.into()], ..status }),
        other => other,
    };
    let step = |text| formed(1, &seen(vec![alarmed(text)]));
    assert_eq!(stuck(&step("memberID:1 alarm:NOSPACE ")), "EtcdNoSpace");
    assert_eq!(stuck(&step("memberID:1 alarm:CORRUPT ")), "EtcdCorrupt");
    assert_eq!(step("something else"), settled_here());
}
