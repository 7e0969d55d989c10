//! Who waits for changes of which mailbox on this node. Applied entries wake them, at the holder and at followers alike; what
//! changed is then asked from the holder, so a wake-up too many is harmless and none is lost.

use async_trait::async_trait;
use parliament_ids::{AccountId, MailboxId};
use parliament_mail_api::{Changed, Watch};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

type Key = (AccountId, MailboxId);

/// Subscriptions of all sessions on this node.
#[derive(Default)]
pub struct WatchHub {
    rows: Mutex<HashMap<Key, Vec<Arc<Notify>>>>,
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
        if let Some(waiting) = self.rows.lock().unwrap_or_else(PoisonError::into_inner).get(&(account, mailbox)) {
            waiting.iter().for_each(|notify| notify.notify_one());
        }
    }
    /// Wakes everybody: after a snapshot was installed, what changed is not known.
    pub fn everything_changed(&self) {
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
