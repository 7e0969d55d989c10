//! `user move`: has a user moved to another group. The leader of group 0 does it; this begins it and tells how far it is.

use super::users::find;
use super::{Asked, CHANGE_DEADLINE_MS, Outcome, bug, damaged, document, unserved};
use crate::ask::facts_of_all;
use crate::moves::whereabouts;
use parliament_cluster_state::{AccountRecord, Command, MoveRecord, MoveStage, NodeState, Refused, Reply as StateReply, last_move};
use parliament_ctl::{AdminError, api, exit};
use parliament_ids::{GroupId, NodeId};
use parliament_mail_service::{boot_ms, unix_seconds};
use std::collections::BTreeSet;

/// A move as operators see it.
pub(super) fn told(user: &str, row: &MoveRecord) -> api::UserMoving {
    let (stage, why) = match &row.stage {
        MoveStage::Wanted => (api::MoveStage::Copying, None),
        MoveStage::Stopping(why) => (api::MoveStage::Stopping, Some(why.clone())),
        MoveStage::Arrived => (api::MoveStage::CleaningUp, None),
        MoveStage::Done => (api::MoveStage::Done, None),
        MoveStage::GivenUp(why) => (api::MoveStage::GivenUp, Some(why.clone())),
    };
    api::UserMoving { user: user.to_owned(), from: row.from.0, to: row.to.0, number: row.id.0, stage, why }
}

fn last(asked: &Asked, account: &AccountRecord) -> Result<Option<MoveRecord>, AdminError> {
    last_move(asked.running.local.cluster_tables(), account.id).map_err(|f| damaged(&f))
}

pub(super) async fn begin(asked: &Asked, request: &api::UserMove) -> Outcome {
    let account = find(asked, &request.user).await?;
    let cluster = asked.running.document();
    let to = GroupId(request.group);
    if to == GroupId::CLUSTER || to.0 > cluster.groups {
        let message = format!("there is no group {to} of users. Nothing was changed.");
        let hint = format!("groups of users are 1 to {}; `parliament group list` shows them", cluster.groups);
        return Err(AdminError::new("PC330", exit::USAGE, message).with_hint(hint));
    }
    let stays =
        api::UserMoving { user: account.name.clone(), from: account.group.0, to: to.0, number: 0, stage: api::MoveStage::Done, why: None };
    if account.group == to && last(asked, &account)?.is_none_or(|row| !row.is_open()) {
        return document(&stays);
    }
    able(asked, to).await?;
    if request.dry_run {
        return document(&api::UserMoving { stage: api::MoveStage::Copying, ..stays });
    }
    let begin = Command::BeginMove { account: account.id, to, time: unix_seconds() };
    let begun = asked.running.local.propose_cluster(&begin, boot_ms() + CHANGE_DEADLINE_MS).await.map_err(|e| unserved(&e))?;
    match begun {
        Ok(StateReply::Move(_)) | Err(Refused::SameGroup) => state_of(asked, &account),
        Err(Refused::Moving) => {
            let row = last(asked, &account)?;
            let under_way = row.map_or_else(String::new, |row| format!(" from group {} to {}", row.from, row.to));
            let message = format!("{} is on the way{under_way} already. Nothing was changed.", account.name);
            Err(AdminError::new("PC331", exit::TRY_AGAIN, message).with_hint("wait for its end, which `parliament user show` tells"))
        }
        Err(Refused::Limit) => Err(AdminError::new("PC332", exit::TRY_AGAIN, "too many users are on the way. Nothing was changed.")
            .with_hint("wait until some have arrived")),
        Err(refused) => Err(bug(format!("{refused:?}"))),
        Ok(other) => Err(bug(format!("{other:?}"))),
    }
}

/// Why a node stands in the way of moves: one that may come back with a version that knows none of them does, too.
fn unsuited(name: &str, version: Option<&String>, mine: Option<&String>, lost: bool) -> Option<String> {
    match version {
        Some(version) if mine == Some(version) => None,
        Some(version) => Some(format!("nodes run different versions: {name} runs {version}")),
        None if lost => None,
        None => Some(format!("{name} does not answer, so that its version is not known")),
    }
}

/// Refuses what cannot come to its end: a target without a quorum, and nodes that do not know moves yet.
async fn able(asked: &Asked, to: GroupId) -> Result<(), AdminError> {
    let facts = facts_of_all(&asked.running).await;
    let mine = facts.get(&asked.running.local.me).and_then(|facts| facts.as_ref()).map(|facts| facts.version.clone());
    let document = asked.running.document();
    let lost: BTreeSet<NodeId> =
        document.members.iter().filter(|member| member.state == NodeState::Lost).map(|member| NodeId(member.id)).collect();
    if let Some(why) = facts.iter().find_map(|(node, facts)| {
        unsuited(&document.name_of(*node), facts.as_ref().map(|facts| &facts.version), mine.as_ref(), lost.contains(node))
    }) {
        return Err(AdminError::new("PC333", exit::TRY_AGAIN, format!("{why}. Nothing was changed."))
            .with_hint("users move between groups once all nodes, but for those given up for lost, run the same version"));
    }
    whereabouts(&asked.running, to, parliament_ids::AccountId(0)).await.map(drop).map_err(|why| {
        AdminError::new("PC201", exit::UNAVAILABLE, format!("group {to} cannot take users now: {why}. Nothing was changed."))
            .with_hint("`parliament status` tells which nodes are missing")
    })
}

fn state_of(asked: &Asked, account: &AccountRecord) -> Outcome {
    let row = last(asked, account)?.ok_or_else(|| {
        AdminError::new("PC334", exit::USAGE, format!("{} never moved", account.name)).with_hint("`parliament user show` tells its group")
    })?;
    document(&told(&account.name, &row))
}

pub(super) async fn state(asked: &Asked, request: &api::OneUser) -> Outcome {
    let account = find(asked, &request.user).await?;
    state_of(asked, &account)
}

#[cfg(test)]
mod tests {
    use super::unsuited;

    #[test]
    fn only_a_lost_node_may_be_silent() {
        let (one, two) = ("1.0".to_owned(), "2.0".to_owned());
        assert_eq!(unsuited("n2", Some(&one), Some(&one), false), None);
        assert_eq!(unsuited("n2", None, Some(&one), true), None);
        assert!(unsuited("n2", None, Some(&one), false).is_some_and(|why| why.starts_with("n2 does not answer")));
        assert!(unsuited("n2", Some(&two), Some(&one), true).is_some_and(|why| why.ends_with("n2 runs 2.0")));
    }
}
