//! All groups of a node, on one runtime in a thread of its own.

use crate::config::{NodeConfig, SnapshotPolicy};
use crate::executor::Executor;
use crate::group::{Group, GroupInner};
use crate::inbound::{Hosted, Inbound, Raft};
use crate::link::Peers;
use crate::lock;
use crate::machine::Machine;
use crate::network::Network;
use crate::rest::{Behind, Resting};
use crate::start::{self, GroupStart, StartError};
use crate::state_machine::{Core, StateMachine};
use crate::witness::Witnessing;
use openraft::Config;
use parliament_ids::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often each group looks whether tables are to be flushed or a snapshot is due.
const CARE_INTERVAL: Duration = Duration::from_millis(250);

/// The same while it rests: only what reads have met can be due then.
const RESTING_CARE_INTERVAL: Duration = Duration::from_secs(1);

/// Between two tries to rebuild tables in which reads have met damage.
const MEND_PAUSE: Duration = Duration::from_secs(5);

/// What the node lends to consensus.
pub struct Ports {
    /// The transport.
    pub peers: Arc<dyn Peers>,
}

struct Running {
    raft: Raft,
    core: Arc<Core>,
    care: JoinHandle<()>,
    rest: Arc<Resting>,
}

/// The groups of one node.
pub struct GroupSet {
    config: NodeConfig,
    raft_config: Arc<Config>,
    follower_config: Arc<Config>,
    ports: Ports,
    inbound: Arc<Inbound>,
    executor: Arc<Executor>,
    /// One snapshot build at a time, one flush at a time.
    builds: Arc<Semaphore>,
    flushes: Arc<Semaphore>,
    groups: Mutex<BTreeMap<GroupId, Running>>,
    /// Numbers append messages of all groups, also of one that is stopped and started again.
    next_seq: Arc<AtomicU64>,
    runtime: tokio::runtime::Handle,
    thread: Mutex<Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>>,
}

impl GroupSet {
    /// Starts the runtime and the apply threads.
    ///
    /// # Errors
    /// When settings contradict each other or no thread can be started.
    pub fn new(config: NodeConfig, ports: Ports) -> Result<Self, StartError> {
        let raft_config = Arc::new(config.openraft()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().thread_name("consensus-blocking").build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("consensus".into()).spawn(move || {
            // Ends also when the set is dropped without a shutdown.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(Duration::from_secs(5));
        })?;
        let follower_config = Arc::new(Config { enable_elect: false, ..(*raft_config).clone() });
        Ok(Self {
            raft_config,
            follower_config,
            ports,
            inbound: Arc::new(Inbound::new(handle.clone())),
            executor: Arc::new(Executor::start(config.apply_threads)?),
            builds: Arc::new(Semaphore::new(1)),
            flushes: Arc::new(Semaphore::new(1)),
            groups: Mutex::new(BTreeMap::new()),
            next_seq: Arc::default(),
            runtime: handle,
            thread: Mutex::new(Some((stop, thread))),
            config,
        })
    }

    /// The runtime of consensus. Only what must be near it belongs there: append connections do, clients do not.
    #[must_use]
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }
    /// Where the transport delivers what peers send.
    #[must_use]
    pub fn inbound(&self) -> &Arc<Inbound> {
        &self.inbound
    }

    /// Starts a group. Returns once it has settled what a crash may have left; committed entries are replayed meanwhile.
    ///
    /// # Errors
    /// [`StartError`]; other groups go on.
    pub async fn start<M: Machine>(&self, start: GroupStart, machine: Arc<M>) -> Result<Group<M>, StartError> {
        let group = start.group;
        if lock(&self.groups).contains_key(&group) {
            return Err(StartError::Running(group));
        }
        let (gate, witness) = (start.gate.clone(), start.witness.clone());
        let prepared = tokio::task::spawn_blocking(move || start::open(start, machine)).await.map_err(io::Error::other)??;
        prepared.settle().await?;
        let core = prepared.core.clone();
        let rest = Resting::new(group, &self.config, self.ports.peers.clone());
        let network =
            Network::new(group, self.config.node.0, self.ports.peers.clone(), self.next_seq.clone(), prepared.log.clone(), rest.clone());
        let machine = StateMachine::new(core.clone(), self.executor.clone(), self.builds.clone());
        let (node, log) = (self.config.node.0, prepared.log);
        // A witness never stands for election.
        let raft_config = if witness.is_some() { self.follower_config.clone() } else { self.raft_config.clone() };
        let raft = self.runtime.spawn(async move { Raft::new(node, raft_config, network, log, machine).await });
        let raft = raft.await.map_err(|_| StartError::Stopping)?.map_err(|e| StartError::Consensus(e.to_string()))?;
        rest.attach(raft.clone());
        let caretaker = Caretaker {
            raft: raft.clone(),
            core: core.clone(),
            rest: rest.clone(),
            flushes: self.flushes.clone(),
            policy: self.config.snapshots,
            flush_interval: Duration::from_millis(self.config.flush_interval),
        };
        let care = self.runtime.spawn(caretaker.run());
        let witness = witness.map(Witnessing::new);
        self.inbound.insert(Hosted {
            group,
            raft: raft.clone(),
            gate: gate.clone(),
            snapshots: core.snapshots.clone(),
            witness,
            rest: rest.clone(),
        });
        let inner = GroupInner {
            group,
            node: self.config.node,
            raft: raft.clone(),
            core: core.clone(),
            gate,
            rest: rest.clone(),
            deadline: Duration::from_millis(self.config.deadline),
        };
        lock(&self.groups).insert(group, Running { raft, core, care, rest });
        Ok(Group::new(Arc::new(inner)))
    }

