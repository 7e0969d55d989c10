//! Commands of one or two calls: NOOP, CREATE, DELETE, RENAME, SUBSCRIBE, EXPUNGE, CLOSE, and the common part of others.

use crate::parse::StatusItem;
use crate::session::{Job, Outcome};
use crate::wire::SeqSet;
use crate::{Session, commands::list::ListJob};
use parliament_ids::limits::MESSAGES_PER_ENTRY_MAX;
use parliament_ids::{MailboxName, UidSet};
use parliament_mail_api::{Mutation, Rejection, Reply, Request, SpecialUse};

/// A command that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Simple {
    pub(crate) tag: String,
    pub(crate) kind: Kind,
}

/// Which command.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A command with nothing to tell but its name.
    Plain(&'static str),
    Create,
    Status {
        name: MailboxName,
        items: Vec<StatusItem>,
    },
    List(Box<ListJob>),
    Select {
        examine: bool,
    },
    Close,
    /// EXPUNGE; the UIDs left to do when they were named.
    Expunge {
        rest: Option<UidSet>,
    },
    Copy {
        moves: bool,
    },
    /// GETQUOTAROOT asks for the mailbox first.
    QuotaRoot {
        name: MailboxName,
    },
    Quota,
}

impl Session {
    /// Sends a request whose answer ends the command.
    pub(crate) fn simple(&mut self, tag: String, kind: Kind, request: Request) {
        self.job = Job::Simple(Simple { tag, kind });
        self.call(request);
    }

    pub(crate) fn sync(&mut self, tag: String, check: bool) {
        let name = if check { "Check" } else { "Noop" };
        match &self.view {
            None if check => self.tagged(&tag, "BAD Select a mailbox first"),
            Some(view) if !view.gone => self.simple(tag, Kind::Plain(name), Request::Sync),
            _ => self.done(&tag, format_args!("OK {name} completed")),
        }
    }

    pub(crate) fn create(&mut self, tag: String, name: MailboxName, special_use: Vec<SpecialUse>) {
        self.simple(tag, Kind::Create, Request::Mutate(Mutation::Create { name, special_use }));
    }
    pub(crate) fn delete(&mut self, tag: String, name: MailboxName) {
        if name.is_inbox() {
            return self.tagged(&tag, "NO [CANNOT] INBOX cannot be deleted");
        }
        self.simple(tag, Kind::Plain("Delete"), Request::Mutate(Mutation::Delete { name }));
    }
    pub(crate) fn rename(&mut self, tag: String, from: MailboxName, to: MailboxName) {
        self.simple(tag, Kind::Plain("Rename"), Request::Mutate(Mutation::Rename { from, to }));
    }
    pub(crate) fn subscribe(&mut self, tag: String, name: MailboxName, on: bool) {
        let kind = Kind::Plain(if on { "Subscribe" } else { "Unsubscribe" });
        self.simple(tag, kind, Request::Mutate(Mutation::Subscribe { name, on }));
    }

    pub(crate) fn expunge(&mut self, tag: String, set: Option<&SeqSet>) {
        let Some(view) = self.view.as_ref() else { return };
        if view.read_only {
            return self.tagged(&tag, "NO [READ-ONLY] The mailbox is selected read-only");
        }
        let rest = match set {
            None => None,
            Some(set) => match self.known_uids(set, true) {
                Ok(uids) => Some(uids),
                Err(error) => return self.refuse(&tag, &error, "CANNOT"),
            },
        };
        if rest.as_ref().is_some_and(UidSet::is_empty) {
            return self.sync_as(tag, Kind::Plain("Expunge"));
        }
        self.expunge_chunk(tag, rest);
    }

    /// A `Sync` in place of a request that would do nothing, so that the answer still is of this moment.
    pub(crate) fn sync_as(&mut self, tag: String, kind: Kind) {
        self.simple(tag, kind, Request::Sync);
    }

    fn expunge_chunk(&mut self, tag: String, rest: Option<UidSet>) {
        let Some(mailbox) = self.selected() else { return };
        let (uids, rest) = match rest {
            None => (None, None),
            Some(uids) => {
                let (chunk, rest) = split(&uids, MESSAGES_PER_ENTRY_MAX);
                (Some(chunk), Some(rest))
            }
        };
        self.simple(tag, Kind::Expunge { rest }, Request::Mutate(Mutation::Expunge { mailbox, uids }));
    }

    /// CLOSE expunges silently, and not at all after EXAMINE or without the right to.
    pub(crate) fn close_mailbox(&mut self, tag: String) {
        let Some(view) = self.view.as_ref() else { return };
        if view.gone || view.read_only || !view.rights.contains(parliament_ids::Rights::EXPUNGE) {
            self.leave();
            return self.tagged(&tag, "OK Close completed");
        }
        let mailbox = view.mailbox;
        self.simple(tag, Kind::Close, Request::Mutate(Mutation::Expunge { mailbox, uids: None }));
    }

