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
    /// Name of the MemoryNamespace a Secret, or a pod that acts for the tenant, belongs to.
    pub const MEMORY_NAMESPACE: &str = "somastack.dev/memory-namespace";
    /// On a ConfigMap with policies of tenants; the label kube-mgmt knows, with the value `rego`.
    pub const POLICY: &str = "openpolicyagent.org/policy";
    /// On a ConfigMap with data about tenants; the label kube-mgmt knows, with the value `opa`.
    pub const POLICY_DATA: &str = "openpolicyagent.org/data";
}

/// Annotation that holds the hash of what was last applied, so that a field removed from the intent is noticed.
pub const APPLIED: &str = "somastack.dev/applied";
/// Annotation by which the owner of a SomaInfra lets an empty Vault, whose key is lost, be made anew; its value is the
/// name of the SomaInfra.
pub const WIPE_VAULT: &str = "somastack.dev/wipe-vault";
/// Annotation by which the owner of a SomaInfra asks for a backup of Postgres to be restored into a new volume; its value
/// is the backup's name.
pub const RESTORE_POSTGRES: &str = "somastack.dev/restore-postgres";
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
    pub const OPA: &str = "opa";
    pub const OPA_SIGNING: &str = "opa-signing";
    pub const OPA_BUNDLE: &str = "opa-bundle";
    pub const OPA_CONN: &str = "opa-conn";
    pub const OPENFGA: &str = "openfga";
    pub const OPENFGA_MIGRATE: &str = "openfga-migrate";
    pub const OPENFGA_STORE: &str = "openfga-store";
    pub const OPENFGA_CONN: &str = "openfga-conn";
    /// Secrets without which volumes cannot be used; people restore them from backups.
    pub const KEPT: [&str; 7] =
        [POSTGRES_SECRET, VAULT_UNSEAL, KAFKA_CLUSTER, ETCD_CLUSTER, REDIS_USERS, OPA_SIGNING, OPENFGA_STORE];
    /// Name of the CronJob of a component's backups, and of the claim they are kept on.
    pub fn backup(component: &str) -> String {
        format!("{component}-backup")
    }
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
    pub const POLICY_PUBLISHED: &str = "PolicyPublished";
    pub const POLICY_REFUSED: &str = "PolicyRefused";
    pub const MODEL_ADDED: &str = "ModelAdded";
    pub const DRIFT_REPAIRED: &str = "DriftRepaired";
    pub const DATA_KEPT: &str = "DataKept";
    pub const DATA_DELETED: &str = "DataDeleted";
    pub const RESTORED: &str = "Restored";
    pub const IN_USE: &str = "InUse";
    pub const TERMINATING: &str = "Terminating";
    pub const AWAITING_ACCESS: &str = "AwaitingAccess";
    pub const SECRET_TAKEN: &str = "SecretTaken";
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
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    /// Every file below a folder.
    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| {
                if path.is_dir() { files(&path) } else { fs::read_to_string(&path).into_iter().collect() }
            })
            .collect()
    }

    /// What conditions and events call a cause, as the code writes it: constants, variants of errors, literals.
    fn reasons() -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for text in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let mut in_reason = false;
            for line in code.lines() {
                in_reason = (in_reason || line.contains("fn reason(")) && line != "    }";
                let arm = in_reason.then_some("=> \"");
                let constant = line.trim().starts_with("pub const").then_some("= \"");
                let names = ["reason: \"", "unreachable: \""].into_iter().chain(arm).chain(constant);
                for name in names.filter_map(|before| line.split(before).nth(1)?.split('"').next()) {
                    let is_one = name.len() > 3
                        && name.starts_with(|c: char| c.is_ascii_uppercase())
                        && name.chars().all(|c| c.is_ascii_alphanumeric())
                        && name.chars().any(|c| c.is_ascii_lowercase());
                    if is_one {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_reason_is_explained() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let pages: Vec<_> = ["operating.md", "components"]
            .into_iter()
            .flat_map(|name| {
                let path = docs.join(name);
                if path.is_dir() { files(&path) } else { vec![fs::read_to_string(path).unwrap()] }
            })
            .collect();
        let all = reasons();
        assert!(
            all.contains("QuorumLost") && all.contains("SecretMissing") && all.contains("VolumeGrows"),
            "{all:?}"
        );
        let missing: Vec<_> = all
            .iter()
            .filter(|reason| !pages.iter().any(|page| page.contains(&format!("`{reason}`"))))
            .collect();
        assert!(missing.is_empty(), "docs/operating.md and docs/components say nothing of {missing:?}");
    }

    #[test]
    fn a_child_names_its_owner() {
        let owner = Owner { kind: "SomaInfra", namespace: "infra".into(), name: "shared".into() };
        let mut pod = Pod::default();
        assert!(owner_of::<_, Pod>(&pod).is_none());
        pod.metadata.labels = Some(owner.labels("postgres"));
        assert_eq!(owner_of::<_, Pod>(&pod), Some(ObjectRef::new("shared").within("infra")));
    }
}
