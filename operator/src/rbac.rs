//! The rights of the operator, each with its reason. `config/rbac/role.yaml` is printed from this table.

/// One rule of a role.
struct Rule {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    /// Only objects of these names; any when empty.
    names: &'static [&'static str],
    /// What breaks without it.
    reason: &'static str,
}

const READ: &[&str] = &["get", "list", "watch"];
const OWN: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// In every namespace: SomaInfra and SomaStack may be in any.
const CLUSTER: &[Rule] = &[
    Rule {
        groups: &["apiextensions.k8s.io"],
        resources: &["customresourcedefinitions"],
        verbs: READ,
        names: &[],
        reason: "Waits until the three kinds are installed before it becomes ready.",
    },
    Rule {
        groups: &["somastack.dev"],
        resources: &["somainfras", "somastacks", "memorynamespaces"],
        verbs: &["get", "list", "watch", "patch"],
        names: &[],
        reason: "Reads the manifests; patch sets and removes the finalizer.",
    },
    Rule {
        groups: &["somastack.dev"],
        resources: &["somainfras/status", "somastacks/status", "memorynamespaces/status"],
        verbs: &["patch"],
        names: &[],
        reason: "Writes what it found into the status.",
    },
    Rule {
        groups: &["somastack.dev"],
        resources: &["somainfras/finalizers", "somastacks/finalizers"],
        verbs: &["update"],
        names: &[],
        reason: "Children refer to their owner and block its deletion; some clusters check this right for it.",
    },
    Rule {
        groups: &["apps"],
        resources: &["deployments", "statefulsets"],
        verbs: OWN,
        names: &[],
        reason: "The memory service is a Deployment per revision, OPA and OpenFGA one each, Postgres a StatefulSet; delete collects old revisions and lets a volume grow.",
    },
    Rule {
        groups: &[""],
        resources: &["services", "configmaps"],
        verbs: OWN,
        names: &[],
        reason: "Services and aliases, one immutable ConfigMap per configuration, and the policies, those of tenants among them; delete collects what nothing uses.",
    },
    Rule {
        groups: &[""],
        resources: &["secrets"],
        verbs: OWN,
        names: &[],
        reason: "Makes passwords, the API token and connection Secrets, and reads the Secret of an external Postgres, which may have any name.",
    },
    Rule {
        groups: &["policy"],
        resources: &["poddisruptionbudgets"],
        verbs: OWN,
        names: &[],
        reason: "Bounds how many pods a node drain may take; deleted when one pod is left.",
    },
    Rule {
        groups: &["networking.k8s.io"],
        resources: &["networkpolicies"],
        verbs: OWN,
        names: &[],
        reason: "Keeps strangers out of the components; deleted with the component.",
    },
    Rule {
        groups: &[""],
        resources: &["pods"],
        verbs: &["get", "list", "watch", "delete"],
        names: &[],
        reason: "Says why a pod does not start; deletes the Postgres pod to roll it.",
    },
    Rule {
        groups: &[""],
        resources: &["persistentvolumeclaims"],
        verbs: OWN,
        names: &[],
        reason: "Never makes a password while a volume exists, lets it grow, and deletes it under deletionPolicy Delete; makes the volume for backups.",
    },
    Rule {
        groups: &["batch"],
        resources: &["cronjobs", "jobs"],
        verbs: OWN,
        names: &[],
        reason: "Backups are taken by CronJobs and restored by a Job; another migrates the database of OpenFGA before its pods start.",
    },
    Rule {
        groups: &[""],
        resources: &["namespaces"],
        verbs: READ,
        names: &[],
        reason: "Makes an alias once its namespace exists.",
    },
    Rule {
        groups: &[""],
        resources: &["serviceaccounts"],
        verbs: &["get", "create", "patch"],
        names: &[],
        reason: "Vault runs as an account of its own.",
    },
    Rule {
        groups: &["rbac.authorization.k8s.io"],
        resources: &["clusterrolebindings"],
        verbs: &["get", "create", "patch", "delete"],
        names: &[],
        reason: "Lets Vault ask the API server whose token it was given; that right is given for the whole cluster.",
    },
    Rule {
        groups: &["rbac.authorization.k8s.io"],
        resources: &["clusterroles"],
        verbs: &["bind"],
        names: &["system:auth-delegator"],
        reason: "The only role it may bind.",
    },
    Rule {
        groups: &["events.k8s.io"],
        resources: &["events"],
        verbs: &["create", "patch"],
        names: &[],
        reason: "Tells the owner of an object what happened to it; patch counts repetitions.",
    },
];

/// In the operator's own namespace.
const OWN_NAMESPACE: &[Rule] = &[
    Rule {
        groups: &["coordination.k8s.io"],
        resources: &["leases"],
        verbs: &["get", "create", "update"],
        names: &[],
        reason: "Only the holder of the lease writes.",
    },
    Rule {
        groups: &[""],
        resources: &["serviceaccounts/token"],
        verbs: &["create"],
        names: &["soma-operator"],
        reason: "Proves to Vault who it is.",
    },
];

/// Both roles as YAML.
pub fn manifests() -> String {
    let mut out = String::from("# Generated by `cargo run -p soma-operator -- rbac`; do not edit.\n");
    out.push_str(&role("ClusterRole", "", CLUSTER));
    out.push_str("---\n");
    out.push_str(&role("Role", "  namespace: soma-system\n", OWN_NAMESPACE));
    out
}

fn role(kind: &str, namespace: &str, rules: &[Rule]) -> String {
    let head = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: soma-operator\n{namespace}rules:\n"
    );
    rules.iter().fold(head, |out, rule| out + &rule_yaml(rule))
}

fn rule_yaml(rule: &Rule) -> String {
    let list = |items: &[&str]| items.iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
    let names = if rule.names.is_empty() {
        String::new()
    } else {
        format!("    resourceNames: [{}]\n", list(rule.names))
    };
    format!(
        "  # {}\n  - apiGroups: [{}]\n    resources: [{}]\n{names}    verbs: [{}]\n",
        rule.reason,
        list(rule.groups),
        list(rule.resources),
        list(rule.verbs),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_roles_are_the_table() {
        let installed = include_str!("../../config/rbac/role.yaml");
        assert!(installed == manifests(), "run: cargo run -p soma-operator -- rbac > config/rbac/role.yaml");
    }

    #[test]
    fn no_rule_grants_everything() {
        for rule in CLUSTER.iter().chain(OWN_NAMESPACE) {
            assert!(!rule.reason.is_empty());
            for list in [rule.groups, rule.resources, rule.verbs] {
                assert!(!list.contains(&"*") && !list.is_empty());
            }
        }
    }
}
