//! Opening the groups that have a copy on this node.

use crate::mend::{Aside, fetch, rescue_path};
use crate::node::{DAMAGED, Fatal, Node};
use parliament_groups::{BodyGate, Group, GroupSet, GroupStart, Machine, NoBodies, StartError, WitnessRule};
use parliament_ids::{GroupId, NodeId};
use parliament_journal::disk::{Disk, RealDisk};
use parliament_mail_service::{BodyExchange, ClusterMachine, Gate, Shard, Support, UsersMachine, WatchHub};
use parliament_rpc::PeerPool;
use parliament_tables::{GroupTables, TableOptions};
use std::sync::Arc;
use std::time::Duration;

/// Commits held in memory per group before its tables are flushed, bytes.
const PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a start waits for a peer's snapshot of group 0.
const RESCUE_WAIT: Duration = Duration::from_secs(60);

/// Opens groups on this node.
pub(crate) struct Opener<'a> {
    pub(crate) node: &'a Arc<Node>,
    pub(crate) groups: &'a GroupSet,
    /// Groups of users in the cluster.
    pub(crate) groups_in_all: u32,
    /// This node's claim to its leases.
    pub(crate) support: &'a Arc<Support>,
    /// On a witness: what its copies of groups of users acknowledge.
    pub(crate) witness: Option<Arc<WitnessRule>>,
}

/// A group was not opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// What lies here of it cannot be used; the node serves what else it has.
    Aside(Aside),
    /// The node itself has a fault.
    Fatal(Fatal),
}

impl Opener<'_> {
    /// Opens a group of users: on what lies here of it, or empty.
    pub(crate) async fn shard(&self, group: GroupId, hub: &Arc<WatchHub>, bodies: &Arc<BodyExchange>) -> Result<Shard, OpenError> {
        let machine = UsersMachine::new(hub.clone(), bodies.clone());
        let support = self.support.clone();
        machine.suspend_by(move || support.renounce());
        let opened = self.open(group, machine.clone(), Arc::new(Gate(bodies.clone()))).await?;
        Ok(Shard::new(opened, machine))
    }

    /// Opens group 0, which a node is nothing without: where it needs a peer's snapshot, that is waited for.
    pub(crate) async fn cluster(&self, pool: &PeerPool, voters: &[NodeId]) -> Result<Group<ClusterMachine>, Fatal> {
        let deadline = tokio::time::Instant::now() + RESCUE_WAIT;
        loop {
            let needs = match self.open(GroupId::CLUSTER, Arc::new(ClusterMachine), Arc::new(NoBodies)).await {
                Ok(opened) => return Ok(opened),
                Err(OpenError::Fatal(fatal)) => return Err(fatal),
                Err(OpenError::Aside(why)) => why,
            };
            let Aside::Needs(index) = needs else { return Err(Fatal { what: DAMAGED, why: format!("group 0: {needs}") }) };
            let path = rescue_path(&self.node.data.path, GroupId::CLUSTER);
            if let Err(why) = fetch(pool, voters, GroupId::CLUSTER, index, &path).await {
                tracing::warn!(index, why, "no snapshot for group 0 yet");
                if tokio::time::Instant::now() >= deadline {
                    return Err(Fatal { what: "group 0", why: format!("{needs}; {why}") });
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// A snapshot of a peer that waits for the group is used, whether it is needed or not.
    async fn open<M: Machine>(&self, group: GroupId, machine: Arc<M>, gate: Arc<dyn BodyGate>) -> Result<Group<M>, OpenError> {
        let fatal = |what: &'static str| move |error: String| OpenError::Fatal(Fatal { what, why: error });
        let dir = self.node.data.path.join("groups").join(group.to_string());
        // Durably: the log is purged up to the snapshots in it.
        RealDisk.create_dir(&dir).map_err(|e| fatal("group folder")(e.to_string()))?;
        let rescue = Some(rescue_path(&self.node.data.path, group)).filter(|path| path.exists());
        let copies = u64::from(self.groups_in_all) + 1;
        let options = TableOptions {
            cache_bytes: (self.node.config.storage.cache_bytes / copies).max(1024 * 1024),
            pending_bytes_max: PENDING_BYTES_MAX,
            ..TableOptions::default()
        };
        let path = dir.join("tables");
        let tables = tokio::task::spawn_blocking(move || GroupTables::open(&path, &options)).await;
        let tables = tables.map_err(|e| fatal("tables")(e.to_string()))?.map_err(|e| fatal("tables")(e.to_string()))?;
        // Group 0 names no bodies.
        let witness = self.witness.clone().filter(|_| group != GroupId::CLUSTER);
        let start = GroupStart { group, dir, log: self.node.journal.group(group), tables, gate, witness, rescue: rescue.clone() };
        match self.groups.start(start, machine).await {
            Ok(opened) => Ok(opened),
            Err(StartError::SnapshotNeeded { purged }) => Err(OpenError::Aside(Aside::Needs(purged))),
            Err(StartError::LogDamaged(_)) => Err(OpenError::Aside(Aside::Damaged)),
            Err(error) => {
                // A peer's file that does not verify must not be tried for ever.
                if let Some(path) = rescue
                    && let Err(error) = std::fs::remove_file(&path)
                {
                    tracing::debug!(%group, %error, "a peer's snapshot file was used or is gone");
                }
                Err(fatal("group")(format!("{group}: {error}")))
            }
        }
    }
}
