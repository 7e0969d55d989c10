//! The requests of the kernel. Nothing is cached by it: every read, write and look at a name comes here.

use crate::faults::Action;
use crate::tree::{Kind, Node, Refusal};
use crate::volume::{Handle, State, Verdict, Volume};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use std::ffi::OsStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNCACHED: Duration = Duration::ZERO;
/// What a volume without a bound says it has, bytes.
const CAPACITY_TOLD: u64 = 1 << 40;
const BLOCK: u64 = 4096;
/// The bits of a mode that say what it is of, and those of a socket (`S_IFMT`, `S_IFSOCK`).
const FORMAT: u32 = 0o170_000;
const SOCKET: u32 = 0o140_000;

impl State {
    fn attributes(&mut self, number: u64) -> Result<FileAttr, Errno> {
        if self.is_off() {
            return Err(Errno::EIO);
        }
        let node = self.tree.node(number)?;
        let size = node.len();
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: kind_of(node),
            perm: node.mode,
            nlink: node.links,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        })
    }

    /// Carries a change out unless a fault or a cut has it otherwise.
    fn change<T>(&mut self, action: Action, node: u64, change: impl FnOnce(&mut Self) -> Result<T, Errno>) -> Result<T, Errno> {
        match self.meet(action, node)? {
            Verdict::Do => change(self),
            Verdict::Fail => Err(Errno::EIO),
            Verdict::DoAndCut(loss) => {
                // What it came to, nobody hears.
                let _ = change(self);
                self.lose(loss);
                Err(Errno::EIO)
            }
        }
    }

    fn make(&mut self, parent: u64, name: &OsStr, folder: bool, mode: u32) -> Result<FileAttr, Errno> {
        let name = text(name)?;
        let number = self.change(Action::Change, parent, |state| Ok(state.tree.make(parent, name, folder, (mode & 0o7777) as u16)?))?;
        self.attributes(number)
    }

    fn hold(&mut self, node: u64, listing: Vec<(String, u64, bool)>) -> FileHandle {
        let handle = self.next_handle;
        self.next_handle += 1;
        let failures_seen = self.tree.node(node).map_or(0, |node| node.failures);
        self.handles.insert(handle, Handle { node, failures_seen, listing });
        FileHandle(handle)
    }

    /// The file of a handle; `EIO` after a cut.
    fn held(&self, handle: FileHandle) -> Result<u64, Errno> {
        match self.handles.get(&handle.0) {
            Some(held) if !self.is_off() => Ok(held.node),
            _ => Err(Errno::EIO),
        }
    }

    fn set_len(&mut self, node: u64, len: u64) -> Result<(), Errno> {
        let old = self.tree.file(node)?.live.len();
        if len.div_ceil(BLOCK) > old.div_ceil(BLOCK) && !self.fits((len.div_ceil(BLOCK) - old.div_ceil(BLOCK)) * BLOCK) {
            return Err(Errno::ENOSPC);
        }
        self.tree.file(node)?.set_len(len);
        Ok(())
    }

    fn write(&mut self, node: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let (old, end) = (self.tree.file(node)?.live.len(), offset + bytes.len() as u64);
        if end.div_ceil(BLOCK) > old.div_ceil(BLOCK) && !self.fits((end.div_ceil(BLOCK) - old.div_ceil(BLOCK)) * BLOCK) {
            return Err(Errno::ENOSPC);
        }
        self.tree.file(node)?.write(offset, bytes);
        Ok(())
    }

    /// What a sync that begins now has to make durable.
    fn unsynced(&mut self, node: u64) -> Result<usize, Errno> {
        Ok(match &mut self.tree.node(node)?.kind {
            Kind::File(content) => content.unsynced(),
            Kind::Folder(folder) => folder.unsynced(),
        })
    }

    fn sync(&mut self, node: u64, count: usize) -> Result<(), Errno> {
        let count = if self.faults.lying { 0 } else { count };
        match &mut self.tree.node(node)?.kind {
            Kind::File(content) => content.sync(count),
            Kind::Folder(folder) => folder.sync(count),
        }
        Ok(())
    }

    /// As Linux has it: every handle of that moment is told once, whichever of them synced.
    fn tell_failure(&mut self, handle: FileHandle) -> Result<(), Errno> {
        let failures = self.held(handle).and_then(|node| Ok(self.tree.node(node)?.failures))?;
        let held = self.handles.get_mut(&handle.0).ok_or(Errno::EIO)?;
        if std::mem::replace(&mut held.failures_seen, failures) < failures { Err(Errno::EIO) } else { Ok(()) }
    }

    fn fail_sync(&mut self, node: u64) -> Result<(), Errno> {
        self.tree.node(node)?.failures += 1;
        match &mut self.tree.node(node)?.kind {
            Kind::File(content) => content.fail_sync(),
            Kind::Folder(folder) => folder.fail_sync(),
        }
        Ok(())
    }
}

