//! Nodes that come and go, by an operator's command: what would lose a quorum or a copy is refused here, in words, before group 0
//! is asked.

use super::{Asked, CHANGE_DEADLINE_MS, Outcome, bug, document, unserved};
use crate::ask::{Question, Reply, ask_all};
use crate::identity::Document;
use crate::join::Token;
use crate::voters;
use parliament_cluster_state::{Command, NodeState, Refused};
use parliament_ctl::{AdminError, api, exit};
use parliament_ids::{GroupId, NodeId, NodeRole};
use parliament_mail_service::{boot_ms, unix_seconds};
use parliament_routing::{Row, Seat, foresee};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Nodes that an invitation names at most.
const SEEDS_MAX: usize = 5;

/// What an operator's command about nodes rests on.
struct View {
    document: Arc<Document>,
    /// Nodes that answer.
    up: BTreeSet<NodeId>,
    /// The others, in words.
    down: String,
}

impl View {
    async fn of(asked: &Asked) -> Self {
        let document = asked.running.document();
        let answers = ask_all(&asked.running, &Question::Groups).await;
        let up = answers.into_iter().filter(|(_, answer)| matches!(answer, Ok(Reply::Facts(_)))).map(|(node, _)| node).collect();
        let mut view = Self { document, up, down: String::new() };
        let silent = |id: NodeId| format!("{} is down for {} s", view.document.name_of(id), asked.running.silent_ms(id) / 1000);
        let down: Vec<String> = view.nodes().filter(|id| !view.up.contains(id)).map(silent).collect();
        view.down = if down.is_empty() { "all nodes answer".into() } else { down.join(", ") };
        view
    }
    fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.document.members.iter().map(|member| NodeId(member.id))
    }
    fn named(&self, name: &str) -> Result<NodeId, AdminError> {
        self.document.named(name).ok_or_else(|| {
            AdminError::new("PC230", exit::USAGE, format!("there is no node {name}")).with_hint("`parliament node list` shows all")
        })
    }
    fn votes_in_group_0(&self, node: NodeId) -> bool {
        self.document.voters(GroupId::CLUSTER).contains(&node)
    }
    fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        (1..=self.document.groups).map(GroupId)
    }
    /// True when copies of groups, or a witness's vote, may be there.
    fn takes(&self, node: NodeId) -> bool {
        self.document.state(node) == NodeState::Active && self.document.role(node).votes_in_group_0()
    }

    /// How copies move once `without` gives its own away.
    fn moves(&self, without: NodeId) -> Vec<api::GroupMove> {
        let seat = |member: &crate::identity::Member| Seat {
            id: NodeId(member.id),
            zone: member.zone.clone(),
            role: member.role,
            takes: member.state == NodeState::Active && member.id != without.0,
            up: self.up.contains(&NodeId(member.id)),
        };
        let seats: Vec<Seat> = self.document.members.iter().map(seat).collect();
        let row = |group| Row {
            group,
            voters: self.document.voters(group),
            learners: self.document.learners(group),
            leaving: self.document.leaving(group),
        };
        let rows: Vec<Row> = self.groups().map(row).collect();
        let seats_0 = voters::seats(&seats);
        let taking = seats_0.iter().filter(|seat| seat.takes).count();
        let group_0 = [row(GroupId::CLUSTER)];
        let names = |nodes: &[NodeId]| {
            let sorted: BTreeSet<NodeId> = nodes.iter().copied().collect();
            sorted.into_iter().map(|node| self.document.name_of(node)).collect::<Vec<_>>()
        };
        let then = foresee(&seats, &rows, usize::from(self.document.replication));
        let then_0 = foresee(&seats_0, &group_0, voters::wanted(taking));
        let moves = group_0.iter().zip(&then_0).chain(rows.iter().zip(&then)).map(|(now, then)| api::GroupMove {
            group: now.group.0,
            from: names(&now.voters),
            to: names(&then.voters),
        });
        moves.filter(|row| row.from != row.to).collect()
    }

    /// Refuses when nobody could serve some users in the node's place.
    fn others_can_serve(&self, node: NodeId) -> Result<(), AdminError> {
        let serves = |id: NodeId| self.takes(id) && self.document.role(id) == NodeRole::Data;
        let able = |id: &NodeId| *id != node && self.up.contains(id) && serves(*id);
        let alone = self.groups().filter(|group| self.document.voters(*group).contains(&node));
        let alone = alone.filter(|group| !self.document.voters(*group).iter().any(able)).count();
        // A group of one copy moves to another node first, so that is no reason while there is one.
        if alone == 0 || self.nodes().any(|id| able(&id)) {
            return Ok(());
        }
        let (name, all) = (self.document.name_of(node), self.document.groups);
        let message = format!("draining {name} would leave {alone} of {all} groups without a node to serve them ({})", self.down);
        Err(AdminError::new("PC241", exit::TRY_AGAIN, message).with_hint("bring another node back, or add one first. Nothing was changed."))
    }

    /// Refuses when a group would have no quorum without the node, or its copies no room elsewhere.
    fn others_can_do_without(&self, node: NodeId) -> Result<(), AdminError> {
        let name = self.document.name_of(node);
        let quorumless = |group: &GroupId| {
            let voters = self.document.voters(*group);
            let left = voters.iter().filter(|id| **id != node && self.up.contains(id)).count();
            voters.contains(&node) && left * 2 <= voters.len()
        };
        let all = self.document.groups + 1;
        let lost = std::iter::once(GroupId::CLUSTER).chain(self.groups()).filter(quorumless).count();
        if lost > 0 {
            let message = format!("removing {name} would leave {lost} of {all} groups without a quorum ({})", self.down);
            return Err(AdminError::new("PC201", exit::TRY_AGAIN, message)
                .with_hint("bring a node back, or add another node first. Nothing was changed."));
        }
        let room = self.nodes().filter(|id| *id != node && self.up.contains(id) && self.takes(*id)).count();
        let holds = self.groups().any(|group| self.document.holds(group, node));
        let copies = self.groups().map(|group| self.document.voters(group).len()).max().unwrap_or(0);
        // A pair without its witness goes on as a pair.
        let is_witness = self.document.role(node) == NodeRole::Witness;
        if holds && !is_witness && room < copies.min(usize::from(self.document.replication)) {
            let message =
                format!("there is no room for the copies of {name}: {room} other nodes take copies, and {copies} are kept of each");
            return Err(AdminError::new("PC243", exit::TRY_AGAIN, message)
                .with_hint("add another node first with `parliament node invite`. Nothing was changed."));
        }
        Ok(())
    }
}

