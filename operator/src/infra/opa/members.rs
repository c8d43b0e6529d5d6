//! What each replica says about the policies it has, and what that comes to.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Deserialize;
use soma_crds::MemberStatus;

use super::build::{BUNDLE, PORT};
use crate::error::chain;
use crate::infra::component::State;
use crate::pods;

/// Longest time one question may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Characters of a revision that are shown.
const SHOWN: usize = 12;

/// No answer, or none that can be understood.
#[derive(Debug, thiserror::Error)]
#[error("OPA does not say how it is")]
pub struct StatusError(#[from] reqwest::Error);

/// `/v1/status`, as far as it is of use.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Status {
    pub version: String,
    /// Of the policies that decide now.
    pub revision: Option<String>,
    /// Why the last download or activation failed.
    pub trouble: Option<String>,
    /// It has the policies, and refuses them.
    pub refuses: bool,
}

#[derive(Deserialize)]
struct Answer {
    result: Plugins,
}

#[derive(Deserialize)]
struct Plugins {
    labels: Labels,
    #[serde(default)]
    bundles: std::collections::BTreeMap<String, Bundle>,
}

#[derive(Deserialize)]
struct Labels {
    version: String,
}

#[derive(Default, Deserialize)]
struct Bundle {
    active_revision: Option<String>,
    message: Option<String>,
    #[serde(default)]
    errors: Vec<Problem>,
    last_successful_download: Option<String>,
    last_successful_activation: Option<String>,
    last_request: Option<String>,
}

#[derive(Deserialize)]
struct Problem {
    message: String,
}

/// Asks one OPA, given by its base URL.
pub async fn ask(http: &reqwest::Client, url: &str, token: Option<&str>) -> Result<Status, StatusError> {
    let mut request = http.get(format!("{url}/v1/status")).timeout(TIMEOUT);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let Answer { result } = request.send().await?.error_for_status()?.json().await?;
    Ok(read(result))
}

fn read(Plugins { labels, mut bundles }: Plugins) -> Status {
    let bundle = bundles.remove(BUNDLE).unwrap_or_default();
    let errors: Vec<_> = bundle.errors.iter().map(|problem| problem.message.as_str()).collect();
    let message = bundle.message.filter(|message| !message.is_empty());
    let trouble = message.map(|message| if errors.is_empty() { message } else { errors.join("; ") });
    // The last request brought policies that did not become active.
    let refuses = trouble.is_some()
        && bundle.last_successful_download == bundle.last_request
        && bundle.last_successful_download > bundle.last_successful_activation;
    Status { version: labels.version, revision: bundle.active_revision, trouble, refuses }
}

/// One pod, with what it says.
pub struct Member<'a> {
    pub pod: &'a Pod,
    pub status: Result<Status, String>,
}

/// It is not on its way out, nor did it end, as one that was evicted.
fn stays(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// Asks every pod that stays.
pub async fn look<'a>(http: &reqwest::Client, pods: &'a [Pod]) -> Vec<Member<'a>> {
    let asked = pods.iter().filter(|pod| stays(pod)).map(async |pod| {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
        let status = match address {
            Some(ip) if ip.contains(':') => ask(http, &format!("http://[{ip}]:{PORT}"), None).await,
            Some(ip) => ask(http, &format!("http://{ip}:{PORT}"), None).await,
            None => return Member { pod, status: Err("it has no address yet".into()) },
        };
        Member { pod, status: status.map_err(|error| chain(&error)) }
    });
    let mut members = futures::future::join_all(asked).await;
    members.sort_by_key(|member| member.pod.name_any());
    members
}

fn short(revision: &str) -> &str {
    revision.get(..SHOWN).unwrap_or(revision)
}

impl Member<'_> {
    fn has(&self, revision: &str) -> bool {
        self.status.as_ref().is_ok_and(|status| status.revision.as_deref() == Some(revision))
    }

    /// It decides, by whichever policies.
    fn serves(&self) -> bool {
        pods::is_ready(self.pod) && self.status.as_ref().is_ok_and(|status| status.revision.is_some())
    }

    fn told(&self, revision: &str) -> MemberStatus {
        let trouble = pods::trouble([self.pod]).map(|trouble| trouble.message);
        let status = self.status.as_ref();
        let role = status.ok().and_then(|status| status.revision.as_deref());
        let message = match status {
            _ if trouble.is_some() => trouble,
            Err(_) if !pods::is_ready(self.pod) => Some("starting".to_owned()),
            Err(error) => Some(error.clone()),
            Ok(_) if self.has(revision) && pods::is_ready(self.pod) => None,
            Ok(status) => {
                let why = status.trouble.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
                Some(format!("waiting for revision {}{why}", short(revision)))
            }
        };
        MemberStatus {
            name: self.pod.name_any(),
            ready: pods::is_ready(self.pod),
            role: role.map(|revision| format!("revision {}", short(revision))),
            message,
        }
    }
}

