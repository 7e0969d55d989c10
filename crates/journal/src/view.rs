//! What the frames written so far mean: every group's state with its entries' places, and the notes.
//!
//! The writer applies each frame as it lays it out, recovery applies each frame as it finds it: the same code, hence the same state.

use crate::frame::{Frame, Kind, NOTES_GROUP, u32_at, u64_at};
use crate::segment::Loc;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// One group as its frames have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupView {
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<(u64, Bytes)>,
    /// Index of the first of `entries`.
    pub(crate) first: u64,
    pub(crate) entries: VecDeque<Loc>,
    /// Synced frames of the group were lost; only a reset clears this.
    pub(crate) damaged: bool,
}

impl GroupView {
    /// The index that the next entry must have; any is allowed in a group that never had one.
    pub(crate) fn next(&self) -> Option<u64> {
        if !self.entries.is_empty() {
            return Some(self.first + self.entries.len() as u64);
        }
        self.purged.as_ref().map(|(index, _)| index + 1)
    }
}

/// All groups and notes, and how many live entries each segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) groups: BTreeMap<u32, GroupView>,
    pub(crate) notes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) notes_damaged: bool,
    /// Groups unknown here may have had frames that were lost.
    pub(crate) strangers_damaged: bool,
    /// Live entries by segment; no zeros.
    pub(crate) live_entries: BTreeMap<u32, u64>,
}

impl View {
    fn count(live: &mut BTreeMap<u32, u64>, segment: u32, up: bool) {
        let count = live.entry(segment).or_default();
        *count = if up { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            live.remove(&segment);
        }
    }

    /// Applies one frame that lies at `at`. False when its payload makes no sense, which in a verified frame means a defect of the writer.
    pub(crate) fn apply(&mut self, frame: &Frame<'_>, at: Loc) -> bool {
        self.apply_parts(frame.kind, frame.group, frame.payload, at).is_some()
    }

    fn apply_parts(&mut self, kind: Kind, group: u32, payload: &[u8], at: Loc) -> Option<()> {
        match kind {
            Kind::Batch | Kind::Body | Kind::Tomb => {}
            Kind::Vote => self.vote(group, Bytes::copy_from_slice(payload)),
            Kind::Committed => self.committed(group, Bytes::copy_from_slice(payload)),
            Kind::Entry => self.entry(group, u64_at(payload, 0)?, at),
            Kind::CarriedEntry => self.carried(group, u64_at(payload, 0)?, at),
            Kind::Truncate => self.truncate(group, u64_at(payload, 0)?),
            Kind::Purge => self.purge(group, u64_at(payload, 0)?, Bytes::copy_from_slice(&payload[8..])),
            Kind::Reset => self.reset(group),
            Kind::Note => {
                let split = 2 + usize::from(u16::from_le_bytes(*payload.first_chunk()?));
                self.notes.insert(payload.get(2..split)?.to_vec(), payload[split..].to_vec());
            }
            Kind::NoteGone => {
                self.notes.remove(payload);
            }
            Kind::Checkpoint => *self = Self::decode(payload)?,
        }
        Some(())
    }

    /// The group's state, made when missing. A group first heard of after an unattributable loss may itself be what was lost.
    pub(crate) fn group(&mut self, group: u32) -> &mut GroupView {
        let damaged = self.strangers_damaged;
        self.groups.entry(group).or_insert_with(|| GroupView { damaged, ..GroupView::default() })
    }

    pub(crate) fn vote(&mut self, group: u32, vote: Bytes) {
        self.group(group).vote = Some(vote);
    }

    pub(crate) fn committed(&mut self, group: u32, mark: Bytes) {
        self.group(group).committed = Some(mark);
    }

