//! Who waits for changes of which mailbox on this node. Applied entries wake them, at the holder and at followers alike; what
//! changed is then asked from the holder, so a wake-up too many is harmless and none is lost.

use async_trait::async_trait;
use parliament_ids::{AccountId, MailboxId};
use parliament_mail_api::{Changed, Watch};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

type Key = (AccountId, MailboxId);

/// Changes remembered for other nodes that ask; who asks less often than they come is told that anything may have changed.
const CHANGES_MAX: usize = 4096;

/// Subscriptions of all sessions on this node.
#[derive(Default)]
pub struct WatchHub {
    rows: Mutex<HashMap<Key, Vec<Arc<Notify>>>>,
    changes: Mutex<Changes>,
    /// Wakes those that wait in [`WatchHub::changes_since`].
    more: Notify,
}

/// The latest changes, numbered from 1 without gaps; the last one has the number `last`.
#[derive(Default)]
struct Changes {
    last: u64,
    rows: VecDeque<Key>,
}

/// What changed since a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Since {
    /// The next mark.
    pub(crate) mark: u64,
    /// The mailboxes; `None` when anything may have changed.
    pub(crate) changed: Option<Vec<Key>>,
}

impl Changes {
    fn push(&mut self, key: Key) {
        self.last += 1;
        if self.rows.len() == CHANGES_MAX {
            self.rows.pop_front();
        }
        self.rows.push_back(key);
    }

    /// `None` while nothing changed. A mark of another start of this node is greater than `last`, or older than what is remembered.
    fn since(&self, mark: u64) -> Option<Since> {
        let behind = self.last.checked_sub(mark).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= self.rows.len());
        let changed = match behind {
            Some(0) => return None,
            Some(n) => Some(self.rows.iter().skip(self.rows.len() - n).copied().collect()),
            None => None,
        };
        Some(Since { mark: self.last, changed })
    }
}

impl WatchHub {
    /// Subscribes; the subscription exists when this returns.
    #[must_use]
    pub fn watch(self: &Arc<Self>, account: AccountId, mailbox: MailboxId) -> Box<dyn Watch> {
        let notify = Arc::new(Notify::new());
        let key = (account, mailbox);
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(notify.clone());
        Box::new(Subscription { hub: self.clone(), key, notify })
    }
    /// Wakes the subscribers of a mailbox. A subscriber that is not waiting finds the wake-up when it next waits.
    pub fn changed(&self, account: AccountId, mailbox: MailboxId) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push((account, mailbox));
        self.more.notify_waiters();
        self.wake(account, mailbox);
    }
    /// Wakes the subscribers here, for a change that another node told of.
    pub(crate) fn wake(&self, account: AccountId, mailbox: MailboxId) {
        if let Some(waiting) = self.rows.lock().unwrap_or_else(PoisonError::into_inner).get(&(account, mailbox)) {
            waiting.iter().for_each(|notify| notify.notify_one());
        }
    }
    /// What changed since `mark`, as soon as something has.
    pub(crate) async fn changes_since(&self, mark: u64) -> Since {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            // Enabled before the look, so that no change falls between.
            more.as_mut().enable();
            if let Some(since) = self.changes.lock().unwrap_or_else(PoisonError::into_inner).since(mark) {
                return since;
            }
            more.await;
        }
    }
    /// True while a session on this node watches anything.
    pub(crate) fn is_watched(&self) -> bool {
        !self.rows.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
    /// Wakes everybody: after a snapshot was installed, what changed is not known.
    pub fn everything_changed(&self) {
        {
            // Marks of before are of no use to those who ask either.
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            changes.last += 1;
            changes.rows.clear();
        }
        self.more.notify_waiters();
        self.everyone_looks();
    }
    /// Wakes every subscriber here.
    pub(crate) fn everyone_looks(&self) {
        for waiting in self.rows.lock().unwrap_or_else(PoisonError::into_inner).values() {
            waiting.iter().for_each(|notify| notify.notify_one());
        }
    }
}

struct Subscription {
    hub: Arc<WatchHub>,
    key: Key,
    notify: Arc<Notify>,
}

#[async_trait]
impl Watch for Subscription {
    async fn changed(&mut self) -> Changed {
        self.notify.notified().await;
        Changed
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut rows = self.hub.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = rows.get_mut(&self.key) {
            waiting.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
            if waiting.is_empty() {
                rows.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_late_is_told_all_of_it_or_that_anything_may_have_changed() {
        let hub = Arc::new(WatchHub::default());
        let asking = {
            let hub = hub.clone();
            tokio::spawn(async move { hub.changes_since(0).await })
        };
        tokio::task::yield_now().await;
        let key = |n| (AccountId(n), MailboxId(1));
        hub.changed(AccountId(1), MailboxId(1));
        assert_eq!(asking.await.unwrap(), Since { mark: 1, changed: Some(vec![key(1)]) });
        (2..=4).for_each(|n| hub.changed(AccountId(n), MailboxId(1)));
        assert_eq!(hub.changes_since(2).await, Since { mark: 4, changed: Some(vec![key(3), key(4)]) });
        assert_eq!(hub.changes_since(900).await.changed, None, "a mark of an earlier start");
        hub.everything_changed();
        assert_eq!(hub.changes_since(4).await, Since { mark: 5, changed: None });
        (0..=CHANGES_MAX as u64).for_each(|n| hub.changed(AccountId(n), MailboxId(1)));
        assert_eq!(hub.changes_since(5).await.changed, None, "more than is remembered");
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_not_lost_and_others_are_not_woken() {
        let hub = Arc::new(WatchHub::default());
        let mut mine = hub.watch(AccountId(1), MailboxId(1));
        let mut other = hub.watch(AccountId(1), MailboxId(2));
        hub.changed(AccountId(1), MailboxId(1));
        hub.changed(AccountId(1), MailboxId(1));
        mine.changed().await;
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), other.changed()).await.is_err());
        drop((mine, other));
        assert!(hub.rows.lock().unwrap().is_empty(), "nothing is left of dropped subscriptions");
    }
}
