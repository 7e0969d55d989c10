//! The port through which the journal and the body store touch files, and its implementation on the real disk.
//!
//! Tests put a simulated disk behind it that forgets whatever was not synced.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// How [`Disk::open`] treats a file that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// The file is made when missing; an existing one keeps its bytes.
    Create,
}

/// What a file system tells about its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that an unprivileged process may still take.
    pub free: u64,
    /// Bytes of the whole file system.
    pub total: u64,
}

/// A file system. Names are durable only after [`Disk::sync_dir`], bytes only after [`DiskFile::sync`].
pub trait Disk: Send + Sync {
    /// Makes `dir` and its parents, and their names durable: a folder whose name is lost takes all it holds with it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names (not paths) of the files in `dir`, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing what bears the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; open handles keep working.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the names of `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Free and total space at `dir`.
    fn space(&self, dir: &Path) -> io::Result<DiskSpace>;
    /// Takes the exclusive lock of `dir`, held until the returned value is dropped. `WouldBlock` when another process has it.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
}

/// Makes a folder in which a store lives, and every name on the way to it durable, also where an earlier process made one and died
/// before it was. Ancestors that this user may not read were made by somebody else.
pub fn make_home(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.create_dir(dir)?;
    for ancestor in dir.ancestors().skip(2).filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        match disk.sync_dir(ancestor) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// An open file. Offsets and lengths are bytes.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes some of `buffers`, at most 1,024 of them, in order; returns how many bytes.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// fdatasync. After an error the file's unsynced bytes are lost and a repeated call proves nothing.
    fn sync(&self) -> io::Result<()>;
    /// fallocate: the first `bytes` bytes exist and have space.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Length of the file.
    fn len(&self) -> io::Result<u64>;
    /// Asks that the next reads come from the medium and not from a cache; a hint, which bytes not synced yet ignore.
    fn forget_cached(&self) {}
    /// True when the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// True when the medium did not give the bytes (EIO, which rustix and std tell by number alone).
#[must_use]
pub fn is_medium_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Most buffers of one vectored write (Linux: UIO_MAXIOV).
pub const BUFFERS_PER_WRITE_MAX: usize = 1024;

/// Reads exactly `buffer.len()` bytes or fails with `UnexpectedEof`.
pub fn read_exact(file: &dyn DiskFile, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `buffers` at `offset`; leaves the slices advanced.
pub fn write_all(file: &dyn DiskFile, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        let some = &buffers[..buffers.len().min(BUFFERS_PER_WRITE_MAX)];
        match file.write_at(some, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                IoSlice::advance_slices(&mut buffers, count);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the first `bytes` bytes with zeros, so that later writes change no metadata.
pub fn fill_zeros(file: &dyn DiskFile, bytes: u64) -> io::Result<()> {
    const CHUNK: u64 = 1024 * 1024;
    let zeros = vec![0u8; CHUNK.min(bytes) as usize];
    let mut offset = 0;
    while offset < bytes {
        let count = CHUNK.min(bytes - offset);
        write_all(file, &mut [IoSlice::new(&zeros[..count as usize])], offset)?;
        offset += count;
    }
    Ok(())
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile(File);

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            self.create_dir(parent)?;
        }
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made?,
        }
        // Also for one that was there: who made it may have died before this.
        self.sync_dir(parent)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(mode == OpenMode::Create).truncate(false).mode(0o600);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(DiskSpace { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, buffers, offset)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // File systems without fallocate (some network and FUSE ones) get a file of the right length; space is then found at write.
            Err(rustix::io::Errno::OPNOTSUPP) if self.len()? < bytes => self.set_len(bytes),
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn forget_cached(&self) {
        if let Err(error) = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed) {
            tracing::debug!(%error, "cached pages of a file stay");
        }
    }
}
