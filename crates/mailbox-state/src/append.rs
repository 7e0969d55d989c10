//! APPEND and delivery: where a message gets its UID.

use crate::counters::{self, Counters};
use crate::decide::{Context, Decision, Stop};
use crate::event::{Arrival, Event};
use crate::keywords::{Interner, NewKeywords};
use crate::messages::MessageRow;
use crate::port::TableFault;
use crate::records::codec::damaged;
use crate::work::Work;
use crate::{command::NewMessage, dedupe, flags, ledger, messages, quota, references};
use parliament_ids::limits::{MESSAGE_BYTES_MAX, MESSAGES_PER_ENTRY_MAX};
use parliament_ids::{BodyHash, DateTime, EmailId, FlagSet, MailboxId, MailboxName, Rights, SystemFlags, Uid, UidSet};
use parliament_mail_api::{FlagRow, Rejection, Reply};

/// Decides APPEND (RFC 9051 section 6.3.12, RFC 3502): all messages or none.
pub(crate) fn decide(cx: &Context<'_>, to: &MailboxName, messages: &[NewMessage]) -> Result<Decision, Stop> {
    if messages.is_empty() || messages.len() > MESSAGES_PER_ENTRY_MAX {
        return Err(Rejection::Limit.into());
    }
    let (mailbox, row, held) = cx.named(to, Rights::INSERT)?;
    let (new_keywords, arrivals) = admit(cx, mailbox, &row, held, messages)?;
    Ok(Decision::events(vec![Event::Arrived { mailbox, new_keywords, arrivals }]))
}

/// Decides a delivery (rule 16): an equal one is answered with where the first went.
pub(crate) fn decide_delivery(cx: &Context<'_>, to: &MailboxName, message: &NewMessage, dedupe: &BodyHash) -> Result<Decision, Stop> {
    if let Some((mailbox, uid)) = dedupe::find(cx.tables, cx.account, cx.head.dedupe_generation, dedupe)? {
        return Ok(Decision::reply(Reply::Delivered { mailbox, uid: Some(uid), duplicate: true }));
    }
    let mailbox = cx.resolve(to)?.unwrap_or(MailboxId::INBOX);
    let (row, held) = cx.mailbox(mailbox, Rights::INSERT)?;
    let (new_keywords, mut arrivals) = admit(cx, mailbox, &row, held, std::slice::from_ref(message))?;
    let Some(arrival) = arrivals.pop() else { return Err(damaged("delivery").into()) };
    Ok(Decision::events(vec![Event::Delivered { mailbox, new_keywords, arrival, dedupe: *dedupe }]))
}

/// Checks sizes, quota, UIDs left and keywords of new messages.
fn admit(
    cx: &Context<'_>,
    mailbox: MailboxId,
    row: &Counters,
    held: Rights,
    messages: &[NewMessage],
) -> Result<(NewKeywords, Vec<Arrival>), Stop> {
    if messages.iter().any(|m| m.size > MESSAGE_BYTES_MAX) {
        return Err(Rejection::TooBig.into());
    }
    quota::allow_messages(cx, messages.len() as u64, messages.iter().map(|m| m.size).sum())?;
    allow_uids(row, messages.len() as u64)?;
    let may_keep_keywords = held.contains(Rights::WRITE);
    let needed = may_keep_keywords && messages.iter().any(|m| !m.flags.keywords.is_empty());
    let mut interner = Interner::new(cx.tables, cx.account, mailbox, needed)?;
    let mut arrivals = Vec::with_capacity(messages.len());
    for message in messages {
        let FlagSet { system, keywords } = &message.flags;
        let keywords = if may_keep_keywords { interner.bits(keywords).ok_or(Rejection::Limit)? } else { 0 };
        arrivals.push(Arrival {
            hash: message.hash,
            size: message.size,
            internal_date: message.internal_date,
            thread: message.thread,
            system: kept_flags(*system, held),
            keywords,
        });
    }
    Ok((interner.into_new(), arrivals))
}

/// At least one UID stays unassigned, so that UIDNEXT always has a value.
pub(crate) fn allow_uids(row: &Counters, count: u64) -> Result<(), Rejection> {
    if u64::from(row.uid_next.0) + count > u64::from(u32::MAX) { Err(Rejection::Exhausted) } else { Ok(()) }
}

/// The system flags that these rights let a message keep (RFC 4314 section 4).
pub(crate) fn kept_flags(system: SystemFlags, held: Rights) -> SystemFlags {
    SystemFlags(system.0 & settable_flags(held).0)
}

