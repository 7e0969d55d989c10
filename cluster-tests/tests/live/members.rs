//! A cluster whose nodes change while mail flows: a fourth and a fifth node join and get their share, votes in group 0 included; the
//! first is drained, comes back, is drained again and removed; the fourth loses its disk and is replaced. Nothing that was acknowledged
//! is lost, and the staying nodes serve all the while.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::Recorder;
use parliament_cluster_tests::load::Load;
use parliament_cluster_tests::{binary, run, scan};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const GROUPS: u32 = 4;
/// How long copies may be on their way, on a machine busy with other things.
const MOVES_WAIT: Duration = Duration::from_secs(120);

/// A node that no demo watches over.
pub(super) struct Extra(Child);

impl Extra {
    /// Starts node `number` with an empty data directory, at the ports that a demo would give it.
    async fn start(demo: &Demo, number: u32) -> Self {
        Self::start_as(demo, number, "data").await
    }

    /// As [`Extra::start`], in this role. A node that joined before goes on with its data.
    pub(super) async fn start_as(demo: &Demo, number: u32, role: &str) -> Self {
        let invitation = demo.verb(&["node", "invite"]).await.unwrap();
        let token = invitation["token"].as_str().unwrap();
        let (dir, ca) = (demo.dir().join(format!("n{number}")), demo.dir().join("ca"));
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("parliament.toml");
        std::fs::write(&config, settings(number, role, &dir, &ca)).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut command = Command::new(binary::parliament().unwrap());
        command.arg("server").arg("--config").arg(&config).args(["--end-with-stdin", "--join", token]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().unwrap())
    }

    /// Its disk dies, and the process with it.
    fn lose(mut self, demo: &Demo, number: u32) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        std::fs::remove_dir_all(demo.dir().join(format!("n{number}"))).unwrap();
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn settings(number: u32, role: &str, dir: &Path, ca: &Path) -> String {
    format!(
        r#"
[cluster]
name = "demo"
seeds = ["127.0.0.1:17400", "127.0.0.1:27400"]
[node]
name = "n{number}"
zone = "z{number}"
role = "{role}"
data_dir = "{dir}/data"
[tls.mail]
cert = "{ca}/mail.pem"
key_file = "{ca}/mail.key"
[imap]
listen = ["127.0.0.1:{number}1143"]
listen_tls = []
[pop3]
listen = []
listen_tls = []
[lmtp]
listen = ["127.0.0.1:{number}1024"]
add_headers = false
[http]
listen = ["127.0.0.1:{number}7480"]
[peer]
listen = "127.0.0.1:{number}7400"
[auth]
default_domain = "demo.test"
plaintext_on_loopback = true
[limits]
connections_per_user_and_address = 1000
[storage]
segment_bytes = "16MiB"
cache_bytes = "64MiB"
"#,
        dir = dir.display(),
        ca = ca.display()
    )
}

pub(super) fn rows<'a>(document: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    document[key].as_array().into_iter().flatten()
}

