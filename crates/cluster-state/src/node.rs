//! The cluster, its nodes, and which nodes hold which group.

use crate::record;
use parliament_ids::{Boot, GroupId, NodeId};
use parliament_mailbox_state::{TableFault, Tables};
use serde::{Deserialize, Serialize};

/// The cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Random, made by `cluster init`.
    pub id: [u8; 16],
    /// The configured name, part of every node certificate.
    pub name: String,
    /// How many groups of users: groups 1 to this number. Fixed for ever.
    pub groups: u32,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// Its configured name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Random id made with its data directory.
    pub disk: [u8; 16],
    /// Its last start.
    pub boot: Boot,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where mail clients reach it; empty when its IMAP listener is off.
    pub imap_address: String,
}

/// The voters of one group, the preferred leader first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The group.
    pub group: GroupId,
    /// Its voters.
    pub voters: Vec<NodeId>,
}

/// The cluster's record; `None` before `Form`.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn cluster(tables: &dyn Tables) -> Result<Option<ClusterRecord>, TableFault> {
    record::get(tables, &[record::CLUSTER])
}

/// A node's record.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn node(tables: &dyn Tables, id: NodeId) -> Result<Option<NodeRecord>, TableFault> {
    record::get(tables, &record::key(record::NODE, &id.0.to_be_bytes()))
}

/// All nodes, by id.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn nodes(tables: &dyn Tables) -> Result<Vec<NodeRecord>, TableFault> {
    record::all(tables, record::NODE)
}

/// The placement of all groups, by id.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn placement(tables: &dyn Tables) -> Result<Vec<Placement>, TableFault> {
    record::all(tables, record::PLACEMENT)
}
