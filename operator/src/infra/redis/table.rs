//! The steps as a table: what the members say, and what is done about it.

use std::net::{IpAddr, Ipv4Addr};

use super::form::{RANGES, Step, next};
use super::seen::{Answer, Member, Node, Pod};
use super::users::Stage;

/// Where pod `n` is, from the second address of its machine on: a pod that comes back has the next.
fn address(n: u16, life: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, life, 0, u8::try_from(n).unwrap()))
}

fn id(n: u16) -> String {
    format!("node-{n}")
}

/// As pod `n` is in a formed cluster: 3, 4 and 5 follow 0, 1 and 2.
fn node(n: u16) -> Node {
    Node {
        id: id(n),
        address: Some(address(n, 0)),
        handshake: false,
        failing: false,
        master: (n > 2).then(|| id(n - 3)),
        epoch: u64::from(n) + 1,
        connected: true,
        slots: RANGES.into_iter().skip(n.into()).take((n < 3).into()).collect(),
    }
}

fn answers(me: Node, others: Vec<Node>) -> Answer {
    let link_up = me.master.is_some();
    let version = "7.0.15".into();
    Answer::Member(Box::new(Member {
        me,
        others,
        ok: true,
        keys: 10,
        open: true,
        link_up,
        offset: 100,
        version,
    }))
}

/// A formed cluster in which all is well.
pub fn formed() -> Vec<Pod> {
    let pod = |n: u16| Pod {
        address: Some(address(n, 0)),
        machine: None,
        answer: answers(node(n), (0..6).filter(|m| *m != n).map(node).collect()),
    };
    (0..6).map(pod).collect()
}

/// The member in pod `n`.
pub fn member(pods: &mut [Pod], n: u16) -> &mut Member {
    match &mut pods[usize::from(n)].answer {
        Answer::Member(member) => member,
        other => panic!("{other:?}"),
    }
}

fn silence(pods: &mut [Pod], n: u16) {
    pods[usize::from(n)].answer = Answer::Silent("gone".into());
}

/// A member whose volume is new.
fn wipe(pods: &mut [Pod], n: u16) {
    let me = Node { id: format!("new-{n}"), master: None, slots: Vec::new(), epoch: 0, ..node(n) };
    pods[usize::from(n)].answer = answers(me, Vec::new());
    member(pods, n).keys = 0;
    member(pods, n).open = false;
}

/// Everybody hears of what everybody says about itself; what is gone stays known as it was.
fn gossip(pods: &mut [Pod]) {
    let all: Vec<Node> = (0..6_u16)
        .filter_map(|n| match &pods[usize::from(n)].answer {
            Answer::Member(member) => Some(member.me.clone()),
            _ => None,
        })
        .collect();
    let gone: Vec<Node> =
        (0..6).map(node).filter(|node| all.iter().all(|known| known.id != node.id)).collect();
    for pod in pods.iter_mut() {
        if let Answer::Member(member) = &mut pod.answer {
            member.others = all.iter().chain(&gone).filter(|node| node.id != member.me.id).cloned().collect();
        }
    }
}

fn fresh() -> Vec<Pod> {
    let mut pods = formed();
    (0..6).for_each(|n| wipe(&mut pods, n));
    pods
}

fn waits(step: &Step, why: &str) {
    assert!(matches!(step, Step::Wait(said) if said.contains(why)), "{step:?} instead of waiting: {why}");
}

