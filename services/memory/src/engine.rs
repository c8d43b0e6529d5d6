//! The memory engine: one core behind HTTP, gRPC and `soma dev`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use soma_platform::database::{Backend, Target};
use soma_platform::health::Dependency;
use soma_settings::Memory as Settings;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::embed::Embedder;
use crate::index::{Hit, Indexes, Query};
use crate::indexer::{Indexer, Progress};
use crate::metrics::Metrics;
use crate::model::{Embedding, Kind, Link, Namespace, NamespaceSpec, NewMemory, Record, Scope, Stored};
use crate::recall::{Recall, check_query};
use crate::store::{Counts, Page, Store};
use crate::{Coordinate, Error};

/// How long `?wait=indexed` waits for an embedder that has a backlog.
const INDEXED_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a readiness probe waits for the database.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// What a [`Memory`] is made of.
pub struct Options {
    /// Resolved settings.
    pub settings: Settings,
    /// Where memories are kept.
    pub target: Target,
    /// Turns text into vectors.
    pub embedder: Arc<dyn Embedder>,
    /// Names this process among replicas on the same database: the pod's name, for example.
    pub instance: String,
}

/// The memory engine. Cheap to clone; the last [`Memory::close`] ends its background work.
#[derive(Clone)]
pub struct Memory {
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Metrics,
    store: Store,
    indexes: Indexes,
    embedder: Arc<dyn Embedder>,
    progress: Progress,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Memory {
    /// Opens the engine and starts its indexer. An SQLite file is made and brought up to date here; Postgres may still be
    /// away: every call, and the indexer in the background, tries until it answers.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let Options { settings, target, embedder, instance } = options;
        let embedding = Embedding {
            provider: "local".to_owned(),
            model: embedder.id().to_owned(),
            dimension: i64::try_from(embedder.dimension()).unwrap_or_default(),
        };
        let store = Store::new(target, embedding, &instance)?;
        if store.backend() == Backend::Sqlite {
            store.ready().await?;
        }
        let metrics = Metrics::new(&instance);
        let (indexer, progress) = Indexer::new(store.clone(), embedder.clone(), metrics.clone());
        let memory = Self {
            settings: Arc::new(settings),
            metrics,
            store,
            indexes: Indexes::default(),
            embedder,
            progress,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        memory.tasks.spawn(indexer.run(memory.stop.clone()));
        memory.tasks.close();
        Ok(memory)
    }

    /// Ends the background work and closes the database.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.store.close().await;
    }

    /// Stores a batch: all of it or nothing. When this returns, the memories survive any crash.
    pub async fn store(&self, scope: &Scope, items: Vec<NewMemory>) -> Result<Vec<Stored>, Error> {
        let start = Instant::now();
        let count = items.len();
        let stored = self.store.store(scope, items).await?;
        self.metrics.stored(scope.namespace(), count, start.elapsed());
        if stored.iter().any(|s| !s.indexed) {
            self.progress.wake();
        }
        Ok(stored)
    }

    /// Waits until a recall can find what was stored, and says so in `stored`. With a long backlog it gives up after
    /// 25 s and leaves `indexed` false.
    pub async fn wait_indexed(&self, scope: &Scope, stored: &mut [Stored]) -> Result<(), Error> {
        let mut progress = self.progress.subscribe();
        let waiting: Vec<_> = stored.iter().filter(|s| !s.indexed).map(|s| s.coordinate.clone()).collect();
        let coordinates: Vec<_> = waiting.iter().collect();
        let done = async {
            while self.store.any_pending(scope.namespace(), &coordinates).await? {
                if progress.changed().await.is_err() {
                    return Ok(false);
                }
            }
            Ok::<_, Error>(true)
        };
        if let Ok(done) = tokio::time::timeout(INDEXED_TIMEOUT, done).await
            && done?
        {
            for one in stored.iter_mut() {
                one.indexed = true;
            }
        }
        Ok(())
    }

    /// The memories nearest in meaning to each query, best first: one list per query.
    pub async fn recall(
        &self,
        scope: &Scope,
        queries: &[String],
        recall: &Recall,
    ) -> Result<Vec<Vec<Hit>>, Error> {
        let start = Instant::now();
        for query in queries {
            check_query(query)?;
        }
        let namespace = self.store.namespace(scope).await?;
        self.store.check_embedder(&namespace)?;
        let vectors = self.embed(queries.to_vec()).await?;
        let index = self.indexes.at(&self.store, &namespace).await?;
        let recall = recall.clone();
        let hits = tokio::task::spawn_blocking(move || {
            let search = |vector: &Vec<f32>| {
                index.search(&Query {
                    vector,
                    top_k: recall.top_k,
                    kind: recall.kind,
                    filter: &recall.filter,
                    min_score: recall.min_score,
                })
            };
            vectors.iter().map(search).collect::<Result<Vec<_>, _>>()
        })
        .await??;
        self.metrics.recalled(scope.namespace(), queries.len(), start.elapsed());
        Ok(hits)
    }