    pub(crate) fn entry(&mut self, group: u32, index: u64, at: Loc) {
        let state = self.group(group);
        match state.next() {
            Some(next) if next != index => {
                // The writer admits contiguous entries only, so frames between were lost.
                state.damaged = true;
                return;
            }
            _ if state.entries.is_empty() => state.first = index,
            _ => {}
        }
        state.entries.push_back(at);
        Self::count(&mut self.live_entries, at.segment, true);
    }

    pub(crate) fn carried(&mut self, group: u32, index: u64, at: Loc) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let Some(slot) = index.checked_sub(state.first).and_then(|skip| state.entries.get_mut(skip as usize)) else { return };
        Self::count(&mut self.live_entries, slot.segment, false);
        Self::count(&mut self.live_entries, at.segment, true);
        *slot = at;
    }

    pub(crate) fn truncate(&mut self, group: u32, index: u64) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let keep = index.saturating_sub(state.first).min(state.entries.len() as u64) as usize;
        for gone in state.entries.drain(keep..) {
            Self::count(&mut self.live_entries, gone.segment, false);
        }
    }

    pub(crate) fn purge(&mut self, group: u32, index: u64, marker: Bytes) {
        let damaged = self.strangers_damaged;
        let state = self.groups.entry(group).or_insert_with(|| GroupView { damaged, ..GroupView::default() });
        if state.purged.as_ref().is_some_and(|(purged, _)| *purged > index) {
            return;
        }
        let drop = (index + 1).saturating_sub(state.first).min(state.entries.len() as u64) as usize;
        for gone in state.entries.drain(..drop) {
            Self::count(&mut self.live_entries, gone.segment, false);
        }
        state.first = index + 1;
        state.purged = Some((index, marker));
    }

    pub(crate) fn reset(&mut self, group: u32) {
        self.truncate(group, 0);
        self.groups.insert(group, GroupView::default());
    }

    /// Notes that synced frames of these groups were lost; `None`: nobody knows whose.
    pub(crate) fn damage(&mut self, groups: Option<&[u32]>) {
        match groups {
            Some(groups) => {
                for group in groups {
                    if *group == NOTES_GROUP {
                        self.notes_damaged = true;
                    } else {
                        self.group(*group).damaged = true;
                    }
                }
            }
            None => {
                self.strangers_damaged = true;
                self.notes_damaged = true;
                self.groups.values_mut().for_each(|group| group.damaged = true);
            }
        }
    }

    /// The payload of a checkpoint frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.push(u8::from(self.notes_damaged) | u8::from(self.strangers_damaged) << 1);
        out.extend_from_slice(&(self.notes.len() as u32).to_le_bytes());
        for (key, value) in &self.notes {
            put_bytes(&mut out, key);
            put_bytes(&mut out, value);
        }
        out.extend_from_slice(&(self.groups.len() as u32).to_le_bytes());
        for (group, state) in &self.groups {
            out.extend_from_slice(&group.to_le_bytes());
            state.encode(&mut out);
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut input = Input(payload);
        let flags = input.take(1)?[0];
        let mut view = Self { notes_damaged: flags & 1 != 0, strangers_damaged: flags & 2 != 0, ..Self::default() };
        for _ in 0..input.u32()? {
            let key = input.bytes()?.to_vec();
            view.notes.insert(key, input.bytes()?.to_vec());
        }
        for _ in 0..input.u32()? {
            let group = input.u32()?;
            let state = GroupView::decode(&mut input)?;
            for at in &state.entries {
                Self::count(&mut view.live_entries, at.segment, true);
            }
            view.groups.insert(group, state);
        }
        input.0.is_empty().then_some(view)
    }
}

