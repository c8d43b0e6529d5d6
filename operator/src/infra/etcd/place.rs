//! What a pod tells before its member is asked. Pure.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};

use super::build::PEER_PORT;
use super::protocol::Place;
use super::seen::Answer;
use super::validate::PORT;
use crate::infra::set::Live;

/// What etcd says last when its folder holds no member and it may not join.
const MAY_NOT_JOIN: &str = "couldn't find local name";

/// Where a member is asked, or what is known without asking it.
pub fn of(live: &Live, ordinal: u16) -> Place {
    let Some(pod) = live.pods.get(&ordinal) else {
        return Place::Not(Answer::Silent("it has no pod yet".into()));
    };
    if let Some(end) = end(pod) {
        return Place::Not(ended(end.message.as_deref().unwrap_or_default()));
    }
    match (live.address(ordinal, PORT), live.address(ordinal, PEER_PORT)) {
        (Some(client), Some(peer)) => {
            Place::At { client: format!("http://{client}"), peer: format!("http://{peer}") }
        }
        _ => Place::Not(Answer::Silent("it has no address yet".into())),
    }
}

/// What the end of a container means.
pub fn ended(message: &str) -> Answer {
    if message.contains(MAY_NOT_JOIN) { Answer::Empty } else { Answer::Ended }
}

/// How the container ended that does not run now. The end before the one that runs tells nothing.
fn end(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        return None;
    }
    state.terminated.as_ref().or(status.last_state.as_ref()?.terminated.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn place(state: &Value, last: &Value) -> Place {
        let pod = serde_json::from_value(json!({"metadata": {"name": "etcd-0"}, "status": {
            "podIP": "10.0.0.7",
            "containerStatuses": [{
                "name": "etcd", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                "state": state, "lastState": last,
            }],
        }}));
        of(&Live { pods: [(0, pod.unwrap())].into(), ..Default::default() }, 0)
    }

    #[test]
    fn only_the_last_end_of_a_container_that_does_not_run_counts() {
        let end = |message: &str| json!({"terminated": {"exitCode": 1, "message": message}});
        let empty = end(r#"{"error":"couldn't find local name \"etcd-0\" in the initial cluster"}"#);
        let (other, none) = (end("server is stopping"), json!({}));
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let running = json!({"running": {}});
        assert!(matches!(place(&waiting, &empty), Place::Not(Answer::Empty)));
        assert!(matches!(place(&empty, &other), Place::Not(Answer::Empty)));
        assert!(matches!(place(&waiting, &other), Place::Not(Answer::Ended)));
        assert!(matches!(place(&other, &empty), Place::Not(Answer::Ended)));
        assert!(matches!(place(&running, &empty), Place::At { .. }), "it was admitted since");
        let Place::At { client, peer } = place(&waiting, &none) else { panic!() };
        assert_eq!((client.as_str(), peer.as_str()), ("http://10.0.0.7:2379", "http://10.0.0.7:2380"));
        assert!(matches!(of(&Live::default(), 0), Place::Not(Answer::Silent(_))));
    }
}
