//! What the pods of all components have in common: resources, restricted security, JSON to typed objects. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::drift;
use crate::error::Error;

/// CPU and memory of a container, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}

/// Resources a pod cannot be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResourcesError {
    #[error("claims are not supported; remove them")]
    Claims,
    #[error("the request for {0} is larger than its limit; raise the limit or lower the request")]
    RequestOverLimit(String),
}

impl Resources {
    /// A CPU request, a memory request and a memory limit. No CPU limit: it would only add latency.
    pub fn of(cpu: &str, memory: &str, memory_limit: &str) -> Self {
        Self {
            requests: BTreeMap::from([("cpu".into(), cpu.into()), ("memory".into(), memory.into())]),
            limits: BTreeMap::from([("memory".into(), memory_limit.into())]),
        }
    }

    /// As a container's `resources`.
    pub fn json(&self) -> Value {
        json!({"requests": self.requests, "limits": self.limits})
    }
}

/// What the manifest gives over the defaults, key by key.
pub fn resources(
    given: Option<&ResourceRequirements>,
    defaults: &Resources,
) -> Result<Resources, ResourcesError> {
    let mut merged = defaults.clone();
    let Some(given) = given else { return Ok(merged) };
    if given.claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Err(ResourcesError::Claims);
    }
    let text = |map: &Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        map.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect::<BTreeMap<_, _>>()
    };
    let (requests, limits) = (text(&given.requests), text(&given.limits));
    // A request alone raises the default limit with it, and a limit alone lowers the default request.
    for (key, request) in &requests {
        if !limits.contains_key(key) && over(request, merged.limits.get(key)) {
            merged.limits.insert(key.clone(), request.clone());
        }
    }
    for (key, limit) in &limits {
        if !requests.contains_key(key) && merged.requests.get(key).is_some_and(|r| over(r, Some(limit))) {
            merged.requests.insert(key.clone(), limit.clone());
        }
    }
    merged.requests.extend(requests);
    merged.limits.extend(limits);
    match merged.requests.iter().find(|(key, request)| over(request, merged.limits.get(*key))) {
        Some((key, _)) => Err(ResourcesError::RequestOverLimit(key.clone())),
        None => Ok(merged),
    }
}

fn over(request: &str, limit: Option<&String>) -> bool {
    match (drift::amount(request), limit.and_then(|l| drift::amount(l))) {
        (Some(request), Some(limit)) => request > limit,
        _ => false,
    }
}

/// Pod security that meets the `restricted` standard.
pub fn pod_security(uid: i64) -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": uid,
        "runAsGroup": uid,
        "fsGroup": uid,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Container security that meets the `restricted` standard.
pub fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// A typed object from JSON that reads like its manifest. A field the type does not know would be lost on the way,
/// so the result must still hold everything that was given.
pub fn typed<K: DeserializeOwned + Serialize>(value: &Value) -> Result<K, Error> {
    let what = || {
        format!(
            "{} {}",
            value["kind"].as_str().unwrap_or("?"),
            value["metadata"]["name"].as_str().unwrap_or("?")
        )
    };
    let serialise = |source| Error::Serialise { what: what(), source };
    let object: K = serde_json::from_value(value.clone()).map_err(serialise)?;
    let back = serde_json::to_value(&object).map_err(serialise)?;
    if drift::covers(value, &back) {
        Ok(object)
    } else {
        Err(Error::UnsoundPlan(format!("{} has a field its kind does not know", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    fn given(value: Value) -> ResourceRequirements {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_manifest_wins_over_the_defaults() {
        let defaults = Resources::of("100m", "256Mi", "512Mi");
        let all = resources(
            Some(&given(json!({"limits": {"cpu": "2"}, "requests": {"memory": "1Gi"}}))),
            &defaults,
        )
        .unwrap();
        assert_eq!(
            all.json(),
            json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}})
        );
        let low = resources(Some(&given(json!({"limits": {"memory": "128Mi"}}))), &defaults).unwrap();
        assert_eq!(low.requests["memory"], "128Mi");
    }

    #[test]
    fn a_request_over_its_limit_is_refused_by_name() {
        let wrong = given(json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}));
        let error = resources(Some(&wrong), &Resources::of("1", "1Gi", "1Gi")).unwrap_err();
        assert_eq!(error, ResourcesError::RequestOverLimit("memory".into()));
    }

    #[test]
    fn a_field_the_kind_does_not_know_is_refused() {
        let good = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "ClusterIP"}});
        assert!(typed::<Service>(&good).is_ok());
        let bad = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"typo": "ClusterIP"}});
        assert!(typed::<Service>(&bad).is_err());
    }
}
