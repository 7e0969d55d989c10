//! What a log entry of group 0 carries. Variants and fields are only ever added at the end: entries outlive programs.

use crate::alone::AloneStep;
use crate::members::{Copies, Joining, NodeState};
use crate::node::{ClusterRecord, NodeRecord, Placement};
use parliament_ids::{AccountId, AloneVersion, Boot, GroupId, MoveId, NodeId, NodeRole};
use serde::{Deserialize, Serialize};

/// One log entry of group 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster: refused when there is one already.
    Form {
        /// The cluster.
        cluster: ClusterRecord,
        /// Its first nodes.
        nodes: Vec<NodeRecord>,
        /// Which nodes hold which group, one row per group from 0.
        placement: Vec<Placement>,
    },
    /// A node has started: refused when its boot is not greater than the last one seen or its disk is another one (rule 6).
    NodeStarted {
        /// Which.
        node: NodeId,
        /// Its boot.
        boot: Boot,
        /// Random id made with its data directory.
        disk: [u8; 16],
        /// Where peers reach it now.
        peer_address: String,
        /// Where mail clients reach it now; empty when its IMAP listener is off.
        imap_address: String,
    },
    /// Makes accounts; those whose name is taken are told in the reply and left alone. At most [`crate::NewAccount::BATCH_MAX`].
    AddAccounts {
        /// The accounts.
        accounts: Vec<NewAccount>,
        /// UTC seconds from the proposer.
        time: i64,
    },
    /// Changes a password.
    SetCredential {
        /// Whose.
        account: AccountId,
        /// `{SCHEME}hash`
        credential: String,
    },
    /// Deletes an account: its name is free again, its id is not, and its UIDVALIDITY floor stays (rule 4).
    DeleteAccount {
        /// Which.
        account: AccountId,
        /// At least every UIDVALIDITY the account has used, as its group said.
        uid_validity_floor: u32,
    },
    /// Sets a cluster-wide setting; an empty value removes it.
    SetSetting {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
    },
    /// Opens an invitation for one node. At most [`crate::INVITES_MAX`] are open at once.
    Invite {
        /// BLAKE3 of its secret.
        hash: [u8; 32],
        /// UTC seconds at which it ends.
        expires: i64,
        /// UTC seconds from the proposer.
        time: i64,
    },
    /// Enters a node that was invited, under an id that no node ever had; told again to a node that asks again.
    AddNode {
        /// The node.
        joining: Joining,
        /// UTC seconds from the proposer.
        time: i64,
    },
    /// Changes what a node is to the cluster, except that it removes none.
    SetNodeState {
        /// Which.
        node: NodeId,
        /// What it is from now on.
        state: NodeState,
    },
    /// Removes a node for ever: refused unless it is drained or lost, and while it holds a copy of any group.
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// Says which nodes hold a group: refused unless its version follows the present one, and for group 0.
    SetPlacement {
        /// The row.
        row: Copies,
    },
    /// A user is to live in another group: told again while that move is under way, refused while another is.
    BeginMove {
        /// Whom.
        account: AccountId,
        /// The target.
        to: GroupId,
        /// UTC seconds from the proposer.
        time: i64,
    },
    /// A move is to be given up, if its target has not decided it yet.
    StopMove {
        /// Whose.
        account: AccountId,
        /// Which.
        move_id: MoveId,
        /// Why, for people; at most [`crate::WHY_BYTES_MAX`].
        why: String,
    },
    /// The target has the user: from now on the directory says so. Refused unless this move is under way from where the directory says.
    MoveArrived {
        /// Whose.
        account: AccountId,
        /// Which.
        move_id: MoveId,
    },
    /// Nothing is left to do for a move, which has arrived or was given up.
    EndMove {
        /// Whose.
        account: AccountId,
        /// Which.
        move_id: MoveId,
    },
    /// As [`Command::Form`], of a cluster that has not only data nodes.
    FormWith {
        /// The cluster.
        cluster: ClusterRecord,
        /// Its first nodes.
        nodes: Vec<NodeRecord>,
        /// What they are for; data nodes may be left out. At most one witness.
        roles: Vec<(NodeId, NodeRole)>,
        /// Which nodes hold which group, one row per group from 0.
        placement: Vec<Placement>,
    },
    /// As [`Command::AddNode`], of a node that is no data node: refused for a second witness.
    AddNodeAs {
        /// The node.
        joining: Joining,
        /// What it is for.
        role: NodeRole,
        /// UTC seconds from the proposer.
        time: i64,
    },
    /// A data node serves alone beside the witness, or does no more.
    Alone {
        /// The record that this follows.
        version: AloneVersion,
        /// What changes.
        step: AloneStep,
    },
}

/// An account to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAccount {
    /// `local@domain`, canonical (see [`crate::AccountName`]).
    pub name: String,
    /// `{SCHEME}hash`
    pub credential: String,
}

impl NewAccount {
    /// Accounts per entry.
    pub const BATCH_MAX: usize = 1000;
}
