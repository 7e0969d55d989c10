//! Partitions in which some nodes hear each other and some do not. Three things keep every user served then: a node that does not hear the
//! holder, or the leader through whom it would take a lease, asks one that does to pass its requests on; a read barrier goes the same way;
//! and a holder that does not hear its group's leader gives its leases up.

use crate::clock::boot_ms;
use crate::node::Local;
use bytes::{Buf as _, Bytes};
use parliament_cluster_state::AccountRecord;
use parliament_formats::{decode_call, encode_answer};
use parliament_ids::{Boot, GroupId, NodeId};
use parliament_mail_api::{Answer, Call, Unserved};
use parliament_rpc::Method;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How long a way around is taken without looking whether the straight one is open again, ms.
const WAY_KEPT_MS: u64 = 2_000;
/// A holder whose proposals get nowhere for so long, while it hears no leader, gives its leases up, ms. An election takes less.
const STUCK_MS: u64 = 1_800;

/// Which node passed requests on to which holder, and until when it is asked first; as many rows as the cluster has nodes.
#[derive(Debug, Default)]
pub(crate) struct Ways(Mutex<BTreeMap<NodeId, (NodeId, u64)>>);

impl Ways {
    fn kept(&self, holder: NodeId) -> Option<NodeId> {
        let ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ways.get(&holder).filter(|(_, until)| boot_ms() < *until).map(|(through, _)| *through)
    }
    fn keep(&self, holder: NodeId, through: NodeId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(holder, (through, boot_ms() + WAY_KEPT_MS));
    }
    fn forget(&self, holder: NodeId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&holder);
    }
}

impl Local {
    /// Through whom an owner that this node does not hear was reached a moment ago.
    pub(crate) fn way_around(&self, owner: NodeId) -> Option<NodeId> {
        self.ways.kept(owner).filter(|through| self.support.is_live(*through))
    }

    /// The holder that a node named which hears it, where this node does not.
    pub(crate) fn unheard_holder(&self, unserved: &Unserved) -> Option<NodeId> {
        let Unserved::NotHolder { hint } = unserved else { return None };
        hint.filter(|holder| *holder != self.me && !self.support.is_live(*holder))
    }

    /// The lease could not be taken here: from an owner that is not heard here and may be heard elsewhere, or for want of a leader that is
    /// heard here. Asks the nodes that are heard, one after the other.
    pub(crate) async fn around(&self, row: &AccountRecord, unheard: Option<NodeId>, call: &Call, relayed: bool) -> Option<Answer> {
        if relayed || (unheard.is_none() && self.hears_leader(row.group)) {
            return None;
        }
        // Without an owner it is the leader's way that is kept; nobody looks for this node itself.
        let to = unheard.unwrap_or(self.me);
        for through in self.heard_but(to) {
            if let Ok(answer) = self.relay_around(to, through, call).await {
                return Some(answer);
            }
        }
        None
    }

    /// Asks `through` to pass a request on to `holder`.
    pub(crate) async fn relay_around(&self, holder: NodeId, through: NodeId, call: &Call) -> Result<Answer, Unserved> {
        let answer = self.relay_as(Method::Onward, through, call).await;
        match &answer {
            Ok(_) => self.ways.keep(holder, through),
            Err(_) => self.ways.forget(holder),
        }
        answer
    }

    /// The nodes that are heard, but for one: those who may hear it.
    fn heard_but(&self, node: NodeId) -> Vec<NodeId> {
        let peers = self.pool.all().into_iter().map(|peer| peer.node());
        peers.filter(|peer| *peer != node && self.support.is_live(*peer)).collect()
    }

    /// Answers a peer's [`Method::Onward`]: passes the request on to the holder, whom the peer does not hear. Once: what comes here by
    /// [`Method::Relay`] is served or refused, so nothing goes in circles.
    ///
    /// # Errors
    /// When the payload is garbled.
    pub async fn on_onward(self: &Arc<Self>, from: NodeId, payload: Bytes) -> Result<Bytes, String> {
        let call = decode_call(&payload).map_err(|e| e.to_string())?;
        let answer = match self.heard_holder(&call).filter(|holder| *holder != from) {
            Some(holder) => self.relay_as(Method::Relay, holder, &call).await,
            None if self.is_theirs(&call, from) => Err(Unserved::NotHolder { hint: None }),
            None => self.route(call, Some(from)).await,
        };
        encode_answer(&answer).map_err(|e| e.to_string())
    }

