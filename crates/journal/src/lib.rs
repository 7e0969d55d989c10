//! The node journal: one file format and one writer for all Raft groups' votes, entries, truncations, purges and commit marks, for bodies up
//! to [`parliament_ids::limits::JOURNAL_BODY_BYTES_MAX`], and for a few small notes of the node.
//!
//! Everything that is queued while the disk is busy forms the next batch: one write, one fdatasync, then all callbacks in order. What a
//! callback told to be durable survives a crash; after a crash a prefix of what was submitted is there, and nothing else. A failed write or
//! sync ends the journal for good. `commit.rs` is the writer, `recover.rs` opening, `keeper.rs` the reuse of space, `frame.rs` and
//! `segment.rs` the format, `view.rs` what frames mean.

mod body;
mod commit;
pub mod disk;
mod fault;
mod frame;
mod fresh;
mod group;
mod index;
mod keeper;
mod options;
mod recover;
mod scrub;
mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod view;

pub use commit::Progress;
pub use fault::JournalFault;
pub use group::{GroupLog, LogState, PAYLOAD_BYTES_MAX};
pub use options::{Fresh, Options, Space};
pub use scrub::{Scrub, Scrubbed};
pub use state::Done;
pub use stats::{SYNC_BUCKETS, Stats};

use parliament_ids::GroupId;
use state::{Core, Item};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Longest key of a note, bytes.
pub const NOTE_KEY_BYTES_MAX: usize = 256;
/// Longest value of a note, bytes.
pub const NOTE_VALUE_BYTES_MAX: usize = 4096;
/// Most notes.
pub const NOTES_MAX: usize = 65_536;

/// A journal. A cheap handle; when the last one goes, the writer finishes what is queued and stops.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not joined: the last handle may go within a callback, on the writer's own thread.
        self.stop();
    }
}

impl Inner {
    fn stop(&self) {
        let mut state = self.core.lock();
        state.closing = true;
        state.writer_waits = false;
        drop(state);
        self.core.work.notify_all();
        self.core.chores.notify_all();
    }
}

/// What recovery found to be lost although it had been synced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Groups known to have lost frames; each stays damaged until [`GroupLog::reset`].
    pub groups: Vec<GroupId>,
    /// Groups that the journal does not know may have lost all their frames: none may be taken for new.
    pub strangers: bool,
    /// Notes may be missing or out of date.
    pub notes: bool,
    /// Groups of which entries are lost and nothing else, see [`LogState::hurt`].
    pub hurt: Vec<GroupId>,
}

/// Drives a journal by hand instead of by threads, for simulations that must repeat exactly.
pub struct Driver {
    writer: commit::Writer,
    keeper: keeper::Keeper,
}

impl Driver {
    /// Writes one batch and calls its callbacks.
    pub fn write_once(&mut self) -> Progress {
        self.writer.cycle()
    }

    /// Writes until nothing is queued, or no space is left.
    pub fn write_all(&mut self) -> Progress {
        loop {
            match self.writer.cycle() {
                Progress::Worked => {}
                other => return other,
            }
        }
    }

    /// Does one round of chores.
    pub fn keep_once(&mut self) {
        self.keeper.step();
    }
}