fn stuck(step: &Step) -> &'static str {
    match step {
        Step::Stuck { reason, message } => {
            assert!(["kubectl", "estore"].iter().any(|word| message.contains(word)), "no remedy: {message}");
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cluster_is_formed_step_by_step() {
    let mut pods = fresh();
    silence(&mut pods, 5);
    waits(&next(Stage::Forming, &pods), "redis-5");
    let mut pods = fresh();
    for n in 0..6 {
        assert_eq!(next(Stage::Forming, &pods), Step::Epoch { pod: n, epoch: n + 1 });
        member(&mut pods, n).me.epoch = u64::from(n) + 1;
    }
    assert_eq!(next(Stage::Forming, &pods), Step::Meet { from: 0, to: address(1, 0) });
    let pending = Node { id: "made-up".into(), handshake: true, ..node(1) };
    member(&mut pods, 0).others.push(pending);
    assert_eq!(next(Stage::Forming, &pods), Step::Meet { from: 0, to: address(2, 0) }, "one is on its way");
    (2..6).for_each(|n| {
        let pending = Node { id: format!("made-up-{n}"), handshake: true, ..node(n) };
        member(&mut pods, 0).others.push(pending);
    });
    waits(&next(Stage::Forming, &pods), "redis-0 meets redis-1");
    let hear = |pods: &mut Vec<Pod>| {
        gossip(pods);
        (0..6).for_each(|n| member(pods, n).others.retain(|node| node.id.starts_with("new")));
    };
    hear(&mut pods);
    for (slots, pod) in RANGES.into_iter().zip(0..) {
        assert_eq!(next(Stage::Forming, &pods), Step::AddSlots { pod, slots: slots.clone() });
        member(&mut pods, pod).me.slots.push(slots);
        hear(&mut pods);
    }
    let opens = |pods: &mut Vec<Pod>, pod| {
        assert_eq!(next(Stage::Forming, pods), Step::Open { pod });
        member(pods, pod).open = true;
    };
    (0..3).for_each(|pod| opens(&mut pods, pod));
    for pod in 3..6 {
        let master = format!("new-{}", pod - 3);
        assert_eq!(next(Stage::Forming, &pods), Step::Replicate { pod, master: master.clone() });
        member(&mut pods, pod).me.master = Some(master);
        opens(&mut pods, pod);
        member(&mut pods, pod).link_up = false;
        member(&mut pods, pod).link_up = true;
        hear(&mut pods);
    }
    member(&mut pods, 4).ok = false;
    waits(&next(Stage::Forming, &pods), "redis-4");
    member(&mut pods, 4).ok = true;
    assert_eq!(next(Stage::Forming, &pods), Step::Keep);
    assert_eq!(next(Stage::Formed, &pods), Step::Settled { version: "7.0.15".into() });
}

#[test]
fn replicas_are_on_another_machine_than_their_master_where_there_is_one() {
    let mut pods = fresh();
    (0..6).for_each(|n| member(&mut pods, n).me.epoch = 1);
    for n in 0..3 {
        member(&mut pods, n).me.slots = vec![RANGES[usize::from(n)].clone()];
        member(&mut pods, n).open = true;
    }
    gossip(&mut pods);
    (0..6).for_each(|n| member(&mut pods, n).others.retain(|node| node.id.starts_with("new")));
    // The nearest choice for redis-3 would leave redis-5 with the master on its own machine.
    for (pod, machine) in pods.iter_mut().zip(["a", "b", "c", "a", "b", "b"]) {
        pod.machine = Some(machine.into());
    }
    assert_eq!(next(Stage::Forming, &pods), Step::Replicate { pod: 3, master: "new-1".into() });
}

#[test]
fn a_formed_cluster_is_never_formed_again() {
    assert_eq!(stuck(&next(Stage::Formed, &fresh())), "SlotsLost");
    let mut pods = fresh();
    silence(&mut pods, 2);
    waits(&next(Stage::Formed, &pods), "redis-2");
    // A shard that lost both volumes.
    let mut pods = formed();
    wipe(&mut pods, 1);
    wipe(&mut pods, 4);
    gossip(&mut pods);
    assert_eq!(stuck(&next(Stage::Formed, &pods)), "SlotsLost");
    silence(&mut pods, 4);
    waits(&next(Stage::Formed, &pods), "redis-4");
    // Slots that somebody took away are nobody's to give.
    let mut pods = formed();
    member(&mut pods, 0).me.slots.clear();
    member(&mut pods, 0).me.master = Some(id(1));
    gossip(&mut pods);
    (0..6).for_each(|n| member(&mut pods, n).others.retain(|node| node.id != "gone"));
    assert_eq!(stuck(&next(Stage::Formed, &pods)), "SlotsLost");
}

#[test]
fn members_that_come_back_elsewhere_meet_again() {
    let mut pods = formed();
    for (pod, n) in pods.iter_mut().zip(0_u16..) {
        pod.address = Some(address(n, 1));
    }
    (0..6).for_each(|n| member(&mut pods, n).me.address = Some(address(n, 1)));
    for n in 1..6 {
        assert_eq!(next(Stage::Formed, &pods), Step::Meet { from: 0, to: address(n, 1) });
        member(&mut pods, 0).others.iter_mut().find(|node| node.id == id(n)).unwrap().address =
            Some(address(n, 1));
    }
    assert_eq!(next(Stage::Formed, &pods), Step::Meet { from: 1, to: address(0, 1) });
    gossip(&mut pods);
    assert!(matches!(next(Stage::Formed, &pods), Step::Settled { .. }));
    silence(&mut pods, 5);
    waits(&next(Stage::Formed, &pods), "redis-5");
}

#[test]
fn a_replica_without_its_volume_follows_the_master_that_lacks_one() {
    let mut pods = formed();
    wipe(&mut pods, 4);
    assert_eq!(next(Stage::Formed, &pods), Step::Meet { from: 0, to: address(4, 0) });
    gossip(&mut pods);
    assert_eq!(next(Stage::Formed, &pods), Step::Replicate { pod: 4, master: id(1) });
    silence(&mut pods, 5);
    waits(&next(Stage::Formed, &pods), "redis-5");
    let mut pods = formed();
    wipe(&mut pods, 4);
    member(&mut pods, 4).me.master = Some(id(1));
    member(&mut pods, 4).link_up = true;
    gossip(&mut pods);
    assert_eq!(next(Stage::Formed, &pods), Step::Open { pod: 4 });
    member(&mut pods, 4).open = true;
    for at in [0, 1, 2, 3, 4, 5] {
        assert_eq!(next(Stage::Formed, &pods), Step::Forget { at, id: id(4) });
        member(&mut pods, at).others.retain(|node| node.id != id(4));
    }
    assert!(matches!(next(Stage::Formed, &pods), Step::Settled { .. }));
}

#[test]
fn a_lost_master_is_replaced_by_its_replica_and_follows_it() {
    let mut pods = formed();
    silence(&mut pods, 0);
    waits(&next(Stage::Formed, &pods), "redis-0");
    wipe(&mut pods, 0);
    gossip(&mut pods);
    assert_eq!(next(Stage::Formed, &pods), Step::TakeOver { pod: 3 });
    member(&mut pods, 3).me.slots = vec![RANGES[0].clone()];
    member(&mut pods, 3).me.master = None;
    gossip(&mut pods);
    assert_eq!(next(Stage::Formed, &pods), Step::Replicate { pod: 0, master: id(3) });
    member(&mut pods, 0).me.master = Some(id(3));
    member(&mut pods, 0).link_up = true;
    member(&mut pods, 0).open = true;
    gossip(&mut pods);
    waits(&next(Stage::Formed, &pods), "hear that every slot");
    (0..6).for_each(|n| {
        let stale = member(&mut pods, n).others.iter_mut().find(|node| node.id == id(0));
        stale.unwrap().slots.clear();
    });
    assert_eq!(next(Stage::Formed, &pods), Step::Forget { at: 0, id: id(0) });
    // Two of three masters: nobody is elected.
    let mut pods = formed();
    (0..2).for_each(|n| wipe(&mut pods, n));
    gossip(&mut pods);
    assert_eq!(stuck(&next(Stage::Formed, &pods)), "MajorityLost");
}

#[test]
fn what_is_odd_is_told_and_left_alone() {
    let mut pods = formed();
    pods[2].answer = Answer::Refused("no".into());
    assert_eq!(stuck(&next(Stage::Formed, &pods)), "RedisPasswordWrong");
    let mut pods = formed();
    member(&mut pods, 4).me.master = None;
    gossip(&mut pods);
    assert_eq!(stuck(&next(Stage::Formed, &pods)), "KeysWithoutSlots");
    let mut pods = formed();
    member(&mut pods, 4).me.master = Some(id(0));
    gossip(&mut pods);
    assert_eq!(next(Stage::Formed, &pods), Step::Replicate { pod: 3, master: id(1) }, "two for one master");
    let mut pods = formed();
    member(&mut pods, 4).link_up = false;
    waits(&next(Stage::Formed, &pods), "redis-4 copies");
    let mut pods = formed();
    member(&mut pods, 1).others[0].failing = true;
    waits(&next(Stage::Formed, &pods), "redis-1 has yet to hear of redis-0");
}
