//! A pass over everything that this node keeps: each byte is read from the medium again, at a set pace, and what does not verify is mended:
//! bodies from the other nodes, tables from snapshot file and log, a snapshot file from the tables, the journal by writing anew what lives in
//! the damaged file. Begun by an operator, or by itself every few days.

use crate::node::Node;
use crate::running::Running;
use parliament_bodies::Scrub;
use parliament_ctl::api::{NodeScrub, ScrubPass};
use parliament_groups::Unmended;
use parliament_ids::{GroupId, NodeId};
use parliament_mail_service::{put_note, unix_seconds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Read between two looks at the pace, bytes.
const STEP_BYTES: u64 = 4 * 1024 * 1024;
/// What one pass says it found, at most.
const FINDINGS_MAX: usize = 8;
/// One finding, bytes at most: a pass is kept as one note of the journal.
const FINDING_BYTES_MAX: usize = 200;
/// Under which key of the journal's notes the last pass is kept.
const NOTE: &[u8] = b"scrub";
/// How long what is damaged may stay so without anything being mended, before the pass ends and says so.
const STUCK_AFTER: Duration = Duration::from_secs(20);
/// How long a snapshot that covers a damaged part may take.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(60);
const DAY_S: u64 = 86_400;
// Quotation marks take two bytes there.
const _: () = assert!(FINDINGS_MAX * FINDING_BYTES_MAX * 2 + 512 < parliament_journal::NOTE_VALUE_BYTES_MAX);

#[derive(Default)]
struct State {
    asked: bool,
    doing: Option<String>,
    now: Option<ScrubPass>,
    last: Option<ScrubPass>,
    bytes_in_all: u64,
    next: Option<u64>,
}

/// Where this node's passes are.
#[derive(Default)]
pub(crate) struct Scrubber {
    state: Mutex<State>,
    wake: Notify,
}

impl Scrubber {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a pass begin now, unless one is under way. One that was just asked for begins only once.
    pub(crate) fn start(&self) {
        let mut state = self.state();
        if state.now.is_none() {
            state.asked = true;
            self.wake.notify_one();
        }
    }

    /// How far this node is; as `node`.
    pub(crate) fn status(&self, node: String) -> NodeScrub {
        let state = self.state();
        let doing = state.doing.clone().or_else(|| state.asked.then(|| "about to begin".to_owned()));
        NodeScrub { node, doing, now: state.now.clone(), bytes_in_all: state.bytes_in_all, last: state.last.clone(), next: state.next }
    }

    fn change<T>(&self, change: impl FnOnce(&mut ScrubPass) -> T) -> T {
        change(self.state().now.get_or_insert_default())
    }
    fn doing(&self, what: impl Into<String>) {
        self.state().doing = Some(what.into());
    }
}

/// Bytes that a pass will read, about.
pub(crate) fn bytes_in_all(running: &Running) -> u64 {
    let groups = running.group_ids().into_iter().filter_map(|group| {
        let tables = running.tables(group)?;
        let snapshot = running.snapshot_path(group).and_then(|path| std::fs::metadata(path).ok());
        Some(tables.size().unwrap_or(0) + snapshot.map_or(0, |meta| meta.len()))
    });
    running.journal.stats().used_bytes + running.local.bodies.store().large_bytes() + groups.sum::<u64>()
}

/// Makes passes for as long as the node runs.
pub(crate) async fn run(running: Arc<Running>, node: Arc<Node>) {
    let scrubber = &running.scrubber;
    let every_s = period_s(running.config.storage.scrub_days, running.local.me);
    let kept: Option<ScrubPass> = running.journal.note(NOTE).and_then(|note| serde_json::from_slice(&note).ok());
    match &kept {
        Some(pass) => scrubber.state().last = Some(pass.clone()).filter(|pass| pass.finished.is_some()),
        // The first one is due as long after the node's first start.
        None => keep(&running, &ScrubPass { started: now_s(), ..ScrubPass::default() }).await,
    }
    let since = kept.map_or_else(now_s, |pass| pass.finished.unwrap_or(pass.started));
    let mut due = (every_s > 0).then(|| since + every_s);
    while !running.is_draining() {
        scrubber.state().next = due;
        // The clock of the wall is looked at once a minute: nothing depends on it but when a pass begins.
        let _ = tokio::time::timeout(Duration::from_secs(60), scrubber.wake.notified()).await;
        let asked = std::mem::take(&mut scrubber.state().asked);
        if asked || due.is_some_and(|due| now_s() >= due) {
            pass(&running, &node).await;
            due = (every_s > 0).then(|| now_s() + every_s);
        }
    }
}

/// Nodes that were started together must not all read everything at the same time: each takes up to an eighth longer than the others.
fn period_s(days: u64, node: NodeId) -> u64 {
    let every_s = days.saturating_mul(DAY_S);
    // Fibonacci hashing: ids made one after the other land far apart.
    let place = node.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    every_s.saturating_add(every_s / 8 * place / 256)
}

fn now_s() -> u64 {
    u64::try_from(unix_seconds()).unwrap_or(0)
}

async fn keep(running: &Running, pass: &ScrubPass) {
    let json = serde_json::to_vec(pass).unwrap_or_default();
    if let Err(why) = put_note(&running.journal, NOTE, &json).await {
        tracing::warn!(why, "the last pass over everything is not remembered");
    }
}

async fn pass(running: &Arc<Running>, node: &Arc<Node>) {
    let scrubber = &running.scrubber;
    {
        let mut state = scrubber.state();
        state.now = Some(ScrubPass { started: now_s(), ..ScrubPass::default() });
        state.bytes_in_all = bytes_in_all(running);
    }
    tracing::info!("everything on this node is read again");
    let mut work = Pass { running, begun: Instant::now(), paced: 0 };
    work.bodies().await;
    work.small_files(node).await;
    let mut left = 0;
    for group in running.group_ids() {
        left += work.tables(group).await;
        left += work.snapshot(group).await;
    }
    scrubber.doing("mending");
    left += work.settle().await;
    let pass = {
        let mut state = scrubber.state();
        let mut pass = state.now.take().unwrap_or_default();
        pass.finished = Some(now_s());
        pass.not_repairable = left.min(pass.damaged);
        pass.repaired = pass.damaged - pass.not_repairable;
        state.doing = None;
        state.last = Some(pass.clone());
        pass
    };
    keep(running, &pass).await;
    tracing::info!(bytes = pass.bytes, damaged = pass.damaged, left = pass.not_repairable, "everything on this node has been read again");
}

struct Pass<'a> {
    running: &'a Arc<Running>,
    begun: Instant,
    /// Bytes whose time has been taken.
    paced: u64,
}

