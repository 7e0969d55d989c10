//! Nodes that come and go: invitations, states of nodes, and which nodes hold which group by now.
//!
//! The records of `Form` stay as they were written; what changes afterwards has tables of its own.

use crate::alone::alone;
use crate::apply::{Applied, Refused, Reply};
use crate::node::{NodeRecord, cluster, node, nodes, placement};
use crate::record::{self, all, get, key, put};
use parliament_ids::{Boot, GroupId, NodeId, NodeRole};
use parliament_mailbox_state::{Overlay, TableFault, Tables};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Invitations that are open at once.
pub const INVITES_MAX: usize = 64;
/// Nodes of a cluster at once.
pub const NODES_MAX: usize = 256;
/// Nodes in one row of a placement.
const ROW_NODES_MAX: usize = 32;
/// Bytes of a node's name, zone or address.
const NAME_BYTES_MAX: usize = 255;

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeState {
    /// It takes part in everything.
    #[default]
    Active,
    /// It gives away its leases, leaderships and copies, and takes none.
    Draining,
    /// It is given up for dead: its copies are made anew elsewhere without it.
    Lost,
    /// It is gone for ever. Its id is never used again, and no peer speaks to it.
    Removed,
}

/// The nodes that hold a group now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copies {
    /// The group.
    pub group: GroupId,
    /// +1 at each change.
    pub version: u64,
    /// Its voters, as last known.
    pub voters: Vec<NodeId>,
    /// Nodes that hold a copy without a vote, on their way to one.
    pub learners: Vec<NodeId>,
    /// Voters that are about to leave: they take no leases and hand over those that they have.
    pub leaving: Vec<NodeId>,
}

impl Copies {
    /// Every node with a copy.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }
}

/// A node that asks to be entered, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// BLAKE3 of the invitation's secret.
    pub invite: [u8; 32],
    /// Its configured name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Random id made with its data directory.
    pub disk: [u8; 16],
    /// Where peers reach it.
    pub peer_address: String,
    /// Where mail clients reach it; empty when its IMAP listener is off.
    pub imap_address: String,
}

/// The state of a node that is known.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn node_state(tables: &dyn Tables, id: NodeId) -> Result<NodeState, TableFault> {
    Ok(get(tables, &key(record::STATE, &id.0.to_be_bytes()))?.unwrap_or_default())
}

/// What a node is for.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn node_role(tables: &dyn Tables, id: NodeId) -> Result<NodeRole, TableFault> {
    let row: Option<(NodeId, NodeRole)> = get(tables, &key(record::ROLE, &id.0.to_be_bytes()))?;
    Ok(row.map(|(_, role)| role).unwrap_or_default())
}

/// The nodes that are no data nodes and were not removed.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn roles(tables: &dyn Tables) -> Result<BTreeMap<NodeId, NodeRole>, TableFault> {
    let mut rows = BTreeMap::new();
    for (id, role) in all::<(NodeId, NodeRole)>(tables, record::ROLE)? {
        if node_state(tables, id)? != NodeState::Removed {
            rows.insert(id, role);
        }
    }
    Ok(rows)
}

pub(crate) fn put_role(tables: &mut Overlay<'_>, id: NodeId, role: NodeRole) -> Result<(), TableFault> {
    if role == NodeRole::Data {
        return Ok(());
    }
    put(tables, key(record::ROLE, &id.0.to_be_bytes()), &(id, role))
}

/// All nodes that ever were, by id, with their states.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn members(tables: &dyn Tables) -> Result<Vec<(NodeRecord, NodeState)>, TableFault> {
    nodes(tables)?.into_iter().map(|row| node_state(tables, row.id).map(|state| (row, state))).collect()
}

/// Which nodes hold which group now, by group.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn copies(tables: &dyn Tables) -> Result<Vec<Copies>, TableFault> {
    let changed: Vec<Copies> = all(tables, record::COPIES)?;
    let mut rows: BTreeMap<GroupId, Copies> = placement(tables)?
        .into_iter()
        .map(|first| (first.group, Copies { group: first.group, voters: first.voters, ..Copies::default() }))
        .collect();
    rows.extend(changed.into_iter().map(|row| (row.group, row)));
    Ok(rows.into_values().collect())
}

pub(crate) fn invite(tables: &mut Overlay<'_>, hash: [u8; 32], expires: i64, time: i64) -> Result<Applied, TableFault> {
    let mut open: Vec<([u8; 32], i64)> = get(tables, &[record::INVITES])?.unwrap_or_default();
    open.retain(|(known, until)| *until > time && *known != hash);
    if open.len() >= INVITES_MAX || expires <= time {
        return Ok(Err(Refused::Limit));
    }
    open.push((hash, expires));
    put(tables, vec![record::INVITES], &open)?;
    Ok(Ok(Reply::Done))
}

