//! What a node does by itself.

use crate::node::Node;
use crate::running::Running;
use parliament_cluster_state::{Command as ClusterCommand, Refused};
use parliament_ids::{BodyHash, GroupId, Uid, UidSet};
use parliament_mail_service::boot_ms;
use parliament_mailbox_state::{Command, view};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How often the watermark of over sessions is told to the groups.
const WATERMARK_INTERVAL: Duration = Duration::from_secs(30);
/// How often bodies that nobody refers to are looked for.
const COLLECT_INTERVAL: Duration = Duration::from_secs(300);

/// After a start: announces this boot in group 0 (rule 6), and waits until every group here has caught up with its leader once.
pub(crate) async fn catch_up(running: Arc<Running>, node: Arc<Node>) {
    let mut waiting = running.group_ids();
    while !waiting.is_empty() {
        let mut behind = Vec::new();
        for group in waiting {
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
    loop {
        match running.local.propose_cluster(&announce, boot_ms() + 10_000).await {
            // Before `Form` is in there is nothing to announce to.
            Ok(Err(Refused::NotFormed)) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            // A try whose answer was lost has announced it already.
            Ok(Err(Refused::StaleNode { last })) if last == node.boot => break,
            Ok(Err(refused)) => {
                node.end(format!("group 0 refuses this node: {refused:?}; a restored or copied data directory cannot join"));
                return;
            }
            Ok(Ok(_)) => break,
        }
    }
    running.set_caught_up();
    tracing::info!(boot = %node.boot, took_ms = boot_ms() - running.started_ms, "ready");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
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

async fn tell_watermark(running: &Running, node: &Node, told: &mut HashMap<GroupId, u64>) {
    let Some(frontend) = running.frontend.get() else { return };
    let below = frontend.numbers().watermark();
    for group in running.local.shards.keys().copied() {
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
    running.local.bodies.collect(|| {
        let mut referenced: HashSet<BodyHash> = HashSet::new();
        for shard in running.local.shards.values() {
            let tables = shard.group.tables();
            for account in view::accounts(tables).ok()? {
                for status in view::mailboxes(tables, account).ok()? {
                    let all = UidSet::range(Uid(1), Uid(u32::MAX));
                    let visit = &mut |row: view::MessageRow| referenced.insert(row.hash) || true;
                    view::message_rows(tables, account, status.mailbox, &all, visit).ok()?;
                }
            }
        }
        Some(referenced)
    })
}

/// Tells consensus at once when a peer is reachable again, so that nothing waits out its back-off.
pub(crate) async fn links(running: Arc<Running>) {
    let mut up: HashMap<parliament_ids::NodeId, bool> = HashMap::new();
    let mut interval = tokio::time::interval(Duration::from_millis(50));
    while !running.is_draining() {
        interval.tick().await;
        for peer in running.local.pool.all() {
            let connected = peer.is_connected();
            if connected {
                running.saw(peer.node());
            }
            if connected && up.insert(peer.node(), true) != Some(true) {
                running.groups.peer_up(peer.node()).await;
            } else if !connected {
                up.insert(peer.node(), false);
            }
        }
    }
}
