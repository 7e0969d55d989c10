//! Mending of what somebody has found to be damaged on this node: a read, the journal's keeper, a pass over everything, a start.
//!
//! A source is believed only when it verifies: a body by its hash, a snapshot file by its own, and tables are built by nothing else than a
//! verified snapshot file and the log.
//!
//! A replica whose log has lost *entries* and nothing else keeps its vote: it takes part again once a snapshot covers them, before that it
//! stands still. One whose log may have lost *its vote*, or entries that nobody can name, must not speak as the voter it was (rule 10): it is
//! set aside, the controller of placement has it leave its group, and it comes back as a copy that is made anew.

use crate::ask::{Question, Reply};
use crate::identity::Document;
use crate::node::Node;
use crate::opener::{OpenError, Opener};
use crate::running::Running;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parliament_groups::{Group, Machine};
use parliament_ids::{BodyHash, GroupId, NodeId};
use parliament_rpc::{Method, PeerPool};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often is looked for what others have found.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a snapshot that covers lost entries may take.
const COVER_WAIT: Duration = Duration::from_secs(10);
/// One piece of a snapshot file that a peer sends, bytes; written in base64 it stays below the bound of a message between nodes.
const PIECE_BYTES: u64 = 1024 * 1024;
/// How long a peer may take for one piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the tables of a group take to be opened anew, at most.
const REOPEN_WAIT: Duration = Duration::from_secs(60);

/// A group that has a copy here and is not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// It was closed to be opened anew.
    Anew,
    /// It needs a snapshot of a peer that covers this index.
    Needs(u64),
    /// Its log is damaged: it has to leave its group and come back.
    Damaged,
}

impl std::fmt::Display for Aside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anew => f.write_str("it is being opened anew"),
            Self::Needs(index) => write!(f, "it waits for a snapshot that covers index {index}"),
            Self::Damaged => f.write_str("its log is damaged: it leaves the group and is made anew"),
        }
    }
}

/// Mends for as long as the node runs.
pub(crate) async fn run(running: Arc<Running>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !running.is_draining() {
        interval.tick().await;
        mend(&running).await;
    }
}

/// Has damaged bodies pulled. While one is missing no copy here counts as complete.
pub(crate) fn want(running: &Running, damaged: &[BodyHash]) {
    if damaged.is_empty() {
        return;
    }
    running.group_ids().into_iter().for_each(|group| running.forget_check(group));
    damaged.iter().for_each(|hash| running.local.bodies.want(*hash, false));
}

/// One round: bodies that were found damaged, and entries that are lost.
pub(crate) async fn mend(running: &Arc<Running>) {
    let store = running.local.bodies.store();
    let mut damaged = store.take_lost();
    // Also those that no peer had when they were asked for.
    if running.local.bodies.lacking() == 0 {
        damaged.extend(store.damaged());
    }
    want(running, &damaged);
    let mut hurt: BTreeMap<GroupId, u64> = BTreeMap::new();
    for (group, index) in running.journal.hurt_entries() {
        let last = hurt.entry(group).or_default();
        *last = index.max(*last);
    }
    for (group, index) in hurt {
        let covered = match running.local.shard(group) {
            Some(shard) if !shard.has_stopped() => cover(&shard.group, index).await,
            None if group == GroupId::CLUSTER => cover(&running.local.cluster, index).await,
            // It is opened anew, and covered on the way.
            _ => Ok(()),
        };
        if let Err(why) = covered {
            tracing::warn!(%group, index, why, "entries of a log are lost here and not covered by a snapshot yet");
        }
    }
}

/// Makes a log whole that has lost entries up to `index`.
async fn cover<M: Machine>(group: &Group<M>, index: u64) -> Result<(), String> {
    group.snapshot_covering(index, COVER_WAIT).await.map_err(|error| error.to_string())?;
    group.purge_log(index).await.map_err(|error| error.to_string())
}

/// What is known to be damaged or missing here at this moment.
pub(crate) fn left(running: &Running) -> u64 {
    let store = running.local.bodies.store();
    (store.damaged().len() + running.journal.condemned() + running.aside().len()) as u64
}

/// Bodies that were damaged, that nobody had, and that no message here names: there is nothing to mend.
pub(crate) async fn forget_unreferenced(running: &Arc<Running>) {
    let looking = running.clone();
    let named = tokio::task::spawn_blocking(move || crate::tasks::referenced(&looking)).await;
    let Ok(Some(named)) = named else { return };
    let store = running.local.bodies.store();
    store.damaged().iter().filter(|hash| !named.contains(hash)).for_each(|hash| store.forget_damaged(hash));
}

