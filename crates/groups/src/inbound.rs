//! The receiving side of consensus traffic: calls, append frames with the gate before them, snapshots.

use crate::link::{BodyGate, CallKind, GateOutcome, GateRequest};
use crate::rest::Resting;
use crate::snapshots::{SnapshotDir, SnapshotFile};
use crate::state_machine::StateMachine;
use crate::types::{TypeConfig, Vote};
use crate::wire::{self, AppendAnswer, Head, Lane};
use crate::witness::{self, Permit, Witnessing};
use crate::{CodecError, WINDOW_MESSAGES, lock};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::Fatal;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest};
use parliament_ids::{GroupId, NodeId};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::mpsc;

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Why a peer's message was not carried out here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The group has no replica here, or it has stopped.
    #[error("group {0} does not run here")]
    NotRunning(GroupId),
    /// The message is not ours, or breaks a bound.
    #[error(transparent)]
    Garbled(#[from] CodecError),
    /// More unanswered append frames than the window allows: close the connection.
    #[error("append window exceeded")]
    Flooded,
    /// A witness never leads.
    #[error("this node is a witness")]
    Witness,
    /// The snapshot file cannot be used.
    #[error("snapshot: {0}")]
    Snapshot(String),
}

/// What the receiving side needs of a running group.
pub(crate) struct Hosted {
    pub(crate) group: GroupId,
    pub(crate) raft: Raft,
    pub(crate) gate: Arc<dyn BodyGate>,
    pub(crate) snapshots: Arc<SnapshotDir>,
    /// On a node without bodies: what stands in the gate's place.
    pub(crate) witness: Option<Witnessing>,
    pub(crate) rest: Arc<Resting>,
}

/// All groups of this node, as seen by its peers. The transport calls it from any runtime.
pub struct Inbound {
    runtime: tokio::runtime::Handle,
    groups: RwLock<HashMap<GroupId, Arc<Hosted>>>,
}

impl Inbound {
    pub(crate) fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { runtime, groups: RwLock::new(HashMap::new()) }
    }
    pub(crate) fn insert(&self, hosted: Hosted) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(hosted.group, Arc::new(hosted));
    }
    pub(crate) fn remove(&self, group: GroupId) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }
    fn hosted(&self, group: GroupId) -> Result<Arc<Hosted>, Refusal> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(&group).cloned().ok_or(Refusal::NotRunning(group))
    }

    /// Answers one call of a peer.
    ///
    /// # Errors
    /// [`Refusal`]; the caller tells the peer and the candidate counts no vote.
    pub async fn handle_call(&self, peer: NodeId, group: GroupId, kind: CallKind, request: Bytes) -> Result<Bytes, Refusal> {
        let Hosted { raft, rest, .. } = &*self.hosted(group)?;
        let stopped = Refusal::NotRunning(group);
        match kind {
            CallKind::Vote => {
                let request = candidates_own(peer, wire::decode_vote_request(request)?)?;
                rest.wake();
                let answer = raft.vote(request).await.map_err(|_| stopped)?;
                Ok(wire::encode_vote_response(&answer))
            }
            CallKind::PreVote => {
                let request = candidates_own(peer, wire::decode_vote_request(request)?)?;
                rest.before_pre_vote(peer).await;
                let answer = raft.pre_vote(request).await.map_err(|_| stopped)?;
                Ok(wire::encode_vote_response(&answer))
            }
            CallKind::TransferLeader if self.hosted(group)?.witness.is_some() => Err(Refusal::Witness),
            CallKind::TransferLeader => {
                let request = wire::decode_transfer_request(request)?;
                rest.wake();
                let answer = raft.handle_transfer_leader(request).await.map_err(|_| stopped)?;
                Ok(wire::encode_transfer_response(&answer))
            }
            CallKind::Rest => Ok(wire::encode_yes(rest.follow(peer, &wire::decode_wish(request)?))),
            CallKind::Rouse => Ok(wire::encode_yes(rest.show(&wire::decode_rouse(request)?).await)),
        }
    }

    /// A directory on the group's file system into which the transport writes a snapshot it receives.
    ///
    /// # Errors
    /// [`Refusal::NotRunning`].
    pub fn snapshot_spool(&self, group: GroupId) -> Result<PathBuf, Refusal> {
        Ok(self.hosted(group)?.snapshots.spool().to_owned())
    }

    /// Takes a received snapshot: `file` lies in [`Inbound::snapshot_spool`] and now belongs to the group. Verified, synced
    /// and kept as this node's own snapshot before anything is replaced.
    ///
    /// # Errors
    /// [`Refusal`]; the leader tries again.
    pub async fn handle_snapshot(&self, group: GroupId, head: Bytes, file: PathBuf) -> Result<Bytes, Refusal> {
        let hosted = self.hosted(group)?;
        let (vote, meta) = wire::decode_snapshot_head(head)?;
        let snapshot = SnapshotFile::received(file, meta.clone());
        let dir = hosted.snapshots.clone();
        let checked = snapshot.clone();
        let verified = tokio::task::spawn_blocking(move || dir.verify(&checked)).await;
        verified.map_err(|e| Refusal::Snapshot(e.to_string()))?.map_err(|e| Refusal::Snapshot(e.to_string()))?;
        let snapshot = openraft::Snapshot { meta, snapshot };
        let answer = hosted.raft.install_full_snapshot(vote, snapshot).await.map_err(|_| Refusal::NotRunning(group))?;
        hosted.rest.wake();
        Ok(wire::encode_snapshot_response(&answer))
    }

    /// Registers a peer's append connection. Drop it when it breaks.
    pub fn connection(self: &Arc<Self>, peer: NodeId) -> Connection {
        Connection { inbound: self.clone(), peer, lanes: Mutex::new(HashMap::new()) }
    }
}

