//! Bringing a group's log, tables and snapshot into one consistent state before openraft runs.

use crate::link::BodyGate;
use crate::log_store::LogStore;
use crate::machine::AnyMachine;
use crate::records::{Applied, encode_log_id};
use crate::snapshots::{SnapshotDir, describe};
use crate::state_machine::Core;
use crate::witness::WitnessRule;
use openraft::ConfigError;
use parliament_ids::GroupId;
use parliament_journal::GroupLog;
use parliament_tables::{GroupTables, Opened, TableError, TableState};
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
    /// On a node without bodies: what it acknowledges (rule 5), in place of the gate.
    pub witness: Option<Arc<WitnessRule>>,
    /// A snapshot file fetched from a peer after [`StartError::SnapshotNeeded`]; kept by the group. On the file system of `dir`.
    pub rescue: Option<PathBuf>,
}

/// A group cannot start on this node.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tables end before the log begins, or entries of the log are lost, and no snapshot file here closes the gap: fetch one from a peer
    /// that covers at least `purged` ([`crate::Group::snapshot`] there) and start again with it as [`GroupStart::rescue`]. Vote and log stay.
    #[error("a snapshot that covers index {purged} is needed from a peer")]
    SnapshotNeeded {
        /// The last entry that the log does not have.
        purged: u64,
    },
    /// Synced frames of the group's log were lost, its vote may be among them: this replica may have broken a promise. It must be removed from the group,
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
        let file = snapshots.describe_file(path.clone())?;
        snapshots.verify(&file)?;
        // The log may have been purged up to an own one that covers more.
        if file.index() >= snapshots.newest_index() {
            snapshots.adopt_received(&file)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    if log.state().damaged {
        return Err(StartError::LogDamaged(group));
    }
    let mut complete = matches!(state, TableState::Fresh | TableState::Ready { .. });
    if let Some(hurt) = log.state().hurt {
        cover(group, hurt, &log, complete.then_some(&tables), &snapshots)?;
    }
    let log = LogStore::open(log)?;
    // Tables that are behind the newest snapshot, or unusable, are replaced by it; the log supplies the rest.
    while let Some(file) = snapshots.newest() {
        let applied = if complete { applied_of(&tables)? } else { Applied::default() };
        if complete && applied.index() >= file.index() {
            break;
        }
        tracing::warn!(%group, ?state, applied = ?applied.index(), snapshot = ?file.index(), "tables are rebuilt from the snapshot on this node");
        match tables.install(file.path()) {
            Ok(_) => complete = true,
            Err(TableError::Damaged(why)) => {
                tracing::error!(%group, why, path = %file.path().display(), "a snapshot file is damaged and not used");
                snapshots.put_aside(&file)?;
            }
            Err(other) => return Err(other.into()),
        }
    }
    if !complete {
        if let Some(purged) = log.purged() {
            return Err(StartError::SnapshotNeeded { purged: purged.index() });
        }
        tracing::warn!(%group, ?state, "tables start empty: the log reaches back to its first entry");
        tables.start_empty()?;
    }
    let core = Arc::new(Core::new(group, tables, snapshots, log.clone(), machine)?);
    if let Some(purged) = log.purged()
        && core.applied().index() < Some(purged.index())
    {
        return Err(StartError::SnapshotNeeded { purged: purged.index() });
    }
    Ok(Prepared { log, core })
}

/// Makes a log whole that has lost entries up to `hurt`, and nothing else: the vote and the log's ends are known. Once a snapshot covers them
/// they are needed for nothing, as after any purge. Without one the replica must not take part: it may have acknowledged what it lost.
fn cover(group: GroupId, hurt: u64, log: &GroupLog, tables: Option<&GroupTables>, snapshots: &SnapshotDir) -> Result<(), StartError> {
    let newest = || snapshots.newest().filter(|file| file.index() >= Some(hurt) && snapshots.verify(file).is_ok());
    if newest().is_none()
        && let Some(tables) = tables
    {
        let applied = applied_of(tables)?;
        if applied.index() >= Some(hurt) {
            let path = snapshots.path_for(&applied);
            let written = tables.snapshot_to(&path, &describe(group, &applied)).and_then(|run| run.run()).and_then(|_| tables.flush());
            match written {
                Ok(_) => drop(snapshots.adopt(path, applied.meta())),
                Err(error) if error.is_damage() => tables.condemn(&error.to_string())?,
                Err(other) => return Err(other.into()),
            }
        }
    }
    let file = newest().ok_or(StartError::SnapshotNeeded { purged: hurt })?;
    let Some(last) = file.meta().last_log_id else { return Err(StartError::SnapshotNeeded { purged: hurt }) };
    tracing::warn!(%group, hurt, snapshot = last.index(), "entries of the log are lost here; it begins anew behind a snapshot that covers them");
    let (told, heard) = std::sync::mpsc::channel();
    // The receiver waits below.
    log.purge_to(last.index(), encode_log_id(&last), Box::new(move |result| drop(told.send(result))));
    heard.recv().map_err(|_| StartError::Stopping)?.map_err(|fault| StartError::Storage(io::Error::other(fault)))
}

fn applied_of(tables: &GroupTables) -> Result<Applied, StartError> {
    match tables.applied() {
        None => Ok(Applied::default()),
        Some(mark) => Ok(Applied::decode(mark.into()).map_err(io::Error::other)?),
    }
}

impl Prepared {
    /// Settles differences between log and tables that a crash may leave.
    pub(crate) async fn settle(&self) -> Result<(), StartError> {
        drop_contradicting_tail(self.core.group, &self.log).await?;
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

/// A log that begins anew behind a snapshot of a peer may go on with entries that were never committed: what a leader of an earlier term wrote
/// behind an entry that the group decided otherwise. openraft refuses such a log. An entry of the same or a later term was appended behind the
/// snapshot's last one, as appends are.
pub(crate) async fn drop_contradicting_tail(group: GroupId, log: &LogStore) -> Result<(), StartError> {
    let Some(purged) = log.purged() else { return Ok(()) };
    let behind = purged.index() + 1;
    // One that cannot be read is met by whoever needs it.
    let Ok(Some(next)) = log.entry(behind) else { return Ok(()) };
    if next.log_id.committed_leader_id().term < purged.committed_leader_id().term {
        tracing::warn!(%group, %purged, found = %next.log_id, "log entries that contradict the snapshot are dropped");
        log.truncate_from(behind).await?;
    }
    Ok(())
}
