//! A handle on one group of this node.

use crate::inbound::Raft;
use crate::link::{BodyGate, GateOutcome, GateRequest};
use crate::machine::Machine;
use crate::rest::Resting;
use crate::snapshots::SnapshotFile;
use crate::state_machine::Core;
use crate::types::{Command, LogId, NodeInfo, TypeConfig};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError, RaftError};
use openraft::{Instant as _, ServerState};
use parliament_ids::{GroupId, NodeId};
use parliament_tables::GroupTables;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A proposal was not carried out, or it is unknown whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or is about to. Nothing was appended.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<(NodeId, NodeInfo)>,
    },
    /// The leader has lost touch with a quorum and takes no proposals. Nothing was appended.
    #[error("no quorum")]
    NoQuorum,
    /// A body the command names is not durable on this node. Nothing was appended.
    #[error("a body is missing: {0}")]
    Body(String),
    /// The command was appended; whether it is or will be committed is unknown. Repeat it under the same request id.
    #[error("outcome unknown: {0}")]
    Unknown(&'static str),
    /// The group has stopped on this node. Whether the command was appended is unknown.
    #[error("the group has stopped: {0}")]
    Stopped(String),
}

/// A linearizable read could not be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader for the index, then wait for it here with [`Group::wait_applied`].
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<(NodeId, NodeInfo)>,
    },
    /// No quorum confirmed the leadership in time.
    #[error("no quorum")]
    NoQuorum,
    /// It was not applied here in time.
    #[error("not applied in time")]
    TimedOut,
    /// The group has stopped on this node.
    #[error("the group has stopped: {0}")]
    Stopped(String),
}

impl From<ReadError> for ProposeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { leader } => Self::NotLeader { leader },
            ReadError::NoQuorum | ReadError::TimedOut => Self::NoQuorum,
            ReadError::Stopped(why) => Self::Stopped(why),
        }
    }
}

/// A change of the group's members was refused or its outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("membership: {0}")]
pub struct ChangeError(pub String);

/// What this replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives entries, has no vote.
    Learner,
    /// Follows a leader or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Is shutting down.
    Stopping,
}

/// How far a follower is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The last entry known to be durable there.
    pub matched: Option<u64>,
}

/// One replica at one moment. Indexes are `None` while there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetrics {
    /// What this replica is.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Last entry in the log.
    pub last_log: Option<u64>,
    /// Last entry known to be committed.
    pub committed: Option<u64>,
    /// Last entry in the tables.
    pub applied: Option<u64>,
    /// Last entry in the newest snapshot file.
    pub snapshot: Option<u64>,
    /// Last entry the log has forgotten.
    pub purged: Option<u64>,
    /// Voters, of both sets during a change.
    pub voters: BTreeSet<NodeId>,
    /// All members, with where they are.
    pub members: BTreeMap<NodeId, NodeInfo>,
    /// The voters that a change under way leads to; `None` while there is one set of voters.
    pub changing_to: Option<BTreeSet<NodeId>>,
    /// Index of the entry that made these members.
    pub members_since: Option<u64>,
    /// On the leader: its followers and learners.
    pub followers: BTreeMap<NodeId, Follower>,
    /// Milliseconds since a quorum last answered; `None` unless leading.
    pub quorum_age_ms: Option<u64>,
    /// Its group rests: it keeps leader and members without a word between them.
    pub resting: bool,
    /// Why the group has stopped on this node, if it has.
    pub stopped: Option<String>,
}

pub(crate) struct GroupInner {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) core: Arc<Core>,
    pub(crate) gate: Arc<dyn BodyGate>,
    pub(crate) rest: Arc<Resting>,
    pub(crate) deadline: Duration,
}

/// One group of this node; clones are the same group. All methods may be called from any tokio runtime.
pub struct Group<M: Machine> {
    pub(crate) inner: Arc<GroupInner>,
    machine: PhantomData<fn() -> M>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

fn leader_of(forward: &ForwardToLeader<TypeConfig>) -> Option<(NodeId, NodeInfo)> {
    forward.leader_id.map(|id| (NodeId(id), forward.leader_node.clone().unwrap_or_default()))
}

impl<M: Machine> Group<M> {
    pub(crate) fn new(inner: Arc<GroupInner>) -> Self {
        Self { inner, machine: PhantomData }
    }
    /// Which group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.group
    }
    /// The group's tables on this node, as far as they are applied.
    #[must_use]
    pub fn tables(&self) -> &GroupTables {
        &self.inner.core.tables
    }

