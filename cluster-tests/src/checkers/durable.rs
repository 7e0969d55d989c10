//! DURABLE: at the end, on each node, every acknowledged message is there, byte-exact, under the UID that was acknowledged.

use super::Verdict;
use crate::history::{Call, History, Kind};
use std::collections::{HashMap, HashSet};

/// Checks a history. A scan that is missing for a node and a mailbox is a violation too.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let calls = history.calls();
    let mut scans: HashMap<(&str, &str), &Call> = HashMap::new();
    for call in calls.iter().filter(|c| c.f == "scan" && c.outcome == Kind::Ok) {
        scans.insert((&call.node, &call.key), call);
    }
    let (nodes, keys) = (history.setup("nodes"), history.setup("keys"));
    for node in &nodes {
        for key in &keys {
            match scans.get(&(node.as_str(), key.as_str())) {
                Some(scan) => look(scan, &calls, &mut verdict),
                None => verdict.add(|| format!("{key} was not scanned at {node}")),
            }
        }
    }
    let known: HashSet<_> = keys.iter().map(String::as_str).collect();
    for stray in calls.iter().filter(|c| c.sends() && !known.contains(c.key.as_str())) {
        verdict.add(|| format!("{} was written and is not among the mailboxes that are scanned", stray.key));
    }
    verdict
}

fn look(scan: &Call, calls: &[Call], verdict: &mut Verdict) {
    let rows: HashMap<&str, (u64, Option<&str>)> = scan.messages().map(|(uid, id, sha)| (id, (uid, sha))).collect();
    for sent in calls.iter().filter(|c| c.sends() && c.outcome == Kind::Ok && c.key == scan.key) {
        verdict.checked += 1;
        let id = sent.asked_text("id");
        let name = || format!("{} {id} ({}, acknowledged at {})", scan.key, sent.f, sent.node);
        let Some(&(uid, sha)) = rows.get(id) else {
            verdict.add(|| format!("{}: lost at {}", name(), scan.node));
            continue;
        };
        if let Some(acked) = sent.told_number("uid").filter(|acked| *acked != uid) {
            verdict.add(|| format!("{}: UID {uid} at {}, acknowledged under {acked}", name(), scan.node));
        }
        if sha != Some(sent.asked_text("sha")) {
            verdict.add(|| format!("{}: other bytes at {}", name(), scan.node));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::Story;
    use super::*;

    #[test]
    fn what_was_acknowledged_and_is_everywhere_holds() {
        let mut story = Story::new();
        story.append("a", 1).append_ends(5, "x", Kind::Info).append("b", 2).scans(3, &[(1, "a"), (2, "b")]);
        let verdict = check(&story.done());
        assert!(verdict.holds() && verdict.checked == 4, "{verdict:?}");
    }

    #[test]
    fn planted_a_message_lost_on_one_node() {
        let mut story = Story::new();
        story.append("a", 1).append("b", 2).list("scan", "n1", 3, &[(1, "a"), (2, "b")]).list("scan", "n2", 3, &[(1, "a")]);
        let verdict = check(&story.done());
        assert_eq!(verdict.violations, 1, "{verdict:?}");
        assert!(verdict.told[0].contains("lost at n2"));
    }

    #[test]
    fn planted_another_uid_than_acknowledged() {
        assert!(!check(&Story::new().append("a", 1).scans(3, &[(2, "a")]).done()).holds());
    }

    #[test]
    fn planted_bytes_that_changed() {
        let mut history = Story::new().append("a", 1).scans(2, &[(1, "a")]).done();
        history.ops.last_mut().unwrap().value["messages"][0][2] = "other".into();
        assert_eq!(check(&history).violations, 1);
    }

    #[test]
    fn planted_a_node_that_was_not_scanned() {
        assert!(!check(&Story::new().append("a", 1).list("scan", "n1", 2, &[(1, "a")]).done()).holds());
    }
}