/// The tables of a group cannot be mended from what is on this node: they are given up, and the group is opened anew with a snapshot of a
/// peer. True when it is open again. Group 0 is rebuilt so at the next start.
pub(crate) async fn renew(running: &Arc<Running>, group: GroupId) -> bool {
    let Some(shard) = running.local.shard(group) else {
        tracing::error!(%group, "the tables are mended when this node is started again");
        return false;
    };
    let tables = shard.group.tables().clone();
    let condemned = tokio::task::spawn_blocking(move || tables.condemn("it cannot be mended on this node")).await;
    if !matches!(condemned, Ok(Ok(()))) {
        return false;
    }
    drop(shard);
    set_aside(running, group).await;
    let deadline = tokio::time::Instant::now() + REOPEN_WAIT;
    while running.local.shard(group).is_none() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.local.shard(group).is_some()
}

/// Stops a group here that cannot go on; it is opened anew by who follows group 0.
pub(crate) async fn set_aside(running: &Arc<Running>, group: GroupId) {
    let Some(shard) = running.local.shard(group) else { return };
    tracing::error!(%group, "the group is opened anew here");
    running.give_up_leadership(group).await;
    shard.set_stopped();
    // Whoever is held here is free at once, and read here only after a new acquire (rule 7).
    running.local.support.renounce();
    drop(shard);
    running.groups.stop(group).await;
    running.forget_check(group);
    if running.rescuers(group).is_some() {
        let dir = running.data_dir.join("groups").join(group.to_string());
        let moved = tokio::task::spawn_blocking(move || parliament_groups::put_snapshots_aside(&dir)).await;
        if !matches!(moved, Ok(Ok(()))) {
            // The newest file wins when it is opened; whether what comes of it is right is looked at afterwards.
            tracing::error!(%group, ?moved, "the own snapshot files could not be put aside");
        }
    }
    // Before it is closed: from then on nobody knows what it refers to.
    running.put_aside(group, Some(Aside::Anew));
    running.local.close(group);
}

/// Group 0 no longer knows of a copy here of a group that is not open. What made it unfit is forgotten: a log that may have lost its vote is
/// begun anew, once group 0 has said so after the damage was found. Until then consensus in the group may still count this node's vote.
pub(crate) async fn forget(running: &Arc<Running>, group: GroupId) {
    let Some(why) = running.aside_of(group) else { return };
    if running.local.read_barrier(GroupId::CLUSTER).await.is_err() {
        return;
    }
    let now = Document::of(running.local.cluster_tables(), &running.document());
    if !now.is_ok_and(|now| now.is_some_and(|now| !now.holds(group, running.local.me))) {
        return;
    }
    if why == Aside::Damaged {
        let (told, reset) = tokio::sync::oneshot::channel();
        running.journal.group(group).reset(Box::new(move |result| drop(told.send(result))));
        if !matches!(reset.await, Ok(Ok(()))) {
            return;
        }
        tracing::warn!(%group, "the damaged log is forgotten; a copy that comes here is made anew");
    }
    running.put_aside(group, None);
}

/// Where a snapshot of a peer waits for its group.
pub(crate) fn rescue_path(data: &Path, group: GroupId) -> PathBuf {
    data.join("groups").join(group.to_string()).join("rescue")
}

/// Opens a group that is set aside, with what is to be had for it.
pub(crate) async fn reopen(running: &Arc<Running>, node: &Arc<Node>, group: GroupId) {
    let document = running.document();
    match running.aside_of(group) {
        Some(Aside::Needs(index)) => {
            let voters = || document.voters(group).into_iter().filter(|voter| *voter != running.local.me).collect();
            let others: Vec<NodeId> = running.rescuers(group).unwrap_or_else(voters);
            let path = rescue_path(&running.data_dir, group);
            if let Err(why) = fetch(&running.local.pool, &others, group, index, &path).await {
                tracing::warn!(%group, index, why, "no snapshot for a group that was set aside yet");
                return;
            }
        }
        // While group 0 names this node at all, the group may count its vote, whatever it is called there: see [`forget`].
        Some(Aside::Damaged) => return,
        Some(Aside::Anew) | None => {}
    }
    let (groups, support, witness) = (&running.groups, &running.local.support, running.alone.rule());
    let opener = Opener { node, groups, groups_in_all: document.groups, support, witness };
    match opener.shard(group, &running.local.hub, &running.local.bodies).await {
        Ok(shard) => {
            running.local.open(group, shard);
            running.put_aside(group, None);
            running.rescue_from(group, None);
            tracing::info!(%group, "the group has a copy here");
            // What lies here of an earlier time may name bodies that went since.
            running.installed.notify_one();
        }
        Err(OpenError::Aside(why)) => {
            tracing::error!(%group, %why, "the group is set aside here");
            running.put_aside(group, Some(why));
        }
        Err(OpenError::Fatal(error)) => tracing::error!(%group, %error, "the group cannot be opened here yet"),
    }
}

