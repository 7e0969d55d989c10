//! The state machines of both kinds of groups as consensus runs them, and what must happen on this node when a chunk of entries
//! has been applied: proposers that wait here are answered, watchers woken, bodies let go.

use crate::watch::WatchHub;
use parliament_cluster_state as cluster;
use parliament_formats::{decode_cluster, decode_users};
use parliament_groups::Machine;
use parliament_ids::{AccountId, BodyHash, Fence, OpNo};
use parliament_mailbox_state::{Applied, Change, Command, Overlay, TableFault, apply, bodies_named};
use parliament_tables::GroupTables;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Names a proposal of a holder: no two entries that take effect share one.
pub(crate) type ProposalKey = (AccountId, Fence, OpNo);

/// Told of bodies as entries are applied on this node.
pub trait BodyEvents: Send + Sync + 'static {
    /// An entry that names these was applied: they are referenced, or never will be by this entry.
    fn applied(&self, hashes: &[BodyHash]);
    /// An account refers to it now.
    fn referenced(&self, hash: BodyHash);
    /// The account's last reference is gone.
    fn released(&self, hash: BodyHash);
}

/// The machine of a group of users.
pub struct UsersMachine {
    hub: Arc<WatchHub>,
    bodies: Arc<dyn BodyEvents>,
    waiting: Mutex<HashMap<ProposalKey, oneshot::Sender<Applied>>>,
}

/// What one entry came to on this replica.
#[derive(Clone, Debug)]
pub struct Outcome {
    key: Option<ProposalKey>,
    applied: Arc<Applied>,
    bodies: Arc<[BodyHash]>,
}

impl Outcome {
    /// The result.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.applied
    }
}

/// A proposer's place in the line; leaving frees it.
pub struct Waiter {
    machine: Arc<UsersMachine>,
    key: ProposalKey,
    /// Resolves when the entry was applied on this node.
    pub applied: oneshot::Receiver<Applied>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.machine.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl UsersMachine {
    /// A machine that wakes `hub`.
    #[must_use]
    pub fn new(hub: Arc<WatchHub>, bodies: Arc<dyn BodyEvents>) -> Arc<Self> {
        Arc::new(Self { hub, bodies, waiting: Mutex::new(HashMap::new()) })
    }
    /// Waits for the local apply of a proposal that is about to be made.
    #[must_use]
    pub fn wait(self: &Arc<Self>, key: ProposalKey) -> Waiter {
        let (sender, applied) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sender);
        Waiter { machine: self.clone(), key, applied }
    }
}

impl Machine for UsersMachine {
    type Reply = Outcome;

    fn apply(&self, tables: &mut Overlay<'_>, index: u64, command: &[u8]) -> Result<Outcome, TableFault> {
        let command = decode_users(command).map_err(|e| TableFault { what: format!("entry {index}: {e}") })?;
        let applied = Arc::new(apply(tables, index, &command)?);
        let key = match &command {
            Command::User(user) => Some((user.account, user.fence, user.op_no)),
            _ => None,
        };
        Ok(Outcome { key, applied, bodies: bodies_named(&command).into() })
    }

    fn committed(&self, _: &GroupTables, _: u64, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if !outcome.bodies.is_empty() {
                self.bodies.applied(&outcome.bodies);
            }
            for change in &outcome.applied.changes {
                match change {
                    Change::Mailbox { account, mailbox, .. } => self.hub.changed(*account, *mailbox),
                    Change::BodyReleased { hash, .. } => self.bodies.released(*hash),
                    Change::BodyReferenced { hash, .. } => self.bodies.referenced(*hash),
                    Change::Names { .. } | Change::Owner { .. } => {}
                }
            }
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes {
            if let Some(sender) = outcome.key.and_then(|key| waiting.remove(&key)) {
                let _ = sender.send((*outcome.applied).clone());
            }
        }
    }
}

/// The machine of group 0.
pub struct ClusterMachine;

impl Machine for ClusterMachine {
    type Reply = cluster::Applied;

    fn apply(&self, tables: &mut Overlay<'_>, index: u64, command: &[u8]) -> Result<cluster::Applied, TableFault> {
        let command = decode_cluster(command).map_err(|e| TableFault { what: format!("entry {index} of group 0: {e}") })?;
        cluster::apply(tables, &command)
    }

    fn committed(&self, _: &GroupTables, _: u64, _: &[cluster::Applied]) {}
}
