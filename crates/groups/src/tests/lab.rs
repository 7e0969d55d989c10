//! A toy machine, a channel network whose links can be cut, a gate that knows which bodies each node has, and nodes that can
//! be stopped and started on their folders.

use crate::*;
use bytes::Bytes;
use futures::future::BoxFuture;
use parliament_ids::{BodyHash, GroupId, NodeId};
use parliament_journal::{Journal, Options};
use parliament_mailbox_state::{Overlay, TableFault, Tables};
use parliament_tables::{GroupTables, TableOptions};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

pub(super) const GROUP: GroupId = GroupId(7);

/// `key=value` sets a record and replies with the number of commands applied so far; `poison` is a fault.
#[derive(Default)]
pub(super) struct Toy {
    /// Index and number of replies of each committed chunk.
    pub(super) chunks: Mutex<Vec<(u64, usize)>>,
}

impl Machine for Toy {
    type Reply = u64;
    fn apply(&self, tables: &mut Overlay<'_>, _index: u64, command: &[u8]) -> Result<u64, TableFault> {
        let bad = || TableFault { what: "toy command".into() };
        let at = command.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        tables.put([b"k/", &command[..at]].concat(), command[at + 1..].to_vec());
        let count = tables.get(b"count")?.map_or(0, |n| u64::from_be_bytes(n.try_into().unwrap())) + 1;
        tables.put(b"count".to_vec(), count.to_be_bytes().to_vec());
        Ok(count)
    }
    fn committed(&self, tables: &GroupTables, index: u64, replies: &[u64]) {
        if let Some(last) = replies.last() {
            assert_eq!(count(tables), *last, "the chunk is in the tables before anybody is told");
        }
        self.chunks.lock().unwrap().push((index, replies.len()));
    }
}

pub(super) fn count(tables: &GroupTables) -> u64 {
    tables.get(b"count").unwrap().map_or(0, |n| u64::from_be_bytes(n.try_into().unwrap()))
}

/// Longer than anything takes that a test waits for.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// Waits until something is done.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn set(key: &str, value: &str) -> Command {
    Command::new(&[], format!("{key}={value}").as_bytes()).unwrap()
}

/// Which nodes there are and which links are cut.
#[derive(Default)]
pub(super) struct Net {
    nodes: Mutex<HashMap<NodeId, Arc<Inbound>>>,
    cut: Mutex<HashSet<(NodeId, NodeId)>>,
    pub(super) calls: Mutex<HashMap<&'static str, u64>>,
}

impl Net {
    fn inbound(&self, from: NodeId, to: NodeId) -> Result<Arc<Inbound>, LinkError> {
        if self.cut.lock().unwrap().contains(&(from, to)) {
            return Err(LinkError::Unreachable("cut".into()));
        }
        self.nodes.lock().unwrap().get(&to).cloned().ok_or(LinkError::Unreachable("down".into()))
    }
    fn count(&self, what: &'static str) {
        *self.calls.lock().unwrap().entry(what).or_default() += 1;
    }
    pub(super) fn counted(&self, what: &'static str) -> u64 {
        self.calls.lock().unwrap().get(what).copied().unwrap_or(0)
    }
    /// Cuts or joins one direction.
    pub(super) fn cut(&self, from: NodeId, to: NodeId, cut: bool) {
        let mut cuts = self.cut.lock().unwrap();
        if cut {
            cuts.insert((from, to))
        } else {
            cuts.remove(&(from, to))
        };
    }
    /// Cuts a node off in both directions, or joins it again.
    pub(super) fn isolate(&self, node: NodeId, isolated: bool) {
        let mut cut = self.cut.lock().unwrap();
        for other in (1..=5).map(NodeId).filter(|other| *other != node) {
            for pair in [(node, other), (other, node)] {
                if isolated {
                    cut.insert(pair)
                } else {
                    cut.remove(&pair)
                };
            }
        }
    }
}

