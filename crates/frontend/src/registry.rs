//! Who is connected, and how to end it: `who`, `kick`, and the phases of a stop.

use parliament_ids::MailboxId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A protocol that clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// IMAP, with STARTTLS where TLS is configured, or TLS from the first byte.
    Imap,
    /// POP3, likewise.
    Pop3,
    /// LMTP, likewise.
    Lmtp,
}

/// What a session is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionState {
    /// Not logged in; for LMTP, between messages.
    #[default]
    Start,
    /// Logged in and waiting for the client.
    Idle,
    /// A request is being carried out, or a message is coming in.
    Busy,
}

/// A session as `who` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session's number in this boot.
    pub id: u64,
    /// What it speaks.
    pub protocol: Protocol,
    /// The user's canonical name, once logged in.
    pub user: Option<String>,
    /// The client's address.
    pub remote: SocketAddr,
    /// When it began, seconds since 1970 UTC.
    pub since: i64,
    /// The selected mailbox.
    pub mailbox: Option<MailboxId>,
    /// What it is doing.
    pub state: SessionState,
    /// The connection has TLS.
    pub tls: bool,
}

/// The sessions of this node.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    sessions: Arc<Mutex<BTreeMap<u64, Arc<Entry>>>>,
}

#[derive(Debug)]
struct Entry {
    info: Mutex<SessionInfo>,
    kicked: Mutex<Option<String>>,
    wake: Notify,
}

/// A session's own hold on its entry; dropping it takes the session off the list.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Registry,
    id: u64,
    entry: Arc<Entry>,
}

impl Registry {
    /// All sessions, by their numbers.
    #[must_use]
    pub fn list(&self) -> Vec<SessionInfo> {
        let entries: Vec<Arc<Entry>> = lock(&self.sessions).values().cloned().collect();
        entries.iter().map(|entry| lock(&entry.info).clone()).collect()
    }

    /// Ends the sessions that `which` chooses: after the request that is being carried out, with `reason` told where the
    /// protocol can. Returns how many were chosen.
    pub fn kick(&self, reason: &str, which: impl Fn(&SessionInfo) -> bool) -> usize {
        let entries: Vec<Arc<Entry>> = lock(&self.sessions).values().cloned().collect();
        let chosen = entries.iter().filter(|entry| which(&lock(&entry.info)));
        chosen.map(|entry| entry.kick(reason)).count()
    }

    pub(crate) fn enter(&self, info: SessionInfo) -> Registered {
        let id = info.id;
        let entry = Arc::new(Entry { info: Mutex::new(info), kicked: Mutex::new(None), wake: Notify::new() });
        lock(&self.sessions).insert(id, Arc::clone(&entry));
        Registered { registry: self.clone(), id, entry }
    }
}

impl Entry {
    fn kick(&self, reason: &str) {
        *lock(&self.kicked) = Some(reason.to_owned());
        // A permit is kept where nobody waits yet, so that no kick is missed.
        self.wake.notify_one();
    }
}

impl Registered {
    /// Changes what `who` tells.
    pub(crate) fn update(&self, change: impl FnOnce(&mut SessionInfo)) {
        change(&mut lock(&self.entry.info));
    }

    /// Waits until an operator ends this session; returns the reason.
    pub(crate) async fn kicked(&self) -> String {
        loop {
            if let Some(reason) = lock(&self.entry.kicked).clone() {
                return reason;
            }
            self.entry.wake.notified().await;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.registry.sessions).remove(&self.id);
    }
}

/// No code that holds the lock can panic half-way, so a poisoned lock's state is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: u64, user: &str) -> SessionInfo {
        SessionInfo {
            id,
            protocol: Protocol::Imap,
            user: Some(user.to_owned()),
            remote: "127.0.0.1:1".parse().unwrap(),
            since: 0,
            mailbox: None,
            state: SessionState::Idle,
            tls: false,
        }
    }

    #[tokio::test]
    async fn sessions_are_listed_kicked_and_forgotten() {
        let registry = Registry::default();
        let (ann, bob) = (registry.enter(info(1, "ann")), registry.enter(info(2, "bob")));
        ann.update(|info| info.mailbox = Some(MailboxId::INBOX));
        assert_eq!(registry.list()[0].mailbox, Some(MailboxId::INBOX));
        assert_eq!(registry.kick("maintenance", |info| info.user.as_deref() == Some("bob")), 1);
        assert_eq!(bob.kicked().await, "maintenance");
        drop(ann);
        assert_eq!(registry.list().iter().map(|info| info.id).collect::<Vec<_>>(), [2]);
    }
}
