//! What every reconciler shares.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::api::DeleteParams;
use kube::{Api, Client};

use crate::apply::{Child, Writer};
use crate::error::Error;
use crate::events::Publisher;
use crate::metrics::Metrics;
use crate::namespace::followers::Followers;

/// Where the operator itself reaches the services; `{namespace}` stands for the object's namespace.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Base URL of a stack's memory service.
    pub memory: String,
    /// `host:port` of a managed Postgres; the address of its pod when absent.
    pub postgres: Option<String>,
    /// The operator's own image, which takes backups.
    pub image: String,
    /// Base URL under which OPA finds its policies with the operator.
    pub bundles: String,
}

impl Addresses {
    pub fn memory_of(&self, namespace: &str) -> String {
        self.memory.replace("{namespace}", namespace)
    }

    pub fn postgres_of(&self, namespace: &str) -> Option<String> {
        self.postgres.as_ref().map(|address| address.replace("{namespace}", namespace))
    }
}

/// Shared by all reconcilers.
pub struct Context {
    pub client: Client,
    /// Namespace the operator runs in.
    pub namespace: String,
    pub http: reqwest::Client,
    pub events: Publisher,
    pub metrics: Metrics,
    pub addresses: Addresses,
    pub backoff: Backoff,
    pub followers: Followers,
}

impl Context {
    pub fn writer(&self, manager: &'static str) -> Writer {
        Writer::new(self.client.clone(), self.metrics.clone(), manager)
    }

    pub fn api<K: Child>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// An object, where it exists. A failed read is an error, never an absence.
    pub async fn get<K: Child>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        let what = format!("{} {namespace}/{name}", K::kind(&()));
        self.api::<K>(namespace).get_opt(name).await.map_err(Error::read(what))
    }

    /// Deletes an object, where it exists.
    pub async fn remove<K: Child>(
        &self,
        writer: &Writer,
        namespace: &str,
        name: &str,
        params: DeleteParams,
    ) -> Result<(), Error> {
        match self.get::<K>(namespace, name).await? {
            Some(object) => writer.delete(&object, params).await,
            None => Ok(()),
        }
    }
}

/// Counts failures per object, because a controller remembers none.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// Delay before the next attempt: 250 ms doubled per failure up to 64 s, with a jitter of a quarter so that many
    /// objects that failed together do not come back together.
    pub fn next(&self, key: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_default();
        let base = 250_u64 << (*count).min(8);
        *count += 1;
        Duration::from_millis(base).mul_f64(rand::random_range(0.75..1.25))
    }

    /// Forgets the failures of an object.
    pub fn reset(&self, key: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_per_object_and_are_bounded() {
        let backoff = Backoff::default();
        let seconds: Vec<f64> = (0..10).map(|_| backoff.next("a").as_secs_f64()).collect();
        for (delay, nominal) in seconds.iter().zip([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0]) {
            assert!((nominal * 0.75..nominal * 1.25).contains(delay), "{delay} around {nominal}");
        }
        assert!(backoff.next("b").as_secs_f64() < 0.4, "another object has its own count");
        backoff.reset("a");
        assert!(backoff.next("a").as_secs_f64() < 0.4);
    }
}
