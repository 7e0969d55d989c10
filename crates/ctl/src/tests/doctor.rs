//! `doctor`, `status --watch` and `replication status` as whole command lines.

use super::*;
use crate::diagnosis::tests::exam;

#[test]
fn doctor_ends_in_one_next_step_and_exits_by_the_gravest_finding() {
    for (down, code, next) in [
        (&[][..], exit::OK, "next step: nothing is left to do: all nodes answer, and nothing was found wrong"),
        (&["n2"], exit::DEGRADED, "next step: start n2, or if it runs, look at the way to n2:7400 and at its log"),
        (
            &["n2", "n3"],
            exit::UNAVAILABLE,
            "next step: start n2, n3; nothing that was acknowledged is lost, and service comes back by itself",
        ),
    ] {
        let bench = doctor_of(down);
        let outcome = bench.ask("doctor");
        assert_eq!((outcome.code, outcome.out.lines().last(), outcome.err.as_str()), (code, Some(next), ""));
        assert_eq!(outcome.out.matches("next step:").count(), 1);
        let json = bench.ask("doctor --json");
        assert_eq!((json.code, json.json()["diagnosis"]["next_step"].as_str()), (code, next.strip_prefix("next step: ")));
    }
}

/// Nodes that are down are down for everybody.
fn doctor_of(down: &'static [&'static str]) -> Bench {
    bench(move |target, verb, _| match target {
        Target::Peer { address, .. } if down.iter().any(|name| address.starts_with(name)) => unreachable_node(target, verb, &Value::Null),
        _ => Ok(json!(exam(down))),
    })
}

#[test]
fn doctor_shows_who_sees_whom_and_what_groups_have() {
    let out = doctor_of(&["n2"]).ask("doctor").out;
    assert!(
        out.contains("FROM \\ TO      n1         n2      n3\nn1              .  silent 9s  0.3 ms\nn2              ?          .       ?\n"),
        "{out}"
    );
    assert!(out.contains("n1      yes     2 of 3 (n1 n3)      0 1\n"), "{out}");
    assert!(
        out.contains("n1    tls.mail.cert  ends in 300 days\n") && out.contains("  DEGRADED  n2 does not answer at n2:7400\n"),
        "{out}"
    );
}

#[test]
fn doctor_asks_the_silent_itself() {
    // n3 does not answer the node that is asked, and answers this command: the network is at fault.
    let bench = bench(|target, _, request| match target {
        Target::Peer { address, .. } if address == "n3:7400" => {
            assert_eq!(request, &json!({ "alone": true }));
            let mut alone = exam(&["n1", "n2"]);
            alone.nodes[0].hears.iter_mut().for_each(|heard| heard.silent_ms = 5_000);
            Ok(json!(alone))
        }
        _ => Ok(json!(exam(&["n3"]))),
    });
    let outcome = bench.ask("doctor");
    assert_eq!(outcome.code, exit::DEGRADED);
    assert!(outcome.out.contains("n3 answers this command, and does not answer n1"), "{}", outcome.out);
    assert!(outcome.out.ends_with("next step: look at the network and the certificates between n3 and n1: both run\n"), "{}", outcome.out);
}