/// A candidate asks for itself alone.
fn candidates_own(peer: NodeId, request: VoteRequest<TypeConfig>) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let own = request.vote.leader_id.voted_for == peer.0;
    if own { Ok(request) } else { Err(CodecError { what: "vote", why: "asked for another node" }) }
}

/// Takes the answer to one append frame. Dropped uncalled when the connection or the node goes first.
pub type Answer = Box<dyn FnOnce(Bytes) + Send>;

/// A frame that waits in its lane.
struct Queued {
    seq: u64,
    request: AppendEntriesRequest<TypeConfig>,
    answer: Answer,
}

/// A peer's append connection: frames of each group and kind are taken in the order of the calls, groups do not wait for each
/// other, nor do a group's heartbeats for its entries.
pub struct Connection {
    inbound: Arc<Inbound>,
    peer: NodeId,
    lanes: Mutex<HashMap<(GroupId, usize), mpsc::Sender<Queued>>>,
}

impl Connection {
    /// Takes one frame and returns at once; `answer` is called later, from another task, in order per group and kind.
    ///
    /// # Errors
    /// When the peer breaks the protocol: the connection must be closed.
    pub fn append(&self, group: GroupId, frame: Bytes, answer: Answer) -> Result<(), Refusal> {
        let (head, reader) = Head::decode("append", frame)?;
        let request = wire::decode_append(reader)?;
        if request.vote.leader_id.voted_for != self.peer.0 || !request.vote.committed {
            return Err(Refusal::Garbled(CodecError { what: "append", why: "not sent by a leader" }));
        }
        match self.inbound.hosted(group) {
            Ok(hosted) => hosted.witness.iter().for_each(|witness| witness.hear(&request)),
            Err(refusal) => {
                answer(wire::encode_append_answer(head, &AppendAnswer::Refused(refusal.to_string())));
                return Ok(());
            }
        }
        let mut lanes = lock(&self.lanes);
        let lane = lanes.entry((group, head.lane.index())).or_insert_with(|| self.start_lane(group, head.lane));
        lane.try_send(Queued { seq: head.seq, request, answer }).map_err(|_| Refusal::Flooded)
    }

    fn start_lane(&self, group: GroupId, lane: Lane) -> mpsc::Sender<Queued> {
        let (sender, requests) = mpsc::channel(WINDOW_MESSAGES);
        let inbound = self.inbound.clone();
        let task = LaneTask { inbound, group, peer: self.peer, lane, requests, gating: None, passed: VecDeque::new(), session: None };
        self.inbound.runtime.spawn(task.run());
        sender
    }
}

