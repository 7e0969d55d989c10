//! From started processes to a cluster with accounts and mail.

use super::layout::{Plan, write_whole};
use super::wire::{Imap, deliver, http_status};
use crate::Connect;
use crate::api::{self, Cluster, ClusterInit, NewUser, Nothing, OnExisting, Status, UserImport, UserImported};
use crate::credential::{Cost, hash};
use crate::discover::Target;
use crate::error::{AdminError, code, exit};
use crate::verbs::Nodes;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one call to a node may take while the cluster forms.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Logins tried at a time.
const LOGINS_AT_A_TIME: usize = 8;
/// Says that the first mails were delivered.
const WELCOMED: &str = "welcomed";

/// Brings the cluster up, and returns once every account can log in.
pub(crate) async fn fill(plan: &Plan, connect: &Connect, deadline: Instant) -> Result<(), AdminError> {
    let client = |node: &super::layout::NodeEntry| Nodes {
        connect: connect.clone(),
        targets: vec![Target::Peer { address: node.peer.clone(), tls: None }],
        timeout: CALL_TIMEOUT,
    };
    let first = plan.ready.nodes.first().map(client).ok_or_else(|| AdminError::usage("a demo has nodes"))?;
    form(&first, deadline).await?;
    for node in &plan.ready.nodes {
        wait(deadline, &format!("{} to be ready (http://{}/readyz)", node.id, node.http), || async {
            (http_status(&node.http, "/readyz").await == Some(200)).then_some(())
        })
        .await?;
    }
    leaders(&first, deadline).await?;
    accounts(plan, &first, deadline).await?;
    logins(plan, deadline).await?;
    welcome(plan, deadline).await
}

/// Tries again and again until something comes of it.
async fn wait<T, F: Future<Output = Option<T>>>(deadline: Instant, what: &str, mut look: impl FnMut() -> F) -> Result<T, AdminError> {
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(AdminError::new(code::DEMO, exit::TRY_AGAIN, format!("waited in vain for {what}")));
        }
        sleep(PAUSE).await;
    }
}

/// Tries a call again while the reason it failed may pass.
async fn persist<T, F: Future<Output = Result<T, AdminError>>>(deadline: Instant, mut call: impl FnMut() -> F) -> Result<T, AdminError> {
    loop {
        match call().await {
            Err(error) if [exit::UNAVAILABLE, exit::TRY_AGAIN].contains(&error.exit) && Instant::now() < deadline => sleep(PAUSE).await,
            result => return result,
        }
    }
}

/// `cluster init` at node 1, unless a kept folder holds a cluster already.
async fn form(first: &Nodes, deadline: Instant) -> Result<(), AdminError> {
    persist(deadline, || async {
        let shown: Result<Cluster, _> = api::ask(first, api::CLUSTER_SHOW, &Nothing {}).await;
        match shown {
            Err(error) if error.code == api::NOT_FORMED => {
                let formed: Result<Cluster, _> = api::ask(first, api::CLUSTER_INIT, &ClusterInit::default()).await;
                match formed {
                    // An earlier try whose answer was lost.
                    Err(error) if error.code == api::ALREADY_FORMED => Ok(()),
                    formed => formed.map(drop),
                }
            }
            shown => shown.map(drop),
        }
    })
    .await
}

async fn leaders(first: &Nodes, deadline: Instant) -> Result<(), AdminError> {
    wait(deadline, "every group to have a leader", || async {
        let status: Status = api::ask(first, api::STATUS, &Nothing {}).await.ok()?;
        (status.formed && !status.groups.is_empty() && status.groups.iter().all(|g| g.leader.is_some())).then_some(())
    })
    .await
}

/// Makes the accounts, all with one password; those of a kept folder get the password of this run.
async fn accounts(plan: &Plan, first: &Nodes, deadline: Instant) -> Result<(), AdminError> {
    let credential = hash(&plan.ready.password, Cost::Demo)?;
    for names in plan.ready.users.chunks(api::IMPORT_USERS_MAX) {
        let users = names.iter().map(|name| NewUser { name: name.clone(), credential: credential.clone() }).collect();
        let request = UserImport { users, on_existing: OnExisting::Update, dry_run: false };
        let outcome: UserImported = persist(deadline, || api::ask(first, api::USER_IMPORT, &request)).await?;
        if let Some(refused) = outcome.refused.first() {
            return Err(AdminError::demo(format!("the account {} was refused: {}", refused.name, refused.why)));
        }
    }
    Ok(())
}

/// Every account logs in at one node, and the last one at every node: nodes learn of accounts in the order of the cluster's
/// log, so who knows the last knows all.
async fn logins(plan: &Plan, deadline: Instant) -> Result<(), AdminError> {
    let nodes = &plan.ready.nodes;
    let last = plan.ready.users.last().into_iter().flat_map(|user| nodes.iter().map(move |node| (node.imap.clone(), user.clone())));
    let each = plan.ready.users.iter().zip(nodes.iter().cycle()).map(|(user, node)| (node.imap.clone(), user.clone()));
    let mut tries: Vec<(String, String)> = last.chain(each).collect();
    tries.reverse();
    let password: Arc<str> = plan.ready.password.as_str().into();
    let mut running = JoinSet::new();
    loop {
        while running.len() < LOGINS_AT_A_TIME
            && let Some((address, user)) = tries.pop()
        {
            let password = password.clone();
            running.spawn(async move { log_in(&address, &user, &password, deadline).await });
        }
        match running.join_next().await {
            Some(Ok(result)) => result?,
            Some(Err(e)) => return Err(AdminError::demo(format!("a login failed: {e}"))),
            None => return Ok(()),
        }
    }
}

async fn log_in(address: &str, user: &str, password: &str, deadline: Instant) -> Result<(), AdminError> {
    loop {
        match Imap::login(address, user, password).await {
            Ok(mut imap) => {
                // That it was heard is all that matters.
                let _ = imap.command("LOGOUT").await;
                return Ok(());
            }
            Err(why) if Instant::now() >= deadline => {
                return Err(AdminError::new(code::DEMO, exit::TRY_AGAIN, format!("{user} cannot log in at {address}: {why}")));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// A mail for alice and one for bob, once in the life of a folder.
async fn welcome(plan: &Plan, deadline: Instant) -> Result<(), AdminError> {
    let mark = plan.dir.join(WELCOMED);
    if mark.exists() {
        return Ok(());
    }
    for (user, node) in plan.ready.users.iter().take(2).zip(plan.ready.nodes.iter().cycle().skip(1)) {
        let message = mail(user, "Welcome to Parliament", &welcome_text(plan), "welcome");
        persist(deadline, || deliver(&node.lmtp, user, &message)).await?;
    }
    write_whole(&mark, "")
}

fn welcome_text(plan: &Plan) -> String {
    let nodes: Vec<_> = plan.ready.nodes.iter().map(|n| format!("  {}: IMAP {}", n.id, n.imap)).collect();
    format!(
        "Hello,\r\n\r\nthis mail lies on every node of the demo, so read it wherever you like:\r\n\r\n{}\r\n\r\n\
         Kill one of them (parliament demo kill n1) and read on at another.\r\n",
        nodes.join("\r\n")
    )
}

/// A small mail. Its Date is fixed where `id` is: the same mail delivered twice is delivered once.
pub(crate) fn mail(to: &str, subject: &str, text: &str, id: &str) -> String {
    format!(
        "From: Parliament <postmaster@demo.test>\r\nTo: <{to}>\r\nSubject: {subject}\r\nMessage-ID: <{id}.{to}>\r\n\
         Date: Thu, 1 Jan 2026 12:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}"
    )
}
