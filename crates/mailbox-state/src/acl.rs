//! Access control lists (table L, RFC 4314). Entries name accounts by id, so that a recreated account inherits nothing.

use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, damaged};
use crate::records::packed::PackedMap;
use crate::work::Work;
use parliament_ids::{AccountId, MailboxId, Rights};
use parliament_mail_api::{AclMode, AclSubject, Rejection};

/// Entries of one mailbox.
pub(crate) const ENTRIES_MAX: usize = 1000;

/// One entry of a mailbox's ACL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclEntry {
    /// Whose rights.
    pub subject: AclSubject,
    /// True when the rights are taken away (`-identifier`).
    pub negative: bool,
    /// Which.
    pub rights: Rights,
}

fn map(account: AccountId, mailbox: MailboxId) -> PackedMap {
    PackedMap { prefix: keys::of_mailbox(Table::Acl, account, mailbox), bytes_max: 2048 }
}

fn entry_key(subject: AclSubject, negative: bool) -> [u8; 10] {
    let (tag, id) = match subject {
        AclSubject::Anyone => (0, 0),
        AclSubject::Account(account) => (1, account.0),
        AclSubject::Group(group) => (2, group),
    };
    let mut key = [0; 10];
    key[0] = tag;
    key[1..9].copy_from_slice(&id.to_be_bytes());
    key[9] = u8::from(negative);
    key
}

fn decode(key: &[u8], value: &[u8]) -> Result<AclEntry, TableFault> {
    let mut r = Reader::new(key, "key of an ACL entry");
    let (tag, id, negative) = (r.byte()?, u64::from_be_bytes(r.array()?), r.byte()? != 0);
    let subject = match tag {
        0 => AclSubject::Anyone,
        1 => AclSubject::Account(AccountId(id)),
        2 => AclSubject::Group(id),
        _ => return Err(r.fault()),
    };
    Ok(AclEntry { subject, negative, rights: Rights(u16::from_le_bytes(value.try_into().map_err(|_| damaged("rights"))?)) })
}

/// The ACL of a mailbox, without the owner's own implied rights.
pub(crate) fn list(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Result<Vec<AclEntry>, TableFault> {
    let mut entries = Vec::new();
    map(account, mailbox).scan(tables, &mut |key, value| {
        entries.push(decode(key, value)?);
        Ok(true)
    })?;
    Ok(entries)
}

fn entry(tables: &dyn Tables, account: AccountId, mailbox: MailboxId, subject: AclSubject, negative: bool) -> Result<Rights, TableFault> {
    let key = entry_key(subject, negative);
    map(account, mailbox).get(tables, &key)?.map_or(Ok(Rights::NONE), |value| decode(&key, &value).map(|e| e.rights))
}

/// The rights of an actor: all for the owner; for others those of its own entry and of `anyone`, less the negative ones.
pub(crate) fn rights(tables: &dyn Tables, account: AccountId, actor: AccountId, mailbox: MailboxId) -> Result<Rights, TableFault> {
    if account == actor {
        return Ok(Rights::ALL);
    }
    let mut rights = [Rights::NONE; 2];
    for subject in [AclSubject::Anyone, AclSubject::Account(actor)] {
        for negative in [false, true] {
            let at = &mut rights[usize::from(negative)];
            *at = at.union(entry(tables, account, mailbox, subject, negative)?);
        }
    }
    Ok(rights[0].minus(rights[1]))
}

/// What a lack of rights is told as: without the right to see the mailbox it does not exist.
pub(crate) fn require(held: Rights, needed: Rights) -> Result<(), Rejection> {
    if held.contains(needed) {
        Ok(())
    } else if held.contains(Rights::LOOKUP) {
        Err(Rejection::NoPermission)
    } else {
        Err(Rejection::NoSuchMailbox)
    }
}

/// What an entry becomes.
pub(crate) fn combined(old: Rights, mode: AclMode, rights: Rights) -> Rights {
    match mode {
        AclMode::Set => rights,
        AclMode::Add => old.union(rights),
        AclMode::Remove => old.minus(rights),
    }
}

/// Sets an entry; no rights remove it.
pub(crate) fn set(work: &mut Work<'_, '_>, mailbox: MailboxId, entry: &AclEntry) -> Result<(), TableFault> {
    let value = entry.rights.0.to_le_bytes();
    let value = (entry.rights != Rights::NONE).then_some(value.as_slice());
    map(work.account, mailbox).set(work, &entry_key(entry.subject, entry.negative), value)
}

/// Gives a new mailbox the entries of another.
pub(crate) fn inherit(work: &mut Work<'_, '_>, from: MailboxId, to: MailboxId) -> Result<(), TableFault> {
    list(work, work.account, from)?.iter().try_for_each(|entry| set(work, to, entry))
}

/// Removes a mailbox's ACL.
pub(crate) fn clear(work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
    let prefix = keys::of_mailbox(Table::Acl, work.account, mailbox);
    work.delete_all(&prefix)
}
