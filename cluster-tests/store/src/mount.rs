//! Mounting.

use crate::skipped;
use crate::volume::Volume;
use fuser::{BackgroundSession, Config, MountOption};
use std::io;
use std::path::{Path, PathBuf};

const SUBTYPE: &str = "parliament-store";

/// A mounted volume; unmounted when dropped.
pub struct Mounted {
    /// Its commands.
    pub volume: Volume,
    folder: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

/// Mounts an empty volume. None, said loudly, where this process may not mount or the system has no FUSE.
///
/// # Panics
/// When mounting fails although it should not.
#[must_use]
pub fn mounted(test: &str, seed: u64) -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        skipped(test, "mounting a file system needs root");
        return None;
    }
    if !Path::new("/dev/fuse").exists() {
        skipped(test, "there is no /dev/fuse");
        return None;
    }
    remove_left_over();
    match Mounted::new(seed) {
        Ok(mounted) => Some(mounted),
        Err(error) if matches!(error.raw_os_error(), Some(1 | 13 | 19)) => {
            // EPERM, EACCES, ENODEV: a container without the right, a kernel without the module.
            skipped(test, &format!("FUSE is not usable here: {error}"));
            None
        }
        Err(error) => panic!("mount: {error}"),
    }
}

/// Unmounts what processes that were killed have left behind.
fn remove_left_over() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(name), Some(folder)) = (words.next(), words.next()) else { continue };
        let process = name.strip_prefix(SUBTYPE).and_then(|rest| rest.strip_prefix('.'));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another test may be as quick.
            let _ = rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Mounted {
    fn new(seed: u64) -> io::Result<Self> {
        let volume = Volume::new(seed);
        let folder = tempfile::tempdir()?;
        let mut config = Config::default();
        let name = format!("{SUBTYPE}.{}", std::process::id());
        config.mount_options = vec![MountOption::FSName(name), MountOption::Subtype(SUBTYPE.to_owned())];
        // More than one, since a sync may be told to take long.
        config.n_threads = Some(3);
        let session = fuser::spawn_mount(volume.clone(), folder.path(), &config)?;
        Ok(Self { volume, folder, session: Some(session) })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached, since threads of a database that met a cut may still hold a dead file.
        if let Err(error) = rustix::mount::unmount(self.folder.path(), rustix::mount::UnmountFlags::DETACH) {
            eprintln!("{} cannot be unmounted: {error}", self.folder.path().display());
        }
        drop(self.session.take());
    }
}
