//! Removal of bodies that nothing refers to.

use crate::{BodyStore, lock};
use parliament_ids::BodyHash;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bodies removed.
    pub removed: usize,
    /// Released bodies that turned out to be referenced, and are candidates no longer.
    pub referenced: usize,
    /// Candidates that stay: pinned, or not old enough.
    pub waiting: usize,
}

impl BodyStore {
    /// Makes a body a candidate for collection from `now_ms` on, in the clock that [`BodyStore::collect`] is given. A body released again waits
    /// anew. Candidates are not kept over a restart: the caller releases them again, or [`crate::Scrub`] shows them.
    pub fn release(&self, hash: BodyHash, now_ms: u64) {
        lock(&self.inner.released).insert(hash, now_ms);
    }

    /// Removes the candidates that have waited their grace, are not pinned, and of which `is_referenced` says no. That is asked, and acted on,
    /// under the pins' lock, so it must answer quickly, must not call the store, and must know every reference whose pin has been taken back.
    pub fn collect(&self, now_ms: u64, is_referenced: impl Fn(&BodyHash) -> bool) -> Collected {
        let mut collected = Collected::default();
        let grace = self.inner.options.grace_ms;
        let due: Vec<BodyHash> = {
            let released = lock(&self.inner.released);
            collected.waiting = released.len();
            released.iter().filter(|(_, since)| now_ms.saturating_sub(**since) >= grace).map(|(hash, _)| *hash).collect()
        };
        for hash in due {
            let pins = lock(&self.inner.pins);
            if pins.contains_key(&hash) {
                continue;
            }
            collected.waiting -= 1;
            if is_referenced(&hash) {
                collected.referenced += 1;
            } else if let Err(fault) = self.remove(&hash) {
                tracing::warn!(%fault, %hash, "a body could not be removed");
            } else {
                collected.removed += 1;
            }
            drop(pins);
            let mut released = lock(&self.inner.released);
            // Not if it was released again meanwhile.
            if released.get(&hash).is_some_and(|since| now_ms.saturating_sub(*since) >= grace) {
                released.remove(&hash);
            }
        }
        collected
    }

    fn remove(&self, hash: &BodyHash) -> Result<(), crate::BodyFault> {
        self.inner.large.remove(hash)?;
        self.inner.journal.remove_body(hash);
        Ok(())
    }
}
