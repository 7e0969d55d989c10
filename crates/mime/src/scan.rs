//! The scanner: one pass over the message, looking only at header lines and at lines that begin with two hyphens.

use crate::content::ContentType;
use crate::header::is_blank_line;
use crate::structure::{NESTING_MAX, NONE, PARTS_MAX, Part, PartKind};
use memchr::{memchr, memchr_iter, memmem};

/// RFC 2046 allows 70. A longer boundary is taken for none.
const BOUNDARY_BYTES_MAX: usize = 256;

/// A part whose end was not yet seen.
struct Open {
    part: u32,
    /// Its last child so far.
    last_child: u32,
    /// Line feeds before its body.
    lines_before_body: u32,
    /// Of a multipart that is not closed: what separates its children.
    boundary: Option<Vec<u8>>,
    /// It is a `multipart/digest`.
    digest: bool,
}

/// A boundary line.
struct Delimiter {
    /// Index in `open` of the multipart.
    level: usize,
    /// It is the last of that multipart.
    close: bool,
    /// The line's first byte.
    start: usize,
}

enum Mode {
    /// The innermost open part's header begins here.
    Header,
    /// Looking for boundaries only.
    Body,
    /// At the end.
    End,
}

struct Scanner<'m> {
    message: &'m [u8],
    at: usize,
    /// Line feeds before `at`.
    lines: u32,
    parts: Vec<Part>,
    open: Vec<Open>,
    /// Parts there are, and children that open multiparts may still need.
    charged: usize,
    hyphens: memmem::Finder<'static>,
}

/// The parts of `message`, the message itself first. Never empty.
pub(crate) fn scan(message: &[u8]) -> Vec<Part> {
    let message = &message[..message.len().min(NONE as usize - 1)];
    let mut scanner =
        Scanner { message, at: 0, lines: 0, parts: Vec::new(), open: Vec::new(), charged: 0, hyphens: memmem::Finder::new("\n--") };
    scanner.begin(false);
    let mut mode = Mode::Header;
    loop {
        mode = match mode {
            Mode::Header => scanner.header(),
            Mode::Body => scanner.body(),
            Mode::End => break,
        };
    }
    scanner.finish();
    scanner.parts
}

