//! One Raft group's log.

use crate::fault::JournalFault;
use crate::recover::read_entry;
use crate::scrub::condemn;
use crate::state::{Done, GroupState, Item};
use crate::{Inner, segment::Loc, segment::Segment};
use bytes::Bytes;
use parliament_ids::GroupId;
use std::sync::Arc;

/// Largest entry, vote, marker or commit mark, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a group's log holds, submitted changes included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Index of the last entry ever purged, and the marker given with it.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the last entry present; none when no entry is, even if some were purged.
    pub last_index: Option<u64>,
    /// The vote saved last.
    pub vote: Option<Bytes>,
    /// The commit mark saved last; after a crash possibly an earlier one.
    pub committed: Option<Bytes>,
    /// Synced frames of this group were lost: the replica must leave the group, [`GroupLog::reset`] its log, and join anew as a learner.
    pub damaged: bool,
    /// The last entry that is known to be there and whose bytes no longer verify. All else of the group is sound: once a snapshot covers this
    /// index and the log is purged up to it, nothing is lost.
    pub hurt: Option<u64>,
}

/// A group's log. A cheap handle; all handles of a group are the same log. Entries follow each other without gaps.
///
/// Every change counts at once for reads and later calls; `done` tells when it is durable. Changes become durable in the order of the calls.
#[derive(Clone)]
pub struct GroupLog {
    pub(crate) inner: Arc<Inner>,
    pub(crate) group: GroupId,
}

enum Source {
    Memory(Bytes),
    Disk(Arc<Segment>, Loc),
}

impl GroupLog {
    /// The log's state now.
    #[must_use]
    pub fn state(&self) -> LogState {
        let mut state = self.inner.core.lock();
        state.forget_healed();
        let hurt = state.hurt.range((self.group.0, 0)..=(self.group.0, u64::MAX)).next_back().map(|((_, index), _)| *index);
        let group = state.group(self.group);
        LogState {
            hurt,
            purged: group.purged.clone(),
            last_index: group.last(),
            vote: group.vote.clone(),
            committed: group.committed.clone(),
            damaged: group.damaged,
        }
    }