/// Fetches a snapshot file that covers `index` from the first of these nodes that has one. Whoever uses it verifies it.
pub(crate) async fn fetch(pool: &PeerPool, from: &[NodeId], group: GroupId, index: u64, to: &Path) -> Result<(), String> {
    let mut why = "there is no other voter".to_owned();
    for node in from {
        match fetch_from(pool, *node, group, index, to).await {
            Ok(()) => return Ok(()),
            Err(error) => why = format!("node {node}: {error}"),
        }
    }
    Err(why)
}

/// As [`fetch`], while the nodes write their snapshots.
pub(crate) async fn fetch_patiently(pool: &PeerPool, from: &[NodeId], group: GroupId, index: u64, to: &Path) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + COVER_WAIT;
    loop {
        match fetch(pool, from, group, index, to).await {
            Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
            other => return other,
        }
    }
}

async fn fetch_from(pool: &PeerPool, node: NodeId, group: GroupId, index: u64, to: &Path) -> Result<(), String> {
    let peer = pool.get(node).ok_or("no such node")?;
    let part = to.with_extension("part");
    let mut file = std::fs::File::create(&part).map_err(|e| e.to_string())?;
    let mut of: Option<(u64, u64)> = None;
    let mut offset = 0;
    loop {
        let question = Question::Snapshot { group: group.0, index, offset };
        let payload = serde_json::to_vec(&question).map_err(|e| e.to_string())?;
        let answer = peer.request(Method::Ask, payload.into(), PIECE_TIMEOUT).await.map_err(|e| e.to_string())?;
        let (covers, bytes, piece) = match serde_json::from_slice(&answer).map_err(|e| e.to_string())? {
            Reply::Snapshot { covers, bytes, piece } => (covers, bytes, piece),
            Reply::Order(Err(why)) => return Err(why),
            other => return Err(format!("{other:?}")),
        };
        if *of.get_or_insert((covers, bytes)) != (covers, bytes) || covers < index {
            return Err("it has another snapshot by now".into());
        }
        let piece = STANDARD.decode(piece).map_err(|e| e.to_string())?;
        if piece.is_empty() || offset + piece.len() as u64 > bytes {
            return Err("it sends something else than it said".into());
        }
        file.write_all(&piece).map_err(|e| e.to_string())?;
        offset += piece.len() as u64;
        if offset == bytes {
            break;
        }
    }
    file.sync_all().map_err(|e| e.to_string())?;
    std::fs::rename(&part, to).map_err(|e| e.to_string())
}

/// A piece of this node's newest snapshot file of a group, for a peer; one that covers `index` is begun when there is none.
pub(crate) async fn piece(running: &Running, group: GroupId, index: u64, offset: u64) -> Reply {
    match running.local.shard(group) {
        Some(shard) => piece_of(&shard.group, index, offset).await,
        None if group == GroupId::CLUSTER => piece_of(&running.local.cluster, index, offset).await,
        None => Reply::Order(Err("there is no copy here".into())),
    }
}

async fn piece_of<M: Machine>(group: &Group<M>, index: u64, offset: u64) -> Reply {
    let refuse = |why: String| Reply::Order(Err(why));
    let covers = |file: &parliament_groups::SnapshotFile| file.meta().last_log_id.map_or(0, |last| last.index());
    let Some(file) = group.snapshot().filter(|file| covers(file) >= index) else {
        // The next time it is asked it may have one.
        return match group.trigger_snapshot().await {
            Ok(()) => refuse("its snapshot is being written".into()),
            Err(error) => refuse(error.to_string()),
        };
    };
    let covers = covers(&file);
    let read = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::FileExt as _;
        let open = std::fs::File::open(file.path())?;
        let bytes = open.metadata()?.len();
        let mut piece = vec![0; PIECE_BYTES.min(bytes.saturating_sub(offset)) as usize];
        open.read_exact_at(&mut piece, offset)?;
        Ok::<_, std::io::Error>((bytes, piece))
    });
    match read.await {
        Ok(Ok((bytes, piece))) => Reply::Snapshot { covers, bytes, piece: STANDARD.encode(piece) },
        Ok(Err(error)) => refuse(error.to_string()),
        Err(error) => refuse(error.to_string()),
    }
}
