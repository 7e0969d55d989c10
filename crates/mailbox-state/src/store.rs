//! STORE (RFC 9051 section 6.4.6, RFC 7162 section 3.1.3).

use crate::append::{add_keywords, settable_flags};
use crate::counters;
use crate::decide::{Context, Decision, Stop};
use crate::event::{Event, FlagEdit};
use crate::flags;
use crate::keywords::{Interner, NewKeywords};
use crate::port::TableFault;
use crate::records::codec::damaged;
use crate::work::Work;
use parliament_ids::{MailboxId, ModSeq, Rights, SystemFlags, UidSet};
use parliament_mail_api::{FlagChange, FlagMode, FlagRow, Rejection, Reply};

/// Decides which messages change. A message that already has what is asked keeps its MODSEQ.
pub(crate) fn decide(
    cx: &Context<'_>,
    mailbox: MailboxId,
    uids: &UidSet,
    change: &FlagChange,
    unchanged_since: Option<ModSeq>,
) -> Result<Decision, Stop> {
    let (_, held) = cx.mailbox(mailbox, Rights::NONE)?;
    let needs_list = !change.flags.keywords.is_empty();
    let mut interner = Interner::new(cx.tables, cx.account, mailbox, needs_list)?;
    let bits = match change.mode {
        FlagMode::Remove => interner.known_bits(&change.flags.keywords),
        FlagMode::Replace | FlagMode::Add if held.contains(Rights::WRITE) => {
            interner.bits(&change.flags.keywords).ok_or(Rejection::Limit)?
        }
        FlagMode::Replace | FlagMode::Add => 0,
    };
    let edit = permitted_edit(change, bits, held)?;
    let (mut changing, mut modified, mut found) = (UidSet::new(), UidSet::new(), 0);
    flags::visit_rows(cx.tables, cx.account, mailbox, uids, None, &mut |row| {
        found += 1;
        if unchanged_since.is_some_and(|since| row.modseq > since) {
            modified.insert(row.uid);
        } else if edit.apply(row.system, row.keywords) != (row.system, row.keywords) {
            changing.insert(row.uid);
        }
        true
    })?;
    let missing = found != uids.len();
    if changing.is_empty() {
        return Ok(Decision::reply(Reply::Stored { modseq: None, modified, missing }));
    }
    let new_keywords = interner.into_new();
    Ok(Decision::events(vec![Event::FlagsChanged { mailbox, uids: changing, edit, new_keywords, modified, missing }]))
}

/// The edit as far as rights allow it; refused only when they allow none of it (RFC 4314 section 4).
fn permitted_edit(change: &FlagChange, bits: u128, held: Rights) -> Result<FlagEdit, Rejection> {
    let system_may = settable_flags(held);
    let keywords_may = if held.contains(Rights::WRITE) { u128::MAX } else { 0 };
    let asked = change.flags.system;
    let permitted = SystemFlags(asked.0 & system_may.0);
    let asks_something = asked != SystemFlags::NONE || !change.flags.keywords.is_empty();
    let may_some = permitted != SystemFlags::NONE || (!change.flags.keywords.is_empty() && keywords_may != 0);
    let may_any = system_may != SystemFlags::NONE;
    if (asks_something && !may_some) || !may_any {
        return Err(if held.contains(Rights::LOOKUP) { Rejection::NoPermission } else { Rejection::NoSuchMailbox });
    }
    let bits = bits & keywords_may;
    let none = FlagEdit::default();
    Ok(match change.mode {
        FlagMode::Replace => FlagEdit { system_clear: system_may, system_set: permitted, keywords_clear: keywords_may, keywords_set: bits },
        FlagMode::Add => FlagEdit { system_set: permitted, keywords_set: bits, ..none },
        FlagMode::Remove => FlagEdit { system_clear: permitted, keywords_clear: bits, ..none },
    })
}

/// Changes the flags of messages.
pub(crate) fn evolve(
    work: &mut Work<'_, '_>,
    mailbox: MailboxId,
    uids: &UidSet,
    edit: &FlagEdit,
    new_keywords: &NewKeywords,
) -> Result<ModSeq, TableFault> {
    let mut row = counters::get(work, work.account, mailbox)?.ok_or_else(|| damaged("counters of an existing mailbox"))?;
    add_keywords(work, mailbox, &mut row, new_keywords)?;
    let modseq = work.modseq();
    let (mut unseen, mut deleted) = (i64::from(row.unseen), i64::from(row.deleted));
    let weigh = |system: SystemFlags| (i64::from(!system.contains(SystemFlags::SEEN)), i64::from(system.contains(SystemFlags::DELETED)));
    flags::change(work, mailbox, uids, &mut |flag_row: &mut FlagRow| {
        let before = weigh(flag_row.system);
        (flag_row.system, flag_row.keywords) = edit.apply(flag_row.system, flag_row.keywords);
        let after = weigh(flag_row.system);
        unseen += after.0 - before.0;
        deleted += after.1 - before.1;
        flag_row.modseq = modseq;
    })?;
    let counter = |n: i64| u32::try_from(n).map_err(|_| damaged("counters of a mailbox"));
    row.unseen = counter(unseen)?;
    row.deleted = counter(deleted)?;
    row.flags_modseq = modseq;
    row.highest_modseq = modseq;
    counters::set(work, mailbox, &row)?;
    work.touched(mailbox);
    Ok(modseq)
}