    pub(crate) fn unselect(&mut self, tag: &str) {
        self.leave();
        self.tagged(tag, "OK Unselect completed");
    }

    /// No mailbox is selected any more.
    pub(crate) fn leave(&mut self) {
        self.view = None;
        self.saved = UidSet::new();
    }

    pub(crate) fn on_simple(&mut self, simple: Simple, outcome: Outcome) {
        let Simple { tag, kind } = simple;
        let reply = match (outcome, &kind) {
            (Outcome::Reply(reply), _) => reply,
            (Outcome::Unserved, _) => return self.unavailable(&tag),
            // Nothing to remove, nothing to tell: the mailbox is closed all the same.
            (Outcome::Rejected(_), Kind::Close) => {
                self.leave();
                return self.tagged(&tag, "OK Close completed");
            }
            (Outcome::Rejected(rejection), Kind::Copy { .. }) => return self.rejected(&tag, rejection, true, true),
            (Outcome::Rejected(Rejection::NoSuchMailbox), Kind::Plain("Noop" | "Check")) => {
                return self.done(&tag, format_args!("OK The mailbox was deleted"));
            }
            (Outcome::Rejected(rejection), _) => return self.rejected(&tag, rejection, false, true),
        };
        match (kind, reply) {
            (Kind::Plain(name), _) => self.done(&tag, format_args!("OK {name} completed")),
            (Kind::Create, Reply::Created { mailbox }) => {
                let id = self.mailbox_id(mailbox);
                self.done(&tag, format_args!("OK [MAILBOXID ({id})] Create completed"));
            }
            (Kind::Status { name, items }, Reply::Status(status)) => {
                self.write_status(&name, &items, &status);
                self.done(&tag, format_args!("OK Status completed"));
            }
            (Kind::List(list), Reply::List(rows)) => self.on_list(&tag, &list, &rows),
            (Kind::Select { examine }, Reply::Selected(selected)) => self.on_selected(&tag, *selected, examine),
            (Kind::Expunge { rest }, Reply::Expunged { uids, .. }) => self.on_expunged(tag, rest, &uids),
            (Kind::Close, Reply::Expunged { uids, .. }) if uids.len() >= MESSAGES_PER_ENTRY_MAX as u64 => self.close_mailbox(tag),
            (Kind::Close, _) => {
                self.leave();
                self.tagged(&tag, "OK Close completed");
            }
            (Kind::Copy { moves }, Reply::Copied { uid_validity, source, target }) => {
                self.on_copied(&tag, moves, uid_validity, &source, &target);
            }
            (Kind::QuotaRoot { name }, Reply::Status(_)) => self.on_quota_root(tag, &name),
            (Kind::Quota, Reply::Quota { limits, usage }) => self.on_quota(&tag, limits, usage),
            _ => self.wrong_reply(&tag),
        }
    }

    /// An answer that does not fit its request: a fault of the server, told and survived.
    pub(crate) fn wrong_reply(&mut self, tag: &str) {
        self.tagged(tag, "NO [SERVERBUG] Unexpected answer of the mail store");
    }

    fn on_expunged(&mut self, tag: String, rest: Option<UidSet>, removed: &UidSet) {
        let more = match &rest {
            None => removed.len() >= MESSAGES_PER_ENTRY_MAX as u64,
            Some(rest) => !rest.is_empty(),
        };
        if more && self.view.as_ref().is_some_and(|view| !view.gone) {
            return self.expunge_chunk(tag, rest);
        }
        // The client asked for these responses, whatever it has pipelined behind.
        self.tell_expunges();
        self.done(&tag, format_args!("OK Expunge completed"));
    }
}

/// The first `count` members, and the others.
pub(crate) fn split(uids: &UidSet, count: usize) -> (UidSet, UidSet) {
    let mut left = count as u64;
    let mut first = UidSet::new();
    for (a, b) in uids.ranges() {
        if left == 0 {
            break;
        }
        let here = u64::from(b - a) + 1;
        let taken = here.min(left);
        left -= taken;
        let last = a.saturating_add(u32::try_from(taken - 1).unwrap_or(u32::MAX));
        first.insert_range(parliament_ids::Uid(*a), parliament_ids::Uid(last));
    }
    let rest = uids.difference(&first);
    (first, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_takes_exactly_as_many() {
        let uids = UidSet::from_ranges([(1, 5), (10, 10), (20, 40)]);
        for n in 0..30 {
            let (first, rest) = split(&uids, n);
            assert_eq!(first.len(), (n as u64).min(27));
            assert_eq!(first.union(&rest), uids);
            assert!(first.last() < rest.first() || rest.is_empty());
        }
    }
}
