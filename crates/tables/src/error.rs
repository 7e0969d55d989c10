//! What can go wrong with tables, and who has to act.

use std::io;
use std::path::{Path, PathBuf};

use parliament_mailbox_state::TableFault;

/// An operation on a group's tables failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A file operation failed: this replica of the group stops.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// sled reported an error or panicked: this replica of the group stops and opens its tables anew.
    #[error("sled, {what}: {why}")]
    Sled {
        /// What was being done.
        what: &'static str,
        /// sled's words.
        why: String,
    },
    /// A record or file is damaged: the tables must be rebuilt from a snapshot.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The tables could not be looked at: that says nothing of them.
    #[error("not checked: {0}")]
    NotChecked(String),
    /// A key, value, mark or meta is longer than this crate stores: an error of the caller.
    #[error("{what} of {bytes} bytes is outside 1 to {max}")]
    Size {
        /// Which of them.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The greatest length.
        max: usize,
    },
    /// The tables wait for a snapshot to be installed (or for [`crate::GroupTables::start_empty`]).
    #[error("the tables are incomplete until a snapshot is installed: {0}")]
    Incomplete(String),
    /// Another snapshot of these tables is being written.
    #[error("a snapshot of these tables is already being written")]
    SnapshotBusy,
    /// The snapshot was given up: too many distinct records changed while it was written, its spill file failed, or an install replaced the
    /// tables. Try again later.
    #[error("snapshot given up: {0}")]
    SnapshotLost(String),
    /// Syncs would not reach the device in this binary: the server must not start.
    #[error("the replacement of sync_file_range is not in effect: {0}")]
    SyncNotReal(String),
}

impl TableError {
    /// True when the bytes on the medium are proven to be wrong, or are not given any more. An error of the system (no space, no
    /// descriptor) proves nothing; what sled says of one has its number in words.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sled { why, .. } => !tells_system_error(why) && !why.contains("could not acquire lock"),
            Self::Io { source, .. } => source.raw_os_error() == Some(libc::EIO) || source.kind() == io::ErrorKind::UnexpectedEof,
            _ => false,
        }
    }

    pub(crate) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}

/// As std writes it for people, and for programmers.
fn tells_system_error(why: &str) -> bool {
    why.contains("(os error ") || why.contains("Os { code: ")
}

impl From<TableError> for TableFault {
    fn from(error: TableError) -> Self {
        Self { what: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_proves_no_damage() {
        let sled = |why: String| TableError::Sled { what: "open", why };
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(!sled(format!("IO error: {}", full())).is_damage());
        assert!(!sled(format!("panic: called `Result::unwrap()` on an `Err` value: Io({:?})", full())).is_damage());
        assert!(!TableError::io("copy", Path::new("db"))(full()).is_damage());
        assert!(!TableError::NotChecked("no space".into()).is_damage());
        assert!(sled("Read corrupted data at file offset None".into()).is_damage());
        assert!(TableError::io("read", Path::new("db"))(io::Error::from_raw_os_error(libc::EIO)).is_damage());
    }
}
