//! Follows the usage of each stack's namespaces, so that status follows without a tick.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use serde::Deserialize;
use soma_crds::MemoryNamespace;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::{Admin, Answer};
use crate::error::chain;
use crate::reconcile::reference;

/// Status of one namespace is written about this often at most, however much is stored.
const PAUSE: Duration = Duration::from_secs(5);
/// First and longest delay before a broken stream is opened again.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest line of a stream; a longer one is not from our service.
const LINE_LIMIT: usize = 64 * 1024;

/// Asks for a reconcile of a MemoryNamespace.
pub type Trigger = ObjectRef<DeserializeGuard<MemoryNamespace>>;

struct Follower {
    url: String,
    token: String,
    task: JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One task per stack that serves.
#[derive(Clone)]
pub struct Followers {
    triggers: mpsc::UnboundedSender<Trigger>,
    tasks: Arc<Mutex<HashMap<(String, String), Follower>>>,
}

impl Followers {
    pub fn new(triggers: mpsc::UnboundedSender<Trigger>) -> Self {
        Self { triggers, tasks: Arc::default() }
    }

    /// Follows a stack, unless it is followed already with the same address and token.
    pub fn follow(&self, admin: &Admin) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (admin.namespace.clone(), admin.stack.clone());
        if tasks.get(&key).is_some_and(|f| f.url == admin.url && f.token == admin.token) {
            return;
        }
        let task = tokio::spawn(follow(admin.clone(), self.triggers.clone()));
        tasks.insert(key, Follower { url: admin.url.clone(), token: admin.token.clone(), task });
    }

    /// Stops following a stack.
    pub fn stop(&self, namespace: &str, stack: &str) {
        let key = (namespace.to_owned(), stack.to_owned());
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

#[derive(Deserialize)]
struct Event {
    name: String,
}

async fn follow(admin: Admin, triggers: mpsc::UnboundedSender<Trigger>) {
    let mut delay = RECONNECT.0;
    loop {
        let began = Instant::now();
        if let Err(error) = stream(&admin, &triggers).await {
            tracing::info!(namespace = admin.namespace, stack = admin.stack, %error, "usage stream ended");
        }
        // A stream that lasted starts the delays over.
        delay = if began.elapsed() > RECONNECT.1 { RECONNECT.0 } else { (delay * 2).min(RECONNECT.1) };
        tokio::time::sleep(delay).await;
    }
}

/// Reads one stream until it ends. Changes are collected and passed on at most once per pause; the first at once.
async fn stream(admin: &Admin, triggers: &mpsc::UnboundedSender<Trigger>) -> Result<(), String> {
    let response = admin.usage().await.map_err(|answer| match answer {
        Answer::Unreachable(why) | Answer::Conflict(why) | Answer::Refused(why) => why,
        Answer::Unauthorised => "the token is refused".into(),
    })?;
    let mut chunks = Box::pin(response.bytes_stream());
    let mut lines = Lines::default();
    let mut changed = BTreeSet::new();
    let mut flush_at = Instant::now();
    loop {
        tokio::select! {
            chunk = chunks.next() => match chunk {
                Some(chunk) => {
                    let chunk = chunk.map_err(|error| chain(&error.without_url()))?;
                    changed.extend(lines.push(&chunk)?.iter().filter_map(|line| name_of(line)));
                }
                None => return Err("the service closed it".into()),
            },
            () = tokio::time::sleep_until(flush_at), if !changed.is_empty() => {
                for name in std::mem::take(&mut changed) {
                    // Nobody listens any more only while the process ends.
                    let _ = triggers.send(reference::<MemoryNamespace>(&admin.namespace, &name));
                }
                flush_at = Instant::now() + PAUSE;
            }
        }
    }
}

/// The namespace a `data:` line of the stream speaks of.
fn name_of(line: &str) -> Option<String> {
    serde_json::from_str::<Event>(line.strip_prefix("data:")?.trim_start()).ok().map(|event| event.name)
}

/// Cuts a byte stream into lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> Result<Vec<String>, String> {
        self.rest.extend_from_slice(chunk);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if self.rest.len() > LINE_LIMIT { Err("a line is too long".into()) } else { Ok(lines) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_across_chunks() {
        let mut lines = Lines::default();
        assert!(lines.push(b"data: {\"name\":\"a\",").unwrap().is_empty());
        let complete = lines.push(b"\"usage\":{}}\r\n\n: beat\nda").unwrap();
        assert_eq!(complete.len(), 3);
        assert_eq!(complete.iter().filter_map(|l| name_of(l)).collect::<Vec<_>>(), ["a"]);
        assert!(lines.push(&vec![b'x'; LINE_LIMIT + 1]).is_err(), "memory is bounded");
    }
}
