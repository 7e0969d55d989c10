//! Reading every segment again, from the medium, to find what rotted before it is needed.
//!
//! A segment with a byte that does not verify is condemned: the writer leaves it if it is the one being written, so that what it said of
//! groups and notes stands in the next one's checkpoint, and the keeper carries out of it what lives there, each frame verified by itself.
//! What cannot be carried is told: bodies by [`Journal::take_lost_bodies`], entries by [`Journal::hurt_entries`].

use crate::disk::read_exact;
use crate::fault::JournalFault;
use crate::frame::{FRAMES_START, HEAD, Kind, claimed_len, parse};
use crate::index::prefix;
use crate::recover::Identity;
use crate::segment::{Header, Loc, Seal, Segment};
use crate::state::{Core, Item};
use crate::{Journal, LogState};
use parliament_ids::{BodyHash, GroupId};
use std::collections::VecDeque;
use std::sync::Arc;

/// Read at once, bytes; a larger frame is read whole.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// A walk over all segments, in steps. A new one starts from the beginning.
#[derive(Default)]
pub struct Scrub {
    /// None before the walk has begun.
    todo: Option<VecDeque<u32>>,
    walk: Option<Walk>,
}

/// What one step found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Live bodies that are sound.
    pub sound: Vec<BodyHash>,
    /// Places that do not verify: frames, headers, seals, footers, the journal's identity.
    pub damaged: u64,
    /// True when the walk is over. What was written since it began may not have been seen.
    pub finished: bool,
}

/// A segment being walked. Held, its file is not given to another.
struct Walk {
    segment: Arc<Segment>,
    end: u32,
    at: u32,
    /// Checksum of the frame before; none after a gap.
    prev: Option<u32>,
    start: u32,
    window: Vec<u8>,
}

/// What lies at the walk's place.
enum Look {
    Good {
        bytes: u32,
        crc: u32,
        body: Option<BodyHash>,
    },
    /// And where the next frame may begin.
    Bad {
        bytes: Option<u32>,
    },
}

impl Journal {
    /// Reads segments until `bytes_max` bytes were read, or the walk is over. The caller sets the pace. Reads the disk on this thread.
    pub fn scrub(&self, scrub: &mut Scrub, bytes_max: u64) -> Scrubbed {
        let core = &self.inner.core;
        let mut out = Scrubbed::default();
        let todo = scrub.todo.get_or_insert_with(|| core.lock().segments.keys().copied().collect());
        while out.bytes < bytes_max {
            if scrub.walk.is_none() {
                let Some(sequence) = todo.pop_front() else {
                    check_identity(core, &mut out);
                    out.finished = true;
                    break;
                };
                scrub.walk = Walk::begin(core, sequence, &mut out);
            }
            if let Some(walk) = &mut scrub.walk
                && !walk.step(core, &mut out)
            {
                scrub.walk = None;
            }
        }
        out
    }

    /// Segments that were found damaged and are not gone yet. Those with [`Journal::hurt_entries`] stay until these are purged.
    #[must_use]
    pub fn condemned(&self) -> usize {
        let state = self.inner.core.lock();
        let retired = state.retired.iter().filter(|(_, condemned)| *condemned).count();
        retired + state.segments.values().filter(|stored| stored.condemned).count()
    }

    /// Entries whose bytes are lost here, though the log has them: a snapshot that covers them and a purge up to them make the log whole.
    #[must_use]
    pub fn hurt_entries(&self) -> Vec<(GroupId, u64)> {
        let mut state = self.inner.core.lock();
        state.forget_healed();
        state.hurt.keys().map(|(group, index)| (GroupId(*group), *index)).collect()
    }

    /// Bodies that were found damaged since this was called last, and are forgotten: to be put again.
    #[must_use]
    pub fn take_lost_bodies(&self) -> Vec<BodyHash> {
        std::mem::take(&mut self.inner.core.lock().lost_bodies)
    }
}

impl LogState {
    /// True when nothing of the log is known to be lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.damaged && self.hurt.is_none()
    }
}

fn check_identity(core: &Core, out: &mut Scrubbed) {
    match Identity::check(&core.options, core.journal_id, core.life) {
        Ok(true) => {}
        Ok(false) => {
            tracing::error!("the journal's identity was damaged and is written anew");
            out.damaged += 1;
        }
        Err(fault) => tracing::error!(%fault, "the journal's identity"),
    }
}

/// Has what lives in a segment carried out of it.
pub(crate) fn condemn(core: &Core, sequence: u32, what: &'static str, offset: u32) {
    tracing::error!(segment = sequence, offset, what, "a part of the journal is damaged; what lives in the segment is written anew");
    let mut state = core.lock();
    let active = state.active == sequence;
    let Some(stored) = state.segments.get_mut(&sequence) else { return };
    if std::mem::replace(&mut stored.condemned, true) {
        return;
    }
    if active {
        state.roll = true;
        core.submit(state, [Item::Barrier], None);
    } else {
        drop(state);
    }
    core.chores.notify_one();
}