impl Pass<'_> {
    /// Counts bytes, and waits until they may have been read.
    async fn pace(&mut self, bytes: u64) {
        self.running.scrubber.change(|pass| pass.bytes += bytes);
        self.paced += bytes;
        let rate = self.running.config.storage.scrub_bytes_per_second.max(1);
        tokio::time::sleep_until(self.begun + Duration::from_secs_f64(self.paced as f64 / rate as f64)).await;
    }

    fn found(&self, places: u64, what: String) {
        if places == 0 {
            return;
        }
        tracing::error!(places, what, "damage");
        self.running.scrubber.change(|pass| pass.damaged += places);
        self.note(what);
    }

    fn note(&self, what: String) {
        self.running.scrubber.change(|pass| {
            if pass.findings.len() < FINDINGS_MAX {
                let end = (0..=what.len().min(FINDING_BYTES_MAX)).rev().find(|end| what.is_char_boundary(*end)).unwrap_or(0);
                pass.findings.push(what[..end].to_owned());
            }
        });
    }

    /// The journal, with the small bodies in it, and the large ones.
    async fn bodies(&mut self) {
        self.running.scrubber.doing("journal and bodies");
        let mut walk = Scrub::default();
        loop {
            let store = self.running.local.bodies.store().clone();
            let looked = tokio::task::spawn_blocking(move || {
                let step = store.scrub(&mut walk, STEP_BYTES);
                (walk, step)
            });
            let Ok((next, step)) = looked.await else { return };
            walk = next;
            crate::mend::want(self.running, &step.damaged);
            self.running.scrubber.change(|pass| pass.bodies += step.sound.len() as u64);
            self.found(step.places, format!("{} places in the journal and among large bodies", step.places));
            self.pace(step.bytes).await;
            if step.finished {
                return;
            }
        }
    }

    /// What says who this node is.
    async fn small_files(&mut self, node: &Arc<Node>) {
        let (running, node) = (self.running.clone(), node.clone());
        let look = tokio::task::spawn_blocking(move || running.with_document_kept(|identity| node.data.mend(identity)));
        match look.await {
            Ok(Ok(mended)) => self.found(mended, format!("{mended} of FORMAT, disk-id and cluster.json")),
            other => tracing::error!(?other, "the files that say who this node is could not be looked at"),
        }
    }

    /// How many of what was found could not be mended.
    async fn tables(&mut self, group: GroupId) -> u64 {
        self.running.scrubber.doing(format!("tables of group {group}"));
        let looked = match self.running.local.shard(group) {
            Some(shard) => shard.group.scrub_tables().await,
            None if group == GroupId::CLUSTER => self.running.local.cluster.scrub_tables().await,
            // Closed meanwhile.
            None => return 0,
        };
        match looked {
            Ok(found) => {
                self.running.scrubber.change(|pass| pass.records += found.records);
                if let Some(damage) = found.damage {
                    self.found(1, format!("group {group}: {damage}"));
                }
                self.pace(found.bytes).await;
                0
            }
            // That says nothing of the tables, which go on.
            Err(Unmended::NotChecked(why)) => {
                tracing::error!(%group, why, "tables were not checked");
                self.note(format!("group {group}: not checked: {why}"));
                0
            }
            Err(why @ Unmended::NotNow(_)) => {
                self.found(1, format!("group {group}: {why}"));
                1
            }
            Err(Unmended::Lost(why)) => {
                self.found(1, format!("group {group}: {why}"));
                u64::from(!crate::mend::renew(self.running, group).await)
            }
        }
    }

    async fn snapshot(&mut self, group: GroupId) -> u64 {
        self.running.scrubber.doing(format!("snapshot of group {group}"));
        let (bytes, sound) = match self.running.local.shard(group) {
            Some(shard) => shard.group.scrub_snapshot().await,
            None if group == GroupId::CLUSTER => self.running.local.cluster.scrub_snapshot().await,
            None => return 0,
        };
        self.pace(bytes).await;
        if sound {
            return 0;
        }
        self.found(1, format!("group {group}: the snapshot file"));
        let made = match self.running.local.shard(group) {
            Some(shard) => shard.group.snapshot_covering(0, SNAPSHOT_WAIT).await,
            None => self.running.local.cluster.snapshot_covering(0, SNAPSHOT_WAIT).await,
        };
        u64::from(made.is_err())
    }

    /// Waits until nothing is damaged any more, or nothing more is being mended. What is left then.
    async fn settle(&mut self) -> u64 {
        let mut best = u64::MAX;
        let mut since = Instant::now();
        loop {
            let left = crate::mend::left(self.running);
            if left == 0 {
                return 0;
            }
            if left < best {
                (best, since) = (left, Instant::now());
            }
            if since.elapsed() > STUCK_AFTER {
                crate::mend::forget_unreferenced(self.running).await;
                return crate::mend::left(self.running);
            }
            crate::mend::mend(self.running).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_were_started_together_do_not_read_everything_together() {
        let periods: std::collections::BTreeSet<u64> = (1..=7).map(|node| period_s(7, NodeId(node)) / 3600).collect();
        assert_eq!(periods.len(), 7, "hours apart");
        assert!(periods.iter().all(|hours| (7 * 24..=8 * 24).contains(hours)));
        assert_eq!(period_s(0, NodeId(1)), 0, "never");
    }
}
