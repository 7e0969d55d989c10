//! What sessions did and waited for, what was done to holders, and what that comes to. Times are microseconds since the run began.

use crate::checkers::pauses::percentile;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A command that begins this soon after a fault counts among those that the fault may have held up, µs.
const BEGUN_AFTER_US: u64 = 500_000;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// OK.
    Ok,
    /// NO with another reason than the one below.
    Refused,
    /// `NO [UNAVAILABLE]`, `-ERR [SYS/TEMP]`, 4xx: beyond the bound, session intact.
    Unavailable,
    /// The session broke.
    Broken,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// What it was.
    pub kind: &'static str,
    /// When it was sent.
    pub start: u64,
    /// When it was answered.
    pub end: u64,
    /// The longest wait for bytes meanwhile.
    pub wait: (u64, u64),
    /// How it ended.
    pub ended: Ended,
}

/// What one session did.
#[derive(Debug, Default)]
pub struct Track {
    /// Which user's it is.
    pub user: usize,
    /// Its commands.
    pub records: Vec<Record>,
}

/// All sessions' tracks.
#[derive(Clone, Debug)]
pub struct Book {
    began: Instant,
    tracks: Arc<Mutex<Vec<Arc<Mutex<Track>>>>>,
}

/// Where one session notes its commands.
#[derive(Clone, Debug)]
pub struct Log {
    began: Instant,
    track: Arc<Mutex<Track>>,
    open: Option<(&'static str, Instant)>,
}

impl Default for Book {
    fn default() -> Self {
        Self { began: Instant::now(), tracks: Arc::default() }
    }
}

fn micros(since: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(since).as_micros()).unwrap_or(u64::MAX)
}

impl Book {
    /// Now.
    pub fn now(&self) -> u64 {
        micros(self.began, Instant::now())
    }

    /// A log for a new session.
    pub fn log(&self, user: usize) -> Log {
        let track = Arc::new(Mutex::new(Track { user, records: Vec::new() }));
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).push(track.clone());
        Log { began: self.began, track, open: None }
    }

    /// What was noted so far.
    pub fn tracks(&self) -> Vec<Track> {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = |track: &Arc<Mutex<Track>>| {
            let track = track.lock().unwrap_or_else(PoisonError::into_inner);
            Track { user: track.user, records: track.records.clone() }
        };
        tracks.iter().map(copy).collect()
    }
}

impl Log {
    /// A command is sent.
    pub fn begin(&mut self, kind: &'static str) {
        self.open = Some((kind, Instant::now()));
    }

    /// It is answered; `waited` is the longest wait for bytes, else all of it.
    pub fn end(&mut self, ended: Ended, waited: Option<(Instant, Instant)>) {
        let Some((kind, start)) = self.open.take() else { return };
        let end = Instant::now();
        let (from, to) = waited.unwrap_or((start, end));
        let at = |instant| micros(self.began, instant);
        let record = Record { kind, start: at(start), end: at(end), wait: (at(from), at(to)), ended };
        self.track.lock().unwrap_or_else(PoisonError::into_inner).records.push(record);
    }

    /// Nothing is under way after all.
    pub fn abandon(&mut self) {
        self.open = None;
    }
}

/// A fault and the users whose holder it hit.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What was done.
    pub kind: &'static str,
    /// When the holder ceased to serve.
    pub since: u64,
    /// When it was killed; else as `since`.
    pub at: u64,
    /// The users that the node held then.
    pub users: BTreeSet<usize>,
}

/// What the faults of a run came to.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Sessions of hit users, summed over the faults, by kind of fault.
    pub sessions_hit: BTreeMap<&'static str, u64>,
    /// Of kills, how many sessions had a command in flight, IDLE counted.
    pub in_flight: u64,
    /// The same without IDLE.
    pub in_flight_not_idle: u64,
    /// Commands in flight at kills, by kind.
    pub kinds_hit: BTreeMap<&'static str, u64>,
    /// Waits of affected commands after kills, µs, sorted.
    pub pauses: Vec<u64>,
    /// All commands by kind.
    pub commands: BTreeMap<&'static str, u64>,
    /// `NO [UNAVAILABLE]` and its like.
    pub unavailable: u64,
    /// Sessions that broke.
    pub broken: u64,
}

/// How long a command waited on account of a fault; `None` when it was not affected.
fn pause(record: &Record, fault: &Fault) -> Option<u64> {
    let affected = record.start < fault.at + BEGUN_AFTER_US && record.end > fault.since && record.kind != "IDLE";
    affected.then(|| {
        let (from, to) = record.wait;
        // The longest wait was before the fault: what came after it was shorter.
        if to <= fault.since { (to - from).min(record.end - fault.since) } else { to - from.max(fault.since) }
    })
}

