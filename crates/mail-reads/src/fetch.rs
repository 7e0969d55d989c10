//! A page of FETCH.

use crate::body::{Body, PAGE_READ_BYTES};
use crate::parts::parts;
use crate::rows::{Mailbox, uids_of};
use crate::{Parsing, ReadError};
use bytes::Bytes;
use parliament_ids::limits::FETCH_PAGE_BYTES;
use parliament_ids::{AccountId, DateTime, EmailId, ThreadId, Uid, UidSet};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{FetchItems, FetchPage, FetchRequest, FetchRow, FlagRow, PartData, Rejection};
use parliament_mailbox_state::Tables;
use parliament_mailbox_state::view::{self, MessageRow};

/// Rows of one page without bodies.
const ROWS_MAX: usize = 8192;
/// Rows of one page with something of the bodies.
const BODY_ROWS_MAX: usize = 2048;
/// Records that are read at a time for a page with bodies, since nobody knows how many fit it: as many as a record of the tables
/// holds.
const BODY_RECORDS: usize = 64;
/// What a row costs besides its parts, bytes: a bound for the page, not a measurement.
const ROW_BYTES: usize = 64;
/// A row that would make the page larger than this begins the next one, bytes.
const PAGE_BYTES_MAX: usize = 2 * FETCH_PAGE_BYTES;

/// Makes one page. Rights were checked by the caller.
///
/// A page ends after 8192 rows (2048 with anything of the bodies), [`FETCH_PAGE_BYTES`] of rows, or 32 MiB of bodies read; then
/// `next` says where to go on. A page whose first body cannot be read is an error; at a later one the page ends.
///
/// # Errors
/// [`ReadError`]; a rejection is `[UNKNOWN-CTE]` or `[LIMIT]` of BINARY.
pub fn fetch_page(
    tables: &dyn Tables,
    parsing: &Parsing<'_>,
    account: AccountId,
    request: &FetchRequest,
) -> Result<Result<FetchPage, Rejection>, ReadError> {
    let mailbox = Mailbox { tables, account, id: request.mailbox };
    let bodies = request.items.need_body();
    let flags = mailbox.flags(&request.uids, request.changed_since, if bodies { BODY_ROWS_MAX } else { ROWS_MAX })?;
    let mut builder = Builder { items: &request.items, parsing, page: FetchPage::default(), bytes: 0, read: 0, gone: UidSet::new() };
    builder.page.next = flags.next;
    if needs_record(&request.items) {
        for chunk in flags.rows.chunks(if bodies { BODY_RECORDS } else { ROWS_MAX }) {
            let records = mailbox.records(chunk)?;
            match builder.add_all(chunk, &records)? {
                Ok(true) => {}
                Ok(false) => break,
                Err(rejection) => return Ok(Err(rejection)),
            }
        }
    } else {
        builder.page.rows = flags.rows.iter().map(|flag| empty_row(*flag)).collect();
    }
    let mut page = builder.page;
    match request.changed_since {
        None => page.missing = missing(request, page.next, &flags.rows, &builder.gone),
        Some(since) if request.vanished => {
            page.vanished = view::vanished_since(tables, account, request.mailbox, since, &request.uids)?;
        }
        Some(_) => {}
    }
    if page.rows.iter().any(|row| row.flags.keywords != 0) {
        page.keywords = view::keywords(tables, account, request.mailbox)?;
    }
    Ok(Ok(page))
}

/// Of the asked UIDs below `next` those that have no flags, or whose record was `gone` when it was looked at.
fn missing(request: &FetchRequest, next: Option<Uid>, flags: &[FlagRow], gone: &UidSet) -> UidSet {
    let without = request.uids.difference(&uids_of(flags)).union(gone);
    match next {
        Some(next) => without.intersection(&UidSet::range(Uid(1), Uid(next.0.saturating_sub(1)))),
        None => without,
    }
}

fn needs_record(items: &FetchItems) -> bool {
    items.internal_date || items.save_date || items.size || items.object_ids || items.need_body()
}

/// A page being made.
struct Builder<'a> {
    items: &'a FetchItems,
    parsing: &'a Parsing<'a>,
    page: FetchPage,
    /// Bytes of its rows.
    bytes: usize,
    /// Bytes of bodies read for it.
    read: u64,
    /// Messages that had flags but no record any more.
    gone: UidSet,
}

impl Builder<'_> {
    /// Adds rows; false when the page ends before the last of them.
    fn add_all(&mut self, flags: &[FlagRow], records: &[Option<MessageRow>]) -> Result<Result<bool, Rejection>, ReadError> {
        for (flag, record) in flags.iter().zip(records) {
            if self.bytes >= FETCH_PAGE_BYTES || self.read >= PAGE_READ_BYTES {
                self.page.next = Some(flag.uid);
                return Ok(Ok(false));
            }
            let Some(record) = record else {
                self.gone.insert(flag.uid);
                continue;
            };
            let row = match self.row(flag, record) {
                Ok(Ok(row)) => row,
                Ok(Err(rejection)) => return Ok(Err(rejection)),
                Err(ReadError::Body(_)) if !self.page.rows.is_empty() => {
                    self.page.next = Some(flag.uid);
                    return Ok(Ok(false));
                }
                Err(error) => return Err(error),
            };
            let bytes = ROW_BYTES + weight(&row);
            if !self.page.rows.is_empty() && self.bytes + bytes > PAGE_BYTES_MAX {
                self.page.next = Some(flag.uid);
                return Ok(Ok(false));
            }
            self.bytes += bytes;
            self.page.rows.push(row);
        }
        Ok(Ok(true))
    }

    fn row(&mut self, flag: &FlagRow, record: &MessageRow) -> Result<Result<FetchRow, Rejection>, ReadError> {
        let mut row = empty_row(*flag);
        fill_from_record(&mut row, record, self.items);
        if !self.items.need_body() {
            return Ok(Ok(row));
        }
        let mut body = Body::new(record.hash);
        let told = parts(&self.items.sections, record, &mut body, self.parsing)?;
        if self.items.need_parsed() {
            let parsed = body.parsed(self.parsing)?;
            let field = |asked: bool, bytes: &Bytes| asked.then(|| BytesField(bytes.clone()));
            row.envelope = field(self.items.envelope, &parsed.envelope);
            row.body = field(self.items.body, &parsed.body);
            row.body_structure = field(self.items.body_structure, &parsed.body_structure);
            row.preview = self.items.preview.then(|| parsed.preview.clone());
        }
        self.read += body.read();
        Ok(told.map(|parts| FetchRow { parts, ..row }))
    }
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
    row.hash = Some(message.hash);
    if items.size {
        row.size = message.size;
    }
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

fn weight(row: &FetchRow) -> usize {
    let optional = |field: &Option<BytesField>| field.as_ref().map_or(0, |f| f.0.len());
    let part = |data: &Option<PartData>| match data {
        Some(PartData::Inline(bytes)) => bytes.0.len(),
        _ => 0,
    };
    let parts: usize = row.parts.iter().map(|p| part(&p.data) + 16).sum();
    parts + optional(&row.envelope) + optional(&row.body) + optional(&row.body_structure) + row.preview.as_ref().map_or(0, String::len)
}
