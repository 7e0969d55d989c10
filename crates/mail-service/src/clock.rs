//! The boot-time clock: it counts suspends, so a laptop that slept does not believe in promises of the day before (rule 17).

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the host booted, suspends included.
#[must_use]
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
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
