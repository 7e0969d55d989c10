//! A node whose clock runs twice as fast or half as fast, and one whose wall clock jumps.

use super::partitions::{begin, judge, with_cluster};
use parliament_cluster_tests::history::{Kind, Recorder, Where};
use parliament_cluster_tests::imap::Imap;
use parliament_cluster_tests::netns::faults::Fault;
use parliament_cluster_tests::netns::{Cluster, Options};
use parliament_cluster_tests::site::Site as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How long a clock is wrong.
const WRONG: Duration = Duration::from_secs(2);
/// After so long a clock that is right again is believed.
const BELIEVED_AFTER: Duration = Duration::from_secs(12);

async fn reads_local(cluster: &Cluster, node: usize) -> bool {
    cluster.metric(node, "parliament_reads_local ").await == Some(1.0)
}

async fn barriers(cluster: &Cluster, node: usize) -> f64 {
    cluster.metric(node, "parliament_reads_behind_barrier_total ").await.unwrap_or(0.0)
}

/// Waits until a node reads by itself, or does not.
async fn wait_reads(cluster: &Cluster, node: usize, local: bool, within: Duration) -> Duration {
    let began = Instant::now();
    while reads_local(cluster, node).await != local {
        assert!(began.elapsed() < within, "n{node}: local reads are not {local} within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

/// Makes a node the holder of all users.
async fn hold_everybody(cluster: &Cluster, node: &str) {
    for user in &cluster.users {
        let began = Instant::now();
        while cluster.holder(user).await.as_deref() != Some(node) {
            assert!(began.elapsed() < Duration::from_secs(10), "{user} is not held by {node}");
            // Refused while the node that holds it, or takes it, has not heard of all that went before.
            let _ = cluster.verb(&["lease", "move", user, "--to", node, "--yes"]).await;
        }
    }
}

/// Sessions that ask a node for the state of each user's INBOX without a pause, until they are aborted: an old answer shows here first.
fn ask_all_the_while(cluster: &Cluster, node: usize, recorder: &Arc<Recorder>) -> Vec<JoinHandle<()>> {
    let one = |user: &String| {
        let (recorder, user) = (recorder.clone(), user.clone());
        let (id, address) = (cluster.node(node).id.clone(), cluster.node(node).imap.clone());
        tokio::spawn(async move {
            let Ok(mut imap) = Imap::login(&address, &user, "pw").await else { return };
            let (key, session) = (format!("{user}/INBOX"), format!("asking-{user}"));
            let at = Where { key: &key, node: &id, session: &session };
            let process = recorder.new_process();
            loop {
                recorder.client(process, Kind::Invoke, "status", at, Value::Null);
                let Ok(m) = imap.status("INBOX").await else {
                    return recorder.client(process, Kind::Info, "status", at, Value::Null);
                };
                let told = json!({ "uidvalidity": m.uidvalidity, "uidnext": m.uidnext, "messages": m.exists });
                recorder.client(process, Kind::Ok, "status", at, told);
            }
        })
    };
    cluster.users.iter().map(one).collect()
}

/// Rule 17: nothing is read from old tables, since nothing is read from the own tables alone; the others go on reading by themselves.
#[test]
fn rates() {
    with_cluster("clocks::rates", Options { clocks: true, ..Options::default() }, async |cluster| {
        for node in 1..=3 {
            wait_reads(cluster, node, true, Duration::from_secs(20)).await;
        }
        let mut trial = begin(cluster).await;
        let holder = cluster.holder(&cluster.users[0]).await.expect("somebody holds a user who is written all the time");
        let node = cluster.number(&holder);
        for (percent, millionths) in [(200, 2_000_000), (50, 500_000)] {
            hold_everybody(cluster, &holder).await;
            let fault = Fault::Rate(node, millionths);
            fault.begin(cluster, &trial.recorder, "holder").unwrap();
            let off = wait_reads(cluster, node, false, Duration::from_secs(3)).await;
            let before = barriers(cluster, node).await;
            tokio::time::sleep(WRONG).await;
            for other in (1..=3).filter(|other| *other != node) {
                assert!(reads_local(cluster, other).await, "n{other} hears another with a clock like its own");
            }
            assert!(!reads_local(cluster, node).await);
            assert_eq!(cluster.metric(node, "parliament_clocks_wrong ").await, Some(2.0));
            let behind = barriers(cluster, node).await - before;
            // The worst moment: it is cut off, and would believe in promises for longer than they last.
            let asking = ask_all_the_while(cluster, node, &trial.recorder);
            trial.fault(Fault::Alone(node), "wrong clock", Duration::from_millis(2_500)).await.unwrap();
            asking.iter().for_each(JoinHandle::abort);
            let on = wait_reads(cluster, node, true, BELIEVED_AFTER).await;
            assert!(behind > 0.0, "n{node} holds all users, who read all the time");
            eprintln!(
                "n{node} at {percent} %: local reads off after {off:?}, {behind} reads behind a barrier, on again {on:?} after healing"
            );
        }
        let outcome = judge(trial).await;
        assert!(outcome.document["properties"]["fresh"]["checked"].as_u64() > Some(50), "{:#}", outcome.document);
    });
}

/// No decision rests on the wall clock.
#[test]
fn wall() {
    with_cluster("clocks::wall", Options { clocks: true, ..Options::default() }, async |cluster| {
        let mut trial = begin(cluster).await;
        for (node, ahead) in [(1, 3_600), (2, -3_600), (3, 3_600)] {
            trial.fault(Fault::Wall(node, ahead), "an hour", Duration::from_millis(2_500)).await.unwrap();
        }
        let outcome = judge(trial).await;
        // Nobody begins a new boot, nobody stops reading by himself; and a jump is no reason for a pause.
        for node in 1..=3 {
            assert_eq!(cluster.metric(node, "parliament_leases_taken_over_total ").await, Some(0.0), "n{node} took a lease over");
        }
        assert!(outcome.pauses.gaps.last() < Some(&2_000_000_000), "{:#}", outcome.document);
    });
}

/// `node.reads = "quorum"`: for hosts that are stopped together with their clocks.
#[test]
fn reads_by_quorum() {
    let settings = vec![("node.reads", "quorum")];
    with_cluster("clocks::reads_by_quorum", Options { settings, users: 1, ..Options::default() }, async |cluster| {
        let trial = begin(cluster).await;
        for node in 1..=3 {
            assert!(!reads_local(cluster, node).await);
        }
        let outcome = judge(trial).await;
        let mut behind = 0.0;
        for node in 1..=3 {
            behind += barriers(cluster, node).await;
        }
        assert!(behind > 0.0, "{:#}", outcome.document);
    });
}
