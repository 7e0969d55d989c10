//! SEARCH (RFC 9051 section 6.4.4, RFC 3501 section 6.4.4, RFC 4731, RFC 5032, RFC 5182, RFC 7162, RFC 8474, RFC 8514).

use super::ast::{Command, SearchCommand, SearchReturn, SearchTerm};
use crate::wire::{Cursor, ParseError, Parsed, SeqSet, month_number};
use parliament_ids::{Keyword, ModSeq, SystemFlags};
use parliament_mail_api::{HeaderMatch, SearchDate, SearchKey};

/// Nesting of parentheses, NOT and OR.
const DEPTH_MAX: u32 = 32;
/// Keys of one SEARCH.
const KEYS_MAX: u32 = 1_000;

struct State {
    keys: u32,
    modseq: bool,
}

pub(super) fn parse(c: &mut Cursor<'_>, uid: bool) -> Parsed<Command> {
    c.sp()?;
    let result = returns(c)?;
    let mut charset = false;
    if c.eat_word("CHARSET ") {
        let name = c.text()?;
        if !name.eq_ignore_ascii_case("UTF-8") && !name.eq_ignore_ascii_case("US-ASCII") {
            return Err(ParseError::No("BADCHARSET (US-ASCII UTF-8)", "Unsupported charset"));
        }
        charset = true;
        c.sp()?;
    }
    let mut state = State { keys: 0, modseq: false };
    let mut terms = vec![term(c, &mut state, 0)?];
    while c.eat(b' ') {
        if c.is_end() {
            break;
        }
        terms.push(term(c, &mut state, 0)?);
    }
    Ok(Command::Search(SearchCommand { uid, result, charset, term: all_of(terms), modseq: state.modseq }))
}

fn all_of(mut terms: Vec<SearchTerm>) -> SearchTerm {
    match (terms.len(), terms.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            terms.extend(last);
            SearchTerm::And(terms)
        }
    }
}

fn returns(c: &mut Cursor<'_>) -> Parsed<Option<SearchReturn>> {
    if !c.eat_word("RETURN (") {
        return Ok(None);
    }
    let mut result = SearchReturn::default();
    if !c.eat(b')') {
        loop {
            match c.atom()?.to_ascii_uppercase().as_str() {
                "MIN" => result.min = true,
                "MAX" => result.max = true,
                "COUNT" => result.count = true,
                "ALL" => result.all = true,
                "SAVE" => result.save = true,
                _ => return Err(ParseError::Bad("Unknown SEARCH return option")),
            }
            if c.eat(b')') {
                break;
            }
            c.sp()?;
        }
    }
    c.sp()?;
    if result == SearchReturn::default() {
        result.all = true;
    }
    Ok(Some(result))
}

fn term(c: &mut Cursor<'_>, state: &mut State, depth: u32) -> Parsed<SearchTerm> {
    state.keys += 1;
    if depth > DEPTH_MAX {
        return Err(ParseError::Bad("Search is nested too deeply"));
    }
    if state.keys > KEYS_MAX {
        return Err(ParseError::Bad("Too many search keys"));
    }
    match c.peek() {
        Some(b'(') => {
            c.eat(b'(');
            let mut terms = vec![term(c, state, depth + 1)?];
            while !c.eat(b')') {
                c.sp()?;
                terms.push(term(c, state, depth + 1)?);
            }
            Ok(all_of(terms))
        }
        Some(b'0'..=b'9' | b'*' | b'$') => Ok(SearchTerm::Seq(SeqSet::parse(c)?)),
        _ => named(c, state, depth),
    }
}

fn named(c: &mut Cursor<'_>, state: &mut State, depth: u32) -> Parsed<SearchTerm> {
    let name = c.word(|b| b.is_ascii_alphanumeric() || b == b'-', "Search key expected")?.to_ascii_uppercase();
    if let Some(key) = plain(&name) {
        return Ok(key);
    }
    if !matches!(
        name.as_str(),
        "NOT"
            | "OR"
            | "UID"
            | "OLDER"
            | "YOUNGER"
            | "MODSEQ"
            | "EMAILID"
            | "THREADID"
            | "KEYWORD"
            | "UNKEYWORD"
            | "HEADER"
            | "LARGER"
            | "SMALLER"
            | "FROM"
            | "TO"
            | "CC"
            | "BCC"
            | "SUBJECT"
            | "BODY"
            | "TEXT"
            | "BEFORE"
            | "ON"
            | "SINCE"
            | "SENTBEFORE"
            | "SENTON"
            | "SENTSINCE"
            | "SAVEDBEFORE"
            | "SAVEDON"
            | "SAVEDSINCE"
    ) {
        return Err(ParseError::Bad("Unknown search key"));
    }
    c.sp()?;
    Ok(match name.as_str() {
        "NOT" => SearchTerm::Not(Box::new(term(c, state, depth + 1)?)),
        "OR" => {
            let first = term(c, state, depth + 1)?;
            c.sp()?;
            SearchTerm::Or(Box::new((first, term(c, state, depth + 1)?)))
        }
        "UID" => SearchTerm::Uid(SeqSet::parse(c)?),
        "OLDER" | "YOUNGER" => SearchTerm::Age { older: name == "OLDER", seconds: c.nz_number()? },
        "EMAILID" => SearchTerm::EmailId(object_id(c)?),
        "THREADID" => SearchTerm::ThreadId(object_id(c)?),
        "MODSEQ" => {
            state.modseq = true;
            modseq(c)?
        }
        "KEYWORD" | "UNKEYWORD" => {
            let word = c.word(crate::wire::is_atom_or_bracket, "Keyword expected")?;
            // A keyword that no mailbox can hold is set on no message.
            let key = Keyword::new(word).map_or(SearchKey::Never, SearchKey::Keyword);
            let key = SearchTerm::Key(key);
            if name == "KEYWORD" { key } else { SearchTerm::Not(Box::new(key)) }
        }
        "HEADER" => {
            let field = c.text()?;
            c.sp()?;
            SearchTerm::Key(SearchKey::Header(HeaderMatch { field, text: c.text()? }))
        }
        _ => SearchTerm::Key(with_value(c, &name)?),
    })
}

