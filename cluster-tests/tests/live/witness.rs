//! Two machines with mail and a witness (rule 5): either machine dies at any moment, both die one after the other, the witness dies.

use super::members::{Extra, rows, wait_until};
use parliament_cluster_tests::checkers::{self, pauses::percentile};
use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::Recorder;
use parliament_cluster_tests::imap::Imap;
use parliament_cluster_tests::load::Load;
use parliament_cluster_tests::nemesis::{self, Kills};
use parliament_cluster_tests::run::{Faults, Plan, carry_out, summary};
use parliament_cluster_tests::usage::resident;
use parliament_cluster_tests::{run, scan};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The promise is that service returns within 3 s.
const PAUSE_P99_MAX: Duration = Duration::from_secs(3);
/// On a machine busy with other things.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// The witness stays under this.
const WITNESS_BYTES_MAX: u64 = 256 * 1024 * 1024;
const WAIT: Duration = Duration::from_secs(60);

/// Kills that CI has time for; `cargo xtask chaos --scenario witness` has more.
const KILLS: usize = 4;

#[test]
fn either_of_two_data_nodes_dies() {
    let kills = Kills { every: Duration::from_secs(6), down: Duration::from_millis(3500) };
    let plan =
        Plan { faults: Faults::Beside(kills, KILLS), clients: 12, accounts: 6, seed: 5, pause: Duration::from_millis(5), history: None };
    super::with_demo(Options { users: plan.accounts, witness: true, ..Options::default() }, async |demo| {
        let outcome = carry_out(demo, &plan).await.unwrap();
        eprintln!("{}", summary(&outcome.document));
        assert!(outcome.holds, "{:#}", outcome.document);
        let pause = |q| Duration::from_nanos(percentile(&outcome.pauses.gaps, q));
        assert!(pause(0.99) <= PAUSE_P99_MAX && pause(1.0) <= PAUSE_MAX, "pauses: {:#}", outcome.document);
        assert_eq!(outcome.pauses.broken, 0, "sessions broke at living nodes: {:#}", outcome.document);
        let pid = demo.pids().await.unwrap().into_iter().find(|(node, _)| node == "n3").unwrap().1;
        for words in [["lease", "move", "alice", "--to", "n3"], ["group", "transfer", "1", "--to", "n3"]] {
            let refused = demo.verb(&words).await.unwrap_err();
            assert!(refused.contains("cannot"), "{refused}");
        }
        let resident = resident(pid).unwrap();
        eprintln!("the witness takes {} MiB", resident >> 20);
        assert!(resident < WITNESS_BYTES_MAX, "{resident}");
    });
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// True when some file of the node's data has this text in it.
fn has_text(demo: &Demo, node: &str, text: &str) -> bool {
    fn look(dir: &Path, text: &[u8]) -> bool {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| {
            path.is_dir() && look(&path, text)
                || std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text))
        })
    }
    look(&demo.dir().join(node).join("data"), text.as_bytes())
}

async fn append(demo: &Demo, node: usize, text: &str) -> Result<u32, String> {
    let trying = async {
        let mut imap = Imap::login(&demo.nodes[node].imap, "alice", &demo.password).await.map_err(|e| e.to_string())?;
        let message = format!("Subject: witness\r\n\r\n{text}\r\n");
        imap.patience = WAIT;
        imap.append("INBOX", "", message.as_bytes()).await.map(|appended| appended.uid).map_err(|e| e.to_string())
    };
    tokio::time::timeout(WAIT, trying).await.map_err(|_| "no answer".to_owned())?
}

/// The first dies; the second serves alone, and dies as well. What it took alone is on its disk only, so that the first, back again with
/// the witness, must confirm nothing.
#[test]
fn a_second_failure_stops_service_and_loses_nothing() {
    super::with_demo(Options { witness: true, groups: Some(2), ..Options::default() }, async |demo| {
        let first = append(demo, 0, "a small body").await.unwrap();
        demo.kill("n1").await.unwrap();
        let alone = append(demo, 1, "alone").await.unwrap();
        assert!(alone > first);
        nemesis::wait_alone(demo, Some("n2"), WAIT).await.unwrap();
        let large = append(demo, 2, &"a large body".repeat(30_000)).await.unwrap();
        assert!(large > alone, "through the witness, which serves clients as any node does");
        demo.kill("n2").await.unwrap();
        // It cannot become ready: what it lacks is not to be had.
        let started = demo.verb(&["demo", "start", "n1", "--timeout", "5s", "--dir", &demo.dir().display().to_string()]).await;
        eprintln!("n1 alone with the witness: {started:?}");
        let refused = append(demo, 0, "nobody has the last ones").await;
        assert!(refused.as_ref().is_err_and(|why| why.contains("UNAVAILABLE")), "{refused:?}");
        let began = Instant::now();
        demo.start_nodes(&["n2"]).await.unwrap();
        let again = append(demo, 1, "again").await.unwrap();
        eprintln!("served again {:?} after the second was started", began.elapsed());
        assert!(again > large);
        nemesis::wait_alone(demo, None, WAIT).await.unwrap();
        // The first has everything now, and can do without the second.
        demo.kill("n2").await.unwrap();
        let last = append(demo, 0, "the other way round").await.unwrap();
        assert!(last > again);
        nemesis::wait_alone(demo, Some("n1"), WAIT).await.unwrap();
        let mut imap = Imap::login(&demo.nodes[0].imap, "alice", &demo.password).await.unwrap();
        imap.select("INBOX", true).await.unwrap();
        for uid in [first, alone, large, again, last] {
            let found = imap.uid_fetch(&uid.to_string(), "(BODY.PEEK[])").await.unwrap();
            assert!(found.len() == 1 && found[0].body.as_ref().is_some_and(|body| body.len() > 20), "{uid}: {found:?}");
        }
        demo.start_nodes(&["n2"]).await.unwrap();
        nemesis::wait_alone(demo, None, WAIT).await.unwrap();
        let large_bodies = |node: &str| files(&demo.dir().join(node).join("data/bodies"));
        assert_eq!([large_bodies("n1"), large_bodies("n2"), large_bodies("n3")], [1, 1, 0], "a witness keeps no body");
        let small_body = |node| has_text(demo, node, "a small body");
        assert_eq!([small_body("n1"), small_body("n2"), small_body("n3")], [true, true, false]);
        // Without the witness both are needed, and there.
        demo.kill("n3").await.unwrap();
        assert!(append(demo, 0, "without the witness").await.unwrap() > last);
    });
}

