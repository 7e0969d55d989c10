//! Messages that say who they are: each carries a unique id and the SHA-256 of its own body in its first two header fields, so
//! that whoever reads it back can tell which one it is and whether it is whole, and a corpus of nasty ones.

use crate::random::Random;
use sha2::{Digest as _, Sha256};

/// First header field: the id.
pub const ID_FIELD: &str = "X-Parliament-Id";
/// Second header field: SHA-256 of everything behind the header, hexadecimal.
pub const SHA_FIELD: &str = "X-Parliament-Body-Sha256";

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// SHA-256 of all of it, hexadecimal.
    pub sha: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// SHA-256 in hexadecimal.
pub fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Message {
    /// Puts a header before a body.
    pub fn new(id: &str, body: &[u8]) -> Self {
        let mut bytes = format!(
            "{ID_FIELD}: {id}\r\n{SHA_FIELD}: {}\r\nFrom: Tests <tests@tests.example>\r\nTo: you@demo.test\r\n\
             Subject: message {id}\r\nDate: Mon, 2 Feb 2026 10:00:00 +0000\r\nMessage-ID: <{id}@tests.example>\r\n\r\n",
            sha(body)
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Self { id: id.to_owned(), sha: sha(&bytes), bytes }
    }

    /// A message whose body is `bytes` long, of lines that the seed makes.
    pub fn of_size(id: &str, bytes: usize, random: &mut Random) -> Self {
        Self::new(id, &body(bytes, random))
    }
}

/// Printable lines of 78 characters, ending in CRLF.
pub fn body(bytes: usize, random: &mut Random) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 80);
    while out.len() + 2 < bytes {
        let line = (bytes - out.len() - 2).min(76);
        for chunk in 0..line.div_ceil(8) {
            let bits = random.next_u64().to_le_bytes();
            out.extend(bits[..(line - chunk * 8).min(8)].iter().map(|b| b'a' + b % 26));
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Bodies that break naive servers, each ending in CRLF or empty, so that LMTP can carry them too.
pub fn nasty_bodies(random: &mut Random) -> Vec<(&'static str, Vec<u8>)> {
    let long_line = |byte: u8| [vec![byte; 10 * 1024], b"\r\n".to_vec()].concat();
    let noise: Vec<u8> = (0..3000).map(|_| random.byte()).filter(|b| *b != b'\r' && *b != b'\n').collect();
    vec![
        ("empty", Vec::new()),
        ("one CRLF", b"\r\n".to_vec()),
        ("NUL bytes", b"a\0b\0\0\r\n\0\r\n".to_vec()),
        ("bare CR", b"one\rtwo\r\rthree\r\r\n\r\r\n".to_vec()),
        ("bare LF", b"one\ntwo\n\nthree\n\r\n".to_vec()),
        ("line of 10 KB", long_line(b'x')),
        ("8-bit line of 10 KB", long_line(0xe9)),
        ("8 bit", "Grüße, 東京, \u{1f426}\r\n".as_bytes().to_vec()),
        ("not UTF-8", b"\xff\xfe\x80 latin-1 \xfcber\r\n".to_vec()),
        ("dots", b".\r\n..\r\n.a\r\na\r\n.\r\n".to_vec()),
        ("lone dots after bare line ends", b"a\n.\nb\r.\rc\n.\r\n".to_vec()),
        ("looks like a command", b"t1 OK done\r\n* BYE\r\n) {3}\r\n{3+}\r\nQUIT\r\n".to_vec()),
        ("From line", b"From me\r\n>From me\r\n".to_vec()),
        ("broken MIME", b"Content-Type: multipart/mixed; boundary=\"x\r\n--x\r\n--x--\r\n--x\r\n".to_vec()),
        ("noise", [noise, b"\r\n".to_vec()].concat()),
        ("2 KB", body(2000, random)),
        ("64 KB and a little", body(64 * 1024 + 3, random)),
        ("300 KB", body(300 * 1024, random)),
        ("5 MB", body(5 * 1024 * 1024, random)),
    ]
}

/// Header fields that final delivery puts in front (RFC 5321 section 4.4 and custom).
const TRACE: [&[u8]; 3] = [b"Return-Path:", b"Delivered-To:", b"Received:"];

/// What was sent, of what is stored: everything behind the trace fields that final delivery put in front.
pub fn without_trace(stored: &[u8]) -> &[u8] {
    let starts = |rest: &[u8], field: &[u8]| rest.get(..field.len()).is_some_and(|start| start.eq_ignore_ascii_case(field));
    let mut rest = stored;
    while TRACE.iter().any(|field| starts(rest, field)) {
        loop {
            let Some(end) = memchr::memmem::find(rest, b"\r\n") else { return rest };
            rest = &rest[end + 2..];
            if !matches!(rest.first(), Some(b' ' | b'\t')) {
                break;
            }
        }
    }
    rest
}

/// The id in a stored message or its header; `None` when it is none of ours.
pub fn id_of(stored: &[u8]) -> Option<String> {
    field(without_trace(stored), ID_FIELD)
}

/// True when a stored message of ours has the hash that it carries.
pub fn is_whole(stored: &[u8]) -> bool {
    let sent = without_trace(stored);
    let body = memchr::memmem::find(sent, b"\r\n\r\n").map_or(&[][..], |end| &sent[end + 4..]);
    field(sent, SHA_FIELD).is_some_and(|told| told == sha(body))
}

fn field(message: &[u8], name: &str) -> Option<String> {
    for line in message.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        if let Some(value) = std::str::from_utf8(line).ok().and_then(|l| l.strip_prefix(name)?.strip_prefix(": ")) {
            return Some(value.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_recognised_behind_trace_fields() {
        let message = Message::new("w1.7", b"hello\r\n");
        let stored = [b"Return-Path: <>\r\nReceived: from a\r\n\tby b;\r\n now\r\n", message.bytes.as_slice()].concat();
        assert_eq!(without_trace(&stored), message.bytes);
        assert_eq!(id_of(&stored).as_deref(), Some("w1.7"));
        assert_eq!(field(&message.bytes, SHA_FIELD), Some(sha(b"hello\r\n")));
        assert!(is_whole(&stored) && !is_whole(&stored[..stored.len() - 1]), "planted: a byte is missing");
        assert_eq!(without_trace(b"Received: no end"), b"Received: no end");
        assert_eq!(id_of(b"Subject: x\r\n\r\nX-Parliament-Id: 3\r\n"), None);
    }

    #[test]
    fn bodies_have_the_size_asked_for() {
        for size in [2, 3, 100, 2000, 20_480] {
            let made = body(size, &mut Random::new(1));
            assert!(made.len().abs_diff(size) <= 2 && made.ends_with(b"\r\n") == (size > 2), "{size}: {}", made.len());
        }
    }
}
