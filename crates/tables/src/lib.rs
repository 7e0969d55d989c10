//! The tables of a group of users on disk: the only crate that knows sled.
//!
//! # How a write travels
//! A commit goes into an ordered map in memory (the *pending* layer) together with the caller's applied mark. A flush freezes that layer and
//! 1. writes it to a *redo file* of the flush's number and syncs that,
//! 2. writes the same records into sled, record by record, the number last, and syncs sled.
//!
//! A crash before 1 is complete leaves sled as the previous flush left it; a crash after it is mended at the next open, which writes the
//! redo file's records again. So what is found after a crash is always the state at one applied mark, and the caller's log supplies the rest.
//! The redo file stays until the next flush replaces it: sled takes damage in its log for the log's end and opens as of an earlier time
//! without a word, and a number in sled more than one behind the redo file's gives that away.
//!
//! # Why not one sled batch per commit
//! sled 0.34.7 writes its log buffer out before and after each batch: two device syncs for every commit, and it holds a process-wide lock
//! against all readers of all databases meanwhile; a flush holds the other side of that lock while the device syncs. Single inserts take no
//! part in it. Measured for commits of 5 records of 120 to 1200 bytes (3.6 kB) over 30,000 records, without pause:
//!
//! | | syncs | to the device | processor |
//! |---|---|---|---|
//! | sled batch | 2.02 | 20 kB | 166 µs |
//! | single sled inserts, not atomic | 0.02 | 12 kB | 54 µs |
//! | this crate (`examples/commit_cost.rs`) | 0.03 | 20 kB | 58 µs |
//!
//! The commit itself is an insertion into the map in memory; the rest of that is the flush, on another thread. Records written again before
//! a flush cost nothing more, so real load, where few users are hot, is cheaper than these uniform writes. A commit stalls, for a flush of
//! `pending_bytes_max`, only if commits outrun flushes for long. `Mode::HighThroughput` and other flush intervals made no difference beyond
//! noise. A get takes about 1 µs.
//!
//! # Never the only copy
//! Everything here can be built again from a snapshot file and the log. When sled cannot be opened, or a record's checksum is wrong, the
//! database is set aside and the tables start empty in a state that refuses commits until a snapshot is installed. While the process runs,
//! [`GroupTables::check`] reads what lies on the medium, and [`GroupTables::rebuild`] replaces the database at the same applied mark, beside
//! the readers of the old one.

mod base;
mod check;
mod directory;
mod error;
mod group;
mod layers;
mod real_sync;
mod rebuild;
mod record;
mod recover;
mod self_test;
mod snapshot_file;
mod snapshot_run;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use check::{Checked, forget_cached};
pub use error::TableError;
pub use group::{GroupTables, Opened, TableOptions, TableState, TableStats};
pub use rebuild::Staging;
pub use record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use self_test::{self_test, self_test_in};
pub use snapshot_file::{META_BYTES_MAX, SnapshotInfo, read_snapshot_meta, verify_snapshot};
pub use snapshot_run::SnapshotRun;
