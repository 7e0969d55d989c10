//! Cuts the byte stream into command lines and literals (RFC 9051 section 4.3, RFC 7888), in linear time and bounded memory.

use bytes::{Bytes, BytesMut};

/// Bytes of a command before login, its buffered literals included.
pub(crate) const COMMAND_BYTES_BEFORE_LOGIN_MAX: usize = 8 * 1024;
/// Bytes of a command after login, its buffered literals included.
pub(crate) const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// Buffered literals of one command.
const LITERALS_MAX: u32 = 200;
/// Largest piece of a streamed literal that is handed out at once, bytes.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// How much of the end of an overlong line is kept to see whether it announces a literal.
const TAIL_BYTES: usize = 64;

/// A literal announced at the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announce {
    /// Bytes that follow; saturated when the number was out of range.
    pub(crate) size: u64,
    /// The client waits for `+` before it sends.
    pub(crate) sync: bool,
    /// `~{…}`: may hold NUL.
    pub(crate) binary: bool,
}

/// What the framer found next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A whole command (or the rest of one after a streamed or skipped literal), without its line end. Buffered literals
    /// stand in it as `{n}` CRLF bytes.
    Line(Vec<u8>),
    /// A literal is announced. The caller looks at [`Framer::text`] and answers with `buffer`, `stream`, `skip` or `refuse`.
    Literal(Announce),
    /// A piece of a streamed literal.
    Chunk(Bytes),
    /// The streamed or skipped literal is complete; the rest of its line follows.
    LiteralEnd,
    /// A line beyond the bound was thrown away; `head` is its beginning. With a non-synchronising literal at its end the
    /// stream can no longer be trusted.
    Overlong {
        /// The first bytes, for the tag.
        head: Vec<u8>,
        /// What the line announced at its end.
        literal: Option<Announce>,
    },
}

#[derive(Clone, Debug)]
enum Mode {
    Text,
    Decide(Announce),
    Buffer { left: usize },
    Stream { left: u64 },
    Skip { left: u64 },
    Overlong { tail: Vec<u8> },
}

/// The incremental framer.
#[derive(Clone, Debug)]
pub(crate) struct Framer {
    input: BytesMut,
    /// The first bytes of `input` known to hold no line feed.
    scanned: usize,
    command: Vec<u8>,
    literals: u32,
    mode: Mode,
    limit: usize,
}

