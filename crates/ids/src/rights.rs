//! Access rights (RFC 4314 section 2.1).

use serde::{Deserialize, Serialize};
use std::fmt;

/// A set of rights out of `lrswipkxtean`. The obsolete `c` and `d` are spelled out by the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rights(pub u16);

impl Rights {
    /// The letters in the order of their bits and of their printing.
    pub const LETTERS: &'static str = "lrswipkxtean";
    /// Every right.
    pub const ALL: Self = Self(0x0fff);
    /// No right.
    pub const NONE: Self = Self(0);
    /// Mailbox is visible.
    pub const LOOKUP: Self = Self(1);
    /// SELECT, STATUS, FETCH.
    pub const READ: Self = Self(2);
    /// Keep `\Seen`.
    pub const SEEN: Self = Self(4);
    /// Flags but `\Seen` and `\Deleted`.
    pub const WRITE: Self = Self(8);
    /// APPEND, COPY into.
    pub const INSERT: Self = Self(16);
    /// Submission address.
    pub const POST: Self = Self(32);
    /// CREATE below.
    pub const CREATE: Self = Self(64);
    /// DELETE, RENAME of the mailbox.
    pub const DELETE_MAILBOX: Self = Self(128);
    /// Set `\Deleted`.
    pub const DELETE_MESSAGES: Self = Self(256);
    /// EXPUNGE.
    pub const EXPUNGE: Self = Self(512);
    /// SETACL, GETACL.
    pub const ADMINISTER: Self = Self(1024);
    /// Write shared annotations.
    pub const ANNOTATE: Self = Self(2048);

    /// Parses letters; `None` when one is unknown.
    #[must_use]
    pub fn from_letters(text: &str) -> Option<Self> {
        text.chars().try_fold(Self::NONE, |rights, letter| match letter {
            'c' => Some(rights.union(Self::CREATE)),
            'd' => Some(rights.union(Self(128 | 256 | 512))),
            _ => Self::LETTERS.find(letter).map(|bit| rights.union(Self(1 << bit))),
        })
    }
    /// True when every right of `other` is held.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Rights of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Rights of `self` that `other` lacks.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::LETTERS.chars().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0).try_for_each(|(_, c)| write!(f, "{c}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_round_trip() {
        assert_eq!(Rights::from_letters("lrs").unwrap().to_string(), "lrs");
        assert_eq!(Rights::ALL.to_string(), Rights::LETTERS);
        assert_eq!(Rights::from_letters("d").unwrap(), Rights(128 | 256 | 512));
        assert_eq!(Rights::from_letters("z"), None);
    }
}
