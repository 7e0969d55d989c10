//! When a lease may be taken (rules 1 and 23). Write safety needs no clock: apply refuses a stale fence, whoever sends it.

use crate::applied::{Owner, OwnerRecord, Refusal};
use crate::command::{Acquire, Evidence, UserCommand};
use parliament_ids::{NodeId, OpNo};
use std::collections::BTreeSet;

/// The lease under which a command runs, its number taken; or why it may not.
pub(crate) fn admit(record: &OwnerRecord, command: &UserCommand) -> Result<OwnerRecord, Refusal> {
    let stale = || Refusal::StaleFence { current: record.fence, owner: record.owner };
    let mut lease = match &command.acquire {
        Some(acquire) => acquired(record, acquire).ok_or_else(stale)?,
        None => *record,
    };
    if lease.owner.is_none() || lease.fence != command.fence {
        return Err(stale());
    }
    if command.op_no <= lease.last_op_no {
        return Err(Refusal::OutOfOrder { last: lease.last_op_no });
    }
    lease.last_op_no = command.op_no;
    Ok(lease)
}

/// The lease after an acquire; `None` when the fence moved on or the evidence does not carry.
fn acquired(record: &OwnerRecord, acquire: &Acquire) -> Option<OwnerRecord> {
    if acquire.expect_fence != record.fence || record.fence.is_last() || !may_take(record.owner, acquire) {
        return None;
    }
    Some(passed_to(record, Owner { node: acquire.node, boot: acquire.boot }))
}

/// The lease given to another owner: a new fence, and numbers begin again.
pub(crate) fn passed_to(record: &OwnerRecord, owner: Owner) -> OwnerRecord {
    OwnerRecord { owner: Some(owner), fence: record.fence.next(), last_op_no: OpNo(0) }
}

fn may_take(owner: Option<Owner>, acquire: &Acquire) -> bool {
    let Some(owner) = owner else { return true };
    if (owner.node, owner.boot) == (acquire.node, acquire.boot) {
        return true;
    }
    if owner.node == acquire.node && acquire.boot < owner.boot {
        return false;
    }
    match &acquire.evidence {
        Evidence::Withdrawn { node, boot, voters, of } => (*node, *boot) == (owner.node, owner.boot) && is_majority(voters, *of),
        Evidence::Free | Evidence::SamePriorOwner => false,
    }
}

fn is_majority(voters: &[NodeId], of: u32) -> bool {
    let distinct = voters.iter().collect::<BTreeSet<_>>().len() as u64;
    distinct <= u64::from(of) && distinct * 2 > u64::from(of)
}