impl Framer {
    /// A framer with the bounds that hold before login.
    pub(crate) fn new() -> Self {
        Self {
            input: BytesMut::new(),
            scanned: 0,
            command: Vec::new(),
            literals: 0,
            mode: Mode::Text,
            limit: COMMAND_BYTES_BEFORE_LOGIN_MAX,
        }
    }
    /// Sets the bound of a command's bytes.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }
    /// Takes bytes from the client.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }
    /// Received and not yet looked at.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.input
    }
    /// A part of a line, or of a command with literals, is here.
    pub(crate) fn is_within_command(&self) -> bool {
        !matches!(self.mode, Mode::Text) || !self.command.is_empty() || !self.input.is_empty()
    }
    /// Forgets everything received (RFC 9051 section 6.2.1: nothing said before TLS counts after it).
    pub(crate) fn reset(&mut self) {
        let limit = self.limit;
        *self = Self::new();
        self.limit = limit;
    }
    /// The command so far, up to and with the announcement; meaningful after [`Event::Literal`].
    pub(crate) fn text(&self) -> &[u8] {
        &self.command
    }
    /// True when a literal of this size still fits the bound of the command.
    pub(crate) fn fits(&self, size: u64) -> bool {
        self.literals < LITERALS_MAX && usize::try_from(size).is_ok_and(|size| self.command.len().saturating_add(size) <= self.limit)
    }
    /// Keeps the announced literal within the command; the caller has asked [`Framer::fits`].
    pub(crate) fn buffer(&mut self) {
        if let Mode::Decide(literal) = self.mode {
            self.command.extend_from_slice(b"\r\n");
            self.literals += 1;
            self.mode = Mode::Buffer { left: usize::try_from(literal.size).unwrap_or(usize::MAX) };
        }
    }
    /// Hands the announced literal out in pieces; the text before it is returned and forgotten.
    pub(crate) fn stream(&mut self) -> Vec<u8> {
        if let Mode::Decide(literal) = self.mode {
            self.mode = Mode::Stream { left: literal.size };
        }
        self.take()
    }
    /// Throws the announced literal away as it comes.
    pub(crate) fn skip(&mut self) {
        match self.mode {
            Mode::Decide(Announce { size, .. }) | Mode::Stream { left: size } => self.mode = Mode::Skip { left: size },
            _ => {}
        }
        self.take();
    }
    /// Ends the command here: a synchronising literal that is not asked for never comes.
    pub(crate) fn refuse(&mut self) {
        self.mode = Mode::Text;
        self.take();
    }

    fn take(&mut self) -> Vec<u8> {
        self.literals = 0;
        std::mem::take(&mut self.command)
    }

    /// The next event, or `None` until more bytes come. In `raw` mode a line is a line: nothing is a literal
    /// (answers to AUTHENTICATE, DONE of IDLE).
    pub(crate) fn next(&mut self, raw: bool) -> Option<Event> {
        loop {
            match &mut self.mode {
                Mode::Decide(_) => return None,
                Mode::Text => return self.text_line(raw),
                Mode::Overlong { .. } => return self.overlong_line(),
                Mode::Buffer { left } => {
                    let n = (*left).min(self.input.len());
                    *left -= n;
                    let done = *left == 0;
                    self.command.extend_from_slice(&self.input.split_to(n));
                    if !done {
                        return None;
                    }
                    self.mode = Mode::Text;
                }
                Mode::Stream { left } => {
                    let n = (*left).min(self.input.len().min(CHUNK_BYTES_MAX) as u64);
                    if *left == 0 {
                        self.mode = Mode::Text;
                        return Some(Event::LiteralEnd);
                    }
                    if n == 0 {
                        return None;
                    }
                    *left -= n;
                    return Some(Event::Chunk(self.input.split_to(n as usize).freeze()));
                }
                Mode::Skip { left } => {
                    let n = (*left).min(self.input.len() as u64);
                    *left -= n;
                    let done = *left == 0;
                    drop(self.input.split_to(n as usize));
                    if !done {
                        return None;
                    }
                    self.mode = Mode::Text;
                    return Some(Event::LiteralEnd);
                }
            }
        }
    }

    /// Where the next line ends: bytes of text, and bytes with the line end.
    fn line_end(&mut self) -> Option<(usize, usize)> {
        let found = memchr::memchr(b'\n', &self.input[self.scanned..]);
        let Some(at) = found.map(|at| at + self.scanned) else {
            self.scanned = self.input.len();
            return None;
        };
        self.scanned = 0;
        let text = if at > 0 && self.input[at - 1] == b'\r' { at - 1 } else { at };
        Some((text, at + 1))
    }

    fn text_line(&mut self, raw: bool) -> Option<Event> {
        let end = self.line_end();
        // A carriage return at the very end may belong to the line end that is still to come.
        let so_far = self.input.len() - usize::from(self.input.last() == Some(&b'\r'));
        let text = end.map_or(so_far, |(text, _)| text);
        if self.command.len().saturating_add(text) > self.limit {
            let mut head = self.take();
            head.extend_from_slice(&self.input[..text.min(TAIL_BYTES)]);
            head.truncate(TAIL_BYTES);
            self.command = head;
            // The line end, when it is here already, is looked for once more by the mode entered now.
            self.scanned = 0;
            self.mode = Mode::Overlong { tail: Vec::new() };
            return self.overlong_line();
        }
        let (text, whole) = end?;
        let line = self.input.split_to(whole);
        self.command.extend_from_slice(&line[..text]);
        match if raw { None } else { announced(&line[..text]) } {
            None => Some(Event::Line(self.take())),
            Some(literal) => {
                self.mode = Mode::Decide(literal);
                Some(Event::Literal(literal))
            }
        }
    }

    fn overlong_line(&mut self) -> Option<Event> {
        let end = self.line_end();
        let (text, whole) = end.unwrap_or((self.input.len(), self.input.len()));
        let line = self.input.split_to(whole);
        self.scanned = 0;
        let Mode::Overlong { tail } = &mut self.mode else { return None };
        tail.extend_from_slice(&line[text.saturating_sub(TAIL_BYTES)..text]);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        end?;
        // The line feed stood alone at the start of this piece: its carriage return ended the piece before.
        if whole == 1 && tail.last() == Some(&b'\r') {
            tail.pop();
        }
        let literal = announced(tail);
        self.mode = Mode::Text;
        Some(Event::Overlong { head: self.take(), literal })
    }
}

