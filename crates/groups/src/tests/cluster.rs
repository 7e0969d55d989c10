//! Three replicas in one process through restarts, cuts, lag and missing bodies.

use super::lab::{Lab, WAIT, count, image, set, until};
use crate::{Command, ProposeError, ReadError, Role, SnapshotPolicy, StartError};
use parliament_ids::{BodyHash, NodeId};
use std::time::{Duration, Instant};

fn other(leader: NodeId) -> NodeId {
    (1..=3).map(NodeId).find(|n| *n != leader).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_survive_the_restart_of_any_node_and_of_all() {
    let mut lab = Lab::three().await;
    let mut writes = 0;
    for victim in (1..=3).map(NodeId) {
        for n in 0..5 {
            (_, writes) = lab.write(&format!("{victim}-{n}"), "x").await;
        }
        lab.stop(victim).await;
        let (last, _) = lab.write("meanwhile", &victim.to_string()).await;
        lab.start(victim).await;
        lab.agree(last).await;
    }
    assert_eq!(writes, 17);
    let before = image(lab.group(NodeId(1)).tables());
    lab.stop_all().await;
    for node in (1..=3).map(NodeId) {
        lab.start(node).await;
    }
    let (last, total) = lab.write("after", "all").await;
    assert_eq!(total, 19, "each write counts once");
    lab.agree(last).await;
    assert_eq!(image(lab.group(NodeId(2)).tables()).len(), before.len() + 1);
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_is_replaced_and_confirms_nothing() {
    let mut lab = Lab::three().await;
    lab.write("a", "1").await;
    let old = lab.leader().await;
    lab.net.isolate(old, true);
    let cut = Instant::now();
    let lone = lab.group(old).clone();
    let proposal = tokio::spawn(async move { lone.propose(set("lost", "?")).await });
    let survivors: Vec<NodeId> = lab.nodes.keys().copied().filter(|n| *n != old).collect();
    until("a new leader", || survivors.iter().any(|n| lab.group(*n).is_leader())).await;
    assert!(cut.elapsed() < Duration::from_secs(2), "take-over took {:?}", cut.elapsed());
    assert!(matches!(lab.group(old).read_index().await, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })));
    assert!(matches!(lab.group(old).propose(set("lost", "2")).await, Err(ProposeError::NoQuorum | ProposeError::NotLeader { .. })));
    let new = survivors.iter().copied().find(|n| lab.group(*n).is_leader()).unwrap();
    let (index, _) = lab.group(new).propose(set("b", "2")).await.unwrap();
    // The old leader's uncommitted entry is truncated when it returns, and new proposals follow.
    assert!(matches!(proposal.await.unwrap(), Err(ProposeError::Unknown(_))));
    lab.net.isolate(old, false);
    lab.group(old).wait_applied(index, WAIT).await.unwrap();
    let (last, total) = lab.write("c", "3").await;
    lab.agree(last).await;
    assert_eq!(total, 3, "the lost write left no trace");
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_purged_log_gets_a_snapshot() {
    let policy = SnapshotPolicy { entries_min: 1_000_000, keep_entries: 0, ..SnapshotPolicy::default() };
    let mut lab = Lab::three_with(policy).await;
    lab.write("a", "1").await;
    let leader = lab.leader().await;
    let away = other(leader);
    lab.stop(away).await;
    let mut last = 0;
    for n in 0..20 {
        (last, _) = lab.write(&format!("k{n}"), "v").await;
    }
    for node in lab.nodes.keys().copied().collect::<Vec<_>>() {
        let group = lab.group(node);
        group.wait_applied(last, WAIT).await.unwrap();
        group.trigger_snapshot().await.unwrap();
        until("a snapshot", || group.metrics().snapshot >= Some(last)).await;
        assert_eq!(group.snapshot().unwrap().meta().last_log_id.map(|id| id.index()), group.metrics().snapshot);
        group.purge_log(last).await.unwrap();
        until("a purge", || group.metrics().purged == Some(last)).await;
    }
    lab.start(away).await;
    lab.group(away).wait_applied(last, WAIT).await.unwrap();
    assert!(lab.net.counted("snapshot") > 0);
    lab.agree(last).await;
    let (last, _) = lab.write("z", "1").await;
    lab.agree(last).await;
    // It kept the snapshot as its own and starts from it.
    assert!(lab.group(away).snapshot().is_some());
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_waits_at_the_gate_for_its_body() {
    let mut lab = Lab::three().await;
    lab.write("a", "1").await;
    let leader = lab.leader().await;
    let followers: Vec<NodeId> = lab.nodes.keys().copied().filter(|n| *n != leader).collect();
    let body = BodyHash([9; 32]);
    let command = Command::new(&[body], b"mail=1").unwrap();
    assert!(matches!(lab.group(leader).propose(command.clone()).await, Err(ProposeError::Body(_))), "the proposer needs it first");
    lab.shelves[&leader].put(body);
    let group = lab.group(leader).clone();
    let proposal = tokio::spawn(async move { group.propose(command).await });
    until("the gates are reached", || followers.iter().all(|n| !lab.shelves[n].seen.lock().unwrap().is_empty())).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!proposal.is_finished(), "no quorum has the body");
    assert!(lab.group(leader).is_leader(), "heartbeats pass the gate by");
    assert_eq!(lab.group(followers[0]).metrics().last_log.unwrap() + 1, lab.group(leader).metrics().last_log.unwrap());
    lab.shelves[&followers[0]].put(body);
    let (index, _) = tokio::time::timeout(WAIT, proposal).await.unwrap().unwrap().unwrap();
    // The other follower learns meanwhile that the entry is committed: it may take it without the body.
    lab.group(followers[1]).wait_applied(index, WAIT).await.unwrap();
    let seen = lab.shelves[&followers[1]].seen.lock().unwrap().clone();
    assert!(seen.iter().any(|request| request.strict == [(index, body)]));
    assert!(seen.iter().any(|request| request.lenient == [(index, body)] && request.source == leader));
    lab.agree(index).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_term_cancels_a_gate() {
    let mut lab = Lab::three().await;
    lab.write("a", "1").await;
    let leader = lab.leader().await;
    let body = BodyHash([8; 32]);
    lab.shelves[&leader].put(body);
    let group = lab.group(leader).clone();
    let proposal = tokio::spawn(async move { group.propose(Command::new(&[body], b"mail=1").unwrap()).await });
    let follower = other(leader);
    until("the gate is reached", || !lab.shelves[&follower].seen.lock().unwrap().is_empty()).await;
    lab.net.isolate(leader, true);
    until("the gate is cancelled", || *lab.shelves[&follower].dropped.lock().unwrap() > 0).await;
    lab.net.isolate(leader, false);
    assert!(matches!(proposal.await.unwrap(), Err(ProposeError::Unknown(_))));
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_when_asked() {
    let mut lab = Lab::three().await;
    lab.write("a", "1").await;
    let old = lab.leader().await;
    let to = other(old);
    let asked = Instant::now();
    lab.group(old).transfer_leader(to).await.unwrap();
    until("the transfer", || lab.group(to).is_leader()).await;
    assert!(asked.elapsed() < Duration::from_millis(500), "took {:?}", asked.elapsed());
    let error = lab.group(old).propose(set("b", "2")).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotLeader { .. }), "{error:?}");
    let (last, _) = lab.write("c", "3").await;
    lab.agree(last).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_entry_stops_its_group_loudly() {
    let mut lab = Lab::three().await;
    lab.write("a", "1").await;
    let leader = lab.leader().await;
    let error = lab.group(leader).propose(Command::new(&[], b"poison").unwrap()).await.unwrap_err();
    assert!(matches!(error, ProposeError::Stopped(_)), "{error:?}");
    for node in lab.nodes.keys() {
        until("the group stops everywhere", || lab.group(*node).metrics().stopped.is_some()).await;
        assert_eq!(count(lab.group(*node).tables()), 1, "nothing behind the poison is applied");
    }
    // Starting again meets it again.
    let node = NodeId(1);
    lab.stop(node).await;
    match lab.try_start(node, None).await {
        Err(StartError::Consensus(_)) => {}
        Ok(()) => until("it stops again", || lab.group(node).metrics().stopped.is_some()).await,
        Err(error) => panic!("{error}"),
    }
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_tables_are_rebuilt_from_the_own_snapshot_and_log() {
    let policy = SnapshotPolicy { keep_entries: 0, ..SnapshotPolicy::default() };
    let mut lab = Lab::three_with(policy).await;
    for n in 0..10 {
        lab.write(&format!("k{n}"), "v").await;
    }
    let mut last = 0;
    for node in (1..=3).map(NodeId) {
        let group = lab.group(node);
        group.trigger_snapshot().await.unwrap();
        until("a snapshot", || group.metrics().snapshot.is_some()).await;
        group.purge_log(group.metrics().snapshot.unwrap()).await.unwrap();
        until("a purge", || group.metrics().purged.is_some()).await;
    }
    for n in 10..20 {
        (last, _) = lab.write(&format!("k{n}"), "v").await;
    }
    lab.agree(last).await;
    let before = image(lab.group(NodeId(1)).tables());
    lab.stop_all().await;
    // Rule 8: the tables of all nodes at once.
    for node in (1..=3).map(NodeId) {
        std::fs::remove_dir_all(lab.folder(node).join("group-7/tables")).unwrap();
        lab.start(node).await;
    }
    let (last, total) = lab.write("more", "1").await;
    assert_eq!(total, 21);
    lab.agree(last).await;
    assert_eq!(image(lab.group(NodeId(1)).tables()).len(), before.len() + 1);
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_own_snapshot_a_peers_is_asked_for() {
    let mut lab = Lab::three_with(SnapshotPolicy { keep_entries: 0, ..SnapshotPolicy::default() }).await;
    let mut last = 0;
    for n in 0..10 {
        (last, _) = lab.write(&format!("k{n}"), "v").await;
    }
    lab.agree(last).await;
    for node in (1..=3).map(NodeId) {
        let group = lab.group(node);
        group.trigger_snapshot().await.unwrap();
        until("a snapshot", || group.metrics().snapshot == Some(last)).await;
        group.purge_log(last).await.unwrap();
        until("a purge", || group.metrics().purged == Some(last)).await;
    }
    let victim = other(lab.leader().await);
    lab.stop(victim).await;
    std::fs::remove_dir_all(lab.folder(victim).join("group-7")).unwrap();
    let refused = lab.try_start(victim, None).await;
    assert!(matches!(refused, Err(StartError::SnapshotNeeded { purged }) if purged == last), "{refused:?}");
    let rescue = lab.folder(victim).join("rescue");
    std::fs::copy(lab.group(lab.leader().await).snapshot().unwrap().path(), &rescue).unwrap();
    lab.try_start(victim, Some(rescue)).await.unwrap();
    let (last, total) = lab.write("more", "1").await;
    assert_eq!(total, 11);
    lab.agree(last).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_join_and_become_voters() {
    let mut lab = Lab::three().await;
    let (_, _) = lab.write("a", "1").await;
    lab.shelves.insert(NodeId(4), std::sync::Arc::default());
    lab.start(NodeId(4)).await;
    let leader = lab.leader().await;
    let group = lab.group(leader).clone();
    group.add_learner(NodeId(4), super::lab::info(NodeId(4))).await.unwrap();
    until("the learner learns", || {
        lab.group(NodeId(4)).metrics().role == Role::Learner && lab.group(NodeId(4)).metrics().applied.is_some()
    })
    .await;
    let gone = (1..=3).map(NodeId).find(|n| *n != leader).unwrap();
    let voters = (1..=4).map(NodeId).filter(|n| *n != gone).collect();
    group.set_voters(voters, false).await.unwrap();
    until("the voters change", || lab.group(NodeId(4)).metrics().voters.contains(&NodeId(4))).await;
    assert!(!group.metrics().members.contains_key(&gone));
    lab.stop(gone).await;
    let (last, _) = lab.write("b", "2").await;
    lab.agree(last).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_chunks_and_each_gets_its_own_reply() {
    let mut lab = Lab::three().await;
    lab.write("a", "1").await;
    let leader = lab.leader().await;
    let mut writers = Vec::new();
    for writer in 0..32 {
        let group = lab.group(leader).clone();
        writers.push(tokio::spawn(async move {
            let mut replies = Vec::new();
            for n in 0..20 {
                replies.push(group.propose(set(&format!("w{writer}"), &n.to_string())).await.unwrap());
            }
            replies
        }));
    }
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    all.sort_unstable();
    let replies: Vec<u64> = all.iter().map(|(_, reply)| *reply).collect();
    assert_eq!(replies, (2..642).collect::<Vec<u64>>(), "replies ascend with indexes, each once");
    let chunks = lab.nodes[&leader].toy.chunks.lock().unwrap().clone();
    assert!(chunks.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(chunks.iter().map(|(_, replies)| replies).sum::<usize>(), 641);
    assert!(chunks.len() < 641, "some chunks hold several commands");
    lab.agree(all.last().unwrap().0).await;
    lab.stop_all().await;
}
