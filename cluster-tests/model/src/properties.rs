//! What must hold in every state, and what must come up so that it says something.

use crate::{HOLDERS, Lease, Outcome, State};
use stateright::Property;
use std::collections::BTreeSet;

/// UIDs ascend in the order of the log, and so none is given twice; those told to one session ascend with its requests.
pub const UIDS_ASCEND: &str = "UIDs ascend";
/// A request puts its message into the mailbox at most once.
pub const ONCE_ONLY: &str = "each append at most once";
/// Every append that took effect was proposed by the owner of that moment under the fence of that moment; fences ascend.
pub const ONE_HOLDER: &str = "one holder at each index";
/// Under one fence appends take effect in the order in which the holder proposed them.
pub const IN_ORDER_OF_PROPOSAL: &str = "appends in the order of their proposal";
/// Whoever may answer a read from its tables has every append in them that was acknowledged.
pub const NO_STALE_READ: &str = "no stale local read";
/// At most one node may answer reads from its tables.
pub const ONE_READER: &str = "one reader at a time";
/// What was acknowledged is in the mailbox, under the UID that was told.
pub const ACKNOWLEDGED_STAYS: &str = "acknowledged appends stay";

pub(crate) fn all() -> Vec<Property<Lease>> {
    vec![
        Property::always(UIDS_ASCEND, uids_ascend),
        Property::always(ONCE_ONLY, once_only),
        Property::always(ONE_HOLDER, one_holder),
        Property::always(IN_ORDER_OF_PROPOSAL, in_order_of_proposal),
        Property::always(NO_STALE_READ, no_stale_read),
        Property::always(ONE_READER, one_reader),
        Property::always(ACKNOWLEDGED_STAYS, acknowledged_stays),
        Property::sometimes("a second holder reads what the first one appended", second_holder_reads),
        Property::sometimes("a proposal of a former holder is refused", former_holder_is_refused),
    ]
}

fn second_holder_reads(model: &Lease, state: &State) -> bool {
    readers(model, state).any(|node| node == 1) && !state.acknowledged.is_empty()
}

fn former_holder_is_refused(_: &Lease, state: &State) -> bool {
    let view = &state.log;
    view.fence > 1 && view.outcomes.contains(&Outcome::Refused)
}

fn readers<'a>(model: &'a Lease, state: &'a State) -> impl Iterator<Item = usize> + 'a {
    (0..HOLDERS).filter(|node| model.may_read(state, *node))
}

fn one_reader(model: &Lease, state: &State) -> bool {
    readers(model, state).count() <= 1
}

fn uids_ascend(model: &Lease, state: &State) -> bool {
    let in_log = state.log.effects.is_sorted_by(|a, b| a.uid < b.uid);
    let told = state.acknowledged.iter().map(|(_, uid)| uid);
    in_log && (!model.replicated.has_requests() || told.is_sorted_by(|a, b| a < b))
}

fn once_only(_: &Lease, state: &State) -> bool {
    let view = &state.log;
    let distinct: BTreeSet<u8> = view.effects.iter().map(|effect| effect.message).collect();
    distinct.len() == view.effects.len()
}

fn one_holder(_: &Lease, state: &State) -> bool {
    let view = &state.log;
    view.effects.iter().all(|effect| effect.by_holder) && view.effects.is_sorted_by_key(|effect| effect.order.0)
}

fn in_order_of_proposal(_: &Lease, state: &State) -> bool {
    state.log.effects.is_sorted_by(|a, b| a.order < b.order)
}

fn no_stale_read(model: &Lease, state: &State) -> bool {
    readers(model, state).all(|node| {
        let seen = state.log.at(state.nodes[node].applied);
        state.acknowledged.iter().all(|(message, uid)| seen.messages.contains(&(*uid, *message)))
    })
}

fn acknowledged_stays(_: &Lease, state: &State) -> bool {
    let view = &state.log;
    state.acknowledged.iter().all(|(message, uid)| view.messages.contains(&(*uid, *message)))
}
