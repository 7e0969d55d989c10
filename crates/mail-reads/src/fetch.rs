//! A page of FETCH.

use crate::{Parsed, Parsing, ReadError};
use bytes::Bytes;
use parliament_ids::limits::{FETCH_INLINE_BYTES_MAX, FETCH_PAGE_BYTES};
use parliament_ids::{AccountId, DateTime, EmailId, ThreadId, Uid, UidSet};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{FetchItems, FetchPage, FetchRequest, FetchRow, FlagRow, PartData, PartResult, Rejection, Section, SectionKind};
use parliament_mailbox_state::view::{self, MessageRow};
use parliament_mailbox_state::{TableFault, Tables};
use parliament_mime as mime;
use std::collections::HashMap;

/// Rows of one page.
const ROWS_MAX: usize = 8192;
/// What a row costs besides its parts, bytes: a bound for the page, not a measurement.
const ROW_BYTES: usize = 64;

/// Makes one page. Rights were checked by the caller.
///
/// # Errors
/// [`ReadError`]; a rejection is `[UNKNOWN-CTE]` of BINARY.
pub fn fetch_page(
    tables: &dyn Tables,
    parsing: &Parsing<'_>,
    account: AccountId,
    request: &FetchRequest,
) -> Result<Result<FetchPage, Rejection>, ReadError> {
    let mut page = FetchPage::default();
    let (flags, next) = flag_rows(tables, account, request)?;
    let covered = match next {
        Some(next) => request.uids.intersection(&UidSet::range(Uid(1), Uid(next.0 - 1))),
        None => request.uids.clone(),
    };
    let messages = if needs_message(&request.items) { message_rows(tables, account, request, &flags)? } else { HashMap::new() };
    if request.changed_since.is_none() {
        let present: UidSet = flags.iter().map(|row| row.uid).collect();
        page.missing = covered.difference(&present);
    } else if request.vanished
        && let Some(since) = request.changed_since
    {
        page.vanished = view::vanished_since(tables, account, request.mailbox, since, &request.uids)?;
    }
    page.next = next;
    let mut bytes = 0;
    for flag in flags {
        if bytes >= FETCH_PAGE_BYTES {
            page.next = Some(flag.uid);
            let rest = UidSet::range(flag.uid, Uid(u32::MAX));
            page.missing = page.missing.difference(&rest);
            break;
        }
        let message = messages.get(&flag.uid);
        let mut row = empty_row(flag);
        if let Some(message) = message {
            fill_from_record(&mut row, message, &request.items);
            match fill_from_body(&mut row, message, &request.items, parsing)? {
                Ok(()) => {}
                Err(rejection) => return Ok(Err(rejection)),
            }
        } else if needs_message(&request.items) {
            // Expunged between the two looks at the tables.
            page.missing.insert(row.flags.uid);
            continue;
        }
        bytes += ROW_BYTES + weight(&row);
        page.rows.push(row);
    }
    if page.rows.iter().any(|row| row.flags.keywords != 0) {
        page.keywords = view::keywords(tables, account, request.mailbox)?;
    }
    Ok(Ok(page))
}

fn needs_message(items: &FetchItems) -> bool {
    items.internal_date || items.save_date || items.size || items.object_ids || needs_body(items)
}

fn needs_body(items: &FetchItems) -> bool {
    items.envelope || items.body || items.body_structure || items.preview || !items.sections.is_empty()
}

/// The flags of at most [`ROWS_MAX`] asked messages, and where the next page begins.
fn flag_rows(tables: &dyn Tables, account: AccountId, request: &FetchRequest) -> Result<(Vec<FlagRow>, Option<Uid>), TableFault> {
    let (mut rows, mut next) = (Vec::new(), None);
    view::flag_rows(tables, account, request.mailbox, &request.uids, request.changed_since, &mut |row| {
        if rows.len() == ROWS_MAX {
            next = Some(row.uid);
            return false;
        }
        rows.push(row);
        true
    })?;
    Ok((rows, next))
}

fn message_rows(
    tables: &dyn Tables,
    account: AccountId,
    request: &FetchRequest,
    flags: &[FlagRow],
) -> Result<HashMap<Uid, MessageRow>, TableFault> {
    // With bodies in it, a page holds few messages: looking at more records than it will hold is waste.
    let most = if needs_body(&request.items) { 512 } else { ROWS_MAX };
    let uids: UidSet = flags.iter().map(|row| row.uid).collect();
    let mut messages = HashMap::with_capacity(flags.len().min(most));
    let mut reads = |uids: &UidSet| {
        view::message_rows(tables, account, request.mailbox, uids, &mut |row| {
            messages.insert(row.uid, row);
            true
        })
    };
    reads(&uids)?;
    Ok(messages)
}

fn empty_row(flags: FlagRow) -> FetchRow {
    FetchRow {
        flags,
        internal_date: DateTime::default(),
        save_date: 0,
        size: 0,
        hash: None,
        email_id: EmailId::default(),
        thread_id: ThreadId::default(),
        envelope: None,
        body: None,
        body_structure: None,
        preview: None,
        parts: Vec::new(),
    }
}

