//! Verbs about who holds whom, and about client sessions.

use super::{Remote, dry};
use crate::api::{self, Kick, Kicked, Lease, LeaseMove, Leases, Mask, OneUser, Sessions};
use crate::cli::{Change, LeaseVerb};
use crate::error::{AdminError, exit};
use crate::output::{Report, age, table};
use serde_json::json;

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
            let leases = remote
                .pages(api::LEASE_LIST, &mask, |page: Leases| {
                    let last = page.leases.last().map(|l| l.user.clone());
                    (page.leases, last, page.more)
                })
                .await?;
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
    }
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
