//! A node's clients to its peers.

use crate::link::{AppendStream, Link, hello};
use crate::stream::PeerTls;
use crate::{LinkError, Method, grpc, v1};
use bytes::Bytes;
use parliament_ids::{BodyHash, Boot, GroupId, NodeId, VotersVersion, limits};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;

/// Votes, promises and the like are small and never wait for a disk longer than this.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);
/// To enter a node takes a change of group 0.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a peer that was asked for a body may send nothing: others have it, too, and a client may wait.
const FETCH_PATIENCE: Duration = Duration::from_secs(1);
/// A large body at 1 MB/s.
const BULK_TIMEOUT: Duration = Duration::from_secs(120);

/// One peer.
pub struct Peer {
    node: NodeId,
    address: Arc<RwLock<String>>,
    sender: v1::Sender,
    link: Link,
    control: v1::control_client::ControlClient<Channel>,
    bulk: v1::bulk_client::BulkClient<Channel>,
}

fn timed<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

impl Peer {
    /// Which node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }
    /// True while the link is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }
    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// A stream of append messages for one group.
    ///
    /// # Errors
    /// When the link is down.
    pub fn append_stream(&self, group: GroupId) -> Result<AppendStream, LinkError> {
        self.link.append_stream(group)
    }
    /// Sends a body ahead of the entry that names it; false when it was dropped (the follower will pull it).
    #[must_use]
    pub fn push_small_body(&self, hash: BodyHash, bytes: Bytes) -> bool {
        self.link.push_body(hash, bytes)
    }
    /// A request over the link.
    ///
    /// # Errors
    /// [`LinkError`]; unless refused, the outcome is unknown.
    pub async fn request(&self, method: Method, payload: Bytes, timeout: Duration) -> Result<Bytes, LinkError> {
        self.link.request(method, payload, timeout).await
    }
    /// Votes, pre-votes, leader transfers.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn raft(&self, group: GroupId, kind: u32, payload: Bytes, timeout: Duration) -> Result<Bytes, LinkError> {
        let message = v1::RaftRequest { group: group.0, kind, payload, sender: Some(self.sender.clone()) };
        within(timeout, self.control.clone().raft(timed(message, timeout))).await.map(|reply| reply.payload)
    }
    /// Asks for support, by a list of voters.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn support(&self, node: NodeId, boot: Boot, list: VotersVersion, timeout: Duration) -> Result<v1::SupportReply, LinkError> {
        let message = v1::SupportRequest { node: node.0, boot: boot.0, list: list.0 };
        within(timeout, self.control.clone().support(timed(message, timeout))).await
    }
    /// Asks to withdraw support from another node's boot.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn withdraw(&self, node: NodeId, boot: Boot, list: VotersVersion) -> Result<v1::WithdrawReply, LinkError> {
        let message = v1::WithdrawRequest { node: node.0, boot: boot.0, list: list.0 };
        within(CONTROL_TIMEOUT, self.control.clone().withdraw(timed(message, CONTROL_TIMEOUT))).await
    }
    /// Sends a snapshot file.
    ///
    /// # Errors
    /// [`LinkError`], also when the file cannot be read.
    pub async fn send_snapshot(&self, group: GroupId, head: Bytes, path: &Path) -> Result<Bytes, LinkError> {
        let local = |e: std::io::Error| LinkError::Refused(format!("snapshot file: {e}"));
        let mut file = tokio::fs::File::open(path).await.map_err(local)?;
        let (sender, stream) = tokio::sync::mpsc::channel(4);
        let mut me = Some(self.sender.clone());
        let reading = async move {
            let mut head = head;
            loop {
                let mut bytes = bytes::BytesMut::with_capacity(limits::BODY_PIECE_BYTES);
                let n = file.read_buf(&mut bytes).await.map_err(local)?;
                let piece = v1::SnapshotPiece { group: group.0, head: std::mem::take(&mut head), bytes: bytes.freeze(), sender: me.take() };
                if sender.send(piece).await.is_err() || n == 0 {
                    return Ok::<(), LinkError>(());
                }
            }
        };
        let mut bulk = self.bulk.clone();
        let sending = async { bulk.snapshot(ReceiverStream::new(stream)).await.map_err(|s| grpc::failed(&s)) };
        let (read, reply) = tokio::join!(reading, sending);
        read?;
        Ok(reply?.into_inner().payload)
    }
    /// Reads a body from the peer; `None` when it is not there. The caller checks the hash.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn fetch_body(&self, hash: BodyHash) -> Result<Option<Bytes>, LinkError> {
        let message = v1::FetchBodyRequest { hash: Bytes::copy_from_slice(&hash.0) };
        let mut bulk = self.bulk.clone();
        let work = async {
            let asked = tokio::time::timeout(FETCH_PATIENCE, bulk.fetch_body(message)).await.map_err(|_| LinkError::TimedOut)?;
            let mut pieces = asked.map_err(|s| grpc::failed(&s))?.into_inner();
            grpc::collect(&mut pieces, FETCH_PATIENCE).await.map_err(|s| grpc::failed(&s))
        };
        let body = tokio::time::timeout(BULK_TIMEOUT, work).await.map_err(|_| LinkError::TimedOut)??;
        Ok(body.map(|(_, bytes)| bytes))
    }
    /// Stores a large body at the peer; true when it is durable there.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn push_large_body(&self, hash: BodyHash, body: Bytes) -> Result<bool, LinkError> {
        let (sender, stream) = tokio::sync::mpsc::channel(4);
        let size = body.len() as u64;
        let feeding = async move {
            let (mut head, mut rest) = (Bytes::copy_from_slice(&hash.0), body);
            loop {
                let bytes = rest.split_to(rest.len().min(limits::BODY_PIECE_BYTES));
                let piece = v1::BodyPiece { hash: std::mem::take(&mut head), size, bytes };
                if sender.send(piece).await.is_err() || rest.is_empty() {
                    return;
                }
            }
        };
        let mut bulk = self.bulk.clone();
        let work = async { tokio::join!(feeding, bulk.push_body(ReceiverStream::new(stream))).1 };
        let reply = tokio::time::timeout(BULK_TIMEOUT, work).await.map_err(|_| LinkError::TimedOut)?;
        Ok(reply.map_err(|s| grpc::failed(&s))?.into_inner().stored)
    }
    /// Makes the peer a member of a cluster.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn adopt(&self, document: Bytes, node: NodeId) -> Result<v1::AdoptReply, LinkError> {
        let timeout = Duration::from_secs(10);
        within(timeout, self.control.clone().adopt(timed(v1::AdoptRequest { document, node_id: node.0 }, timeout))).await
    }
    /// Asks to be entered in the peer's cluster.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn join(&self, request: v1::JoinRequest) -> Result<v1::JoinReply, LinkError> {
        within(JOIN_TIMEOUT, self.control.clone().join(timed(request, JOIN_TIMEOUT))).await
    }
    /// Who is there.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn hello(&self) -> Result<v1::HelloReply, LinkError> {
        within(CONTROL_TIMEOUT, self.control.clone().hello(timed(v1::HelloRequest {}, CONTROL_TIMEOUT))).await
    }
}

