//! Why pods do not become ready, in words. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

/// A pod that will not become ready by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub reason: &'static str,
    pub message: String,
}

/// Whether the pod reports itself ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The first trouble among pods.
pub fn trouble<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Option<Trouble> {
    pods.into_iter().find_map(trouble_of)
}

fn trouble_of(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    let containers =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| container_trouble(&name, container)).or_else(|| {
        let unschedulable = status.conditions.iter().flatten().find(|c| {
            c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable")
        })?;
        let why = unschedulable.message.clone().unwrap_or_default();
        Some(Trouble {
            reason: "Unschedulable",
            message: format!("pod {name} fits no node: {why}. Add capacity or lower resources.requests"),
        })
    })
}

fn container_trouble(pod: &str, container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let said = waiting.message.clone().unwrap_or_default();
    let image = &container.image;
    match waiting.reason.as_deref()? {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => Some(Trouble {
            reason: "ImagePull",
            message: format!(
                "pod {pod} cannot pull {image}: {said}. Check the image name, its tag and the node's access to the registry"
            ),
        }),
        "CrashLoopBackOff" => {
            let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
            let code = last.map_or(0, |t| t.exit_code);
            let said = last.and_then(|t| t.message.clone()).unwrap_or_default();
            let said = last_line(&said);
            Some(Trouble {
                reason: "CrashLoop",
                message: format!(
                    "pod {pod} ends with code {code}: {said}. Read it with `kubectl logs {pod} --previous` and put the setting or image right"
                ),
            })
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some(Trouble {
            reason: "ContainerConfig",
            message: format!(
                "pod {pod} cannot start its container: {said}. Look at `kubectl describe pod {pod}`"
            ),
        }),
        _ => None,
    }
}

/// The last line with text in it: where a process says why it ends. Cut to 300 characters.
fn last_line(text: &str) -> String {
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message")
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[expect(clippy::needless_pass_by_value, reason = "a literal reads better without a reference")]
    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[expect(clippy::needless_pass_by_value, reason = "a literal reads better without a reference")]
    fn container(state: serde_json::Value, last: serde_json::Value) -> serde_json::Value {
        json!({"containerStatuses": [{
            "name": "c", "image": "img:1", "imageID": "", "ready": false, "restartCount": 2, "state": state, "lastState": last,
        }]})
    }

    #[test]
    fn a_crash_loop_quotes_the_last_line_the_process_wrote() {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
        let last = json!({"terminated": {"exitCode": 2, "message": "starting\nmaxTopK is 0\n\n"}});
        let trouble = trouble([&pod(container(state, last))]).unwrap();
        assert_eq!(trouble.reason, "CrashLoop");
        assert!(
            trouble.message.starts_with("pod p ends with code 2: maxTopK is 0. Read it"),
            "{}",
            trouble.message
        );
    }

    #[test]
    fn a_pull_failure_names_the_image() {
        let state = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
        let trouble = trouble([&pod(container(state, json!({})))]).unwrap();
        assert_eq!(trouble.reason, "ImagePull");
        assert!(trouble.message.contains("img:1"));
    }

    #[test]
    fn a_pod_that_starts_is_no_trouble() {
        let state = json!({"waiting": {"reason": "ContainerCreating"}});
        assert!(trouble([&pod(container(state, json!({}))), &pod(json!({}))]).is_none());
    }

    #[test]
    fn an_unschedulable_pod_is_trouble() {
        let status = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]});
        assert_eq!(trouble([&pod(status)]).unwrap().reason, "Unschedulable");
    }
}
