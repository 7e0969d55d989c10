//! What all handles of a journal share, behind one lock that is never held across a disk operation.

use crate::fault::JournalFault;
use crate::index::{BodyIndex, prefix};
use crate::options::{Options, Space};
use crate::segment::{Loc, Seal, Segment, Tomb};
use crate::stats::Counters;
use crate::view::GroupView;
use bytes::Bytes;
use parliament_ids::{BodyHash, GroupId};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a body may wait in the queue for the entry that will name it.
pub(crate) const GATHER_MAX: Duration = Duration::from_millis(20);
/// Bytes of bodies from which on the writer waits no longer.
const GATHERED_BYTES_MAX: u64 = 512 * 1024;

/// Called once, on the journal's writer thread, when what was submitted is durable or never will be. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), JournalFault>) + Send>;

/// One thing for the writer to do.
pub(crate) enum Item {
    Vote {
        group: u32,
        vote: Bytes,
    },
    Committed {
        group: u32,
        mark: Bytes,
    },
    Entry {
        group: u32,
        index: u64,
        stamp: u32,
        bytes: Bytes,
    },
    Truncate {
        group: u32,
        index: u64,
    },
    Purge {
        group: u32,
        index: u64,
        marker: Bytes,
    },
    Reset {
        group: u32,
    },
    Body {
        hash: BodyHash,
        stamp: u32,
        bytes: Bytes,
    },
    Bury(Tomb),
    /// Buries the newest copy, whose place was not known yet at submission.
    BuryQueued {
        hash: BodyHash,
    },
    Note {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    NoteGone {
        key: Vec<u8>,
    },
    /// An entry copied out of an old segment; dropped unless it still lies at `from`.
    CarryEntry {
        group: u32,
        index: u64,
        from: Loc,
        bytes: Bytes,
    },
    /// A body copied out of an old segment.
    CarryBody {
        hash: BodyHash,
        from: Loc,
        bytes: Bytes,
    },
    /// Nothing: its callback comes after everything before it.
    Barrier,
}

pub(crate) struct Op {
    pub(crate) item: Item,
    pub(crate) done: Option<Done>,
}

/// An entry's place; segment 0 until it has been written.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) at: Loc,
    pub(crate) stamp: u32,
}

/// A group as its owner sees it: submitted changes count at once.
#[derive(Default)]
pub(crate) struct GroupState {
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) mark_dirty: bool,
    pub(crate) purged: Option<(u64, Bytes)>,
    pub(crate) first: u64,
    pub(crate) slots: VecDeque<Slot>,
    /// The bytes of the last entries, as many as are kept: a suffix of `slots`.
    pub(crate) cached: VecDeque<Bytes>,
    pub(crate) cached_bytes: usize,
    pub(crate) damaged: bool,
}

impl GroupState {
    pub(crate) fn from_view(view: &GroupView) -> Self {
        Self {
            vote: view.vote.clone(),
            committed: view.committed.clone(),
            purged: view.purged.clone(),
            first: view.first,
            slots: view.entries.iter().map(|at| Slot { at: *at, stamp: 0 }).collect(),
            damaged: view.damaged,
            ..Self::default()
        }
    }

    pub(crate) fn last(&self) -> Option<u64> {
        (self.first + self.slots.len() as u64).checked_sub(1).filter(|_| !self.slots.is_empty())
    }

    /// The index that must come next; none where any may.
    pub(crate) fn next(&self) -> Option<u64> {
        self.last().map(|last| last + 1).or_else(|| self.purged.as_ref().map(|(index, _)| index + 1))
    }

    pub(crate) fn push(&mut self, index: u64, stamp: u32, bytes: Bytes) {
        if self.slots.is_empty() {
            self.first = index;
        }
        self.slots.push_back(Slot { at: Loc { segment: 0, offset: 0, len: bytes.len() as u32 }, stamp });
        self.cached_bytes += bytes.len();
        self.cached.push_back(bytes);
    }

    pub(crate) fn truncate(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first).min(self.slots.len() as u64) as usize;
        while self.slots.len() > keep {
            self.slots.pop_back();
            self.cached_bytes -= self.cached.pop_back().map_or(0, |bytes| bytes.len());
        }
    }

    pub(crate) fn purge(&mut self, index: u64, marker: Bytes) {
        if self.purged.as_ref().is_some_and(|(purged, _)| *purged > index) {
            return;
        }
        let drop = (index + 1).saturating_sub(self.first).min(self.slots.len() as u64) as usize;
        self.slots.drain(..drop);
        while self.cached.len() > self.slots.len() {
            self.uncache();
        }
        self.first = index + 1;
        self.purged = Some((index, marker));
    }

    fn uncache(&mut self) {
        self.cached_bytes -= self.cached.pop_front().map_or(0, |bytes| bytes.len());
    }

    pub(crate) fn slot(&mut self, index: u64) -> Option<&mut Slot> {
        index.checked_sub(self.first).and_then(|skip| self.slots.get_mut(usize::try_from(skip).ok()?))
    }

    pub(crate) fn cached(&self, index: u64) -> Option<&Bytes> {
        let skip = (index.checked_sub(self.first)? as usize).checked_sub(self.slots.len() - self.cached.len())?;
        self.cached.get(skip)
    }

    /// Forgets the bytes of the oldest written entries above the bound.
    pub(crate) fn trim(&mut self, bound: usize) {
        while self.cached_bytes > bound {
            let oldest = self.slots.len() - self.cached.len();
            if self.slots.get(oldest).is_none_or(|slot| slot.at.segment == 0) {
                return;
            }
            self.uncache();
        }
    }
}

