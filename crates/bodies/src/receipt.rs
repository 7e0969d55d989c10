//! Proof that a body is here.

use crate::Inner;
use parliament_ids::BodyHash;
use std::sync::Arc;

/// Proof, made only by this crate, that a body is queued in the journal ahead of any entry submitted later (small), or durable (large): an entry
/// that names it may be proposed. While a receipt lives its body is pinned; keep it until the entry has been applied or is known to have failed.
#[must_use]
pub struct Receipt {
    hash: BodyHash,
    size: u64,
    pub(crate) inner: Arc<Inner>,
}

impl Receipt {
    /// The caller has pinned the hash; the receipt takes that pin over.
    pub(crate) fn new(inner: Arc<Inner>, hash: BodyHash, size: u64) -> Self {
        Self { hash, size, inner }
    }

    /// The body's address.
    #[must_use]
    pub fn hash(&self) -> BodyHash {
        self.hash
    }

    /// Bytes of the body.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.inner.unpin(&self.hash);
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receipt({:?}, {} bytes)", self.hash, self.size)
    }
}