async fn change(asked: &Asked, command: &Command) -> Result<(), AdminError> {
    let done = asked.running.local.propose_cluster(command, boot_ms() + CHANGE_DEADLINE_MS).await.map_err(|e| unserved(&e))?;
    match done {
        Ok(_) => Ok(()),
        Err(Refused::HoldsCopies) => Err(AdminError::new("PC243", exit::TRY_AGAIN, "the node still holds copies")
            .with_hint("`parliament node list` tells how many; wait until none is left")),
        Err(Refused::NotDrained) => Err(not_drained("the node")),
        Err(Refused::ServesAlone) => Err(serves_alone("the node")),
        Err(refused) => Err(bug(format!("{refused:?}"))),
    }
}

fn not_drained(name: &str) -> AdminError {
    AdminError::new("PC242", exit::USAGE, format!("{name} is not drained"))
        .with_hint("drain it with `parliament node drain`, or when it is dead, remove it with --lost. Nothing was changed.")
}

fn serves_alone(name: &str) -> AdminError {
    let message = format!("{name} served alone before it died: what it took then is on its disk only");
    AdminError::new("PC245", exit::TRY_AGAIN, message)
        .with_hint("bring it back, at least until `parliament status` names nobody that serves alone. Nothing was changed.")
}

fn told(message: String, moves: Vec<api::GroupMove>, warnings: Vec<String>) -> Outcome {
    document(&api::NodeChanged { message, moves, warnings })
}

pub(super) async fn invite(asked: &Asked, request: &api::NodeInvite) -> Outcome {
    let view = View::of(asked).await;
    let members = view.document.members.iter().filter(|member| view.up.contains(&NodeId(member.id)));
    let seeds: Vec<String> = members.map(|member| member.address.clone()).take(SEEDS_MAX).collect();
    let token = Token::new(&view.document, seeds.clone()).map_err(bug)?;
    let time = unix_seconds();
    let valid = request.valid_s.clamp(1, api::INVITE_SECONDS_MAX);
    let expires = time.saturating_add(i64::try_from(valid).unwrap_or(i64::MAX));
    let opened = Command::Invite { hash: token.hash(), expires, time };
    match asked.running.local.propose_cluster(&opened, boot_ms() + CHANGE_DEADLINE_MS).await.map_err(|e| unserved(&e))? {
        Ok(_) => {}
        Err(Refused::Limit) => {
            return Err(AdminError::new("PC240", exit::TRY_AGAIN, "too many invitations are open").with_hint("wait until some have ended"));
        }
        Err(refused) => return Err(bug(format!("{refused:?}"))),
    }
    document(&api::Invitation { token: token.text().map_err(bug)?, expires, seeds })
}

