//! What one node has: its groups, peers, bodies and the small maps that its leases need.

use crate::body::BodyExchange;
use crate::clock::boot_ms;
use crate::follow::{Follow, Proposals};
use crate::machine::{ClusterMachine, UsersMachine};
use crate::support::Support;
use crate::watch::WatchHub;
use parliament_cluster_state::{AccountRecord, account};
use parliament_groups::Group;
use parliament_ids::{AccountId, Fence, GroupId, MailboxId, NodeId, OpNo, Uid};
use parliament_mail_api::Unserved;
use parliament_mailbox_state::{OwnerRecord, TableFault, view};
use parliament_rpc::PeerPool;
use parliament_tables::GroupTables;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Users of other nodes' groups whose holder is remembered.
const HINTS_MAX: usize = 100_000;

/// This node's replica of a group of users.
pub struct Shard {
    /// Its consensus.
    pub group: Group<UsersMachine>,
    /// Its state machine.
    pub machine: Arc<UsersMachine>,
    stopped: AtomicBool,
    acquiring: AtomicUsize,
    pub(crate) proposals: Proposals,
}

/// One acquire under way in a shard.
pub(crate) struct Acquiring(Arc<Shard>);

impl Drop for Acquiring {
    fn drop(&mut self) {
        self.0.acquiring.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shard {
    /// A replica that works.
    #[must_use]
    pub fn new(group: Group<UsersMachine>, machine: Arc<UsersMachine>) -> Self {
        Self { group, machine, stopped: AtomicBool::new(false), acquiring: AtomicUsize::new(0), proposals: Proposals::default() }
    }
    pub(crate) fn begin_acquire(self: &Arc<Self>) -> Acquiring {
        self.acquiring.fetch_add(1, Ordering::AcqRel);
        Acquiring(self.clone())
    }
    /// True while this node tries to take the lease of a user of this group.
    #[must_use]
    pub fn is_acquiring(&self) -> bool {
        self.acquiring.load(Ordering::Acquire) > 0
    }
    /// The group has stopped or was closed on this node: requests go to other replicas from now on. True the first time.
    pub fn set_stopped(&self) -> bool {
        !self.stopped.swap(true, Ordering::AcqRel)
    }
    /// True after [`Shard::set_stopped`].
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// Take-overs from one former holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeOvers {
    /// Leases taken over since this node's start.
    pub users: u64,
    /// The longest of the latest run of take-overs, ms.
    pub took_ms: u64,
    /// When the latest one was, ms of the boot-time clock.
    pub at_ms: u64,
}

/// Take-overs by former holder; as many rows as the cluster has nodes.
#[derive(Debug, Default)]
pub struct TakenFrom(Mutex<BTreeMap<NodeId, TakeOvers>>);

impl TakenFrom {
    /// After so long without one, the next take-over begins a new run, ms.
    const RUN_GAP_MS: u64 = 5_000;

    pub(crate) fn note(&self, holder: NodeId, took_ms: u64, now_ms: u64) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry(holder).or_default();
        let same_run = row.users > 0 && now_ms.saturating_sub(row.at_ms) < Self::RUN_GAP_MS;
        row.took_ms = if same_run { row.took_ms.max(took_ms) } else { took_ms };
        row.users += 1;
        row.at_ms = now_ms;
    }
    /// All rows.
    #[must_use]
    pub fn rows(&self) -> BTreeMap<NodeId, TakeOvers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which nodes hold a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its voters.
    pub voters: Vec<NodeId>,
    /// Copies without a vote.
    pub learners: Vec<NodeId>,
    /// Voters that are about to leave, and so take no leases.
    pub leaving: Vec<NodeId>,
}

/// Who holds what, as group 0 says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The groups of users, whether they have a replica here or not.
    pub groups: BTreeMap<GroupId, Place>,
    /// Nodes that give their leases away, and so take none.
    pub giving: BTreeSet<NodeId>,
    /// Nodes that keep no bodies.
    pub bodiless: BTreeSet<NodeId>,
    /// The zone of each node.
    pub zones: BTreeMap<NodeId, String>,
}

