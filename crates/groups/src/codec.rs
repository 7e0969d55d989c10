//! Primitive encodings that log entries, marks and messages share: one version byte, LEB128 integers, length-prefixed bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes that came from disk or from a peer are not what this version writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad {what}: {why}")]
pub struct CodecError {
    /// What was being decoded.
    pub what: &'static str,
    /// Which rule it broke.
    pub why: &'static str,
}

/// Appends to a buffer.
pub(crate) struct Writer(BytesMut);

impl Writer {
    /// A buffer that starts with a version.
    pub(crate) fn versioned(version: u8, capacity: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(capacity + 1);
        buffer.put_u8(version);
        Self(buffer)
    }
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.put_u8(byte);
    }
    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.put_u8(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.0.put_u8(u8::try_from(number).unwrap_or(0));
    }
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Takes a buffer apart without copying. Every method fails rather than reads past the end.
pub(crate) struct Reader {
    what: &'static str,
    rest: Bytes,
}

impl Reader {
    /// Reads `bytes`, whose first byte must be `version`.
    pub(crate) fn versioned(what: &'static str, version: u8, bytes: Bytes) -> Result<Self, CodecError> {
        let mut reader = Self { what, rest: bytes };
        if reader.byte()? == version { Ok(reader) } else { Err(reader.error("unknown version")) }
    }
    pub(crate) fn error(&self, why: &'static str) -> CodecError {
        CodecError { what: self.what, why }
    }
    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        let byte = self.rest.first().copied().ok_or(self.error("too short"))?;
        let _ = self.rest.split_to(1);
        Ok(byte)
    }
    /// A byte that must be 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, CodecError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error("flag is neither 0 nor 1")),
        }
    }
    pub(crate) fn number(&mut self) -> Result<u64, CodecError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.error("number too large"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.error("number too long"))
    }
    /// A number that counts things of which there are at most `max`.
    pub(crate) fn count(&mut self, max: usize) -> Result<usize, CodecError> {
        match usize::try_from(self.number()?) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(self.error("count out of bounds")),
        }
    }
    pub(crate) fn raw(&mut self, len: usize) -> Result<Bytes, CodecError> {
        if len > self.rest.len() { Err(self.error("too short")) } else { Ok(self.rest.split_to(len)) }
    }
    pub(crate) fn bytes(&mut self, max: usize) -> Result<Bytes, CodecError> {
        let len = self.count(max)?;
        self.raw(len)
    }
    pub(crate) fn text(&mut self, max: usize) -> Result<String, CodecError> {
        let bytes = self.bytes(max)?;
        String::from_utf8(bytes.into()).map_err(|_| self.error("text is not UTF-8"))
    }
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }
    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("trailing bytes")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_overlong_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut writer = Writer::versioned(1, 16);
            writer.number(number);
            let mut reader = Reader::versioned("number", 1, writer.finish()).unwrap();
            assert_eq!(reader.number().unwrap(), number);
            reader.end().unwrap();
        }
        let read = |bytes: &[u8]| Reader { what: "number", rest: Bytes::copy_from_slice(bytes) }.number();
        assert!(read(&[0xff; 9]).is_err());
        assert!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).is_err());
        assert!(read(&[0x80; 11]).is_err());
    }

    #[test]
    fn nothing_reads_past_the_end() {
        let mut writer = Writer::versioned(1, 16);
        writer.number(5);
        writer.raw(b"abc");
        let mut reader = Reader::versioned("bytes", 1, writer.finish()).unwrap();
        assert_eq!(reader.bytes(10).unwrap_err().why, "too short");
        assert!(Reader::versioned("bytes", 1, Bytes::new()).is_err());
        assert!(Reader::versioned("bytes", 2, Bytes::from_static(&[1])).is_err());
    }
}