impl Journal {
    /// Opens a journal, made new where the folder has none, and recovers its state. `Unusable` when another process has it open or it cannot be
    /// this one; lost frames are told by [`Journal::damage`] and [`LogState::damaged`] instead, since the other groups can go on.
    pub fn open(options: Options) -> Result<Self, JournalFault> {
        let dir = options.dir.clone();
        let (journal, driver) = Self::open_driven(options)?;
        let Driver { writer, keeper } = driver;
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(work).map_err(JournalFault::disk("start a thread for", &dir))
        };
        let threads = vec![spawn("journal", Box::new(|| writer.run()))?, spawn("journal-keeper", Box::new(|| keeper.run()))?];
        *journal.inner.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(journal)
    }

    /// Opens a journal without threads: nothing is written before the driver is told to.
    pub fn open_driven(options: Options) -> Result<(Self, Driver), JournalFault> {
        let (core, writer) = recover::open(options)?;
        let keeper = keeper::Keeper::new(core.clone());
        Ok((Self { inner: Arc::new(Inner { core, threads: Mutex::default() }) }, Driver { writer, keeper }))
    }

    /// The log of a group; empty for one that was never written.
    #[must_use]
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog { inner: self.inner.clone(), group }
    }

    /// Groups that the journal knows, ascending.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<_> = self.inner.core.lock().groups.keys().copied().map(GroupId).collect();
        groups.sort_unstable();
        groups
    }

    /// What was lost.
    #[must_use]
    pub fn damage(&self) -> Damage {
        let mut state = self.inner.core.lock();
        state.forget_healed();
        let mut hurt: Vec<_> = state.hurt.keys().map(|(group, _)| GroupId(*group)).collect();
        hurt.dedup();
        let mut groups: Vec<_> = state.groups.iter().filter(|(_, group)| group.damaged).map(|(group, _)| GroupId(*group)).collect();
        groups.sort_unstable();
        Damage { groups, strangers: state.strangers_damaged, notes: state.notes_damaged, hurt }
    }

    /// Keeps a small value under a key ([`NOTE_KEY_BYTES_MAX`], [`NOTE_VALUE_BYTES_MAX`], at most [`NOTES_MAX`]); counts at once for [`Journal::note`].
    pub fn put_note(&self, key: &[u8], value: &[u8], done: Done) {
        let mut state = self.inner.core.lock();
        let full = state.notes.len() >= NOTES_MAX && !state.notes.contains_key(key);
        let too_large = |bytes, max| (bytes > max).then_some(JournalFault::TooLarge { bytes, max });
        let refusal = too_large(key.len(), NOTE_KEY_BYTES_MAX)
            .or_else(|| too_large(value.len(), NOTE_VALUE_BYTES_MAX))
            .or_else(|| too_large(NOTES_MAX + usize::from(full), NOTES_MAX));
        if let Some(fault) = refusal {
            drop(state);
            return done(Err(fault));
        }
        if state.refusal().is_none() {
            state.notes.insert(key.to_vec(), value.to_vec());
        }
        self.inner.core.submit(state, [Item::Note { key: key.to_vec(), value: value.to_vec() }], Some(done));
    }

    /// The value kept under a key.
    #[must_use]
    pub fn note(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.core.lock().notes.get(key).cloned()
    }

    /// Keys and values of all notes whose key starts with `prefix`, ascending.
    #[must_use]
    pub fn notes(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.inner.core.lock();
        let from = state.notes.range(prefix.to_vec()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Forgets a note.
    pub fn remove_note(&self, key: &[u8], done: Done) {
        let mut state = self.inner.core.lock();
        if state.refusal().is_none() {
            state.notes.remove(key);
        }
        self.inner.core.submit(state, [Item::NoteGone { key: key.to_vec() }], Some(done));
    }

    /// What the free space still allows.
    #[must_use]
    pub fn space(&self) -> Space {
        self.inner.core.space()
    }

    /// The fault that ended the journal, if one did.
    #[must_use]
    pub fn fault(&self) -> Option<JournalFault> {
        self.inner.core.lock().dead.clone()
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.inner.core.lock();
        let counters = &state.counters;
        Stats {
            flushes: counters.syncs,
            batches: counters.batches,
            frames: counters.frames,
            bytes_written: counters.bytes_written,
            entry_bytes: counters.entry_bytes,
            body_bytes: counters.body_bytes,
            carried_bytes: counters.carried_bytes,
            sync_times: counters.sync_times,
            rolls: counters.rolls,
            recycled: counters.recycled,
            quarantined: counters.quarantined,
            segments: state.segments.len() as u64,
            used_bytes: state.segments.values().map(|stored| u64::from(stored.used)).sum(),
            spares: state.spares.len() as u64,
            bodies: state.index.len() + state.pending.len() as u64,
            index_bytes: state.index.memory(),
            queued: state.queue.len() as u64,
        }
    }

    /// Calls `done` when everything submitted before, commit marks too, is durable.
    pub fn flush(&self, done: Done) {
        self.inner.core.submit(self.inner.core.lock(), [Item::Barrier], Some(done));
    }

    /// [`Journal::flush`], waited for. Not for the callbacks' thread.
    pub fn flush_now(&self) -> Result<(), JournalFault> {
        let (told, heard) = std::sync::mpsc::channel();
        self.flush(Box::new(move |result| {
            // The receiver waits below for as long as it takes.
            let _ = told.send(result);
        }));
        heard.recv().unwrap_or(Err(JournalFault::Closed))
    }

    /// Writes what is queued, completes the segment and stops the threads; later submissions fail with `Closed`. Not for the callbacks' thread.
    pub fn close(&self) {
        self.inner.stop();
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal panicked");
            }
        }
    }
}
