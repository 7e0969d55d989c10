//! openraft's state machine: chunks of committed entries become one commit of the tables each; snapshots are built beside.

use crate::executor::Executor;
use crate::lock;
use crate::log_store::LogStore;
use crate::machine::{AnyMachine, Applicable, Replies};
use crate::records::Applied;
use crate::snapshots::{SnapshotDir, SnapshotFile, describe};
use crate::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use futures::{FutureExt, Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parliament_ids::GroupId;
use parliament_mailbox_state::Overlay;
use parliament_tables::{GroupTables, SnapshotRun, TableError};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Entries of one chunk.
const CHUNK_ENTRIES: usize = 256;
/// Bytes of commands after which a chunk ends.
const CHUNK_BYTES: usize = 1024 * 1024;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// What a group has applied since its newest snapshot.
#[derive(Default)]
pub(crate) struct Growth {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Growth {
    fn add(&self, entries: usize, bytes: usize) {
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    /// Entries and bytes of commands.
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
    fn subtract(&self, (entries, bytes): (u64, u64)) {
        let saturating = |counter: &AtomicU64, by: u64| {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| Some(value.saturating_sub(by)));
        };
        saturating(&self.entries, entries);
        saturating(&self.bytes, bytes);
    }
}

/// What the state machine shares with its apply jobs, its snapshot builder and the group's handle.
pub(crate) struct Core {
    pub(crate) group: GroupId,
    pub(crate) tables: GroupTables,
    pub(crate) snapshots: Arc<SnapshotDir>,
    pub(crate) growth: Growth,
    pub(crate) machine: Arc<dyn AnyMachine>,
    pub(crate) log: LogStore,
    applied: Mutex<Applied>,
    applied_index: watch::Sender<Option<u64>>,
    /// Held while the tables change: by an apply, an install or a rebuild.
    pub(crate) changing: Mutex<()>,
}

struct Chunk {
    entries: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>,
    bytes: usize,
}

impl Core {
    /// The tables must be complete.
    pub(crate) fn new(
        group: GroupId,
        tables: GroupTables,
        snapshots: Arc<SnapshotDir>,
        log: LogStore,
        machine: Arc<dyn AnyMachine>,
    ) -> io::Result<Self> {
        let applied = read_applied(&tables)?;
        let (applied_index, _) = watch::channel(applied.index());
        let (growth, applied, changing) = (Growth::default(), Mutex::new(applied), Mutex::default());
        Ok(Self { group, tables, snapshots, growth, machine, log, applied, applied_index, changing })
    }
    pub(crate) fn applied(&self) -> Applied {
        lock(&self.applied).clone()
    }
    pub(crate) fn watch_applied(&self) -> watch::Receiver<Option<u64>> {
        self.applied_index.subscribe()
    }
    fn set_applied(&self, applied: Applied) {
        let index = applied.index();
        *lock(&self.applied) = applied;
        self.applied_index.send_replace(index);
    }

    /// Applies a chunk: all of it or nothing.
    fn apply(&self, chunk: Chunk) -> io::Result<()> {
        let _alone = lock(&self.changing);
        let mut applied = self.applied();
        let mut commands = Vec::with_capacity(chunk.entries.len());
        for (entry, _) in &chunk.entries {
            applied.last = Some(entry.log_id);
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                }
                EntryPayload::Normal(command) => {
                    commands.push(Applicable { index: entry.log_id.index(), command: command.command() });
                }
            }
        }
        let replies = self.commit(&commands, &applied)?;
        let index = applied.index().unwrap_or(0);
        self.growth.add(chunk.entries.len(), chunk.bytes);
        self.set_applied(applied);
        replies.committed(&self.tables, index);
        answer(chunk, &*replies);
        Ok(())
    }

    /// Damage that is met on the way is mended, and the chunk applied once more: all of it or nothing is in the tables.
    fn commit(&self, commands: &[Applicable], applied: &Applied) -> io::Result<Box<dyn Replies>> {
        let fault = match self.try_commit(commands, applied) {
            Err(fault) if fault.damage => fault,
            other => return other.map_err(|fault| self.refused(&fault)),
        };
        tracing::error!(group = %self.group, index = fault.index, why = fault.why, "the tables are damaged");
        match self.rebuild_alone() {
            Ok(()) => self.try_commit(commands, applied).map_err(|fault| self.refused(&fault)),
            Err(error) => {
                tracing::error!(group = %self.group, %error, "the tables cannot be rebuilt from what is on this node");
                Err(self.refused(&fault))
            }
        }
    }

    fn try_commit(&self, commands: &[Applicable], applied: &Applied) -> Result<Box<dyn Replies>, CommitFault> {
        let mut overlay = Overlay::new(&self.tables);
        let replies = self.machine.clone().apply(&mut overlay, commands).map_err(|fault| {
            let why = fault.fault.what;
            CommitFault { index: fault.index, damage: is_damage(&why), why }
        })?;
        self.tables.commit(overlay.into_writes(), &applied.encode()).map_err(|error| CommitFault {
            index: applied.index().unwrap_or(0),
            damage: error.is_damage(),
            why: error.to_string(),
        })?;
        Ok(replies)
    }

    fn refused(&self, fault: &CommitFault) -> io::Error {
        tracing::error!(group = %self.group, index = fault.index, fault = fault.why, "an entry cannot be applied: the group stops on this node");
        if fault.damage
            && let Err(error) = self.tables.condemn(&fault.why)
        {
            tracing::error!(group = %self.group, %error, "damaged tables could not be marked");
        }
        io::Error::other(fault.why.clone())
    }

    /// Replaces the tables by a snapshot, which becomes this node's newest one first: a crash on the way finds it there.
    pub(crate) fn install(&self, file: &SnapshotFile) -> io::Result<()> {
        let _alone = lock(&self.changing);
        let file = self.snapshots.adopt_received(file)?;
        self.tables.install(file.path()).map_err(io::Error::other)?;
        self.growth.subtract((u64::MAX, u64::MAX));
        self.set_applied(read_applied(&self.tables)?);
        tracing::info!(group = %self.group, index = ?file.index(), "snapshot installed");
        Ok(())
    }

    /// Writes a snapshot whose moment was fixed, and makes the tables durable at least up to it, so that a restart after
    /// the log was purged needs no install.
    pub(crate) fn finish_snapshot(&self, Begun { run, of, growth }: Begun) -> Result<SnapshotFile, TableError> {
        let file = self.finish_unflushed(Begun { run, of, growth })?;
        self.tables.flush()?;
        Ok(file)
    }

    /// As [`Core::finish_snapshot`], for tables that are about to be replaced.
    pub(crate) fn finish_unflushed(&self, Begun { run, of, growth }: Begun) -> Result<SnapshotFile, TableError> {
        let path = self.snapshots.path_for(&of);
        let info = run.run()?;
        self.growth.subtract(growth);
        tracing::info!(group = %self.group, index = ?of.index(), records = info.records, bytes = info.bytes, "snapshot written");
        Ok(self.snapshots.adopt(path, of.meta()))
    }

    /// Fixes a snapshot's moment. Not while an apply job runs.
    pub(crate) fn begin_snapshot(&self) -> Result<Begun, TableError> {
        let of = self.applied();
        let run = self.tables.snapshot_to(&self.snapshots.path_for(&of), &describe(self.group, &of))?;
        Ok(Begun { run, of, growth: self.growth.get() })
    }
}

