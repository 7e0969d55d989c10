//! One sled database: single records in and out, checked; every panic of sled turned into an error.

use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::TableError;
use crate::record::{self, INLINE_BYTES_MAX, OWN, PIECE, Stored, USER};

/// The key of [`Flushed`].
const FLUSHED: [u8; 2] = [OWN, b'f'];

/// Which flush a database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Flushes are numbered from 1 in each database; 0 is an empty one.
    pub(crate) number: u64,
    /// The applied mark; empty if none.
    pub(crate) applied: Vec<u8>,
}

/// sled moves live pages out of mostly dead segments only from its periodic thread; without it a segment is used again only once every page
/// in it has been rewritten, and one cold page pins 512 KiB. The thread also syncs at each turn, clean or not, hence the long interval.
/// Durability comes from [`Base::flush`] alone.
const CLEAN_EVERY_MS: u64 = 30_000;

/// How long an open waits for another opener to let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// A handle that is let go quietly: sled syncs at its end, and panics if that fails.
struct Held(Option<sled::Db>);

impl std::ops::Deref for Held {
    type Target = sled::Db;
    fn deref(&self) -> &sled::Db {
        match &self.0 {
            Some(db) => db,
            None => unreachable!("only the drop takes it"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let db = self.0.take();
        if catch_unwind(AssertUnwindSafe(move || drop(db))).is_err() {
            tracing::error!("sled panicked at its end; what it held is found or told missing at the next open");
        }
    }
}

/// A database.
pub(crate) struct Base {
    db: Held,
    /// A descriptor of our own of sled's file. sled's periodic thread syncs too and only logs a failure, and Linux tells a failed write-back
    /// once per descriptor: that of sled may say yes ever after.
    file: File,
    path: PathBuf,
    /// Whether a cut value may exist: spares the look at the old record before each write while none does.
    cut: AtomicBool,
}

fn guarded<T>(what: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, TableError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(TableError::Sled { what, why: error.to_string() }),
        Err(panic) => {
            let why =
                panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            Err(TableError::Sled { what, why: format!("panic: {why}") })
        }
    }
}

/// sled's writer threads may hold the file and its lock for a moment after the last handle is dropped.
fn open_patiently(config: &sled::Config) -> Result<sled::Db, TableError> {
    let start = Instant::now();
    loop {
        match guarded("open", || config.open()) {
            Err(error) if is_locked(&error) && start.elapsed() < LOCK_PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            outcome => return outcome,
        }
    }
}

/// Whether an open failed only because another opener holds the database.
pub(crate) fn is_locked(error: &TableError) -> bool {
    matches!(error, TableError::Sled { why, .. } if why.contains("could not acquire lock"))
}

impl Base {
    /// Opens or makes the database in `dir`.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, TableError> {
        let config = sled::Config::new()
            .path(dir)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(cache_bytes.max(1 << 20))
            .flush_every_ms(Some(CLEAN_EVERY_MS));
        let db = Held(Some(open_patiently(&config)?));
        let path = dir.join("db");
        let file = File::open(&path).map_err(TableError::io("open", &path))?;
        let cut = guarded("open", || db.scan_prefix([PIECE]).next().transpose())?.is_some();
        Ok(Self { db, file, path, cut: AtomicBool::new(cut) })
    }

