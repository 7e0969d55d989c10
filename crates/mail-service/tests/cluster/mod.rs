//! Three nodes in one process, with real journals, tables and links over loopback. Every connection from one node to another goes
//! through a relay of its own that can be cut.

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parliament_bodies::BodyStore;
use parliament_cluster_state as cluster_state;
use parliament_groups::{AppendStream, CallKind, FrameSink, Group, GroupSet, GroupStart, Machine, NoBodies, NodeConfig, NodeInfo};
use parliament_groups::{LinkError, PeerLink, Peers, Ports};
use parliament_ids::{AccountId, BodyHash, Boot, GroupId, NodeId, VotersVersion};
use parliament_journal::{Journal, Options};
use parliament_mail_service::{
    BodyExchange, ClusterMachine, Gate, Layout, Local, Place, Router, Shard, Support, UsersMachine, WatchHub, boot_ms, next_boot,
};
use parliament_routing::VoterList;
use parliament_rpc::{AdminHandler, Appends, Method, PeerHandler, PeerPool, Server, v1};
use parliament_tables::{GroupTables, TableOptions};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

pub(crate) const CLUSTER: [u8; 16] = [7; 16];
pub(crate) const USERS: GroupId = GroupId(1);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// What a wire does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It relays.
    Open,
    /// Connections break, and none can be made.
    Cut,
    /// Connections stay and carry nothing, as those of a host that was stopped or of a network that drops everything.
    Frozen,
}

/// One way from a node to another.
struct Wire {
    address: String,
    way: watch::Sender<Way>,
}

/// A node at work; its runtime goes with it.
pub(crate) struct Node {
    pub(crate) local: Arc<Local>,
    pub(crate) router: Arc<Router>,
    /// The rate of the clock that it tells its peers.
    pub(crate) clock_percent: Arc<AtomicU64>,
    groups: Arc<GroupSet>,
    journal: Journal,
    runtime: Option<tokio::runtime::Runtime>,
}

pub(crate) struct Cluster {
    dir: PathBuf,
    wires: HashMap<(NodeId, NodeId), Wire>,
    /// Where each node listens; taken by its server when it starts.
    listeners: HashMap<NodeId, std::net::SocketAddr>,
    nodes: HashMap<NodeId, Node>,
    /// The nodes with a replica of the group of users.
    replicas: Vec<NodeId>,
}

impl Cluster {
    /// Founds a cluster of one group of users, led by node 1 as group 0 is, with one account.
    pub(crate) async fn found(name: &str) -> (Self, AccountId) {
        Self::found_on(name, &NODES).await
    }

