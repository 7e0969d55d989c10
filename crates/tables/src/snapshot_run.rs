//! An exact image of the tables at one moment, written while commits go on.
//!
//! A scanner walks the keys in order. Before a commit changes a key that the scanner has not reached, the key's old value (or its absence)
//! is saved aside; the scanner takes the saved one. Saved values above a bound go to a spill file; saved keys stay in memory, under a bound
//! at which the snapshot is given up rather than the commit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::directory::{add_suffix, remove};
use crate::group::Inner;
use crate::layers::{Record, View};
use crate::snapshot_file::{SnapshotInfo, Writer};
use crate::{TableError, TableOptions};

/// A chunk of the scan ends after this many keys or bytes: commits wait for one chunk at most.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: usize = 128 << 10;
/// What a saved key costs in memory beside its bytes, roughly.
const SAVED_OVERHEAD: usize = 96;

enum Saved {
    Absent,
    Memory(Vec<u8>),
    Spilled { offset: u64, bytes: usize },
}

/// What commit and scanner share.
pub(crate) struct CopyOnWrite(Mutex<Copies>);

struct Copies {
    /// The first key not yet scanned; None once all are.
    cursor: Option<Vec<u8>>,
    saved: BTreeMap<Vec<u8>, Saved>,
    key_bytes: usize,
    value_bytes: usize,
    spill: Option<File>,
    spilled: u64,
    spill_path: PathBuf,
    key_bytes_max: usize,
    value_bytes_max: usize,
    lost: Option<String>,
}

impl CopyOnWrite {
    fn lock(&self) -> MutexGuard<'_, Copies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves the old values of keys about to change. Called with the tables' lock held for writing.
    pub(crate) fn before_change<'k>(&self, keys: impl Iterator<Item = &'k Vec<u8>>, view: &View<'_>) -> Result<(), TableError> {
        let mut copies = self.lock();
        for key in keys {
            if copies.wants(key) {
                let old = view.get(key)?;
                if let Err(why) = copies.save(key, old) {
                    copies.give_up(why);
                }
            }
        }
        Ok(())
    }

    /// Ends the snapshot, since the tables are being replaced.
    pub(crate) fn cancel(&self, why: &str) {
        self.lock().give_up(why.to_owned());
    }

    /// The next records of the image. Called with the tables' lock held for reading. None at the end.
    fn next_chunk(&self, view: &View<'_>) -> Result<Option<Vec<Record>>, TableError> {
        let mut copies = self.lock();
        if let Some(why) = &copies.lost {
            return Err(TableError::SnapshotLost(why.clone()));
        }
        let Some(from) = copies.cursor.clone() else { return Ok(None) };
        let mut live = view.merge(&from, None)?;
        let mut live_next = live.next()?;
        let (mut chunk, mut visited, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let saved_key = copies.saved.first_key_value().map(|(key, _)| key);
            let live_key = live_next.as_ref().map(|(key, _)| key);
            let Some(key) = [saved_key, live_key].into_iter().flatten().min().cloned() else {
                copies.cursor = None;
                return Ok(Some(chunk));
            };
            let current = match &live_next {
                Some((live_key, _)) if *live_key == key => std::mem::replace(&mut live_next, live.next()?).and_then(|(_, value)| value),
                _ => None,
            };
            let value = match copies.take(&key)? {
                Some(old) => old,
                None => current,
            };
            visited += 1;
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            let mut after = key.clone();
            chunk.extend(value.map(|value| (key, value)));
            if visited >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
                after.push(0);
                copies.cursor = Some(after);
                return Ok(Some(chunk));
            }
        }
    }
}

impl Copies {
    fn wants(&self, key: &[u8]) -> bool {
        self.lost.is_none() && self.cursor.as_ref().is_some_and(|cursor| key >= cursor.as_slice()) && !self.saved.contains_key(key)
    }

    fn save(&mut self, key: &[u8], old: Option<Vec<u8>>) -> Result<(), String> {
        self.key_bytes += key.len() + SAVED_OVERHEAD;
        if self.key_bytes > self.key_bytes_max {
            return Err(format!("more than {} bytes of keys changed while it was written", self.key_bytes_max));
        }
        let saved = match old {
            None => Saved::Absent,
            Some(old) if self.value_bytes + old.len() <= self.value_bytes_max => {
                self.value_bytes += old.len();
                Saved::Memory(old)
            }
            Some(old) => self.spill(&old).map_err(|error| format!("spill file: {error}"))?,
        };
        self.saved.insert(key.to_vec(), saved);
        Ok(())
    }

