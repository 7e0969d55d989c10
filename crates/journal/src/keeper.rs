//! Chores beside the writer: ready files for the next segments, release of segments that nothing needs, and carrying live frames out of old,
//! mostly dead segments. Everything that is carried goes through the writer (rule 11).

use crate::fault::JournalFault;
use crate::frame::{HEAD, Kind, claimed_len, parse};
use crate::group::PAYLOAD_BYTES_MAX;
use crate::index::prefix;
use crate::options::Fresh;
use crate::recover::read_entry;
use crate::scrub::condemn;
use crate::segment::{BodyAt, Footer, Loc, Segment, Tomb, spare_path};
use crate::state::{Core, Item, Spare};
use bytes::Bytes;
use parliament_ids::BodyHash;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the keeper looks around when nobody wakes it.
const TICK: Duration = Duration::from_secs(1);
/// Bytes carried forward in one step.
const STEP_BYTES: usize = 1024 * 1024;
/// Fresh segments are zero-filled while bodies make less than this share of a segment, percent.
const ZERO_BELOW_BODY_PERCENT: u8 = 25;

/// A segment whose live frames are being carried forward.
struct Victim {
    segment: Arc<Segment>,
    entries: VecDeque<(u32, u64, Loc)>,
    bodies: VecDeque<BodyAt>,
    tombs: Vec<Tomb>,
    /// Set by the callback of the last step.
    settled: Arc<AtomicBool>,
}

pub(crate) struct Keeper {
    core: Arc<Core>,
    victim: Option<Victim>,
    /// The segment that was carried last; nothing of it may be left, so it is not chosen again.
    last: u32,
}

