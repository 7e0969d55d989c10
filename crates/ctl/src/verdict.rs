//! What nodes and groups mean for the cluster's health: a pure reckoning, so that every client draws the same conclusion.

use crate::api::{Group, Node, NodeState, Status};
use crate::error::exit;
use parliament_ids::NodeRole;
use serde::Serialize;
use std::collections::BTreeMap;

/// The state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything is as it should be.
    Healthy,
    /// Everything is served, but something is missing.
    Degraded,
    /// Some users cannot be served.
    #[serde(rename = "no quorum")]
    NoQuorum,
}

/// What nodes and groups mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The state.
    pub health: Health,
    /// How many more nodes may be lost, whichever they are, before a group has no quorum.
    pub survives_nodes: usize,
    /// How many more zones may be lost.
    pub survives_zones: usize,
    /// How many zones there are.
    pub zones: usize,
    /// Why it is not healthy, one sentence each.
    pub reasons: Vec<String>,
}

impl Verdict {
    /// The exit code of `status`.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self.health {
            Health::Healthy => exit::OK,
            Health::Degraded => exit::DEGRADED,
            Health::NoQuorum => exit::UNAVAILABLE,
        }
    }
    /// The first line of `status`: `HEALTHY  survives the loss of 1 node or 1 zone`.
    #[must_use]
    pub fn line(&self) -> String {
        let word = match self.health {
            Health::Healthy => "HEALTHY",
            Health::Degraded => "DEGRADED",
            Health::NoQuorum => return format!("NO QUORUM  {}", self.reasons.first().map_or("", String::as_str)),
        };
        format!("{word}  {}", self.survives())
    }
    /// What may still be lost, in words.
    #[must_use]
    pub fn survives(&self) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        match (self.survives_nodes, self.survives_zones) {
            (0, 0) => "survives no further loss".to_owned(),
            (nodes, 0) => format!("survives the loss of {}, of no zone", count(nodes, "node")),
            (0, zones) => format!("survives the loss of {}", count(zones, "zone")),
            (nodes, zones) => format!("survives the loss of {} or {}", count(nodes, "node"), count(zones, "zone")),
        }
    }
}

const fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn counts(node: &Node) -> bool {
    !matches!(node.state, NodeState::Down | NodeState::Lost)
}

/// Voters of a group that answer, by zone.
fn live_by_zone<'a>(group: &Group, nodes: &BTreeMap<&str, &'a Node>) -> BTreeMap<&'a str, usize> {
    let mut zones = BTreeMap::new();
    let live = group.voters.iter().filter_map(|name| nodes.get(name.as_str())).filter(|node| counts(node));
    for node in live {
        *zones.entry(node.zone.as_str()).or_insert(0) += 1;
    }
    zones
}

fn has_witness(group: &Group, nodes: &BTreeMap<&str, &Node>) -> bool {
    group.id != 0 && group.voters.iter().any(|name| nodes.get(name.as_str()).is_some_and(|node| node.role == NodeRole::Witness))
}

