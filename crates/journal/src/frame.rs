//! Frames: `len | crc32c | prev | group | kind | payload`, little-endian.
//!
//! `len` counts the payload. `prev` is the checksum of the frame before (of the segment's header for the first), and is covered by the
//! frame's own checksum: a frame verifies alone, and a stale one cannot join the valid prefix (rule 9). A batch starts with a frame that can
//! be found without the chain; since a batch is written only after the one before was synced, finding it proves what lies before it to have
//! been durable (rule 10).

/// Bytes before a frame's payload.
pub(crate) const HEAD: usize = 20;
/// Where the first frame of a segment starts.
pub(crate) const FRAMES_START: u32 = 4096;
/// The group number of frames that belong to no Raft group.
pub(crate) const NO_GROUP: u32 = u32::MAX;
/// Stands in a batch's list of groups for notes.
pub(crate) const NOTES_GROUP: u32 = u32::MAX - 1;

const BATCH_MAGIC: [u8; 8] = *b"\xb5PLbatch";
const BATCH_FIXED: usize = 8 + 8 * 4 + 4 * 2;

/// What a frame says. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Start of a batch: see [`BatchHead`].
    Batch = 1,
    /// A group's vote.
    Vote = 2,
    /// index u64, entry.
    Entry = 3,
    /// index u64: this and all later entries are dropped.
    Truncate = 4,
    /// index u64, marker: this and all earlier entries are dropped.
    Purge = 5,
    /// A group's commit mark.
    Committed = 6,
    /// hash, bytes.
    Body = 7,
    /// A [`crate::segment::Tomb`]: a body's copy at one place is dead.
    Tomb = 8,
    /// key length u16, key, value.
    Note = 9,
    /// key.
    NoteGone = 10,
    /// index u64, entry: the entry that the group already has at this index, copied forward.
    CarriedEntry = 11,
    /// The whole state of all groups and the notes, the entries by reference: replaces everything before it.
    Checkpoint = 12,
    /// The group starts anew with nothing.
    Reset = 13,
}

impl Kind {
    fn from(number: u8) -> Option<Self> {
        use Kind::*;
        [Batch, Vote, Entry, Truncate, Purge, Committed, Body, Tomb, Note, NoteGone, CarriedEntry, Checkpoint, Reset]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// A frame as found in a segment's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) group: u32,
    pub(crate) prev: u32,
    pub(crate) crc: u32,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    pub(crate) fn size(&self) -> usize {
        HEAD + self.payload.len()
    }
}

/// The head of a frame over `pieces`, and the frame's checksum.
pub(crate) fn head(prev: u32, group: u32, kind: Kind, pieces: &[&[u8]]) -> ([u8; HEAD], u32) {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut head = [0u8; HEAD];
    head[0..4].copy_from_slice(&(len as u32).to_le_bytes());
    head[8..12].copy_from_slice(&prev.to_le_bytes());
    head[12..16].copy_from_slice(&group.to_le_bytes());
    head[16] = kind as u8;
    let crc = checksum(&head, pieces);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    (head, crc)
}

fn checksum(head: &[u8; HEAD], pieces: &[&[u8]]) -> u32 {
    let start = crc32c::crc32c_append(crc32c::crc32c(&head[0..4]), &head[8..HEAD]);
    pieces.iter().fold(start, |crc, piece| crc32c::crc32c_append(crc, piece))
}

/// The frame at the start of `bytes`, if one verifies there. Does not look at `prev`.
pub(crate) fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let len = u32_at(head, 0)? as usize;
    let kind = Kind::from(head[16])?;
    let payload = bytes.get(HEAD..HEAD.checked_add(len)?)?;
    let crc = u32_at(head, 4)?;
    (checksum(head, &[payload]) == crc).then_some(Frame { kind, group: u32_at(head, 12)?, prev: u32_at(head, 8)?, crc, payload })
}

