//! Substring search as SEARCH wants it: decoded, without regard to case (RFC 9051 section 6.4.4, RFC 5051).

use crate::charset::decode_text;
use crate::encoded_word::decode_words;
use crate::header::Fields;
use crate::structure::{PartId, PartKind, Structure};
use crate::transfer::TransferEncoding;
use memchr::memmem;
use unicode_normalization::UnicodeNormalization;

/// Text is folded in pieces of this many bytes, so that hostile text that grows when folded does not grow as a whole.
const PIECE_BYTES: usize = 64 * 1024;

/// Text in the form in which two texts that differ in case or composition only are equal: upper case, compatibility decomposition.
/// Also the key by which SORT compares text.
#[must_use]
pub fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    fold_into(text, &mut out);
    out
}

/// ASCII runs are folded by themselves: no decomposition or order of marks goes across an ASCII character.
fn fold_into(text: &str, out: &mut String) {
    let mut rest = text;
    while !rest.is_empty() {
        let (ascii, after) = rest.split_at(rest.bytes().position(|b| !b.is_ascii()).unwrap_or(rest.len()));
        let start = out.len();
        out.push_str(ascii);
        out[start..].make_ascii_uppercase();
        let (other, after) = after.split_at(after.bytes().position(|b| b.is_ascii()).unwrap_or(after.len()));
        // Decomposed before, since what has no upper case may consist of what has.
        out.extend(other.nfkd().flat_map(char::to_uppercase).nfkd());
        rest = after;
    }
}

/// What is looked for, made ready once for many messages.
#[derive(Clone, Debug)]
pub struct Needle {
    finder: memmem::Finder<'static>,
}

impl Needle {
    /// Looks for `text`; empty text is in everything.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { finder: memmem::Finder::new(fold(text).as_bytes()).into_owned() }
    }

    fn is_empty(&self) -> bool {
        self.finder.needle().is_empty()
    }

    /// True when `text` holds the needle.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        let mut rest = text;
        // A folded piece, after the end of the one before it, in which the needle may begin.
        let mut folded = String::new();
        loop {
            let (piece, after) = rest.split_at(piece_end(rest));
            rest = after;
            fold_into(piece, &mut folded);
            if self.finder.find(folded.as_bytes()).is_some() {
                return true;
            }
            if rest.is_empty() {
                return false;
            }
            let keep_from = folded.floor_char_boundary(folded.len().saturating_sub(self.finder.needle().len()));
            folded.drain(..keep_from);
        }
    }
}

/// Where to cut: before an ASCII character, since no combination goes across it; if need be, before any character.
fn piece_end(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let bytes = text.as_bytes();
    let ascii = bytes[PIECE_BYTES / 2..PIECE_BYTES].iter().rposition(u8::is_ascii).map(|at| at + PIECE_BYTES / 2);
    ascii.unwrap_or_else(|| text.floor_char_boundary(PIECE_BYTES))
}

/// The decoded values of all fields with this name in the message's header, in order.
pub fn header_values<'a>(message: &'a [u8], structure: &Structure, field: &'a str) -> impl Iterator<Item = String> + 'a {
    Fields::new(structure.header(message, structure.root())).filter(move |f| f.is(field)).map(|f| decode_words(f.value))
}

/// HEADER: a field with this name holds the text; an empty needle asks whether there is such a field.
#[must_use]
pub fn header_contains(message: &[u8], structure: &Structure, field: &str, needle: &Needle) -> bool {
    let header = structure.header(message, structure.root());
    Fields::new(header).any(|f| f.is(field) && (needle.is_empty() || needle.is_in(&decode_words(f.value))))
}

/// BODY: a part's text holds it, or the header of an embedded message, which is body to the message that holds it. Parts that are
/// no text are searched as they stand unless base64 hides them.
#[must_use]
pub fn body_contains(message: &[u8], structure: &Structure, needle: &Needle) -> bool {
    let is_embedded = |id: PartId| structure.parent(id).is_some_and(|parent| structure.part(parent).kind() == PartKind::Message);
    structure.ids().any(|id| {
        (is_embedded(id) && any_header_line(structure.header(message, id), needle)) || part_contains(message, structure, id, needle)
    })
}

/// TEXT: as [`body_contains`], or the header of the message or of a part holds it. The header is searched line by line, each with
/// its name.
#[must_use]
pub fn text_contains(message: &[u8], structure: &Structure, needle: &Needle) -> bool {
    structure.ids().any(|id| any_header_line(structure.header(message, id), needle) || part_contains(message, structure, id, needle))
}

fn any_header_line(header: &[u8], needle: &Needle) -> bool {
    Fields::new(header).any(|field| needle.is_in(&decode_words(field.lines)))
}

fn part_contains(message: &[u8], structure: &Structure, id: PartId, needle: &Needle) -> bool {
    if structure.part(id).kind() != PartKind::Leaf {
        return false;
    }
    let encoding = structure.transfer_encoding(message, id);
    let content = structure.content_type(message, id);
    if !content.is_text() && encoding == TransferEncoding::Base64 {
        return false;
    }
    let data = encoding.decode(structure.body(message, id));
    let charset = if content.is_text() { content.parameter("charset").unwrap_or_default() } else { b"" };
    needle.is_in(&decode_text(&data, charset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\nX-Empty:\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
        Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nsch=F6ne =\r\nWelt\r\n--b\r\n\
        Content-Type: image/png; name=secret.png\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--b\r\n\
        Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8gd29ybGQ=\r\n--b\r\n\
        Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninside\r\n--b--\r\n";

    fn with<T>(run: impl Fn(&[u8], &Structure) -> T) -> T {
        run(MAIL.as_bytes(), &Structure::parse(MAIL.as_bytes()))
    }

    #[test]
    fn headers() {
        let contains = |field: &str, text: &str| with(|m, s| header_contains(m, s, field, &Needle::new(text)));
        assert!(contains("subject", "GRÜSSE") && contains("Subject", "gru\u{308}ß") && contains("x-empty", ""));
        assert!(!contains("subject", "grusse") && !contains("x-none", "") && !contains("x-empty", "a"));
        assert_eq!(with(|m, s| header_values(m, s, "SUBJECT").collect::<Vec<_>>()), ["Grüße"]);
    }

    #[test]
    fn bodies_and_text() {
        let body = |text: &str| with(|m, s| body_contains(m, s, &Needle::new(text)));
        let text = |text: &str| with(|m, s| text_contains(m, s, &Needle::new(text)));
        for (needle, in_body, in_text) in [
            ("SCHÖNE WELT", true, true),
            ("Hello World", true, true),
            ("inner", true, true),
            ("inside", true, true),
            ("grüße", false, true),
            ("secret.png", false, true),
            ("aGVsbG8", false, false),
            ("absent", false, false),
            ("", true, true),
        ] {
            assert_eq!((body(needle), text(needle)), (in_body, in_text), "{needle}");
        }
    }

    #[test]
    fn needles_are_found_across_pieces() {
        for filler in ["x", "ü", "\u{1F600}", "e\u{301}\u{327}", " é"] {
            for shift in 0..4 {
                let text = " ".repeat(shift) + &filler.repeat(PIECE_BYTES / filler.len() - 4) + "NäDeL im Heu" + &filler.repeat(50_000);
                assert!(Needle::new("nädel IM heu").is_in(&text), "{filler} {shift}");
                assert!(!Needle::new("nädel im heu!").is_in(&text));
            }
        }
    }
}
