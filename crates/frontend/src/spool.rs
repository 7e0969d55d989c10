//! Files for literals and messages too large for memory (rule 27). Nothing in them outlives the process: they are never
//! synced, are unlinked as soon as they are open, and left-overs are removed at start.

use crate::stats::{FrontendStats, count, lower};
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SUFFIX: &str = ".spool";

/// A directory of spool files with a bound on their total size.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    bytes_max: u64,
    next: AtomicU64,
    stats: Arc<FrontendStats>,
}

/// One spooled literal or message. Dropping it frees its disk space and its share of the bound.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    spool: Arc<Spool>,
    file: Arc<File>,
    reserved: u64,
    written: u64,
}

impl Spool {
    /// Makes the directory where needed and removes what an earlier process left.
    pub(crate) fn open(directory: &Path, bytes_max: u64, stats: Arc<FrontendStats>) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(directory)?;
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(SUFFIX) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Arc::new(Self { directory: directory.to_owned(), bytes_max, next: AtomicU64::new(1), stats }))
    }

    /// Opens a file with room for `bytes`; more is reserved as it is written.
    pub(crate) async fn create(self: &Arc<Self>, bytes: u64) -> io::Result<SpoolFile> {
        self.reserve(bytes)?;
        let spool = Arc::clone(self);
        let opened = blocking(move || spool.open_unlinked()).await;
        match opened {
            Ok(file) => Ok(SpoolFile { spool: Arc::clone(self), file: Arc::new(file), reserved: bytes, written: 0 }),
            Err(error) => {
                lower(&self.stats.spool_bytes_now, bytes);
                count(&self.stats.spool_refusals, 1);
                Err(error)
            }
        }
    }

    fn open_unlinked(&self) -> io::Result<File> {
        let path = self.directory.join(format!("{}{SUFFIX}", self.next.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let fits = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        match self.stats.spool_bytes_now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => {
                count(&self.stats.spool_refusals, 1);
                Err(io::Error::new(io::ErrorKind::QuotaExceeded, "spool is full"))
            }
        }
    }
}

impl SpoolFile {
    /// Appends.
    pub(crate) async fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        let (offset, end) = (self.written, self.written + bytes.len() as u64);
        if end > self.reserved {
            self.spool.reserve(end - self.reserved)?;
            self.reserved = end;
        }
        let file = Arc::clone(&self.file);
        blocking(move || file.write_all_at(&bytes, offset)).await?;
        self.written = end;
        Ok(())
    }

    /// Reads `length` bytes from `offset`; all of them must have been written.
    pub(crate) async fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.written) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file = Arc::clone(&self.file);
        blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        lower(&self.spool.stats.spool_bytes_now, self.reserved);
    }
}

/// Disk work leaves the threads that serve sockets.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn spool_is_bounded_cleaned_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("7.spool"), b"left over").unwrap();
        std::fs::write(directory.path().join("keep"), b"not ours").unwrap();
        let stats = Arc::new(FrontendStats::default());
        let spool = Spool::open(directory.path(), 10, Arc::clone(&stats)).unwrap();
        let mut file = spool.create(4).await.unwrap();
        file.append(Bytes::from_static(b"abc")).await.unwrap();
        file.append(Bytes::from_static(b"defg")).await.unwrap();
        assert_eq!(file.read(2, 4).await.unwrap(), "cdef");
        assert!(file.read(4, 4).await.is_err());
        assert_eq!(stats.spool_bytes_now.load(Ordering::Relaxed), 7);
        assert!(spool.create(4).await.is_err());
        assert!(file.append(Bytes::from_static(b"1234")).await.is_err());
        assert_eq!(stats.spool_refusals.load(Ordering::Relaxed), 2);
        drop(file);
        assert_eq!(stats.spool_bytes_now.load(Ordering::Relaxed), 0);
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["keep"]);
    }
}