    fn spill(&mut self, old: &[u8]) -> std::io::Result<Saved> {
        let file = match &mut self.spill {
            Some(file) => file,
            none => {
                let file = File::options().read(true).write(true).create(true).truncate(true).open(&self.spill_path)?;
                // The file lives as long as its descriptor, so a crash leaves nothing behind.
                fs::remove_file(&self.spill_path)?;
                none.insert(file)
            }
        };
        file.write_all_at(old, self.spilled)?;
        let saved = Saved::Spilled { offset: self.spilled, bytes: old.len() };
        self.spilled += old.len() as u64;
        Ok(saved)
    }

    /// What was saved for a key: Some(None) if its absence.
    fn take(&mut self, key: &[u8]) -> Result<Option<Option<Vec<u8>>>, TableError> {
        let Some(saved) = self.saved.remove(key) else { return Ok(None) };
        self.key_bytes = self.key_bytes.saturating_sub(key.len() + SAVED_OVERHEAD);
        match (saved, &self.spill) {
            (Saved::Absent, _) => Ok(Some(None)),
            (Saved::Memory(old), _) => {
                self.value_bytes -= old.len();
                Ok(Some(Some(old)))
            }
            (Saved::Spilled { offset, bytes }, Some(file)) => {
                let mut old = vec![0; bytes];
                file.read_exact_at(&mut old, offset).map_err(TableError::io("read", &self.spill_path))?;
                Ok(Some(Some(old)))
            }
            (Saved::Spilled { .. }, None) => Err(TableError::SnapshotLost("the spill file is gone".into())),
        }
    }

    fn give_up(&mut self, why: String) {
        self.saved.clear();
        self.spill = None;
        self.lost.get_or_insert(why);
    }
}

/// A snapshot whose moment is fixed; [`SnapshotRun::run`] writes it. Dropping it gives it up.
#[must_use = "commits save old records for it until it has run or is dropped"]
pub struct SnapshotRun {
    inner: Arc<Inner>,
    copies: Arc<CopyOnWrite>,
    path: PathBuf,
    meta: Vec<u8>,
    applied: Vec<u8>,
}

impl SnapshotRun {
    /// Called with the tables' lock held for writing; the caller registers [`SnapshotRun::copies`].
    pub(crate) fn new(inner: Arc<Inner>, path: PathBuf, meta: Vec<u8>, applied: Vec<u8>, options: &TableOptions) -> Self {
        let copies = Copies {
            cursor: Some(Vec::new()),
            saved: BTreeMap::new(),
            key_bytes: 0,
            value_bytes: 0,
            spill: None,
            spilled: 0,
            spill_path: add_suffix(&path, "spill"),
            key_bytes_max: options.snapshot_key_bytes_max,
            value_bytes_max: options.snapshot_value_bytes_max,
            lost: None,
        };
        Self { inner, copies: Arc::new(CopyOnWrite(Mutex::new(copies))), path, meta, applied }
    }

    pub(crate) fn copies(&self) -> &Arc<CopyOnWrite> {
        &self.copies
    }

    /// The applied mark of the image; empty if nothing had been applied.
    #[must_use]
    pub fn applied(&self) -> &[u8] {
        &self.applied
    }

    /// Writes the file: under a temporary name, synced, read back and verified, then renamed and its folder synced. Blocks for as long as
    /// that takes; commits and reads go on meanwhile.
    ///
    /// # Errors
    /// [`TableError::SnapshotLost`] if it was given up; else what reading or writing met. The file's name is taken only on success.
    pub fn run(self) -> Result<SnapshotInfo, TableError> {
        let outcome = self.write();
        if outcome.is_err() {
            remove(&add_suffix(&self.path, "tmp"))?;
        }
        outcome
    }

    fn write(&self) -> Result<SnapshotInfo, TableError> {
        let mut writer = Writer::create(&self.path, &self.meta, &self.applied)?;
        while let Some(chunk) = self.inner.with_view(|view| self.copies.next_chunk(view))? {
            for (key, value) in chunk {
                writer.put(&key, Some(&value))?;
            }
        }
        writer.finish(true)
    }
}

impl Drop for SnapshotRun {
    fn drop(&mut self) {
        self.inner.forget_snapshot(&self.copies);
    }
}
