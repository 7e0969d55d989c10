//! Verbs about who holds whom, and about client sessions.

use super::{Remote, dry};
use crate::api::{self, Groups, Kick, Kicked, Lease, LeaseMove, Leases, Mask, NodeState, Nodes, Nothing, OneUser, Sessions};
use crate::cli::{Change, LeaseVerb};
use crate::error::{AdminError, exit};
use crate::output::{Report, age, table};
use parliament_ids::NodeId;
use parliament_routing::{HeldUser, spread};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// Moves that are planned at once; then it is looked again who holds whom.
const PLANNED_MAX: usize = 1000;
/// So often it is looked again; users that do not stay where they were put must not keep this going.
const ROUNDS_MAX: usize = 100;

pub(crate) async fn lease(remote: &mut Remote<'_>, verb: LeaseVerb) -> Result<Report, AdminError> {
    match verb {
        LeaseVerb::Show { user } => {
            let lease: Lease = remote.ask(api::LEASE_SHOW, &OneUser { user }).await?;
            let text = format!(
                "user        {}\nholder      {}\nfence       {}\nboot        {}\ngroup       {}\ncandidates  {}\n",
                lease.user,
                holder(&lease),
                lease.fence,
                lease.boot,
                lease.group,
                lease.candidates.join(", ")
            );
            Ok(Report::new(&lease, text))
        }
        LeaseVerb::List { mask } => {
            let leases = leases(remote, &mask).await?;
            let row = |l: &Lease| vec![l.user.clone(), holder(l), l.fence.to_string(), l.group.to_string()];
            let text = table(&["USER", "HOLDER", ">FENCE", ">GROUP"], &leases.iter().map(row).collect::<Vec<_>>());
            Ok(Report::new(&json!({ "leases": leases }), text))
        }
        LeaseVerb::Move { user, to, change } => {
            let lease: Lease = remote.ask(api::LEASE_MOVE, &LeaseMove { user, to: to.clone(), dry_run: change.dry_run }).await?;
            let sentence = if change.dry_run {
                dry(change, &format!("move {} from {} to {to}", lease.user, holder(&lease)))
            } else {
                format!("{} is held by {} (fence {})", lease.user, holder(&lease), lease.fence)
            };
            Ok(Report::new(&lease, sentence))
        }
        LeaseVerb::Rebalance { rate, change } => rebalance(remote, rate, change).await,
    }
}

async fn leases(remote: &Remote<'_>, mask: &str) -> Result<Vec<Lease>, AdminError> {
    let rows = |page: Leases| {
        let last = page.leases.last().map(|l| l.user.clone());
        (page.leases, last, page.more)
    };
    remote.pages(api::LEASE_LIST, mask, rows).await
}

/// What became of `lease rebalance`.
#[derive(Debug, Default, Serialize)]
struct Rebalanced {
    /// Users that were moved, or would be.
    moved: Vec<LeaseMove>,
    /// Users that did not move, and why.
    refused: Vec<String>,
}

async fn rebalance(remote: &Remote<'_>, rate: u32, change: Change) -> Result<Report, AdminError> {
    let mut done = Rebalanced::default();
    for _ in 0..ROUNDS_MAX {
        let moves = plan(remote, change.dry_run).await?;
        let before = done.moved.len();
        if change.dry_run {
            done.moved = moves;
            break;
        }
        for one in moves {
            match remote.ask::<_, Lease>(api::LEASE_MOVE, &one).await {
                Ok(_) => done.moved.push(one),
                Err(error) if error.is_unreachable() => return Err(error),
                Err(error) => done.refused.push(format!("{}: {}", one.user, error.message)),
            }
            tokio::time::sleep(Duration::from_secs(1) / rate).await;
        }
        if done.moved.len() == before {
            break;
        }
    }
    let count = |n: usize| format!("{n} user{}", if n == 1 { "" } else { "s" });
    let mut text = if change.dry_run {
        dry(change, &format!("move {}\n", count(done.moved.len())))
    } else {
        format!("moved {}\n", count(done.moved.len()))
    };
    let row = |one: &LeaseMove| vec![one.user.clone(), one.to.clone()];
    if change.dry_run {
        text.push_str(&table(&["USER", "TO"], &done.moved.iter().map(row).collect::<Vec<_>>()));
    }
    done.refused.iter().for_each(|why| text.push_str(&format!("not moved: {why}\n")));
    let code = if done.refused.is_empty() { exit::OK } else { exit::WARNINGS };
    Ok(Report::new(&done, text).exit(code))
}

