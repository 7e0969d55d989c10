//! FETCH (RFC 9051 section 6.4.5, RFC 3501, RFC 3516, RFC 7162, RFC 8474, RFC 8514, RFC 8970).

use super::ast::{Command, FetchAtts, FetchCommand, FetchSection, Label};
use crate::wire::{Cursor, ParseError, Parsed, SeqSet};
use parliament_ids::ModSeq;
use parliament_mail_api::{Section, SectionKind};

/// Sections of one FETCH.
const SECTIONS_MAX: usize = 64;
/// Header names of one section.
const FIELDS_MAX: usize = 256;
/// Levels of a part number.
const PATH_MAX: usize = 32;

pub(super) fn parse(c: &mut Cursor<'_>, uid: bool) -> Parsed<Command> {
    c.sp()?;
    let set = SeqSet::parse(c)?;
    c.sp()?;
    let mut atts = FetchAtts { uid, ..FetchAtts::default() };
    if c.eat(b'(') {
        loop {
            attribute(c, &mut atts, false)?;
            if c.eat(b')') {
                break;
            }
            c.sp()?;
        }
    } else {
        attribute(c, &mut atts, true)?;
    }
    let mut changed_since = None;
    if c.eat(b' ') {
        if !c.eat_word("(CHANGEDSINCE ") {
            return Err(ParseError::Bad("Unknown FETCH modifier"));
        }
        changed_since = Some(ModSeq(c.number64()?));
        c.expect(b')', "Modifier list is not closed")?;
        atts.modseq = true;
    }
    Ok(Command::Fetch(FetchCommand { uid, set, atts, changed_since }))
}

