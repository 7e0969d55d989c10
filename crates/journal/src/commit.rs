//! The writer: takes everything queued, one write, one sync, then all callbacks in order.

use crate::disk::write_all;
use crate::fault::JournalFault;
use crate::frame::{BatchHead, FRAMES_START, HEAD, Kind, NO_GROUP, NOTES_GROUP, head};
use crate::fresh::start_segment;
use crate::index::prefix;
use crate::segment::{BodyAt, Footer, Header, Loc, Seal, Segment, Tomb};
use crate::state::{Core, Done, GATHER_MAX, Item, Op, State, Stored};
use crate::view::View;
use bytes::Bytes;
use parliament_ids::BodyHash;
use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A batch ends here even if more is queued, bytes: those at its front should not wait for all of a flood.
const BATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Payloads up to this are copied into one buffer, larger ones are written from where they are.
const COPY_BYTES_MAX: usize = 1024;
/// How long to wait for space before trying again, when not even the reserve has any.
const STALL: Duration = Duration::from_millis(200);

/// What a cycle of the writer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was queued.
    Idle,
    /// Something was written, or failed for ever; there may be more.
    Worked,
    /// No space for another segment, and no reserve left: try again later.
    Stalled,
}

/// What has to be entered into the shared state once a batch is durable.
enum Placed {
    Entry { group: u32, index: u64, stamp: u32, at: Loc },
    Body { hash: BodyHash, stamp: u32, at: Loc, bytes: usize },
    CarriedEntry { group: u32, index: u64, from: Loc, at: Loc },
    CarriedBody { hash: BodyHash, from: Loc, at: Loc },
}

enum Piece {
    Copied(Range<usize>),
    Shared(Bytes),
}

/// Frames of one batch on their way to the disk.
#[derive(Default)]
struct Layout {
    copied: Vec<u8>,
    pieces: Vec<Piece>,
    placed: Vec<Placed>,
    frames: u64,
    entry_bytes: u64,
    body_bytes: u64,
    carried_bytes: u64,
}

impl Layout {
    fn copy(&mut self, bytes: &[u8]) {
        let start = self.copied.len();
        self.copied.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Copied(range)) => range.end = self.copied.len(),
            _ => self.pieces.push(Piece::Copied(start..self.copied.len())),
        }
    }

    fn share(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.copy(bytes);
        } else {
            self.pieces.push(Piece::Shared(bytes.clone()));
        }
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut out = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            out.push(match piece {
                Piece::Shared(bytes) => IoSlice::new(bytes),
                Piece::Copied(range) => IoSlice::new(&self.copied[range.clone()]),
            });
        }
        out
    }
}

pub(crate) struct Writer {
    pub(crate) core: Arc<Core>,
    pub(crate) view: View,
    pub(crate) tail: Tail,
    pub(crate) backlog: VecDeque<Op>,
}

/// The end of the journal: where the next frame goes.
pub(crate) struct Tail {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u32,
    pub(crate) crc: u32,
    pub(crate) footer: Footer,
    pub(crate) body_bytes: u64,
    /// Set while the segment is complete and the next one could not be made yet.
    pub(crate) sealed: Option<Seal>,
}

impl Writer {
    /// Cycles until the journal is closed.
    pub(crate) fn run(mut self) {
        loop {
            if self.backlog.is_empty() {
                self.gather();
            }
            match self.cycle() {
                Progress::Worked => {}
                Progress::Stalled => {
                    let state = self.core.lock();
                    if state.closing {
                        drop(state);
                        return self.fail(&JournalFault::NoSpace);
                    }
                    drop(self.core.work.wait_timeout(state, STALL));
                }
                Progress::Idle => {
                    let mut state = self.core.lock();
                    if state.queue.is_empty() {
                        if state.closing && state.marks.is_empty() {
                            let dead = state.dead.is_some();
                            drop(state);
                            return if !dead {
                                self.finish()
                            };
                        }
                        if state.closing {
                            state.queue.push(Op { item: Item::Barrier, done: None });
                            continue;
                        }
                        state.writer_waits = true;
                        drop(self.core.work.wait(state));
                    }
                }
            }
        }
    }

