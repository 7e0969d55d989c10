//! The crash suite: on a simulated disk that forgets what was not synced, whatever was acknowledged is there, in order, and nothing else is.

mod crash;
mod damage;
mod model;
mod plain;
mod space;

use crate::sim::SimDisk;
use crate::{Done, Driver, Journal, JournalFault, Options};
use bytes::Bytes;
use parliament_ids::BodyHash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Small segments on a simulated disk.
fn options(disk: &SimDisk) -> Options {
    Options {
        segment_bytes: 64 * 1024,
        reserve_segments: 1,
        carry_after_bytes: 128 * 1024,
        cache_bytes_per_group: 2048,
        disk: Arc::new(disk.clone()),
        journal_id: Some(77),
        ..Options::new("/j")
    }
}

fn open(disk: &SimDisk) -> (Journal, Driver) {
    Journal::open_driven(options(disk)).unwrap()
}

/// A callback that counts its successes.
fn counting(count: &Arc<AtomicU64>) -> Done {
    let count = count.clone();
    Box::new(move |result| {
        if result.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
}

fn nothing() -> Done {
    Box::new(|_| {})
}

/// Where a callback's result can be looked up.
type Told = Arc<std::sync::Mutex<Option<Result<(), JournalFault>>>>;

fn kept() -> (Done, Told) {
    let slot = Arc::new(std::sync::Mutex::new(None));
    let told = slot.clone();
    (Box::new(move |result| *told.lock().unwrap() = Some(result)), slot)
}

fn body(seed: u8, len: usize) -> (BodyHash, Bytes) {
    let bytes = Bytes::from((0..len).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect::<Vec<u8>>());
    (BodyHash(*blake3::hash(&bytes).as_bytes()), bytes)
}
