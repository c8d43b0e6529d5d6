//! The protocol on six real Redis processes.

mod ground;

use std::collections::BTreeSet;

use soma_crds::RedisMode;

use self::ground::{Ground, member, settled};
use super::build;
use super::client::Client;
use super::form::{RANGES, Step};
use super::run::Rules;
use super::users::Stage;
use crate::infra::roll::{Roll, Verdict};

fn kinds(steps: &[Step]) -> BTreeSet<&'static str> {
    let kind = |step: &Step| match step {
        Step::Epoch { .. } => "Epoch",
        Step::Meet { .. } => "Meet",
        Step::AddSlots { .. } => "AddSlots",
        Step::Open { .. } => "Open",
        Step::TakeOver { .. } => "TakeOver",
        Step::Replicate { .. } => "Replicate",
        Step::Forget { .. } => "Forget",
        Step::Keep => "Keep",
        Step::Settled { .. } | Step::Wait(_) | Step::Stuck { .. } => "none",
    };
    steps.iter().map(kind).collect()
}

fn stuck(step: &Step) -> &'static str {
    match step {
        Step::Stuck { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn six_fresh_members_become_a_cluster_once() {
    let mut ground = Ground::new(RedisMode::Cluster);
    ground.twice = true;
    let (steps, last) = ground.drive().await;
    settled(&last);
    assert_eq!(kinds(&steps), ["Epoch", "Meet", "AddSlots", "Open", "Replicate", "Keep"].into());
    let members = ground.members().await;
    for n in 0..3 {
        assert_eq!(members[&n].me.slots, [RANGES[usize::from(n)].clone()]);
        assert_eq!(members[&(n + 3)].me.master.as_ref(), Some(&members[&n].me.id));
    }
    let epochs: BTreeSet<_> = (0..3).map(|n| members[&n].me.epoch).collect();
    assert_eq!(epochs.len(), 3);
    // Again, also where the last word was not written down.
    assert_eq!(ground.drive().await.0, []);
    ground.stage = Stage::Forming;
    assert_eq!(ground.drive().await.0, [Step::Keep]);
    assert_eq!(
        ground.members().await.into_values().map(|m| m.me).collect::<Vec<_>>(),
        members.into_values().map(|m| m.me).collect::<Vec<_>>()
    );

    // Nobody enters without a password; services write, and administer nothing.
    let unknown =
        Client::login(ground.address(0), None, None).await.unwrap().tell(&["PING"]).await.unwrap_err();
    assert!(crate::error::chain(&unknown).contains("Authentication required"), "{unknown:?}");
    ground.put("a").await;
    for call in [&["CONFIG", "GET", "*"][..], &["FLUSHALL"], &["CLUSTER", "RESET"], &["ACL", "LIST"]] {
        let refused = ground.service(0).await.unwrap().tell(call).await.unwrap_err();
        assert!(
            crate::error::chain(&refused).contains("no permissions"),
            "{}",
            crate::error::chain(&refused)
        );
    }

    // Every volume gone: nobody forms a second cluster.
    (0..6).for_each(|n| ground.wipe(n));
    (0..6).for_each(|n| ground.start(n));
    let (steps, last) = ground.drive().await;
    assert_eq!((steps.as_slice(), stuck(&last)), (&[][..], "SlotsLost"));
    // Unless its owner says so.
    ground.stage = Stage::Forming;
    settled(&ground.drive().await.1);
}

#[tokio::test]
async fn a_master_without_its_volume_comes_back_as_the_replica_of_its_heir() {
    let mut ground = Ground::formed().await;
    ground.fill(60).await;
    // It is back where it was before anybody misses it, and its replica wants to copy from it.
    ground.wipe(0);
    ground.start_again(0);
    ground
        .patiently("redis-3 is turned away", async |ground| {
            let master = ground.cluster().look().await;
            if member(&master[0]).is_none() {
                return false;
            }
            let log: Vec<redis::Value> = ground.operator(0).await.ask(&["ACL", "LOG"]).await.unwrap();
            !log.is_empty()
        })
        .await;
    let (steps, last) = ground.drive().await;
    settled(&last);
    assert!(kinds(&steps).is_superset(&["Meet", "Replicate", "Open", "Forget"].into()), "{steps:?}");
    let members = ground.members().await;
    assert!(members[&3].owns(), "its replica took over");
    assert_eq!(members[&0].me.master.as_ref(), Some(&members[&3].me.id));
    assert_eq!(ground.missing(60).await, <[String; 0]>::default());

    // It is away until the others elected its replica by themselves.
    ground.twice = true;
    ground.wipe(1);
    ground.until("redis-4 takes over", |pods| member(&pods[4]).is_some_and(super::seen::Member::owns)).await;
    ground.start(1);
    let (steps, last) = ground.drive().await;
    settled(&last);
    assert_eq!(kinds(&steps), ["Meet", "Replicate", "Open", "Forget"].into(), "{steps:?}");
    assert_eq!(ground.missing(60).await, <[String; 0]>::default());
    assert!(ground.members().await.values().all(|m| m.others.len() == 5), "nobody remembers the lost ones");

    // A replica, too.
    ground.wipe(5);
    ground.start(5);
    let (steps, last) = ground.drive().await;
    settled(&last);
    assert_eq!(kinds(&steps), ["Meet", "Replicate", "Open", "Forget"].into(), "{steps:?}");
    assert_eq!(ground.missing(60).await, <[String; 0]>::default());
}

#[tokio::test]
async fn six_members_that_come_back_elsewhere_are_the_same_cluster() {
    let mut ground = Ground::formed().await;
    ground.fill(60).await;
    let before = ground.members().await;
    (0..6).for_each(|n| ground.kill(n));
    (0..6).for_each(|n| ground.start(n));
    let (steps, last) = ground.drive().await;
    settled(&last);
    assert_eq!(kinds(&steps), ["Meet"].into(), "{steps:?}");
    let after = ground.members().await;
    for (n, member) in &before {
        assert_eq!(member.me.id, after[n].me.id);
    }
    assert_eq!(ground.missing(60).await, <[String; 0]>::default());

    // All at once, and one master's volume with them: its replica never saw its master since it started.
    let master = *after.iter().find(|(_, member)| member.owns()).unwrap().0;
    (0..6).for_each(|n| ground.kill(n));
    ground.wipe(master);
    (0..6).for_each(|n| ground.start(n));
    let (steps, last) = ground.drive().await;
    settled(&last);
    assert!(kinds(&steps).contains("TakeOver"), "{steps:?}");
    assert_eq!(ground.missing(60).await, <[String; 0]>::default());
}

#[tokio::test]
async fn a_roll_replaces_every_pod_and_hands_every_master_over() {
    let mut ground = Ground::formed().await;
    let before = ground.members().await;
    let mut old: BTreeSet<u16> = (0..6).collect();
    let mut written = 0;
    let mut handovers = 0;
    while !old.is_empty() {
        for _ in 0..10 {
            ground.put(&format!("key-{written}")).await;
            written += 1;
        }
        let (steps, last) = ground.drive().await;
        settled(&last);
        assert!(kinds(&steps).is_subset(&["Meet"].into()), "{steps:?}");
        let rules = Rules { held: None, pods: ground.cluster().look().await };
        let next = rules.order(6).into_iter().find(|n| old.contains(n)).unwrap();
        match rules.can_roll(next) {
            Verdict::Yes => {
                ground.stop(next);
                ground.start(next);
                old.remove(&next);
            }
            Verdict::HandOver => {
                let heir = super::seen::successor(&rules.pods, next).unwrap();
                ground.cluster().hand_over(heir).await.unwrap();
                ground
                    .until("the heir is master", |pods| member(&pods[usize::from(heir)]).unwrap().owns())
                    .await;
                handovers += 1;
            }
            Verdict::Wait(_) => {}
        }
    }
    let (_, last) = ground.drive().await;
    settled(&last);
    assert_eq!(handovers, 3, "each master once");
    assert!(ground.members().await.iter().all(|(n, member)| member.me.id == before[n].me.id));
    assert_eq!(ground.missing(written).await, <[String; 0]>::default());
}

#[tokio::test]
async fn a_shard_that_lost_both_volumes_is_told_until_its_owner_gives_up_the_keys() {
    let mut ground = Ground::formed().await;
    ground.fill(60).await;
    let before = ground.members().await;
    for n in [1, 4] {
        ground.wipe(n);
    }
    for n in [1, 4] {
        ground.start(n);
    }
    let (steps, last) = ground.drive().await;
    assert_eq!(stuck(&last), "SlotsLost");
    assert_eq!(kinds(&steps), ["Meet"].into(), "{steps:?}");
    assert_eq!(ground.drive().await.0, [], "nothing by itself");
    // As docs/components/redis.md says.
    let gone = &before[&1].me.id;
    for (at, _) in ground.members().await.iter().filter(|(_, member)| member.knows(gone).is_some()) {
        let forget = Step::Forget { at: *at, id: gone.clone() };
        ground.cluster().perform(&forget).await.unwrap();
    }
    ground.cluster().perform(&Step::AddSlots { pod: 1, slots: RANGES[1].clone() }).await.unwrap();
    let (steps, last) = ground.drive().await;
    settled(&last);
    assert_eq!(kinds(&steps), ["Replicate", "Open", "Forget"].into(), "{steps:?}");
    let missing = ground.missing(60).await.len();
    assert!(missing > 0 && missing < 60, "{missing} of 60 were in the lost slots");
    ground.put("key-0").await;
}

#[tokio::test]
async fn most_masters_without_their_volumes_are_told_until_their_owner_lets_a_replica_take_over() {
    let mut ground = Ground::formed().await;
    ground.fill(60).await;
    for n in [0, 1] {
        ground.wipe(n);
    }
    for n in [0, 1] {
        ground.start(n);
    }
    let (steps, last) = ground.drive().await;
    assert_eq!((kinds(&steps), stuck(&last)), (["Meet"].into(), "MajorityLost"));
    // As the message says.
    ground.operator(3).await.tell(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await.unwrap();
    ground.until("redis-3 takes over", |pods| member(&pods[3]).is_some_and(super::seen::Member::owns)).await;
    settled(&ground.drive().await.1);
    assert_eq!(ground.missing(60).await, <[String; 0]>::default());
}

#[tokio::test]
async fn one_alone_is_ready_when_it_has_its_data_and_keeps_it() {
    let mut ground = Ground::new(RedisMode::Standalone);
    let ready = |ground: &Ground, password: &str| {
        [build::ALIVE, build::READY].map(|script| ground.probe(0, script, password))
    };
    ground.patiently("it is ready", async |ground| ready(ground, "operator-password") == [true, true]).await;
    assert_eq!(ready(&ground, "wrong"), [false, false]);
    ground.service(0).await.unwrap().tell(&["SET", "a", "1"]).await.unwrap();
    assert!(ground.operator(0).await.version().await.unwrap().starts_with("7."));
    ground.stop(0);
    assert_eq!(ready(&ground, "operator-password"), [false, false]);
    ground.start(0);
    ground.patiently("it is back", async |ground| ready(ground, "operator-password") == [true, true]).await;
    let kept: String = ground.service(0).await.unwrap().ask(&["GET", "a"]).await.unwrap();
    assert_eq!(kept, "1");
}