/// Waits until `holds` says so of what a verb tells.
pub(super) async fn wait_until(demo: &Demo, verb: &[&str], what: &str, holds: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    loop {
        let told = demo.verb(verb).await;
        if told.as_ref().is_ok_and(&holds) {
            eprintln!("{what} after {:?}", started.elapsed());
            return;
        }
        assert!(started.elapsed() < MOVES_WAIT, "{what}: {told:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// How many groups of users have a voter on the node; `None` while copies are on their way.
fn copies(groups: &Value, node: &str) -> Option<usize> {
    let users = || rows(groups, "groups").filter(|group| group["id"] != 0);
    let voters = |group: &Value| rows(group, "voters").count();
    let resting = users().all(|group| rows(group, "learners").count() == 0 && voters(group) == 3);
    resting.then(|| users().filter(|group| rows(group, "voters").any(|voter| voter == node)).count())
}

/// The voters of group 0.
fn voters(groups: &Value) -> Vec<&str> {
    let group_0 = rows(groups, "groups").find(|group| group["id"] == 0);
    let mut names: Vec<&str> = group_0.iter().flat_map(|group| rows(group, "voters")).filter_map(Value::as_str).collect();
    names.sort_unstable();
    names
}

fn state_is(node: &'static str, state: &'static str) -> impl Fn(&Value) -> bool {
    move |nodes| rows(nodes, "nodes").any(|row| row["name"] == node && row["state"] == state)
}

#[test]
fn members() {
    super::with_demo(Options { users: 4, groups: Some(GROUPS), ..Options::default() }, async |demo| {
        let accounts = demo.accounts();
        let recorder = Arc::new(Recorder::new(None).unwrap());
        let staying = &demo.nodes[1..];
        let load = Load {
            servers: run::servers_of(staying),
            accounts: accounts.clone(),
            password: demo.password.clone(),
            clients: 8,
            sizes: vec![300, 1000, 4000, 20_000, 300_000],
            pause: Duration::from_millis(20),
            seed: 11,
            name: "w".to_owned(),
        };
        run::note_setup_of(&recorder, staying, &load.keys(), load.seed);
        let running = load.start(&recorder);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let extra = change_members(demo, &recorder).await;
        running.stop().await;
        scan::at_nodes(demo, staying, &accounts, &recorder).await.unwrap();
        super::assert_nothing_failed(demo, &recorder).await;
        drop(extra);
    });
}

/// Ends with the nodes n2 to n5, and returns those that no demo watches over.
async fn change_members(demo: &Demo, recorder: &Recorder) -> [Extra; 2] {
    recorder.nemesis("join", "n4", Value::Null);
    let fourth = Extra::start(demo, 4).await;
    wait_until(demo, &["node", "list"], "n4 has joined", state_is("n4", "up")).await;
    recorder.nemesis("join", "n5", Value::Null);
    let fifth = Extra::start(demo, 5).await;
    wait_until(demo, &["node", "list"], "n5 has joined", state_is("n5", "up")).await;
    let shared = |groups: &Value| copies(groups, "n4") >= Some(2) && copies(groups, "n5") >= Some(2);
    wait_until(demo, &["group", "list"], "n4 and n5 have their share", shared).await;
    let all = ["n1", "n2", "n3", "n4", "n5"];
    wait_until(demo, &["group", "list"], "all five vote in group 0", |groups| voters(groups) == all).await;

    recorder.nemesis("drain", "n1", Value::Null);
    let refused = demo.verb(&["node", "remove", "n1", "--yes"]).await.unwrap_err();
    assert!(refused.contains("PC242"), "{refused}");
    let would = demo.verb(&["node", "drain", "n1", "--dry-run"]).await.unwrap();
    assert!(rows(&would, "moves").count() >= 3, "{would}");
    demo.verb(&["node", "drain", "n1", "--yes"]).await.unwrap();
    demo.wait_readyz("n1", 503, Duration::from_secs(10)).await.unwrap();
    wait_until(demo, &["node", "list"], "n1 is drained", state_is("n1", "drained")).await;
    recorder.nemesis("undrain", "n1", Value::Null);
    demo.verb(&["node", "undrain", "n1"]).await.unwrap();
    demo.wait_ready("n1", Duration::from_secs(20)).await.unwrap();
    wait_until(demo, &["group", "list"], "n1 has its share again", |groups| copies(groups, "n1") >= Some(2)).await;
    demo.verb(&["node", "drain", "n1", "--yes"]).await.unwrap();
    wait_until(demo, &["node", "list"], "n1 is drained again", state_is("n1", "drained")).await;
    demo.verb(&["--node", "127.0.0.1:27400", "node", "remove", "n1", "--yes"]).await.unwrap();
    recorder.nemesis("removed", "n1", Value::Null);
    let dir = demo.dir().display().to_string();
    wait_until(demo, &["demo", "ls", "--dir", &dir], "n1 has ended", |told| {
        rows(told, "nodes").any(|row| row["id"] == "n1" && row["state"] == "down")
    })
    .await;

    recorder.nemesis("lost", "n4", Value::Null);
    fourth.lose(demo, 4);
    wait_until(demo, &["node", "list"], "n4 is down", state_is("n4", "down")).await;
    demo.verb(&["node", "remove", "n4", "--lost", "--yes"]).await.unwrap();
    wait_until(demo, &["node", "list"], "n4 is gone", |nodes| rows(nodes, "nodes").count() == 3).await;
    let fourth = Extra::start(demo, 4).await;
    let share = |groups: &Value| copies(groups, "n4") == Some(3) && voters(groups).len() == 3 && !voters(groups).contains(&"n1");
    wait_until(demo, &["group", "list"], "another n4 has its share", share).await;
    super::shares::leaders_are_fair(demo, &["n2", "n3", "n4", "n5"]).await;
    wait_until(demo, &["status"], "all is well", |status| status["verdict"]["health"] == "healthy").await;
    [fourth, fifth]
}
