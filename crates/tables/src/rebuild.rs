//! Replacing the database by one built anew, at the same applied mark, while the old one is read.
//!
//! The tables are never seen at an earlier mark than before: readers have the old database, whose damaged records they cannot read, until the
//! new one is complete.

use std::path::Path;

use parliament_mailbox_state::{TableFault, Tables, Writes};

use crate::TableError;
use crate::base::{Base, Flushed};
use crate::directory::{Incomplete, remove};
use crate::group::GroupTables;
use crate::layers::{Pending, View};
use crate::recover::{make_database, redo_writer};
use crate::snapshot_file::{Reader, verify_snapshot};

/// Tables being built: seen by nobody, and worthless until they are complete.
pub struct Staging {
    base: Base,
    /// Always empty: there to read through the same view as all tables.
    nothing: Pending,
}

impl Staging {
    /// Writes a batch. Not atomic: a crash on the way leaves nothing that counts.
    ///
    /// # Errors
    /// What sled met.
    pub fn write(&self, writes: Writes) -> Result<(), TableError> {
        writes.into_iter().try_for_each(|(key, value)| self.base.write(&key, value.as_deref()))
    }

    fn view(&self) -> View<'_> {
        View { active: &self.nothing, frozen: None, base: &self.base }
    }
}

impl Tables for Staging {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        Ok(self.base.get(key)?)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        if from >= to {
            return Ok(());
        }
        let view = self.view();
        let mut merge = view.merge(from, Some(to))?;
        while let Some((key, value)) = merge.next()? {
            if value.is_some_and(|value| !visit(&key, &value)) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, TableFault> {
        if from < to { Ok(self.view().last(from, to)?) } else { Ok(None) }
    }
}

impl GroupTables {
    /// Builds the tables anew: from a snapshot file, which is verified first, or from nothing, and what `replay` writes on top, which must lead
    /// to the mark that the tables have now. The caller sees to it that nothing is committed meanwhile.
    ///
    /// # Errors
    /// Nothing has changed when the source is damaged or the replay fails. A failure after that leaves the tables incomplete, as one of
    /// [`GroupTables::install`] does.
    pub fn rebuild(&self, from: Option<&Path>, replay: impl FnOnce(&Staging) -> Result<(), TableError>) -> Result<(), TableError> {
        let mut number = self.inner.flushing();
        let directory = self.inner.directory();
        let Some(applied) = self.applied() else { return Err(TableError::Incomplete("nothing has been applied".into())) };
        let before = directory.numbers("tables")?;
        if let Some(path) = from {
            verify_snapshot(path)?;
        }
        // A crash from here on is found as several databases, and both are given up for the snapshot file and the log.
        let base = make_database(directory, self.inner.options())?;
        let fresh = directory.numbers("tables")?.last().copied().unwrap_or(0);
        let flushed = Flushed { number: 1, applied: applied.clone() };
        let staging = Staging { base, nothing: Pending::default() };
        let built = load(&staging, from).and_then(|()| replay(&staging)).and_then(|()| {
            staging.base.set_flushed(&flushed)?;
            staging.base.flush()
        });
        if let Err(error) = built {
            drop(staging);
            remove(&directory.database(fresh))?;
            return Err(error);
        }
        directory.write_mark(&Incomplete::Installing)?;
        self.inner.swap(staging.base, applied);
        for old in before {
            remove(&directory.database(old))?;
        }
        redo_writer(directory, &flushed)?.finish(false)?;
        directory.clear_mark()?;
        *number = flushed.number;
        Ok(())
    }
}

fn load(staging: &Staging, from: Option<&Path>) -> Result<(), TableError> {
    let Some(path) = from else { return Ok(()) };
    let mut reader = Reader::open(path)?;
    while let Some((key, value)) = reader.next()? {
        staging.base.write(&key, value.as_deref())?;
    }
    reader.info().map(drop)
}
