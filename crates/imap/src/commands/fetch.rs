//! FETCH (RFC 9051 section 6.4.5): pages are asked one by one and written as they come.

use super::fetch_row::Row;
use crate::Session;
use crate::parse::{FetchAtts, FetchCommand, Label};
use crate::session::{Absorbed, Job, Outcome};
use parliament_ids::{FlagSet, ModSeq, Rights, SystemFlags, Uid, UidSet};
use parliament_mail_api::{FetchItems, FetchPage, FetchRequest, FetchRow, FlagChange, FlagMode, Mutation, Reply, Request};
use std::collections::VecDeque;

/// A FETCH under way.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub(crate) tag: String,
    uid: bool,
    pub(crate) atts: FetchAtts,
    changed_since: Option<ModSeq>,
    /// Not yet answered.
    uids: UidSet,
    /// Sets `\Seen` on what it returns.
    marks_seen: bool,
    /// Some messages that the client named by number are gone.
    lost: bool,
    rows: VecDeque<FetchRow>,
    /// Messages of this page whose flags the FETCH itself changed.
    pub(crate) seen_now: UidSet,
    next: Option<Uid>,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// A page is asked.
    Page,
    /// The implied `\Seen` of the page at hand is being stored (rule 20: a request of its own).
    Seen,
    /// A piece of a large section is asked.
    Piece(Box<Row>),
}

impl Fetch {
    pub(crate) fn is_within_literal(&self) -> bool {
        matches!(&self.stage, Stage::Piece(row) if row.is_within_literal())
    }
}

impl Session {
    pub(crate) fn fetch(&mut self, tag: String, command: FetchCommand) {
        let FetchCommand { uid, set, atts, changed_since } = command;
        let (known, lost) = match self.known_uids_and_lost(&set, uid) {
            Ok(found) => found,
            Err(error) => return self.refuse(&tag, &error, "CANNOT"),
        };
        if atts.modseq {
            self.enable_condstore();
        }
        let uids = if uid { self.open_uids(&set, true) } else { known };
        let may_mark = self.view.as_ref().is_some_and(|view| !view.read_only && view.rights.contains(Rights::SEEN));
        let marks_seen = may_mark && atts.sections.iter().any(|section| !section.peek && section.label != Label::BinarySize);
        let fetch = Fetch {
            tag,
            uid,
            atts,
            changed_since,
            uids,
            marks_seen,
            lost,
            rows: VecDeque::new(),
            seen_now: UidSet::new(),
            next: None,
            stage: Stage::Page,
        };
        self.ask_page(Box::new(fetch));
    }

    fn ask_page(&mut self, mut fetch: Box<Fetch>) {
        let Some(view) = self.view.as_ref().filter(|view| !view.gone) else { return self.end_fetch(*fetch) };
        if fetch.uids.is_empty() {
            return self.end_fetch(*fetch);
        }
        let atts = &fetch.atts;
        let items = FetchItems {
            flags: atts.flags || atts.modseq || fetch.marks_seen,
            internal_date: atts.internal_date,
            save_date: atts.save_date,
            size: atts.size,
            object_ids: atts.email_id || atts.thread_id,
            envelope: atts.envelope,
            body: atts.body,
            body_structure: atts.body_structure,
            preview: atts.preview,
            sections: atts.sections.iter().map(|section| section.section.clone()).collect(),
        };
        let request =
            FetchRequest { mailbox: view.mailbox, uids: fetch.uids.clone(), items, changed_since: fetch.changed_since, vanished: false };
        fetch.stage = Stage::Page;
        self.job = Job::Fetch(fetch);
        self.call(Request::Fetch(request));
    }

    pub(crate) fn on_fetch(&mut self, mut fetch: Box<Fetch>, outcome: Outcome, absorbed: &Absorbed) {
        match std::mem::replace(&mut fetch.stage, Stage::Page) {
            Stage::Page => {
                self.tell_changed(&absorbed.changed);
                match outcome {
                    Outcome::Reply(Reply::Fetched(page)) => self.on_page(fetch, page),
                    Outcome::Reply(_) => self.wrong_reply(&fetch.tag),
                    Outcome::Rejected(rejection) => self.rejected(&fetch.tag, rejection, false, fetch.uid),
                    Outcome::Unserved => self.unavailable(&fetch.tag),
                }
            }
            Stage::Seen => self.on_seen(fetch, &outcome, absorbed),
            Stage::Piece(row) => self.on_piece(fetch, row, outcome),
        }
    }

