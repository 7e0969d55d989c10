//! Keyword lists of mailboxes (table K): keyword ↔ bit 0…127, matched without regard to ASCII case. Bits are never reused.

use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::damaged;
use crate::records::packed::PackedMap;
use crate::work::Work;
use parliament_ids::limits::KEYWORDS_PER_MAILBOX_MAX;
use parliament_ids::{AccountId, Keyword, MailboxId};

fn map(account: AccountId, mailbox: MailboxId) -> PackedMap {
    PackedMap { prefix: keys::of_mailbox(Table::Keywords, account, mailbox), bytes_max: 2048 }
}

/// The keywords by their bit.
pub(crate) fn list(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Result<Vec<Keyword>, TableFault> {
    let mut list = Vec::new();
    map(account, mailbox).scan(tables, &mut |key, value| {
        let text = std::str::from_utf8(value).map_err(|_| damaged("keyword"))?;
        if key != [list.len() as u8] {
            return Err(damaged("order of keywords"));
        }
        list.push(Keyword::new(text).map_err(|_| damaged("keyword"))?);
        Ok(true)
    })?;
    Ok(list)
}

/// A list being extended by what a command brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interner {
    list: Vec<Keyword>,
    known: usize,
}

impl Interner {
    /// Begins with the mailbox's list; without keywords to look up nothing is read.
    pub(crate) fn new(tables: &dyn Tables, account: AccountId, mailbox: MailboxId, needed: bool) -> Result<Self, TableFault> {
        let list = if needed { list(tables, account, mailbox)? } else { Vec::new() };
        Ok(Self { known: list.len(), list })
    }

    /// The bits of known keywords; others are passed over.
    pub(crate) fn known_bits(&self, keywords: &[Keyword]) -> u128 {
        keywords.iter().filter_map(|k| self.list.iter().position(|l| l == k)).fold(0, |bits, n| bits | 1 << n)
    }

    /// The bits of keywords, new ones added; `None` when the list is full.
    pub(crate) fn bits(&mut self, keywords: &[Keyword]) -> Option<u128> {
        keywords.iter().try_fold(0, |bits, keyword| {
            let at = self.list.iter().position(|known| known == keyword).unwrap_or(self.list.len());
            if at >= KEYWORDS_PER_MAILBOX_MAX {
                return None;
            }
            if at == self.list.len() {
                self.list.push(keyword.clone());
            }
            Some(bits | 1_u128 << at)
        })
    }

    /// What must be added to the mailbox's list.
    pub(crate) fn into_new(mut self) -> NewKeywords {
        NewKeywords { at: self.known as u8, keywords: self.list.split_off(self.known) }
    }
}

/// Keywords to be added from bit `at` on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewKeywords {
    at: u8,
    keywords: Vec<Keyword>,
}

impl NewKeywords {
    /// True when there is nothing to add.
    pub(crate) fn is_empty(&self) -> bool {
        self.keywords.is_empty()
    }

    /// Adds them.
    pub(crate) fn add(&self, work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
        let map = map(work.account, mailbox);
        for (bit, keyword) in (self.at..).zip(&self.keywords) {
            map.set(work, &[bit], Some(keyword.as_str().as_bytes()))?;
        }
        Ok(())
    }
}

/// Removes a mailbox's list.
pub(crate) fn clear(work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
    let prefix = keys::of_mailbox(Table::Keywords, work.account, mailbox);
    work.delete_all(&prefix)
}
