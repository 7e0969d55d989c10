//! What one node has: its groups, peers, bodies and the small maps that its leases need.

use crate::body::BodyExchange;
use crate::clock::boot_ms;
use crate::machine::{ClusterMachine, UsersMachine};
use crate::support::Support;
use crate::watch::WatchHub;
use parliament_cluster_state::{AccountRecord, account};
use parliament_groups::Group;
use parliament_ids::{AccountId, Fence, GroupId, NodeId, OpNo};
use parliament_mail_api::Unserved;
use parliament_mailbox_state::{OwnerRecord, TableFault, view};
use parliament_rpc::PeerPool;
use parliament_tables::GroupTables;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// This node's replica of a group of users.
pub struct Shard {
    /// Its consensus.
    pub group: Group<UsersMachine>,
    /// Its state machine.
    pub machine: Arc<UsersMachine>,
    /// Its voters.
    pub voters: Vec<NodeId>,
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
    /// Reads that went through a barrier because the promises were not enough.
    pub barrier_reads: AtomicU64,
    /// Commands that the state machine refused because of a stale fence.
    pub stale_fences: AtomicU64,
    /// UIDs told that were not above all told before in their mailbox. Always 0; anything else is a bug.
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
    pub shards: BTreeMap<GroupId, Shard>,
    /// Bodies.
    pub bodies: Arc<BodyExchange>,
    /// Watches of sessions on this node.
    pub hub: Arc<WatchHub>,
    /// Key of THREADIDs: the cluster's id.
    pub thread_key: [u8; 32],
    /// Counters.
    pub counters: Counters,
    pub(crate) leases: Leases,
}

/// The parts of leases that live in memory only. All rows are small and belong to users with a lease here.
#[derive(Default)]
pub(crate) struct Leases {
    /// The last command number given under a fence.
    numbers: Mutex<HashMap<AccountId, (Fence, OpNo)>>,
    /// One acquire per user at a time.
    acquiring: Mutex<HashMap<AccountId, Arc<tokio::sync::Mutex<()>>>>,
    /// Fences that a proposed entry may have ended (rule 1): no read from the own tables alone.
    yielding: Mutex<HashMap<AccountId, Fence>>,
}

impl Leases {
    /// The next command number under this fence; `last` is the last one that was applied.
    pub(crate) fn next_op(&self, account: AccountId, fence: Fence, last: OpNo) -> OpNo {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let row = numbers.entry(account).or_insert((fence, last));
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
    pub(crate) fn begin_yield(&self, account: AccountId, fence: Fence) {
        self.yielding.lock().unwrap_or_else(PoisonError::into_inner).insert(account, fence);
    }
    pub(crate) fn end_yield(&self, account: AccountId) {
        self.yielding.lock().unwrap_or_else(PoisonError::into_inner).remove(&account);
    }
    pub(crate) fn is_yielding(&self, account: AccountId, fence: Fence) -> bool {
        self.yielding.lock().unwrap_or_else(PoisonError::into_inner).get(&account) == Some(&fence)
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
        bodies: Arc<BodyExchange>,
        hub: Arc<WatchHub>,
        thread_key: [u8; 32],
    ) -> Arc<Self> {
        let (counters, leases) = (Counters::default(), Leases::default());
        Arc::new(Self { me, pool, support, cluster, shards, bodies, hub, thread_key, counters, leases })
    }

    /// This node's replica of a group of users.
    #[must_use]
    pub fn shard(&self, group: GroupId) -> Option<&Shard> {
        self.shards.get(&group)
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
