//! The gRPC services and the operators' client.

use crate::serve::{AdminHandler, PeerHandler};
use crate::stream::{PeerStream, PeerTls, Rank};
use crate::{LinkError, v1};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use parliament_ids::{BodyHash, Boot, GroupId, NodeId, VotersVersion, limits};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri, server::Router};
use tonic::{Request, Response, Status, Streaming};

/// A node's document may hold a cluster of many nodes; votes are small.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Operators' documents (`user import` of 1,000 accounts, `who` of many sessions).
const ADMIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a peer that pushes a large body may send nothing.
const PUSH_PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn server(peers: Arc<dyn PeerHandler>, admin: Arc<dyn AdminHandler>) -> Router {
    let peers = Peers(peers);
    let control = v1::control_server::ControlServer::new(peers.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let bulk = v1::bulk_server::BulkServer::new(peers).max_decoding_message_size(MESSAGE_BYTES_MAX);
    builder()
        .add_service(InterceptedService::new(control, nodes_only))
        .add_service(InterceptedService::new(bulk, nodes_only))
        .add_service(v1::admin_server::AdminServer::new(Operators(admin)).max_decoding_message_size(ADMIN_BYTES_MAX))
}

/// An operator's certificate makes nobody a node.
fn nodes_only(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get() {
        Some(Rank::Node) => Ok(request),
        _ => Err(Status::permission_denied("only nodes may ask this")),
    }
}

pub(crate) fn admin_server(admin: Arc<dyn AdminHandler>) -> Router {
    builder().add_service(v1::admin_server::AdminServer::new(Operators(admin)).max_decoding_message_size(ADMIN_BYTES_MAX))
}

fn builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(1024))
}

/// A lazy channel to `address`, connected again whenever it broke.
pub(crate) fn channel(address: Arc<dyn Fn() -> String + Send + Sync>, tls: Option<PeerTls>) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address(), tls.clone());
        async move { PeerStream::connect(&address, tls.as_ref()).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://peer")
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_with_connector_lazy(connector)
}

/// What a status says; the first cause where the transport made it, which says little itself.
fn reason(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    cause.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

pub(crate) fn failed(status: &Status) -> LinkError {
    match status.code() {
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => LinkError::TimedOut,
        tonic::Code::FailedPrecondition | tonic::Code::Unimplemented => LinkError::Refused(status.message().to_owned()),
        // Our own connector's error comes with its prefix.
        _ => LinkError::Unreachable(reason(status).trim_start_matches("peer unreachable: ").to_owned()),
    }
}

#[derive(Clone)]
struct Peers(Arc<dyn PeerHandler>);

impl Peers {
    /// The peer that speaks, if its cluster, node and start are admitted as on a link (rule 6).
    fn admitted(&self, sender: Option<&v1::Sender>) -> Result<NodeId, Status> {
        let stranger = || Status::failed_precondition("a stranger, or an earlier start of a node");
        let sender = sender.ok_or_else(stranger)?;
        let cluster = sender.cluster_id.as_ref().try_into().map_err(|_| stranger())?;
        let (node, boot) = (NodeId(sender.node_id), Boot(sender.boot));
        if self.0.admits(cluster, node, boot) { Ok(node) } else { Err(stranger()) }
    }
}

fn answer(result: Result<Bytes, String>) -> Result<Response<v1::RaftReply>, Status> {
    result.map(|payload| Response::new(v1::RaftReply { payload })).map_err(Status::failed_precondition)
}

fn hash_of(bytes: &[u8]) -> Result<BodyHash, Status> {
    bytes.try_into().map(BodyHash).map_err(|_| Status::failed_precondition("a hash has 32 bytes"))
}

#[tonic::async_trait]
impl v1::control_server::Control for Peers {
    async fn hello(&self, _: Request<v1::HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        Ok(Response::new(self.0.hello().await))
    }
    async fn adopt(&self, request: Request<v1::AdoptRequest>) -> Result<Response<v1::AdoptReply>, Status> {
        Ok(Response::new(self.0.adopt(request.into_inner()).await))
    }
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Ok(Response::new(self.0.join(request.into_inner()).await))
    }
    async fn raft(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftReply>, Status> {
        let request = request.into_inner();
        let from = self.admitted(request.sender.as_ref())?;
        answer(self.0.raft(from, GroupId(request.group), request.kind, request.payload).await)
    }
    async fn support(&self, request: Request<v1::SupportRequest>) -> Result<Response<v1::SupportReply>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.0.support(NodeId(request.node), Boot(request.boot), VotersVersion(request.list)).await))
    }
    async fn withdraw(&self, request: Request<v1::WithdrawRequest>) -> Result<Response<v1::WithdrawReply>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.0.withdraw(NodeId(request.node), Boot(request.boot), VotersVersion(request.list)).await))
    }
}

/// A file that goes away unless it was handed on.
struct Partial(Option<PathBuf>);
impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

static RECEIVED: AtomicU64 = AtomicU64::new(0);

#[tonic::async_trait]
impl v1::bulk_server::Bulk for Peers {
    type FetchBodyStream = ReceiverStream<Result<v1::BodyPiece, Status>>;

