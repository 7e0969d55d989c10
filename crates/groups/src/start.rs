//! Bringing a group's log, tables and snapshot into one consistent state before openraft runs.

use crate::link::BodyGate;
use crate::log_store::LogStore;
use crate::machine::AnyMachine;
use crate::snapshots::SnapshotDir;
use crate::state_machine::Core;
use openraft::ConfigError;
use parliament_ids::GroupId;
use parliament_journal::GroupLog;
use parliament_tables::{Opened, TableError, TableState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What a group is made of on this node.
pub struct GroupStart {
    /// Which group.
    pub group: GroupId,
    /// A folder of the group's own, for snapshot files.
    pub dir: PathBuf,
    /// Its part of the node journal.
    pub log: GroupLog,
    /// Its tables, just opened.
    pub tables: Opened,
    /// The body store's gate.
    pub gate: Arc<dyn BodyGate>,
    /// A snapshot file fetched from a peer after [`StartError::SnapshotNeeded`]; kept by the group. On the file system of `dir`.
    pub rescue: Option<PathBuf>,
}

/// A group cannot start on this node.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tables end before the log begins and no snapshot file here closes the gap: fetch one from a peer that covers at
    /// least `purged` ([`crate::Group::snapshot`] there) and start again with it as [`GroupStart::rescue`]. Vote and log stay.
    #[error("a snapshot that covers index {purged} is needed from a peer")]
    SnapshotNeeded {
        /// The last entry that the log no longer has.
        purged: u64,
    },
    /// Synced frames of the group's log were lost: this replica may have broken a promise. It must be removed from the group,
    /// its log reset ([`GroupLog::reset`]), and join anew as a learner.
    #[error("the log of group {0} is damaged")]
    LogDamaged(GroupId),
    /// The group runs here already.
    #[error("group {0} runs already")]
    Running(GroupId),
    /// Timing settings contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Tables.
    #[error(transparent)]
    Tables(#[from] TableError),
    /// Log, snapshot files, or what is in them.
    #[error(transparent)]
    Storage(#[from] io::Error),
    /// openraft refused the state it found.
    #[error("consensus: {0}")]
    Consensus(String),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopping,
}

/// A group's storage, consistent.
pub(crate) struct Prepared {
    pub(crate) log: LogStore,
    pub(crate) core: Arc<Core>,
}

/// Blocks: may install a snapshot.
pub(crate) fn open(start: GroupStart, machine: Arc<dyn AnyMachine>) -> Result<Prepared, StartError> {
    let GroupStart { group, dir, log, tables: Opened { tables, state }, rescue, .. } = start;
    let snapshots = Arc::new(SnapshotDir::open(&dir, group)?);
    if let Some(path) = rescue {
        let file = snapshots.describe_file(path)?;
        snapshots.verify(&file)?;
        snapshots.adopt_received(&file)?;
    }
    if log.state().damaged {
        return Err(StartError::LogDamaged(group));
    }
    let log = LogStore::open(log)?;
    let complete = matches!(state, TableState::Fresh | TableState::Ready { .. });
    if !complete && snapshots.newest().is_none() {
        if let Some(purged) = log.purged() {
            return Err(StartError::SnapshotNeeded { purged: purged.index() });
        }
        tracing::warn!(%group, ?state, "tables start empty: the log reaches back to its first entry");
        tables.start_empty()?;
    }
    // Tables that are behind the newest snapshot, or unusable, are replaced by it; the log supplies the rest.
    if let Some(file) = snapshots.newest() {
        let applied =
            if complete { Core::new(group, tables.clone(), snapshots.clone(), machine.clone())?.applied() } else { Default::default() };
        if !complete || applied.index() < file.index() {
            tracing::warn!(%group, ?state, applied = ?applied.index(), snapshot = ?file.index(), "tables are rebuilt from the snapshot on this node");
            tables.install(file.path())?;
        }
    }
    let core = Arc::new(Core::new(group, tables, snapshots, machine)?);
    if let Some(purged) = log.purged()
        && core.applied().index() < Some(purged.index())
    {
        return Err(StartError::SnapshotNeeded { purged: purged.index() });
    }
    Ok(Prepared { log, core })
}

impl Prepared {
    /// Settles differences between log and tables that a crash may leave.
    pub(crate) async fn settle(&self) -> Result<(), StartError> {
        let Some(applied) = self.core.applied().last else { return Ok(()) };
        // What is applied is committed: an entry of another term at its place was never committed.
        if self.log.purged().is_none_or(|purged| purged.index() < applied.index())
            && let Some(entry) = self.log.entry(applied.index())?
            && entry.log_id != applied
        {
            tracing::warn!(group = %self.core.group, %applied, found = %entry.log_id, "log entries that contradict the tables are dropped");
            self.log.truncate_from(applied.index()).await?;
        }
        // The log then begins behind what is applied, so a snapshot file must cover that first (rule 8).
        if self.log.last().is_none_or(|last| last.index() < applied.index()) && self.core.snapshots.newest_index() < Some(applied.index()) {
            let core = self.core.clone();
            let built = tokio::task::spawn_blocking(move || core.begin_snapshot().and_then(|begun| core.finish_snapshot(begun)));
            built.await.map_err(io::Error::other)??;
        }
        Ok(())
    }
}
