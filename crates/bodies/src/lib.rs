//! Message bodies of this node by content address (BLAKE3): small ones in the node journal, larger ones as files of their own. Receipts prove
//! presence, pins keep what is about to be referenced, collection removes what nothing refers to, the scrub finds what rotted.
//!
//! Knows nothing of groups or the network: callers say what is referenced, and bring the bytes of what is missing.

mod collect;
mod fault;
mod large;
mod receipt;
mod scrub;
mod stage;
#[cfg(test)]
mod tests;

pub use collect::Collected;
pub use fault::BodyFault;
pub use receipt::Receipt;
pub use scrub::{Scrub, Scrubbed};
pub use stage::Stage;

use bytes::Bytes;
use large::{Filling, Large};
use parliament_ids::{BodyHash, limits};
use parliament_journal::disk::{Disk, RealDisk};
use parliament_journal::{Journal, JournalFault, Space};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How a [`BodyStore`] is opened.
#[derive(Clone)]
pub struct Options {
    /// Folder of the large bodies and the spool files; made when missing.
    pub dir: PathBuf,
    /// Largest body, bytes.
    pub body_bytes_max: u64,
    /// Most bytes that unfinished uploads hold together.
    pub staged_bytes_max: u64,
    /// How long a released body stays, ms.
    pub grace_ms: u64,
    /// The files. Tests put a simulated disk here.
    pub disk: Arc<dyn Disk>,
}

impl Options {
    /// The defaults for a folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            body_bytes_max: limits::MESSAGE_BYTES_MAX,
            staged_bytes_max: 1024 * 1024 * 1024,
            grace_ms: 10 * 60 * 1000,
            disk: Arc::new(RealDisk),
        }
    }
}

/// The bodies of this node. A cheap handle.
#[derive(Clone)]
pub struct BodyStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) journal: Journal,
    pub(crate) large: Large,
    pub(crate) options: Options,
    pub(crate) staged: AtomicU64,
    /// How often each body is pinned. Removal happens under this lock, so that what was pinned and seen present stays.
    pub(crate) pins: Mutex<HashMap<BodyHash, u32>>,
    /// Released bodies, and when, in the caller's clock, ms.
    pub(crate) released: Mutex<HashMap<BodyHash, u64>>,
    pub(crate) damaged: Mutex<BTreeSet<BodyHash>>,
    /// Those of the damaged ones that the medium did not give when they were read last. They stay where they are until they are put again.
    pub(crate) unreadable: Mutex<BTreeSet<BodyHash>>,
    arrived: Notify,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn pin(&self, hash: &BodyHash) {
        *lock(&self.pins).entry(*hash).or_default() += 1;
    }

    pub(crate) fn unpin(&self, hash: &BodyHash) {
        let mut pins = lock(&self.pins);
        if let Some(count) = pins.get_mut(hash) {
            *count -= 1;
            if *count == 0 {
                pins.remove(hash);
            }
        }
    }
}

