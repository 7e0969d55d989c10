//! Reading everything again, from the medium and at the caller's pace, to find what rotted before it is needed.

use crate::{BodyFault, BodyStore};
use parliament_ids::BodyHash;

/// A walk over the whole journal and all large bodies, in steps. A new one starts from the beginning.
#[derive(Default)]
pub struct Scrub {
    journal: parliament_journal::Scrub,
    journal_done: bool,
    large: Option<BodyHash>,
}

/// What one step found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Bodies that are sound. The caller may release those that nothing refers to.
    pub sound: Vec<BodyHash>,
    /// Bodies that were damaged and are quarantined now: to be pulled from a peer and replaced. Those in the journal are told as soon as its
    /// keeper has looked at them, at the latest by [`BodyStore::take_lost`] when [`parliament_journal::Journal::condemned`] has fallen.
    pub damaged: Vec<BodyHash>,
    /// Places that do not verify: large bodies, and frames and the like of the journal.
    pub places: u64,
    /// True when the walk is over. What was stored since it began may not have been seen.
    pub finished: bool,
}

impl BodyStore {
    /// Reads the journal, then large bodies, until `bytes_max` bytes were read (at least one body), or the walk is over. Reads the disk on this
    /// thread.
    pub fn scrub(&self, walk: &mut Scrub, bytes_max: u64) -> Scrubbed {
        let mut out = Scrubbed::default();
        if !walk.journal_done {
            let step = self.inner.journal.scrub(&mut walk.journal, bytes_max);
            walk.journal_done = step.finished;
            (out.bytes, out.sound, out.places) = (step.bytes, step.sound, step.damaged);
        }
        while walk.journal_done && out.bytes < bytes_max && !out.finished {
            self.scrub_large(walk, &mut out);
        }
        out.damaged.extend(self.take_lost());
        out
    }

    fn scrub_large(&self, walk: &mut Scrub, out: &mut Scrubbed) {
        let Some((hash, size)) = self.inner.large.after(walk.large) else {
            out.finished = true;
            return;
        };
        walk.large = Some(hash);
        out.bytes += size.max(1);
        self.inner.large.forget_cached(&hash);
        match self.read(&hash) {
            Ok(_) => out.sound.push(hash),
            // Collected meanwhile.
            Err(BodyFault::Missing(_)) => {}
            Err(BodyFault::Damaged(_)) => {
                out.places += 1;
                out.damaged.push(hash);
            }
            Err(fault) if fault.is_unreadable() => {
                out.places += 1;
                out.damaged.push(hash);
            }
            Err(fault) => tracing::warn!(%fault, %hash, "a body could not be read"),
        }
    }

    /// Bodies that the journal has found damaged since this was called last, and that are not here any more: to be pulled and replaced.
    #[must_use]
    pub fn take_lost(&self) -> Vec<BodyHash> {
        let told = self.inner.journal.take_lost_bodies();
        // One that the medium did not give is still there: whether it does now is seen by reading it.
        told.iter().filter(|hash| self.size(hash).is_some()).for_each(|hash| drop(self.read(hash)));
        let lost = self.missing(&told);
        crate::lock(&self.inner.damaged).extend(&lost);
        lost
    }
}
