//! `sequence-set` (RFC 9051 section 9): as the client wrote it, and as a set once `*` is known.

use super::{Cursor, ParseError, Parsed};
use parliament_ids::UidSet;

/// Ranges of one set as written.
const RANGES_MAX: usize = 20_000;

/// A number of a sequence set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Num {
    /// 1 to 2^32 - 1.
    At(u32),
    /// `*`
    Last,
}

/// A sequence set as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SeqSet {
    /// Ranges; a single number is a range of itself.
    Ranges(Vec<(Num, Num)>),
    /// `$` (RFC 5182).
    Saved,
}

impl SeqSet {
    /// Parses a set.
    pub(crate) fn parse(c: &mut Cursor<'_>) -> Parsed<Self> {
        if c.eat(b'$') {
            return Ok(Self::Saved);
        }
        let mut ranges = Vec::new();
        loop {
            let first = num(c)?;
            let last = if c.eat(b':') { num(c)? } else { first };
            if ranges.len() == RANGES_MAX {
                return Err(ParseError::Bad("Too many ranges in the sequence set"));
            }
            ranges.push((first, last));
            if !c.eat(b',') {
                return Ok(Self::Ranges(ranges));
            }
        }
    }

    /// The set of numbers when `*` is `last`. With `last` 0 (nothing there) `*` stands for 0 and is no member.
    pub(crate) fn resolve(&self, last: u32) -> UidSet {
        let value = |num: Num| match num {
            Num::At(n) => n,
            Num::Last => last,
        };
        match self {
            Self::Saved => UidSet::new(),
            Self::Ranges(ranges) => UidSet::from_ranges(ranges.iter().map(|(a, b)| (value(*a), value(*b)))),
        }
    }

    /// True when every number written lies within 1 to `last`; `*` lies there when `last` is not 0.
    pub(crate) fn within(&self, last: u32) -> bool {
        match self {
            Self::Saved => true,
            Self::Ranges(ranges) => ranges.iter().all(|(a, b)| {
                [a, b].into_iter().all(|num| match num {
                    Num::At(n) => *n <= last,
                    Num::Last => last > 0,
                })
            }),
        }
    }
}

fn num(c: &mut Cursor<'_>) -> Parsed<Num> {
    if c.eat(b'*') { Ok(Num::Last) } else { c.nz_number().map(Num::At) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str, last: u32) -> String {
        SeqSet::parse(&mut Cursor::new(text.as_bytes())).unwrap().resolve(last).to_string()
    }

    #[test]
    fn sets_as_written() {
        assert_eq!(set("2,4:7,9,12:*", 15), "2,4:7,9,12:15");
        assert_eq!(set("*:4,5:7", 10), "4:10");
        assert_eq!(set("*", 0), "");
        assert_eq!(set("100:*", 7), "7:100");
        assert_eq!(set("3:1", 9), "1:3");
        for bad in ["", "0", "1:", ",1", "a", "4294967296", "1:0"] {
            assert!(SeqSet::parse(&mut Cursor::new(bad.as_bytes())).is_err(), "{bad}");
        }
        let many = vec!["1"; RANGES_MAX + 1].join(",");
        assert!(SeqSet::parse(&mut Cursor::new(many.as_bytes())).is_err());
    }

    proptest! {
        #[test]
        fn written_sets_read_back(ranges in prop::collection::vec((1_u32.., 1_u32..), 1..50)) {
            let set = UidSet::from_ranges(ranges);
            let text = set.to_string();
            let mut c = Cursor::new(text.as_bytes());
            prop_assert_eq!(SeqSet::parse(&mut c).unwrap().resolve(7), set);
            prop_assert!(c.is_end());
        }
    }
}
