//! Many Raft groups on one node, on openraft.
//!
//! * A group's log lives in the node journal ([`parliament_journal`]), its tables in [`parliament_tables`]; one commit of the tables
//!   per chunk of entries carries the applied mark. What the log forgets, a verified snapshot file on this node has (rule 8).
//! * All groups share one `current_thread` runtime in a thread of its own; tables are written by a few apply threads, so that
//!   a slow table never delays a heartbeat. Handles work from any runtime.
//! * A follower takes an append message only when the bodies its entries name are durable ([`BodyGate`], I1). The gate stands
//!   before openraft, in the handler of that group's messages: votes and heartbeats pass it by.
//! * Reads are linearizable by ReadIndex only: a restarted voter forgets openraft's lease, so lease reads would be stale.
//!
//! The transport is a port ([`PeerLink`]) and so is the body store; the machine that applies commands is the caller's
//! ([`Machine`]).

mod codec;
mod config;
mod executor;
mod group;
mod inbound;
mod link;
mod log_store;
mod machine;
mod mend;
mod mux;
mod network;
mod pace;
mod records;
mod rest;
mod set;
mod snapshots;
mod start;
mod state_machine;
#[cfg(test)]
mod tests;
mod types;
mod wire;
mod witness;

pub use codec::CodecError;
pub use config::{NodeConfig, SnapshotPolicy, Timing};
pub use group::{ChangeError, Follower, Group, GroupMetrics, ProposeError, ReadError, Role};
pub use inbound::{Answer, Connection, Inbound, Refusal};
pub use link::{AppendStream, BodyGate, CallKind, FrameSink, GateOutcome, GateRequest, LinkError, NoBodies, PeerLink, Peers};
pub use machine::Machine;
pub use mend::{TablesFound, Unmended};
pub use rest::Behind;
pub use set::{GroupSet, Ports};
pub use snapshots::{SnapshotFile, put_snapshots_aside};
pub use start::{GroupStart, StartError};
pub use types::{BODIES_PER_COMMAND_MAX, Command, LogId, NodeInfo, SnapshotMeta};
pub use witness::WitnessRule;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Append messages of one group and kind to one peer without answer.
pub const WINDOW_MESSAGES: usize = 64;
/// Bytes of such messages after which no further one is sent.
pub const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// Locks also what a panicking thread held: every critical section here leaves its data consistent at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
