//! STORE (RFC 9051 section 6.4.6, RFC 7162 section 3.1.3), in chunks of bounded size.

use super::mailbox::{Kind, split};
use crate::Session;
use crate::parse::StoreCommand;
use crate::session::{Absorbed, Job, Outcome};
use parliament_ids::limits::MESSAGES_PER_ENTRY_MAX;
use parliament_ids::{ModSeq, Uid, UidSet};
use parliament_mail_api::{FetchItems, FetchRequest, FlagChange, Mutation, Reply, Request};

/// A STORE under way.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    tag: String,
    uid: bool,
    change: FlagChange,
    silent: bool,
    unchanged_since: Option<ModSeq>,
    /// Not yet sent.
    rest: UidSet,
    /// Stored, and not yet told with their flags.
    untold: UidSet,
    /// Failed UNCHANGEDSINCE.
    modified: UidSet,
    lost: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A chunk is being stored.
    Storing,
    /// Flags of messages that the STORE left as they were are being read, since the client waits for them.
    Reading,
}

impl Session {
    pub(crate) fn store(&mut self, tag: String, command: StoreCommand) {
        let StoreCommand { uid, set, change, silent, unchanged_since } = command;
        if self.view.as_ref().is_some_and(|view| view.read_only) {
            return self.tagged(&tag, "NO [READ-ONLY] The mailbox is selected read-only");
        }
        let (rest, lost) = match self.known_uids_and_lost(&set, uid) {
            Ok(found) => found,
            Err(error) => return self.refuse(&tag, &error, "CANNOT"),
        };
        if unchanged_since.is_some() {
            self.enable_condstore();
        }
        if rest.is_empty() && !lost {
            return self.sync_as(tag, Kind::Plain("Store"));
        }
        let (untold, modified) = (if silent { UidSet::new() } else { rest.clone() }, UidSet::new());
        let store = Store { tag, uid, change, silent, unchanged_since, rest, untold, modified, lost, stage: Stage::Storing };
        self.store_next(Box::new(store));
    }

    fn store_next(&mut self, mut store: Box<Store>) {
        let Some(view) = self.view.as_ref().filter(|view| !view.gone) else { return self.end_store(&store) };
        if store.rest.is_empty() {
            return self.read_untold(store);
        }
        let (uids, rest) = split(&store.rest, MESSAGES_PER_ENTRY_MAX);
        store.rest = rest;
        let request = Mutation::Store { mailbox: view.mailbox, uids, change: store.change.clone(), unchanged_since: store.unchanged_since };
        self.job = Job::Store(store);
        self.call(Request::Mutate(request));
    }

    fn read_untold(&mut self, mut store: Box<Store>) {
        let Some(view) = self.view.as_ref().filter(|view| !view.gone) else { return self.end_store(&store) };
        store.untold = view.alive(&store.untold).difference(&store.modified);
        if store.untold.is_empty() {
            return self.end_store(&store);
        }
        let items = FetchItems { flags: true, ..FetchItems::default() };
        let uids = store.untold.clone();
        let request = FetchRequest { mailbox: view.mailbox, uids, items, changed_since: None, vanished: false };
        store.stage = Stage::Reading;
        self.job = Job::Store(store);
        self.call(Request::Fetch(request));
    }

    pub(crate) fn on_store(&mut self, mut store: Box<Store>, outcome: Outcome, absorbed: &Absorbed) {
        let own = match (&outcome, store.stage) {
            (Outcome::Reply(Reply::Stored { modseq, .. }), Stage::Storing) => *modseq,
            _ => None,
        };
        for row in &absorbed.changed {
            // .SILENT hides the own echo alone, and not its MODSEQ (RFC 7162 section 3.1.3).
            let echo = own == Some(row.modseq);
            if !(echo && store.silent) {
                self.tell_flags(row, true);
            } else if self.enabled.condstore {
                self.tell_flags(row, false);
            }
        }
        let told: UidSet = absorbed.changed.iter().map(|row| row.uid).collect();
        store.untold = store.untold.difference(&told);
        match (outcome, store.stage) {
            (Outcome::Reply(Reply::Stored { modified, missing, .. }), Stage::Storing) => {
                store.modified = store.modified.union(&modified);
                store.lost |= missing && !store.uid;
                self.store_next(store);
            }
            (Outcome::Reply(Reply::Fetched(page)), Stage::Reading) => {
                self.learn_keywords(page.keywords);
                for row in &page.rows {
                    self.tell_flags(&row.flags, true);
                }
                match page.next {
                    None => self.end_store(&store),
                    Some(next) => {
                        let first = store.untold.first();
                        store.untold = store.untold.intersection(&UidSet::range(next, Uid(u32::MAX)));
                        if store.untold.first() == first { self.wrong_reply(&store.tag) } else { self.read_untold(store) }
                    }
                }
            }
            (Outcome::Reply(_), _) => self.wrong_reply(&store.tag),
            (Outcome::Rejected(rejection), _) => self.rejected(&store.tag, rejection, false, store.uid),
            // Everything is stored; only the echo is missing, and the client may ask for it.
            (Outcome::Unserved, Stage::Reading) => self.end_store(&store),
            (Outcome::Unserved, Stage::Storing) => self.unavailable(&store.tag),
        }
    }

    fn end_store(&mut self, store: &Store) {
        let modified = match self.view.as_ref() {
            Some(view) if !store.uid => view.shown.seqs_of(&store.modified),
            _ => store.modified.clone(),
        };
        let gone = self.view.as_ref().is_none_or(|view| view.gone);
        let code = if modified.is_empty() { String::new() } else { format!("[MODIFIED {modified}] ") };
        let reply = match (gone, store.lost) {
            (true, _) => "NO [NONEXISTENT] The mailbox was deleted".to_owned(),
            (false, true) if modified.is_empty() => "NO [EXPUNGEISSUED] Some of the messages were expunged".to_owned(),
            (false, true) => format!("NO {code}Some of the messages were expunged"),
            (false, false) if modified.is_empty() => "OK Store completed".to_owned(),
            (false, false) => format!("OK {code}Conditional store failed for some"),
        };
        self.finish(&store.tag, store.uid, format_args!("{reply}"));
    }
}
