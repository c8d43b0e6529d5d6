//! The protocol on real etcd processes.

mod ground;

use self::ground::Ground;
use super::auth;
use super::client::bytes;
use super::form::Step;
use super::seen::{Answer, Auth};

#[track_caller]
fn settled(step: &Step) {
    assert_eq!(*step, Step::Settled { version: "3.6.16".into() });
}

fn stuck(step: &Step) -> &'static str {
    match step {
        Step::Stuck { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_grows_to_five_without_a_restart_whatever_starts_too_early() {
    let mut ground = Ground::new(1);
    ground.form().await;
    ground.put(0, "/soma/a", "1").await.unwrap();
    let first = ground.pid(0);
    // Two that nobody admitted: they end, and form nothing.
    ground.size = 3;
    ground.start();
    let (steps, last) = ground.drive(3).await;
    settled(&last);
    let one_at_a_time = |steps: &[Step], from: u16| {
        for (pair, n) in steps.chunks(2).zip(from..) {
            assert!(matches!(pair, [Step::AddLearner(m), Step::Promote(_)] if *m == n), "{steps:?}");
        }
    };
    assert_eq!(steps.len(), 4, "{steps:?}");
    one_at_a_time(&steps, 1);
    let (second, third) = (ground.pid(1), ground.pid(2));
    let (steps, last) = ground.drive(5).await;
    settled(&last);
    assert_eq!(steps.len(), 4, "{steps:?}");
    one_at_a_time(&steps, 3);
    assert_eq!([ground.pid(0), ground.pid(1), ground.pid(2)], [first, second, third], "nobody was restarted");
    assert_eq!(ground.get(4, "/soma/a").await, bytes("1"));
    let (seen, _) = ground.look().await;
    assert_eq!(seen.voters().count(), 5, "all were well when it settled");
}

#[tokio::test]
async fn a_member_without_its_data_is_replaced_by_a_new_one() {
    let mut ground = Ground::new(3);
    ground.form().await;
    for n in 0..20 {
        ground.put(0, &format!("/soma/{n}"), &n.to_string()).await.unwrap();
    }
    // Also the leader.
    for round in 0..2 {
        let (now, _) = ground.look().await;
        let leader = now.leader().unwrap();
        let lost = if round == 0 { (leader + 1) % 3 } else { leader };
        let old = ground.id(lost).await;
        let others: Vec<_> = (0..3).filter(|n| *n != lost).map(|n| ground.pid(n)).collect();
        ground.wipe(lost);
        ground.start();
        let (done, end) = ground.drive(3).await;
        settled(&end);
        let new = ground.id(lost).await;
        assert_eq!(done, [Step::Remove(old), Step::AddLearner(lost), Step::Promote(new)]);
        assert_ne!(new, old);
        assert_eq!((0..3).filter(|n| *n != lost).map(|n| ground.pid(n)).collect::<Vec<_>>(), others);
        for n in 0..20 {
            assert_eq!(ground.get(lost, &format!("/soma/{n}")).await, bytes(&n.to_string()));
        }
    }
}

#[tokio::test]
async fn an_operator_that_ends_after_adding_a_member_adds_none_twice() {
    let mut ground = Ground::new(1);
    ground.form().await;
    for _ in 0..2 {
        ground.perform(&Step::AddLearner(1)).await;
    }
    let (steps, last) = ground.drive(3).await;
    settled(&last);
    assert!(matches!(steps[..], [Step::Promote(_), Step::AddLearner(2), Step::Promote(_)]), "{steps:?}");
    let (seen, _) = ground.look().await;
    assert_eq!(seen.list.len(), 3);
    // A removal and a promotion, too, may have been done before.
    ground.perform(&Step::Remove(4711)).await;
    ground.perform(&Step::Promote(seen.list[0].id)).await;
}

#[tokio::test]
async fn authentication_goes_on_where_it_was_left_and_keeps_others_out() {
    let mut ground = Ground::new(1);
    ground.start();
    while ground.look().await.0.auth != Auth::Off {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let root = serde_json::json!({"name": "root", "password": "root-password"});
    ground.client(0).tell("auth/user/add", None, &root, "add a user").await.unwrap();
    ground
        .client(0)
        .tell("auth/role/add", None, &serde_json::json!({"name": "soma"}), "add a role")
        .await
        .unwrap();
    ground.form().await;
    assert_eq!(ground.look().await.0.auth, Auth::On);
    let again = auth::enable(ground.client(0), &ground.marker).await;
    assert!(again.is_err(), "nobody makes users any more without logging in");
    assert!(ground.client(0).status(None).await.is_err());
    ground.put(0, "/soma/a", "1").await.unwrap();
    let refused = ground.put(0, "/other", "1").await.unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");
    ground.marker.root = "wrong".into();
    let (_, last) = ground.drive(1).await;
    assert_eq!(stuck(&last), "EtcdPasswordWrong");
}

#[tokio::test]
async fn a_lost_majority_is_left_alone_until_its_owner_begins_anew_with_the_rest() {
    let mut ground = Ground::new(3);
    ground.form().await;
    ground.put(0, "/soma/a", "1").await.unwrap();
    for lost in [1, 2] {
        ground.wipe(lost);
    }
    ground.start();
    let (steps, last) = ground.drive(3).await;
    assert_eq!(steps, []);
    assert_eq!(stuck(&last), "QuorumLost");
    ground.force_new_cluster(0).await;
    let (steps, last) = ground.drive(3).await;
    settled(&last);
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert_eq!(ground.get(2, "/soma/a").await, bytes("1"));
    for lost in 0..3 {
        ground.wipe(lost);
    }
    ground.start();
    let (steps, last) = ground.drive(3).await;
    assert_eq!((steps.as_slice(), stuck(&last)), (&[][..], "EtcdDataLost"), "nothing forms a second cluster");
}

#[tokio::test]
async fn a_member_that_was_removed_by_hand_comes_back_only_without_its_data() {
    let mut ground = Ground::new(3);
    ground.form().await;
    let removed = ground.id(2).await;
    ground.perform(&Step::Remove(removed)).await;
    let (steps, last) = ground.drive(3).await;
    assert_eq!((steps.as_slice(), stuck(&last)), (&[][..], "EtcdForeignVolume"));
    ground.wipe(2);
    ground.start();
    let (steps, last) = ground.drive(3).await;
    settled(&last);
    assert!(matches!(steps[..], [Step::AddLearner(2), Step::Promote(_)]), "{steps:?}");
}

#[tokio::test]
async fn a_leader_that_is_told_to_end_hands_over_first() {
    let mut ground = Ground::new(3);
    ground.form().await;
    let (seen, _) = ground.look().await;
    let leader = seen.leader().unwrap();
    let (old, others) = (ground.id(leader).await, (0..3).filter(|n| *n != leader));
    ground.stop(leader);
    // No election: when it is gone, another leads already.
    for n in others {
        let token = ground.client(n).authenticate("root", "root-password").await.unwrap();
        let status = ground.client(n).status(Some(&token)).await.unwrap();
        assert!(status.leader != 0 && status.leader != old, "{status:?}");
    }
    ground.start();
    let (steps, last) = ground.drive(3).await;
    settled(&last);
    assert_eq!(steps, [], "a member that keeps its data is only waited for");
}

#[tokio::test]
async fn a_full_quota_is_told_and_a_defragmentation_gives_space_back() {
    let mut ground = Ground::new(1);
    ground.quota = 8 << 20;
    ground.form().await;
    let value = "x".repeat(1 << 20);
    let mut refused = None;
    for _ in 0..20 {
        refused = ground.put(0, "/soma/big", &value).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert!(refused.is_some_and(|said| said.contains("space exceeded")));
    let (_, last) = ground.drive(1).await;
    assert_eq!(stuck(&last), "EtcdNoSpace");
    let sizes = |answer: &Answer| match answer {
        Answer::Status(status) => (status.db_size, status.db_size_in_use),
        other => panic!("{other:?}"),
    };
    let (seen, token) = ground.look().await;
    let Answer::Status(status) = &seen.answers[0] else { panic!() };
    assert!(status.raft_applied_index > 0 && status.raft_term > 0 && status.raft_index > 0);
    let read: serde_json::Value = ground
        .client(0)
        .call("kv/range", token.as_deref(), &serde_json::json!({"key": bytes("/soma/big")}), "read")
        .await
        .unwrap();
    let compact = serde_json::json!({"revision": read["header"]["revision"], "physical": true});
    ground.client(0).tell("kv/compaction", token.as_deref(), &compact, "compact").await.unwrap();
    let (fragmented, _) = ground.look().await;
    let (before, used) = sizes(&fragmented.answers[0]);
    assert!(before > 2 * used, "{before} of which {used} are used");
    ground.cluster().defragment(0, token.as_deref()).await.unwrap();
    let (tidy, _) = ground.look().await;
    assert!(sizes(&tidy.answers[0]).0 < before / 2, "{:?}", tidy.answers);
}
