//! IDLE on a node without a copy of the user's group: nothing is applied here that could wake it, so one of the group's nodes is asked
//! what changes there. One question is under way per node that is asked, however many sessions wait.

use crate::node::Local;
use crate::watch::Since;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parliament_ids::{AccountId, MailboxId, NodeId};
use parliament_rpc::Method;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// A question is answered within this although nothing changed.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// How long the asker waits beyond that.
const ASKED_WITHIN: Duration = Duration::from_secs(8);
/// How often it is looked which nodes are to be asked.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A mark that no node gives: anything may have changed before.
const NO_MARK: u64 = u64::MAX;

fn encode(since: &Since) -> Bytes {
    let rows = since.changed.as_deref().unwrap_or_default();
    let mut bytes = BytesMut::with_capacity(9 + rows.len() * 16);
    bytes.put_u64_le(since.mark);
    bytes.put_u8(u8::from(since.changed.is_some()));
    for (account, mailbox) in rows {
        bytes.put_u64_le(account.0);
        bytes.put_u64_le(mailbox.0);
    }
    bytes.freeze()
}

fn decode(mut bytes: Bytes) -> Option<Since> {
    let (mark, known) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u8().ok()? == 1);
    let mut rows = Vec::with_capacity(bytes.len() / 16);
    while bytes.has_remaining() {
        rows.push((AccountId(bytes.try_get_u64_le().ok()?), MailboxId(bytes.try_get_u64_le().ok()?)));
    }
    Some(Since { mark, changed: known.then_some(rows) })
}

impl Local {
    /// Answers a peer's [`Method::Changes`].
    ///
    /// # Errors
    /// When the payload is garbled.
    pub async fn on_changes(&self, mut payload: &[u8]) -> Result<Bytes, String> {
        let mark = payload.try_get_u64_le().map_err(|e| e.to_string())?;
        let since = tokio::time::timeout(ANSWERED_WITHIN, self.hub.changes_since(mark)).await;
        Ok(encode(&since.unwrap_or(Since { mark, changed: Some(Vec::new()) })))
    }

    /// One live node of each group that has no replica here; none while no session here watches anything.
    fn to_be_asked(&self) -> BTreeSet<NodeId> {
        if !self.hub.is_watched() {
            return BTreeSet::new();
        }
        let layout = self.layout();
        let far = layout.groups.iter().filter(|(group, _)| self.shard(**group).is_none_or(|shard| shard.has_stopped()));
        let live = |nodes: &[NodeId]| nodes.iter().copied().find(|node| *node != self.me && self.support.is_live(*node));
        far.filter_map(|(_, place)| live(&place.voters)).collect()
    }

    /// Hears of changes elsewhere for ever.
    pub async fn hear_of_changes(self: Arc<Self>) {
        let mut asked: HashMap<NodeId, tokio::task::JoinHandle<()>> = HashMap::new();
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        loop {
            interval.tick().await;
            let nodes = self.to_be_asked();
            asked.retain(|node, task| {
                let stays = nodes.contains(node) && !task.is_finished();
                if !stays {
                    task.abort();
                }
                stays
            });
            for node in nodes {
                asked.entry(node).or_insert_with(|| tokio::spawn(self.clone().ask_for_changes(node)));
            }
        }
    }

    /// Asks one node until it fails.
    async fn ask_for_changes(self: Arc<Self>, node: NodeId) {
        let mut mark = NO_MARK;
        loop {
            let Some(peer) = self.pool.get(node) else { return };
            let question = Bytes::copy_from_slice(&mark.to_le_bytes());
            let Ok(answer) = peer.request(Method::Changes, question, ASKED_WITHIN).await else { return };
            let Some(since) = decode(answer) else { return };
            mark = since.mark;
            match since.changed {
                Some(rows) => rows.into_iter().for_each(|(account, mailbox)| self.hub.wake(account, mailbox)),
                None => self.hub.everyone_looks(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_travels_whole() {
        for changed in [None, Some(Vec::new()), Some(vec![(AccountId(7), MailboxId(9)), (AccountId(1), MailboxId(2))])] {
            let since = Since { mark: 77, changed };
            assert_eq!(decode(encode(&since)), Some(since));
        }
        assert_eq!(decode(Bytes::from_static(b"short")), None);
    }
}
