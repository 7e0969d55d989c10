//! The folder of a group's tables.
//!
//! ```text
//! tables.N/     the sled database in use
//! aside.N/      at most one database that could not be used, for inspection
//! redo          the last flush, with its number: completes it in sled after a crash, and shows whether sled has lost it
//! incomplete    present while the tables wait for a snapshot; says why
//! check/        a copy of the database while it is looked at
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::TableError;

const INSTALLING: &str = "installing";

/// Why tables are incomplete, as persisted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incomplete {
    /// An install has begun and not ended.
    Installing,
    /// Database `number` was found unusable.
    SetAside { number: u64, why: String },
}

impl Incomplete {
    /// Words for an error message.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Installing => INSTALLING.to_owned(),
            Self::SetAside { why, .. } => format!("set aside: {why}"),
        }
    }
}

/// Syncs a folder, so that names made or removed in it are durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), TableError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(TableError::io("sync", dir))
}

/// `path` with `.suffix` behind its name.
pub(crate) fn add_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a file or a folder with all it holds; absence is fine.
pub(crate) fn remove(path: &Path) -> Result<(), TableError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(TableError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens the folder, making it if need be, and makes its name durable; also of one that was there, since who made it may have died
    /// before that.
    pub(crate) fn open(dir: &Path) -> Result<Self, TableError> {
        fs::create_dir_all(dir).map_err(TableError::io("create", dir))?;
        sync_dir(dir.parent().unwrap_or(Path::new(".")))?;
        Ok(Self(dir.to_owned()))
    }
    /// The folder of database `number`.
    pub(crate) fn database(&self, number: u64) -> PathBuf {
        self.0.join(format!("tables.{number}"))
    }
    /// The redo file.
    pub(crate) fn redo(&self) -> PathBuf {
        self.0.join("redo")
    }
    /// Where a copy of the database is looked at.
    pub(crate) fn copy(&self) -> PathBuf {
        self.0.join("check")
    }
    fn mark(&self) -> PathBuf {
        self.0.join("incomplete")
    }
    /// Makes the names in the folder durable.
    pub(crate) fn sync(&self) -> Result<(), TableError> {
        sync_dir(&self.0)
    }

    /// The numbers of the databases, or of those set aside, ascending.
    pub(crate) fn numbers(&self, prefix: &str) -> Result<Vec<u64>, TableError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(TableError::io("list", &self.0))? {
            let name = entry.map_err(TableError::io("list", &self.0))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_prefix('.')?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A number above all in use.
    pub(crate) fn next_number(&self) -> Result<u64, TableError> {
        let databases = self.numbers("tables")?.last().copied().unwrap_or(0);
        let aside = self.numbers("aside")?.last().copied().unwrap_or(0);
        Ok(databases.max(aside).saturating_add(1))
    }

    /// The persisted mark. A mark that cannot be read still is one.
    pub(crate) fn read_mark(&self) -> Result<Option<Incomplete>, TableError> {
        match fs::read(self.mark()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TableError::io("read", &self.mark())(error)),
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let aside = text.strip_prefix("aside ").and_then(|rest| rest.split_once(": "));
                let aside =
                    aside.and_then(|(number, why)| Some(Incomplete::SetAside { number: number.parse().ok()?, why: why.to_owned() }));
                Ok(Some(aside.unwrap_or(Incomplete::Installing)))
            }
        }
    }

    /// Persists a mark before anything it speaks of is done.
    pub(crate) fn write_mark(&self, mark: &Incomplete) -> Result<(), TableError> {
        let text = match mark {
            Incomplete::Installing => INSTALLING.to_owned(),
            Incomplete::SetAside { number, why } => format!("aside {number}: {why}"),
        };
        let path = self.mark();
        let temporary = add_suffix(&path, "tmp");
        let mut file = File::create(&temporary).map_err(TableError::io("create", &temporary))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(TableError::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(TableError::io("rename", &temporary))?;
        self.sync()
    }

    /// Removes the mark, durably.
    pub(crate) fn clear_mark(&self) -> Result<(), TableError> {
        remove(&self.mark())?;
        self.sync()
    }

    /// Removes the databases and the redo file, which a mark has declared worthless; a database it condemns is kept aside, as the only one.
    pub(crate) fn clear_databases(&self, mark: &Incomplete) -> Result<(), TableError> {
        for number in self.numbers("tables")? {
            let database = self.database(number);
            match mark {
                Incomplete::SetAside { number: condemned, .. } if *condemned == number => {
                    for old in self.numbers("aside")? {
                        remove(&self.0.join(format!("aside.{old}")))?;
                    }
                    let aside = self.0.join(format!("aside.{number}"));
                    fs::rename(&database, &aside).map_err(TableError::io("rename", &database))?;
                }
                _ => remove(&database)?,
            }
        }
        remove(&self.redo())?;
        self.sync()
    }

    /// Removes what an interrupted open of sled leaves: every later open would fail because of it.
    pub(crate) fn remove_generating(&self, number: u64) -> Result<(), TableError> {
        remove_generating(&self.database(number))
    }

    /// Makes the files of a new database durable by name; sled syncs neither its settings file nor a folder.
    pub(crate) fn sync_database(&self, number: u64) -> Result<(), TableError> {
        let database = self.database(number);
        let settings = database.join("conf");
        File::open(&settings).and_then(|file| file.sync_all()).map_err(TableError::io("sync", &settings))?;
        sync_dir(&database)?;
        self.sync()
    }
}

/// As [`Directory::remove_generating`], in any folder of sled's.
pub(crate) fn remove_generating(database: &Path) -> Result<(), TableError> {
    for entry in fs::read_dir(database).map_err(TableError::io("list", database))? {
        let entry = entry.map_err(TableError::io("list", database))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}
