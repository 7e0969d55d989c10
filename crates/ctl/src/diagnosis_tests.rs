use super::*;
use crate::api::{Certificate, Heard, Member};

fn heard(node: &str, silent_ms: u64) -> Heard {
    Heard { node: node.into(), silent_ms, round_trip_us: (silent_ms == 0).then_some(300), ahead_ms: Some(3), rate_ppm: Some(1_000_000) }
}

/// Three nodes with two groups on each; those in `down` do not answer.
pub(crate) fn exam(down: &[&str]) -> Exam {
    let names = ["n1", "n2", "n3"];
    let up = |name: &&&str| !down.contains(*name);
    let copy = |group| CopyExam {
        group,
        leader: names.iter().find(up).map(|n| (*n).to_owned()),
        term: 4,
        last_log: Some(90),
        committed: Some(90),
        applied: Some(90),
        stopped: None,
    };
    let node = |name: &&str| NodeExam {
        name: (*name).to_owned(),
        version: "0.1.0".into(),
        boot: 1,
        hears: names
            .iter()
            .filter(|other| *other != name)
            .map(|other| heard(other, if down.contains(other) { 9_000 } else { 0 }))
            .collect(),
        disk_free_bytes: 50 << 30,
        disk_size_bytes: 100 << 30,
        certificates: vec![Certificate { setting: "tls.mail.cert".into(), days_left: Some(300), problem: None }],
        groups: (0..2).map(copy).collect(),
        ..NodeExam::default()
    };
    let member = |name: &&str| Member { name: (*name).to_owned(), zone: "a".into(), address: format!("{name}:7400") };
    Exam {
        cluster: "demo".into(),
        formed: true,
        answered_by: names.iter().find(up).map(|n| (*n).to_owned()).unwrap_or_default(),
        members: names.iter().map(member).collect(),
        voters: vec![names.map(str::to_owned).to_vec(); 2],
        nodes: names.iter().filter(up).map(node).collect(),
    }
}

fn alone(exam: &Exam) -> Diagnosis {
    diagnose(exam, &Circumstances::default())
}

#[test]
fn a_sound_cluster_has_no_findings() {
    let found = alone(&exam(&[]));
    assert_eq!((found.findings.len(), found.exit()), (0, exit::OK));
    assert!(found.next_step.starts_with("nothing is left to do"), "{}", found.next_step);
    assert!(found.groups.iter().all(|group| group.quorum && group.answering.len() == 3 && group.leader.as_deref() == Some("n1")));
    assert_eq!(found.sees.len(), 6);
}

#[test]
fn one_node_down_is_degraded_and_two_are_an_outage() {
    let one = alone(&exam(&["n2"]));
    assert_eq!((one.exit(), one.silent.as_slice()), (exit::DEGRADED, &["n2".to_owned()][..]));
    assert_eq!(one.findings[0].what, "n2 does not answer at n2:7400");
    assert!(one.next_step.starts_with("start n2"), "{}", one.next_step);
    assert!(
        one.sees.contains(&("n1".into(), "n2".into(), Sight::Silent(9_000)))
            && one.sees.contains(&("n2".into(), "n1".into(), Sight::Unknown))
    );
    let two = alone(&exam(&["n2", "n3"]));
    assert_eq!(two.exit(), exit::UNAVAILABLE);
    assert!(two.findings[0].what.starts_with("2 of 2 groups have no quorum"), "{:?}", two.findings);
    assert!(two.next_step.starts_with("start n2, n3;"), "{}", two.next_step);
}

#[test]
fn what_is_wrong_is_found_and_told_by_gravity() {
    type Spoil = fn(&mut Exam);
    let cases: [(Spoil, &str, u8); 14] = [
        (|e| e.nodes[1].groups[1].stopped = Some("bad entry".into()), "group 1 has stopped on n2: bad entry", exit::DATA),
        (|e| e.nodes[0].uid_regressions = 1, "1 UIDs were given twice", exit::DATA),
        (|e| (e.nodes[0].damaged_bodies, e.nodes[0].missing_bodies) = (2, 2), "2 bodies are damaged on n1", exit::DATA),
        (|e| e.nodes[0].missing_bodies = 5, "n1 lacks 5 bodies", exit::DEGRADED),
        (|e| e.nodes[2].disk_refuses = Some("messages".into()), "the disk of n3 is full: it refuses messages", exit::DEGRADED),
        (|e| e.nodes[2].disk_free_bytes = 12 << 30, "the disk of n3 has 12.0 GiB of 100.0 GiB free", exit::WARNINGS),
        (|e| e.nodes[0].certificates[0].days_left = Some(5), "tls.mail.cert on n1 ends in 5 days", exit::WARNINGS),
        (|e| e.nodes[0].certificates[0].days_left = Some(-3), "tls.mail.cert on n1 has ended 3 days ago", exit::DEGRADED),
        (|e| e.nodes[0].hears[0].ahead_ms = Some(-4_500), "the wall clock of n2 is 4.5 s behind that of n1", exit::WARNINGS),
        (|e| e.nodes[0].hears[0].rate_ppm = Some(2_000_000), "the clock of n2 runs at 2.00 times the rate", exit::DEGRADED),
        (|e| e.nodes[1].version = "0.2.0".into(), "nodes run different versions: 0.1.0, 0.2.0", exit::WARNINGS),
        (|e| e.nodes[1].unready = Some("draining".into()), "n2 does not serve: draining", exit::DEGRADED),
        (
            |e| e.nodes[0].hears[0].silent_ms = 4_000,
            "n1 does not hear n2, which runs: they are not connected in one direction only",
            exit::DEGRADED,
        ),
        (|e| e.nodes[2].groups[0].applied = Some(0), "", exit::OK),
    ];
    for (spoil, what, code) in cases {
        let mut exam = exam(&[]);
        spoil(&mut exam);
        let found = alone(&exam);
        let first = found.findings.first().map(|f| f.what.clone()).unwrap_or_default();
        assert!(first.starts_with(what), "{first} instead of {what}");
        assert_eq!(found.exit(), code, "{what}");
        assert!(found.findings.is_empty() || found.next_step == found.findings[0].next, "the next step is that of the gravest");
    }
}

#[test]
fn what_no_node_can_tell_is_found_too() {
    let nobody = Circumstances { unreachable: Some("connection refused".into()), ..Circumstances::default() };
    let found = diagnose(&Exam::default(), &nobody);
    assert_eq!((found.exit(), found.findings.len()), (exit::UNAVAILABLE, 1));
    let broken = Circumstances { config_problems: vec!["[tls.mail] lacks tls.mail.cert".into()], ..Circumstances::default() };
    assert_eq!(diagnose(&exam(&[]), &broken).exit(), exit::CONFIG);
    assert!(diagnose(&Exam::default(), &Circumstances::default()).next_step.contains("cluster init"));
    let cut = Circumstances { reached_directly: BTreeSet::from(["n3".to_owned()]), ..Circumstances::default() };
    let found = diagnose(&exam(&[]), &cut);
    assert!(found.next_step.contains("between n3 and n1"), "{}", found.next_step);
}
