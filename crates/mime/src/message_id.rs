//! Message-IDs, for threads (RFC 5256 section 3, RFC 8474 THREADID).

use crate::content::Scanner;
use crate::header::{Fields, unfold};
use crate::structure::Structure;
use memchr::memchr;
use std::collections::VecDeque;

/// Of longer lists of references the first and the last ones are told.
pub const REFERENCES_MAX: usize = 1000;

/// The message's own id, without angle brackets and normalised: quoting and blanks removed, so that equal ids are equal bytes.
/// `None` without a Message-ID field that holds one.
#[must_use]
pub fn message_id(message: &[u8], structure: &Structure) -> Option<Vec<u8>> {
    let value = Fields::first(structure.header(message, structure.root()), "Message-ID")?;
    Ids { rest: value }.next().or_else(|| bare_id(value))
}

/// The ids of the References field, the thread's root first; at most [`REFERENCES_MAX`].
#[must_use]
pub fn references(message: &[u8], structure: &Structure) -> Vec<Vec<u8>> {
    let value = Fields::first(structure.header(message, structure.root()), "References").unwrap_or_default();
    let mut ids = Ids { rest: value };
    let Some(first) = ids.next() else { return Vec::new() };
    let mut last = VecDeque::new();
    for id in ids {
        if last.len() == REFERENCES_MAX - 1 {
            last.pop_front();
        }
        last.push_back(id);
    }
    std::iter::once(first).chain(last).collect()
}

/// The first id of In-Reply-To, the only one that THREAD considers.
#[must_use]
pub fn in_reply_to(message: &[u8], structure: &Structure) -> Option<Vec<u8>> {
    Ids { rest: Fields::first(structure.header(message, structure.root()), "In-Reply-To")? }.next()
}

/// The id of the message that began the thread, as far as this message tells: the first of References, else of In-Reply-To, else
/// its own. `None` for a message without any.
#[must_use]
pub fn thread_root(message: &[u8], structure: &Structure) -> Option<Vec<u8>> {
    let value = Fields::first(structure.header(message, structure.root()), "References");
    let first_reference = value.and_then(|value| Ids { rest: value }.next());
    first_reference.or_else(|| in_reply_to(message, structure)).or_else(|| message_id(message, structure))
}

/// A value without angle brackets that can only be an id.
fn bare_id(value: &[u8]) -> Option<Vec<u8>> {
    let text = unfold(value);
    (!text.is_empty() && memchr(b'<', &text).is_none() && !text.iter().any(u8::is_ascii_whitespace)).then_some(text)
}

/// Iterates over the ids in angle brackets; whatever stands between them is passed over. Ids are not empty.
struct Ids<'m> {
    rest: &'m [u8],
}

impl Iterator for Ids<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let start = memchr(b'<', self.rest)?;
            let mut scanner = Scanner { rest: &self.rest[start + 1..] };
            let mut id = Vec::new();
            let closed = read_id(&mut scanner, &mut id);
            self.rest = scanner.rest;
            if closed && !id.is_empty() {
                return Some(id);
            }
        }
    }
}

/// Reads up to the closing bracket; false when another one opens before, or the text ends.
fn read_id(scanner: &mut Scanner<'_>, id: &mut Vec<u8>) -> bool {
    while let Some((&byte, rest)) = scanner.rest.split_first() {
        match byte {
            b'<' => return false,
            b'>' => {
                scanner.rest = rest;
                return true;
            }
            // Only a quote that is closed before the line ends: others are part of sloppy ids.
            b'"' if memchr(b'"', rest).is_some_and(|end| !rest[..end].contains(&b'\n')) => {
                scanner.rest = rest;
                scanner.quoted(id);
                continue;
            }
            _ if byte.is_ascii_whitespace() => {}
            _ => id.push(byte),
        }
        scanner.rest = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T>(message: &str, run: impl Fn(&[u8], &Structure) -> T) -> T {
        run(message.as_bytes(), &Structure::parse(message.as_bytes()))
    }

    fn text(ids: Vec<Vec<u8>>) -> Vec<String> {
        ids.into_iter().map(|id| String::from_utf8(id).unwrap()).collect()
    }

    #[test]
    fn ids_are_normalised() {
        for (field, expected) in [
            ("<a@b>", Some("a@b")),
            ("<\"01KF8JCEOCBS0045PS\"@xxx.yyy.com>", Some("01KF8JCEOCBS0045PS@xxx.yyy.com")),
            (" (x) <a\r\n @b> y", Some("a@b")),
            ("bare@id", Some("bare@id")),
            ("two words", None),
            ("<open", None),
            ("<> <a>", Some("a")),
            ("<a\"b@c>", Some("a\"b@c")),
            ("", None),
        ] {
            let found = of(&format!("Message-ID: {field}\r\n\r\n"), message_id);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{field:?}");
        }
    }

    #[test]
    fn the_root_is_the_first_reference() {
        let all = "References: <1@x>\n <2@x><3@x>,bad <4@x\nIn-Reply-To: Your mail of <r@x>; <s@x>\nMessage-ID: <m@x>\n\n";
        assert_eq!(text(of(all, references)), ["1@x", "2@x", "3@x"]);
        assert_eq!(of(all, in_reply_to).unwrap(), b"r@x");
        assert_eq!(of(all, thread_root).unwrap(), b"1@x");
        assert_eq!(of("In-Reply-To: <r@x>\nMessage-ID: <m@x>\n\n", thread_root).unwrap(), b"r@x");
        assert_eq!(of("References: none\nMessage-ID: <m@x>\n\n", thread_root).unwrap(), b"m@x");
        assert_eq!(of("Subject: x\n\n", thread_root), None);
    }

    #[test]
    fn long_lists_keep_their_ends() {
        let list: String = (0..5000).map(|n| format!("<{n}@x> ")).collect();
        let found = text(of(&format!("References: {list}\n\n"), references));
        assert_eq!(found.len(), REFERENCES_MAX);
        assert_eq!((found[0].as_str(), found[1].as_str(), found[REFERENCES_MAX - 1].as_str()), ("0@x", "4001@x", "4999@x"));
    }

    #[test]
    fn hostile_lists_take_linear_time() {
        for unit in ["<", "\"", "<\"", "<a>", "<\"\\", "(", "<a\"\n "] {
            let message = format!("References: {}\n\n", unit.repeat(200_000));
            assert!(of(&message, references).len() <= REFERENCES_MAX);
        }
    }
}