pub(super) async fn drain(asked: &Asked, request: &api::NodeChange) -> Outcome {
    let view = View::of(asked).await;
    let node = view.named(&request.node)?;
    drain_of(asked, &view, node, request.dry_run).await
}

async fn drain_of(asked: &Asked, view: &View, node: NodeId, dry_run: bool) -> Outcome {
    view.others_can_serve(node)?;
    let (name, moves) = (view.document.name_of(node), view.moves(node));
    let mut warnings = Vec::new();
    let votes = view.groups().filter(|group| view.document.voters(*group).contains(&node)).count();
    let given = moves.iter().filter(|row| row.group != 0 && row.from.contains(&name) && !row.to.contains(&name)).count();
    let keeps = votes.saturating_sub(given);
    if keeps > 0 {
        warnings.push(format!("copies of {keeps} groups stay on {name}: no other node has room for them"));
    }
    if view.votes_in_group_0(node) && !moves.iter().any(|row| row.group == 0 && !row.to.contains(&name)) {
        warnings.push(format!("{name} keeps its vote in group 0: no other node can take it"));
    }
    if dry_run {
        return told(format!("drain {name}: its users, leaderships and copies go to others"), moves, warnings);
    }
    change(asked, &Command::SetNodeState { node, state: NodeState::Draining }).await?;
    told(format!("{name} is draining; `parliament node list` tells when it is drained"), moves, warnings)
}

pub(super) async fn undrain(asked: &Asked, request: &api::NodeChange) -> Outcome {
    let view = View::of(asked).await;
    let node = view.named(&request.node)?;
    if request.dry_run {
        return told(format!("let {} take part again", request.node), Vec::new(), Vec::new());
    }
    change(asked, &Command::SetNodeState { node, state: NodeState::Active }).await?;
    told(format!("{} takes part again", request.node), Vec::new(), Vec::new())
}

pub(super) async fn remove(asked: &Asked, request: &api::NodeChange) -> Outcome {
    let view = View::of(asked).await;
    let node = view.named(&request.node)?;
    if request.lost {
        give_up(asked, &view, node, request.dry_run).await
    } else {
        remove_drained(asked, &view, node, request.dry_run).await
    }
}

async fn remove_drained(asked: &Asked, view: &View, node: NodeId, dry_run: bool) -> Outcome {
    let name = view.document.name_of(node);
    if view.document.state(node) != NodeState::Draining {
        return Err(not_drained(&name));
    }
    let held = view.groups().filter(|group| view.document.holds(*group, node)).count();
    if held == 0 && view.votes_in_group_0(node) {
        let message = format!("{name} still votes in group 0");
        return Err(AdminError::new("PC244", exit::TRY_AGAIN, message)
            .with_hint("another node takes its vote within seconds; where none can, add one first with `parliament node invite`"));
    }
    if held > 0 {
        let message = format!("{name} still holds copies of {held} of {} groups", view.document.groups);
        return Err(AdminError::new("PC243", exit::TRY_AGAIN, message)
            .with_hint("wait until `parliament node list` says drained; where there is no room, add another node first"));
    }
    if dry_run {
        return told(format!("remove {name} for ever"), Vec::new(), Vec::new());
    }
    change(asked, &Command::RemoveNode { node }).await?;
    told(format!("{name} is removed"), Vec::new(), Vec::new())
}

