//! The boot-time clock: it counts suspends, so a laptop that slept does not believe in promises of the day before (rule 17). It is asked
//! through the C library, as tokio and the standard library ask theirs: who puts another clock under the whole process, as tests of wrong
//! clocks do, puts it under this too.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the host booted, suspends included.
///
/// # Panics
/// Never on Linux, which has this clock since 2.6.39: a node must not go on without it.
#[must_use]
pub fn boot_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("the kernel has a boot-time clock");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
}

/// UTC seconds. Only for what people see (INTERNALDATE, SAVEDATE, UIDVALIDITY of new mailboxes); no decision rests on it.
#[must_use]
pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// UTC milliseconds, for telling people how far clocks differ; no decision rests on it.
#[must_use]
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