/// The system flags that these rights let one change.
pub(crate) fn settable_flags(held: Rights) -> SystemFlags {
    let others = SystemFlags::ALL.minus(SystemFlags::SEEN).minus(SystemFlags::DELETED);
    [(Rights::SEEN, SystemFlags::SEEN), (Rights::DELETE_MESSAGES, SystemFlags::DELETED), (Rights::WRITE, others)]
        .into_iter()
        .filter(|(right, _)| held.contains(*right))
        .fold(SystemFlags::NONE, |all, (_, flags)| all.union(flags))
}

/// A message on its way into a mailbox, with what it keeps from an earlier place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    /// All but UID, SAVEDATE.
    pub(crate) message: MessageRow,
    pub(crate) system: SystemFlags,
    pub(crate) keywords: u128,
}

/// Gives messages their UIDs, in order, and puts them into a mailbox: the only place where UIDs are assigned.
pub(crate) fn assign(
    work: &mut Work<'_, '_>,
    mailbox: MailboxId,
    row: &mut Counters,
    incoming: impl ExactSizeIterator<Item = Incoming>,
) -> Result<UidSet, TableFault> {
    let modseq = work.modseq();
    let first = row.uid_next;
    let mut flag_rows = Vec::with_capacity(incoming.len());
    let mut message_rows = Vec::with_capacity(incoming.len());
    for Incoming { message, system, keywords } in incoming {
        let uid = row.uid_next;
        debug_assert!(!uid.is_last(), "decide keeps UIDs in reserve");
        row.uid_next = uid.next();
        row.ledger = ledger::extend(&row.ledger, uid, modseq, &message.hash);
        row.messages += 1;
        row.unseen += u32::from(!system.contains(SystemFlags::SEEN));
        row.deleted += u32::from(system.contains(SystemFlags::DELETED));
        row.bytes += message.size;
        work.head.usage.messages += 1;
        work.head.usage.storage_bytes += message.size;
        flag_rows.push(FlagRow { uid, system, keywords, modseq });
        message_rows.push(MessageRow { uid, save_date: work.now, ..message });
    }
    row.highest_modseq = modseq;
    flags::append(work, mailbox, &flag_rows)?;
    messages::append(work, mailbox, &message_rows)?;
    work.touched(mailbox);
    Ok(UidSet::range(first, Uid(row.uid_next.0 - 1)))
}

/// Carries out an arrival.
pub(crate) fn evolve(
    work: &mut Work<'_, '_>,
    mailbox: MailboxId,
    new_keywords: &NewKeywords,
    arrivals: &[Arrival],
) -> Result<Reply, TableFault> {
    let mut row = counters::get(work, work.account, mailbox)?.ok_or_else(|| damaged("counters of an existing mailbox"))?;
    add_keywords(work, mailbox, &mut row, new_keywords)?;
    references::add(work, arrivals.iter().map(|a| &a.hash))?;
    let (now, first_email) = (work.now, work.head.next_email.0);
    work.head.next_email = EmailId(first_email + arrivals.len() as u64);
    let incoming = arrivals.iter().enumerate().map(|(n, arrival)| Incoming {
        message: MessageRow {
            uid: Uid(0),
            internal_date: arrival.internal_date.unwrap_or(DateTime { seconds: now, zone_minutes: 0 }),
            save_date: now,
            size: arrival.size,
            hash: arrival.hash,
            email_id: EmailId(first_email + n as u64),
            thread_id: arrival.thread,
        },
        system: arrival.system,
        keywords: arrival.keywords,
    });
    let uids = assign(work, mailbox, &mut row, incoming)?;
    counters::set(work, mailbox, &row)?;
    Ok(Reply::Appended { mailbox, uid_validity: row.uid_validity, uids })
}

/// Adds keywords to a mailbox's list and notes when.
pub(crate) fn add_keywords(
    work: &mut Work<'_, '_>,
    mailbox: MailboxId,
    row: &mut Counters,
    new_keywords: &NewKeywords,
) -> Result<(), TableFault> {
    if new_keywords.is_empty() {
        return Ok(());
    }
    row.keywords_modseq = work.modseq();
    row.highest_modseq = row.keywords_modseq;
    new_keywords.add(work, mailbox)
}

/// Carries out a delivery.
pub(crate) fn evolve_delivery(
    work: &mut Work<'_, '_>,
    mailbox: MailboxId,
    new_keywords: &NewKeywords,
    arrival: &Arrival,
    hash: &BodyHash,
) -> Result<Reply, TableFault> {
    let Reply::Appended { uids, .. } = evolve(work, mailbox, new_keywords, std::slice::from_ref(arrival))? else {
        return Err(damaged("delivery"));
    };
    let uid = uids.first().unwrap_or_default();
    dedupe::remember(work, hash, mailbox, uid)?;
    Ok(Reply::Delivered { mailbox, uid: Some(uid), duplicate: false })
}
