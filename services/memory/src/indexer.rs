//! Gives every memory its vector, after it was acknowledged.
//!
//! The table of memories is the queue, so nothing is lost in a crash and nothing overflows: a write wakes the
//! indexer, and a slow sweep finds what other replicas left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::embed::{EmbedError, Embedder};
use crate::engine::normalise;
use crate::metrics::Metrics;
use crate::store::{PendingText, Store};

/// Texts embedded at a time: few enough that a query waiting for the same threads is answered soon.
const BATCH: i64 = 16;
/// How often the memories of other replicas are looked at.
const SWEEP: Duration = Duration::from_secs(10);
/// How often a long backlog is counted, for the metric.
const COUNT_PERIOD: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The background task.
pub struct Indexer {
    store: Store,
    embedder: Arc<dyn Embedder>,
    metrics: Metrics,
    wake: Arc<Notify>,
    batches: Arc<watch::Sender<u64>>,
}

/// How others talk to the indexer.
#[derive(Clone)]
pub struct Progress {
    wake: Arc<Notify>,
    batches: Arc<watch::Sender<u64>>,
}

impl Progress {
    /// Says that there is something to embed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Changes after every batch of vectors is committed, and when nothing is left to embed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.batches.subscribe()
    }
}

impl Indexer {
    /// An indexer that is not running yet.
    pub fn new(store: Store, embedder: Arc<dyn Embedder>, metrics: Metrics) -> (Self, Progress) {
        let (wake, batches) = (Arc::<Notify>::default(), Arc::new(watch::Sender::new(0)));
        let progress = Progress { wake: wake.clone(), batches: batches.clone() };
        (Self { store, embedder, metrics, wake, batches }, progress)
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            // After a restart the rows of this process may carry the name of an earlier one.
            let mut all = true;
            let mut pause = BACKOFF.0;
            loop {
                match self.drain(all).await {
                    Ok(()) => {
                        (all, pause) = (false, BACKOFF.0);
                        let _ = tokio::time::timeout(SWEEP, self.wake.notified()).await;
                    }
                    Err(error) => {
                        tracing::warn!(error = error.chain(), "indexing waits");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(BACKOFF.1);
                    }
                }
            }
        };
        // A batch that is cut off is embedded again after the next start.
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// Embeds until nothing is left.
    async fn drain(&self, all: bool) -> Result<(), Error> {
        let mut counted = Instant::now();
        loop {
            let batch = self.store.pending(all, BATCH).await?;
            if batch.is_empty() {
                break;
            }
            let embedder = self.embedder.clone();
            let done = tokio::task::spawn_blocking(move || embed(&*embedder, batch)).await?;
            self.store.set_vectors(done).await?;
            self.batches.send_modify(|n| *n += 1);
            // Counting a long backlog after every small batch would cost more than the batch.
            if counted.elapsed() > COUNT_PERIOD {
                self.metrics.set_backlog(self.store.backlog().await?);
                counted = Instant::now();
            }
        }
        // Another replica may have done the work, as one does that starts: whoever waits here looks again.
        self.batches.send_modify(|n| *n += 1);
        self.metrics.set_backlog(self.store.backlog().await?);
        let trimmed = self.store.trim_outbox().await?;
        if trimmed > 0 {
            tracing::debug!(trimmed, "dropped the oldest events");
        }
        Ok(())
    }
}

/// One vector per text. A text that cannot be embedded gets none, and does not hold up the others.
fn embed(embedder: &dyn Embedder, batch: Vec<PendingText>) -> Vec<(PendingText, Option<Vec<f32>>)> {
    let texts: Vec<_> = batch.iter().map(|pending| pending.text.as_str()).collect();
    let vectors: Vec<Result<Vec<f32>, EmbedError>> = match embedder.embed(&texts) {
        Ok(vectors) => vectors.into_iter().map(Ok).collect(),
        Err(_) => texts
            .iter()
            .map(|text| embedder.embed(&[text]).map(|mut v| v.pop().unwrap_or_default()))
            .collect(),
    };
    let keep = |vector: Result<Vec<f32>, EmbedError>| {
        let mut vector = vector
            .inspect_err(
                |error| tracing::error!(%error, "a memory stays unsearchable: its text cannot be embedded"),
            )
            .ok()?;
        let usable = normalise(&mut vector);
        if !usable {
            tracing::error!("a memory stays unsearchable: its vector is zero");
        }
        usable.then_some(vector)
    };
    batch.into_iter().zip(vectors.into_iter().map(keep)).collect()
}
