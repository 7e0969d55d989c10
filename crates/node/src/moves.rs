//! Drives the moves of users between groups, on the leader of group 0. What a move needs next is found out from its two groups each
//! time ([`next_step`]), so that a controller that comes after one that died goes on where that one was; two at once do no harm.

use crate::ask::{Question, Reply, ask, ask_within};
use crate::running::Running;
use parliament_cluster_state::{Command, MoveRecord, MoveStage, Refused, last_move, open_moves};
use parliament_ids::{AccountId, GroupId, MoveId, NodeId};
use parliament_mail_service::{Copied, boot_ms};
use parliament_mailbox_state::view::Presence;
use parliament_mailbox_state::{MoveFacts, MoveNext, next_step};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Moves under way at once on one controller.
const AT_ONCE: usize = 4;
/// Pause after something did not work.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause between two rounds of copying before the freeze.
const ROUND_PAUSE: Duration = Duration::from_millis(10);
/// A round that found no more than so many records changed is followed by the freeze: they are few entries.
const READY_RECORDS: u64 = 128;
/// Rounds after which a user who changes all the time is frozen all the same, if no more than this differed.
const ROUNDS: u32 = 10;
const ROUNDS_RECORDS: u64 = 2_000;
/// Rounds after which it is given up.
const ROUNDS_MAX: u32 = 500;
/// How long a round of copying may take, and how long its answer is waited for.
const COPY_MS: u64 = 2_000;
const COPY_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a user may stay frozen before the target is asked to refuse, ms: clients only wait meanwhile, and a little longer than a
/// group takes to find a new leader.
const FROZEN_MS: u64 = 4_000;
/// How long a group may not answer before the move is given up, ms, unless the user is frozen.
const SILENT_MS: u64 = 60_000;
/// How long a change of group 0 may take, ms.
const PROPOSE_MS: u64 = 5_000;

/// What a replica tells of a user on the move.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Whereabouts {
    pub(crate) presence: Presence,
    /// The node that holds the user, if it is up.
    pub(crate) holder: Option<u64>,
    pub(crate) leader: Option<u64>,
}

/// The steps that a replica has committed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The records of an account that was never used.
    Make,
    /// At the target.
    Refuse,
    /// At the source.
    Depart,
    /// At the source.
    Thaw,
    /// Either.
    Sweep,
}

/// The drivers of one controller.
#[derive(Default)]
pub(crate) struct Drivers(HashMap<MoveId, tokio::task::JoinHandle<()>>);

impl Drivers {
    /// Has every move driven that is under way, the oldest first.
    pub(crate) fn look(&mut self, running: &Arc<Running>) -> Result<(), String> {
        self.0.retain(|_, task| !task.is_finished());
        let mut open = open_moves(running.local.cluster_tables()).map_err(|fault| fault.to_string())?;
        open.sort_by_key(|row| row.id);
        for row in open.into_iter().take(AT_ONCE) {
            let running = running.clone();
            self.0.entry(row.id).or_insert_with(|| tokio::spawn(async move { drive(&running, row.account, row.id).await }));
        }
        Ok(())
    }
}

/// What a driver remembers. Another one that knows nothing of it only copies once more, or waits a little longer.
struct Memory {
    ready: bool,
    rounds: u32,
    frozen_since: Option<u64>,
    /// When the freeze was ordered.
    froze_at: Option<u64>,
    answered: u64,
}

