//! Pauses: how long clients on surviving nodes waited when a node was killed, stopped or cut off.

use crate::history::{Call, History, Kind};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A kill is noted before it is carried out by a command: within this time, nanoseconds, the victim may still acknowledge. It stays
/// down for much longer.
const KILL_TAKES: u64 = 250_000_000;

/// What kills cost.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// For each kill and each client on a surviving node: the longest time between two of its acknowledgements that began before
    /// the next kill and ended after this one, nanoseconds, sorted.
    pub gaps: Vec<u64>,
    /// For each kill the longest of these, sorted.
    pub worst: Vec<u64>,
    /// Sessions that broke although their node lived.
    pub broken: u64,
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
            "refused": self.refused, "broken_sessions": self.broken, "pause_ms": three(&self.gaps), "worst_pause_per_kill_ms": three(&self.worst),
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
    let kills: Vec<_> = history.faults().filter(|op| ["kill", "pause", "cut"].contains(&op.f.as_str())).collect();
    let killed: Vec<(u64, &str)> = kills.iter().map(|op| (op.time, op.key.as_str())).collect();
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
        let all_seen: Vec<Seen> =
            clients.values().filter_map(|calls| seen(calls, &killed, kill.time, until.min(load_end), &kill.key)).collect();
        pauses.broken += all_seen.iter().map(|seen| seen.broken).sum::<u64>();
        let gaps: Vec<u64> = all_seen.iter().map(|seen| seen.longest).collect();
        pauses.worst.extend(gaps.iter().max());
        pauses.gaps.extend(gaps);
    }
    pauses.gaps.sort_unstable();
    pauses.worst.sort_unstable();
    pauses
}

/// Where a client was at an acknowledgement.
struct Ack<'h> {
    end: u64,
    call: &'h Call,
}

/// What one client saw of a kill.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    longest: u64,
    broken: u64,
}

fn note(found: &mut Option<Seen>, wait: u64, broken: bool) {
    let seen = found.get_or_insert(Seen { longest: 0, broken: 0 });
    seen.longest = seen.longest.max(wait);
    seen.broken += u64::from(broken);
}

/// The longest time between acknowledgements of one client around a kill, where none at all up to `until` counts as one gap up to
/// there; `None` when it was connected to the victim, or had no acknowledgement before. A client that left its node of its own accord, or
/// whose own node was killed later, waited for no survivor: the time is counted up to there.
fn seen(calls: &[&Call], kills: &[(u64, &str)], kill: u64, until: u64, victim: &str) -> Option<Seen> {
    let last = calls.iter().rfind(|c| c.start < kill)?;
    if last.node == victim {
        return None;
    }
    let acks: Vec<Ack<'_>> = calls.iter().filter(|c| c.outcome == Kind::Ok).map(|call| Ack { end: call.end, call }).collect();
    let from = acks.partition_point(|ack| ack.end < kill);
    let mut before = acks.get(from.checked_sub(1)?)?;
    let mut found: Option<Seen> = None;
    for ack in &acks[from..] {
        if before.end >= until {
            return found;
        }
        let noted_from = before.call.start.saturating_sub(KILL_TAKES);
        let own = kills.iter().find(|(time, node)| *node == before.call.node && (noted_from..ack.end).contains(time));
        if let Some((time, _)) = own {
            note(&mut found, time.saturating_sub(before.end), false);
            return found;
        }
        if ack.call.session != before.call.session {
            let lost = calls.iter().any(|c| c.session == before.call.session && c.start >= before.end && c.outcome != Kind::Ok);
            if lost {
                note(&mut found, ack.end - before.end, true);
            }
            // From here on it is a client of another node.
            return found;
        }
        note(&mut found, ack.end - before.end, false);
        before = ack;
    }
    if found.is_none() {
        note(&mut found, until.saturating_sub(before.end), false);
    }
    found
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
    fn planted_a_session_that_breaks_at_a_node_that_lives() {
        let mut story = Story::new();
        story.append("a", 1).fault("kill", "n2").append_ends(0, "b", Kind::Info).session("s.2").wait(3000).append("c", 2);
        let pauses = measure(&story.done());
        assert_eq!((pauses.broken, pauses.worst[0] / 1_000_000_000), (1, 3), "{pauses:?}");
    }

    #[test]
    fn a_client_that_goes_elsewhere_by_itself_waits_for_no_survivor() {
        let mut story = Story::new();
        story.append("a", 1).fault("kill", "n2").append("b", 2).session("s.2").wait(3000).append("c", 3);
        let pauses = measure(&story.done());
        assert!(pauses.broken == 0 && pauses.worst[0] < 10_000_000, "{pauses:?}");
    }

    #[test]
    fn the_next_kill_of_a_clients_own_node_ends_its_wait() {
        let mut story = Story::new();
        story.append("a", 1).fault("kill", "n2").wait(500).append("b", 2).wait(100).fault("kill", "n1");
        story.append_ends(0, "c", Kind::Info).session("s.2").wait(3000).append("d", 3);
        let pauses = measure(&story.done());
        assert!(pauses.broken == 0 && (500..510).contains(&(pauses.worst[0] / 1_000_000)), "{pauses:?}");
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
