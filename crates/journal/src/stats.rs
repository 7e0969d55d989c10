//! Counters of a journal.

use std::time::Duration;

/// Syncs by duration: bucket n counts those below 2^n microseconds (the last one: all longer).
pub const SYNC_BUCKETS: usize = 24;

#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) syncs: u64,
    pub(crate) batches: u64,
    pub(crate) frames: u64,
    pub(crate) bytes_written: u64,
    pub(crate) entry_bytes: u64,
    pub(crate) body_bytes: u64,
    pub(crate) carried_bytes: u64,
    pub(crate) sync_times: [u64; SYNC_BUCKETS],
    pub(crate) rolls: u64,
    pub(crate) recycled: u64,
    pub(crate) quarantined: u64,
}

impl Counters {
    pub(crate) fn synced(&mut self, time: Duration) {
        self.syncs += 1;
        let micros = time.as_micros() as u64;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.sync_times[bucket.min(SYNC_BUCKETS - 1)] += 1;
    }
}

/// What a journal has done since it was opened, and what it holds.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// fdatasync calls, of batches and of segment changes.
    pub flushes: u64,
    /// Batches written.
    pub batches: u64,
    /// Frames written.
    pub frames: u64,
    /// Bytes given to the file system: frames, segment changes, zeros.
    pub bytes_written: u64,
    /// Bytes of entries submitted and written.
    pub entry_bytes: u64,
    /// Bytes of bodies submitted and written.
    pub body_bytes: u64,
    /// Bytes carried forward out of old segments.
    pub carried_bytes: u64,
    /// Histogram of sync times: bucket n counts those below 2^n microseconds.
    pub sync_times: [u64; SYNC_BUCKETS],
    /// Changes to a new segment.
    pub rolls: u64,
    /// Segment files used again.
    pub recycled: u64,
    /// Bodies found damaged.
    pub quarantined: u64,
    /// Segments in use.
    pub segments: u64,
    /// Bytes of them that are written.
    pub used_bytes: u64,
    /// Ready files: the next segment and the reserve.
    pub spares: u64,
    /// Bodies known.
    pub bodies: u64,
    /// Memory of the table of bodies, bytes.
    pub index_bytes: u64,
    /// Operations waiting for the writer.
    pub queued: u64,
}
