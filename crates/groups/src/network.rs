//! openraft's network traits over [`PeerLink`](crate::link::PeerLink).

use crate::link::{CallKind, LinkError, Peers};
use crate::log_store::LogStore;
use crate::mux::{Answers, Mux, OpenStream};
use crate::rest::Resting;
use crate::snapshots::SnapshotFile;
use crate::types::{NodeInfo, SnapshotMeta, TypeConfig, Vote};
use crate::wire::{self, AppendAnswer, Head, Lane};
use crate::{WINDOW_BYTES, WINDOW_MESSAGES, lock};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes};
use parliament_ids::{GroupId, NodeId};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

type RpcError = RPCError<TypeConfig>;

/// A replication stream without any answer for this long is given up. It exceeds the time a follower's gate may wait.
const STALL: Duration = Duration::from_secs(8);

/// Heartbeats of all groups leave at common moments this far apart: those to one peer then travel in one write, and so do their answers.
const HEARTBEAT_GRID: Duration = Duration::from_millis(25);

/// The next moment, from `now` on, that is common to all groups of this process.
pub(crate) fn next_on_grid(now: Instant, grid: Duration) -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let since = now.saturating_duration_since(*ORIGIN.get_or_init(|| now)).as_micros();
    let grid = grid.as_micros().max(1);
    let wait = (grid - since % grid) % grid;
    now + Duration::from_micros(u64::try_from(wait).unwrap_or(0))
}

/// Makes clients for the peers of one group.
pub(crate) struct Network {
    group: GroupId,
    node: u64,
    peers: Arc<dyn Peers>,
    muxes: Mutex<HashMap<u64, (NodeInfo, Arc<Mux>)>>,
    next_seq: Arc<AtomicU64>,
    log: LogStore,
    rest: Arc<Resting>,
}

impl Network {
    pub(crate) fn new(
        group: GroupId,
        node: u64,
        peers: Arc<dyn Peers>,
        next_seq: Arc<AtomicU64>,
        log: LogStore,
        rest: Arc<Resting>,
    ) -> Self {
        Self { group, node, peers, muxes: Mutex::new(HashMap::new()), next_seq, log, rest }
    }

    fn client(&self, target: u64, info: &NodeInfo, lane: Lane) -> Client {
        let mut muxes = lock(&self.muxes);
        let mux = match muxes.get(&target) {
            Some((known, mux)) if known == info => mux.clone(),
            _ => {
                let mux = Arc::new(Mux::new(self.group, self.peers.link(NodeId(target), info), self.next_seq.clone()));
                muxes.insert(target, (info.clone(), mux.clone()));
                mux
            }
        };
        let log = info.witness.then(|| self.log.clone());
        Client { group: self.group, node: self.node, target, mux, lane, log, rest: self.rest.clone(), since: Instant::now() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Client {
        self.client(target, node, Lane::Replication)
    }
    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeInfo) -> Client {
        self.client(target, node, Lane::Heartbeat)
    }
}

/// Speaks for one group to one peer, for one purpose.
pub(crate) struct Client {
    group: GroupId,
    node: u64,
    target: u64,
    mux: Arc<Mux>,
    lane: Lane,
    /// To a witness goes only what is durable here: its log must not be ahead of that of the one node that has the bodies, should that
    /// one lose power, for it does not stand for election.
    log: Option<LogStore>,
    rest: Arc<Resting>,
    since: Instant,
}

impl Client {
    async fn call(&self, kind: CallKind, rpc: RPCTypes, request: Bytes, option: &RPCOption) -> Result<Bytes, RpcError> {
        let timeout = option.hard_ttl();
        match tokio::time::timeout(timeout, self.mux.link.call(self.group, kind, request)).await {
            Ok(answer) => answer.map_err(|e| unreachable(&e)),
            Err(_) => Err(self.timed_out(rpc, timeout)),
        }
    }
    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> RpcError {
        RPCError::Timeout(Timeout { action, id: self.node, target: self.target, timeout })
    }
}

/// All link failures wait for the back-off before the next try.
fn unreachable(error: &LinkError) -> RpcError {
    RPCError::Unreachable(Unreachable::new(error))
}

fn garbled(error: &crate::CodecError) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}

impl NetBackoff<TypeConfig> for Client {
    fn backoff(&self) -> Option<Backoff> {
        let delays = [20, 50, 100, 200].into_iter().chain(std::iter::repeat(300));
        Some(Backoff::new(delays.map(Duration::from_millis)))
    }
}

impl NetVote<TypeConfig> for Client {
    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let answer = self.call(CallKind::Vote, RPCTypes::Vote, wire::encode_vote_request(&rpc), &option).await?;
        wire::decode_vote_response(answer).map_err(|e| garbled(&e))
    }
    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let answer = self.call(CallKind::PreVote, RPCTypes::Vote, wire::encode_vote_request(&rpc), &option).await?;
        wire::decode_vote_response(answer).map_err(|e| garbled(&e))
    }
}

impl NetTransferLeader<TypeConfig> for Client {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let answer = self.call(CallKind::TransferLeader, RPCTypes::TransferLeader, wire::encode_transfer_request(&req), &option).await?;
        wire::decode_transfer_response(answer).map_err(|e| garbled(&e))
    }
}

