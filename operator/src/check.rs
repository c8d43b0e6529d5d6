//! Lints of a finished plan, run before every apply and in every builder test. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;

/// The objects of one plan, as JSON.
#[derive(Default)]
pub struct Plan {
    objects: Vec<(String, Value)>,
    /// Keys of each ConfigMap (`c/name`) and Secret (`s/name`) a pod may mount.
    sources: BTreeMap<String, BTreeSet<String>>,
}

impl Plan {
    /// A Secret that exists, and the keys pods may rely on.
    pub fn secret(&mut self, name: &str, keys: &[&str]) {
        self.sources.insert(format!("s/{name}"), keys.iter().map(|k| (*k).to_owned()).collect());
    }

    pub fn config_map(&mut self, map: &ConfigMap) {
        let keys = map.data.iter().flatten().map(|(key, _)| key.clone()).collect();
        self.sources.insert(format!("c/{}", map.name_any()), keys);
        self.add(map);
    }

    pub fn service(&mut self, service: &Service) {
        self.add(service);
    }

    pub fn budget(&mut self, budget: &PodDisruptionBudget) {
        self.add(budget);
    }

    pub fn policy(&mut self, policy: &NetworkPolicy) {
        self.add(policy);
    }

    pub fn stateful_set(&mut self, set: &StatefulSet) {
        self.add(set);
    }

    pub fn claim(&mut self, claim: &PersistentVolumeClaim) {
        self.add(claim);
    }

    pub fn job(&mut self, job: &Job) {
        self.add(job);
    }

    /// The Job it makes is looked at as every workload.
    pub fn cron_job(&mut self, cron: &CronJob) {
        self.add(cron);
        let mut job = serde_json::json!({"kind": "Job"});
        job["spec"] = serde_json::to_value(cron).unwrap_or_default()["spec"]["jobTemplate"]["spec"].take();
        self.objects.push((format!("Job of CronJob {}", cron.name_any()), job));
    }

    pub fn deployment(&mut self, deployment: &Deployment) {
        self.add(deployment);
    }

    fn add<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) {
        let name =
            format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any());
        self.objects.push((name, serde_json::to_value(object).unwrap_or_default()));
    }
}

/// Every finding in one error, or nothing.
pub fn sound(plan: &Plan) -> Result<(), Error> {
    let found = findings(plan);
    if found.is_empty() { Ok(()) } else { Err(Error::UnsoundPlan(found.join("; "))) }
}

/// Everything wrong with a plan.
pub fn findings(plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    let templates: Vec<_> = plan.objects.iter().filter(|(_, o)| o["spec"]["template"].is_object()).collect();
    for (name, object) in &plan.objects {
        let mut say = |what: String| found.push(format!("{name}: {what}"));
        if !names.insert(name) {
            say("appears twice".into());
        }
        match object["kind"].as_str().unwrap_or_default() {
            "Deployment" | "StatefulSet" | "Job" => workload(plan, object, &mut say),
            "Service" if object["spec"]["type"] != "ExternalName" => {
                let selected = select(&templates, &object["spec"]["selector"]);
                if selected.is_empty() && !templates.is_empty() {
                    say("selects no pod of the plan".into());
                }
                for pod in selected {
                    service_ports(object, pod, &mut say);
                }
            }
            kind @ ("PodDisruptionBudget" | "NetworkPolicy") if !templates.is_empty() => {
                let field = if kind == "NetworkPolicy" { "podSelector" } else { "selector" };
                if select(&templates, &object["spec"][field]["matchLabels"]).is_empty() {
                    say("selects no pod of the plan".into());
                }
            }
            _ => {}
        }
    }
    found
}