    async fn snapshot(&self, request: Request<Streaming<v1::SnapshotPiece>>) -> Result<Response<v1::RaftReply>, Status> {
        let mut pieces = request.into_inner();
        let first = pieces.message().await?.ok_or_else(|| Status::failed_precondition("an empty snapshot"))?;
        self.admitted(first.sender.as_ref())?;
        let number = RECEIVED.fetch_add(1, Ordering::Relaxed);
        let dir = self.0.snapshot_dir(GroupId(first.group)).map_err(Status::failed_precondition)?;
        let mut partial = Partial(Some(dir.join(format!("incoming-{}-{number}.part", first.group))));
        let path = partial.0.clone().unwrap_or_default();
        let internal = |e: std::io::Error| Status::internal(e.to_string());
        let mut file = tokio::fs::File::create(&path).await.map_err(internal)?;
        let mut bytes = first.bytes;
        loop {
            file.write_all(&bytes).await.map_err(internal)?;
            match pieces.message().await? {
                Some(piece) => bytes = piece.bytes,
                None => break,
            }
        }
        file.sync_all().await.map_err(internal)?;
        drop(file);
        partial.0 = None;
        answer(self.0.snapshot(GroupId(first.group), first.head, path).await)
    }

    async fn fetch_body(&self, request: Request<v1::FetchBodyRequest>) -> Result<Response<Self::FetchBodyStream>, Status> {
        let hash = hash_of(&request.into_inner().hash)?;
        let (sender, stream) = tokio::sync::mpsc::channel(4);
        let peers = self.0.clone();
        tokio::spawn(async move {
            let Some(body) = peers.fetch_body(hash).await else { return };
            let mut head = Bytes::copy_from_slice(&hash.0);
            let size = body.len() as u64;
            let mut rest = body;
            loop {
                let bytes = rest.split_to(rest.len().min(limits::BODY_PIECE_BYTES));
                if sender.send(Ok(v1::BodyPiece { hash: std::mem::take(&mut head), size, bytes })).await.is_err() || rest.is_empty() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn push_body(&self, request: Request<Streaming<v1::BodyPiece>>) -> Result<Response<v1::PushBodyReply>, Status> {
        let mut pieces = request.into_inner();
        let Some((hash, bytes)) = collect(&mut pieces, PUSH_PATIENCE).await? else {
            return Err(Status::failed_precondition("an empty body"));
        };
        Ok(Response::new(v1::PushBodyReply { stored: self.0.store_body(hash, bytes).await }))
    }
}

/// Gathers a body of at most [`limits::MESSAGE_BYTES_MAX`] bytes (and as many again for headers that nodes add). Who sends nothing for
/// `patience` is given up: a connection whose other end has vanished stays up for long.
pub(crate) async fn collect(pieces: &mut Streaming<v1::BodyPiece>, patience: Duration) -> Result<Option<(BodyHash, Bytes)>, Status> {
    let late = |_| Status::deadline_exceeded("the body stopped coming");
    let Some(first) = timeout(patience, pieces.message()).await.map_err(late)?? else { return Ok(None) };
    let hash = hash_of(&first.hash)?;
    if first.size > limits::MESSAGE_BYTES_MAX * 2 {
        return Err(Status::failed_precondition("body too large"));
    }
    let mut body = bytes::BytesMut::with_capacity(usize::try_from(first.size).unwrap_or(0));
    body.extend_from_slice(&first.bytes);
    while let Some(piece) = timeout(patience, pieces.message()).await.map_err(late)?? {
        body.extend_from_slice(&piece.bytes);
        if body.len() as u64 > first.size {
            return Err(Status::failed_precondition("body longer than told"));
        }
    }
    if body.len() as u64 != first.size {
        return Err(Status::failed_precondition("body shorter than told"));
    }
    Ok(Some((hash, body.freeze())))
}

struct Operators(Arc<dyn AdminHandler>);

#[tonic::async_trait]
impl v1::admin_server::Admin for Operators {
    async fn call(&self, request: Request<v1::AdminRequest>) -> Result<Response<v1::AdminReply>, Status> {
        let request = request.into_inner();
        let reply = match self.0.call(request.verb, request.json).await {
            Ok(json) => v1::AdminReply { json, error: Bytes::new() },
            Err(error) => v1::AdminReply { json: Bytes::new(), error },
        };
        Ok(Response::new(reply))
    }
}

/// A client of a node's operators' service, over the unix socket or the peer port.
#[derive(Clone)]
pub struct AdminClient(v1::admin_client::AdminClient<Channel>);

impl AdminClient {
    /// For `host:port`; connects at the first call.
    #[must_use]
    pub fn tcp(address: String, tls: Option<PeerTls>) -> Self {
        Self::over(channel(Arc::new(move || address.clone()), tls))
    }
    /// For a unix socket; connects at the first call.
    #[must_use]
    pub fn unix(path: PathBuf) -> Self {
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(|s| TokioIo::new(PeerStream::Unix(s))) }
        });
        Self::over(Endpoint::from_static("http://admin").connect_with_connector_lazy(connector))
    }
    fn over(channel: Channel) -> Self {
        let client = v1::admin_client::AdminClient::new(channel);
        Self(client.max_decoding_message_size(ADMIN_BYTES_MAX).max_encoding_message_size(ADMIN_BYTES_MAX))
    }
    /// Calls a verb. The outer error is the transport's, the inner one the node's document.
    ///
    /// # Errors
    /// [`LinkError`] when the node cannot be asked.
    pub async fn call(&self, verb: &str, json: Bytes, timeout: Duration) -> Result<Result<Bytes, Bytes>, LinkError> {
        let mut request = Request::new(v1::AdminRequest { verb: verb.to_owned(), json });
        request.set_timeout(timeout);
        let reply = self.0.clone().call(request).await.map_err(|s| failed(&s))?.into_inner();
        Ok(if reply.error.is_empty() { Ok(reply.json) } else { Err(reply.error) })
    }
}