/// A snapshot whose moment is fixed, not written yet.
pub(crate) struct Begun {
    run: SnapshotRun,
    of: Applied,
    /// What it will subtract from the group's growth.
    growth: (u64, u64),
}

/// Why a chunk is not in the tables.
struct CommitFault {
    index: u64,
    why: String,
    /// The tables are at fault, and not the entry.
    damage: bool,
}

/// The tables say of a damaged record "damaged: …", and of what sled cannot read "sled, …", see [`TableError`]; faults carry only the text.
fn is_damage(what: &str) -> bool {
    what.starts_with("damaged:") || what.starts_with("sled, ")
}

pub(crate) fn read_applied(tables: &GroupTables) -> io::Result<Applied> {
    match tables.applied() {
        None => Ok(Applied::default()),
        Some(mark) => Applied::decode(mark.into()).map_err(io::Error::other),
    }
}

fn answer(chunk: Chunk, replies: &dyn Replies) {
    let mut position = 0;
    for (entry, responder) in chunk.entries {
        let is_command = matches!(entry.payload, EntryPayload::Normal(_));
        if let Some(responder) = responder {
            responder.send(if is_command { replies.reply(position) } else { crate::types::Reply::default() });
        }
        position += usize::from(is_command);
    }
}

/// The state machine of one group, as openraft drives it.
pub(crate) struct StateMachine {
    core: Arc<Core>,
    executor: Arc<Executor>,
    /// One snapshot build at a time on this node.
    builds: Arc<Semaphore>,
}

