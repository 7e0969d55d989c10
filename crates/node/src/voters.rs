//! Group 0's voters change: one at a time, and never before the present list is settled, because the promises on which leases rest
//! are theirs (rule 23). [`parliament_routing::Promises`] tells what settling is for.

use crate::ask::{Question, Reply, ask};
use crate::running::Running;
use parliament_cluster_state::Copies;
use parliament_ids::limits::SUPPORT_MS;
use parliament_ids::{Boot, GroupId, NodeId, NodeRole, VotersVersion};
use parliament_routing::{Seat, VoterList, withdrawn_by_many};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How many nodes vote in group 0 at most: each adds an answer to wait for and no more safety.
const VOTERS_MAX: usize = 7;
/// How many voters are kept while nodes are drained or lost, if so many nodes are there.
const VOTERS_KEPT: usize = 3;
/// How long old promises may run, told by another clock: rates differ by a tenth at most, and there is no hurry.
const OLD_PROMISES: Duration = Duration::from_millis(2 * SUPPORT_MS);
/// Nodes whose withdrawals are passed on at once: every node that ever was has one at most.
const FLOORS_MAX: usize = 4096;

/// How many voters group 0 should have: an odd number of those nodes that take part.
pub(crate) fn wanted(taking: usize) -> usize {
    let odd = if taking.is_multiple_of(2) { taking.saturating_sub(1) } else { taking };
    odd.clamp(VOTERS_KEPT, VOTERS_MAX)
}

/// The nodes that may vote in group 0, where a witness is as good as any.
pub(crate) fn seats(seats: &[Seat]) -> Vec<Seat> {
    let voting = seats.iter().filter(|seat| seat.role.votes_in_group_0());
    voting.map(|seat| Seat { role: NodeRole::Data, ..seat.clone() }).collect()
}

/// Learns of a new list as soon as group 0 has it here: who asks by an older one gets no promises.
pub(crate) async fn follow(running: Arc<Running>) {
    let mut applied = running.local.cluster.watch_applied();
    while !running.is_draining() {
        match parliament_cluster_state::copies(running.local.cluster_tables()) {
            Ok(rows) => {
                let row = rows.into_iter().find(|row| row.group == GroupId::CLUSTER);
                if let Some(Copies { version, voters, .. }) = row {
                    running.local.support.set_list(VoterList { version: VotersVersion(version), nodes: voters });
                }
            }
            Err(fault) => tracing::error!(%fault, "the voters of group 0 cannot be read"),
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Settles the list of voters that group 0 has now, so that it may get a next one.
///
/// # Errors
/// When a majority of the voters did not answer.
pub(crate) async fn settle(running: &Arc<Running>, copies: &Copies) -> Result<(), String> {
    let list = VoterList { version: VotersVersion(copies.version), nodes: copies.voters.clone() };
    let version = list.version.0;
    let said = gather(running, &list.nodes, &Question::SettleVoters { version }).await;
    let floors = |reply| match reply {
        Reply::Withdrawn(floors) => Some(floors.into_iter().map(|(node, boot)| (NodeId(node), Boot(boot))).collect()),
        _ => None,
    };
    let said: Vec<BTreeMap<NodeId, Boot>> = said.into_iter().filter_map(floors).collect();
    if !list.is_majority(said.len()) {
        return Err("no majority of the voters of group 0 has settled their list".into());
    }
    let floors = withdrawn_by_many(&list, &said);
    let told = Question::HearOfWithdrawals { floors: floors.into_iter().map(|(node, boot)| (node.0, boot.0)).collect() };
    let heard = gather(running, &list.nodes, &told).await;
    let heard = heard.into_iter().filter(|reply| matches!(reply, Reply::Order(Ok(())))).count();
    if !list.is_majority(heard) {
        return Err("no majority of the voters of group 0 has heard of all withdrawals".into());
    }
    // Counted from here: what a voter promised before it heard must have run out, too.
    tokio::time::sleep(OLD_PROMISES).await;
    Ok(())
}

async fn gather(running: &Arc<Running>, nodes: &[NodeId], question: &Question) -> Vec<Reply> {
    let asked = nodes.iter().map(|node| ask(running, *node, question));
    futures::future::join_all(asked).await.into_iter().filter_map(Result::ok).collect()
}

/// Carries out [`Question::SettleVoters`].
pub(crate) async fn settle_here(running: &Running, version: u64) -> Reply {
    match running.local.support.settle(VotersVersion(version)).await {
        Ok(floors) => Reply::Withdrawn(floors.into_iter().map(|(node, boot)| (node.0, boot.0)).collect()),
        Err(why) => Reply::Order(Err(why)),
    }
}

/// Carries out [`Question::HearOfWithdrawals`].
pub(crate) async fn hear_here(running: &Running, floors: &[(u64, u64)]) -> Reply {
    if floors.len() > FLOORS_MAX {
        return Reply::Order(Err("too many withdrawals at once".into()));
    }
    let floors = floors.iter().map(|(node, boot)| (NodeId(*node), Boot(*boot))).collect();
    Reply::Order(running.local.support.hear_of(&floors).await)
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn an_odd_number_of_voters_that_draining_does_not_lower_below_three() {
        let counts: Vec<usize> = (1..=10).map(wanted).collect();
        assert_eq!(counts, [3, 3, 3, 3, 5, 5, 7, 7, 7, 7]);
    }
}
