//! Rows of the tables for a page: flags first, then the immutable parts, both ascending by UID and merged.
//!
//! The tables change while they are read, and runs of rows may be joined behind a scan's back: what seems missing is looked at
//! again before it counts as expunged.

use parliament_ids::{AccountId, MailboxId, ModSeq, Uid, UidSet};
use parliament_mail_api::FlagRow;
use parliament_mailbox_state::view::{self, MessageRow};
use parliament_mailbox_state::{TableFault, Tables};

/// How often a scan is repeated when its account changed meanwhile. One that never rests is read anyway in the end.
const STEADY_TRIES: usize = 4;
/// How often records that are missing are looked for.
const LOOKS: usize = 3;

/// One mailbox under reading.
#[derive(Clone, Copy)]
pub(crate) struct Mailbox<'a> {
    pub(crate) tables: &'a dyn Tables,
    pub(crate) account: AccountId,
    pub(crate) id: MailboxId,
}

/// Flags of messages, ascending, and the UID from which on there are more.
#[derive(Default)]
pub(crate) struct Flags {
    pub(crate) rows: Vec<FlagRow>,
    pub(crate) next: Option<Uid>,
}

/// The UIDs of rows that ascend.
pub(crate) fn uids_of(rows: &[FlagRow]) -> UidSet {
    let runs = rows.chunk_by(|a, b| a.uid.next() == b.uid);
    UidSet::from_ranges(runs.filter_map(|run| Some((run.first()?.uid.0, run.last()?.uid.0))))
}

impl Mailbox<'_> {
    /// The flags of the first `most` of `uids` that are messages and, with `since`, were changed after it.
    pub(crate) fn flags(&self, uids: &UidSet, since: Option<ModSeq>, most: usize) -> Result<Flags, TableFault> {
        self.steady(|| {
            let mut found = Flags::default();
            view::flag_rows(self.tables, self.account, self.id, uids, since, &mut |row| {
                if found.rows.len() == most {
                    found.next = Some(row.uid);
                    return false;
                }
                found.rows.push(row);
                true
            })?;
            Ok(found)
        })
    }

    /// The immutable part of each of these messages; `None` where it was expunged meanwhile.
    pub(crate) fn records(&self, flags: &[FlagRow]) -> Result<Vec<Option<MessageRow>>, TableFault> {
        let mut found = vec![None; flags.len()];
        let mut wanted = uids_of(flags);
        for _ in 0..LOOKS {
            if wanted.is_empty() {
                break;
            }
            self.merge(flags, &wanted, &mut found)?;
            let lacking = flags.iter().zip(&found).filter(|(_, record)| record.is_none());
            wanted = lacking.map(|(flag, _)| flag.uid).collect();
        }
        Ok(found)
    }

    fn merge(&self, flags: &[FlagRow], wanted: &UidSet, found: &mut [Option<MessageRow>]) -> Result<(), TableFault> {
        let mut slots = flags.iter().zip(found).peekable();
        view::message_rows(self.tables, self.account, self.id, wanted, &mut |row| {
            while slots.next_if(|(flag, _)| flag.uid < row.uid).is_some() {}
            if let Some((_, slot)) = slots.next_if(|(flag, _)| flag.uid == row.uid) {
                *slot = Some(row);
            }
            true
        })
    }

    fn steady<T>(&self, read: impl Fn() -> Result<T, TableFault>) -> Result<T, TableFault> {
        let mut before = view::state_hash(self.tables, self.account)?;
        for _ in 0..STEADY_TRIES {
            let value = read()?;
            let after = view::state_hash(self.tables, self.account)?;
            if before == after {
                return Ok(value);
            }
            before = after;
        }
        read()
    }
}
