//! Uploads whose size and hash are not known before their end.

use crate::fault::BodyFault;
use crate::large::Filling;
use crate::{BodyStore, Inner, Receipt};
use bytes::BytesMut;
use parliament_ids::{BodyHash, limits::JOURNAL_BODY_BYTES_MAX};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An upload. Up to the journal's bound it stays in memory, beyond it goes to an unsynced spool file, which goes away with this value unless
/// [`Stage::finish`] makes it the body.
pub struct Stage {
    store: BodyStore,
    hasher: blake3::Hasher,
    memory: BytesMut,
    file: Option<Filling>,
    held: Held,
}

/// The share of the total that an upload holds.
struct Held {
    inner: Arc<Inner>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.staged.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Stage {
    pub(crate) fn new(store: BodyStore) -> Self {
        let held = Held { inner: store.inner.clone(), bytes: 0 };
        Self { store, hasher: blake3::Hasher::new(), memory: BytesMut::new(), file: None, held }
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.held.bytes
    }

    /// True before the first byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.bytes == 0
    }

    /// Takes the next bytes. `StageFull` and `TooLarge` take nothing; writes a file, unsynced, beyond the journal's bound.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BodyFault> {
        let options = &self.store.inner.options;
        let count = bytes.len() as u64;
        if self.held.bytes + count > options.body_bytes_max {
            return Err(BodyFault::TooLarge { max: options.body_bytes_max });
        }
        let staged = self.store.inner.staged.fetch_add(count, Ordering::AcqRel) + count;
        self.held.bytes += count;
        if staged > options.staged_bytes_max {
            self.store.inner.staged.fetch_sub(count, Ordering::AcqRel);
            self.held.bytes -= count;
            return Err(BodyFault::StageFull);
        }
        self.hasher.update(bytes);
        if let Some(file) = &mut self.file {
            return file.write(bytes);
        }
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > JOURNAL_BODY_BYTES_MAX {
            let mut file = self.store.inner.large.fill()?;
            file.write(&self.memory)?;
            self.memory = BytesMut::new();
            self.file = Some(file);
        }
        Ok(())
    }

    /// Makes the upload a body, if it hashes to `expected` where that is given. Blocks on syncs for a large body.
    pub fn finish(self, expected: Option<BodyHash>) -> Result<Receipt, BodyFault> {
        let hash = BodyHash(*self.hasher.finalize().as_bytes());
        if let Some(expected) = expected.filter(|expected| *expected != hash) {
            return Err(BodyFault::WrongHash { expected, got: hash });
        }
        match self.file {
            None => self.store.put_small(hash, self.memory.freeze()),
            Some(file) => self.store.keep_large(hash, self.held.bytes, || Ok(file)),
        }
    }
}
