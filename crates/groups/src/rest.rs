//! A replica's rest in motion: [`crate::pace`] decides, this stops and starts openraft's clock and speaks with the other members.

use crate::inbound::Raft;
use crate::link::{CallKind, LinkError, Peers};
use crate::lock;
use crate::network::next_on_grid;
use crate::pace::{Pace, Rest, Word, may_beat, may_rest, turn};
use crate::types::{LogId, NodeInfo, TypeConfig, Vote};
use crate::wire;
use crate::{NodeConfig, Timing};
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy, ServerState};
use parliament_ids::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// How long members are waited for that are asked to rest.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// A replica that rests behind a leader elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Its group.
    pub group: GroupId,
    /// The leader.
    pub leader: NodeId,
    /// The term in which it leads.
    pub term: u64,
    /// How long it has rested.
    pub since: Duration,
}

/// What a leader wants its members to agree with before they rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) vote: Vote,
    /// The last entry: in every log, committed and applied.
    pub(crate) last: LogId,
}

/// The rest of one replica.
pub(crate) struct Resting {
    group: GroupId,
    me: NodeId,
    peers: Arc<dyn Peers>,
    timing: Timing,
    after: Duration,
    raft: OnceLock<Raft>,
    pace: Mutex<Pace>,
    /// Whether it rests, for those who wait for its end.
    resting: watch::Sender<bool>,
}

/// A leader whose log is at rest, and all its members.
struct Calm {
    wish: Wish,
    voters: BTreeSet<NodeId>,
    members: BTreeMap<NodeId, NodeInfo>,
}

impl Resting {
    pub(crate) fn new(group: GroupId, config: &NodeConfig, peers: Arc<dyn Peers>) -> Arc<Self> {
        Arc::new(Self {
            group,
            me: config.node,
            peers,
            timing: config.timing,
            after: Duration::from_millis(config.rest_after),
            raft: OnceLock::new(),
            pace: Mutex::new(Pace::new(Instant::now())),
            resting: watch::Sender::new(false),
        })
    }

    /// Consensus runs from now on.
    pub(crate) fn attach(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    pub(crate) fn is_resting(&self) -> bool {
        *self.resting.borrow()
    }

    /// Called with `pace` locked, so that the clock follows the decisions in their order.
    fn let_tick(&self, ticking: bool) {
        if let Some(raft) = self.raft.get() {
            raft.runtime_config().tick(ticking);
        }
        self.resting.send_replace(!ticking);
    }

    fn change(&self, woken: impl FnOnce(&mut Pace, Instant) -> bool) -> bool {
        let mut pace = lock(&self.pace);
        let woken = woken(&mut pace, Instant::now());
        if woken {
            self.let_tick(true);
        }
        woken
    }

    /// Somebody uses this replica: as a leader it wakes.
    pub(crate) fn used(&self) {
        self.change(Pace::use_it);
    }
    /// A leader's word was taken here, or another thing has happened that a resting replica must not sleep through.
    pub(crate) fn wake(&self) {
        self.change(Pace::wake);
    }

    /// Waits for about `awake`, or in a rest for `resting` or its end. All groups wait for the same moments, so that this thread wakes once for
    /// all of them.
    pub(crate) async fn pause(&self, awake: Duration, resting: Duration) {
        let mut rests = self.resting.subscribe();
        let is_resting = *rests.borrow_and_update();
        let interval = if is_resting { resting } else { awake };
        let until = next_on_grid(Instant::now() + interval / 2, interval);
        if is_resting {
            // The sender lives as long as this.
            let _ = timeout_at(until, rests.wait_for(|rests| !rests)).await;
        } else {
            sleep_until(until).await;
        }
    }

    fn is_in(&self, rest: Rest) -> bool {
        lock(&self.pace).is_in(rest)
    }
    fn wake_from(&self, rest: Rest) -> bool {
        self.change(|pace, now| pace.is_in(rest) && pace.wake(now))
    }

    /// True when the leader has woken and no quorum was heard of since: its lease is over, so it takes no proposals.
    pub(crate) fn is_stale(&self) -> bool {
        lock(&self.pace).is_stale()
    }

    /// Asks a quorum whether this node leads, as a read does.
    pub(crate) async fn confirm(&self, raft: &Raft) -> Result<u64, RaftError<TypeConfig, LinearizableReadError<TypeConfig>>> {
        self.used();
        let read = raft.ensure_linearizable(ReadPolicy::ReadIndex).await?;
        lock(&self.pace).confirmed();
        Ok(read.index())
    }

    /// Whether a heartbeat may leave now. `since` is when this leader began.
    pub(crate) fn may_beat(&self, since: Instant) -> bool {
        let age = self.quorum_age(since.elapsed()).min(lock(&self.pace).awake_for(Instant::now()));
        may_beat(age, self.lease(), 2 * self.lease())
    }

    /// Lets the group rest if this replica leads it and nobody has used it for a while. Looked at now and then; costs little.
    pub(crate) fn consider(self: &Arc<Self>) {
        let unused = lock(&self.pace).is_unused(Instant::now(), self.after);
        if unused && self.calm().is_some() && self.quorum_age(Duration::MAX) < self.lease() {
            tokio::spawn(self.clone().settle());
        }
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.timing.election_max)
    }

