//! Header text with its encoded words decoded (RFC 2047).

use crate::charset::decode_text;
use crate::header::unfold;
use crate::transfer::{base64, hex_escapes};
use memchr::{memchr, memmem};

/// The value of a header field as a person reads it: unfolded, encoded words decoded, blanks between two of them dropped. Words of
/// one charset that follow each other are decoded as one text, since some senders cut characters in two. What is no well-formed
/// encoded word stays as it is. Bytes above 0x7F outside of them are read as by [`crate::decode_text`] without a label.
#[must_use]
pub fn decode_words(value: &[u8]) -> String {
    let text = unfold(value);
    let mut out = String::with_capacity(text.len());
    let mut pending: Option<(&[u8], Vec<u8>)> = None;
    let mut plain_from = 0;
    let mut at = 0;
    while let Some(found) = memmem::find(&text[at..], b"=?") {
        let start = at + found;
        let Some(word) = EncodedWord::parse(&text[start..]) else {
            at = start + 2;
            continue;
        };
        let between = &text[plain_from..start];
        let adjacent = pending.is_some() && between.trim_ascii().is_empty();
        match &mut pending {
            Some((charset, bytes)) if adjacent && may_join(charset, word.charset) => word.decode(bytes),
            _ => {
                flush(&mut out, pending.take());
                if !adjacent {
                    out.push_str(&decode_text(between, b""));
                }
                let mut bytes = Vec::new();
                word.decode(&mut bytes);
                pending = Some((word.charset, bytes));
            }
        }
        at = start + word.length;
        plain_from = at;
    }
    flush(&mut out, pending);
    out.push_str(&decode_text(&text[plain_from..], b""));
    out
}

/// Charsets with shift states begin each word anew, and an empty state between two shifts is an error in them.
fn may_join(first: &[u8], second: &[u8]) -> bool {
    let has_states =
        |name: &[u8]| [&b"iso-2022"[..], b"utf-7", b"hz"].iter().any(|s| name.len() >= s.len() && name[..s.len()].eq_ignore_ascii_case(s));
    first.eq_ignore_ascii_case(second) && !has_states(first)
}

fn flush(out: &mut String, pending: Option<(&[u8], Vec<u8>)>) {
    if let Some((charset, bytes)) = pending {
        out.push_str(&decode_text(&bytes, charset));
    }
}

struct EncodedWord<'m> {
    charset: &'m [u8],
    is_base64: bool,
    text: &'m [u8],
    /// Of the whole word, bytes.
    length: usize,
}

impl<'m> EncodedWord<'m> {
    /// Reads `=?charset?encoding?text?=` at the beginning of `input`. Blanks in the text are let pass.
    fn parse(input: &'m [u8]) -> Option<Self> {
        let rest = input.strip_prefix(b"=?")?;
        let (label, rest) = split_at_mark(rest)?;
        let (encoding, rest) = split_at_mark(rest)?;
        let (text, rest) = split_at_mark(rest)?;
        let rest = rest.strip_prefix(b"=")?;
        // RFC 2231 section 5 puts a language after the charset.
        let charset = label.split(|&b| b == b'*').next().unwrap_or(label);
        let is_label = !charset.is_empty() && charset.len() <= 64 && label.iter().all(u8::is_ascii_graphic);
        let is_base64 = match encoding {
            b"B" | b"b" => true,
            b"Q" | b"q" => false,
            _ => return None,
        };
        is_label.then_some(Self { charset, is_base64, text, length: input.len() - rest.len() })
    }

    fn decode(&self, out: &mut Vec<u8>) {
        if self.is_base64 {
            out.extend_from_slice(&base64(self.text));
            return;
        }
        let spaced: Vec<u8> = self.text.iter().map(|&b| if b == b'_' { b' ' } else { b }).collect();
        hex_escapes(&spaced, b'=', out);
    }
}

fn split_at_mark(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr(b'?', text)?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (value, expected) in [
            ("plain text", "plain text"),
            ("=?ISO-8859-1?Q?Andr=E9?= Pirard", "André Pirard"),
            ("=?utf-8*de?b?w6Q=?=", "ä"),
            ("(=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=)", "(ab)"),
            ("=?ISO-8859-1?Q?a?=\r\n     =?utf-8?Q?_b?= c", "a b c"),
            ("a =?utf-8?q?b?= c =?utf-8?q?d?=", "a b c d"),
            ("=?utf-8?B?w6?==?utf-8?B?Q=?=", "\u{FFFD}"),
            ("=?utf-8?Q?=C3?= =?UTF-8?Q?=A9?=", "é"),
            ("=?utf-8?Q?with space?=", "with space"),
            ("=?utf-8?X?no?= =?utf-8?Q?unfinished", "=?utf-8?X?no?= =?utf-8?Q?unfinished"),
            ("=?=?utf-8?Q?a?=", "=?a"),
            ("caf\u{e9}", "café"),
            ("", ""),
        ] {
            assert_eq!(decode_words(value.as_bytes()), expected, "{value:?}");
        }
        assert_eq!(decode_words(b"caf\xE9"), "café");
    }

    #[test]
    fn hostile_words_take_linear_time() {
        for unit in ["=?", "=?a?q?", "=?a?q?x", "=?utf-8?q?=41?= "] {
            assert!(!decode_words(unit.repeat(500_000).as_bytes()).is_empty());
        }
    }
}