struct ChannelPeers {
    me: NodeId,
    net: Arc<Net>,
}

impl Peers for ChannelPeers {
    fn link(&self, node: NodeId, _: &NodeInfo) -> Arc<dyn PeerLink> {
        Arc::new(ChannelLink { me: self.me, peer: node, net: self.net.clone() })
    }
}

struct ChannelLink {
    me: NodeId,
    peer: NodeId,
    net: Arc<Net>,
}

impl PeerLink for ChannelLink {
    fn call(&self, group: GroupId, kind: CallKind, request: Bytes) -> BoxFuture<'_, Result<Bytes, LinkError>> {
        Box::pin(async move {
            self.net.count(match kind {
                CallKind::PreVote => "pre-vote",
                CallKind::Rest => "rest",
                CallKind::Rouse => "rouse",
                CallKind::Vote | CallKind::TransferLeader => "vote or transfer",
            });
            let inbound = self.net.inbound(self.me, self.peer)?;
            let answer = inbound.handle_call(self.me, group, kind, request).await.map_err(|e| LinkError::Refused(e.to_string()))?;
            self.net.inbound(self.peer, self.me)?;
            Ok(answer)
        })
    }

    fn append_stream(&self, group: GroupId) -> Result<AppendStream, LinkError> {
        let inbound = self.net.inbound(self.me, self.peer)?;
        let (frames, mut sent) = mpsc::channel::<Bytes>(16);
        let (answered, answers) = mpsc::unbounded_channel();
        let (net, me, peer) = (self.net.clone(), self.me, self.peer);
        tokio::spawn(async move {
            let connection = inbound.connection(me);
            while let Some(frame) = sent.recv().await {
                net.count("append");
                let up = net.inbound(me, peer).is_ok_and(|now| Arc::ptr_eq(&now, &inbound));
                let (answered, net) = (answered.clone(), net.clone());
                let answer: Answer = Box::new(move |bytes| {
                    if net.inbound(peer, me).is_ok() {
                        let _ = answered.send(bytes);
                    }
                });
                if !up || connection.append(group, frame, answer).is_err() {
                    return;
                }
            }
        });
        Ok(AppendStream { frames: Box::new(frames), answers })
    }

    fn send_snapshot(&self, group: GroupId, head: Bytes, file: PathBuf) -> BoxFuture<'_, Result<Bytes, LinkError>> {
        Box::pin(async move {
            self.net.count("snapshot");
            let refused = |e: Refusal| LinkError::Refused(e.to_string());
            let inbound = self.net.inbound(self.me, self.peer)?;
            let spool = inbound.snapshot_spool(group).map_err(refused)?.join(format!("from-{}", self.me));
            std::fs::copy(file, &spool).map_err(|e| LinkError::Refused(e.to_string()))?;
            inbound.handle_snapshot(group, head, spool).await.map_err(refused)
        })
    }
}

/// Which bodies a node has.
#[derive(Default)]
pub(super) struct Shelf {
    bodies: Mutex<HashSet<BodyHash>>,
    put: Notify,
    /// Every request that came.
    pub(super) seen: Mutex<Vec<GateRequest>>,
    /// Gates that were dropped while waiting.
    pub(super) dropped: Arc<Mutex<u32>>,
}

impl Shelf {
    pub(super) fn put(&self, body: BodyHash) {
        self.bodies.lock().unwrap().insert(body);
        self.put.notify_waiters();
    }
}

struct CountDrop(Option<Arc<Mutex<u32>>>);
impl Drop for CountDrop {
    fn drop(&mut self) {
        if let Some(dropped) = &self.0 {
            *dropped.lock().unwrap() += 1;
        }
    }
}

