//! Documents of the verbs that change which nodes there are.

use super::is_false;
use serde::{Deserialize, Serialize};

/// Asks for an invitation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInvite {
    /// For how long it is valid, seconds; at most [`INVITE_SECONDS_MAX`].
    pub valid_s: u64,
}

/// Longest validity of an invitation, seconds.
pub const INVITE_SECONDS_MAX: u64 = 30 * 86_400;

/// An invitation for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// For `parliament server --join`. Whoever has it, and a certificate of the cluster, can enter a node.
    pub token: String,
    /// When it ends, UTC seconds.
    pub expires: i64,
    /// The nodes that it names.
    pub seeds: Vec<String>,
}

/// Asks for a change of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChange {
    /// Its name.
    pub node: String,
    /// It does not answer and is given up for dead (`node remove`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub lost: bool,
    /// The node that takes its place (`node replace`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// How the copies of one group will move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMove {
    /// The group.
    pub group: u32,
    /// Names of the nodes with a copy now.
    pub from: Vec<String>,
    /// Names of the nodes with a copy afterwards.
    pub to: Vec<String>,
}

/// A node was changed, or with `dry_run` would be. What follows from it takes a while; `node list` tells how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChanged {
    /// What was done, in one sentence; with `dry_run` what would be, as an order.
    pub message: String,
    /// Groups whose copies move, as things stand.
    pub moves: Vec<GroupMove>,
    /// What the operator should know besides, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
