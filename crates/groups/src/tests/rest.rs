//! Groups that nobody uses rest, and wake for every reason they should.

use super::lab::{Lab, WAIT, set, until};
use crate::rest::Wish;
use crate::types::{Vote, log_id};
use crate::{CallKind, LogId, ProposeError, SnapshotPolicy, wire};
use parliament_ids::NodeId;
use std::time::{Duration, Instant};

const REST_AFTER: u64 = 300;

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn all_rest(lab: &Lab) {
    until("the group rests", || lab.nodes.values().all(|node| node.group.is_resting())).await;
}

/// Three nodes whose group has one entry and rests; its leader.
async fn at_rest() -> (Lab, NodeId) {
    let lab = Lab::three_that_rest(SnapshotPolicy::default(), REST_AFTER).await;
    let (last, _) = lab.write("a", "1").await;
    lab.agree(last).await;
    all_rest(&lab).await;
    let leader = *lab.nodes.iter().find(|(_, node)| node.group.is_leader()).unwrap().0;
    (lab, leader)
}

fn others(leader: NodeId) -> [NodeId; 2] {
    let mut others = (1..=3).map(NodeId).filter(|node| *node != leader);
    [others.next().unwrap(), others.next().unwrap()]
}

fn term(lab: &Lab, node: NodeId) -> u64 {
    lab.group(node).metrics().term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_group_rests_everywhere_and_a_write_wakes_it_at_once() {
    let (mut lab, leader) = at_rest().await;
    let (before, sent) = (term(&lab, leader), lab.net.counted("append"));
    pass(2_000).await;
    assert_eq!(lab.net.counted("append"), sent, "nobody says a word");
    for node in (1..=3).map(NodeId) {
        assert!(lab.group(node).is_resting());
        assert_eq!(lab.group(node).leader(), Some(leader), "a resting group has its leader");
    }
    let asked = Instant::now();
    let (index, count) = lab.group(leader).propose(set("b", "2")).await.unwrap();
    println!("the first write after a rest took {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_millis(200), "took {:?}", asked.elapsed());
    assert_eq!(count, 2);
    lab.agree(index).await;
    // One that is used stays awake, longer than a group must be unused to rest, and past all election time-outs.
    for n in 0..15 {
        pass(REST_AFTER / 3).await;
        lab.group(leader).propose(set("c", &n.to_string())).await.unwrap();
        assert!(!lab.group(leader).is_resting());
    }
    assert_eq!(term(&lab, leader), before, "no election happened");
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_wakes_the_leader_and_the_group_rests_again() {
    let (mut lab, leader) = at_rest().await;
    let before = term(&lab, leader);
    for _ in 0..3 {
        pass(700).await;
        let asked = Instant::now();
        lab.group(leader).read_index().await.unwrap();
        assert!(asked.elapsed() < Duration::from_millis(200), "took {:?}", asked.elapsed());
        assert!(!lab.group(leader).is_resting());
        all_rest(&lab).await;
    }
    let [follower, _] = others(leader);
    assert!(lab.group(follower).read_index().await.is_err());
    assert!(lab.group(follower).propose(set("b", "2")).await.is_err());
    assert!(lab.group(follower).is_resting(), "a follower does not wake by use");
    assert_eq!(term(&lab, leader), before);
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_resting_leader_dies_its_followers_elect_another_once_they_are_told() {
    let (mut lab, old) = at_rest().await;
    let before = term(&lab, old);
    lab.stop(old).await;
    pass(1_500).await;
    let left = others(old);
    assert!(left.iter().all(|node| lab.group(*node).is_resting()), "they hear nothing");
    let behind = lab.nodes[&left[0]].set.behind();
    assert_eq!((behind.len(), behind[0].leader, behind[0].term), (1, old, before));
    let told = Instant::now();
    left.iter().for_each(|node| lab.nodes[node].set.leader_lost(super::lab::GROUP));
    until("a new leader", || left.iter().any(|node| lab.group(*node).is_leader())).await;
    assert!(told.elapsed() < Duration::from_millis(300), "took {:?}", told.elapsed());
    let (last, count) = lab.write("b", "2").await;
    assert_eq!(count, 2);
    lab.agree(last).await;
    assert_eq!(term(&lab, left[0]), before + 1, "one election was enough");
    // The dead one is waited for by nobody, and gets what it lacks when it is back.
    all_rest(&lab).await;
    lab.start(old).await;
    for node in left {
        lab.nodes[&node].set.peer_up(old).await;
    }
    lab.agree(last).await;
    all_rest(&lab).await;
    assert_eq!(term(&lab, left[0]), before + 1, "it disturbed nobody");
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_follower_alone_believes_of_its_leaders_end_changes_nothing() {
    let (mut lab, leader) = at_rest().await;
    let before = term(&lab, leader);
    lab.nodes[&others(leader)[0]].set.leader_lost(super::lab::GROUP);
    until("it asks", || lab.net.counted("pre-vote") > 0).await;
    pass(1_500).await;
    assert!(lab.group(leader).is_leader());
    assert_eq!(term(&lab, leader), before);
    all_rest(&lab).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_restarts_in_a_rest_finds_its_leader() {
    let (mut lab, leader) = at_rest().await;
    let before = term(&lab, leader);
    let [follower, other] = others(leader);
    lab.stop(follower).await;
    lab.start(follower).await;
    // Nobody tells the leader: the follower's own question wakes it.
    until("it asks", || lab.net.counted("pre-vote") > 0).await;
    until("the leader wakes", || !lab.group(leader).is_resting()).await;
    all_rest(&lab).await;
    assert_eq!(term(&lab, leader), before, "a restart is no reason for an election");
    // It cannot reach its leader, which the third node can: that one asks before it gives its vote away.
    lab.stop(follower).await;
    lab.net.cut(follower, leader, true);
    lab.net.cut(leader, follower, true);
    lab.start(follower).await;
    until("the other looks for the leader", || lab.net.counted("rouse") > 0).await;
    pass(1_500).await;
    assert!(lab.group(leader).is_leader() && lab.group(other).leader() == Some(leader));
    assert_eq!(term(&lab, leader), before);
    lab.net.cut(follower, leader, false);
    lab.net.cut(leader, follower, false);
    until("it follows again", || lab.group(follower).leader() == Some(leader)).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_rests_without_a_dead_member_and_feeds_it_when_it_is_back() {
    let (mut lab, leader) = at_rest().await;
    let [away, _] = others(leader);
    lab.stop(away).await;
    let (last, _) = lab.write("b", "2").await;
    lab.agree(last).await;
    all_rest(&lab).await;
    lab.start(away).await;
    lab.nodes[&leader].set.peer_up(away).await;
    lab.group(away).wait_applied(last, WAIT).await.unwrap();
    all_rest(&lab).await;
    assert!(lab.group(leader).is_leader());
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_rests_with_its_group_and_asks_for_no_votes_when_the_leader_is_gone() {
    let (mut lab, _) = Lab::two_and_witness_that_rest(REST_AFTER).await;
    let (last, _) = lab.write("a", "1").await;
    lab.agree(last).await;
    all_rest(&lab).await;
    let (witness, leader) = (NodeId(3), *lab.nodes.iter().find(|(_, node)| node.group.is_leader()).unwrap().0);
    let before = term(&lab, leader);
    lab.stop(leader).await;
    lab.nodes[&witness].set.leader_lost(super::lab::GROUP);
    pass(1_000).await;
    // Awake it would hear of nobody, and give its vote to whoever asks first.
    assert!(lab.group(witness).is_resting() && !lab.group(witness).is_leader());
    let heir = *lab.nodes.keys().find(|node| **node != witness).unwrap();
    lab.nodes[&heir].set.leader_lost(super::lab::GROUP);
    until("an heir", || lab.group(heir).is_leader()).await;
    assert_eq!(term(&lab, heir), before + 1);
    until("the witness has woken", || !lab.group(witness).is_resting()).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_deposed_in_its_rest_takes_no_write() {
    let (mut lab, old) = at_rest().await;
    let left = others(old);
    lab.net.isolate(old, true);
    left.iter().for_each(|node| lab.nodes[node].set.leader_lost(super::lab::GROUP));
    until("a new leader", || left.iter().any(|node| lab.group(*node).is_leader())).await;
    let new = *left.iter().find(|node| lab.group(**node).is_leader()).unwrap();
    lab.group(new).read_index().await.unwrap();
    let (index, count) = lab.group(new).propose(set("b", "2")).await.unwrap();
    assert_eq!(count, 2);
    assert!(lab.group(old).is_resting() && lab.group(old).is_leader(), "it knows nothing of this");
    let refused = lab.group(old).propose(set("lost", "1")).await;
    assert!(matches!(refused, Err(ProposeError::NoQuorum | ProposeError::NotLeader { .. })), "{refused:?}");
    assert!(lab.group(old).read_index().await.is_err());
    assert_eq!(lab.group(old).metrics().last_log, Some(index - 2), "nothing was appended");
    lab.net.isolate(old, false);
    let (last, count) = lab.write("c", "3").await;
    assert_eq!(count, 3, "the refused write left no trace");
    lab.agree(last).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resting_leader_hands_over() {
    let (mut lab, old) = at_rest().await;
    let [to, _] = others(old);
    let asked = Instant::now();
    lab.group(old).transfer_leader(to).await.unwrap();
    until("the transfer", || lab.group(to).is_leader()).await;
    assert!(asked.elapsed() < Duration::from_millis(500), "took {:?}", asked.elapsed());
    lab.write("b", "2").await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_rests_only_with_all_that_its_leader_has() {
    let mut lab = Lab::three_that_rest(SnapshotPolicy::default(), 60_000).await;
    let (last, _) = lab.write("a", "1").await;
    lab.agree(last).await;
    let leader = lab.leader().await;
    let [follower, other] = others(leader);
    let term = term(&lab, leader);
    let vote = |term, node: NodeId, committed| if committed { Vote::new_committed(term, node.0) } else { Vote::new(term, node.0) };
    let at = |index| -> LogId { log_id(term, index) };
    let cases = [
        ("it lags", leader, vote(term, leader, true), at(last + 1)),
        ("it has more", leader, vote(term, leader, true), at(last - 1)),
        ("another entry", leader, vote(term, leader, true), log_id(term + 1, last)),
        ("another term", leader, vote(term + 1, leader, true), at(last)),
        ("no leader", leader, vote(term, leader, false), at(last)),
        ("not asked by its leader", other, vote(term, leader, true), at(last)),
        ("its leader", leader, vote(term, leader, true), at(last)),
    ];
    for (name, peer, vote, last) in cases {
        let wish = wire::encode_wish(&Wish { vote, last });
        let answer = lab.nodes[&follower].set.inbound().handle_call(peer, super::lab::GROUP, CallKind::Rest, wish).await.unwrap();
        assert_eq!(wire::decode_yes(answer), Ok(name == "its leader"), "{name}");
    }
    // Its leader does not rest, and so the next heartbeat wakes it.
    until("it wakes", || !lab.group(follower).is_resting()).await;
    pass(1_500).await;
    assert_eq!(lab.group(leader).metrics().term, term);
    lab.stop_all().await;
}

/// What `quorum_loss_probe_interval` of openraft is for, which would take a rest for a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_heard_and_hears_nobody_is_replaced() {
    let (mut lab, old) = at_rest().await;
    for rested in [true, false] {
        let old = if rested { old } else { lab.leader().await };
        let left = others(old);
        left.iter().for_each(|node| lab.net.cut(*node, old, true));
        // It wakes for this, so that its heartbeats are heard.
        let refused = lab.group(old).propose(set("lost", "1")).await;
        assert!(refused.is_err(), "{refused:?}");
        until("a new leader", || left.iter().any(|node| lab.group(*node).is_leader())).await;
        left.iter().for_each(|node| lab.net.cut(*node, old, false));
        let (last, _) = lab.write("b", "2").await;
        lab.agree(last).await;
    }
    lab.stop_all().await;
}