async fn drive(running: &Arc<Running>, account: AccountId, move_id: MoveId) {
    let mut memory = Memory { ready: false, rounds: 0, frozen_since: None, froze_at: None, answered: boot_ms() };
    while !running.is_draining() && running.local.leader(GroupId::CLUSTER) == Some(running.local.me) {
        if running.local.read_barrier(GroupId::CLUSTER).await.is_err() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let Ok(Some(row)) = last_move(running.local.cluster_tables(), account) else { return };
        if row.id != move_id || !row.is_open() {
            return;
        }
        if let Err(why) = go_on(running, &row, &mut memory).await {
            tracing::debug!(%account, %move_id, why, "a move waits");
            let frozen = memory.frozen_since.is_some();
            if !frozen && boot_ms() > memory.answered + SILENT_MS {
                stop(running, &row, &why).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn go_on(running: &Arc<Running>, row: &MoveRecord, memory: &mut Memory) -> Result<(), String> {
    let (source, target) = tokio::join!(whereabouts(running, row.from, row.account), whereabouts(running, row.to, row.account));
    let (source, target) = (source?, target?);
    memory.answered = boot_ms();
    let frozen = matches!(source.presence, Presence::Here { last, frozen_for: Some(_) } if last == row.id);
    memory.frozen_since = if frozen { memory.frozen_since.or(Some(boot_ms())) } else { None };
    let facts = MoveFacts {
        move_id: row.id,
        source: source.presence,
        target: target.presence,
        arrived: row.stage == MoveStage::Arrived,
        stopping: matches!(row.stage, MoveStage::Stopping(_)),
        ready: memory.ready,
    };
    let next = next_step(&facts);
    tracing::debug!(account = %row.account, move_id = %row.id, ?next, ?facts, "a move");
    let at_source = |order| order_at(running, row, row.from, &source, order);
    let at_target = |order| order_at(running, row, row.to, &target, order);
    match next {
        MoveNext::Make => at_source(Order::Make).await,
        MoveNext::Copy => copy(running, row, &target, memory).await,
        MoveNext::Freeze => {
            memory.froze_at.get_or_insert_with(boot_ms);
            freeze(running, row, &source).await
        }
        MoveNext::Refuse => at_target(Order::Refuse).await,
        MoveNext::Thaw => at_source(Order::Thaw).await,
        MoveNext::Depart => {
            at_source(Order::Depart).await?;
            let paused_ms = memory.froze_at.map(|at| boot_ms() - at);
            tracing::info!(account = %row.account, from = %row.from, to = %row.to, rounds = memory.rounds, paused_ms, "a user has moved");
            Ok(())
        }
        MoveNext::Arrive => tell(running, Command::MoveArrived { account: row.account, move_id: row.id }).await,
        MoveNext::SweepSource => at_source(Order::Sweep).await,
        MoveNext::SweepTarget => at_target(Order::Sweep).await,
        MoveNext::End => {
            tracing::info!(account = %row.account, from = %row.from, to = %row.to, stage = ?row.stage, "a move is over");
            tell(running, Command::EndMove { account: row.account, move_id: row.id }).await
        }
        MoveNext::Stuck => Err(format!("the groups tell of no state of this move: {facts:?}")),
    }
}

/// The group's voters, those that will hardly answer last.
fn voters(running: &Running, group: GroupId) -> Vec<NodeId> {
    let mut voters = running.document().voters(group);
    let leader = running.local.leader(group);
    voters.sort_by_key(|node| (running.silent_ms(*node) > 0, Some(*node) != leader, *node != running.local.me));
    voters
}

/// What a group has of a user, from a replica that has seen all that was committed before.
pub(crate) async fn whereabouts(running: &Arc<Running>, group: GroupId, account: AccountId) -> Result<Whereabouts, String> {
    let mut why = format!("no node with a copy of group {group} answers");
    for node in voters(running, group) {
        match ask(running, node, &Question::Whereabouts { group: group.0, account: account.0 }).await {
            Ok(Reply::Whereabouts(told)) => return Ok(told),
            Ok(Reply::Order(Err(reason))) | Err(reason) => why = reason,
            Ok(other) => why = format!("an unexpected answer: {other:?}"),
        }
    }
    Err(why)
}

async fn order_at(running: &Arc<Running>, row: &MoveRecord, group: GroupId, told: &Whereabouts, order: Order) -> Result<(), String> {
    let question = Question::TakeMoveStep { group: group.0, account: row.account.0, move_id: row.id.0, from: row.from.0, order };
    ordered(ask(running, leader_of(running, group, told)?, &question).await)
}

/// The group's leader, for its entries take one hop less there; else any node that has a copy.
fn leader_of(running: &Running, group: GroupId, told: &Whereabouts) -> Result<NodeId, String> {
    let leader = told.leader.map(NodeId).filter(|node| running.silent_ms(*node) == 0);
    leader.or_else(|| voters(running, group).first().copied()).ok_or_else(|| format!("group {group} has no nodes"))
}

fn ordered(answer: Result<Reply, String>) -> Result<(), String> {
    match answer? {
        Reply::Order(done) => done,
        other => Err(format!("an unexpected answer: {other:?}")),
    }
}

async fn freeze(running: &Arc<Running>, row: &MoveRecord, source: &Whereabouts) -> Result<(), String> {
    let node = match source.holder {
        Some(holder) => NodeId(holder),
        None => leader_of(running, row.from, source)?,
    };
    let question = Question::Freeze { account: row.account.0, move_id: row.id.0, from: row.from.0, to: row.to.0 };
    ordered(ask(running, node, &question).await)
}

async fn copy(running: &Arc<Running>, row: &MoveRecord, target: &Whereabouts, memory: &mut Memory) -> Result<(), String> {
    if let Some(since) = memory.frozen_since
        && boot_ms() > since + FROZEN_MS
    {
        stop(running, row, "the target did not get all of it in time").await;
        return Ok(());
    }
    let node = leader_of(running, row.to, target)?;
    let question = Question::CopyUser { account: row.account.0, move_id: row.id.0, from: row.from.0, to: row.to.0, within_ms: COPY_MS };
    let copied: Copied = match ask_within(running, node, &question, COPY_TIMEOUT).await? {
        Reply::Copied { differed, left, activated } => Copied { differed, left, activated },
        Reply::Order(Err(why)) => return Err(why),
        other => return Err(format!("an unexpected answer: {other:?}")),
    };
    if memory.frozen_since.is_some() || copied.left > 0 {
        return Ok(());
    }
    memory.rounds += 1;
    memory.ready = copied.differed <= READY_RECORDS || (memory.rounds >= ROUNDS && copied.differed <= ROUNDS_RECORDS);
    if memory.rounds > ROUNDS_MAX {
        stop(running, row, "it changes faster than it is copied").await;
    } else if !memory.ready {
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    Ok(())
}

async fn stop(running: &Running, row: &MoveRecord, why: &str) {
    let mut why = why.to_owned();
    let mut end = why.len().min(parliament_cluster_state::WHY_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.truncate(end);
    tracing::warn!(account = %row.account, from = %row.from, to = %row.to, why, "a move is given up");
    if let Err(error) = tell(running, Command::StopMove { account: row.account, move_id: row.id, why }).await {
        tracing::debug!(error, "not given up yet");
    }
}

async fn tell(running: &Running, command: Command) -> Result<(), String> {
    match running.local.propose_cluster(&command, boot_ms() + PROPOSE_MS).await {
        // Decided meanwhile: the next look shows how.
        Ok(Ok(_) | Err(Refused::NoSuchMove)) => Ok(()),
        Ok(Err(refused)) => Err(format!("{refused:?}")),
        Err(unserved) => Err(format!("{unserved:?}")),
    }
}