impl BodyStore {
    /// Opens the store over an open journal; unfinished uploads of an earlier process are removed.
    pub fn open(journal: Journal, options: Options) -> Result<Self, BodyFault> {
        let large = Large::open(options.disk.clone(), options.dir.clone())?;
        let inner = Inner {
            journal,
            large,
            options,
            staged: AtomicU64::new(0),
            pins: Mutex::default(),
            released: Mutex::default(),
            damaged: Mutex::default(),
            unreadable: Mutex::default(),
            arrived: Notify::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Stores a body. Returns at once for a small one, after its syncs for a large one (above [`limits::JOURNAL_BODY_BYTES_MAX`]).
    pub fn put(&self, bytes: Bytes) -> Result<Receipt, BodyFault> {
        let hash = BodyHash(*blake3::hash(&bytes).as_bytes());
        self.put_hashed(hash, bytes)
    }

    /// [`BodyStore::put`] of bytes that were announced under a hash, by a peer for instance; `WrongHash` when they are others.
    pub fn put_expected(&self, expected: BodyHash, bytes: Bytes) -> Result<Receipt, BodyFault> {
        let got = BodyHash(*blake3::hash(&bytes).as_bytes());
        if got != expected {
            return Err(BodyFault::WrongHash { expected, got });
        }
        self.put_hashed(got, bytes)
    }

    /// [`BodyStore::put`], which waits while the journal's queue is full, and stores a large body on a blocking thread.
    pub async fn put_patiently(&self, bytes: Bytes, timeout: Duration) -> Result<Receipt, BodyFault> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let result = if bytes.len() > limits::JOURNAL_BODY_BYTES_MAX {
                let (store, bytes) = (self.clone(), bytes.clone());
                let work = tokio::task::spawn_blocking(move || store.put(bytes)).await;
                work.unwrap_or(Err(BodyFault::Journal(JournalFault::Closed)))
            } else {
                self.put(bytes.clone())
            };
            match result {
                Err(fault) if fault.is_busy() && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(2)).await
                }
                other => return other,
            }
        }
    }

    fn put_hashed(&self, hash: BodyHash, bytes: Bytes) -> Result<Receipt, BodyFault> {
        if bytes.len() as u64 > self.inner.options.body_bytes_max {
            return Err(BodyFault::TooLarge { max: self.inner.options.body_bytes_max });
        }
        if bytes.len() <= limits::JOURNAL_BODY_BYTES_MAX {
            return self.put_small(hash, bytes);
        }
        let size = bytes.len() as u64;
        self.keep_large(hash, size, || {
            let mut file = self.inner.large.fill()?;
            file.write(&bytes)?;
            Ok(file)
        })
    }

    pub(crate) fn put_small(&self, hash: BodyHash, bytes: Bytes) -> Result<Receipt, BodyFault> {
        // Pinned before the journal looks whether it is there.
        self.inner.pin(&hash);
        if self.is_unreadable(&hash) {
            self.inner.journal.remove_body(&hash);
        }
        let receipt = Receipt::new(self.inner.clone(), hash, bytes.len() as u64);
        let refused = Arc::new(OnceLock::new());
        let told = refused.clone();
        let done = move |result: Result<(), JournalFault>| {
            if let Err(fault) = result {
                // A refusal comes before put_body returns; a later fault ends the journal, and with it every entry that could name the body.
                let _ = told.set(fault);
            }
        };
        self.inner.journal.put_body(hash, bytes, Box::new(done));
        if let Some(fault) = refused.get() {
            return Err(fault.clone().into());
        }
        self.came(&hash);
        Ok(receipt)
    }

    pub(crate) fn keep_large(
        &self,
        hash: BodyHash,
        size: u64,
        file: impl FnOnce() -> Result<Filling, BodyFault>,
    ) -> Result<Receipt, BodyFault> {
        self.inner.pin(&hash);
        let receipt = Receipt::new(self.inner.clone(), hash, size);
        if self.inner.large.size(&hash).is_none() || self.is_unreadable(&hash) {
            if self.inner.journal.space() >= Space::NoBodies {
                return Err(JournalFault::NoSpace.into());
            }
            self.inner.large.keep(file()?, &hash)?;
        }
        self.came(&hash);
        Ok(receipt)
    }

    fn came(&self, hash: &BodyHash) {
        lock(&self.inner.unreadable).remove(hash);
        lock(&self.inner.damaged).remove(hash);
        self.inner.arrived.notify_waiters();
    }

    /// A receipt for a body that is here already; none otherwise.
    #[must_use]
    pub fn receipt(&self, hash: &BodyHash) -> Option<Receipt> {
        self.inner.pin(hash);
        match self.size(hash) {
            Some(size) => Some(Receipt::new(self.inner.clone(), *hash, size)),
            None => {
                self.inner.unpin(hash);
                None
            }
        }
    }

    /// Starts an upload.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage::new(self.clone())
    }

    fn is_unreadable(&self, hash: &BodyHash) -> bool {
        lock(&self.inner.unreadable).contains(hash)
    }

    /// What a read says of whether the medium gives a body.
    fn noted<T>(&self, hash: &BodyHash, read: Result<T, BodyFault>) -> Result<T, BodyFault> {
        match &read {
            Err(fault) if fault.is_unreadable() => {
                tracing::error!(%hash, %fault, "a body cannot be read; it stays, and counts as missing until another copy is here");
                lock(&self.inner.unreadable).insert(*hash);
                lock(&self.inner.damaged).insert(*hash);
            }
            Err(_) => {}
            Ok(_) => {
                if lock(&self.inner.unreadable).remove(hash) {
                    lock(&self.inner.damaged).remove(hash);
                }
            }
        }
        read
    }

    /// Bytes of a body that is here.
    #[must_use]
    pub fn size(&self, hash: &BodyHash) -> Option<u64> {
        if self.is_unreadable(hash) {
            return None;
        }
        self.inner.large.size(hash).or_else(|| self.inner.journal.body_state(hash))
    }

    /// A body, verified. One that no longer matches its hash is quarantined and told as `Damaged`, later as `Missing`, until it is replaced.
    /// Reads the disk on this thread.
    pub fn read(&self, hash: &BodyHash) -> Result<Bytes, BodyFault> {
        let Some(size) = self.inner.large.size(hash) else { return self.read_small(hash) };
        let bytes = self.read_large(hash, 0, size)?;
        if *blake3::hash(&bytes).as_bytes() != hash.0 {
            return Err(self.quarantine(hash));
        }
        self.noted(hash, Ok(bytes))
    }

    /// The part of `offset..offset + len` that exists, verified as [`BodyStore::read`] is; empty beyond the end.
    pub fn read_range(&self, hash: &BodyHash, offset: u64, len: u64) -> Result<Bytes, BodyFault> {
        if self.inner.large.size(hash).is_some() {
            return self.read_large(hash, offset, len);
        }
        let bytes = self.read_small(hash)?;
        let size = bytes.len() as u64;
        let start = offset.min(size);
        Ok(bytes.slice(start as usize..offset.saturating_add(len).clamp(start, size) as usize))
    }

    fn read_small(&self, hash: &BodyHash) -> Result<Bytes, BodyFault> {
        self.noted(hash, self.read_journal(hash))
    }

    fn read_journal(&self, hash: &BodyHash) -> Result<Bytes, BodyFault> {
        match self.inner.journal.read_body(hash) {
            Ok(bytes) => bytes.ok_or(BodyFault::Missing(*hash)),
            Err(JournalFault::CorruptBody { .. }) => {
                lock(&self.inner.damaged).insert(*hash);
                Err(BodyFault::Damaged(*hash))
            }
            Err(fault) => Err(fault.into()),
        }
    }

    fn read_large(&self, hash: &BodyHash, offset: u64, len: u64) -> Result<Bytes, BodyFault> {
        // Twice, and from the medium then, in case the memory and not the disk is at fault.
        let first = self.inner.large.read(hash, offset, len);
        if first.is_ok() {
            // A part says nothing of the others.
            return first;
        }
        self.inner.large.forget_cached(hash);
        match (first, self.inner.large.read(hash, offset, len)) {
            (Err(BodyFault::Damaged(_)), Err(BodyFault::Damaged(_))) => Err(self.quarantine(hash)),
            (Err(first), Err(second)) => self.noted(hash, Err(if first.is_unreadable() { first } else { second })),
            (_, second) => second,
        }
    }

    fn quarantine(&self, hash: &BodyHash) -> BodyFault {
        tracing::error!(%hash, "a large body is damaged");
        self.inner.large.quarantine(hash);
        lock(&self.inner.damaged).insert(*hash);
        BodyFault::Damaged(*hash)
    }

    /// Bodies found damaged and not replaced since this process started: while there are any, the replicas that refer to them are incomplete.
    #[must_use]
    pub fn damaged(&self) -> Vec<BodyHash> {
        lock(&self.inner.damaged).iter().copied().collect()
    }

    /// Forgets that a body was damaged: nothing names it any more, so nobody will bring it.
    pub fn forget_damaged(&self, hash: &BodyHash) {
        lock(&self.inner.unreadable).remove(hash);
        lock(&self.inner.damaged).remove(hash);
    }

    /// Bytes of all large bodies.
    #[must_use]
    pub fn large_bytes(&self) -> u64 {
        self.inner.large.bytes()
    }

    /// Stores anew a body that was damaged, from bytes that a peer gave.
    pub fn replace(&self, hash: BodyHash, bytes: Bytes) -> Result<(), BodyFault> {
        self.put_expected(hash, bytes).map(drop)
    }

    /// Those of the bodies that are not here.
    #[must_use]
    pub fn missing(&self, hashes: &[BodyHash]) -> Vec<BodyHash> {
        hashes.iter().filter(|hash| self.size(hash).is_none()).copied().collect()
    }

    /// Waits until all of the bodies are here, at most `timeout`; returns those that are not.
    pub async fn wait_present(&self, hashes: &[BodyHash], timeout: Duration) -> Vec<BodyHash> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let arrived = self.inner.arrived.notified();
            tokio::pin!(arrived);
            // Listening before looking, so that nothing arrives unseen in between.
            arrived.as_mut().enable();
            let missing = self.missing(hashes);
            if missing.is_empty() || tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return missing;
            }
        }
    }

    /// Keeps a body, present or still to come, from being collected until [`BodyStore::unpin`] was called as often.
    pub fn pin(&self, hash: &BodyHash) {
        self.inner.pin(hash);
    }

    /// Takes one pin back; at apply, or when the entry that named the body was truncated.
    pub fn unpin(&self, hash: &BodyHash) {
        self.inner.unpin(hash);
    }

    /// Pins all of the bodies; returns those that are not here. What is here stays.
    #[must_use]
    pub fn pin_missing(&self, hashes: &[BodyHash]) -> Vec<BodyHash> {
        hashes.iter().for_each(|hash| self.inner.pin(hash));
        self.missing(hashes)
    }
}
