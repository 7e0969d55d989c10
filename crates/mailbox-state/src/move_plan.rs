//! What a move needs next, from what its two groups say: whoever drives a move keeps nothing in memory that another could not find out.

use crate::moving::Presence;
use parliament_ids::MoveId;

/// What is known of a move that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveFacts {
    /// The move.
    pub move_id: MoveId,
    /// What the source has, seen after the move began.
    pub source: Presence,
    /// What the target has, likewise.
    pub target: Presence,
    /// The directory names the target.
    pub arrived: bool,
    /// It is to be given up, if it is not decided yet.
    pub stopping: bool,
    /// The target has all but a little of the source.
    pub ready: bool,
}

/// The next step of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveNext {
    /// The source makes the records of an account that was never used.
    Make,
    /// The target copies what it lacks; all of it, and then activates, when the source is frozen.
    Copy,
    /// The source's holder freezes.
    Freeze,
    /// The target refuses.
    Refuse,
    /// The source serves again.
    Thaw,
    /// The source becomes a hint to the target.
    Depart,
    /// The directory names the target.
    Arrive,
    /// What is left at the source goes.
    SweepSource,
    /// What was copied to the target goes.
    SweepTarget,
    /// Nothing is left to do.
    End,
    /// The facts fit no state of this move: they are old, or something is wrong. Nothing is done.
    Stuck,
}

/// The next step.
#[must_use]
pub fn next_step(facts: &MoveFacts) -> MoveNext {
    match facts.target {
        Presence::Here { last, .. } if last == facts.move_id => after_activation(facts),
        Presence::Absent { last, arriving: false, left, .. } if last == facts.move_id => after_refusal(facts, left),
        Presence::Here { .. } => MoveNext::Stuck,
        Presence::Absent { last, .. } if last > facts.move_id => MoveNext::Stuck,
        // A deleted account is refused for ever; its source has nothing to serve.
        Presence::Deleted => after_refusal(facts, false),
        Presence::Unknown | Presence::Absent { .. } => undecided(facts),
    }
}

fn after_activation(facts: &MoveFacts) -> MoveNext {
    match facts.source {
        Presence::Here { last, frozen_for: Some(_) } if last == facts.move_id => MoveNext::Depart,
        Presence::Absent { last, .. } if last != facts.move_id => MoveNext::Stuck,
        Presence::Absent { .. } if !facts.arrived => MoveNext::Arrive,
        Presence::Absent { left: true, .. } => MoveNext::SweepSource,
        Presence::Absent { .. } => MoveNext::End,
        Presence::Here { .. } | Presence::Unknown | Presence::Deleted => MoveNext::Stuck,
    }
}

fn after_refusal(facts: &MoveFacts, left: bool) -> MoveNext {
    match facts.source {
        Presence::Here { last, frozen_for: None } if last >= facts.move_id => {
            if left {
                MoveNext::SweepTarget
            } else {
                MoveNext::End
            }
        }
        // One that was never frozen, too: a freeze that is still on its way must find the move over.
        Presence::Here { last, frozen_for } if last == facts.move_id || frozen_for.is_none() => MoveNext::Thaw,
        Presence::Unknown => MoveNext::Make,
        Presence::Deleted => MoveNext::End,
        Presence::Here { .. } | Presence::Absent { .. } => MoveNext::Stuck,
    }
}

fn undecided(facts: &MoveFacts) -> MoveNext {
    match facts.source {
        _ if facts.stopping => MoveNext::Refuse,
        Presence::Unknown => MoveNext::Make,
        Presence::Here { last, frozen_for: Some(_) } if last == facts.move_id => MoveNext::Copy,
        Presence::Here { last, frozen_for: None } if last < facts.move_id => {
            if facts.ready {
                MoveNext::Freeze
            } else {
                MoveNext::Copy
            }
        }
        // It was thawed, or lives elsewhere, or is gone: this move can never be good.
        Presence::Here { frozen_for: None, .. } | Presence::Absent { .. } | Presence::Deleted => MoveNext::Refuse,
        Presence::Here { .. } => MoveNext::Stuck,
    }
}
