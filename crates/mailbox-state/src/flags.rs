//! Flag runs (table F): the mutable part of messages, up to 256 to a record.
//!
//! Value: run header, unseen (u16), deleted (u16), lowest and highest MODSEQ (u64 each), then rows: UID as distance from the row
//! before, flag byte (bit 7: keywords follow), keyword bits, MODSEQ above the lowest.

use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, put, put_wide};
use crate::records::runs::{self, HEADER, RunHeader, write_header};
use crate::work::Work;
use parliament_ids::{AccountId, MailboxId, ModSeq, SystemFlags, Uid, UidSet};
use parliament_mail_api::FlagRow;

/// Rows of a run.
const ROWS_MAX: u16 = 256;
/// A run is full at this many bytes; one more row fits below the record's bound.
const BYTES_FULL: usize = 3600;
/// Touched neighbours are joined up to this many rows.
const JOIN_ROWS_MAX: usize = 192;
const HEADER_BYTES: usize = HEADER + 4 + 16;
const WHAT: &str = "flag run";
const HAS_KEYWORDS: u8 = 0x80;

/// The header of a flag run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlagHeader {
    /// UIDs.
    pub(crate) run: RunHeader,
    /// Rows without `\Seen`.
    pub(crate) unseen: u16,
    /// Rows with `\Deleted`.
    pub(crate) deleted: u16,
    /// No row's MODSEQ is below.
    pub(crate) low: ModSeq,
    /// No row's MODSEQ is above.
    pub(crate) high: ModSeq,
}

impl FlagHeader {
    /// Reads it.
    pub(crate) fn read(key: &[u8], value: &[u8]) -> Result<Self, TableFault> {
        let run = RunHeader::read(key, value)?;
        Self::behind(run, value)
    }

    fn behind(run: RunHeader, value: &[u8]) -> Result<Self, TableFault> {
        let mut r = Reader::new(value, WHAT);
        r.bytes(HEADER)?;
        let (unseen, deleted) = (u16::from_le_bytes(r.array()?), u16::from_le_bytes(r.array()?));
        let (low, high) = (ModSeq(u64::from_le_bytes(r.array()?)), ModSeq(u64::from_le_bytes(r.array()?)));
        Ok(Self { run, unseen, deleted, low, high })
    }

    fn write(&self, value: &mut [u8]) {
        write_header(value, self.run.count, self.run.last);
        value[7..9].copy_from_slice(&self.unseen.to_le_bytes());
        value[9..11].copy_from_slice(&self.deleted.to_le_bytes());
        value[11..19].copy_from_slice(&self.low.0.to_le_bytes());
        value[19..27].copy_from_slice(&self.high.0.to_le_bytes());
    }
}

/// The rows of a run.
pub(crate) fn decode(header: &FlagHeader, value: &[u8]) -> Result<Vec<FlagRow>, TableFault> {
    let mut r = Reader::new(value, WHAT);
    r.bytes(HEADER_BYTES)?;
    let mut rows = Vec::with_capacity(usize::from(header.run.count));
    let mut uid = header.run.first.0;
    for _ in 0..header.run.count {
        uid = uid.checked_add(r.small()?).ok_or_else(|| r.fault())?;
        let byte = r.byte()?;
        let keywords = if byte & HAS_KEYWORDS != 0 { r.wide()? } else { 0 };
        let modseq = ModSeq(header.low.0.checked_add(r.number()?).ok_or_else(|| r.fault())?);
        rows.push(FlagRow { uid: Uid(uid), system: SystemFlags(byte & SystemFlags::ALL.0), keywords, modseq });
    }
    r.end()?;
    Ok(rows)
}

/// A run being written at its end.
struct OpenRun {
    header: FlagHeader,
    value: Vec<u8>,
}

impl OpenRun {
    fn new(first: &FlagRow, low: ModSeq) -> Self {
        let run = RunHeader { first: first.uid, count: 0, last: first.uid };
        let header = FlagHeader { run, unseen: 0, deleted: 0, low, high: low };
        let mut value = Vec::with_capacity(HEADER_BYTES + 16);
        value.resize(HEADER_BYTES, 0);
        Self { header, value }
    }

    fn resume(key: &[u8], value: Vec<u8>) -> Result<Self, TableFault> {
        Ok(Self { header: FlagHeader::read(key, &value)?, value })
    }

    fn has_room(&self) -> bool {
        self.header.run.count < ROWS_MAX && self.value.len() < BYTES_FULL
    }

    fn push(&mut self, row: &FlagRow) {
        let h = &mut self.header;
        debug_assert!(row.modseq >= h.low && (h.run.count == 0 || row.uid > h.run.last));
        put(&mut self.value, u64::from(row.uid.0 - h.run.last.0));
        let mark = if row.keywords == 0 { 0 } else { HAS_KEYWORDS };
        self.value.push(row.system.0 | mark);
        if row.keywords != 0 {
            put_wide(&mut self.value, row.keywords);
        }
        put(&mut self.value, row.modseq.0 - h.low.0);
        h.run.count += 1;
        h.run.last = row.uid;
        h.unseen += u16::from(!row.system.contains(SystemFlags::SEEN));
        h.deleted += u16::from(row.system.contains(SystemFlags::DELETED));
        h.high = h.high.max(row.modseq);
    }

