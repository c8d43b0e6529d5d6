//! The objects of a managed OPA, and its connection Secret. Pure.

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use soma_crds::Mode;
use soma_settings::{ConfigHash, canonical_json};

use super::bundle::Bundle;
use super::core;
use super::sign::{Signing, TOKEN};
use super::validate::{Connection, Managed};
use crate::check::{self, Plan};
use crate::error::Error;
use crate::infra::{Site, network, secret, set};
use crate::names::object;
use crate::workload::{container_security, pod_security, typed};

/// Port of clients.
pub const PORT: u16 = 8181;
/// What OPA calls the policies.
pub const BUNDLE: &str = "soma";
/// Where decisions are asked for.
pub const DECISION: &str = "/v1/data/soma/policy/allow";
/// Keys of ConfigMap `opa-bundle`.
pub const BYTES: &str = "bundle.tar.gz";
pub const REVISION: &str = "revision";
pub const INPUTS: &str = "inputs";
pub const REFUSED: &str = "refused.json";
/// User of the official image.
const UID: i64 = 1000;
const FOLDER: &str = "/etc/soma/opa";
const CONFIG: &str = "opa.json";
const AUTHZ: &str = "authz.rego";
/// In here only the token: the key itself is the operator's alone.
const CREDENTIALS: &str = "/etc/soma/opa-token";
/// The last bundle, so that a container that starts again decides without the operator.
const STATE: &str = "/var/lib/opa";

/// Everything OPA needs. Destructured without `..` where it is applied.
pub struct Objects {
    /// Immutable and named by its content.
    pub config: ConfigMap,
    pub service: Service,
    pub budget: PodDisruptionBudget,
    pub policy: NetworkPolicy,
    pub deployment: Deployment,
}

/// Where OPA finds its bundle: below this base URL.
pub fn resource(site: &Site<'_>) -> String {
    format!("bundles/{}/{}", site.owner.namespace, site.owner.name)
}

/// OPA's configuration. What it needs to trust a bundle is in it; what a bundle holds is not.
pub fn config(
    resource: &str,
    bundles: &str,
    signing: &Signing,
    token: &str,
    state: &str,
) -> Result<Value, Error> {
    let id = signing.id();
    Ok(json!({
        "services": {"soma": {"url": bundles, "credentials": {"bearer": {"token_path": token}}}},
        "keys": {id.as_str(): {"algorithm": "ES256", "key": signing.public_pem()?}},
        "bundles": {BUNDLE: {
            "service": "soma",
            "resource": resource,
            "persist": true,
            "signing": {"keyid": id},
            "polling": {"min_delay_seconds": 1, "max_delay_seconds": 5, "long_polling_timeout_seconds": 60},
        }},
        "persistence_directory": state,
        "status": {"prometheus": true},
    }))
}

pub fn objects(site: &Site<'_>, opa: &Managed, signing: &Signing, bundles: &str) -> Result<Objects, Error> {
    let selector = site.owner.selector(object::OPA);
    let meta = |name: &str| site.metadata(object::OPA, name);
    let token = format!("{CREDENTIALS}/{TOKEN}");
    let config = config(&resource(site), bundles, signing, &token, STATE)?;
    let data = json!({CONFIG: canonical_json(&config), AUTHZ: core::AUTHZ});
    let name = format!("opa-config-{}", ConfigHash::of(&canonical_json(&data)).short());
    let objects = Objects {
        config: typed(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(&name), "immutable": true, "data": data,
        }))?,
        service: typed(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(object::OPA),
            "spec": {"selector": selector, "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}]},
        }))?,
        budget: typed(&json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta(object::OPA),
            "spec": {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": selector}},
        }))?,
        policy: network::policy(site, object::OPA, &[("http", PORT)])?,
        deployment: typed(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(object::OPA),
            "spec": {
                "replicas": opa.replicas,
                "revisionHistoryLimit": 1,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": {"matchLabels": selector},
                "template": {"metadata": {"labels": site.owner.labels(object::OPA)}, "spec": pod(site, opa, &name)},
            },
        }))?,
    };
    check(&objects)?;
    Ok(objects)
}

/// Lints what was built.
fn check(objects: &Objects) -> Result<(), Error> {
    let Objects { config, service, budget, policy, deployment } = objects;
    let mut plan = Plan::default();
    plan.secret(object::OPA_SIGNING, &[TOKEN]);
    plan.config_map(config);
    plan.service(service);
    plan.budget(budget);
    plan.policy(policy);
    plan.deployment(deployment);
    check::sound(&plan)
}

