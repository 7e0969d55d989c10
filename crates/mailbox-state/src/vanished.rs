//! History of expunged UIDs (table V), for QRESYNC (RFC 7162 section 3.2). Bounded: beyond the bound the oldest run is forgotten
//! and the mailbox's floor rises to its MODSEQ; below the floor the answer is every UID that is no message, so it over-reports
//! but never under-reports.
//!
//! Value: version, then entries: MODSEQ above the key's, set of UIDs.

use crate::counters::Counters;
use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, damaged, put, put_set};
use crate::work::Work;
use parliament_ids::{AccountId, MailboxId, ModSeq, Uid, UidSet};

const VERSION: u8 = 1;
/// Runs per mailbox.
pub(crate) const RUNS_MAX: u32 = 64;
/// A run takes no further entry at this many bytes.
const BYTES_FULL: usize = 1500;
/// Ranges in one entry: at most ten bytes each.
const RANGES_MAX: usize = 200;

fn run_modseq(key: &[u8]) -> Result<ModSeq, TableFault> {
    keys::number_at(key, 17).map(ModSeq).ok_or_else(|| damaged("key of vanished history"))
}

fn visit_entries(key: &[u8], value: &[u8], visit: &mut dyn FnMut(ModSeq, UidSet)) -> Result<(), TableFault> {
    let base = run_modseq(key)?;
    let mut r = Reader::versioned(value, VERSION, "vanished history")?;
    while !r.is_empty() {
        let modseq = ModSeq(base.0.checked_add(r.number()?).ok_or_else(|| r.fault())?);
        visit(modseq, r.set()?);
    }
    Ok(())
}

/// Remembers that `uids` vanished at `modseq`, which is not below any remembered one. Keeps the row's bounds.
pub(crate) fn remember(
    work: &mut Work<'_, '_>,
    mailbox: MailboxId,
    row: &mut Counters,
    modseq: ModSeq,
    uids: &UidSet,
) -> Result<(), TableFault> {
    let prefix = keys::of_mailbox(Table::Vanished, work.account, mailbox);
    let mut open = work.last(&prefix, &keys::end(&prefix))?.filter(|(_, value)| value.len() < BYTES_FULL);
    for ranges in uids.ranges().chunks(RANGES_MAX) {
        let entry = UidSet::from_ranges(ranges.iter().copied());
        let (key, mut value) = match open.take().filter(|(_, value)| value.len() < BYTES_FULL) {
            Some(run) => run,
            None => {
                row.vanished_runs += 1;
                (keys::vanished(work.account, mailbox, modseq, Uid(ranges[0].0)), vec![VERSION])
            }
        };
        put(&mut value, modseq.0 - run_modseq(&key)?.0);
        put_set(&mut value, &entry);
        work.put(key.clone(), value.clone())?;
        open = Some((key, value));
    }
    row.vanished_modseq = modseq;
    forget_oldest(work, &prefix, row)
}

fn forget_oldest(work: &mut Work<'_, '_>, prefix: &[u8], row: &mut Counters) -> Result<(), TableFault> {
    if row.vanished_runs <= RUNS_MAX {
        return Ok(());
    }
    let mut surplus = Vec::new();
    let count = (row.vanished_runs - RUNS_MAX) as usize;
    work.scan(prefix, &keys::end(prefix), &mut |key, value| {
        surplus.push((key.to_vec(), value.to_vec()));
        surplus.len() < count
    })?;
    for (key, value) in surplus {
        visit_entries(&key, &value, &mut |modseq, _| row.vanished_floor = row.vanished_floor.max(modseq))?;
        work.delete(key)?;
        row.vanished_runs -= 1;
    }
    Ok(())
}

/// The remembered UIDs that vanished above `since`; exact when `since` is not below the mailbox's floor.
pub(crate) fn since(tables: &dyn Tables, account: AccountId, mailbox: MailboxId, since: ModSeq) -> Result<UidSet, TableFault> {
    let prefix = keys::of_mailbox(Table::Vanished, account, mailbox);
    let upper = [prefix.as_slice(), &since.next().0.to_be_bytes()].concat();
    let start = tables.last(&prefix, &upper)?.map_or(upper, |(key, _)| key);
    let mut ranges = Vec::new();
    let mut fault = None;
    tables.scan(&start, &keys::end(&prefix), &mut |key, value| {
        let read = visit_entries(key, value, &mut |modseq, uids| {
            if modseq > since {
                ranges.extend_from_slice(uids.ranges());
            }
        });
        fault = read.err();
        fault.is_none()
    })?;
    fault.map_or_else(|| Ok(UidSet::from_ranges(ranges)), Err)
}

/// Forgets a mailbox's history.
pub(crate) fn clear(work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
    let prefix = keys::of_mailbox(Table::Vanished, work.account, mailbox);
    work.delete_all(&prefix)
}

/// How many runs there are, and every entry: for the invariants.
pub(crate) fn all(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Result<(u32, Vec<(ModSeq, UidSet)>), TableFault> {
    let prefix = keys::of_mailbox(Table::Vanished, account, mailbox);
    let (mut runs, mut entries, mut fault) = (0, Vec::new(), None);
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, value| {
        runs += 1;
        fault = visit_entries(key, value, &mut |modseq, uids| entries.push((modseq, uids))).err();
        fault.is_none()
    })?;
    fault.map_or(Ok((runs, entries)), Err)
}
