//! What a second terminal can do to a running demo.

use super::fill::mail;
use super::layout::{DOMAIN, NodeEntry, State};
use super::registry::{Demo, ask, find_running};
use super::wire::{deliver, http_status};
use crate::Connect;
use crate::api::{self, Lease, OneUser};
use crate::cli::{DemoAction, Global};
use crate::credential::random;
use crate::discover::Target;
use crate::error::{AdminError, code, exit};
use crate::output::{Report, table};
use crate::terminal::Terminal;
use crate::verbs::Nodes;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) async fn act(
    action: &DemoAction,
    dir: Option<&Path>,
    global: &Global,
    connect: &Connect,
    terminal: &mut Terminal,
) -> Result<Report, AdminError> {
    let demo = find_running(&terminal.env, dir)?;
    match action {
        DemoAction::Ls => Ok(Report::new(&demo.ready, list(&demo.ready.nodes))),
        DemoAction::Kill { node, holder_of } => {
            let node = match (node, holder_of) {
                (Some(node), _) => node.clone(),
                (None, Some(user)) => holder(&demo, user, global, connect).await?,
                (None, None) => return Err(AdminError::usage("kill wants a node or --holder-of USER")),
            };
            change(&demo, "kill", &node, "killed")
        }
        DemoAction::Pause { node } => change(&demo, "pause", node, "paused"),
        DemoAction::Resume { node } => change(&demo, "resume", node, "goes on"),
        DemoAction::Start { node } => start(&demo, node, global.timeout).await,
        DemoAction::Send { user } => send(&demo, user).await,
        DemoAction::Guard { .. } => Err(AdminError::usage("guard needs no demo")),
    }
}

/// The table of nodes, as `demo` and `demo ls` print it.
pub(crate) fn list(nodes: &[NodeEntry]) -> String {
    let row = |n: &NodeEntry| {
        let state = match n.state {
            Some(State::Down) => "down",
            Some(State::Paused) => "paused",
            Some(State::Up) | None => "up",
        };
        let pid = if n.pid == 0 { "-".to_owned() } else { n.pid.to_string() };
        let port = |address: &String| address.rsplit_once(':').map_or_else(String::new, |(_, port)| port.to_owned());
        let ports = [&n.imap, &n.imaps, &n.pop3, &n.lmtp, &n.peer, &n.http].map(port);
        [n.id.clone(), state.to_owned(), pid].into_iter().chain(ports).collect()
    };
    table(&["NODE", "STATE", ">PID", ">IMAP", ">IMAPS", ">POP3", ">LMTP", ">PEER", ">HTTP"], &nodes.iter().map(row).collect::<Vec<_>>())
}

fn change(demo: &Demo, verb: &str, node: &str, done: &str) -> Result<Report, AdminError> {
    let answer = ask(&demo.socket, &json!({ "verb": verb, "node": node }))?;
    let pid = answer.get("pid").and_then(Value::as_u64).unwrap_or(0);
    Ok(Report::new(&answer, format!("{node} (pid {pid}) {done}")))
}

async fn holder(demo: &Demo, user: &str, global: &Global, connect: &Connect) -> Result<String, AdminError> {
    let targets = demo.peers.iter().map(|address| Target::Peer { address: address.clone(), tls: None }).collect();
    let client = Nodes { connect: connect.clone(), targets, timeout: global.timeout };
    let lease: Lease = api::ask(&client, api::LEASE_SHOW, &OneUser { user: user.to_owned() }).await?;
    lease.holder.ok_or_else(|| {
        AdminError::new(code::DEMO, exit::TRY_AGAIN, format!("nobody holds {} yet", lease.user))
            .with_hint("the first request of the user makes a holder")
    })
}

async fn start(demo: &Demo, node: &str, timeout: Duration) -> Result<Report, AdminError> {
    let begun = Instant::now();
    let mut answer = ask(&demo.socket, &json!({ "verb": "start", "node": node }))?;
    let http = demo.ready.nodes.iter().find(|n| n.id == node).map(|n| n.http.clone()).unwrap_or_default();
    while http_status(&http, "/readyz").await != Some(200) {
        if begun.elapsed() > timeout {
            return Err(AdminError::new(code::TIMEOUT, exit::TRY_AGAIN, format!("{node} was started, but is not ready yet"))
                .with_hint(format!("its log is {}", demo.dir.join(node).join("log").display())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ready_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    answer["ready_ms"] = json!(ready_ms);
    Ok(Report::new(&answer, format!("{node} is ready after {ready_ms} ms")))
}

async fn send(demo: &Demo, user: &str) -> Result<Report, AdminError> {
    if user.chars().any(|c| c.is_control() || c.is_whitespace() || "<>".contains(c)) {
        return Err(AdminError::usage(format!("{user:?} is no address")));
    }
    let to = if user.contains('@') { user.to_owned() } else { format!("{user}@{DOMAIN}") };
    let up = demo.ready.nodes.iter().find(|n| n.state == Some(State::Up));
    let node = up.ok_or_else(|| AdminError::new(code::DEMO, exit::UNAVAILABLE, "no node of the demo is up"))?;
    let id: String = random::<8>()?.iter().map(|b| format!("{b:02x}")).collect();
    let message = mail(&to, &format!("Mail {}", &id[..4]), "Sent by `parliament demo send`.\r\n", &id);
    let reply = deliver(&node.lmtp, &to, &message).await?;
    Ok(Report::new(
        &json!({ "to": to, "node": node.id, "reply": reply, "message_id": format!("<{id}.{to}>") }),
        format!("{}: {reply}", node.id),
    ))
}
