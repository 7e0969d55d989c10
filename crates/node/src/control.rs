//! The controller of placement, on the leader of group 0: decides by [`parliament_routing::plan`] and [`parliament_routing::step`],
//! and has the groups' leaders carry it out. It keeps nothing in memory that another could not find out, so that a new leader of
//! group 0 goes on where the old one died.

use crate::ask::{Facts, Question, Reply, ask};
use crate::identity::{Document, Member};
use crate::running::Running;
use crate::voters;
use parliament_cluster_state::{self as state, Command, Copies, NodeState};
use parliament_ids::{GroupId, NodeId, NodeRole};
use parliament_mail_service::boot_ms;
use parliament_routing::{Change, CopyStep, Led, Row, Seat, Word, lead, plan, step};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often the controller looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Every how many looks all nodes are asked for copies that are unfit.
const UNFIT_EVERY: u64 = 6;
/// Every how many looks copies without a vote are looked after.
const COPIES_EVERY: u64 = 2;
/// The same where there are none: what a removed one has left behind.
const LEFT_OVER_EVERY: u64 = 60;
/// How long a removed node is still told what group 0 commits.
const FAREWELL: Duration = Duration::from_secs(2);
/// Groups of which copies are under way at once.
const GROUPS_AT_ONCE: usize = 2;
/// How long a change of group 0 may take, ms.
const PROPOSE_MS: u64 = 5_000;
/// Leaderships move only when all nodes have answered for so long, ms.
const CALM_MS: u64 = 30_000;
/// Between two moves of leaderships, ms.
const LEAD_PAUSE_MS: u64 = 5_000;

/// Looks for as long as the node runs.
pub(crate) async fn run(running: Arc<Running>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // When the calm began, and when the next leadership may move: a new controller only waits anew.
    let mut calm: Option<u64> = None;
    let mut number = 0;
    let mut moves = crate::moves::Drivers::default();
    while !running.is_draining() {
        interval.tick().await;
        if running.local.leader(GroupId::CLUSTER) != Some(running.local.me) {
            calm = None;
            continue;
        }
        // What is decided here rests on all that group 0 has committed.
        if running.local.read_barrier(GroupId::CLUSTER).await.is_err() {
            continue;
        }
        number += 1;
        if let Err(why) = moves.look(&running) {
            tracing::warn!(why, "users do not move");
        }
        match look(&running, &mut calm, number).await {
            Ok(()) => {}
            Err(why) => tracing::warn!(why, "the placement of groups is not looked after"),
        }
    }
}

fn row_of(copies: &Copies) -> Row {
    Row { group: copies.group, voters: copies.voters.clone(), learners: copies.learners.clone(), leaving: copies.leaving.clone() }
}

/// All that a look rests on.
struct Sight {
    document: Document,
    /// Of groups of users.
    copies: Vec<Copies>,
    group_0: Copies,
    seats: Vec<Seat>,
    lost: BTreeSet<NodeId>,
}

fn sight(running: &Running) -> Result<Option<Sight>, String> {
    let tables = running.local.cluster_tables();
    let fault = |fault: parliament_mailbox_state::TableFault| fault.to_string();
    let Some(document) = Document::of(tables, &running.document()).map_err(fault)? else { return Ok(None) };
    let (group_0, copies): (Vec<Copies>, Vec<Copies>) =
        state::copies(tables).map_err(fault)?.into_iter().partition(|row| row.group == GroupId::CLUSTER);
    let Some(group_0) = group_0.into_iter().next() else { return Ok(None) };
    let up = |id: NodeId| id == running.local.me || running.local.pool.get(id).is_some_and(|peer| peer.is_connected());
    let seat = |member: &crate::identity::Member| Seat {
        id: NodeId(member.id),
        zone: member.zone.clone(),
        role: member.role,
        takes: member.state == NodeState::Active,
        up: up(NodeId(member.id)),
    };
    let lost = document.members.iter().filter(|member| member.state == NodeState::Lost).map(|member| NodeId(member.id)).collect();
    let seats = document.members.iter().map(seat).collect();
    Ok(Some(Sight { document, copies, group_0, seats, lost }))
}