impl Keeper {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, victim: None, last: 0 }
    }

    /// Works until the journal is closed or dead.
    pub(crate) fn run(mut self) {
        loop {
            let carried = self.step();
            let pace = self.core.options.compact_bytes_per_second.max(1);
            let pause = if carried > 0 { Duration::from_millis(carried * 1000 / pace).min(TICK) } else { TICK };
            let state = self.core.lock();
            if state.closing || state.dead.is_some() {
                return;
            }
            drop(self.core.chores.wait_timeout(state, pause));
        }
    }

    /// One round of all chores; tells how many bytes it gave the writer to carry.
    pub(crate) fn step(&mut self) -> u64 {
        if self.core.lock().refusal().is_some() {
            return 0;
        }
        self.core.look_at_space();
        self.release();
        self.recycle();
        self.refill();
        match self.carry() {
            Ok(bytes) => bytes,
            Err(fault) => {
                tracing::warn!(%fault, "a segment could not be carried forward");
                self.victim = None;
                0
            }
        }
    }

    /// Fills the stock of ready files up to the next segment and the reserve. Where that fails the journal is short of space.
    fn refill(&mut self) {
        let core = &self.core;
        let want = 1 + core.options.reserve_segments as usize;
        loop {
            let (have, bodies, over) = {
                let state = core.lock();
                (state.spares.len(), state.body_percent, state.closing || state.dead.is_some())
            };
            if have >= want || over {
                return;
            }
            let zeroed = match core.options.fresh {
                Fresh::Zero => true,
                Fresh::Allocate => false,
                Fresh::Auto => bodies.is_some_and(|percent| percent < ZERO_BELOW_BODY_PERCENT),
            };
            match core.make_spare(zeroed) {
                // The writer takes from the end: what was made ready first is used last, and stays the reserve.
                Ok(spare) => core.lock().spares.push(spare),
                Err(fault) => {
                    tracing::warn!(%fault, have, want, "the reserve of segments cannot be filled");
                    core.space.fetch_max(if have == 0 { 2 } else { 1 }, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Takes segments without anything live out of use.
    fn release(&mut self) {
        let mut state = self.core.lock();
        let dead: Vec<u32> = state
            .segments
            .iter()
            .filter(|(sequence, stored)| {
                **sequence < state.active
                    && (stored.seal.is_some() || stored.condemned)
                    && stored.live_bodies == 0
                    && !state.durable_entries.contains_key(sequence)
                    && stored.tombs_carried
            })
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in dead {
            if let Some(stored) = state.segments.remove(&sequence) {
                state.retired.push((stored.segment, stored.condemned));
            }
        }
    }

    /// Turns retired files that nobody reads any more into ready ones, or removes them.
    fn recycle(&mut self) {
        let core = &self.core;
        let free: Vec<(Arc<Segment>, bool)> = {
            let mut state = core.lock();
            let (free, busy) = state.retired.drain(..).partition(|(segment, _)| Arc::strong_count(segment) == 1);
            state.retired = busy;
            free
        };
        let want = 1 + core.options.reserve_segments as usize;
        let mut ready = Vec::new();
        for (segment, condemned) in &free {
            // A file in which bytes changed by themselves is not trusted with others.
            let whole = !condemned && segment.file.len().is_ok_and(|length| length >= core.options.segment_bytes);
            let number = {
                let mut state = core.lock();
                state.next_spare += 1;
                (whole && state.spares.len() + ready.len() <= want).then_some(state.next_spare)
            };
            let moved = match number {
                Some(number) => {
                    let path = spare_path(&core.options.dir, number);
                    let moved = core.options.disk.rename(&segment.path, &path);
                    moved.map(|()| ready.push(Spare { path, file: segment.file.clone() }))
                }
                None => core.options.disk.unlink(&segment.path),
            };
            if let Err(error) = moved {
                // At the next start it is found again, without anything live, and released again.
                tracing::warn!(%error, path = %segment.path.display(), "a dead segment could not be taken away");
            }
        }
        if free.is_empty() {
            return;
        }
        // Only then may it be written over: under its old name it would be taken for a damaged segment after a power cut.
        match core.options.disk.sync_dir(&core.options.dir) {
            Ok(()) => {
                let mut state = core.lock();
                state.counters.recycled += ready.len() as u64;
                state.spares.extend(ready);
            }
            Err(error) => tracing::warn!(%error, "the journal's folder could not be synced; its dead segments wait for the next start"),
        }
    }

    /// Carries the next part of the current victim, or chooses one.
    fn carry(&mut self) -> Result<u64, JournalFault> {
        if self.victim.is_none() {
            self.victim = self.choose()?;
        }
        let Some(victim) = &mut self.victim else { return Ok(0) };
        if !victim.settled.load(Ordering::Acquire) {
            return Ok(0);
        }
        let (items, bytes) = fill(&self.core, victim)?;
        if items.is_empty() {
            let sequence = victim.segment.sequence;
            if let Some(stored) = self.core.lock().segments.get_mut(&sequence) {
                stored.tombs_carried = true;
                stored.emptied = stored.condemned;
            }
            self.last = sequence;
            self.victim = None;
            self.release();
            return Ok(0);
        }
        let settled = Arc::new(AtomicBool::new(false));
        victim.settled = settled.clone();
        let core = self.core.clone();
        let done = move |result: Result<(), JournalFault>| {
            settled.store(result.is_ok(), Ordering::Release);
            core.chores.notify_one();
        };
        self.core.submit(self.core.lock(), items, Some(Box::new(done)));
        Ok(bytes)
    }

    /// A condemned segment; else the oldest complete one that is far enough behind and mostly dead: less than half of its used bytes live, or
    /// less than a quarter of a segment at all. One without anything live but tombs counts at any distance.
    fn choose(&mut self) -> Result<Option<Victim>, JournalFault> {
        let core = self.core.clone();
        let state = core.lock();
        let options = &core.options;
        let behind = (options.carry_after_bytes / options.segment_bytes) as u32;
        let mut entry_bytes = std::collections::HashMap::<u32, u64>::new();
        for at in state.groups.values().flat_map(|group| &group.slots).map(|slot| slot.at) {
            *entry_bytes.entry(at.segment).or_default() += u64::from(at.len) + HEAD as u64;
        }
        let spoiled = state.segments.iter().find(|(sequence, stored)| **sequence < state.active && stored.condemned && !stored.emptied);
        let chosen = spoiled.or_else(|| {
            state.segments.iter().find(|(sequence, stored)| {
                if stored.condemned {
                    return false;
                }
                let live = stored.live_bytes + entry_bytes.get(sequence).copied().unwrap_or(0);
                let empty = live == 0 && !state.durable_entries.contains_key(sequence);
                let far = sequence.saturating_add(behind) < state.active;
                let sparse = live * 2 < u64::from(stored.used).max(options.segment_bytes / 2);
                **sequence < state.active && **sequence != self.last && stored.seal.is_some() && (empty || (far && sparse))
            })
        });
        let Some((sequence, stored)) = chosen else { return Ok(None) };
        let (segment, seal, sequence, condemned) = (stored.segment.clone(), stored.seal, *sequence, stored.condemned);
        let mut entries = VecDeque::new();
        for (group, known) in &state.groups {
            for (skip, slot) in known.slots.iter().enumerate().filter(|(_, slot)| slot.at.segment == sequence && !known.damaged) {
                entries.push_back((*group, known.first + skip as u64, slot.at));
            }
        }
        drop(state);
        let footer = match seal.and_then(|seal| segment.footer(&seal)) {
            Some(footer) => footer,
            None if condemned => footer_of_places(&core, &segment),
            None => {
                // Condemned, it is chosen again at once.
                condemn(&core, sequence, "footer", 0);
                return Ok(None);
            }
        };
        let Footer { bodies, tombs } = footer;
        Ok(Some(Victim { segment, entries, bodies: bodies.into(), tombs, settled: Arc::new(AtomicBool::new(true)) }))
    }
}

/// The next items to carry out of a victim, and their bytes; none when all is done.
fn fill(core: &Core, victim: &mut Victim) -> Result<(Vec<Item>, u64), JournalFault> {
    let mut items = Vec::new();
    let mut bytes = 0;
    while bytes < STEP_BYTES
        && let Some((group, index, from)) = victim.entries.pop_front()
    {
        let still = core.lock().groups.get_mut(&group).and_then(|known| known.slot(index)).is_some_and(|slot| slot.at == from);
        if still {
            let Some(entry) = carried_entry(core, &victim.segment, group, index, from) else { continue };
            bytes += entry.len();
            items.push(Item::CarryEntry { group, index, from, bytes: entry });
        }
    }
    while bytes < STEP_BYTES
        && let Some(body) = victim.bodies.pop_front()
    {
        if let Some(item) = carried_body(core, &victim.segment, &body) {
            bytes += body.len as usize;
            items.push(item);
        }
    }
    if bytes < STEP_BYTES {
        let state = core.lock();
        let needed = |tomb: &Tomb| tomb.at.segment != victim.segment.sequence && state.segments.contains_key(&tomb.at.segment);
        items.extend(victim.tombs.drain(..).filter(needed).map(Item::Bury));
    }
    Ok((items, bytes as u64))
}

/// What a footer would say, from the places that are known: for a segment whose own does not verify. Tombs it had are forgotten: what they
/// buried may be back after a restart, which costs space and nothing else. A body whose stored hash is damaged too is forgotten.
fn footer_of_places(core: &Core, segment: &Segment) -> Footer {
    let offsets = core.lock().index.offsets_in(segment.sequence);
    let mut footer = Footer::default();
    for offset in offsets {
        let mut start = [0; HEAD + 32];
        let read = segment.read(u64::from(offset), &mut start).is_ok();
        let (Some(head), Some(hash)) = (start.first_chunk(), start[HEAD..].first_chunk()) else { continue };
        let hash = BodyHash(*hash);
        if read && core.lock().index.contains(prefix(&hash), segment.sequence, offset) {
            footer.bodies.push(BodyAt { hash, offset, len: claimed_len(head) });
        }
    }
    core.lock().forget_places(segment.sequence, &footer.bodies.iter().map(|body| body.offset).collect());
    footer
}

/// An entry to be carried: from memory where its place does not verify. What neither has is remembered as hurt and stays where it is.
fn carried_entry(core: &Core, segment: &Segment, group: u32, index: u64, from: Loc) -> Option<Bytes> {
    let fault = match read_entry(segment, from, group, index) {
        Ok(entry) => return Some(entry),
        Err(fault) => fault,
    };
    condemn(core, segment.sequence, "entry", from.offset);
    let mut state = core.lock();
    let cached = state.groups.get(&group).and_then(|known| known.cached(index).cloned());
    if cached.is_none() {
        tracing::error!(group, index, %fault, "an entry is lost here");
        state.hurt.insert((group, index), from);
    }
    cached
}

/// A body to be carried: none when it is dead here, exists elsewhere, or is damaged.
fn carried_body(core: &Core, segment: &Segment, body: &BodyAt) -> Option<Item> {
    let from = Loc { segment: segment.sequence, offset: body.offset, len: body.len };
    let tomb = Tomb::new(&body.hash, from);
    if !core.lock().index.contains(tomb.prefix, from.segment, from.offset) {
        return None;
    }
    if !(32..=PAYLOAD_BYTES_MAX).contains(&(body.len as usize)) {
        core.lock().lost(body.hash);
        return bury(core, tomb);
    }
    let mut bytes = vec![0; HEAD + body.len as usize];
    let mut read = read_sound(segment, body, &mut bytes);
    if !matches!(read, Ok(true)) {
        segment.file.forget_cached();
        // Only bytes that are wrong twice are given up.
        let first = read;
        read = read_sound(segment, body, &mut bytes).and_then(|sound| if sound { Ok(true) } else { first });
    }
    if let Err(fault) = &read {
        // It stays, and its segment with it, until it is removed or put again: the medium may give it another time.
        tracing::error!(%fault, hash = %body.hash, "a body cannot be read");
        condemn(core, segment.sequence, "body", body.offset);
        core.lock().lost(body.hash);
        return None;
    }
    if !matches!(read, Ok(true)) {
        condemn(core, segment.sequence, "body", body.offset);
        core.lock().lost(body.hash);
        return bury(core, tomb);
    }
    Some(Item::CarryBody { hash: body.hash, from, bytes: Bytes::from(bytes).slice(HEAD + 32..) })
}

/// Reads a body's frame; false when it is something else.
fn read_sound(segment: &Segment, body: &BodyAt, bytes: &mut [u8]) -> Result<bool, JournalFault> {
    match segment.read(u64::from(body.offset), bytes) {
        Err(JournalFault::Disk { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    let good = parse(bytes).is_some_and(|frame| frame.kind == Kind::Body && frame.payload.starts_with(&body.hash.0));
    Ok(good && *blake3::hash(&bytes[HEAD + 32..]).as_bytes() == body.hash.0)
}

fn bury(core: &Core, tomb: Tomb) -> Option<Item> {
    core.lock().bury(&tomb);
    Some(Item::Bury(tomb))
}
