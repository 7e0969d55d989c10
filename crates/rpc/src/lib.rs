//! Between nodes: the only crate that knows tonic and prost.
//!
//! Two kinds of connection run from each node to each peer, behind one port and one mutual TLS:
//! * the **link**: our own length-prefixed frames (`frame.rs`) for append messages of all groups, small bodies that ride
//!   right before their entry, and relayed requests. Throughput lives here: gRPC cost about 45 µs per append in copies.
//! * **gRPC**: *control* (votes, liveness, membership, operators' commands) and *bulk* (snapshots, large bodies) channels, so
//!   that neither waits behind 25 MB.
//!
//! Payloads are opaque bytes: their meaning belongs to the crates that encode them.

mod client;
mod frame;
mod grpc;
mod link;
mod serve;
mod stream;

/// The generated protocol.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("parliament.v1");
}

pub use client::{Peer, PeerPool};
pub use grpc::AdminClient;
pub use link::{AppendSender, AppendStream};
pub use serve::{AdminHandler, Appends, PeerHandler, Server, serve_admin_socket};
pub use stream::{PeerStream, PeerTls, Rank};

/// Why a call to a peer failed. Except for `Refused`, whether the peer acted on it is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No connection, or it broke.
    #[error("peer unreachable: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The peer answered with a reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The bytes were not ours.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// A bounded queue is full.
    #[error("queue full")]
    Busy,
}

/// Requests that travel as frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// A command for the leader of a group: `group u32 | entry`.
    Propose = 1,
    /// A mail request for a user's holder.
    Relay = 2,
    /// A linearizable read barrier of a group, asked from its leader.
    ReadIndex = 3,
    /// A question or order of an operator's command, asked by the node that the operator talks to; JSON both ways.
    Ask = 4,
    /// Which mailboxes changed on the asked node since a mark, once some have: for sessions on nodes without a copy of their group.
    Changes = 5,
    /// A mail request for a user's holder, whom the asking node does not hear: to be passed on as [`Method::Relay`].
    Onward = 6,
    /// A read barrier's index, asked from a node that may hear the group's leader, which the asking node does not hear.
    ReadIndexOnward = 7,
    /// A part of the image of a user that moves between groups.
    Image = 8,
}

impl Method {
    /// The method of this number.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Propose),
            2 => Some(Self::Relay),
            3 => Some(Self::ReadIndex),
            4 => Some(Self::Ask),
            5 => Some(Self::Changes),
            6 => Some(Self::Onward),
            7 => Some(Self::ReadIndexOnward),
            8 => Some(Self::Image),
            _ => None,
        }
    }
}
