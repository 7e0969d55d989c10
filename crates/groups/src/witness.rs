//! A voter without bodies (rule 5). It lends its vote, and acknowledges an entry only when that cannot leave the entry's bodies on one disk:
//! once the leader says that the entry is committed, so that it is on a majority without this node; or when every majority that this node is
//! part of has two nodes with bodies; or when the leader is the data node that was committed to serve alone.
//!
//! It acknowledges entries without bodies no sooner, so that its log is never ahead of the data nodes' unless one of them serves alone, and
//! so that a data node can always be elected with its vote. It never leads.

use crate::inbound::Hosted;
use crate::lock;
use crate::types::{Membership, TypeConfig, Vote};
use openraft::EntryPayload;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use parliament_ids::NodeId;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a message may wait to be committed before its leader is told to try again.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// How often [`WitnessRule::settled`] looks.
const LOOK: Duration = Duration::from_millis(5);

/// Whom a witness may run ahead for. One for all groups of a node.
#[derive(Default)]
pub struct WitnessRule {
    /// Permits are given with this locked for reading, so that a change of it counts for all that come after.
    alone: RwLock<Option<NodeId>>,
    under_way: Arc<AtomicUsize>,
    changed: Notify,
}

/// A message that runs ahead, until it is durable or refused.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl WitnessRule {
    /// From now on entries of this leader alone are acknowledged before they are committed; of nobody's with `None`, as at first.
    pub fn set_alone(&self, node: Option<NodeId>) {
        *self.alone.write().unwrap_or_else(PoisonError::into_inner) = node;
        self.changed.notify_waiters();
    }
    /// Whom [`WitnessRule::set_alone`] named.
    #[must_use]
    pub fn alone(&self) -> Option<NodeId> {
        *self.alone.read().unwrap_or_else(PoisonError::into_inner)
    }
    /// Returns when nothing that was let ahead is under way any more: it is in the logs by then, or nowhere.
    pub async fn settled(&self) {
        while self.under_way.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }
    fn permit(&self, leader: NodeId) -> Option<Permit> {
        let alone = self.alone.read().unwrap_or_else(PoisonError::into_inner);
        (*alone == Some(leader)).then(|| {
            self.under_way.fetch_add(1, Ordering::AcqRel);
            Permit(self.under_way.clone())
        })
    }
}

/// What a witness knows of one of its groups, ahead of consensus: messages wait here for later ones that tell more.
pub(crate) struct Witnessing {
    rule: Arc<WitnessRule>,
    seen: Mutex<Seen>,
    heard: Notify,
}

#[derive(Default)]
struct Seen {
    /// The newest leader, and the greatest commit index that it told.
    committed: Option<(Vote, u64)>,
    /// The last membership in a message that was let pass, and its index: consensus may not have taken it yet.
    members: Option<(u64, Membership)>,
}

impl Witnessing {
    pub(crate) fn new(rule: Arc<WitnessRule>) -> Self {
        Self { rule, seen: Mutex::default(), heard: Notify::new() }
    }

    /// A message has come, whether its turn has come or not.
    pub(crate) fn hear(&self, request: &AppendEntriesRequest<TypeConfig>) {
        let Some(index) = request.leader_commit.as_ref().map(crate::types::LogId::index) else { return };
        let mut seen = lock(&self.seen);
        let newer = match &seen.committed {
            // Another leader's index says nothing of what this one has at that place.
            Some((vote, known)) if *vote == request.vote => index > *known,
            Some((vote, _)) => request.vote > *vote,
            None => true,
        };
        if newer {
            seen.committed = Some((request.vote, index));
            self.heard.notify_waiters();
        }
    }

    fn is_committed(&self, vote: &Vote, last: u64) -> bool {
        matches!(&lock(&self.seen).committed, Some((known, index)) if known == vote && last <= *index)
    }

