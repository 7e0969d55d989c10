//! What can happen next.

use crate::{HOLDERS, LIST, Lease, Node, Outcome, Proposal, Reply, State, Twin, VOTERS, id};
use parliament_ids::limits::SUPPORT_MS;
use parliament_ids::{Boot, NodeId};
use parliament_routing::{Granted, Promises, Withdrawn};
use std::sync::Arc;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// All clocks advance.
    Tick,
    /// A replica asks a voter, and itself, for support; both promise at once, the voter's answer is under way.
    Ask {
        /// Who asks.
        node: usize,
        /// Whom.
        voter: usize,
    },
    /// An answer arrives.
    Hear(Reply),
    /// A replica asks a majority of the voters to withdraw from the owner that its tables name; they do, and it proposes to take the
    /// lease.
    TakeOver {
        /// Who asks.
        node: usize,
        /// Whom.
        voters: [usize; 2],
    },
    /// A holder, by its own tables, proposes an append.
    Submit(usize),
    /// A holder proposes to give the lease to the other replica.
    HandOver(usize),
    /// A proposal reaches the log.
    Commit(Proposal),
    /// A proposal reaches the log and is still under way: it will reach it again.
    Repeat(Proposal),
    /// A replica applies the next entry.
    Apply(usize),
    /// A node restarts.
    Restart(usize),
}

pub(crate) fn possible(model: &Lease, state: &State, actions: &mut Vec<Action>) {
    let bounds = &model.bounds;
    if state.now_ms + bounds.tick_ms <= bounds.until_ms {
        actions.push(Action::Tick);
    }
    actions.extend(state.replies.iter().map(|reply| Action::Hear(*reply)));
    for (node, me) in state.holders() {
        replica(model, state, node, me, actions);
    }
    if state.log.entries.len() < bounds.entries {
        actions.extend(state.proposals.iter().cloned().map(Action::Commit));
        if state.repeats < bounds.repeats {
            actions.extend(state.proposals.iter().cloned().map(Action::Repeat));
        }
    }
    if state.restarts < bounds.restarts {
        actions.extend((0..VOTERS).map(Action::Restart));
    }
}

fn replica(model: &Lease, state: &State, node: usize, me: &Node, actions: &mut Vec<Action>) {
    let view = state.log.at(me.applied);
    if me.applied < state.log.entries.len() {
        actions.push(Action::Apply(node));
    }
    if view.owner.is_some_and(|owner| owner.0 == id(node)) {
        // Others ask as well, but their support says nothing before they own the lease.
        let askable = (0..VOTERS).filter(|voter| *voter != node && me.asked[*voter] < model.bounds.asks);
        actions.extend(askable.map(|voter| Action::Ask { node, voter }));
    }
    if view.owner == Some((id(node), me.boot)) {
        if state.submits < model.bounds.submits {
            actions.push(Action::Submit(node));
        }
        if state.handovers < model.bounds.handovers {
            actions.push(Action::HandOver(node));
        }
    } else if view.owner.is_some() && me.tried < view.fence && state.takeovers < model.bounds.takeovers {
        actions.extend([[0, 1], [0, 2], [1, 2]].map(|voters| Action::TakeOver { node, voters }));
    }
}

/// The state after an action; `None` when it changes nothing.
pub(crate) fn take(model: &Lease, last: &State, action: Action) -> Option<State> {
    let mut state = last.clone();
    match action {
        Action::Tick => tick(model, &mut state),
        Action::Ask { node, voter } => ask(&mut state, node, voter)?,
        Action::Hear(reply) => hear(model, &mut state, reply)?,
        Action::TakeOver { node, voters } => take_over(&mut state, node, voters)?,
        Action::Submit(node) => submit(model, &mut state, node)?,
        Action::HandOver(node) => hand_over(&mut state, node)?,
        Action::Commit(proposal) => {
            state.proposals.remove(&proposal);
            state.log = model.replicated.push(&state.log, proposal);
        }
        Action::Repeat(proposal) => {
            state.repeats += 1;
            state.log = model.replicated.push(&state.log, proposal);
        }
        Action::Apply(node) => apply_next(&mut state, node)?,
        Action::Restart(node) => restart(model, &mut state, node)?,
    }
    (state != *last).then_some(state)
}

/// Answers that came so late that nothing follows from them are forgotten: that leaves fewer states and no fewer behaviours.
fn tick(model: &Lease, state: &mut State) {
    state.now_ms += model.bounds.tick_ms;
    if model.twin != Twin::TrustFromReceipt {
        let now_ms = state.now_ms;
        state.replies.retain(|reply| reply.sent_ms + SUPPORT_MS > now_ms);
    }
}

fn ask(state: &mut State, node: usize, voter: usize) -> Option<()> {
    let now_ms = state.now_ms;
    let boot = state.nodes.get(node)?.boot;
    if Arc::make_mut(state.nodes.get_mut(voter)?).book.support(id(node), boot, LIST, now_ms) == Granted::Yes {
        state.replies.insert(Reply { to: node, boot, voter, sent_ms: now_ms });
    }
    let me = Arc::make_mut(state.nodes.get_mut(node)?);
    me.asked[voter] += 1;
    if me.book.support(id(node), boot, LIST, now_ms) == Granted::Yes {
        me.support.granted(id(node), boot, now_ms);
    }
    Some(())
}

