//! What the components of the SomaInfra hold for a MemoryNamespace, by the Secret the SomaInfra's reconcile keeps of it.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use soma_crds::{Component, MemoryNamespace, Mode, SomaInfra, SomaStack};

use crate::context::Context;
use crate::error::Error;
use crate::infra::tenants::{HOLDERS, given, is_access, secret_name};

/// Where a tenant's access stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every component gave what the manifest asks for; the Secret, where one of them gives something.
    Given(Option<String>),
    Pending(String),
    /// A Secret of somebody else has the name.
    Taken(String),
}

/// What is read for it.
pub struct Observed {
    /// Components that the SomaInfra runs and that hold something for each tenant.
    holders: Vec<Component>,
    secret: Option<Secret>,
    /// The SomaInfra is there.
    known: bool,
}

pub async fn observe(ctx: &Context, memory: &MemoryNamespace, stack: &SomaStack) -> Result<Observed, Error> {
    let (namespace, name) = crate::stack::infra_of(stack);
    let infra = ctx.get::<SomaInfra>(&namespace, &name).await?;
    let known = infra.is_some();
    let components = infra.and_then(|infra| infra.status).map(|status| status.components).unwrap_or_default();
    let holds =
        |component: &Component| component.mode == Mode::Managed && HOLDERS.contains(&component.name.as_str());
    let holders: Vec<_> = components.into_iter().filter(holds).collect();
    let secret = ctx.get(&memory.namespace().unwrap_or_default(), &secret_name(&memory.name_any())).await?;
    Ok(Observed { holders, secret, known })
}

impl Observed {
    /// Where the access stands.
    pub fn access(&self, memory: &MemoryNamespace) -> Access {
        let secret = secret_name(&memory.name_any());
        if self.holders.is_empty() {
            return Access::Given(None);
        }
        if self.secret.as_ref().is_some_and(|secret| !is_access(secret)) {
            return Access::Taken(secret);
        }
        let given = self.secret.as_ref().map(given).unwrap_or_default();
        let done = |component: &&Component| {
            let generation = given.get(&component.name).map(|given| given.generation);
            generation.is_some() && generation == memory.metadata.generation
        };
        let pending: Vec<_> = self.holders.iter().filter(|component| !done(component)).collect();
        if pending.is_empty() {
            Access::Given(Some(secret))
        } else {
            Access::Pending(waiting("waiting for access to", &pending))
        }
    }

    /// What still holds something of a MemoryNamespace that goes; none when nothing does.
    pub fn left(&self) -> Option<String> {
        let secret = self.secret.as_ref().filter(|secret| self.known && is_access(secret))?;
        let given = given(secret);
        let left: Vec<_> =
            self.holders.iter().filter(|component| given.contains_key(&component.name)).collect();
        Some(if left.is_empty() {
            "its Secret is still there".into()
        } else {
            waiting("it has still to be taken out of", &left)
        })
    }
}

/// Names components, with what each has to say of itself.
fn waiting(what: &str, components: &[&Component]) -> String {
    let one = |component: &&Component| match &component.message {
        Some(message) => format!("{} ({message})", component.name),
        None => component.name.clone(),
    };
    let named: Vec<_> = components.iter().map(one).collect();
    format!("{what} {}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn observed(holders: Value, given: Option<Value>, labelled: bool) -> Observed {
        let labels = if labelled {
            json!({"app.kubernetes.io/name": "access", "app.kubernetes.io/managed-by": "soma-operator"})
        } else {
            json!({})
        };
        let secret = given.map(|given| {
            let metadata = json!({"name": "notes-access", "labels": labels, "annotations": {"somastack.dev/given": given.to_string()}});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        });
        Observed { holders: serde_json::from_value(holders).unwrap(), secret, known: true }
    }

    fn memory() -> MemoryNamespace {
        serde_json::from_value(json!({
            "apiVersion": "somastack.dev/v1alpha1", "kind": "MemoryNamespace",
            "metadata": {"name": "notes", "generation": 2},
            "spec": {"stackRef": {"name": "soma"}, "tenant": "acme"},
        }))
        .unwrap()
    }

    fn kafka() -> Value {
        json!([{"name": "kafka", "mode": "managed", "ready": false, "message": "waiting for broker kafka-0", "members": []}])
    }

    #[test]
    fn access_is_given_when_every_component_gave_what_this_generation_asks_for() {
        let access = |holders, given| observed(holders, given, true).access(&memory());
        assert_eq!(access(json!([]), None), Access::Given(None), "nothing is managed that gives anything");
        let Access::Pending(why) = access(kafka(), None) else { panic!("given by nobody") };
        assert!(why.contains("kafka (waiting for broker kafka-0)"), "{why}");
        let old = json!({"kafka": {"generation": 1, "hash": ""}});
        assert!(matches!(access(kafka(), Some(old)), Access::Pending(_)));
        let now = json!({"kafka": {"generation": 2, "hash": ""}});
        assert_eq!(access(kafka(), Some(now)), Access::Given(Some("notes-access".into())));
        assert_eq!(
            observed(kafka(), Some(json!({})), false).access(&memory()),
            Access::Taken("notes-access".into())
        );
    }

    #[test]
    fn a_deletion_waits_for_the_component_that_still_holds_something() {
        let given = json!({"kafka": {"generation": 2, "hash": ""}});
        let why = observed(kafka(), Some(given.clone()), true).left().unwrap();
        assert!(why.contains("kafka (waiting for broker kafka-0)"), "{why}");
        assert_eq!(observed(kafka(), None, true).left(), None);
        assert_eq!(observed(kafka(), Some(given.clone()), false).left(), None, "not ours");
        let without_infra = Observed { known: false, ..observed(json!([]), Some(given), true) };
        assert_eq!(without_infra.left(), None, "nobody is there to take it out");
    }
}