    /// How long ago a quorum was heard of; `never` where this leader has heard of none.
    fn quorum_age(&self, never: Duration) -> Duration {
        let Some(raft) = self.raft.get() else { return Duration::ZERO };
        let receiver = raft.metrics();
        let metrics = receiver.borrow_watched();
        if metrics.membership_config.membership().voter_ids().all(|id| id == self.me.0) {
            return Duration::ZERO;
        }
        metrics.last_quorum_acked.map_or(never, |at| at.elapsed())
    }

    fn calm(&self) -> Option<Calm> {
        let receiver = self.raft.get()?.metrics();
        let metrics = receiver.borrow_watched();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_applied?;
        let settled = metrics.state == ServerState::Leader
            && metrics.running_state.is_ok()
            && metrics.last_log_index == Some(last.index())
            && metrics.local_committed.as_ref() == Some(&last)
            && membership.get_joint_config().len() == 1;
        settled.then(|| Calm {
            wish: Wish { vote: metrics.vote, last },
            voters: membership.voter_ids().map(NodeId).collect(),
            members: membership.nodes().map(|(id, info)| (NodeId(*id), info.clone())).collect(),
        })
    }

    async fn settle(self: Arc<Self>) {
        let Some(calm) = self.calm() else { return };
        let rest = {
            let mut pace = lock(&self.pace);
            let Some(rest) = pace.lead_to_rest(Instant::now(), self.after) else { return };
            self.let_tick(false);
            rest
        };
        // Heartbeats that are under way would wake who rests already.
        sleep(Duration::from_millis(self.timing.heartbeat * 3 / 2)).await;
        if !self.is_in(rest) {
            return;
        }
        let words = self.ask(&calm).await;
        let same = self.calm().is_some_and(|now| now.wish == calm.wish);
        if same && may_rest(self.me, &calm.voters, &words) {
            tracing::debug!(group = %self.group, "rests");
        } else if self.wake_from(rest) {
            tracing::debug!(group = %self.group, ?words, "does not rest");
        }
    }