/// Pod templates whose labels hold the whole selector. A revision label is only known to its own Deployment: the
/// Service may point at an older one.
fn select<'a>(templates: &[&'a (String, Value)], selector: &Value) -> Vec<&'a Value> {
    let holds = |labels: &Value| {
        selector.as_object().is_some_and(|s| {
            s.iter().all(|(k, v)| k == crate::names::label::REVISION || labels.get(k) == Some(v))
        })
    };
    templates
        .iter()
        .map(|(_, o)| &o["spec"]["template"])
        .filter(|t| holds(&t["metadata"]["labels"]))
        .collect()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn service_ports(service: &Value, template: &Value, say: &mut impl FnMut(String)) {
    let ports: Vec<_> =
        items(&template["spec"]["containers"]).iter().flat_map(|c| items(&c["ports"])).collect();
    for port in items(&service["spec"]["ports"]) {
        let target = &port["targetPort"];
        if !ports.iter().any(|p| p["name"] == *target || p["containerPort"] == *target) {
            say(format!("port {target} is no port of the pod"));
        }
    }
}

fn workload(plan: &Plan, object: &Value, say: &mut impl FnMut(String)) {
    let template = &object["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    for (key, value) in object["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten() {
        if labels.get(key) != Some(value) {
            say(format!("selector {key} is not a label of its pods"));
        }
    }
    for (key, value) in labels.as_object().into_iter().flatten() {
        if text(value).len() > 63 {
            say(format!("label {key} is longer than 63 characters"));
        }
    }
    let pod = &template["spec"];
    let security = &pod["securityContext"];
    if security["runAsNonRoot"] != true
        || security["runAsUser"] == 0
        || security["seccompProfile"]["type"] != "RuntimeDefault"
    {
        say("the pod does not meet restricted pod security".into());
    }
    // A pod that names an account of its own uses its token: the one for the API server, or one made for somebody else.
    let projects = items(&pod["volumes"])
        .iter()
        .flat_map(|volume| items(&volume["projected"]["sources"]))
        .any(|source| source["serviceAccountToken"].is_object());
    if pod["automountServiceAccountToken"] != (pod["serviceAccountName"].is_string() && !projects) {
        say("the pod mounts a service account token it does not use".into());
    }
    let mut volumes: BTreeMap<&str, bool> =
        items(&pod["volumes"]).iter().map(|v| (text(&v["name"]), false)).collect();
    for claim in items(&object["spec"]["volumeClaimTemplates"]) {
        volumes.insert(text(&claim["metadata"]["name"]), false);
    }
    for volume in items(&pod["volumes"]) {
        source(plan, volume, say);
    }
    for container in items(&pod["containers"]).iter().chain(items(&pod["initContainers"])) {
        self::container(container, &mut volumes, say);
    }
    for (volume, _) in volumes.iter().filter(|(_, mounted)| !**mounted) {
        say(format!("volume {volume} is not mounted"));
    }
}

/// What a volume is filled from must be in the plan, with the keys it projects.
fn source(plan: &Plan, volume: &Value, say: &mut impl FnMut(String)) {
    let name = text(&volume["name"]);
    filled_from(plan, name, "c", &volume["configMap"], "name", say);
    filled_from(plan, name, "s", &volume["secret"], "secretName", say);
    for part in items(&volume["projected"]["sources"]) {
        filled_from(plan, name, "c", &part["configMap"], "name", say);
        filled_from(plan, name, "s", &part["secret"], "name", say);
    }
}

fn filled_from(
    plan: &Plan,
    volume: &str,
    kind: &str,
    from: &Value,
    name: &str,
    say: &mut impl FnMut(String),
) {
    if !from.is_object() {
        return;
    }
    let key = format!("{kind}/{}", text(&from[name]));
    let Some(keys) = plan.sources.get(&key) else {
        say(format!("volume {volume} mounts {key}, which the plan does not hold"));
        return;
    };
    for item in items(&from["items"]) {
        if !keys.contains(text(&item["key"])) {
            say(format!("volume {volume} projects key {}, which {key} does not hold", item["key"]));
        }
    }
}

fn container<'a>(container: &'a Value, volumes: &mut BTreeMap<&'a str, bool>, say: &mut impl FnMut(String)) {
    let name = text(&container["name"]);
    let security = &container["securityContext"];
    let drops_all = items(&security["capabilities"]["drop"]).iter().any(|c| c == "ALL");
    if security["allowPrivilegeEscalation"] != false
        || security["readOnlyRootFilesystem"] != true
        || !drops_all
    {
        say(format!("container {name} does not meet restricted pod security"));
    }
    let resources = &container["resources"];
    if !resources["limits"]["memory"].is_string() || !resources["requests"]["cpu"].is_string() {
        say(format!("container {name} has no memory limit or no CPU request"));
    }
    let mut paths = BTreeSet::new();
    for mount in items(&container["volumeMounts"]) {
        match volumes.get_mut(text(&mount["name"])) {
            Some(mounted) => *mounted = true,
            None => say(format!("container {name} mounts {}, which is no volume", mount["name"])),
        }
        if !paths.insert(text(&mount["mountPath"])) {
            say(format!("container {name} mounts two volumes at {}", mount["mountPath"]));
        }
    }
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        for handler in ["httpGet", "tcpSocket"] {
            let port = &container[probe][handler]["port"];
            let known =
                items(&container["ports"]).iter().any(|p| p["name"] == *port || p["containerPort"] == *port);
            if !port.is_null() && !known {
                say(format!("{probe} of container {name} asks port {port}, which it does not open"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {
                    "automountServiceAccountToken": false,
                    "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{
                        "name": "c", "image": "i",
                        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
                        "ports": [{"name": "http", "containerPort": 80}],
                        "readinessProbe": {"httpGet": {"port": "http", "path": "/"}},
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    }],
                    "volumes": [{"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "k"}]}}],
                },
            }},
        })
    }

    fn service(selector: &str, port: &str) -> Value {
        json!({"kind": "Service", "spec": {"selector": {"app": selector}, "ports": [{"port": 80, "targetPort": port}]}})
    }

    fn found(objects: &[Value]) -> Vec<String> {
        let mut plan = Plan::default();
        plan.secret("s", &["k"]);
        plan.objects = objects.iter().enumerate().map(|(i, o)| (format!("o{i}"), o.clone())).collect();
        findings(&plan)
    }

    #[test]
    fn a_sound_plan_has_no_finding() {
        assert_eq!(found(&[deployment(), service("a", "http")]), Vec::<String>::new());
    }

    #[test]
    fn each_defect_is_found() {
        let defects: [(&str, Value, &str); 10] = [
            ("/spec/selector/matchLabels/app", json!("b"), "selector app is not a label"),
            ("/spec/template/spec/securityContext/runAsUser", json!(0), "restricted pod security"),
            ("/spec/template/spec/automountServiceAccountToken", json!(null), "service account token"),
            (
                "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem",
                json!(false),
                "restricted",
            ),
            ("/spec/template/spec/containers/0/resources/limits", json!({}), "no memory limit"),
            ("/spec/template/spec/containers/0/volumeMounts/0/name", json!("w"), "is no volume"),
            ("/spec/template/spec/containers/0/volumeMounts", json!([]), "volume v is not mounted"),
            ("/spec/template/spec/containers/0/readinessProbe/httpGet/port", json!("grpc"), "does not open"),
            ("/spec/template/spec/volumes/0/secret/secretName", json!("t"), "which the plan does not hold"),
            ("/spec/template/spec/volumes/0/secret/items/0/key", json!("x"), "does not hold"),
        ];
        for (path, value, expected) in defects {
            let mut broken = deployment();
            *broken.pointer_mut(path).unwrap() = value;
            let found = found(&[broken]);
            assert!(found.iter().any(|f| f.contains(expected)), "{path}: {found:?}");
        }
        assert!(found(&[deployment(), service("b", "http")])[0].contains("selects no pod"));
        assert!(found(&[deployment(), service("a", "nope")])[0].contains("is no port of the pod"));
    }

    #[test]
    fn a_name_that_appears_twice_is_found() {
        let objects = vec![("same".into(), service("a", "x")), ("same".into(), service("a", "x"))];
        let plan = Plan { objects, ..Plan::default() };
        assert_eq!(findings(&plan), ["same: appears twice"]);
    }
}