    async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Error> {
        let embedder = self.embedder.clone();
        let vectors = tokio::task::spawn_blocking(move || {
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            embedder.embed(&texts)
        });
        let mut vectors = vectors.await??;
        for vector in &mut vectors {
            normalise(vector).then_some(()).ok_or_else(|| {
                Error::invalid("query", "the query has no direction to search in", "use words in the query")
            })?;
        }
        Ok(vectors)
    }

    /// One memory.
    pub async fn get(&self, scope: &Scope, coordinate: &Coordinate) -> Result<Record, Error> {
        self.store.get(scope, coordinate).await
    }

    /// A page of memories in the order of their coordinates' text.
    pub async fn list(
        &self,
        scope: &Scope,
        kind: Option<Kind>,
        after: Option<&Coordinate>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.store.list(scope, kind, after, limit).await
    }

    /// Forgets a memory and its links. False when there is none.
    pub async fn delete(&self, scope: &Scope, coordinate: &Coordinate) -> Result<bool, Error> {
        self.store.delete(scope, coordinate).await
    }

    /// Links two memories that exist.
    pub async fn link(&self, scope: &Scope, link: &Link) -> Result<(), Error> {
        check_link(link)?;
        self.store.link(scope, link).await
    }

    /// The links that lead away from a memory in up to `hops` steps, nearest first and strongest first among those, at most `limit`.
    pub async fn neighbors(
        &self,
        scope: &Scope,
        from: &Coordinate,
        link_type: Option<&str>,
        hops: usize,
        limit: usize,
    ) -> Result<Vec<Link>, Error> {
        self.store.namespace(scope).await?;
        let mut seen = HashSet::from([from.clone()]);
        let (mut found, mut frontier) = (Vec::new(), vec![from.clone()]);
        for _ in 0..hops {
            let mut level = BTreeSet::new();
            for start in frontier {
                if found.len() >= limit {
                    break;
                }
                let links = self.store.links_from(scope, &start, link_type).await?;
                found.extend(links.into_iter().filter(|link| !seen.contains(&link.to)).inspect(|link| {
                    level.insert(link.to.clone());
                }));
            }
            seen.extend(level.iter().cloned());
            frontier = level.into_iter().collect();
        }
        found.truncate(limit);
        Ok(found)
    }

    /// How many memories a namespace holds.
    pub async fn counts(&self, scope: &Scope) -> Result<Counts, Error> {
        self.store.counts(scope).await
    }

    /// Makes a namespace, or changes its quota. Its tenant and embedding are fixed once bound.
    pub async fn put_namespace(&self, name: &str, spec: &NamespaceSpec) -> Result<Namespace, Error> {
        crate::model::check_namespace(name, spec)?;
        self.store.put_namespace(name, spec).await
    }

    /// A namespace by name.
    pub async fn find_namespace(&self, name: &str) -> Result<Namespace, Error> {
        self.store.find_namespace(name).await?.ok_or_else(|| Error::NamespaceNotFound(name.to_owned()))
    }

    /// Every namespace, by name.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        self.store.namespaces().await
    }

    /// Deletes a namespace with its memories. The namespace `default` is emptied instead.
    pub async fn delete_namespace(&self, name: &str) -> Result<(), Error> {
        self.store.delete_namespace(name).await?;
        self.indexes.forget(name);
        Ok(())
    }

    /// What the engine depends on, and whether it can be used now.
    pub async fn dependencies(&self) -> Vec<Dependency> {
        let failure = match tokio::time::timeout(PING_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.chain()),
            Err(_) => Some(format!("no answer within {} s", PING_TIMEOUT.as_secs())),
        };
        vec![Dependency { name: self.store.backend().name(), failure }]
    }
}

/// Scales a vector to length 1. False for one that has no direction.
pub(crate) fn normalise(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if !length.is_finite() || length < 1e-9 {
        return false;
    }
    for x in vector.iter_mut() {
        *x /= length;
    }
    true
}

fn check_link(link: &Link) -> Result<(), Error> {
    let name = &link.link_type;
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Error::invalid("link_type", "not a link type", "use 1 to 64 printable characters"));
    }
    if !link.strength.is_finite() {
        return Err(Error::invalid("strength", "the strength must be finite", "send a number such as 1.0"));
    }
    if link.from == link.to {
        return Err(Error::invalid("to_coord", "a memory cannot be linked to itself", "name another memory"));
    }
    Ok(())
}
