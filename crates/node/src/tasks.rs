//! What a node does by itself.

use crate::node::{DAMAGED, Fatal, Node, REMOVED};
use crate::running::Running;
use parliament_cluster_state::{Command as ClusterCommand, Refused};
use parliament_ids::{AccountId, BodyHash, GroupId};
use parliament_mail_service::{BodyEvents, boot_ms};
use parliament_mailbox_state::{Command, TableFault, view};
use parliament_tables::GroupTables;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// How often the watermark of over sessions is told to the groups.
const WATERMARK_INTERVAL: Duration = Duration::from_secs(30);
/// How often bodies that nobody refers to are looked for.
const COLLECT_INTERVAL: Duration = Duration::from_secs(300);
/// Missing bodies of one group that a look remembers.
pub(crate) const MISSING_REMEMBERED: usize = 100_000;
/// How often one account is looked through again because it changed meanwhile.
const STEADY_TRIES: usize = 16;

/// Ticks at moments that all tasks of this node share, so that it wakes once for all of them. The first comes within a period.
pub(crate) fn beat(period: Duration) -> Interval {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    let origin = *ORIGIN.get_or_init(|| now);
    let periods = now.duration_since(origin).as_micros() / period.as_micros().max(1) + 1;
    let first = origin + period * u32::try_from(periods).unwrap_or(u32::MAX);
    let mut interval = tokio::time::interval_at(first, period);
    // One that is late does not hurry, and comes back to the common moments.
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

/// After a start: announces this boot in group 0 (rule 6), and waits until every group here has caught up with its leader once.
pub(crate) async fn catch_up(running: Arc<Running>, node: Arc<Node>) {
    let mut waiting = running.group_ids();
    while !waiting.is_empty() {
        let mut behind = Vec::new();
        // A copy that is being made, or that went away meanwhile, is not waited for.
        for group in waiting.into_iter().filter(|group| running.serves(*group)) {
            if running.local.read_barrier(group).await.is_err() {
                behind.push(group);
            }
        }
        waiting = behind;
        if !waiting.is_empty() {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
    let hello = node.hello();
    let announce = ClusterCommand::NodeStarted {
        node: running.local.me,
        boot: node.boot,
        disk: node.data.disk,
        peer_address: hello.advertise,
        imap_address: hello.imap,
    };
    let mut unknown = false;
    loop {
        match running.local.propose_cluster(&announce, boot_ms() + 10_000).await {
            // Before `Form` is in there is nothing to announce to.
            Ok(Err(Refused::NotFormed)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(_) => {
                unknown = true;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // A try whose answer was lost has announced it already. Without such a try, another has used this start's number.
            Ok(Err(Refused::StaleNode { last })) if last == node.boot && unknown => break,
            Ok(Err(Refused::Removed)) => {
                node.end(Fatal { what: REMOVED, why: format!("its id was {}", running.local.me) });
                return;
            }
            Ok(Err(refused)) => {
                let why = format!("group 0 refuses this node ({refused:?}): the data directory was restored or copied");
                node.end(Fatal { what: DAMAGED, why });
                return;
            }
            Ok(Ok(_)) => break,
        }
    }
    running.set_caught_up();
    tracing::info!(boot = %node.boot, took_ms = boot_ms() - running.started_ms, "ready");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Status("serving")]);
}

/// The watermark of sessions, and the collection of bodies.
pub(crate) async fn care(running: Arc<Running>, node: Arc<Node>) {
    let mut told: HashMap<GroupId, u64> = HashMap::new();
    let mut watermark = tokio::time::interval(WATERMARK_INTERVAL);
    let mut collect = tokio::time::interval(COLLECT_INTERVAL);
    let mut ending = node.ending.subscribe();
    loop {
        tokio::select! {
            _ = watermark.tick() => tell_watermark(&running, &node, &mut told).await,
            _ = collect.tick() => {
                remove_deleted(&running).await;
                let running = running.clone();
                let collected = tokio::task::spawn_blocking(move || collect_bodies(&running)).await;
                if let Ok(count @ 1..) = collected {
                    tracing::info!(count, "bodies collected");
                }
            }
            _ = ending.changed() => return,
        }
    }
}

/// Removes what is left of accounts that were deleted while their group had no quorum, in the groups led here.
async fn remove_deleted(running: &Running) {
    let led = running.local.shards().into_iter().filter(|(group, _)| running.local.leader(*group) == Some(running.local.me));
    let mut present: Vec<(GroupId, AccountId)> = Vec::new();
    for (group, shard) in led {
        present.extend(view::accounts(shard.group.tables()).unwrap_or_default().into_iter().map(|account| (group, account)));
    }
    // Group 0 knew all of these before their groups did: what it does not know after this was deleted.
    if present.is_empty() || running.local.read_barrier(GroupId::CLUSTER).await.is_err() {
        return;
    }
    for (group, account) in present {
        if let Ok(None) = parliament_cluster_state::account(running.local.cluster_tables(), account)
            && running.local.propose_everywhere(group, &Command::DeleteAccount { account }).await
        {
            tracing::info!(%group, %account, "the mail of a deleted account is removed");
        }
    }
}

async fn tell_watermark(running: &Running, node: &Node, told: &mut HashMap<GroupId, u64>) {
    let Some(frontend) = running.frontend.get() else { return };
    let below = frontend.numbers().watermark();
    for (group, _) in running.local.shards() {
        // A group that no session of this boot has written to needs no mark; an idle node writes nothing.
        if told.get(&group) == Some(&below) || below <= 1 {
            continue;
        }
        let command = Command::SessionsOver { node: running.local.me, boot: node.boot, below };
        if running.local.propose_everywhere(group, &command).await {
            told.insert(group, below);
        }
    }
}

fn collect_bodies(running: &Running) -> usize {
    if !running.is_settled() {
        return 0;
    }
    running.local.bodies.collect(|| referenced(running))
}

/// What the messages of all groups here refer to; nothing when it cannot be told at this moment. Reads the disk.
pub(crate) fn referenced(running: &Running) -> Option<HashSet<BodyHash>> {
    let snapshots = |running: &Running| -> Vec<_> {
        running.local.shards().iter().map(|(group, shard)| (*group, shard.group.metrics().snapshot)).collect()
    };
    if !running.all_open() {
        return None;
    }
    let before = snapshots(running);
    let mut referenced: HashSet<BodyHash> = HashSet::new();
    for (_, shard) in running.local.shards() {
        let tables = shard.group.tables();
        for account in view::accounts_with_records(tables).ok()? {
            references(tables, account, &mut referenced).ok()??;
        }
    }
    // Tables that a snapshot has replaced meanwhile, and those of a group opened meanwhile, refer to what was not seen.
    (before == snapshots(running) && running.all_open()).then_some(referenced)
}

/// Adds what an account refers to at one moment; nothing when it changes all the time. Without that, a message moved behind the
/// reader's back would be seen nowhere.
fn references(tables: &GroupTables, account: AccountId, referenced: &mut HashSet<BodyHash>) -> Result<Option<()>, TableFault> {
    for _ in 0..STEADY_TRIES {
        let before = view::state_hash(tables, account)?;
        view::bodies(tables, account, &mut |hash| {
            referenced.insert(hash);
        })?;
        if view::state_hash(tables, account)? == before {
            return Ok(Some(()));
        }
    }
    Ok(None)
}

/// Looks for bodies that a group's messages name and this node does not have, and has them pulled: entries that were committed
/// while this node was away, and snapshots, come without them. Which there are, as many as are remembered and one more; `None` when it
/// could not be found out. Reads the disk.
pub(crate) fn fill_in_bodies(running: &Running, group: GroupId) -> Option<HashSet<BodyHash>> {
    let shard = running.local.shard(group)?;
    let tables = shard.group.tables();
    let bodies = &running.local.bodies;
    let mut missing = HashSet::new();
    let mut named = HashSet::new();
    let looked = view::accounts_with_records(tables).and_then(|accounts| {
        accounts.into_iter().try_for_each(|account| {
            named.clear();
            // One that changes all the time was looked through several times by then: what was moved behind one look's back, another has seen.
            references(tables, account, &mut named)?;
            for hash in named.iter().filter(|hash| bodies.store().size(hash).is_none()) {
                bodies.want(*hash, false);
                if missing.len() <= MISSING_REMEMBERED {
                    missing.insert(*hash);
                }
            }
            Ok(())
        })
    });
    match looked {
        Err(fault) => {
            tracing::error!(%group, %fault, "the look for missing bodies");
            return None;
        }
        Ok(()) if !missing.is_empty() => tracing::info!(%group, missing = missing.len(), "bodies are missing here and are being pulled"),
        Ok(()) => {}
    }
    Some(missing)
}

/// A group was closed here: its bodies may go once no other group here refers to them. Reads the disk.
pub(crate) fn let_bodies_go(running: &Running, tables: &GroupTables) {
    let gone = view::accounts_with_records(tables).and_then(|accounts| {
        accounts.into_iter().try_for_each(|account| view::bodies(tables, account, &mut |hash| running.local.bodies.released(hash)))
    });
    if let Err(fault) = gone {
        tracing::warn!(%fault, "some bodies of a group that was closed stay");
    }
}

/// Looks through all groups for missing bodies: after each start, because what was missing is not remembered over it, after a
/// snapshot, and when more were missing than could be remembered.
pub(crate) async fn look_for_missing(running: Arc<Running>) {
    while !running.is_draining() {
        let looking = running.clone();
        let looked = tokio::task::spawn_blocking(move || {
            for (group, _) in looking.local.shards() {
                fill_in_bodies(&looking, group);
            }
        });
        // A panic of the look is told by its own report.
        let _ = looked.await;
        loop {
            let waited = tokio::time::timeout(COLLECT_INTERVAL, running.installed.notified()).await;
            if waited.is_ok() || running.local.bodies.take_overflow() {
                break;
            }
        }
    }
}

/// Ends the node when its journal has failed, since nothing it says is durable any more (one failed sync is enough), and gives up its
/// leases when a group has stopped here, so that others can take those of that group.
pub(crate) async fn faults(running: Arc<Running>, node: Arc<Node>) {
    let mut interval = beat(Duration::from_millis(100));
    while !running.is_draining() {
        interval.tick().await;
        if let Some(fault) = node.journal.fault() {
            node.end(Fatal { what: "the journal failed", why: fault.to_string() });
            return;
        }
        for (group, shard) in running.local.shards() {
            let condemned = || shard.group.tables().is_condemned().then(|| "its tables were given up".to_owned());
            let Some(why) = shard.group.stopped().map(|why| why.to_string()).or_else(condemned) else { continue };
            // A node that ends stops its groups itself.
            if !running.is_draining() && shard.set_stopped() {
                tracing::error!(%group, why, "the group has stopped on this node");
                running.local.support.renounce();
                // An entry that nobody can apply stops it for good (rule 26); damage here is mended from elsewhere.
                if shard.group.tables().is_incomplete() || !running.journal.group(group).state().is_whole() {
                    drop(shard);
                    crate::mend::set_aside(&running, group).await;
                }
            }
        }
    }
}

/// Tells consensus at once when a peer is reachable again, so that nothing waits out its back-off.
pub(crate) async fn links(running: Arc<Running>) {
    let mut up: HashMap<parliament_ids::NodeId, bool> = HashMap::new();
    let mut interval = beat(Duration::from_millis(50));
    while !running.is_draining() {
        interval.tick().await;
        for peer in running.local.pool.all() {
            let connected = peer.is_connected();
            if connected && up.insert(peer.node(), true) != Some(true) {
                running.groups.peer_up(peer.node()).await;
            } else if !connected {
                up.insert(peer.node(), false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beats_fall_together() {
        let (mut short, mut long) = (beat(Duration::from_millis(20)), beat(Duration::from_millis(60)));
        for _ in 0..3 {
            let (one, other) = tokio::join!(short.tick(), long.tick());
            let apart = one.max(other) - one.min(other);
            assert_eq!(apart.as_micros() % 20_000, 0, "{apart:?}");
        }
    }
}
