//! How each pod of OpenFGA is, and what that comes to.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use soma_crds::MemberStatus;

use super::build::HTTP;
use super::client::{Client, ClientError};
use crate::error::chain;
use crate::infra::component::State;
use crate::pods;

/// What a pod says about itself.
#[derive(Clone, Debug)]
pub enum Health {
    Serves,
    /// It answers, and not that it serves: its database is away, or its tables are too old.
    Refuses(String),
    Silent(String),
}

/// One pod, with what it says about itself.
pub struct Member<'a> {
    pub pod: &'a Pod,
    pub health: Health,
}

/// It is not on its way out, nor did it end, as one that was evicted.
fn stays(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// Base URL of a pod, once it has an address.
fn url(pod: &Pod) -> Option<String> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
    Some(if ip.contains(':') { format!("http://[{ip}]:{HTTP}") } else { format!("http://{ip}:{HTTP}") })
}

/// Asks every pod that stays.
pub async fn look<'a>(http: &reqwest::Client, pods: &'a [Pod]) -> Vec<Member<'a>> {
    let asked = pods.iter().filter(|pod| stays(pod)).map(async |pod| {
        let Some(url) = url(pod) else {
            return Member { pod, health: Health::Silent("it has no address yet".into()) };
        };
        let health = match (Client { http, url, token: None }).serves().await {
            Ok(()) => Health::Serves,
            Err(error @ ClientError::Http(_)) => Health::Silent(chain(&error)),
            Err(error) => Health::Refuses(chain(&error)),
        };
        Member { pod, health }
    });
    let mut members = futures::future::join_all(asked).await;
    members.sort_by_key(|member| member.pod.name_any());
    members
}

impl Member<'_> {
    fn serves(&self) -> bool {
        pods::is_ready(self.pod) && matches!(self.health, Health::Serves)
    }

    fn told(&self) -> MemberStatus {
        let message = match (&self.health, pods::trouble([self.pod])) {
            (_, Some(trouble)) => Some(trouble.message),
            (Health::Refuses(why), None) => Some(why.clone()),
            (Health::Silent(why), None) if pods::is_ready(self.pod) => Some(why.clone()),
            _ if pods::is_ready(self.pod) => None,
            _ => Some("starting".to_owned()),
        };
        MemberStatus { name: self.pod.name_any(), ready: pods::is_ready(self.pod), role: None, message }
    }
}

/// The members for the status of the SomaInfra.
pub fn told(members: &[Member<'_>]) -> Vec<MemberStatus> {
    members.iter().map(Member::told).collect()
}

/// Base URL of a pod that serves.
pub fn serving(members: &[Member<'_>]) -> Option<String> {
    members.iter().filter(|member| member.serves()).find_map(|member| url(member.pod))
}

/// Where the members stand together; `version` is what they run.
pub fn state(members: &[Member<'_>], replicas: u16, version: &str) -> State {
    let serving = members.iter().any(Member::serves);
    if let Some(trouble) = pods::trouble(members.iter().map(|member| member.pod)) {
        return if serving {
            State::Stuck { reason: trouble.reason, message: trouble.message, serving }
        } else {
            State::Broken(trouble)
        };
    }
    let waiting: Vec<_> = members
        .iter()
        .filter_map(|member| Some(format!("{} ({})", member.pod.name_any(), member.told().message?)))
        .collect();
    let what = if members.len() < usize::from(replicas) {
        format!("{} of {replicas} pods of OpenFGA are there", members.len())
    } else if waiting.is_empty() {
        return State::Ready { version: version.to_owned() };
    } else {
        format!("waiting for {}", waiting.join(", "))
    };
    if serving { State::Repairing(what) } else { State::Forming(what) }
}

/// Why pods of an older template are still there, if they are.
pub fn rolling(deployment: &Deployment) -> Option<String> {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let (updated, all) = (status.updated_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
    let current = status.observed_generation == deployment.metadata.generation;
    (!current || updated < wanted || all > updated)
        .then(|| format!("{updated} of {wanted} pods run the newest template"))
}

/// The version of an image, by its tag: OpenFGA does not tell it.
pub fn version(image: &str) -> String {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map_or("unknown", |(_, tag)| tag);
    let digits = tag.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    digits.unwrap_or(tag).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    #[test]
    fn it_is_ready_when_every_replica_serves() {
        let (a, b, young) = (pod("a", true), pod("b", true), pod("c", false));
        let serves = |pod| Member { pod, health: Health::Serves };
        let refuses = |pod| Member { pod, health: Health::Refuses("no database".into()) };
        let silent = |pod| Member { pod, health: Health::Silent("no answer".into()) };
        let both = [serves(&a), serves(&b)];
        assert!(matches!(state(&both, 2, "1"), State::Ready { version } if version == "1"));
        assert!(matches!(state(&both, 3, "1"), State::Repairing(what) if what.starts_with("2 of 3 pods")));
        let one = state(&[serves(&a), silent(&young)], 2, "1");
        assert!(matches!(&one, State::Repairing(what) if what == "waiting for c (starting)"), "{one:?}");
        let none = [refuses(&a), silent(&b), silent(&young)];
        assert!(
            matches!(state(&none, 2, "1"), State::Forming(what) if what.contains("a (no database), b (no answer), c (starting)"))
        );
        assert_eq!(serving(&none), None);
        assert_eq!(serving(&both).as_deref(), Some("http://10.0.0.1:8080"));
    }

    #[test]
    fn the_version_is_the_images_tag() {
        for (image, expected) in [
            ("docker.io/openfga/openfga:v1.22.1", "1.22.1"),
            ("registry:5000/openfga:1.9@sha256:abc", "1.9"),
            ("registry:5000/openfga", "unknown"),
            ("openfga:vendor", "vendor"),
        ] {
            assert_eq!(version(image), expected);
        }
    }
}
