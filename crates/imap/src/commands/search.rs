//! SEARCH (RFC 9051 sections 6.4.4 and 7.3.4, RFC 4731, RFC 5182, RFC 7162 section 3.1.5).

use crate::Session;
use crate::parse::{SearchCommand, SearchReturn, SearchTerm};
use crate::session::{Job, Outcome};
use crate::wire::SeqSet;
use parliament_ids::{MailboxId, ModSeq, Uid, UidSet};
use parliament_mail_api::{FetchItems, FetchRequest, Rejection, Reply, Request, SearchKey, SearchPage, SearchRequest};

/// A SEARCH under way.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    tag: String,
    uid: bool,
    /// `None`: the SEARCH response of IMAP4rev1.
    result: Option<SearchReturn>,
    key: SearchKey,
    modseq: bool,
    found: UidSet,
    highest: ModSeq,
    /// The mod-sequences of the first and last match are being read: all that MIN and MAX may tell (RFC 7162 section 3.1.10).
    ends: bool,
}

impl Session {
    pub(crate) fn search(&mut self, tag: String, command: SearchCommand) {
        let SearchCommand { uid, result, charset, term, modseq } = command;
        if charset && self.enabled.utf8 {
            // RFC 6855 section 3: the charset is settled.
            return self.tagged(&tag, "BAD CHARSET is not allowed after ENABLE UTF8=ACCEPT");
        }
        let result = match result {
            None if self.enabled.rev2 => Some(SearchReturn { all: true, ..SearchReturn::default() }),
            result => result,
        };
        if modseq {
            self.enable_condstore();
        }
        let key = self.search_key(term);
        if result.is_some_and(|result| result.save) {
            // A SEARCH that fails leaves nothing saved (RFC 5182 section 2.1).
            self.saved = UidSet::new();
        }
        let search = Search { tag, uid, result, key, modseq, found: UidSet::new(), highest: ModSeq(0), ends: false };
        self.search_from(Box::new(search), Uid(1));
    }

    fn search_from(&mut self, search: Box<Search>, from: Uid) {
        let Some(mailbox) = self.selected() else { return };
        let key = search.key.clone();
        self.job = Job::Search(search);
        self.call(Request::Search(SearchRequest { mailbox, key, from }));
    }

    /// Everything that needs the session's view becomes UIDs here, once: later pages and retries ask the same (rule 20).
    fn search_key(&self, term: SearchTerm) -> SearchKey {
        match term {
            SearchTerm::Key(key) => key,
            SearchTerm::Seq(set) => SearchKey::Uids(self.open_uids(&set, set == SeqSet::Saved)),
            SearchTerm::Uid(set) => SearchKey::Uids(self.open_uids(&set, true)),
            SearchTerm::Recent => match self.view.as_ref() {
                Some(view) if !self.enabled.rev2 => SearchKey::Uids(UidSet::range(view.recent_from, Uid(u32::MAX))),
                _ => SearchKey::Never,
            },
            SearchTerm::Age { older, seconds } => {
                let bound = self.now.unix.saturating_sub(i64::from(seconds));
                if older { SearchKey::OlderThan(bound) } else { SearchKey::YoungerThan(bound) }
            }
            SearchTerm::EmailId(id) => {
                let own = id.strip_prefix(&format!("M{}_", self.account_number())).and_then(|number| number.parse().ok());
                own.map_or(SearchKey::Never, SearchKey::EmailId)
            }
            SearchTerm::ThreadId(id) => {
                let hash = id.strip_prefix('T').filter(|hex| hex.len() == 16).and_then(|hex| u64::from_str_radix(hex, 16).ok());
                hash.map_or(SearchKey::Never, SearchKey::ThreadId)
            }
            SearchTerm::And(terms) => SearchKey::And(terms.into_iter().map(|term| self.search_key(term)).collect()),
            SearchTerm::Or(terms) => SearchKey::Or(vec![self.search_key(terms.0), self.search_key(terms.1)]),
            SearchTerm::Not(term) => SearchKey::Not(Box::new(self.search_key(*term))),
        }
    }

