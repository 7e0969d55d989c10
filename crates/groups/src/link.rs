//! What consensus asks of the transport between nodes, and of the body store behind its gate. Both are implemented
//! elsewhere; payloads are opaque to the transport.

use crate::types::NodeInfo;
use bytes::Bytes;
use futures::future::BoxFuture;
use parliament_ids::{BodyHash, GroupId, NodeId};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A peer did not answer, or answered that it cannot. Whether it acted is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No connection, it broke, or no answer came in time.
    #[error("peer unreachable: {0}")]
    Unreachable(String),
    /// The peer's handler answered with a reason.
    #[error("refused by the peer: {0}")]
    Refused(String),
}

/// Requests with one answer each, on the control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// A candidate asks for a vote.
    Vote,
    /// Would you vote for me? Changes nothing at the peer.
    PreVote,
    /// Take the leadership.
    TransferLeader,
    /// A leader wishes a member to rest.
    Rest,
    /// A member wishes to hear the leader that it rests behind.
    Rouse,
}

impl CallKind {
    /// Its number on the wire.
    #[must_use]
    pub const fn to_u8(self) -> u8 {
        match self {
            Self::Vote => 1,
            Self::PreVote => 2,
            Self::TransferLeader => 3,
            Self::Rest => 4,
            Self::Rouse => 5,
        }
    }
    /// The kind of this number.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Vote),
            2 => Some(Self::PreVote),
            3 => Some(Self::TransferLeader),
            4 => Some(Self::Rest),
            5 => Some(Self::Rouse),
            _ => None,
        }
    }
}

/// The sending half of an append stream.
pub trait FrameSink: Send + Sync {
    /// Queues one frame behind those queued before; waits while the connection's queue is full. Consensus has at most
    /// [`crate::WINDOW_MESSAGES`] unanswered frames per group and kind under way.
    fn send(&self, frame: Bytes) -> BoxFuture<'_, Result<(), LinkError>>;
}

impl FrameSink for mpsc::Sender<Bytes> {
    fn send(&self, frame: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async move { Self::send(self, frame).await.map_err(|_| LinkError::Unreachable("stream closed".into())) })
    }
}

/// Append frames of one group to one peer, and the peer's answers. It is over when `answers` yields `None`.
pub struct AppendStream {
    /// Frames to the peer, delivered in order to [`crate::Connection::append`].
    pub frames: Box<dyn FrameSink>,
    /// What the peer's connection answered for this group, in the order it answered.
    pub answers: mpsc::UnboundedReceiver<Bytes>,
}

/// All traffic of consensus to one peer. Append frames of all groups share one ordered connection; calls and snapshots use
/// others.
pub trait PeerLink: Send + Sync + 'static {
    /// Asks the peer's [`crate::Inbound::handle_call`]. The caller bounds the time.
    fn call(&self, group: GroupId, kind: CallKind, request: Bytes) -> BoxFuture<'_, Result<Bytes, LinkError>>;

    /// Opens the group's append stream; an earlier one of the same group ends. Fails at once while the peer is not connected.
    ///
    /// # Errors
    /// When there is no connection.
    fn append_stream(&self, group: GroupId) -> Result<AppendStream, LinkError>;

    /// Sends a snapshot file on the bulk connection to the peer's [`crate::Inbound::handle_snapshot`], which answers. The
    /// transport bounds stalls, not the whole time. The file may be unlinked meanwhile: open it first.
    fn send_snapshot(&self, group: GroupId, head: Bytes, file: PathBuf) -> BoxFuture<'_, Result<Bytes, LinkError>>;
}

/// Finds links. Called whenever a group begins to speak to a node; returns the same link for the same node.
pub trait Peers: Send + Sync + 'static {
    /// The link to a node, connected or not.
    fn link(&self, node: NodeId, info: &NodeInfo) -> Arc<dyn PeerLink>;
}

/// Bodies that a replica needs before it may acknowledge some entries (I1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateRequest {
    /// Index and body of entries above the leader's commit index: must be durable here before the gate opens.
    pub strict: Vec<(u64, BodyHash)>,
    /// Of entries at or below it: pulled in the background while the replica is marked `incomplete` (rule 21).
    pub lenient: Vec<(u64, BodyHash)>,
    /// Who sent the entries and therefore has the bodies; the own node for a proposal.
    pub source: NodeId,
}

/// How a gate ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateOutcome {
    /// All strict bodies are durable and pinned until apply.
    Open,
    /// They did not come in time; the leader will try again.
    Closed(String),
}

/// The body store's side of the gate. The future is dropped when a higher term makes the entries moot (rule 22).
pub trait BodyGate: Send + Sync + 'static {
    /// Waits for bodies. Must end by itself within a few seconds. Called only when at least one body is named.
    fn gate(&self, group: GroupId, request: GateRequest) -> BoxFuture<'_, GateOutcome>;
}

/// For groups whose commands name no bodies, such as group 0: names are an error there.
pub struct NoBodies;

impl BodyGate for NoBodies {
    fn gate(&self, _: GroupId, _: GateRequest) -> BoxFuture<'_, GateOutcome> {
        Box::pin(async { GateOutcome::Closed("this node keeps no bodies".into()) })
    }
}