/// Voters that are set aside on their own nodes leave their groups, and come back as copies that are made anew.
async fn let_unfit_leave(running: &Arc<Running>, sight: &Sight, facts: &BTreeMap<NodeId, Facts>) {
    // Without a majority of the others nothing could be changed, and there would be nobody to learn from.
    let able = |row: &&Copies| row.learners.is_empty() && row.leaving.is_empty() && row.voters.len() >= 3;
    for copies in sight.copies.iter().filter(able) {
        let unfit = |node: &NodeId| facts.get(node).is_some_and(|facts| facts.unfit.contains(&copies.group.0));
        // One after the other: each is a change of the quorum.
        if let Some(node) = copies.voters.iter().copied().find(unfit) {
            tracing::error!(group = %copies.group, %node, "a copy is unfit to vote and leaves");
            record(running, copies, Row { leaving: vec![node], ..row_of(copies) }).await;
        }
    }
}

async fn look(running: &Arc<Running>, calm: &mut Option<u64>, number: u64) -> Result<(), String> {
    let Some(sight) = sight(running)? else { return Ok(()) };
    members_of_group_0(running, &sight.document).await;
    voters_of_group_0(running, &sight).await;
    if number.is_multiple_of(UNFIT_EVERY) {
        let facts = ask_everybody(running, &sight).await;
        let_unfit_leave(running, &sight, &facts).await;
    }
    let moving: Vec<&Copies> = sight.copies.iter().filter(|row| !row.learners.is_empty() || !row.leaving.is_empty()).collect();
    if !moving.is_empty() {
        let facts = ask_everybody(running, &sight).await;
        for copies in moving {
            go_on(running, &sight, copies, &facts).await;
        }
    }
    let rows: Vec<Row> = sight.copies.iter().map(row_of).collect();
    let changes = plan(&sight.seats, &rows, usize::from(sight.document.replication), GROUPS_AT_ONCE);
    if !changes.is_empty() {
        let facts = ask_everybody(running, &sight).await;
        for change in changes.into_iter().filter_map(|change| without_unfit(change, &facts)) {
            begin(running, &sight, change).await;
        }
    }
    let every = if sight.document.members.iter().any(|member| member.role == NodeRole::Copy) { COPIES_EVERY } else { LEFT_OVER_EVERY };
    if number.is_multiple_of(every) {
        members_without_a_vote(running, &sight).await;
    }
    bury(running, &sight).await;
    spread_leaders(running, &sight, calm).await;
    Ok(())
}

/// Every node has a copy of group 0, for its logins and its directory; a removed one has none.
async fn members_of_group_0(running: &Running, document: &Document) {
    let known = running.local.cluster.metrics().members;
    for (node, info) in document.infos().into_iter().filter(|(node, _)| !known.contains_key(node)) {
        match running.local.cluster.add_learner(node, info).await {
            Ok(()) => tracing::info!(%node, "gets a copy of group 0"),
            Err(error) => tracing::debug!(%node, %error, "gets no copy of group 0 yet"),
        }
    }
    let removed: BTreeSet<NodeId> = known.into_keys().filter(|node| document.is_removed(*node)).collect();
    if removed.is_empty() {
        return;
    }
    // It may hear of its removal first; one that does not answer will learn it when it is refused.
    tokio::time::sleep(FAREWELL).await;
    if let Err(error) = running.local.cluster.remove_learners(removed).await {
        tracing::debug!(%error, "group 0 still has a node that was removed");
    }
}

