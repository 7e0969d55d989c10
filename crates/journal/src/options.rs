//! Settings of a journal and the state of its space.

use crate::disk::{Disk, RealDisk};
use std::path::PathBuf;
use std::sync::Arc;

/// How a fresh segment (one that no recycled file could serve) gets its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// Zero-filled while segments hold few bodies, since such segments are recycled soon and often; allocated otherwise.
    Auto,
    /// fallocate: no byte is written twice, but a sync also commits the change of extents from unwritten to written.
    Allocate,
    /// Zero-filled: one device flush per sync, but the bytes of a segment that lives on were written twice.
    Zero,
}

/// How a [`crate::Journal`] is opened.
#[derive(Clone)]
pub struct Options {
    /// The folder; made when missing.
    pub dir: PathBuf,
    /// Nominal size of a segment, bytes: 64 KiB to 1 GiB. A segment's footer may extend it.
    pub segment_bytes: u64,
    /// Segments kept ready beside the next one, so that votes, truncations and small entries go on when the disk is full.
    pub reserve_segments: u32,
    /// Bodies are refused as [`crate::JournalFault::Busy`] while more body bytes than this wait to be written.
    pub queue_bytes_max: u64,
    /// False leaves out every sync. For tests only: a power cut then loses acknowledged frames.
    pub sync: bool,
    /// Where fresh segments come from.
    pub fresh: Fresh,
    /// Recent entries kept in memory, bytes per group.
    pub cache_bytes_per_group: usize,
    /// Bodies are refused below this share of free space, percent.
    pub no_bodies_below_percent: u8,
    /// Entries that take space should not be proposed below this share of free space, percent.
    pub no_entries_below_percent: u8,
    /// Live frames of a segment are carried forward only when it lies this far behind the newest one, bytes.
    pub carry_after_bytes: u64,
    /// Pace of carrying live frames forward, bytes per second.
    pub compact_bytes_per_second: u64,
    /// The files. Tests put a simulated disk here.
    pub disk: Arc<dyn Disk>,
    /// Id of a journal that is made new; random by default.
    pub journal_id: Option<u64>,
}

impl Options {
    /// The defaults for a folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 * 1024 * 1024,
            reserve_segments: 2,
            queue_bytes_max: 64 * 1024 * 1024,
            sync: true,
            fresh: Fresh::Auto,
            cache_bytes_per_group: 1024 * 1024,
            no_bodies_below_percent: 10,
            no_entries_below_percent: 5,
            carry_after_bytes: 256 * 1024 * 1024,
            compact_bytes_per_second: 32 * 1024 * 1024,
            disk: Arc::new(RealDisk),
            journal_id: None,
        }
    }

    pub(crate) fn clamped(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(64 * 1024, 1024 * 1024 * 1024);
        self
    }
}

/// What the free space still allows (rule 25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Everything.
    Ok,
    /// Bodies are refused; entries go on.
    NoBodies,
    /// Only what frees space or keeps the replicas alive should be proposed. The journal itself still takes entries and votes, from its reserve.
    NoEntries,
}
