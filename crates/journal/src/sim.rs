//! A disk in memory that keeps, across a power cut, only what was synced and a random part of what was not.

use crate::disk::{Disk, DiskFile, DiskSpace, OpenMode};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Unsynced bytes reach the medium, or not, in pieces of this size.
const SECTOR: usize = 512;

/// What goes wrong at a chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The power goes: this and every later operation fails.
    Cut,
    /// Operation fails with EIO; a failed sync also loses what it should have made durable.
    Fails,
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors changed since the last sync.
    dirty: BTreeSet<usize>,
    /// Bytes of space taken.
    space: u64,
}

#[derive(Clone)]
enum NameChange {
    Add(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct Contents {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<NameChange>,
    operations: u64,
    syncs: u64,
    mishap: Option<(u64, Mishap)>,
    off: bool,
    capacity: Option<u64>,
    /// Places that the medium does not give: inode and offset.
    unreadable: BTreeSet<(usize, usize)>,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    contents: Arc<Mutex<Contents>>,
    locked: Arc<AtomicBool>,
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

struct SimLock(Arc<AtomicBool>);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Contents {
    /// Counts an operation that changes something; fails it where that was asked for.
    fn step(&mut self) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        match self.mishap {
            Some((at, Mishap::Cut)) if self.operations >= at => {
                self.off = true;
                Err(io::Error::other("the power went"))
            }
            Some((at, Mishap::Fails)) if self.operations == at => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }

    fn taken(&self) -> u64 {
        let named: BTreeSet<usize> = self.names.values().copied().collect();
        named.iter().map(|inode| self.inodes[*inode].space).sum()
    }

    /// Makes the file's space at least `bytes`.
    fn take(&mut self, inode: usize, bytes: u64) -> io::Result<()> {
        let more = bytes.saturating_sub(self.inodes[inode].space);
        if more > 0 && self.capacity.is_some_and(|capacity| self.taken() + more > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inodes[inode].space += more;
        Ok(())
    }
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *seed >> 33
}

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations that changed something so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Syncs of files and folders so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Has something go wrong at the `operation`th change from the beginning.
    pub fn plan(&self, operation: u64, mishap: Mishap) {
        self.lock().mishap = Some((operation, mishap));
    }

    /// Bounds the space; none: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Turns all later operations into failures, as a cut does.
    pub fn turn_off(&self) {
        self.lock().off = true;
    }

    /// The disk after the power came back: what was synced, and by the seed's choice some sectors and names that were not.
    #[must_use]
    pub fn after_cut(&self, mut seed: u64) -> Self {
        let mut contents = self.lock().clone();
        for inode in &mut contents.inodes {
            for sector in std::mem::take(&mut inode.dirty) {
                if next(&mut seed).is_multiple_of(2) {
                    copy_sector(inode, sector);
                }
            }
            inode.now = inode.durable.clone();
        }
        let mut names = contents.durable_names.clone();
        for change in std::mem::take(&mut contents.changes) {
            // A journalling file system loses a suffix of the changes.
            if next(&mut seed).is_multiple_of(3) {
                break;
            }
            apply(&mut names, change);
        }
        contents.names = names.clone();
        contents.durable_names = names;
        (contents.mishap, contents.off) = (None, false);
        Self { contents: Arc::new(Mutex::new(contents)), locked: Arc::default() }
    }

    /// Paths of all files.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// A file's bytes.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let contents = self.lock();
        contents.names.get(path).map(|inode| contents.inodes[*inode].now.clone()).unwrap_or_default()
    }

    /// Has every read of this place fail with EIO, or be answered again.
    pub fn refuse_reads(&self, path: &Path, offset: usize, refuse: bool) {
        let mut contents = self.lock();
        let Some(inode) = contents.names.get(path).copied() else { return };
        if refuse {
            contents.unreadable.insert((inode, offset));
        } else {
            contents.unreadable.remove(&(inode, offset));
        }
    }

    /// Flips the bits of `mask` in one byte, on the medium too.
    pub fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut contents = self.lock();
        let Some(inode) = contents.names.get(path).copied() else { return };
        let inode = &mut contents.inodes[inode];
        for bytes in [&mut inode.now, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }
}

fn copy_sector(inode: &mut Inode, sector: usize) {
    let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(inode.now.len()));
    if start >= end {
        return;
    }
    if inode.durable.len() < end {
        inode.durable.resize(end, 0);
    }
    inode.durable[start..end].copy_from_slice(&inode.now[start..end]);
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: NameChange) {
    match change {
        NameChange::Add(path, inode) => {
            names.insert(path, inode);
        }
        NameChange::Move(from, to, inode) => {
            names.remove(&from);
            names.insert(to, inode);
        }
        NameChange::Remove(path) => {
            names.remove(&path);
        }
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let contents = self.lock();
        let inside = contents.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut contents = self.lock();
        let inode = match contents.names.get(path) {
            Some(inode) => *inode,
            None if mode == OpenMode::Existing => return Err(io::ErrorKind::NotFound.into()),
            None => {
                contents.step()?;
                contents.inodes.push(Inode::default());
                let inode = contents.inodes.len() - 1;
                contents.names.insert(path.to_owned(), inode);
                contents.changes.push(NameChange::Add(path.to_owned(), inode));
                inode
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut contents = self.lock();
        contents.step()?;
        let inode = contents.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        contents.names.insert(to.to_owned(), inode);
        contents.changes.push(NameChange::Move(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut contents = self.lock();
        contents.step()?;
        contents.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        contents.changes.push(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut contents = self.lock();
        contents.step()?;
        contents.syncs += 1;
        let touches = |change: &NameChange| match change {
            NameChange::Add(path, _) | NameChange::Remove(path) | NameChange::Move(_, path, _) => path.parent() == Some(dir),
        };
        let (here, elsewhere) = std::mem::take(&mut contents.changes).into_iter().partition(touches);
        contents.changes = elsewhere;
        let here: Vec<NameChange> = here;
        here.into_iter().for_each(|change| apply(&mut contents.durable_names, change));
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<DiskSpace> {
        let contents = self.lock();
        let total = contents.capacity.unwrap_or(1 << 40);
        Ok(DiskSpace { free: total.saturating_sub(contents.taken()), total })
    }

    fn lock(&self, _dir: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        if self.locked.swap(true, Ordering::AcqRel) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock(self.locked.clone())))
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let contents = self.disk.lock();
        let from = offset as usize;
        if contents.unreadable.range((self.inode, from)..(self.inode, from + buffer.len())).next().is_some() {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        let bytes = contents.inodes[self.inode].now.get(offset as usize..).unwrap_or(&[]);
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut contents = self.disk.lock();
        let was_off = contents.off;
        let step = contents.step();
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let end = offset as usize + bytes.len();
        if step.is_ok() {
            contents.take(self.inode, end as u64)?;
        } else if was_off || !contents.off {
            return step.map(|()| 0);
        }
        // A write that the power cut interrupts may still have reached some sectors.
        let inode = &mut contents.inodes[self.inode];
        if inode.now.len() < end {
            inode.now.resize(end, 0);
        }
        inode.now[offset as usize..end].copy_from_slice(&bytes);
        inode.dirty.extend(offset as usize / SECTOR..end.div_ceil(SECTOR));
        step.map(|()| bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        let mut contents = self.disk.lock();
        let step = contents.step();
        contents.syncs += 1;
        let off = contents.off;
        let inode = &mut contents.inodes[self.inode];
        if step.is_ok() {
            for sector in std::mem::take(&mut inode.dirty) {
                copy_sector(inode, sector);
            }
            inode.durable.resize(inode.now.len(), 0);
        } else if !off {
            // The kernel drops the dirty pages and calls them clean.
            inode.dirty.clear();
        }
        step
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut contents = self.disk.lock();
        contents.step()?;
        contents.take(self.inode, bytes)?;
        let inode = &mut contents.inodes[self.inode];
        if inode.now.len() < bytes as usize {
            inode.now.resize(bytes as usize, 0);
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut contents = self.disk.lock();
        contents.step()?;
        let inode = &mut contents.inodes[self.inode];
        inode.now.resize(bytes as usize, 0);
        inode.space = bytes;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[self.inode].now.len() as u64)
    }
}
