//! Sections of FETCH: `BODY[…]`, `BINARY[…]` (RFC 9051 section 6.4.5.1, RFC 3516).

use crate::header::Fields;
use crate::structure::{PartId, PartKind, Structure};
use crate::transfer::TransferEncoding;
use memchr::{memchr, memchr_iter};
use std::borrow::Cow;
use std::ops::Range;

/// What of a part `BODY[…]` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind<'a> {
    /// The message, or a part's body.
    Whole,
    /// The header of the message or of an embedded message.
    Header,
    /// Of that header only the fields with these names, without regard to ASCII case.
    HeaderFields(&'a [String]),
    /// Of that header only the fields with other names.
    HeaderFieldsNot(&'a [String]),
    /// What follows that header.
    Text,
    /// The header of a part.
    Mime,
}

/// The content of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes of the message.
    Range(Range<usize>),
    /// Bytes that stand nowhere in one piece.
    Built(Vec<u8>),
}

impl Content {
    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Range(range) => range.len(),
            Self::Built(bytes) => bytes.len(),
        }
    }

    /// True when there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; `message` is the one that the section was taken of.
    #[must_use]
    pub fn bytes<'a>(&'a self, message: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Range(range) => message.get(range.clone()).unwrap_or_default(),
            Self::Built(bytes) => bytes,
        }
    }

    /// Cut to `<offset.count>`: bytes from `offset`, at most `count`, none when `offset` is beyond the end.
    #[must_use]
    pub fn partial(self, offset: u32, count: u32) -> Self {
        match self {
            Self::Range(range) => {
                let cut = partial(range.len(), offset, count);
                Self::Range(range.start + cut.start..range.start + cut.end)
            }
            Self::Built(bytes) => Self::Built(bytes[partial(bytes.len(), offset, count)].to_vec()),
        }
    }
}

/// The range that `<offset.count>` is of something `length` bytes long (RFC 9051 section 6.4.5). Always within `0..length`.
#[must_use]
pub fn partial(length: usize, offset: u32, count: u32) -> Range<usize> {
    let start = length.min(offset as usize);
    start..length.min(start.saturating_add(count as usize))
}

/// The section with these part numbers, none meaning the message itself. `None` when the message has no such section: no such
/// part, a header or text of a part that is no embedded message, MIME of the message itself.
#[must_use]
pub fn section(message: &[u8], structure: &Structure, path: &[u32], kind: SectionKind<'_>) -> Option<Content> {
    let header_of = |id: PartId| structure.header(message, id);
    Some(match kind {
        SectionKind::Whole if path.is_empty() => Content::Range(0..message.len()),
        SectionKind::Whole => Content::Range(structure.part(structure.resolve(path)?).body()),
        SectionKind::Mime => Content::Range(structure.part(structure.resolve(path)?).header()),
        SectionKind::Header => Content::Range(structure.part(message_at(structure, path)?).header()),
        SectionKind::Text => Content::Range(structure.part(message_at(structure, path)?).body()),
        SectionKind::HeaderFields(names) => Content::Built(header_fields(header_of(message_at(structure, path)?), names, true)),
        SectionKind::HeaderFieldsNot(names) => Content::Built(header_fields(header_of(message_at(structure, path)?), names, false)),
    })
}

/// The message itself, or the one embedded in the part at `path`.
fn message_at(structure: &Structure, path: &[u32]) -> Option<PartId> {
    if path.is_empty() {
        return Some(structure.root());
    }
    let part = structure.resolve(path)?;
    if structure.part(part).kind() != PartKind::Message {
        return None;
    }
    structure.children(part).next()
}

/// The fields of `header` whose names are (or are not, without `include`) among `names`, and the blank line if it has one.
/// Linear but for the logarithm of the number of names. Lines that are no fields have no name.
#[must_use]
pub fn header_fields(header: &[u8], names: &[String], include: bool) -> Vec<u8> {
    let mut wanted: Vec<Vec<u8>> = names.iter().map(|name| name.to_ascii_lowercase().into_bytes()).collect();
    wanted.sort_unstable();
    let longest = wanted.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = Vec::new();
    let mut fields = Fields::new(header);
    for field in fields.by_ref() {
        let listed = !field.name.is_empty()
            && field.name.len() <= longest
            && wanted.binary_search_by(|w| w.iter().copied().cmp(field.name.iter().map(u8::to_ascii_lowercase))).is_ok();
        if listed == include {
            out.extend_from_slice(field.lines);
        }
    }
    out.extend_from_slice(fields.rest());
    out
}

