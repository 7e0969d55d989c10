//! Section contents of one message (RFC 9051 section 6.4.5, RFC 3516).

use crate::body::Body;
use crate::{Parsing, ReadError};
use bytes::Bytes;
use parliament_ids::limits::{FETCH_INLINE_BYTES_MAX, FETCH_PAGE_BYTES};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{PartData, PartResult, Rejection, Section, SectionKind};
use parliament_mailbox_state::view::MessageRow;
use parliament_mime as mime;
use std::borrow::Cow;

/// Bytes that the sections of one message may carry inline together: a page and what it is sent in have bounds.
const INLINE_TOTAL_MAX: usize = FETCH_PAGE_BYTES;

type Parts = Result<Vec<PartResult>, Rejection>;

/// The results of all sections, in order.
///
/// # Errors
/// [`ReadError::Body`]. The rejection is `[UNKNOWN-CTE]` of BINARY, or `[LIMIT]` when what must be decoded is larger than can be
/// told at once: a partial of it still can.
pub(crate) fn parts(sections: &[Section], message: &MessageRow, body: &mut Body, parsing: &Parsing<'_>) -> Result<Parts, ReadError> {
    let is_all = |section: &Section| section.path.is_empty() && section.kind == SectionKind::Whole;
    let all = sections.iter().all(is_all);
    if all && message.size > FETCH_INLINE_BYTES_MAX as u64 {
        // The whole of a large message, or a piece of it, is told without reading it.
        return Ok(Ok(sections.iter().map(|section| told(whole_range(section, message.size))).collect()));
    }
    if sections.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let body = body.bytes(parsing)?;
    if all {
        let mut cutter = Cutter { body, room: INLINE_TOTAL_MAX };
        return Ok(Ok(sections.iter().map(|section| told(cutter.stored(0..body.len(), section))).collect()));
    }
    let structure = mime::Structure::parse(body);
    let mut cutter = Cutter { body, room: INLINE_TOTAL_MAX };
    Ok(sections.iter().map(|section| cutter.part(&structure, section)).collect())
}

fn told(data: PartData) -> PartResult {
    PartResult { data: Some(data) }
}

fn whole_range(section: &Section, size: u64) -> PartData {
    match section.partial {
        None => PartData::Range { offset: 0, length: size },
        Some((offset, count)) => {
            let start = u64::from(offset).min(size);
            PartData::Range { offset: start, length: u64::from(count).min(size - start) }
        }
    }
}

/// Cuts sections out of one body.
struct Cutter<'a> {
    body: &'a Bytes,
    /// Bytes that may still go inline.
    room: usize,
}

impl Cutter<'_> {
    fn part(&mut self, structure: &mime::Structure, section: &Section) -> Result<PartResult, Rejection> {
        let kind = match &section.kind {
            SectionKind::Whole => mime::SectionKind::Whole,
            SectionKind::Header => mime::SectionKind::Header,
            SectionKind::HeaderFields(names) => mime::SectionKind::HeaderFields(names),
            SectionKind::HeaderFieldsNot(names) => mime::SectionKind::HeaderFieldsNot(names),
            SectionKind::Text => mime::SectionKind::Text,
            SectionKind::Mime => mime::SectionKind::Mime,
            SectionKind::Binary => return self.binary(structure, section),
            SectionKind::BinarySize => {
                let size = mime::binary_size(self.body, structure, &section.path).map_err(|_| Rejection::UnknownEncoding)?;
                return Ok(PartResult { data: size.map(|size| PartData::Size(size as u64)) });
            }
        };
        let data = match mime::section(self.body, structure, &section.path, kind) {
            None => None,
            Some(mime::Content::Range(range)) => Some(self.stored(range, section)),
            Some(mime::Content::Built(fields)) => Some(self.built(bounded_header(fields), section)?),
        };
        Ok(PartResult { data })
    }

    fn binary(&mut self, structure: &mime::Structure, section: &Section) -> Result<PartResult, Rejection> {
        let decoded = mime::binary(self.body, structure, &section.path).map_err(|_| Rejection::UnknownEncoding)?;
        let data = match decoded {
            None => None,
            Some(Cow::Borrowed(stored)) => match self.position(stored) {
                Some(start) => Some(self.stored(start..start + stored.len(), section)),
                None => Some(self.built(stored.to_vec(), section)?),
            },
            Some(Cow::Owned(bytes)) => Some(self.built(bytes, section)?),
        };
        Ok(PartResult { data })
    }

    /// Where in the body a slice of it stands: nothing had to be decoded.
    fn position(&self, slice: &[u8]) -> Option<usize> {
        let start = (slice.as_ptr() as usize).checked_sub(self.body.as_ptr() as usize)?;
        (start + slice.len() <= self.body.len()).then_some(start)
    }

    /// Bytes that stand in the body: told by reference when they are large.
    fn stored(&mut self, range: std::ops::Range<usize>, section: &Section) -> PartData {
        let cut = section.partial.map_or(0..range.len(), |(offset, count)| mime::partial(range.len(), offset, count));
        let range = range.start + cut.start..range.start + cut.end;
        if range.len() > FETCH_INLINE_BYTES_MAX || range.len() > self.room {
            return PartData::Range { offset: range.start as u64, length: range.len() as u64 };
        }
        self.room -= range.len();
        let slice = self.body.slice(range);
        // A page does not keep large bodies for small pieces of them.
        PartData::Inline(BytesField(if slice.len() < self.body.len() / 2 { Bytes::copy_from_slice(&slice) } else { slice }))
    }

    /// Bytes that stand nowhere in the body as they are.
    fn built(&mut self, bytes: Vec<u8>, section: &Section) -> Result<PartData, Rejection> {
        let cut = section.partial.map_or(0..bytes.len(), |(offset, count)| mime::partial(bytes.len(), offset, count));
        let cut = Bytes::from(bytes).slice(cut);
        self.room = self.room.checked_sub(cut.len()).ok_or(Rejection::Limit)?;
        // A copy, so that a small partial does not keep all that was decoded.
        Ok(PartData::Inline(BytesField(if section.partial.is_some() { Bytes::copy_from_slice(&cut) } else { cut })))
    }
}

/// Header fields of a message that nobody but an attacker writes are cut after a line: listing a mailbox must go on.
fn bounded_header(mut fields: Vec<u8>) -> Vec<u8> {
    if fields.len() > FETCH_INLINE_BYTES_MAX {
        fields.truncate(FETCH_INLINE_BYTES_MAX - 4);
        let end = fields.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        fields.truncate(end);
        fields.extend_from_slice(b"\r\n");
    }
    fields
}
