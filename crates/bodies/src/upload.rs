//! Bodies that come in pieces, before it is known what they hash to: unsynced files, bounded in all, gone at the next start.

use crate::{BodyError, BodyStore, Receipt, lock};
use bytes::Bytes;
use parliament_ids::{BodyHash, SessionKey};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of all unfinished uploads of a node.
pub const UPLOAD_BYTES_TOTAL_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Unfinished uploads of a node. The oldest goes when a new one finds no place; its session sends it again.
const UPLOADS_MAX: usize = 4096;

/// Names an upload: the session and a number within it.
pub type UploadKey = (SessionKey, u64);

struct Upload {
    file: File,
    path: PathBuf,
    size: u64,
    begun: u64,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

pub(crate) struct Uploads {
    dir: PathBuf,
    rows: HashMap<UploadKey, Upload>,
    total: u64,
    begun: u64,
}

impl Uploads {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), rows: HashMap::new(), total: 0, begun: 0 })
    }

    fn drop_row(&mut self, key: &UploadKey) {
        if let Some(upload) = self.rows.remove(key) {
            self.total -= upload.size;
        }
    }

    fn write(&mut self, key: UploadKey, offset: u64, bytes: &[u8], max: u64) -> Result<(), BodyError> {
        if offset == 0 && !self.rows.contains_key(&key) {
            self.begin(key)?;
        }
        let upload = self.rows.get_mut(&key).ok_or(BodyError::UploadLost)?;
        let end = offset.saturating_add(bytes.len() as u64);
        // A piece told again is written again; a gap means that pieces were lost.
        if offset > upload.size || end > max {
            self.drop_row(&key);
            return Err(BodyError::UploadLost);
        }
        let grows = end.saturating_sub(upload.size);
        if self.total + grows > UPLOAD_BYTES_TOTAL_MAX {
            return Err(BodyError::Busy);
        }
        upload.file.write_all_at(bytes, offset)?;
        upload.size += grows;
        self.total += grows;
        Ok(())
    }

    fn begin(&mut self, key: UploadKey) -> Result<(), BodyError> {
        if self.rows.len() >= UPLOADS_MAX {
            let oldest = self.rows.iter().min_by_key(|(_, upload)| upload.begun).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.drop_row(&oldest);
            }
        }
        self.begun += 1;
        let path = self.dir.join(self.begun.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        self.rows.insert(key, Upload { file, path, size: 0, begun: self.begun });
        Ok(())
    }

    fn read(&self, key: &UploadKey, size: u64) -> Result<Bytes, BodyError> {
        let upload = self.rows.get(key).filter(|upload| upload.size == size).ok_or(BodyError::UploadLost)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| BodyError::UploadLost)?];
        upload.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.into())
    }
}

impl BodyStore {
    /// Takes a piece of an upload; `max` bounds the whole.
    ///
    /// # Errors
    /// [`BodyError::UploadLost`] asks to begin again at offset 0.
    pub fn upload(&self, key: UploadKey, offset: u64, bytes: &[u8], max: u64) -> Result<(), BodyError> {
        lock(&self.uploads).write(key, offset, bytes, max)
    }

    /// Stores a finished upload as a body. Blocks for the disk. The upload stays until [`BodyStore::end_upload`], so that the
    /// request may be repeated.
    ///
    /// # Errors
    /// [`BodyError::UploadLost`], [`BodyError::WrongHash`], or as [`BodyStore::put`].
    pub fn put_upload(self: &Arc<Self>, key: &UploadKey, size: u64, hash: BodyHash, now_ms: u64) -> Result<(Bytes, Receipt), BodyError> {
        let bytes = lock(&self.uploads).read(key, size)?;
        let receipt = self.put_checked(hash, &bytes, now_ms)?;
        Ok((bytes, receipt))
    }

    /// Forgets an upload.
    pub fn end_upload(&self, key: &UploadKey) {
        lock(&self.uploads).drop_row(key);
    }

    /// Forgets all uploads of a session.
    pub fn end_uploads_of(&self, session: SessionKey) {
        let mut uploads = lock(&self.uploads);
        let keys: Vec<UploadKey> = uploads.rows.keys().filter(|key| key.0 == session).copied().collect();
        keys.iter().for_each(|key| uploads.drop_row(key));
    }
}