    /// Founds the group with these voters, this node among them. Called on exactly one of them, once; harmless when repeated.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn initialize(&self, members: BTreeMap<NodeId, NodeInfo>) -> Result<(), ChangeError> {
        let members: BTreeMap<u64, NodeInfo> = members.into_iter().map(|(id, info)| (id.0, info)).collect();
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(ChangeError(error.to_string())),
        }
    }

    /// Appends a command, waits until it is committed and applied here, and returns its index and the machine's reply. The
    /// bodies it names must be durable on this node first, as on any replica (I1).
    ///
    /// # Errors
    /// [`ProposeError`] says whether the command may still take effect.
    pub async fn propose(&self, command: Command) -> Result<(u64, M::Reply), ProposeError> {
        self.pass_own_gate(&command).await?;
        self.wake_to_lead().await?;
        let written = match timeout(self.inner.deadline, self.inner.raft.client_write(command)).await {
            Ok(written) => written,
            Err(_) => return Err(ProposeError::Unknown("no quorum in time")),
        };
        match written {
            Ok(written) => {
                let index = written.log_id.index();
                let reply = written.data.take().ok_or(ProposeError::Unknown("a reply of another machine"))?;
                Ok((index, reply))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => Err(match forward.reason {
                ForwardReason::LeaseExpired => ProposeError::NoQuorum,
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => ProposeError::NotLeader { leader: leader_of(&forward) },
            }),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(ProposeError::Unknown("another leader took over")),
            Err(RaftError::APIError(error)) => Err(ProposeError::Stopped(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(fatal.to_string())),
        }
    }

    /// A leader whose group has rested renews its lease; without one openraft takes no proposals.
    async fn wake_to_lead(&self) -> Result<(), ReadError> {
        self.inner.rest.used();
        if self.inner.rest.is_stale() {
            // Rare, and boxed, so that every proposal is not as large as a read.
            Box::pin(self.read_index()).await?;
        }
        Ok(())
    }

    async fn pass_own_gate(&self, command: &Command) -> Result<(), ProposeError> {
        // The index is not known before the entry is appended; the gate of a proposal needs none.
        let strict: Vec<_> = command.bodies().map(|body| (u64::MAX, body)).collect();
        if strict.is_empty() {
            return Ok(());
        }
        let request = GateRequest { strict, lenient: Vec::new(), source: self.inner.node };
        match self.inner.gate.gate(self.inner.group, request).await {
            GateOutcome::Open => Ok(()),
            GateOutcome::Closed(reason) => Err(ProposeError::Body(reason)),
        }
    }

    /// On the leader: confirms the leadership with a quorum (ReadIndex) and waits until all that was committed before the
    /// call is applied here; the tables may then be read. Returns that index.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        match timeout(self.inner.deadline, self.inner.rest.confirm(&self.inner.raft)).await {
            Err(_) => Err(ReadError::NoQuorum),
            Ok(Ok(index)) => Ok(index),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => Err(match forward.reason {
                ForwardReason::LeaseExpired => ReadError::NoQuorum,
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => ReadError::NotLeader { leader: leader_of(&forward) },
            }),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(ReadError::NoQuorum),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ReadError::Stopped(fatal.to_string())),
        }
    }

    /// Waits until the entry at `index` is in the tables here.
    ///
    /// # Errors
    /// [`ReadError::TimedOut`] or [`ReadError::Stopped`].
    pub async fn wait_applied(&self, index: u64, within: Duration) -> Result<(), ReadError> {
        let mut applied = self.inner.core.watch_applied();
        let waited = timeout(within, applied.wait_for(|applied| *applied >= Some(index))).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped("state machine gone".into())),
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    /// The last entry in the tables here, and its changes.
    #[must_use]
    pub fn watch_applied(&self) -> tokio::sync::watch::Receiver<Option<u64>> {
        self.inner.core.watch_applied()
    }

    /// Who leads, as far as this replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.raft.server_metrics().borrow_watched().current_leader.map(NodeId)
    }
    /// True when this replica believes that it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// The term in which this replica leads, as it believes.
    #[must_use]
    pub fn leads_in_term(&self) -> Option<u64> {
        let receiver = self.inner.raft.server_metrics();
        let metrics = receiver.borrow_watched();
        // A core that has ended tells so elsewhere, and here still what it was.
        let leads = metrics.state == ServerState::Leader && self.stopped().is_none();
        leads.then_some(metrics.vote.leader_id.term)
    }

    /// Why the group has stopped on this node for good, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.inner.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Returns when this replica's view of the leader is no longer `known`, with the new one.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn leader_changed(&self, known: Option<NodeId>) -> Result<Option<NodeId>, ReadError> {
        let mut metrics = self.inner.raft.server_metrics();
        loop {
            let leader = metrics.borrow_watched().current_leader.map(NodeId);
            if leader != known {
                return Ok(leader);
            }
            metrics.changed().await.map_err(|_| ReadError::Stopped("consensus gone".into()))?;
        }
    }

    /// Index of the last entry that is in the tables at this moment; [`GroupMetrics::applied`] and [`Group::watch_applied`] come to it later.
    #[must_use]
    pub fn applied_in_tables(&self) -> Option<u64> {
        crate::state_machine::read_applied(self.tables()).ok()?.index()
    }

    /// This replica at this moment.
    #[must_use]
    pub fn metrics(&self) -> GroupMetrics {
        let receiver = self.inner.raft.metrics();
        let metrics = receiver.borrow_watched();
        let membership = metrics.membership_config.membership();
        let index = |id: &Option<LogId>| id.as_ref().map(LogId::index);
        GroupMetrics {
            role: match metrics.state {
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopping,
            },
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            last_log: metrics.last_log_index,
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            voters: membership.voter_ids().map(NodeId).collect(),
            changing_to: match membership.get_joint_config().as_slice() {
                [_, .., last] => Some(last.iter().copied().map(NodeId).collect()),
                _ => None,
            },
            members_since: index(metrics.membership_config.log_id()),
            members: membership.nodes().map(|(id, info)| (NodeId(*id), info.clone())).collect(),
            followers: metrics
                .replication
                .iter()
                .flatten()
                .map(|(id, matched)| (NodeId(*id), Follower { matched: index(matched) }))
                .collect(),
            quorum_age_ms: metrics.last_quorum_acked.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            resting: self.is_resting(),
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// True while the group rests here: consensus has no clock, until somebody uses the leader, or a follower's leader is gone.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.inner.rest.is_resting()
    }

    /// Asks the leader, which must be this node, to hand over to `to`. Returns when asked; watch [`Group::leader`].
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ChangeError> {
        // Who has just heard the leader asks for votes only if nothing comes of this.
        let _ = self.wake_to_lead().await;
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(|e| ChangeError(e.to_string()))
    }
    /// Starts an election with a pre-vote, which fails while a leader lives.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn elect(&self) -> Result<(), ChangeError> {
        self.inner.rest.wake();
        self.inner.raft.trigger().elect(true).await.map_err(|e| ChangeError(e.to_string()))
    }
    /// Adds a member without a vote; returns once that is committed, not once it has caught up. On the leader only.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, node: NodeId, info: NodeInfo) -> Result<(), ChangeError> {
        let _ = self.wake_to_lead().await;
        self.inner.raft.add_learner(node.0, info, false).await.map(drop).map_err(|e| ChangeError(e.to_string()))
    }
    /// Makes exactly these members voters, through joint consensus; each must be a member already. Former voters leave, or
    /// stay as learners when `retain`. On the leader only.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>, retain: bool) -> Result<(), ChangeError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|id| id.0).collect();
        let _ = self.wake_to_lead().await;
        self.inner.raft.change_membership(voters, retain).await.map(drop).map_err(|e| ChangeError(e.to_string()))
    }

    /// Lets members without a vote go. On the leader only.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_learners(&self, nodes: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let nodes: BTreeSet<u64> = nodes.into_iter().map(|id| id.0).collect();
        let _ = self.wake_to_lead().await;
        let change = self.inner.raft.change_membership(openraft::ChangeMembers::RemoveNodes(nodes), true);
        change.await.map(drop).map_err(|e| ChangeError(e.to_string()))
    }

    /// The newest snapshot file on this node.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotFile> {
        self.inner.core.snapshots.newest()
    }
    /// Starts writing a snapshot now, unless one is being written on this node.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn trigger_snapshot(&self) -> Result<(), ChangeError> {
        self.inner.raft.trigger().snapshot().await.map_err(|e| ChangeError(e.to_string()))
    }
    /// Forgets log entries up to `index`, as far as the newest snapshot file covers them.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn purge_log(&self, index: u64) -> Result<(), ChangeError> {
        self.inner.raft.trigger().purge_log(index).await.map_err(|e| ChangeError(e.to_string()))
    }
}
