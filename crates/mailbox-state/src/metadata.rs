//! METADATA (table O, RFC 5464): entries of a mailbox or of the account. `/private` entries belong to the reader who set them.
//!
//! Key: mailbox (0 for the account), reader (0 for `/shared`), name in lower case, NUL, part. Values are cut into parts of a
//! record each; part 0 begins with the version and the length.

use crate::counters;
use crate::decide::{Context, Decision, Stop};
use crate::event::Event;
use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, damaged, put};
use crate::work::Work;
use parliament_ids::limits::{METADATA_BYTES_MAX, RECORD_BYTES_MAX};
use parliament_ids::{AccountId, MailboxId, MailboxName, Rights};
use parliament_mail_api::{MetadataEntry, Rejection};
use std::collections::BTreeMap;

const VERSION: u8 = 1;
const PART_BYTES: usize = RECORD_BYTES_MAX - 96;
/// Bytes of an entry's name.
const NAME_BYTES_MAX: usize = 255;
/// Each entry costs this much besides its value, so that empty ones are bounded too.
const ENTRY_COST: u64 = 512;
const SERVER: MailboxId = MailboxId(0);

/// Decides SETMETADATA: all entries or none.
pub(crate) fn decide(cx: &Context<'_>, mailbox: Option<&MailboxName>, entries: &[MetadataEntry]) -> Result<Decision, Stop> {
    let (target, mut used) = match mailbox {
        Some(name) => {
            let (id, row, held) = cx.named(name, Rights::LOOKUP)?;
            entries.iter().try_for_each(|entry| allow(held, &entry.name))?;
            (Some(id), row.metadata_bytes)
        }
        None if cx.is_owner() => (None, cx.head.metadata_bytes),
        None => return Err(Rejection::NoPermission.into()),
    };
    let mut sizes = BTreeMap::new();
    for entry in entries {
        let name = canonical(&entry.name).ok_or(Rejection::Cannot)?;
        if entry.value.as_ref().is_some_and(|value| value.len() > METADATA_BYTES_MAX) {
            return Err(Rejection::TooBig.into());
        }
        let prefix = prefix(cx.account, target, reader_of(&name, cx.actor), &name);
        let old = sizes.get(&prefix).map_or_else(|| size(cx.tables, &prefix), |size| Ok(*size))?;
        let new = entry.value.as_ref().map_or(0, |value| value.len() as u64 + ENTRY_COST);
        used = (used + new).checked_sub(old).ok_or_else(|| damaged("size of metadata"))?;
        sizes.insert(prefix, new);
    }
    if used > METADATA_BYTES_MAX as u64 {
        return Err(Rejection::Limit.into());
    }
    let entries = entries.iter().map(|e| MetadataEntry { name: e.name.to_ascii_lowercase(), value: e.value.clone() }).collect();
    Ok(Decision::events(vec![Event::MetadataChanged { mailbox: target, entries, reader: cx.actor }]))
}

/// Writing: `/private` needs `l` and `r`, `/shared` needs `l` and `w` (RFC 5464 section 3.3).
fn allow(held: Rights, name: &str) -> Result<(), Rejection> {
    let shared = name.len() >= 8 && name.as_bytes()[..8].eq_ignore_ascii_case(b"/shared/");
    if held.contains(if shared { Rights::WRITE } else { Rights::READ }) { Ok(()) } else { Err(Rejection::NoPermission) }
}

/// The name in lower case, if it is one (RFC 5464 section 3.2).
fn canonical(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let rest = name.strip_prefix("/private/").or_else(|| name.strip_prefix("/shared/"))?;
    let plain = name.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b'*' && b != b'%');
    let levels = rest.split('/').all(|level| !level.is_empty());
    (plain && levels && name.len() <= NAME_BYTES_MAX).then_some(name)
}

fn reader_of(name: &str, actor: AccountId) -> AccountId {
    if name.starts_with("/private/") { actor } else { AccountId(0) }
}

fn reader_prefix(account: AccountId, mailbox: Option<MailboxId>, reader: AccountId) -> Vec<u8> {
    let mut key = keys::of_mailbox(Table::Metadata, account, mailbox.unwrap_or(SERVER));
    key.extend_from_slice(&reader.0.to_be_bytes());
    key
}

fn prefix(account: AccountId, mailbox: Option<MailboxId>, reader: AccountId, name: &str) -> Vec<u8> {
    let mut key = reader_prefix(account, mailbox, reader);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key
}

