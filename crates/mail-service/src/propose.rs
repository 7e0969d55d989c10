//! Getting a command into a group's log, wherever its leader is. A proposer's reply is what its *own* replica applied; the
//! leader's answer only tells how it went there.

use crate::machine::ProposalKey;
use crate::node::Local;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parliament_cluster_state as cluster;
use parliament_formats as formats;
use parliament_groups::{Command as Entry, ProposeError};
use parliament_ids::{GroupId, NodeId};
use parliament_mail_api::Unserved;
use parliament_mailbox_state::{Applied, Command, UserCommand, bodies_named};
use parliament_rpc::{LinkError, Method};
use std::time::Duration;

/// How long one try at one leader may take before another is looked for.
const TRY_TIMEOUT: Duration = Duration::from_secs(3);
/// After the leader's word that an entry is committed, how long its apply on this replica may take.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a leader is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(15);

/// One try failed; unless `NotLeader`, the entry may have been or may yet be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TryError {
    /// No leader is known, or the node asked is none.
    NotLeader,
    /// Unknown outcome.
    Unknown,
    /// The entry breaks a bound of the log.
    TooLarge,
}

const OK: u8 = 0;
const NOT_LEADER: u8 = 1;
const UNKNOWN: u8 = 2;

/// Frames a command of users with the bodies that it names.
fn users_entry(command: &Command) -> Result<Entry, TryError> {
    let bytes = formats::encode_users(command).map_err(|_| TryError::TooLarge)?;
    Entry::new(&bodies_named(command), &bytes).map_err(|_| TryError::TooLarge)
}

fn forward(group: GroupId, entry: &Entry) -> Bytes {
    let frame = entry.as_bytes();
    let mut payload = BytesMut::with_capacity(4 + frame.len());
    payload.put_u32_le(group.0);
    payload.put_slice(frame);
    payload.freeze()
}

fn link_error(error: &LinkError) -> TryError {
    match error {
        LinkError::Refused(_) | LinkError::Busy => TryError::NotLeader,
        _ => TryError::Unknown,
    }
}

fn propose_error(error: &ProposeError) -> TryError {
    match error {
        ProposeError::NotLeader { .. } => TryError::NotLeader,
        _ => TryError::Unknown,
    }
}

impl Local {
    /// Proposes a holder's command once and waits until it was applied here.
    pub(crate) async fn try_user(&self, group: GroupId, command: UserCommand) -> Result<Applied, TryError> {
        let shard = self.shard(group).ok_or(TryError::NotLeader)?;
        let mut waiter = shard.machine.wait(ProposalKey::of(&command));
        let entry = users_entry(&Command::User(command))?;
        shard.proposals.note();
        let sending = self.send_entry(group, entry);
        tokio::select! {
            biased;
            applied = &mut waiter.applied => return applied.map_err(|_| TryError::Unknown),
            sent = sending => { sent?; }
        }
        match tokio::time::timeout(APPLY_TIMEOUT, &mut waiter.applied).await {
            Ok(Ok(applied)) => Ok(applied),
            _ => Err(TryError::Unknown),
        }
    }

    /// Proposes a command that concerns a whole group of users (or makes an account), until it is in or the deadline passes.
    /// Such commands may be repeated without harm.
    pub(crate) async fn propose_users(&self, group: GroupId, command: &Command, deadline_ms: u64) -> Result<(), Unserved> {
        let entry = users_entry(command).map_err(|_| Unserved::Busy)?;
        self.until(deadline_ms, || {
            let entry = entry.clone();
            async move {
                let index = u64::from_le_bytes(self.send_entry(group, entry).await?.try_into().map_err(|_| TryError::Unknown)?);
                self.applied(group, index).await
            }
        })
        .await
    }

