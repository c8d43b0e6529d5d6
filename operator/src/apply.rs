//! Writes to the Kubernetes API: server-side apply that writes nothing when nothing differs.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use soma_settings::{ConfigHash, canonical_json};

use crate::drift;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::names::APPLIED;

/// An object the operator may write.
pub trait Applicable:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync
{
}

impl<K> Applicable for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync
{
}

/// One that lives in a namespace.
pub trait Child: Applicable + Resource<Scope = NamespaceResourceScope> {}

impl<K> Child for K where K: Applicable + Resource<Scope = NamespaceResourceScope> {}

/// Writes with one field manager.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    metrics: Metrics,
    manager: &'static str,
}

/// What an apply found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Unchanged,
    Created,
    /// The intent is new.
    Updated,
    /// The intent is the one applied before, but somebody had changed the object.
    Repaired,
}

/// `Kind namespace/name` of an object, for messages.
pub fn describe<K: Applicable>(object: &K) -> String {
    format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
}

impl Writer {
    pub fn new(client: Client, metrics: Metrics, manager: &'static str) -> Self {
        Self { client, metrics, manager }
    }

    fn api<K: Child>(&self, object: &K) -> Api<K> {
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }

    /// Makes the live object hold everything the intent says. Costs one read, and a write only when something differs.
    pub async fn apply<K: Child>(&self, intent: &K) -> Result<(K, Change), Error> {
        self.apply_in(self.api(intent), intent).await
    }

    /// As [`Self::apply`], for kinds that do not live in a namespace.
    pub async fn apply_in<K: Applicable>(&self, api: Api<K>, intent: &K) -> Result<(K, Change), Error> {
        let (name, what) = (intent.name_any(), describe(intent));
        let value = with_hash::<K>(to_value(intent, &what)?);
        let live = api.get_opt(&name).await.map_err(Error::read(&what))?;
        let change = match &live {
            None => Change::Created,
            Some(live) => compare(&value, &to_value(live, &what)?),
        };
        match live {
            Some(live) if change == Change::Unchanged => Ok((live, change)),
            _ => {
                let params = PatchParams::apply(self.manager).force();
                let written =
                    api.patch(&name, &params, &Patch::Apply(&value)).await.map_err(Error::write(&what))?;
                self.wrote::<K>("apply");
                Ok((written, change))
            }
        }
    }

    /// Creates an object unless it exists; what exists stays as it is. Returns what exists afterwards.
    pub async fn create_once<K: Child>(&self, object: &K) -> Result<K, Error> {
        let (api, what) = (self.api(object), describe(object));
        match api
            .create(&PostParams { field_manager: Some(self.manager.into()), ..Default::default() }, object)
            .await
        {
            Ok(created) => {
                self.wrote::<K>("create");
                Ok(created)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                api.get(&object.name_any()).await.map_err(Error::read(what))
            }
            Err(error) => Err(Error::write(what)(error)),
        }
    }

    /// A merge patch; for fields that are not part of an applied intent.
    pub async fn merge<K: Child>(&self, object: &K, patch: &Value) -> Result<K, Error> {
        let params = PatchParams { field_manager: Some(self.manager.into()), ..Default::default() };
        let written = self
            .api(object)
            .patch(&object.name_any(), &params, &Patch::Merge(patch))
            .await
            .map_err(Error::write(describe(object)))?;
        self.wrote::<K>("patch");
        Ok(written)
    }

    /// Deletes exactly this object (by uid); one that is gone already is fine.
    pub async fn delete<K: Child>(&self, object: &K, params: DeleteParams) -> Result<(), Error> {
        let exactly = Preconditions { uid: object.uid(), resource_version: None };
        match self.api(object).delete(&object.name_any(), &params.preconditions(exactly)).await {
            Ok(_) => {
                self.wrote::<K>("delete");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(Error::write(describe(object))(error)),
        }
    }

    /// Deletes an object of a kind that does not live in a namespace; one that is gone already is fine.
    pub async fn delete_in<K: Applicable>(&self, api: Api<K>, name: &str) -> Result<(), Error> {
        let what = format!("{} {name}", K::kind(&()));
        if api.get_opt(name).await.map_err(Error::read(&what))?.is_none() {
            return Ok(());
        }
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {
                self.wrote::<K>("delete");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(Error::write(what)(error)),
        }
    }

    /// Writes the status when it differs from the one last read.
    pub async fn status<K, S>(&self, object: &K, previous: Option<&S>, status: &S) -> Result<(), Error>
    where
        K: Child,
        S: Serialize + PartialEq + Sync,
    {
        if previous == Some(status) {
            return Ok(());
        }
        let what = format!("status of {}", describe(object));
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": object.name_any(), "namespace": object.namespace()},
            "status": status,
        });
        let params = PatchParams::apply(self.manager).force();
        match self.api(object).patch_status(&object.name_any(), &params, &Patch::Apply(&patch)).await {
            Ok(_) => {
                self.wrote::<K>("status");
                Ok(())
            }
            // Deleted meanwhile: there is no status to write any more.
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(Error::write(what)(error)),
        }
    }

    fn wrote<K: Applicable>(&self, verb: &'static str) {
        self.metrics.wrote(&K::kind(&()), verb);
    }
}

/// Applies several objects and goes on after a refusal, so that one object cannot hold back the others.
#[derive(Default)]
pub struct Batch {
    refused: Vec<String>,
    /// What was repaired, as `Kind namespace/name`.
    pub repaired: Vec<String>,
}

impl Batch {
    pub async fn apply<K: Child>(&mut self, writer: &Writer, intent: &K) -> Option<K> {
        match writer.apply(intent).await {
            Ok((live, change)) => {
                if change == Change::Repaired {
                    self.repaired.push(describe(intent));
                }
                Some(live)
            }
            Err(error) => {
                self.refused.push(crate::error::chain(&error));
                None
            }
        }
    }

    /// Remembers the failure of a step that is not an apply.
    pub fn note<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.refused.push(crate::error::chain(&error))).ok()
    }

    /// The refusals, where there were any.
    pub fn refusal(&self) -> Option<String> {
        (!self.refused.is_empty()).then(|| self.refused.join("; "))
    }
}

fn to_value<K: Serialize>(object: &K, what: &str) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|source| Error::Serialise { what: what.to_owned(), source })
}

/// Adds the hash of the intent as annotation. A Secret gets none: a hash would let a short password be guessed.
fn with_hash<K: Applicable>(mut value: Value) -> Value {
    if K::kind(&()) != "Secret" {
        let hash = ConfigHash::of(&canonical_json(&value));
        value["metadata"]["annotations"][APPLIED] = hash.short().into();
    }
    value
}

fn compare(intent: &Value, live: &Value) -> Change {
    let applied = |value: &Value| value["metadata"]["annotations"][APPLIED].clone();
    if drift::covers(intent, live) {
        Change::Unchanged
    } else if applied(intent) == applied(live) {
        Change::Repaired
    } else {
        Change::Updated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_a_new_intent_from_a_repair() {
        let intent = json!({"metadata": {"annotations": {APPLIED: "1"}}, "spec": {"a": 1}});
        let live = |hash, a| json!({"metadata": {"annotations": {APPLIED: hash}}, "spec": {"a": a, "default": true}});
        assert_eq!(compare(&intent, &live("1", 1)), Change::Unchanged);
        assert_eq!(compare(&intent, &live("1", 2)), Change::Repaired);
        assert_eq!(compare(&intent, &live("0", 1)), Change::Updated, "a field was removed from the intent");
    }
}
