//! NO PHANTOM: every message seen was sent to that mailbox, with those bytes, and was not refused.

use super::Verdict;
use crate::history::{History, Kind};
use std::collections::HashMap;

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let calls = history.calls();
    let sent: HashMap<(&str, &str), _> = calls.iter().filter(|c| c.sends()).map(|c| ((c.key.as_str(), c.asked_text("id")), c)).collect();
    for list in calls.iter().filter(|c| c.lists()) {
        for (uid, id, sha) in list.messages() {
            verdict.checked += 1;
            let place = || format!("{} UID {uid} at {}", list.key, list.node);
            match sent.get(&(list.key.as_str(), id)) {
                None => verdict.add(|| format!("{}: {id:?} was never sent there", place())),
                Some(call) if call.outcome == Kind::Fail => verdict.add(|| format!("{}: {id} was refused", place())),
                Some(call) if list.end < call.start => verdict.add(|| format!("{}: {id} was seen before it was sent", place())),
                Some(call) if sha.is_some_and(|sha| sha != call.asked_text("sha")) => {
                    verdict.add(|| format!("{}: {id} has bytes that nobody sent", place()));
                }
                Some(_) => {}
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::planted::Story;
    use super::*;

    #[test]
    fn what_was_sent_may_be_seen() {
        let mut story = Story::new();
        story.append("a", 1).append_ends(5, "x", Kind::Info).append_ends(6, "f", Kind::Fail).scans(3, &[(1, "a"), (2, "x")]);
        assert!(check(&story.done()).holds());
    }

    #[test]
    fn planted_a_message_that_nobody_sent() {
        assert!(!check(&Story::new().append("a", 1).scans(3, &[(1, "a"), (2, "b")]).done()).holds());
    }

    #[test]
    fn planted_a_message_that_was_refused() {
        assert!(!check(&Story::new().append_ends(5, "x", Kind::Fail).scans(2, &[(1, "x")]).done()).holds());
    }

    #[test]
    fn planted_bytes_that_nobody_sent() {
        let mut history = Story::new().append("a", 1).scans(2, &[(1, "a")]).done();
        history.ops.last_mut().unwrap().value["messages"][0][2] = "other".into();
        assert!(!check(&history).holds());
    }
}