/// Draws the conclusion. A group survives the loss of as many voters as it has live ones above its quorum, and of as many
/// zones as the fullest ones together leave a quorum; the cluster survives what its weakest group does.
#[must_use]
pub fn verdict(status: &Status) -> Verdict {
    let nodes: BTreeMap<&str, &Node> = status.nodes.iter().map(|n| (n.name.as_str(), n)).collect();
    let mut zone_names: Vec<_> = status.nodes.iter().map(|n| n.zone.as_str()).collect();
    zone_names.sort_unstable();
    zone_names.dedup();
    let (mut spare_nodes, mut spare_zones) = (usize::MAX, usize::MAX);
    let (mut without_quorum, mut without_leader, mut incomplete) = (0usize, 0usize, 0usize);
    for group in &status.groups {
        let zones = live_by_zone(group, &nodes);
        let live: usize = zones.values().sum();
        without_leader += usize::from(group.leader.is_none());
        incomplete += usize::from(!group.incomplete.is_empty());
        let needed = quorum(group.voters.len()) + usize::from(status.needs_both && has_witness(group, &nodes));
        let Some(spare) = live.checked_sub(needed) else {
            without_quorum += 1;
            (spare_nodes, spare_zones) = (0, 0);
            continue;
        };
        spare_nodes = spare_nodes.min(spare);
        spare_zones = spare_zones.min(zones_to_spare(zones.into_values().collect(), spare));
    }
    // What the one that serves alone has taken, nobody else has yet.
    if status.groups.is_empty() || status.alone.is_some() {
        (spare_nodes, spare_zones) = (0, 0);
    }
    let total = status.groups.len();
    let mut reasons = Vec::new();
    if !status.formed {
        reasons.push("the cluster is not formed yet: `parliament cluster init` forms it".to_owned());
    }
    if without_quorum > 0 {
        reasons.push(format!("{without_quorum} of {total} groups have no quorum"));
    }
    if without_leader > without_quorum {
        reasons.push(format!("{without_leader} of {total} groups have no leader at the moment"));
    }
    let health_lost = !status.formed || without_quorum > 0 || (total > 0 && without_leader == total);
    reasons.extend(status.nodes.iter().filter_map(trouble));
    if let Some(alone) = &status.alone {
        reasons.push(format!("{alone} serves alone: what it takes is on one disk until its partner is back and has everything"));
    }
    if incomplete > 0 {
        reasons.push(format!("{incomplete} of {total} groups have a copy that lacks bodies or is being rebuilt"));
    }
    if status.bodies_below_quorum > 0 {
        reasons.push(format!("{} bodies have fewer copies than a quorum", status.bodies_below_quorum));
    }
    if status.uid_regressions > 0 {
        reasons.push(format!("{} UIDs were given twice or out of order: please report this", status.uid_regressions));
    }
    reasons.extend(status.warnings.iter().cloned());
    let health = match (health_lost, reasons.is_empty()) {
        (true, _) => Health::NoQuorum,
        (false, true) => Health::Healthy,
        (false, false) => Health::Degraded,
    };
    Verdict { health, survives_nodes: spare_nodes, survives_zones: spare_zones, zones: zone_names.len(), reasons }
}

/// How many of the fullest zones may be lost with `spare` voters to lose.
fn zones_to_spare(mut zones: Vec<usize>, spare: usize) -> usize {
    zones.sort_unstable_by(|a, b| b.cmp(a));
    let mut lost = 0;
    zones
        .iter()
        .take_while(|voters| {
            lost += **voters;
            lost <= spare
        })
        .count()
}