impl GroupView {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(
            u8::from(self.damaged)
                | u8::from(self.vote.is_some()) << 1
                | u8::from(self.committed.is_some()) << 2
                | u8::from(self.purged.is_some()) << 3,
        );
        for bytes in [&self.vote, &self.committed].into_iter().flatten() {
            put_bytes(out, bytes);
        }
        if let Some((index, marker)) = &self.purged {
            out.extend_from_slice(&index.to_le_bytes());
            put_bytes(out, marker);
        }
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        let (mut segment, mut end) = (0u32, 0u32);
        for at in &self.entries {
            // Within a segment entries ascend; a carried one, or one of another segment, starts the count anew.
            let fresh = at.segment != segment || at.offset < end;
            put_varint(out, if fresh { u64::from(at.segment) << 1 | 1 } else { u64::from(at.offset - end) << 1 });
            if fresh {
                put_varint(out, u64::from(at.offset));
            }
            put_varint(out, u64::from(at.len));
            (segment, end) = (at.segment, at.offset.saturating_add(at.len));
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        let flags = input.take(1)?[0];
        let mut state = Self { damaged: flags & 1 != 0, ..Self::default() };
        if flags & 2 != 0 {
            state.vote = Some(Bytes::copy_from_slice(input.bytes()?));
        }
        if flags & 4 != 0 {
            state.committed = Some(Bytes::copy_from_slice(input.bytes()?));
        }
        if flags & 8 != 0 {
            state.purged = Some((input.u64()?, Bytes::copy_from_slice(input.bytes()?)));
        }
        state.first = input.u64()?;
        let (mut segment, mut end) = (0u32, 0u32);
        for _ in 0..input.u32()? {
            let word = input.varint()?;
            let offset = if word & 1 == 1 {
                segment = u32::try_from(word >> 1).ok()?;
                u32::try_from(input.varint()?).ok()?
            } else {
                end.checked_add(u32::try_from(word >> 1).ok()?)?
            };
            let len = u32::try_from(input.varint()?).ok()?;
            end = offset.saturating_add(len);
            state.entries.push_back(Loc { segment, offset, len });
        }
        Some(state)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        u32_at(self.take(4)?, 0)
    }

    fn u64(&mut self) -> Option<u64> {
        u64_at(self.take(8)?, 0)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u32, offset: u32) -> Loc {
        Loc { segment, offset, len: 10 }
    }

    fn sample() -> View {
        let mut view = View::default();
        view.vote(3, Bytes::from_static(b"v"));
        for index in 0..5 {
            view.entry(3, index, at(1 + index as u32 / 3, 4096 + 40 * index as u32));
        }
        view.carried(3, 1, at(2, 9000));
        view.purge(3, 0, Bytes::from_static(b"m"));
        view.committed(4, Bytes::from_static(b"c"));
        view.notes.insert(b"boot".to_vec(), b"7".to_vec());
        view
    }

    #[test]
    fn checkpoint_round_trips_and_no_part_of_it_passes() {
        let mut view = sample();
        view.damage(Some(&[4]));
        let bytes = view.encode();
        assert_eq!(View::decode(&bytes), Some(view));
        assert!((0..bytes.len()).all(|cut| View::decode(&bytes[..cut]).is_none()));
    }

    #[test]
    fn live_entries_follow_truncate_purge_carry_and_reset() {
        let mut view = sample();
        assert_eq!(view.live_entries, BTreeMap::from([(1, 1), (2, 3)]));
        view.truncate(3, 3);
        assert_eq!(view.live_entries, BTreeMap::from([(1, 1), (2, 1)]));
        assert_eq!(view.group(3).next(), Some(3));
        view.purge(3, 9, Bytes::new());
        assert_eq!(view.live_entries, BTreeMap::new());
        assert_eq!(view.group(3).next(), Some(10));
        view.reset(3);
        assert_eq!(view.group(3), &GroupView::default());
    }

    #[test]
    fn gap_and_unknown_damage_stick_until_reset() {
        let mut view = sample();
        view.entry(3, 7, at(2, 10_000));
        assert!(view.group(3).damaged);
        view.damage(None);
        assert!(view.group(99).damaged && view.notes_damaged);
        view.reset(99);
        assert!(!view.group(99).damaged);
    }
}