    /// Index of the first entry present.
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        let mut state = self.inner.core.lock();
        let group = state.group(self.group);
        (!group.slots.is_empty()).then_some(group.first)
    }

    /// Adds entries, readable on return. The first must follow the last present or purged one ([`JournalFault::NotContiguous`]); a log without
    /// either may start anywhere. Each entry at most [`PAYLOAD_BYTES_MAX`]. Without entries, `done` comes when everything before is durable.
    pub fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) {
        let mut state = self.inner.core.lock();
        let refusal = state.refusal().or_else(|| admit(self.group, state.group(self.group), &entries).err());
        if let Some(fault) = refusal {
            drop(state);
            return done(Err(fault));
        }
        let group = self.group.0;
        let mut items = Vec::with_capacity(entries.len());
        for (index, bytes) in entries {
            let stamp = state.next_stamp();
            state.group(self.group).push(index, stamp, bytes.clone());
            items.push(Item::Entry { group, index, stamp, bytes });
        }
        self.inner.core.submit(state, items, Some(done));
    }

    /// Drops the entry at `index` and all later ones.
    pub fn truncate_from(&self, index: u64, done: Done) {
        self.change(0, done, |group, number| {
            group.truncate(index);
            Item::Truncate { group: number, index }
        });
    }

    /// Drops the entries up to and with `index`, which may lie beyond the last one; `marker` is kept for [`LogState::purged`]. A purge below an
    /// earlier one changes nothing.
    pub fn purge_to(&self, index: u64, marker: Bytes, done: Done) {
        self.change(marker.len(), done, |group, number| {
            group.purge(index, marker.clone());
            Item::Purge { group: number, index, marker }
        });
    }

    /// Saves the vote.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.change(vote.len(), done, |group, number| {
            group.vote = Some(vote.clone());
            Item::Vote { group: number, vote }
        });
    }

    /// Notes how far entries are committed. Costs no write of its own: the latest mark rides with the next batch, or with closing.
    pub fn save_committed(&self, mark: Bytes) {
        let mut state = self.inner.core.lock();
        if mark.len() > PAYLOAD_BYTES_MAX || state.refusal().is_some() {
            return;
        }
        let group = state.group(self.group);
        group.committed = Some(mark);
        if !std::mem::replace(&mut group.mark_dirty, true) {
            state.marks.push(self.group.0);
        }
    }

    /// Forgets everything of the group, damage too: the log is as new. The caller must not speak as the voter it was.
    pub fn reset(&self, done: Done) {
        let mut state = self.inner.core.lock();
        if state.refusal().is_none() {
            state.groups.insert(self.group.0, GroupState::default());
        }
        self.inner.core.submit(state, [Item::Reset { group: self.group.0 }], Some(done));
    }

    fn change(&self, bytes: usize, done: Done, make: impl FnOnce(&mut GroupState, u32) -> Item) {
        let mut state = self.inner.core.lock();
        let refusal = if bytes > PAYLOAD_BYTES_MAX {
            Some(JournalFault::TooLarge { bytes, max: PAYLOAD_BYTES_MAX })
        } else {
            state.refusal().or_else(|| damage(self.group, state.group(self.group)))
        };
        if let Some(fault) = refusal {
            drop(state);
            return done(Err(fault));
        }
        let item = make(state.group(self.group), self.group.0);
        self.inner.core.submit(state, [item], Some(done));
    }

    /// Entries from `from` up to before `to_exclusive`, as many as fit into `max_bytes` but at least one. Stops early only at that bound or at
    /// the log's end; empty when `from` is not present. `Corrupt` when a stored entry no longer verifies: see [`LogState::hurt`].
    pub fn read(&self, from: u64, to_exclusive: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, JournalFault> {
        let sources = self.sources(from, to_exclusive, max_bytes)?;
        let mut out = Vec::with_capacity(sources.len());
        for (index, source) in sources {
            let bytes = match source {
                Source::Memory(bytes) => bytes,
                Source::Disk(segment, at) => {
                    read_entry(&segment, at, self.group.0, index).inspect_err(|fault| self.note_if_corrupt(fault, index, at))?
                }
            };
            out.push((index, bytes));
        }
        Ok(out)
    }

    fn sources(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<(u64, Source)>, JournalFault> {
        let mut guard = self.inner.core.lock();
        let state = &mut *guard;
        if let Some(fault) = damage(self.group, state.group(self.group)) {
            return Err(fault);
        }
        let Some(group) = state.groups.get(&self.group.0) else { return Ok(Vec::new()) };
        let Some(last) = group.last().filter(|last| from >= group.first && from <= *last) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        let mut bytes = 0usize;
        for index in from..to.min(last + 1) {
            let slot = group.slots[(index - group.first) as usize];
            let source = match group.cached(index) {
                Some(bytes) => Source::Memory(bytes.clone()),
                None => match state.segments.get(&slot.at.segment) {
                    Some(stored) => Source::Disk(stored.segment.clone(), slot.at),
                    None => return Err(corrupt(self.group)),
                },
            };
            bytes += match &source {
                Source::Memory(bytes) => bytes.len(),
                Source::Disk(_, at) => (at.len as usize).saturating_sub(8),
            };
            if bytes > max_bytes && !out.is_empty() {
                break;
            }
            out.push((index, source));
        }
        Ok(out)
    }

    fn note_if_corrupt(&self, fault: &JournalFault, index: u64, at: Loc) {
        if matches!(fault, JournalFault::Corrupt { .. }) {
            tracing::error!(%fault, index, "an entry is lost here");
            let core = &self.inner.core;
            core.lock().hurt.insert((self.group.0, index), at);
            condemn(core, at.segment, "entry", at.offset);
        }
    }
}

fn corrupt(group: GroupId) -> JournalFault {
    JournalFault::Corrupt { groups: vec![group], segment: 0, offset: 0, what: "synced frames were lost" }
}

fn damage(group: GroupId, state: &GroupState) -> Option<JournalFault> {
    state.damaged.then(|| corrupt(group))
}

fn admit(group: GroupId, state: &GroupState, entries: &[(u64, Bytes)]) -> Result<(), JournalFault> {
    if let Some(fault) = damage(group, state) {
        return Err(fault);
    }
    let mut expected = state.next();
    for (index, bytes) in entries {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(JournalFault::TooLarge { bytes: bytes.len(), max: PAYLOAD_BYTES_MAX });
        }
        if let Some(expected) = expected.filter(|expected| expected != index) {
            return Err(JournalFault::NotContiguous { group, expected, got: *index });
        }
        expected = Some(index + 1);
    }
    Ok(())
}
