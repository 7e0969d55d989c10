//! Snapshot files of one group on this node. The newest one is what the log may be purged up to (rule 8), what a lagging
//! follower is sent, and what tables are rebuilt from.

use crate::codec::{Reader, Writer};
use crate::lock;
use crate::records::Applied;
use crate::types::SnapshotMeta;
use bytes::Bytes;
use parliament_ids::GroupId;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const DESCRIPTION_VERSION: u8 = 1;
const SUFFIX: &str = "snapshot";

struct FileInner {
    path: PathBuf,
    meta: SnapshotMeta,
    /// The file goes with its last handle.
    discard: AtomicBool,
}

impl Drop for FileInner {
    fn drop(&mut self) {
        if self.discard.load(Ordering::Acquire) {
            // What stays behind is removed when the group starts next.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A snapshot file. A superseded one is removed when its last handle goes, so a transfer under way keeps its file.
#[derive(Clone)]
pub struct SnapshotFile(Arc<FileInner>);

impl SnapshotFile {
    fn new(path: PathBuf, meta: SnapshotMeta, discard: bool) -> Self {
        Self(Arc::new(FileInner { path, meta, discard: AtomicBool::new(discard) }))
    }
    /// Stands for "no snapshot": covers nothing.
    pub(crate) fn none() -> Self {
        Self::new(PathBuf::new(), SnapshotMeta::default(), false)
    }
    /// A file that a peer sent; removed unless the group adopts it.
    pub(crate) fn received(path: PathBuf, meta: SnapshotMeta) -> Self {
        Self::new(path, meta, true)
    }
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }
    /// What it covers.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.0.meta
    }
    pub(crate) fn index(&self) -> Option<u64> {
        self.0.meta.last_log_id.as_ref().map(crate::types::LogId::index)
    }
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotFile({})", self.0.path.display())
    }
}

/// `version | group | last entry | membership`, kept in the head of the file.
pub(crate) fn describe(group: GroupId, applied: &Applied) -> Bytes {
    let mut writer = Writer::versioned(DESCRIPTION_VERSION, 160);
    writer.number(u64::from(group.0));
    writer.raw(&applied.encode());
    writer.finish()
}

fn read_description(group: GroupId, bytes: Vec<u8>) -> io::Result<SnapshotMeta> {
    let parse = || {
        let mut reader = Reader::versioned("snapshot description", DESCRIPTION_VERSION, bytes.into())?;
        if reader.number()? != u64::from(group.0) {
            return Err(reader.error("another group's snapshot"));
        }
        Applied::decode(reader.rest())
    };
    Ok(parse().map_err(io::Error::other)?.meta())
}

/// The folder of one group's snapshots: `snapshots/` with finished files, `spool/` with files that peers are sending.
pub(crate) struct SnapshotDir {
    group: GroupId,
    folder: PathBuf,
    spool: PathBuf,
    newest: Mutex<Option<SnapshotFile>>,
}

impl SnapshotDir {
    /// Opens the folders below `dir`, finds the newest file and removes what a crash left behind.
    pub(crate) fn open(dir: &Path, group: GroupId) -> io::Result<Self> {
        let (folder, spool) = (dir.join("snapshots"), dir.join("spool"));
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&spool)?;
        sync_folder(dir)?;
        // A process may have died between naming a snapshot and making the name durable; from here on the log is purged up to it.
        sync_folder(&folder)?;
        for entry in fs::read_dir(&spool)? {
            fs::remove_file(entry?.path())?;
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) { files.push(path) } else { fs::remove_file(path)? }
        }
        // Names order as indexes do.
        files.sort();
        let mut newest = None;
        for path in files.into_iter().rev() {
            if newest.is_some() {
                fs::remove_file(path)?;
                continue;
            }
            let meta =
                parliament_tables::read_snapshot_meta(&path).map_err(io::Error::other).and_then(|bytes| read_description(group, bytes));
            match meta {
                Ok(meta) => newest = Some(SnapshotFile::new(path, meta, false)),
                Err(error) => {
                    tracing::error!(%group, path = %path.display(), %error, "snapshot file is damaged and not used");
                    fs::rename(&path, path.with_extension("damaged-snapshot"))?;
                }
            }
        }
        Ok(Self { group, folder, spool, newest: Mutex::new(newest) })
    }

    pub(crate) fn spool(&self) -> &Path {
        &self.spool
    }
    pub(crate) fn newest(&self) -> Option<SnapshotFile> {
        lock(&self.newest).clone()
    }
    pub(crate) fn newest_index(&self) -> Option<u64> {
        self.newest().and_then(|file| file.index())
    }
    /// Where a snapshot of the tables at `applied` is written.
    pub(crate) fn path_for(&self, applied: &Applied) -> PathBuf {
        self.folder.join(format!("{:020}.{SUFFIX}", applied.index().unwrap_or(0)))
    }

    /// Reads a file wholly and checks that it is this group's and covers what its handle says.
    pub(crate) fn verify(&self, file: &SnapshotFile) -> io::Result<()> {
        let info = parliament_tables::verify_snapshot(file.path()).map_err(io::Error::other)?;
        let meta = read_description(self.group, info.meta)?;
        if &meta == file.meta() { Ok(()) } else { Err(io::Error::other("the snapshot covers something else than its sender said")) }
    }

    /// Makes a finished file in the folder the newest one.
    pub(crate) fn adopt(&self, path: PathBuf, meta: SnapshotMeta) -> SnapshotFile {
        let file = SnapshotFile::new(path, meta, false);
        let mut newest = lock(&self.newest);
        if let Some(old) = newest.replace(file.clone())
            && old.path() != file.path()
        {
            old.0.discard.store(true, Ordering::Release);
        }
        file
    }

    /// Gives up a file that does not verify; it stays beside the others, where an operator can look at it, until the next start.
    pub(crate) fn put_aside(&self, file: &SnapshotFile) -> io::Result<()> {
        let mut newest = lock(&self.newest);
        if newest.as_ref().is_some_and(|newest| newest.path() == file.path()) {
            *newest = None;
        }
        fs::rename(file.path(), file.path().with_extension("damaged-snapshot"))?;
        sync_folder(&self.folder)
    }

    /// Moves a verified file of a peer into the folder, durably, and makes it the newest one.
    pub(crate) fn adopt_received(&self, file: &SnapshotFile) -> io::Result<SnapshotFile> {
        let path = self.path_for(&Applied::of_meta(file.meta()));
        if file.path() == path {
            return Ok(file.clone());
        }
        File::open(file.path())?.sync_all()?;
        fs::rename(file.path(), &path)?;
        file.0.discard.store(false, Ordering::Release);
        sync_folder(&self.folder)?;
        Ok(self.adopt(path, file.meta().clone()))
    }

    /// A file that the operator or another component placed in the spool, described by its own head.
    pub(crate) fn describe_file(&self, path: PathBuf) -> io::Result<SnapshotFile> {
        let bytes = parliament_tables::read_snapshot_meta(&path).map_err(io::Error::other)?;
        let meta = read_description(self.group, bytes)?;
        Ok(SnapshotFile::new(path, meta, false))
    }
}

/// Puts the snapshot files of a group that does not run, in its folder `dir`, where nobody uses them and an operator can look at them, until
/// this is done again.
///
/// # Errors
/// What the file system says.
pub fn put_snapshots_aside(dir: &Path) -> io::Result<()> {
    let aside = dir.join("snapshots-aside");
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(dir.join("snapshots"), &aside)?;
    sync_folder(dir)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
