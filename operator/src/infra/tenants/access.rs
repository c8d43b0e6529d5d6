//! The Secret `<name>-access` beside a MemoryNamespace: how its owner's programs reach what the components gave it.

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use soma_crds::{MemoryNamespace, SomaInfra};

use super::{Grant, Provided, Tenant, Tenants};
use crate::apply::Writer;
use crate::error::{Error, chain};
use crate::infra::Site;
use crate::names::{MANAGED_BY, label};
use crate::reconcile::Kind;
use crate::workload::typed;

/// Value of the label that tells these Secrets from others.
const ACCESS: &str = "access";
/// Annotation that says what each component gave.
const GIVEN: &str = "somastack.dev/given";
/// Writes that run at a time.
const CONCURRENCY: usize = 8;
/// Label selector of all of these Secrets.
pub const LABELS: &str = "app.kubernetes.io/name=access,app.kubernetes.io/managed-by=soma-operator";

/// What a component gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Generation of the manifest that asked for it.
    pub generation: i64,
    /// [`Grant::hash`].
    pub hash: String,
}

type Givens = BTreeMap<String, Given>;

/// Name of the Secret of a MemoryNamespace.
pub fn secret_name(memory: &str) -> String {
    format!("{memory}-{ACCESS}")
}

/// Selects the Secrets made for the tenants of a SomaInfra.
pub fn selector(infra: &SomaInfra) -> String {
    let (name, namespace) = (infra.name_any(), infra.namespace().unwrap_or_default());
    let (instance, owner) = (label::INSTANCE, label::OWNER_NAMESPACE);
    format!("{LABELS},{instance}={name},{owner}={namespace}")
}

/// Whether a Secret is one of these, and not somebody's that has the same name.
pub fn is_access(secret: &Secret) -> bool {
    let labelled = |key: &str, value: &str| secret.labels().get(key).is_some_and(|found| found == value);
    labelled(label::NAME, ACCESS) && labelled(label::MANAGED_BY, MANAGED_BY)
}

/// What each component gave, by its name.
pub fn given(secret: &Secret) -> Givens {
    let text = secret.annotations().get(GIVEN);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What the Secret of a tenant shall be; none when nobody holds anything for it. A component of which nothing is known now
/// counts as before.
fn next(
    site: &Site<'_>,
    tenant: &Tenant,
    holders: &[(&'static str, Option<Provided>)],
) -> Result<Option<Secret>, Error> {
    let (mut givens, mut data) = (Givens::new(), BTreeMap::new());
    let external = tenant.external();
    for (component, provided) in holders {
        if let Some(provided) = provided {
            let Some(Grant { hash, data: more }) = provided.get(&external) else { continue };
            let now = Given { generation: tenant.generation, hash: hash.clone() };
            givens.insert((*component).into(), now);
            let bytes = |text: &String| ByteString(text.as_bytes().to_vec());
            data.extend(more.iter().map(|(key, value)| ((*key).to_owned(), bytes(value))));
        } else if let Some(before) = tenant.given(component) {
            givens.insert((*component).into(), before);
            let prefix = format!("{}_", component.to_uppercase());
            let old = tenant.secret.iter().filter_map(|secret| secret.data.clone()).flatten();
            data.extend(old.filter(|(key, _)| key.starts_with(&prefix)));
        }
    }
    if givens.is_empty() {
        return Ok(None);
    }
    let mut labels = site.owner.labels(ACCESS);
    labels.insert(label::MEMORY_NAMESPACE.into(), tenant.name.clone());
    let told = serde_json::to_string(&givens);
    let told = told.map_err(|source| Error::Serialise { what: GIVEN.into(), source })?;
    let mut secret: Secret = typed(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": secret_name(&tenant.name), "namespace": tenant.namespace, "labels": labels,
            "annotations": {GIVEN: told},
            // It goes with the MemoryNamespace even when that is torn out of the operator's hands.
            "ownerReferences": [{
                "apiVersion": MemoryNamespace::api_version(&()), "kind": MemoryNamespace::KIND,
                "name": tenant.name, "uid": tenant.uid,
            }],
        },
    }))?;
    secret.data = Some(data);
    Ok(Some(secret))
}