type AppendResults = BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>>;

/// Feeds one openraft append stream; replaced after each answer that is no plain success.
struct AppendSession {
    requests: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    results: AppendResults,
}

/// A message on its way through the gate: it comes out, or the reason why not.
type Gating = BoxFuture<'static, Gated>;
type Gated = Result<(AppendEntriesRequest<TypeConfig>, Option<Permit>), String>;

/// Whom an answer goes to.
struct Waiter {
    seq: u64,
    answer: Answer,
    /// A witness lets it run ahead, which is over when this is answered.
    _permit: Option<Permit>,
}

/// Serves one lane of one group on one connection: one message at a time through the gate, up to a window in openraft.
struct LaneTask {
    inbound: Arc<Inbound>,
    group: GroupId,
    peer: NodeId,
    lane: Lane,
    requests: mpsc::Receiver<Queued>,
    gating: Option<(Waiter, Gating)>,
    passed: VecDeque<Waiter>,
    session: Option<AppendSession>,
}

enum LaneEvent {
    Request(Option<Queued>),
    Gated(Gated),
    Result(Option<Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>>),
}

impl LaneTask {
    async fn run(mut self) {
        loop {
            let may_take = self.gating.is_none() && self.passed.len() < WINDOW_MESSAGES;
            let event = tokio::select! {
                biased;
                result = next_result(&mut self.session), if !self.passed.is_empty() => LaneEvent::Result(result),
                gated = next_gated(&mut self.gating), if self.gating.is_some() => LaneEvent::Gated(gated),
                request = self.requests.recv(), if may_take => LaneEvent::Request(request),
            };
            match event {
                // openraft goes on with what it has: what was let pass is under way until it has answered.
                LaneEvent::Request(None) => {
                    while !self.passed.is_empty() {
                        let result = next_result(&mut self.session).await;
                        self.result(result);
                    }
                    return;
                }
                LaneEvent::Request(Some(Queued { seq, request, answer })) => self.take(Waiter { seq, answer, _permit: None }, request),
                LaneEvent::Gated(gated) => {
                    if let Some((waiter, _)) = self.gating.take() {
                        self.gated(waiter, gated);
                    }
                }
                LaneEvent::Result(result) => self.result(result),
            }
        }
    }

    fn take(&mut self, waiter: Waiter, request: AppendEntriesRequest<TypeConfig>) {
        let Ok(hosted) = self.inbound.hosted(self.group) else {
            return self.refuse(waiter, &Refusal::NotRunning(self.group).to_string());
        };
        if hosted.witness.is_some() {
            self.gating = Some((waiter, pass_witness(hosted, self.peer, request).boxed()));
            return;
        }
        match gate_request(&request, self.peer) {
            None => self.append(waiter, request),
            Some(needed) => self.gating = Some((waiter, pass_gate(hosted, request, needed).boxed())),
        }
    }

    fn gated(&mut self, waiter: Waiter, gated: Gated) {
        match gated {
            Ok((request, permit)) => self.append(Waiter { _permit: permit, ..waiter }, request),
            Err(reason) => {
                self.refuse(waiter, &reason);
                // What is queued behind it builds on it.
                while let Ok(Queued { seq, answer, .. }) = self.requests.try_recv() {
                    self.refuse(Waiter { seq, answer, _permit: None }, &reason);
                }
            }
        }
    }

    fn append(&mut self, waiter: Waiter, request: AppendEntriesRequest<TypeConfig>) {
        let Ok(hosted) = self.inbound.hosted(self.group) else {
            return self.refuse(waiter, &Refusal::NotRunning(self.group).to_string());
        };
        let session = self.session.get_or_insert_with(|| {
            let (requests, input) = mpsc::channel(WINDOW_MESSAGES);
            let input = futures::stream::unfold(input, |mut input| async move { input.recv().await.map(|request| (request, input)) });
            AppendSession { requests, results: hosted.raft.stream_append(input).boxed() }
        });
        // The channel holds a window and `passed` counts less than a window, so it is never full.
        match session.requests.try_send(request) {
            Ok(()) => self.passed.push_back(waiter),
            Err(_) => self.refuse(waiter, "the group is stopping"),
        }
    }