impl Layout {
    /// The group's voters.
    #[must_use]
    pub fn voters(&self, group: GroupId) -> &[NodeId] {
        self.groups.get(&group).map_or(&[], |place| &place.voters)
    }
    /// True when the node may take leases of the group's users.
    #[must_use]
    pub fn may_hold(&self, group: GroupId, node: NodeId) -> bool {
        let staying = |place: &Place| place.voters.contains(&node) && !place.leaving.contains(&node);
        self.groups.get(&group).is_some_and(staying) && !self.giving.contains(&node)
    }
}

/// Counters of this node, all since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests served here as the holder.
    pub served: AtomicU64,
    /// Requests sent to another holder.
    pub relayed: AtomicU64,
    /// Leases taken that were free.
    pub acquired: AtomicU64,
    /// Leases taken over from a node that had died or begun a new boot.
    pub taken_over: AtomicU64,
    /// Longest take-over so far, ms from its start to the lease.
    pub take_over_max_ms: AtomicU64,
    /// The same by former holder.
    pub taken_from: TakenFrom,
    /// Leases handed over to the zone where their users are used.
    pub followed: AtomicU64,
    /// Reads that went through a barrier because the promises were not enough.
    pub barrier_reads: AtomicU64,
    /// Commands that the state machine refused because of a stale fence.
    pub stale_fences: AtomicU64,
    /// Times that a mailbox's UIDNEXT was lower than this node had told before. Always 0; anything else is a bug.
    pub uid_regressions: AtomicU64,
}

/// One node's part of the mail store.
pub struct Local {
    /// This node.
    pub me: NodeId,
    /// Its peers.
    pub pool: Arc<PeerPool>,
    /// Liveness promises.
    pub support: Arc<Support>,
    /// Group 0.
    pub cluster: Group<ClusterMachine>,
    /// The groups of users that have a replica here.
    shards: RwLock<BTreeMap<GroupId, Arc<Shard>>>,
    layout: RwLock<Arc<Layout>>,
    /// Bodies.
    pub bodies: Arc<BodyExchange>,
    /// Watches of sessions on this node.
    pub hub: Arc<WatchHub>,
    /// Key of THREADIDs: the cluster's id.
    pub thread_key: [u8; 32],
    /// Counters.
    pub counters: Counters,
    pub(crate) leases: Leases,
    pub(crate) told: Told,
    pub(crate) ways: crate::detour::Ways,
    pub(crate) follow: Arc<Follow>,
    /// This node stops and takes no lease any more.
    pub(crate) retired: AtomicBool,
    /// Reads that take bodies apart, which cost processor time and several times a body's size in memory: one per core at once.
    pub long_reads: tokio::sync::Semaphore,
}

/// The greatest UIDNEXT that this node has told of each mailbox, for as many as fit.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<(AccountId, MailboxId), Uid>>);

impl Told {
    const MAX: usize = 100_000;

    pub(crate) fn uid_next(&self, account: AccountId, mailbox: MailboxId) -> Uid {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(account, mailbox)).copied().unwrap_or_default()
    }
    pub(crate) fn tell(&self, account: AccountId, mailbox: MailboxId, uid_next: Uid) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= Self::MAX {
            told.clear();
        }
        let row = told.entry((account, mailbox)).or_default();
        *row = uid_next.max(*row);
    }
}

/// The parts of leases that live in memory only. All rows are small and belong to users with a lease here.
#[derive(Default)]
pub(crate) struct Leases {
    /// The last command number given under a fence.
    numbers: Mutex<HashMap<AccountId, (Fence, OpNo)>>,
    /// One acquire per user at a time.
    acquiring: Mutex<HashMap<AccountId, Arc<tokio::sync::Mutex<()>>>>,
    /// Fences that a proposed entry may have ended (rule 1), with the greatest number of such an entry: no read from the own tables
    /// alone.
    yielding: Mutex<HashMap<AccountId, (Fence, OpNo)>>,
    /// Who served users of groups without a replica here; forgotten when there are many.
    hints: Mutex<HashMap<AccountId, NodeId>>,
}