fn trouble(node: &Node) -> Option<String> {
    match node.state {
        NodeState::Up => None,
        NodeState::Starting => Some(format!("{} is starting or catching up", node.name)),
        NodeState::Draining => Some(format!("{} is draining", node.name)),
        // It was taken out of service on purpose, and nothing rests on it any more.
        NodeState::Drained => None,
        NodeState::Lost => Some(format!("{} is given up for dead", node.name)),
        NodeState::Down => Some(format!("{} is down ({} s)", node.name, node.silent_s)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn node(name: &str, zone: &str, state: NodeState) -> Node {
        Node {
            name: name.into(),
            id: 1,
            zone: zone.into(),
            role: NodeRole::Data,
            address: "127.0.0.1:17400".into(),
            state,
            silent_s: if state == NodeState::Down { 7 } else { 0 },
            boot: 1,
            version: "0.1.0".into(),
            leads: 3,
            copies: 9,
            users_held: Some(4),
            sessions: Some(2),
            disk_free_bytes: Some(5 << 30),
        }
    }

    pub(crate) fn status(nodes: &[(&str, &str, NodeState)], groups: u32) -> Status {
        let voters: Vec<String> = nodes.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let leader = nodes.iter().find(|(_, _, s)| *s == NodeState::Up).map(|(n, ..)| (*n).to_owned());
        let group = |id| Group { id, leader: leader.clone(), voters: voters.clone(), ..Group::default() };
        Status {
            cluster: "demo".into(),
            formed: true,
            answered_by: "n1".into(),
            nodes: nodes.iter().map(|(n, z, s)| node(n, z, *s)).collect(),
            groups: (0..groups).map(group).collect(),
            ..Status::default()
        }
    }

    use NodeState::{Down, Up};

    #[test]
    fn three_nodes_in_three_zones_survive_one_of_either() {
        let verdict = verdict(&status(&[("n1", "a", Up), ("n2", "b", Up), ("n3", "c", Up)], 9));
        assert_eq!(verdict.line(), "HEALTHY  survives the loss of 1 node or 1 zone");
        assert_eq!(verdict.exit(), 0);
    }

    #[test]
    fn one_zone_is_no_redundancy() {
        let verdict = verdict(&status(&[("n1", "a", Up), ("n2", "a", Up), ("n3", "a", Up)], 9));
        assert_eq!(verdict.line(), "HEALTHY  survives the loss of 1 node, of no zone");
    }

    #[test]
    fn two_zones_of_five_lose_only_the_small_one() {
        let nodes = [("n1", "a", Up), ("n2", "a", Up), ("n3", "a", Up), ("n4", "b", Up), ("n5", "b", Up)];
        let verdict = verdict(&status(&nodes, 2));
        assert_eq!((verdict.survives_nodes, verdict.survives_zones), (2, 0));
    }

    #[test]
    fn a_node_down_is_degraded_and_two_are_no_quorum() {
        let one = verdict(&status(&[("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Up)], 9));
        assert_eq!((one.line().as_str(), one.exit()), ("DEGRADED  survives no further loss", exit::DEGRADED));
        assert_eq!(one.reasons, ["n2 is down (7 s)"]);
        let two = verdict(&status(&[("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Down)], 9));
        assert_eq!((two.line().as_str(), two.exit()), ("NO QUORUM  9 of 9 groups have no quorum", exit::UNAVAILABLE));
    }

    #[test]
    fn beside_a_witness_one_node_may_be_lost_unless_both_disks_are_wanted() {
        let mut three = status(&[("n1", "a", Up), ("n2", "b", Up), ("w", "c", Up)], 2);
        three.nodes[2].role = NodeRole::Witness;
        assert_eq!(verdict(&three).line(), "HEALTHY  survives the loss of 1 node or 1 zone");
        three.needs_both = true;
        assert_eq!(verdict(&three).line(), "HEALTHY  survives no further loss");
        three.needs_both = false;
        three.nodes[1].state = Down;
        three.alone = Some("n1".into());
        let alone = verdict(&three);
        assert_eq!(alone.line(), "DEGRADED  survives no further loss");
        assert!(alone.reasons[1].starts_with("n1 serves alone"), "{:?}", alone.reasons);
        three.nodes[1].state = Up;
        assert_eq!(verdict(&three).line(), "DEGRADED  survives no further loss", "it is back, and lacks something");
        three.nodes[1].state = Down;
        three.needs_both = true;
        assert_eq!(verdict(&three).health, Health::NoQuorum);
    }

    #[test]
    fn what_is_not_formed_serves_nobody() {
        let verdict = verdict(&Status::default());
        assert_eq!(verdict.health, Health::NoQuorum);
        assert!(verdict.line().contains("cluster init"));
    }

    #[test]
    fn bodies_and_warnings_degrade() {
        let mut status = status(&[("n1", "a", Up)], 1);
        assert_eq!(verdict(&status).line(), "HEALTHY  survives no further loss");
        status.bodies_below_quorum = 2;
        status.warnings.push("the clock of n1 runs fast".into());
        assert_eq!(verdict(&status).reasons, ["2 bodies have fewer copies than a quorum", "the clock of n1 runs fast"]);
    }
}
