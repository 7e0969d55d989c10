//! A file system in memory that loses what was not synced, and the tests of journal, tables and bodies on it.
//!
//! Served by FUSE, so that the code under test uses its real files: nothing of it is replaced. What a file holds is kept twice, as reads see
//! it and as a power cut would leave it; the same for the names in a folder, which only a sync of that folder makes durable. `image.rs` has
//! the bytes of files, `tree.rs` the files and folders, `faults.rs` what is made to go wrong, `volume.rs` the commands, `serve.rs` the
//! requests of the kernel, `mount.rs` the mounting.

mod faults;
mod image;
mod mount;
mod random;
mod serve;
mod tree;
mod volume;

pub use faults::{Action, Fault};
pub use mount::{Mounted, mounted};
pub use random::Random;
pub use tree::Loss;
pub use volume::Volume;

use std::io::Write as _;
use std::time::Duration;

/// How long a test of random rounds goes on: as many seconds as are given, unless `PARLIAMENT_STORE_SECONDS` says otherwise.
#[must_use]
pub fn seconds(usual: u64) -> Duration {
    let told = std::env::var("PARLIAMENT_STORE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(usual))
}

/// Says that a test could not run here, where a passing test's output is not shown too: in the file that `PARLIAMENT_SKIPPED_FILE` names.
pub fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
    let Some(path) = std::env::var_os("PARLIAMENT_SKIPPED_FILE") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{what}: {why}")) {
        eprintln!("{}: {error}", std::path::Path::new(&path).display());
    }
}
