//! Variable-length integers and a checked reader.

use crate::port::TableFault;
use parliament_ids::{Uid, UidSet};

/// The fault of a record that cannot be decoded.
pub(crate) fn damaged(what: &str) -> TableFault {
    TableFault { what: format!("damaged record: {what}") }
}

/// Appends a little-endian base-128 integer.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// [`put`] for keyword bits.
pub(crate) fn put_wide(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A signed integer, small when near zero.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Length and bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A set as gaps and lengths.
pub(crate) fn put_set(out: &mut Vec<u8>, set: &UidSet) {
    put(out, set.ranges().len() as u64);
    let mut before = 0;
    for &(first, last) in set.ranges() {
        put(out, u64::from(first - before));
        put(out, u64::from(last - first));
        before = last;
    }
}

/// Reads what the functions above wrote; every fault is a [`TableFault`] that names the record.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }
    /// A reader behind the version byte, which must be `version`.
    pub(crate) fn versioned(bytes: &'a [u8], version: u8, what: &'static str) -> Result<Self, TableFault> {
        let mut reader = Self::new(bytes, what);
        if reader.byte()? == version { Ok(reader) } else { Err(reader.fault()) }
    }
    pub(crate) fn fault(&self) -> TableFault {
        damaged(self.what)
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], TableFault> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or_else(|| self.fault())?;
        self.rest = tail;
        Ok(head)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], TableFault> {
        let fault = self.fault();
        self.bytes(N)?.try_into().map_err(|_| fault)
    }
    pub(crate) fn byte(&mut self) -> Result<u8, TableFault> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn wide(&mut self) -> Result<u128, TableFault> {
        let mut value = 0_u128;
        for shift in (0..133).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if shift == 126 && bits > 3 {
                return Err(self.fault());
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.fault())
    }
    pub(crate) fn number(&mut self) -> Result<u64, TableFault> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.fault());
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.fault())
    }
    pub(crate) fn small(&mut self) -> Result<u32, TableFault> {
        u32::try_from(self.number()?).map_err(|_| self.fault())
    }
    pub(crate) fn size(&mut self) -> Result<usize, TableFault> {
        usize::try_from(self.number()?).map_err(|_| self.fault())
    }
    pub(crate) fn signed(&mut self) -> Result<i64, TableFault> {
        let raw = self.number()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
    pub(crate) fn set(&mut self) -> Result<UidSet, TableFault> {
        let count = self.number()?;
        let mut set = UidSet::new();
        let mut before = 0_u32;
        for _ in 0..count {
            let first = before.checked_add(self.small()?).ok_or_else(|| self.fault())?;
            let last = first.checked_add(self.small()?).ok_or_else(|| self.fault())?;
            set.insert_range(Uid(first), Uid(last));
            before = last;
        }
        Ok(set)
    }
    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), TableFault> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_trip_and_overlong_ones_are_refused() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, value);
            put_signed(&mut out, value as i64);
            put_wide(&mut out, u128::from(value) << 64 | 7);
            let mut reader = Reader::new(&out, "test");
            assert_eq!(reader.number().unwrap(), value);
            assert_eq!(reader.signed().unwrap(), value as i64);
            assert_eq!(reader.wide().unwrap(), u128::from(value) << 64 | 7);
            reader.end().unwrap();
        }
        assert!(Reader::new(&[0xff; 20], "test").number().is_err());
        assert!(Reader::new(&[0xff; 20], "test").wide().is_err());
        assert!(Reader::new(&[0x80], "test").number().is_err());
    }

    #[test]
    fn sets_round_trip() {
        let set = UidSet::from_ranges([(1, 3), (7, 7), (100, u32::MAX)]);
        let mut out = Vec::new();
        put_set(&mut out, &set);
        assert_eq!(Reader::new(&out, "test").set().unwrap(), set);
    }
}
