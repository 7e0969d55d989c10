//! The controller of placement, on the leader of group 0: decides by [`parliament_routing::plan`] and [`parliament_routing::step`],
//! and has the groups' leaders carry it out. It keeps nothing in memory that another could not find out, so that a new leader of
//! group 0 goes on where the old one died.

use crate::ask::{Facts, Question, Reply, ask};
use crate::identity::{Document, Member};
use crate::pulse::Pulse;
use crate::running::Running;
use crate::voters;
use parliament_cluster_state::{self as state, Command, Copies, NodeState};
use parliament_ids::{GroupId, NodeId, NodeRole};
use parliament_mail_service::boot_ms;
use parliament_routing::{Change, CopyStep, Leadership, Led, Row, Seat, Word, lead, plan, step};
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
/// Leaderships move only when the same nodes have answered for so long, ms.
const CALM_MS: u64 = 5_000;
/// Between two moves of leaderships, ms: each lets the writers of a group wait for a moment.
const LEAD_PAUSE_MS: u64 = 2_000;
/// A leadership that was moved stays for so long, ms.
const LEAD_RESTS_MS: u64 = 30_000;
/// One that could not be moved is not tried again for so long, ms.
const LEAD_RETRY_MS: u64 = 5_000;

/// What the controller remembers of leaderships: a new one only waits anew.
#[derive(Default)]
struct Leaderships {
    /// The nodes that answer.
    up: BTreeSet<NodeId>,
    /// When the next leadership may move.
    next_ms: u64,
    /// Until when each rests that was moved.
    resting: BTreeMap<GroupId, u64>,
}

/// Looks for as long as the node runs.
pub(crate) async fn run(running: Arc<Running>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut leaderships = Leaderships::default();
    let mut number = 0;
    let mut moves = crate::moves::Drivers::default();
    while !running.is_draining() {
        interval.tick().await;
        if running.local.leader(GroupId::CLUSTER) != Some(running.local.me) {
            leaderships = Leaderships::default();
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
        match look(&running, &mut leaderships, number).await {
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

async fn look(running: &Arc<Running>, leaderships: &mut Leaderships, number: u64) -> Result<(), String> {
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
    move_leaders(running, &sight, leaderships).await;
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

/// Who leads what, from what nodes told of themselves within the last second.
fn leaderships(
    seats: &[Seat],
    copies: &[Copies],
    pulses: &BTreeMap<NodeId, Pulse>,
    is_resting: impl Fn(GroupId) -> bool,
) -> Vec<Leadership> {
    let takes = |node: &NodeId| seats.iter().any(|seat| seat.id == *node && seat.takes && seat.up && seat.role == NodeRole::Data);
    let able = |row: &Copies| {
        let fit =
            |node: &NodeId| pulses.get(node).is_some_and(|pulse| pulse.takes_under.is_some() && !pulse.stopped.contains(&row.group.0));
        row.voters.iter().copied().filter(|node| takes(node) && fit(node)).collect()
    };
    let led = |row: &Copies| {
        let claims = pulses.iter().filter_map(|(node, pulse)| Some((*pulse.leads.get(&row.group.0)?, *node)));
        let (_, leader) = claims.max()?;
        let proposed = pulses.iter().filter_map(|(node, pulse)| Some((*node, *pulse.proposed.get(&row.group.0)?))).collect();
        // A group whose copies are on their way counts, and keeps its leader.
        let rests = is_resting(row.group) || !row.learners.is_empty() || !row.leaving.is_empty();
        Some(Leadership { group: row.group, leader, able: able(row), proposed, rests })
    };
    copies.iter().filter_map(led).collect()
}

/// Spreads leaderships, and lets them follow the holders, by one rule ([`lead`]).
async fn move_leaders(running: &Arc<Running>, sight: &Sight, state: &mut Leaderships) {
    let now = boot_ms();
    let up: BTreeSet<NodeId> = sight.seats.iter().filter(|seat| seat.up).map(|seat| seat.id).collect();
    if up != state.up {
        (state.up, state.next_ms) = (up, now + CALM_MS);
    }
    if now < state.next_ms {
        return;
    }
    state.resting.retain(|_, until| now < *until);
    let led = leaderships(&sight.seats, &sight.copies, &running.pulses(), |group| state.resting.contains_key(&group));
    // While groups have no leader it would be wrong to say what is too much.
    if led.len() < sight.copies.len() {
        return;
    }
    state.next_ms = now + LEAD_PAUSE_MS;
    if let Some((group, to)) = lead(&led)
        && let Some(from) = led.iter().find(|row| row.group == group).map(|row| row.leader)
    {
        let asked = ask(running, from, &Question::Transfer { group: group.0, to: to.0 }).await;
        let moved = matches!(asked, Ok(Reply::Order(Ok(()))));
        state.resting.insert(group, now + if moved { LEAD_RESTS_MS } else { LEAD_RETRY_MS });
        tracing::info!(%group, %from, %to, ?asked, "a leadership moves, to spread them or to follow its users");
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

    #[test]
    fn who_could_lead_is_known_from_what_the_nodes_say() {
        let copies = |group, voters: &[u64]| Copies {
            group: GroupId(group),
            version: 0,
            voters: voters.iter().copied().map(NodeId).collect(),
            learners: Vec::new(),
            leaving: Vec::new(),
        };
        let seat = |id, takes, up| Seat { id: NodeId(id), zone: String::new(), role: NodeRole::Data, takes, up };
        let mut seats = vec![seat(1, true, true), seat(2, true, true), seat(3, true, true), seat(4, false, true), seat(5, true, false)];
        seats.push(Seat { role: NodeRole::Witness, ..seat(6, true, true) });
        let mut rows = vec![copies(1, &[1, 2, 3, 6]), copies(2, &[1, 4, 5]), copies(3, &[2, 3]), copies(4, &[1, 2])];
        rows[3].learners = vec![NodeId(3)];
        let pulse = |leads: &[(u32, u64)], proposed: &[(u32, u64)]| Pulse {
            takes_under: Some(9),
            leads: leads.iter().copied().collect(),
            proposed: proposed.iter().copied().collect(),
            ..Pulse::default()
        };
        let mut pulses = BTreeMap::from([
            // One that was cut off still says that it leads, of an earlier term.
            (NodeId(1), pulse(&[(1, 4), (2, 1), (4, 1)], &[])),
            (NodeId(2), pulse(&[(1, 5)], &[(1, 70)])),
            (NodeId(3), Pulse { takes_under: None, ..pulse(&[], &[(1, 5)]) }),
            (NodeId(4), pulse(&[], &[])),
            (NodeId(6), pulse(&[], &[])),
        ]);
        pulses.get_mut(&NodeId(1)).unwrap().stopped.insert(4);
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let led = leaderships(&seats, &rows, &pulses, |group| group == GroupId(2));
        let entries = BTreeMap::from([(NodeId(2), 70), (NodeId(3), 5)]);
        let expected = [
            Leadership { group: GroupId(1), leader: NodeId(2), able: ids(&[1, 2]), proposed: entries, rests: false },
            Leadership { group: GroupId(2), leader: NodeId(1), able: ids(&[1]), proposed: BTreeMap::new(), rests: true },
            Leadership { group: GroupId(4), leader: NodeId(1), able: ids(&[2]), proposed: BTreeMap::new(), rests: true },
        ];
        assert_eq!(led, expected, "and nothing is said of a group without a leader");
    }
}
