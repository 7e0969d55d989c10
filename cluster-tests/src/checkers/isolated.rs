//! ISOLATED: a node that exchanges words with no other confirms nothing and tells nothing once its lease can have run out: neither a
//! write, which no quorum can have, nor a read, which may be old. Clients' links live all the while.

use super::Verdict;
use crate::history::{History, Kind};

/// Promises last 600 ms and are trusted for 0.9 of that; what was under way may take as long again on a busy machine, nanoseconds.
const LEASE: u64 = 1_000_000_000;

/// Checks a history. Every moment of isolation with an operation that began in it is looked at.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let faults: Vec<_> = history.faults().collect();
    let calls = history.calls();
    for (at, cut) in faults.iter().enumerate().filter(|(_, op)| op.f == "cut" && op.value["alone"] == true) {
        let heal = faults[at..].iter().find(|op| op.f == "heal").map_or(u64::MAX, |op| op.time);
        let over = cut.time + LEASE;
        for call in calls.iter().filter(|call| call.node == cut.key && call.start < heal && call.end > cut.time) {
            verdict.checked += 1;
            if call.outcome == Kind::Ok && (over..heal).contains(&call.end) {
                let (f, key, node) = (&call.f, &call.key, &call.node);
                let after = (call.end - cut.time) / 1_000_000;
                verdict.add(|| format!("{key}: {f} was answered by {node} {after} ms after it was cut off"));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::planted::Story;
    use super::*;
    use serde_json::json;

    fn cut(story: &mut Story) -> &mut Story {
        story.fault_with("cut", "n1", json!({ "reason": "holder", "alone": true }))
    }

    #[test]
    fn silence_and_what_ends_in_time_or_after_healing_hold() {
        let mut story = Story::new();
        story.append("a", 1);
        cut(&mut story).status(2, 1).begin(5, "status", json!(null)).wait(4_000);
        story.fault("heal", "n1").end(5, Kind::Ok, "status", json!({ "uidvalidity": 1, "uidnext": 2, "messages": 1 }));
        assert!(check(&story.done()).holds());
    }

    #[test]
    fn planted_a_read_from_old_tables() {
        let mut story = Story::new();
        story.append("a", 1);
        cut(&mut story).wait(1_200).status(2, 1).fault("heal", "n1");
        assert!(!check(&story.done()).holds());
    }

    #[test]
    fn planted_a_write_without_a_quorum() {
        let mut story = Story::new();
        cut(&mut story).wait(1_200).append("a", 1).fault("heal", "n1");
        assert!(!check(&story.done()).holds());
    }

    #[test]
    fn a_run_in_which_nobody_asked_says_nothing() {
        let mut story = Story::new();
        story.append("a", 1);
        cut(&mut story).wait(3_000).fault("heal", "n1");
        assert!(!check(&story.done()).holds());
    }
}