/// The literal that a line announces at its end: `{n}`, `{n+}`, `~{n}`, `~{n+}`.
fn announced(line: &[u8]) -> Option<Announce> {
    let rest = line.strip_suffix(b"}")?;
    let (rest, sync) = rest.strip_suffix(b"+").map_or((rest, true), |rest| (rest, false));
    let digits = rest.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (before, number) = rest.split_at(rest.len() - digits);
    let before = before.strip_suffix(b"{")?;
    if digits == 0 {
        return None;
    }
    let size = number.iter().fold(0_u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0')));
    Some(Announce { size, sync, binary: before.last() == Some(&b'~') })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds pieces; buffers literals up to 10 bytes, streams larger ones, and glues pieces so that splits do not show.
    fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>, limit: usize) -> Vec<Event> {
        let mut framer = Framer::new();
        framer.set_limit(limit);
        let mut events: Vec<Event> = Vec::new();
        for piece in pieces {
            framer.push(piece);
            while let Some(event) = framer.next(false) {
                match (&event, events.last_mut()) {
                    (Event::Literal(l), _) if l.size <= 10 && framer.fits(l.size) => framer.buffer(),
                    (Event::Literal(_), _) => {
                        let text = framer.stream();
                        events.push(Event::Line(text));
                    }
                    (Event::Chunk(new), Some(Event::Chunk(old))) => {
                        *old = [&old[..], &new[..]].concat().into();
                        continue;
                    }
                    _ => {}
                }
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn lines_and_literals() {
        let events = run([&b"a LOGIN {3}\r\nabc {0+}\r\n\r\nb APPEND x ~{12+}\r\nhello\r\nworld\r\nc\n"[..]].into_iter(), 100);
        let literal = |size, sync, binary| Event::Literal(Announce { size, sync, binary });
        assert_eq!(
            events,
            vec![
                literal(3, true, false),
                literal(0, false, false),
                Event::Line(b"a LOGIN {3}\r\nabc {0+}\r\n".to_vec()),
                Event::Line(b"b APPEND x ~{12+}".to_vec()),
                literal(12, false, true),
                Event::Chunk(Bytes::from_static(b"hello\r\nworld")),
                Event::LiteralEnd,
                Event::Line(Vec::new()),
                Event::Line(b"c".to_vec()),
            ]
        );
    }

    #[test]
    fn overlong_lines_are_dropped_and_their_literal_is_seen() {
        let long = [b"t1 X ", &[b'y'; 300][..], b" {7+}\r\nt2 NOOP\r\n"].concat();
        let events = run(long.chunks(7), 100);
        let Event::Overlong { head, literal } = &events[0] else { panic!("{events:?}") };
        assert!(head.starts_with(b"t1 X yyy") && head.len() <= TAIL_BYTES);
        assert_eq!(*literal, Some(Announce { size: 7, sync: false, binary: false }));
        assert_eq!(events[1], Event::Line(b"t2 NOOP".to_vec()));
    }

    #[test]
    fn numbers_out_of_range_saturate() {
        assert_eq!(announced(b"a {99999999999999999999999}").unwrap().size, u64::MAX);
        assert_eq!(announced(b"a {}"), None);
        assert_eq!(announced(b"a {+}"), None);
        assert_eq!(announced(b"a {1-}"), None);
        assert_eq!(announced(b"\"{3}\""), None);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            parts in prop::collection::vec(prop_oneof![
                Just(b"a1 NOOP\r\n".to_vec()), Just(b"x {4}\r\nab\r\n".to_vec()), Just(b"y ~{20+}\r\n".to_vec()),
                Just(b"\r".to_vec()), Just(b"\n".to_vec()), Just(b"{3+}\r\n".to_vec()), prop::collection::vec(any::<u8>(), 0..90),
            ], 0..20),
            size in 1_usize..50,
        ) {
            let stream = parts.concat();
            let whole = run([&stream[..]].into_iter(), 100);
            prop_assert_eq!(&whole, &run(stream.chunks(size), 100));
            prop_assert_eq!(&whole, &run(stream.chunks(1), 100));
        }
    }
}
