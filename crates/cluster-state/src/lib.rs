//! The state machine of group 0: nodes, placement of groups, settings, accounts with their credentials, and the directory
//! that says which group holds which user. Pure, over the same storage port as the groups of users.

mod account;
mod alone;
mod apply;
mod command;
mod members;
mod moves;
mod node;
mod record;

pub use account::{AccountName, AccountRecord, NameRefused, account, account_named, accounts, group_of};
pub use alone::{Alone, AloneStep, alone};
pub use apply::{Applied, Refused, Reply, apply};
pub use command::{Command, NewAccount};
pub use members::{Copies, INVITES_MAX, Joining, NODES_MAX, NodeState, copies, members, node_role, node_state, roles};
pub use moves::{MOVES_MAX, MoveRecord, MoveStage, WHY_BYTES_MAX, last_move, open_moves};
pub use node::{ClusterRecord, NodeRecord, Placement, cluster, node, nodes, placement};
