//! How a session keeps its client's view true: every answer brings what changed since the session's mark, from whichever holder
//! gave it. What may be told is told at once; expunges wait until they are lawful (RFC 9051 section 7.5.1).

use super::Session;
use parliament_ids::{Keyword, ModSeq, SystemFlags, Uid, UidSet};
use parliament_mail_api::{Delta, FlagRow};

/// What of a delta the running command has to tell or to suppress.
#[derive(Debug, Default)]
pub(crate) struct Absorbed {
    /// Messages whose flags changed, the client's own changes included.
    pub(crate) changed: Vec<FlagRow>,
}

/// Commands that use no sequence number, so that one waiting behind the present command does not forbid EXPUNGE. UID SEARCH is
/// not among them: its keys may.
const HARMLESS: [&[u8]; 12] = [
    b"UID FETCH ",
    b"UID STORE ",
    b"UID COPY ",
    b"UID MOVE ",
    b"UID EXPUNGE ",
    b"NOOP",
    b"IDLE",
    b"LOGOUT",
    b"CHECK",
    b"STATUS ",
    b"LIST ",
    b"CLOSE",
];

impl Session {
    /// Takes a delta into the view. Arrivals and keywords are told here; changed flags are for the caller.
    pub(crate) fn absorb(&mut self, delta: Option<Delta>) -> Absorbed {
        let (Some(delta), Some(view)) = (delta, self.view.as_mut()) else { return Absorbed::default() };
        if delta.mailbox != view.mailbox || view.gone {
            return Absorbed::default();
        }
        if delta.gone {
            view.gone = true;
            view.hidden = view.shown.uids().clone();
            return Absorbed::default();
        }
        view.hidden = view.hidden.union(&delta.vanished.intersection(view.shown.uids()));
        let arrived = delta.arrived.intersection(&UidSet::range(view.mark.uid_next, Uid(u32::MAX)));
        view.shown.add(&arrived);
        view.mark.modseq = view.mark.modseq.max(delta.modseq);
        view.mark.uid_next = view.mark.uid_next.max(delta.uid_next);
        if view.hidden.is_empty() {
            view.told_modseq = view.mark.modseq;
        }
        self.learn_keywords(delta.keywords);
        if !arrived.is_empty() {
            self.tell_exists();
        }
        Absorbed { changed: delta.changed }
    }

    /// Takes a newer list of keywords and tells it.
    pub(crate) fn learn_keywords(&mut self, keywords: Vec<Keyword>) {
        let Some(view) = self.view.as_mut() else { return };
        if keywords.len() > view.keywords.len() {
            view.keywords = keywords;
            self.tell_flags_response();
        }
    }

    /// EXISTS, and RECENT under IMAP4rev1.
    pub(crate) fn tell_exists(&mut self) {
        let Some(view) = self.view.as_ref() else { return };
        self.w.fmt(format_args!("* {} EXISTS\r\n", view.shown.count()));
        if !self.enabled.rev2 {
            self.w.fmt(format_args!("* {} RECENT\r\n", view.recent()));
        }
    }

    /// FETCH responses for flags that changed.
    pub(crate) fn tell_changed(&mut self, rows: &[FlagRow]) {
        for row in rows {
            self.tell_flags(row, true);
        }
    }

    /// One unsolicited FETCH response; UID is always told, MODSEQ once CONDSTORE is in force (RFC 7162 section 3.2).
    pub(crate) fn tell_flags(&mut self, row: &FlagRow, flags: bool) {
        let Some(view) = self.view.as_ref() else { return };
        let Some(seq) = view.shown.rank(row.uid).filter(|_| !view.hidden.contains(row.uid)) else { return };
        self.w.fmt(format_args!("* {seq} FETCH (UID {}", row.uid));
        if flags {
            self.w.text(" ");
            self.write_flags(row);
        }
        if self.enabled.condstore {
            self.w.fmt(format_args!(" MODSEQ ({})", row.modseq));
        }
        self.w.text(")\r\n");
    }

    /// `FLAGS (…)`
    pub(crate) fn write_flags(&mut self, row: &FlagRow) {
        let Some(view) = self.view.as_ref() else { return };
        let system = SystemFlags::NAMES.iter().filter(|(flag, _)| row.system.contains(*flag)).map(|(_, name)| *name);
        let recent = (!self.enabled.rev2 && row.uid >= view.recent_from).then_some("\\Recent");
        let keywords =
            view.keywords.iter().zip(0_u32..128).filter(|(_, bit)| row.keywords >> bit & 1 == 1).map(|(keyword, _)| keyword.as_str());
        let mut separator = "FLAGS (";
        for name in system.chain(recent).chain(keywords) {
            self.w.text(separator);
            self.w.text(name);
            separator = " ";
        }
        self.w.text(if separator == " " { ")" } else { "FLAGS ()" });
    }

    /// EXPUNGE responses for everything hidden, greatest first, so that no number depends on another.
    pub(crate) fn tell_expunges(&mut self) {
        let Some(view) = self.view.as_mut() else { return };
        if view.hidden.is_empty() {
            return;
        }
        let seqs = view.shown.seqs_of(&view.hidden);
        let hidden = std::mem::take(&mut view.hidden);
        view.shown.remove(&hidden);
        if !view.gone {
            view.told_modseq = view.mark.modseq;
        }
        self.saved = self.saved.difference(&hidden);
        for (first, last) in seqs.ranges().iter().rev() {
            for seq in (*first..=*last).rev() {
                self.w.fmt(format_args!("* {seq} EXPUNGE\r\n"));
            }
        }
    }

    /// False while a command waits that may use sequence numbers the client has already chosen.
    pub(crate) fn pipeline_allows_expunge(&self) -> bool {
        let pending = self.framer.pending();
        if pending.is_empty() {
            return true;
        }
        // One whole line whose command is known to use none; anything more is not worth looking into.
        let one_line = memchr::memchr(b'\n', pending) == Some(pending.len() - 1);
        let command = pending.iter().position(|b| *b == b' ').and_then(|at| pending.get(at + 1..)).unwrap_or_default();
        one_line && HARMLESS.iter().any(|word| command.get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word)))
    }

    /// CONDSTORE comes into force, by ENABLE or by a command that uses it (RFC 7162 section 3.1).
    pub(crate) fn enable_condstore(&mut self) {
        if self.enabled.condstore {
            return;
        }
        self.enabled.condstore = true;
        if let Some(view) = self.view.as_ref() {
            let ModSeq(modseq) = view.told_modseq;
            self.w.fmt(format_args!("* OK [HIGHESTMODSEQ {}] Mod-sequences are told from now on\r\n", modseq.max(1)));
        }
    }
}