    fn result(&mut self, result: Option<Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>>) {
        let Some(waiter) = self.passed.pop_front() else { return };
        let answer = match result {
            Some(Ok(result)) => AppendAnswer::Raft(result),
            Some(Err(fatal)) => AppendAnswer::Refused(fatal.to_string()),
            None => AppendAnswer::Refused("the group has stopped".into()),
        };
        let over = !matches!(answer, AppendAnswer::Raft(Ok(_)));
        // Only now, when openraft knows that its leader lives: before, it would ask for votes.
        if let AppendAnswer::Raft(Ok(_) | Err(StreamAppendError::Conflict(_))) = &answer
            && let Ok(hosted) = self.inbound.hosted(self.group)
        {
            hosted.rest.wake();
        }
        self.answer(waiter, &answer);
        if over {
            // openraft ends its stream here; the sender gives up what it sent behind this message.
            self.session = None;
            for waiter in std::mem::take(&mut self.passed) {
                self.refuse(waiter, "an earlier message failed");
            }
        }
    }

    fn refuse(&self, waiter: Waiter, reason: &str) {
        self.answer(waiter, &AppendAnswer::Refused(reason.to_owned()));
    }
    fn answer(&self, waiter: Waiter, answer: &AppendAnswer) {
        (waiter.answer)(wire::encode_append_answer(Head { lane: self.lane, seq: waiter.seq }, answer));
    }
}

async fn next_result(session: &mut Option<AppendSession>) -> Option<Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>> {
    match session {
        Some(session) => session.results.next().await,
        None => None,
    }
}

async fn next_gated(gating: &mut Option<(Waiter, Gating)>) -> Gated {
    match gating {
        Some((_, gate)) => gate.await,
        None => std::future::pending().await,
    }
}

/// The bodies that a message names, split at the leader's commit index (rule 21).
fn gate_request(request: &AppendEntriesRequest<TypeConfig>, source: NodeId) -> Option<GateRequest> {
    let committed = request.leader_commit.as_ref().map(crate::types::LogId::index);
    let mut needed = GateRequest { source, ..GateRequest::default() };
    for entry in &request.entries {
        if let EntryPayload::Normal(command) = &entry.payload {
            let index = entry.log_id.index();
            let side = if Some(index) <= committed { &mut needed.lenient } else { &mut needed.strict };
            side.extend(command.bodies().map(|body| (index, body)));
        }
    }
    (!needed.strict.is_empty() || !needed.lenient.is_empty()).then_some(needed)
}

/// Waits for the bodies. A vote above the sender's ends the wait: openraft then refuses the message, whatever it holds.
async fn pass_gate(hosted: Arc<Hosted>, request: AppendEntriesRequest<TypeConfig>, needed: GateRequest) -> Gated {
    tokio::select! {
        outcome = hosted.gate.gate(hosted.group, needed) => match outcome {
            GateOutcome::Open => Ok((request, None)),
            GateOutcome::Closed(reason) => Err(reason),
        },
        () = superseded(&hosted.raft, request.vote) => Ok((request, None)),
    }
}

/// A witness waits likewise, for other things.
async fn pass_witness(hosted: Arc<Hosted>, source: NodeId, request: AppendEntriesRequest<TypeConfig>) -> Gated {
    let Some(witnessing) = &hosted.witness else { return Err("this node is no witness".into()) };
    let AppendEntriesRequest { vote, prev_log_id, leader_commit, .. } = request;
    let moot = AppendEntriesRequest { vote, prev_log_id, leader_commit, entries: Vec::new() };
    tokio::select! {
        outcome = witness::pass(&hosted, witnessing, source, request) => outcome,
        // openraft refuses it for its vote; what it carried does not matter.
        () = superseded(&hosted.raft, vote) => Ok((moot, None)),
    }
}

/// Returns when this replica has accepted a vote that beats `vote`.
async fn superseded(raft: &Raft, vote: Vote) {
    let mut metrics = raft.server_metrics();
    loop {
        let beaten =
            !matches!(vote.partial_cmp(&metrics.borrow_watched().vote), Some(std::cmp::Ordering::Greater | std::cmp::Ordering::Equal));
        if beaten {
            return;
        }
        if metrics.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