    /// While only bodies are queued, waits a moment for the entries that name them.
    fn gather(&self) {
        let mut state = self.core.lock();
        if state.queue.is_empty() {
            return;
        }
        let started = Instant::now();
        while !state.urgent && !state.closing {
            let rest = GATHER_MAX.saturating_sub(started.elapsed());
            if rest.is_zero() {
                break;
            }
            state.writer_gathers = true;
            state = self.core.work.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.writer_gathers = false;
    }

    /// Completes the segment at closing, so that damage to its last batch is told from a torn tail at the next start.
    fn finish(&mut self) {
        if self.tail.sealed.is_none()
            && let Err(fault) = self.seal()
        {
            tracing::warn!(%fault, "the last segment could not be completed; the next start reads it through");
        }
    }

    /// One batch: write, sync, callbacks.
    pub(crate) fn cycle(&mut self) -> Progress {
        if !self.take() {
            return Progress::Idle;
        }
        let dead = self.core.lock().dead.clone();
        if let Some(fault) = dead {
            self.fail(&fault);
            return Progress::Worked;
        }
        match self.batch() {
            Ok(done) => {
                done.into_iter().for_each(|done| done(Ok(())));
                Progress::Worked
            }
            Err(JournalFault::NoSpace) => Progress::Stalled,
            Err(fault) => {
                tracing::error!(%fault, "the journal is dead");
                self.core.lock().dead = Some(fault.clone());
                self.fail(&fault);
                Progress::Worked
            }
        }
    }

    /// Moves what is queued into the backlog, commit marks last. False when there is nothing.
    fn take(&mut self) -> bool {
        let mut state = self.core.lock();
        let queue = std::mem::take(&mut state.queue);
        state.urgent = false;
        self.backlog.extend(queue);
        if self.backlog.is_empty() {
            return false;
        }
        for group in std::mem::take(&mut state.marks) {
            if let Some(known) = state.groups.get_mut(&group).filter(|known| known.mark_dirty) {
                known.mark_dirty = false;
                if let Some(mark) = known.committed.clone() {
                    self.backlog.push_back(Op { item: Item::Committed { group, mark }, done: None });
                }
            }
        }
        true
    }

    /// Fails everything that waits.
    fn fail(&mut self, fault: &JournalFault) {
        let queue = std::mem::take(&mut self.core.lock().queue);
        for op in self.backlog.drain(..).chain(queue) {
            if let Some(done) = op.done {
                done(Err(fault.clone()));
            }
        }
    }

    fn batch(&mut self) -> Result<Vec<Done>, JournalFault> {
        if std::mem::take(&mut self.core.lock().roll) && self.tail.sealed.is_none() {
            self.roll()?;
        }
        if self.backlog.iter().all(|op| matches!(op.item, Item::Barrier)) {
            return Ok(self.backlog.drain(..).filter_map(|op| op.done).collect());
        }
        let mut count = if self.tail.sealed.is_some() { 0 } else { self.fitting() };
        if count == 0 {
            self.roll()?;
            // A frame larger than a whole segment extends its file.
            count = self.fitting().max(1);
        }
        let mut ops: Vec<Op> = self.backlog.drain(..count).collect();
        let layout = self.lay_out(&mut ops);
        if layout.frames > 0 {
            match self.put(&layout) {
                Ok(time) => self.publish(&layout, time),
                Err(fault) => {
                    // Whoever waits for this batch is told with all the others.
                    ops.into_iter().rev().for_each(|op| self.backlog.push_front(op));
                    return Err(fault);
                }
            }
        }
        Ok(ops.into_iter().filter_map(|op| op.done).collect())
    }

    /// How many operations of the backlog go into this segment, footer and all.
    fn fitting(&self) -> usize {
        let limit = self.core.options.segment_bytes;
        let start = u64::from(self.tail.offset) + BatchHead::size(0) as u64;
        let mut end = start + self.tail.footer.size().next_multiple_of(4096) + 4096;
        let mut count = 0;
        for op in &self.backlog {
            // Four bytes for the group in the batch's head, a row in the footer.
            end += item_bytes(&op.item) + (HEAD + 4 + 40) as u64;
            if end > limit || (count > 0 && end - start > BATCH_BYTES_MAX) {
                break;
            }
            count += 1;
        }
        count
    }

    /// Makes the frames of a batch and applies them to the view.
    fn lay_out(&mut self, ops: &mut [Op]) -> Layout {
        let mut groups = BTreeSet::new();
        let mut bytes = 0u64;
        for op in ops.iter_mut() {
            if let Item::CarryEntry { group, index, from, .. } = &op.item
                && !self.lies_at(*group, *index, *from)
            {
                op.item = Item::Barrier;
            }
            if let Some(group) = listed_group(&op.item) {
                groups.insert(group);
            }
            if !matches!(op.item, Item::Barrier) {
                bytes += item_bytes(&op.item) + HEAD as u64;
            }
        }
        let mut layout = Layout::default();
        if bytes == 0 {
            return layout;
        }
        let batch = BatchHead {
            journal: self.core.journal_id,
            life: self.core.life,
            segment: u64::from(self.tail.segment.sequence),
            offset: self.tail.offset,
            bytes: bytes as u32,
            groups: groups.into_iter().collect(),
        };
        self.frame(&mut layout, NO_GROUP, Kind::Batch, &batch.encode(), None);
        for op in ops.iter() {
            self.lay_out_item(&mut layout, &op.item);
        }
        layout
    }

    fn lies_at(&self, group: u32, index: u64, from: Loc) -> bool {
        let Some(state) = self.view.groups.get(&group) else { return false };
        index.checked_sub(state.first).and_then(|skip| state.entries.get(skip as usize)) == Some(&from)
    }

    fn lay_out_item(&mut self, layout: &mut Layout, item: &Item) {
        match item {
            Item::Barrier => {}
            Item::Vote { group, vote } => {
                self.frame(layout, *group, Kind::Vote, vote, None);
                self.view.vote(*group, vote.clone());
            }
            Item::Committed { group, mark } => {
                self.frame(layout, *group, Kind::Committed, mark, None);
                self.view.committed(*group, mark.clone());
            }
            Item::Entry { group, index, stamp, bytes } => {
                let at = self.frame(layout, *group, Kind::Entry, &index.to_le_bytes(), Some(bytes));
                self.view.entry(*group, *index, at);
                layout.entry_bytes += bytes.len() as u64;
                layout.placed.push(Placed::Entry { group: *group, index: *index, stamp: *stamp, at });
            }
            Item::CarryEntry { group, index, from, bytes } => {
                let at = self.frame(layout, *group, Kind::CarriedEntry, &index.to_le_bytes(), Some(bytes));
                self.view.carried(*group, *index, at);
                layout.carried_bytes += bytes.len() as u64;
                layout.placed.push(Placed::CarriedEntry { group: *group, index: *index, from: *from, at });
            }
            Item::Truncate { group, index } => {
                self.frame(layout, *group, Kind::Truncate, &index.to_le_bytes(), None);
                self.view.truncate(*group, *index);
            }
            Item::Purge { group, index, marker } => {
                self.frame(layout, *group, Kind::Purge, &[&index.to_le_bytes(), &marker[..]].concat(), None);
                self.view.purge(*group, *index, marker.clone());
            }
            Item::Reset { group } => {
                self.frame(layout, *group, Kind::Reset, &[], None);
                self.view.reset(*group);
            }
            Item::Note { key, value } => {
                self.frame(layout, NO_GROUP, Kind::Note, &[&(key.len() as u16).to_le_bytes(), &key[..], &value[..]].concat(), None);
                self.view.notes.insert(key.clone(), value.clone());
            }
            Item::NoteGone { key } => {
                self.frame(layout, NO_GROUP, Kind::NoteGone, key, None);
                self.view.notes.remove(key);
            }
            Item::Body { hash, stamp, bytes } => {
                let at = self.body(layout, hash, bytes);
                layout.body_bytes += bytes.len() as u64;
                layout.placed.push(Placed::Body { hash: *hash, stamp: *stamp, at, bytes: bytes.len() });
            }
            Item::CarryBody { hash, from, bytes } => {
                let at = self.body(layout, hash, bytes);
                layout.carried_bytes += bytes.len() as u64;
                layout.placed.push(Placed::CarriedBody { hash: *hash, from: *from, at });
            }
            Item::Bury(tomb) => self.tomb(layout, *tomb),
            Item::BuryQueued { hash } => {
                let tomb = self.newest(hash);
                self.tomb(layout, tomb);
            }
        }
    }

    fn body(&mut self, layout: &mut Layout, hash: &BodyHash, bytes: &Bytes) -> Loc {
        let at = self.frame(layout, NO_GROUP, Kind::Body, &hash.0, Some(bytes));
        self.tail.footer.bodies.push(BodyAt { hash: *hash, offset: at.offset, len: at.len });
        self.tail.body_bytes += bytes.len() as u64;
        at
    }

    fn tomb(&mut self, layout: &mut Layout, tomb: Tomb) {
        self.frame(layout, NO_GROUP, Kind::Tomb, &tomb.encode(), None);
        self.tail.footer.tombs.push(tomb);
    }

    /// The newest copy of a body that was queued when it was buried: in this segment, or, after a roll in between, wherever the table has it.
    fn newest(&self, hash: &BodyHash) -> Tomb {
        if let Some(body) = self.tail.footer.bodies.iter().rev().find(|body| body.hash == *hash) {
            return Tomb::new(hash, Loc { segment: self.tail.segment.sequence, offset: body.offset, len: body.len });
        }
        // Its frame went into an earlier segment while nobody wanted it: it was never entered into the table, and is dead already, except
        // to a recovery, which leaves it to the collection of unreferenced bodies.
        Tomb::new(hash, Loc { segment: 0, offset: 0, len: 0 })
    }

    /// Lays out one frame and advances the tail.
    fn frame(&mut self, layout: &mut Layout, group: u32, kind: Kind, small: &[u8], large: Option<&Bytes>) -> Loc {
        let large_bytes = large.map_or(&[][..], |bytes| &bytes[..]);
        let (head, crc) = head(self.tail.crc, group, kind, &[small, large_bytes]);
        layout.copy(&head);
        layout.copy(small);
        if let Some(bytes) = large {
            layout.share(bytes);
        }
        layout.frames += 1;
        let len = (small.len() + large_bytes.len()) as u32;
        let at = Loc { segment: self.tail.segment.sequence, offset: self.tail.offset, len };
        self.tail.offset += HEAD as u32 + len;
        self.tail.crc = crc;
        at
    }

    /// Writes and syncs a batch; tells how long the sync took.
    fn put(&mut self, layout: &Layout) -> Result<Duration, JournalFault> {
        let segment = &self.tail.segment;
        let mut slices = layout.slices();
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let start = u64::from(self.tail.offset) - bytes as u64;
        write_all(&*segment.file, &mut slices, start).map_err(JournalFault::disk("write", &segment.path))?;
        let clock = Instant::now();
        if self.core.options.sync {
            segment.file.sync().map_err(JournalFault::disk("sync", &segment.path))?;
        }
        self.core.lock().counters.bytes_written += bytes as u64;
        Ok(clock.elapsed())
    }

    /// Enters a durable batch into the shared state.
    fn publish(&mut self, layout: &Layout, sync: Duration) {
        let mut guard = self.core.lock();
        let state = &mut *guard;
        state.counters.synced(sync);
        state.counters.batches += 1;
        state.counters.frames += layout.frames;
        state.counters.entry_bytes += layout.entry_bytes;
        state.counters.body_bytes += layout.body_bytes;
        state.counters.carried_bytes += layout.carried_bytes;
        if state.durable_entries != self.view.live_entries {
            state.durable_entries.clone_from(&self.view.live_entries);
        }
        if let Some(stored) = state.segments.get_mut(&self.tail.segment.sequence) {
            stored.used = self.tail.offset;
        }
        let mut orphans = Vec::new();
        for placed in &layout.placed {
            place(state, placed, self.core.options.cache_bytes_per_group, &mut orphans);
        }
        state.queue.extend(orphans.into_iter().map(|tomb| Op { item: Item::Bury(tomb), done: None }));
    }

    /// Completes the segment and starts the next. `NoSpace` when there is no file for it: nothing has been written then.
    fn roll(&mut self) -> Result<(), JournalFault> {
        let seal = match self.tail.sealed {
            Some(seal) => seal,
            None => self.seal()?,
        };
        self.tail.sealed = Some(seal);
        let spare = self.core.lock().spares.pop();
        let spare = match spare {
            Some(spare) => spare,
            None => self.core.make_spare(false)?,
        };
        self.core.chores.notify_one();
        let header = Header {
            journal: self.core.journal_id,
            life: self.core.life,
            sequence: self.tail.segment.sequence + 1,
            prev_end: self.tail.offset,
            prev_crc: self.tail.crc,
        };
        let tail = start_segment(&self.core.options, spare, &header, &self.view)?;
        let mut state = self.core.lock();
        if let Some(stored) = state.segments.get_mut(&self.tail.segment.sequence) {
            stored.seal = Some(seal);
            stored.used = seal.frames_end;
            stored.tombs_carried = self.tail.footer.tombs.is_empty();
        }
        state.body_percent = Some((self.tail.body_bytes * 100 / u64::from(self.tail.offset.max(1))) as u8);
        state.counters.bytes_written += u64::from(tail.offset - FRAMES_START) + seal.footer_len + 2 * 60;
        state.counters.syncs += 2;
        state.counters.rolls += 1;
        state.segments.insert(tail.segment.sequence, Stored::active(&tail));
        state.active = tail.segment.sequence;
        drop(state);
        self.tail = tail;
        self.core.look_at_space();
        Ok(())
    }

    fn seal(&self) -> Result<Seal, JournalFault> {
        let tail = &self.tail;
        let seal = tail.segment.seal(self.core.life, tail.offset, tail.crc, &tail.footer)?;
        if self.core.options.sync {
            tail.segment.file.sync().map_err(JournalFault::disk("sync", &tail.segment.path))?;
        }
        Ok(seal)
    }
}

impl Stored {
    /// A segment that has just been started.
    pub(crate) fn active(tail: &Tail) -> Self {
        Self {
            segment: tail.segment.clone(),
            seal: None,
            used: tail.offset,
            live_bodies: 0,
            live_bytes: 0,
            tombs_carried: false,
            condemned: false,
            emptied: false,
        }
    }
}

fn place(state: &mut State, placed: &Placed, cache: usize, orphans: &mut Vec<Tomb>) {
    match placed {
        Placed::Entry { group, index, stamp, at } => {
            let Some(known) = state.groups.get_mut(group) else { return };
            if let Some(slot) = known.slot(*index).filter(|slot| slot.stamp == *stamp && slot.at.segment == 0) {
                slot.at = *at;
            }
            known.trim(cache);
        }
        Placed::CarriedEntry { group, index, from, at } => {
            if let Some(slot) = state.groups.get_mut(group).and_then(|known| known.slot(*index)).filter(|slot| slot.at == *from) {
                slot.at = *at;
            }
        }
        Placed::Body { hash, stamp, at, bytes } => {
            state.queued_body_bytes = state.queued_body_bytes.saturating_sub(*bytes as u64);
            // Buried, or buried and put again, while it was on its way.
            if state.pending.get(hash).is_some_and(|pending| pending.stamp == *stamp) {
                state.pending.remove(hash);
                state.enter(hash, *at);
            }
        }
        Placed::CarriedBody { hash, from, at } => {
            if state.bury(&Tomb::new(hash, *from)) {
                state.enter(hash, *at);
            } else {
                orphans.push(Tomb { prefix: prefix(hash), at: *at });
            }
        }
    }
}

/// Payload bytes of an operation's frame.
fn item_bytes(item: &Item) -> u64 {
    let bytes = match item {
        Item::Barrier | Item::Reset { .. } => 0,
        Item::Vote { vote: bytes, .. } | Item::Committed { mark: bytes, .. } => bytes.len(),
        Item::Entry { bytes, .. } | Item::CarryEntry { bytes, .. } => 8 + bytes.len(),
        Item::Truncate { .. } => 8,
        Item::Purge { marker, .. } => 8 + marker.len(),
        Item::Body { bytes, .. } | Item::CarryBody { bytes, .. } => 32 + bytes.len(),
        Item::Bury(_) | Item::BuryQueued { .. } => Tomb::BYTES,
        Item::Note { key, value } => 2 + key.len() + value.len(),
        Item::NoteGone { key } => key.len(),
    };
    bytes as u64
}

/// Who loses something if this operation's frame is damaged.
fn listed_group(item: &Item) -> Option<u32> {
    match item {
        Item::Barrier | Item::Body { .. } | Item::CarryBody { .. } | Item::Bury(_) | Item::BuryQueued { .. } => None,
        Item::Note { .. } | Item::NoteGone { .. } => Some(NOTES_GROUP),
        Item::Vote { group, .. }
        | Item::Committed { group, .. }
        | Item::Entry { group, .. }
        | Item::CarryEntry { group, .. }
        | Item::Truncate { group, .. }
        | Item::Purge { group, .. }
        | Item::Reset { group } => Some(*group),
    }
}