/// The payload length that a frame's head tells; unverified.
pub(crate) fn claimed_len(head: &[u8; HEAD]) -> u32 {
    u32_at(head, 0).unwrap_or(0)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The first frame of a batch. Its place in the file and the segment's identity are inside, so that it can be believed without the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    pub(crate) journal: u64,
    pub(crate) life: u64,
    pub(crate) segment: u64,
    /// Offset of this frame in the segment; everything before it had been synced when it was written.
    pub(crate) offset: u32,
    /// Bytes of the batch's frames after this one.
    pub(crate) bytes: u32,
    /// Groups with frames in the batch, so that damage inside it can be laid at someone's door.
    pub(crate) groups: Vec<u32>,
}

impl BatchHead {
    pub(crate) fn size(groups: usize) -> usize {
        HEAD + BATCH_FIXED + 4 * groups
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::size(self.groups.len()) - HEAD);
        out.extend_from_slice(&BATCH_MAGIC);
        for number in [self.journal, self.life, self.segment, u64::from(self.offset)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&(self.groups.len() as u32).to_le_bytes());
        for group in &self.groups {
            out.extend_from_slice(&group.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        if payload.get(..8)? != BATCH_MAGIC {
            return None;
        }
        let count = u32_at(payload, 44)? as usize;
        let list = payload.get(BATCH_FIXED..)?;
        if list.len() != count.checked_mul(4)? {
            return None;
        }
        Some(Self {
            journal: u64_at(payload, 8)?,
            life: u64_at(payload, 16)?,
            segment: u64_at(payload, 24)?,
            offset: u32::try_from(u64_at(payload, 32)?).ok()?,
            bytes: u32_at(payload, 40)?,
            groups: list.chunks_exact(4).filter_map(|chunk| u32_at(chunk, 0)).collect(),
        })
    }

    /// Offset of the first batch at or after `from` that belongs to this journal and segment.
    pub(crate) fn find(bytes: &[u8], from: usize, journal: u64, segment: u64) -> Option<usize> {
        let mut start = from;
        while let Some(hit) = memchr::memmem::find(bytes.get(start..)?, &BATCH_MAGIC) {
            let magic = start + hit;
            start = magic + 1;
            let Some(at) = magic.checked_sub(HEAD).filter(|at| *at >= from) else { continue };
            let Some(frame) = bytes.get(at..).and_then(parse).filter(|frame| frame.kind == Kind::Batch) else { continue };
            let belongs = |head: &Self| head.journal == journal && head.segment == segment && head.offset as usize == at;
            if Self::decode(frame.payload).as_ref().is_some_and(belongs) {
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(prev: u32, payload: &[u8]) -> Vec<u8> {
        let (head, _) = head(prev, 7, Kind::Vote, &[payload]);
        [&head[..], payload].concat()
    }

    #[test]
    fn frame_round_trips_and_every_flipped_bit_is_seen() {
        let bytes = framed(99, b"a vote");
        let frame = parse(&bytes).unwrap();
        assert_eq!((frame.kind, frame.group, frame.prev, frame.payload), (Kind::Vote, 7, 99, &b"a vote"[..]));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn zeros_and_short_bytes_are_no_frame() {
        assert!(parse(&[0; 64]).is_none());
        let bytes = framed(1, b"abc");
        assert!((0..bytes.len()).all(|cut| parse(&bytes[..cut]).is_none()));
    }

    #[test]
    fn batch_is_found_only_at_its_own_place_and_segment() {
        let batch = BatchHead { journal: 5, life: 2, segment: 9, offset: 40, bytes: 0, groups: vec![1, 4] };
        let payload = batch.encode();
        assert_eq!(BatchHead::decode(&payload), Some(batch));
        let (head, _) = head(3, NO_GROUP, Kind::Batch, &[&payload]);
        let at = |offset: usize| [&vec![1u8; offset][..], &head[..], &payload[..]].concat();
        assert_eq!(BatchHead::find(&at(40), 0, 5, 9), Some(40));
        assert_eq!(BatchHead::find(&at(40), 41, 5, 9), None);
        assert_eq!(BatchHead::find(&at(41), 0, 5, 9), None);
        assert_eq!(BatchHead::find(&at(40), 0, 5, 8), None);
        assert_eq!(BatchHead::find(&at(40), 0, 6, 9), None);
    }
}
