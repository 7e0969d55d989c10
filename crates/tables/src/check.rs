//! Reading what lies on the medium, while the tables are in use.
//!
//! sled keeps pages in memory, so what it answers proves nothing about its file. A copy of the file is opened beside it and read through:
//! every message of sled and every record has a checksum, the number of the last flush tells whether sled has lost its end, and each record
//! is compared with what the database in use has.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use crate::TableError;
use crate::base::{Base, Flushed};
use crate::directory::{remove, remove_generating};
use crate::group::GroupTables;
use crate::recover::redo_writer;
use crate::snapshot_file::Reader;

/// Memory that the copy's pages may take: little, since each is read once.
const COPY_CACHE_BYTES: u64 = 1 << 20;

/// Copies that are made until two of them show the same damage.
const COPIES_MAX: usize = 4;
/// Space that a check leaves free, bytes.
const ROOM_LEFT_BYTES: u64 = 64 * 1024 * 1024;

/// What a check found in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records read.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The redo file did not verify, and has been written anew.
    pub redo_damaged: bool,
}

/// Has the next reads of a file come from the medium; a hint.
pub fn forget_cached(path: &Path) {
    if let Ok(file) = File::open(path)
        && let Err(error) = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
    {
        tracing::debug!(%error, path = %path.display(), "cached pages of a file stay");
    }
}

impl GroupTables {
    /// Reads all of the database and the redo file as they lie on the medium. Commits and reads go on; flushes wait, and a commit that would
    /// flush first waits with them. Takes as much space as the database for the time being.
    ///
    /// # Errors
    /// [`TableError::Damaged`] when something is proven not to verify: [`GroupTables::rebuild`] is the cure. [`TableError::NotChecked`] when
    /// the system did not let it be looked at. [`TableError::Incomplete`].
    pub fn check(&self) -> Result<Checked, TableError> {
        self.look().map_err(|error| match error {
            error @ (TableError::Damaged(_) | TableError::Incomplete(_)) => error,
            error if error.is_damage() => TableError::Damaged(error.to_string()),
            error => TableError::NotChecked(error.to_string()),
        })
    }

    fn look(&self) -> Result<Checked, TableError> {
        let number = self.inner.flushing();
        let base = self.inner.base()?;
        base.flush()?;
        let flushed = base.flushed()?;
        if flushed.number != *number {
            return Err(TableError::Damaged(format!("the database holds flush {} instead of {number}", flushed.number)));
        }
        let mut checked = Checked { redo_damaged: self.check_redo(&flushed)?, ..Checked::default() };
        self.has_room(&base)?;
        let outcome = self.check_copies(&base, &flushed, &mut checked);
        remove(&self.inner.directory().copy())?;
        outcome.map(|()| checked)
    }

    /// The copy must not take the space that mail needs.
    fn has_room(&self, base: &Base) -> Result<(), TableError> {
        let path = self.inner.directory().copy();
        let folder = path.parent().unwrap_or(&path);
        let stat = rustix::fs::statvfs(folder).map_err(|errno| TableError::io("measure", folder)(errno.into()))?;
        let (free, needed) = (stat.f_bavail.saturating_mul(stat.f_frsize), base.size_on_disk()?.saturating_add(ROOM_LEFT_BYTES));
        if free < needed {
            return Err(TableError::NotChecked(format!("{free} bytes are free, and a copy needs {needed}")));
        }
        Ok(())
    }

    /// sled's own thread may have moved a page while its file was copied, and such a copy proves nothing: what is damaged is found the same
    /// way twice in a row.
    fn check_copies(&self, base: &Base, flushed: &Flushed, checked: &mut Checked) -> Result<(), TableError> {
        let mut before: Option<String> = None;
        for _ in 0..COPIES_MAX {
            let Err(error) = self.check_copy(base, flushed, checked) else { return Ok(()) };
            let found = error.to_string();
            if !error.is_damage() || before.replace(found.clone()).is_some_and(|before| before == found) {
                return Err(error);
            }
        }
        Err(TableError::NotChecked(format!("no two copies were alike, the last one: {}", before.unwrap_or_default())))
    }

    /// True when the redo file did not verify. It is needed only to complete a flush in sled, which all are, so an empty one stands for it.
    fn check_redo(&self, flushed: &Flushed) -> Result<bool, TableError> {
        let directory = self.inner.directory();
        let path = directory.redo();
        if flushed.number == 0 {
            return Ok(false);
        }
        forget_cached(&path);
        let read = || {
            let mut reader = Reader::open(&path)?;
            while reader.next()?.is_some() {}
            Ok::<_, TableError>(reader.meta == flushed.number.to_le_bytes() && reader.applied == flushed.applied)
        };
        match read() {
            Ok(true) => return Ok(false),
            Err(error @ TableError::Io { .. }) if !error.is_damage() && path.exists() => return Err(error),
            _ => {}
        }
        tracing::error!(path = %path.display(), "the redo file was damaged and is written anew");
        redo_writer(directory, flushed)?.finish(false)?;
        Ok(true)
    }

    fn check_copy(&self, base: &Base, flushed: &Flushed, checked: &mut Checked) -> Result<(), TableError> {
        (checked.records, checked.bytes) = (0, 0);
        let directory = self.inner.directory();
        let (copy, number) = (directory.copy(), directory.numbers("tables")?.last().copied().unwrap_or(0));
        remove(&copy)?;
        copy_folder(&directory.database(number), &copy, &mut checked.bytes)?;
        remove_generating(&copy)?;
        let damaged = |why: String| TableError::Damaged(format!("on the medium: {why}"));
        let proven = |error: TableError| if error.is_damage() { damaged(error.to_string()) } else { error };
        let found = Base::open(&copy, COPY_CACHE_BYTES).map_err(proven)?;
        let held = found.flushed().map_err(proven)?;
        if held != *flushed {
            return Err(damaged(format!("flush {} instead of {}", held.number, flushed.number)));
        }
        let (mut there, mut here) = (found.range(&[], None), base.range(&[], None));
        loop {
            let (on_medium, in_use) = (there.next().map_err(proven)?, here.next()?);
            let Some((key, value)) = on_medium else {
                return if in_use.is_none() { Ok(()) } else { Err(damaged("records are missing".into())) };
            };
            if in_use.is_none_or(|(known, same)| known != key || same != value) {
                return Err(damaged(format!("record {}", crate::record::hex(&key))));
            }
            found.resolve(&key, &value).map_err(proven)?;
            checked.records += 1;
        }
    }
}

/// Copies the files of a database from the medium; those of which sled thinks that they can go may go meanwhile.
fn copy_folder(from: &Path, to: &Path, bytes: &mut u64) -> Result<(), TableError> {
    fs::create_dir(to).map_err(TableError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(TableError::io("list", from))? {
        let path = entry.map_err(TableError::io("list", from))?.path();
        let (Some(name), true) = (path.file_name(), path.is_file()) else { continue };
        forget_cached(&path);
        match fs::copy(&path, to.join(name)) {
            Ok(copied) => *bytes += copied,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // The medium of this file, and not that of the copy, does not give it any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) && !is_readable(&path) => {
                return Err(TableError::Damaged(format!("{}: {error}", path.display())));
            }
            Err(error) => return Err(TableError::NotChecked(format!("{}: {error}", path.display()))),
        }
    }
    Ok(())
}

fn is_readable(path: &Path) -> bool {
    forget_cached(path);
    let read = File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    !read.is_err_and(|error| error.raw_os_error() == Some(libc::EIO))
}