/// Why `BINARY[…]` cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryError {
    /// The transfer encoding is unknown: `NO [UNKNOWN-CTE]`.
    UnknownEncoding,
    /// The part is a multipart or an embedded message, of which RFC 9051 gives no BINARY.
    NotLeaf,
}

/// The decoded data of a part; `Ok(None)` when there is no such part. No part numbers mean the message as it stands. Text has
/// its bare line feeds made CRLF (RFC 3516 section 6) unless it holds NUL and so is not of lines.
///
/// # Errors
/// See [`BinaryError`].
pub fn binary<'m>(message: &'m [u8], structure: &Structure, path: &[u32]) -> Result<Option<Cow<'m, [u8]>>, BinaryError> {
    if path.is_empty() {
        return Ok(Some(Cow::Borrowed(message)));
    }
    let Some(id) = structure.resolve(path) else { return Ok(None) };
    if matches!(structure.part(id).kind(), PartKind::Multipart | PartKind::Message) {
        return Err(BinaryError::NotLeaf);
    }
    let encoding = structure.transfer_encoding(message, id);
    if encoding == TransferEncoding::Unknown {
        return Err(BinaryError::UnknownEncoding);
    }
    let data = encoding.decode(structure.body(message, id));
    Ok(Some(if structure.content_type(message, id).is_text() { with_crlf(data) } else { data }))
}

/// The size of [`binary`], bytes.
///
/// # Errors
/// As [`binary`].
pub fn binary_size(message: &[u8], structure: &Structure, path: &[u32]) -> Result<Option<usize>, BinaryError> {
    Ok(binary(message, structure, path)?.map(|data| data.len()))
}

