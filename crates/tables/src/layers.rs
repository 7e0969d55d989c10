//! The pending writes in memory, and reads through them down to sled.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use crate::TableError;
use crate::base::{Base, Range, Raw};
use crate::snapshot_file::Entry;

/// A key and its value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// What the map costs for each record beside key and value, in bytes, roughly.
const RECORD_OVERHEAD: usize = 96;

/// Writes not yet in sled; `None` deletes.
#[derive(Default)]
pub(crate) struct Pending {
    map: BTreeMap<Vec<u8>, Option<Arc<[u8]>>>,
    bytes: usize,
    /// The mark that goes with the writes: what has been applied once they are all in.
    pub(crate) applied: Option<Vec<u8>>,
}

impl Pending {
    /// Takes a write in.
    pub(crate) fn insert(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let size = |value: Option<usize>| value.unwrap_or(0);
        self.bytes += key.len() + RECORD_OVERHEAD + size(value.as_ref().map(Vec::len));
        let key_bytes = key.len();
        if let Some(old) = self.map.insert(key, value.map(Arc::from)) {
            self.bytes -= key_bytes + RECORD_OVERHEAD + size(old.as_ref().map(|old| old.len()));
        }
    }
    /// Takes writes in that are older than all that is here.
    pub(crate) fn put_below(&mut self, older: &Pending) {
        for (key, value) in &older.map {
            if !self.map.contains_key(key) {
                self.bytes += key.len() + RECORD_OVERHEAD + value.as_ref().map_or(0, |value| value.len());
                self.map.insert(key.clone(), value.clone());
            }
        }
        if self.applied.is_none() {
            self.applied.clone_from(&older.applied);
        }
    }
    /// What is pending for a key: None if nothing, Some(None) if its removal.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Option<Arc<[u8]>>> {
        self.map.get(key)
    }
    /// All writes, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.map.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }
    /// About how much memory is held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    /// Neither a write nor a mark.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty() && self.applied.is_none()
    }
    fn range(&self, from: &[u8], to: Option<&[u8]>) -> btree_map::Range<'_, Vec<u8>, Option<Arc<[u8]>>> {
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.map.range::<[u8], _>((Bound::Included(from), upper))
    }
}

/// A view through both pending layers to sled: newest first.
pub(crate) struct View<'a> {
    pub(crate) active: &'a Pending,
    pub(crate) frozen: Option<&'a Pending>,
    pub(crate) base: &'a Base,
}

type PendingIter<'a> = Peekable<btree_map::Range<'a, Vec<u8>, Option<Arc<[u8]>>>>;

/// An ascending merge of the layers.
pub(crate) struct Merge<'a> {
    active: PendingIter<'a>,
    frozen: Option<PendingIter<'a>>,
    base: &'a Base,
    range: Range,
    base_next: Option<Raw>,
}

impl<'a> View<'a> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        for layer in [Some(self.active), self.frozen].into_iter().flatten() {
            if let Some(value) = layer.get(key) {
                return Ok(value.as_ref().map(|value| value.to_vec()));
            }
        }
        self.base.get(key)
    }

    /// The records with `from <= key < to` (`to` None: to the end), ascending. `from < to` must hold.
    pub(crate) fn merge(&self, from: &[u8], to: Option<&[u8]>) -> Result<Merge<'a>, TableError> {
        let mut range = self.base.range(from, to);
        let base_next = range.next()?;
        let active = self.active.range(from, to).peekable();
        let frozen = self.frozen.map(|frozen| frozen.range(from, to).peekable());
        Ok(Merge { active, frozen, base: self.base, range, base_next })
    }

    /// The greatest record with `from <= key < to`. `from < to` must hold.
    pub(crate) fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, TableError> {
        let mut active = self.active.range(from, Some(to)).rev().peekable();
        let mut frozen = self.frozen.map(|frozen| frozen.range(from, Some(to)).rev().peekable());
        let mut range = self.base.range(from, Some(to));
        let mut base_next = range.next_back()?;
        loop {
            let candidates = [
                active.peek().map(|(key, _)| key.as_slice()),
                frozen.as_mut().and_then(|frozen| frozen.peek().map(|(key, _)| key.as_slice())),
                base_next.as_ref().map(|(key, _)| key.as_slice()),
            ];
            let Some(key) = candidates.into_iter().flatten().max().map(<[u8]>::to_vec) else { return Ok(None) };
            let newest = active.next_if(|(k, _)| **k == key).map(|(_, value)| value.as_deref());
            let older = frozen.as_mut().and_then(|frozen| frozen.next_if(|(k, _)| **k == key)).map(|(_, value)| value.as_deref());
            let oldest = match &base_next {
                Some((k, _)) if *k == key => std::mem::replace(&mut base_next, range.next_back()?),
                _ => None,
            };
            match newest.or(older) {
                Some(Some(value)) => return Ok(Some((key, value.to_vec()))),
                Some(None) => {}
                None => return oldest.map(|(_, raw)| self.base.resolve(&key, &raw).map(|value| (key, value))).transpose(),
            }
        }
    }
}

impl Merge<'_> {
    /// The next key that any layer names, with its value (None: removed).
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TableError> {
        let candidates = [
            self.active.peek().map(|(key, _)| key.as_slice()),
            self.frozen.as_mut().and_then(|frozen| frozen.peek().map(|(key, _)| key.as_slice())),
            self.base_next.as_ref().map(|(key, _)| key.as_slice()),
        ];
        let Some(key) = candidates.into_iter().flatten().min().map(<[u8]>::to_vec) else { return Ok(None) };
        let newest = self.active.next_if(|(k, _)| **k == key).map(|(_, value)| value.as_deref());
        let older = self.frozen.as_mut().and_then(|frozen| frozen.next_if(|(k, _)| **k == key)).map(|(_, value)| value.as_deref());
        let oldest = match &self.base_next {
            Some((k, _)) if *k == key => std::mem::replace(&mut self.base_next, self.range.next()?),
            _ => None,
        };
        let value = match newest.or(older) {
            Some(pending) => pending.map(<[u8]>::to_vec),
            None => oldest.map(|(_, raw)| self.base.resolve(&key, &raw)).transpose()?,
        };
        Ok(Some((key, value)))
    }
}
