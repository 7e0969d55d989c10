//! Message runs (table M): the immutable part of messages. The last run grows to 16 rows and is then joined to the one before,
//! up to 64: an APPEND rewrites little, and old messages lie dense.
//!
//! Value: run header, base date (i64), base EMAILID (u64), then rows: UID as distance from the row before, INTERNALDATE and
//! SAVEDATE as distances from the base, zone, size, EMAILID as distance from the base, THREADID (u64), hash.

use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, put, put_signed};
use crate::records::runs::{self, HEADER, RunHeader, write_header};
use crate::work::Work;
use parliament_ids::{AccountId, BodyHash, DateTime, EmailId, MailboxId, ThreadId, Uid, UidSet};

/// The immutable part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRow {
    /// Its UID.
    pub uid: Uid,
    /// INTERNALDATE.
    pub internal_date: DateTime,
    /// SAVEDATE, UTC seconds.
    pub save_date: i64,
    /// Bytes.
    pub size: u64,
    /// Address of its body.
    pub hash: BodyHash,
    /// EMAILID.
    pub email_id: EmailId,
    /// THREADID.
    pub thread_id: ThreadId,
}

const TAIL_ROWS_MAX: u16 = 16;
const ROWS_MAX: u16 = 64;
/// A run takes no further row at this many bytes: the greatest row is 87 bytes.
const BYTES_FULL: usize = 3900;
const JOIN_ROWS_MAX: usize = 48;
const HEADER_BYTES: usize = HEADER + 16;
const WHAT: &str = "message run";

/// The rows of a run.
pub(crate) fn decode(header: &RunHeader, value: &[u8]) -> Result<Vec<MessageRow>, TableFault> {
    let mut r = Reader::new(value, WHAT);
    r.bytes(HEADER)?;
    let (date, email) = (i64::from_le_bytes(r.array()?), i64::from_le_bytes(r.array()?));
    let mut rows = Vec::with_capacity(usize::from(header.count));
    let mut uid = header.first.0;
    for _ in 0..header.count {
        uid = uid.checked_add(r.small()?).ok_or_else(|| r.fault())?;
        let seconds = date.wrapping_add(r.signed()?);
        let save_date = date.wrapping_add(r.signed()?);
        let zone_minutes = i16::try_from(r.signed()?).map_err(|_| r.fault())?;
        rows.push(MessageRow {
            uid: Uid(uid),
            internal_date: DateTime { seconds, zone_minutes },
            save_date,
            size: r.number()?,
            email_id: EmailId(email.wrapping_add(r.signed()?) as u64),
            thread_id: ThreadId(u64::from_le_bytes(r.array()?)),
            hash: BodyHash(r.array()?),
        });
    }
    r.end()?;
    Ok(rows)
}

/// A run being written at its end.
struct OpenRun {
    run: RunHeader,
    date: i64,
    email: i64,
    value: Vec<u8>,
}

impl OpenRun {
    fn new(first: &MessageRow) -> Self {
        let (date, email) = (first.save_date, first.email_id.0 as i64);
        let mut value = Vec::with_capacity(HEADER_BYTES + 64);
        value.resize(HEADER, 0);
        value.extend_from_slice(&date.to_le_bytes());
        value.extend_from_slice(&email.to_le_bytes());
        Self { run: RunHeader { first: first.uid, count: 0, last: first.uid }, date, email, value }
    }

    fn resume(key: &[u8], value: Vec<u8>) -> Result<Self, TableFault> {
        let run = RunHeader::read(key, &value)?;
        let mut r = Reader::new(&value, WHAT);
        r.bytes(HEADER)?;
        let (date, email) = (i64::from_le_bytes(r.array()?), i64::from_le_bytes(r.array()?));
        Ok(Self { run, date, email, value })
    }

    fn push(&mut self, row: &MessageRow) {
        debug_assert!(self.run.count == 0 || row.uid > self.run.last, "UIDs ascend");
        put(&mut self.value, u64::from(row.uid.0 - self.run.last.0));
        put_signed(&mut self.value, row.internal_date.seconds.wrapping_sub(self.date));
        put_signed(&mut self.value, row.save_date.wrapping_sub(self.date));
        put_signed(&mut self.value, i64::from(row.internal_date.zone_minutes));
        put(&mut self.value, row.size);
        put_signed(&mut self.value, (row.email_id.0 as i64).wrapping_sub(self.email));
        self.value.extend_from_slice(&row.thread_id.0.to_le_bytes());
        self.value.extend_from_slice(&row.hash.0);
        self.run.count += 1;
        self.run.last = row.uid;
    }

    fn write(mut self, work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
        write_header(&mut self.value, self.run.count, self.run.last);
        work.put(keys::run(Table::Messages, work.account, mailbox, self.run.first), self.value)
    }
}

fn prefix(account: AccountId, mailbox: MailboxId) -> Vec<u8> {
    keys::of_mailbox(Table::Messages, account, mailbox)
}

