//! Pauses: how long clients on surviving nodes waited when a node was killed.

use crate::history::{Call, History, Kind};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What kills cost.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// For each kill and each client on a surviving node: the longest time between two of its acknowledgements that began before
    /// the next kill and ended after this one, nanoseconds, sorted.
    pub gaps: Vec<u64>,
    /// For each kill the longest of these, sorted.
    pub worst: Vec<u64>,
    /// Kills by their reason.
    pub kills: BTreeMap<String, u64>,
    /// Messages in flight at kills, all nodes together.
    pub in_flight: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Operations whose outcome nobody knows.
    pub unknown: u64,
    /// Messages refused.
    pub refused: u64,
}

/// The value below which a share `q` of a sorted slice lies; 0 when it is empty.
pub fn percentile(sorted: &[u64], q: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let at = (sorted.len() as f64 * q) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

impl Pauses {
    /// As a document, times in milliseconds.
    pub fn to_json(&self) -> Value {
        let ms = |n: u64| n / 1_000_000;
        let three = |sorted: &[u64]| {
            let max = sorted.last().copied().unwrap_or(0);
            json!({ "p50": ms(percentile(sorted, 0.5)), "p99": ms(percentile(sorted, 0.99)), "max": ms(max), "of": sorted.len() })
        };
        json!({
            "kills": self.kills, "acknowledged": self.acknowledged, "in_flight_at_kills": self.in_flight, "unknown": self.unknown,
            "refused": self.refused, "pause_ms": three(&self.gaps), "worst_pause_per_kill_ms": three(&self.worst),
        })
    }
}

/// Measures a history. Clients are told apart by the part of their session's name before the dot.
pub fn measure(history: &History) -> Pauses {
    let calls = history.calls();
    let mut pauses = Pauses::default();
    for call in calls.iter().filter(|c| c.sends()) {
        match call.outcome {
            Kind::Ok => pauses.acknowledged += 1,
            Kind::Fail => pauses.refused += 1,
            Kind::Info | Kind::Invoke => pauses.unknown += 1,
        }
    }
    let mut clients: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls.iter().filter(|c| c.f != "scan") {
        clients.entry(call.session.split('.').next().unwrap_or_default()).or_default().push(call);
    }
    let load_end = calls.iter().filter(|c| c.f != "scan" && c.end < u64::MAX).map(|c| c.end).max().unwrap_or(0);
    let kills: Vec<_> = history.faults().filter(|op| op.f == "kill").collect();
    for (n, kill) in kills.iter().enumerate() {
        let until = kills.get(n + 1).map_or(u64::MAX, |next| next.time);
        let reason = kill.value.get("reason").and_then(Value::as_str).unwrap_or("random").to_owned();
        // No client is on a survivor then, and each message in flight belongs to its own node's kill.
        let all = reason == "all at once";
        *pauses.kills.entry(reason).or_default() += 1;
        let under_way = |c: &&Call| c.sends() && c.start < kill.time && c.end > kill.time && (!all || c.node == kill.key);
        pauses.in_flight += calls.iter().filter(under_way).count() as u64;
        if all {
            continue;
        }
        let gaps: Vec<u64> = clients.values().filter_map(|calls| gap(calls, kill.time, until.min(load_end), &kill.key)).collect();
        pauses.worst.extend(gaps.iter().max());
        pauses.gaps.extend(gaps);
    }
    pauses.gaps.sort_unstable();
    pauses.worst.sort_unstable();
    pauses
}

/// The longest time between acknowledgements of one client around a kill, where none at all up to `until` counts as one gap up to
/// there; `None` when it was connected to the victim, or had no acknowledgement before.
fn gap(calls: &[&Call], kill: u64, until: u64, victim: &str) -> Option<u64> {
    let last = calls.iter().rfind(|c| c.start < kill)?;
    if last.node == victim {
        return None;
    }
    let acks: Vec<u64> = calls.iter().filter(|c| c.outcome == Kind::Ok).map(|c| c.end).collect();
    let from = acks.partition_point(|end| *end < kill);
    let mut before = *acks.get(from.checked_sub(1)?)?;
    let mut longest = None;
    for &end in &acks[from..] {
        if before >= until {
            break;
        }
        longest = longest.max(Some(end - before));
        before = end;
    }
    longest.or(Some(until.saturating_sub(before)))
}

#[cfg(test)]
mod tests {
    use super::super::planted::Story;
    use super::*;

    #[test]
    fn the_pause_is_the_longest_gap_after_a_kill() {
        let mut story = Story::new();
        story.append("a", 1).append("b", 2).fault("kill", "n2").wait(700).append("c", 3).wait(20).append("d", 4);
        let pauses = measure(&story.done());
        assert_eq!(pauses.worst.len(), 1);
        assert!((700..710).contains(&(pauses.worst[0] / 1_000_000)), "{pauses:?}");
        assert_eq!((pauses.acknowledged, pauses.in_flight, pauses.kills["random"]), (4, 0, 1));
    }

    #[test]
    fn planted_a_client_that_never_hears_again() {
        let mut story = Story::new();
        story.append("a", 1).fault("kill", "n2").begin(0, "append", json!({ "id": "b" })).wait(9000);
        story.begin(3, "status", Value::Null).end(3, Kind::Fail, "status", Value::Null);
        assert!(measure(&story.done()).worst[0] >= 9_000_000_000);
    }

    #[test]
    fn clients_of_the_victim_are_not_counted() {
        let pauses = measure(&Story::new().append("a", 1).fault("kill", "n1").wait(700).append("c", 3).done());
        assert!(pauses.gaps.is_empty());
    }

    #[test]
    fn what_was_under_way_at_a_kill_is_counted() {
        let mut story = Story::new();
        story.begin(0, "append", json!({ "id": "a" })).fault("kill", "n2").end(0, Kind::Ok, "append", json!({ "id": "a", "uid": 1 }));
        assert_eq!(measure(&story.done()).in_flight, 1);
    }

    #[test]
    fn percentiles_of_nothing_and_one() {
        assert_eq!((percentile(&[], 0.5), percentile(&[3], 0.99), percentile(&[1, 2, 3, 4], 0.5)), (0, 3, 3));
    }
}