fn with_crlf(data: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let is_bare = |at: usize| at == 0 || data[at - 1] != b'\r';
    let bare = memchr_iter(b'\n', &data).filter(|&at| is_bare(at)).count();
    if bare == 0 || memchr(0, &data).is_some() {
        return data;
    }
    let mut out = Vec::with_capacity(data.len() + bare);
    let mut from = 0;
    for at in memchr_iter(b'\n', &data).filter(|&at| is_bare(at)) {
        out.extend_from_slice(&data[from..at]);
        out.push(b'\r');
        from = at;
    }
    out.extend_from_slice(&data[from..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 9051 section 6.4.5.1, each part's text its number.
    fn rfc_example() -> String {
        let multipart = |boundary: &str, kind: &str, parts: &[String]| {
            let parts: String = parts.iter().map(|part| format!("--{boundary}\r\n{part}\r\n")).collect();
            format!("Content-Type: multipart/{kind}; boundary={boundary}\r\n\r\n{parts}--{boundary}--")
        };
        let leaf = |kind: &str, text: &str| format!("Content-Type: {kind}\r\n\r\n{text}");
        let message = |subject: &str, content: String| format!("Content-Type: message/rfc822\r\n\r\nSubject: {subject}\r\n{content}");
        let in_3 = multipart("c", "mixed", &[leaf("text/plain", "3.1"), leaf("application/octet-stream", "3.2")]);
        let in_422 = multipart("f", "alternative", &[leaf("text/plain", "4.2.2.1"), leaf("text/richtext", "4.2.2.2")]);
        let in_42 = multipart("e", "mixed", &[leaf("text/plain", "4.2.1"), in_422]);
        let in_4 = multipart("d", "mixed", &[leaf("image/gif", "4.1"), message("four", in_42)]);
        let parts = [leaf("text/plain", "1"), leaf("application/octet-stream", "2"), message("three", in_3), in_4];
        format!("Subject: whole\r\n{}", multipart("a", "mixed", &parts))
    }

    fn get(message: &str, path: &[u32], kind: SectionKind<'_>) -> Option<String> {
        let structure = Structure::parse(message.as_bytes());
        let content = section(message.as_bytes(), &structure, path, kind)?;
        Some(String::from_utf8(content.bytes(message.as_bytes()).to_vec()).unwrap())
    }

    #[test]
    fn rfc_9051_part_numbers() {
        let message = rfc_example();
        for path in [&[1][..], &[2], &[3, 1], &[3, 2], &[4, 1], &[4, 2, 1], &[4, 2, 2, 1], &[4, 2, 2, 2]] {
            let name = path.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
            assert_eq!(get(&message, path, SectionKind::Whole), Some(name));
        }
        let header = |path: &[u32]| get(&message, path, SectionKind::HeaderFields(&["SUBJECT".to_owned()]));
        assert_eq!(header(&[]).unwrap(), "Subject: whole\r\n\r\n");
        assert_eq!(header(&[3]).unwrap(), "Subject: three\r\n\r\n");
        assert_eq!(header(&[4, 2]).unwrap(), "Subject: four\r\n\r\n");
        assert!(get(&message, &[3], SectionKind::Text).unwrap().starts_with("--c\r\n"));
        assert!(get(&message, &[4, 2, 2], SectionKind::Whole).unwrap().starts_with("--f\r\n"));
        assert_eq!(get(&message, &[4, 1], SectionKind::Mime).unwrap(), "Content-Type: image/gif\r\n\r\n");
        for absent in [&[0][..], &[5], &[1, 1], &[3, 3], &[4, 3], &[4, 2, 2, 3], &[3, 0]] {
            assert_eq!(get(&message, absent, SectionKind::Whole), None, "{absent:?}");
        }
        for no_message in [&[1][..], &[4], &[4, 1], &[4, 2, 2]] {
            assert_eq!(get(&message, no_message, SectionKind::Header), None);
            assert_eq!(get(&message, no_message, SectionKind::Text), None);
        }
    }

    #[test]
    fn a_message_that_is_no_multipart_is_its_own_part_1() {
        let message = "Subject: a\n\nbody\n";
        assert_eq!(get(message, &[1], SectionKind::Whole).unwrap(), "body\n");
        assert_eq!(get(message, &[1], SectionKind::Mime).unwrap(), "Subject: a\n\n");
        assert_eq!(get(message, &[], SectionKind::Text).unwrap(), "body\n");
        assert_eq!(get(message, &[1, 1], SectionKind::Whole), None);
        let wrapped = format!("Content-Type: message/global\n\n{message}");
        assert_eq!(get(&wrapped, &[1], SectionKind::Whole).unwrap(), message);
        assert_eq!(get(&wrapped, &[1], SectionKind::Header).unwrap(), "Subject: a\n\n");
        assert_eq!(get(&wrapped, &[1, 1], SectionKind::Whole).unwrap(), "body\n");
        assert_eq!(get(&wrapped, &[1, 1, 1], SectionKind::Whole), None);
    }

    #[test]
    fn header_subsets_keep_order_folds_and_the_blank_line() {
        let message = "B: 1\r\nA: 2\r\n 3\r\njunk\r\nb : 4\r\n\r\nbody";
        let names = ["b".to_owned(), "C".to_owned()];
        assert_eq!(get(message, &[], SectionKind::HeaderFields(&names)).unwrap(), "B: 1\r\nb : 4\r\n\r\n");
        assert_eq!(get(message, &[], SectionKind::HeaderFieldsNot(&names)).unwrap(), "A: 2\r\n 3\r\njunk\r\n\r\n");
        assert_eq!(get("A: 1", &[], SectionKind::HeaderFields(&names)).unwrap(), "");
    }

    #[test]
    fn partials_are_cut_to_what_is_there() {
        for (offset, count, expected) in
            [(0, 3, 0..3), (1, 100, 1..5), (5, 1, 5..5), (9, 9, 5..5), (2, 0, 2..2), (u32::MAX, u32::MAX, 5..5)]
        {
            assert_eq!(partial(5, offset, count), expected);
        }
        assert_eq!(Content::Range(10..15).partial(1, 2), Content::Range(11..13));
        assert_eq!(Content::Built(b"hello".to_vec()).partial(3, 9), Content::Built(b"lo".to_vec()));
    }

    #[test]
    fn binary_decodes_leaves() {
        let part = |encoding: &str, kind: &str, text: &str| {
            format!("--b\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n{text}\n")
        };
        let message = "Content-Type: multipart/mixed; boundary=b\n\n".to_owned()
            + &part("base64", "image/png", "AAEKAg==")
            + &part("quoted-printable", "text/plain", "a=0Ab=\nc\nd")
            + &part("x-odd", "text/plain", "?")
            + &part("8bit", "message/rfc822", "A: b")
            + &part("binary", "text/plain", "a\nb\0")
            + "--b--\n";
        let structure = Structure::parse(message.as_bytes());
        let of = |path: &[u32]| binary(message.as_bytes(), &structure, path).map(|data| data.map(Cow::into_owned));
        assert_eq!(of(&[1]), Ok(Some(b"\0\x01\n\x02".to_vec())));
        assert_eq!(of(&[2]), Ok(Some(b"a\r\nbc\r\nd".to_vec())));
        assert_eq!(of(&[3]), Err(BinaryError::UnknownEncoding));
        assert_eq!(of(&[4]), Err(BinaryError::NotLeaf));
        assert_eq!(of(&[5]), Ok(Some(b"a\nb\0".to_vec())));
        assert_eq!(of(&[6]), Ok(None));
        assert_eq!(of(&[]), Ok(Some(message.clone().into_bytes())));
        assert_eq!(binary_size(message.as_bytes(), &structure, &[2]), Ok(Some(8)));
    }
}