    fn write(mut self, work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
        self.header.write(&mut self.value);
        let key = keys::run(Table::Flags, work.account, mailbox, self.header.run.first);
        work.put(key, self.value)
    }
}

fn prefix(account: AccountId, mailbox: MailboxId) -> Vec<u8> {
    keys::of_mailbox(Table::Flags, account, mailbox)
}

/// Adds rows behind all others, ascending. Rewrites the last run only.
pub(crate) fn append(work: &mut Work<'_, '_>, mailbox: MailboxId, rows: &[FlagRow]) -> Result<(), TableFault> {
    let prefix = prefix(work.account, mailbox);
    let last = work.last(&prefix, &keys::end(&prefix))?;
    let mut open = last.map(|(key, value)| OpenRun::resume(&key, value)).transpose()?.filter(OpenRun::has_room);
    for row in rows {
        if let Some(full) = open.take_if(|run| !run.has_room()) {
            full.write(work, mailbox)?;
        }
        open.get_or_insert_with(|| OpenRun::new(row, row.modseq)).push(row);
    }
    open.map_or(Ok(()), |run| run.write(work, mailbox))
}

/// Writes rows that replace runs already deleted or overwritten: as many runs as their size asks for.
fn write_rows(work: &mut Work<'_, '_>, mailbox: MailboxId, rows: &[FlagRow]) -> Result<(), TableFault> {
    let low = rows.iter().map(|r| r.modseq).min().unwrap_or_default();
    let mut open: Option<OpenRun> = None;
    for row in rows {
        if let Some(full) = open.take_if(|run| !run.has_room()) {
            full.write(work, mailbox)?;
        }
        open.get_or_insert_with(|| OpenRun::new(row, low)).push(row);
    }
    open.map_or(Ok(()), |run| run.write(work, mailbox))
}

/// Sees a run's header and value; false ends the visit.
type VisitRun<'v> = dyn FnMut(&FlagHeader, &[u8]) -> Result<bool, TableFault> + 'v;

/// Visits the runs that meet `uids`.
pub(crate) fn visit_runs(
    tables: &dyn Tables,
    account: AccountId,
    mailbox: MailboxId,
    uids: &UidSet,
    visit: &mut VisitRun<'_>,
) -> Result<(), TableFault> {
    runs::visit(tables, &prefix(account, mailbox), uids, &mut |run, _, value| visit(&FlagHeader::behind(*run, value)?, value))
}

/// Visits the rows of `uids` changed above `since`, ascending, until `visit` returns false.
pub(crate) fn visit_rows(
    tables: &dyn Tables,
    account: AccountId,
    mailbox: MailboxId,
    uids: &UidSet,
    since: Option<ModSeq>,
    visit: &mut dyn FnMut(FlagRow) -> bool,
) -> Result<(), TableFault> {
    visit_runs(tables, account, mailbox, uids, &mut |header, value| {
        if since.is_some_and(|since| header.high <= since) {
            return Ok(true);
        }
        for row in decode(header, value)? {
            let newer = since.is_none_or(|since| row.modseq > since);
            if newer && uids.contains(row.uid) && !visit(row) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

type Touched = Vec<(FlagHeader, Vec<u8>)>;

fn touched(work: &Work<'_, '_>, mailbox: MailboxId, uids: &UidSet) -> Result<Touched, TableFault> {
    let mut found = Touched::new();
    visit_runs(work, work.account, mailbox, uids, &mut |header, value| {
        found.push((*header, value.to_vec()));
        Ok(true)
    })?;
    Ok(found)
}

/// Changes rows of `uids` in place. Each touched run is read and written once; keys stay unless a run outgrows its record.
pub(crate) fn change(
    work: &mut Work<'_, '_>,
    mailbox: MailboxId,
    uids: &UidSet,
    change: &mut dyn FnMut(&mut FlagRow),
) -> Result<(), TableFault> {
    for (header, value) in touched(work, mailbox, uids)? {
        let mut rows = decode(&header, &value)?;
        rows.iter_mut().filter(|row| uids.contains(row.uid)).for_each(&mut *change);
        write_rows(work, mailbox, &rows)?;
    }
    Ok(())
}

/// Removes the rows of `uids` and gives them. Touched neighbours that became small are joined.
pub(crate) fn remove(work: &mut Work<'_, '_>, mailbox: MailboxId, uids: &UidSet) -> Result<Vec<FlagRow>, TableFault> {
    let mut removed = Vec::new();
    let mut kept: Vec<FlagRow> = Vec::new();
    for (header, value) in touched(work, mailbox, uids)? {
        let rows = decode(&header, &value)?;
        let (gone, stay): (Vec<FlagRow>, Vec<FlagRow>) = rows.into_iter().partition(|row| uids.contains(row.uid));
        removed.extend(gone);
        work.delete(keys::run(Table::Flags, work.account, mailbox, header.run.first))?;
        if let Some(first) = kept.first()
            && (kept.len() + stay.len() > JOIN_ROWS_MAX
                || runs::any_between(work, &prefix(work.account, mailbox), first.uid, header.run.first)?)
        {
            write_rows(work, mailbox, &std::mem::take(&mut kept))?;
        }
        kept.extend(stay);
    }
    write_rows(work, mailbox, &kept)?;
    Ok(removed)
}

/// Removes every run of a mailbox.
pub(crate) fn clear(work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
    let prefix = prefix(work.account, mailbox);
    work.delete_all(&prefix)
}
