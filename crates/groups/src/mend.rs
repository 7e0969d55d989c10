//! Mending what is damaged on this node, from what else is on this node: tables from a snapshot file and the log, a snapshot file from the
//! tables, a log with lost entries by a snapshot that covers them. Consensus goes on meanwhile; only applies of the group wait.

use crate::group::{Group, ReadError};
use crate::lock;
use crate::machine::{Applicable, Machine};
use crate::snapshots::SnapshotFile;
use crate::state_machine::Core;
use openraft::EntryPayload;
use parliament_ids::GroupId;
use parliament_mailbox_state::Overlay;
use parliament_tables::{Checked, Staging, TableError};
use std::sync::Arc;
use std::time::Duration;

/// Entries replayed in one step; the tables being built keep nothing in memory, so this bounds an overlay.
const REPLAY_ENTRIES: usize = 256;

impl Core {
    /// Rebuilds the tables at the applied mark they have.
    pub(crate) fn rebuild(&self) -> Result<(), TableError> {
        let _alone = lock(&self.changing);
        self.rebuild_alone()
    }

    /// As [`Core::rebuild`], for who changes the tables already.
    pub(crate) fn rebuild_alone(&self) -> Result<(), TableError> {
        let newest = self.snapshots.newest();
        let from_newest = match &newest {
            Some(file) => self.rebuild_from(Some(file)),
            None if self.log.purged().is_none() => self.rebuild_from(None),
            None => Err(TableError::Incomplete("there is no snapshot file".into())),
        };
        let Err(error) = from_newest else { return Ok(()) };
        if !error.is_damage() && !matches!(error, TableError::Incomplete(_)) {
            return Err(error);
        }
        tracing::error!(group = %self.group, %error, "the tables are not to be had from snapshot file and log; what can be read of them is written anew");
        let begun = self.begin_snapshot()?;
        let file = self.finish_unflushed(begun)?;
        self.rebuild_from(Some(&file))
    }

    fn rebuild_from(&self, file: Option<&SnapshotFile>) -> Result<(), TableError> {
        if let Some(file) = file {
            parliament_tables::forget_cached(file.path());
            self.snapshots.verify(file).map_err(|error| unverified(&error))?;
        }
        let first = file.and_then(SnapshotFile::index).map_or(0, |index| index + 1);
        let last = self.applied().index().unwrap_or(0);
        if first > last + 1 {
            return Err(TableError::Damaged("the snapshot file is ahead of the tables".into()));
        }
        // Only once there is something to rebuild them from: whoever is told gives up what rests on the tables.
        self.machine.rebuilding();
        self.tables.rebuild(file.map(SnapshotFile::path), |staging| self.replay(staging, first, last))?;
        tracing::warn!(group = %self.group, snapshot = ?file.and_then(SnapshotFile::index), applied = last, "the tables were rebuilt");
        Ok(())
    }

    /// Applies the entries of the log that are applied already once more, to tables that lack them. Nobody is told of them again.
    fn replay(&self, staging: &Staging, first: u64, last: u64) -> Result<(), TableError> {
        let mut next = first;
        while next <= last {
            let entries = self.log.read(next, last + 1).map_err(|error| TableError::Damaged(format!("the log: {error}")))?;
            let entries: Vec<_> = entries.into_iter().take(REPLAY_ENTRIES).collect();
            let mut commands = Vec::with_capacity(entries.len());
            for entry in &entries {
                if entry.log_id.index() != next {
                    break;
                }
                next += 1;
                if let EntryPayload::Normal(command) = &entry.payload {
                    commands.push(Applicable { index: entry.log_id.index(), command: command.command() });
                }
            }
            if entries.is_empty() || next == entries[0].log_id.index() {
                return Err(TableError::Damaged(format!("the log lacks entry {next}")));
            }
            let mut overlay = Overlay::new(staging);
            let applied = self.machine.clone().apply(&mut overlay, &commands);
            applied.map_err(|fault| TableError::Damaged(format!("entry {}: {}", fault.index, fault.fault)))?;
            staging.write(overlay.into_writes())?;
        }
        Ok(())
    }

    /// What a read has met cannot be mended from what is here: the tables are given up, so that a peer is asked. Group 0 is rebuilt so at the
    /// next start, and serves until then what can be read.
    pub(crate) fn give_up(&self, error: &TableError) {
        let lost = error.is_damage() || matches!(error, TableError::Incomplete(_));
        if lost
            && self.group != GroupId::CLUSTER
            && let Err(error) = self.tables.condemn(&error.to_string())
        {
            tracing::error!(group = %self.group, %error, "damaged tables could not be marked");
        }
    }

