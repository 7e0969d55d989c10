//! What can go wrong, and who acts on it.

use parliament_ids::{BodyHash, GroupId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A fault of the journal. `Disk` from a write or a sync is final: every later submission fails with the same value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalFault {
    /// The operating system refused. After a failed write or sync the journal stays dead until the process starts anew.
    #[error("{operation} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// Bytes that had been synced no longer verify: the replicas named must leave their groups and join anew as learners.
    #[error("corrupt frames of groups {groups:?} in segment {segment} near offset {offset}: {what}")]
    Corrupt {
        /// The groups that lost frames.
        groups: Vec<GroupId>,
        /// Sequence number of the segment; 0 when found at an earlier start.
        segment: u64,
        /// Where in the segment, bytes.
        offset: u64,
        /// What did not verify.
        what: &'static str,
    },
    /// A stored body no longer matches its hash. It has been quarantined: it counts as absent and may be put again.
    #[error("body {hash} is damaged in segment {segment}")]
    CorruptBody {
        /// The body's address.
        hash: BodyHash,
        /// Where it lay.
        segment: u64,
    },
    /// Too little free space for bodies ([`crate::Space::NoBodies`] or worse).
    #[error("not enough free space for bodies")]
    NoSpace,
    /// More body bytes are queued than [`crate::Options::queue_bytes_max`]; try again when some have been written.
    #[error("the journal's queue is full")]
    Busy,
    /// A frame above its bound.
    #[error("{bytes} bytes exceed the bound of {max}")]
    TooLarge {
        /// Bytes offered.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Entries must follow each other without a gap. Nothing was queued.
    #[error("group {group} expects index {expected}, was given {got}")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index that may come next.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// The directory belongs to another process, another journal, or a newer format.
    #[error("{}: {what}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        what: &'static str,
    },
}

impl JournalFault {
    /// Makes a `Disk` fault; for `map_err`.
    pub(crate) fn disk(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { operation, path, source: Arc::new(source) }
    }

    /// True when the medium does not give bytes that it has: they may be right, and may be given another time.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if crate::disk::is_medium_error(source))
    }

    /// True for "no space left on device", which is waited out where nothing has been written yet.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
