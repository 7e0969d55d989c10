//! A message on its way to the client: multi-line form (RFC 1939 section 3), whole or its top.

use memchr::memchr;

/// Puts dots before lines that begin with one, and ends the last line.
///
/// A dot is stuffed after a bare LF too. Strictly only CRLF ends a line, and a strict client then shows one dot more in a
/// line that no standard allows; but a client that reads up to LF would take such a dot line for the end of the message,
/// and what follows in the message for answers of the server.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    line_start: bool,
    last: [u8; 2],
    /// Lines of the body still wanted; `None` for the whole message.
    top: Option<Top>,
}

#[derive(Clone, Copy, Debug)]
struct Top {
    in_header: bool,
    /// Nothing but CR so far in this line.
    blank: bool,
    lines: u64,
}

impl Transfer {
    pub(crate) const fn whole() -> Self {
        Self { line_start: true, last: *b"\r\n", top: None }
    }

    /// Header, blank line and `lines` lines of the body.
    pub(crate) const fn top(lines: u64) -> Self {
        Self { line_start: true, last: *b"\r\n", top: Some(Top { in_header: true, blank: true, lines }) }
    }

    /// Adds the wire form of the next piece to `out`. True when nothing more is wanted.
    pub(crate) fn piece(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> bool {
        while let Some(&first) = piece.first() {
            if self.line_start && self.top.is_some_and(|top| !top.in_header && top.lines == 0) {
                return true;
            }
            let end = memchr(b'\n', piece).map_or(piece.len(), |at| at + 1);
            let (line, rest) = piece.split_at(end);
            if self.line_start && first == b'.' {
                out.push(b'.');
            }
            out.extend_from_slice(line);
            self.note(line);
            piece = rest;
        }
        false
    }

    /// Takes note of a line or a piece of one.
    fn note(&mut self, line: &[u8]) {
        let ended = line.ends_with(b"\n");
        if let Some(top) = &mut self.top {
            let content = line.iter().any(|b| !matches!(b, b'\r' | b'\n'));
            top.blank = (self.line_start || top.blank) && !content;
            if ended && top.in_header {
                top.in_header = !top.blank;
            } else if ended {
                top.lines = top.lines.saturating_sub(1);
            }
        }
        self.line_start = ended;
        self.last = match *line {
            [.., a, b] => [a, b],
            [b] => [self.last[1], b],
            [] => self.last,
        };
    }

    /// Ends the message.
    pub(crate) fn finish(&self, out: &mut Vec<u8>) {
        if self.last != *b"\r\n" {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn send(mut transfer: Transfer, message: &[u8], step: usize) -> String {
        let mut out = Vec::new();
        for piece in message.chunks(step) {
            if transfer.piece(piece, &mut out) {
                break;
            }
        }
        transfer.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn messages_in_wire_form_however_they_are_cut() {
        let cases: [(&[u8], &str); 7] = [
            (b"", ".\r\n"),
            (b"a\r\n", "a\r\n.\r\n"),
            (b"a", "a\r\n.\r\n"),
            (b".a\r\n.\r\n", "..a\r\n..\r\n.\r\n"),
            (b"a\n.\r\n+OK\r\n", "a\n..\r\n+OK\r\n.\r\n"),
            (b"a\n", "a\n\r\n.\r\n"),
            (b"a\r", "a\r\r\n.\r\n"),
        ];
        for (message, wire) in cases {
            for step in 1..=message.len().max(1) {
                assert_eq!(send(Transfer::whole(), message, step), wire, "{message:?} by {step}");
            }
        }
    }

    #[test]
    fn top_is_header_blank_line_and_lines() {
        let message = b"A: 1\r\nB: 2\r\n\r\none\r\n\r\n.two\r\nthree";
        for step in 1..message.len() {
            assert_eq!(send(Transfer::top(0), message, step), "A: 1\r\nB: 2\r\n\r\n.\r\n");
            assert_eq!(send(Transfer::top(3), message, step), "A: 1\r\nB: 2\r\n\r\none\r\n\r\n..two\r\n.\r\n");
            assert_eq!(send(Transfer::top(9), message, step), "A: 1\r\nB: 2\r\n\r\none\r\n\r\n..two\r\nthree\r\n.\r\n");
            assert_eq!(send(Transfer::top(0), b"A: 1\r\n", step), "A: 1\r\n.\r\n");
        }
    }

    proptest! {
        #[test]
        fn a_client_that_takes_dots_off_at_crlf_reads_back_lines(lines in prop::collection::vec("[.a ]{0,4}", 0..12), step in 1usize..9) {
            let message: String = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect();
            let wire = send(Transfer::whole(), message.as_bytes(), step);
            let body = wire.strip_suffix(".\r\n").unwrap();
            let read: String = body.split_terminator("\r\n").flat_map(|line| [line.strip_prefix('.').unwrap_or(line), "\r\n"]).collect();
            prop_assert_eq!(read, message);
        }
    }
}
