//! Bodies above the journal's bound: a file each, durable before it has its name.
//!
//! `bytes | 16 bytes of BLAKE3 per piece of 256 KiB | trailer {magic, size, BLAKE3 of the piece hashes}`: a piece can be verified without
//! reading the others.

use crate::fault::BodyFault;
use bytes::Bytes;
use parliament_ids::{BodyHash, limits::BODY_PIECE_BYTES};
use parliament_journal::disk::{Disk, DiskFile, OpenMode, make_home, read_exact, write_all};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MAGIC: [u8; 8] = *b"\x89PLbody\x01";
const TRAILER: u64 = 8 + 8 + 32;
const PIECE: u64 = BODY_PIECE_BYTES as u64;
const ROW: u64 = 16;

/// The folder of large bodies.
pub(crate) struct Large {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    sizes: Mutex<BTreeMap<BodyHash, u64>>,
    next: AtomicU64,
}

/// A file being filled; removed when dropped unfinished.
pub(crate) struct Filling {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    written: u64,
    piece: blake3::Hasher,
    table: Vec<u8>,
    kept: bool,
}

impl Filling {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BodyFault> {
        write_all(&*self.file, &mut [IoSlice::new(bytes)], self.written).map_err(BodyFault::disk("write", &self.path))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = (PIECE - self.written % PIECE).min(rest.len() as u64);
            let (now, later) = rest.split_at(room as usize);
            self.piece.update(now);
            self.written += room;
            if self.written.is_multiple_of(PIECE) {
                self.end_piece();
            }
            rest = later;
        }
        Ok(())
    }

    fn end_piece(&mut self) {
        self.table.extend_from_slice(&self.piece.finalize().as_bytes()[..ROW as usize]);
        self.piece.reset();
    }

    /// Table and trailer, then everything to the medium.
    fn finish(&mut self) -> Result<(), BodyFault> {
        if !self.written.is_multiple_of(PIECE) {
            self.end_piece();
        }
        let mut trailer = Vec::with_capacity(TRAILER as usize);
        trailer.extend_from_slice(&MAGIC);
        trailer.extend_from_slice(&self.written.to_le_bytes());
        trailer.extend_from_slice(blake3::hash(&self.table).as_bytes());
        let mut slices = [IoSlice::new(&self.table), IoSlice::new(&trailer)];
        write_all(&*self.file, &mut slices, self.written).map_err(BodyFault::disk("write", &self.path))?;
        self.file.sync().map_err(BodyFault::disk("sync", &self.path))
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.disk.unlink(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a spool file could not be removed");
        }
    }
}

/// Size of the body in a file of this length.
fn size_of_file(length: u64) -> Option<u64> {
    let inner = length.checked_sub(TRAILER)?;
    inner.checked_sub(inner.div_ceil(PIECE + ROW) * ROW)
}