impl Scanner<'_> {
    /// Opens a part here, as a child of the innermost open one.
    fn begin(&mut self, in_digest: bool) {
        let start = self.at as u32;
        let index = self.parts.len() as u32;
        let parent = self.open.last().map_or(NONE, |open| open.part);
        self.parts.push(Part {
            header_start: start,
            // Until the header's end is seen.
            body_start: NONE,
            body_end: NONE,
            lines: 0,
            parent,
            first_child: NONE,
            next_sibling: NONE,
            kind: PartKind::Leaf,
            in_digest,
        });
        self.charged += 1;
        if let Some(open) = self.open.last_mut() {
            match open.last_child {
                NONE => self.parts[parent as usize].first_child = index,
                sibling => self.parts[sibling as usize].next_sibling = index,
            }
            open.last_child = index;
        }
        self.open.push(Open { part: index, last_child: NONE, lines_before_body: 0, boundary: None, digest: false });
    }

    fn advance(&mut self, to: usize) {
        self.lines += memchr_iter(b'\n', &self.message[self.at..to]).count() as u32;
        self.at = to;
    }

    fn line_end(&self, start: usize) -> usize {
        memchr(b'\n', &self.message[start..]).map_or(self.message.len(), |at| start + at + 1)
    }

    /// Reads the header of the innermost open part.
    fn header(&mut self) -> Mode {
        let start = self.at;
        let bounded = self.is_bounded();
        while self.at < self.message.len() {
            if bounded && let Some(delimiter) = self.delimiter_at(self.at) {
                // The header ends here for want of a blank line. An embedded message then is empty.
                if let Mode::Header = self.classify(start) {
                    self.classify(self.at);
                }
                return self.delimit(&delimiter);
            }
            let blank = is_blank_line(&self.message[self.at..]);
            let end = self.line_end(self.at);
            self.lines += u32::from(self.message[end - 1] == b'\n');
            self.at = end;
            if blank {
                return self.classify(start);
            }
        }
        self.classify(start)
    }

    /// The header of the innermost open part ends here: what does the part hold?
    fn classify(&mut self, header_start: usize) -> Mode {
        let nested = self.open.len();
        let Some(open) = self.open.last_mut() else { return Mode::End };
        open.lines_before_body = self.lines;
        let part = &mut self.parts[open.part as usize];
        part.body_start = self.at as u32;
        let content = ContentType::of_header(&self.message[header_start..self.at], part.in_digest);
        if !content.is_multipart() && !content.is_message() {
            return Mode::Body;
        }
        // A container needs room for itself and at least one child, which must not be a container that has none.
        if nested >= NESTING_MAX || self.charged + 1 > PARTS_MAX {
            part.kind = PartKind::Opaque;
            return Mode::Body;
        }
        if content.is_message() {
            part.kind = PartKind::Message;
            self.begin(false);
            return Mode::Header;
        }
        part.kind = PartKind::Multipart;
        open.digest = content.subtype.eq_ignore_ascii_case(b"digest");
        open.boundary = content.parameter("boundary").map(<[u8]>::trim_ascii_end).filter(|b| usable_boundary(b)).map(<[u8]>::to_vec);
        // Charged for the child it gets even if it has none.
        self.charged += 1;
        Mode::Body
    }

    fn is_bounded(&self) -> bool {
        self.open.iter().any(|open| open.boundary.is_some())
    }

    /// Looks for the next boundary line from here, a line's beginning.
    fn body(&mut self) -> Mode {
        if !self.is_bounded() {
            self.advance(self.message.len());
            return Mode::End;
        }
        let mut candidate = self.at;
        loop {
            if let Some(delimiter) = self.delimiter_at(candidate) {
                self.advance(delimiter.start);
                return self.delimit(&delimiter);
            }
            match self.hyphens.find(&self.message[candidate..]) {
                Some(found) => candidate += found + 1,
                None => {
                    self.advance(self.message.len());
                    return Mode::End;
                }
            }
        }
    }

    /// The boundary that the line at `start` is. Of several that fit, the longest: one may begin with another.
    fn delimiter_at(&self, start: usize) -> Option<Delimiter> {
        let line = self.message[start..].strip_prefix(b"--")?;
        let fits = |open: &Open| open.boundary.as_ref().filter(|b| line.starts_with(b)).map(Vec::len);
        let (length, level) = self.open.iter().enumerate().filter_map(|(level, open)| Some((fits(open)?, level))).max()?;
        Some(Delimiter { level, close: line[length..].starts_with(b"--"), start })
    }

    /// Ends what the boundary ends, and opens the next part. `at` is the boundary line's first byte.
    fn delimit(&mut self, delimiter: &Delimiter) -> Mode {
        self.close_above(delimiter.level);
        let end = self.line_end(delimiter.start);
        self.advance(end);
        let Some(multipart) = self.open.last_mut() else { return Mode::End };
        if delimiter.close {
            multipart.boundary = None;
            return Mode::Body;
        }
        if self.charged >= PARTS_MAX {
            return self.give_up();
        }
        let in_digest = multipart.digest;
        self.begin(in_digest);
        Mode::Header
    }

    /// The rest of the message is one part.
    fn give_up(&mut self) -> Mode {
        for open in &mut self.open {
            open.boundary = None;
        }
        self.begin(false);
        let start = self.at as u32;
        if let Some(open) = self.open.last_mut() {
            open.lines_before_body = self.lines;
            let part = &mut self.parts[open.part as usize];
            part.kind = PartKind::Opaque;
            part.body_start = start;
        }
        Mode::Body
    }

    /// Closes all parts within the multipart at `level`; `at` is the first byte of its boundary line.
    fn close_above(&mut self, level: usize) {
        let line_end = match &self.message[..self.at] {
            [.., b'\r', b'\n'] => 2,
            [.., b'\n'] => 1,
            _ => 0,
        };
        let Some(child) = self.open.get(level + 1) else { return };
        // A child that has nothing after its blank line keeps that line, although the boundary claims it too.
        let body_start = self.parts[child.part as usize].body_start.min(self.at as u32);
        let end = body_start.max((self.at - line_end) as u32);
        let lines = if (end as usize) < self.at { self.lines.saturating_sub(1) } else { self.lines };
        while self.open.len() > level + 1 {
            self.close_innermost(end, lines);
        }
    }

    fn finish(&mut self) {
        let end = self.message.len() as u32;
        while !self.open.is_empty() {
            self.close_innermost(end, self.lines);
        }
    }

    /// Ends the innermost open part at `end`, before which there are `lines` line feeds.
    fn close_innermost(&mut self, end: u32, lines: u32) {
        let Some(open) = self.open.pop() else { return };
        let next = self.parts.len() as u32;
        let part = &mut self.parts[open.part as usize];
        part.body_end = end;
        part.body_start = part.body_start.min(end);
        part.header_start = part.header_start.min(part.body_start);
        part.lines = if part.body_start < end { lines.saturating_sub(open.lines_before_body) } else { 0 };
        if part.kind == PartKind::Multipart && part.first_child == NONE {
            part.first_child = next;
            let (header_start, parent, kind) = (part.body_start, open.part, PartKind::Leaf);
            let child = Part { header_start, parent, kind, first_child: NONE, next_sibling: NONE, in_digest: false, ..*part };
            self.parts.push(child);
        }
    }
}

fn usable_boundary(boundary: &[u8]) -> bool {
    !boundary.is_empty() && boundary.len() <= BOUNDARY_BYTES_MAX && memchr(b'\n', boundary).is_none()
}

