//! Consensus' view of the transport.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parliament_groups::{AppendStream, CallKind, FrameSink, LinkError, NodeInfo, PeerLink, Peers};
use parliament_ids::{GroupId, NodeId};
use parliament_rpc as rpc;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A call that nobody gave up meanwhile ends by itself after this.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Links through a pool of peers.
pub(crate) struct PoolPeers(pub(crate) Arc<rpc::PeerPool>);

impl Peers for PoolPeers {
    fn link(&self, node: NodeId, info: &NodeInfo) -> Arc<dyn PeerLink> {
        let peer = self.0.get(node).unwrap_or_else(|| self.0.set(node, &info.addr));
        Arc::new(Link(peer))
    }
}

struct Link(Arc<rpc::Peer>);

fn error(error: rpc::LinkError) -> LinkError {
    match error {
        rpc::LinkError::Refused(why) => LinkError::Refused(why),
        other => LinkError::Unreachable(other.to_string()),
    }
}

struct Sink(rpc::AppendSender);

impl FrameSink for Sink {
    fn send(&self, frame: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        async move { self.0.send(frame).await.map_err(error) }.boxed()
    }
}

impl PeerLink for Link {
    fn call(&self, group: GroupId, kind: CallKind, request: Bytes) -> BoxFuture<'_, Result<Bytes, LinkError>> {
        async move { self.0.raft(group, u32::from(kind.to_u8()), request, CALL_TIMEOUT).await.map_err(error) }.boxed()
    }
    fn append_stream(&self, group: GroupId) -> Result<AppendStream, LinkError> {
        let (sender, answers) = self.0.append_stream(group).map_err(error)?.split();
        Ok(AppendStream { frames: Box::new(Sink(sender)), answers })
    }
    fn send_snapshot(&self, group: GroupId, head: Bytes, file: PathBuf) -> BoxFuture<'_, Result<Bytes, LinkError>> {
        async move { self.0.send_snapshot(group, head, &file).await.map_err(error) }.boxed()
    }
}
