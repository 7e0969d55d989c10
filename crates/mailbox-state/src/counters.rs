//! Counters of mailboxes (table S), packed, so that STATUS and LIST read them and nothing else.

use crate::keys::{self, Table};
use crate::ledger;
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, put};
use crate::records::packed::PackedMap;
use crate::work::Work;
use parliament_ids::{AccountId, MailboxId, ModSeq, Uid, UidValidity};
use parliament_mail_api::StatusData;

const VERSION: u8 = 1;

/// The row of one mailbox. Invariant: every number equals what a recount of the mailbox's runs gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The node that names the mailbox.
    pub(crate) node: u32,
    /// Messages.
    pub(crate) messages: u32,
    /// Messages without `\Seen`.
    pub(crate) unseen: u32,
    /// Messages with `\Deleted`.
    pub(crate) deleted: u32,
    /// Bytes of all messages.
    pub(crate) bytes: u64,
    /// The next UID. Never decreases; every UID below was assigned exactly once.
    pub(crate) uid_next: Uid,
    /// UIDVALIDITY.
    pub(crate) uid_validity: UidValidity,
    /// MODSEQ of the last change of any kind.
    pub(crate) highest_modseq: ModSeq,
    /// MODSEQ of the last change of a present message's flags.
    pub(crate) flags_modseq: ModSeq,
    /// MODSEQ of the last expunge.
    pub(crate) vanished_modseq: ModSeq,
    /// MODSEQ at which a keyword was added last.
    pub(crate) keywords_modseq: ModSeq,
    /// Expunges up to this MODSEQ may be forgotten.
    pub(crate) vanished_floor: ModSeq,
    /// Runs of vanished history.
    pub(crate) vanished_runs: u32,
    /// Bytes of metadata values.
    pub(crate) metadata_bytes: u64,
    /// Head of the ledger.
    pub(crate) ledger: ledger::Head,
}

impl Counters {
    /// A new mailbox.
    pub(crate) fn new(node: u32, uid_validity: UidValidity, modseq: ModSeq) -> Self {
        Self {
            node,
            messages: 0,
            unseen: 0,
            deleted: 0,
            bytes: 0,
            uid_next: Uid(1),
            uid_validity,
            highest_modseq: modseq,
            flags_modseq: ModSeq(0),
            vanished_modseq: ModSeq(0),
            keywords_modseq: ModSeq(0),
            vanished_floor: ModSeq(0),
            vanished_runs: 0,
            metadata_bytes: 0,
            ledger: [0; 16],
        }
    }

    /// As STATUS tells them.
    pub(crate) fn status(&self, mailbox: MailboxId) -> StatusData {
        StatusData {
            mailbox,
            messages: self.messages,
            unseen: self.unseen,
            deleted: self.deleted,
            size: self.bytes,
            uid_next: self.uid_next,
            uid_validity: self.uid_validity,
            highest_modseq: self.highest_modseq,
            recent: 0,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.push(VERSION);
        for number in [self.node, self.messages, self.unseen, self.deleted, self.uid_next.0, self.uid_validity.0, self.vanished_runs] {
            put(&mut out, u64::from(number));
        }
        let modseqs = [self.flags_modseq, self.vanished_modseq, self.keywords_modseq, self.vanished_floor];
        put(&mut out, self.highest_modseq.0);
        for modseq in modseqs {
            put(&mut out, modseq.0);
        }
        put(&mut out, self.bytes);
        put(&mut out, self.metadata_bytes);
        out.extend_from_slice(&self.ledger);
        out
    }

    fn decode(value: &[u8]) -> Result<Self, TableFault> {
        let mut r = Reader::versioned(value, VERSION, "counters")?;
        let row = Self {
            node: r.small()?,
            messages: r.small()?,
            unseen: r.small()?,
            deleted: r.small()?,
            uid_next: Uid(r.small()?),
            uid_validity: UidValidity(r.small()?),
            vanished_runs: r.small()?,
            highest_modseq: ModSeq(r.number()?),
            flags_modseq: ModSeq(r.number()?),
            vanished_modseq: ModSeq(r.number()?),
            keywords_modseq: ModSeq(r.number()?),
            vanished_floor: ModSeq(r.number()?),
            bytes: r.number()?,
            metadata_bytes: r.number()?,
            ledger: r.array()?,
        };
        r.end()?;
        Ok(row)
    }
}

fn map(account: AccountId) -> PackedMap {
    PackedMap { prefix: keys::of(Table::Counters, account), bytes_max: 1024 }
}

/// The row of a mailbox; `None` when there is no such mailbox.
pub(crate) fn get(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Result<Option<Counters>, TableFault> {
    map(account).get(tables, &mailbox.0.to_be_bytes())?.map(|value| Counters::decode(&value)).transpose()
}

/// Writes a mailbox's row.
pub(crate) fn set(work: &mut Work<'_, '_>, mailbox: MailboxId, row: &Counters) -> Result<(), TableFault> {
    debug_assert!(row.highest_modseq <= work.head.modseq, "a mailbox's MODSEQ is one of its account's");
    map(work.account).set(work, &mailbox.0.to_be_bytes(), Some(&row.encode()))
}

/// Removes a mailbox's row.
pub(crate) fn remove(work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
    map(work.account).set(work, &mailbox.0.to_be_bytes(), None)
}

/// All mailboxes of the account, ascending.
pub(crate) fn all(tables: &dyn Tables, account: AccountId) -> Result<Vec<(MailboxId, Counters)>, TableFault> {
    let mut rows = Vec::new();
    map(account).scan(tables, &mut |key, value| {
        let id = keys::number_at(key, 0).ok_or_else(|| crate::records::codec::damaged("key of counters"))?;
        rows.push((MailboxId(id), Counters::decode(value)?));
        Ok(true)
    })?;
    Ok(rows)
}
