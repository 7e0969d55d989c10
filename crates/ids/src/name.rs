//! Mailbox names inside the store: canonical UTF-8, separator `/`. The wire forms are the protocols' matter.

use crate::limits::{NAME_DEPTH_MAX, NAME_LEAF_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A mailbox name: 1 to [`NAME_DEPTH_MAX`] levels of 1 to [`NAME_LEAF_BYTES_MAX`] bytes, joined by `/`, without control
/// characters; the first level is exactly `INBOX` when it equals it without regard to ASCII case (RFC 9051 section 5.1).
/// Callers bring it into NFC before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MailboxName(String);

/// Why a mailbox name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Empty, or a level of it is.
    EmptyLevel,
    /// A level exceeds [`NAME_LEAF_BYTES_MAX`].
    LeafTooLong,
    /// More than [`NAME_DEPTH_MAX`] levels.
    TooDeep,
    /// A control character, or U+FFFD, U+2028, U+2029 (RFC 6855 asks for Net-Unicode, RFC 5198).
    BadCharacter,
}

impl MailboxName {
    /// Checks a name and folds INBOX.
    ///
    /// # Errors
    /// [`NameError`] says which bound it breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.chars().any(|c| c.is_control() || matches!(c, '\u{fffd}' | '\u{2028}' | '\u{2029}')) {
            return Err(NameError::BadCharacter);
        }
        let mut depth = 0;
        for level in text.split('/') {
            depth += 1;
            match level.len() {
                0 => return Err(NameError::EmptyLevel),
                n if n > NAME_LEAF_BYTES_MAX => return Err(NameError::LeafTooLong),
                _ => {}
            }
        }
        if depth > NAME_DEPTH_MAX {
            return Err(NameError::TooDeep);
        }
        let first = text.split('/').next().unwrap_or_default();
        if first.eq_ignore_ascii_case("INBOX") {
            return Ok(Self(format!("INBOX{}", &text[5..])));
        }
        Ok(Self(text.to_owned()))
    }
    /// The name INBOX.
    #[must_use]
    pub fn inbox() -> Self {
        Self("INBOX".to_owned())
    }
    /// True for INBOX itself.
    #[must_use]
    pub fn is_inbox(&self) -> bool {
        self.0 == "INBOX"
    }
    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The levels, outermost first.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
    /// The last level.
    #[must_use]
    pub fn leaf(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
    /// The name without its last level.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }
    /// True when this name lies below `other`.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        self.0.len() > other.0.len() && self.0.starts_with(&other.0) && self.0.as_bytes()[other.0.len()] == b'/'
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_inbox_is_folded() {
        assert!(MailboxName::new("iNbOx").unwrap().is_inbox());
        assert_eq!(MailboxName::new("inbox/a").unwrap().as_str(), "INBOX/a");
        assert_eq!(MailboxName::new("inboxes").unwrap().as_str(), "inboxes");
        assert_eq!(MailboxName::new("a//b"), Err(NameError::EmptyLevel));
        assert_eq!(MailboxName::new("/a"), Err(NameError::EmptyLevel));
        assert_eq!(MailboxName::new("a\0b"), Err(NameError::BadCharacter));
        assert_eq!(MailboxName::new(&"x".repeat(256)), Err(NameError::LeafTooLong));
        assert_eq!(MailboxName::new(&vec!["x"; 33].join("/")), Err(NameError::TooDeep));
    }

    #[test]
    fn hierarchy() {
        let name = MailboxName::new("a/b/c").unwrap();
        assert_eq!(name.leaf(), "c");
        assert_eq!(name.parent().unwrap().as_str(), "a/b");
        assert!(name.is_below(&MailboxName::new("a/b").unwrap()));
        assert!(!MailboxName::new("ab").unwrap().is_below(&MailboxName::new("a").unwrap()));
    }
}
