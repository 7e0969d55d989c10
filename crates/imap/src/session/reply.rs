//! Tagged responses and response codes (RFC 9051 section 7.1, RFC 5530).

use super::Session;
use crate::wire::ParseError;
use parliament_mail_api::Rejection;
use std::fmt;

/// Told when the cluster did not serve a request in time.
const UNAVAILABLE: &str = "[UNAVAILABLE] The mail store cannot serve this now, try again later";

impl Session {
    /// A tagged response, preceded by EXPUNGE responses where the command allows them and nothing pipelined forbids them.
    pub(crate) fn finish(&mut self, tag: &str, expunges: bool, reply: fmt::Arguments<'_>) {
        if expunges && self.pipeline_allows_expunge() {
            self.tell_expunges();
        }
        self.w.fmt(format_args!("{tag} {reply}\r\n"));
    }
    /// A tagged response after EXPUNGE responses where they are lawful.
    pub(crate) fn done(&mut self, tag: &str, reply: fmt::Arguments<'_>) {
        self.finish(tag, true, reply);
    }
    /// A tagged response that changes nothing and tells nothing before it.
    pub(crate) fn tagged(&mut self, tag: &str, reply: &str) {
        self.w.fmt(format_args!("{tag} {reply}\r\n"));
    }
    pub(crate) fn unavailable(&mut self, tag: &str) {
        self.tagged(tag, &format!("NO {UNAVAILABLE}"));
    }
    /// A response to a command that could not be parsed. `absent` is the code for names that cannot exist.
    pub(crate) fn refuse(&mut self, tag: &str, error: &ParseError, absent: &str) {
        match error {
            ParseError::Bad(text) => self.tagged(tag, &format!("BAD {text}")),
            ParseError::No("", text) => self.tagged(tag, &format!("NO {text}")),
            ParseError::No(code, text) => self.tagged(tag, &format!("NO [{code}] {text}")),
            ParseError::Name(text) => self.tagged(tag, &format!("NO [{absent}] {text}")),
        }
    }
    /// A tagged NO for a rejection. With `target`, a missing mailbox is the target of APPEND, COPY or MOVE.
    pub(crate) fn rejected(&mut self, tag: &str, rejection: Rejection, target: bool, expunges: bool) {
        let gone = self.view.as_ref().is_some_and(|view| view.gone);
        let text = match rejection {
            Rejection::NoSuchMailbox if target && !gone => "[TRYCREATE] No such mailbox",
            Rejection::NoSuchMailbox => "[NONEXISTENT] No such mailbox",
            Rejection::AlreadyExists => "[ALREADYEXISTS] Mailbox exists already",
            Rejection::NoPermission => "[NOPERM] Permission denied",
            Rejection::OverQuota => "[OVERQUOTA] Quota exceeded",
            Rejection::Limit => "[LIMIT] A limit of the mail store is reached",
            Rejection::Cannot => "[CANNOT] This cannot be done",
            Rejection::UseAttribute => "[USEATTR] Special use is taken or not supported",
            Rejection::TooBig => "[TOOBIG] Message is too large",
            Rejection::UnknownEncoding => "[UNKNOWN-CTE] The part has an encoding that cannot be undone",
            Rejection::Expunged => "[EXPUNGEISSUED] Some of the messages were expunged",
            Rejection::UploadLost => UNAVAILABLE,
            Rejection::StaleRequest => "[SERVERBUG] Request number was used before",
            Rejection::BadBody => "[SERVERBUG] Stored bytes differ from those sent",
            Rejection::NoSuchAccount => "[NOPERM] The account was deleted",
            Rejection::Exhausted => "[LIMIT] The mailbox can take no further message",
        };
        self.finish(tag, expunges, format_args!("NO {text}"));
    }
    /// BYE, then the end. Within a literal sent to the client nothing can be told, so the connection just ends.
    pub(crate) fn bye(&mut self, text: fmt::Arguments<'_>) {
        if !self.is_within_literal() {
            self.w.fmt(format_args!("* BYE {text}\r\n"));
        }
        self.close();
    }
}