fn fill_from_record(row: &mut FetchRow, message: &MessageRow, items: &FetchItems) {
    row.size = message.size;
    row.hash = Some(message.hash);
    if items.internal_date {
        row.internal_date = message.internal_date;
    }
    if items.save_date {
        row.save_date = message.save_date;
    }
    if items.object_ids {
        row.email_id = message.email_id;
        row.thread_id = message.thread_id;
    }
}

fn fill_from_body(
    row: &mut FetchRow,
    message: &MessageRow,
    items: &FetchItems,
    parsing: &Parsing<'_>,
) -> Result<Result<(), Rejection>, ReadError> {
    if !needs_body(items) {
        return Ok(Ok(()));
    }
    if items.envelope || items.body || items.body_structure || items.preview {
        let parsed = parsing.parsed(&message.hash)?;
        let field = |bytes: &Bytes| Some(BytesField(bytes.clone()));
        row.envelope = if items.envelope { field(&parsed.envelope) } else { None };
        row.body = if items.body { field(&parsed.body) } else { None };
        row.body_structure = if items.body_structure { field(&parsed.body_structure) } else { None };
        row.preview = if items.preview { Some(parsed.preview.clone()) } else { None };
    }
    if items.sections.is_empty() {
        return Ok(Ok(()));
    }
    if let [section] = items.sections.as_slice()
        && section.path.is_empty()
        && section.kind == SectionKind::Whole
        && message.size > FETCH_INLINE_BYTES_MAX as u64
    {
        // The whole of a large message is told without reading it.
        row.parts.push(PartResult { data: Some(whole_range(section, message.size)) });
        return Ok(Ok(()));
    }
    let body = parsing.bodies.read(&message.hash)?;
    let structure = if items.sections.iter().all(|s| s.path.is_empty() && s.kind == SectionKind::Whole) {
        None
    } else {
        Some(mime::Structure::parse(&body))
    };
    for section in &items.sections {
        match part(&body, structure.as_ref(), section) {
            Ok(result) => row.parts.push(result),
            Err(rejection) => return Ok(Err(rejection)),
        }
    }
    Ok(Ok(()))
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

fn part(body: &Bytes, structure: Option<&mime::Structure>, section: &Section) -> Result<PartResult, Rejection> {
    let Some(structure) = structure else {
        return Ok(PartResult { data: Some(content(body, mime::Content::Range(0..body.len()), section)) });
    };
    let kind = match &section.kind {
        SectionKind::Whole => mime::SectionKind::Whole,
        SectionKind::Header => mime::SectionKind::Header,
        SectionKind::HeaderFields(names) => mime::SectionKind::HeaderFields(names),
        SectionKind::HeaderFieldsNot(names) => mime::SectionKind::HeaderFieldsNot(names),
        SectionKind::Text => mime::SectionKind::Text,
        SectionKind::Mime => mime::SectionKind::Mime,
        SectionKind::Binary => return binary(body, structure, section),
        SectionKind::BinarySize => {
            let size = mime::binary_size(body, structure, &section.path).map_err(|_| Rejection::UnknownEncoding)?;
            return Ok(PartResult { data: size.map(|size| PartData::Size(size as u64)) });
        }
    };
    let found = mime::section(body, structure, &section.path, kind);
    Ok(PartResult { data: found.map(|found| content(body, found, section)) })
}

fn binary(body: &Bytes, structure: &mime::Structure, section: &Section) -> Result<PartResult, Rejection> {
    let decoded = mime::binary(body, structure, &section.path).map_err(|_| Rejection::UnknownEncoding)?;
    Ok(PartResult { data: decoded.map(|bytes| content(body, mime::Content::Built(bytes.into_owned()), section)) })
}

/// Cut to the partial, and told by reference when it is a large range of the stored body.
fn content(body: &Bytes, found: mime::Content, section: &Section) -> PartData {
    let found = match section.partial {
        Some((offset, count)) => found.partial(offset, count),
        None => found,
    };
    match found {
        mime::Content::Range(range) if range.len() > FETCH_INLINE_BYTES_MAX => {
            PartData::Range { offset: range.start as u64, length: range.len() as u64 }
        }
        mime::Content::Range(range) => PartData::Inline(BytesField(body.slice(range))),
        mime::Content::Built(bytes) => PartData::Inline(BytesField(bytes.into())),
    }
}

fn weight(row: &FetchRow) -> usize {
    let optional = |field: &Option<BytesField>| field.as_ref().map_or(0, |f| f.0.len());
    let parts: usize = row
        .parts
        .iter()
        .map(|part| match &part.data {
            Some(PartData::Inline(bytes)) => bytes.0.len(),
            _ => 0,
        })
        .sum();
    parts + optional(&row.envelope) + optional(&row.body) + optional(&row.body_structure) + row.preview.as_ref().map_or(0, String::len)
}

impl Parsed {
    /// Computes everything that FETCH asks again and again.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let structure = mime::Structure::parse(body);
        Self {
            envelope: mime::envelope(body, &structure).into(),
            body: mime::body_structure(body, &structure, false).into(),
            body_structure: mime::body_structure(body, &structure, true).into(),
            preview: mime::preview(body, &structure),
        }
    }
}
