//! The storage port of the state machines: an ordered map of bytes, read here, written as one atomic batch by the caller.

use std::collections::BTreeMap;
use std::ops::Bound;

/// A read failed, or a record could not be decoded: this replica of the group must stop and rebuild its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFault {
    /// What was being read or decoded.
    pub what: String,
}

impl std::fmt::Display for TableFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "table fault: {}", self.what)
    }
}
impl std::error::Error for TableFault {}

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// An ordered key-value map. Keys order as bytes.
pub trait Tables {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read or the record is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault>;
    /// Calls `visit` for each record with `from <= key < to`, ascending, until it returns false.
    ///
    /// # Errors
    /// As [`Tables::get`].
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault>;
    /// The greatest record with `from <= key < to`.
    ///
    /// # Errors
    /// As [`Tables::get`].
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, TableFault>;
}

/// Writes of one apply chunk: `None` deletes. The owner hands the whole map to the store as one batch.
pub type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Tables with pending writes on top: what a command sees while its chunk is being applied.
pub struct Overlay<'a> {
    base: &'a dyn Tables,
    writes: Writes,
}

impl<'a> Overlay<'a> {
    /// An overlay without writes.
    #[must_use]
    pub fn new(base: &'a dyn Tables) -> Self {
        Self { base, writes: Writes::new() }
    }
    /// Sets a record.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }
    /// Removes a record.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }
    /// The pending writes.
    #[must_use]
    pub fn into_writes(self) -> Writes {
        self.writes
    }
}

impl Tables for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        match self.writes.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        if from >= to {
            return Ok(());
        }
        let mut pending = self.writes.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        let mut going = true;
        self.base.scan(from, to, &mut |key, value| {
            while let Some((k, v)) = pending.next_if(|(k, _)| k.as_slice() < key) {
                if let Some(v) = v
                    && !visit(k, v)
                {
                    going = false;
                    return false;
                }
            }
            going = match pending.next_if(|(k, _)| k.as_slice() == key) {
                Some((_, Some(v))) => visit(key, v),
                Some((_, None)) => true,
                None => visit(key, value),
            };
            going
        })?;
        while going && let Some((k, v)) = pending.next() {
            if let Some(v) = v {
                going = visit(k, v);
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, TableFault> {
        if from >= to {
            return Ok(None);
        }
        let mut upper = to.to_vec();
        loop {
            let base = self.base.last(from, &upper)?;
            let floor = base.as_ref().map_or(from, |(k, _)| k.as_slice());
            let newer = self
                .writes
                .range::<[u8], _>((Bound::Included(floor), Bound::Excluded(upper.as_slice())))
                .rev()
                .find_map(|(k, v)| v.as_ref().map(|v| (k.clone(), v.clone())));
            if newer.is_some() {
                return Ok(newer);
            }
            match base {
                Some((key, _)) if matches!(self.writes.get(&key), Some(None)) => upper = key,
                other => return Ok(other),
            }
        }
    }
}

/// Tables in memory: the twin of the real store, for tests and simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTables(BTreeMap<Vec<u8>, Vec<u8>>);

impl MemoryTables {
    /// Empty tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Applies a batch.
    pub fn commit(&mut self, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
    /// All records, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.0.iter()
    }
}

impl Tables for MemoryTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        Ok(self.0.get(key).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        if from < to {
            for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
                if !visit(key, value) {
                    break;
                }
            }
        }
        Ok(())
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, TableFault> {
        if from >= to {
            return Ok(None);
        }
        Ok(self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).next_back().map(|(k, v)| (k.clone(), v.clone())))
    }
}
