//! Who may connect to the components. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use soma_crds::SomaStack;

use super::Site;
use crate::error::Error;
use crate::names::{MANAGED_BY, label, object};
use crate::reconcile::Kind;
use crate::workload::typed;

/// Label the API server gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Components that are clients of another: `(who is asked, whose pods ask)`.
const RELATED: [(&str, &[&str]); 1] = [(object::POSTGRES, &[object::OPENFGA, object::OPENFGA_MIGRATE])];

/// Components whose clients are tenants' own programs.
const FOR_TENANTS: [&str; 2] = [object::KAFKA, object::VAULT];

/// Whom the operator knows to need the components.
#[derive(Clone, Debug, Default)]
pub struct Guests {
    /// Namespace of the operator itself.
    pub operator: String,
    /// Namespaces of the SomaStacks that refer to the SomaInfra.
    pub stacks: BTreeSet<String>,
}

/// Lets in whom a component serves: its own members, the operator, which also speaks what members speak, and the Jobs that
/// back it up, on every port; the pods of the stacks that use it, their tenants' own, components that stand on it and whom the
/// manifest names on `ports`. Everybody else is kept out, where the cluster's network enforces policies.
pub fn policy(site: &Site<'_>, component: &str, ports: &[(&str, u16)]) -> Result<NetworkPolicy, Error> {
    let selector = json!({"matchLabels": site.owner.selector(component)});
    let named = |names: Vec<&String>| json!({"matchExpressions": [{"key": NAMESPACE_NAME, "operator": "In", "values": names}]});
    let operator = json!({"namespaceSelector": named(vec![&site.guests.operator])});
    let backup = json!({"matchLabels": site.owner.selector(&object::backup(component))});
    let mut ingress = vec![json!({"from": [{"podSelector": selector}, operator, {"podSelector": backup}]})];
    let mut clients = Vec::new();
    if !site.guests.stacks.is_empty() {
        clients.push(json!({
            "namespaceSelector": named(site.guests.stacks.iter().collect()),
            "podSelector": {"matchLabels": {label::MANAGED_BY: MANAGED_BY, label::OWNER_KIND: SomaStack::KIND}},
        }));
        if FOR_TENANTS.contains(&component) {
            clients.push(json!({
                "namespaceSelector": named(site.guests.stacks.iter().collect()),
                "podSelector": {"matchExpressions": [{"key": label::MEMORY_NAMESPACE, "operator": "Exists"}]},
            }));
        }
    }
    for (_, asking) in RELATED.iter().filter(|(asked, _)| *asked == component) {
        clients.push(json!({"podSelector": {
            "matchLabels": {label::INSTANCE: site.owner.name},
            "matchExpressions": [{"key": label::NAME, "operator": "In", "values": asking}],
        }}));
    }
    for peer in &site.infra.spec.allow_from {
        let peer = serde_json::to_value(peer);
        clients.push(peer.map_err(|source| Error::Serialise { what: "allowFrom".into(), source })?);
    }
    // A rule without a peer would let everybody in.
    if !clients.is_empty() {
        let ports: Vec<Value> =
            ports.iter().map(|(_, port)| json!({"protocol": "TCP", "port": port})).collect();
        ingress.push(json!({"from": clients, "ports": ports}));
    }
    typed(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": site.metadata(component, component),
        "spec": {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    fn of(spec: Value, stacks: &[&str]) -> Value {
        of_component("redis", spec, stacks)
    }

    fn of_component(component: &str, spec: Value, stacks: &[&str]) -> Value {
        let infra = fixture::infra(spec);
        let stacks = stacks.iter().map(|name| (*name).to_owned()).collect();
        let guests = Guests { operator: "soma-system".into(), stacks };
        let site = Site { guests, ..Site::new(&infra) };
        serde_json::to_value(policy(&site, component, &[("client", 6379)]).unwrap()).unwrap()["spec"].clone()
    }

    #[test]
    fn only_members_and_the_operator_come_in_by_every_port() {
        let spec = of(json!({}), &[]);
        let own = json!({"matchLabels": {"app.kubernetes.io/name": "redis", "app.kubernetes.io/instance": "shared"}});
        assert_eq!(spec["podSelector"], own);
        let all = spec["ingress"].as_array().unwrap();
        assert_eq!(all.len(), 1, "a rule without a peer lets everybody in: {all:?}");
        assert_eq!(all[0]["from"][0], json!({"podSelector": own}));
        assert_eq!(
            all[0]["from"][1]["namespaceSelector"]["matchExpressions"][0]["values"],
            json!(["soma-system"])
        );
        assert_eq!(all[0]["from"][2]["podSelector"]["matchLabels"]["app.kubernetes.io/name"], "redis-backup");
        assert!(all[0]["ports"].is_null());
    }

    #[test]
    fn the_stacks_and_whom_the_manifest_names_come_in_by_the_port_of_clients() {
        let friend = json!({"podSelector": {"matchLabels": {"app": "psql"}}});
        let rule = &of(json!({"allowFrom": [friend]}), &["b", "a"])["ingress"][1];
        assert_eq!(rule["ports"], json!([{"protocol": "TCP", "port": 6379}]));
        let stacks = &rule["from"][0];
        assert_eq!(stacks["namespaceSelector"]["matchExpressions"][0]["values"], json!(["a", "b"]));
        assert_eq!(stacks["podSelector"]["matchLabels"]["somastack.dev/owner-kind"], "SomaStack");
        assert_eq!(rule["from"][1], friend);
        let tenants = &of_component("kafka", json!({}), &["a"])["ingress"][1]["from"][1]["podSelector"];
        assert_eq!(tenants["matchExpressions"][0]["key"], "somastack.dev/memory-namespace");
    }

    #[test]
    fn what_stands_on_postgres_comes_in_by_the_port_of_clients() {
        let rule = &of_component("postgres", json!({}), &[])["ingress"][1];
        assert_eq!(rule["ports"], json!([{"protocol": "TCP", "port": 6379}]));
        let asking = &rule["from"][0];
        assert!(asking["namespaceSelector"].is_null(), "only in the same namespace");
        assert_eq!(asking["podSelector"]["matchLabels"], json!({"app.kubernetes.io/instance": "shared"}));
        let names = &asking["podSelector"]["matchExpressions"][0]["values"];
        assert_eq!(*names, json!(["openfga", "openfga-migrate"]));
    }
}
