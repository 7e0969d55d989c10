//! Bytes of a command to a typed [`Command`]. Nothing here knows a session's state but the wire form of names.

mod append;
mod ast;
mod fetch;
mod list;
mod name;
mod search;
mod store;

pub(crate) use append::{AppendHead, AppendTail, parse_append_head, parse_append_tail};
pub(crate) use ast::{
    Command, FetchAtts, FetchCommand, FetchSection, Label, ListCommand, SearchCommand, SearchReturn, SearchTerm, StatusItem, StoreCommand,
    Tagged,
};

use crate::wire::{Cursor, ParseError, Parsed, SeqSet};
use name::mailbox;
use parliament_mail_api::SpecialUse;

/// Longest tag, bytes.
const TAG_BYTES_MAX: usize = 255;
/// Field-value pairs of ID (RFC 2971 section 3.3).
const ID_PAIRS_MAX: usize = 30;
/// Names in one ENABLE.
const ENABLE_NAMES_MAX: usize = 64;

/// The tag of a command, when there is a lawful one; the rest of the text follows it.
pub(crate) fn parse_tag(text: &[u8]) -> Option<(String, Cursor<'_>)> {
    let mut c = Cursor::new(text);
    let tag = c.word(crate::wire::is_tag_char, "Tag expected").ok()?;
    (tag.len() <= TAG_BYTES_MAX).then(|| (tag.to_owned(), c))
}

/// Parses a whole command. `utf8` says that names come in UTF-8. Without a lawful tag the answer is untagged (`*`).
pub(crate) fn parse_command(text: &[u8], utf8: bool) -> Result<Tagged, (String, ParseError)> {
    let Some((tag, mut c)) = parse_tag(text) else {
        return Err(("*".to_owned(), ParseError::Bad("Invalid tag")));
    };
    match body(&mut c, utf8).and_then(|command| c.end().map(|()| command)) {
        Ok(command) => Ok(Tagged { tag, command }),
        Err(error) => Err((tag, error)),
    }
}

/// The command word, upper case, and whether `UID` stood before it.
fn verb(c: &mut Cursor<'_>) -> Parsed<(String, bool)> {
    const NONE: &str = "Command expected after the tag";
    c.expect(b' ', NONE)?;
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let word = c.word(letters, NONE)?.to_ascii_uppercase();
    if word != "UID" {
        return Ok((word, false));
    }
    c.sp()?;
    Ok((c.word(letters, "Command expected after UID")?.to_ascii_uppercase(), true))
}

fn body(c: &mut Cursor<'_>, utf8: bool) -> Parsed<Command> {
    let (word, uid) = verb(c)?;
    Ok(match (word.as_str(), uid) {
        ("FETCH", _) => fetch::parse(c, uid)?,
        ("STORE", _) => store::parse(c, uid)?,
        ("SEARCH", _) => search::parse(c, uid)?,
        ("COPY" | "MOVE", _) => {
            c.sp()?;
            let set = SeqSet::parse(c)?;
            c.sp()?;
            let to = mailbox(c, utf8)?;
            if word == "COPY" { Command::Copy { uid, set, to } } else { Command::Move { uid, set, to } }
        }
        ("EXPUNGE", true) => {
            c.sp()?;
            Command::UidExpunge(SeqSet::parse(c)?)
        }
        (_, true) => return Err(ParseError::Bad("Unknown UID command")),
        ("CAPABILITY", _) => Command::Capability,
        ("NOOP", _) => Command::Noop,
        ("LOGOUT", _) => Command::Logout,
        ("STARTTLS", _) => Command::StartTls,
        ("NAMESPACE", _) => Command::Namespace,
        ("CHECK", _) => Command::Check,
        ("CLOSE", _) => Command::Close,
        ("UNSELECT", _) => Command::Unselect,
        ("EXPUNGE", _) => Command::Expunge,
        ("IDLE", _) => Command::Idle,
        ("ID", _) => id(c)?,
        ("ENABLE", _) => enable(c)?,
        ("LOGIN", _) => login(c)?,
        ("AUTHENTICATE", _) => authenticate(c)?,
        ("LIST", _) => list::list(c, utf8)?,
        ("LSUB", _) => list::lsub(c, utf8)?,
        ("STATUS", _) => list::status(c, utf8)?,
        ("SELECT" | "EXAMINE", _) => select(c, utf8, word == "EXAMINE")?,
        ("CREATE", _) => create(c, utf8)?,
        ("DELETE", _) => Command::Delete(argument(c, utf8)?),
        ("SUBSCRIBE", _) => Command::Subscribe { name: argument(c, utf8)?, on: true },
        ("UNSUBSCRIBE", _) => Command::Subscribe { name: argument(c, utf8)?, on: false },
        ("RENAME", _) => {
            let from = argument(c, utf8)?;
            Command::Rename { from, to: argument(c, utf8)? }
        }
        ("GETQUOTA", _) => {
            c.sp()?;
            Command::GetQuota(c.text()?)
        }
        ("GETQUOTAROOT", _) => Command::GetQuotaRoot(argument(c, utf8)?),
        // The message comes as a literal, which the session takes from the framer; without one the command is incomplete.
        ("APPEND", _) => return Err(ParseError::Bad("APPEND needs a mailbox and a message literal")),
        _ => return Err(ParseError::Bad("Unknown command")),
    })
}

