//! A segment file: header at 0, seal record at 512, frames from 4,096, and behind the frames, once sealed, a footer that lists the segment's
//! bodies by hash. Header and leading checkpoint are durable before the file gets its name.

use crate::disk::{DiskFile, read_exact, write_all};
use crate::fault::JournalFault;
use crate::frame::{u32_at, u64_at};
use parliament_ids::BodyHash;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of everything in a segment file.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"\x89PLjrnl\n";
const SEAL_MAGIC: [u8; 8] = *b"\x89PLseal\n";
const SEAL_AT: u64 = 512;
const HEADER_BYTES: usize = 56;
const SEAL_BYTES: usize = 60;
/// Largest footer that is believed, bytes.
const FOOTER_BYTES_MAX: u64 = 1 << 30;

/// Where a frame lies. Offsets and lengths are bytes; `len` counts the frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Loc {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Identity of a segment (rule 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) journal: u64,
    /// How many times the journal had been opened when the segment was made.
    pub(crate) life: u64,
    pub(crate) sequence: u32,
    /// Where the frames of the segment before end; 0 in a journal's very first segment.
    pub(crate) prev_end: u32,
    /// Checksum of the last frame before.
    pub(crate) prev_crc: u32,
}

impl Header {
    /// The bytes, and their checksum, which seeds the first frame.
    pub(crate) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        let mut out = [0u8; HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.journal.to_le_bytes());
        out[24..32].copy_from_slice(&self.life.to_le_bytes());
        out[32..40].copy_from_slice(&u64::from(self.sequence).to_le_bytes());
        out[40..48].copy_from_slice(&u64::from(self.prev_end).to_le_bytes());
        out[48..52].copy_from_slice(&self.prev_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..52]);
        out[52..56].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let crc = u32_at(bytes, 52)?;
        if bytes[..8] != MAGIC || crc != crc32c::crc32c(&bytes[..52]) || u32_at(bytes, 8)? != FORMAT_VERSION {
            return None;
        }
        let header = Self {
            journal: u64_at(bytes, 16)?,
            life: u64_at(bytes, 24)?,
            sequence: u32::try_from(u64_at(bytes, 32)?).ok()?,
            prev_end: u32::try_from(u64_at(bytes, 40)?).ok()?,
            prev_crc: u32_at(bytes, 48)?,
        };
        Some((header, crc))
    }

    /// The version that a file claims, when it claims to be a segment at all.
    pub(crate) fn version(bytes: &[u8]) -> Option<u32> {
        (bytes.get(..8)? == MAGIC).then(|| u32_at(bytes, 8)).flatten()
    }
}

/// Says that a segment is complete, and where its footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) sequence: u32,
    pub(crate) life: u64,
    pub(crate) frames_end: u32,
    pub(crate) last_crc: u32,
    pub(crate) footer_at: u64,
    pub(crate) footer_len: u64,
    pub(crate) footer_crc: u32,
}

impl Seal {
    fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut out = [0u8; SEAL_BYTES];
        out[0..8].copy_from_slice(&SEAL_MAGIC);
        out[8..16].copy_from_slice(&u64::from(self.sequence).to_le_bytes());
        out[16..24].copy_from_slice(&self.life.to_le_bytes());
        out[24..32].copy_from_slice(&u64::from(self.frames_end).to_le_bytes());
        out[32..36].copy_from_slice(&self.last_crc.to_le_bytes());
        out[36..44].copy_from_slice(&self.footer_at.to_le_bytes());
        out[44..52].copy_from_slice(&self.footer_len.to_le_bytes());
        out[52..56].copy_from_slice(&self.footer_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..56]);
        out[56..60].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The seal in a segment's first 4,096 bytes, if it is of this segment and not of one that used the file before.
    pub(crate) fn decode(first_block: &[u8], header: &Header) -> Option<Self> {
        let bytes: &[u8; SEAL_BYTES] = first_block.get(SEAL_AT as usize..)?.first_chunk()?;
        if bytes[..8] != SEAL_MAGIC || u32_at(bytes, 56)? != crc32c::crc32c(&bytes[..56]) {
            return None;
        }
        let seal = Self {
            sequence: u32::try_from(u64_at(bytes, 8)?).ok()?,
            life: u64_at(bytes, 16)?,
            frames_end: u32::try_from(u64_at(bytes, 24)?).ok()?,
            last_crc: u32_at(bytes, 32)?,
            footer_at: u64_at(bytes, 36)?,
            footer_len: u64_at(bytes, 44)?,
            footer_crc: u32_at(bytes, 52)?,
        };
        (seal.sequence == header.sequence && seal.life == header.life && seal.footer_len <= FOOTER_BYTES_MAX).then_some(seal)
    }
}

/// A body's frame within one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BodyAt {
    pub(crate) hash: BodyHash,
    pub(crate) offset: u32,
    /// Length of the frame's payload: hash and body.
    pub(crate) len: u32,
}

/// One copy of a body is dead. Names the copy by place, which is unique for ever, and by enough of the hash to find it in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tomb {
    pub(crate) prefix: [u8; 8],
    pub(crate) at: Loc,
}

impl Tomb {
    pub(crate) const BYTES: usize = 20;

