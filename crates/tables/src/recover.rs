//! How a flush is written, and how an open finds and completes the last one.

use crate::base::{Base, Flushed, is_locked};
use crate::directory::{Directory, add_suffix, remove};
use crate::layers::Pending;
use crate::snapshot_file::{Reader, Writer};
use crate::{TableError, TableOptions};

/// The first step of a flush. Until it is complete, sled is as the previous flush left it.
pub(crate) fn write_redo(directory: &Directory, frozen: &Pending, flushed: &Flushed) -> Result<(), TableError> {
    let mut writer = redo_writer(directory, flushed)?;
    for (key, value) in frozen.iter() {
        writer.put(key, value)?;
    }
    writer.finish(false).map(drop)
}

/// The second step: the records, then the number.
pub(crate) fn write_down(frozen: &Pending, base: &Base, flushed: &Flushed) -> Result<(), TableError> {
    for (key, value) in frozen.iter() {
        base.write(key, value)?;
    }
    base.set_flushed(flushed)?;
    base.flush()
}

pub(crate) fn redo_writer(directory: &Directory, flushed: &Flushed) -> Result<Writer, TableError> {
    Writer::create(&directory.redo(), &flushed.number.to_le_bytes(), &flushed.applied)
}

/// Completes a flush that a crash interrupted, and finds out whether sled has lost an earlier one: it takes damage in its log for the log's
/// end and silently opens as of then.
fn redo(directory: &Directory, base: &Base) -> Result<Flushed, TableError> {
    let path = directory.redo();
    remove(&add_suffix(&path, "tmp"))?;
    let held = base.flushed()?;
    let lost = |last| TableError::Damaged(format!("sled holds flush {} instead of {last}", held.number));
    if !path.exists() {
        return if held.number == 0 { Ok(held) } else { Err(lost("none".to_owned())) };
    }
    let mut reader = Reader::open(&path)?;
    let number = reader.meta.as_slice().try_into().map(u64::from_le_bytes).map_err(|_| reader.damaged("not a redo file"))?;
    if number == held.number {
        return Ok(held);
    }
    if number != held.number + 1 {
        return Err(lost(number.to_string()));
    }
    while let Some((key, value)) = reader.next()? {
        base.write(&key, value.as_deref())?;
    }
    let flushed = Flushed { number, applied: reader.info()?.applied };
    base.set_flushed(&flushed)?;
    base.flush()?;
    Ok(flushed)
}

pub(crate) enum Unusable {
    /// The database is to blame.
    Database { number: u64, error: TableError },
    /// Something else is.
    Other(TableError),
}

impl From<TableError> for Unusable {
    fn from(error: TableError) -> Self {
        Self::Other(error)
    }
}

/// Opens the database there is, or makes the first one.
pub(crate) fn open_existing(directory: &Directory, options: &TableOptions) -> Result<(Base, Flushed), Unusable> {
    let numbers = directory.numbers("tables")?;
    let &[number] = numbers.as_slice() else {
        return match numbers.last() {
            None if directory.redo().exists() => {
                Err(Unusable::Database { number: 0, error: TableError::Damaged("the database is gone".into()) })
            }
            None => Ok((make_database(directory, options)?, Flushed::default())),
            Some(&number) => Err(Unusable::Database { number, error: TableError::Damaged("several databases".into()) }),
        };
    };
    directory.remove_generating(number)?;
    let opened = Base::open(&directory.database(number), options.cache_bytes);
    if opened.is_ok() {
        // Who made the files may have died before their names were durable; from here on flushes rely on them.
        directory.sync_database(number)?;
    }
    let redone = opened.and_then(|base| redo(directory, &base).map(|flushed| (base, flushed)));
    redone.map_err(|error| match is_locked(&error) {
        // By another process, or by a snapshot run or a read of an earlier opening in this one: nothing is wrong with the database.
        true => Unusable::Other(error),
        false => Unusable::Database { number, error },
    })
}

pub(crate) fn make_database(directory: &Directory, options: &TableOptions) -> Result<Base, TableError> {
    let number = directory.next_number()?;
    let base = Base::open(&directory.database(number), options.cache_bytes)?;
    directory.sync_database(number)?;
    Ok(base)
}
