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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Moves that copy at once on one controller; others wait for their turn. One that is past its freeze never waits.
const AT_ONCE: usize = 4;
/// Moves that a look begins to drive: each asks once how far it is before it waits.
const NEW_AT_ONCE: usize = 64;
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
/// How long a move may fail to get on before its freeze until it is given up, ms: longer than nodes take to restart.
const STILL_MS: u64 = 600_000;
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
pub(crate) struct Drivers {
    tasks: HashMap<MoveId, tokio::task::JoinHandle<()>>,
    /// Nobody closes it.
    turns: Arc<Semaphore>,
}

impl Default for Drivers {
    fn default() -> Self {
        Self { tasks: HashMap::new(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Drivers {
    /// Has every move driven that is under way, the oldest first.
    pub(crate) fn look(&mut self, running: &Arc<Running>) -> Result<(), String> {
        self.tasks.retain(|_, task| !task.is_finished());
        let mut open = open_moves(running.local.cluster_tables()).map_err(|fault| fault.to_string())?;
        open.sort_by_key(|row| row.id);
        let new = open.into_iter().filter(|row| !self.tasks.contains_key(&row.id)).take(NEW_AT_ONCE);
        for row in new.collect::<Vec<_>>() {
            let (running, turns) = (running.clone(), self.turns.clone());
            self.tasks.insert(row.id, tokio::spawn(async move { drive(&running, row.account, row.id, turns).await }));
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
    /// An activation was proposed.
    activated: bool,
    pace: Pace,
    /// Held while it copies before the freeze.
    turn: Option<OwnedSemaphorePermit>,
}

/// Whether a move gets on before its freeze.
struct Pace {
    /// When both groups last answered, ms.
    answered: u64,
    /// When it last got on, ms.
    got_on: u64,
    /// The fewest records that a round left over since one left none.
    least: Option<u64>,
}

impl Pace {
    fn new(now: u64) -> Self {
        Self { answered: now, got_on: now, least: None }
    }
    /// A round of copying left so many records over.
    fn left(&mut self, left: u64, now: u64) {
        if left == 0 || self.least.is_none_or(|least| left < least) {
            self.got_on = now;
            self.least = Some(left).filter(|left| *left > 0);
        }
    }
    /// It had to wait for others.
    fn waited(&mut self, ms: u64) {
        self.answered += ms;
        self.got_on += ms;
    }
    fn is_over(&self, now: u64) -> bool {
        now > self.answered + SILENT_MS || now > self.got_on + STILL_MS
    }
}

async fn drive(running: &Arc<Running>, account: AccountId, move_id: MoveId, turns: Arc<Semaphore>) {
    let pace = Pace::new(boot_ms());
    let mut memory = Memory { ready: false, rounds: 0, frozen_since: None, froze_at: None, activated: false, pace, turn: None };
    while !running.is_draining() && running.local.leader(GroupId::CLUSTER) == Some(running.local.me) {
        if running.local.read_barrier(GroupId::CLUSTER).await.is_err() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let Ok(Some(row)) = last_move(running.local.cluster_tables(), account) else { return };
        if row.id != move_id || !row.is_open() {
            return;
        }
        let done = go_on(running, &row, &mut memory, &turns).await;
        let frozen = memory.frozen_since.is_some();
        if !frozen && row.stage == MoveStage::Wanted && memory.pace.is_over(boot_ms()) {
            stop(running, &row, done.as_ref().err().map_or("it does not get on", String::as_str)).await;
        }
        if let Err(why) = done {
            tracing::debug!(%account, %move_id, why, "a move waits");
            if !frozen {
                // Others may get on, and what changes until it is tried again is copied first.
                (memory.turn, memory.ready) = (None, false);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn go_on(running: &Arc<Running>, row: &MoveRecord, memory: &mut Memory, turns: &Arc<Semaphore>) -> Result<(), String> {
    let (source, target) = tokio::join!(whereabouts(running, row.from, row.account), whereabouts(running, row.to, row.account));
    let (source, target) = (source?, target?);
    memory.pace.answered = boot_ms();
    let frozen = matches!(source.presence, Presence::Here { last, frozen_for: Some(_) } if last == row.id);
    memory.frozen_since = if frozen { memory.frozen_since.or(Some(boot_ms())) } else { None };
    if frozen {
        (memory.turn, memory.pace.got_on) = (None, boot_ms());
    }
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
        MoveNext::Copy if !frozen && memory.turn.is_none() => {
            let began = boot_ms();
            memory.turn = turns.clone().acquire_owned().await.ok();
            memory.pace.waited(boot_ms() - began);
            // Much may have changed meanwhile: it is looked again.
            Ok(())
        }
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
    // An activation whose target is still undecided was refused.
    if memory.activated {
        tokio::time::sleep(PAUSE).await;
    }
    let node = leader_of(running, row.to, target)?;
    let question = Question::CopyUser { account: row.account.0, move_id: row.id.0, from: row.from.0, to: row.to.0, within_ms: COPY_MS };
    let copied: Copied = match ask_within(running, node, &question, COPY_TIMEOUT).await? {
        Reply::Copied { differed, left, activated } => Copied { differed, left, activated },
        Reply::Order(Err(why)) => return Err(why),
        other => return Err(format!("an unexpected answer: {other:?}")),
    };
    memory.activated |= copied.activated;
    memory.pace.left(copied.left, boot_ms());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_does_not_get_on_is_over_and_one_that_does_is_not() {
        let mut pace = Pace::new(0);
        for (minute, left) in [(5, 900), (10, 800), (15, 700)] {
            pace.answered = minute * 60_000;
            pace.left(left, minute * 60_000);
            assert!(!pace.is_over(minute * 60_000), "it copies, though a round does not suffice");
        }
        for minute in 16..=25 {
            pace.answered = minute * 60_000;
            pace.left(700, minute * 60_000);
            assert!(!pace.is_over(minute * 60_000));
        }
        assert!(pace.is_over(25 * 60_000 + 1), "what is left over does not get less");
        pace.waited(1_000);
        assert!(!pace.is_over(25 * 60_000 + 1_000), "waiting for others counts for nothing");
        pace.left(0, 26 * 60_000);
        assert!(!pace.is_over(26 * 60_000));
        assert!(pace.is_over(pace.answered + SILENT_MS + 1), "a group that is silent");
    }
}
