use super::*;

fn node(presence: Presence, boot: u64) -> NodeSight {
    NodeSight { presence, boot, ..NodeSight::default() }
}

fn sight(nodes: &[(u64, NodeSight)], leaders: &[(u32, u64)]) -> Sight {
    let (nodes, leaders) = (nodes.iter().cloned().collect(), leaders.iter().copied().collect());
    Sight { at_ms: 10_000, nodes, leaders, quorumless: BTreeSet::new(), alone: None }
}

fn words(before: &Sight, after: &Sight) -> Vec<String> {
    derive(before, after).iter().map(|event| event.what.words(&|node| format!("n{node}"))).collect()
}

#[test]
fn what_becomes_of_a_node_is_told_in_words() {
    use Presence::{Draining, Ready, Silent, Starting};
    for (was, now, told) in [
        (node(Ready, 1), node(Ready, 1), None),
        (node(Ready, 1), node(Silent, 1), Some("n2 stopped answering")),
        (node(Starting, 1), node(Silent, 1), Some("n2 stopped answering")),
        (node(Silent, 1), node(Silent, 1), None),
        (NodeSight { silent_ms: 4_200, ..node(Silent, 1) }, node(Ready, 1), Some("n2 answers again after 4.2 s")),
        (node(Silent, 1), node(Starting, 1), Some("n2 is back, catching up")),
        (node(Silent, 1), node(Starting, 2), Some("n2 is back (start 2), catching up")),
        (node(Silent, 1), node(Ready, 2), Some("n2 is back (start 2), ready")),
        (node(Ready, 1), node(Ready, 2), Some("n2 is back (start 2), ready")),
        (node(Starting, 2), node(Ready, 2), Some("n2 is ready")),
        (node(Ready, 2), node(Draining, 2), Some("n2 is stopping: it hands its groups and users over")),
        (node(Ready, 2), node(Starting, 2), Some("n2 is catching up")),
        (node(Ready, 1), NodeSight { disk_full: true, ..node(Ready, 1) }, Some("the disk of n2 is nearly full: it takes no messages")),
        (NodeSight { disk_full: true, ..node(Ready, 1) }, node(Ready, 1), Some("n2 takes messages again: its disk has room")),
        (node(Ready, 1), NodeSight { stopped: [4].into(), ..node(Ready, 1) }, Some("group 4 has stopped on n2")),
    ] {
        let (before, after) = (sight(&[(2, was)], &[]), sight(&[(2, now)], &[]));
        assert_eq!(words(&before, &after), told.into_iter().collect::<Vec<_>>(), "{before:?} {after:?}");
    }
}

#[test]
fn silence_began_when_the_node_was_last_heard() {
    let before = sight(&[(2, node(Presence::Ready, 1))], &[]);
    let after = sight(&[(2, NodeSight { silent_ms: 700, ..node(Presence::Silent, 1) })], &[]);
    assert_eq!(derive(&before, &after), [Event { at_ms: 9_300, what: What::Silent { node: 2 } }]);
}

#[test]
fn a_kill_reads_as_a_story() {
    let ready = || node(Presence::Ready, 1);
    let before = sight(&[(1, ready()), (2, ready()), (3, ready())], &[(0, 1), (3, 2), (5, 2), (6, 3)]);
    let silent = NodeSight { silent_ms: 800, ..node(Presence::Silent, 1) };
    let after = sight(&[(1, ready()), (2, silent.clone()), (3, ready())], &[(0, 1), (6, 3)]).following(&before);
    assert_eq!(words(&before, &after), ["n2 stopped answering"], "a group without a leader has not got another one yet");
    let taken = NodeSight { taken: [(2, (4, 830))].into(), ..ready() };
    let later = sight(&[(1, ready()), (2, silent), (3, taken)], &[(0, 1), (3, 1), (5, 1), (6, 3)]).following(&after);
    assert_eq!(words(&after, &later), ["n1 leads groups 3, 5 instead of n2", "n3 took over 4 users of n2 in 0.8 s"]);
}

#[test]
fn a_lost_majority_is_told_once() {
    let before = sight(&[], &[]);
    let mut after = before.clone();
    after.quorumless = (0..=8).collect();
    assert_eq!(words(&before, &after), ["no majority answers for groups 0 to 8: their users have to wait"]);
    assert_eq!(words(&after, &after), [""; 0]);
    assert_eq!(words(&after, &before), ["a majority answers again for groups 0 to 8"]);
}

#[test]
fn counts_of_another_start_are_not_compared() {
    let taken = |boot, users| NodeSight { taken: [(2, (users, 100))].into(), ..node(Presence::Ready, boot) };
    let (before, after) = (sight(&[(1, taken(1, 5))], &[]), sight(&[(1, taken(2, 7))], &[]));
    assert_eq!(words(&before, &after), ["n1 is back (start 2), ready"]);
}

#[test]
fn parts_of_one_event_are_one_and_the_ring_is_bounded() {
    let mut ring = Ring::default();
    let leads = |group| What::Leads { node: 1, groups: [group].into(), before: Some(2) };
    let took = |users, took_ms| What::TookOver { node: 3, from: 2, users, took_ms };
    for (at_ms, what) in [(1_000, leads(3)), (1_200, took(1, 300)), (1_300, leads(5)), (4_000, took(3, 800)), (60_000, took(1, 100))] {
        ring.add(Event { at_ms, what });
    }
    let told: Vec<_> = ring.newest().map(|event| event.what.clone()).collect();
    assert_eq!(told, [took(1, 100), took(4, 800), What::Leads { node: 1, groups: [3, 5].into(), before: Some(2) }]);
    ring.add(Event { at_ms: 61_000, what: What::Silent { node: 2 } });
    ring.add(Event { at_ms: 61_500, what: took(1, 100) });
    assert_eq!(ring.newest().next().map(|e| &e.what), Some(&took(1, 100)), "after a death another one begins");
    for n in 0..1_000 {
        ring.add(Event { at_ms: 100_000 + n, what: What::Silent { node: n } });
    }
    assert_eq!((ring.newest().count(), ring.newest().next().map(|e| e.at_ms)), (EVENTS_MAX, Some(100_999)));
}

#[test]
fn times_and_groups_are_short() {
    assert_eq!([seconds(0), seconds(830), seconds(9_999), seconds(12_345)], ["0.0 s", "0.8 s", "9.9 s", "12 s"]);
    assert_eq!(listed(&[3].into()), "group 3");
    assert_eq!(listed(&[1, 2, 3, 4, 7, 9, 10].into()), "groups 1 to 4, 7, 9, 10");
}

#[test]
fn a_node_that_serves_alone_is_told_of_once() {
    let (both, alone) = (Sight::default(), Sight { alone: Some(1), ..Sight::default() });
    let words = |before: &Sight, after: &Sight| -> Vec<String> {
        derive(before, after).iter().map(|event| event.what.words(&|id| format!("n{id}"))).collect()
    };
    assert_eq!(words(&both, &alone), ["n1 serves alone: what it takes from now on is on its disk only"]);
    assert_eq!(words(&alone, &alone), [""; 0]);
    assert_eq!(words(&alone, &both), ["n1 serves alone no more: everything is on both disks"]);
}