#[test]
fn doctor_says_something_where_nobody_answers() {
    let outcome = bench(unreachable_node).ask("doctor");
    assert_eq!(outcome.code, exit::UNAVAILABLE);
    assert!(
        outcome.out.contains("OUTAGE  no node answers: connection refused") && outcome.out.contains("next step: start the node"),
        "{}",
        outcome.out
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    std::fs::write(&file, "[node]\nnam = \"x\"\n").unwrap();
    let outcome = bench(unreachable_node).run(&format!("doctor --config {}", file.display()));
    assert_eq!(outcome.code, exit::UNAVAILABLE);
    assert!(outcome.out.contains("CONFIG") && outcome.out.contains("node.nam"), "{}", outcome.out);
}

#[test]
fn doctor_hangs_no_longer_than_the_node_it_asks() {
    let bench = bench(|_, _, _| Err(AdminError::new(code::TIMEOUT, exit::TRY_AGAIN, "no answer in time")));
    let outcome = bench.ask("doctor");
    assert_eq!((outcome.code, outcome.out.contains("no node answers: no answer in time")), (exit::UNAVAILABLE, true));
}

#[test]
fn doctor_collects_into_a_new_file_of_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bundle.json");
    let bench = doctor_of(&[]);
    let line = format!("doctor --collect {}", file.display());
    assert_eq!(bench.ask(&line).code, exit::OK);
    let bundle: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for key in ["exam", "diagnosis", "here", "status", "replication", "metrics", "written_at_unix_seconds"] {
        assert!(!bundle[key].is_null(), "{key}");
    }
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, bench.ask(&line).code), (0o600, exit::UNEXPECTED), "nothing is written over");
    let asked: Vec<String> = bench.calls.lock().unwrap().iter().map(|call| call.1.clone()).collect();
    assert!(asked.iter().all(|verb| [DOCTOR, STATUS, REPLICATION_STATUS, METRICS].contains(&verb.as_str())), "no verb that names users");
}

#[test]
fn watching_gives_one_document_a_line_until_nobody_reads() {
    struct Narrow(Buffer, usize);
    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.1 == 0 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            self.1 -= 1;
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let bench = answering(STATUS, json!(status(&TWO, 9)));
    let (code, out) = bench.run_to("--node 127.0.0.1:17400 status --watch --interval 1ms --json", |out| Box::new(Narrow(out, 3)));
    assert_eq!((code, out.lines().count()), (exit::DEGRADED, 3));
    for line in out.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["verdict"]["health"], "degraded");
    }
}

#[test]
fn a_node_that_hangs_does_not_hide_what_the_next_one_knows() {
    let answers = |target: &Target, _: &str, _: &Value| match target {
        Target::Peer { address, .. } if address == "a:1" => Err(AdminError::new(code::TIMEOUT, exit::TRY_AGAIN, "no answer in time")),
        _ => Ok(json!({})),
    };
    let calls = Calls::default();
    let known = calls.clone();
    let connect: Connect = Arc::new(move |target, _| {
        Ok(Box::new(Fake { target: target.clone(), calls: known.clone(), answers: Arc::new(answers) }) as Box<dyn AdminClient>)
    });
    let targets = ["a:1", "b:1"].map(|address| Target::Peer { address: address.into(), tls: None }).to_vec();
    let nodes = crate::verbs::Nodes { connect, targets, timeout: Duration::from_secs(5) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(nodes.call(STATUS, json!({}))).is_ok());
    assert!(runtime.block_on(nodes.call(USER_DELETE, json!({}))).is_err(), "a change is asked for once");
    assert_eq!(calls.lock().unwrap().len(), 3);
}

#[test]
fn replication_is_summed_up_by_node() {
    let replica = |group, node: &str, lag: Option<u64>| Replica {
        group,
        node: node.into(),
        role: "voter".into(),
        durable: lag.map(|lag| 90 - lag),
        lag,
        missing_bodies: Some(0),
    };
    let replicas = vec![replica(0, "n1", Some(0)), replica(0, "n2", None), replica(1, "n1", Some(0)), replica(1, "n3", Some(7))];
    let unreachable = vec!["n2".to_owned()];
    let outcome =
        answering(REPLICATION_STATUS, json!(Replication { replicas, unreachable, ..Replication::default() })).ask("replication status");
    assert_eq!(outcome.code, exit::WARNINGS);
    let head = "2 of 4 copies have all that is committed; 1 behind, at most 7 entries; 1 not known\n";
    assert!(outcome.out.starts_with(head), "{}", outcome.out);
    assert!(
        outcome.out.contains("n3         1        0    7               0\n")
            && outcome.out.contains("n2         1        0    -               0\n"),
        "{}",
        outcome.out
    );
}