/// The members for the status of the SomaInfra.
pub fn told(members: &[Member<'_>], revision: &str) -> Vec<MemberStatus> {
    members.iter().map(|member| member.told(revision)).collect()
}

/// Where the members stand together.
pub fn state(members: &[Member<'_>], replicas: u16, revision: &str) -> State {
    let serving = members.iter().any(Member::serves);
    let refuses = members.iter().find_map(|member| {
        let status = member.status.as_ref().ok()?;
        status.trouble.as_ref().filter(|_| status.refuses && !member.has(revision)).map(|why| (member, why))
    });
    if let Some((member, why)) = refuses {
        let message = format!(
            "{} refuses the policies of revision {}: {why}. Put right or remove the ConfigMap it names",
            member.pod.name_any(),
            short(revision)
        );
        return State::Stuck { reason: "PolicyNotActivated", message, serving };
    }
    if let Some(trouble) = pods::trouble(members.iter().map(|member| member.pod)) {
        return if serving {
            State::Stuck { reason: trouble.reason, message: trouble.message, serving }
        } else {
            State::Broken(trouble)
        };
    }
    let waiting: Vec<_> = members
        .iter()
        .filter_map(|member| Some(format!("{} ({})", member.pod.name_any(), member.told(revision).message?)))
        .collect();
    let what = if members.len() < usize::from(replicas) {
        format!("{} of {replicas} pods are there", members.len())
    } else if waiting.is_empty() {
        let version = members.iter().find_map(|member| Some(member.status.as_ref().ok()?.version.clone()));
        return State::Ready { version: version.unwrap_or_default() };
    } else {
        format!("the policies of revision {} are not active in {}", short(revision), waiting.join(", "))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    fn at(revision: &str) -> Status {
        Status { version: "1".into(), revision: Some(revision.into()), ..Status::default() }
    }

    #[test]
    fn it_is_ready_when_every_replica_has_the_revision() {
        let (a, b) = (pod("a", true), pod("b", true));
        let members =
            |first, second| vec![Member { pod: &a, status: first }, Member { pod: &b, status: second }];
        assert!(
            matches!(state(&members(Ok(at("new")), Ok(at("new"))), 2, "new"), State::Ready { version } if version == "1")
        );
        let one = state(&members(Ok(at("new")), Ok(at("old"))), 2, "new");
        assert!(
            matches!(&one, State::Repairing(what) if what.contains("b (waiting for revision new)")),
            "{one:?}"
        );
        let fewer = state(&members(Ok(at("new")), Ok(at("new"))), 3, "new");
        assert!(matches!(&fewer, State::Repairing(what) if what == "2 of 3 pods are there"), "{fewer:?}");
        let silent = state(&members(Err("no answer".into()), Err("no answer".into())), 2, "new");
        assert!(matches!(&silent, State::Forming(what) if what.contains("a (no answer)")), "{silent:?}");
        let refusing = Status { trouble: Some("rego_type_error".into()), refuses: true, ..at("old") };
        let stuck = state(&members(Ok(at("new")), Ok(refusing)), 2, "new");
        assert!(
            matches!(&stuck, State::Stuck { reason: "PolicyNotActivated", message, serving: true } if message.starts_with("b refuses")),
            "{stuck:?}"
        );
    }

    #[test]
    fn a_bundle_that_came_and_was_refused_is_told_from_one_that_did_not_come() {
        let status = |bundle: Value| {
            let plugins = json!({"labels": {"version": "1"}, "bundles": {"soma": bundle}});
            read(serde_json::from_value(plugins).unwrap())
        };
        let refused = json!({"active_revision": "r", "message": "m", "errors": [{"message": "e"}],
            "last_successful_download": "2", "last_request": "2", "last_successful_activation": "1"});
        let refused = status(refused);
        assert_eq!((refused.refuses, refused.trouble.as_deref()), (true, Some("e")));
        let away = json!({"active_revision": "r", "message": "m", "last_successful_download": "1",
            "last_request": "2", "last_successful_activation": "1"});
        assert!(!status(away).refuses);
        assert_eq!(status(json!({"active_revision": "r"})).trouble, None);
    }
}