    /// Reads tables and snapshot file from the medium. What of the tables is damaged is rebuilt.
    fn check_and_rebuild(&self) -> Result<TablesFound, Unmended> {
        let checked = match self.tables.check() {
            Ok(checked) => checked,
            Err(error) if error.is_damage() => {
                tracing::error!(group = %self.group, %error, "the tables are damaged");
                return match self.rebuild() {
                    Ok(()) => Ok(TablesFound { damage: Some(error.to_string()), ..TablesFound::default() }),
                    Err(why) if why.is_damage() || matches!(why, TableError::Incomplete(_)) => {
                        Err(Unmended::Lost(format!("{error}; {why}")))
                    }
                    Err(why) => Err(Unmended::NotNow(format!("{error}; {why}"))),
                };
            }
            Err(other) => return Err(Unmended::NotChecked(other.to_string())),
        };
        let Checked { records, bytes, redo_damaged } = checked;
        let damage = redo_damaged.then(|| "the redo file".to_owned());
        Ok(TablesFound { records, bytes, damage })
    }

    fn snapshot_is_sound(&self) -> (u64, bool) {
        let Some(file) = self.snapshots.newest() else { return (0, true) };
        parliament_tables::forget_cached(file.path());
        let bytes = std::fs::metadata(file.path()).map_or(0, |meta| meta.len());
        let verified = self.snapshots.verify(&file);
        if let Err(error) = &verified {
            // Superseded while it was read: it need not be sound any more.
            let current = self.snapshots.newest().is_some_and(|newest| newest.path() == file.path());
            tracing::error!(group = %self.group, path = %file.path().display(), %error, current, "a snapshot file is damaged");
            return (bytes, !current);
        }
        (bytes, true)
    }
}

/// A snapshot file does not verify, or the system did not let it be read.
fn unverified(error: &std::io::Error) -> TableError {
    let table = error.get_ref().and_then(|inner| inner.downcast_ref::<TableError>());
    let system = table.is_some_and(|error| matches!(error, TableError::Io { .. }) && !error.is_damage());
    if system { TableError::NotChecked(error.to_string()) } else { TableError::Damaged(error.to_string()) }
}

/// What a look at the tables on the medium found; damage is mended already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablesFound {
    /// Records read.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What was damaged, in words.
    pub damage: Option<String>,
}

/// Why a look at the tables ended without tables that are known to be sound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmended {
    /// They could not be looked at, for want of space for instance: nothing is known.
    #[error("not checked: {0}")]
    NotChecked(String),
    /// They are damaged, and could not be mended for a reason that may pass.
    #[error("not mended yet: {0}")]
    NotNow(String),
    /// They are damaged, and what else is on this node is not enough to mend them.
    #[error("{0}")]
    Lost(String),
}

impl<M: Machine> Group<M> {
    /// Reads the tables from the medium, and rebuilds them from snapshot file and log if anything does not verify.
    ///
    /// # Errors
    /// What is damaged and could not be mended from this node, or could not be looked at.
    pub async fn scrub_tables(&self) -> Result<TablesFound, Unmended> {
        let core: Arc<Core> = self.inner.core.clone();
        let done = tokio::task::spawn_blocking(move || core.check_and_rebuild()).await;
        done.map_err(|error| Unmended::NotChecked(error.to_string()))?
    }

    /// Rebuilds the tables from snapshot file and log, whatever they are like.
    ///
    /// # Errors
    /// What is damaged, or could not be done.
    pub async fn rebuild_tables(&self) -> Result<(), String> {
        self.on_core(Core::rebuild).await
    }

    /// Reads the newest snapshot file from the medium: its bytes, and whether it is sound.
    pub async fn scrub_snapshot(&self) -> (u64, bool) {
        self.on_core(|core| Ok::<_, TableError>(core.snapshot_is_sound())).await.unwrap_or((0, false))
    }

    /// Writes a snapshot that covers at least `index`, and waits until it is the newest one. Up to it, the log is not needed for anything but
    /// peers that lag.
    ///
    /// # Errors
    /// [`ReadError::TimedOut`]; [`ReadError::Stopped`].
    pub async fn snapshot_covering(&self, index: u64, within: Duration) -> Result<(), ReadError> {
        self.wait_applied(index, within).await?;
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let covers = self.snapshot().is_some_and(|file| file.index() >= Some(index));
            if covers && self.scrub_snapshot().await.1 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ReadError::TimedOut);
            }
            self.trigger_snapshot().await.map_err(|error| ReadError::Stopped(error.to_string()))?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn on_core<T: Send + 'static>(&self, work: impl FnOnce(&Core) -> Result<T, TableError> + Send + 'static) -> Result<T, String> {
        let core: Arc<Core> = self.inner.core.clone();
        let done = tokio::task::spawn_blocking(move || work(&core)).await;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}
