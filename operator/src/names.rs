//! Names, labels, reasons: everything another part of the cluster may rely on, in one place.

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

/// Value of `app.kubernetes.io/managed-by` on every object the operator makes.
pub const MANAGED_BY: &str = "soma-operator";
/// Name of the release the operator belongs to; images default to this tag.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Label keys.
pub mod label {
    pub const NAME: &str = "app.kubernetes.io/name";
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    pub const OWNER_KIND: &str = "somastack.dev/owner-kind";
    pub const OWNER_NAMESPACE: &str = "somastack.dev/owner-namespace";
    /// Content-addressed revision a pod belongs to, such as `memory-1a2b3c4d`.
    pub const REVISION: &str = "somastack.dev/revision";
    /// Hash of the configuration a pod mounts.
    pub const CONFIG_HASH: &str = "somastack.dev/config-hash";
    /// The same hash under the short name dashboards use.
    pub const CONFIG_HASH_SHORT: &str = "configHash";
    /// Role of a Service: `alias` for a short name in another namespace.
    pub const ROLE: &str = "somastack.dev/role";
}

/// Annotation that holds the hash of what was last applied, so that a field removed from the intent is noticed.
pub const APPLIED: &str = "somastack.dev/applied";
/// Annotation by which the owner of a SomaInfra lets an empty Vault, whose key is lost, be made anew; its value is the
/// name of the SomaInfra.
pub const WIPE_VAULT: &str = "somastack.dev/wipe-vault";
/// Finalizer on all three kinds.
pub const FINALIZER: &str = "somastack.dev/finalizer";

/// Field managers of server-side apply. Renaming one would orphan every field it owns.
pub mod manager {
    pub const INFRA: &str = "somastack.dev/infra";
    pub const STACK: &str = "somastack.dev/stack";
    pub const NAMESPACE: &str = "somastack.dev/memorynamespace";
}

/// Names of objects.
pub mod object {
    pub const POSTGRES: &str = "postgres";
    pub const POSTGRES_SECRET: &str = "postgres-superuser";
    pub const POSTGRES_CONN: &str = "postgres-conn";
    /// Where OpenFGA finds its own database in a managed Postgres.
    pub const POSTGRES_OPENFGA: &str = "postgres-user-openfga";
    pub const VAULT: &str = "vault";
    pub const VAULT_UNSEAL: &str = "vault-unseal";
    pub const VAULT_CONN: &str = "vault-conn";
    pub const KAFKA: &str = "kafka";
    pub const KAFKA_CLUSTER: &str = "kafka-cluster";
    pub const KAFKA_CONN: &str = "kafka-conn";
    pub const ETCD: &str = "etcd";
    pub const ETCD_CLUSTER: &str = "etcd-cluster";
    pub const ETCD_CONN: &str = "etcd-conn";
    pub const REDIS: &str = "redis";
    pub const REDIS_USERS: &str = "redis-users";
    pub const REDIS_CONN: &str = "redis-conn";
    pub const OPENFGA: &str = "openfga";
    pub const OPENFGA_MIGRATE: &str = "openfga-migrate";
    pub const OPENFGA_STORE: &str = "openfga-store";
    pub const OPENFGA_CONN: &str = "openfga-conn";
    /// Secrets without which volumes cannot be used; people restore them from backups.
    pub const KEPT: [&str; 6] =
        [POSTGRES_SECRET, VAULT_UNSEAL, KAFKA_CLUSTER, ETCD_CLUSTER, REDIS_USERS, OPENFGA_STORE];
    pub const MEMORY: &str = "memory";
    pub const API_TOKEN: &str = "soma-api-token";
    pub const API_TOKEN_KEY: &str = "SOMA_API_TOKEN";
    /// Database and role of the memory service.
    pub const MEMORY_DATABASE: &str = "somamemory";
}

/// Reasons that are not the name of an error's variant.
pub mod reason {
    pub const READY: &str = "Ready";
    pub const AS_EXPECTED: &str = "AsExpected";
    pub const SETTLED: &str = "Settled";
    pub const SERVING: &str = "Serving";
    pub const NOT_SERVING: &str = "NotServing";
    pub const STARTING: &str = "Starting";
    pub const ROLLING_OUT: &str = "RollingOut";
    pub const REVISION_SERVES: &str = "RevisionServes";
    pub const POD_ROLLED: &str = "PodRolled";
    pub const VOLUME_GROWS: &str = "VolumeGrows";
    pub const DEFRAGMENTED: &str = "Defragmented";
    pub const MEMBER_CHANGED: &str = "MemberChanged";
    pub const MODEL_ADDED: &str = "ModelAdded";
    pub const DRIFT_REPAIRED: &str = "DriftRepaired";
    pub const DATA_KEPT: &str = "DataKept";
    pub const DATA_DELETED: &str = "DataDeleted";
    pub const IN_USE: &str = "InUse";
    pub const TERMINATING: &str = "Terminating";
}

/// Who an object is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
}

impl Owner {
    /// Labels of an object made for this owner; `component` says which part of it.
    pub fn labels(&self, component: &str) -> BTreeMap<String, String> {
        let mut labels = self.selector(component);
        labels.insert(label::MANAGED_BY.into(), MANAGED_BY.into());
        labels.insert(label::OWNER_KIND.into(), self.kind.into());
        labels.insert(label::OWNER_NAMESPACE.into(), self.namespace.clone());
        labels
    }

    /// The labels that select the pods of a component. They never change, because selectors cannot.
    pub fn selector(&self, component: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(label::NAME.into(), component.into()), (label::INSTANCE.into(), self.name.clone())])
    }
}

/// Selects the objects made for a kind, for watches.
pub fn children_of(kind: &str) -> String {
    format!("{}={MANAGED_BY},{}={kind}", label::MANAGED_BY, label::OWNER_KIND)
}

/// The object a child was made for, by its labels. Labels rather than owner references, because a Secret that
/// outlives its owner and an alias in another namespace have none.
pub fn owner_of<C, K>(child: &C) -> Option<ObjectRef<K>>
where
    C: Resource,
    K: Resource<DynamicType = ()>,
{
    let labels = child.labels();
    let name = labels.get(label::INSTANCE)?;
    let namespace = labels.get(label::OWNER_NAMESPACE)?;
    Some(ObjectRef::new(name).within(namespace))
}

/// `key=value,…` of labels, as a selector.
pub fn selector_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn a_child_names_its_owner() {
        let owner = Owner { kind: "SomaInfra", namespace: "infra".into(), name: "shared".into() };
        let mut pod = Pod::default();
        assert!(owner_of::<_, Pod>(&pod).is_none());
        pod.metadata.labels = Some(owner.labels("postgres"));
        assert_eq!(owner_of::<_, Pod>(&pod), Some(ObjectRef::new("shared").within("infra")));
    }
}
