//! Nodes that are no data nodes: a copy for another site, which nobody waits for, and a frontend, which keeps nothing.

use super::members::{Extra, rows, wait_until};
use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::imap::Imap;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const GROUPS: usize = 3;
const WAIT: Duration = Duration::from_secs(60);

/// The copies of node 4, which lack nothing.
fn in_step(replication: &Value) -> usize {
    let level = |row: &&Value| row["node"] == "n4" && row["role"] == "copy" && row["lag"] == 0 && row["missing_bodies"] == 0;
    rows(replication, "replicas").filter(level).count()
}

async fn append(demo: &Demo, address: &str, bytes: usize) -> u32 {
    let mut imap = Imap::login(address, "alice", &demo.password).await.unwrap();
    let message = format!("Subject: roles\r\n\r\n{}\r\n", "x".repeat(bytes));
    imap.append("INBOX", "", message.as_bytes()).await.unwrap().uid
}

fn large_bodies(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { large_bodies(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_copy_follows_and_a_frontend_keeps_nothing() {
    super::with_demo(Options { groups: Some(u32::try_from(GROUPS).unwrap()), ..Options::default() }, async |demo| {
        append(demo, &demo.nodes[0].imap, 400_000).await;
        let copy = Extra::start_as(demo, 4, "copy").await;
        let _frontend = Extra::start_as(demo, 5, "frontend").await;
        demo_ready(51143).await;
        wait_until(demo, &["replication", "status"], "the copy has all", |told| in_step(told) == GROUPS).await;
        // What the frontend's clients write is at the copy a moment later, bodies included, and at the frontend never.
        let uid = append(demo, "127.0.0.1:51143", 300_000).await;
        let mut imap = Imap::login("127.0.0.1:51143", "alice", &demo.password).await.unwrap();
        imap.select("INBOX", true).await.unwrap();
        assert!(imap.uid_fetch(&uid.to_string(), "(BODY.PEEK[])").await.unwrap()[0].body.as_ref().is_some_and(|body| body.len() > 300_000));
        wait_until(demo, &["replication", "status"], "the copy has the new one", |told| in_step(told) == GROUPS).await;
        let bodies = |node: u32| large_bodies(&demo.dir().join(format!("n{node}/data/bodies")));
        assert_eq!((bodies(4), bodies(5)), (bodies(1), 0));
        let nodes = demo.verb(&["node", "list"]).await.unwrap();
        let row = |name: &str| rows(&nodes, "nodes").find(|row| row["name"] == name).unwrap().clone();
        assert_eq!((row("n5")["copies"].as_u64(), row("n5")["users_held"].as_u64()), (Some(0), Some(0)), "{nodes:#}");
        // Nobody waits for it, and its vote is asked for nothing.
        drop(copy);
        let began = Instant::now();
        for _ in 0..20 {
            append(demo, &demo.nodes[1].imap, 300_000).await;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let behind = demo.verb(&["replication", "status"]).await.unwrap();
        assert_eq!(in_step(&behind), 0, "it does not answer: {behind:#}");
        let _copy = Extra::start_as(demo, 4, "copy").await;
        wait_until(demo, &["replication", "status"], "the copy has caught up", |told| in_step(told) == GROUPS).await;
        assert_eq!(bodies(4), bodies(1));
        demo.verb(&["node", "drain", "n4", "--yes"]).await.unwrap();
        wait_until(demo, &["node", "list"], "the copy is let go", |told| {
            rows(told, "nodes").any(|row| row["name"] == "n4" && row["state"] == "drained")
        })
        .await;
        demo.verb(&["node", "remove", "n4", "--yes"]).await.unwrap();
    });
}

async fn demo_ready(port: u16) {
    let until = Instant::now() + WAIT;
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < until, "nobody listens on {port}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
