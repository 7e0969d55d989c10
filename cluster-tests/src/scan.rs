//! The look at the end: everything in every mailbox, read at every node, each time with that node as the holder, so that it is
//! that node's own copy that is read and not another's through it.

use crate::Error;
use crate::demo::Node;
use crate::history::{Kind, Recorder, Where};
use crate::imap::Imap;
use crate::message::{id_of, sha, without_trace};
use crate::site::Site;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Messages asked for at once.
const CHUNK: u32 = 500;

/// Scans `USER/INBOX` of all accounts at all nodes into the history. Returns how many of the scans were made at the holder itself.
///
/// # Errors
/// In words, when a node does not serve a mailbox within a minute: after healing that is a failure of the cluster.
pub async fn everything<S: Site>(site: &S, accounts: &[String], recorder: &Recorder) -> Result<u64, String> {
    at_nodes(site, site.nodes(), accounts, recorder).await
}

/// As [`everything`], at some of the nodes: for a cluster that others have left.
///
/// # Errors
/// As [`everything`].
pub async fn at_nodes<S: Site>(site: &S, nodes: &[Node], accounts: &[String], recorder: &Recorder) -> Result<u64, String> {
    let mut at_holder = 0;
    for node in nodes {
        for account in accounts {
            // A hand-over may be refused while the node still catches up; the scan then shows what it relays.
            let moved = site.verb(&["lease", "move", account, "--to", &node.id, "--yes"]).await;
            at_holder += u64::from(moved.is_ok_and(|lease| lease["holder"] == node.id.as_str()));
            let (key, session) = (format!("{account}/INBOX"), format!("scan-{}", node.id));
            let at = Where { key: &key, node: &node.id, session: &session };
            let until = Instant::now() + Duration::from_secs(60);
            loop {
                let process = recorder.new_process();
                recorder.client(process, Kind::Invoke, "scan", at, json!({ "from": 1 }));
                match inbox(&node.imap, account, site.password()).await {
                    Ok(value) => {
                        recorder.client(process, Kind::Ok, "scan", at, value);
                        break;
                    }
                    Err(error) => {
                        recorder.client(process, Kind::Info, "scan", at, json!({ "error": error.to_string() }));
                        if Instant::now() > until {
                            return Err(format!("{key} cannot be read at {}: {error}", node.id));
                        }
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        }
    }
    Ok(at_holder)
}

/// All of an INBOX: the value of a scan.
///
/// # Errors
/// As [`Imap::command`].
pub async fn inbox(address: &str, user: &str, password: &str) -> Result<Value, Error> {
    let mut imap = Imap::login(address, user, password).await?;
    let mailbox = imap.select("INBOX", true).await?;
    let mut messages = Vec::new();
    let mut from = 1;
    while from < mailbox.uidnext {
        let to = (from + CHUNK).min(mailbox.uidnext) - 1;
        for message in imap.uid_fetch(&format!("{from}:{to}"), "(UID BODY.PEEK[])").await? {
            let (Some(uid), Some(body)) = (message.uid, message.body) else { continue };
            messages.push(json!([uid, id_of(&body).unwrap_or_default(), sha(without_trace(&body))]));
        }
        from = to + 1;
    }
    let _ = imap.logout().await;
    Ok(json!({ "from": 1, "uidvalidity": mailbox.uidvalidity, "uidnext": mailbox.uidnext, "messages": messages }))
}
