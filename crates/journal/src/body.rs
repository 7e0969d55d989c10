//! Small bodies.

use crate::Journal;
use crate::fault::JournalFault;
use crate::frame::{HEAD, Kind, claimed_len};
use crate::options::Space;
use crate::segment::{Loc, Segment, Tomb};
use crate::state::{Done, Item, Pending, State};
use bytes::Bytes;
use parliament_ids::{BodyHash, limits};
use std::io::ErrorKind;
use std::sync::Arc;

/// A copy of a body, found.
struct Place {
    segment: Arc<Segment>,
    at: Loc,
}

impl Journal {
    /// Keeps a body of at most [`limits::JOURNAL_BODY_BYTES_MAX`] bytes. Its frame is queued before that of any entry submitted later, so that
    /// whoever recovers the entry recovers the body, and is written with it if that comes soon. For a body that is present, `done` comes when everything queued so far is durable.
    /// The caller vouches that `hash` is the BLAKE3 of `bytes`. Refused with `Busy` or `NoSpace`.
    pub fn put_body(&self, hash: BodyHash, bytes: Bytes, done: Done) {
        if bytes.len() > limits::JOURNAL_BODY_BYTES_MAX {
            return done(Err(JournalFault::TooLarge { bytes: bytes.len(), max: limits::JOURNAL_BODY_BYTES_MAX }));
        }
        let core = &self.inner.core;
        let mut state = core.lock();
        let mut present = state.pending.contains_key(&hash);
        if !present && !state.index.places(&hash).is_empty() {
            // Another body may share the table's bits, so the stored hash is read, outside the lock.
            drop(state);
            present = matches!(self.find(&hash), Ok(Some(_)));
            state = core.lock();
            // It may have been put by another, or buried, meanwhile.
            present = state.pending.contains_key(&hash) || (present && !state.index.places(&hash).is_empty());
        }
        if present {
            return core.submit(state, [Item::Barrier], Some(done));
        }
        let refusal = if core.space() >= Space::NoBodies {
            Some(JournalFault::NoSpace)
        } else {
            (state.queued_body_bytes + bytes.len() as u64 > core.options.queue_bytes_max).then_some(JournalFault::Busy)
        };
        if let Some(fault) = state.refusal().or(refusal) {
            drop(state);
            return done(Err(fault));
        }
        let stamp = state.next_stamp();
        state.queued_body_bytes += bytes.len() as u64;
        state.pending.insert(hash, Pending { bytes: bytes.clone(), stamp });
        core.submit_body(state, Item::Body { hash, stamp, bytes }, done);
    }

    /// Length of a body, as soon as it was put; none when it is absent, or its place cannot be read.
    #[must_use]
    pub fn body_state(&self, hash: &BodyHash) -> Option<u64> {
        if let Some(pending) = self.inner.core.lock().pending.get(hash) {
            return Some(pending.bytes.len() as u64);
        }
        match self.find(hash) {
            Ok(place) => place.map(|place| u64::from(place.at.len) - 32),
            Err(fault) => {
                tracing::warn!(%fault, %hash, "a body's place cannot be read");
                None
            }
        }
    }

    /// A body's bytes, hashed anew. One that does not match is quarantined: it is absent from then on, and can be put again. One that the
    /// medium does not give stays where it is ([`JournalFault::is_unreadable`]): who has it from elsewhere removes it, and puts it again.
    pub fn read_body(&self, hash: &BodyHash) -> Result<Option<Bytes>, JournalFault> {
        if let Some(pending) = self.inner.core.lock().pending.get(hash) {
            return Ok(Some(pending.bytes.clone()));
        }
        let Some(place) = self.find(hash)? else { return Ok(None) };
        let mut bytes = vec![0; place.at.len as usize - 32];
        // Twice, and from the medium then, in case the memory and not the disk is at fault.
        let first = read_matching(&place, hash, &mut bytes);
        if matches!(first, Ok(true)) {
            return Ok(Some(Bytes::from(bytes)));
        }
        place.segment.file.forget_cached();
        if !read_matching(&place, hash, &mut bytes)? {
            first?;
            let segment = u64::from(place.at.segment);
            tracing::error!(%hash, segment, "a body is damaged");
            self.inner.core.lock().lost(*hash);
            self.remove_body(hash);
            return Err(JournalFault::CorruptBody { hash: *hash, segment });
        }
        Ok(Some(Bytes::from(bytes)))
    }

