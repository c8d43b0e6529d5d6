//! Indexes of the namespaces in use, within a memory budget.

pub mod importance;
mod namespace;
mod scan;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

pub use namespace::{Hit, NamespaceIndex, Query};

use crate::Error;
use crate::model::Namespace;
use crate::store::Store;

/// Rows read from the store at a time.
const PAGE: i64 = 2_000;
/// Memory all indexes may hold together before the least recently used are dropped, in bytes.
const BUDGET: usize = 768 << 20;

/// One namespace's index, or none yet.
#[derive(Default)]
struct Slot {
    index: Arc<RwLock<Option<NamespaceIndex>>>,
    used: AtomicU64,
    bytes: AtomicUsize,
}

/// The indexes of all namespaces. Cheap to clone.
#[derive(Clone, Default)]
pub struct Indexes {
    slots: Arc<Mutex<HashMap<String, Arc<Slot>>>>,
    ticks: Arc<AtomicU64>,
}

/// An index that may be searched, while it is held.
pub type Ready = OwnedRwLockReadGuard<Option<NamespaceIndex>, NamespaceIndex>;

impl Indexes {
    /// The index of a namespace, with everything committed up to `namespace.clock` in it.
    pub async fn at(&self, store: &Store, namespace: &Namespace) -> Result<Ready, Error> {
        let slot = self.slot(&namespace.name);
        let current = slot.index.clone().read_owned().await;
        if let Ok(ready) = OwnedRwLockReadGuard::try_map(current, |index| {
            index.as_ref().filter(|i| i.uid == namespace.uid && i.position.clock >= namespace.clock)
        }) {
            return Ok(ready);
        }
        let mut guard = slot.index.clone().write_owned().await;
        let keep = guard.take().filter(|index| index.uid == namespace.uid);
        let dimension = usize::try_from(namespace.embedding.dimension).unwrap_or_default();
        let index =
            guard.insert(keep.unwrap_or_else(|| NamespaceIndex::new(namespace.uid.clone(), dimension)));
        refresh(store, namespace, index).await?;
        slot.bytes.store(index.bytes(), Ordering::Relaxed);
        let current = guard.downgrade();
        self.evict(&namespace.name);
        OwnedRwLockReadGuard::try_map(current, Option::as_ref)
            .map_err(|_| Error::NamespaceNotFound(namespace.name.clone()))
    }

    /// Forgets a namespace's index.
    pub fn forget(&self, namespace: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace);
    }

    fn slot(&self, namespace: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(namespace.to_owned()).or_default().clone();
        slot.used.store(self.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        slot
    }

    /// Drops the least recently used indexes until the rest fits; the one in use stays.
    fn evict(&self, in_use: &str) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |slots: &HashMap<String, Arc<Slot>>| -> usize {
            slots.values().map(|slot| slot.bytes.load(Ordering::Relaxed)).sum()
        };
        while held(&slots) > BUDGET {
            let oldest = slots
                .iter()
                .filter(|(name, _)| *name != in_use)
                .min_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed))
                .map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { return };
            slots.remove(&oldest);
        }
    }
}

/// Reads what the index has not seen. After a failure part way the index is behind, never wrong.
async fn refresh(store: &Store, namespace: &Namespace, index: &mut NamespaceIndex) -> Result<(), Error> {
    loop {
        let changes = store.changes(&namespace.name, &index.position, PAGE).await;
        let last = match &changes {
            Ok(changes) => i64::try_from(changes.len()).unwrap_or(PAGE) < PAGE,
            Err(_) => true,
        };
        let result = changes.map(|changes| index.apply(changes));
        if last {
            index.weigh();
            result?;
            // A commit may touch no row that an index holds; the position still has to reach its clock.
            if index.position.clock < namespace.clock {
                index.position = crate::store::Position { clock: namespace.clock, coordinate: String::new() };
            }
            return Ok(());
        }
    }
}
