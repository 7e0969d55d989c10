//! The demo with real processes. This program is its own `parliament`: called with a verb it carries it out, with a node that
//! speaks just enough of each protocol; called without, it runs the tests.

#![allow(clippy::unwrap_used, reason = "a test, though without the harness that says so")]

#[path = "demo/fake_node.rs"]
mod fake_node;

use parliament_ctl::{Wiring, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() {
    let verb = std::env::args().nth(1).unwrap_or_default();
    if ["server", "demo", "status", "lease"].contains(&verb.as_str()) {
        let wiring = Wiring { connect: Arc::new(fake_node::connect), serve: Box::new(|serve| fake_node::serve(&serve.config)) };
        std::process::exit(run(std::env::args_os(), wiring).into());
    }
    let tests: [(&str, fn()); 4] = [
        ("a_second_terminal_rules_the_nodes", a_second_terminal_rules_the_nodes),
        ("no_node_outlives_a_killed_demo", no_node_outlives_a_killed_demo),
        ("load_counts_what_is_lost", load_counts_what_is_lost),
        ("a_node_that_cannot_start_ends_the_demo", a_node_that_cannot_start_ends_the_demo),
    ];
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    for (name, test) in tests.into_iter().filter(|(name, _)| wanted.as_ref().is_none_or(|w| name.contains(w.as_str()))) {
        test();
        println!("test {name} ... ok");
    }
}

/// A demo in a terminal of its own.
struct Demo {
    process: Child,
    home: tempfile::TempDir,
    ready: Value,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

fn parliament(home: &Path, line: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(line.split_whitespace()).env("TMPDIR", home).env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
    command
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Demo {
    /// Starts a demo and waits for its ready file. Its ports are fixed: where another demo has them, it waits its turn.
    fn start(flags: &str, variables: &[(&str, &str)]) -> Self {
        let begun = Instant::now();
        loop {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join("ready");
            let line = format!("demo {flags} --password secret --ready-file {}", file.display());
            let mut command = parliament(home.path(), &line);
            let mut process = command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let ended = until("the ready file", || if file.exists() { Some(None) } else { process.try_wait().unwrap().map(Some) });
            if ended.is_none() {
                let ready = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                return Self { process, home, ready };
            }
            let said = process.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.contains("listens on") && begun.elapsed() < Duration::from_secs(120), "{said}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn run(&self, line: &str) -> Output {
        parliament(self.home.path(), line).output().unwrap()
    }

    /// The document of a verb that succeeds.
    fn ask(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json"));
        assert!(output.status.success(), "{line}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn node(&self, name: &str) -> (i32, String) {
        let listed = self.ask("demo ls");
        let node = listed["nodes"].as_array().unwrap().iter().find(|n| n["id"] == name).unwrap().clone();
        (i32::try_from(node["pid"].as_u64().unwrap()).unwrap(), node["state"].as_str().unwrap().to_owned())
    }

    fn pids(&self) -> Vec<i32> {
        ["n1", "n2", "n3"].iter().map(|n| self.node(n).0).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn end(&mut self) -> i32 {
        self.signal(Signal::TERM);
        until("the demo's end", || self.process.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

/// The state letter of a process; `None` when there is none.
fn process_state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    stat.rsplit_once(") ")?.1.chars().next().filter(|state| *state != 'Z')
}

fn a_second_terminal_rules_the_nodes() {
    let mut demo = Demo::start("--users 2", &[]);
    assert_eq!(demo.ready["users"].as_array().unwrap().len(), 4);
    assert_eq!((demo.ready["password"].as_str(), demo.ready["nodes"][2]["imaps"].as_str()), (Some("secret"), Some("127.0.0.1:31993")));
    assert!(Path::new(demo.ready["ca"].as_str().unwrap()).exists());
    let (pid, state) = demo.node("n1");
    assert_eq!((demo.ready["nodes"][0]["pid"].as_i64(), state.as_str()), (Some(i64::from(pid)), "up"));

    assert_eq!(demo.ask("demo kill n1")["pid"], pid);
    assert_eq!((process_state(pid), demo.node("n1")), (None, (0, "down".to_owned())));
    assert_eq!(demo.run("demo kill n1").status.code(), Some(1), "it is down");
    assert_eq!(demo.run("demo kill n9").status.code(), Some(64));
    assert_eq!(demo.ask("status")["answered_by"], "n2", "verbs go to a node that is up");
    assert!(demo.ask("demo start n1")["ready_ms"].is_u64());
    assert_ne!(demo.node("n1"), (pid, "up".to_owned()));
    assert_eq!(demo.ask("status")["answered_by"], "n1");
    assert_eq!(demo.ask("demo kill --holder-of alice")["node"], "n2");

    let (pid, _) = demo.node("n3");
    demo.ask("demo pause n3");
    assert_eq!((process_state(pid), demo.node("n3").1.as_str()), (Some('T'), "paused"));
    demo.ask("demo resume n3");
    assert_ne!(process_state(pid), Some('T'));
    assert_eq!(demo.node("n3"), (pid, "up".to_owned()));

    assert_eq!(demo.ask("demo send alice")["to"], "alice@demo.test");
    assert_eq!(demo.run("demo send nobody").status.code(), Some(67));

    demo.ask("demo pause n3");
    let pids = demo.pids();
    assert_eq!(demo.end(), 0);
    assert!(pids.iter().all(|pid| process_state(*pid).is_none()), "a node was left");
    assert_eq!(demo.run("demo ls").status.code(), Some(69));
    let left: Vec<_> = std::fs::read_dir(demo.home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("parliament-demo.")), "{left:?}");
}

fn no_node_outlives_a_killed_demo() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(&format!("--dir {}", dir.path().display()), &[]);
    demo.ask("demo pause n2");
    let pids = demo.pids();
    demo.process.kill().unwrap();
    demo.process.wait().unwrap();
    until("all nodes to be gone", || pids.iter().all(|pid| process_state(*pid).is_none()).then_some(()));
    assert!(dir.path().join("n1/data").exists(), "a folder that was named is kept");
    assert_eq!(demo.run("demo ls").status.code(), Some(69), "the dead demo's entry is cleared away");
    // The folder can be used again, with the same password and authority.
    let ca = std::fs::read(dir.path().join("ca/ca.pem")).unwrap();
    let mut again = Demo::start(&format!("--dir {}", dir.path().display()), &[]);
    assert_eq!(std::fs::read(dir.path().join("ca/ca.pem")).unwrap(), ca);
    assert_eq!(again.ask(&format!("demo ls --dir {}", dir.path().display()))["password"], "secret");
    assert_eq!(again.run("demo ls --dir /elsewhere").status.code(), Some(69));
    assert_eq!(again.end(), 0);
}

fn load_counts_what_is_lost() {
    for (variables, clean) in [(&[][..], true), (&[("FAKE_NODE_LOSES", "1")][..], false)] {
        let mut demo = Demo::start("--nodes 1 --load", variables);
        let mut lines = BufReader::new(demo.process.stdout.take().unwrap()).lines();
        let line = until("figures of the load", || {
            let line = lines.next()?.unwrap();
            let acked: u64 = line.strip_prefix("acked ")?.split(' ').next()?.parse().ok()?;
            (acked > 100 && (clean || !line.contains("lost 0"))).then_some(line)
        });
        assert_eq!(line.ends_with("· lost 0 · duplicate UIDs 0"), clean, "{line}");
        assert_eq!(demo.end(), if clean { 0 } else { 70 });
    }
}

fn a_node_that_cannot_start_ends_the_demo() {
    let home = tempfile::tempdir().unwrap();
    let output = until("a demo with free ports", || {
        let output = parliament(home.path(), "demo").env("FAKE_NODE_FAILS", "1").output().unwrap();
        let busy = String::from_utf8_lossy(&output.stderr).contains("listens on");
        (!busy).then_some(output)
    });
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("ended while the demo started") && said.contains("the disk is on fire"), "{said}");
}
