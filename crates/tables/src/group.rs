//! The tables of one group: commits, reads, flushes, snapshots and their installation.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use parliament_mailbox_state::{TableFault, Tables, Writes};

use crate::base::{Base, Flushed};
use crate::directory::{Directory, Incomplete};
use crate::layers::{Pending, Record, View};
use crate::record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::recover::{Unusable, make_database, open_existing, redo_writer, write_down, write_redo};
use crate::snapshot_file::{META_BYTES_MAX, Reader, verify_snapshot};
use crate::snapshot_run::{CopyOnWrite, SnapshotRun};
use crate::{TableError, real_sync};

/// A scan reads this many records under the lock at first, then doubles up to the maximum.
const SCAN_RECORDS_FIRST: usize = 16;
const SCAN_RECORDS_MAX: usize = 256;
const SCAN_BYTES_MAX: usize = 128 << 10;

/// How much memory a group's tables take.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// sled's page cache, in bytes; at least 1 MiB is used.
    pub cache_bytes: u64,
    /// Pending writes, in bytes, beyond which a commit flushes first. The owner flushes from [`GroupTables::needs_flush`] on, at half of it.
    /// While a flush runs, as much again may gather.
    pub pending_bytes_max: usize,
    /// Old values kept in memory for a running snapshot, in bytes; more go to a spill file beside the snapshot.
    pub snapshot_value_bytes_max: usize,
    /// Keys kept in memory for a running snapshot, in bytes; at more the snapshot is given up.
    pub snapshot_key_bytes_max: usize,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, pending_bytes_max: 8 << 20, snapshot_value_bytes_max: 8 << 20, snapshot_key_bytes_max: 64 << 20 }
    }
}

/// In what state tables were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableState {
    /// Nothing has ever been flushed: apply from the start of the log, or install a snapshot.
    Fresh,
    /// Complete up to the applied mark.
    Ready {
        /// The mark of the last flush that completed.
        applied: Vec<u8>,
    },
    /// An install was interrupted: the tables are empty and refuse everything but [`GroupTables::install`] and [`GroupTables::start_empty`].
    Installing,
    /// The database was unusable and has been put aside. As `Installing` otherwise; the same is found at every open until one of the two.
    SetAside {
        /// What was wrong with it.
        why: String,
    },
}

/// What [`GroupTables::open`] found.
pub struct Opened {
    /// The tables.
    pub tables: GroupTables,
    /// Their state.
    pub state: TableState,
}

/// Counters of one group's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Bytes of sled's files.
    pub disk_bytes: u64,
    /// Bytes of writes not yet flushed.
    pub pending_bytes: u64,
    /// Real device syncs made for sled since the process started, all groups together.
    pub device_syncs: u64,
}

/// The tables of one group: a folder of its own. Cheap to clone; clones are the same tables.
///
/// One thread commits; any number read, flush and write snapshots meanwhile. A read sees every commit that returned before it began. A scan
/// is not one image: it sees each commit's effect on a record or not, as it comes by, up to 256 records at a time.
#[derive(Clone)]
pub struct GroupTables {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    directory: Directory,
    options: TableOptions,
    shared: RwLock<Shared>,
    /// The number of the last flush. Held by a flush or an install: one at a time.
    flushing: Mutex<u64>,
    /// A read has met something that cannot be right.
    suspect: AtomicBool,
}

struct Shared {
    active: Pending,
    frozen: Option<Arc<Pending>>,
    /// None only while incomplete.
    base: Option<Arc<Base>>,
    applied: Option<Vec<u8>>,
    durable: Option<Vec<u8>>,
    incomplete: Option<Incomplete>,
    /// Set for good by a flush that failed in sled: what reached the device is then unknown until the next open.
    failed: Option<String>,
    snapshot: Option<Arc<CopyOnWrite>>,
}

impl Shared {
    fn base(&self) -> Result<&Arc<Base>, TableError> {
        match (&self.incomplete, &self.base) {
            (None, Some(base)) => Ok(base),
            (Some(why), _) => Err(TableError::Incomplete(why.why())),
            (None, None) => Err(TableError::Incomplete("no database".into())),
        }
    }
    fn writable(&self) -> Result<&Arc<Base>, TableError> {
        match &self.failed {
            Some(why) => Err(TableError::Sled { what: "an earlier flush failed", why: why.clone() }),
            None => self.base(),
        }
    }
    fn view(&self) -> Result<View<'_>, TableError> {
        Ok(View { active: &self.active, frozen: self.frozen.as_deref(), base: self.base()? })
    }
}