    pub(crate) fn on_search(&mut self, mut search: Box<Search>, outcome: Outcome) {
        match outcome {
            Outcome::Reply(Reply::Found(page)) => {
                let SearchPage { uids, highest_modseq, next } = page;
                search.found = search.found.union(&uids);
                search.highest = search.highest.max(highest_modseq);
                match next {
                    Some(next) => self.search_from(search, next),
                    None => self.search_found(search),
                }
            }
            Outcome::Reply(Reply::Fetched(page)) if search.ends => {
                search.highest = page.rows.iter().map(|row| row.flags.modseq).max().unwrap_or(search.highest);
                self.end_search(&search);
            }
            Outcome::Reply(_) => self.wrong_reply(&search.tag),
            Outcome::Rejected(Rejection::NoSuchMailbox) => {
                self.finish(&search.tag, search.uid, format_args!("NO [NONEXISTENT] The mailbox was deleted"));
            }
            Outcome::Rejected(rejection) => self.rejected(&search.tag, rejection, false, search.uid),
            Outcome::Unserved => self.unavailable(&search.tag),
        }
    }

    fn search_found(&mut self, mut search: Box<Search>) {
        if let Some(view) = self.view.as_ref() {
            search.found = search.found.intersection(view.shown.uids());
        }
        let ends_only = search.result.is_some_and(|result| (result.min || result.max) && !result.all && !result.count);
        let Some(mailbox) = self.selected() else { return };
        if ends_only && search.modseq && !search.found.is_empty() {
            search.ends = true;
            let request = ends_request(mailbox, &search);
            self.job = Job::Search(search);
            return self.call(Request::Fetch(request));
        }
        self.end_search(&search);
    }

    fn end_search(&mut self, search: &Search) {
        match search.result {
            None => self.write_search(search),
            Some(result) => {
                if result.save {
                    self.saved = saved(result, &search.found);
                }
                let tells = result.min || result.max || result.count || result.all;
                if tells {
                    self.write_esearch(search, result);
                }
            }
        }
        self.finish(&search.tag, search.uid, format_args!("OK Search completed"));
    }

    /// What is told of a message: its UID or its sequence number.
    fn as_told(&self, search: &Search, uids: &UidSet) -> UidSet {
        match self.view.as_ref() {
            Some(view) if !search.uid => view.shown.seqs_of(uids),
            _ => uids.clone(),
        }
    }

    fn write_search(&mut self, search: &Search) {
        let told = self.as_told(search, &search.found);
        self.w.text("* SEARCH");
        for number in &told {
            self.w.fmt(format_args!(" {number}"));
        }
        if search.modseq && !told.is_empty() {
            self.w.fmt(format_args!(" (MODSEQ {})", search.highest));
        }
        self.w.text("\r\n");
    }

    fn write_esearch(&mut self, search: &Search, result: SearchReturn) {
        let told = self.as_told(search, &search.found);
        self.w.text("* ESEARCH (TAG ");
        self.w.string(search.tag.as_bytes());
        self.w.text(if search.uid { ") UID" } else { ")" });
        if let (true, Some(first)) = (result.min, told.first()) {
            self.w.fmt(format_args!(" MIN {first}"));
        }
        if let (true, Some(last)) = (result.max, told.last()) {
            self.w.fmt(format_args!(" MAX {last}"));
        }
        if result.count {
            self.w.fmt(format_args!(" COUNT {}", told.len()));
        }
        if result.all && !told.is_empty() {
            self.w.fmt(format_args!(" ALL {told}"));
        }
        if search.modseq && !told.is_empty() {
            self.w.fmt(format_args!(" MODSEQ {}", search.highest));
        }
        self.w.text("\r\n");
    }
}

/// The matches that MIN and MAX tell.
fn ends(result: SearchReturn, found: &UidSet) -> UidSet {
    let first = found.first().filter(|_| result.min);
    let last = found.last().filter(|_| result.max);
    UidSet::from_ranges(first.into_iter().chain(last).map(|uid| (uid.0, uid.0)))
}

/// What SAVE keeps (RFC 5182 section 2.1): with MIN or MAX and neither ALL nor COUNT just those.
fn saved(result: SearchReturn, found: &UidSet) -> UidSet {
    if (result.min || result.max) && !result.all && !result.count { ends(result, found) } else { found.clone() }
}

fn ends_request(mailbox: MailboxId, search: &Search) -> FetchRequest {
    let uids = ends(search.result.unwrap_or_default(), &search.found);
    FetchRequest { mailbox, uids, items: FetchItems { flags: true, ..FetchItems::default() }, changed_since: None, vanished: false }
}