async fn give_up(asked: &Asked, view: &View, node: NodeId, dry_run: bool) -> Outcome {
    let name = view.document.name_of(node);
    if view.up.contains(&node) {
        return Err(AdminError::new("PC242", exit::USAGE, format!("{name} answers")).with_hint("drain it instead. Nothing was changed."));
    }
    if crate::alone::known(&asked.running).node == Some(node) {
        return Err(serves_alone(&name));
    }
    view.others_can_do_without(node)?;
    let mut warnings = Vec::new();
    if view.document.role(node) == NodeRole::Witness {
        warnings.push("until another witness is invited, both data nodes are needed".to_owned());
    }
    let moves = view.moves(node);
    if view.votes_in_group_0(node) && !moves.iter().any(|row| row.group == 0 && !row.to.contains(&name)) {
        warnings.push(format!("no other node can take the vote of {name} in group 0 yet: until then group 0 survives one loss less"));
    }
    if dry_run {
        return told(format!("give {name} up for dead, and make its copies anew on other nodes"), moves, warnings);
    }
    change(asked, &Command::SetNodeState { node, state: NodeState::Lost }).await?;
    told(format!("{name} is given up; its copies are being made anew, then it is removed"), moves, warnings)
}

pub(super) async fn replace(asked: &Asked, request: &api::NodeChange) -> Outcome {
    let view = View::of(asked).await;
    let old = view.named(&request.node)?;
    let with = request.with.as_deref().unwrap_or_default();
    let new = view.named(with)?;
    if new == old || !view.takes(new) || !view.up.contains(&new) {
        let message = format!("{with} cannot take the place of {}: it must be another node that answers and is not draining", request.node);
        return Err(
            AdminError::new("PC242", exit::USAGE, message).with_hint("`parliament node list` shows the nodes. Nothing was changed.")
        );
    }
    if view.up.contains(&old) {
        drain_of(asked, &view, old, request.dry_run).await
    } else {
        give_up(asked, &view, old, request.dry_run).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Member;

    /// Nodes 1 to `n`, three copies of each of four groups, on the nodes `voters`.
    fn view(n: u64, voters: &[u64], up: &[u64]) -> View {
        let member = |id: u64| Member {
            role: NodeRole::Data,
            id,
            name: format!("n{id}"),
            zone: format!("z{id}"),
            address: String::new(),
            disk: crate::identity::hex(&[1; 16]),
            imap: String::new(),
            state: NodeState::Active,
        };
        let document = Document {
            cluster: crate::identity::hex(&[2; 16]),
            name: "c".into(),
            groups: 4,
            replication: 3,
            members: (1..=n).map(member).collect(),
            placement: vec![voters.to_vec(); 5],
            learners: Vec::new(),
            leaving: Vec::new(),
            removed: Vec::new(),
            voters_version: 0,
        };
        View { document: Arc::new(document), up: up.iter().copied().map(NodeId).collect(), down: "n2 is down for 7 s".into() }
    }

    fn code(outcome: Result<(), AdminError>) -> String {
        outcome.map_or_else(|error| format!("{}: {}", error.code, error.message), |()| "allowed".into())
    }

    #[test]
    fn what_would_lose_a_quorum_is_refused() {
        let three = view(3, &[1, 2, 3], &[1]);
        let told = code(three.others_can_do_without(NodeId(3)));
        assert_eq!(told, "PC201: removing n3 would leave 5 of 5 groups without a quorum (n2 is down for 7 s)");
        let told = code(view(3, &[1, 2, 3], &[1, 2]).others_can_do_without(NodeId(3)));
        assert!(told.starts_with("PC243: there is no room for the copies of n3: 2 other nodes"), "{told}");
        assert_eq!(code(view(4, &[1, 2, 3], &[1, 2, 4]).others_can_do_without(NodeId(3))), "allowed");
        assert_eq!(code(view(4, &[1, 2, 3], &[1, 2]).others_can_do_without(NodeId(4))), "allowed", "it holds nothing");
    }

    #[test]
    fn the_last_node_that_serves_is_not_drained() {
        assert_eq!(code(view(3, &[1, 2, 3], &[1, 2]).others_can_serve(NodeId(1))), "allowed");
        let told = code(view(3, &[1, 2, 3], &[1]).others_can_serve(NodeId(1)));
        assert_eq!(told, "PC241: draining n1 would leave 4 of 4 groups without a node to serve them (n2 is down for 7 s)");
    }

    #[test]
    fn a_dry_run_shows_where_copies_go() {
        let moves = view(4, &[1, 2, 3], &[1, 2, 3, 4]).moves(NodeId(1));
        assert_eq!(moves.len(), 5, "group 0 among them");
        assert!(moves.iter().all(|row| row.from == ["n1", "n2", "n3"] && row.to == ["n2", "n3", "n4"]), "{moves:?}");
        assert!(view(3, &[1, 2, 3], &[1, 2, 3]).moves(NodeId(1)).is_empty(), "no room");
    }
}
