//! References to bodies (table R): for every body that a message of the account names, how many do. Packed runs of the first 8
//! bytes of the hash. Two bodies that share them (2^32 work for one who wants it) share a count, so that one of them may be kept
//! for longer than needed; a body is never released while a message names it.

use crate::applied::Change;
use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, put};
use crate::records::packed::PackedMap;
use crate::work::Work;
use parliament_ids::{AccountId, BodyHash};
use std::collections::{BTreeMap, BTreeSet};

/// What a count is kept under.
pub(crate) type Prefix = [u8; 8];

/// The part of a hash that its count is kept under.
pub(crate) fn prefix_of(hash: &BodyHash) -> Prefix {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&hash.0[..8]);
    prefix
}

fn map(account: AccountId) -> PackedMap {
    PackedMap { prefix: keys::of(Table::References, account), bytes_max: 640 }
}

fn count_of(value: Option<&[u8]>) -> Result<u64, TableFault> {
    value.map_or(Ok(0), |value| Reader::new(value, "reference").number())
}

fn encoded(count: u64) -> Option<Vec<u8>> {
    (count != 0).then(|| {
        let mut out = Vec::with_capacity(2);
        put(&mut out, count);
        out
    })
}

/// Grouped by prefix: how many of the hashes have it, and which they are.
type Grouped = BTreeMap<Prefix, (u64, BTreeSet<BodyHash>)>;

fn grouped<'a>(hashes: impl IntoIterator<Item = &'a BodyHash>) -> Grouped {
    let mut grouped = Grouped::new();
    for hash in hashes {
        let entry = grouped.entry(prefix_of(hash)).or_default();
        entry.0 += 1;
        entry.1.insert(*hash);
    }
    grouped
}

/// Counts one more reference for each hash.
pub(crate) fn add<'a>(work: &mut Work<'_, '_>, hashes: impl IntoIterator<Item = &'a BodyHash>) -> Result<(), TableFault> {
    let account = work.account;
    let grouped: Vec<_> = grouped(hashes).into_iter().collect();
    let keys: Vec<&[u8]> = grouped.iter().map(|(prefix, _)| prefix.as_slice()).collect();
    let mut changes = Vec::new();
    map(account).update(work, &keys, &mut |n, value| {
        let (count, (more, hashes)) = (count_of(value)?, &grouped[n].1);
        if count == 0 {
            changes.extend(hashes.iter().map(|hash| Change::BodyReferenced { account, hash: *hash }));
        }
        Ok(encoded(count + more))
    })?;
    work.changes.extend(changes);
    Ok(())
}

/// Counts one reference less for each hash; those without any are told as released.
pub(crate) fn release<'a>(work: &mut Work<'_, '_>, hashes: impl IntoIterator<Item = &'a BodyHash>) -> Result<(), TableFault> {
    let account = work.account;
    let grouped: Vec<_> = grouped(hashes).into_iter().collect();
    let keys: Vec<&[u8]> = grouped.iter().map(|(prefix, _)| prefix.as_slice()).collect();
    let mut changes = Vec::new();
    map(account).update(work, &keys, &mut |n, value| {
        let (count, (fewer, hashes)) = (count_of(value)?, &grouped[n].1);
        debug_assert!(count >= *fewer, "every message was counted");
        let left = count.saturating_sub(*fewer);
        if left == 0 {
            changes.extend(hashes.iter().map(|hash| Change::BodyReleased { account, hash: *hash }));
        }
        Ok(encoded(left))
    })?;
    work.changes.extend(changes);
    Ok(())
}

/// All counts, for the invariants.
pub(crate) fn all(tables: &dyn Tables, account: AccountId) -> Result<BTreeMap<Prefix, u64>, TableFault> {
    let mut counts = BTreeMap::new();
    map(account).scan(tables, &mut |key, value| {
        let prefix = key.try_into().map_err(|_| crate::records::codec::damaged("key of a reference"))?;
        counts.insert(prefix, count_of(Some(value))?);
        Ok(true)
    })?;
    Ok(counts)
}
