//! The state machines of both kinds of groups as consensus runs them, and what must happen on this node when a chunk of entries
//! has been applied: proposers that wait here are answered, watchers woken, bodies let go.

use crate::follow::Follow;
use crate::watch::WatchHub;
use parliament_cluster_state as cluster;
use parliament_formats::{decode_cluster, decode_users};
use parliament_groups::Machine;
use parliament_ids::{AccountId, BodyHash, Boot, Fence, NodeId, OpNo};
use parliament_mailbox_state::{Applied, Change, Command, Overlay, TableFault, UserCommand, apply, bodies_named};
use parliament_tables::GroupTables;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::oneshot;

/// Names a proposal: no two entries share one. Under a fence only its owner proposes, and numbers what it does; but several nodes may
/// try to take a lease under the same next fence, each with a first number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProposalKey {
    account: AccountId,
    fence: Fence,
    op_no: OpNo,
    taker: Option<(NodeId, Boot)>,
}

impl ProposalKey {
    pub(crate) fn of(command: &UserCommand) -> Self {
        let taker = command.acquire.as_ref().map(|acquire| (acquire.node, acquire.boot));
        Self { account: command.account, fence: command.fence, op_no: command.op_no, taker }
    }
}

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
    suspend: OnceLock<Box<dyn Fn() + Send + Sync>>,
    follow: OnceLock<Arc<Follow>>,
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
pub(crate) struct Waiter {
    machine: Arc<UsersMachine>,
    key: ProposalKey,
    /// Resolves when the entry was applied on this node.
    pub(crate) applied: oneshot::Receiver<Applied>,
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
        let waiting = Mutex::new(HashMap::new());
        Arc::new(Self { hub, bodies, waiting, suspend: OnceLock::new(), follow: OnceLock::new() })
    }
    /// Says how this node's leases are ended before its tables are rebuilt (rule 7). Without, a rebuild ends none.
    pub fn suspend_by(&self, suspend: impl Fn() + Send + Sync + 'static) {
        let _ = self.suspend.set(Box::new(suspend));
    }
    /// Says who is told of leases that change hands.
    pub(crate) fn tell_of_owners(&self, follow: &Arc<Follow>) {
        let _ = self.follow.set(follow.clone());
    }
    /// Waits for the local apply of a proposal that is about to be made.
    #[must_use]
    pub(crate) fn wait(self: &Arc<Self>, key: ProposalKey) -> Waiter {
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
            Command::User(user) => Some(ProposalKey::of(user)),
            _ => None,
        };
        Ok(Outcome { key, applied, bodies: bodies_named(&command).into() })
    }

    fn rebuilding(&self) {
        if let Some(suspend) = self.suspend.get() {
            suspend();
        }
    }

    fn committed(&self, _: &GroupTables, _: u64, outcomes: &[Outcome]) {
        self.tell(outcomes);
        self.answer(outcomes);
    }
}