    pub(crate) fn new(hash: &BodyHash, at: Loc) -> Self {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&hash.0[..8]);
        Self { prefix, at }
    }

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.prefix);
        out[8..12].copy_from_slice(&self.at.segment.to_le_bytes());
        out[12..16].copy_from_slice(&self.at.offset.to_le_bytes());
        out[16..20].copy_from_slice(&self.at.len.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.first_chunk()?;
        let at = Loc { segment: u32_at(bytes, 8)?, offset: u32_at(bytes, 12)?, len: u32_at(bytes, 16)? };
        Some(Self { prefix: *bytes.first_chunk()?, at })
    }
}

/// What a segment says of bodies: its own, and copies elsewhere that died while it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) bodies: Vec<BodyAt>,
    pub(crate) tombs: Vec<Tomb>,
}

const BODY_ROW: usize = 40;

impl Footer {
    /// Bytes that this footer will take.
    pub(crate) fn size(&self) -> u64 {
        8 + (self.bodies.len() * BODY_ROW + self.tombs.len() * Tomb::BYTES) as u64
    }

    /// Rows sorted by hash.
    fn encode(&self) -> Vec<u8> {
        let mut bodies = self.bodies.clone();
        bodies.sort_unstable();
        let mut out = Vec::with_capacity(self.size() as usize);
        out.extend_from_slice(&(bodies.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.tombs.len() as u32).to_le_bytes());
        for body in &bodies {
            out.extend_from_slice(&body.hash.0);
            out.extend_from_slice(&body.offset.to_le_bytes());
            out.extend_from_slice(&body.len.to_le_bytes());
        }
        for tomb in &self.tombs {
            out.extend_from_slice(&tomb.encode());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bodies = u32_at(bytes, 0)? as usize;
        let tombs = u32_at(bytes, 4)? as usize;
        let split = 8 + bodies * BODY_ROW;
        if bytes.len() != split + tombs * Tomb::BYTES {
            return None;
        }
        let row = |row: &[u8]| Some(BodyAt { hash: BodyHash(*row.first_chunk()?), offset: u32_at(row, 32)?, len: u32_at(row, 36)? });
        Some(Self {
            bodies: bytes[8..split].chunks_exact(BODY_ROW).filter_map(row).collect(),
            tombs: bytes[split..].chunks_exact(Tomb::BYTES).filter_map(Tomb::decode).collect(),
        })
    }
}

/// An open segment file. The file is given to another segment only when no one else holds this value.
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl Segment {
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), JournalFault> {
        read_exact(&*self.file, bytes, offset).map_err(JournalFault::disk("read", &self.path))
    }

    /// Writes the footer behind the frames, then the seal. The caller syncs.
    pub(crate) fn seal(&self, life: u64, frames_end: u32, last_crc: u32, footer: &Footer) -> Result<Seal, JournalFault> {
        let bytes = footer.encode();
        let seal = Seal {
            sequence: self.sequence,
            life,
            frames_end,
            last_crc,
            footer_at: u64::from(frames_end).next_multiple_of(4096),
            footer_len: bytes.len() as u64,
            footer_crc: crc32c::crc32c(&bytes),
        };
        let write =
            |bytes: &[u8], at| write_all(&*self.file, &mut [IoSlice::new(bytes)], at).map_err(JournalFault::disk("write", &self.path));
        write(&bytes, seal.footer_at)?;
        write(&seal.encode(), SEAL_AT)?;
        Ok(seal)
    }

    /// The footer, or nothing when it does not verify: it then has to be made again from the frames.
    pub(crate) fn footer(&self, seal: &Seal) -> Option<Footer> {
        let mut bytes = vec![0; usize::try_from(seal.footer_len).ok()?];
        self.read(seal.footer_at, &mut bytes).ok()?;
        (crc32c::crc32c(&bytes) == seal.footer_crc).then(|| Footer::decode(&bytes)).flatten()
    }
}

/// File name of a segment.
pub(crate) fn segment_path(dir: &Path, sequence: u32) -> PathBuf {
    dir.join(format!("segment-{sequence:08x}"))
}

/// File name of a ready, unused segment file.
pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("spare-{number:016x}"))
}

/// The number in a file name that starts with `prefix`.
pub(crate) fn number_in(name: &str, prefix: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(prefix)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_seal_and_footer_round_trip() {
        let header = Header { journal: 1, life: 2, sequence: 3, prev_end: 4, prev_crc: 5 };
        let (bytes, crc) = header.encode();
        assert_eq!(Header::decode(&bytes), Some((header.clone(), crc)));
        let seal = Seal { sequence: 3, life: 2, frames_end: 9, last_crc: 8, footer_at: 4096, footer_len: 7, footer_crc: 6 };
        let mut block = vec![0; 4096];
        block[512..512 + SEAL_BYTES].copy_from_slice(&seal.encode());
        assert_eq!(Seal::decode(&block, &header), Some(seal));
        assert_eq!(Seal::decode(&block, &Header { sequence: 4, ..header.clone() }), None);
        assert_eq!(Seal::decode(&block, &Header { life: 3, ..header }), None);
        let at = Loc { segment: 1, offset: 2, len: 3 };
        let footer = Footer {
            bodies: vec![BodyAt { hash: BodyHash([1; 32]), offset: 5, len: 6 }, BodyAt { hash: BodyHash([2; 32]), offset: 7, len: 8 }],
            tombs: vec![Tomb::new(&BodyHash([9; 32]), at)],
        };
        assert_eq!(footer.encode().len() as u64, footer.size());
        assert_eq!(Footer::decode(&footer.encode()), Some(footer));
        assert_eq!(Footer::decode(&[255; 8]), None);
    }
}
