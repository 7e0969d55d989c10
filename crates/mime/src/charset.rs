//! Bytes of a named charset to Unicode.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use mail_parser::decoders::charsets::map::charset_decoder;
use std::borrow::Cow;

/// Decodes text of the charset with this label, as mail uses labels. Never fails: malformed bytes become U+FFFD. Bytes above
/// 0x7F under `us-ascii`, no label or an unknown one are UTF-8 if they are well-formed UTF-8, else windows-1252.
#[must_use]
pub fn decode_text<'m>(bytes: &'m [u8], label: &[u8]) -> Cow<'m, str> {
    let label = label.trim_ascii();
    match Encoding::for_label(label) {
        // The label registry calls US-ASCII and Latin 1 windows-1252; senders who know no better label UTF-8 so, too.
        Some(encoding) if encoding == WINDOWS_1252 && is_ascii_label(label) => guess(bytes),
        Some(encoding) if encoding == encoding_rs::REPLACEMENT => guess(bytes),
        Some(encoding) => encoding.decode_without_bom_handling(without_bom(bytes, encoding)).0,
        None => match charset_decoder(label) {
            Some(decoder) if !is_ascii_label(label) => Cow::Owned(decoder(bytes)),
            _ => guess(bytes),
        },
    }
}

fn is_ascii_label(label: &[u8]) -> bool {
    [&b"us-ascii"[..], b"ascii", b"ansi_x3.4-1968", b"iso-ir-6", b"us"].iter().any(|name| label.eq_ignore_ascii_case(name))
}

fn without_bom<'m>(bytes: &'m [u8], encoding: &'static Encoding) -> &'m [u8] {
    match Encoding::for_bom(bytes) {
        Some((found, length)) if found == encoding => &bytes[length..],
        _ => bytes,
    }
}

fn guess(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        // A few bad bytes among well-formed sequences are damaged UTF-8 rather than something else.
        Err(_) if mostly_utf8(bytes) => UTF_8.decode_without_bom_handling(bytes).0,
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0,
    }
}

fn mostly_utf8(bytes: &[u8]) -> bool {
    let (mut good, mut bad) = (0_usize, 0_usize);
    for chunk in bytes.utf8_chunks() {
        good += chunk.valid().bytes().filter(|&b| b >= 0xC0).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    good > 8 * bad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (bytes, label, expected) in [
            (&b"\xE9"[..], "iso-8859-1", "é"),
            (b"\xC3\xA9", "us-ascii", "é"),
            (b"\xE9", "us-ascii", "é"),
            (b"\xE9", "", "é"),
            (b"\xC3\xA9", "x-unknown", "é"),
            (b"\xEF\xBB\xBF\xC3\xA9\xFF", "UTF-8", "é\u{FFFD}"),
            (b"\xCF\xF0\xE8", " windows-1251 ", "При"),
            (b"\x1B$B$3$s\x1B(B", "iso-2022-jp", "こん"),
            (b"\xC4\xE3", "gb2312", "你"),
            (b"Hi Mom +Jjo-!", "utf-7", "Hi Mom ☺!"),
            (b"\x82", "cp850", "é"),
            (b"a\x00b\x00", "utf-16le", "ab"),
        ] {
            assert_eq!(decode_text(bytes, label.as_bytes()), expected, "{label}");
        }
    }
}