    /// True when no majority with this node has fewer than two nodes with bodies, as of the entries of this message.
    fn is_spare(&self, hosted: &Hosted, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let known = hosted.raft.server_metrics().borrow_watched().membership_config.clone();
        let passed =
            lock(&self.seen).members.clone().filter(|(index, _)| Some(*index) > known.log_id().as_ref().map(crate::types::LogId::index));
        let coming = request.entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Membership(members) => Some(members),
            _ => None,
        });
        let me = *hosted.raft.node_id();
        let spares = |members: &Membership| spares(members, me);
        spares(known.membership()) && passed.iter().all(|(_, members)| spares(members)) && coming.into_iter().all(spares)
    }

    fn passes(&self, request: &AppendEntriesRequest<TypeConfig>) {
        let last = request.entries.iter().rev().find_map(|entry| match &entry.payload {
            EntryPayload::Membership(members) => Some((entry.log_id.index(), members.clone())),
            _ => None,
        });
        if let Some(last) = last {
            lock(&self.seen).members = Some(last);
        }
    }
}

/// True when every majority has two nodes with bodies. `me` has none, even where the group was not told so.
fn spares(members: &Membership, me: u64) -> bool {
    let configs = members.get_joint_config();
    let witnesses = |config: &std::collections::BTreeSet<u64>| {
        config.iter().filter(|id| **id == me || members.get_node(id).is_some_and(|info| info.witness)).count()
    };
    !configs.is_empty() && configs.iter().all(|config| (config.len() / 2 + 1).saturating_sub(witnesses(config)) >= 2)
}

/// Waits until a message may be acknowledged here. The permit, if one was needed, lives until the message is answered.
pub(crate) async fn pass(
    hosted: &Hosted,
    witnessing: &Witnessing,
    source: NodeId,
    request: AppendEntriesRequest<TypeConfig>,
) -> Result<(AppendEntriesRequest<TypeConfig>, Option<Permit>), String> {
    let Some(last) = request.entries.last().map(|entry| entry.log_id.index()) else {
        // A leader that is cut off from the one that serves alone would keep its lease by these, and nobody else could lead.
        return match witnessing.rule.alone() {
            Some(alone) if alone != source => Err("another node serves alone".into()),
            _ => Ok((request, None)),
        };
    };
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let (heard, changed) = (witnessing.heard.notified(), witnessing.rule.changed.notified());
        tokio::pin!(heard, changed);
        // From here on neither is missed.
        heard.as_mut().enable();
        changed.as_mut().enable();
        let permit = if witnessing.is_committed(&request.vote, last) || witnessing.is_spare(hosted, &request) {
            Some(None)
        } else {
            witnessing.rule.permit(source).map(Some)
        };
        if let Some(permit) = permit {
            witnessing.passes(&request);
            return Ok((request, permit));
        }
        tokio::select! {
            () = heard => {}
            () = changed => {}
            () = tokio::time::sleep_until(deadline) => return Err("a witness takes only what is committed or may be on one disk".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeInfo;
    use std::collections::{BTreeMap, BTreeSet};

    fn members(configs: &[&[u64]], witnesses: &[u64]) -> Membership {
        let nodes: BTreeMap<u64, NodeInfo> =
            (1..=5).map(|id| (id, NodeInfo { witness: witnesses.contains(&id), ..NodeInfo::default() })).collect();
        let configs: Vec<BTreeSet<u64>> = configs.iter().map(|ids| ids.iter().copied().collect()).collect();
        Membership::new(configs, nodes).unwrap()
    }

    #[test]
    fn a_witness_counts_only_beside_two_nodes_with_bodies() {
        let spare = |configs: &[&[u64]], witnesses: &[u64]| spares(&members(configs, witnesses), 3);
        assert!(!spare(&[&[1, 2, 3]], &[3]), "with one of them it would be a majority");
        assert!(!spare(&[&[1, 3]], &[3]));
        assert!(spare(&[&[1, 2, 3, 4]], &[3]), "while a third data node comes or one is replaced");
        assert!(!spare(&[&[1, 2, 3], &[1, 2, 3, 4]], &[3]), "both majorities are needed, so the weaker one counts");
        assert!(spare(&[&[1, 2, 4]], &[3]), "it has no vote");
        assert!(!spare(&[&[1, 2, 3, 4]], &[3, 4]), "a second witness");
        assert!(!spare(&[&[1, 2, 3]], &[]), "the group was not told what it is");
    }
}
