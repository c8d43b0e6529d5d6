//! What OpenFGA holds for each tenant: whose the MemoryNamespace is. Who of the tenant may do what there is the services' to
//! write.

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};
use soma_settings::{ConfigHash, canonical_json};

use super::client::{Client, ClientError};
use crate::infra::Site;
use crate::infra::tenants::{Grant, Provided, Tenant};
use crate::names::{label, object};

/// Tuples OpenFGA takes at once.
const BATCH: usize = 100;

/// A relation.
#[derive(Clone, Debug, Deserialize, serde::Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    pub user: String,
    pub relation: String,
    pub object: String,
}

/// Name of a MemoryNamespace in the model.
fn object_of(external: &str) -> String {
    format!("namespace:{external}")
}

fn tuple(tenant: &Tenant) -> Tuple {
    Tuple {
        user: format!("tenant:{}", tenant.spec.tenant),
        relation: "tenant".into(),
        object: object_of(&tenant.external()),
    }
}

/// Of the tuple and the store: another store has none of them.
fn hash(store: &str, tuple: &Tuple) -> String {
    ConfigHash::of(&canonical_json(&json!({"store": store, "tuple": tuple}))).short().to_owned()
}

/// Writes whose each MemoryNamespace is, and takes every relation to those that are gone.
pub async fn provide(site: &Site<'_>, client: &Client<'_>, store: &str) -> Result<Provided, ClientError> {
    let tenants = &site.tenants;
    let (mut provided, mut news) = (Provided::new(), Vec::new());
    for tenant in tenants.staying() {
        let tuple = tuple(tenant);
        let hash = hash(store, &tuple);
        if tenant.given(object::OPENFGA).is_none_or(|given| given.hash != hash) {
            news.push(tuple);
        }
        provided.insert(tenant.external(), Grant { hash, ..Grant::default() });
    }
    let leaving = tenants.all.iter().filter(|tenant| tenant.leaving && tenant.secret.is_some());
    let mut gone: BTreeSet<String> = leaving.map(Tenant::external).collect();
    // A MemoryNamespace that was torn out of the operator's hands left its Secret for a moment.
    gone.extend(tenants.strays.iter().filter_map(|secret| {
        Some(format!("{}.{}", secret.namespace()?, secret.labels().get(label::MEMORY_NAMESPACE)?))
    }));
    gone.retain(|external| !provided.contains_key(external));
    let mut old = Vec::new();
    for external in &gone {
        old.extend(read(client, store, &object_of(external)).await?);
    }
    write(client, store, "deletes", "on_missing", &old).await?;
    write(client, store, "writes", "on_duplicate", &news).await?;
    Ok(provided)
}

/// Every relation to an object.
async fn read(client: &Client<'_>, store: &str, object: &str) -> Result<Vec<Tuple>, ClientError> {
    #[derive(Deserialize)]
    struct Page {
        tuples: Vec<Kept>,
        #[serde(default)]
        continuation_token: String,
    }
    #[derive(Deserialize)]
    struct Kept {
        key: Tuple,
    }
    let (mut all, mut from) = (Vec::new(), String::new());
    loop {
        let body = json!({
            "tuple_key": {"object": object}, "page_size": BATCH, "continuation_token": from,
        });
        let page: Page =
            client.ask(reqwest::Method::POST, &format!("/stores/{store}/read"), &[], Some(&body)).await?;
        all.extend(page.tuples.into_iter().map(|kept| kept.key));
        if page.continuation_token.is_empty() {
            return Ok(all);
        }
        from = page.continuation_token;
    }
}

/// Writes or deletes relations; what was done before is fine.
async fn write(
    client: &Client<'_>,
    store: &str,
    what: &str,
    done_before: &str,
    tuples: &[Tuple],
) -> Result<(), ClientError> {
    for batch in tuples.chunks(BATCH) {
        let body = json!({what: {"tuple_keys": batch, done_before: "ignore"}});
        let path = format!("/stores/{store}/write");
        client.ask::<Value>(reqwest::Method::POST, &path, &[], Some(&body)).await?;
    }
    Ok(())
}
