//! Bodies with files of their own: `aa/<hash>`, written under a temporary name, synced, renamed, the folder synced.

use crate::{BodyError, Sizes, lock};
use bytes::Bytes;
use parliament_ids::BodyHash;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A large file is hashed once, whole, before its first piece is read; this many files' proofs are remembered.
const CHECKED_MAX: usize = 4096;

pub(crate) struct LargeBodies {
    dir: PathBuf,
    sizes: Mutex<Sizes>,
    /// Files that were hashed since this process started, with their size and time of change then.
    checked: Mutex<HashMap<BodyHash, (u64, std::time::SystemTime)>>,
    temporary: AtomicU64,
}

fn parse(name: &str) -> Option<BodyHash> {
    let mut hash = [0; 32];
    if name.len() != 64 {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(name.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(BodyHash(hash))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl LargeBodies {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut sizes = Sizes::new();
        for byte in 0..=255_u8 {
            let shelf = dir.join(format!("{byte:02x}"));
            let Ok(files) = fs::read_dir(&shelf) else { continue };
            for file in files {
                let file = file?;
                match file.file_name().to_str().and_then(parse) {
                    Some(hash) => drop(sizes.insert(hash, file.metadata()?.len())),
                    None => fs::remove_file(file.path())?,
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), sizes: Mutex::new(sizes), checked: Mutex::default(), temporary: AtomicU64::new(0) })
    }

    fn path(&self, hash: &BodyHash) -> PathBuf {
        self.dir.join(format!("{:02x}", hash.0[0])).join(hash.to_string())
    }

    pub(crate) fn size(&self, hash: &BodyHash) -> Option<u64> {
        lock(&self.sizes).get(hash).copied()
    }

    pub(crate) fn usage(&self) -> (u64, u64) {
        let sizes = lock(&self.sizes);
        (sizes.len() as u64, sizes.values().sum())
    }

    /// Durable when it returns.
    pub(crate) fn put(&self, hash: &BodyHash, bytes: &Bytes) -> Result<(), BodyError> {
        if self.size(hash).is_some() {
            return Ok(());
        }
        let path = self.path(hash);
        let shelf = path.parent().unwrap_or(&self.dir).to_owned();
        if !shelf.exists() {
            fs::create_dir_all(&shelf)?;
            sync_dir(&self.dir)?;
        }
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = shelf.join(format!("new-{number}"));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, &path)?;
            sync_dir(&shelf)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&temporary);
            return Err(error.into());
        }
        lock(&self.sizes).insert(*hash, bytes.len() as u64);
        Ok(())
    }

    pub(crate) fn read(&self, hash: &BodyHash) -> Result<Bytes, BodyError> {
        if self.size(hash).is_none() {
            return Err(BodyError::Absent(*hash));
        }
        let bytes = match fs::read(self.path(hash)) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Bytes::new(),
            Err(error) => return Err(error.into()),
        };
        if crate::address(&bytes) != *hash {
            return Err(self.quarantine(hash));
        }
        Ok(bytes)
    }

    /// A damaged file is set aside under another name and counts as absent.
    fn quarantine(&self, hash: &BodyHash) -> BodyError {
        tracing::error!(%hash, "a large body is damaged");
        let path = self.path(hash);
        let _ = fs::rename(&path, self.dir.join(format!("damaged-{hash}")));
        lock(&self.sizes).remove(hash);
        lock(&self.checked).remove(hash);
        BodyError::Absent(*hash)
    }

    pub(crate) fn read_range(&self, hash: &BodyHash, offset: u64, length: usize) -> Result<Bytes, BodyError> {
        let Some(size) = self.size(hash) else { return Err(BodyError::Absent(*hash)) };
        let file = match File::open(self.path(hash)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.quarantine(hash)),
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        let stamp = (meta.len(), meta.modified()?);
        let known = lock(&self.checked).get(hash).copied();
        if known != Some(stamp) {
            self.read(hash)?;
            let mut checked = lock(&self.checked);
            if checked.len() >= CHECKED_MAX {
                checked.clear();
            }
            checked.insert(*hash, stamp);
        }
        let start = offset.min(size);
        let length = usize::try_from(size - start).unwrap_or(usize::MAX).min(length);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }

    pub(crate) fn remove(&self, hash: &BodyHash) {
        if lock(&self.sizes).remove(hash).is_some() {
            lock(&self.checked).remove(hash);
            if let Err(error) = fs::remove_file(self.path(hash)) {
                tracing::warn!(%hash, %error, "a large body's file stays behind");
            }
        }
    }
}