    /// A barrier's index, by way of the nodes that are heard, one after the other: this one hears no leader of the group.
    pub(crate) async fn read_index_around(&self, group: GroupId) -> Option<u64> {
        for through in self.heard_but(self.me) {
            if let Some(index) = self.ask_read_index(Method::ReadIndexOnward, through, group).await {
                return Some(index);
            }
        }
        None
    }

    /// Answers a peer's [`Method::ReadIndexOnward`]: as the leader, or with the leader's own answer, asked for after the peer has asked.
    ///
    /// # Errors
    /// When the payload is garbled, or no leader that is heard can show its leadership.
    pub async fn on_read_index_onward(&self, mut payload: Bytes) -> Result<Bytes, String> {
        let group = GroupId(payload.try_get_u32_le().map_err(|e| e.to_string())?);
        let index = match self.leader(group) {
            Some(leader) if leader == self.me => self.read_index_here(group).await,
            Some(leader) if self.support.is_live(leader) => self.read_index_of(leader, group).await,
            _ => None,
        };
        let index = index.ok_or("no leader is heard here, or it has no quorum")?;
        Ok(Bytes::copy_from_slice(&index.to_le_bytes()))
    }

    /// Who holds the lease, when it is another node that is heard; when nobody does, the leader, who should take it.
    fn heard_holder(&self, call: &Call) -> Option<NodeId> {
        let row = self.account(call.owner).ok().flatten()?;
        let heard = |node: &NodeId| *node != self.me && self.support.is_live(*node);
        let owner = self.holder_of(&row).and_then(|record| record.owner);
        match owner {
            Some(owner) if owner.node == self.me && owner.boot == self.support.boot() => None,
            Some(owner) if !self.support.boot_ended(owner.node, owner.boot) && heard(&owner.node) => Some(owner.node),
            _ => self.leader(row.group).filter(heard),
        }
    }

    /// True when the user's holder is not heard here either, and the asker inherits the user and reaches the group's leader: it will have the
    /// lease as soon as promises to the holder have run out. Whoever took it in its place would take more than its share of a dead node's users.
    fn is_theirs(&self, call: &Call, asker: NodeId) -> bool {
        let Some(row) = self.account(call.owner).ok().flatten() else { return false };
        let Some(owner) = self.holder_of(&row).and_then(|record| record.owner) else { return false };
        let reached = self.leader(row.group).is_none_or(|leader| leader == asker || leader == self.me);
        let gone = owner.node != self.me && !self.support.is_live(owner.node);
        gone && reached && self.heir_of(owner.node, &row, None) == Some(asker)
    }

    /// True when a change that is tried since `began_ms` cannot get in from here, and may from elsewhere: no leader of the group is heard,
    /// but a majority of its replicas is. Had the leader died, another would lead by now.
    pub(crate) fn is_stuck(&self, group: GroupId, began_ms: u64) -> bool {
        boot_ms().saturating_sub(began_ms) >= STUCK_MS && !self.hears_leader(group) && self.hears_majority(group)
    }

    /// True when the leader of a group is this node or one that it hears.
    fn hears_leader(&self, group: GroupId) -> bool {
        self.leader(group).is_some_and(|leader| leader == self.me || self.support.is_live(leader))
    }

    fn hears_majority(&self, group: GroupId) -> bool {
        let layout = self.layout();
        let voters = layout.voters(group);
        voters.iter().filter(|voter| self.support.is_live(**voter)).count() * 2 > voters.len()
    }

    /// Gives up the leases of `boot`, unless that was done already.
    pub(crate) fn give_up(&self, group: GroupId, boot: Boot) {
        if boot == self.support.boot() && self.support.trusted(boot) {
            tracing::warn!(%group, "this node does not hear the group's leader, and others do: it gives its leases up");
            self.support.renounce();
        }
    }
}
