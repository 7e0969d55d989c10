//! Verbs about the cluster, its nodes and groups.

use super::{Remote, dry};
use crate::api::{self, Cluster, ClusterInit, Done, Group, GroupTransfer, Groups, Node, NodeState, Nothing, Replication, Status};
use crate::cli::{ClusterVerb, GroupVerb, StatusArgs};
use crate::error::{AdminError, exit};
use crate::output::{Report, known, size, table};
use crate::verdict::{Health, Verdict, verdict};
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) async fn cluster(remote: &mut Remote<'_>, verb: ClusterVerb) -> Result<Report, AdminError> {
    match verb {
        ClusterVerb::Init { groups, replication, change } => {
            let request = ClusterInit { groups, replication, dry_run: change.dry_run };
            let cluster: Cluster = remote.ask(api::CLUSTER_INIT, &request).await?;
            let formed = format!(
                "form cluster {} of {} with {} groups in {} copies",
                cluster.name,
                cluster.nodes.join(", "),
                cluster.groups,
                cluster.replication
            );
            let text = if change.dry_run { dry(change, &formed) } else { format!("formed: {}", formed.trim_start_matches("form ")) };
            Ok(Report::new(&cluster, text))
        }
        ClusterVerb::Show => {
            let cluster: Cluster = remote.ask(api::CLUSTER_SHOW, &Nothing {}).await?;
            let text = format!(
                "name         {}\nid           {}\nnodes        {}\ngroups       {} and the cluster's own\ncopies       {}\nversion      {}\n",
                cluster.name,
                cluster.id,
                cluster.nodes.join(", "),
                cluster.groups,
                cluster.replication,
                cluster.version
            );
            Ok(Report::new(&cluster, text))
        }
    }
}

pub(crate) async fn status(remote: &mut Remote<'_>, args: StatusArgs) -> Result<Report, AdminError> {
    if args.watch {
        return Ok(super::watch::watch(remote, args).await);
    }
    remote.ask(api::STATUS, &Nothing {}).await.map(|status: Status| status_report(&status, args.groups))
}

/// The document is the node's with `verdict` added.
pub(super) fn status_report(status: &Status, with_groups: bool) -> Report {
    let verdict = verdict(status);
    let mut text = format!("{}\n", verdict.line());
    let told = usize::from(verdict.health == Health::NoQuorum);
    for reason in verdict.reasons.iter().skip(told) {
        text.push_str(&format!("  {reason}\n"));
    }
    text.push('\n');
    text.push_str(&node_table(&status.nodes));
    if with_groups {
        text.push('\n');
        text.push_str(&group_table(&status.groups));
    }
    let mut document = json!(status);
    document["verdict"] = json!(verdict);
    document["line"] = json!(verdict.line());
    Report::new(&document, text).exit(verdict.exit())
}

const NAGIOS: [(&str, u8); 3] = [("OK", 0), ("WARNING", 1), ("CRITICAL", 2)];

pub(crate) async fn check(remote: &mut Remote<'_>) -> Report {
    match remote.ask::<_, Status>(api::STATUS, &Nothing {}).await {
        Ok(status) => check_report(&status, &verdict(&status)),
        Err(error) => check_failed(&error),
    }
}

fn check_report(status: &Status, verdict: &Verdict) -> Report {
    let (word, code) = match verdict.health {
        Health::Healthy => NAGIOS[0],
        Health::Degraded => NAGIOS[1],
        Health::NoQuorum => NAGIOS[2],
    };
    let up = status.nodes.iter().filter(|n| n.state == NodeState::Up).count();
    let led = status.groups.iter().filter(|g| g.leader.is_some()).count();
    let what = if verdict.reasons.is_empty() { verdict.survives() } else { verdict.reasons.join("; ") };
    let text = format!(
        "PARLIAMENT {word} - {what} | nodes_up={up};;;0;{} groups_led={led};;;0;{} bodies_below_quorum={} uid_regressions={}",
        status.nodes.len(),
        status.groups.len(),
        status.bodies_below_quorum,
        status.uid_regressions
    );
    Report::new(&json!({ "state": word, "verdict": verdict }), text.replace('\n', " ")).exit(code)
}

