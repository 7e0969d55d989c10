//! Many small entries packed into few records: an ordered map inside a key prefix.
//!
//! A record holds the entries from its own key (the bytes behind the prefix) up to the next record's. The first record of a map
//! is keyed by the bare prefix, so that a key below all others has a place.

use super::codec::{Reader, put};
use crate::keys;
use crate::port::{Record, TableFault, Tables};
use crate::work::Work;
use parliament_ids::limits::RECORD_BYTES_MAX;

const VERSION: u8 = 1;
const WHAT: &str = "packed map";

/// A packed map. Keys are at most 255 bytes, values at most a quarter of [`RECORD_BYTES_MAX`].
pub(crate) struct PackedMap {
    /// Where the map lives.
    pub(crate) prefix: Vec<u8>,
    /// A record above this many bytes is split.
    pub(crate) bytes_max: usize,
}

type Entry<'a> = (&'a [u8], &'a [u8]);
/// Sees a key and its value; false ends the visit.
type VisitEntry<'v> = dyn FnMut(&[u8], &[u8]) -> Result<bool, TableFault> + 'v;
/// Given the number of a key and its value, gives the new value.
type ChangeEntry<'c> = dyn FnMut(usize, Option<&[u8]>) -> Result<Option<Vec<u8>>, TableFault> + 'c;

fn decode(value: &[u8]) -> Result<Vec<Entry<'_>>, TableFault> {
    let mut reader = Reader::versioned(value, VERSION, WHAT)?;
    let mut entries = Vec::new();
    while !reader.is_empty() {
        let key_len = reader.byte()?;
        let key = reader.bytes(usize::from(key_len))?;
        let len = reader.size()?;
        entries.push((key, reader.bytes(len)?));
    }
    Ok(entries)
}

fn put_entry(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    debug_assert!(key.len() <= 255 && value.len() <= RECORD_BYTES_MAX / 4);
    out.push(key.len() as u8);
    out.extend_from_slice(key);
    put(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Encodes entries into pieces of about equal size, none above `bytes_max` by more than one entry; each with its first key.
fn encode(entries: &[(&[u8], &[u8])], bytes_max: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let size = |(k, v): &Entry<'_>| k.len() + v.len() + 3;
    let total: usize = entries.iter().map(size).sum();
    let piece_max = if total < bytes_max { bytes_max } else { total / (total / (bytes_max * 2 / 3) + 1) };
    let mut pieces: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (key, value) in entries {
        match pieces.last_mut() {
            Some((_, open)) if open.len() < piece_max => put_entry(open, key, value),
            _ => {
                let mut open = Vec::with_capacity(total.min(piece_max) + 64);
                open.push(VERSION);
                put_entry(&mut open, key, value);
                pieces.push((key.to_vec(), open));
            }
        }
    }
    pieces
}

impl PackedMap {
    fn record_key(&self, behind: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + behind.len() + 1);
        key.extend_from_slice(&self.prefix);
        key.extend_from_slice(behind);
        key
    }

    /// The record that covers a key.
    fn covering(&self, tables: &dyn Tables, key: &[u8]) -> Result<Option<Record>, TableFault> {
        let mut to = self.record_key(key);
        to.push(0);
        tables.last(&self.prefix, &to)
    }

    /// The value of a key.
    pub(crate) fn get(&self, tables: &dyn Tables, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        let Some((_, record)) = self.covering(tables, key)? else { return Ok(None) };
        let mut reader = Reader::versioned(&record, VERSION, WHAT)?;
        while !reader.is_empty() {
            let key_len = reader.byte()?;
            let found = reader.bytes(usize::from(key_len))?;
            let len = reader.size()?;
            let value = reader.bytes(len)?;
            match found.cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(value.to_vec())),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Visits all entries in order until `visit` returns false.
    pub(crate) fn scan(&self, tables: &dyn Tables, visit: &mut VisitEntry<'_>) -> Result<(), TableFault> {
        let mut fault = None;
        tables.scan(&self.prefix, &keys::end(&self.prefix), &mut |_, record| {
            let mut each = || -> Result<bool, TableFault> {
                for (key, value) in decode(record)? {
                    if !visit(key, value)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            each().unwrap_or_else(|e| {
                fault = Some(e);
                false
            })
        })?;
        fault.map_or(Ok(()), Err)
    }

    /// Sets or removes one entry.
    pub(crate) fn set(&self, work: &mut Work<'_, '_>, key: &[u8], value: Option<&[u8]>) -> Result<(), TableFault> {
        self.update(work, &[key], &mut |_, _| Ok(value.map(<[u8]>::to_vec)))
    }

    /// Replaces the values of `keys` (ascending, distinct) by what `change` makes of them, reading and writing each record once.
    pub(crate) fn update(&self, work: &mut Work<'_, '_>, keys: &[&[u8]], change: &mut ChangeEntry<'_>) -> Result<(), TableFault> {
        debug_assert!(keys.is_sorted_by(|a, b| a < b), "keys ascend");
        let mut at = 0;
        while let Some(first) = keys.get(at) {
            let (record_key, record) = self.covering(work, first)?.unwrap_or_else(|| (self.prefix.clone(), vec![VERSION]));
            let until = if at + 1 < keys.len() { self.successor(work, &record_key)? } else { None };
            let here = match &until {
                Some(next) => keys[at..].partition_point(|k| *k < next.as_slice()),
                None => keys.len() - at,
            };
            let mut changed = Vec::with_capacity(here);
            let old = decode(&record)?;
            for (n, key) in keys[at..at + here].iter().enumerate() {
                let present = old.binary_search_by(|(k, _)| (*k).cmp(key)).ok().map(|i| old[i].1);
                changed.push(change(at + n, present)?);
            }
            self.rewrite(work, record_key, &old, &keys[at..at + here], &changed)?;
            at += here;
        }
        Ok(())
    }

    /// The key, behind the prefix, of the record after this one.
    fn successor(&self, tables: &dyn Tables, record_key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        let mut from = record_key.to_vec();
        from.push(0);
        let mut next = None;
        tables.scan(&from, &keys::end(&self.prefix), &mut |key, _| {
            next = key.get(self.prefix.len()..).map(<[u8]>::to_vec);
            false
        })?;
        Ok(next)
    }

    fn rewrite(
        &self,
        work: &mut Work<'_, '_>,
        record_key: Vec<u8>,
        old: &[Entry<'_>],
        keys: &[&[u8]],
        changed: &[Option<Vec<u8>>],
    ) -> Result<(), TableFault> {
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(old.len() + keys.len());
        let mut kept = old.iter().peekable();
        for (key, value) in keys.iter().zip(changed) {
            while let Some(entry) = kept.next_if(|(k, _)| k < key) {
                entries.push(*entry);
            }
            let _replaced = kept.next_if(|(k, _)| k == key);
            if let Some(value) = value {
                entries.push((key, value));
            }
        }
        entries.extend(kept);
        if entries.is_empty() {
            return work.delete(record_key);
        }
        for (n, (first, value)) in encode(&entries, self.bytes_max).into_iter().enumerate() {
            let key = if n == 0 { record_key.clone() } else { self.record_key(&first) };
            work.put(key, value)?;
        }
        Ok(())
    }
}
