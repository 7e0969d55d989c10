//! Hands users who are held here over to the zone where they are used, one entry each ([`parliament_routing::Uses`] says whom and when).

use crate::ask::{Question, Reply, ask_within};
use crate::membership::gives;
use crate::running::Running;
use parliament_ids::{Boot, NodeId};
use parliament_mail_service::Local;
use parliament_routing::Wish;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How often users are looked for who should go elsewhere.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many are handed over then: a zone that everybody comes to is no reason to stop serving.
const AT_ONCE: usize = 10;
/// How long a node may take to show that it is ready. One that takes longer would let the user wait.
const PATIENCE: Duration = Duration::from_millis(500);
/// Nodes of the zone that are asked for one user.
const ASKED_MAX: usize = 3;

/// Looks for as long as the node runs.
pub(crate) async fn run(running: Arc<Running>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !running.is_draining() {
        interval.tick().await;
        let wishes = running.local.users_to_hand_over(AT_ONCE);
        futures::future::join_all(wishes.into_iter().map(|wish| follow(&running, wish))).await;
    }
}

async fn follow(running: &Arc<Running>, wish: Wish) {
    let local: &Arc<Local> = &running.local;
    let Ok(Some(row)) = local.account(wish.account) else { return };
    // What this node gives away goes where that is decided.
    if gives(running, row.group) {
        return;
    }
    let layout = local.layout();
    let able = |node: &NodeId| layout.may_hold(row.group, *node) && local.support.is_live(*node);
    for node in wish.nodes.into_iter().filter(able).take(ASKED_MAX) {
        let Some(boot) = ready(running, row.group.0, row.id.0, node).await else { continue };
        match local.hand_over(row.id, node, boot).await {
            Ok(()) => {
                local.counters.followed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(user = %row.name, to = %node, "the user is used there: the lease is handed over");
            }
            Err(why) => tracing::debug!(user = %row.name, to = %node, ?why, "the lease did not follow the user"),
        }
        return;
    }
}

/// The boot under which a node takes leases, if it has applied all that the group has committed, and says so at once.
async fn ready(running: &Arc<Running>, group: u32, account: u64, node: NodeId) -> Option<Boot> {
    let Ok(Reply::Pulse(pulse)) = ask_within(running, node, &Question::Pulse, PATIENCE).await else { return None };
    let boot = pulse.takes_under.filter(|_| !pulse.stopped.contains(&group))?;
    let question = Question::Accounts { group, accounts: vec![account], fresh: true };
    let Ok(Reply::Accounts(rows)) = ask_within(running, node, &question, PATIENCE).await else { return None };
    let is_mine = |owner: (u64, u64)| owner.0 == running.local.me.0;
    rows.first().and_then(|row| row.owner).is_some_and(is_mine).then_some(Boot(boot))
}