/// Keys without a value.
fn plain(name: &str) -> Option<SearchTerm> {
    let (flag, set) = match name {
        "ALL" => return Some(SearchTerm::Key(SearchKey::All)),
        "RECENT" => return Some(SearchTerm::Recent),
        "OLD" => return Some(SearchTerm::Not(Box::new(SearchTerm::Recent))),
        "NEW" => {
            let unseen = SearchTerm::Not(Box::new(SearchTerm::Key(SearchKey::Flag(SystemFlags::SEEN))));
            return Some(SearchTerm::And(vec![SearchTerm::Recent, unseen]));
        }
        "SEEN" => (SystemFlags::SEEN, true),
        "UNSEEN" => (SystemFlags::SEEN, false),
        "ANSWERED" => (SystemFlags::ANSWERED, true),
        "UNANSWERED" => (SystemFlags::ANSWERED, false),
        "FLAGGED" => (SystemFlags::FLAGGED, true),
        "UNFLAGGED" => (SystemFlags::FLAGGED, false),
        "DELETED" => (SystemFlags::DELETED, true),
        "UNDELETED" => (SystemFlags::DELETED, false),
        "DRAFT" => (SystemFlags::DRAFT, true),
        "UNDRAFT" => (SystemFlags::DRAFT, false),
        // Every message has a SAVEDATE here (RFC 8514 section 4.3).
        "SAVEDATESUPPORTED" => return Some(SearchTerm::Key(SearchKey::All)),
        _ => return None,
    };
    let key = SearchTerm::Key(SearchKey::Flag(flag));
    Some(if set { key } else { SearchTerm::Not(Box::new(key)) })
}

/// Keys with one value that needs nothing of the session.
fn with_value(c: &mut Cursor<'_>, name: &str) -> Parsed<SearchKey> {
    let header = |field: &str, text| SearchKey::Header(HeaderMatch { field: field.to_owned(), text });
    Ok(match name {
        "FROM" => header("From", c.text()?),
        "TO" => header("To", c.text()?),
        "CC" => header("Cc", c.text()?),
        "BCC" => header("Bcc", c.text()?),
        "SUBJECT" => header("Subject", c.text()?),
        "BODY" => SearchKey::Body(c.text()?),
        "TEXT" => SearchKey::Text(c.text()?),
        "LARGER" => SearchKey::Larger(c.number64()?),
        "SMALLER" => SearchKey::Smaller(c.number64()?),
        "BEFORE" => SearchKey::Before(date(c)?),
        "ON" => SearchKey::On(date(c)?),
        "SINCE" => SearchKey::Since(date(c)?),
        "SENTBEFORE" => SearchKey::SentBefore(date(c)?),
        "SENTON" => SearchKey::SentOn(date(c)?),
        "SENTSINCE" => SearchKey::SentSince(date(c)?),
        "SAVEDBEFORE" => SearchKey::SavedBefore(date(c)?),
        "SAVEDON" => SearchKey::SavedOn(date(c)?),
        "SAVEDSINCE" => SearchKey::SavedSince(date(c)?),
        _ => return Err(ParseError::Bad("Unknown search key")),
    })
}

fn object_id(c: &mut Cursor<'_>) -> Parsed<String> {
    let id = c.word(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-', "Object id expected")?;
    if id.len() > 255 { Err(ParseError::Bad("Object id is too long")) } else { Ok(id.to_owned()) }
}

/// `[SP entry-name SP entry-type] SP mod-sequence-valzer`; per-flag mod-sequences are the message's (RFC 7162 section 3.1.5).
fn modseq(c: &mut Cursor<'_>) -> Parsed<SearchTerm> {
    if c.peek() == Some(b'"') {
        let entry = c.quoted()?;
        if !entry.to_ascii_lowercase().starts_with(b"/flags/") {
            return Err(ParseError::Bad("Unknown MODSEQ entry"));
        }
        c.sp()?;
        if !["priv", "shared", "all"].iter().any(|kind| c.eat_word(kind)) {
            return Err(ParseError::Bad("Unknown MODSEQ entry type"));
        }
        c.sp()?;
    }
    Ok(SearchTerm::Key(SearchKey::ModSeq(ModSeq(c.number64()?))))
}

/// `date`, quoted or not.
fn date(c: &mut Cursor<'_>) -> Parsed<SearchDate> {
    const BAD: ParseError = ParseError::Bad("Invalid date");
    let quoted = c.eat(b'"');
    let day = c.number()?;
    c.expect(b'-', "Invalid date")?;
    let month = month_number(c.take_while(|b| b.is_ascii_alphabetic())).ok_or(BAD)?;
    c.expect(b'-', "Invalid date")?;
    let year = c.word(|b| b.is_ascii_digit(), "Invalid date")?;
    if year.len() != 4 || !(1..=31).contains(&day) {
        return Err(BAD);
    }
    if quoted {
        c.expect(b'"', "Invalid date")?;
    }
    Ok(SearchDate { year: year.parse().map_err(|_| BAD)?, month, day: u8::try_from(day).map_err(|_| BAD)? })
}
