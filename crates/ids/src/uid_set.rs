//! Sets of UIDs as sorted, disjoint, non-adjacent closed ranges.

use crate::Uid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A set of UIDs (or sequence numbers, by the caller's meaning). Ranges are ascending and never touch, so equal sets have
/// equal ranges. 0 is never a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UidSet(Vec<(u32, u32)>);

impl UidSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    /// The set of one UID.
    #[must_use]
    pub fn one(uid: Uid) -> Self {
        Self::range(uid, uid)
    }
    /// All UIDs from `first` to `last`; empty when `first > last`.
    #[must_use]
    pub fn range(first: Uid, last: Uid) -> Self {
        let first = first.0.max(1);
        if first > last.0 { Self::new() } else { Self(vec![(first, last.0)]) }
    }
    /// Builds the set from ranges in any order, overlapping or not; a reversed range counts as its mirror image, as IMAP has it.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut raw: Vec<(u32, u32)> = ranges.into_iter().map(|(a, b)| (a.min(b).max(1), a.max(b))).filter(|r| r.1 > 0).collect();
        raw.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(raw.len());
        for (first, last) in raw {
            match merged.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
    /// The ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }
    /// True without members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// How many members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(a, b)| u64::from(b - a) + 1).sum()
    }
    /// The smallest member.
    #[must_use]
    pub fn first(&self) -> Option<Uid> {
        self.0.first().map(|r| Uid(r.0))
    }
    /// The greatest member.
    #[must_use]
    pub fn last(&self) -> Option<Uid> {
        self.0.last().map(|r| Uid(r.1))
    }
    /// True when `uid` is a member. O(log ranges).
    #[must_use]
    pub fn contains(&self, uid: Uid) -> bool {
        let at = self.0.partition_point(|r| r.1 < uid.0);
        self.0.get(at).is_some_and(|r| r.0 <= uid.0)
    }
    /// Adds one UID; amortised O(1) when ascending.
    pub fn insert(&mut self, uid: Uid) {
        self.insert_range(uid, uid);
    }
    /// Adds a range; amortised O(1) when ascending.
    pub fn insert_range(&mut self, first: Uid, last: Uid) {
        let (first, last) = (first.0.max(1), last.0);
        if first > last {
            return;
        }
        let from = self.0.partition_point(|r| r.1.saturating_add(1) < first);
        let to = self.0.partition_point(|r| r.0 <= last.saturating_add(1));
        let merged = match self.0.get(from..to) {
            Some([]) | None => (first, last),
            Some(touched) => (first.min(touched[0].0), last.max(touched[touched.len() - 1].1)),
        };
        self.0.splice(from..to.max(from), [merged]);
    }
    /// Members of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.0.iter().chain(&other.0).copied())
    }
    /// Members of both. O(ranges of both).
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b, mut out) = (0, 0, Vec::new());
        while let (Some(x), Some(y)) = (self.0.get(a), other.0.get(b)) {
            let (first, last) = (x.0.max(y.0), x.1.min(y.1));
            if first <= last {
                out.push((first, last));
            }
            if x.1 < y.1 { a += 1 } else { b += 1 }
        }
        Self(out)
    }
    /// Members of `self` that `other` lacks. O(ranges of both).
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut out = Vec::new();
        let mut b = 0;
        for &(mut first, last) in &self.0 {
            let mut consumed = false;
            while let Some(&(cut_first, cut_last)) = other.0.get(b) {
                if cut_last < first {
                    b += 1;
                } else if cut_first > last {
                    break;
                } else {
                    if cut_first > first {
                        out.push((first, cut_first - 1));
                    }
                    if cut_last >= last {
                        consumed = true;
                        break;
                    }
                    first = cut_last + 1;
                    b += 1;
                }
            }
            if !consumed {
                out.push((first, last));
            }
        }
        Self(out)
    }
    /// The members, ascending.
    #[must_use]
    pub fn iter(&self) -> UidSetIter<'_> {
        UidSetIter { ranges: &self.0, at: 0, next: self.0.first().map_or(0, |r| r.0) }
    }
}

impl<'a> IntoIterator for &'a UidSet {
    type Item = Uid;
    type IntoIter = UidSetIter<'a>;
    fn into_iter(self) -> UidSetIter<'a> {
        self.iter()
    }
}

impl FromIterator<Uid> for UidSet {
    fn from_iter<I: IntoIterator<Item = Uid>>(uids: I) -> Self {
        let mut set = Self::new();
        uids.into_iter().for_each(|uid| set.insert(uid));
        set
    }
}

impl fmt::Display for UidSet {
    /// The `sequence-set` form of RFC 9051, empty for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}:{last}")? }
        }
        Ok(())
    }
}

/// Iterator over the members of a [`UidSet`], ascending.
#[derive(Clone, Debug)]
pub struct UidSetIter<'a> {
    ranges: &'a [(u32, u32)],
    at: usize,
    next: u32,
}

impl Iterator for UidSetIter<'_> {
    type Item = Uid;
    fn next(&mut self) -> Option<Uid> {
        let (_, last) = *self.ranges.get(self.at)?;
        let uid = self.next;
        if uid >= last {
            self.at += 1;
            self.next = self.ranges.get(self.at).map_or(0, |r| r.0);
        } else {
            self.next = uid + 1;
        }
        Some(Uid(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u32, u32)]) -> UidSet {
        UidSet::from_ranges(ranges.iter().copied())
    }

    #[test]
    fn ranges_are_merged_and_mirrored() {
        assert_eq!(set(&[(5, 3), (1, 2), (9, 9)]).to_string(), "1:5,9");
        assert_eq!(set(&[(0, 2)]).to_string(), "1:2");
        assert_eq!(set(&[(0, 0)]).to_string(), "");
        assert_eq!(set(&[(4, u32::MAX), (2, 7)]).to_string(), "2:4294967295");
    }

    #[test]
    fn insert_in_any_order_equals_from_ranges() {
        let mut seed = 7_u64;
        for _ in 0..200 {
            let mut uids = Vec::new();
            let mut grown = UidSet::new();
            for _ in 0..40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let uid = u32::try_from(seed >> 58).unwrap() + 1;
                uids.push((uid, uid));
                grown.insert(Uid(uid));
            }
            assert_eq!(grown, UidSet::from_ranges(uids));
        }
    }

    #[test]
    fn set_algebra_agrees_with_naive_sets() {
        use std::collections::BTreeSet;
        let mut seed = 99_u64;
        let mut draw = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u32::try_from(seed >> 58).unwrap() + 1
        };
        for _ in 0..300 {
            let a: BTreeSet<u32> = (0..30).map(|_| draw()).collect();
            let b: BTreeSet<u32> = (0..30).map(|_| draw()).collect();
            let (x, y): (UidSet, UidSet) = (a.iter().map(|u| Uid(*u)).collect(), b.iter().map(|u| Uid(*u)).collect());
            let naive = |s: BTreeSet<u32>| s.into_iter().map(Uid).collect::<UidSet>();
            assert_eq!(x.intersection(&y), naive(&a & &b));
            assert_eq!(x.difference(&y), naive(&a - &b));
            assert_eq!(x.union(&y), naive(&a | &b));
            assert_eq!(x.len(), a.len() as u64);
            assert!(a.iter().all(|u| x.contains(Uid(*u))));
            assert_eq!(x.iter().map(|u| u.0).collect::<Vec<_>>(), a.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn iteration_ends_at_the_last_uid_there_is() {
        let top = set(&[(u32::MAX - 1, u32::MAX)]);
        assert_eq!(top.iter().count(), 2);
    }
}
