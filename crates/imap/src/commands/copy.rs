//! COPY and MOVE (RFC 9051 sections 6.4.7 and 6.4.8, RFC 4315 section 3).

use super::mailbox::Kind;
use crate::Session;
use crate::wire::SeqSet;
use parliament_ids::{MailboxName, UidSet, UidValidity};
use parliament_mail_api::{Mutation, Request};

impl Session {
    pub(crate) fn copy(&mut self, tag: String, uid: bool, set: &SeqSet, to: MailboxName, moves: bool) {
        let Some(view) = self.view.as_ref() else { return };
        let (from, read_only) = (view.mailbox, view.read_only);
        if moves && read_only {
            return self.tagged(&tag, "NO [READ-ONLY] The mailbox is selected read-only");
        }
        let (uids, lost) = match self.known_uids_and_lost(set, uid) {
            Ok(found) => found,
            Err(error) => return self.refuse(&tag, &error, "CANNOT"),
        };
        if lost {
            // All or none: a message that the client counts on is gone, so nothing is copied (RFC 2180 section 4.4).
            return self.done(&tag, format_args!("NO [EXPUNGEISSUED] Some of the messages were expunged"));
        }
        let name = if moves { "Move" } else { "Copy" };
        if uids.is_empty() {
            return self.sync_as(tag, Kind::Plain(name));
        }
        let request = if moves { Mutation::Move { from, uids, to } } else { Mutation::Copy { from, uids, to } };
        self.simple(tag, Kind::Copy { moves }, Request::Mutate(request));
    }

    pub(crate) fn on_copied(&mut self, tag: &str, moves: bool, uid_validity: UidValidity, source: &UidSet, target: &UidSet) {
        let code = if source.is_empty() { String::new() } else { format!("[COPYUID {uid_validity} {source} {target}] ") };
        if !moves {
            return self.done(tag, format_args!("OK {code}Copy completed"));
        }
        if !code.is_empty() {
            self.w.fmt(format_args!("* OK {code}Moved\r\n"));
        }
        // The client asked for these responses, whatever it has pipelined behind (RFC 6851 section 3.3).
        self.tell_expunges();
        self.done(tag, format_args!("OK Move completed"));
    }
}