/// Writes down what was given and taken back. An object that is as it shall be costs nothing. Returns what was refused, by
/// tenant: a quota or a policy of one namespace concerns nobody else.
pub async fn record<'a>(
    writer: &Writer,
    site: &Site<'_>,
    tenants: &'a Tenants,
    holders: &[(&'static str, Option<Provided>)],
) -> Vec<(&'a Tenant, Error)> {
    let write = |tenant: &'a Tenant| {
        let wanted = next(site, tenant, holders);
        async move {
            let done = match (wanted, &tenant.secret) {
                (Err(error), _) => Err(error),
                (Ok(None), None) => Ok(()),
                (Ok(None), Some(secret)) => writer.delete(secret, DeleteParams::default()).await,
                (Ok(Some(wanted)), Some(secret)) if same(&wanted, secret) => Ok(()),
                (Ok(Some(wanted)), Some(_)) => writer.apply(&wanted).await.map(drop),
                // Somebody may have one of this name: it is not touched, and the MemoryNamespace says so.
                (Ok(Some(wanted)), None) => writer.create_once(&wanted).await.map(drop),
            };
            done.err().map(|error| (tenant, error))
        }
        .boxed()
    };
    let written: Vec<_> = tenants.all.iter().map(write).collect();
    let refused: Vec<_> = stream::iter(written).buffer_unordered(CONCURRENCY).collect().await;
    if holders.iter().all(|(_, provided)| provided.is_some()) {
        for stray in &tenants.strays {
            // What was given is taken back; the rest of it is no loss, and is tried again.
            if let Err(error) = writer.delete(stray, DeleteParams::default()).await {
                tracing::warn!(error = chain(&error), "a Secret of a MemoryNamespace that is gone stays");
            }
        }
    }
    refused.into_iter().flatten().collect()
}

fn same(wanted: &Secret, found: &Secret) -> bool {
    wanted.data == found.data && given(wanted) == given(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use crate::names::object;

    fn grant(hash: &str, key: &'static str) -> Grant {
        Grant { hash: hash.into(), data: [(key, "value".to_owned())].into() }
    }

    fn made(tenant: &Tenant, holders: &[(&'static str, Option<Provided>)]) -> Option<Secret> {
        let infra = fixture::managed();
        next(&Site::new(&infra), tenant, holders).unwrap()
    }

    #[test]
    fn what_a_component_says_is_written_down_and_what_is_unknown_stays() {
        let mut tenant = fixture::tenant("soma", "notes", json!({}));
        let both = [
            (object::KAFKA, Some([(tenant.external(), grant("k", "KAFKA_PREFIX"))].into())),
            (object::VAULT, Some([(tenant.external(), grant("v", "VAULT_ROLE"))].into())),
        ];
        let first = made(&tenant, &both).unwrap();
        assert_eq!(first.name_any(), "notes-access");
        assert!(is_access(&first));
        assert_eq!(given(&first).keys().collect::<Vec<_>>(), ["kafka", "vault"]);
        tenant.secret = Some(first.clone());
        tenant.generation = 2;
        // Kafka does not answer, and Vault gives something else.
        let later = [
            (object::KAFKA, None),
            (object::VAULT, Some([(tenant.external(), grant("w", "VAULT_ROLE"))].into())),
        ];
        let second = made(&tenant, &later).unwrap();
        assert!(!same(&second, &first));
        assert_eq!(second.data, first.data);
        let told = given(&second);
        assert_eq!((told["kafka"].generation, told["vault"].generation), (1, 2));
        assert_eq!((told["kafka"].hash.as_str(), told["vault"].hash.as_str()), ("k", "w"));
    }

    #[test]
    fn the_secret_goes_when_nobody_holds_anything_and_not_before() {
        let mut tenant = fixture::tenant("soma", "notes", json!({}));
        let nothing = Some(Provided::new());
        assert_eq!(
            made(&tenant, &[(object::KAFKA, nothing.clone()), (object::VAULT, None)]),
            None,
            "nothing was given"
        );
        let given_by_both = [
            (object::KAFKA, Some([(tenant.external(), grant("k", "KAFKA_PREFIX"))].into())),
            (object::VAULT, Some([(tenant.external(), grant("v", "VAULT_ROLE"))].into())),
        ];
        tenant.secret = made(&tenant, &given_by_both);
        tenant.leaving = true;
        let kafka_is_down = [(object::KAFKA, None), (object::VAULT, nothing.clone())];
        let left = made(&tenant, &kafka_is_down).unwrap();
        assert_eq!(given(&left).keys().collect::<Vec<_>>(), ["kafka"]);
        assert_eq!(left.data.unwrap().len(), 1);
        assert_eq!(made(&tenant, &[(object::KAFKA, nothing.clone()), (object::VAULT, nothing)]), None);
    }
}