    /// The same, with replicas of the group of users on these nodes alone.
    pub(crate) async fn found_on(name: &str, replicas: &[NodeId]) -> (Self, AccountId) {
        let dir = std::env::temp_dir().join(format!("parliament-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let mut cluster =
            Self { dir, wires: HashMap::new(), listeners: HashMap::new(), nodes: HashMap::new(), replicas: replicas.to_vec() };
        for node in NODES {
            cluster.listeners.insert(node, unused_address());
        }
        for from in NODES {
            for to in NODES.into_iter().filter(|to| *to != from) {
                let wire = wire(cluster.listeners[&to]).await;
                cluster.wires.insert((from, to), wire);
            }
        }
        for node in NODES {
            cluster.start(node).await;
        }
        let first = &cluster.nodes[&NODES[0]];
        let members: BTreeMap<NodeId, NodeInfo> = NODES.into_iter().map(|node| (node, NodeInfo::default())).collect();
        first.local.cluster.initialize(members.clone()).await.unwrap();
        let users = members.into_iter().filter(|(node, _)| replicas.contains(node)).collect();
        first.local.shard(USERS).unwrap().group.initialize(users).await.unwrap();
        let local = first.local.clone();
        let formed = cluster_state::ClusterRecord { id: CLUSTER, name: "test".into(), groups: 1 };
        let form = cluster_state::Command::Form { cluster: formed, nodes: Vec::new(), placement: Vec::new() };
        local.propose_cluster(&form, boot_ms() + 10_000).await.unwrap().unwrap();
        let new = cluster_state::NewAccount { name: "ann@test".into(), credential: String::new() };
        let add = cluster_state::Command::AddAccounts { accounts: vec![new], time: 1 };
        let added = local.propose_cluster(&add, boot_ms() + 10_000).await.unwrap().unwrap();
        let cluster_state::Reply::Added { made, .. } = added else { panic!("{added:?}") };
        let account = made[0].1;
        for node in cluster.nodes.values() {
            while node.local.account(account).unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        (cluster, account)
    }

    pub(crate) fn node(&self, node: u64) -> &Node {
        &self.nodes[&NodeId(node)]
    }

    /// Starts a node on what lies in its folder.
    pub(crate) async fn start(&mut self, id: NodeId) {
        let ways = NODES.into_iter().filter(|to| *to != id).map(|to| (to, self.wires[&(id, to)].address.clone())).collect();
        let (dir, listen) = (self.dir.join(id.to_string()), self.listeners[&id]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let clock_percent = Arc::new(AtomicU64::new(100));
        let opening = runtime.spawn(Node::open(id, dir, listen, ways, self.replicas.clone(), clock_percent.clone()));
        let (local, groups, journal) = opening.await.unwrap();
        let router = Arc::new(Router::new(local.clone()));
        self.nodes.insert(id, Node { local, router, clock_percent, groups, journal, runtime: Some(runtime) });
    }

    /// Ends a node's sockets and tasks at once, as its death would.
    pub(crate) async fn kill(&mut self, id: NodeId) {
        let mut node = self.nodes.remove(&id).unwrap();
        self.set_ways(id, Way::Cut);
        node.groups.shutdown().await;
        if let Some(runtime) = node.runtime.take() {
            runtime.shutdown_background();
        }
        node.journal.close();
    }

    /// Has all nodes know that these give their leases away.
    pub(crate) fn set_giving(&self, nodes: &[u64]) {
        for node in self.nodes.values() {
            let giving = nodes.iter().copied().map(NodeId).collect();
            node.local.set_layout(Layout { giving, ..Layout::clone(&node.local.layout()) });
        }
    }

    /// Sets all ways to and from a node.
    pub(crate) fn set_ways(&self, id: NodeId, way: Way) {
        for ((from, to), wire) in &self.wires {
            if *from == id || *to == id {
                wire.way.send_replace(way);
            }
        }
    }

    /// Sets the way from one node to another.
    pub(crate) fn set_way(&self, from: NodeId, to: NodeId, way: Way) {
        self.wires[&(from, to)].way.send_replace(way);
    }

    pub(crate) async fn end(mut self) {
        for id in NODES {
            if self.nodes.contains_key(&id) {
                self.kill(id).await;
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// An address that a node can listen on now and after a restart: below the ports that connections take by themselves, and asked for once.
fn unused_address() -> std::net::SocketAddr {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    // Test processes that run side by side begin elsewhere.
    let first = 20_000 + u16::try_from(std::process::id() % 100 * 100).unwrap();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// Relays connections to `target` while open.
async fn wire(target: std::net::SocketAddr) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (way, ways) = watch::channel(Way::Open);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(relay(near, target, ways.clone()));
        }
    });
    Wire { address, way }
}

async fn relay(mut near: TcpStream, target: std::net::SocketAddr, mut ways: watch::Receiver<Way>) {
    if *ways.borrow() == Way::Open {
        let Ok(mut far) = TcpStream::connect(target).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
            _ = ways.wait_for(|way| *way != Way::Open) => {}
        }
        let _ = ways.wait_for(|way| *way != Way::Frozen).await;
    }
    let _ = ways.wait_for(|way| *way != Way::Frozen).await;
}

impl Node {
    /// Gives up the copy of the group of users, as a node does that is no longer to have it.
    pub(crate) async fn close_users(&self) {
        self.local.close(USERS).unwrap();
        self.local.support.renounce();
        self.groups.stop(USERS).await;
    }

    async fn open(
        me: NodeId,
        dir: PathBuf,
        listen: std::net::SocketAddr,
        ways: BTreeMap<NodeId, String>,
        replicas: Vec<NodeId>,
        clock_percent: Arc<AtomicU64>,
    ) -> (Arc<Local>, Arc<GroupSet>, Journal) {
        std::fs::create_dir_all(&dir).unwrap();
        let mut options = Options::new(dir.join("journal"));
        options.segment_bytes = 4 * 1024 * 1024;
        let journal = Journal::open(options).unwrap();
        let boot = next_boot(&journal).await.unwrap();
        let store = BodyStore::open(journal.clone(), parliament_bodies::Options::new(dir.join("bodies"))).unwrap();
        let pools: Arc<OnceLock<Arc<PeerPool>>> = Arc::default();
        let groups = Arc::new(GroupSet::new(NodeConfig::new(me), Ports { peers: Arc::new(Links(pools.clone())) }).unwrap());
        let pool = Arc::new(PeerPool::new(groups.runtime().clone(), CLUSTER, me, boot, None));
        ways.iter().for_each(|(node, address)| drop(pool.set(*node, address)));
        let _ = pools.set(pool.clone());
        let support =
            Support::new(me, boot, &NODES, VoterList { version: VotersVersion(0), nodes: NODES.to_vec() }, pool.clone(), journal.clone());
        let bodies = BodyExchange::new(store, pool.clone(), tokio::runtime::Handle::current());
        let hub = Arc::new(WatchHub::default());
        let cluster = group(&groups, &journal, &dir, GroupId::CLUSTER, Arc::new(ClusterMachine), Arc::new(NoBodies)).await;
        let mut shards = BTreeMap::new();
        if replicas.contains(&me) {
            let machine = UsersMachine::new(hub.clone(), bodies.clone());
            let users = group(&groups, &journal, &dir, USERS, machine.clone(), Arc::new(Gate(bodies.clone()))).await;
            shards.insert(USERS, Shard::new(users, machine));
        }
        let place = Place { voters: replicas, ..Place::default() };
        let layout = Layout { groups: BTreeMap::from([(USERS, place)]), ..Layout::default() };
        let local = Local::new(me, pool, support.clone(), cluster, shards, layout, bodies, hub, CLUSTER_KEY);
        let listener = TcpListener::bind(listen).await.unwrap();
        let handler =
            Arc::new(Handler { local: local.clone(), groups: groups.clone(), runtime: tokio::runtime::Handle::current(), clock_percent });
        let server = Server { peers: handler.clone(), admin: handler, tls: None };
        tokio::spawn(server.run(listener));
        tokio::spawn(local.bodies.clone().pull_missing());
        tokio::spawn(local.clone().hear_of_changes());
        groups.runtime().spawn(support.run());
        let up = (local.pool.clone(), groups.clone());
        tokio::spawn(async move {
            let mut was_up: HashMap<NodeId, bool> = HashMap::new();
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                for peer in up.0.all() {
                    if was_up.insert(peer.node(), peer.is_connected()) == Some(false) && peer.is_connected() {
                        up.1.peer_up(peer.node()).await;
                    }
                }
            }
        });
        (local, groups, journal)
    }
}

const CLUSTER_KEY: [u8; 32] = [7; 32];

async fn group<M: Machine>(
    groups: &GroupSet,
    journal: &Journal,
    dir: &Path,
    group: GroupId,
    machine: Arc<M>,
    gate: Arc<dyn parliament_groups::BodyGate>,
) -> Group<M> {
    let dir = dir.join(group.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let tables = GroupTables::open(&dir.join("tables"), &TableOptions::default()).unwrap();
    let start = GroupStart { group, dir, log: journal.group(group), tables, gate, witness: None, rescue: None };
    groups.start(start, machine).await.unwrap()
}

/// A node's answers to its peers.
struct Handler {
    local: Arc<Local>,
    groups: Arc<GroupSet>,
    runtime: tokio::runtime::Handle,
    clock_percent: Arc<AtomicU64>,
}

struct Connection(parliament_groups::Connection, mpsc::UnboundedSender<(GroupId, Bytes)>);

impl Appends for Connection {
    fn append(&self, group: GroupId, payload: Bytes) -> Result<(), String> {
        let answers = self.1.clone();
        let answer = Box::new(move |bytes| drop(answers.send((group, bytes))));
        self.0.append(group, payload, answer).map_err(|refusal| refusal.to_string())
    }
}

#[async_trait]
impl PeerHandler for Handler {
    fn admits(&self, cluster: [u8; 16], _: NodeId, _: Boot) -> bool {
        cluster == CLUSTER
    }
    fn connected(&self, from: NodeId, answers: mpsc::UnboundedSender<(GroupId, Bytes)>) -> Box<dyn Appends> {
        Box::new(Connection(self.groups.inbound().connection(from), answers))
    }
    fn body(&self, _: NodeId, hash: BodyHash, payload: Bytes) {
        self.local.bodies.arrived(hash, payload);
    }
    async fn request(&self, from: NodeId, method: Method, payload: Bytes) -> Result<Bytes, String> {
        match method {
            Method::Propose => self.local.on_propose(payload).await,
            Method::ReadIndex => self.local.on_read_index(payload).await,
            Method::Relay => {
                let local = self.local.clone();
                self.runtime.spawn(async move { local.on_relay(from, payload).await }).await.map_err(|e| e.to_string())?
            }
            Method::Onward => {
                let local = self.local.clone();
                self.runtime.spawn(async move { local.on_onward(from, payload).await }).await.map_err(|e| e.to_string())?
            }
            Method::ReadIndexOnward => self.local.on_read_index_onward(payload).await,
            Method::Changes => self.local.on_changes(&payload).await,
            Method::Image => self.local.on_image(payload).await,
            Method::Ask => Err("nobody asks here".into()),
        }
    }
    async fn hello(&self) -> v1::HelloReply {
        v1::HelloReply::default()
    }
    async fn adopt(&self, _: v1::AdoptRequest) -> v1::AdoptReply {
        v1::AdoptReply::default()
    }
    async fn join(&self, _: v1::JoinRequest) -> v1::JoinReply {
        v1::JoinReply::default()
    }
    async fn raft(&self, from: NodeId, group: GroupId, kind: u32, payload: Bytes) -> Result<Bytes, String> {
        let kind = u8::try_from(kind).ok().and_then(CallKind::from_u8).ok_or("kind")?;
        self.groups.inbound().handle_call(from, group, kind, payload).await.map_err(|refusal| refusal.to_string())
    }
    async fn support(&self, node: NodeId, boot: Boot, list: VotersVersion) -> v1::SupportReply {
        let mut reply = self.local.support.on_support(node, boot, list);
        reply.clock_ms = reply.clock_ms * self.clock_percent.load(Ordering::Relaxed) / 100;
        reply
    }
    async fn withdraw(&self, node: NodeId, boot: Boot, list: VotersVersion) -> v1::WithdrawReply {
        self.local.support.on_withdraw(node, boot, list).await
    }
    async fn snapshot(&self, group: GroupId, head: Bytes, path: PathBuf) -> Result<Bytes, String> {
        self.groups.inbound().handle_snapshot(group, head, path).await.map_err(|refusal| refusal.to_string())
    }
    fn snapshot_dir(&self, group: GroupId) -> Result<PathBuf, String> {
        self.groups.inbound().snapshot_spool(group).map_err(|refusal| refusal.to_string())
    }
    async fn fetch_body(&self, hash: BodyHash) -> Option<Bytes> {
        self.local.bodies.for_peer(hash).await
    }
    async fn store_body(&self, hash: BodyHash, bytes: Bytes) -> bool {
        self.local.bodies.store_large(hash, bytes).await
    }
}

#[async_trait]
impl AdminHandler for Handler {
    async fn call(&self, _: String, _: Bytes) -> Result<Bytes, Bytes> {
        Err(Bytes::new())
    }
}

/// Consensus' view of the links.
struct Links(Arc<OnceLock<Arc<PeerPool>>>);

impl Peers for Links {
    fn link(&self, node: NodeId, _: &NodeInfo) -> Arc<dyn PeerLink> {
        Arc::new(Link(self.0.wait().get(node).unwrap()))
    }
}

struct Link(Arc<parliament_rpc::Peer>);
struct Sink(parliament_rpc::AppendSender);

fn unreachable(error: &parliament_rpc::LinkError) -> LinkError {
    LinkError::Unreachable(error.to_string())
}

impl FrameSink for Sink {
    fn send(&self, frame: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        async move { self.0.send(frame).await.map_err(|e| unreachable(&e)) }.boxed()
    }
}

impl PeerLink for Link {
    fn call(&self, group: GroupId, kind: CallKind, request: Bytes) -> BoxFuture<'_, Result<Bytes, LinkError>> {
        let timeout = Duration::from_secs(5);
        async move { self.0.raft(group, u32::from(kind.to_u8()), request, timeout).await.map_err(|e| unreachable(&e)) }.boxed()
    }
    fn append_stream(&self, group: GroupId) -> Result<AppendStream, LinkError> {
        let (sender, answers) = self.0.append_stream(group).map_err(|e| unreachable(&e))?.split();
        Ok(AppendStream { frames: Box::new(Sink(sender)), answers })
    }
    fn send_snapshot(&self, group: GroupId, head: Bytes, file: PathBuf) -> BoxFuture<'_, Result<Bytes, LinkError>> {
        async move { self.0.send_snapshot(group, head, &file).await.map_err(|e| unreachable(&e)) }.boxed()
    }
}
