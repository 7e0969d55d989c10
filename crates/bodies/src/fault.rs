//! What can go wrong with a body.

use parliament_ids::BodyHash;
use parliament_journal::JournalFault;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A fault of the body store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyFault {
    /// The journal refused or failed; `Busy` and `NoSpace` pass, the others do not.
    #[error(transparent)]
    Journal(#[from] JournalFault),
    /// The operating system refused, for a large body or a spool file.
    #[error("{operation} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The bytes are not those that were announced.
    #[error("the bytes hash to {got}, not to {expected}")]
    WrongHash {
        /// The announced address.
        expected: BodyHash,
        /// The address of what came.
        got: BodyHash,
    },
    /// Above [`crate::Options::body_bytes_max`].
    #[error("a body of more than {max} bytes")]
    TooLarge {
        /// Bytes allowed.
        max: u64,
    },
    /// The uploads under way hold all the space they may ([`crate::Options::staged_bytes_max`]).
    #[error("too many bytes are being uploaded")]
    StageFull,
    /// The stored bytes no longer match; they have been quarantined and the body counts as missing until replaced.
    #[error("body {0} is damaged")]
    Damaged(BodyHash),
    /// The body is not here.
    #[error("body {0} is missing")]
    Missing(BodyHash),
}

impl BodyFault {
    pub(crate) fn disk(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { operation, path, source: Arc::new(source) }
    }

    /// True when the medium does not give bytes that it has.
    pub(crate) fn is_unreadable(&self) -> bool {
        match self {
            Self::Journal(fault) => fault.is_unreadable(),
            Self::Disk { source, .. } => parliament_journal::disk::is_medium_error(source),
            _ => false,
        }
    }

    /// True when the same call may succeed soon.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Journal(JournalFault::Busy) | Self::StageFull)
    }
}
