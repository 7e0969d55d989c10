//! What a session's client believes of its selected mailbox.

use parliament_ids::{Keyword, MailboxId, MailboxName, ModSeq, Rights, Uid, UidSet};
use parliament_mail_api::{Mark, Selected};

/// The client's sequence map: its messages by UID, with ranks. Rank and select take O(log ranges); a change takes O(ranges) and
/// comes in batches, so a mailbox of 100,000 messages costs a few ranges, and 8 bytes a message at worst.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shadow {
    set: UidSet,
    /// Messages before each range of `set`.
    before: Vec<u32>,
}

impl Shadow {
    pub(crate) fn new(set: UidSet) -> Self {
        let mut sum = 0_u32;
        let before = set
            .ranges()
            .iter()
            .map(|(first, last)| {
                let here = sum;
                sum = sum.saturating_add((last - first).saturating_add(1));
                here
            })
            .collect();
        Self { set, before }
    }
    pub(crate) fn uids(&self) -> &UidSet {
        &self.set
    }
    /// Messages in the map.
    pub(crate) fn count(&self) -> u32 {
        match (self.set.ranges().last(), self.before.last()) {
            (Some((first, last)), Some(before)) => before.saturating_add((last - first).saturating_add(1)),
            _ => 0,
        }
    }
    /// The greatest UID, 0 without messages.
    pub(crate) fn last(&self) -> u32 {
        self.set.last().map_or(0, |uid| uid.0)
    }
    /// Messages with a UID below `uid`.
    pub(crate) fn below(&self, uid: Uid) -> u32 {
        let at = self.set.ranges().partition_point(|r| r.1 < uid.0);
        match (self.set.ranges().get(at), self.before.get(at)) {
            (Some((first, _)), Some(before)) => before.saturating_add(uid.0.saturating_sub(*first)),
            _ => self.count(),
        }
    }
    /// Sequence number of a message.
    pub(crate) fn rank(&self, uid: Uid) -> Option<u32> {
        self.set.contains(uid).then(|| self.below(uid).saturating_add(1))
    }
    /// UID of a sequence number.
    pub(crate) fn select(&self, seq: u32) -> Option<Uid> {
        let n = seq.checked_sub(1)?;
        let at = self.before.partition_point(|before| *before <= n).checked_sub(1)?;
        let (first, last) = self.set.ranges().get(at)?;
        let uid = first.checked_add(n - self.before.get(at)?)?;
        (uid <= *last).then_some(Uid(uid))
    }
    /// UIDs of a set of sequence numbers; numbers beyond the end are passed over.
    pub(crate) fn uids_of(&self, seqs: &UidSet) -> UidSet {
        let count = self.count();
        let spans = seqs.ranges().iter().filter_map(|(a, b)| Some((self.select(*a)?.0, self.select((*b).min(count))?.0)));
        self.set.intersection(&UidSet::from_ranges(spans))
    }
    /// Sequence numbers of a set of UIDs; others are passed over.
    pub(crate) fn seqs_of(&self, uids: &UidSet) -> UidSet {
        let known = self.set.intersection(uids);
        UidSet::from_ranges(known.ranges().iter().map(|(a, b)| (self.below(Uid(*a)) + 1, self.below(Uid(*b)) + 1)))
    }
    pub(crate) fn add(&mut self, uids: &UidSet) {
        *self = Self::new(self.set.union(uids));
    }
    pub(crate) fn remove(&mut self, uids: &UidSet) {
        *self = Self::new(self.set.difference(uids));
    }
}

/// The selected mailbox as the client knows it.
///
/// `shown` changes only when the client is told; `mark` runs ahead of it, and `hidden` is the difference: messages known to be
/// expunged that could not lawfully be told yet.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) mailbox: MailboxId,
    pub(crate) name: MailboxName,
    pub(crate) read_only: bool,
    /// Sent with every call.
    pub(crate) mark: Mark,
    /// The greatest HIGHESTMODSEQ that may be told: everything up to it was shown.
    pub(crate) told_modseq: ModSeq,
    pub(crate) shown: Shadow,
    pub(crate) hidden: UidSet,
    pub(crate) recent_from: Uid,
    pub(crate) keywords: Vec<Keyword>,
    pub(crate) rights: Rights,
    /// Deleted elsewhere, or no longer visible.
    pub(crate) gone: bool,
}

impl View {
    pub(crate) fn new(selected: Selected, examine: bool) -> Self {
        let changing = [Rights::SEEN, Rights::WRITE, Rights::INSERT, Rights::DELETE_MESSAGES, Rights::EXPUNGE];
        Self {
            mailbox: selected.mailbox,
            name: selected.name,
            read_only: examine || !changing.iter().any(|right| selected.rights.contains(*right)),
            mark: Mark { mailbox: selected.mailbox, modseq: selected.highest_modseq, uid_next: selected.uid_next },
            told_modseq: selected.highest_modseq,
            shown: Shadow::new(selected.uids),
            hidden: UidSet::new(),
            recent_from: selected.recent_from,
            keywords: selected.keywords,
            rights: selected.rights,
            gone: false,
        }
    }
    /// Messages that are `\Recent` to this session (RFC 3501 section 2.3.2), best effort.
    pub(crate) fn recent(&self) -> u32 {
        self.shown.count() - self.shown.below(self.recent_from)
    }
    /// Messages that the client knows and that still exist as far as is known.
    pub(crate) fn alive(&self, uids: &UidSet) -> UidSet {
        uids.intersection(self.shown.uids()).difference(&self.hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shadow_agrees_with_a_list(uids in prop::collection::btree_set(1_u32..200, 0..60), ask in prop::collection::btree_set(1_u32..220, 0..20)) {
            let list: Vec<u32> = uids.iter().copied().collect();
            let shadow = Shadow::new(uids.iter().map(|u| Uid(*u)).collect());
            prop_assert_eq!(shadow.count() as usize, list.len());
            for uid in 1..220 {
                prop_assert_eq!(shadow.rank(Uid(uid)), list.iter().position(|u| *u == uid).map(|at| at as u32 + 1));
                prop_assert_eq!(shadow.select(uid), list.get(uid as usize - 1).map(|u| Uid(*u)));
                prop_assert_eq!(shadow.below(Uid(uid)) as usize, list.iter().filter(|u| **u < uid).count());
            }
            prop_assert_eq!(shadow.select(0), None);
            let seqs: UidSet = ask.iter().map(|u| Uid(*u)).collect();
            let expected: UidSet = ask.iter().filter_map(|s| list.get(*s as usize - 1)).map(|u| Uid(*u)).collect();
            prop_assert_eq!(shadow.uids_of(&seqs), expected.clone());
            let back: UidSet = ask.iter().filter(|s| **s as usize <= list.len()).map(|s| Uid(*s)).collect();
            prop_assert_eq!(shadow.seqs_of(&expected), back);
        }
    }

    #[test]
    fn a_large_fragmented_mailbox_is_cheap() {
        let odd: UidSet = (0..100_000).map(|n| Uid(2 * n + 1)).collect();
        let mut shadow = Shadow::new(odd);
        let gone: UidSet = (0..10_000).map(|n| Uid(20 * n + 1)).collect();
        let seqs = shadow.seqs_of(&gone);
        assert_eq!((seqs.len(), seqs.first()), (10_000, Some(Uid(1))));
        shadow.remove(&gone);
        assert_eq!((shadow.count(), shadow.rank(Uid(3))), (90_000, Some(1)));
    }
}
