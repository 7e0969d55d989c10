//! One FETCH response. Sections above the inline bound are read and sent in pieces, so a message of 50 MB never lies in memory;
//! the announcement of such a literal goes out only when its first piece is here.

use super::fetch::Fetch;
use crate::Session;
use crate::parse::{FetchSection, Label};
use crate::session::Outcome;
use crate::wire::internal_date;
use bytes::Bytes;
use parliament_ids::limits::BODY_PIECE_BYTES;
use parliament_ids::{DateTime, MailboxId};
use parliament_mail_api::{FetchRow, PartData, Rejection, Reply, Request, SectionKind};

/// Tries to read on within a literal that is half sent; each lasts as long as the mail store's deadline.
const TRIES_WITHIN_LITERAL: u32 = 3;

/// A response being written.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    row: FetchRow,
    /// Where the response begins in the writer.
    start: usize,
    /// The next section to write.
    part: usize,
    /// What was written before the first large section, held back until that section's first piece is here.
    held: Option<Bytes>,
    /// Bytes of the response are on their way: it can no longer be dropped.
    begun: bool,
    /// The large section being read: its next byte in the stored body, bytes left, and whether it is announced.
    offset: u64,
    left: u64,
    announced: bool,
    tries: u32,
}

impl Row {
    pub(crate) fn new(row: FetchRow, start: usize) -> Self {
        Self { row, start, part: 0, held: None, begun: false, offset: 0, left: 0, announced: false, tries: 0 }
    }
    pub(crate) fn is_within_literal(&self) -> bool {
        self.begun
    }
    /// The request for the next piece.
    pub(crate) fn piece(&self, mailbox: MailboxId) -> Request {
        let length = u32::try_from(self.left.min(BODY_PIECE_BYTES as u64)).unwrap_or(u32::MAX);
        // Once its literal is announced it must be completed, even if the message goes away meanwhile.
        if let (true, Some(hash)) = (self.begun, self.row.hash) {
            return Request::ReadOn { hash, offset: self.offset, length };
        }
        Request::ReadBody { mailbox, uid: self.row.flags.uid, offset: self.offset, length }
    }
}

impl Session {
    /// Everything of a response but its sections.
    pub(crate) fn write_row_head(&mut self, fetch: &Fetch, row: &Row, seq: u32) {
        let (atts, row) = (&fetch.atts, &row.row);
        let uid = row.flags.uid;
        self.w.fmt(format_args!("* {seq} FETCH ("));
        let open = self.w.len();
        if atts.uid {
            self.w.fmt(format_args!(" UID {uid}"));
        }
        if atts.flags || fetch.seen_now.contains(uid) {
            self.w.text(" ");
            self.write_flags(&row.flags);
        }
        if atts.modseq || (self.enabled.condstore && fetch.seen_now.contains(uid)) {
            self.w.fmt(format_args!(" MODSEQ ({})", row.flags.modseq));
        }
        if atts.internal_date {
            self.w.fmt(format_args!(" INTERNALDATE \"{}\"", internal_date(row.internal_date)));
        }
        if atts.save_date {
            let date = internal_date(DateTime { seconds: row.save_date, zone_minutes: 0 });
            self.w.fmt(format_args!(" SAVEDATE \"{date}\""));
        }
        if atts.size {
            self.w.fmt(format_args!(" RFC822.SIZE {}", row.size));
        }
        let account = self.account_number();
        if atts.email_id {
            self.w.fmt(format_args!(" EMAILID (M{account}_{})", row.email_id));
        }
        if atts.thread_id {
            self.w.fmt(format_args!(" THREADID (T{:016x})", row.thread_id.0));
        }
        for (asked, name, value) in [
            (atts.envelope, " ENVELOPE ", &row.envelope),
            (atts.body, " BODY ", &row.body),
            (atts.body_structure, " BODYSTRUCTURE ", &row.body_structure),
        ] {
            if asked {
                self.w.text(name);
                self.w.raw(value.as_ref().map_or(b"NIL", |value| &value.0));
            }
        }
        if atts.preview {
            self.w.text(" PREVIEW ");
            match &row.preview {
                Some(text) => self.w.string(text.as_bytes()),
                None => self.w.text("NIL"),
            }
        }
        self.w.close_gap(open);
    }

