//! Message bodies of one node, by BLAKE3 address: small ones in the node journal, larger ones in files of their own.
//!
//! What counts as *present* is durable before any log entry that is appended later: a small body's frame is queued in the
//! journal ahead of the entry's, a large one's file is synced before it gets its name. So a replica that waits for a body to be
//! present before it appends the entry that names it holds invariant I1, and a [`Receipt`], which only this crate makes, is the
//! proof that a proposal needs. Reads hash what they read; damage makes a body absent, so that it is pulled again.

mod keep;
mod large;
mod upload;

pub use keep::GRACE_MS;
pub use upload::{UPLOAD_BYTES_TOTAL_MAX, UploadKey};

use bytes::Bytes;
use large::LargeBodies;
use parliament_ids::BodyHash;
use parliament_ids::limits::JOURNAL_BODY_BYTES_MAX;
use parliament_journal::{Journal, JournalFault};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Why a body was not stored or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    /// Bounded queues are full: try again.
    #[error("busy")]
    Busy,
    /// The disk is too full for bodies.
    #[error("no space for bodies")]
    NoSpace,
    /// The bytes do not have the hash that was told.
    #[error("the bytes do not have the address {0}")]
    WrongHash(BodyHash),
    /// The upload is unknown, out of order, or was dropped for want of room.
    #[error("upload lost")]
    UploadLost,
    /// Not here, or damaged and therefore no longer here.
    #[error("body {0} is not here")]
    Absent(BodyHash),
    /// The disk failed.
    #[error("{0}")]
    Disk(Arc<io::Error>),
    /// The journal failed: the node must stop.
    #[error("{0}")]
    Journal(JournalFault),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::NoSpace } else { Self::Disk(Arc::new(error)) }
    }
}

impl From<JournalFault> for BodyError {
    fn from(fault: JournalFault) -> Self {
        match fault {
            JournalFault::Busy => Self::Busy,
            JournalFault::NoSpace => Self::NoSpace,
            JournalFault::CorruptBody { hash, .. } => Self::Absent(hash),
            other => Self::Journal(other),
        }
    }
}

/// The bodies of a node.
pub struct BodyStore {
    journal: Journal,
    large: LargeBodies,
    pub(crate) uploads: Mutex<upload::Uploads>,
    pub(crate) keeping: Mutex<keep::Keeping>,
    arrived: Notify,
}

/// Proof that a body is stored here ahead of any entry appended from now on. While it or a clone of it lives, the body is not
/// collected.
#[derive(Clone)]
pub struct Receipt(Arc<Pin>);

struct Pin {
    store: Arc<BodyStore>,
    hash: BodyHash,
    size: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.unpin(&self.hash);
    }
}

impl Receipt {
    /// The body's address.
    #[must_use]
    pub fn hash(&self) -> BodyHash {
        self.0.hash
    }
    /// Its size, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address of these bytes.
#[must_use]
pub fn address(bytes: &[u8]) -> BodyHash {
    BodyHash(*blake3::hash(bytes).as_bytes())
}

impl BodyStore {
    /// Opens the store: large bodies lie below `dir`, unfinished files there are removed.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(dir: &Path, journal: Journal) -> Result<Arc<Self>, BodyError> {
        let large = LargeBodies::open(dir)?;
        let uploads = upload::Uploads::open(&dir.join("uploads"))?;
        Ok(Arc::new(Self { journal, large, uploads: Mutex::new(uploads), keeping: Mutex::default(), arrived: Notify::new() }))
    }

    /// Stores a body and pins it. Blocks for the disk when it is larger than [`JOURNAL_BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`BodyError::Busy`], [`BodyError::NoSpace`] or a failed disk.
    pub fn put(self: &Arc<Self>, bytes: &Bytes, now_ms: u64) -> Result<Receipt, BodyError> {
        self.put_addressed(address(bytes), bytes, now_ms)
    }