/// Its voters follow the nodes as copies of other groups do, one voter at a time.
async fn voters_of_group_0(running: &Arc<Running>, sight: &Sight) {
    let row = row_of(&sight.group_0);
    if !row.learners.is_empty() || !row.leaving.is_empty() {
        let facts = ask_everybody(running, sight).await;
        go_on(running, sight, &sight.group_0, &facts).await;
        return;
    }
    // An order that came late may have changed the voters after the row was settled: this node leads, so it knows.
    let own = running.local.cluster.metrics();
    if own.changing_to.is_some() || own.voters != row.voters.iter().copied().collect() {
        let me = running.local.me;
        if let Ok(Reply::Facts(facts)) = ask(running, me, &Question::Groups).await {
            go_on(running, sight, &sight.group_0, &BTreeMap::from([(me, facts)])).await;
        }
        return;
    }
    let seats = voters::seats(&sight.seats);
    let taking = seats.iter().filter(|seat| seat.takes).count();
    for mut change in plan(&seats, &[row], voters::wanted(taking), 1) {
        let (Change::Add(_, nodes) | Change::Drop(_, nodes)) = &mut change;
        nodes.truncate(1);
        begin(running, sight, change).await;
    }
}

async fn ask_everybody(running: &Arc<Running>, sight: &Sight) -> BTreeMap<NodeId, Facts> {
    let up: Vec<NodeId> = sight.seats.iter().filter(|seat| seat.up).map(|seat| seat.id).collect();
    let asking = up.into_iter().map(|node| async move {
        match ask(running, node, &Question::Groups).await {
            Ok(Reply::Facts(facts)) => Some((node, facts)),
            _ => None,
        }
    });
    futures::future::join_all(asking).await.into_iter().flatten().collect()
}

/// The group as the leader of the highest term has it.
fn led(group: GroupId, facts: &BTreeMap<NodeId, Facts>) -> Option<Led> {
    let rows = facts.iter().filter_map(|(node, facts)| facts.groups.get(&group.0).map(|row| (*node, row)));
    let (leader, row) = rows.filter(|(_, row)| row.leads).max_by_key(|(_, row)| row.term)?;
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    Some(Led {
        leader,
        voters: ids(&row.voters),
        changing_to: row.changing_to.as_deref().map(ids),
        members: ids(&row.members),
        since: row.members_since?,
    })
}

fn word(group: GroupId, facts: &Facts) -> Option<Word> {
    let row = facts.groups.get(&group.0)?;
    let open = row.stopped.is_none();
    if group == GroupId::CLUSTER {
        // It has no bodies and no leases.
        return Some(Word { open, complete: row.complete, missing: 0, holds: Some(0) });
    }
    Some(Word { open, complete: row.complete, missing: facts.missing_bodies, holds: row.holds })
}