fn attribute(c: &mut Cursor<'_>, atts: &mut FetchAtts, alone: bool) -> Parsed<()> {
    let name = c.word(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-', "FETCH attribute expected")?.to_ascii_uppercase();
    let macros = matches!(name.as_str(), "ALL" | "FAST" | "FULL");
    if macros && !alone {
        return Err(ParseError::Bad("A FETCH macro stands alone"));
    }
    if macros {
        (atts.flags, atts.internal_date, atts.size) = (true, true, true);
    }
    let sectioned = c.peek() == Some(b'[');
    match name.as_str() {
        "FAST" => {}
        "ALL" => atts.envelope = true,
        "FULL" => (atts.envelope, atts.body) = (true, true),
        "UID" => atts.uid = true,
        "FLAGS" => atts.flags = true,
        "MODSEQ" => atts.modseq = true,
        "INTERNALDATE" => atts.internal_date = true,
        "SAVEDATE" => atts.save_date = true,
        "RFC822.SIZE" => atts.size = true,
        "EMAILID" => atts.email_id = true,
        "THREADID" => atts.thread_id = true,
        "ENVELOPE" => atts.envelope = true,
        "BODYSTRUCTURE" => atts.body_structure = true,
        "PREVIEW" => {
            atts.preview = true;
            // LAZY allows the server to answer NIL; it never needs to (RFC 8970 section 3.2).
            let mut ahead = c.clone();
            if ahead.eat_word(" (LAZY)") {
                *c = ahead;
            }
        }
        "BODY" if !sectioned => atts.body = true,
        "RFC822" => add(atts, Section { path: Vec::new(), kind: SectionKind::Whole, partial: None }, Label::Rfc822, false)?,
        "RFC822.HEADER" => add(atts, Section { path: Vec::new(), kind: SectionKind::Header, partial: None }, Label::Rfc822Header, true)?,
        "RFC822.TEXT" => add(atts, Section { path: Vec::new(), kind: SectionKind::Text, partial: None }, Label::Rfc822Text, false)?,
        "BODY" | "BODY.PEEK" if sectioned => {
            let section = section(c)?;
            add(atts, section, Label::Body, name == "BODY.PEEK")?;
        }
        "BINARY" | "BINARY.PEEK" if sectioned => {
            let section = binary(c, SectionKind::Binary, true)?;
            add(atts, section, Label::Binary, name == "BINARY.PEEK")?;
        }
        "BINARY.SIZE" if sectioned => {
            let section = binary(c, SectionKind::BinarySize, false)?;
            add(atts, section, Label::BinarySize, true)?;
        }
        _ => return Err(ParseError::Bad("Unknown FETCH attribute")),
    }
    Ok(())
}

/// Adds a section; one that is told under the same name already is asked once.
fn add(atts: &mut FetchAtts, section: Section, label: Label, peek: bool) -> Parsed<()> {
    if let Some(known) = atts.sections.iter_mut().find(|known| known.section == section && known.label == label) {
        known.peek &= peek;
        return Ok(());
    }
    if atts.sections.len() == SECTIONS_MAX {
        return Err(ParseError::Bad("Too many sections"));
    }
    atts.sections.push(FetchSection { section, label, peek });
    Ok(())
}

/// Part numbers with the dots between them; a dot after the last is taken too and told.
fn path(c: &mut Cursor<'_>) -> Parsed<(Vec<u32>, bool)> {
    let mut path = Vec::new();
    while c.peek().is_some_and(|b| b.is_ascii_digit()) {
        if path.len() == PATH_MAX {
            return Err(ParseError::Bad("Part number is too deep"));
        }
        path.push(c.nz_number()?);
        if !c.eat(b'.') {
            return Ok((path, false));
        }
    }
    let dotted = !path.is_empty();
    Ok((path, dotted))
}

fn section(c: &mut Cursor<'_>) -> Parsed<Section> {
    c.expect(b'[', "Section expected")?;
    let (path, dotted) = path(c)?;
    let kind = if c.peek() == Some(b']') {
        if dotted {
            return Err(ParseError::Bad("Section expected after the dot"));
        }
        SectionKind::Whole
    } else {
        if !path.is_empty() && !dotted {
            return Err(ParseError::Bad("Invalid section"));
        }
        let name = c.word(|b| b.is_ascii_alphabetic() || b == b'.', "Invalid section")?.to_ascii_uppercase();
        match name.as_str() {
            "HEADER" => SectionKind::Header,
            "HEADER.FIELDS" => SectionKind::HeaderFields(fields(c)?),
            "HEADER.FIELDS.NOT" => SectionKind::HeaderFieldsNot(fields(c)?),
            "TEXT" => SectionKind::Text,
            "MIME" if !path.is_empty() => SectionKind::Mime,
            _ => return Err(ParseError::Bad("Unknown section")),
        }
    };
    c.expect(b']', "Section is not closed")?;
    Ok(Section { path, kind, partial: partial(c)? })
}

fn binary(c: &mut Cursor<'_>, kind: SectionKind, partials: bool) -> Parsed<Section> {
    c.expect(b'[', "Section expected")?;
    let (path, dotted) = path(c)?;
    if dotted {
        return Err(ParseError::Bad("Part number expected after the dot"));
    }
    c.expect(b']', "Section is not closed")?;
    Ok(Section { path, kind, partial: if partials { partial(c)? } else { None } })
}

fn partial(c: &mut Cursor<'_>) -> Parsed<Option<(u32, u32)>> {
    if !c.eat(b'<') {
        return Ok(None);
    }
    let offset = c.number()?;
    c.expect(b'.', "Partial range needs an offset and a count")?;
    let count = c.nz_number()?;
    c.expect(b'>', "Partial range is not closed")?;
    Ok(Some((offset, count)))
}

fn fields(c: &mut Cursor<'_>) -> Parsed<Vec<String>> {
    let mut names = Vec::new();
    c.sp()?;
    c.expect(b'(', "Header field list expected")?;
    loop {
        if names.len() == FIELDS_MAX {
            return Err(ParseError::Bad("Too many header fields"));
        }
        let name = c.text()?;
        if name.is_empty() || name.bytes().any(|b| b.is_ascii_control()) {
            return Err(ParseError::Bad("Invalid header field name"));
        }
        names.push(name);
        if c.eat(b')') {
            return Ok(names);
        }
        c.sp()?;
    }
}
