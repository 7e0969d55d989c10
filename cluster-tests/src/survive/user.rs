//! One user of a run: what all of its sessions share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What became of messages that were sent to a mailbox in which nothing is removed but by POP3.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    sent: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    removed: BTreeSet<String>,
    maybe_removed: BTreeSet<String>,
}

impl Ledger {
    /// A message is about to be sent.
    pub fn sent(&mut self, id: &str) {
        self.sent.insert(id.to_owned());
    }

    /// It was answered OK or 250.
    pub fn acknowledged(&mut self, id: &str) {
        self.acknowledged.insert(id.to_owned());
    }

    /// POP3's QUIT was answered: these are gone, or may be.
    pub fn quit(&mut self, ids: BTreeSet<String>, certain: bool) {
        if certain {
            self.maybe_removed.retain(|id| !ids.contains(id));
            self.removed.extend(ids);
        } else {
            self.maybe_removed.extend(ids);
        }
    }

    /// Compares with what a mailbox holds; violations.
    pub fn judge(&self, mailbox: &str, found: &[String]) -> Vec<String> {
        let mut count: BTreeMap<&str, u32> = BTreeMap::new();
        found.iter().for_each(|id| *count.entry(id).or_default() += 1);
        let mut violations = Vec::new();
        let mut tell = |what: &str, ids: Vec<&str>| {
            if !ids.is_empty() {
                violations.push(format!("{mailbox}: {what}: {} messages, {:?}", ids.len(), &ids[..ids.len().min(5)]));
            }
        };
        tell("doubled", count.iter().filter(|(_, n)| **n > 1).map(|(id, _)| *id).collect());
        tell("never sent", count.keys().filter(|id| !self.sent.contains(**id)).copied().collect());
        tell("back although removed", count.keys().filter(|id| self.removed.contains(**id)).copied().collect());
        let accounted = |id: &&String| self.removed.contains(*id) || self.maybe_removed.contains(*id) || count.contains_key(id.as_str());
        tell("lost", self.acknowledged.iter().filter(|id| !accounted(id)).map(String::as_str).collect());
        violations
    }

    /// Messages acknowledged.
    pub fn len(&self) -> usize {
        self.acknowledged.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.acknowledged.is_empty()
    }
}

/// A user.
#[derive(Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Password.
    pub password: String,
    /// Held for reading while a session works, for writing while one compares.
    pub quiet: Arc<tokio::sync::RwLock<()>>,
    kept: Mutex<Ledger>,
    inbox: Mutex<Ledger>,
    is_left: AtomicBool,
    ids: AtomicU64,
    comparisons: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    troubles: Arc<Mutex<Vec<String>>>,
}

impl User {
    /// A user; `over` ends its sessions, `comparisons` counts, `troubles` collects what was found.
    pub fn new(name: &str, password: &str, over: Arc<AtomicBool>, comparisons: Arc<AtomicU64>, troubles: Arc<Mutex<Vec<String>>>) -> Self {
        Self {
            name: name.to_owned(),
            password: password.to_owned(),
            quiet: Arc::default(),
            kept: Mutex::default(),
            inbox: Mutex::default(),
            is_left: AtomicBool::new(true),
            ids: AtomicU64::new(0),
            comparisons,
            over,
            troubles,
        }
    }

    /// True when sessions should end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// An id for a new message.
    pub fn next_id(&self, what: &str) -> String {
        let user = self.name.split('@').next().unwrap_or_default();
        format!("{user}-{what}-{}", self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// The ledger of `Kept` or `INBOX`.
    pub fn ledger(&self, mailbox: &str) -> MutexGuard<'_, Ledger> {
        let ledger = if mailbox == "Kept" { &self.kept } else { &self.inbox };
        ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The side on which the moving session is.
    pub fn here(&self) -> &'static str {
        if self.is_left.load(Ordering::Relaxed) { "Left" } else { "Right" }
    }

    /// The other side.
    pub fn there(&self) -> &'static str {
        if self.is_left.load(Ordering::Relaxed) { "Right" } else { "Left" }
    }

    /// Goes to the other side; its name.
    pub fn cross(&self) -> &'static str {
        self.is_left.fetch_xor(true, Ordering::Relaxed);
        self.here()
    }

    /// A view was compared.
    pub fn count_comparison(&self) {
        self.comparisons.fetch_add(1, Ordering::Relaxed);
    }

    /// Something is wrong that is no single session's matter.
    pub fn note_trouble(&self, what: &str) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{}: {what}", self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[&str]) -> Vec<String> {
        list.iter().map(|id| (*id).to_owned()).collect()
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ["a", "b", "c", "d"].iter().for_each(|id| ledger.sent(id));
        ["a", "b", "c"].iter().for_each(|id| ledger.acknowledged(id));
        ledger
    }

    #[test]
    fn what_was_not_acknowledged_may_be_there_or_not() {
        assert!(ledger().judge("x", &ids(&["a", "b", "c"])).is_empty());
        assert!(ledger().judge("x", &ids(&["a", "b", "c", "d"])).is_empty());
        let mut popped = ledger();
        popped.quit(["a".to_owned()].into(), true);
        popped.quit(["b".to_owned()].into(), false);
        assert!(popped.judge("x", &ids(&["c"])).is_empty() && popped.judge("x", &ids(&["b", "c"])).is_empty());
    }

    #[test]
    fn planted_losses_doubles_and_returns() {
        let told = |found: &[&str], ledger: &Ledger| ledger.judge("x", &ids(found)).join(" ");
        assert!(told(&["a", "b"], &ledger()).contains("lost: 1"));
        assert!(told(&["a", "b", "b", "c"], &ledger()).contains("doubled: 1"));
        assert!(told(&["a", "b", "c", "z"], &ledger()).contains("never sent: 1"));
        let mut popped = ledger();
        popped.quit(["a".to_owned()].into(), true);
        assert!(told(&["a", "b", "c"], &popped).contains("back although removed: 1"));
    }
}
