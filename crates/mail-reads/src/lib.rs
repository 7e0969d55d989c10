//! Answers reads at the holder: pages of FETCH and SEARCH over the state machine's views and the bodies. No I/O of its own: bodies
//! come through [`Bodies`].

mod body;
mod fetch;
mod parts;
mod rows;
mod search;
#[cfg(test)]
mod tests;

pub use fetch::fetch_page;
pub use search::search_page;

use bytes::Bytes;
use parliament_ids::BodyHash;
use parliament_mailbox_state::TableFault;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;

/// Reads bodies.
pub trait Bodies: Send + Sync {
    /// A whole body, checked against its hash. May block for a disk read.
    ///
    /// # Errors
    /// [`Unreadable`] when it is not here or damaged: it can be had from another replica.
    fn read(&self, hash: &BodyHash) -> Result<Bytes, Unreadable>;
}

/// A body cannot be read on this node now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable(pub BodyHash);

/// Why a page could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica's tables are damaged.
    #[error(transparent)]
    Tables(#[from] TableFault),
    /// A body is missing here.
    #[error("body {0} cannot be read on this node")]
    Body(BodyHash),
}

impl From<Unreadable> for ReadError {
    fn from(missing: Unreadable) -> Self {
        Self::Body(missing.0)
    }
}

/// What FETCH asks of a message again and again, in its wire form.
#[derive(Debug)]
pub struct Parsed {
    pub(crate) envelope: Bytes,
    pub(crate) body: Bytes,
    pub(crate) body_structure: Bytes,
    pub(crate) preview: String,
}

/// Weighs a [`Parsed`] by its bytes.
#[derive(Clone, Debug)]
pub struct ByBytes;

impl Weighter<BodyHash, Arc<Parsed>> for ByBytes {
    fn weight(&self, _: &BodyHash, parsed: &Arc<Parsed>) -> u64 {
        (160 + parsed.envelope.len() + parsed.body.len() + parsed.body_structure.len() + parsed.preview.len()) as u64
    }
}

/// Remembers [`Parsed`] messages by the address of their bodies, up to a bound in bytes. Losing it costs time only.
pub type ParsedCache = Cache<BodyHash, Arc<Parsed>, ByBytes>;

/// A cache of at most `bytes`.
#[must_use]
pub fn parsed_cache(bytes: u64) -> ParsedCache {
    // About 1.5 KB per message, so that the cache's own tables fit its bytes.
    Cache::with_weighter(usize::try_from(bytes / 1500).unwrap_or(1000).max(1000), bytes, ByBytes)
}

/// Bodies with the cache of what was computed from them.
pub struct Parsing<'a> {
    /// Reads bodies.
    pub bodies: &'a dyn Bodies,
    /// Remembers.
    pub cache: &'a ParsedCache,
}
