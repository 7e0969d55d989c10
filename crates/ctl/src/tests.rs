//! Whole command lines against a fake node: what is asked, printed, and returned.

use super::*;
use crate::api::*;
use crate::verdict::tests::status;
use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

mod doctor;

/// Calls that were made: target, verb, request.
type Calls = Arc<Mutex<Vec<(Target, String, Value)>>>;
type Answers = Arc<dyn Fn(&Target, &str, &Value) -> Result<Value, AdminError> + Send + Sync>;

struct Fake {
    target: Target,
    calls: Calls,
    answers: Answers,
}

#[async_trait]
impl AdminClient for Fake {
    async fn call(&self, verb: &str, request: Value) -> Result<Value, AdminError> {
        self.calls.lock().unwrap().push((self.target.clone(), verb.to_owned(), request.clone()));
        if verb == "hang" || request.get("user").is_some_and(|u| u == "hang") {
            std::future::pending::<()>().await;
        }
        (self.answers)(&self.target, verb, &request)
    }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Bench {
    calls: Calls,
    answers: Answers,
    input: &'static str,
    interactive: bool,
    env: BTreeMap<String, String>,
    served: Arc<Mutex<Option<Serve>>>,
    _home: tempfile::TempDir,
}

struct Outcome {
    code: u8,
    out: String,
    err: String,
}

impl Outcome {
    fn json(&self) -> Value {
        assert_eq!(self.err, "");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

fn bench(answers: impl Fn(&Target, &str, &Value) -> Result<Value, AdminError> + Send + Sync + 'static) -> Bench {
    let home = tempfile::tempdir().unwrap();
    // A folder of our own, so that no demo of this machine is found.
    let here = home.path().to_str().unwrap().to_owned();
    let env = BTreeMap::from([("TMPDIR".to_owned(), here.clone()), ("XDG_RUNTIME_DIR".to_owned(), here)]);
    let (calls, served) = (Calls::default(), Arc::default());
    Bench { calls, answers: Arc::new(answers), input: "", interactive: false, env, served, _home: home }
}

/// A node that answers one verb with one document.
fn answering(verb: &'static str, reply: Value) -> Bench {
    bench(move |_, asked, _| {
        assert_eq!(asked, verb);
        Ok(reply.clone())
    })
}

impl Bench {
    fn run(&self, line: &str) -> Outcome {
        let (out, err) = (Buffer::default(), Buffer::default());
        let code = self.run_with(line, Box::new(out.clone()), Box::new(err.clone()));
        Outcome { code, out: out.text(), err: err.text() }
    }

    /// Runs with a standard output of another kind over the one that is returned.
    fn run_to(&self, line: &str, output: impl FnOnce(Buffer) -> Box<dyn Write + Send>) -> (u8, String) {
        let out = Buffer::default();
        let code = self.run_with(line, output(out.clone()), Box::new(std::io::sink()));
        (code, out.text())
    }

    fn run_with(&self, line: &str, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> u8 {
        let mut terminal = Terminal {
            out,
            err,
            input: Box::new(self.input.as_bytes()),
            interactive: self.interactive,
            screen: false,
            gone: false,
            env: self.env.clone(),
        };
        let (calls, answers, served) = (self.calls.clone(), self.answers.clone(), self.served.clone());
        let wiring = Wiring {
            connect: Arc::new(move |target, _| {
                Ok(Box::new(Fake { target: target.clone(), calls: calls.clone(), answers: answers.clone() }) as Box<dyn AdminClient>)
            }),
            serve: Box::new(move |serve| {
                *served.lock().unwrap() = Some(serve);
                exit::OK
            }),
        };
        let args = std::iter::once("parliament").chain(line.split_whitespace()).map(OsString::from);
        run_at(args, wiring, &mut terminal)
    }

    /// Runs against one node of a demo.
    fn ask(&self, line: &str) -> Outcome {
        self.run(&format!("--node 127.0.0.1:17400 {line}"))
    }

    fn requests(&self) -> Vec<Value> {
        self.calls.lock().unwrap().iter().map(|(_, _, request)| request.clone()).collect()
    }
}

fn unreachable_node(_: &Target, _: &str, _: &Value) -> Result<Value, AdminError> {
    Err(AdminError::new(code::UNREACHABLE, exit::UNAVAILABLE, "connection refused"))
}

use NodeState::{Down, Up};
const THREE: [(&str, &str, NodeState); 3] = [("n1", "a", Up), ("n2", "b", Up), ("n3", "c", Up)];
const TWO: [(&str, &str, NodeState); 3] = [("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Up)];
const ONE: [(&str, &str, NodeState); 3] = [("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Down)];

#[test]
fn the_grammar_is_sound() {
    use clap::CommandFactory as _;
    cli::Cli::command().debug_assert();
}

#[test]
fn usage_errors_exit_64_and_help_0() {
    let bench = bench(unreachable_node);
    for line in ["frobnicate", "user", "user add", "demo --nodes 2", "status --timeout 5", "demo kill", "kick", "lease move ann"] {
        let outcome = bench.run(line);
        assert_eq!((outcome.code, outcome.out.as_str()), (exit::USAGE, ""), "{line}");
        assert!(!outcome.err.is_empty());
    }
    let suggestion = bench.run("stauts");
    assert!(suggestion.err.contains("status"), "{}", suggestion.err);
    for line in ["--help", "demo --help", "--version"] {
        let outcome = bench.run(line);
        assert_eq!((outcome.code, outcome.err.as_str()), (exit::OK, ""), "{line}");
    }
    let outcome = bench.run("--json frobnicate");
    assert_eq!((outcome.code, outcome.json()["code"].as_str()), (exit::USAGE, Some(code::USAGE)));
}

#[test]
fn status_says_health_first_and_exits_by_it() {
    for (nodes, line, code) in [
        (THREE, "HEALTHY  survives the loss of 1 node or 1 zone", 0),
        (TWO, "DEGRADED  survives no further loss", 3),
        (ONE, "NO QUORUM  9 of 9 groups have no quorum", 69),
    ] {
        let bench = answering(STATUS, json!(status(&nodes, 9)));
        let outcome = bench.ask("status");
        assert_eq!((outcome.code, outcome.out.lines().next()), (code, Some(line)));
        let outcome = bench.ask("status --json");
        assert_eq!((outcome.code, outcome.json()["line"].as_str()), (code, Some(line)));
    }
    let plain = answering(STATUS, json!(status(&THREE, 9))).ask("status").out;
    let groups = answering(STATUS, json!(status(&THREE, 9))).ask("status --groups").out;
    assert_eq!(groups.lines().count(), plain.lines().count() + 11);
}

#[test]
fn check_speaks_nagios() {
    for (nodes, start, code) in [
        (THREE, "PARLIAMENT OK - survives the loss of 1 node or 1 zone | nodes_up=3;;;0;3 groups_led=9;;;0;9", 0),
        (TWO, "PARLIAMENT WARNING - n2 is down (7 s) | nodes_up=2;;;0;3", 1),
        (ONE, "PARLIAMENT CRITICAL - 9 of 9 groups have no quorum", 2),
    ] {
        let outcome = answering(STATUS, json!(status(&nodes, 9))).ask("check");
        assert_eq!(outcome.code, code);
        assert!(outcome.out.starts_with(start) && outcome.out.lines().count() == 1, "{}", outcome.out);
    }
    assert_eq!(bench(unreachable_node).ask("check").code, 2);
    assert_eq!(bench(unreachable_node).run("check --node nonsense").code, 3);
}

#[test]
fn no_node_is_an_error_with_a_next_step() {
    let outcome = bench(unreachable_node).ask("node list");
    assert_eq!((outcome.code, outcome.err.as_str()), (exit::UNAVAILABLE, "error[PC401]: connection refused\n"));
    let outcome = bench(unreachable_node).run("--node mx1.example.org:7400 node list");
    assert_eq!(outcome.code, exit::PERMISSION);
    assert!(outcome.err.contains("init ca --admin"), "{}", outcome.err);
    let outcome = bench(unreachable_node).ask("node list --json");
    assert_eq!(outcome.json(), json!({ "code": "PC401", "message": "connection refused", "hint": null }));
}

#[test]
fn a_nodes_refusal_is_told_as_it_came() {
    let refusal = AdminError::new("PC301", exit::NO_USER, "there is no user ann").with_hint("`parliament user list` lists them");
    let bench = bench(move |_, _, _| Err(refusal.clone()));
    let outcome = bench.ask("user show ann");
    assert_eq!(outcome.code, 67);
    assert_eq!(outcome.err, "error[PC301]: there is no user ann\n  help: `parliament user list` lists them\n");
}

#[test]
fn an_answer_of_another_form_is_a_bug_of_versions() {
    let outcome = answering(NODE_LIST, json!({ "nodes": 7 })).ask("node list");
    assert_eq!((outcome.code, outcome.err.contains("PC403")), (exit::BUG, true));
}

#[test]
fn no_answer_in_time_is_unknown() {
    let outcome = bench(unreachable_node).ask("user show hang --timeout 20ms");
    assert_eq!(outcome.code, exit::TRY_AGAIN);
    assert!(outcome.err.contains("no answer to user.show within 20ms"), "{}", outcome.err);
}

#[test]
fn the_configurations_socket_is_asked() {
    let mut bench = answering(NODE_LIST, json!(Nodes::default()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let text = "[node]\ndata_dir = \"/data\"\n[peer]\nlisten = \"127.0.0.1:7400\"\n[imap]\nlisten_tls = []\n[pop3]\nlisten_tls = []\n";
    std::fs::write(&file, text).unwrap();
    let socket = Target::Socket("/data/admin.sock".into());
    assert_eq!(bench.run(&format!("node list --config {}", file.display())).code, 0);
    assert_eq!(bench.calls.lock().unwrap()[0].0, socket);
    bench.env.insert("PARLIAMENT_CONFIG".into(), file.to_str().unwrap().into());
    assert_eq!(bench.run("node list").code, 0);
    assert_eq!(bench.calls.lock().unwrap()[1].0, socket);
    assert_eq!(bench.ask("node list").code, 0);
    assert_eq!(bench.calls.lock().unwrap()[2].0, Target::Peer { address: "127.0.0.1:17400".into(), tls: None });
}

#[test]
fn an_operator_s_certificate_goes_with_the_configured_cluster() {
    let bench = answering(NODE_LIST, json!(Nodes::default()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("operator.toml");
    let text = "[cluster]\nname = \"acme\"\n[tls.cluster]\nca = \"/a\"\ncert = \"/b\"\nkey_file = \"/c\"\n";
    std::fs::write(&file, text).unwrap();
    assert_eq!(bench.run(&format!("node list --node mx1.example.org:7400 --config {}", file.display())).code, 0);
    let files = parliament_config::ClusterTls { ca: "/a".into(), cert: "/b".into(), key_file: "/c".into() };
    let tls = Some(crate::PeerTls { files, cluster: "acme".into() });
    assert_eq!(bench.calls.lock().unwrap()[0].0, Target::Peer { address: "mx1.example.org:7400".into(), tls });
}

#[test]
fn users_are_added_with_a_hash() {
    let mut bench = answering(USER_IMPORT, json!(UserImported { created: 1, ..UserImported::default() }));
    bench.input = "secret\n";
    let outcome = bench.ask("user add ann --password-stdin");
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "made ann\n"));
    let request: UserImport = serde_json::from_value(bench.requests()[0].clone()).unwrap();
    assert_eq!((request.on_existing, request.users[0].name.as_str()), (OnExisting::Refuse, "ann"));
    assert!(request.users[0].credential.starts_with("{ARGON2ID}$argon2id$"));
    let outcome = bench.ask("user add ann --generate --json");
    assert_eq!(outcome.json()["password"].as_str().map(str::len), Some(20));
    assert_eq!(bench.ask("user add ann").code, exit::USAGE, "nobody to ask for a password");
    let outcome = bench.ask("user add ann --hash $6$a$b --dry-run");
    assert_eq!(outcome.out, "would: make ann\n");
    assert_eq!(bench.requests()[2]["users"][0]["credential"], "{SHA512-CRYPT}$6$a$b");
    assert_eq!(bench.requests()[2]["dry_run"], true);
}

#[test]
fn a_user_that_exists_is_not_added() {
    let refused = vec![RefusedUser { name: "ann".into(), why: "the name is taken".into() }];
    let bench = answering(USER_IMPORT, json!(UserImported { refused, ..UserImported::default() }));
    let outcome = bench.ask("user add ann --generate");
    assert_eq!((outcome.code, outcome.err.contains("the name is taken")), (exit::USAGE, true));
}

#[test]
fn imports_go_in_chunks_and_tell_what_was_refused() {
    let bench = bench(|_, _, request| {
        let request: UserImport = serde_json::from_value(request.clone()).unwrap();
        let refused = request.users.iter().filter(|u| u.name == "u7").map(|u| RefusedUser { name: u.name.clone(), why: "taken".into() });
        let refused: Vec<_> = refused.collect();
        Ok(json!(UserImported { created: (request.users.len() - refused.len()) as u64, refused, ..UserImported::default() }))
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    let text: String = (0..2500).map(|n| format!("u{n}:{{SHA512-CRYPT}}$6$a$b\n")).collect();
    std::fs::write(&file, text).unwrap();
    let outcome = bench.ask(&format!("user import {} --existing skip", file.display()));
    assert_eq!(outcome.code, exit::WARNINGS);
    assert_eq!(outcome.out, "2499 made, 0 updated, 0 left as they were, 1 refused\n  u7: taken\n");
    let sizes: Vec<_> = bench.requests().iter().map(|r| r["users"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
    std::fs::write(&file, "ann:{SHA512-CRYPT}x\nbob:secret\n").unwrap();
    let outcome = bench.ask(&format!("user import {}", file.display()));
    assert_eq!((outcome.code, outcome.err.contains("users:2: ")), (exit::DATA, true), "{}", outcome.err);
}

#[test]
fn lists_are_read_page_by_page() {
    let bench = bench(|_, _, request| {
        let page: Page = serde_json::from_value(request.clone()).unwrap();
        let name = page.after.map_or("ann", |after| if after == "ann" { "bob" } else { "cy" });
        Ok(json!(Users { users: vec![User { name: name.into(), ..User::default() }], more: name != "cy" }))
    });
    let outcome = bench.ask("user list");
    assert_eq!(outcome.out.lines().map(|l| l.split(' ').next().unwrap()).collect::<Vec<_>>(), ["USER", "ann", "bob", "cy"]);
    let endless = answering(USER_LIST, json!(Users { users: vec![User::default()], more: true }));
    assert_eq!(endless.ask("user list").code, 0);
    assert_eq!(endless.requests().len(), 2, "a page that does not get further ends the list");
}

#[test]
fn deleting_asks_and_says_what_it_costs() {
    let mut bench = bench(|_, verb, request| {
        assert_eq!(verb, USER_DELETE);
        let dry = request.get("dry_run").is_some();
        Ok(json!(Done { message: if dry { "delete ann with 7 messages" } else { "deleted ann" }.into() }))
    });
    let outcome = bench.ask("user delete ann");
    assert_eq!((outcome.code, outcome.err.contains("--yes")), (exit::USAGE, true));
    bench.interactive = true;
    bench.input = "n\n";
    let outcome = bench.ask("user delete ann");
    assert_eq!(outcome.code, exit::UNEXPECTED);
    assert!(outcome.err.starts_with("delete ann with 7 messages\nGo ahead? [y/N]"), "{}", outcome.err);
    assert!(bench.requests().iter().all(|r| r["dry_run"] == true), "nothing was changed so far");
    bench.input = "y\n";
    assert_eq!(bench.ask("user delete ann").out, "deleted ann\n");
    assert_eq!(bench.ask("user delete ann --dry-run").out, "would: delete ann with 7 messages\n");
    bench.calls.lock().unwrap().clear();
    assert_eq!(bench.ask("user delete ann --yes").out, "deleted ann\n");
    assert_eq!(bench.requests(), [json!({ "user": "ann" })]);
}

#[test]
fn verify_exits_by_what_it_finds() {
    let user = |equal, missing: &[&str]| VerifiedUser {
        name: "ann".into(),
        group: 1,
        hashes: vec![("n1".into(), "aa".into()), ("n2".into(), if equal { "aa" } else { "bb" }.into())],
        missing: missing.iter().map(|m| (*m).to_owned()).collect(),
        equal,
        ..VerifiedUser::default()
    };
    let problems = vec![ReplicaProblem { node: "n2".into(), what: "2 bodies are missing and 0 damaged".into() }];
    let lacking = VerifiedUser { problems, ..user(true, &[]) };
    for (user, code, line) in [
        (lacking, exit::DATA, "ann: on n2: 2 bodies are missing and 0 damaged"),
        (user(true, &[]), exit::OK, "1 of 1 users equal on all replicas, 0 differ, 0 not fully seen"),
        (user(true, &["n3"]), exit::WARNINGS, "ann: no answer from n3"),
        (user(false, &[]), exit::DATA, "ann: replicas differ: n1 aa, n2 bb"),
    ] {
        let outcome = answering(USER_VERIFY, json!(Verified { users: vec![user], more: false })).ask("user verify");
        assert_eq!((outcome.code, outcome.out.lines().next()), (code, Some(line)));
    }
}

#[test]
fn repair_asks_first_and_tells_what_is_left() {
    let page = |done: &[&str], left: &[&str], more| Repaired {
        users: 1,
        done: done.iter().map(|text| (*text).to_owned()).collect(),
        left: left.iter().map(|text| (*text).to_owned()).collect(),
        last: Some("ann".into()),
        more,
    };
    let bench = bench(move |_, verb, request| {
        assert_eq!(verb, USER_REPAIR);
        let second = request["after"] == json!("ann");
        let left: &[&str] = if second && request["dry_run"] != json!(true) { &["bob: n3 does not answer"] } else { &[] };
        Ok(json!(page(&["fetch bodies of ann to n2"], left, !second)))
    });
    let outcome = bench.ask("user repair a* --dry-run");
    assert_eq!((outcome.code, outcome.out.lines().next()), (exit::OK, Some("would: fetch bodies of ann to n2")));
    assert!(bench.requests().iter().all(|request| request["dry_run"] == json!(true) && request["mask"] == json!("a*")));
    let outcome = bench.ask("user repair a* --yes");
    assert_eq!(outcome.code, exit::DATA);
    assert!(outcome.out.contains("not mended: bob: n3 does not answer\n"), "{}", outcome.out);
}

#[test]
fn scrub_is_started_on_one_node_or_all_and_its_state_is_a_table() {
    let pass = ScrubPass { bytes: 2048, bodies: 7, records: 9, damaged: 3, repaired: 3, ..ScrubPass::default() };
    let node = NodeScrub { node: "n2".into(), bytes_in_all: 2048, last: Some(pass.clone()), ..NodeScrub::default() };
    let bench = answering(BODY_SCRUB_START, json!(Scrubs { nodes: vec![node.clone()], unreachable: Vec::new() }));
    assert_eq!(bench.ask("body scrub start n2").out, "read about 2.0 KiB again on n2\n");
    bench.ask("body scrub start --dry-run");
    assert_eq!(bench.requests(), [json!({ "node": "n2" }), json!({ "dry_run": true })]);
    let status = |pass: ScrubPass, unreachable: &[&str]| {
        let node = NodeScrub { last: Some(pass), ..node.clone() };
        let scrubs = Scrubs { nodes: vec![node], unreachable: unreachable.iter().map(|name| (*name).to_owned()).collect() };
        answering(BODY_SCRUB_STATUS, json!(scrubs)).ask("body scrub status")
    };
    let outcome = status(pass.clone(), &[]);
    assert_eq!(outcome.code, exit::OK);
    assert!(outcome.out.contains("n2    finished       7        9        3         3               0\n"), "{}", outcome.out);
    assert_eq!(status(pass.clone(), &["n3"]).code, exit::WARNINGS);
    assert_eq!(status(ScrubPass { not_repairable: 1, ..pass }, &["n3"]).code, exit::DATA);
}

#[test]
fn a_move_is_waited_for_and_its_end_is_told() {
    let moving = |stage, why: Option<&str>| {
        json!(UserMoving { user: "ann@a".into(), from: 3, to: 5, number: 9, stage, why: why.map(str::to_owned) })
    };
    let moved = |end: MoveStage, why: Option<&'static str>| {
        let asked = std::sync::atomic::AtomicU32::new(0);
        bench(move |_, verb, _| {
            let stage = match (verb, asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                (USER_MOVE, _) | (_, 0 | 1) => MoveStage::Copying,
                (_, 2) => MoveStage::CleaningUp,
                _ => end,
            };
            Ok(moving(stage, why.filter(|_| stage == MoveStage::GivenUp)))
        })
    };
    let done = moved(MoveStage::Done, None);
    let outcome = done.ask("user move ann --group 5 --yes");
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "ann@a is in group 5\n"));
    assert_eq!(outcome.err, "ann@a: copying\nann@a: arrived, cleaning up\n");
    assert_eq!(done.requests()[0], json!({ "user": "ann", "group": 5 }));
    let outcome = moved(MoveStage::GivenUp, Some("no room")).ask("user move ann --group 5 --yes");
    assert_eq!(outcome.code, exit::TRY_AGAIN);
    assert!(outcome.err.contains("PC335") && outcome.err.contains("stays in group 3: no room"), "{}", outcome.err);
    let outcome = moved(MoveStage::Copying, None).ask("user move ann --group 5 --yes --timeout 300ms");
    assert_eq!(outcome.code, exit::TRY_AGAIN);
    assert!(outcome.err.contains("goes on by itself"), "{}", outcome.err);
    let dry = moved(MoveStage::Done, None);
    assert_eq!(dry.ask("user move ann --group 5 --dry-run").out, "would: move ann@a from group 3 to 5\n");
    assert_eq!(dry.requests(), [json!({ "user": "ann", "group": 5, "dry_run": true })]);
}

#[test]
fn leases_sessions_and_replicas_are_tables() {
    let lease =
        Lease { user: "ann@a".into(), group: 3, holder: Some("n2".into()), boot: 1, fence: 41, live: true, candidates: vec!["n1".into()] };
    let outcome = answering(LEASE_SHOW, json!(lease)).ask("lease show ann");
    assert!(outcome.out.contains("holder      n2\nfence       41\n"), "{}", outcome.out);
    let leases = Leases { leases: vec![lease.clone(), Lease { holder: None, user: "bob@a".into(), ..lease.clone() }], more: false };
    let outcome = answering(LEASE_LIST, json!(leases)).ask("lease list");
    assert_eq!(outcome.out, "USER   HOLDER      FENCE  GROUP\nann@a  n2             41      3\nbob@a  nobody yet     41      3\n");
    let bench = answering(LEASE_MOVE, json!(lease));
    assert_eq!(bench.ask("lease move ann --to n2").out, "ann@a is held by n2 (fence 41)\n");
    assert_eq!(bench.requests(), [json!({ "user": "ann", "to": "n2" })]);
    let session = Session { user: "ann@a".into(), protocol: "imap".into(), node: "n1".into(), age_s: 61, ..Session::default() };
    let sessions = Sessions { sessions: vec![session], unreachable: vec!["n3".into()] };
    let outcome = answering(SESSION_LIST, json!(sessions)).ask("who");
    assert_eq!((outcome.code, outcome.out.ends_with("no answer from: n3\n")), (exit::WARNINGS, true));
    let outcome = answering(SESSION_KICK, json!(Kicked { sessions: 2, unreachable: vec![] })).ask("kick ann* --yes");
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "ended 2 sessions\n"));
    let replica = Replica { group: 1, node: "n1".into(), role: "leader".into(), durable: Some(9), lag: None, missing_bodies: Some(0) };
    let outcome =
        answering(REPLICATION_STATUS, json!(Replication { replicas: vec![replica], ..Replication::default() })).ask("replication status");
    assert!(outcome.out.contains("leader        9    -               0"), "{}", outcome.out);
    let outcome = answering(METRICS, json!(Metrics { text: "parliament_x 1\n".into() })).ask("metrics");
    assert_eq!(outcome.out, "parliament_x 1\n");
}

#[test]
fn groups_are_listed_shown_and_transferred() {
    let groups = Groups { groups: status(&THREE, 2).groups };
    assert_eq!(answering(GROUP_LIST, json!(groups)).ask("group list").out.lines().count(), 3);
    let both = move |_: &Target, verb: &str, _: &Value| Ok(if verb == GROUP_LIST { json!(groups) } else { json!(Replication::default()) });
    let bench = bench(both);
    assert_eq!(bench.ask("group show 1 --json").json()["group"]["id"], 1);
    assert_eq!(bench.ask("group show 9").code, exit::USAGE);
    let bench = answering(GROUP_TRANSFER, json!(Done { message: "n2 leads group 1".into() }));
    assert_eq!(bench.ask("group transfer 1 --to n2").out, "n2 leads group 1\n");
}

#[test]
fn clusters_are_formed_and_shown() {
    let cluster =
        Cluster { name: "demo".into(), id: "x".into(), groups: 8, replication: 3, nodes: vec!["n1".into()], version: "0.1.0".into() };
    let bench = answering(CLUSTER_INIT, json!(cluster));
    assert_eq!(bench.ask("cluster init --groups 8").out, "formed: cluster demo of n1 with 8 groups in 3 copies\n");
    assert_eq!(bench.requests(), [json!({ "groups": 8 })]);
    assert!(bench.ask("cluster init --dry-run").out.starts_with("would: form cluster demo"));
    assert!(answering(CLUSTER_SHOW, json!(cluster)).ask("cluster show").out.contains("nodes        n1\n"));
}

#[test]
fn nodes_come_and_go() {
    let all = || vec!["n1".to_owned(), "n2".to_owned(), "n3".to_owned()];
    let row = GroupMove { group: 7, from: all(), to: vec!["n2".into(), "n3".into(), "n4".into()] };
    let changed = NodeChanged { message: "n1 is draining".into(), moves: vec![row], warnings: Vec::new() };
    let bench = answering(NODE_DRAIN, json!(changed));
    let outcome = bench.ask("node drain n1 --yes");
    assert!(outcome.out.starts_with("n1 is draining\n\nGROUP") && outcome.out.contains("n2,n3,n4"), "{}", outcome.out);
    assert!(bench.ask("node drain n1 --dry-run").out.starts_with("would: n1 is draining"));
    assert_eq!(bench.requests(), [json!({ "node": "n1" }), json!({ "node": "n1", "dry_run": true })]);

    let warned = NodeChanged { message: "n3 is given up".into(), warnings: vec!["its vote stays".into()], ..NodeChanged::default() };
    let bench = answering(NODE_REMOVE, json!(warned));
    let outcome = bench.ask("node remove n3 --lost --yes");
    assert_eq!((outcome.out.as_str(), outcome.code), ("n3 is given up\n  its vote stays\n", exit::WARNINGS));
    assert_eq!(bench.requests(), [json!({ "node": "n3", "lost": true })]);

    let invitation = Invitation { token: "parliament-join-1-ab".into(), expires: 9, seeds: vec!["h:7400".into()] };
    let bench = answering(NODE_INVITE, json!(invitation));
    assert!(bench.ask("node invite --valid 2h").out.starts_with("parliament-join-1-ab\n"));
    assert_eq!(bench.requests(), [json!({ "valid_s": 7200 })]);
}

#[test]
fn configurations_are_written_checked_shown_and_explained() {
    let bench = bench(unreachable_node);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let at = file.display();
    let set = "--set peer.listen=127.0.0.1:7400 --set imap.listen_tls= --set pop3.listen_tls= --set node.name=mx1";
    assert_eq!(bench.run(&format!("init config {at} {set}")).code, 0);
    assert_eq!(bench.run(&format!("init config {at}")).code, exit::UNEXPECTED, "never overwritten");
    assert_eq!(bench.run(&format!("config check --config {at}")).out, format!("{at}: no problems\n"));
    let shown = bench.run(&format!("config show --config {at} --json")).json();
    let row = shown["settings"].as_array().unwrap().iter().find(|r| r["key"] == "node.name").unwrap().clone();
    assert_eq!(
        (row["value"].as_str(), row["origin"].as_str().map(|o| o.starts_with(file.to_str().unwrap()))),
        (Some("\"mx1\""), Some(true))
    );
    assert!(bench.run("config explain cluster.groups").out.contains("PARLIAMENT_CLUSTER__GROUPS"));
    let outcome = bench.run("config explain cluster.group");
    assert_eq!((outcome.code, outcome.err.contains("did you mean cluster.groups?")), (exit::CONFIG, true));
    let outcome = bench.run("init config - --set node.zon=a");
    assert_eq!((outcome.code, outcome.err.contains("did you mean node.zone?")), (exit::CONFIG, true));

    std::fs::write(&file, "[node]\nnam = \"x\"\n[cluster]\ngroups = 0\n").unwrap();
    let outcome = bench.run(&format!("config check --config {at}"));
    assert_eq!(
        (outcome.code, outcome.out.contains("did you mean node.name?"), outcome.out.ends_with("5 problems\n")),
        (exit::CONFIG, true, true)
    );
    let outcome = bench.run(&format!("server --config {at}"));
    assert_eq!((outcome.code, outcome.err.contains("cluster.groups wants")), (exit::CONFIG, true));
    assert_eq!(bench.run(&format!("server --config {at} --json")).json()["code"], "PC103");
    assert!(bench.calls.lock().unwrap().is_empty(), "none of these asks a node");
}

#[test]
fn the_server_gets_a_checked_configuration() {
    let bench = bench(unreachable_node);
    let line = "server --join token --set peer.listen=127.0.0.1:7400 --set imap.listen_tls= --set pop3.listen_tls= --set node.zone=east";
    assert_eq!(bench.run(line).code, 0);
    let served = bench.served.lock().unwrap().take().unwrap();
    assert_eq!((served.config.node.zone.as_str(), served.sources.flags.len()), ("east", 4));
    assert_eq!(served.join.as_deref(), Some("token"));
    assert_eq!(bench.run("server").code, exit::CONFIG, "peers off loopback without certificates");
}

#[test]
fn certificates_are_made_once() {
    let bench = bench(unreachable_node);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("ca");
    let at = at.display();
    let outcome = bench.run(&format!("init ca --out {at} --cluster east --for n1,n1.example.org,10.0.0.1 --for n2 --admin --json"));
    assert_eq!(outcome.json()["issued"][0]["names"], json!(["n1", "n1.example.org", "10.0.0.1", "east"]));
    assert_eq!(outcome.json()["issued"].as_array().unwrap().len(), 3);
    assert_eq!(bench.run(&format!("init ca --out {at} --for n3")).code, 0);
    assert_eq!(bench.run(&format!("init ca --out {at} --for n1")).code, exit::UNEXPECTED);
    assert_eq!(bench.run(&format!("init ca --out {at} --for admin")).code, exit::USAGE);
    assert_eq!(bench.run(&format!("init ca --out {at} --for ../x")).code, exit::USAGE);
}

#[test]
fn demo_verbs_without_a_demo_say_so() {
    let bench = bench(unreachable_node);
    for line in ["demo ls", "demo kill n1", "demo send ann"] {
        let outcome = bench.run(line);
        assert_eq!((outcome.code, outcome.err.contains("no demo runs")), (exit::UNAVAILABLE, true), "{line}");
    }
    // No configuration, no demo: what to do next is said. (A configured machine would be asked instead.)
    if !std::path::Path::new(parliament_config::DEFAULT_FILE).exists() {
        assert!(bench.run("node list").err.contains("start `parliament demo`"));
    }
}

/// Users that one of two nodes holds all of; moved ones are held by the other.
fn lopsided(moved: Arc<Mutex<Vec<String>>>) -> Bench {
    let mut nodes = status(&[("n1", "z1", NodeState::Up), ("n2", "z2", NodeState::Up)], 1).nodes;
    nodes.iter_mut().zip(1..).for_each(|(node, id)| node.id = id);
    let nodes = json!(Nodes { nodes });
    bench(move |_, verb, request| {
        let mut moved = moved.lock().unwrap();
        let lease = |user: &str| {
            let holder = if moved.iter().any(|m| m == user) { "n2" } else { "n1" };
            let candidates = vec!["n1".into(), "n2".into()];
            Lease { user: user.into(), holder: Some(holder.into()), live: true, candidates, ..Lease::default() }
        };
        Ok(match verb {
            NODE_LIST => nodes.clone(),
            GROUP_LIST => json!(Groups::default()),
            LEASE_LIST => json!(Leases { leases: ["ann@a", "bob@a", "eve@a"].map(lease).to_vec(), more: false }),
            LEASE_MOVE => {
                moved.push(request["user"].as_str().unwrap().to_owned());
                json!(Lease::default())
            }
            _ => panic!("{verb}"),
        })
    })
}

#[test]
fn rebalance_moves_what_is_too_much_and_nothing_the_second_time() {
    let moved = Arc::new(Mutex::new(Vec::new()));
    let bench = lopsided(moved.clone());
    assert_eq!(bench.ask("lease rebalance --dry-run").out, "would: move 1 user\nUSER   TO\nann@a  n2\n");
    assert!(moved.lock().unwrap().is_empty());
    assert_eq!(bench.ask("lease rebalance --rate 1000").out, "moved 1 user\n");
    assert_eq!(bench.ask("lease rebalance --json").json()["moved"], json!([]));
    assert_eq!(*moved.lock().unwrap(), ["ann@a"]);
}
