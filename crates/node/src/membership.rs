//! A node that follows what group 0 says of nodes and groups: the cluster's document is kept up to date, groups are opened and closed
//! here, and what this node should not hold any more is handed over.

use crate::ask::{Question, Reply, ask};
use crate::identity::Document;
use crate::node::{Fatal, Node, REMOVED};
use crate::running::Running;
use crate::tasks::let_bodies_go;
use parliament_cluster_state::NodeState;
use parliament_ids::{AccountId, Boot, GroupId, NodeId, NodeRole};
use parliament_mail_service::Shard;
use parliament_mailbox_state::view;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often a node looks at what it has, though group 0 says nothing new.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a node that gives things away goes on with it.
const GIVE_INTERVAL: Duration = Duration::from_millis(500);
/// Leases handed over at once.
const HAND_OVERS: usize = 16;
/// How often the tables are read again because an entry was applied meanwhile.
const STEADY_TRIES: usize = 8;

/// Follows group 0 until the node ends.
pub(crate) async fn follow(running: Arc<Running>, node: Arc<Node>) {
    let mut applied = running.local.cluster.watch_applied();
    while !running.is_draining() {
        applied.mark_unchanged();
        if let Err(why) = keep_up(&running, &node).await {
            tracing::error!(why, "the cluster's document stays as it was");
        }
        let document = running.document();
        if document.is_removed(running.local.me) {
            node.end(Fatal { what: REMOVED, why: format!("its id was {}", running.local.me) });
            return;
        }
        // Its link stays until group 0 has let it go, so that it hears of its removal.
        let members = running.local.cluster.metrics().members;
        for peer in running.local.pool.all() {
            if document.is_removed(peer.node()) && !members.contains_key(&peer.node()) {
                running.local.pool.remove(peer.node());
            }
        }
        arrange(&running, &node, &document).await;
        // Group 0 stops with the node.
        let _ = tokio::time::timeout(LOOK_INTERVAL, applied.changed()).await;
    }
}

