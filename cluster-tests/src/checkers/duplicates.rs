//! NO DUPLICATE: clients here never send an id twice, so an id under two UIDs was executed twice inside the cluster.

use super::Verdict;
use crate::history::History;
use std::collections::HashMap;

/// Checks a history. Each message with two UIDs counts once.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let calls = history.calls();
    let mut places: HashMap<(&str, &str), (u64, bool)> = HashMap::new();
    for call in &calls {
        let acked = (call.f == "append").then(|| call.told_number("uid").map(|uid| (uid, call.asked_text("id")))).flatten();
        for (uid, id) in acked.into_iter().chain(call.messages().map(|(uid, id, _)| (uid, id))) {
            verdict.checked += 1;
            let (first, told) = places.entry((&call.key, id)).or_insert((uid, false));
            if *first != uid && !*told {
                *told = true;
                verdict.add(|| format!("{}: {id} has UID {first} and {uid} ({} at {})", call.key, call.f, call.node));
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
    fn once_is_lawful() {
        assert!(check(&Story::new().append("a", 1).append("b", 2).scans(3, &[(1, "a"), (2, "b")]).done()).holds());
    }

    #[test]
    fn planted_a_retry_that_was_executed_twice() {
        let verdict = check(&Story::new().append("a", 1).scans(3, &[(1, "a"), (2, "a")]).done());
        assert_eq!(verdict.violations, 1, "{verdict:?}");
    }

    #[test]
    fn planted_an_unknown_outcome_that_happened_twice() {
        let mut story = Story::new();
        story.append_ends(5, "x", crate::history::Kind::Info).scans(3, &[(1, "x"), (2, "x")]);
        assert_eq!(check(&story.done()).violations, 1);
    }
}