    async fn ask(&self, calm: &Calm) -> BTreeMap<NodeId, Word> {
        let wish = wire::encode_wish(&calm.wish);
        let others = calm.members.iter().filter(|(node, _)| **node != self.me);
        let asked = others.map(|(node, info)| {
            let (link, wish) = (self.peers.link(*node, info), wish.clone());
            async move {
                let word = match timeout(ASKED_WITHIN, link.call(self.group, CallKind::Rest, wish)).await {
                    Ok(Ok(answer)) => {
                        if wire::decode_yes(answer) == Ok(true) {
                            Word::Rests
                        } else {
                            Word::Refuses
                        }
                    }
                    Ok(Err(LinkError::Refused(_))) => Word::Refuses,
                    Ok(Err(LinkError::Unreachable(_))) | Err(_) => Word::Absent,
                };
                (*node, word)
            }
        });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    /// A leader wishes this replica to rest. True when it does: it follows that leader, and has all that the leader has.
    pub(crate) fn follow(&self, leader: NodeId, wish: &Wish) -> bool {
        let Some(raft) = self.raft.get() else { return false };
        let agrees = || {
            let receiver = raft.metrics();
            let metrics = receiver.borrow_watched();
            metrics.vote == wish.vote
                && wish.vote.committed
                && metrics.current_leader == Some(leader.0)
                && matches!(metrics.state, ServerState::Follower | ServerState::Learner)
                && metrics.last_log_index == Some(wish.last.index())
                && metrics.local_committed.as_ref() == Some(&wish.last)
                && metrics.last_applied.as_ref() == Some(&wish.last)
        };
        let mut pace = lock(&self.pace);
        if leader == self.me || !agrees() {
            return false;
        }
        pace.follow_to_rest(leader, wish.vote.leader_id.term, Instant::now());
        self.let_tick(false);
        // What came between the look and this has woken nobody.
        let agrees = agrees();
        if !agrees && pace.wake(Instant::now()) {
            self.let_tick(true);
        }
        agrees
    }

    /// Whom it rests behind.
    pub(crate) fn behind(&self) -> Option<Behind> {
        let (leader, term, since) = lock(&self.pace).behind()?;
        Some(Behind { group: self.group, leader, term, since: since.elapsed() })
    }

    /// The leader it rests behind is gone: when its turn has come, and nobody was faster, it asks for votes.
    pub(crate) fn lose_leader(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        let Some((gone, ..)) = lock(&self.pace).behind() else { return };
        let turn = turn(self.me, gone, &self.electable(), self.group.0, Duration::from_millis(self.timing.heartbeat * 5 / 2));
        // One that never asks for votes sleeps on: awake it would hear of nobody, and give its vote to the first who asks.
        let Some(turn) = turn else { return };
        let Some((_, rest)) = lock(&self.pace).lose_leader() else { return };
        let this = self.clone();
        runtime.spawn(async move {
            sleep(turn).await;
            if this.wake_from(rest)
                && let Some(raft) = this.raft.get()
            {
                tracing::debug!(group = %this.group, leader = %gone, "the leader it rests behind is gone");
                // A group that has stopped elects nobody.
                let _ = raft.trigger().elect(true).await;
            }
        });
    }

    /// The voters that may lead: a witness never asks for votes.
    fn electable(&self) -> BTreeSet<NodeId> {
        let Some(raft) = self.raft.get() else { return BTreeSet::new() };
        let receiver = raft.server_metrics();
        let metrics = receiver.borrow_watched();
        let membership = metrics.membership_config.membership();
        let leads = |id: &u64| !membership.get_node(id).is_some_and(|info| info.witness);
        membership.voter_ids().filter(leads).map(NodeId).collect()
    }

    /// Shows the other members that this node leads, if it does, by a heartbeat.
    pub(crate) async fn show(&self, vote: &Vote) -> bool {
        let Some(raft) = self.raft.get() else { return false };
        let leads = {
            let receiver = raft.server_metrics();
            let metrics = receiver.borrow_watched();
            metrics.state == ServerState::Leader && metrics.vote == *vote
        };
        if leads {
            self.used();
        }
        leads && raft.trigger().heartbeat().await.is_ok()
    }

    /// A member is reachable again: who leads it wakes, for it may lack something (rule 24).
    pub(crate) async fn peer_up(&self, peer: NodeId) {
        let Some(raft) = self.raft.get().filter(|_| self.is_resting()) else { return };
        let vote = {
            let receiver = raft.server_metrics();
            let metrics = receiver.borrow_watched();
            let member = metrics.membership_config.membership().get_node(&peer.0).is_some();
            member.then_some(metrics.vote)
        };
        if let Some(vote) = vote {
            self.show(&vote).await;
        }
    }

    /// A candidate asks for this replica's vote. openraft is asked only after the leader had its chance to be heard: in a rest every lease is
    /// over, so any candidate would win.
    pub(crate) async fn before_pre_vote(&self, candidate: NodeId) {
        let behind = lock(&self.pace).behind();
        if let Some((leader, term, _)) = behind
            && leader != candidate
        {
            self.look_for(leader, term).await;
        }
        self.used();
        if let Some(raft) = self.raft.get().filter(|_| self.is_stale()) {
            // Without a quorum its lease stays over, and openraft lets the candidate have the vote, who waits for `election_min`.
            let _ = timeout(Duration::from_millis(self.timing.election_min * 2 / 3), self.confirm(raft)).await;
        }
        self.wake();
    }

    /// Asks the leader to be heard, and waits until it is or cannot be expected to be any more.
    async fn look_for(&self, leader: NodeId, term: u64) {
        let info = self.raft.get().and_then(|raft| {
            let receiver = raft.server_metrics();
            let metrics = receiver.borrow_watched();
            metrics.membership_config.membership().get_node(&leader.0).cloned()
        });
        let Some(info) = info else { return };
        let mut resting = self.resting.subscribe();
        let looking = async {
            let link = self.peers.link(leader, &info);
            let asked = link.call(self.group, CallKind::Rouse, wire::encode_rouse(&Vote::new_committed(term, leader.0))).await;
            if asked.is_ok_and(|answer: Bytes| wire::decode_yes(answer) == Ok(true)) {
                let _ = resting.wait_for(|resting| !resting).await;
            }
        };
        // The candidate waits for `election_min`.
        let _ = timeout(Duration::from_millis(self.timing.election_min * 5 / 6), looking).await;
    }
}