async fn within<T>(timeout: Duration, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, LinkError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(grpc::failed(&status)),
        Err(_) => Err(LinkError::TimedOut),
    }
}

/// All peers of a node, by id.
pub struct PeerPool {
    runtime: tokio::runtime::Handle,
    sender: v1::Sender,
    hello: Bytes,
    tls: Option<PeerTls>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
}

impl PeerPool {
    /// A pool whose links run on `runtime` (the consensus runtime).
    #[must_use]
    pub fn new(runtime: tokio::runtime::Handle, cluster: [u8; 16], node: NodeId, boot: Boot, tls: Option<PeerTls>) -> Self {
        let sender = v1::Sender { cluster_id: Bytes::copy_from_slice(&cluster), node_id: node.0, boot: boot.0 };
        Self { runtime, sender, hello: hello(cluster, node.0, boot.0), tls, peers: Mutex::new(BTreeMap::new()) }
    }
    /// Adds a peer or changes where it is reached.
    pub fn set(&self, node: NodeId, address: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node) {
            address.clone_into(&mut peer.address.write().unwrap_or_else(PoisonError::into_inner));
            return peer.clone();
        }
        let peer = Arc::new(self.connect(node, address));
        peers.insert(node, peer.clone());
        peer
    }
    /// Speaks no more to a peer: its link ends, whoever still has it.
    pub fn remove(&self, node: NodeId) {
        let peer = self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        if let Some(peer) = peer {
            peer.link.close();
        }
    }
    /// A client outside the pool, for a node without an id yet. Must be called within the pool's runtime or another one.
    #[must_use]
    pub fn connect(&self, node: NodeId, address: &str) -> Peer {
        let address = Arc::new(RwLock::new(address.to_owned()));
        let resolve = {
            let address = address.clone();
            move || address.read().unwrap_or_else(PoisonError::into_inner).clone()
        };
        let _guard = self.runtime.enter();
        let control = grpc::channel(Arc::new(resolve.clone()), self.tls.clone());
        let bulk = grpc::channel(Arc::new(resolve.clone()), self.tls.clone());
        Peer {
            node,
            address,
            sender: self.sender.clone(),
            link: Link::start(&self.runtime, resolve, self.hello.clone(), self.tls.clone()),
            control: v1::control_client::ControlClient::new(control),
            bulk: v1::bulk_client::BulkClient::new(bulk),
        }
    }
    /// The peer of this id.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }
    /// All peers.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