    /// Forgets a body. At once for this process; after a crash it may be back until removed again. Space returns when its segment is carried
    /// forward.
    pub fn remove_body(&self, hash: &BodyHash) {
        let core = &self.inner.core;
        let mut items = Vec::new();
        {
            let state = core.lock();
            if state.refusal().is_some() {
                return;
            }
            if state.pending.contains_key(hash) {
                items.push(Item::BuryQueued { hash: *hash });
            }
        }
        let tomb = |place: Place| Some(Tomb::new(hash, Loc { len: holds(&place, hash).ok()??, ..place.at }));
        let tombs: Vec<Tomb> = self.places(hash).into_iter().filter_map(tomb).collect();
        let mut state = core.lock();
        if items.is_empty() && state.pending.contains_key(hash) {
            items.push(Item::BuryQueued { hash: *hash });
        }
        if state.pending.remove(hash).is_none() && !items.is_empty() {
            // Written between the two looks: its place is known now, and found by asking again.
            drop(state);
            return self.remove_body(hash);
        }
        items.extend(tombs.into_iter().filter(|tomb| state.bury(tomb)).map(Item::Bury));
        if !items.is_empty() {
            core.submit(state, items, None);
        }
    }

    /// Segments that may hold bodies, ascending: steps of a walk over all of them.
    #[must_use]
    pub fn body_segments(&self) -> Vec<u64> {
        self.inner.core.lock().segments.keys().map(|sequence| u64::from(*sequence)).collect()
    }

    /// The bodies, with their lengths, that lie complete and live in one of [`Journal::body_segments`]; none once it is gone, or while it is
    /// the one being written.
    pub fn bodies_of(&self, segment: u64) -> Result<Vec<(BodyHash, u64)>, JournalFault> {
        let found = {
            let state = self.inner.core.lock();
            let stored = u32::try_from(segment).ok().and_then(|sequence| state.segments.get(&sequence));
            stored.and_then(|stored| Some((stored.segment.clone(), stored.seal?)))
        };
        let Some((file, seal)) = found else { return Ok(Vec::new()) };
        let Some(footer) = file.footer(&seal) else {
            return Err(JournalFault::Corrupt { groups: Vec::new(), segment, offset: seal.footer_at, what: "the footer does not verify" });
        };
        let state = self.inner.core.lock();
        let live = |hash: &BodyHash, offset| state.index.contains(crate::index::prefix(hash), file.sequence, offset);
        Ok(footer.bodies.iter().filter(|body| live(&body.hash, body.offset)).map(|body| (body.hash, u64::from(body.len) - 32)).collect())
    }

    fn places(&self, hash: &BodyHash) -> Vec<Place> {
        let state = self.inner.core.lock();
        places(&state, hash)
    }

    /// The newest place whose stored hash is this one.
    fn find(&self, hash: &BodyHash) -> Result<Option<Place>, JournalFault> {
        for mut place in self.places(hash) {
            if let Some(len) = holds(&place, hash)? {
                place.at.len = len;
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

fn places(state: &State, hash: &BodyHash) -> Vec<Place> {
    let found = state.index.places(hash).into_iter();
    found
        .filter_map(|(segment, offset)| {
            let stored = state.segments.get(&segment)?;
            Some(Place { segment: stored.segment.clone(), at: Loc { segment, offset, len: 0 } })
        })
        .collect()
}

/// Reads a body; false when these are other bytes, or the file ends before.
fn read_matching(place: &Place, hash: &BodyHash, bytes: &mut [u8]) -> Result<bool, JournalFault> {
    match place.segment.read(u64::from(place.at.offset) + (HEAD + 32) as u64, bytes) {
        Err(JournalFault::Disk { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| *blake3::hash(bytes).as_bytes() == hash.0),
    }
}

/// Length of the frame's payload if this place holds the body.
fn holds(place: &Place, hash: &BodyHash) -> Result<Option<u32>, JournalFault> {
    let mut start = [0; HEAD + 32];
    place.segment.read(u64::from(place.at.offset), &mut start)?;
    let len = start.first_chunk::<HEAD>().map_or(0, claimed_len);
    let sound = (32..=limits::JOURNAL_BODY_BYTES_MAX + 32).contains(&(len as usize));
    Ok((start[16] == Kind::Body as u8 && start[HEAD..] == hash.0 && sound).then_some(len))
}