impl BodyGate for Shelf {
    fn gate(&self, _: GroupId, request: GateRequest) -> BoxFuture<'_, GateOutcome> {
        Box::pin(async move {
            self.seen.lock().unwrap().push(request.clone());
            let mut guard = CountDrop(Some(self.dropped.clone()));
            let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
            loop {
                let put = self.put.notified();
                let missing = request.strict.iter().any(|(_, body)| !self.bodies.lock().unwrap().contains(body));
                if !missing {
                    guard.0 = None;
                    return GateOutcome::Open;
                }
                if tokio::time::timeout_at(deadline, put).await.is_err() {
                    guard.0 = None;
                    return GateOutcome::Closed("body missing".into());
                }
            }
        })
    }
}

/// One node, running.
pub(super) struct Node {
    pub(super) set: GroupSet,
    pub(super) group: Group<Toy>,
    pub(super) toy: Arc<Toy>,
    /// Further groups.
    pub(super) more: Vec<Group<Toy>>,
    journal: Journal,
}

/// Nodes on folders below one temporary folder.
pub(super) struct Lab {
    dir: tempfile::TempDir,
    pub(super) net: Arc<Net>,
    pub(super) shelves: BTreeMap<NodeId, Arc<Shelf>>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) policy: SnapshotPolicy,
    /// The node without bodies, if there is one, and its rule.
    witness: Option<(NodeId, Arc<WitnessRule>)>,
    /// Milliseconds.
    pub(super) rest_after: u64,
}

pub(super) fn info(node: NodeId) -> NodeInfo {
    NodeInfo { addr: format!("n{node}:1"), zone: "z".into(), witness: false }
}

impl Lab {
    /// Three nodes with one group, founded by node 1.
    pub(super) async fn three() -> Self {
        Self::three_with(SnapshotPolicy::default()).await
    }

    pub(super) async fn three_with(policy: SnapshotPolicy) -> Self {
        let rest_after = NodeConfig::new(NodeId(1)).rest_after;
        Self::found(policy, None, rest_after).await
    }

    pub(super) async fn three_that_rest(policy: SnapshotPolicy, rest_after: u64) -> Self {
        Self::found(policy, None, rest_after).await
    }

    /// Nodes 1 and 2 with bodies, node 3 without.
    pub(super) async fn two_and_witness() -> (Self, Arc<WitnessRule>) {
        Self::two_and_witness_that_rest(NodeConfig::new(NodeId(1)).rest_after).await
    }

    pub(super) async fn two_and_witness_that_rest(rest_after: u64) -> (Self, Arc<WitnessRule>) {
        let rule = Arc::new(WitnessRule::default());
        (Self::found(SnapshotPolicy::default(), Some((NodeId(3), rule.clone())), rest_after).await, rule)
    }

    async fn found(policy: SnapshotPolicy, witness: Option<(NodeId, Arc<WitnessRule>)>, rest_after: u64) -> Self {
        // RUST_LOG shows what happens in a test that fails.
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let mut lab = Self {
            dir: tempfile::tempdir().unwrap(),
            net: Arc::default(),
            shelves: nodes.iter().map(|n| (*n, Arc::default())).collect(),
            nodes: BTreeMap::new(),
            policy,
            witness,
            rest_after,
        };
        for node in &nodes {
            lab.start(*node).await;
        }
        let is_witness = |node: &NodeId| lab.witness.as_ref().is_some_and(|(witness, _)| witness == node);
        let members = nodes.iter().map(|n| (*n, NodeInfo { witness: is_witness(n), ..info(*n) })).collect();
        lab.nodes[&NodeId(1)].group.initialize(members).await.unwrap();
        lab
    }

    /// Adds groups to all nodes, founded by one node after the other.
    pub(super) async fn add_groups(&mut self, count: u32) {
        let members: BTreeMap<NodeId, NodeInfo> = self.nodes.keys().map(|n| (*n, info(*n))).collect();
        for number in 0..count {
            let id = GroupId(100 + number);
            for (node, running) in &mut self.nodes {
                let folder = self.dir.path().join(node.to_string());
                let start = group_start(&folder, &running.journal, id, self.shelves[node].clone(), None);
                running.more.push(running.set.start(start, Arc::new(Toy::default())).await.unwrap());
            }
            let founder = NodeId(u64::from(number) % self.nodes.len() as u64 + 1);
            let group = self.nodes[&founder].more.last().unwrap().clone();
            group.initialize(members.clone()).await.unwrap();
        }
    }

