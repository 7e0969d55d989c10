//! Flags and keywords (RFC 9051 section 2.3.2).

use crate::limits::KEYWORD_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The system flags of one message as a bit set. `\Recent` is not among them: it is a session's matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SystemFlags(pub u8);

impl SystemFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// `\Seen`
    pub const SEEN: Self = Self(1);
    /// `\Answered`
    pub const ANSWERED: Self = Self(2);
    /// `\Flagged`
    pub const FLAGGED: Self = Self(4);
    /// `\Deleted`
    pub const DELETED: Self = Self(8);
    /// `\Draft`
    pub const DRAFT: Self = Self(16);
    /// All five.
    pub const ALL: Self = Self(31);
    /// Each flag with its name on the wire.
    pub const NAMES: [(Self, &'static str); 5] = [
        (Self::SEEN, "\\Seen"),
        (Self::ANSWERED, "\\Answered"),
        (Self::FLAGGED, "\\Flagged"),
        (Self::DELETED, "\\Deleted"),
        (Self::DRAFT, "\\Draft"),
    ];

    /// True when every flag of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Flags of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Flags of `self` that `other` lacks.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// The flag of this name, matched without regard to ASCII case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(flag, _)| *flag)
    }
}

/// A keyword: an atom of at most [`KEYWORD_BYTES_MAX`] bytes. It keeps the case it was first told in; equality and
/// order ignore ASCII case.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keyword(String);

/// Why a keyword was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeywordError {
    /// Longer than [`KEYWORD_BYTES_MAX`].
    TooLong,
    /// Empty, or holds a byte that an atom cannot (RFC 9051 section 9, `flag-keyword`).
    NotAnAtom,
}

impl Keyword {
    /// Checks and takes a keyword.
    ///
    /// # Errors
    /// [`KeywordError`] when the text is too long or no atom.
    pub fn new(text: &str) -> Result<Self, KeywordError> {
        if text.len() > KEYWORD_BYTES_MAX {
            return Err(KeywordError::TooLong);
        }
        let atom = |b: u8| b > b' ' && b < 0x7f && !b"(){%*\"\\]".contains(&b);
        if text.is_empty() || !text.bytes().all(atom) {
            return Err(KeywordError::NotAnAtom);
        }
        Ok(Self(text.to_owned()))
    }
    /// The text as first told.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    fn folded(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.bytes().map(|b| b.to_ascii_lowercase())
    }
}

impl PartialEq for Keyword {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}
impl Eq for Keyword {}
impl PartialOrd for Keyword {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Keyword {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded().cmp(other.folded())
    }
}
impl std::hash::Hash for Keyword {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.folded().for_each(|b| b.hash(state));
    }
}
impl fmt::Debug for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Flags as a client names them: system flags and keywords.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagSet {
    /// The system flags.
    pub system: SystemFlags,
    /// The keywords, each once.
    pub keywords: Vec<Keyword>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyword_equality_ignores_case_and_keeps_the_first_spelling() {
        let a = Keyword::new("$Label1").unwrap();
        assert_eq!(a, Keyword::new("$LABEL1").unwrap());
        assert_eq!(a.as_str(), "$Label1");
        assert_eq!(Keyword::new("a b"), Err(KeywordError::NotAnAtom));
        assert_eq!(Keyword::new("\\Foo"), Err(KeywordError::NotAnAtom));
        assert_eq!(Keyword::new(&"x".repeat(65)), Err(KeywordError::TooLong));
    }

    #[test]
    fn system_flags_by_name() {
        assert_eq!(SystemFlags::from_name("\\sEEn"), Some(SystemFlags::SEEN));
        assert_eq!(SystemFlags::from_name("\\Recent"), None);
    }
}
