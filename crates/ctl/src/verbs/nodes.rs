//! Verbs that change which nodes there are.

use super::{Remote, cluster, dry};
use crate::api::{self, GroupMove, Invitation, NodeChange, NodeChanged, NodeInvite};
use crate::cli::{Change, NodeVerb};
use crate::error::{AdminError, exit};
use crate::output::{Report, table};

pub(crate) async fn node(remote: &mut Remote<'_>, verb: NodeVerb) -> Result<Report, AdminError> {
    let named = |node: String| NodeChange { node, ..NodeChange::default() };
    match verb {
        NodeVerb::List => cluster::node_list(remote).await,
        NodeVerb::Invite { valid } => invite(remote, valid.as_secs()).await,
        NodeVerb::Undrain { name, change } => {
            let request = NodeChange { dry_run: change.dry_run, ..named(name) };
            remote.ask(api::NODE_UNDRAIN, &request).await.map(|changed| report(change, &changed))
        }
        NodeVerb::Drain { name, change } => carry_out(remote, api::NODE_DRAIN, change, named(name)).await,
        NodeVerb::Remove { name, lost, change } => carry_out(remote, api::NODE_REMOVE, change, NodeChange { lost, ..named(name) }).await,
        NodeVerb::Replace { old, with, change } => {
            carry_out(remote, api::NODE_REPLACE, change, NodeChange { with: Some(with), ..named(old) }).await
        }
    }
}

async fn invite(remote: &mut Remote<'_>, valid_s: u64) -> Result<Report, AdminError> {
    let invitation: Invitation = remote.ask(api::NODE_INVITE, &NodeInvite { valid_s }).await?;
    let text = format!(
        "{}\n\nFor one node, and secret until it has joined: there, with its own certificate and an empty data directory,\n\
         `parliament server --join TOKEN`.\n",
        invitation.token
    );
    Ok(Report::new(&invitation, text))
}

async fn carry_out(remote: &mut Remote<'_>, verb: &str, change: Change, request: NodeChange) -> Result<Report, AdminError> {
    let made = |dry_run| NodeChange { dry_run, ..request.clone() };
    let changed: NodeChanged = remote.destroy(verb, change, made, |would: &NodeChanged| told(&dry(DRY, &would.message), would)).await?;
    Ok(report(change, &changed))
}

/// For the question that is asked before a change.
const DRY: Change = Change { dry_run: true, yes: false };

fn report(change: Change, changed: &NodeChanged) -> Report {
    let code = if changed.warnings.is_empty() { exit::OK } else { exit::WARNINGS };
    Report::new(changed, told(&dry(change, &changed.message), changed)).exit(code)
}

fn told(message: &str, changed: &NodeChanged) -> String {
    let mut text = format!("{message}\n");
    for warning in &changed.warnings {
        text.push_str(&format!("  {warning}\n"));
    }
    if !changed.moves.is_empty() {
        let row = |group: &GroupMove| vec![group.group.to_string(), group.from.join(","), group.to.join(",")];
        text.push('\n');
        text.push_str(&table(&[">GROUP", "COPIES NOW", "COPIES THEN"], &changed.moves.iter().map(row).collect::<Vec<_>>()));
    }
    text
}