    pub(super) fn folder(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    pub(super) async fn start(&mut self, node: NodeId) {
        self.try_start(node, None).await.unwrap();
    }

    pub(super) async fn try_start(&mut self, node: NodeId, rescue: Option<PathBuf>) -> Result<(), StartError> {
        let mut config = NodeConfig::new(node);
        config.snapshots = self.policy;
        config.deadline = 3_000;
        config.rest_after = self.rest_after;
        let set = GroupSet::new(config, Ports { peers: Arc::new(ChannelPeers { me: node, net: self.net.clone() }) })?;
        let journal = Journal::open(journal_options(&self.folder(node).join("journal"))).unwrap();
        let toy = Arc::new(Toy::default());
        let mut start = group_start(&self.folder(node), &journal, GROUP, self.shelves[&node].clone(), rescue);
        start.witness = self.witness.iter().find(|(witness, _)| *witness == node).map(|(_, rule)| rule.clone());
        let group = match set.start(start, toy.clone()).await {
            Ok(group) => group,
            Err(error) => {
                set.shutdown().await;
                journal.close();
                return Err(error);
            }
        };
        self.net.nodes.lock().unwrap().insert(node, set.inbound().clone());
        self.nodes.insert(node, Node { set, group, toy, more: Vec::new(), journal });
        Ok(())
    }

    pub(super) async fn stop(&mut self, node: NodeId) {
        self.net.nodes.lock().unwrap().remove(&node);
        let stopped = self.nodes.remove(&node).unwrap();
        stopped.set.shutdown().await;
        drop((stopped.group, stopped.more));
        drop(stopped.set);
        stopped.journal.close();
    }

    pub(super) async fn stop_all(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(node).await;
        }
    }

    /// Waits until some running node leads and a quorum has confirmed it.
    pub(super) async fn leader(&self) -> NodeId {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            for (id, node) in &self.nodes {
                if node.group.is_leader() && node.group.read_index().await.is_ok() {
                    return *id;
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn group(&self, node: NodeId) -> &Group<Toy> {
        &self.nodes[&node].group
    }

    /// Proposes at whichever node leads, until it is known to be committed.
    pub(super) async fn write(&self, key: &str, value: &str) -> (u64, u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let leader = self.leader().await;
            match self.group(leader).propose(set(key, value)).await {
                Ok(written) => return written,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Waits until all running nodes have applied `index`, then compares all records.
    pub(super) async fn agree(&self, index: u64) {
        let mut images = Vec::new();
        for node in self.nodes.values() {
            node.group.wait_applied(index, Duration::from_secs(10)).await.unwrap();
            images.push(image(node.group.tables()));
        }
        assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ");
    }
}

pub(super) fn image(tables: &GroupTables) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    tables
        .scan(&[], &[0xff; 4], &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    records
}

pub(super) fn journal_options(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 4 * 1024 * 1024;
    options
}

pub(super) fn group_start(
    folder: &Path,
    journal: &Journal,
    group: GroupId,
    gate: Arc<dyn BodyGate>,
    rescue: Option<PathBuf>,
) -> GroupStart {
    let dir = folder.join(format!("group-{group}"));
    std::fs::create_dir_all(&dir).unwrap();
    let options = TableOptions { cache_bytes: 1 << 20, ..TableOptions::default() };
    let tables = GroupTables::open(&dir.join("tables"), &options).unwrap();
    GroupStart { group, dir, log: journal.group(group), tables, gate, witness: None, rescue }
}