impl StateMachine {
    pub(crate) fn new(core: Arc<Core>, executor: Arc<Executor>, builds: Arc<Semaphore>) -> Self {
        Self { core, executor, builds }
    }

    async fn on_executor(&self, job: impl FnOnce(&Core) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let core = self.core.clone();
        self.executor.run(move || job(&core)).await.unwrap_or_else(|| Err(io::Error::other("the state machine panicked")))
    }

    fn builder(&self, build: OwnedSemaphorePermit) -> Builder {
        Builder { core: self.core.clone(), begun: Some(self.core.begin_snapshot()), _build: build }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.core.applied();
        Ok((applied.last, applied.membership))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let mut chunk = Chunk { entries: Vec::new(), bytes: 0 };
            push(&mut chunk, first?);
            while chunk.entries.len() < CHUNK_ENTRIES && chunk.bytes < CHUNK_BYTES {
                match entries.next().now_or_never() {
                    Some(Some(item)) => push(&mut chunk, item?),
                    Some(None) | None => break,
                }
            }
            self.on_executor(move |core| core.apply(chunk)).await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let build = if force { self.builds.clone().acquire_owned().await.ok() } else { self.builds.clone().try_acquire_owned().ok() };
        Some(self.builder(build?))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The semaphore is never closed, so waiting for it cannot fail; a permit of a fresh one stands in all the same.
        let build = match self.builds.clone().acquire_owned().await {
            Ok(build) => build,
            Err(_) => Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap_or_else(|_| unreachable!("a new semaphore is open")),
        };
        self.builder(build)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        debug_assert_eq!(meta, snapshot.meta());
        self.on_executor(move |core| core.install(&snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.core.snapshots.newest().map(|file| Snapshot { meta: file.meta().clone(), snapshot: file }))
    }
}

fn push(chunk: &mut Chunk, item: EntryResponder<TypeConfig>) {
    if let EntryPayload::Normal(command) = &item.0.payload {
        chunk.bytes += command.as_bytes().len();
    }
    chunk.entries.push(item);
}

/// Writes one snapshot whose moment was fixed when it was made, while applies go on.
pub(crate) struct Builder {
    core: Arc<Core>,
    begun: Option<Result<Begun, TableError>>,
    _build: OwnedSemaphorePermit,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    /// A build that fails (disk full, too much changed meanwhile) leaves the group running with the snapshot it has: the log
    /// is then not purged, and the next build is tried when the policy says so.
    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let Some(begun) = self.begun.take() else { return Err(io::Error::other("a builder builds once")) };
        let core = self.core.clone();
        let work = move || begun.and_then(|begun| core.finish_snapshot(begun));
        let file = match tokio::task::spawn_blocking(work).await.map_err(io::Error::other)? {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(group = %self.core.group, %error, "no snapshot was written");
                self.core.snapshots.newest()
            }
        };
        let file = file.unwrap_or_else(SnapshotFile::none);
        Ok(Snapshot { meta: file.meta().clone(), snapshot: file })
    }
}