/// SP and a mailbox name.
fn argument(c: &mut Cursor<'_>, utf8: bool) -> Parsed<parliament_ids::MailboxName> {
    c.sp()?;
    mailbox(c, utf8)
}

fn id(c: &mut Cursor<'_>) -> Parsed<Command> {
    c.sp()?;
    let mut pairs = Vec::new();
    if !c.eat_word("NIL") {
        c.expect(b'(', "ID needs a list or NIL")?;
        while !c.eat(b')') {
            if !pairs.is_empty() {
                c.sp()?;
            }
            let field = c.string()?.into_owned();
            c.sp()?;
            let value = c.nstring()?.map(|value| value.into_owned());
            if pairs.len() == ID_PAIRS_MAX {
                return Err(ParseError::Bad("Too many ID fields"));
            }
            pairs.push((String::from_utf8_lossy(&field).into_owned(), value.map(|v| String::from_utf8_lossy(&v).into_owned())));
        }
    }
    Ok(Command::Id(pairs))
}

fn enable(c: &mut Cursor<'_>) -> Parsed<Command> {
    let mut names = Vec::new();
    while c.eat(b' ') {
        if names.len() == ENABLE_NAMES_MAX {
            return Err(ParseError::Bad("Too many capabilities"));
        }
        names.push(c.atom()?.to_ascii_uppercase());
    }
    if names.is_empty() { Err(ParseError::Bad("ENABLE needs a capability")) } else { Ok(Command::Enable(names)) }
}

fn login(c: &mut Cursor<'_>) -> Parsed<Command> {
    c.sp()?;
    let name = c.text()?;
    c.sp()?;
    Ok(Command::Login { name, password: crate::session::Secret(c.text()?) })
}

fn authenticate(c: &mut Cursor<'_>) -> Parsed<Command> {
    c.sp()?;
    let mechanism = c.atom()?.to_ascii_uppercase();
    let initial = if c.eat(b' ') { Some(c.take_while(|b| b != b' ').to_vec()) } else { None };
    Ok(Command::Authenticate { mechanism, initial })
}

fn select(c: &mut Cursor<'_>, utf8: bool, read_only: bool) -> Parsed<Command> {
    let name = argument(c, utf8)?;
    let mut condstore = false;
    if c.eat(b' ') {
        c.expect(b'(', "Parameter list expected")?;
        loop {
            if !c.eat_word("CONDSTORE") {
                return Err(ParseError::Bad("Unknown SELECT parameter"));
            }
            condstore = true;
            if c.eat(b')') {
                break;
            }
            c.sp()?;
        }
    }
    Ok(Command::Select { name, read_only, condstore })
}

fn create(c: &mut Cursor<'_>, utf8: bool) -> Parsed<Command> {
    c.sp()?;
    let name = name::mailbox_to_create(c, utf8)?;
    let mut special_use = Vec::new();
    if c.eat(b' ') {
        c.expect(b'(', "Parameter list expected")?;
        if !c.eat_word("USE (") {
            return Err(ParseError::Bad("Unknown CREATE parameter"));
        }
        while !c.eat(b')') {
            if !special_use.is_empty() {
                c.sp()?;
            }
            c.expect(b'\\', "Special use expected")?;
            let word = c.atom()?;
            let known = SpecialUse::NAMES.iter().find(|(_, name)| name[1..].eq_ignore_ascii_case(word));
            let Some((found, _)) = known else {
                return Err(ParseError::No("USEATTR", "Unknown special use"));
            };
            if !special_use.contains(found) {
                special_use.push(*found);
            }
            if special_use.len() == SpecialUse::NAMES.len() && c.peek() != Some(b')') {
                return Err(ParseError::Bad("Too many special uses"));
            }
        }
        c.expect(b')', "Parameter list is not closed")?;
    }
    Ok(Command::Create { name, special_use })
}

#[cfg(test)]
mod tests;