/// A body whose frame has been queued and is not durable yet.
pub(crate) struct Pending {
    pub(crate) bytes: Bytes,
    pub(crate) stamp: u32,
}

/// A segment and what lives in it.
pub(crate) struct Stored {
    pub(crate) segment: Arc<Segment>,
    /// None for the one being written, and for one whose header was damaged.
    pub(crate) seal: Option<Seal>,
    /// Where its frames end, bytes.
    pub(crate) used: u32,
    pub(crate) live_bodies: u64,
    pub(crate) live_bytes: u64,
    /// True once every tomb it holds has been written again elsewhere or concerns no segment that is left.
    pub(crate) tombs_carried: bool,
    /// Some of its bytes no longer verify: what lives in it is carried out of it, and its file is not kept.
    pub(crate) condemned: bool,
    /// All that could be carried out of it was.
    pub(crate) emptied: bool,
}

/// A file that is ready to become a segment.
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn crate::disk::DiskFile>,
}

pub(crate) struct State {
    pub(crate) queue: Vec<Op>,
    /// Groups whose commit mark waits for the next batch.
    pub(crate) marks: Vec<u32>,
    pub(crate) writer_waits: bool,
    /// The writer waits for the entries of the bodies that are queued.
    pub(crate) writer_gathers: bool,
    /// True when something is queued that should not wait for more.
    pub(crate) urgent: bool,
    pub(crate) queued_body_bytes: u64,
    pub(crate) stamp: u32,
    pub(crate) groups: HashMap<u32, GroupState>,
    pub(crate) strangers_damaged: bool,
    pub(crate) notes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) notes_damaged: bool,
    pub(crate) pending: HashMap<BodyHash, Pending>,
    pub(crate) index: BodyIndex,
    pub(crate) segments: BTreeMap<u32, Stored>,
    /// Sequence of the segment being written.
    pub(crate) active: u32,
    pub(crate) spares: Vec<Spare>,
    pub(crate) next_spare: u64,
    /// Segments that nothing needs any more, waiting for their last reader.
    /// With each, whether it was condemned.
    pub(crate) retired: Vec<(Arc<Segment>, bool)>,
    /// Live entries by segment, as of the last synced batch.
    pub(crate) durable_entries: BTreeMap<u32, u64>,
    /// Share of body bytes in the last complete segment, percent; none before there was one.
    pub(crate) body_percent: Option<u8>,
    pub(crate) dead: Option<JournalFault>,
    pub(crate) closing: bool,
    pub(crate) counters: Counters,
    /// The writer starts a new segment before it writes anything else.
    pub(crate) roll: bool,
    /// Entries that no longer verify where they lie, and that memory does not have either.
    pub(crate) hurt: BTreeMap<(u32, u64), Loc>,
    /// Bodies that were found damaged and forgotten, for whoever gets them anew; at most [`LOST_BODIES_MAX`].
    pub(crate) lost_bodies: Vec<BodyHash>,
}

/// Damaged bodies remembered until somebody asks; what is beyond is found missing by whoever looks for it.
const LOST_BODIES_MAX: usize = 100_000;

impl State {
    /// A body was found damaged and is forgotten.
    pub(crate) fn lost(&mut self, hash: BodyHash) {
        self.counters.quarantined += 1;
        if self.lost_bodies.len() < LOST_BODIES_MAX {
            self.lost_bodies.push(hash);
        }
    }

    pub(crate) fn next_stamp(&mut self) -> u32 {
        self.stamp = self.stamp.wrapping_add(1);
        self.stamp
    }

    pub(crate) fn group(&mut self, group: GroupId) -> &mut GroupState {
        let damaged = self.strangers_damaged;
        self.groups.entry(group.0).or_insert_with(|| GroupState { damaged, ..GroupState::default() })
    }

    /// Why nothing may be submitted, if so.
    pub(crate) fn refusal(&self) -> Option<JournalFault> {
        self.dead.clone().or_else(|| self.closing.then_some(JournalFault::Closed))
    }

