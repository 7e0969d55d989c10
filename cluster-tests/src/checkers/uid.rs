//! UID: (mailbox, UIDVALIDITY, UID) → message is a function over acknowledgements and reads; an APPEND that ended before another
//! began got the smaller UID; UIDNEXT never falls, exceeds every UID known before, and nothing appears below a UIDNEXT that was
//! told before it was sent.

use super::Verdict;
use crate::history::{Call, History, Kind};
use std::collections::{BTreeMap, HashMap};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_key: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for call in history.calls() {
        by_key.entry(call.key.clone()).or_default().push(call);
    }
    for (key, calls) in &by_key {
        one_validity(key, calls, &mut verdict);
        function(key, calls, &mut verdict);
        order(key, calls, &mut verdict);
    }
    verdict
}

/// No mailbox is deleted in these histories, so each has one UIDVALIDITY.
fn one_validity(key: &str, calls: &[Call], verdict: &mut Verdict) {
    let mut first = None;
    for call in calls {
        let Some(told) = call.told_number("uidvalidity") else { continue };
        if *first.get_or_insert(told) != told {
            verdict.add(|| format!("{key}: UIDVALIDITY {told} after {first:?} ({} at {})", call.f, call.node));
        }
    }
}

fn function(key: &str, calls: &[Call], verdict: &mut Verdict) {
    let mut message_of: HashMap<u64, String> = HashMap::new();
    let mut uid_of: HashMap<String, u64> = HashMap::new();
    let mut pair = |uid: u64, id: &str, call: &Call| {
        verdict.checked += 1;
        let before = message_of.entry(uid).or_insert_with(|| id.to_owned());
        if before != id {
            verdict.add(|| format!("{key}: UID {uid} is {before} and {id} ({} at {})", call.f, call.node));
        }
        if call.f == "append" {
            let acked = *uid_of.entry(id.to_owned()).or_insert(uid);
            if acked != uid {
                verdict.add(|| format!("{key}: {id} was acknowledged under {acked} and {uid}"));
            }
        }
    };
    for call in calls {
        if let ("append", Some(uid)) = (call.f.as_str(), call.told_number("uid")) {
            pair(uid, call.asked_text("id"), call);
        }
        for (uid, id, _) in call.messages() {
            pair(uid, id, call);
        }
    }
}

/// What was known of a mailbox at a time: every later operation must respect it.
#[derive(Clone, Copy)]
enum Known {
    /// A UID was given: later ones and later UIDNEXTs are greater.
    Uid(u64),
    /// UIDNEXT was told: later UIDs and UIDNEXTs are not less.
    Next(u64),
}

fn order(key: &str, calls: &[Call], verdict: &mut Verdict) {
    // Messages whose APPEND was not acknowledged are known by what reads tell.
    let mut seen: HashMap<&str, u64> = HashMap::new();
    for call in calls.iter().filter(|c| c.lists()) {
        seen.extend(call.messages().map(|(uid, id, _)| (id, uid)));
    }
    let mut ends: Vec<(u64, Known)> = Vec::new();
    let mut begins: Vec<(u64, Known, &Call)> = Vec::new();
    for call in calls {
        if call.sends() {
            let acked = call.told_number("uid");
            if let Some(uid) = acked.or_else(|| seen.get(call.asked_text("id")).copied()) {
                begins.push((call.start, Known::Uid(uid), call));
                if call.outcome == Kind::Ok {
                    ends.push((call.end, Known::Uid(uid)));
                }
            }
        } else if let Some(next) = call.told_number("uidnext") {
            begins.push((call.start, Known::Next(next), call));
            ends.push((call.end, Known::Next(next)));
            ends.extend(call.messages().map(|(uid, ..)| (call.end, Known::Uid(uid))));
        }
    }
    ends.sort_by_key(|(time, _)| *time);
    begins.sort_by_key(|(time, ..)| *time);
    let (mut uid_max, mut next_max, mut ended) = (0, 0, ends.iter().peekable());
    for (start, told, call) in begins {
        while let Some((_, known)) = ended.next_if(|(end, _)| *end < start) {
            match known {
                Known::Uid(uid) => uid_max = uid_max.max(*uid),
                Known::Next(next) => next_max = next_max.max(*next),
            }
        }
        verdict.checked += 1;
        let (kept, what) = match told {
            Known::Uid(uid) => (uid > uid_max && uid >= next_max, format!("{} got UID {uid}", call.asked_text("id"))),
            Known::Next(next) => (next > uid_max && next >= next_max, format!("{} told UIDNEXT {next}", call.f)),
        };
        if !kept {
            let (node, f) = (&call.node, &call.f);
            verdict.add(|| format!("{key}: {what} by {f} at {node}, after UID {uid_max} and UIDNEXT {next_max} were known"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::Story;
    use super::*;

    #[test]
    fn a_lawful_history_holds() {
        let mut story = Story::new();
        story.append("a", 1).status(2, 1).append_ends(5, "x", Kind::Info).append("b", 3);
        story.list("read", "n2", 4, &[(1, "a"), (2, "x"), (3, "b")]).scans(4, &[(1, "a"), (2, "x"), (3, "b")]);
        let verdict = check(&story.done());
        assert!(verdict.holds(), "{verdict:?}");
    }

    #[test]
    fn planted_a_uid_given_twice() {
        assert!(!check(&Story::new().append("a", 1).append("b", 1).done()).holds());
    }

    #[test]
    fn planted_a_uid_that_changes_its_message() {
        assert!(!check(&Story::new().append("a", 1).list("read", "n1", 2, &[(1, "b")]).done()).holds());
    }

    #[test]
    fn planted_uids_out_of_order() {
        assert!(!check(&Story::new().append("a", 2).append("b", 1).done()).holds());
    }

    #[test]
    fn planted_uidnext_falls() {
        assert!(!check(&Story::new().append("a", 1).status(5, 1).status(4, 1).done()).holds());
    }

    #[test]
    fn planted_uidnext_below_an_acknowledged_uid() {
        assert!(!check(&Story::new().append("a", 3).status(3, 1).done()).holds());
    }

    #[test]
    fn planted_a_message_below_a_uidnext_told_before_it_was_sent() {
        let mut story = Story::new();
        story.append("a", 1).status(4, 1).append_ends(5, "x", Kind::Info).scans(4, &[(1, "a"), (2, "x")]);
        assert!(!check(&story.done()).holds());
    }

    #[test]
    fn planted_another_uidvalidity() {
        let mut history = Story::new().append("a", 1).status(2, 1).done();
        history.ops.last_mut().unwrap().value["uidvalidity"] = 10.into();
        assert!(!check(&history).holds());
    }

    #[test]
    fn concurrent_appends_may_get_their_uids_in_any_order() {
        let mut story = Story::new();
        let sent = |id: &str| serde_json::json!({ "id": id, "sha": "", "bytes": 1 });
        let told = |id: &str, uid: u64| serde_json::json!({ "id": id, "uid": uid, "uidvalidity": 9 });
        story.begin(0, "append", sent("a")).begin(1, "append", sent("b"));
        story.end(0, Kind::Ok, "append", told("a", 2)).end(1, Kind::Ok, "append", told("b", 1));
        assert!(check(&story.done()).holds());
    }

    #[test]
    fn an_empty_history_proves_nothing() {
        assert!(!check(&Story::new().done()).holds());
    }
}
