//! The server side: accepts, tells links from gRPC, hands requests to the node.

use crate::frame::{Frame, PREFACE};
use crate::link::{fill, write_frames};
use crate::stream::{PeerStream, PeerTls, Prefixed, Rank};
use crate::{LinkError, Method, grpc, v1};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parliament_ids::{BodyHash, Boot, GroupId, NodeId, VotersVersion};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Requests of one link under way; further ones are refused.
const REQUESTS_PER_LINK_MAX: usize = 4096;
/// Answers waiting for the socket.
const ANSWERS_MAX: usize = 8192;
/// How long a new connection may take to say what it is.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections to the peer port at once.
const CONNECTIONS_MAX: usize = 1024;

/// What a node does with its peers' messages.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// True when this peer and boot may speak here (same cluster, known node, boot not older than seen).
    fn admits(&self, cluster: [u8; 16], node: NodeId, boot: Boot) -> bool;
    /// A peer's link is up. Append messages go into what is returned, in order; their answers come out of `answers` at any
    /// time, in order per group. Dropped when the link breaks.
    fn connected(&self, from: NodeId, answers: mpsc::UnboundedSender<(GroupId, Bytes)>) -> Box<dyn Appends>;
    /// A body that a later append message may name. Must not block.
    fn body(&self, from: NodeId, hash: BodyHash, payload: Bytes);
    /// A request.
    async fn request(&self, from: NodeId, method: Method, payload: Bytes) -> Result<Bytes, String>;
    /// Who this node is.
    async fn hello(&self) -> v1::HelloReply;
    /// Become a member of a cluster.
    async fn adopt(&self, request: v1::AdoptRequest) -> v1::AdoptReply;
    /// Enter a node that was invited.
    async fn join(&self, request: v1::JoinRequest) -> v1::JoinReply;
    /// Votes and leader transfers of a peer that was admitted; see the sender for kinds.
    async fn raft(&self, from: NodeId, group: GroupId, kind: u32, payload: Bytes) -> Result<Bytes, String>;
    /// A promise of support.
    async fn support(&self, node: NodeId, boot: Boot, list: VotersVersion) -> v1::SupportReply;
    /// A withdrawal of support.
    async fn withdraw(&self, node: NodeId, boot: Boot, list: VotersVersion) -> v1::WithdrawReply;
    /// A whole snapshot file has arrived at `path`; it belongs to the handler now.
    async fn snapshot(&self, group: GroupId, head: Bytes, path: PathBuf) -> Result<Bytes, String>;
    /// The folder into which a group's snapshots are received.
    ///
    /// # Errors
    /// When the group does not run here.
    fn snapshot_dir(&self, group: GroupId) -> Result<PathBuf, String>;
    /// A body, whole, if it is here and sound.
    async fn fetch_body(&self, hash: BodyHash) -> Option<Bytes>;
    /// A large body; durable here when this returns true.
    async fn store_body(&self, hash: BodyHash, bytes: Bytes) -> bool;
}

/// Takes the append messages of one link.
pub trait Appends: Send + Sync {
    /// Takes one message and returns at once; it bounds by itself how many may be unanswered.
    ///
    /// # Errors
    /// When the peer breaks the protocol: the link is closed.
    fn append(&self, group: GroupId, payload: Bytes) -> Result<(), String>;
}

/// Carries out operators' commands.
#[async_trait]
pub trait AdminHandler: Send + Sync + 'static {
    /// One verb with its document; an error is the document `{code, message, hint, exit}`.
    async fn call(&self, verb: String, json: Bytes) -> Result<Bytes, Bytes>;
}

/// The node's peer port.
pub struct Server {
    /// The handler of peers.
    pub peers: Arc<dyn PeerHandler>,
    /// The handler of operators; on the peer port it is offered over mutual TLS, and in plain only on loopback.
    pub admin: Arc<dyn AdminHandler>,
    /// Mutual TLS; `None` only on loopback.
    pub tls: Option<PeerTls>,
}

impl Server {
    /// Accepts until dropped.
    ///
    /// # Errors
    /// When the gRPC server cannot run.
    pub async fn run(self, listener: TcpListener) -> io::Result<()> {
        let (grpc, accepted) = mpsc::channel::<io::Result<Prefixed>>(16);
        let admitted = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (peers, tls) = (self.peers.clone(), self.tls.clone());
        let accepting = async move {
            loop {
                let (tcp, _) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "accept on the peer port");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let Ok(permit) = admitted.clone().try_acquire_owned() else { continue };
                let (peers, tls, grpc) = (peers.clone(), tls.clone(), grpc.clone());
                tokio::spawn(async move {
                    let sniffed = tokio::time::timeout(PREFACE_TIMEOUT, sniff(PeerStream::accept(tcp, tls.as_ref()))).await;
                    match sniffed {
                        Ok(Ok(Spoken::Link(stream))) => {
                            if let Err(end) = serve_link(stream, peers).await {
                                tracing::debug!(%end, "link from a peer ended");
                            }
                            drop(permit);
                        }
                        // The gRPC server owns the connection from here; its own keep-alive ends dead ones.
                        Ok(Ok(Spoken::Grpc(stream))) => drop(grpc.send(Ok(stream)).await),
                        Ok(Err(error)) => tracing::debug!(%error, "connection on the peer port"),
                        Err(_) => tracing::debug!("a connection on the peer port said nothing"),
                    }
                });
            }
        };
        let serving = grpc::server(self.peers, self.admin).serve_with_incoming(ReceiverStream::new(accepted));
        tokio::select! {
            () = accepting => Ok(()),
            end = serving => end.map_err(io::Error::other),
        }
    }
}

