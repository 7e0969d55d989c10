//! STORE and flags (RFC 9051 section 6.4.6, RFC 7162 section 3.1.3).

use super::ast::{Command, StoreCommand};
use crate::wire::{Cursor, ParseError, Parsed, SeqSet};
use parliament_ids::limits::KEYWORDS_PER_MAILBOX_MAX;
use parliament_ids::{FlagSet, Keyword, ModSeq, SystemFlags};
use parliament_mail_api::{FlagChange, FlagMode};

/// `flag-list`, in parentheses.
pub(super) fn flag_list(c: &mut Cursor<'_>) -> Parsed<FlagSet> {
    let mut flags = FlagSet::default();
    c.expect(b'(', "Flag list expected")?;
    if c.eat(b')') {
        return Ok(flags);
    }
    loop {
        flag(c, &mut flags)?;
        if c.eat(b')') {
            return Ok(flags);
        }
        c.sp()?;
    }
}

fn flag(c: &mut Cursor<'_>, flags: &mut FlagSet) -> Parsed<()> {
    if c.eat(b'\\') {
        let name = c.atom()?;
        let known = SystemFlags::NAMES.iter().find(|(_, known)| known[1..].eq_ignore_ascii_case(name));
        let Some((flag, _)) = known else {
            return Err(ParseError::Bad(if name.eq_ignore_ascii_case("Recent") {
                "\\Recent cannot be set"
            } else {
                "Unknown system flag"
            }));
        };
        flags.system = flags.system.union(*flag);
        return Ok(());
    }
    let keyword = Keyword::new(c.word(crate::wire::is_atom_or_bracket, "Flag expected")?).map_err(|error| match error {
        parliament_ids::KeywordError::TooLong => ParseError::No("LIMIT", "Keyword is too long"),
        parliament_ids::KeywordError::NotAnAtom => ParseError::Bad("Invalid keyword"),
    })?;
    if !flags.keywords.contains(&keyword) {
        if flags.keywords.len() == KEYWORDS_PER_MAILBOX_MAX {
            return Err(ParseError::No("LIMIT", "Too many keywords"));
        }
        flags.keywords.push(keyword);
    }
    Ok(())
}

pub(super) fn parse(c: &mut Cursor<'_>, uid: bool) -> Parsed<Command> {
    c.sp()?;
    let set = SeqSet::parse(c)?;
    c.sp()?;
    let mut unchanged_since = None;
    if c.eat(b'(') {
        if !c.eat_word("UNCHANGEDSINCE ") {
            return Err(ParseError::Bad("Unknown STORE modifier"));
        }
        unchanged_since = Some(ModSeq(c.number64()?));
        c.expect(b')', "Modifier list is not closed")?;
        c.sp()?;
    }
    let mode = match c.peek() {
        Some(b'+') => FlagMode::Add,
        Some(b'-') => FlagMode::Remove,
        _ => FlagMode::Replace,
    };
    if mode != FlagMode::Replace {
        c.take_while(|b| b == b'+' || b == b'-');
    }
    if !c.eat_word("FLAGS") {
        return Err(ParseError::Bad("FLAGS, +FLAGS or -FLAGS expected"));
    }
    let silent = c.eat_word(".SILENT");
    c.sp()?;
    let flags = if c.peek() == Some(b'(') {
        flag_list(c)?
    } else {
        let mut flags = FlagSet::default();
        loop {
            flag(c, &mut flags)?;
            if !c.eat(b' ') {
                break flags;
            }
        }
    };
    Ok(Command::Store(StoreCommand { uid, set, change: FlagChange { mode, flags }, silent, unchanged_since }))
}
