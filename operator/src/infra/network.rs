//! Who may connect to the components. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use soma_crds::SomaStack;

use super::Site;
use crate::error::Error;
use crate::names::{MANAGED_BY, label};
use crate::reconcile::Kind;
use crate::workload::typed;

/// Label the API server gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Whom the operator knows to need the components.
#[derive(Clone, Debug, Default)]
pub struct Guests {
    /// Namespace of the operator itself.
    pub operator: String,
    /// Namespaces of the SomaStacks that refer to the SomaInfra.
    pub stacks: BTreeSet<String>,
}

/// Lets in what a component serves: its own members on every port; the operator, the pods of the stacks that use it and
/// whom the manifest names on `ports`. Everybody else is kept out, where the cluster's network enforces policies.
pub fn policy(site: &Site<'_>, component: &str, ports: &[(&str, u16)]) -> Result<NetworkPolicy, Error> {
    let selector = json!({"matchLabels": site.owner.selector(component)});
    let named = |names: Vec<&String>| json!({"matchExpressions": [{"key": NAMESPACE_NAME, "operator": "In", "values": names}]});
    let mut from = vec![json!({"namespaceSelector": named(vec![&site.guests.operator])})];
    if !site.guests.stacks.is_empty() {
        from.push(json!({
            "namespaceSelector": named(site.guests.stacks.iter().collect()),
            "podSelector": {"matchLabels": {label::MANAGED_BY: MANAGED_BY, label::OWNER_KIND: SomaStack::KIND}},
        }));
    }
    for peer in &site.infra.spec.allow_from {
        from.push(
            serde_json::to_value(peer)
                .map_err(|source| Error::Serialise { what: "allowFrom".into(), source })?,
        );
    }
    let ports: Vec<Value> = ports.iter().map(|(_, port)| json!({"protocol": "TCP", "port": port})).collect();
    typed(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": site.metadata(component, component),
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": selector}]}, {"from": from, "ports": ports}],
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    fn of(spec: Value, stacks: &[&str]) -> Value {
        let infra = fixture::infra(spec);
        let stacks = stacks.iter().map(|name| (*name).to_owned()).collect();
        let guests = Guests { operator: "soma-system".into(), stacks };
        let site = Site { guests, ..Site::new(&infra) };
        serde_json::to_value(policy(&site, "redis", &[("client", 6379)]).unwrap()).unwrap()["spec"].clone()
    }

    #[test]
    fn only_members_come_in_by_every_port() {
        let spec = of(json!({}), &[]);
        let own = json!({"matchLabels": {"app.kubernetes.io/name": "redis", "app.kubernetes.io/instance": "shared"}});
        assert_eq!(spec["podSelector"], own);
        assert_eq!(spec["ingress"][0], json!({"from": [{"podSelector": own}]}));
        assert_eq!(spec["ingress"][1]["ports"], json!([{"protocol": "TCP", "port": 6379}]));
        assert_eq!(spec["ingress"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_operator_the_stacks_and_whom_the_manifest_names_come_in() {
        let friend = json!({"podSelector": {"matchLabels": {"app": "psql"}}});
        let spec = of(json!({"allowFrom": [friend]}), &["b", "a"]);
        let from = spec["ingress"][1]["from"].as_array().unwrap();
        let names: Vec<_> = from
            .iter()
            .map(|peer| peer["namespaceSelector"]["matchExpressions"][0]["values"].clone())
            .collect();
        assert_eq!(names, [json!(["soma-system"]), json!(["a", "b"]), Value::Null]);
        assert_eq!(from[1]["podSelector"]["matchLabels"]["somastack.dev/owner-kind"], "SomaStack");
        assert_eq!(from[2], friend);
        assert_eq!(of(json!({}), &[])["ingress"][1]["from"].as_array().unwrap().len(), 1);
    }
}
