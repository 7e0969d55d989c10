//! EXPUNGE (RFC 9051 section 6.4.3, UID EXPUNGE of RFC 4315): told to clients only once committed, never seen again.

use crate::counters;
use crate::decide::{Context, Decision, Stop};
use crate::event::Event;
use crate::port::TableFault;
use crate::records::codec::damaged;
use crate::work::Work;
use crate::{flags, messages, references, vanished};
use parliament_ids::{MailboxId, ModSeq, Rights, SystemFlags, Uid, UidSet};
use parliament_mail_api::Reply;

/// Decides which of the asked messages carry `\Deleted`.
pub(crate) fn decide(cx: &Context<'_>, mailbox: MailboxId, uids: Option<&UidSet>) -> Result<Decision, Stop> {
    let (row, _) = cx.mailbox(mailbox, Rights::EXPUNGE)?;
    let everything = UidSet::range(Uid(1), Uid(u32::MAX));
    let asked = uids.unwrap_or(&everything);
    let mut gone = UidSet::new();
    if row.deleted > 0 {
        flags::visit_runs(cx.tables, cx.account, mailbox, asked, &mut |header, value| {
            if header.deleted > 0 {
                let rows = flags::decode(header, value)?;
                let deleted = rows.iter().filter(|row| row.system.contains(SystemFlags::DELETED) && asked.contains(row.uid));
                deleted.for_each(|row| gone.insert(row.uid));
            }
            Ok(true)
        })?;
    }
    if gone.is_empty() {
        return Ok(Decision::reply(Reply::Expunged { uids: gone, modseq: None }));
    }
    Ok(Decision::events(vec![Event::Vanished { mailbox, uids: gone }]))
}

/// Takes messages out of a mailbox. With `release` their bodies lose a reference; without, they went elsewhere.
pub(crate) fn evolve(work: &mut Work<'_, '_>, mailbox: MailboxId, uids: &UidSet, release: bool) -> Result<ModSeq, TableFault> {
    let mut row = counters::get(work, work.account, mailbox)?.ok_or_else(|| damaged("counters of an existing mailbox"))?;
    let modseq = work.modseq();
    let flag_rows = flags::remove(work, mailbox, uids)?;
    let message_rows = messages::remove(work, mailbox, uids)?;
    if flag_rows.len() != message_rows.len() || flag_rows.len() as u64 != uids.len() {
        return Err(damaged("flags and messages differ"));
    }
    let bytes: u64 = message_rows.iter().map(|m| m.size).sum();
    let count = |flags: fn(SystemFlags) -> bool| flag_rows.iter().filter(|row| flags(row.system)).count() as u32;
    let less = |counter: u32, by: u32| counter.checked_sub(by).ok_or_else(|| damaged("counters of a mailbox"));
    row.messages = less(row.messages, flag_rows.len() as u32)?;
    row.unseen = less(row.unseen, count(|system| !system.contains(SystemFlags::SEEN)))?;
    row.deleted = less(row.deleted, count(|system| system.contains(SystemFlags::DELETED)))?;
    row.bytes = row.bytes.checked_sub(bytes).ok_or_else(|| damaged("counters of a mailbox"))?;
    row.highest_modseq = modseq;
    vanished::remember(work, mailbox, &mut row, modseq, uids)?;
    counters::set(work, mailbox, &row)?;
    lighten(work, flag_rows.len() as u64, bytes)?;
    if release {
        references::release(work, message_rows.iter().map(|m| &m.hash))?;
    }
    work.touched(mailbox);
    Ok(modseq)
}

/// Takes messages off the account's usage.
pub(crate) fn lighten(work: &mut Work<'_, '_>, count: u64, bytes: u64) -> Result<(), TableFault> {
    let usage = &mut work.head.usage;
    usage.messages = usage.messages.checked_sub(count).ok_or_else(|| damaged("usage of an account"))?;
    usage.storage_bytes = usage.storage_bytes.checked_sub(bytes).ok_or_else(|| damaged("usage of an account"))?;
    Ok(())
}