/// Adds rows behind all others, ascending.
pub(crate) fn append(work: &mut Work<'_, '_>, mailbox: MailboxId, rows: &[MessageRow]) -> Result<(), TableFault> {
    let prefix = prefix(work.account, mailbox);
    let mut rest = rows;
    if let Some((key, value)) = work.last(&prefix, &keys::end(&prefix))? {
        let mut tail = OpenRun::resume(&key, value)?;
        let room = usize::from(TAIL_ROWS_MAX.saturating_sub(tail.run.count));
        if room == 0 && tail.run.count == TAIL_ROWS_MAX {
            join_tail(work, mailbox, &prefix, &key, &tail)?;
        } else if room > 0 {
            let taken = rest.len().min(room);
            rest[..taken].iter().for_each(|row| tail.push(row));
            rest = &rest[taken..];
            tail.write(work, mailbox)?;
        }
    }
    write_rows(work, mailbox, rest)
}

/// Moves a full tail into the run before it, where that has room.
fn join_tail(work: &mut Work<'_, '_>, mailbox: MailboxId, prefix: &[u8], key: &[u8], tail: &OpenRun) -> Result<(), TableFault> {
    let Some((before_key, before_value)) = work.last(prefix, key)? else { return Ok(()) };
    let mut before = OpenRun::resume(&before_key, before_value)?;
    if before.run.count + tail.run.count > ROWS_MAX || before.value.len() + tail.value.len() + usize::from(tail.run.count) * 8 > BYTES_FULL
    {
        return Ok(());
    }
    decode(&tail.run, &tail.value)?.iter().for_each(|row| before.push(row));
    work.delete(key.to_vec())?;
    before.write(work, mailbox)
}

/// Writes rows as new runs.
fn write_rows(work: &mut Work<'_, '_>, mailbox: MailboxId, rows: &[MessageRow]) -> Result<(), TableFault> {
    let mut open: Option<OpenRun> = None;
    for row in rows {
        if let Some(full) = open.take_if(|run| run.run.count >= ROWS_MAX || run.value.len() >= BYTES_FULL) {
            full.write(work, mailbox)?;
        }
        open.get_or_insert_with(|| OpenRun::new(row)).push(row);
    }
    open.map_or(Ok(()), |run| run.write(work, mailbox))
}

/// Visits the rows of `uids`, ascending, until `visit` returns false.
pub(crate) fn visit_rows(
    tables: &dyn Tables,
    account: AccountId,
    mailbox: MailboxId,
    uids: &UidSet,
    visit: &mut dyn FnMut(MessageRow) -> bool,
) -> Result<(), TableFault> {
    runs::visit(tables, &prefix(account, mailbox), uids, &mut |header, _, value| {
        for row in decode(header, value)? {
            if uids.contains(row.uid) && !visit(row) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// The rows of `uids`.
pub(crate) fn rows(tables: &dyn Tables, account: AccountId, mailbox: MailboxId, uids: &UidSet) -> Result<Vec<MessageRow>, TableFault> {
    let mut rows = Vec::new();
    visit_rows(tables, account, mailbox, uids, &mut |row| {
        rows.push(row);
        true
    })?;
    Ok(rows)
}

/// Removes the rows of `uids` and gives them. Touched neighbours that became small are joined.
pub(crate) fn remove(work: &mut Work<'_, '_>, mailbox: MailboxId, uids: &UidSet) -> Result<Vec<MessageRow>, TableFault> {
    let prefix = prefix(work.account, mailbox);
    let mut touched = Vec::new();
    runs::visit(work, &prefix, uids, &mut |header, _, value| {
        touched.push((header.first, decode(header, value)?));
        Ok(true)
    })?;
    let mut removed = Vec::new();
    let mut kept: Vec<MessageRow> = Vec::new();
    for (first, rows) in touched {
        let (gone, stay): (Vec<MessageRow>, Vec<MessageRow>) = rows.into_iter().partition(|row| uids.contains(row.uid));
        removed.extend(gone);
        work.delete(keys::run(Table::Messages, work.account, mailbox, first))?;
        if let Some(open) = kept.first()
            && (kept.len() + stay.len() > JOIN_ROWS_MAX || runs::any_between(work, &prefix, open.uid, first)?)
        {
            write_rows(work, mailbox, &std::mem::take(&mut kept))?;
        }
        kept.extend(stay);
    }
    write_rows(work, mailbox, &kept)?;
    Ok(removed)
}

/// Removes every run of a mailbox and gives the rows.
pub(crate) fn clear(work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<Vec<MessageRow>, TableFault> {
    let prefix = prefix(work.account, mailbox);
    let all = rows(work, work.account, mailbox, &UidSet::range(Uid(1), Uid(u32::MAX)))?;
    work.delete_all(&prefix)?;
    Ok(all)
}