    /// Writes sections from `row.part` on and the end of the response; `Some` when a large one has to be read first.
    pub(crate) fn write_parts(&mut self, fetch: &Fetch, mut row: Row) -> Option<Box<Row>> {
        while let Some(section) = fetch.atts.sections.get(row.part) {
            // The first attribute follows the parenthesis without a space.
            if !self.w.ends_with(b"(") {
                self.w.text(" ");
            }
            self.write_label(section);
            let data = row.row.parts.get_mut(row.part).and_then(|part| part.data.take());
            match data {
                None => self.w.text("NIL"),
                Some(PartData::Size(size)) => self.w.fmt(format_args!("{size}")),
                Some(PartData::Inline(bytes)) => self.w.literal(&bytes.0, section.label == Label::Binary),
                Some(PartData::Range { length: 0, .. }) => self.w.literal(b"", false),
                Some(PartData::Range { offset, length }) => {
                    if !row.begun {
                        row.held = Some(self.w.split_off(row.start));
                    }
                    (row.offset, row.left, row.announced) = (offset, length, false);
                    return Some(Box::new(row));
                }
            }
            row.part += 1;
        }
        self.w.text(")\r\n");
        None
    }

    pub(crate) fn on_piece(&mut self, fetch: Box<Fetch>, mut row: Box<Row>, outcome: Outcome) {
        let bytes = match outcome {
            Outcome::Reply(Reply::Piece(bytes)) if !bytes.0.is_empty() && bytes.0.len() as u64 <= row.left => bytes.0,
            outcome => return self.on_piece_missing(fetch, row, &outcome),
        };
        if let Some(held) = row.held.take() {
            self.w.raw(&held);
        }
        row.begun = true;
        if !row.announced {
            row.announced = true;
            let binary = fetch.atts.sections.get(row.part).is_some_and(|section| section.label == Label::Binary);
            self.w.literal_head(row.left, binary);
        }
        self.w.raw(&bytes);
        row.offset += bytes.len() as u64;
        row.left -= bytes.len() as u64;
        row.tries = 0;
        if row.left > 0 {
            return self.ask_piece(fetch, row);
        }
        row.part += 1;
        match self.write_parts(&fetch, *row) {
            None => self.write_rows(fetch),
            Some(waiting) => self.ask_piece(fetch, waiting),
        }
    }

    fn on_piece_missing(&mut self, fetch: Box<Fetch>, mut row: Box<Row>, outcome: &Outcome) {
        match outcome {
            Outcome::Rejected(Rejection::Expunged | Rejection::NoSuchMailbox) if !row.begun => self.skip_lost(fetch),
            Outcome::Unserved if !row.begun => self.unavailable(&fetch.tag),
            Outcome::Rejected(rejection) if !row.begun => self.rejected(&fetch.tag, *rejection, false, false),
            Outcome::Reply(_) if !row.begun => self.wrong_reply(&fetch.tag),
            Outcome::Unserved if row.tries < TRIES_WITHIN_LITERAL => {
                row.tries += 1;
                self.ask_piece(fetch, row);
            }
            // Within a literal there is no way to say anything but to end the connection.
            _ => self.close(),
        }
    }

    /// The name under which a section is told, and a space.
    fn write_label(&mut self, section: &FetchSection) {
        let name = match section.label {
            Label::Rfc822 => return self.w.text("RFC822 "),
            Label::Rfc822Header => return self.w.text("RFC822.HEADER "),
            Label::Rfc822Text => return self.w.text("RFC822.TEXT "),
            Label::Body => "BODY[",
            Label::Binary => "BINARY[",
            Label::BinarySize => "BINARY.SIZE[",
        };
        self.w.text(name);
        let path: Vec<String> = section.section.path.iter().map(u32::to_string).collect();
        self.w.text(&path.join("."));
        let (kind, fields) = match &section.section.kind {
            SectionKind::Whole | SectionKind::Binary | SectionKind::BinarySize => ("", None),
            SectionKind::Header => ("HEADER", None),
            SectionKind::Text => ("TEXT", None),
            SectionKind::Mime => ("MIME", None),
            SectionKind::HeaderFields(fields) => ("HEADER.FIELDS", Some(fields)),
            SectionKind::HeaderFieldsNot(fields) => ("HEADER.FIELDS.NOT", Some(fields)),
        };
        if !kind.is_empty() && !path.is_empty() {
            self.w.text(".");
        }
        self.w.text(kind);
        if let Some(fields) = fields {
            let mut separator = " (";
            for field in fields {
                self.w.text(separator);
                self.w.astring(field.as_bytes());
                separator = " ";
            }
            self.w.text(")");
        }
        self.w.text("]");
        if let Some((offset, _)) = section.section.partial {
            self.w.fmt(format_args!("<{offset}>"));
        }
        self.w.text(" ");
    }
}
