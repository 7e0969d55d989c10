//! IMAP strings on the wire (RFC 9051 section 4.3 and `nstring` of section 9).

use std::io::Write as _;

/// Longer strings go as literals: some clients read lines into small buffers.
const QUOTED_BYTES_MAX: usize = 1000;

/// Writes `text` as a quoted string, or as a literal when it holds bytes that a quoted string may not hold or is long.
/// NUL may stand in neither and is written as `?`.
pub(crate) fn string(out: &mut Vec<u8>, text: &[u8]) {
    let quotable = text.len() <= QUOTED_BYTES_MAX && text.iter().all(|&b| b < 0x80 && b != b'\r' && b != b'\n' && b != 0);
    if !quotable {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{{{}}}\r\n", text.len());
        out.extend(text.iter().map(|&b| if b == 0 { b'?' } else { b }));
        return;
    }
    out.push(b'"');
    for &b in text {
        if b == b'"' || b == b'\\' {
            out.push(b'\\');
        }
        out.push(b);
    }
    out.push(b'"');
}

/// Writes a string, or `NIL`.
pub(crate) fn nstring(out: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// Writes a number.
pub(crate) fn number(out: &mut Vec<u8>, value: usize) {
    let _ = write!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        string(&mut out, text);
        out
    }

    #[test]
    fn strings_take_the_form_their_bytes_need() {
        assert_eq!(of(b""), b"\"\"");
        assert_eq!(of(br#"a "b" \c"#), br#""a \"b\" \\c""#);
        assert_eq!(of("é".as_bytes()), "{2}\r\né".as_bytes());
        assert_eq!(of(b"a\0b\r"), b"{4}\r\na?b\r");
        assert!(of(&[b'x'; 1001]).starts_with(b"{1001}\r\nx"));
    }
}