impl Inner {
    // A panic while the lock is held can only come from an allocation or an assertion; the maps stay well-formed.
    fn read(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }
    pub(crate) fn options(&self) -> &TableOptions {
        &self.options
    }
    /// The database in use.
    pub(crate) fn base(&self) -> Result<Arc<Base>, TableError> {
        self.read().base().cloned()
    }
    /// Puts another database, which holds all that was committed, in place of the one in use and the pending writes.
    pub(crate) fn swap(&self, base: Base, applied: Vec<u8>) {
        let mut shared = self.write();
        if let Some(copies) = shared.snapshot.take() {
            copies.cancel("the tables are being replaced");
        }
        let old = (std::mem::take(&mut shared.active), shared.frozen.take(), shared.base.replace(Arc::new(base)));
        shared.durable = Some(applied);
        shared.failed = None;
        drop(shared);
        self.suspect.store(false, Ordering::Release);
        drop(old);
    }
    /// Remembers that a read has met damage.
    fn noted<T>(&self, read: Result<T, TableError>) -> Result<T, TableError> {
        if let Err(TableError::Damaged(_) | TableError::Sled { .. }) = read {
            self.suspect.store(true, Ordering::Release);
        }
        read
    }
    pub(crate) fn flushing(&self) -> MutexGuard<'_, u64> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Reads through all layers while no commit can run.
    pub(crate) fn with_view<T>(&self, read: impl FnOnce(&View<'_>) -> Result<T, TableError>) -> Result<T, TableError> {
        read(&self.read().view()?)
    }
    /// Ends the saving of old records for a snapshot.
    pub(crate) fn forget_snapshot(&self, copies: &Arc<CopyOnWrite>) {
        let mut shared = self.write();
        if shared.snapshot.as_ref().is_some_and(|current| Arc::ptr_eq(current, copies)) {
            shared.snapshot = None;
        }
    }
}

impl GroupTables {
    /// Opens the tables in folder `dir`, making it if need be. An unusable database is put aside and replaced by an empty one.
    ///
    /// # Errors
    /// If the folder cannot be read or written, another opener holds the database, or [`TableError::SyncNotReal`].
    pub fn open(dir: &Path, options: &TableOptions) -> Result<Opened, TableError> {
        if !real_sync::linked() {
            return Err(TableError::SyncNotReal("the symbol is the C library's".into()));
        }
        let directory = Directory::open(dir)?;
        crate::directory::remove(&directory.copy())?;
        if directory.read_mark()?.is_none()
            && let Some((number, why)) = match open_existing(&directory, options) {
                Ok((base, flushed)) => return Ok(finish_open(directory, options, Some(base), flushed, None)),
                Err(Unusable::Other(error)) => return Err(error),
                Err(Unusable::Database { number, error }) => Some((number, error.to_string())),
            }
        {
            tracing::error!(folder = %dir.display(), why, "tables set aside");
            directory.write_mark(&Incomplete::SetAside { number, why: why.replace('\n', " ") })?;
        }
        let mark = directory.read_mark()?.unwrap_or(Incomplete::Installing);
        directory.clear_databases(&mark)?;
        Ok(finish_open(directory, options, None, Flushed::default(), Some(mark)))
    }

    /// Applies a batch: all of it or nothing is seen by any read that begins later, by a snapshot and after a crash. Durable only after a
    /// later [`GroupTables::flush`]. `applied` (1 byte to [`META_BYTES_MAX`]) is what [`GroupTables::applied`] returns from now on.
    ///
    /// # Errors
    /// Nothing was applied, and the same commit may be tried again where the cause is one that passes: [`TableError::Size`] for a key, value
    /// or mark out of bounds; [`TableError::Incomplete`]; what a flush met that had to come first, or an earlier one.
    pub fn commit(&self, writes: Writes, applied: &[u8]) -> Result<(), TableError> {
        check_sizes(&writes, applied)?;
        if self.inner.read().active.bytes() >= self.inner.options.pending_bytes_max {
            self.flush()?;
        }
        let mut shared = self.inner.write();
        shared.writable()?;
        if let Some(copies) = &shared.snapshot {
            copies.before_change(writes.keys(), &shared.view()?)?;
        }
        for (key, value) in writes {
            shared.active.insert(key, value);
        }
        shared.active.applied = Some(applied.to_vec());
        shared.applied = Some(applied.to_vec());
        Ok(())
    }

    /// The mark of the last commit; None if there was none or the tables are incomplete.
    #[must_use]
    pub fn applied(&self) -> Option<Vec<u8>> {
        self.inner.read().applied.clone()
    }