impl NetSnapshot<TypeConfig> for Client {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let meta: &SnapshotMeta = &snapshot.meta;
        let head = wire::encode_snapshot_head(&vote, meta);
        let sending = self.mux.link.send_snapshot(self.group, head, snapshot.snapshot.path().to_owned());
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = sending => {
                let answer = answer.map_err(|e| StreamingError::Unreachable(Unreachable::new(&e)))?;
                wire::decode_snapshot_response(answer).map_err(|e| StreamingError::Network(NetworkError::new(&e)))
            }
        }
    }
}

impl NetStreamAppend<TypeConfig> for Client {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.lane == Lane::Heartbeat && !self.rest.may_beat(self.since) {
                return Err(unreachable(&LinkError::Unreachable("a leader without a quorum is silent for a while".into())));
            }
            let stream = self.mux.stream(self.lane).map_err(|e| unreachable(&e))?;
            let answers = stream.claim(self.lane);
            let session = Session {
                client: &*self,
                stream,
                answers,
                input: Some(input),
                place: None,
                unanswered: VecDeque::new(),
                bytes: 0,
                heard: Instant::now(),
                over: false,
            };
            let results = futures::stream::unfold(session, |mut session| async move { session.next().await.map(|item| (item, session)) });
            let results: BoxStream<'s, _> = Box::pin(results);
            Ok(results)
        })
    }
}

/// One run of openraft's request stream: sends while the window has room, yields answers in order, ends with the first
/// answer that is no plain success.
struct Session<'s, S> {
    client: &'s Client,
    stream: Arc<OpenStream>,
    answers: Answers,
    /// `None` once it has ended.
    input: Option<S>,
    /// A place in the window for the next message.
    place: Option<OwnedSemaphorePermit>,
    /// Number and size of each message without answer.
    unanswered: VecDeque<(u64, usize)>,
    bytes: usize,
    heard: Instant,
    over: bool,
}

impl<S> Session<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        while !self.over {
            let room = self.unanswered.len() < WINDOW_MESSAGES && self.bytes < WINDOW_BYTES;
            let waiting = !self.unanswered.is_empty();
            if self.input.is_none() && !waiting {
                return None;
            }
            let window = self.stream.window(self.client.lane);
            let lacks_place = self.place.is_none();
            tokio::select! {
                biased;
                answer = self.answers.recv() => return Some(self.answered(answer)),
                () = tokio::time::sleep_until(self.heard + STALL), if waiting => {
                    self.stream.close();
                    self.over = true;
                    return Some(Err(self.client.timed_out(RPCTypes::AppendEntries, STALL)));
                }
                place = window.acquire_owned(), if room && lacks_place && self.input.is_some() => self.place = place.ok(),
                request = next_request(&mut self.input), if room && !lacks_place && self.input.is_some() => match request {
                    None => self.input = None,
                    Some(request) => {
                        if let Err(error) = self.send(&request).await {
                            self.over = true;
                            return Some(Err(unreachable(&error)));
                        }
                    }
                },
            }
        }
        None
    }

    async fn send(&mut self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), LinkError> {
        // One that has just woken has somebody who waits for it.
        if self.client.lane == Lane::Heartbeat && !self.client.rest.is_stale() {
            tokio::time::sleep_until(next_on_grid(Instant::now(), HEARTBEAT_GRID)).await;
        }
        if let (Some(log), Some(last)) = (&self.client.log, request.entries.last())
            && tokio::time::timeout(STALL, log.wait_durable(last.log_id)).await.is_err()
        {
            return Err(LinkError::Unreachable("the own disk is too slow".into()));
        }
        let head = Head { lane: self.client.lane, seq: self.stream.next_seq() };
        let frame = wire::encode_append(head, request);
        let size = frame.len();
        if let Some(place) = self.place.take() {
            place.forget();
        }
        if self.unanswered.is_empty() {
            self.heard = Instant::now();
        }
        self.unanswered.push_back((head.seq, size));
        self.bytes += size;
        match tokio::time::timeout(STALL, self.stream.send(frame)).await {
            Ok(sent) => sent,
            Err(_) => {
                self.stream.close();
                Err(LinkError::Unreachable("the connection takes no more frames".into()))
            }
        }
    }

    fn answered(&mut self, answer: Option<(u64, AppendAnswer)>) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let Some((seq, answer)) = answer else {
            self.over = true;
            return Err(unreachable(&LinkError::Unreachable("append stream broke".into())));
        };
        self.heard = Instant::now();
        match self.unanswered.pop_front() {
            Some((expected, size)) if expected == seq => self.bytes -= size,
            _ => {
                self.stream.close();
                self.over = true;
                return Err(unreachable(&LinkError::Unreachable("answers out of order".into())));
            }
        }
        match answer {
            AppendAnswer::Raft(result) => {
                self.over = result.is_err();
                Ok(result)
            }
            AppendAnswer::Refused(reason) => {
                self.over = true;
                Err(unreachable(&LinkError::Refused(reason)))
            }
        }
    }
}

async fn next_request<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin>(
    input: &mut Option<S>,
) -> Option<AppendEntriesRequest<TypeConfig>> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_leave_at_common_moments() {
        let now = Instant::now();
        let next_on_grid = |now| next_on_grid(now, HEARTBEAT_GRID);
        let first = next_on_grid(now);
        for late in [1, 3, 24, 25, 26, 60] {
            let later = now + Duration::from_millis(late);
            let second = next_on_grid(later);
            assert!(second >= later && second - later <= HEARTBEAT_GRID);
            assert_eq!((second - first).as_micros() % HEARTBEAT_GRID.as_micros(), 0);
            assert_eq!(next_on_grid(second), second, "a moment that is common already");
        }
    }
}
