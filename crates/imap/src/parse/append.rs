//! APPEND around its message literals (RFC 9051 section 6.3.12, RFC 3502, RFC 6855 section 4).

use super::name::mailbox;
use super::store::flag_list;
use super::{parse_tag, verb};
use crate::wire::{Cursor, ParseError, Parsed, parse_internal_date};
use parliament_ids::{DateTime, FlagSet, MailboxName};

/// What stands before a message literal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppendTail {
    pub(crate) flags: FlagSet,
    pub(crate) date: Option<DateTime>,
    /// `UTF8 (`: a closing parenthesis follows the literal.
    pub(crate) utf8: bool,
}

/// An APPEND up to its first message literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendHead {
    pub(crate) tag: String,
    /// The mailbox and what the first message has, or why the command cannot be carried out.
    pub(crate) body: Result<(MailboxName, AppendTail), ParseError>,
}

/// Looks at a command that ends with a literal's announcement. `Some` when it is an APPEND and the literal is its message;
/// then errors in what stands before it are told within. `None` when the literal is an ordinary string.
pub(crate) fn parse_append_head(text: &[u8], utf8: bool) -> Option<AppendHead> {
    let (tag, mut c) = parse_tag(text)?;
    if verb(&mut c).ok()? != ("APPEND".to_owned(), false) {
        return None;
    }
    if c.sp().is_err() {
        return Some(AppendHead { tag, body: Err(ParseError::Bad("APPEND needs a mailbox")) });
    }
    let name = c.clone().astring();
    if name.is_err() && is_announcement(c.rest()) {
        // The mailbox itself comes as a literal.
        return None;
    }
    let body = mailbox(&mut c, utf8).and_then(|name| Ok((name, before_literal(&mut c)?)));
    Some(AppendHead { tag, body })
}

/// Parses what follows a message literal: `None` at the end of the command, else what stands before the next literal.
pub(crate) fn parse_append_tail(text: &[u8], closes_utf8: bool, more: bool) -> Parsed<Option<AppendTail>> {
    let mut c = Cursor::new(text);
    if closes_utf8 {
        c.expect(b')', "UTF8 data is not closed")?;
    }
    if more { before_literal(&mut c).map(Some) } else { c.end().map(|()| None) }
}

/// `[SP flag-list] [SP date-time] SP ["UTF8 ("] literal`, the literal being only announced.
fn before_literal(c: &mut Cursor<'_>) -> Parsed<AppendTail> {
    let mut tail = AppendTail::default();
    c.sp()?;
    if c.peek() == Some(b'(') {
        tail.flags = flag_list(c)?;
        c.sp()?;
    }
    if c.peek() == Some(b'"') {
        let date = c.quoted()?;
        tail.date = Some(parse_internal_date(&date).ok_or(ParseError::Bad("Invalid date-time"))?);
        c.sp()?;
    }
    tail.utf8 = c.eat_word("UTF8 (");
    if is_announcement(c.rest()) { Ok(tail) } else { Err(ParseError::Bad("Message literal expected")) }
}

/// The rest of the text is nothing but a literal's announcement.
fn is_announcement(rest: &[u8]) -> bool {
    let rest = rest.strip_prefix(b"~").unwrap_or(rest);
    let digits = rest.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).map(|rest| rest.strip_suffix(b"+").unwrap_or(rest));
    digits.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}