impl Leases {
    /// The next command number under this fence; `last` is the last one that was applied. No number of the newest fence is ever
    /// given twice: two entries of one number would share a waiter, and one request would get the other's answer. A fence below
    /// the newest one is over, and whatever is proposed under it is refused.
    pub(crate) fn next_op(&self, account: AccountId, fence: Fence, last: OpNo) -> OpNo {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let row = numbers.entry(account).or_insert((fence, last));
        if fence < row.0 {
            return last.next();
        }
        *row = if row.0 == fence { (fence, row.1.max(last).next()) } else { (fence, last.next()) };
        row.1
    }
    pub(crate) fn acquiring(&self, account: AccountId) -> Arc<tokio::sync::Mutex<()>> {
        let mut acquiring = self.acquiring.lock().unwrap_or_else(PoisonError::into_inner);
        // Locks that nobody holds are dropped when there are many.
        if acquiring.len() > 10_000 {
            acquiring.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        acquiring.entry(account).or_default().clone()
    }
    pub(crate) fn hint(&self, account: AccountId) -> Option<NodeId> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).get(&account).copied()
    }
    pub(crate) fn keep_hint(&self, account: AccountId, node: NodeId) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        if hints.len() >= HINTS_MAX {
            hints.clear();
        }
        hints.insert(account, node);
    }
    /// An entry of this number is about to be proposed that may end the fence.
    pub(crate) fn begin_yield(&self, account: AccountId, fence: Fence, op_no: OpNo) {
        let mut yielding = self.yielding.lock().unwrap_or_else(PoisonError::into_inner);
        let row = yielding.entry(account).or_insert((fence, op_no));
        *row = (fence, op_no).max(*row);
    }
    /// What became of that entry is known. Of those before it, too, for the numbers of a fence are applied in order; one after it
    /// may still be on its way.
    pub(crate) fn end_yield(&self, account: AccountId, fence: Fence, op_no: OpNo) {
        let mut yielding = self.yielding.lock().unwrap_or_else(PoisonError::into_inner);
        if yielding.get(&account).is_some_and(|last| *last <= (fence, op_no)) {
            yielding.remove(&account);
        }
    }
    pub(crate) fn is_yielding(&self, account: AccountId, fence: Fence) -> bool {
        self.yielding.lock().unwrap_or_else(PoisonError::into_inner).get(&account).is_some_and(|last| last.0 == fence)
    }
}

