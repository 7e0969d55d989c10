//! Mailbox names and patterns from their wire form to canonical NFC UTF-8.

use crate::wire::{Cursor, ParseError, Parsed, utf7_decode};
use parliament_ids::{MailboxName, NameError};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Text of a name or pattern: modified UTF-7, or UTF-8 once that is enabled; brought into NFC.
pub(super) fn decode(bytes: &[u8], utf8: bool) -> Parsed<String> {
    let text = if utf8 {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ParseError::Bad("Mailbox name is not valid UTF-8"))?
    } else {
        utf7_decode(bytes).ok_or(ParseError::Name("Mailbox name is not in canonical modified UTF-7"))?
    };
    Ok(if is_nfc(&text) { text } else { text.nfc().collect() })
}

fn checked(text: &str) -> Parsed<MailboxName> {
    MailboxName::new(text).map_err(|error| {
        ParseError::Name(match error {
            NameError::EmptyLevel => "Mailbox name has an empty level",
            NameError::LeafTooLong => "A level of the mailbox name is too long",
            NameError::TooDeep => "Mailbox name has too many levels",
            NameError::BadCharacter => "Mailbox name holds a character that is not allowed",
        })
    })
}

/// A mailbox name.
pub(super) fn mailbox(c: &mut Cursor<'_>, utf8: bool) -> Parsed<MailboxName> {
    checked(&decode(&c.astring()?, utf8)?)
}

/// The name of CREATE, which may end with the separator (RFC 9051 section 6.3.4).
pub(super) fn mailbox_to_create(c: &mut Cursor<'_>, utf8: bool) -> Parsed<MailboxName> {
    let text = decode(&c.astring()?, utf8)?;
    checked(text.strip_suffix('/').unwrap_or(&text))
}
