//! COPY (RFC 9051 section 6.4.7) and MOVE (RFC 6851) within one account: one entry, all or none; COPYUID pairs ascend on both sides.

use crate::append::{Incoming, add_keywords, allow_uids, assign, settable_flags};
use crate::counters;
use crate::decide::{Context, Decision, Stop};
use crate::event::{Event, Transfer};
use crate::keywords::{self, Interner, NewKeywords};
use crate::port::TableFault;
use crate::records::codec::damaged;
use crate::work::Work;
use crate::{expunge, flags, messages, quota, references};
use parliament_ids::{MailboxId, MailboxName, Rights, SystemFlags, UidSet, UidValidity};
use parliament_mail_api::{FlagRow, Rejection, Reply};

/// Decides COPY or MOVE. Quota: MOVE always works, COPY into the Trash may overdraw.
pub(crate) fn decide(cx: &Context<'_>, from: MailboxId, uids: &UidSet, to: &MailboxName, moved: bool) -> Result<Decision, Stop> {
    let mut source_needs = Rights::READ;
    if moved {
        source_needs = source_needs.union(Rights::DELETE_MESSAGES).union(Rights::EXPUNGE);
    }
    cx.mailbox(from, source_needs)?;
    let (target, target_row, held) = cx.named(to, Rights::INSERT)?;
    let (mut present, mut used_bits) = (UidSet::new(), 0_u128);
    flags::visit_rows(cx.tables, cx.account, from, uids, None, &mut |row| {
        present.insert(row.uid);
        used_bits |= row.keywords;
        true
    })?;
    if present.is_empty() {
        let uid_validity = target_row.uid_validity;
        return Ok(Decision::reply(Reply::Copied { uid_validity, source: UidSet::new(), target: UidSet::new() }));
    }
    allow_uids(&target_row, present.len())?;
    if !moved && !cx.head.is_trash(target) {
        let mut bytes = 0;
        messages::visit_rows(cx.tables, cx.account, from, &present, &mut |row| {
            bytes += row.size;
            true
        })?;
        quota::allow_messages(cx, present.len(), bytes)?;
    }
    let used_bits = if held.contains(Rights::WRITE) { used_bits } else { 0 };
    let (keyword_bits, new_keywords) = translate(cx, from, target, used_bits)?;
    let system_kept = settable_flags(held);
    Ok(Decision::events(vec![Event::Transferred(Transfer {
        from,
        uids: present,
        to: target,
        keyword_bits,
        new_keywords,
        system_kept,
        moved,
    })]))
}

/// Finds for each used keyword of the source its bit in the target.
fn translate(cx: &Context<'_>, from: MailboxId, to: MailboxId, used: u128) -> Result<(Vec<(u8, u8)>, NewKeywords), Stop> {
    let mut interner = Interner::new(cx.tables, cx.account, to, used != 0)?;
    let mut pairs = Vec::new();
    if used != 0 {
        for (bit, keyword) in (0_u8..).zip(keywords::list(cx.tables, cx.account, from)?) {
            if used & 1 << bit != 0 {
                let target = interner.bits(std::slice::from_ref(&keyword)).ok_or(Rejection::Limit)?;
                pairs.push((bit, target.trailing_zeros() as u8));
            }
        }
    }
    Ok((pairs, interner.into_new()))
}

/// Copies messages, and takes them out of the source when they are moved.
pub(crate) fn evolve(work: &mut Work<'_, '_>, transfer: &Transfer) -> Result<Reply, TableFault> {
    let mut flag_rows: Vec<FlagRow> = Vec::new();
    flags::visit_rows(work, work.account, transfer.from, &transfer.uids, None, &mut |row| {
        flag_rows.push(row);
        true
    })?;
    let rows = messages::rows(work, work.account, transfer.from, &transfer.uids)?;
    if rows.len() != flag_rows.len() || rows.iter().zip(&flag_rows).any(|(m, f)| m.uid != f.uid) {
        return Err(damaged("flags and messages differ"));
    }
    let mut row = counters::get(work, work.account, transfer.to)?.ok_or_else(|| damaged("counters of an existing mailbox"))?;
    add_keywords(work, transfer.to, &mut row, &transfer.new_keywords)?;
    if !transfer.moved {
        references::add(work, rows.iter().map(|m| &m.hash))?;
    }
    let incoming = rows.iter().zip(&flag_rows).map(|(message, flags)| Incoming {
        message: *message,
        system: SystemFlags(flags.system.0 & transfer.system_kept.0),
        keywords: translated(flags.keywords, &transfer.keyword_bits),
    });
    let target = assign(work, transfer.to, &mut row, incoming)?;
    let uid_validity: UidValidity = row.uid_validity;
    counters::set(work, transfer.to, &row)?;
    if transfer.moved {
        expunge::evolve(work, transfer.from, &transfer.uids, false)?;
    }
    Ok(Reply::Copied { uid_validity, source: transfer.uids.clone(), target })
}

fn translated(bits: u128, pairs: &[(u8, u8)]) -> u128 {
    if bits == 0 {
        return 0;
    }
    pairs.iter().filter(|(source, _)| bits & 1 << source != 0).fold(0, |all, (_, target)| all | 1 << target)
}