/// The moves after which users are spread evenly over the nodes that are up.
async fn plan(remote: &Remote<'_>, dry_run: bool) -> Result<Vec<LeaseMove>, AdminError> {
    let nodes: Nodes = remote.ask(api::NODE_LIST, &Nothing {}).await?;
    let groups: Groups = remote.ask(api::GROUP_LIST, &Nothing {}).await?;
    let leases = leases(remote, "*").await?;
    let id = |name: &str| nodes.nodes.iter().find(|node| node.name == name).map(|node| NodeId(node.id));
    let leader = |group: u32| groups.groups.iter().find(|row| row.id == group).and_then(|row| id(row.leader.as_deref()?));
    let held = |lease: &Lease| {
        let holder = lease.holder.as_deref().filter(|_| lease.live).and_then(id)?;
        let candidates = lease.candidates.iter().filter_map(|name| id(name)).collect();
        Some((lease.user.clone(), HeldUser { holder, candidates, leader: leader(lease.group) }))
    };
    let (users, held): (Vec<String>, Vec<HeldUser>) = leases.iter().filter_map(held).unzip();
    let live: Vec<NodeId> = nodes.nodes.iter().filter(|node| node.state == NodeState::Up).map(|node| NodeId(node.id)).collect();
    let named = |to: NodeId| nodes.nodes.iter().find(|node| node.id == to.0).map(|node| node.name.clone());
    let moves = spread(&held, &live, PLANNED_MAX);
    Ok(moves.into_iter().filter_map(|(at, to)| Some(LeaseMove { user: users.get(at)?.clone(), to: named(to)?, dry_run })).collect())
}

fn holder(lease: &Lease) -> String {
    match &lease.holder {
        None => "nobody yet".to_owned(),
        Some(name) if lease.live => name.clone(),
        Some(name) => format!("{name} (gone)"),
    }
}

/// Exits 2 when some node did not answer: its sessions are not in the list.
pub(crate) async fn who(remote: &mut Remote<'_>, mask: String) -> Result<Report, AdminError> {
    let sessions: Sessions = remote.ask(api::SESSION_LIST, &Mask { mask }).await?;
    let row = |s: &api::Session| {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let (user, protocol, node) = (s.user.clone(), s.protocol.clone(), s.node.clone());
        vec![user, protocol, node, s.remote.clone(), age(s.age_s), dash(&s.selected), dash(&s.doing), s.session.clone()]
    };
    let titles = ["USER", "PROTOCOL", "NODE", "REMOTE", ">AGE", "SELECTED", "DOING", "SESSION"];
    let mut text = table(&titles, &sessions.sessions.iter().map(row).collect::<Vec<_>>());
    text.push_str(&silent(&sessions.unreachable));
    Ok(Report::new(&sessions, text).exit(warn(&sessions.unreachable)))
}

fn silent(unreachable: &[String]) -> String {
    if unreachable.is_empty() { String::new() } else { format!("no answer from: {}\n", unreachable.join(", ")) }
}

fn warn(unreachable: &[String]) -> u8 {
    if unreachable.is_empty() { exit::OK } else { exit::WARNINGS }
}

pub(crate) async fn kick(remote: &mut Remote<'_>, mask: String, change: Change) -> Result<Report, AdminError> {
    let request = |dry_run| Kick { mask: mask.clone(), dry_run };
    let count = |n: u64| format!("{n} session{}", if n == 1 { "" } else { "s" });
    let cost = |would: &Kicked| format!("This ends {} of {mask}; clients will connect again.", count(would.sessions));
    let kicked: Kicked = remote.destroy(api::SESSION_KICK, change, request, cost).await?;
    let verb = if change.dry_run { "would end" } else { "ended" };
    let text = format!("{verb} {}\n{}", count(kicked.sessions), silent(&kicked.unreachable));
    Ok(Report::new(&kicked, text).exit(warn(&kicked.unreachable)))
}
