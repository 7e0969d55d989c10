//! The bytes of one record inside sled.
//!
//! Keys: one byte for the space, then the caller's key. Values: a format byte, the CRC-32C of (sled key, format, payload) and the payload.
//! A value too long for one sled record is cut into pieces of their own under [`PIECE`], since sled puts leaves above 128 KiB into files that
//! it never syncs; a leaf holds up to 26 records and an index page up to 266 keys. That bounds keys as well.

use crate::TableError;

/// The space of marks of our own.
pub(crate) const OWN: u8 = 0;
/// The space of the caller's records.
pub(crate) const USER: u8 = 1;
/// The space of pieces of long values: key length (2 bytes), key, index (4 bytes).
pub(crate) const PIECE: u8 = 2;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 400;
/// The longest value, in bytes. Values up to about 3 KiB are stored in one piece and are cheapest.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// The most payload of one sled record.
pub(crate) const INLINE_BYTES_MAX: usize = 3 << 10;

const INLINE: u8 = 1;
const CUT: u8 = 2;
const HEAD: usize = 5;

const _: () = assert!(26 * (KEY_BYTES_MAX + 24 + INLINE_BYTES_MAX + HEAD) < 128 << 10, "a leaf of sled must stay below its blob threshold");
const _: () = assert!(266 * (KEY_BYTES_MAX + 24) < 128 << 10, "an index page of sled must stay below its blob threshold");

/// A decoded sled value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored<'a> {
    /// The whole value.
    Whole(&'a [u8]),
    /// The value is cut into pieces.
    Cut {
        /// Its length.
        bytes: u32,
        /// The CRC-32C of the joined value.
        crc: u32,
    },
}

impl Stored<'_> {
    /// How many pieces stand beside the record.
    pub(crate) fn pieces(&self) -> u32 {
        match self {
            Stored::Whole(_) => 0,
            Stored::Cut { bytes, .. } => bytes.div_ceil(INLINE_BYTES_MAX as u32),
        }
    }
}

/// The sled key of a caller's key.
pub(crate) fn user_key(key: &[u8]) -> Vec<u8> {
    let mut sled_key = Vec::with_capacity(key.len() + 1);
    sled_key.push(USER);
    sled_key.extend_from_slice(key);
    sled_key
}

/// The sled key of a piece of a long value.
pub(crate) fn piece_key(key: &[u8], index: u32) -> Vec<u8> {
    let mut sled_key = Vec::with_capacity(key.len() + 7);
    sled_key.push(PIECE);
    sled_key.extend_from_slice(&(key.len() as u16).to_be_bytes());
    sled_key.extend_from_slice(key);
    sled_key.extend_from_slice(&index.to_be_bytes());
    sled_key
}

fn seal(sled_key: &[u8], format: u8, payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD + payload.len());
    value.push(format);
    value.extend_from_slice(&checksum(sled_key, format, payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

fn checksum(sled_key: &[u8], format: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(sled_key), &[format]), payload)
}

/// The sled value of a payload that fits one record.
pub(crate) fn encode_whole(sled_key: &[u8], payload: &[u8]) -> Vec<u8> {
    seal(sled_key, INLINE, payload)
}

/// The sled value that stands for a long value whose pieces are stored apart.
pub(crate) fn encode_cut(sled_key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&(value.len() as u32).to_le_bytes());
    payload[4..].copy_from_slice(&crc32c::crc32c(value).to_le_bytes());
    seal(sled_key, CUT, &payload)
}

/// Checks and opens a sled value.
pub(crate) fn decode<'a>(sled_key: &[u8], value: &'a [u8]) -> Result<Stored<'a>, TableError> {
    let damaged = |why: &str| TableError::Damaged(format!("record {}: {why}", hex(sled_key)));
    let (head, payload) = value.split_at_checked(HEAD).ok_or_else(|| damaged("too short"))?;
    let &[format, c0, c1, c2, c3] = head else { return Err(damaged("too short")) };
    if u32::from_le_bytes([c0, c1, c2, c3]) != checksum(sled_key, format, payload) {
        return Err(damaged("wrong checksum"));
    }
    match (format, payload) {
        (INLINE, _) => Ok(Stored::Whole(payload)),
        (CUT, &[b0, b1, b2, b3, c0, c1, c2, c3]) => {
            let bytes = u32::from_le_bytes([b0, b1, b2, b3]);
            if bytes as usize > VALUE_BYTES_MAX {
                return Err(damaged("length beyond the bound"));
            }
            Ok(Stored::Cut { bytes, crc: u32::from_le_bytes([c0, c1, c2, c3]) })
        }
        _ => Err(damaged("unknown format")),
    }
}

/// The first bytes of a key in hexadecimal, for messages.
pub(crate) fn hex(key: &[u8]) -> String {
    key.iter().take(48).map(|byte| format!("{byte:02x}")).collect()
}