fn kind_of(node: &Node) -> FileType {
    match node.kind {
        Kind::File(_) if node.socket => FileType::Socket,
        Kind::File(_) => FileType::RegularFile,
        Kind::Folder(_) => FileType::Directory,
    }
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

impl Volume {
    /// Makes durable what was there when the sync began; how long that takes is a setting, and writes go on meanwhile.
    fn sync(&self, action: Action, handle: FileHandle) -> Result<(), Errno> {
        let (node, count, latency, life) = {
            let mut state = self.lock();
            let node = state.held(handle)?;
            (node, state.unsynced(node)?, state.faults.latency, state.life)
        };
        if !latency.is_zero() {
            std::thread::sleep(latency);
        }
        let mut state = self.lock();
        if state.life != life {
            return Err(Errno::EIO);
        }
        match state.meet(action, node)? {
            Verdict::Do => state.sync(node, count).and_then(|()| state.tell_failure(handle)),
            Verdict::Fail => state.fail_sync(node).and_then(|()| state.tell_failure(handle)),
            Verdict::DoAndCut(loss) => {
                state.sync(node, count)?;
                state.lose(loss);
                Err(Errno::EIO)
            }
        }
    }

    fn list(&self, node: u64) -> Result<FileHandle, Errno> {
        let mut state = self.lock();
        if state.is_off() {
            return Err(Errno::EIO);
        }
        let names: Vec<(String, u64)> = state.tree.folder(node)?.live.iter().map(|(name, node)| (name.clone(), *node)).collect();
        let mut listing = vec![(".".to_owned(), node, true), ("..".to_owned(), node, true)];
        for (name, number) in names {
            let folder = matches!(state.tree.node(number)?.kind, Kind::Folder(_));
            listing.push((name, number, folder));
        }
        Ok(state.hold(node, listing))
    }
}

/// Answers with the value or the error.
macro_rules! answer {
    ($reply:expr, $result:expr, $value:pat => $good:expr) => {
        match $result {
            Ok($value) => $good,
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

impl Filesystem for Volume {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.lock();
        let found = text(name).and_then(|name| match state.is_off() {
            true => Err(Errno::EIO),
            false => Ok(state.tree.find(parent.0, name)?),
        });
        answer!(reply, found.and_then(|node| state.attributes(node)), attributes => reply.entry(&UNCACHED, &attributes, Generation(0)));
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.lock().attributes(node.0), attributes => reply.attr(&UNCACHED, &attributes));
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.lock();
        let changed = match size {
            Some(size) => state.change(Action::Change, node.0, |state| state.set_len(node.0, size)),
            None => Ok(()),
        };
        let attributes = changed.and_then(|()| {
            if let Some(mode) = mode {
                state.tree.node(node.0)?.mode = (mode & 0o7777) as u16;
            }
            state.attributes(node.0)
        });
        answer!(reply, attributes, attributes => reply.attr(&UNCACHED, &attributes));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.lock().make(parent.0, name, true, mode & !umask);
        answer!(reply, made, attributes => reply.entry(&UNCACHED, &attributes, Generation(0)));
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _device: u32, reply: ReplyEntry) {
        let mut state = self.lock();
        let made = state.make(parent.0, name, false, mode & !umask).and_then(|attributes| {
            state.tree.node(attributes.ino.0)?.socket = mode & FORMAT == SOCKET;
            state.attributes(attributes.ino.0)
        });
        answer!(reply, made, attributes => reply.entry(&UNCACHED, &attributes, Generation(0)));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _flags: i32, reply: ReplyCreate) {
        let mut state = self.lock();
        let made = state.make(parent.0, name, false, mode & !umask);
        answer!(reply, made, attributes => {
            let handle = state.hold(attributes.ino.0, Vec::new());
            reply.created(&UNCACHED, &attributes, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO);
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.lock();
        let gone =
            text(name).and_then(|name| state.change(Action::Change, parent.0, |state| Ok(state.tree.unlink(parent.0, name, false)?)));
        let open = state.open();
        state.tree.sweep(&open);
        answer!(reply, gone, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.lock();
        let gone =
            text(name).and_then(|name| state.change(Action::Change, parent.0, |state| Ok(state.tree.unlink(parent.0, name, true)?)));
        answer!(reply, gone, () => reply.ok());
    }

    fn rename(&self, _: &Request, parent: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags, reply: ReplyEmpty) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) || flags.contains(RenameFlags::RENAME_WHITEOUT) {
            return reply.error(Errno::EINVAL);
        }
        let mut state = self.lock();
        let renamed = text(name).and_then(|name| Ok((name, text(new)?))).and_then(|(name, new)| {
            if flags.contains(RenameFlags::RENAME_NOREPLACE) && state.tree.find(to.0, new).is_ok() {
                return Err(Refusal::Exists.into());
            }
            state.change(Action::Change, parent.0, |state| Ok(state.tree.rename((parent.0, name), (to.0, new))?))
        });
        answer!(reply, renamed, () => reply.ok());
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.lock();
        let known = state.attributes(node.0);
        answer!(reply, known, _ => {
            let handle = state.hold(node.0, Vec::new());
            reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO);
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.lock();
        let bytes = state.held(handle).and_then(|node| match state.meet(Action::Read, node)? {
            Verdict::Do => Ok(state.tree.file(node)?.live.read(offset, u64::from(size))),
            _ => Err(Errno::EIO),
        });
        answer!(reply, bytes, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.lock();
        let node = state.held(handle);
        let written = node.and_then(|node| state.change(Action::Write, node, |state| state.write(node, offset, data)));
        answer!(reply, written, () => reply.written(data.len() as u32));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        self.lock().handles.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.sync(Action::Sync, handle), () => reply.ok());
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.list(node.0), handle => reply.opened(handle, FopenFlags::empty()));
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.lock();
        let Some(held) = state.handles.get(&handle.0) else { return reply.error(Errno::EIO) };
        for (at, (name, node, folder)) in held.listing.iter().enumerate().skip(offset as usize) {
            let kind = if *folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*node), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.lock().handles.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.sync(Action::SyncFolder, handle), () => reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.lock();
        if state.is_off() {
            return reply.error(Errno::EIO);
        }
        let total = state.faults.capacity.unwrap_or(CAPACITY_TOLD);
        let free = total.saturating_sub(state.tree.used(&state.open())) / BLOCK;
        reply.statfs(total / BLOCK, free, free, 1 << 20, 1 << 20, BLOCK as u32, 255, BLOCK as u32);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = self.lock();
        let allocated = state.held(handle).and_then(|node| {
            state.change(Action::Change, node, |state| match state.tree.file(node)?.live.len() {
                len if len >= offset + length => Ok(()),
                _ => state.set_len(node, offset + length),
            })
        });
        answer!(reply, allocated, () => reply.ok());
    }
}
