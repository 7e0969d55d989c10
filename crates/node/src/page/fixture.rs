//! A small cluster for tests.

use super::view::{Held, View, Way, add_up};
use parliament_ctl::api::{Event, Group, Node, NodeState, Session, Status};
use std::collections::BTreeMap;

pub(crate) fn node(name: &str, zone: &str, state: NodeState) -> Node {
    let up = state != NodeState::Down;
    Node {
        name: name.into(),
        id: 1,
        zone: zone.into(),
        role: Default::default(),
        address: "127.0.0.1:17400".into(),
        state,
        silent_s: if up { 0 } else { 7 },
        boot: 2,
        version: if up { "0.1.0".into() } else { String::new() },
        leads: u32::from(up) * 3,
        copies: 9,
        users_held: up.then_some(4),
        sessions: up.then_some(2),
        disk_free_bytes: up.then_some(5 << 30),
    }
}

pub(crate) fn status(nodes: &[(&str, &str, NodeState)]) -> Status {
    let voters: Vec<String> = nodes.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let leader = nodes.iter().find(|(.., state)| *state == NodeState::Up).map(|(name, ..)| (*name).to_owned());
    let group = |id| Group { id, leader: leader.clone(), voters: voters.clone(), term: 3, committed: 70, users: 5, ..Group::default() };
    Status {
        cluster: "demo".into(),
        formed: true,
        answered_by: "n1".into(),
        nodes: nodes.iter().map(|(name, zone, state)| node(name, zone, *state)).collect(),
        groups: (0..3).map(group).collect(),
        events: vec![Event { age_ms: 2_300, tone: "bad".into(), text: "n2 stopped answering".into() }],
        ..Status::default()
    }
}

pub(crate) fn view(status: Status) -> View {
    let held = |holder: Option<&str>, live, users| Held { holder: holder.map(str::to_owned), live, users };
    let held = BTreeMap::from([
        (1, vec![held(Some("n1"), true, 3), held(Some("n2"), false, 2)]),
        (2, vec![held(Some("n1"), true, 1), held(None, false, 4)]),
    ]);
    let way = |name: &str, way| (name.to_owned(), way);
    View {
        verdict: parliament_ctl::verdict(&status),
        status,
        at: "15:04:05 UTC".into(),
        latency: BTreeMap::from([("n1".to_owned(), BTreeMap::from([way("n2", Way::Silent(2_000)), way("n3", Way::Open(Some(1_250)))]))]),
        leases: add_up(&held),
        held,
        sessions: vec![Session {
            user: "ann".into(),
            protocol: "imap".into(),
            node: "n1".into(),
            session: "1.2.3".into(),
            ..Session::default()
        }],
    }
}
