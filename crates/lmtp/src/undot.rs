//! The end of DATA and its dot-stuffing (RFC 5321 section 4.5.2), over input cut anywhere.

use memchr::memmem;

/// Takes the dots off. Only CRLF ends a line here: bare CR and bare LF are data like any other byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undot {
    /// At the first byte of a line.
    LineStart,
    /// After a dot at the start of a line, withheld.
    Dot,
    /// After a withheld dot and a CR, both withheld.
    DotCr,
    /// Inside a line.
    Line,
    /// After a CR that was passed on.
    Cr,
}

impl Undot {
    /// Consumes bytes up to the end of the message or of the input; `sink` gets the message's bytes in slices of the input.
    /// Returns how many bytes were consumed and whether the message ended.
    pub(crate) fn feed(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> (usize, bool) {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match (*self, byte) {
                (Self::LineStart, b'.') => (*self, at) = (Self::Dot, at + 1),
                (Self::Dot, b'\r') => (*self, at) = (Self::DotCr, at + 1),
                (Self::DotCr, b'\n') => return (at + 1, true),
                // The withheld CR belongs to a line that is more than a dot.
                (Self::DotCr, _) => {
                    sink(b"\r");
                    *self = Self::Cr;
                }
                (Self::Cr, b'\n') => {
                    sink(b"\n");
                    (*self, at) = (Self::LineStart, at + 1);
                }
                (Self::LineStart | Self::Dot | Self::Cr | Self::Line, _) => {
                    let rest = input.get(at..).unwrap_or_default();
                    let taken = self.pass_line_bytes(rest);
                    sink(rest.get(..taken).unwrap_or_default());
                    at += taken;
                }
            }
        }
        (at, false)
    }

    /// How many bytes of `rest` go through unchanged: up to the next line that begins with a dot.
    fn pass_line_bytes(&mut self, rest: &[u8]) -> usize {
        if let Some(found) = memmem::find(rest, b"\r\n.") {
            *self = Self::LineStart;
            return found + 2;
        }
        *self = match rest {
            [.., b'\r', b'\n'] => Self::LineStart,
            [.., b'\r'] => Self::Cr,
            _ => Self::Line,
        };
        rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs `wire` cut into pieces of `step` bytes; returns message and rest once it ended.
    fn run(wire: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
        let (mut state, mut message, mut used) = (Undot::LineStart, Vec::new(), 0);
        for piece in wire.chunks(step) {
            let (consumed, done) = state.feed(piece, |bytes| message.extend_from_slice(bytes));
            used += consumed;
            if done {
                return Some((message, used));
            }
            assert_eq!(consumed, piece.len());
        }
        None
    }

    fn stuff(message: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut line_start = true;
        for (at, &byte) in message.iter().enumerate() {
            if line_start && byte == b'.' {
                wire.push(b'.');
            }
            wire.push(byte);
            line_start = byte == b'\n' && at > 0 && message[at - 1] == b'\r';
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }

    #[test]
    fn corpus_of_ends_and_no_ends() {
        let ends: [(&[u8], &[u8]); 9] = [
            (b".\r\n", b""),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b".a\r\n.\r\n", b"a\r\n"),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n"),
            (b"a\r\n.\r\r\n.\r\n", b"a\r\n\r\r\n"),
            (b"a\n.\n\r\n.\r\n", b"a\n.\n\r\n"),
            (b"a\r.\r\r\n.\r\n", b"a\r.\r\r\n"),
            (b"\0\r\n...\r\n.\r\n", b"\0\r\n..\r\n"),
        ];
        for (wire, message) in ends {
            for step in 1..=wire.len() {
                assert_eq!(run(wire, step), Some((message.to_vec(), wire.len())), "{wire:?} by {step}");
            }
        }
        for wire in [&b"a\n.\n"[..], b"a\r.\r", b"a\r\n.\n", b"a\n.\r\n", b"a\r.\r\n", b"a\r\n.\r", b".\n", b"\n.\r\n", b"\r\r.\r\n"] {
            for step in 1..=wire.len() {
                assert_eq!(run(wire, step), None, "{wire:?} by {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn stuffed_messages_come_back(parts in prop::collection::vec(prop::sample::select(vec!["\r", "\n", ".", "\r\n", "\r\n.", "a", "\0", "é"]), 0..40), step in 1usize..7) {
            let mut message = parts.concat().into_bytes();
            if !message.is_empty() && !message.ends_with(b"\r\n") {
                message.extend_from_slice(b"\r\n");
            }
            let mut wire = stuff(&message);
            let length = wire.len();
            wire.extend_from_slice(b"QUIT\r\n");
            prop_assert_eq!(run(&wire, step), Some((message, length)));
        }
    }
}