/// With its partner dead, the one that serves alone is killed under load and started again: its witness must not have more than it.
#[test]
fn the_one_that_serves_alone_dies_again_and_again() {
    super::with_demo(Options { witness: true, groups: Some(2), users: 4, ..Options::default() }, async |demo| {
        demo.kill("n2").await.unwrap();
        nemesis::wait_alone(demo, Some("n1"), WAIT).await.unwrap();
        let recorder = Arc::new(Recorder::new(None).unwrap());
        let witness = &demo.nodes[2..];
        let load = Load {
            servers: run::servers_of(witness),
            accounts: demo.accounts(),
            password: demo.password.clone(),
            clients: 8,
            sizes: vec![300, 20_000],
            pause: Duration::ZERO,
            seed: 3,
            name: "w".to_owned(),
        };
        run::note_setup_of(&recorder, witness, &load.keys(), load.seed);
        let running = load.start(&recorder);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            recorder.nemesis("kill", "n1", json!({ "reason": "alone", "of": "n2" }));
            demo.kill("n1").await.unwrap();
            demo.start_nodes(&["n1"]).await.unwrap();
            demo.wait_ready("n1", Duration::from_secs(20)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        running.stop().await;
        demo.start_nodes(&["n2"]).await.unwrap();
        nemesis::wait_alone(demo, None, WAIT).await.unwrap();
        scan::at_nodes(demo, witness, &demo.accounts(), &recorder).await.unwrap();
        assert_eq!(run::replicas_equal(demo).await, Ok(true));
        let (holds, document) = checkers::judge(&recorder.finish());
        assert!(holds, "{document:#}");
    });
}

fn all_voted_by(groups: &Value, nodes: &[&str]) -> bool {
    let named = |group: &Value| {
        let mut voters: Vec<&str> = rows(group, "voters").filter_map(Value::as_str).collect();
        voters.sort_unstable();
        voters == nodes && rows(group, "learners").count() == 0
    };
    rows(groups, "groups").all(named)
}

/// A dead witness is given up and another invited; then a third data node comes, and takes the witness's place in all groups of users.
#[test]
fn a_witness_is_replaced_and_a_third_data_node_takes_its_place() {
    super::with_demo(Options { witness: true, groups: Some(2), ..Options::default() }, async |demo| {
        let first = append(demo, 0, "before").await.unwrap();
        demo.kill("n3").await.unwrap();
        wait_until(demo, &["node", "list"], "the witness is down", |told| {
            rows(told, "nodes").any(|row| row["name"] == "n3" && row["state"] == "down")
        })
        .await;
        demo.verb(&["node", "remove", "n3", "--lost", "--yes"]).await.unwrap();
        let _witness = Extra::start_as(demo, 4, "witness").await;
        wait_until(demo, &["group", "list"], "another witness votes", |told| all_voted_by(told, &["n1", "n2", "n4"])).await;
        demo.kill("n2").await.unwrap();
        let alone = append(demo, 0, "beside the new one").await.unwrap();
        assert!(alone > first);
        demo.start_nodes(&["n2"]).await.unwrap();
        nemesis::wait_alone(demo, None, WAIT).await.unwrap();
        let _third = Extra::start_as(demo, 5, "data").await;
        let of_users = |told: &Value| {
            let users = rows(told, "groups").filter(|group| group["id"] != 0).cloned().collect::<Vec<_>>();
            users.len() == 2 && all_voted_by(&json!({ "groups": users }), &["n1", "n2", "n5"])
        };
        wait_until(demo, &["group", "list"], "three data nodes vote", of_users).await;
        assert!(append(demo, 1, "three copies").await.unwrap() > alone);
    });
}

#[test]
fn both_disks_are_waited_for_where_the_operator_wants_that() {
    super::with_demo(Options { witness: true, groups: Some(2), ..Options::default() }, async |demo| {
        let all = ["n1", "n2", "n3"];
        for node in all {
            let path = demo.dir().join(node).join("parliament.toml");
            let config = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, config.replacen("[cluster]", "[cluster]\nlone_copy = \"refuse\"", 1)).unwrap();
        }
        demo.kill_at_once(&all).await.unwrap();
        demo.start_nodes(&all).await.unwrap();
        let first = append(demo, 0, "both").await.unwrap();
        let told = demo.verb(&["status"]).await.unwrap();
        assert_eq!(told["verdict"]["survives_nodes"], 0, "{told:#}");
        demo.kill("n2").await.unwrap();
        let refused = append(demo, 0, "one").await;
        assert!(refused.as_ref().is_err_and(|why| why.contains("UNAVAILABLE")), "{refused:?}");
        demo.start_nodes(&["n2"]).await.unwrap();
        assert!(append(demo, 0, "both again").await.unwrap() > first);
    });
}
