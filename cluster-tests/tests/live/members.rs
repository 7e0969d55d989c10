//! A cluster whose nodes change while mail flows: a fourth node joins and gets its share, the first is drained and comes back, the
//! fourth is drained and removed. Nothing that was acknowledged is lost, and the staying nodes serve all the while.

use parliament_cluster_tests::checkers::{self, pauses};
use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::Recorder;
use parliament_cluster_tests::load::Load;
use parliament_cluster_tests::{binary, run, scan};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const GROUPS: u32 = 4;
/// How long copies may be on their way, on a machine busy with other things.
const MOVES_WAIT: Duration = Duration::from_secs(120);

/// A node that no demo watches over.
struct Fourth(Child);

impl Fourth {
    fn start(demo: &Demo, token: &str) -> Self {
        let (dir, ca) = (demo.dir().join("n4"), demo.dir().join("ca"));
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("parliament.toml");
        std::fs::write(&config, settings(&dir, &ca)).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(binary::parliament().unwrap());
        command.arg("server").arg("--config").arg(&config).args(["--end-with-stdin", "--join", token]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().unwrap())
    }

    /// Its exit code, once it has ended by itself.
    async fn ended(&mut self, wait: Duration) -> Option<i32> {
        let until = Instant::now() + wait;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "n4 still runs");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Fourth {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn settings(dir: &Path, ca: &Path) -> String {
    format!(
        r#"
[cluster]
name = "demo"
seeds = ["127.0.0.1:17400"]
[node]
name = "n4"
zone = "z4"
data_dir = "{dir}/data"
[tls.mail]
cert = "{ca}/mail.pem"
key_file = "{ca}/mail.key"
[imap]
listen = ["127.0.0.1:41143"]
listen_tls = []
[pop3]
listen = []
listen_tls = []
[lmtp]
listen = ["127.0.0.1:41024"]
add_headers = false
[http]
listen = ["127.0.0.1:47480"]
[peer]
listen = "127.0.0.1:47400"
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

fn rows<'a>(document: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    document[key].as_array().into_iter().flatten()
}

/// Waits until `holds` says so of what a verb tells.
async fn wait_until(demo: &Demo, verb: &[&str], what: &str, holds: impl Fn(&Value) -> bool) {
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

fn state_is(node: &'static str, state: &'static str) -> impl Fn(&Value) -> bool {
    move |nodes| rows(nodes, "nodes").any(|row| row["name"] == node && row["state"] == state)
}

#[test]
fn members() {
    super::with_demo(Options { users: 4, groups: Some(GROUPS), ..Options::default() }, async |demo| {
        let accounts = demo.accounts();
        let recorder = Arc::new(Recorder::new(None).unwrap());
        let load = Load {
            servers: run::servers(demo),
            accounts: accounts.clone(),
            password: demo.password.clone(),
            clients: 8,
            sizes: vec![300, 1000, 4000, 20_000, 300_000],
            pause: Duration::from_millis(20),
            seed: 11,
            name: "w".to_owned(),
        };
        run::note_setup(&recorder, demo, &load.keys(), load.seed);
        let running = load.start(&recorder);
        tokio::time::sleep(Duration::from_secs(2)).await;
        change_members(demo, &recorder).await;
        running.stop().await;
        scan::everything(demo, &accounts, &recorder).await.unwrap();
        let history = recorder.finish();
        assert_eq!(run::replicas_equal(demo).await, Ok(true));
        let told = pauses::measure(&history);
        eprintln!("acknowledged {}, refused {}, unknown {}", told.acknowledged, told.refused, told.unknown);
        let (holds, document) = checkers::judge(&history);
        assert!(holds, "{document:#}");
        assert!(told.acknowledged > 100, "the load did not run: {}", told.acknowledged);
        assert_eq!((told.refused, told.unknown), (0, 0), "commands at nodes that stayed failed");
    });
}

async fn change_members(demo: &Demo, recorder: &Recorder) {
    recorder.nemesis("join", "n4", Value::Null);
    let invitation = demo.verb(&["node", "invite"]).await.unwrap();
    let token = invitation["token"].as_str().unwrap();
    let mut fourth = Fourth::start(demo, token);
    wait_until(demo, &["node", "list"], "n4 has joined", state_is("n4", "up")).await;
    wait_until(demo, &["group", "list"], "n4 has its share", |groups| copies(groups, "n4") == Some(3)).await;
    let used = demo.verb(&["node", "invite"]).await.unwrap();
    assert_ne!(used["token"], invitation["token"]);

    recorder.nemesis("drain", "n1", Value::Null);
    let would = demo.verb(&["node", "drain", "n1", "--dry-run"]).await.unwrap();
    assert_eq!(rows(&would, "moves").count(), 3, "{would}");
    demo.verb(&["node", "drain", "n1", "--yes"]).await.unwrap();
    demo.wait_readyz("n1", 503, Duration::from_secs(10)).await.unwrap();
    wait_until(demo, &["node", "list"], "n1 is drained", state_is("n1", "drained")).await;
    let refused = demo.verb(&["node", "remove", "n1", "--yes"]).await.unwrap_err();
    assert!(refused.contains("PC244"), "{refused}");

    recorder.nemesis("undrain", "n1", Value::Null);
    demo.verb(&["node", "undrain", "n1"]).await.unwrap();
    demo.wait_ready("n1", Duration::from_secs(20)).await.unwrap();
    wait_until(demo, &["group", "list"], "n1 has its share again", |groups| copies(groups, "n1") == Some(3)).await;

    recorder.nemesis("drain", "n4", Value::Null);
    let refused = demo.verb(&["node", "remove", "n4", "--yes"]).await.unwrap_err();
    assert!(refused.contains("PC242"), "{refused}");
    demo.verb(&["node", "drain", "n4", "--yes"]).await.unwrap();
    wait_until(demo, &["node", "list"], "n4 is drained", state_is("n4", "drained")).await;
    demo.verb(&["node", "remove", "n4", "--yes"]).await.unwrap();
    wait_until(demo, &["node", "list"], "n4 is gone", |nodes| rows(nodes, "nodes").count() == 3).await;
    assert_eq!(fourth.ended(Duration::from_secs(20)).await, Some(65), "a node that was removed ends");
    recorder.nemesis("removed", "n4", json!({ "exit": 65 }));
    let status = demo.verb(&["status"]).await.unwrap();
    assert_eq!(status["verdict"]["health"], "healthy", "{status}");
}