    /// Stores a body that came with an address, after checking it.
    ///
    /// # Errors
    /// As [`BodyStore::put`], and [`BodyError::WrongHash`].
    pub fn put_checked(self: &Arc<Self>, hash: BodyHash, bytes: &Bytes, now_ms: u64) -> Result<Receipt, BodyError> {
        if address(bytes) != hash {
            return Err(BodyError::WrongHash(hash));
        }
        self.put_addressed(hash, bytes, now_ms)
    }

    fn put_addressed(self: &Arc<Self>, hash: BodyHash, bytes: &Bytes, now_ms: u64) -> Result<Receipt, BodyError> {
        // Pinned first, so that a collector that runs meanwhile leaves the body alone.
        let receipt = self.pin(hash, bytes.len() as u64);
        self.fresh(hash, now_ms);
        if bytes.len() > JOURNAL_BODY_BYTES_MAX {
            self.large.put(&hash, bytes)?;
        } else {
            self.put_in_journal(hash, bytes.clone())?;
        }
        self.arrived.notify_waiters();
        Ok(receipt)
    }

    fn put_in_journal(&self, hash: BodyHash, bytes: Bytes) -> Result<(), BodyError> {
        // A refusal is told before `put_body` returns; a failed write ends the journal, and with it every later entry.
        let refused: Arc<Mutex<Option<JournalFault>>> = Arc::default();
        let told = refused.clone();
        let done = move |result: Result<(), JournalFault>| {
            if let Err(fault) = result {
                *lock(&told) = Some(fault);
            }
        };
        self.journal.put_body(hash, bytes, Box::new(done));
        match lock(&refused).take() {
            Some(fault) => Err(fault.into()),
            None => Ok(()),
        }
    }

    fn pin(self: &Arc<Self>, hash: BodyHash, size: u64) -> Receipt {
        lock(&self.keeping).pin(hash);
        Receipt(Arc::new(Pin { store: self.clone(), hash, size }))
    }

    fn unpin(&self, hash: &BodyHash) {
        lock(&self.keeping).unpin(hash);
    }

    /// Its size, if it is here.
    #[must_use]
    pub fn size(&self, hash: &BodyHash) -> Option<u64> {
        self.journal.body_state(hash).or_else(|| self.large.size(hash))
    }

    /// A whole body, hashed anew.
    ///
    /// # Errors
    /// [`BodyError::Absent`] when it is not here or was damaged; a failed disk.
    pub fn read(&self, hash: &BodyHash) -> Result<Bytes, BodyError> {
        if let Some(bytes) = self.journal.read_body(hash)? {
            return Ok(bytes);
        }
        self.large.read(hash)
    }

    /// At most `length` bytes from `offset`; fewer only at the body's end. Pieces of large bodies are checked block by block.
    ///
    /// # Errors
    /// As [`BodyStore::read`].
    pub fn read_range(&self, hash: &BodyHash, offset: u64, length: usize) -> Result<Bytes, BodyError> {
        if self.large.size(hash).is_some() {
            return self.large.read_range(hash, offset, length);
        }
        let bytes = self.read(hash)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(start..start.saturating_add(length).min(bytes.len())))
    }

    /// Waits until all of these are present, at most `within`; those that are not then. Keeps them from being collected for
    /// [`GRACE_MS`].
    pub async fn wait_present(&self, hashes: &[BodyHash], within: Duration, now_ms: u64) -> Vec<BodyHash> {
        self.hold(hashes, now_ms);
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Registered before looking, so that an arrival in between is not missed.
            arrived.as_mut().enable();
            let missing: Vec<BodyHash> = hashes.iter().filter(|hash| self.size(hash).is_none()).copied().collect();
            if missing.is_empty() || tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return missing;
            }
        }
    }

    fn remove(&self, hash: &BodyHash) {
        self.journal.remove_body(hash);
        self.large.remove(hash);
    }

    /// How many bodies have files of their own, and their bytes.
    #[must_use]
    pub fn large_usage(&self) -> (u64, u64) {
        self.large.usage()
    }
}

/// Sizes of large bodies by address.
pub(crate) type Sizes = HashMap<BodyHash, u64>;

#[cfg(test)]
mod tests;