impl Walk {
    /// Looks at the segment's first block and its footer. None when it is gone, or known to be damaged.
    fn begin(core: &Core, sequence: u32, out: &mut Scrubbed) -> Option<Self> {
        let (segment, seal, end) = {
            let state = core.lock();
            let stored = state.segments.get(&sequence).filter(|stored| !stored.condemned)?;
            (stored.segment.clone(), stored.seal, stored.used)
        };
        segment.file.forget_cached();
        out.bytes += u64::from(FRAMES_START);
        let mut block = vec![0; FRAMES_START as usize];
        let header = segment.read(0, &mut block).ok().and_then(|()| Header::decode(&block));
        let header = header.filter(|(header, _)| (header.journal, header.sequence) == (core.journal_id, sequence));
        let mut wrong = |what| {
            out.damaged += 1;
            condemn(core, sequence, what, 0);
        };
        if header.is_none() {
            wrong("header");
        }
        if let Some(seal) = seal {
            if header.as_ref().is_some_and(|(header, _)| Seal::decode(&block, header) != Some(seal)) {
                wrong("seal");
            }
            if segment.footer(&seal).is_none() {
                wrong("footer");
            }
            out.bytes += seal.footer_len;
        }
        let prev = header.map(|(_, crc)| crc);
        Some(Self { segment, end, at: FRAMES_START, prev, start: 0, window: Vec::new() })
    }

    /// Looks at the next frame; false at the end.
    fn step(&mut self, core: &Core, out: &mut Scrubbed) -> bool {
        if self.at >= self.end {
            return false;
        }
        match self.look(core) {
            Look::Good { bytes, crc, body } => {
                out.bytes += u64::from(bytes);
                out.sound.extend(body);
                self.at += bytes;
                self.prev = Some(crc);
                true
            }
            Look::Bad { bytes } => {
                out.damaged += 1;
                condemn(core, self.segment.sequence, "frame", self.at);
                // Without a next frame the rest is left to the carrying, which looks at each live place by itself.
                let Some(bytes) = bytes else { return false };
                out.bytes += u64::from(bytes);
                self.at += bytes;
                self.prev = None;
                true
            }
        }
    }

    fn look(&mut self, core: &Core) -> Look {
        let (at, end, sequence, prev) = (self.at, self.end, self.segment.sequence, self.prev);
        let Ok(bytes) = self.bytes_at(at) else { return Look::Bad { bytes: None } };
        let claimed = bytes.first_chunk().map_or(0, claimed_len);
        let next = claimed.checked_add(HEAD as u32).filter(|size| *size <= end - at);
        let Some(frame) = parse(bytes).filter(|frame| frame.size() <= (end - at) as usize) else { return Look::Bad { bytes: next } };
        if prev.is_some_and(|prev| prev != frame.prev) {
            return Look::Bad { bytes: next };
        }
        let mut body = None;
        if frame.kind == Kind::Body {
            let Some((hash, stored)) = frame.payload.split_first_chunk() else { return Look::Bad { bytes: next } };
            let hash = BodyHash(*hash);
            if core.lock().index.contains(prefix(&hash), sequence, at) {
                if *blake3::hash(stored).as_bytes() != hash.0 {
                    return Look::Bad { bytes: next };
                }
                body = Some(hash);
            }
        }
        Look::Good { bytes: frame.size() as u32, crc: frame.crc, body }
    }

    /// The bytes from a place on: at least the whole frame that seems to lie there, unless it claims to be longer than the segment.
    fn bytes_at(&mut self, at: u32) -> Result<&[u8], JournalFault> {
        let has = |walk: &Self, bytes: usize| walk.window.get((at - walk.start) as usize..).is_some_and(|rest| rest.len() >= bytes);
        if at < self.start || !has(self, HEAD) {
            self.fill(at, WINDOW_BYTES)?;
        }
        let rest = self.window.get((at - self.start) as usize..).unwrap_or_default();
        let claimed = rest.first_chunk().map_or(0, |head| claimed_len(head) as usize);
        if claimed <= (self.end - at) as usize && !has(self, HEAD + claimed) {
            self.fill(at, WINDOW_BYTES.max((HEAD + claimed) as u64))?;
        }
        Ok(self.window.get((at - self.start) as usize..).unwrap_or_default())
    }

    fn fill(&mut self, at: u32, bytes: u64) -> Result<(), JournalFault> {
        let bytes = bytes.min(u64::from(self.end - at)) as usize;
        self.window.resize(bytes, 0);
        self.start = at;
        let read = read_exact(&*self.segment.file, &mut self.window, u64::from(at));
        read.map_err(|error| {
            self.window.clear();
            JournalFault::disk("read", &self.segment.path)(error)
        })
    }
}

impl crate::state::State {
    /// Hurt entries that were purged, truncated or written anew are hurt no more.
    pub(crate) fn forget_healed(&mut self) {
        let Self { hurt, groups, .. } = self;
        hurt.retain(|(group, index), at: &mut Loc| {
            groups.get_mut(group).and_then(|known| known.slot(*index)).is_some_and(|slot| slot.at == *at)
        });
    }
}