    /// The mark up to which everything is known to be durable; None if nothing is.
    #[must_use]
    pub fn durable(&self) -> Option<Vec<u8>> {
        self.inner.read().durable.clone()
    }

    /// True while the tables wait for a snapshot to be installed.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.inner.read().incomplete.is_some()
    }

    /// True once the tables were given up ([`GroupTables::condemn`]) and not replaced since.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        matches!(self.inner.read().incomplete, Some(Incomplete::SetAside { .. }))
    }

    /// True when a read has met damage since the tables were opened or last rebuilt: the owner should [`GroupTables::rebuild`] them.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.inner.suspect.load(Ordering::Acquire)
    }

    /// Whether enough is pending that the owner should flush soon.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.inner.read().active.bytes() >= self.inner.options.pending_bytes_max / 2
    }

    /// Whether a flush would write anything.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        !self.inner.read().active.is_empty()
    }

    /// Makes every commit that returned before the call durable on the device, and returns the mark up to which all is; empty if nothing was
    /// ever applied. Blocks for the device; commits and reads go on meanwhile.
    ///
    /// # Errors
    /// [`TableError::Io`] if the redo file cannot be written, of a full disk for instance: everything stays pending, and the flush may be
    /// repeated. Any other failure is final for these tables until they are opened anew.
    pub fn flush(&self) -> Result<Vec<u8>, TableError> {
        let mut number = self.inner.flushing();
        let Some((frozen, base)) = self.freeze()? else {
            return Ok(self.inner.read().durable.clone().unwrap_or_default());
        };
        let flushed = Flushed { number: *number + 1, applied: frozen.applied.clone().unwrap_or_default() };
        if let Err(error) = write_redo(&self.inner.directory, &frozen, &flushed) {
            let mut shared = self.inner.write();
            shared.active.put_below(&frozen);
            shared.frozen = None;
            return Err(error);
        }
        let outcome = write_down(&frozen, &base, &flushed);
        let mut shared = self.inner.write();
        if let Err(error) = outcome {
            shared.failed = Some(error.to_string());
            return Err(error);
        }
        *number = flushed.number;
        let released = shared.frozen.take();
        shared.durable = Some(flushed.applied.clone());
        drop(shared);
        // Large maps take a while to free: not under the lock.
        drop(released);
        Ok(flushed.applied)
    }

    /// Makes the pending writes the frozen layer; None if there are none. Called with `flushing` held.
    fn freeze(&self) -> Result<Option<Frozen>, TableError> {
        let mut shared = self.inner.write();
        let base = shared.writable()?.clone();
        if shared.active.is_empty() {
            return Ok(None);
        }
        assert!(shared.frozen.is_none(), "only a failed flush leaves a frozen layer");
        let frozen = Arc::new(std::mem::take(&mut shared.active));
        shared.frozen = Some(frozen.clone());
        Ok(Some((frozen, base)))
    }

    /// Fixes the image of this moment; [`SnapshotRun::run`], on another thread, writes it to `path`. `meta` (at most [`META_BYTES_MAX`] bytes)
    /// is stored with it. Until the run ends, commits save the old values of what they change.
    ///
    /// # Errors
    /// [`TableError::SnapshotBusy`] while another is being written; [`TableError::Incomplete`]; [`TableError::Size`].
    pub fn snapshot_to(&self, path: &Path, meta: &[u8]) -> Result<SnapshotRun, TableError> {
        if meta.len() > META_BYTES_MAX {
            return Err(TableError::Size { what: "meta", bytes: meta.len(), max: META_BYTES_MAX });
        }
        let mut shared = self.inner.write();
        shared.base()?;
        if shared.snapshot.is_some() {
            return Err(TableError::SnapshotBusy);
        }
        let applied = shared.applied.clone().unwrap_or_default();
        let run = SnapshotRun::new(self.inner.clone(), path.to_owned(), meta.to_vec(), applied, &self.inner.options);
        shared.snapshot = Some(run.copies().clone());
        Ok(run)
    }

    /// Replaces the tables by a snapshot file, which is verified first, and returns the meta in it. From the persisted mark on until this
    /// returns, in this process or a later one, commits, reads and snapshots are refused. A crash on the way is found as
    /// [`TableState::Installing`]. May be called in every state, after a failed flush too.
    ///
    /// # Errors
    /// A damaged file is refused before anything is touched. A later failure leaves the tables incomplete; installing again is the cure.
    pub fn install(&self, path: &Path) -> Result<Vec<u8>, TableError> {
        let mut number = self.inner.flushing();
        let info = verify_snapshot(path)?;
        self.inner.directory.write_mark(&Incomplete::Installing)?;
        self.clear(Incomplete::Installing);
        self.inner.directory.clear_databases(&Incomplete::Installing)?;
        let base = make_database(&self.inner.directory, &self.inner.options)?;
        let mut reader = Reader::open(path)?;
        while let Some((key, value)) = reader.next()? {
            base.write(&key, value.as_deref())?;
        }
        let loaded = reader.info()?;
        if loaded != info {
            return Err(TableError::Damaged("the snapshot file changed while it was installed".into()));
        }
        let flushed = Flushed { number: 1, applied: info.applied };
        base.set_flushed(&flushed)?;
        base.flush()?;
        redo_writer(&self.inner.directory, &flushed)?.finish(false)?;
        self.inner.directory.clear_mark()?;
        *number = flushed.number;
        self.become_ready(base, (!flushed.applied.is_empty()).then_some(flushed.applied));
        Ok(info.meta)
    }

    /// Declares empty tables complete: for an owner whose log reaches back to its first entry, and who applies all of it again.
    ///
    /// # Errors
    /// What making an empty database met.
    pub fn start_empty(&self) -> Result<(), TableError> {
        let mut number = self.inner.flushing();
        self.inner.directory.write_mark(&Incomplete::Installing)?;
        self.clear(Incomplete::Installing);
        self.inner.directory.clear_databases(&Incomplete::Installing)?;
        let base = make_database(&self.inner.directory, &self.inner.options)?;
        self.inner.directory.clear_mark()?;
        *number = 0;
        self.become_ready(base, None);
        Ok(())
    }

    /// Gives the database up after a damaged record was met: persisted, so that the next open sets it aside, and every operation but
    /// [`GroupTables::install`] and [`GroupTables::start_empty`] is refused from now on.
    ///
    /// # Errors
    /// If the mark cannot be written; the tables are refused in this process nevertheless.
    pub fn condemn(&self, why: &str) -> Result<(), TableError> {
        let _one_at_a_time = self.inner.flushing();
        if self.inner.read().incomplete.is_some() {
            return Ok(());
        }
        let number = self.inner.directory.numbers("tables").map(|numbers| numbers.last().copied().unwrap_or(0));
        let mark = Incomplete::SetAside { number: *number.as_ref().unwrap_or(&0), why: why.replace('\n', " ") };
        self.clear(mark.clone());
        number?;
        self.inner.directory.write_mark(&mark)
    }

    fn clear(&self, why: Incomplete) {
        let mut shared = self.inner.write();
        if let Some(copies) = shared.snapshot.take() {
            copies.cancel("the tables are being replaced");
        }
        let old = (std::mem::take(&mut shared.active), shared.frozen.take(), shared.base.take());
        shared.applied = None;
        shared.durable = None;
        shared.incomplete = Some(why);
        drop(shared);
        drop(old);
    }

    fn become_ready(&self, base: Base, applied: Option<Vec<u8>>) {
        let mut shared = self.inner.write();
        shared.base = Some(Arc::new(base));
        shared.applied.clone_from(&applied);
        shared.durable = applied;
        shared.incomplete = None;
        shared.failed = None;
        drop(shared);
        self.inner.suspect.store(false, Ordering::Release);
    }

    /// Bytes of the files.
    ///
    /// # Errors
    /// [`TableError::Incomplete`], or sled's.
    pub fn size(&self) -> Result<u64, TableError> {
        let base = self.inner.read().base()?.clone();
        base.size_on_disk()
    }

    /// The number of records: reads them all.
    ///
    /// # Errors
    /// As any read.
    pub fn len(&self) -> Result<u64, TableError> {
        let mut records = 0;
        self.scan_from(&[], None, &mut |_, _| {
            records += 1;
            true
        })?;
        Ok(records)
    }

    /// Whether there is no record.
    ///
    /// # Errors
    /// As any read.
    pub fn is_empty(&self) -> Result<bool, TableError> {
        let mut empty = true;
        self.scan_from(&[], None, &mut |_, _| {
            empty = false;
            false
        })?;
        Ok(empty)
    }

    /// Counters.
    ///
    /// # Errors
    /// As [`GroupTables::size`].
    pub fn stats(&self) -> Result<TableStats, TableError> {
        let pending_bytes = {
            let shared = self.inner.read();
            shared.active.bytes() + shared.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
        };
        Ok(TableStats { disk_bytes: self.size()?, pending_bytes: pending_bytes as u64, device_syncs: real_sync::calls() })
    }

    fn read_one(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let (frozen, base) = {
            let shared = self.inner.read();
            let base = shared.base()?;
            if let Some(value) = shared.active.get(key) {
                return Ok(value.as_ref().map(|value| value.to_vec()));
            }
            (shared.frozen.clone(), base.clone())
        };
        if let Some(value) = frozen.as_ref().and_then(|frozen| frozen.get(key)) {
            return Ok(value.as_ref().map(|value| value.to_vec()));
        }
        // sled is read without the lock, so that a slow device never delays commits.
        match base.get(key) {
            // A long value may be torn by a flush that began meanwhile; under the lock the pending layers hide such a record.
            Err(TableError::Damaged(_)) => self.inner.with_view(|view| view.get(key)),
            read => read,
        }
    }

    fn scan_from(&self, from: &[u8], to: Option<&[u8]>, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableError> {
        let mut from = from.to_vec();
        let mut limit = SCAN_RECORDS_FIRST;
        loop {
            let (chunk, next) = self.inner.with_view(|view| scan_chunk(view, &from, to, limit))?;
            // The visitor runs without the lock: it may read from the tables itself.
            for (key, value) in chunk {
                if !visit(&key, &value) {
                    return Ok(());
                }
            }
            let Some(next) = next else { return Ok(()) };
            from = next;
            limit = (limit * 2).min(SCAN_RECORDS_MAX);
        }
    }
}

