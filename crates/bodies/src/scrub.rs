//! Reading everything again at a set pace, to find what rotted before it is needed.

use crate::{BodyFault, BodyStore};
use parliament_ids::BodyHash;
use std::collections::VecDeque;

/// A walk over all bodies, in steps. A new one starts from the beginning.
#[derive(Debug, Default)]
pub struct Scrub {
    /// Segments of the journal still to be walked; none before the walk has begun.
    segments: Option<VecDeque<u64>>,
    bodies: VecDeque<(BodyHash, u64)>,
    large: Option<BodyHash>,
    finished: bool,
}

/// What one step found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Bodies that are sound. The caller may release those that nothing refers to.
    pub sound: Vec<BodyHash>,
    /// Bodies that were damaged and are quarantined now: to be pulled from a peer and replaced.
    pub damaged: Vec<BodyHash>,
    /// True when the walk is over. Bodies stored since it began were not seen.
    pub finished: bool,
}

impl BodyStore {
    /// Re-hashes bodies until `bytes_max` bytes were read (at least one body), or the walk is over. The caller sets the pace. Reads the disk on
    /// this thread.
    pub fn scrub(&self, walk: &mut Scrub, bytes_max: u64) -> Scrubbed {
        let mut out = Scrubbed::default();
        while out.bytes < bytes_max {
            let Some((hash, size)) = self.next_body(walk) else {
                out.finished = true;
                break;
            };
            out.bytes += size.max(1);
            match self.read(&hash) {
                Ok(_) => out.sound.push(hash),
                // Collected meanwhile, or its frame's head is damaged; the latter counts as absent everywhere.
                Err(BodyFault::Missing(_)) => {
                    if self.listed(&hash) {
                        crate::lock(&self.inner.damaged).insert(hash);
                        out.damaged.push(hash);
                    }
                }
                Err(BodyFault::Damaged(_)) => out.damaged.push(hash),
                Err(fault) => tracing::warn!(%fault, %hash, "a body could not be read"),
            }
        }
        out
    }

    fn next_body(&self, walk: &mut Scrub) -> Option<(BodyHash, u64)> {
        let segments = walk.segments.get_or_insert_with(|| self.inner.journal.body_segments().into());
        while walk.bodies.is_empty() {
            let Some(segment) = segments.pop_front() else { break };
            match self.inner.journal.bodies_of(segment) {
                Ok(bodies) => walk.bodies = bodies.into(),
                Err(fault) => tracing::error!(%fault, "a segment's bodies cannot be listed"),
            }
        }
        if let Some(body) = walk.bodies.pop_front() {
            return Some(body);
        }
        if walk.finished {
            return None;
        }
        let next = self.inner.large.after(walk.large);
        match next {
            Some((hash, _)) => walk.large = Some(hash),
            None => walk.finished = true,
        }
        next
    }

    /// True when the journal's lists have the body although it cannot be found.
    fn listed(&self, hash: &BodyHash) -> bool {
        let journal = &self.inner.journal;
        let has = |segment: &u64| journal.bodies_of(*segment).is_ok_and(|bodies| bodies.iter().any(|(listed, _)| listed == hash));
        journal.body_segments().iter().any(has)
    }
}
