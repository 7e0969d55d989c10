//! The frozen list of the maildrop.

use parliament_ids::{Uid, UidSet, UidValidity};
use std::fmt::Write;

/// The messages of a session, numbered from 1 in the order of their UIDs. Numbers never change; marks do.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    uid_validity: UidValidity,
    /// UIDs, ascending, with sizes.
    rows: Vec<(Uid, u64)>,
    deleted: UidSet,
}

impl List {
    pub(crate) fn new(uid_validity: UidValidity) -> Self {
        Self { uid_validity, ..Self::default() }
    }

    pub(crate) fn push(&mut self, uid: Uid, size: u64) {
        self.rows.push((uid, size));
    }

    /// A message that is not marked, by its number.
    pub(crate) fn get(&self, number: u32) -> Option<(Uid, u64)> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.rows.get(index).copied().filter(|(uid, _)| !self.deleted.contains(*uid))
    }

    pub(crate) fn delete(&mut self, uid: Uid) {
        self.deleted.insert(uid);
    }

    pub(crate) fn undelete_all(&mut self) {
        self.deleted = UidSet::new();
    }

    pub(crate) const fn deleted(&self) -> &UidSet {
        &self.deleted
    }

    fn unmarked(&self) -> impl Iterator<Item = (usize, Uid, u64)> {
        let numbered = self.rows.iter().enumerate();
        numbered.filter(|(_, (uid, _))| !self.deleted.contains(*uid)).map(|(at, (uid, size))| (at + 1, *uid, *size))
    }

    /// Messages and bytes that are not marked.
    pub(crate) fn stat(&self) -> (usize, u64) {
        self.unmarked().fold((0, 0), |(count, bytes), (_, _, size)| (count + 1, bytes + size))
    }

    pub(crate) fn unique_id(&self, uid: Uid) -> String {
        format!("{}.{uid}", self.uid_validity)
    }

    /// The lines of LIST or UIDL.
    pub(crate) fn lines(&self, unique_ids: bool) -> String {
        let mut text = String::new();
        for (number, uid, size) in self.unmarked() {
            // Writing to a String cannot fail.
            let _ = if unique_ids { write!(text, "{number} {}.{uid}\r\n", self.uid_validity) } else { write!(text, "{number} {size}\r\n") };
        }
        text
    }
}