/// The same when no node answered: critical, unless this command itself is what is wrong.
pub(crate) fn check_failed(error: &AdminError) -> Report {
    let (word, code) = match error.exit {
        exit::UNAVAILABLE | exit::TRY_AGAIN => NAGIOS[2],
        _ => ("UNKNOWN", 3),
    };
    let text = format!("PARLIAMENT {word} - {}", error.message).replace('\n', " ");
    Report::new(&json!({ "state": word, "code": error.code, "message": error.message, "hint": error.hint }), text).exit(code)
}

pub(super) async fn node_list(remote: &mut Remote<'_>) -> Result<Report, AdminError> {
    let nodes: api::Nodes = remote.ask(api::NODE_LIST, &Nothing {}).await?;
    Ok(Report::new(&nodes, node_table(&nodes.nodes)))
}

fn node_table(nodes: &[Node]) -> String {
    let row = |n: &Node| {
        let state = match n.state {
            NodeState::Up => "up".to_owned(),
            NodeState::Starting => "starting".to_owned(),
            NodeState::Draining => "draining".to_owned(),
            NodeState::Drained => "drained".to_owned(),
            NodeState::Lost => format!("lost {}", crate::output::age(n.silent_s)),
            NodeState::Down => format!("down {}", crate::output::age(n.silent_s)),
        };
        vec![
            n.name.clone(),
            n.zone.clone(),
            n.role.to_string(),
            state,
            n.address.clone(),
            n.leads.to_string(),
            n.copies.to_string(),
            known(n.users_held),
            known(n.sessions),
            n.disk_free_bytes.map_or_else(|| "-".to_owned(), size),
            n.boot.to_string(),
            n.version.clone(),
        ]
    };
    let titles = ["NODE", "ZONE", "ROLE", "STATE", "ADDRESS", ">LEADS", ">COPIES", ">HOLDS", ">SESSIONS", ">FREE", ">BOOT", "VERSION"];
    table(&titles, &nodes.iter().map(row).collect::<Vec<_>>())
}

pub(crate) async fn group(remote: &mut Remote<'_>, verb: GroupVerb) -> Result<Report, AdminError> {
    match verb {
        GroupVerb::List => {
            let groups: Groups = remote.ask(api::GROUP_LIST, &Nothing {}).await?;
            Ok(Report::new(&groups, group_table(&groups.groups)))
        }
        GroupVerb::Show { group } => {
            let groups: Groups = remote.ask(api::GROUP_LIST, &Nothing {}).await?;
            let wanted = groups.groups.into_iter().find(|g| g.id == group);
            let wanted = wanted
                .ok_or_else(|| AdminError::usage(format!("there is no group {group}")).with_hint("`parliament group list` lists them"))?;
            let replicas: Replication = remote.ask(api::REPLICATION_STATUS, &Nothing {}).await?;
            let replicas: Vec<_> = replicas.replicas.into_iter().filter(|r| r.group == group).collect();
            let text = format!("{}\n{}", group_table(std::slice::from_ref(&wanted)), replica_table(&replicas));
            Ok(Report::new(&json!({ "group": wanted, "replicas": replicas }), text))
        }
        GroupVerb::Transfer { group, to, change } => {
            let done: Done = remote.ask(api::GROUP_TRANSFER, &GroupTransfer { group, to, dry_run: change.dry_run }).await?;
            Ok(Report::new(&done, dry(change, &done.message)))
        }
    }
}