impl Local {
    /// Puts the parts together.
    #[must_use]
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        me: NodeId,
        pool: Arc<PeerPool>,
        support: Arc<Support>,
        cluster: Group<ClusterMachine>,
        shards: BTreeMap<GroupId, Shard>,
        layout: Layout,
        bodies: Arc<BodyExchange>,
        hub: Arc<WatchHub>,
        thread_key: [u8; 32],
    ) -> Arc<Self> {
        let (counters, leases, told) = (Counters::default(), Leases::default(), Told::default());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let long_reads = tokio::sync::Semaphore::new(cores);
        let follow = Follow::new(me);
        follow.look_at(&layout);
        shards.values().for_each(|shard| shard.machine.tell_of_owners(&follow));
        let shards = RwLock::new(shards.into_iter().map(|(group, shard)| (group, Arc::new(shard))).collect());
        let layout = RwLock::new(Arc::new(layout));
        Arc::new(Self {
            me,
            pool,
            support,
            cluster,
            shards,
            layout,
            bodies,
            hub,
            thread_key,
            counters,
            leases,
            told,
            ways: crate::detour::Ways::default(),
            follow,
            retired: AtomicBool::new(false),
            long_reads,
        })
    }

    /// This node's replica of a group of users.
    #[must_use]
    pub fn shard(&self, group: GroupId) -> Option<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }
    /// All replicas here, by group.
    #[must_use]
    pub fn shards(&self) -> Vec<(GroupId, Arc<Shard>)> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(group, shard)| (*group, shard.clone())).collect()
    }
    /// A replica begins its work here.
    pub fn open(&self, group: GroupId, shard: Shard) {
        shard.machine.tell_of_owners(&self.follow);
        self.shards.write().unwrap_or_else(PoisonError::into_inner).insert(group, Arc::new(shard));
    }
    /// A replica ends its work here: what is under way in it turns to other nodes. The caller stops its consensus afterwards.
    pub fn close(&self, group: GroupId) -> Option<Arc<Shard>> {
        let shard = self.shards.write().unwrap_or_else(PoisonError::into_inner).remove(&group)?;
        shard.set_stopped();
        // What changes from now on is applied elsewhere.
        self.hub.everything_changed();
        Some(shard)
    }
    /// Who holds what.
    #[must_use]
    pub fn layout(&self) -> Arc<Layout> {
        self.layout.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Group 0 says anew who holds what.
    pub fn set_layout(&self, layout: Layout) {
        self.follow.look_at(&layout);
        *self.layout.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(layout);
    }

    /// Group 0's tables on this node.
    #[must_use]
    pub fn cluster_tables(&self) -> &GroupTables {
        self.cluster.tables()
    }

    /// An account as this node's replica of group 0 knows it.
    ///
    /// # Errors
    /// [`TableFault`] on damage.
    pub fn account(&self, id: AccountId) -> Result<Option<AccountRecord>, TableFault> {
        account(self.cluster_tables(), id)
    }

    /// The owner record of a user as applied here; `None` when its account has no records yet.
    ///
    /// # Errors
    /// [`TableFault`] on damage.
    pub fn owner(&self, shard: &Shard, account: AccountId) -> Result<Option<OwnerRecord>, TableFault> {
        view::owner(shard.group.tables(), account)
    }

    /// [`Local::read_barrier`], repeated for at most `within_ms`.
    ///
    /// # Errors
    /// [`Unserved::NoQuorum`].
    pub async fn read_barrier_within(&self, group: GroupId, within_ms: u64) -> Result<(), Unserved> {
        let deadline = boot_ms() + within_ms;
        loop {
            match self.read_barrier(group).await {
                Ok(()) => return Ok(()),
                Err(unserved) if boot_ms() >= deadline => return Err(unserved),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_overs_are_counted_by_former_holder_and_run() {
        let taken = TakenFrom::default();
        taken.note(NodeId(2), 700, 1_000);
        taken.note(NodeId(2), 300, 1_500);
        taken.note(NodeId(3), 100, 1_500);
        let row = |users, took_ms, at_ms| TakeOvers { users, took_ms, at_ms };
        assert_eq!(taken.rows(), BTreeMap::from([(NodeId(2), row(2, 700, 1_500)), (NodeId(3), row(1, 100, 1_500))]));
        taken.note(NodeId(2), 200, 60_000);
        assert_eq!(taken.rows()[&NodeId(2)], row(3, 200, 60_000), "a new run has its own longest");
    }

    #[test]
    fn a_fence_yields_until_the_last_entry_that_may_end_it_is_known() {
        let (leases, user, fence) = (Leases::default(), AccountId(1), Fence(3));
        leases.begin_yield(user, fence, OpNo(4));
        leases.begin_yield(user, fence, OpNo(5));
        leases.end_yield(user, fence, OpNo(4));
        assert!(leases.is_yielding(user, fence), "the second may be in");
        leases.begin_yield(user, fence, OpNo(4));
        leases.end_yield(user, Fence(2), OpNo(9));
        assert!(leases.is_yielding(user, fence), "nor does an older fence's end clear it");
        leases.end_yield(user, fence, OpNo(5));
        assert!(!leases.is_yielding(user, fence));
    }

    #[test]
    fn a_late_look_at_an_old_fence_gives_no_number_of_the_new_one_twice() {
        let (leases, user) = (Leases::default(), AccountId(1));
        assert_eq!(leases.next_op(user, Fence(3), OpNo(1)), OpNo(2));
        assert_eq!(leases.next_op(user, Fence(5), OpNo(1)), OpNo(2));
        // A request that read the owner record before the lease went away and came back.
        leases.next_op(user, Fence(3), OpNo(2));
        assert_eq!(leases.next_op(user, Fence(5), OpNo(1)), OpNo(3), "2 may be on its way");
        assert_eq!(leases.next_op(user, Fence(5), OpNo(9)), OpNo(10));
    }
}