pub(crate) fn add_node(tables: &mut Overlay<'_>, joining: &Joining, role: NodeRole, time: i64) -> Result<Applied, TableFault> {
    let known = members(tables)?;
    // A node that asks again, because the answer was lost, is answered as before, and a disk that was removed stays outside.
    if let Some((row, state)) = known.iter().find(|(row, _)| row.disk == joining.disk) {
        let same = *state != NodeState::Removed && row.name == joining.name && node_role(tables, row.id)? == role;
        return Ok(if same { Ok(Reply::Node(row.id)) } else { Err(Refused::Removed) });
    }
    let mut open: Vec<([u8; 32], i64)> = get(tables, &[record::INVITES])?.unwrap_or_default();
    let before = open.len();
    open.retain(|(hash, until)| *hash != joining.invite || *until <= time);
    if open.len() == before {
        return Ok(Err(Refused::NotInvited));
    }
    let present = || known.iter().filter(|(_, state)| *state != NodeState::Removed);
    if present().any(|(row, _)| row.name == joining.name) {
        return Ok(Err(Refused::NameTaken));
    }
    // One that is given up for dead is replaced by the next.
    let lives = |id: NodeId| node_state(tables, id).map(|state| state != NodeState::Lost);
    for (id, _) in roles(tables)?.into_iter().filter(|(_, known)| *known == NodeRole::Witness && role == NodeRole::Witness) {
        if lives(id)? {
            return Ok(Err(Refused::SecondWitness));
        }
    }
    let texts = [&joining.name, &joining.zone, &joining.peer_address, &joining.imap_address];
    if present().count() >= NODES_MAX || joining.name.is_empty() || texts.iter().any(|text| text.len() > NAME_BYTES_MAX) {
        return Ok(Err(Refused::Limit));
    }
    // Rows of removed nodes stay, so that no id is given twice.
    let id = NodeId(known.iter().map(|(row, _)| row.id.0).max().unwrap_or(0) + 1);
    let row = NodeRecord {
        id,
        name: joining.name.clone(),
        zone: joining.zone.clone(),
        disk: joining.disk,
        // It announces its boot by itself.
        boot: Boot(0),
        peer_address: joining.peer_address.clone(),
        imap_address: joining.imap_address.clone(),
    };
    put(tables, key(record::NODE, &id.0.to_be_bytes()), &row)?;
    put_role(tables, id, role)?;
    // An invitation is for one node.
    put(tables, vec![record::INVITES], &open)?;
    Ok(Ok(Reply::Node(id)))
}

fn set_state(tables: &mut Overlay<'_>, id: NodeId, state: NodeState) -> Result<Applied, TableFault> {
    put(tables, key(record::STATE, &id.0.to_be_bytes()), &state)?;
    Ok(Ok(Reply::Done))
}

pub(crate) fn set_node_state(tables: &mut Overlay<'_>, id: NodeId, state: NodeState) -> Result<Applied, TableFault> {
    if node(tables, id)?.is_none() {
        return Ok(Err(Refused::NoSuchNode));
    }
    match (node_state(tables, id)?, state) {
        (NodeState::Removed, _) => Ok(Err(Refused::Removed)),
        // What it took alone, nobody else has.
        (_, NodeState::Lost) if alone(tables)?.node == Some(id) => Ok(Err(Refused::ServesAlone)),
        // Only `RemoveNode` removes, because it looks at what the node still holds.
        (_, NodeState::Removed) => Ok(Err(Refused::HoldsCopies)),
        _ => set_state(tables, id, state),
    }
}

pub(crate) fn remove_node(tables: &mut Overlay<'_>, id: NodeId) -> Result<Applied, TableFault> {
    if node(tables, id)?.is_none() {
        return Ok(Err(Refused::NoSuchNode));
    }
    match node_state(tables, id)? {
        NodeState::Removed => return Ok(Ok(Reply::Done)),
        NodeState::Active => return Ok(Err(Refused::NotDrained)),
        NodeState::Draining | NodeState::Lost => {}
    }
    if copies(tables)?.iter().any(|row| row.holders().any(|holder| holder == id)) {
        return Ok(Err(Refused::HoldsCopies));
    }
    set_state(tables, id, NodeState::Removed)
}

/// `row.version` must follow the present one: a controller that decided on old facts changes nothing.
pub(crate) fn set_placement(tables: &mut Overlay<'_>, row: &Copies) -> Result<Applied, TableFault> {
    let groups = cluster(tables)?.map_or(0, |formed| formed.groups);
    if row.group.0 > groups {
        return Ok(Err(Refused::NotOneVoter));
    }
    let Some(present) = copies(tables)?.into_iter().find(|present| present.group == row.group) else {
        return Ok(Err(Refused::StalePlacement { version: 0 }));
    };
    if row.version != present.version + 1 {
        return Ok(Err(Refused::StalePlacement { version: present.version }));
    }
    // Majorities of a list of group 0's voters and of the next must share a voter (rule 23).
    let (old, new): (BTreeSet<NodeId>, BTreeSet<NodeId>) = (present.voters.into_iter().collect(), row.voters.iter().copied().collect());
    if row.group == GroupId::CLUSTER && old.symmetric_difference(&new).count() > 1 {
        return Ok(Err(Refused::NotOneVoter));
    }
    let holders: BTreeSet<NodeId> = row.holders().collect();
    let distinct = holders.len() == row.voters.len() + row.learners.len();
    if row.voters.is_empty() || !distinct || holders.len() > ROW_NODES_MAX || row.leaving.iter().any(|id| !row.voters.contains(id)) {
        return Ok(Err(Refused::Limit));
    }
    for id in holders {
        let role = node_role(tables, id)?;
        let votes =
            if row.group == GroupId::CLUSTER { role.votes_in_group_0() } else { matches!(role, NodeRole::Data | NodeRole::Witness) };
        if !votes {
            return Ok(Err(Refused::WrongRole));
        }
        if node(tables, id)?.is_none() || node_state(tables, id)? == NodeState::Removed {
            return Ok(Err(Refused::NoSuchNode));
        }
    }
    put(tables, key(record::COPIES, &row.group.0.to_be_bytes()), row)?;
    Ok(Ok(Reply::Done))
}