async fn go_on(running: &Arc<Running>, sight: &Sight, copies: &Copies, facts: &BTreeMap<NodeId, Facts>) {
    let group = copies.group;
    let words = facts.iter().filter_map(|(node, facts)| Some((*node, word(group, facts)?))).collect();
    // A copy that is unfit to vote is as good as lost to this group; one that is being made goes, and is begun anew.
    let unfit: BTreeSet<NodeId> = facts.iter().filter(|(_, facts)| facts.unfit.contains(&group.0)).map(|(node, _)| *node).collect();
    let mut gives: BTreeSet<NodeId> = sight.seats.iter().filter(|seat| !seat.takes).map(|seat| seat.id).collect();
    gives.extend(&unfit);
    let led = led(group, facts);
    let mut lost = sight.lost.clone();
    lost.extend(&unfit);
    let next = step(&row_of(copies), led.as_ref(), &words, &gives, &lost);
    tracing::debug!(%group, ?next, "copies on their way");
    let (leader, since) = led.map_or((None, 0), |led| (Some(led.leader), led.since));
    let order = |change: Question| async move {
        let Some(leader) = leader else { return };
        match ask(running, leader, &change).await {
            Ok(Reply::Order(Ok(()))) => tracing::info!(%group, ?change, "carried out"),
            Ok(Reply::Order(Err(why))) | Err(why) => tracing::debug!(%group, ?change, why, "not carried out yet"),
            Ok(other) => tracing::debug!(%group, ?other, "an unexpected answer"),
        }
    };
    match next {
        CopyStep::Rest | CopyStep::Wait(_) => {}
        CopyStep::AddLearner(node) => {
            let Some(member) = sight.document.member(node) else { return };
            order(add_learner(group, member, since)).await;
        }
        // Every node keeps a copy of group 0; this one is only not to vote.
        CopyStep::RemoveLearner(node) if group == GroupId::CLUSTER => {
            let mut row = row_of(copies);
            row.learners.retain(|learner| *learner != node);
            record(running, copies, row).await;
        }
        CopyStep::RemoveLearner(node) => order(Question::RemoveLearner { group: group.0, node: node.0, since }).await,
        CopyStep::SetVoters(voters) => {
            let voters = voters.into_iter().map(|id| id.0).collect();
            order(Question::SetVoters { group: group.0, voters, since }).await;
        }
        CopyStep::Check(nodes) => {
            let asking = nodes.into_iter().map(|node| async move { ask(running, node, &Question::Check { group: group.0 }).await });
            futures::future::join_all(asking).await;
        }
        CopyStep::Record(row) => record(running, copies, row).await,
    }
}

fn add_learner(group: GroupId, member: &Member, since: u64) -> Question {
    let (address, zone, witness) = (member.address.clone(), member.zone.clone(), member.role == NodeRole::Witness);
    Question::AddLearner { group: group.0, node: member.id, address, zone, since, witness }
}

/// Nodes that follow every group without a vote are members of each while they are to be, and nobody else is who has no part in it.
async fn members_without_a_vote(running: &Arc<Running>, sight: &Sight) {
    let copiers: BTreeSet<NodeId> = sight.document.copiers().into_iter().collect();
    let facts = ask_everybody(running, sight).await;
    for row in sight.copies.iter().filter(|row| row.learners.is_empty() && row.leaving.is_empty()) {
        let group = row.group;
        let Some(led) = led(group, &facts).filter(|led| led.changing_to.is_none()) else { continue };
        let fit = |id: &NodeId| facts.get(id).is_none_or(|facts| !facts.unfit.contains(&group.0));
        let open = |id: &NodeId| facts.get(id).and_then(|facts| word(group, facts)).is_some_and(|word| word.open);
        let stays = |id: &NodeId| led.voters.contains(id) || (copiers.contains(id) && fit(id));
        let gone = led.members.iter().find(|id| !stays(id));
        let new = copiers.iter().filter(|id| !led.members.contains(id) && open(id)).find_map(|id| sight.document.member(*id));
        // One per look and group: each changes what the next rests on.
        let change = match (gone, new) {
            (Some(gone), _) => Question::RemoveLearner { group: group.0, node: gone.0, since: led.since },
            (None, Some(new)) => add_learner(group, new, led.since),
            (None, None) => continue,
        };
        match ask(running, led.leader, &change).await {
            Ok(Reply::Order(Ok(()))) => tracing::info!(%group, ?change, "carried out"),
            other => tracing::debug!(%group, ?change, ?other, "not carried out yet"),
        }
    }
}

async fn record(running: &Arc<Running>, copies: &Copies, row: Row) {
    if row.group == GroupId::CLUSTER
        && row.voters != copies.voters
        && let Err(why) = voters::settle(running, copies).await
    {
        tracing::warn!(why, "the voters of group 0 stay");
        return;
    }
    let Row { group, voters, learners, leaving } = row;
    let row = Copies { group, version: copies.version + 1, voters, learners, leaving };
    let told = running.local.propose_cluster(&Command::SetPlacement { row: row.clone() }, boot_ms() + PROPOSE_MS).await;
    match told {
        Ok(Ok(_)) => tracing::info!(%group, voters = ?row.voters, learners = ?row.learners, leaving = ?row.leaving, "placement"),
        other => tracing::debug!(%group, ?other, "the placement was not recorded"),
    }
}

