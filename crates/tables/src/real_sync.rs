//! Makes sled's sync reach the device.
//!
//! sled 0.34.7 ends each write of its log with `sync_file_range`, which starts write-back but neither waits for the device's cache nor
//! writes file metadata: after a power cut the database may be unreadable. The symbol defined here takes the place of the C library's in
//! the final binary and calls `fdatasync`. This is the only `unsafe` of the workspace.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Replaces the C library's `sync_file_range(2)`: syncs the whole file's data and the metadata needed to read it, whatever the range.
///
/// # Safety
/// Sound for any argument: a bad descriptor only yields -1 and `EBADF`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: fdatasync takes any integer as a descriptor and touches no memory of ours.
    unsafe { libc::fdatasync(fd) }
}

/// How many real syncs were made by way of the replaced symbol since the process started.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Whether the symbol that other crates link against is ours. It also keeps the symbol in every binary that opens tables.
pub(crate) fn linked() -> bool {
    let ours: unsafe extern "C" fn(libc::c_int, libc::off64_t, libc::off64_t, libc::c_uint) -> libc::c_int = sync_file_range;
    let theirs: unsafe extern "C" fn(libc::c_int, libc::off64_t, libc::off64_t, libc::c_uint) -> libc::c_int = libc::sync_file_range;
    std::ptr::fn_addr_eq(ours, theirs)
}