/// Sums up.
pub fn costs(tracks: &[Track], faults: &[Fault]) -> Costs {
    let mut costs = Costs::default();
    for record in tracks.iter().flat_map(|track| &track.records) {
        *costs.commands.entry(record.kind).or_default() += 1;
        costs.unavailable += u64::from(record.ended == Ended::Unavailable);
        costs.broken += u64::from(record.ended == Ended::Broken);
    }
    for fault in faults {
        for track in tracks.iter().filter(|track| fault.users.contains(&track.user)) {
            let from = track.records.partition_point(|record| record.end <= fault.since);
            let rest = &track.records[from..];
            // A session that was over by then, or had not begun.
            if rest.is_empty() || track.records.first().is_none_or(|record| record.start > fault.at) {
                continue;
            }
            *costs.sessions_hit.entry(fault.kind).or_default() += 1;
            if !fault.kind.contains("kill") {
                continue;
            }
            if let Some(hit) = rest.iter().find(|record| record.start <= fault.at && record.end > fault.at) {
                costs.in_flight += 1;
                costs.in_flight_not_idle += u64::from(hit.kind != "IDLE");
                *costs.kinds_hit.entry(hit.kind).or_default() += 1;
            }
            costs.pauses.extend(rest.iter().take_while(|r| r.start < fault.at + BEGUN_AFTER_US).filter_map(|r| pause(r, fault)));
        }
    }
    costs.pauses.sort_unstable();
    costs
}

impl Costs {
    /// Sessions of kills.
    pub fn session_kills(&self) -> u64 {
        self.sessions_hit.iter().filter(|(kind, _)| kind.contains("kill")).map(|(_, n)| n).sum()
    }

    /// As a document.
    pub fn to_json(&self) -> Value {
        let ms = |q| percentile(&self.pauses, q) / 1000;
        json!({
            "session_kills": self.session_kills(), "sessions_hit": self.sessions_hit, "in_flight": self.in_flight,
            "in_flight_without_idle": self.in_flight_not_idle, "in_flight_by_kind": self.kinds_hit, "commands": self.commands,
            "unavailable": self.unavailable, "broken": self.broken,
            "pause_ms": { "p50": ms(0.5), "p99": ms(0.99), "max": ms(1.0), "of": self.pauses.len() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(at: u64, user: usize) -> Fault {
        Fault { kind: "kill", since: at, at, users: [user].into() }
    }

    fn record(kind: &'static str, start: u64, end: u64) -> Record {
        Record { kind, start, end, wait: (start, end), ended: Ended::Ok }
    }

    #[test]
    fn what_was_in_flight_waited_from_the_fault_on() {
        let track =
            Track { user: 3, records: vec![record("STORE", 10, 20), record("FETCH", 1_000, 900_000), record("NOOP", 900_001, 900_009)] };
        let idle = Track { user: 3, records: vec![record("IDLE", 0, 5_000_000)] };
        let other = Track { user: 4, records: vec![record("STORE", 0, 5_000_000)] };
        let costs = costs(&[track, idle, other], &[kill(100_000, 3)]);
        assert_eq!((costs.session_kills(), costs.in_flight, costs.in_flight_not_idle), (2, 2, 1));
        assert_eq!(costs.pauses, [800_000], "{costs:?}");
        assert_eq!(costs.kinds_hit["FETCH"], 1);
    }

    #[test]
    fn planted_a_pause_of_the_next_command_is_not_missed() {
        let track = Track { user: 0, records: vec![record("STORE", 10, 20), record("STORE", 30, 3_000_000)] };
        let costs = costs(&[track], &[kill(25, 0)]);
        assert_eq!((costs.in_flight, costs.pauses.as_slice()), (0, &[2_999_970][..]));
    }

    #[test]
    fn a_slow_reader_is_no_slow_server() {
        let slow = Record { wait: (150_000, 160_000), ..record("FETCH", 0, 2_000_000) };
        let before = Record { wait: (1_000, 3_000), ..record("FETCH", 0, 2_000_000) };
        let fault = kill(100_000, 0);
        assert_eq!((pause(&slow, &fault), pause(&before, &fault)), (Some(10_000), Some(2_000)));
        assert_eq!(pause(&record("IDLE", 0, 2_000_000), &fault), None);
    }

    #[test]
    fn a_holder_that_hangs_before_it_is_killed_costs_from_then_on() {
        let track = Track { user: 0, records: vec![record("STORE", 10, 20), record("STORE", 30, 900)] };
        let costs = costs(&[track], &[Fault { since: 50, ..kill(400, 0) }]);
        assert_eq!((costs.in_flight, costs.pauses.as_slice()), (1, &[850][..]));
    }

    #[test]
    fn moves_are_counted_but_are_no_kills() {
        let track = Track { user: 0, records: vec![record("STORE", 10, 20), record("STORE", 30, 40)] };
        let costs = costs(&[track], &[Fault { kind: "move", ..kill(35, 0) }]);
        assert_eq!((costs.session_kills(), costs.sessions_hit["move"]), (0, 1));
    }
}