/// A node that has still to forget a damaged log of a group gets no copy of it yet.
fn without_unfit(change: Change, facts: &BTreeMap<NodeId, Facts>) -> Option<Change> {
    let Change::Add(group, mut nodes) = change else { return Some(change) };
    nodes.retain(|node| !facts.get(node).is_some_and(|facts| facts.unfit.contains(&group.0)));
    (!nodes.is_empty()).then_some(Change::Add(group, nodes))
}

async fn begin(running: &Arc<Running>, sight: &Sight, change: Change) {
    let (Change::Add(group, _) | Change::Drop(group, _)) = &change;
    let Some(copies) = sight.copies.iter().chain([&sight.group_0]).find(|row| row.group == *group) else { return };
    let mut row = row_of(copies);
    match change {
        Change::Add(_, nodes) => row.learners = nodes,
        Change::Drop(_, nodes) => row.leaving = nodes,
    }
    record(running, copies, row).await;
}

/// A node that was given up for dead is removed once nothing is left of it.
async fn bury(running: &Running, sight: &Sight) {
    // While there is no other witness, the lost one reminds the planner that the data nodes are a pair.
    let lives = |seat: &Seat| seat.role == NodeRole::Witness && seat.takes;
    let last = |node: &NodeId| sight.document.role(*node) == NodeRole::Witness && !sight.seats.iter().any(lives);
    for node in sight.lost.iter().filter(|node| !last(node)) {
        if sight.copies.iter().chain([&sight.group_0]).all(|row| row.holders().all(|holder| holder != *node)) {
            let done = running.local.propose_cluster(&Command::RemoveNode { node: *node }, boot_ms() + PROPOSE_MS).await;
            tracing::info!(%node, ?done, "a lost node is removed");
        }
    }
}

async fn spread_leaders(running: &Arc<Running>, sight: &Sight, calm: &mut Option<u64>) {
    let now = boot_ms();
    let moving = sight.copies.iter().any(|row| !row.learners.is_empty() || !row.leaving.is_empty());
    if moving || sight.seats.iter().any(|seat| !seat.up) {
        *calm = None;
        return;
    }
    let since = *calm.get_or_insert(now);
    if now < since + CALM_MS {
        return;
    }
    *calm = Some((now + LEAD_PAUSE_MS).saturating_sub(CALM_MS));
    let facts = ask_everybody(running, sight).await;
    let leads = sight.copies.iter().filter_map(|row| led(row.group, &facts).map(|led| (row.group, led.leader, row.voters.clone())));
    let leads: Vec<_> = leads.collect();
    if let Some((group, to)) = lead(&sight.seats, &leads)
        && let Some((_, from, _)) = leads.iter().find(|(led, _, _)| *led == group)
    {
        let asked = ask(running, *from, &Question::Transfer { group: group.0, to: to.0 }).await;
        tracing::info!(%group, %from, %to, ?asked, "a leadership moves, to spread them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_damaged_log_to_forget_gets_no_copy_of_that_group() {
        let unfit = Facts { unfit: vec![3], ..Facts::default() };
        let facts = BTreeMap::from([(NodeId(1), unfit), (NodeId(2), Facts::default())]);
        let add = |group, nodes: &[u64]| Change::Add(GroupId(group), nodes.iter().copied().map(NodeId).collect());
        assert_eq!(without_unfit(add(3, &[1, 2]), &facts), Some(add(3, &[2])));
        assert_eq!(without_unfit(add(3, &[1]), &facts), None);
        assert_eq!(without_unfit(add(4, &[1]), &facts), Some(add(4, &[1])), "it is another group's log");
    }
}