    /// A peer is reachable again: what waits to speak to it does so at once.
    pub async fn peer_up(&self, peer: NodeId) {
        let groups: Vec<_> = lock(&self.groups).values().map(|running| (running.raft.clone(), running.rest.clone())).collect();
        for (raft, rest) in groups {
            // A group that has stopped has nothing to say.
            let _ = raft.trigger().reset_backoff([peer.0]).await;
            rest.peer_up(peer).await;
        }
    }

    /// The replicas here that rest behind a leader elsewhere. Whoever hears of nodes must say when one of these leads no more
    /// ([`GroupSet::leader_lost`]): the replicas themselves hear nothing.
    #[must_use]
    pub fn behind(&self) -> Vec<Behind> {
        lock(&self.groups).values().filter_map(|running| running.rest.behind()).collect()
    }

    /// The leader that a group rests behind here leads no more: another is elected. Where only this node believes so, nothing comes of it: the
    /// others ask the leader before they give their votes.
    pub fn leader_lost(&self, group: GroupId) {
        let rest = lock(&self.groups).get(&group).map(|running| running.rest.clone());
        if let Some(rest) = rest {
            rest.lose_leader(&self.runtime);
        }
    }

    /// Stops one group and makes its tables durable.
    pub async fn stop(&self, group: GroupId) {
        let running = lock(&self.groups).remove(&group);
        if let Some(running) = running {
            self.inbound.remove(group);
            end(group, running).await;
        }
    }

    /// Stops all groups, then the runtime.
    pub async fn shutdown(&self) {
        let groups = std::mem::take(&mut *lock(&self.groups));
        for (group, running) in groups {
            self.inbound.remove(group);
            end(group, running).await;
        }
        let thread = lock(&self.thread).take();
        if let Some((stop, thread)) = thread {
            let _ = stop.send(());
            if tokio::task::spawn_blocking(move || thread.join()).await.is_err() {
                tracing::error!("the consensus thread panicked");
            }
        }
    }
}

async fn end(group: GroupId, running: Running) {
    running.care.abort();
    if let Err(error) = running.raft.shutdown().await {
        tracing::error!(%group, %error, "consensus did not end cleanly");
    }
    let core = running.core;
    match tokio::task::spawn_blocking(move || core.tables.flush()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(%group, %error, "tables were not flushed; the log will be replayed"),
        Err(error) => tracing::error!(%group, %error, "flush panicked"),
    }
}

/// Flushes a group's tables and writes its snapshots in time.
struct Caretaker {
    raft: Raft,
    core: Arc<Core>,
    rest: Arc<Resting>,
    flushes: Arc<Semaphore>,
    policy: SnapshotPolicy,
    flush_interval: Duration,
}

impl Caretaker {
    async fn run(self) {
        let mut flushed = Instant::now();
        let mut mend_from = Instant::now();
        loop {
            self.rest.pause(CARE_INTERVAL, RESTING_CARE_INTERVAL).await;
            // Group 0 is used all the time.
            if self.core.group != GroupId::CLUSTER {
                self.rest.consider();
            }
            if self.core.tables.is_suspect() && Instant::now() >= mend_from {
                self.mend().await;
                mend_from = Instant::now() + MEND_PAUSE;
            }
            if self.core.tables.needs_flush() || (flushed.elapsed() >= self.flush_interval && self.core.tables.is_pending()) {
                self.flush().await;
                flushed = Instant::now();
            }
            if self.is_snapshot_due() && self.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }

    /// A read has met damage.
    async fn mend(&self) {
        let core = self.core.clone();
        let work = move || core.rebuild().inspect_err(|error| core.give_up(error));
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(group = %self.core.group, %error, "damaged tables cannot be rebuilt from what is on this node");
            }
            Err(error) => tracing::error!(group = %self.core.group, %error, "the rebuild panicked"),
        }
    }

    async fn flush(&self) {
        let Ok(_one_at_a_time) = self.flushes.acquire().await else { return };
        let core = self.core.clone();
        let flushed = tokio::task::spawn_blocking(move || core.tables.flush()).await;
        if let Ok(Err(error)) = flushed {
            // The next commit fails with it and stops the group.
            tracing::error!(group = %self.core.group, %error, "tables cannot be made durable");
        }
    }

    fn is_snapshot_due(&self) -> bool {
        let growth = self.core.growth.get();
        // The size of the newest one is asked of the file system, and only where it matters.
        self.policy.is_due(growth, 0) && self.policy.is_due(growth, self.newest_bytes())
    }

    fn newest_bytes(&self) -> u64 {
        let newest = self.core.snapshots.newest();
        newest.and_then(|file| std::fs::metadata(file.path()).ok()).map_or(0, |meta| meta.len())
    }
}