/// Serves operators' commands on the unix socket at `path` (mode 0600, replaced if it exists) until dropped.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve_admin_socket(path: PathBuf, admin: Arc<dyn AdminHandler>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let (sender, accepted) = mpsc::channel::<io::Result<Prefixed>>(16);
    let accepting = async move {
        while let Ok((stream, _)) = listener.accept().await {
            if sender.send(Ok(Prefixed { prefix: Vec::new(), rank: Rank::Operator, stream: PeerStream::Unix(stream) })).await.is_err() {
                break;
            }
        }
    };
    let serving = grpc::admin_server(admin).serve_with_incoming(ReceiverStream::new(accepted));
    tokio::select! {
        () = accepting => Ok(()),
        end = serving => end.map_err(io::Error::other),
    }
}

enum Spoken {
    Link(PeerStream),
    Grpc(Prefixed),
}

async fn sniff(accepted: impl Future<Output = io::Result<(PeerStream, Rank)>>) -> io::Result<Spoken> {
    let (mut stream, rank) = accepted.await?;
    let mut prefix = vec![0; PREFACE.len()];
    stream.read_exact(&mut prefix).await?;
    if prefix != PREFACE {
        return Ok(Spoken::Grpc(Prefixed { prefix, rank, stream }));
    }
    match rank {
        Rank::Node => Ok(Spoken::Link(stream)),
        Rank::Operator => Err(io::Error::new(io::ErrorKind::PermissionDenied, "an operator's certificate on a node's link")),
    }
}

async fn serve_link(mut stream: PeerStream, peers: Arc<dyn PeerHandler>) -> Result<(), LinkError> {
    let broke = |e: io::Error| LinkError::Unreachable(e.to_string());
    let mut cluster = [0; 16];
    tokio::time::timeout(PREFACE_TIMEOUT, stream.read_exact(&mut cluster)).await.map_err(|_| LinkError::TimedOut)?.map_err(broke)?;
    let from = NodeId(stream.read_u64_le().await.map_err(broke)?);
    let boot = Boot(stream.read_u64_le().await.map_err(broke)?);
    let admitted = peers.admits(cluster, from, boot);
    stream.write_u8(u8::from(admitted)).await.map_err(broke)?;
    if !admitted {
        return Err(LinkError::Protocol("a stranger's link"));
    }
    let (mut read, mut write) = tokio::io::split(stream);
    let (answers, mut queued) = mpsc::channel(ANSWERS_MAX);
    let (append_answers, mut answered) = mpsc::unbounded_channel();
    let streams: Streams = Arc::default();
    let answering = {
        let (answers, streams) = (answers.clone(), streams.clone());
        async move {
            while let Some((group, payload)) = answered.recv().await {
                let stream = streams.lock().unwrap_or_else(PoisonError::into_inner).get(&group).copied().unwrap_or(0);
                if answers.send(Frame::AppendReply { group, stream, payload }).await.is_err() {
                    break;
                }
            }
            // Without answers the link is of no use; its end is told by the reading or writing side.
            std::future::pending::<Result<(), LinkError>>().await
        }
    };
    let reading = async {
        let appends = peers.connected(from, append_answers);
        let mut link = Incoming { from, peers, appends, answers, streams, requests: Arc::new(Semaphore::new(REQUESTS_PER_LINK_MAX)) };
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        loop {
            while let Some(frame) = Frame::decode(&mut buffer)? {
                link.take(frame).await?;
            }
            fill(&mut read, &mut buffer).await?;
        }
    };
    tokio::select! {
        end = reading => end,
        end = answering => end,
        end = write_frames(&mut queued, &mut write) => end,
    }
}

/// The number of each group's present append stream, which its answers carry.
type Streams = Arc<Mutex<HashMap<GroupId, u32>>>;

struct Incoming {
    from: NodeId,
    peers: Arc<dyn PeerHandler>,
    answers: mpsc::Sender<Frame>,
    appends: Box<dyn Appends>,
    streams: Streams,
    requests: Arc<Semaphore>,
}

impl Incoming {
    async fn take(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Append { group, stream, payload } => {
                self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(group, stream);
                self.appends.append(group, payload).map_err(LinkError::Refused)
            }
            Frame::Body { hash, payload } => {
                self.peers.body(self.from, hash, payload);
                Ok(())
            }
            Frame::Request { id, method, payload } => {
                // To wait here would hold up the append messages behind it, for which the requests under way may be waiting.
                let Ok(permit) = self.requests.clone().try_acquire_owned() else {
                    let busy = Frame::Reply { id, failed: true, payload: Bytes::from_static(b"too many requests") };
                    return self.answers.send(busy).await.map_err(|_| LinkError::Busy);
                };
                let (from, peers, answers) = (self.from, self.peers.clone(), self.answers.clone());
                tokio::spawn(async move {
                    let answer = match Method::from_u8(method) {
                        Some(method) => peers.request(from, method, payload).await,
                        None => Err(format!("unknown method {method}")),
                    };
                    let (failed, payload) = answer.map_or_else(|reason| (true, Bytes::from(reason)), |payload| (false, payload));
                    let _ = answers.send(Frame::Reply { id, failed, payload }).await;
                    drop(permit);
                });
                Ok(())
            }
            Frame::AppendReply { .. } | Frame::Reply { .. } => Err(LinkError::Protocol("a server's frame from a client")),
        }
    }
}