    /// The value of a caller's key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let sled_key = record::user_key(key);
        match guarded("get", || self.db.get(&sled_key))? {
            None => Ok(None),
            Some(value) => self.resolve(key, &value).map(Some),
        }
    }

    /// The caller's value of a caller's key and its sled value.
    pub(crate) fn resolve(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, TableError> {
        let stored = record::decode(&record::user_key(key), value)?;
        match stored {
            Stored::Whole(bytes) => Ok(bytes.to_vec()),
            Stored::Cut { bytes, crc } => self.join(key, bytes, crc, stored.pieces()),
        }
    }

    fn join(&self, key: &[u8], bytes: u32, crc: u32, pieces: u32) -> Result<Vec<u8>, TableError> {
        let damaged = |why: &str| TableError::Damaged(format!("long value of {}: {why}", record::hex(key)));
        let mut joined = Vec::with_capacity(bytes as usize);
        for index in 0..pieces {
            let piece_key = record::piece_key(key, index);
            let piece = guarded("get", || self.db.get(&piece_key))?.ok_or_else(|| damaged("a piece is missing"))?;
            match record::decode(&piece_key, &piece)? {
                Stored::Whole(part) => joined.extend_from_slice(part),
                Stored::Cut { .. } => return Err(damaged("a piece is cut itself")),
            }
        }
        if joined.len() != bytes as usize || crc32c::crc32c(&joined) != crc {
            return Err(damaged("wrong checksum"));
        }
        Ok(joined)
    }

    /// Sets or removes a caller's record. Several records of sled may change: the redo file makes good what a crash leaves half done, and
    /// pieces go before the record that counts them, so none is ever forgotten.
    pub(crate) fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), TableError> {
        let sled_key = record::user_key(key);
        let pieces = match value {
            Some(value) if value.len() > INLINE_BYTES_MAX => value.len().div_ceil(INLINE_BYTES_MAX) as u32,
            _ => 0,
        };
        for index in pieces..self.pieces_of(&sled_key)? {
            drop(guarded("remove", || self.db.remove(record::piece_key(key, index)))?);
        }
        let sealed = match value {
            None => return guarded("remove", || self.db.remove(&sled_key)).map(drop),
            Some(value) if pieces == 0 => record::encode_whole(&sled_key, value),
            Some(value) => {
                self.cut.store(true, Ordering::Release);
                for (index, part) in value.chunks(INLINE_BYTES_MAX).enumerate() {
                    let piece_key = record::piece_key(key, index as u32);
                    let sealed = record::encode_whole(&piece_key, part);
                    drop(guarded("insert", || self.db.insert(piece_key, sealed))?);
                }
                record::encode_cut(&sled_key, value)
            }
        };
        guarded("insert", || self.db.insert(&sled_key, sealed)).map(drop)
    }

    fn pieces_of(&self, sled_key: &[u8]) -> Result<u32, TableError> {
        if !self.cut.load(Ordering::Acquire) {
            return Ok(0);
        }
        match guarded("get", || self.db.get(sled_key))? {
            None => Ok(0),
            Some(value) => Ok(record::decode(sled_key, &value)?.pieces()),
        }
    }

    /// The records with `from <= key < to` (`to` None: to the end), ascending.
    pub(crate) fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range {
        let upper = to.map_or_else(|| vec![USER + 1], record::user_key);
        let bounds = (Bound::Included(record::user_key(from)), Bound::Excluded(upper));
        Range(self.db.range::<Vec<u8>, _>(bounds))
    }

    /// What the last flush that reached sled completely left.
    pub(crate) fn flushed(&self) -> Result<Flushed, TableError> {
        let Some(value) = guarded("get", || self.db.get(FLUSHED))? else { return Ok(Flushed::default()) };
        match record::decode(&FLUSHED, &value)? {
            Stored::Whole(payload) if payload.len() >= 8 => {
                let (number, applied) = payload.split_at(8);
                Ok(Flushed { number: number.try_into().map_or(0, u64::from_le_bytes), applied: applied.to_vec() })
            }
            _ => Err(TableError::Damaged("the record of the last flush".into())),
        }
    }

    /// Written after all records of a flush.
    pub(crate) fn set_flushed(&self, flushed: &Flushed) -> Result<(), TableError> {
        let payload = [flushed.number.to_le_bytes().as_slice(), &flushed.applied].concat();
        guarded("insert", || self.db.insert(FLUSHED, record::encode_whole(&FLUSHED, &payload))).map(drop)
    }

    /// Makes all writes so far durable on the device.
    pub(crate) fn flush(&self) -> Result<(), TableError> {
        guarded("flush", || self.db.flush())?;
        self.file.sync_data().map_err(TableError::io("sync", &self.path))
    }

    /// Bytes of the database's files.
    pub(crate) fn size_on_disk(&self) -> Result<u64, TableError> {
        guarded("size", || self.db.size_on_disk())
    }
}

/// An iterator over stored records from either end. Values are opened by [`Base::resolve`], and only those that count: what a running flush
/// is changing is hidden by the pending layers and must not be looked at.
pub(crate) struct Range(sled::Iter);

/// A caller's key and the sled value.
pub(crate) type Raw = (Vec<u8>, sled::IVec);

impl Range {
    /// The next record from the front.
    pub(crate) fn next(&mut self) -> Result<Option<Raw>, TableError> {
        Ok(guarded("scan", || self.0.next().transpose())?.map(strip))
    }

    /// The next record from the back.
    pub(crate) fn next_back(&mut self) -> Result<Option<Raw>, TableError> {
        Ok(guarded("scan", || self.0.next_back().transpose())?.map(strip))
    }
}

fn strip((sled_key, value): (sled::IVec, sled::IVec)) -> Raw {
    (sled_key.get(1..).unwrap_or_default().to_vec(), value)
}