fn parse_hash(name: &str) -> Option<BodyHash> {
    let mut hash = [0; 32];
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(name.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(BodyHash(hash))
}

impl Large {
    /// Lists what is there and removes what an earlier process did not finish.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, BodyFault> {
        make_home(&*disk, &dir).map_err(BodyFault::disk("create", &dir))?;
        let large = Self { disk, dir, sizes: Mutex::default(), next: AtomicU64::new(0) };
        for name in large.disk.list(&large.dir).map_err(BodyFault::disk("list", &large.dir))? {
            let path = large.dir.join(&name);
            if name.starts_with("spool-") {
                large.disk.unlink(&path).map_err(BodyFault::disk("remove", &path))?;
            }
        }
        large.disk.sync_dir(&large.dir).map_err(BodyFault::disk("sync", &large.dir))?;
        for first in 0..=255u8 {
            let folder = large.dir.join(format!("{first:02x}"));
            let names = match large.disk.list(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(BodyFault::disk("list", &folder))?,
            };
            // A process may have died between naming a body and making the name durable; from here on the name is believed.
            large.disk.sync_dir(&folder).map_err(BodyFault::disk("sync", &folder))?;
            for hash in names.iter().filter_map(|name| parse_hash(name)) {
                let path = large.path(&hash);
                let file = large.disk.open(&path, OpenMode::Existing).map_err(BodyFault::disk("open", &path))?;
                if let Some(size) = size_of_file(file.len().map_err(BodyFault::disk("measure", &path))?) {
                    large.sizes().insert(hash, size);
                }
            }
        }
        Ok(large)
    }

    fn sizes(&self) -> MutexGuard<'_, BTreeMap<BodyHash, u64>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, hash: &BodyHash) -> PathBuf {
        self.dir.join(format!("{:02x}", hash.0[0]))
    }

    fn path(&self, hash: &BodyHash) -> PathBuf {
        self.folder(hash).join(hash.to_string())
    }

    pub(crate) fn size(&self, hash: &BodyHash) -> Option<u64> {
        self.sizes().get(hash).copied()
    }

    /// Bytes of all bodies.
    pub(crate) fn bytes(&self) -> u64 {
        self.sizes().values().sum()
    }

    /// The first body after a hash, in the order of hashes.
    pub(crate) fn after(&self, hash: Option<BodyHash>) -> Option<(BodyHash, u64)> {
        let from = hash.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.sizes().range((from, std::ops::Bound::Unbounded)).next().map(|(hash, size)| (*hash, *size))
    }

    pub(crate) fn fill(&self) -> Result<Filling, BodyFault> {
        let path = self.dir.join(format!("spool-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let file = self.disk.open(&path, OpenMode::Create).map_err(BodyFault::disk("create", &path))?;
        let disk = self.disk.clone();
        Ok(Filling { file, path, disk, written: 0, piece: blake3::Hasher::new(), table: Vec::new(), kept: false })
    }

    /// Makes a filled file the body: it counts as present only when bytes and name are durable.
    pub(crate) fn keep(&self, mut filling: Filling, hash: &BodyHash) -> Result<(), BodyFault> {
        filling.finish()?;
        let (folder, path) = (self.folder(hash), self.path(hash));
        let place = || {
            self.disk.create_dir(&folder)?;
            self.disk.rename(&filling.path, &path)?;
            self.disk.sync_dir(&folder)
        };
        place().map_err(BodyFault::disk("name", &path))?;
        filling.kept = true;
        self.sizes().insert(*hash, filling.written);
        Ok(())
    }

    pub(crate) fn remove(&self, hash: &BodyHash) -> Result<(), BodyFault> {
        if self.sizes().remove(hash).is_none() {
            return Ok(());
        }
        let path = self.path(hash);
        self.disk.unlink(&path).map_err(BodyFault::disk("remove", &path))
    }

    /// Puts a damaged file aside, where an operator can look at it.
    pub(crate) fn quarantine(&self, hash: &BodyHash) {
        self.sizes().remove(hash);
        let path = self.path(hash);
        let aside = self.dir.join(format!("quarantine-{hash}"));
        let moved = self.disk.rename(&path, &aside).and_then(|()| self.disk.sync_dir(&self.folder(hash)));
        if let Err(error) = moved {
            tracing::error!(%error, %hash, "a damaged body could not be put aside");
        }
    }

    /// Has the next read of a body come from the medium.
    pub(crate) fn forget_cached(&self, hash: &BodyHash) {
        if let Ok(file) = self.disk.open(&self.path(hash), OpenMode::Existing) {
            file.forget_cached();
        }
    }

    /// Bytes of the range that exist, each piece verified. `Damaged` is told, not acted on.
    pub(crate) fn read(&self, hash: &BodyHash, offset: u64, len: u64) -> Result<Bytes, BodyFault> {
        let size = self.size(hash).ok_or(BodyFault::Missing(*hash))?;
        let path = self.path(hash);
        let file = match self.disk.open(&path, OpenMode::Existing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BodyFault::Damaged(*hash)),
            other => other.map_err(BodyFault::disk("open", &path))?,
        };
        let table = read_table(&*file, &path, size)?.ok_or(BodyFault::Damaged(*hash))?;
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let first = offset / PIECE;
        let mut bytes = vec![0; (end.next_multiple_of(PIECE).min(size) - first * PIECE) as usize];
        read_part(&*file, &path, &mut bytes, first * PIECE)?.ok_or(BodyFault::Damaged(*hash))?;
        let rows = table.chunks_exact(ROW as usize).skip(first as usize);
        if !bytes.chunks(PIECE as usize).zip(rows).all(|(piece, row)| blake3::hash(piece).as_bytes().starts_with(row)) {
            return Err(BodyFault::Damaged(*hash));
        }
        let skip = (offset - first * PIECE) as usize;
        Ok(Bytes::from(bytes).slice(skip..skip + (end - offset) as usize))
    }
}

/// None at a file that is too short.
fn read_part(file: &dyn DiskFile, path: &Path, bytes: &mut [u8], at: u64) -> Result<Option<()>, BodyFault> {
    match read_exact(file, bytes, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        other => other.map(Some).map_err(BodyFault::disk("read", path)),
    }
}

/// The verified piece hashes; none when table or trailer are damaged.
fn read_table(file: &dyn DiskFile, path: &Path, size: u64) -> Result<Option<Vec<u8>>, BodyFault> {
    let rows = (size.div_ceil(PIECE) * ROW) as usize;
    let mut bytes = vec![0; rows + TRAILER as usize];
    if read_part(file, path, &mut bytes, size)?.is_none() {
        return Ok(None);
    }
    let trailer = bytes.split_off(rows);
    let good = trailer[..8] == MAGIC && trailer[8..16] == size.to_le_bytes() && trailer[16..] == *blake3::hash(&bytes).as_bytes();
    Ok(good.then_some(bytes))
}