/// What an entry costs now.
fn size(tables: &dyn Tables, prefix: &[u8]) -> Result<u64, TableFault> {
    let first = [prefix, &[0, 0]].concat();
    let Some(value) = tables.get(&first)? else { return Ok(0) };
    Ok(Reader::versioned(&value, VERSION, "metadata")?.number()? + ENTRY_COST)
}

/// Sets and removes entries.
pub(crate) fn evolve(
    work: &mut Work<'_, '_>,
    mailbox: Option<MailboxId>,
    entries: &[MetadataEntry],
    reader: AccountId,
) -> Result<(), TableFault> {
    let mut row = mailbox.map(|id| counters::get(work, work.account, id)).transpose()?.flatten();
    let mut used = row.as_ref().map_or(work.head.metadata_bytes, |row| row.metadata_bytes);
    for MetadataEntry { name, value } in entries {
        let prefix = prefix(work.account, mailbox, reader_of(name, reader), name);
        used = used.checked_sub(size(work, &prefix)?).ok_or_else(|| damaged("size of metadata"))?;
        work.delete_all(&prefix)?;
        if let Some(value) = value {
            used += value.len() as u64 + ENTRY_COST;
            write(work, &prefix, value)?;
        }
    }
    match (&mut row, mailbox) {
        (Some(row), Some(id)) => {
            row.metadata_bytes = used;
            counters::set(work, id, row)?;
        }
        _ => work.head.metadata_bytes = used,
    }
    work.names_touched();
    Ok(())
}

fn write(work: &mut Work<'_, '_>, prefix: &[u8], value: &[u8]) -> Result<(), TableFault> {
    let mut bytes = vec![VERSION];
    put(&mut bytes, value.len() as u64);
    bytes.extend_from_slice(value);
    for (n, part) in bytes.chunks(PART_BYTES).enumerate() {
        work.put([prefix, &(n as u16).to_be_bytes()].concat(), part.to_vec())?;
    }
    Ok(())
}

/// The entries that an actor sees: `/shared` ones and its own `/private` ones, by name.
pub(crate) fn list(
    tables: &dyn Tables,
    account: AccountId,
    actor: AccountId,
    mailbox: Option<MailboxId>,
) -> Result<Vec<MetadataEntry>, TableFault> {
    let mut entries = list_of(tables, account, mailbox, actor)?;
    if actor != AccountId(0) {
        entries.extend(list_of(tables, account, mailbox, AccountId(0))?);
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn list_of(
    tables: &dyn Tables,
    account: AccountId,
    mailbox: Option<MailboxId>,
    reader: AccountId,
) -> Result<Vec<MetadataEntry>, TableFault> {
    let prefix = reader_prefix(account, mailbox, reader);
    let mut raw: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, part| {
        let name = key.get(prefix.len()..key.len().saturating_sub(3)).unwrap_or_default();
        match raw.last_mut() {
            Some((open, bytes)) if open == name => bytes.extend_from_slice(part),
            _ => raw.push((name.to_vec(), part.to_vec())),
        }
        true
    })?;
    raw.into_iter().map(|(name, bytes)| entry(name, &bytes)).collect()
}

fn entry(name: Vec<u8>, bytes: &[u8]) -> Result<MetadataEntry, TableFault> {
    let mut r = Reader::versioned(bytes, VERSION, "metadata")?;
    let len = r.size()?;
    let value = r.bytes(len)?.to_vec();
    r.end()?;
    Ok(MetadataEntry { name: String::from_utf8(name).map_err(|_| damaged("name of metadata"))?, value: Some(value) })
}

/// What all entries of a mailbox or of the account cost, for the invariants.
pub(crate) fn total(tables: &dyn Tables, account: AccountId, mailbox: Option<MailboxId>) -> Result<u64, TableFault> {
    let prefix = keys::of_mailbox(Table::Metadata, account, mailbox.unwrap_or(SERVER));
    let (mut total, mut fault) = (0, None);
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, value| {
        if key.ends_with(&[0, 0, 0]) {
            match Reader::versioned(value, VERSION, "metadata").and_then(|mut r| r.number()) {
                Ok(len) => total += len + ENTRY_COST,
                Err(e) => fault = Some(e),
            }
        }
        fault.is_none()
    })?;
    fault.map_or(Ok(total), Err)
}

/// Removes all entries of a mailbox.
pub(crate) fn clear(work: &mut Work<'_, '_>, mailbox: MailboxId) -> Result<(), TableFault> {
    let prefix = keys::of_mailbox(Table::Metadata, work.account, mailbox);
    work.delete_all(&prefix)
}
