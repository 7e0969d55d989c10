//! FRESH: a read that began after an acknowledgement shows what was acknowledged, whichever node answers it, and nothing appears
//! later inside what a read already showed. A node that was stopped and resumed and answers from its old state fails this.

use super::Verdict;
use crate::history::{Call, History, Kind};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_key: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for call in history.calls() {
        by_key.entry(call.key.clone()).or_default().push(call);
    }
    for calls in by_key.values() {
        acknowledged_is_seen(calls, &mut verdict);
        nothing_in_between(calls, &mut verdict);
    }
    verdict
}

fn acknowledged_is_seen(calls: &[Call], verdict: &mut Verdict) {
    let mut acks: Vec<&Call> = calls.iter().filter(|c| c.sends() && c.outcome == Kind::Ok).collect();
    acks.sort_by_key(|c| c.end);
    for read in calls.iter().filter(|c| !c.sends() && c.outcome == Kind::Ok) {
        verdict.checked += 1;
        let before = &acks[..acks.partition_point(|ack| ack.end < read.start)];
        if let Some(messages) = read.told_number("messages").filter(|n| *n < before.len() as u64) {
            let (key, node, all) = (&read.key, &read.node, before.len());
            verdict.add(|| format!("{key}: STATUS at {node} told {messages} messages, {all} were acknowledged before it began"));
        }
        if read.lists() {
            let from = read.told_number("from").unwrap_or(1);
            let ids: HashSet<&str> = read.messages().map(|(_, id, _)| id).collect();
            let missing = |ack: &&&Call| ack.told_number("uid").is_some_and(|uid| uid >= from) && !ids.contains(ack.asked_text("id"));
            if let Some(lost) = before.iter().find(missing) {
                let (key, f, node, id) = (&read.key, &read.f, &read.node, lost.asked_text("id"));
                verdict.add(|| format!("{key}: {f} at {node} lacks {id}, acknowledged before it began"));
            }
        }
    }
}

/// Nothing is expunged in these histories, so a UID that a read did not show below its UIDNEXT is free for ever.
fn nothing_in_between(calls: &[Call], verdict: &mut Verdict) {
    let mut reads: Vec<&Call> = calls.iter().filter(|c| c.lists() && c.outcome == Kind::Ok).collect();
    reads.sort_by_key(|c| c.end);
    // A UID and when a read that did not show it ended.
    let mut absent: HashMap<u64, u64> = HashMap::new();
    for read in reads {
        let shown: HashSet<u64> = read.messages().map(|(uid, ..)| uid).collect();
        for uid in shown.iter().filter(|uid| absent.get(uid).is_some_and(|end| *end < read.start)) {
            verdict.add(|| format!("{}: UID {uid} at {} was absent from an earlier read", read.key, read.node));
        }
        let (from, next) = (read.told_number("from").unwrap_or(1), read.told_number("uidnext").unwrap_or(1));
        // More gaps than messages would be a broken UIDNEXT, which the UID checker tells.
        for uid in (from..next).take(4 * shown.len() + 1000).filter(|uid| !shown.contains(uid)) {
            absent.entry(uid).or_insert(read.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::Story;
    use super::*;

    #[test]
    fn reads_that_show_everything_hold() {
        let mut story = Story::new();
        story.append("a", 1).status(2, 1).append("b", 2).list("read", "n2", 3, &[(1, "a"), (2, "b")]);
        assert!(check(&story.done()).holds());
    }

    #[test]
    fn planted_a_stale_read() {
        assert!(!check(&Story::new().append("a", 1).append("b", 2).list("read", "n2", 2, &[(1, "a")]).done()).holds());
    }

    #[test]
    fn planted_a_stale_status() {
        assert!(!check(&Story::new().append("a", 1).append("b", 2).status(3, 1).done()).holds());
    }

    #[test]
    fn planted_a_message_that_appears_in_between() {
        let mut story = Story::new();
        story.append_ends(5, "x", Kind::Info).append("b", 2);
        story.list("read", "n1", 3, &[(2, "b")]).list("read", "n1", 3, &[(1, "x"), (2, "b")]);
        assert!(!check(&story.done()).holds());
    }
}