/// The document is on the disk before anything is done by it.
async fn keep_up(running: &Arc<Running>, node: &Arc<Node>) -> Result<(), String> {
    let known = running.document();
    let Some(now) = read_steadily(running, &known)? else { return Ok(()) };
    if now == *known {
        return Ok(());
    }
    now.check()?;
    let (node, keeping) = (node.clone(), running.clone());
    let kept = tokio::task::spawn_blocking(move || keeping.keep_document(now, |identity| node.data.keep_identity(identity))).await;
    kept.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// The document of one moment: read again while entries are applied.
fn read_steadily(running: &Running, known: &Document) -> Result<Option<Document>, String> {
    let applied = running.local.cluster.watch_applied();
    for _ in 0..STEADY_TRIES {
        let before = *applied.borrow();
        let document = Document::of(running.local.cluster_tables(), known).map_err(|fault| fault.to_string())?;
        if *applied.borrow() == before {
            return Ok(document);
        }
    }
    // The next look will do.
    Ok(None)
}

/// Opens the groups that this node is to hold and closes those that it holds no more.
async fn arrange(running: &Arc<Running>, node: &Arc<Node>, document: &Document) {
    let me = running.local.me;
    for group in (1..=document.groups).map(GroupId) {
        match (document.holds(group, me), running.local.shard(group)) {
            (true, None) => crate::mend::reopen(running, node, group).await,
            (false, Some(_)) => close(running, group).await,
            (false, None) => crate::mend::forget(running, group).await,
            (true, Some(_)) => {}
        }
    }
}

async fn close(running: &Arc<Running>, group: GroupId) {
    let Some(shard) = running.local.close(group) else { return };
    tracing::info!(%group, "this node gives up its copy of the group");
    // Asked to leave, a node first hands over its leases. One that is left all the same ends with the boot that it belongs to.
    if !held_here(running, &shard).is_empty() {
        running.local.support.renounce();
    }
    running.groups.stop(group).await;
    running.forget_check(group);
    let working = running.clone();
    let _ = tokio::task::spawn_blocking(move || let_bodies_go(&working, shard.group.tables())).await;
}

/// The group's users whose lease this node holds, as its tables say.
fn held_here(running: &Running, shard: &Shard) -> Vec<AccountId> {
    let (me, boot, tables) = (running.local.me, running.local.support.boot(), shard.group.tables());
    let mine = |account: &AccountId| {
        let owner = view::owner(tables, *account).ok().flatten().and_then(|record| record.owner);
        owner.is_some_and(|owner| owner.node == me && owner.boot == boot)
    };
    view::accounts(tables).unwrap_or_default().into_iter().filter(mine).collect()
}

/// True when this node has a vote in the group and is to hold no leases of it any more. A copy that is being made has none to give.
pub(crate) fn gives(running: &Running, group: GroupId) -> bool {
    let (layout, me) = (running.local.layout(), running.local.me);
    running.document().role(me) == NodeRole::Data && layout.voters(group).contains(&me) && !layout.may_hold(group, me)
}

/// How many leases of a group this node holds or is about to take; `None` when it cannot be sure. Only where it gives them away.
pub(crate) async fn leases_left(running: &Arc<Running>, group: GroupId) -> Option<u64> {
    if running.document().role(running.local.me) != NodeRole::Data {
        // It never takes any.
        return Some(0);
    }
    if !gives(running, group) {
        return None;
    }
    let shard = running.local.shard(group)?;
    // From here on no acquire begins; what was proposed before is in the tables after the barrier.
    if shard.is_acquiring() {
        return None;
    }
    running.local.read_barrier(group).await.ok()?;
    let running = running.clone();
    tokio::task::spawn_blocking(move || held_here(&running, &shard).len() as u64).await.ok()
}

/// Hands over leases and leaderships that this node is not to have, for as long as it runs.
pub(crate) async fn give_away(running: Arc<Running>) {
    let mut interval = tokio::time::interval(GIVE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !running.is_draining() {
        interval.tick().await;
        let document = running.document();
        if document.state(running.local.me) != NodeState::Active || document.leaving(GroupId::CLUSTER).contains(&running.local.me) {
            running.give_up_leadership(GroupId::CLUSTER).await;
        }
        let mut boots: BTreeMap<NodeId, Boot> = BTreeMap::new();
        for (group, shard) in running.local.shards() {
            if !gives(&running, group) {
                continue;
            }
            let holding = running.clone();
            let held = tokio::task::spawn_blocking(move || held_here(&holding, &shard)).await.unwrap_or_default();
            if !held.is_empty()
                && let Some((to, boot)) = taker(&running, group, &mut boots).await
            {
                hand_over(&running, group, held, to, boot).await;
            }
            // The leases go first: their new holders then find the leader where it was.
            running.give_up_leadership(group).await;
        }
    }
}

/// Who takes leases of a group from here: its leader, where that may and answers, else another voter.
async fn taker(running: &Arc<Running>, group: GroupId, boots: &mut BTreeMap<NodeId, Boot>) -> Option<(NodeId, Boot)> {
    let (layout, leader) = (running.local.layout(), running.local.leader(group));
    let mut able: Vec<NodeId> = layout.voters(group).iter().copied().filter(|node| layout.may_hold(group, *node)).collect();
    able.sort_by_key(|node| Some(*node) != leader);
    for node in able {
        if let Some(boot) = boots.get(&node) {
            return Some((node, *boot));
        }
        if let Ok(Reply::Facts(facts)) = ask(running, node, &Question::Groups).await {
            boots.insert(node, Boot(facts.lease_boot));
            return Some((node, Boot(facts.lease_boot)));
        }
    }
    None
}

async fn hand_over(running: &Arc<Running>, group: GroupId, users: Vec<AccountId>, to: NodeId, boot: Boot) {
    let mut done = 0;
    for some in users.chunks(HAND_OVERS) {
        let handing = some.iter().copied().map(|account| running.local.hand_over(account, to, boot));
        done += futures::future::join_all(handing).await.iter().filter(|handed| handed.is_ok()).count();
    }
    tracing::info!(%group, %to, done, of = users.len(), "leases handed over");
}
