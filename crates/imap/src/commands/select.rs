//! SELECT and EXAMINE (RFC 9051 sections 6.3.2 and 6.3.3, RFC 7162 section 3.1.2), and sets of messages against the view.

use super::mailbox::Kind;
use crate::Session;
use crate::session::View;
use crate::wire::{Num, ParseError, Parsed, SeqSet};
use parliament_ids::{Keyword, MailboxName, Rights, SystemFlags, UidSet, limits::KEYWORDS_PER_MAILBOX_MAX};
use parliament_mail_api::{MailboxRef, Request, SelectRequest, Selected};

impl Session {
    pub(crate) fn select(&mut self, tag: String, name: MailboxName, examine: bool, condstore: bool) {
        if self.view.is_some() {
            self.leave();
            self.w.text("* OK [CLOSED] The earlier mailbox is closed\r\n");
        }
        if condstore {
            self.enable_condstore();
        }
        let request = SelectRequest { mailbox: MailboxRef::Name(name) };
        self.simple(tag, Kind::Select { examine }, Request::Select(request));
    }

    pub(crate) fn on_selected(&mut self, tag: &str, selected: Selected, examine: bool) {
        let first_unseen = selected.first_unseen;
        let (uid_validity, uid_next) = (selected.uid_validity, selected.uid_next);
        let view = self.view.insert(View::new(selected, examine));
        let unseen = first_unseen.and_then(|uid| view.shown.rank(uid));
        let (modseq, read_only) = (view.told_modseq.0.max(1), view.read_only);
        let (id, name) = (view.mailbox, view.name.clone());
        let id = self.mailbox_id(id);
        self.tell_flags_response();
        self.tell_exists();
        if let (Some(seq), false) = (unseen, self.enabled.rev2) {
            self.w.fmt(format_args!("* OK [UNSEEN {seq}] First unseen\r\n"));
        }
        self.w.fmt(format_args!("* OK [UIDVALIDITY {uid_validity}] UIDs are valid\r\n* OK [UIDNEXT {uid_next}] Next UID\r\n"));
        self.w.fmt(format_args!("* OK [HIGHESTMODSEQ {modseq}] Highest\r\n* OK [MAILBOXID ({id})] Ok\r\n"));
        if self.enabled.rev2 {
            self.w.text("* LIST () \"/\" ");
            self.w.mailbox(name.as_str());
            self.w.text("\r\n");
        }
        let (mode, command) = (if read_only { "READ-ONLY" } else { "READ-WRITE" }, if examine { "Examine" } else { "Select" });
        self.tagged(tag, &format!("OK [{mode}] {command} completed"));
    }

    /// FLAGS, and PERMANENTFLAGS by the rights.
    pub(crate) fn tell_flags_response(&mut self) {
        let Some(view) = self.view.as_ref() else { return };
        let keywords = view.keywords.iter().map(Keyword::as_str);
        let all: Vec<&str> = SystemFlags::NAMES.iter().map(|(_, name)| *name).chain(keywords.clone()).collect();
        let mut permanent: Vec<&str> = Vec::new();
        if !view.read_only {
            let may = |flag| {
                view.rights.contains(match flag {
                    SystemFlags::SEEN => Rights::SEEN,
                    SystemFlags::DELETED => Rights::DELETE_MESSAGES,
                    _ => Rights::WRITE,
                })
            };
            permanent.extend(SystemFlags::NAMES.iter().filter(|(flag, _)| may(*flag)).map(|(_, name)| *name));
            if view.rights.contains(Rights::WRITE) {
                permanent.extend(keywords);
                permanent.extend((view.keywords.len() < KEYWORDS_PER_MAILBOX_MAX).then_some("\\*"));
            }
        }
        self.w.fmt(format_args!("* FLAGS ({})\r\n* OK [PERMANENTFLAGS ({})] Flags that are kept\r\n", all.join(" "), permanent.join(" ")));
    }

    /// The messages a set names, among those the client knows. Sequence numbers out of range are an error (RFC 9051 section
    /// 9, `seq-number`); UIDs that are no messages are passed over. Includes messages that are `hidden`.
    fn named_uids(&self, set: &SeqSet, uid: bool) -> Parsed<UidSet> {
        let Some(view) = self.view.as_ref() else { return Err(ParseError::Bad("Select a mailbox first")) };
        if *set == SeqSet::Saved {
            return Ok(self.saved.intersection(view.shown.uids()));
        }
        if uid {
            return Ok(set.resolve(view.shown.last()).intersection(view.shown.uids()));
        }
        let count = view.shown.count();
        if !set.within(count) {
            return Err(ParseError::Bad("No message has this sequence number"));
        }
        Ok(view.shown.uids_of(&set.resolve(count)))
    }

    /// As [`Session::named_uids`], without those known to be expunged.
    pub(crate) fn known_uids(&self, set: &SeqSet, uid: bool) -> Parsed<UidSet> {
        let named = self.named_uids(set, uid)?;
        Ok(self.view.as_ref().map(|view| view.alive(&named)).unwrap_or_default())
    }

    /// As [`Session::known_uids`], and whether some that the set names by number are expunged already.
    pub(crate) fn known_uids_and_lost(&self, set: &SeqSet, uid: bool) -> Parsed<(UidSet, bool)> {
        let named = self.named_uids(set, uid)?;
        let known = self.view.as_ref().map(|view| view.alive(&named)).unwrap_or_default();
        let lost = !uid && known.len() != named.len();
        Ok((known, lost))
    }

    /// A set for commands that only read: a range up to `*` takes in what arrives meanwhile, so that a client which asks for
    /// `n:*` is told of it at once.
    pub(crate) fn open_uids(&self, set: &SeqSet, uid: bool) -> UidSet {
        let (Some(view), SeqSet::Ranges(ranges)) = (self.view.as_ref(), set) else {
            return self.known_uids(set, uid).unwrap_or_default();
        };
        if uid {
            let last = view.shown.last();
            return UidSet::from_ranges(ranges.iter().map(|(a, b)| match (a, b) {
                (Num::Last, Num::Last) => (last, last),
                (Num::At(n), Num::Last) | (Num::Last, Num::At(n)) => ((*n).min(last.max(1)), u32::MAX),
                (Num::At(a), Num::At(b)) => (*a, *b),
            }));
        }
        let count = view.shown.count();
        let mut uids = view.shown.uids_of(&set.resolve(count));
        for (a, b) in ranges {
            let ((Num::At(n), Num::Last) | (Num::Last, Num::At(n))) = (a, b) else { continue };
            let from = view.shown.select((*n).min(count)).map_or(1, |uid| uid.0);
            uids = uids.union(&UidSet::from_ranges([(from, u32::MAX)]));
        }
        uids
    }
}
