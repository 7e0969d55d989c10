//! Commands come from bytes that another node wrote. What the types promise but decoding does not check is checked here, before
//! any of it can reach a record.

use crate::command::{NewMessage, Op};
use parliament_ids::{FlagSet, Keyword, MailboxName, UidSet};
use parliament_mail_api::Mutation;

/// True when every name, keyword and set of UIDs is as its own constructor would have made it.
pub(crate) fn is_well_formed(op: &Op) -> bool {
    match op {
        Op::Append { to, messages } => name(to) && messages.iter().all(message),
        Op::Deliver { to, message: delivered, .. } => name(to) && message(delivered),
        Op::Mutate(change) => mutation(change),
        Op::RotateDedupe | Op::Handover { .. } | Op::Release | Op::Provision | Op::Noop | Op::Freeze { .. } => true,
    }
}

fn mutation(mutation: &Mutation) -> bool {
    match mutation {
        Mutation::Create { name: made, .. } => name(made),
        Mutation::Delete { name: named } | Mutation::Subscribe { name: named, .. } => name(named),
        Mutation::Rename { from, to } => name(from) && name(to),
        Mutation::Store { uids: set, change, .. } => uids(set) && flags(&change.flags),
        Mutation::Expunge { uids: set, .. } => set.as_ref().is_none_or(uids),
        Mutation::Copy { uids: set, to, .. } | Mutation::Move { uids: set, to, .. } => uids(set) && name(to),
        Mutation::SetAcl(change) => name(&change.name),
        Mutation::SetQuota(_) => true,
        Mutation::SetMetadata { mailbox, .. } => mailbox.as_ref().is_none_or(name),
    }
}

fn message(message: &NewMessage) -> bool {
    flags(&message.flags)
}

fn name(name: &MailboxName) -> bool {
    MailboxName::new(name.as_str()).is_ok_and(|checked| checked == *name)
}

fn flags(flags: &FlagSet) -> bool {
    flags.keywords.iter().all(|keyword| Keyword::new(keyword.as_str()).is_ok())
}

fn uids(set: &UidSet) -> bool {
    let ranges = set.ranges();
    ranges.iter().all(|(first, last)| 0 < *first && first <= last)
        && ranges.is_sorted_by(|a, b| a.1.checked_add(1).is_some_and(|gap| gap < b.0))
}