/// An answer that nobody hears is one that stays under way for ever. That a voter said "never again" is not heard at all: a
/// holder must be right without it.
fn hear(model: &Lease, state: &mut State, reply: Reply) -> Option<()> {
    state.replies.remove(&reply);
    let counted_from = if model.twin == Twin::TrustFromReceipt { state.now_ms } else { reply.sent_ms };
    Arc::make_mut(state.nodes.get_mut(reply.to)?).support.granted(id(reply.voter), reply.boot, counted_from);
    Some(())
}

/// A voter withdraws, if it may.
fn withdraw(state: &mut State, voter: usize, owner: (NodeId, Boot)) -> Option<()> {
    let now_ms = state.now_ms;
    let asked = Arc::make_mut(state.nodes.get_mut(voter)?);
    match asked.book.withdraw(owner.0, owner.1, LIST, now_ms) {
        Withdrawn::NotYet(_) | Withdrawn::Outdated => return None,
        Withdrawn::Yes { journal: false } => {}
        Withdrawn::Yes { journal: true } => {
            let floor = asked.floors.entry(owner.0).or_default();
            *floor = owner.1.max(*floor);
        }
    }
    Some(())
}

fn take_over(state: &mut State, node: usize, voters: [usize; 2]) -> Option<()> {
    let log = state.log.clone();
    let view = log.at(state.nodes.get(node)?.applied);
    let from = view.owner?;
    for voter in voters {
        withdraw(state, voter, from)?;
    }
    state.takeovers += 1;
    let me = Arc::make_mut(state.nodes.get_mut(node)?);
    me.tried = view.fence;
    let by = (id(node), me.boot);
    state.proposals.insert(Proposal::Acquire { by, expect: view.fence, from, withdrawn: voters.len() });
    Some(())
}

/// Numbers a proposal of the holder.
fn next_number(state: &mut State, node: usize) -> Option<(u64, u64)> {
    let me = Arc::make_mut(state.nodes.get_mut(node)?);
    let view = state.log.at(me.applied);
    let last = if me.numbered.0 == view.fence { me.numbered.1 } else { view.last_op_no };
    me.numbered = (view.fence, last + 1);
    Some(me.numbered)
}

fn submit(model: &Lease, state: &mut State, node: usize) -> Option<()> {
    // A session repeats its request until it is answered; only then does the next one follow.
    let message = if model.replicated.has_requests() { state.acknowledged.len() as u8 + 1 } else { state.submits + 1 };
    if message > model.bounds.messages {
        return None;
    }
    state.submits += 1;
    let (fence, op_no) = next_number(state, node)?;
    let me = Arc::make_mut(state.nodes.get_mut(node)?);
    me.pending.insert((fence, op_no, message));
    state.proposals.insert(Proposal::Append { by: (id(node), me.boot), fence, op_no, message });
    Some(())
}

fn hand_over(state: &mut State, node: usize) -> Option<()> {
    state.handovers += 1;
    let (fence, op_no) = next_number(state, node)?;
    let other = (node + 1) % HOLDERS;
    let to = (id(other), state.nodes.get(other)?.boot);
    let me = Arc::make_mut(state.nodes.get_mut(node)?);
    me.handing_over = Some((fence, op_no));
    state.proposals.insert(Proposal::Handover { by: (id(node), me.boot), fence, op_no, to });
    Some(())
}

fn apply_next(state: &mut State, node: usize) -> Option<()> {
    let me = Arc::make_mut(state.nodes.get_mut(node)?);
    let entry = state.log.entries.get(me.applied)?;
    me.applied += 1;
    let view = state.log.at(me.applied);
    let outcome = *view.outcomes.last()?;
    match entry {
        Proposal::Append { by, fence, op_no, message } if *by == (id(node), me.boot) => {
            if me.pending.remove(&(*fence, *op_no, *message))
                && let Outcome::Appended(uid) = outcome
            {
                state.acknowledged.insert((*message, uid));
            }
        }
        Proposal::Handover { by, fence, op_no, .. }
            if *by == (id(node), me.boot) && outcome == Outcome::Refused && me.handing_over == Some((*fence, *op_no)) =>
        {
            me.handing_over = None;
        }
        _ => {}
    }
    Some(())
}

fn restart(model: &Lease, state: &mut State, node: usize) -> Option<()> {
    state.restarts += 1;
    let now_ms = state.now_ms;
    let me = Arc::make_mut(state.nodes.get_mut(node)?);
    if model.twin == Twin::WithdrawalsForgotten {
        me.floors.clear();
    }
    let started_ms = if model.twin == Twin::VoterNotSilent { now_ms - SUPPORT_MS } else { now_ms };
    let floors = me.floors.iter().map(|(node, boot)| (*node, *boot));
    *me = me.restarted(Promises::new(started_ms, floors, LIST));
    state.replies.retain(|reply| reply.to != node);
    Some(())
}