fn group_table(groups: &[Group]) -> String {
    let row = |g: &Group| {
        vec![
            g.id.to_string(),
            g.leader.clone().unwrap_or_else(|| "-".to_owned()),
            g.voters.join(","),
            if g.learners.is_empty() { "-".to_owned() } else { g.learners.join(",") },
            g.term.to_string(),
            g.committed.to_string(),
            g.users.to_string(),
            if g.incomplete.is_empty() { "-".to_owned() } else { g.incomplete.join(",") },
            if g.resting { "yes" } else { "-" }.to_owned(),
        ]
    };
    let titles = [">GROUP", "LEADER", "VOTERS", "LEARNERS", ">TERM", ">COMMITTED", ">USERS", "INCOMPLETE", "RESTS"];
    table(&titles, &groups.iter().map(row).collect::<Vec<_>>())
}

/// Exits 2 when some node did not answer, so that nothing is known of its copies.
pub(crate) async fn replication(remote: &mut Remote<'_>) -> Result<Report, AdminError> {
    let replication: Replication = remote.ask(api::REPLICATION_STATUS, &Nothing {}).await?;
    let mut text = format!("{}\n{}\n", in_step(&replication.replicas), copies_table(&replication.replicas));
    text.push_str(&replica_table(&replication.replicas));
    text.push_str(&format!("\nbodies below quorum: {}\n", replication.bodies_below_quorum));
    if !replication.unreachable.is_empty() {
        text.push_str(&format!("no answer from: {}\n", replication.unreachable.join(", ")));
    }
    let code = if replication.unreachable.is_empty() { exit::OK } else { exit::WARNINGS };
    Ok(Report::new(&replication, text).exit(code))
}

/// All copies in one sentence.
fn in_step(replicas: &[api::Replica]) -> String {
    let count = |is: fn(&Option<u64>) -> bool| replicas.iter().filter(|replica| is(&replica.lag)).count();
    let (level, unknown) = (count(|lag| *lag == Some(0)), count(Option::is_none));
    let worst = replicas.iter().filter_map(|replica| replica.lag).max().unwrap_or(0);
    let mut text = format!("{level} of {} copies have all that is committed", replicas.len());
    if worst > 0 {
        text.push_str(&format!("; {} behind, at most {worst} entries", replicas.len() - level - unknown));
    }
    if unknown > 0 {
        text.push_str(&format!("; {unknown} not known"));
    }
    text
}

/// The copies of each node.
fn copies_table(replicas: &[api::Replica]) -> String {
    let mut nodes: BTreeMap<&str, Vec<&api::Replica>> = BTreeMap::new();
    replicas.iter().for_each(|replica| nodes.entry(&replica.node).or_default().push(replica));
    let row = |(node, copies): (&str, Vec<&api::Replica>)| {
        let level = copies.iter().filter(|copy| copy.lag == Some(0)).count();
        let worst = copies.iter().filter_map(|copy| copy.lag).max();
        // Told of the node as a whole, with each of its copies.
        let missing = copies.iter().filter_map(|copy| copy.missing_bodies).max();
        vec![node.to_owned(), copies.len().to_string(), level.to_string(), known(worst), known(missing)]
    };
    table(&["NODE", ">COPIES", ">IN STEP", ">LAG", ">MISSING BODIES"], &nodes.into_iter().map(row).collect::<Vec<_>>())
}

fn replica_table(replicas: &[api::Replica]) -> String {
    let row = |r: &api::Replica| {
        vec![r.group.to_string(), r.node.clone(), r.role.clone(), known(r.durable), known(r.lag), known(r.missing_bodies)]
    };
    let titles = [">GROUP", "NODE", "ROLE", ">DURABLE", ">LAG", ">MISSING BODIES"];
    table(&titles, &replicas.iter().map(row).collect::<Vec<_>>())
}

pub(crate) async fn metrics(remote: &mut Remote<'_>) -> Result<Report, AdminError> {
    let metrics: api::Metrics = remote.ask(api::METRICS, &Nothing {}).await?;
    Ok(Report::new(&metrics, metrics.text.clone()))
}