#[cfg(test)]
mod tests {
    use crate::structure::{NESTING_MAX, PARTS_MAX, PartId, PartKind, Structure};

    fn tree(message: &str, structure: &Structure, id: PartId, depth: usize, out: &mut String) {
        let part = structure.part(id);
        let text = |range: std::ops::Range<usize>| message[range].replace("\r\n", "|").replace('\n', "/");
        out.push_str(&format!("{}{:?} {} [{}]\n", "  ".repeat(depth), part.kind(), part.lines(), text(part.header())));
        if part.kind() == PartKind::Leaf {
            out.push_str(&format!("{}= {}\n", "  ".repeat(depth), text(part.body())));
        }
        for child in structure.children(id) {
            tree(message, structure, child, depth + 1, out);
        }
    }

    #[track_caller]
    fn expect(message: &str, expected: &str) {
        let structure = Structure::parse(message.as_bytes());
        structure.check(message.len());
        let mut out = String::new();
        tree(message, &structure, structure.root(), 0, &mut out);
        assert_eq!(out, expected, "{message:?}");
    }

    #[test]
    fn plain_messages() {
        expect("", "Leaf 0 []\n= \n");
        expect("\n", "Leaf 0 [/]\n= \n");
        expect("A: b", "Leaf 0 [A: b]\n= \n");
        expect("A: b\r\n\r\nx\r\ny", "Leaf 1 [A: b||]\n= x|y\n");
        expect("A: b\n\n--x\n\n", "Leaf 2 [A: b//]\n= --x//\n");
    }

    #[test]
    fn multipart_with_preamble_epilogue_and_prefixed_boundaries() {
        expect(
            "Content-Type: multipart/mixed; boundary=a\n\npre\n--a\n\none\n--a \nContent-Type: multipart/alternative; boundary=\"ab\"\n\n\
             --ab\n\ntwo\n\n--ab--\nepi\n--a--\nepilogue\n--a\nno part\n",
            "Multipart 17 [Content-Type: multipart/mixed; boundary=a//]\n  Leaf 0 [/]\n  = one\n  \
             Multipart 5 [Content-Type: multipart/alternative; boundary=\"ab\"//]\n    Leaf 1 [/]\n    = two/\n",
        );
    }

    #[test]
    fn empty_parts_and_parts_cut_short_by_an_outer_boundary() {
        expect(
            "Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n--o\r\nX: y\r\n\r\n--o\r\nContent-Type: message/rfc822\r\n\r\n\
             Content-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\n--o--",
            "Multipart 10 [Content-Type: multipart/mixed; boundary=o||]\n  Leaf 0 []\n  = \n  Leaf 0 [X: y||]\n  = \n  \
             Message 2 [Content-Type: message/rfc822||]\n    Multipart 0 [Content-Type: multipart/mixed; boundary=i||]\n      Leaf 0 []\n      = \n",
        );
    }

    #[test]
    fn multipart_without_boundary_has_one_plain_child() {
        expect(
            "Content-Type: multipart/digest\n\nx\n",
            "Multipart 1 [Content-Type: multipart/digest//]\n  Leaf 1 []\n  = x\n\n".replace("x\n\n", "x/\n").as_str(),
        );
    }

    #[test]
    fn digest_children_are_messages() {
        expect(
            "Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: s\n\nhi\n--d--\n",
            "Multipart 6 [Content-Type: multipart/digest; boundary=d//]\n  Message 2 [/]\n    Leaf 0 [Subject: s//]\n    = hi\n",
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let message = "Content-Type: message/rfc822\n\n".repeat(1000) + "end";
        let structure = Structure::parse(message.as_bytes());
        structure.check(message.len());
        assert_eq!(structure.part_count(), NESTING_MAX);
        let last = structure.part(PartId(NESTING_MAX as u32 - 1));
        assert_eq!((last.kind(), last.body().end), (PartKind::Opaque, message.len()));
    }

    #[test]
    fn parts_are_bounded_and_the_rest_is_opaque() {
        let message = "Content-Type: multipart/mixed; boundary=b\n\n".to_owned() + &"--b\n\nx\n".repeat(20_000);
        let structure = Structure::parse(message.as_bytes());
        structure.check(message.len());
        assert!(structure.part_count() <= PARTS_MAX, "{}", structure.part_count());
        let last = structure.part(PartId(structure.part_count() as u32 - 1));
        assert_eq!((last.kind(), last.body().end), (PartKind::Opaque, message.len()));
    }

    #[test]
    fn parts_are_bounded_when_each_is_a_container() {
        let part = "--b\nContent-Type: multipart/mixed; boundary=c\n\n";
        let message = "Content-Type: multipart/mixed; boundary=b\n\n".to_owned() + &part.repeat(20_000);
        let structure = Structure::parse(message.as_bytes());
        structure.check(message.len());
        assert!(structure.part_count() <= PARTS_MAX, "{}", structure.part_count());
    }
}