impl Tables for GroupTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        Ok(self.inner.noted(self.read_one(key))?)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        if from < to { Ok(self.inner.noted(self.scan_from(from, Some(to), visit))?) } else { Ok(()) }
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, TableFault> {
        if from < to { Ok(self.inner.noted(self.inner.with_view(|view| view.last(from, to)))?) } else { Ok(None) }
    }
}

/// What a flush writes, and where to.
type Frozen = (Arc<Pending>, Arc<Base>);
type Chunk = (Vec<Record>, Option<Vec<u8>>);

/// Up to `limit` keys, and where to go on.
fn scan_chunk(view: &View<'_>, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Chunk, TableError> {
    if to.is_some_and(|to| from >= to) {
        return Ok((Vec::new(), None));
    }
    let mut merge = view.merge(from, to)?;
    let (mut chunk, mut visited, mut bytes) = (Vec::new(), 0, 0);
    while let Some((key, value)) = merge.next()? {
        visited += 1;
        bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        let next = (visited >= limit || bytes >= SCAN_BYTES_MAX).then(|| [key.as_slice(), &[0]].concat());
        chunk.extend(value.map(|value| (key, value)));
        if next.is_some() {
            return Ok((chunk, next));
        }
    }
    Ok((chunk, None))
}

fn check_sizes(writes: &Writes, applied: &[u8]) -> Result<(), TableError> {
    let check = |what, bytes: usize, min: usize, max| {
        if (min..=max).contains(&bytes) { Ok(()) } else { Err(TableError::Size { what, bytes, max }) }
    };
    check("applied mark", applied.len(), 1, crate::record::INLINE_BYTES_MAX)?;
    for (key, value) in writes {
        check("key", key.len(), 0, KEY_BYTES_MAX)?;
        check("value", value.as_ref().map_or(0, Vec::len), 0, VALUE_BYTES_MAX)?;
    }
    Ok(())
}

fn finish_open(directory: Directory, options: &TableOptions, base: Option<Base>, flushed: Flushed, mark: Option<Incomplete>) -> Opened {
    let applied = (!flushed.applied.is_empty()).then_some(flushed.applied);
    let state = match (&mark, &applied) {
        (Some(Incomplete::Installing), _) => TableState::Installing,
        (Some(Incomplete::SetAside { why, .. }), _) => TableState::SetAside { why: why.clone() },
        (None, None) => TableState::Fresh,
        (None, Some(applied)) => TableState::Ready { applied: applied.clone() },
    };
    let shared = Shared {
        active: Pending::default(),
        frozen: None,
        base: base.map(Arc::new),
        applied: applied.clone(),
        durable: applied,
        incomplete: mark,
        failed: None,
        snapshot: None,
    };
    let inner = Inner {
        directory,
        options: options.clone(),
        shared: RwLock::new(shared),
        flushing: Mutex::new(flushed.number),
        suspect: AtomicBool::new(false),
    };
    Opened { tables: GroupTables { inner: Arc::new(inner) }, state }
}
