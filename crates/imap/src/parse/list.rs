//! LIST, LSUB and STATUS (RFC 9051 sections 6.3.9 and 6.3.11, RFC 3501 section 6.3.9, RFC 5258, RFC 5819).

use super::ast::{Command, ListCommand, StatusItem};
use super::name::{decode, mailbox};
use crate::wire::{Cursor, ParseError, Parsed};
use parliament_mail_api::ListPattern;

/// Patterns of one LIST.
const PATTERNS_MAX: usize = 100;
/// Wildcards of one pattern: matching stays linear in name length times this.
const WILDCARDS_MAX: usize = 16;

pub(super) fn list(c: &mut Cursor<'_>, utf8: bool) -> Parsed<Command> {
    let mut list = ListCommand::default();
    c.sp()?;
    if c.eat(b'(') {
        selection(c, &mut list)?;
        c.sp()?;
    }
    let reference = decode(&c.astring()?, utf8)?;
    c.sp()?;
    if c.eat(b'(') {
        loop {
            if list.patterns.len() == PATTERNS_MAX {
                return Err(ParseError::Bad("Too many patterns"));
            }
            list.patterns.push(pattern(c, &reference, utf8)?);
            if c.eat(b')') {
                break;
            }
            c.sp()?;
        }
    } else {
        list.patterns.push(pattern(c, &reference, utf8)?);
    }
    if c.eat(b' ') {
        if !c.eat_word("RETURN (") {
            return Err(ParseError::Bad("RETURN options expected"));
        }
        returns(c, &mut list)?;
    }
    if list.recursive_match && !list.only_subscribed && !list.only_special_use {
        return Err(ParseError::Bad("RECURSIVEMATCH needs another selection option"));
    }
    Ok(Command::List(list))
}

pub(super) fn lsub(c: &mut Cursor<'_>, utf8: bool) -> Parsed<Command> {
    c.sp()?;
    let reference = decode(&c.astring()?, utf8)?;
    c.sp()?;
    Ok(Command::Lsub { patterns: vec![pattern(c, &reference, utf8)?] })
}

/// A pattern after its reference. Runs of wildcards are one wildcard, so that `*%*%*` costs no more than `*`. INBOX is folded
/// when it is a whole first level.
fn pattern(c: &mut Cursor<'_>, reference: &str, utf8: bool) -> Parsed<ListPattern> {
    let text = decode(&c.list_mailbox()?, utf8)?;
    if text.is_empty() {
        return Ok(ListPattern(String::new()));
    }
    let mut joined = String::with_capacity(reference.len() + text.len());
    let mut wildcards = 0;
    for ch in reference.chars().chain(text.chars()) {
        let last = joined.chars().next_back();
        match (ch, last) {
            ('*', Some('*')) | ('%', Some('*' | '%')) => continue,
            ('*', Some('%')) => {
                joined.pop();
            }
            ('*' | '%', _) => wildcards += 1,
            _ => {}
        }
        joined.push(ch);
    }
    if wildcards > WILDCARDS_MAX {
        return Err(ParseError::No("LIMIT", "Too many wildcards in the pattern"));
    }
    let first = joined.split('/').next().unwrap_or_default();
    if first.eq_ignore_ascii_case("INBOX") {
        joined.replace_range(..5, "INBOX");
    }
    Ok(ListPattern(joined))
}

fn selection(c: &mut Cursor<'_>, list: &mut ListCommand) -> Parsed<()> {
    if c.eat(b')') {
        return Ok(());
    }
    loop {
        match c.atom()?.to_ascii_uppercase().as_str() {
            "SUBSCRIBED" => list.only_subscribed = true,
            "SPECIAL-USE" => list.only_special_use = true,
            "RECURSIVEMATCH" => list.recursive_match = true,
            // Every mailbox is local: the option selects nothing further (RFC 5258 section 3.1).
            "REMOTE" => {}
            _ => return Err(ParseError::Bad("Unknown LIST selection option")),
        }
        if c.eat(b')') {
            return Ok(());
        }
        c.sp()?;
    }
}

fn returns(c: &mut Cursor<'_>, list: &mut ListCommand) -> Parsed<()> {
    if c.eat(b')') {
        return Ok(());
    }
    loop {
        match c.atom()?.to_ascii_uppercase().as_str() {
            "SUBSCRIBED" => list.return_subscribed = true,
            // Both are told with every row.
            "CHILDREN" | "SPECIAL-USE" => {}
            "STATUS" => {
                c.sp()?;
                list.status = Some(status_items(c)?);
            }
            _ => return Err(ParseError::Bad("Unknown LIST return option")),
        }
        if c.eat(b')') {
            return Ok(());
        }
        c.sp()?;
    }
}

pub(super) fn status(c: &mut Cursor<'_>, utf8: bool) -> Parsed<Command> {
    c.sp()?;
    let name = mailbox(c, utf8)?;
    c.sp()?;
    Ok(Command::Status { name, items: status_items(c)? })
}

fn status_items(c: &mut Cursor<'_>) -> Parsed<Vec<StatusItem>> {
    let mut items = Vec::new();
    c.expect(b'(', "STATUS item list expected")?;
    loop {
        let item = match c.atom()?.to_ascii_uppercase().as_str() {
            "MESSAGES" => StatusItem::Messages,
            "UIDNEXT" => StatusItem::UidNext,
            "UIDVALIDITY" => StatusItem::UidValidity,
            "UNSEEN" => StatusItem::Unseen,
            "DELETED" => StatusItem::Deleted,
            "SIZE" => StatusItem::Size,
            "RECENT" => StatusItem::Recent,
            "HIGHESTMODSEQ" => StatusItem::HighestModSeq,
            "MAILBOXID" => StatusItem::MailboxId,
            "APPENDLIMIT" => StatusItem::AppendLimit,
            _ => return Err(ParseError::Bad("Unknown STATUS item")),
        };
        if !items.contains(&item) {
            items.push(item);
        }
        if c.eat(b')') {
            return Ok(items);
        }
        c.sp()?;
    }
}
