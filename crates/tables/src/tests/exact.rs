//! Snapshots taken while commits go on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use parliament_mailbox_state::{MemoryTables, Tables, Writes};

use super::{one, open, open_ready, small};
use crate::testing::records;
use crate::{GroupTables, TableError, TableOptions, TableState, read_snapshot_meta, verify_snapshot};

/// Writes that overwrite, remove, make and lengthen records all over the key space.
fn busy(turn: u64) -> Writes {
    let mut state = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..6)
        .map(|_| {
            let key = (random() % 4_000).to_be_bytes().to_vec();
            let bytes = if random() % 200 == 0 { 7_000 } else { random() % 200 };
            (key, (random() % 4 != 0).then(|| vec![turn as u8; bytes as usize]))
        })
        .collect()
}

/// Ends the other threads of a test, when it fails too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn snapshot_is_the_image_of_the_moment() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(&dir.path().join("source")).tables;
    let model = Mutex::new((MemoryTables::new(), 0_u64));
    let commit = || {
        let mut model = model.lock().expect("lock");
        model.1 += 1;
        let writes = busy(model.1);
        model.0.commit(writes.clone());
        tables.commit(writes, &model.1.to_be_bytes()).expect("commit");
    };
    for _ in 0..2_000 {
        commit();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                commit();
                std::thread::yield_now();
            }
        });
        for round in 0..6_u8 {
            let path = dir.path().join(format!("snapshot.{round}"));
            let (run, image, turn) = {
                let model = model.lock().expect("lock");
                (tables.snapshot_to(&path, &[round]).expect("snapshot"), model.0.clone(), model.1)
            };
            assert_eq!(run.applied(), turn.to_be_bytes());
            assert!(matches!(tables.snapshot_to(&path, b""), Err(TableError::SnapshotBusy)));
            while model.lock().expect("lock").1 < turn + 300 {
                std::thread::yield_now();
            }
            let info = run.run().expect("run");
            assert!(model.lock().expect("lock").1 > turn, "commits went on");
            assert_eq!(verify_snapshot(&path).expect("verify"), info);
            assert_eq!((info.records as usize, &info.meta), (image.iter().count(), &vec![round]));
            let copy_dir = dir.path().join(format!("copy.{round}"));
            let copy = open(&copy_dir).tables;
            assert_eq!(copy.install(&path).expect("install"), [round]);
            assert_eq!(copy.applied(), Some(turn.to_be_bytes().to_vec()));
            assert_eq!(records(&copy, b"", b"\xff"), records(&image, b"", b"\xff"));
            drop(copy);
            let copy = open_ready(&copy_dir, &turn.to_be_bytes());
            assert_eq!(records(&copy, b"", b"\xff"), records(&image, b"", b"\xff"));
        }
    });
    let model = model.into_inner().expect("lock");
    assert_eq!(records(&tables, b"", b"\xff"), records(&model.0, b"", b"\xff"));
}

#[test]
fn same_state_gives_the_same_bytes() {
    let dir = tempfile::tempdir().expect("dir");
    let mut files = Vec::new();
    for name in ["a", "b"] {
        let tables = open(&dir.path().join(name)).tables;
        for turn in 1..500 {
            tables.commit(busy(turn), &turn.to_be_bytes()).expect("commit");
        }
        if name == "b" {
            tables.flush().expect("flush");
        }
        let path = dir.path().join(format!("{name}.snapshot"));
        tables.snapshot_to(&path, b"meta").expect("snapshot").run().expect("run");
        files.push(std::fs::read(path).expect("read"));
    }
    assert!(files[0] == files[1]);
}

#[test]
fn empty_tables_have_a_snapshot_too() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(&dir.path().join("t")).tables;
    let path = dir.path().join("s");
    let info = tables.snapshot_to(&path, b"").expect("snapshot").run().expect("run");
    assert_eq!((info.records, info.applied.len()), (0, 0));
    assert_eq!(read_snapshot_meta(&path).expect("meta"), b"");
    tables.commit(one(b"k", b"v"), b"1").expect("commit");
    tables.install(&path).expect("install");
    assert_eq!((tables.applied(), tables.is_empty().expect("empty")), (None, true));
    drop(tables);
    assert_eq!(open(&dir.path().join("t")).state, TableState::Fresh);
}

#[test]
fn too_many_changes_cost_the_snapshot_not_the_commit() {
    let dir = tempfile::tempdir().expect("dir");
    let options = TableOptions { snapshot_key_bytes_max: 1_000, ..small() };
    let tables = GroupTables::open(&dir.path().join("t"), &options).expect("open").tables;
    let path = dir.path().join("s");
    let run = tables.snapshot_to(&path, b"").expect("snapshot");
    for turn in 1..20 {
        tables.commit(busy(turn), b"1").expect("commit");
    }
    assert!(matches!(run.run(), Err(TableError::SnapshotLost(_))));
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "only the tables are left");
    tables.snapshot_to(&path, b"").expect("snapshot").run().expect("the next one succeeds");
}

#[test]
fn a_dropped_run_frees_the_place() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(&dir.path().join("t")).tables;
    drop(tables.snapshot_to(&dir.path().join("s"), b"").expect("snapshot"));
    tables.snapshot_to(&dir.path().join("s"), b"").expect("snapshot").run().expect("run");
    assert_eq!(tables.get(b"k").expect("get"), None);
}

/// A value of one repeated byte pair, long enough for several pieces: torn ones show.
fn long(turn: u16) -> Vec<u8> {
    turn.to_be_bytes().repeat(2_000 + turn as usize % 5_000)
}

fn turn_of(value: &[u8]) -> u16 {
    let turn = u16::from_be_bytes([value[0], value[1]]);
    assert!(value == long(turn), "torn");
    turn
}

#[test]
fn readers_beside_flushes_see_whole_values_in_order() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(&dir.path().join("t")).tables;
    let commit = |turn: u16| tables.commit([b"a", b"b", b"c"].map(|key| (key.to_vec(), Some(long(turn)))).into(), b"m").expect("commit");
    commit(0);
    let done = AtomicBool::new(false);
    let going = || !done.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(|| {
            while going() {
                tables.flush().expect("flush");
            }
        });
        scope.spawn(|| {
            let mut seen = 0;
            while going() {
                let turn = turn_of(&tables.get(b"b").expect("get").expect("record"));
                assert!(turn >= seen);
                seen = turn;
            }
        });
        scope.spawn(|| {
            let mut seen = 0;
            while going() {
                let all: Vec<u16> = records(&tables, b"", b"z").iter().map(|(_, value)| turn_of(value)).collect();
                assert!(all.len() == 3 && all.iter().all(|turn| *turn == all[0] && *turn >= seen), "{all:?} after {seen}");
                seen = turn_of(&tables.last(b"", b"z").expect("last").expect("record").1);
            }
        });
        for turn in 1..1_500 {
            commit(turn);
        }
    });
}
