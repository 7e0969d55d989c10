//! A process killed in the middle of commits and flushes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use parliament_mailbox_state::{MemoryTables, Writes};

use super::open;
use crate::TableState;
use crate::testing::records;

const FOLDER: &str = "PARLIAMENT_TABLES_CRASH_FOLDER";
const NAME: &str = "tests::crash::killed_process_leaves_one_state";

fn writes(turn: u64) -> Writes {
    let spread = |n: u64| turn.wrapping_mul(0x9e37_79b9).wrapping_add(n * 0x1234_5677) % 500;
    let mut writes: Writes = (0..5)
        .map(|n| (spread(n).to_be_bytes().to_vec(), (turn % 5 != n).then(|| vec![turn as u8; (spread(n + 9) * 3) as usize])))
        .collect();
    writes.insert(b"turn".to_vec(), Some(turn.to_be_bytes().to_vec()));
    writes.insert(b"long".to_vec(), (!turn.is_multiple_of(7)).then(|| vec![turn as u8; (turn % 20_000) as usize]));
    writes
}

fn state_of(dir: &Path) -> (crate::GroupTables, u64) {
    let opened = open(dir);
    let turn = match opened.state {
        TableState::Fresh => 0,
        TableState::Ready { applied } => u64::from_be_bytes(applied.try_into().expect("a mark of eight bytes")),
        other => panic!("{other:?}"),
    };
    (opened.tables, turn)
}

/// Commits for ever, while another thread flushes.
fn child(dir: &Path) {
    let (tables, mut turn) = state_of(dir);
    let flusher = tables.clone();
    std::thread::spawn(move || {
        loop {
            flusher.flush().expect("flush");
            std::thread::sleep(Duration::from_micros(700));
        }
    });
    loop {
        turn += 1;
        tables.commit(writes(turn), &turn.to_be_bytes()).expect("commit");
    }
}

#[test]
fn killed_process_leaves_one_state() {
    if let Some(dir) = std::env::var_os(FOLDER) {
        child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("dir");
    let (mut model, mut reached) = (MemoryTables::new(), 0);
    for round in 0..8_u64 {
        let mut process = Command::new(std::env::current_exe().expect("path"))
            .args(["--exact", NAME, "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        std::thread::sleep(Duration::from_millis(180 + round * 37));
        assert_eq!(process.try_wait().expect("wait"), None, "the child failed by itself");
        process.kill().expect("kill");
        process.wait().expect("wait");
        let (tables, turn) = state_of(dir.path());
        assert!(turn >= reached);
        for turn in reached + 1..=turn {
            model.commit(writes(turn));
        }
        reached = turn;
        assert!(records(&tables, b"", b"\xff") == records(&model, b"", b"\xff"), "after {turn} turns");
    }
    assert!(reached > 0, "no flush completed");
}