fn pod(site: &Site<'_>, opa: &Managed, config: &str) -> Value {
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures,
        })
    };
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(UID),
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [set::spread(site, object::OPA)],
        "containers": [{
            "name": object::OPA,
            "image": opa.image,
            "imagePullPolicy": "IfNotPresent",
            "args": [
                "run", "--server", "--skip-version-check", "--authorization=basic", "--log-level=error",
                format!("--addr=:{PORT}"), format!("--config-file={FOLDER}/{CONFIG}"),
                // After a stop it answers as long as some proxy may still send it something.
                "--shutdown-wait-period=3", "--shutdown-grace-period=10",
                format!("{FOLDER}/{AUTHZ}"),
            ],
            "securityContext": container_security(),
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "resources": opa.resources.json(),
            "startupProbe": probe("/health", 1, 120),
            "livenessProbe": probe("/health", 10, 6),
            "readinessProbe": probe("/health?bundles", 2, 3),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": "config", "mountPath": FOLDER, "readOnly": true},
                {"name": "token", "mountPath": CREDENTIALS, "readOnly": true},
                {"name": "state", "mountPath": STATE},
            ],
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": config}},
            {"name": "token", "secret": {"secretName": object::OPA_SIGNING, "defaultMode": 0o440, "items": [{"key": TOKEN, "path": TOKEN}]}},
            {"name": "state", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    })
}

/// `opa-bundle`: what is served, and what became of what was given.
pub fn bundle_map(site: &Site<'_>, bundle: &Bundle, inputs: &str, refused: &str) -> Result<ConfigMap, Error> {
    let mut map: ConfigMap = typed(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": site.metadata(object::OPA, object::OPA_BUNDLE),
        "data": {REVISION: bundle.revision, INPUTS: inputs, REFUSED: refused},
    }))?;
    map.binary_data = Some([(BYTES.to_owned(), ByteString(bundle.bytes.clone()))].into());
    Ok(map)
}

/// How the services reach a managed OPA.
pub fn connection(site: &Site<'_>) -> Connection {
    let host = site.host(object::OPA);
    Connection { url: format!("http://{host}:{PORT}"), host, port: PORT, token: None }
}

/// `opa-conn`.
pub fn connection_secret(site: &Site<'_>, mode: Mode, opa: &Connection) -> Result<Secret, Error> {
    let Connection { url, host: _, port: _, token } = opa;
    let mode = match mode {
        Mode::Managed => "managed",
        Mode::External => "external",
    };
    let mut data = vec![("mode", mode), ("url", url.as_str()), ("decision", DECISION)];
    data.extend(token.as_deref().map(|token| ("token", token)));
    secret::build(site, object::OPA, object::OPA_CONN, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use crate::infra::opa::validate::{Observed, Opa, validate};

    fn built(spec: &Value) -> Objects {
        let infra = fixture::infra(json!({"opa": {"managed": spec}}));
        let site = Site::new(&infra);
        let Opa::Managed(managed) = validate(&site, &Observed::default()).unwrap() else { panic!() };
        objects(&site, &managed, &Signing::fixed(), "http://soma-operator.soma-system.svc:8082").unwrap()
    }

    /// A new build of the operator must not change the pod template, or it would restart every OPA.
    #[test]
    fn the_pod_template_does_not_change_by_accident() {
        let set = serde_json::to_value(built(&json!({})).deployment).unwrap();
        assert_eq!(ConfigHash::of(&canonical_json(&set["spec"]["template"])).short(), "5c926df1");
    }

    #[test]
    fn no_secret_is_in_the_configuration_and_only_the_token_in_the_pod() {
        let built = built(&json!({"replicas": 3}));
        let config = serde_json::to_string(&built.config).unwrap();
        assert!(config.contains("BEGIN PUBLIC KEY") && !config.contains("PRIVATE"), "{config}");
        let pod = serde_json::to_value(&built.deployment).unwrap()["spec"]["template"]["spec"].clone();
        assert_eq!(pod["volumes"][1]["secret"]["items"], json!([{"key": "token", "path": "token"}]));
        assert_eq!(pod["containers"][0]["command"], Value::Null, "the image has no shell");
    }
}
