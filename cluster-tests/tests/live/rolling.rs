//! Each node in turn is stopped by SIGTERM and started again while clients work at the two others: no command there fails, nothing
//! that was acknowledged is lost, and afterwards leaderships are spread again by themselves, and leases when
//! that is asked for.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::Recorder;
use parliament_cluster_tests::load::Load;
use parliament_cluster_tests::{run, scan};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const USERS: usize = 12;

#[test]
fn rolling_restart() {
    super::with_demo(Options { users: USERS, ..Options::default() }, async |demo| {
        let accounts = demo.accounts();
        let recorder = Arc::new(Recorder::new(None).unwrap());
        let load = |round: usize, away: &str| Load {
            servers: run::servers(demo).into_iter().filter(|server| server.id != away).collect(),
            accounts: accounts.clone(),
            password: demo.password.clone(),
            clients: 12,
            sizes: vec![300, 4000, 20_000, 300_000],
            pause: Duration::from_millis(20),
            seed: 3 + round as u64,
            name: format!("r{round}"),
        };
        run::note_setup(&recorder, demo, &load(0, "").keys(), 3);
        for (round, node) in demo.nodes.iter().enumerate() {
            let running = load(round, &node.id).start(&recorder);
            tokio::time::sleep(Duration::from_secs(1)).await;
            recorder.nemesis("stop", &node.id, Value::Null);
            stop(demo, &node.id).await;
            demo.start_nodes(&[&node.id]).await.unwrap();
            demo.wait_ready(&node.id, Duration::from_secs(30)).await.unwrap();
            recorder.nemesis("start", &node.id, Value::Null);
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.stop().await;
        }
        super::shares::leaders_are_fair(demo, &["n1", "n2", "n3"]).await;
        demo.verb(&["lease", "rebalance", "--yes"]).await.unwrap();
        assert_spread(demo).await;
        scan::everything(demo, &accounts, &recorder).await.unwrap();
        super::assert_nothing_failed(demo, &recorder).await;
    });
}

/// Ends a node as a service manager does, and waits until its process is gone.
async fn stop(demo: &Demo, node: &str) {
    let pid = demo.pids().await.unwrap().into_iter().find(|(id, _)| id == node).unwrap().1;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let ls = demo.ls().await.unwrap();
        let down = |row: &Value| row["id"] == node && row["state"] == "down";
        if ls["nodes"].as_array().into_iter().flatten().any(down) {
            return;
        }
        assert!(Instant::now() < until, "{node} does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// No node holds more than half as much again as its share.
async fn assert_spread(demo: &Demo) {
    let leases = demo.verb(&["lease", "list"]).await.unwrap();
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    for holder in leases["leases"].as_array().into_iter().flatten().filter_map(|lease| lease["holder"].as_str()) {
        *held.entry(holder).or_default() += 1;
    }
    let all: usize = held.values().sum();
    eprintln!("users held {held:?}");
    assert!(all > 0 && held.values().all(|n| 2 * n * demo.nodes.len() <= 3 * all), "{held:?}");
}
