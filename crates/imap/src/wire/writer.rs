//! Writes responses into a reused buffer.

use super::cursor::is_astring_char;
use super::utf7_encode;
use bytes::{Bytes, BytesMut};
use std::fmt::{self, Write as _};

/// Longest text that is written as a quoted string, bytes.
const QUOTED_BYTES_MAX: usize = 1024;

/// A growing response. `write!` works on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    buffer: BytesMut,
    /// RFC 9051 or RFC 6855 is enabled: quoted strings and mailbox names hold UTF-8.
    pub(crate) utf8: bool,
}

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.raw(text.as_bytes());
        Ok(())
    }
}

impl Writer {
    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
    /// Text as it is.
    pub(crate) fn text(&mut self, text: &str) {
        self.raw(text.as_bytes());
    }
    /// Formatted text; writing into memory cannot fail.
    pub(crate) fn fmt(&mut self, text: fmt::Arguments<'_>) {
        let _ = self.write_fmt(text);
    }
    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }
    /// Takes back what was written from `at` on.
    pub(crate) fn split_off(&mut self, at: usize) -> Bytes {
        let at = at.min(self.buffer.len());
        self.buffer.split_off(at).freeze()
    }
    /// Removes the space at `at`, when there is one: the separator before a list's first member.
    pub(crate) fn close_gap(&mut self, at: usize) {
        if self.buffer.get(at) == Some(&b' ') {
            let tail = self.buffer.split_off(at);
            self.buffer.extend_from_slice(&tail[1..]);
        }
    }
    /// True when `end` was written last.
    pub(crate) fn ends_with(&self, end: &[u8]) -> bool {
        self.buffer.ends_with(end)
    }
    /// Takes all that was written.
    pub(crate) fn take(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
    /// The announcement of a literal.
    pub(crate) fn literal_head(&mut self, size: u64, binary: bool) {
        let tilde = if binary { "~" } else { "" };
        self.fmt(format_args!("{tilde}{{{size}}}\r\n"));
    }
    /// `literal`, or `literal8` when NUL is inside and `binary` is allowed.
    pub(crate) fn literal(&mut self, bytes: &[u8], binary: bool) {
        self.literal_head(bytes.len() as u64, binary && memchr::memchr(0, bytes).is_some());
        self.raw(bytes);
    }
    /// `string`: quoted when it can be, else a literal.
    pub(crate) fn string(&mut self, bytes: &[u8]) {
        let utf8 = self.utf8 && std::str::from_utf8(bytes).is_ok();
        let plain = bytes.iter().all(|b| !matches!(b, 0 | b'\r' | b'\n') && (utf8 || b.is_ascii()));
        if !plain || bytes.len() > QUOTED_BYTES_MAX {
            return self.literal(bytes, false);
        }
        self.raw(b"\"");
        for piece in bytes.split_inclusive(|b| matches!(b, b'"' | b'\\')) {
            match piece.split_last() {
                Some((special @ (b'"' | b'\\'), before)) => {
                    self.raw(before);
                    self.raw(&[b'\\', *special]);
                }
                _ => self.raw(piece),
            }
        }
        self.raw(b"\"");
    }
    /// `astring`
    pub(crate) fn astring(&mut self, bytes: &[u8]) {
        let atom = !bytes.is_empty() && bytes.iter().all(|b| is_astring_char(*b)) && !bytes.eq_ignore_ascii_case(b"NIL");
        if atom { self.raw(bytes) } else { self.string(bytes) }
    }
    /// A mailbox name in the wire form now in force.
    pub(crate) fn mailbox(&mut self, name: &str) {
        if self.utf8 { self.astring(name.as_bytes()) } else { self.astring(utf7_encode(name).as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(utf8: bool, write: impl FnOnce(&mut Writer)) -> String {
        let mut w = Writer { utf8, ..Writer::default() };
        write(&mut w);
        String::from_utf8(w.take().to_vec()).unwrap()
    }

    #[test]
    fn the_shortest_lawful_form_is_chosen() {
        assert_eq!(written(false, |w| w.astring(b"INBOX")), "INBOX");
        assert_eq!(written(false, |w| w.astring(b"nil")), "\"nil\"");
        assert_eq!(written(false, |w| w.astring(b"")), "\"\"");
        assert_eq!(written(false, |w| w.astring(b"a \"b\\")), "\"a \\\"b\\\\\"");
        assert_eq!(written(false, |w| w.string("ü".as_bytes())), "{2}\r\nü");
        assert_eq!(written(true, |w| w.string("ü".as_bytes())), "\"ü\"");
        assert_eq!(written(false, |w| w.string(b"a\r\nb")), "{4}\r\na\r\nb");
        assert_eq!(written(false, |w| w.literal(b"a\0", true)), "~{2}\r\na\0");
        assert_eq!(written(false, |w| w.mailbox("ü/x")), "&APw-/x");
        assert_eq!(written(true, |w| w.mailbox("ü/x")), "\"ü/x\"");
    }
}
