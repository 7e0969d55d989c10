//! Content-Transfer-Encoding (RFC 2045 section 6).

use crate::content::first_token;
use memchr::memchr;
use std::borrow::Cow;

/// How a part's body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEncoding {
    /// `7bit`, `8bit`, `binary`, or none given: the body is the data.
    Identity,
    /// `base64`
    Base64,
    /// `quoted-printable`
    QuotedPrintable,
    /// Anything else: the data cannot be known.
    Unknown,
}

impl TransferEncoding {
    /// Reads the value of the field.
    #[must_use]
    pub fn of_field(value: Option<&[u8]>) -> Self {
        let Some(token) = value.and_then(first_token) else { return Self::Identity };
        let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
        if is("7bit") || is("8bit") || is("binary") {
            Self::Identity
        } else if is("base64") {
            Self::Base64
        } else if is("quoted-printable") {
            Self::QuotedPrintable
        } else {
            Self::Unknown
        }
    }

    /// The data of a body; of an unknown encoding, the body as it is.
    #[must_use]
    pub fn decode(self, body: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Identity | Self::Unknown => Cow::Borrowed(body),
            Self::Base64 => Cow::Owned(base64(body)),
            Self::QuotedPrintable => Cow::Owned(quoted_printable(body)),
        }
    }
}

const SKIP: u8 = 0xFF;

const BASE64_VALUES: [u8; 256] = {
    let mut table = [SKIP; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut index = 0;
    while index < 64 {
        table[alphabet[index] as usize] = index as u8;
        index += 1;
    }
    table
};

/// Decodes base64. Bytes outside the alphabet are passed over (RFC 2045 section 6.8); padding ends a quantum, after which
/// another may follow, as when encoded texts were joined.
pub(crate) fn base64(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0_u8);
    let flush = |out: &mut Vec<u8>, bits: u32, count: u8| match count {
        2 => out.push((bits >> 4) as u8),
        3 => out.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
        _ => {}
    };
    for &byte in text {
        let value = BASE64_VALUES[byte as usize];
        if value != SKIP {
            bits = bits << 6 | u32::from(value);
            count += 1;
            if count == 4 {
                out.extend_from_slice(&bits.to_be_bytes()[1..]);
                (bits, count) = (0, 0);
            }
        } else if byte == b'=' {
            flush(&mut out, bits, count);
            (bits, count) = (0, 0);
        }
    }
    flush(&mut out, bits, count);
    out
}

/// Decodes quoted-printable. An `=` that begins neither a hexadecimal pair nor a soft line break stands for itself.
pub(crate) fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let length = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(length);
        rest = after;
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        let end = &line[content.len()..];
        // Blanks at a line's end were added on the way (RFC 2045 section 6.7, rule 3).
        let trimmed = content.trim_ascii_end();
        match trimmed.strip_suffix(b"=") {
            Some(soft) => hex_escapes(soft, b'=', &mut out),
            None => {
                hex_escapes(trimmed, b'=', &mut out);
                out.extend_from_slice(end);
            }
        }
    }
    out
}

/// Appends `text` with `=XX` replaced by the bytes they stand for.
pub(crate) fn hex_escapes(text: &[u8], escape: u8, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = memchr(escape, rest) {
        out.extend_from_slice(&rest[..at]);
        match &rest[at + 1..] {
            [high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex_pair(*high, *low));
                rest = tail;
            }
            tail => {
                out.push(escape);
                rest = tail;
            }
        }
    }
    out.extend_from_slice(rest);
}

/// The byte that two hexadecimal digits mean.
pub(crate) fn hex_pair(high: u8, low: u8) -> u8 {
    let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
    digit(high) << 4 | digit(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_leniently() {
        for (text, expected) in [
            (&b"aGVsbG8="[..], &b"hello"[..]),
            (b"aGVs\r\nbG8", b"hello"),
            (b"aGVsbG8=aGVsbG8=\r\n", b"hellohello"),
            (b"a*G_V-sbG8=", b"hello"),
            (b"a", b""),
            (b"====", b""),
            (b"", b""),
        ] {
            assert_eq!(base64(text), expected);
        }
    }

    #[test]
    fn quoted_printable_is_read_leniently() {
        for (text, expected) in [
            (&b"a=3Db=\r\nc \t\r\nd=20\r\n"[..], &b"a=bc\r\nd \r\n"[..]),
            (b"soft= \t\nline", b"softline"),
            (b"=e9=ZZ=4", b"\xE9=ZZ=4"),
            (b"end=", b"end"),
            (b"\n\n", b"\n\n"),
        ] {
            assert_eq!(quoted_printable(text), expected);
        }
    }

    #[test]
    fn names() {
        let of = |v: &str| TransferEncoding::of_field(Some(v.as_bytes()));
        assert_eq!(of(" BASE64 (yes)"), TransferEncoding::Base64);
        assert_eq!(of("8Bit;"), TransferEncoding::Identity);
        assert_eq!(of("x-uuencode"), TransferEncoding::Unknown);
        assert_eq!(TransferEncoding::of_field(None), TransferEncoding::Identity);
    }
}
