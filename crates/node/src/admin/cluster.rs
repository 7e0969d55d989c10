//! Nodes, groups, sessions.

use super::{Asked, Outcome, document};
use crate::ask::{Facts, Question, Reply, ask, ask_all, facts_of_all};
use crate::events::Tone;
use crate::node::Node;
use crate::running::Running;
use parliament_cluster_state::NodeState;
use parliament_ctl::{AdminError, api, exit};
use parliament_ids::{GroupId, NodeId, NodeRole};
use parliament_mail_service::boot_ms;
use std::collections::BTreeMap;
use std::sync::Arc;

fn node_rows(running: &Running, facts: &BTreeMap<NodeId, Option<Facts>>) -> Vec<api::Node> {
    let document = &*running.document();
    let mut rows: Vec<api::Node> = document
        .members
        .iter()
        .map(|member| {
            let id = NodeId(member.id);
            let known = facts.get(&id).cloned().flatten();
            let copies = (0..=document.groups).filter(|group| document.holds(GroupId(*group), id)).count();
            let state = match &known {
                _ if member.state == NodeState::Lost => api::NodeState::Lost,
                None => api::NodeState::Down,
                Some(facts) if member.state == NodeState::Draining => {
                    let left = (0..=document.groups).any(|group| document.holds(GroupId(group), id));
                    let gone = !left && facts.users_held == 0 && facts.groups.values().all(|group| !group.leads);
                    if gone { api::NodeState::Drained } else { api::NodeState::Draining }
                }
                Some(facts) if facts.draining => api::NodeState::Draining,
                // One that lacks a quorum is up: what it lacks is told by its groups.
                Some(facts) if !facts.caught_up => api::NodeState::Starting,
                Some(_) => api::NodeState::Up,
            };
            let recorded = parliament_cluster_state::node(running.local.cluster_tables(), id).ok().flatten();
            api::Node {
                name: member.name.clone(),
                id: member.id,
                zone: member.zone.clone(),
                role: member.role,
                address: member.address.clone(),
                state,
                silent_s: if known.is_some() { 0 } else { running.silent_ms(id) / 1000 },
                boot: known.as_ref().map_or_else(|| recorded.map_or(0, |row| row.boot.0), |facts| facts.boot),
                version: known.as_ref().map(|facts| facts.version.clone()).unwrap_or_default(),
                leads: known.as_ref().map_or(0, |facts| u32::try_from(facts.groups.values().filter(|g| g.leads).count()).unwrap_or(0)),
                copies: u32::try_from(copies).unwrap_or(0),
                users_held: known.as_ref().map(|facts| facts.users_held),
                sessions: known.as_ref().map(|facts| facts.sessions),
                disk_free_bytes: known.map(|facts| facts.disk_free),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// The leader is the one of the highest term that claims it, or that a node of that term follows.
fn group_rows(running: &Running, facts: &BTreeMap<NodeId, Option<Facts>>) -> Vec<api::Group> {
    let cluster = &*running.document();
    (0..=cluster.groups)
        .map(|group| {
            let seen: Vec<_> = facts
                .iter()
                .filter_map(|(node, facts)| facts.as_ref().and_then(|f| f.groups.get(&group)).map(|row| (*node, row)))
                .collect();
            let term = seen.iter().map(|(_, row)| row.term).max().unwrap_or(0);
            let leader = seen.iter().find(|(_, row)| row.leads && row.term == term).map(|(node, _)| *node);
            let mine = running.metrics(GroupId(group));
            let names = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| cluster.name_of(node)).collect::<Vec<_>>();
            api::Group {
                id: group,
                leader: leader.map(|node| cluster.name_of(node)),
                term,
                voters: names(cluster.voters(GroupId(group))),
                learners: names(cluster.learners(GroupId(group))),
                committed: mine.and_then(|metrics| metrics.committed).unwrap_or(0),
                users: seen.iter().map(|(_, row)| row.users).max().unwrap_or(0),
                incomplete: {
                    let aside = facts.iter().filter(|(_, facts)| facts.as_ref().is_some_and(|facts| facts.aside.contains_key(&group)));
                    let stopped = seen.iter().filter(|(_, row)| row.stopped.is_some()).map(|(node, _)| *node);
                    names(stopped.chain(aside.map(|(node, _)| *node)).collect())
                },
                resting: seen.iter().any(|(node, row)| Some(*node) == leader && row.resting),
            }
        })
        .collect()
}

pub(super) async fn status(node: &Arc<Node>) -> Outcome {
    let Some(running) = node.running() else { return document(&unformed(node)) };
    document(&status_of(node, &running, &facts_of_all(&running).await))
}

/// The document of a node without a cluster.
pub(crate) fn unformed(node: &Node) -> api::Status {
    let (cluster, answered_by) = (node.config.cluster.name.clone(), node.config.node.name.clone());
    api::Status { cluster, formed: false, answered_by, ..api::Status::default() }
}

/// The cluster's state, from what each node says of itself.
pub(crate) fn status_of(node: &Node, running: &Running, facts: &BTreeMap<NodeId, Option<Facts>>) -> api::Status {
    let damaged: u64 = facts.values().flatten().map(|facts| facts.missing_bodies).sum();
    let mut warnings = Vec::new();
    if damaged > 0 {
        warnings.push(format!("{damaged} damaged bodies wait to be replaced from other nodes"));
    }
    for (id, facts) in facts {
        if facts.as_ref().is_some_and(|facts| facts.refuses_bodies) {
            warnings.push(format!("the disk of {} is nearly full: it takes no messages", running.document().name_of(*id)));
        }
        for (group, row) in facts.iter().flat_map(|facts| &facts.groups) {
            if let Some(why) = &row.stopped {
                warnings.push(format!("group {group} has stopped on {}: {why}", running.document().name_of(*id)));
            }
        }
    }
    api::Status {
        formed: true,
        nodes: node_rows(running, facts),
        groups: group_rows(running, facts),
        alone: crate::alone::known(running).node.map(|node| running.document().name_of(node)),
        needs_both: !running.config.cluster.serve_alone,
        bodies_below_quorum: damaged,
        uid_regressions: facts.values().flatten().map(|facts| facts.uid_regressions).sum(),
        warnings,
        events: told_events(running),
        ..unformed(node)
    }
}

/// What happened lately, in words.
pub(crate) fn told_events(running: &Running) -> Vec<api::Event> {
    let now = boot_ms();
    let name = |id| running.document().name_of(NodeId(id));
    let told = |event: crate::events::Event| api::Event {
        age_ms: now.saturating_sub(event.at_ms),
        tone: match event.what.tone() {
            Tone::Bad => "bad",
            Tone::Change => "change",
            Tone::Good => "good",
        }
        .to_owned(),
        text: event.what.words(&name),
    };
    running.hearsay.events(api::EVENTS_TOLD_MAX).into_iter().map(told).collect()
}

pub(super) fn show(asked: &Asked) -> Outcome {
    document(&super::form::describe(&asked.running.document()))
}

pub(super) async fn nodes(asked: &Asked) -> Outcome {
    document(&api::Nodes { nodes: node_rows(&asked.running, &facts_of_all(&asked.running).await) })
}

pub(super) async fn groups(asked: &Asked) -> Outcome {
    document(&api::Groups { groups: group_rows(&asked.running, &facts_of_all(&asked.running).await) })
}

pub(super) async fn transfer(asked: &Asked, request: &api::GroupTransfer) -> Outcome {
    let cluster = &*asked.running.document();
    let wrong = |why: String| AdminError::new("PC230", exit::USAGE, why).with_hint("`parliament group list` shows groups and nodes");
    if request.group > cluster.groups {
        return Err(wrong(format!("there is no group {}", request.group)));
    }
    let group = GroupId(request.group);
    let to = cluster.named(&request.to).ok_or_else(|| wrong(format!("there is no node {}", request.to)))?;
    if !cluster.keepers(group).contains(&to) {
        return Err(wrong(format!("{} cannot lead group {group}", request.to)));
    }
    let message = format!("{} leads group {group}", request.to);
    if request.dry_run {
        return document(&api::Done { message: format!("make {} leader of group {group}", request.to) });
    }
    let try_again =
        |why: String| AdminError::new("PC231", exit::TRY_AGAIN, why).with_hint("`parliament replication status` tells how far it is");
    let leader = asked.running.local.leader(group).ok_or_else(|| try_again(format!("group {group} has no leader now")))?;
    if leader == to {
        return document(&api::Done { message });
    }
    if ask(&asked.running, to, &Question::Facts).await.is_err() {
        return Err(try_again(format!("{} does not answer", request.to)));
    }
    match ask(&asked.running, leader, &Question::Transfer { group: group.0, to: to.0 }).await {
        Ok(Reply::Order(Ok(()))) => {}
        Ok(Reply::Order(Err(why))) | Err(why) => return Err(try_again(why)),
        Ok(other) => return Err(super::bug(format!("{other:?}"))),
    }
    for _ in 0..100 {
        if asked.running.local.leader(group) == Some(to) {
            return document(&api::Done { message });
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Err(try_again(format!("{} did not take the lead of group {group} in time", request.to)))
}

pub(super) async fn replication(asked: &Asked) -> Outcome {
    let facts = facts_of_all(&asked.running).await;
    let cluster = &*asked.running.document();
    let mut replicas = Vec::new();
    for group in 0..=cluster.groups {
        let rows = facts.iter().filter_map(|(node, facts)| facts.as_ref().and_then(|f| f.groups.get(&group)).map(|row| (*node, row)));
        let committed = rows.clone().filter_map(|(_, row)| row.committed).max();
        let copiers = if group == 0 { Vec::new() } else { cluster.copiers() };
        for id in cluster.voters(GroupId(group)).into_iter().chain(cluster.learners(GroupId(group))).chain(copiers) {
            let row = rows.clone().find(|(node, _)| *node == id).map(|(_, row)| row);
            let durable = row.and_then(|row| row.last_log);
            replicas.push(api::Replica {
                group,
                node: cluster.name_of(id),
                role: match row {
                    Some(row) if row.leads => "leader",
                    _ if cluster.role(id) == NodeRole::Copy => "copy",
                    _ if cluster.role(id) == NodeRole::Witness => "witness",
                    Some(row) if row.learner => "learner",
                    _ => "voter",
                }
                .into(),
                durable,
                lag: durable.zip(committed).map(|(durable, committed)| committed.saturating_sub(durable)),
                missing_bodies: facts.get(&id).and_then(|facts| facts.as_ref()).map(|facts| facts.missing_bodies),
            });
        }
    }
    document(&api::Replication {
        replicas,
        bodies_below_quorum: facts.values().flatten().map(|facts| facts.missing_bodies).sum(),
        unreachable: facts.iter().filter(|(_, facts)| facts.is_none()).map(|(id, _)| cluster.name_of(*id)).collect(),
    })
}

pub(super) async fn sessions(asked: &Asked, request: &api::Mask) -> Outcome {
    let (mut sessions, mut unreachable) = (Vec::new(), Vec::new());
    for (id, answer) in ask_all(&asked.running, &Question::Sessions { mask: request.mask.clone() }).await {
        match answer {
            Ok(Reply::Sessions(rows)) => sessions.extend(rows),
            _ => unreachable.push(asked.running.document().name_of(id)),
        }
    }
    sessions.sort_by(|a: &api::Session, b| a.user.cmp(&b.user).then_with(|| a.node.cmp(&b.node)));
    document(&api::Sessions { sessions, unreachable })
}

pub(super) async fn kick(asked: &Asked, request: &api::Kick) -> Outcome {
    let (mut count, mut unreachable) = (0, Vec::new());
    let question = Question::Kick { mask: request.mask.clone(), dry_run: request.dry_run };
    for (id, answer) in ask_all(&asked.running, &question).await {
        match answer {
            Ok(Reply::Count(here)) => count += here,
            _ => unreachable.push(asked.running.document().name_of(id)),
        }
    }
    document(&api::Kicked { sessions: count, unreachable })
}