impl UsersMachine {
    /// Tells the rest of this node what has changed.
    fn tell(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if !outcome.bodies.is_empty() {
                self.bodies.applied(&outcome.bodies);
            }
            for change in &outcome.applied.changes {
                match change {
                    Change::Mailbox { account, mailbox, .. } => self.hub.changed(*account, *mailbox),
                    Change::BodyReleased { hash, .. } => self.bodies.released(*hash),
                    Change::BodyReferenced { hash, .. } => self.bodies.referenced(*hash),
                    Change::Owner { account, owner, .. } => {
                        // An entry without a taker that changes the owner is the former owner's word.
                        let handed = outcome.key.is_some_and(|key| key.taker.is_none());
                        self.follow.get().into_iter().for_each(|follow| follow.owned(*account, *owner, handed));
                    }
                    Change::Names { .. } => {}
                }
            }
        }
    }

    /// Tells those who wait here what became of their entries.
    fn answer(&self, outcomes: &[Outcome]) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Layout;
    use parliament_formats::encode_users;
    use parliament_ids::RequestId;
    use parliament_mailbox_state::{Acquire, Evidence, MemoryTables, Op};

    struct NoEvents;
    impl BodyEvents for NoEvents {
        fn applied(&self, _: &[BodyHash]) {}
        fn referenced(&self, _: BodyHash) {}
        fn released(&self, _: BodyHash) {}
    }

    const ANN: AccountId = AccountId(1);

    fn taking(node: u64) -> UserCommand {
        let acquire = Acquire { node: NodeId(node), boot: Boot(1), expect_fence: Fence(0), evidence: Evidence::Free };
        let request: Option<RequestId> = None;
        UserCommand { account: ANN, fence: Fence(1), op_no: OpNo(1), request, actor: ANN, time: 1, acquire: Some(acquire), op: Op::Noop }
    }

    /// Two nodes take a free lease at once, each with a change of its own in the entry: the one that comes too late must not be told the
    /// other's outcome.
    #[test]
    fn who_takes_a_lease_in_vain_is_not_told_the_takers_answer() {
        let machine = UsersMachine::new(Arc::new(WatchHub::default()), Arc::new(NoEvents));
        let mut tables = MemoryTables::new();
        let mut run = |index, command: &Command| {
            let mut overlay = Overlay::new(&tables);
            let outcome = machine.apply(&mut overlay, index, &encode_users(command).unwrap()).unwrap();
            tables.commit(overlay.into_writes());
            machine.answer(std::slice::from_ref(&outcome));
        };
        run(1, &Command::CreateAccount { account: ANN, uid_validity_floor: 0, time: 1 });
        let (mut first, mut second) = (machine.wait(ProposalKey::of(&taking(1))), machine.wait(ProposalKey::of(&taking(2))));
        run(2, &Command::User(taking(1)));
        assert!(first.applied.try_recv().unwrap().outcome.is_ok());
        assert!(second.applied.try_recv().is_err(), "nothing is known of the second entry yet");
        run(3, &Command::User(taking(2)));
        assert!(second.applied.try_recv().unwrap().outcome.is_err());
    }

    /// A lease that was taken may follow its user soon; one that was handed over, by whomever, stays for longer.
    #[test]
    fn who_holds_a_user_learns_how_the_lease_came() {
        let machine = UsersMachine::new(Arc::new(WatchHub::default()), Arc::new(NoEvents));
        let follow = Follow::new(NodeId(1));
        machine.tell_of_owners(&follow);
        let mut tables = MemoryTables::new();
        let mut run = |index, command: &Command| {
            let mut overlay = Overlay::new(&tables);
            let outcome = machine.apply(&mut overlay, index, &encode_users(command).unwrap()).unwrap();
            tables.commit(overlay.into_writes());
            machine.tell(std::slice::from_ref(&outcome));
            follow.stays_for_ms(ANN)
        };
        let hand = |fence, to| {
            let op = Op::Handover { to: NodeId(to), to_boot: Boot(1) };
            Command::User(UserCommand { fence: Fence(fence), op_no: OpNo(if fence == 1 { 2 } else { 1 }), acquire: None, op, ..taking(1) })
        };
        run(1, &Command::CreateAccount { account: ANN, uid_validity_floor: 0, time: 1 });
        assert_eq!(run(2, &Command::User(taking(1))), None, "nobody wants users to be followed");
        follow.turn_on();
        assert_eq!(run(3, &hand(1, 2)), None, "one zone");
        let zones = [(NodeId(1), "a".to_owned()), (NodeId(2), "b".to_owned())].into();
        follow.look_at(&Layout { zones, ..Layout::default() });
        let handed = run(4, &hand(2, 1)).unwrap();
        assert_eq!(run(5, &hand(3, 2)), None, "gone");
        let mut withdrawn = taking(1);
        let acquire = withdrawn.acquire.as_mut().unwrap();
        acquire.evidence = Evidence::Withdrawn { node: NodeId(2), boot: Boot(1), voters: vec![NodeId(1), NodeId(3)], of: 3 };
        (acquire.expect_fence, withdrawn.fence) = (Fence(4), Fence(5));
        let taken = run(6, &Command::User(withdrawn)).unwrap();
        assert!(taken < handed && taken > 0, "{taken} {handed}");
    }
}