    fn on_page(&mut self, mut fetch: Box<Fetch>, page: FetchPage) {
        self.learn_keywords(page.keywords);
        let lost = self.view.as_ref().is_some_and(|view| !page.missing.intersection(view.shown.uids()).is_empty());
        fetch.lost |= lost && !fetch.uid;
        // A page that does not move forward would be asked for ever.
        fetch.next = page.next.filter(|next| fetch.uids.first().is_some_and(|first| *next > first));
        if page.next.is_some() && fetch.next.is_none() {
            return self.wrong_reply(&fetch.tag);
        }
        fetch.rows = page.rows.into();
        fetch.seen_now = UidSet::new();
        if fetch.marks_seen {
            let unseen = fetch.rows.iter().filter(|row| !row.flags.system.contains(SystemFlags::SEEN));
            fetch.seen_now = unseen.map(|row| row.flags.uid).collect();
        }
        let Some(mailbox) = self.selected() else { return };
        if fetch.seen_now.is_empty() {
            return self.write_rows(fetch);
        }
        let flags = FlagSet { system: SystemFlags::SEEN, keywords: Vec::new() };
        let change = FlagChange { mode: FlagMode::Add, flags };
        let store = Mutation::Store { mailbox, uids: fetch.seen_now.clone(), change, unchanged_since: None };
        fetch.stage = Stage::Seen;
        self.job = Job::Fetch(fetch);
        self.call(Request::Mutate(store));
    }

    /// The flags that the STORE changed are told with the rows, not before them.
    fn on_seen(&mut self, mut fetch: Box<Fetch>, outcome: &Outcome, absorbed: &Absorbed) {
        match outcome {
            Outcome::Unserved => return self.unavailable(&fetch.tag),
            // The body may be read although it may not be marked.
            Outcome::Rejected(_) => {
                fetch.seen_now = UidSet::new();
                fetch.marks_seen = false;
            }
            Outcome::Reply(_) => {}
        }
        let (own, others): (Vec<_>, Vec<_>) = absorbed.changed.iter().partition(|row| fetch.seen_now.contains(row.uid));
        self.tell_changed(&others);
        for flags in own {
            if let Ok(at) = fetch.rows.binary_search_by_key(&flags.uid, |row| row.flags.uid)
                && let Some(row) = fetch.rows.get_mut(at)
            {
                row.flags = flags;
            }
        }
        self.write_rows(fetch);
    }

    /// Writes rows until the page ends or a large section has to be read.
    pub(crate) fn write_rows(&mut self, mut fetch: Box<Fetch>) {
        while let Some(row) = fetch.rows.pop_front() {
            let Some(seq) = self.view.as_ref().and_then(|view| view.shown.rank(row.flags.uid)) else { continue };
            let row = Row::new(row, self.w.len());
            self.write_row_head(&fetch, &row, seq);
            match self.write_parts(&fetch, row) {
                None => {}
                Some(waiting) => return self.ask_piece(fetch, waiting),
            }
        }
        match fetch.next.take() {
            None => self.end_fetch(*fetch),
            Some(next) => {
                fetch.uids = fetch.uids.intersection(&UidSet::range(next, Uid(u32::MAX)));
                self.ask_page(fetch);
            }
        }
    }

    pub(crate) fn ask_piece(&mut self, mut fetch: Box<Fetch>, row: Box<Row>) {
        let Some(mailbox) = self.selected() else { return };
        let request = row.piece(mailbox);
        fetch.stage = Stage::Piece(row);
        self.job = Job::Fetch(fetch);
        self.call(request);
    }

    /// A row was begun and dropped: its message went away meanwhile.
    pub(crate) fn skip_lost(&mut self, mut fetch: Box<Fetch>) {
        fetch.lost |= !fetch.uid;
        self.write_rows(fetch);
    }

    fn end_fetch(&mut self, fetch: Fetch) {
        let gone = self.view.as_ref().is_none_or(|view| view.gone);
        let reply = match (gone, fetch.lost) {
            (true, _) => "NO [NONEXISTENT] The mailbox was deleted",
            (false, true) => "NO [EXPUNGEISSUED] Some of the messages were expunged",
            (false, false) => "OK Fetch completed",
        };
        self.finish(&fetch.tag, fetch.uid, format_args!("{reply}"));
    }
}
