//! The start-up check that sled's syncs reach the device.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{TableError, real_sync};

/// Keeps the folders of runs at the same time apart.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// Checks in the folder for temporary files that sled's syncs are real in this binary. The server refuses to start otherwise.
///
/// # Errors
/// [`TableError::SyncNotReal`], or what the small database met.
pub fn self_test() -> Result<(), TableError> {
    self_test_in(&std::env::temp_dir())
}

/// [`self_test`] with a small database made in and removed from `folder`, which should be on the data's file system.
///
/// # Errors
/// As [`self_test`].
pub fn self_test_in(folder: &Path) -> Result<(), TableError> {
    if !real_sync::linked() {
        return Err(TableError::SyncNotReal("the symbol is the C library's".into()));
    }
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let dir = folder.join(format!("parliament-self-test.{}.{run}", std::process::id()));
    let outcome = counted_flush(&dir);
    let removed = std::fs::remove_dir_all(&dir).map_err(TableError::io("remove", &dir));
    outcome.and(removed)
}

fn counted_flush(dir: &Path) -> Result<(), TableError> {
    let sled = |what| move |error: sled::Error| TableError::Sled { what, why: error.to_string() };
    let db = sled::Config::new().path(dir).cache_capacity(1 << 20).flush_every_ms(None).open().map_err(sled("open"))?;
    db.insert(b"self", b"test").map_err(sled("insert"))?;
    let before = real_sync::calls();
    db.flush().map_err(sled("flush"))?;
    if real_sync::calls() == before {
        return Err(TableError::SyncNotReal("a flush of sled did not call it".into()));
    }
    Ok(())
}