    /// Enters a body's place; false when it was there.
    pub(crate) fn enter(&mut self, hash: &BodyHash, at: Loc) -> bool {
        let fresh = self.index.insert(prefix(hash), at.segment, at.offset);
        if fresh && let Some(stored) = self.segments.get_mut(&at.segment) {
            stored.live_bodies += 1;
            stored.live_bytes += u64::from(at.len);
        }
        fresh
    }

    /// Removes a body's place; false when it was not there.
    pub(crate) fn bury(&mut self, tomb: &Tomb) -> bool {
        let known = self.index.remove(tomb.prefix, tomb.at.segment, tomb.at.offset);
        if known && let Some(stored) = self.segments.get_mut(&tomb.at.segment) {
            stored.live_bodies = stored.live_bodies.saturating_sub(1);
            stored.live_bytes = stored.live_bytes.saturating_sub(u64::from(tomb.at.len));
        }
        known
    }
}

impl State {
    /// Forgets the places of bodies in a segment at other offsets than these.
    pub(crate) fn forget_places(&mut self, segment: u32, but: &BTreeSet<u32>) {
        let gone = self.index.retain_in(segment, |offset| but.contains(&offset));
        if let Some(stored) = self.segments.get_mut(&segment) {
            stored.live_bodies = stored.live_bodies.saturating_sub(gone);
        }
    }
}

/// Everything behind a journal's handles.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) journal_id: u64,
    pub(crate) life: u64,
    pub(crate) state: Mutex<State>,
    /// Wakes the writer.
    pub(crate) work: Condvar,
    /// Wakes the keeper.
    pub(crate) chores: Condvar,
    pub(crate) space: AtomicU8,
    /// Keeps other processes out of the folder.
    pub(crate) _lock: Box<dyn Any + Send + Sync>,
}

impl Core {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a callback cannot leave the state half changed, since callbacks run outside the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues operations; the last one gets the callback. Fails them where the journal is dead or closed.
    pub(crate) fn submit(&self, state: MutexGuard<'_, State>, items: impl IntoIterator<Item = Item>, done: Option<Done>) {
        if let Some(state) = self.enqueue(state, items, done) {
            self.wake(state);
        }
    }

    /// As [`Core::submit`] for a body, which the writer leaves in the queue until the entry that will name it has come too: one sync
    /// for both. Not beyond [`GATHERED_BYTES_MAX`], and the writer waits [`GATHER_MAX`] at most.
    pub(crate) fn submit_body(&self, state: MutexGuard<'_, State>, body: Item, done: Done) {
        let Some(mut state) = self.enqueue(state, [body], Some(done)) else { return };
        if state.urgent || state.queued_body_bytes > GATHERED_BYTES_MAX {
            self.wake(state);
        } else if std::mem::take(&mut state.writer_waits) {
            // It goes on to gather, so that the wait has its bound.
            drop(state);
            self.work.notify_one();
        }
    }

    /// Hands the lock back unless the operations failed.
    fn enqueue<'s>(
        &self,
        mut state: MutexGuard<'s, State>,
        items: impl IntoIterator<Item = Item>,
        done: Option<Done>,
    ) -> Option<MutexGuard<'s, State>> {
        if let Some(fault) = state.refusal() {
            drop(state);
            if let Some(done) = done {
                done(Err(fault));
            }
            return None;
        }
        state.queue.extend(items.into_iter().map(|item| Op { item, done: None }));
        match state.queue.last_mut() {
            Some(last) if last.done.is_none() => last.done = done,
            _ => state.queue.push(Op { item: Item::Barrier, done }),
        }
        Some(state)
    }

    /// Wakes the writer if it sleeps.
    pub(crate) fn wake(&self, mut state: MutexGuard<'_, State>) {
        state.urgent = true;
        let gathers = std::mem::take(&mut state.writer_gathers);
        let sleeping = std::mem::take(&mut state.writer_waits) || gathers;
        drop(state);
        if sleeping {
            self.work.notify_one();
        }
    }

    pub(crate) fn space(&self) -> Space {
        match self.space.load(Ordering::Relaxed) {
            0 => Space::Ok,
            1 => Space::NoBodies,
            _ => Space::NoEntries,
        }
    }

    /// Looks at the file system and the reserve. Failing to ask changes nothing.
    pub(crate) fn look_at_space(&self) {
        let Ok(space) = self.options.disk.space(&self.options.dir) else { return };
        let percent = (u128::from(space.free) * 100 / u128::from(space.total.max(1))) as u8;
        let spares = self.lock().spares.len();
        let level = if percent < self.options.no_entries_below_percent {
            2
        } else if percent < self.options.no_bodies_below_percent {
            1
        } else {
            0
        };
        // A reserve that could not be filled is told by who failed to fill it; here only an empty one counts.
        let floor = if self.space.load(Ordering::Relaxed) > 0 && spares < self.options.reserve_segments as usize { 1 } else { 0 };
        self.space.store(level.max(floor), Ordering::Relaxed);
    }
}
