//! The tree of a message's parts, as offsets into its bytes.

use crate::content::ContentType;
use crate::header::Fields;
use crate::scan;
use crate::transfer::TransferEncoding;
use std::ops::Range;

/// Containers (multiparts and embedded messages) may nest this deep; what lies deeper is one opaque part.
pub const NESTING_MAX: usize = 64;

/// A message has at most this many parts; from there on, the rest of the message is one opaque part.
pub const PARTS_MAX: usize = 10_000;

/// Names a part within one [`Structure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub(crate) u32);

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// Data.
    Leaf,
    /// A leaf by decree: a bound was reached. It is told as `application/octet-stream`.
    Opaque,
    /// `multipart/*`: one or more children. Where no boundary was found, the only child is the whole body as plain text.
    Multipart,
    /// `message/rfc822` or `message/global`: exactly one child, the embedded message.
    Message,
}

pub(crate) const NONE: u32 = u32::MAX;

/// A part: the message itself, a part of a multipart, or an embedded message.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub(crate) header_start: u32,
    pub(crate) body_start: u32,
    pub(crate) body_end: u32,
    pub(crate) lines: u32,
    pub(crate) parent: u32,
    pub(crate) first_child: u32,
    pub(crate) next_sibling: u32,
    pub(crate) kind: PartKind,
    pub(crate) in_digest: bool,
}

impl Part {
    /// Where its header is, the blank line included.
    #[must_use]
    pub const fn header(&self) -> Range<usize> {
        self.header_start as usize..self.body_start as usize
    }

    /// Where its body is: without the line end before the boundary, which belongs to the boundary (RFC 2046 section 5.1.1).
    #[must_use]
    pub const fn body(&self) -> Range<usize> {
        self.body_start as usize..self.body_end as usize
    }

    /// Header and body.
    #[must_use]
    pub const fn whole(&self) -> Range<usize> {
        self.header_start as usize..self.body_end as usize
    }

    /// Line feeds in its body.
    #[must_use]
    pub const fn lines(&self) -> u32 {
        self.lines
    }

    /// What it holds.
    #[must_use]
    pub const fn kind(&self) -> PartKind {
        self.kind
    }
}

/// The parts of a message. The first is the message itself; a child comes after its parent.
///
/// Invariants, which [`Structure::check`] asserts: a part's header ends where its body begins; a child lies within its parent's
/// body; siblings ascend without overlapping; a multipart has children, an embedded message has one, a leaf has none.
#[derive(Clone, Debug)]
pub struct Structure {
    pub(crate) parts: Vec<Part>,
}

impl Structure {
    /// Scans a message once. Takes 32 bytes per part. Of a message larger than 4 GiB only the first 4 GiB are seen.
    #[must_use]
    pub fn parse(message: &[u8]) -> Self {
        Self { parts: scan::scan(message) }
    }

    /// The message itself.
    #[must_use]
    pub const fn root(&self) -> PartId {
        PartId(0)
    }

    /// A part. Ids of another structure give the message itself when out of range.
    #[must_use]
    pub fn part(&self, id: PartId) -> &Part {
        self.parts.get(id.0 as usize).unwrap_or(&self.parts[0])
    }

    /// Every part, parents before children.
    pub fn ids(&self) -> impl Iterator<Item = PartId> + use<> {
        (0..self.parts.len() as u32).map(PartId)
    }

    /// How many parts there are, the message itself included.
    #[must_use]
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// The children of a part, in the order of the message.
    pub fn children(&self, id: PartId) -> impl Iterator<Item = PartId> + '_ {
        let some = |index: u32| (index != NONE).then_some(PartId(index));
        std::iter::successors(some(self.part(id).first_child), move |&child| some(self.part(child).next_sibling))
    }

    /// The part that holds this one; `None` for the message itself.
    #[must_use]
    pub fn parent(&self, id: PartId) -> Option<PartId> {
        Some(self.part(id).parent).filter(|&parent| parent != NONE).map(PartId)
    }

    /// The part with these part numbers (RFC 9051 section 6.4.5.1), outermost first; `None` when there is none, or no number.
    #[must_use]
    pub fn resolve(&self, path: &[u32]) -> Option<PartId> {
        let (&first, rest) = path.split_first()?;
        let mut part = self.number_in_message(self.root(), first)?;
        for &number in rest {
            part = match self.part(part).kind {
                PartKind::Multipart => self.nth_child(part, number)?,
                PartKind::Message => self.number_in_message(self.nth_child(part, 1)?, number)?,
                PartKind::Leaf | PartKind::Opaque => return None,
            };
        }
        Some(part)
    }

    /// A message that is no multipart is its own part 1.
    fn number_in_message(&self, message: PartId, number: u32) -> Option<PartId> {
        match self.part(message).kind {
            PartKind::Multipart => self.nth_child(message, number),
            _ => (number == 1).then_some(message),
        }
    }

    fn nth_child(&self, id: PartId, number: u32) -> Option<PartId> {
        self.children(id).nth(number.checked_sub(1)? as usize)
    }

    /// The header of a part. Empty where the offsets do not fit `message`, which then is another one than was parsed.
    #[must_use]
    pub fn header<'m>(&self, message: &'m [u8], id: PartId) -> &'m [u8] {
        message.get(self.part(id).header()).unwrap_or_default()
    }

    /// The body of a part; as [`Self::header`].
    #[must_use]
    pub fn body<'m>(&self, message: &'m [u8], id: PartId) -> &'m [u8] {
        message.get(self.part(id).body()).unwrap_or_default()
    }

    /// The media type of a part, with the defaults of RFC 2045 section 5.2 and RFC 2046 section 5.1.5.
    #[must_use]
    pub fn content_type(&self, message: &[u8], id: PartId) -> ContentType {
        let part = self.part(id);
        if part.kind == PartKind::Opaque {
            return ContentType::octet_stream();
        }
        ContentType::of_header(self.header(message, id), part.in_digest)
    }

    /// The transfer encoding of a part.
    #[must_use]
    pub fn transfer_encoding(&self, message: &[u8], id: PartId) -> TransferEncoding {
        match self.part(id).kind {
            PartKind::Opaque => TransferEncoding::Identity,
            _ => TransferEncoding::of_field(Fields::first(self.header(message, id), "Content-Transfer-Encoding")),
        }
    }

    /// Asserts the invariants for a message of `length` bytes. For tests.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn check(&self, length: usize) {
        assert_eq!(self.part(self.root()).header_start, 0);
        for id in self.ids() {
            let part = self.part(id);
            assert!(part.header_start <= part.body_start && part.body_start <= part.body_end);
            assert!(part.body_end as usize <= length);
            let count = self.children(id).count();
            match part.kind {
                PartKind::Leaf | PartKind::Opaque => assert_eq!(count, 0),
                PartKind::Multipart => assert!(count > 0),
                PartKind::Message => assert_eq!(count, 1),
            }
            let mut from = part.body_start;
            for child in self.children(id) {
                let inner = self.part(child);
                assert!(child > id && self.parent(child) == Some(id));
                assert!(inner.header_start >= from && inner.body_end <= part.body_end, "{inner:?} in {part:?}");
                from = inner.body_end;
            }
        }
    }
}
