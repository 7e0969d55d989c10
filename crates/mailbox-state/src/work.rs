//! The writes of one command on one account: every record write goes through here, so that the state hash stays exact.

use crate::account::{self, Head};
use crate::applied::Change;
use crate::keys;
use crate::port::{Overlay, TableFault, Tables};
use crate::state_hash;
use parliament_ids::limits::RECORD_BYTES_MAX;
use parliament_ids::{AccountId, MailboxId, ModSeq};

/// A command's working set. [`Work::finish`] writes the account's head; until then its changes are in memory.
pub(crate) struct Work<'w, 'b> {
    tables: &'w mut Overlay<'b>,
    /// Whose records.
    pub(crate) account: AccountId,
    /// The head as the command leaves it.
    pub(crate) head: Head,
    /// The group's time.
    pub(crate) now: i64,
    /// What others must hear.
    pub(crate) changes: Vec<Change>,
    stamped: bool,
}

impl Tables for Work<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        self.tables.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        self.tables.scan(from, to, visit)
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, TableFault> {
        self.tables.last(from, to)
    }
}

impl<'w, 'b> Work<'w, 'b> {
    /// Begins work on an account with this head.
    pub(crate) fn begin(tables: &'w mut Overlay<'b>, account: AccountId, head: Head, now: i64) -> Self {
        Self { tables, account, head, now, changes: Vec::new(), stamped: false }
    }

    /// Writes a record of the account.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), TableFault> {
        debug_assert!(value.len() <= RECORD_BYTES_MAX, "record of {} bytes in table {}", value.len(), key[0] as char);
        if let Some(old) = self.tables.get(&key)? {
            if old == value {
                return Ok(());
            }
            self.head.state_hash = self.head.state_hash.wrapping_sub(state_hash::record(&key, &old));
        }
        self.head.state_hash = self.head.state_hash.wrapping_add(state_hash::record(&key, &value));
        self.tables.put(key, value);
        Ok(())
    }

    /// Removes a record of the account.
    pub(crate) fn delete(&mut self, key: Vec<u8>) -> Result<(), TableFault> {
        if let Some(old) = self.tables.get(&key)? {
            self.head.state_hash = self.head.state_hash.wrapping_sub(state_hash::record(&key, &old));
            self.tables.delete(key);
        }
        Ok(())
    }

    /// Removes every record under a prefix.
    pub(crate) fn delete_all(&mut self, prefix: &[u8]) -> Result<(), TableFault> {
        let mut gone = Vec::new();
        self.tables.scan(prefix, &keys::end(prefix), &mut |key, _| {
            gone.push(key.to_vec());
            true
        })?;
        gone.into_iter().try_for_each(|key| self.delete(key))
    }

    /// Writes a group-wide record, which no account's state hash counts.
    pub(crate) fn put_group_wide(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.tables.put(key, value);
    }

    /// Removes a group-wide record.
    pub(crate) fn delete_group_wide(&mut self, key: Vec<u8>) {
        self.tables.delete(key);
    }

    /// The command's MODSEQ: one for all it changes, taken at the first change.
    pub(crate) fn modseq(&mut self) -> ModSeq {
        if !self.stamped {
            self.head.modseq = self.head.modseq.next();
            self.stamped = true;
        }
        self.head.modseq
    }

    /// Tells watchers of a mailbox.
    pub(crate) fn touched(&mut self, mailbox: MailboxId) {
        let change = Change::Mailbox { account: self.account, mailbox, modseq: self.modseq() };
        if !self.changes.contains(&change) {
            self.changes.push(change);
        }
    }

    /// Tells watchers of the account's names and settings.
    pub(crate) fn names_touched(&mut self) {
        let change = Change::Names { account: self.account };
        if !self.changes.contains(&change) {
            self.changes.push(change);
        }
    }

    /// Writes the head, if it changed, and gives the changes.
    pub(crate) fn finish(mut self) -> Result<Vec<Change>, TableFault> {
        let key = account::key(self.account);
        let old = self.tables.get(&key)?;
        if let Some(old) = &old {
            self.head.state_hash = self.head.state_hash.wrapping_sub(state_hash::record(&key, old));
        }
        let mut value = self.head.encode();
        self.head.state_hash = self.head.state_hash.wrapping_add(state_hash::record(&key, &value));
        let tail = value.len() - state_hash::SUM_BYTES;
        value[tail..].copy_from_slice(&self.head.state_hash.to_le_bytes());
        if old.as_ref() != Some(&value) {
            self.tables.put(key, value);
        }
        Ok(self.changes)
    }
}
