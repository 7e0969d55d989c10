//! What is kept and what may go. A body is collected only when no account refers to it, nothing pins it, and it has been a
//! candidate for [`GRACE_MS`]; and the caller runs the collector only while no replica here has an unapplied entry.

use crate::{BodyStore, lock};
use parliament_ids::BodyHash;
use std::collections::HashMap;

/// How long a body is kept after its last reference went, or after it came without ever being referenced, ms.
pub const GRACE_MS: u64 = 600_000;
/// Candidates remembered; what does not fit is found by a later release or not at all, and only costs room.
const CANDIDATES_MAX: usize = 1_000_000;

#[derive(Default)]
pub(crate) struct Keeping {
    pins: HashMap<BodyHash, u32>,
    /// Not to be collected before this time: an entry that names it may be on its way.
    held: HashMap<BodyHash, u64>,
    /// Without a reference since this time.
    candidates: HashMap<BodyHash, u64>,
}

impl Keeping {
    pub(crate) fn pin(&mut self, hash: BodyHash) {
        *self.pins.entry(hash).or_insert(0) += 1;
    }
    pub(crate) fn unpin(&mut self, hash: &BodyHash) {
        if let Some(count) = self.pins.get_mut(hash) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(hash);
            }
        }
    }
}

impl BodyStore {
    /// A body came: without a reference it goes again.
    pub(crate) fn fresh(&self, hash: BodyHash, now_ms: u64) {
        self.released(hash, now_ms);
    }

    /// The last reference of some account has gone.
    pub fn released(&self, hash: BodyHash, now_ms: u64) {
        let mut keeping = lock(&self.keeping);
        if keeping.candidates.len() < CANDIDATES_MAX {
            keeping.candidates.insert(hash, now_ms);
        }
    }

    /// Some account refers to it now.
    pub fn referenced(&self, hash: &BodyHash) {
        lock(&self.keeping).candidates.remove(hash);
    }

    /// An entry that names these may be appended here within [`GRACE_MS`].
    pub(crate) fn hold(&self, hashes: &[BodyHash], now_ms: u64) {
        let mut keeping = lock(&self.keeping);
        for hash in hashes {
            keeping.held.insert(*hash, now_ms + GRACE_MS);
        }
    }

    /// An entry that named these was applied here.
    pub fn applied(&self, hashes: &[BodyHash]) {
        let mut keeping = lock(&self.keeping);
        for hash in hashes {
            keeping.held.remove(hash);
        }
    }

    /// Candidates that are due, at most `limit`: what the caller must look up before [`BodyStore::collect`].
    #[must_use]
    pub fn due(&self, now_ms: u64, limit: usize) -> Vec<BodyHash> {
        let mut keeping = lock(&self.keeping);
        keeping.held.retain(|_, until| now_ms < *until);
        let free = |hash: &BodyHash| !keeping.pins.contains_key(hash) && !keeping.held.contains_key(hash);
        let due = keeping.candidates.iter().filter(|(hash, since)| *since + GRACE_MS <= now_ms && free(hash));
        due.map(|(hash, _)| *hash).take(limit).collect()
    }

    /// Removes those of `due` that are still candidates, not pinned and not held. The caller has seen that no account refers to
    /// them. How many went.
    pub fn collect(&self, due: &[BodyHash], now_ms: u64) -> usize {
        let mut gone = 0;
        for hash in due {
            let mut keeping = lock(&self.keeping);
            let candidate = keeping.candidates.get(hash).is_some_and(|since| since + GRACE_MS <= now_ms);
            if candidate && !keeping.pins.contains_key(hash) && !keeping.held.contains_key(hash) {
                keeping.candidates.remove(hash);
                // Under the lock: whoever pins it next puts it again.
                self.remove(hash);
                gone += 1;
            }
        }
        gone
    }

    /// A candidate turned out to be referenced.
    pub fn keep(&self, hash: &BodyHash) {
        self.referenced(hash);
    }
}