    /// Proposes a command of group 0 until its outcome is known or the deadline passes, and waits until it was applied here.
    ///
    /// # Errors
    /// [`Unserved::OutcomeUnknown`] after the deadline.
    pub async fn propose_cluster(&self, command: &cluster::Command, deadline_ms: u64) -> Result<cluster::Applied, Unserved> {
        let bytes = formats::encode_cluster(command).map_err(|_| Unserved::Busy)?;
        let entry = Entry::new(&[], &bytes).map_err(|_| Unserved::Busy)?;
        self.until(deadline_ms, || {
            let entry = entry.clone();
            async move {
                let mut answer = Bytes::from(self.send_entry(GroupId::CLUSTER, entry).await?);
                if answer.len() < 8 {
                    return Err(TryError::Unknown);
                }
                self.applied(GroupId::CLUSTER, answer.get_u64_le()).await?;
                formats::decode_cluster_applied(&answer).map_err(|_| TryError::Unknown)
            }
        })
        .await
    }

    /// Repeats `attempt` until it succeeds or the deadline passes.
    async fn until<T, F: Future<Output = Result<T, TryError>>>(&self, deadline_ms: u64, attempt: impl Fn() -> F) -> Result<T, Unserved> {
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(TryError::TooLarge) => return Err(Unserved::Busy),
                Err(_) if crate::clock::boot_ms() >= deadline_ms => return Err(Unserved::OutcomeUnknown),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn applied(&self, group: GroupId, index: u64) -> Result<(), TryError> {
        let waited = match self.shard(group) {
            Some(shard) => shard.group.wait_applied(index, APPLY_TIMEOUT).await,
            None if group == GroupId::CLUSTER => self.cluster.wait_applied(index, APPLY_TIMEOUT).await,
            None => return Err(TryError::NotLeader),
        };
        waited.map_err(|_| TryError::Unknown)
    }

    /// Hands an entry to the group's leader. The answer: the entry's index, 8 bytes, and for group 0 what it came to.
    async fn send_entry(&self, group: GroupId, entry: Entry) -> Result<Vec<u8>, TryError> {
        let leader = self.leader(group).ok_or(TryError::NotLeader)?;
        if leader == self.me {
            return self.propose_here(group, entry).await;
        }
        let peer = self.pool.get(leader).ok_or(TryError::NotLeader)?;
        let asking = peer.request(Method::Propose, forward(group, &entry), TRY_TIMEOUT);
        let mut answer = tokio::select! {
            answer = asking => answer.map_err(|e| link_error(&e))?,
            // A leader that was stopped or cut off does not answer; its successor does.
            () = self.leads_no_more(group, leader) => return Err(TryError::Unknown),
        };
        match answer.try_get_u8() {
            Ok(OK) => Ok(answer.to_vec()),
            Ok(NOT_LEADER) => Err(TryError::NotLeader),
            _ => Err(TryError::Unknown),
        }
    }

    async fn propose_here(&self, group: GroupId, entry: Entry) -> Result<Vec<u8>, TryError> {
        if let Some(shard) = self.shard(group) {
            let proposing = tokio::time::timeout(TRY_TIMEOUT, shard.group.propose(entry));
            let proposed = proposing.await.map_err(|_| TryError::Unknown)?.map_err(|e| propose_error(&e))?;
            return Ok(proposed.0.to_le_bytes().to_vec());
        }
        // A group that was closed here: its entry must never come into group 0.
        if group != GroupId::CLUSTER {
            return Err(TryError::NotLeader);
        }
        let proposing = tokio::time::timeout(TRY_TIMEOUT, self.cluster.propose(entry));
        let (index, applied) = proposing.await.map_err(|_| TryError::Unknown)?.map_err(|e| propose_error(&e))?;
        let mut answer = index.to_le_bytes().to_vec();
        answer.extend_from_slice(&formats::encode_cluster_applied(&applied).map_err(|_| TryError::Unknown)?);
        Ok(answer)
    }

    /// Answers a peer's [`Method::Propose`].
    ///
    /// # Errors
    /// When the payload is garbled.
    pub async fn on_propose(&self, mut payload: Bytes) -> Result<Bytes, String> {
        let group = GroupId(payload.try_get_u32_le().map_err(|e| e.to_string())?);
        let entry = Entry::from_bytes(payload).map_err(|e| e.to_string())?;
        let (status, body) = match self.propose_here(group, entry).await {
            Ok(body) => (OK, body),
            Err(TryError::NotLeader) => (NOT_LEADER, Vec::new()),
            Err(_) => (UNKNOWN, Vec::new()),
        };
        let mut answer = BytesMut::with_capacity(1 + body.len());
        answer.put_u8(status);
        answer.put_slice(&body);
        Ok(answer.freeze())
    }

    /// A linearizable barrier: when it returns, everything committed in the group before it was called is applied here.
    ///
    /// # Errors
    /// [`Unserved::NoQuorum`] when no leader can show its leadership in time.
    pub async fn read_barrier(&self, group: GroupId) -> Result<(), Unserved> {
        let index = match self.leader(group) {
            Some(leader) if leader == self.me => self.read_index_here(group).await,
            Some(leader) if self.support.is_live(leader) => self.read_index_of(leader, group).await,
            _ => self.read_index_around(group).await,
        };
        self.applied(group, index.ok_or(Unserved::NoQuorum)?).await.map_err(|_| Unserved::NoQuorum)
    }

    /// Asks another node that leads the group.
    pub(crate) async fn read_index_of(&self, leader: NodeId, group: GroupId) -> Option<u64> {
        tokio::select! {
            index = self.ask_read_index(Method::ReadIndex, leader, group) => index,
            () = self.leads_no_more(group, leader) => None,
        }
    }

    pub(crate) async fn ask_read_index(&self, method: Method, node: NodeId, group: GroupId) -> Option<u64> {
        let peer = self.pool.get(node)?;
        let mut answer = peer.request(method, Bytes::copy_from_slice(&group.0.to_le_bytes()), TRY_TIMEOUT).await.ok()?;
        answer.try_get_u64_le().ok()
    }

    pub(crate) async fn read_index_here(&self, group: GroupId) -> Option<u64> {
        let asked = match self.shard(group) {
            Some(shard) => tokio::time::timeout(TRY_TIMEOUT, shard.group.read_index()).await,
            None if group == GroupId::CLUSTER => tokio::time::timeout(TRY_TIMEOUT, self.cluster.read_index()).await,
            None => return None,
        };
        asked.ok()?.ok()
    }

    /// Answers a peer's [`Method::ReadIndex`].
    ///
    /// # Errors
    /// When this node cannot show that it leads the group.
    pub async fn on_read_index(&self, mut payload: Bytes) -> Result<Bytes, String> {
        let group = GroupId(payload.try_get_u32_le().map_err(|e| e.to_string())?);
        let index = self.read_index_here(group).await.ok_or("not the leader, or no quorum")?;
        Ok(Bytes::copy_from_slice(&index.to_le_bytes()))
    }

    /// Returns when this node no longer takes `leader` for the group's leader.
    async fn leads_no_more(&self, group: GroupId, leader: NodeId) {
        // Only a group that has stopped has an error, and its leader is then of no use.
        let _ = match self.shard(group) {
            Some(shard) => shard.group.leader_changed(Some(leader)).await,
            None if group == GroupId::CLUSTER => self.cluster.leader_changed(Some(leader)).await,
            // Closed here meanwhile: nothing is known of its leader any more.
            None => Ok(None),
        };
    }

    /// The leader of a group as far as this node knows.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        match self.shard(group) {
            Some(shard) => shard.group.leader(),
            None if group == GroupId::CLUSTER => self.cluster.leader(),
            None => None,
        }
    }
}

impl Local {
    /// Proposes a command that concerns a whole group of users, once, without hurry; true when it is in.
    pub async fn propose_everywhere(&self, group: GroupId, command: &Command) -> bool {
        self.propose_users(group, command, crate::clock::boot_ms() + 5_000).await.is_ok()
    }
}
