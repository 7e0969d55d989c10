//! Damaged, left-over and half-written files.

use std::fs;
use std::path::{Path, PathBuf};

use parliament_mailbox_state::Tables;

use super::{one, open, open_ready, small};
use crate::base::Base;
use crate::directory::Directory;
use crate::snapshot_file::Writer;
use crate::{GroupTables, TableError, TableState};

fn filled(dir: &Path) {
    let tables = open(dir).tables;
    for n in 0..200_u32 {
        tables.commit(one(&n.to_be_bytes(), format!("value-{n:05}-{}", "x".repeat(100)).as_bytes()), b"mark").expect("commit");
    }
    tables.flush().expect("flush");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").file_name().into_string().expect("name")).collect();
    names.sort();
    names
}

#[test]
fn garbage_is_set_aside_once() {
    let dir = tempfile::tempdir().expect("dir");
    filled(dir.path());
    fs::write(dir.path().join("tables.1/conf"), [0xa5; 4096]).expect("write");
    for _ in 0..2 {
        let opened = open(dir.path());
        assert!(matches!(&opened.state, TableState::SetAside { why } if !why.is_empty()), "{:?}", opened.state);
        assert!(matches!(opened.tables.commit(one(b"k", b"v"), b"1"), Err(TableError::Incomplete(_))));
        assert!(opened.tables.get(b"k").is_err());
        assert_eq!(names(dir.path()), ["aside.1", "incomplete"]);
    }
    let tables = open(dir.path()).tables;
    tables.start_empty().expect("start");
    tables.commit(one(b"k", b"v"), b"1").expect("commit");
    tables.flush().expect("flush");
    drop(tables);
    drop(open_ready(dir.path(), b"1"));
    fs::write(dir.path().join("tables.2/conf"), [0xa5; 4096]).expect("write");
    assert!(matches!(open(dir.path()).state, TableState::SetAside { .. }));
    assert_eq!(names(dir.path()), ["aside.2", "incomplete"], "only the last one is kept");
}

/// Flips a bit in every copy of a value in the database file.
fn flip(dir: &Path, pattern: &[u8]) {
    let file = dir.join("tables.1/db");
    let mut bytes = fs::read(&file).expect("read");
    let hits: Vec<usize> = bytes.windows(pattern.len()).enumerate().filter(|(_, window)| *window == pattern).map(|(at, _)| at).collect();
    assert!(!hits.is_empty());
    for at in hits {
        bytes[at + 3] ^= 1;
    }
    fs::write(&file, bytes).expect("write");
}

#[test]
fn flipped_bits_in_the_database_are_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    filled(dir.path());
    // Two more flushes, so that the redo file cannot make good what is lost.
    let tables = open(dir.path()).tables;
    for n in 0..2 {
        tables.commit(one(b"k", &[n]), b"mark").expect("commit");
        tables.flush().expect("flush");
    }
    drop(tables);
    flip(dir.path(), b"value-00077");
    let opened = open(dir.path());
    let noticed = match opened.state {
        TableState::SetAside { .. } => true,
        TableState::Ready { .. } => opened.tables.get(&77_u32.to_be_bytes()).is_err(),
        _ => false,
    };
    assert!(noticed);
}

#[test]
fn our_own_checksum_is_checked_on_every_path() {
    let dir = tempfile::tempdir().expect("dir");
    filled(dir.path());
    let key = [&[crate::record::USER], 77_u32.to_be_bytes().as_slice()].concat();
    let db = sled::open(dir.path().join("tables.1")).expect("sled");
    let mut value = db.get(&key).expect("get").expect("record").to_vec();
    value[20] ^= 1;
    db.insert(&key, value).expect("insert");
    db.flush().expect("flush");
    drop(db);
    let tables = open_ready(dir.path(), b"mark");
    let fault = tables.get(&77_u32.to_be_bytes()).expect_err("damaged");
    assert!(fault.what.contains("checksum"), "{fault}");
    assert!(tables.scan(b"", b"\xff", &mut |_, _| true).is_err());
    assert!(tables.last(b"", &78_u32.to_be_bytes()).is_err());
    assert!(tables.get(&78_u32.to_be_bytes()).expect("others can be read").is_some());
    let run = tables.snapshot_to(&dir.path().join("s"), b"").expect("snapshot");
    assert!(matches!(run.run(), Err(TableError::Damaged(_))));
    tables.condemn("a damaged record").expect("condemn");
    assert!(tables.get(b"k").is_err());
    assert!(matches!(tables.commit(one(b"k", b"v"), b"1"), Err(TableError::Incomplete(_))));
    drop(tables);
    assert_eq!(open(dir.path()).state, TableState::SetAside { why: "a damaged record".into() });
    assert_eq!(names(dir.path()), ["aside.1", "incomplete"]);
}

#[test]
fn left_over_generating_file_is_removed() {
    let dir = tempfile::tempdir().expect("dir");
    filled(dir.path());
    let left_over = dir.path().join("tables.1/snap.00000000000F4240.generating");
    fs::write(&left_over, b"half a snapshot").expect("write");
    drop(open_ready(dir.path(), b"mark"));
    assert!(!left_over.exists());
}

/// A redo file as a flush writes it, with `written` of its records in sled already.
fn half_flushed(dir: &Path, written: u32) -> PathBuf {
    filled(dir);
    let directory = Directory::open(dir).expect("folder");
    let base = Base::open(&directory.database(1), 1 << 20).expect("base");
    let next = base.flushed().expect("flushed").number + 1;
    let mut writer = Writer::create(&directory.redo(), &next.to_le_bytes(), b"next").expect("create");
    for n in 0..40_u32 {
        let value = (n % 3 != 0).then(|| vec![9; n as usize * 300]);
        writer.put(&n.to_be_bytes(), value.as_deref()).expect("put");
        if n < written {
            base.write(&n.to_be_bytes(), value.as_deref()).expect("write");
        }
    }
    writer.finish(false).expect("finish");
    directory.redo()
}

#[test]
fn an_interrupted_flush_is_completed() {
    for written in [0, 1, 22, 40] {
        let dir = tempfile::tempdir().expect("dir");
        half_flushed(dir.path(), written);
        drop(open_ready(dir.path(), b"next"));
        let tables = open_ready(dir.path(), b"next");
        for n in 0..40_u32 {
            assert_eq!(tables.get(&n.to_be_bytes()).expect("get"), (n % 3 != 0).then(|| vec![9; n as usize * 300]));
        }
        assert_eq!(tables.len().expect("len"), 200 - 14);
    }
}

#[test]
fn a_damaged_redo_file_condemns_the_database() {
    let dir = tempfile::tempdir().expect("dir");
    let redo = half_flushed(dir.path(), 5);
    let mut bytes = fs::read(&redo).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&redo, bytes).expect("write");
    assert!(matches!(open(dir.path()).state, TableState::SetAside { .. }));
}

#[test]
fn an_unfinished_redo_file_is_ignored() {
    let dir = tempfile::tempdir().expect("dir");
    filled(dir.path());
    fs::write(dir.path().join("redo.tmp"), b"PTABLE01 and no more").expect("write");
    drop(open_ready(dir.path(), b"mark"));
    assert_eq!(names(dir.path()), ["redo", "tables.1"]);
}

/// Puts the database back to what it was some flushes ago, as sled does by itself when it meets damage in its log.
#[test]
fn a_database_that_lost_flushes_is_noticed() {
    for (flushes, state) in [(1, TableState::Ready { applied: b"mark".to_vec() }), (2, TableState::SetAside { why: String::new() })] {
        let dir = tempfile::tempdir().expect("dir");
        filled(dir.path());
        let (database, old) = (dir.path().join("tables.1"), dir.path().join("old"));
        fs::create_dir_all(old.join("blobs")).expect("folder");
        for name in names(&database).iter().filter(|name| *name != "blobs") {
            fs::copy(database.join(name), old.join(name)).expect("copy");
        }
        let tables = open(dir.path()).tables;
        for _ in 0..flushes {
            tables.commit(one(b"k", b"v"), b"mark").expect("commit");
            tables.flush().expect("flush");
        }
        drop(tables);
        fs::remove_dir_all(&database).expect("remove");
        fs::rename(&old, &database).expect("rename");
        let opened = open(dir.path());
        match (&opened.state, &state) {
            (TableState::SetAside { why }, TableState::SetAside { .. }) => assert!(why.contains("holds flush"), "{why}"),
            (found, expected) => assert_eq!(found, expected),
        }
        if flushes == 1 {
            assert_eq!(opened.tables.get(b"k").expect("the redo file made it good"), Some(b"v".to_vec()));
        }
    }
}

#[test]
fn a_database_that_is_gone_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    filled(dir.path());
    fs::remove_dir_all(dir.path().join("tables.1")).expect("remove");
    assert_eq!(open(dir.path()).state, TableState::SetAside { why: "damaged: the database is gone".into() });
    assert_eq!(names(dir.path()), ["incomplete"]);
}

#[test]
fn a_flush_without_room_for_its_redo_file_can_be_repeated() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = GroupTables::open(dir.path(), &small()).expect("open").tables;
    tables.commit(one(b"a", b"1"), b"1").expect("commit");
    tables.flush().expect("flush");
    // A folder in the way of the redo file's temporary name.
    fs::create_dir(dir.path().join("redo.tmp")).expect("folder");
    tables.commit(one(b"b", b"2"), b"2").expect("commit");
    for _ in 0..2 {
        assert!(matches!(tables.flush(), Err(TableError::Io { .. })));
        assert_eq!((tables.applied(), tables.durable()), (Some(b"2".to_vec()), Some(b"1".to_vec())));
        assert_eq!(tables.get(b"b").expect("get"), Some(b"2".to_vec()));
    }
    tables.commit(one(b"a", b"3"), b"3").expect("commit");
    let big: Vec<u8> = vec![1; 70 << 10];
    tables.commit(one(b"big", &big), b"4").expect("commit");
    assert!(matches!(tables.commit(one(b"a", b"refused"), b"5"), Err(TableError::Io { .. })), "memory is bounded");
    fs::remove_dir(dir.path().join("redo.tmp")).expect("remove");
    assert_eq!(tables.flush().expect("flush"), b"4");
    drop(tables);
    let tables = open_ready(dir.path(), b"4");
    for (key, value) in [(b"a".as_slice(), b"3".as_slice()), (b"b", b"2"), (b"big", &big)] {
        assert_eq!(tables.get(key).expect("get").as_deref(), Some(value));
    }
}

#[test]
fn a_flush_that_fails_in_sled_is_final_until_an_install() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(&dir.path().join("t")).tables;
    tables.commit(one(b"long", &[1; 5_000]), b"1").expect("commit");
    tables.flush().expect("flush");
    let snapshot = dir.path().join("s");
    tables.snapshot_to(&snapshot, b"").expect("snapshot").run().expect("run");
    drop(tables);
    let directory = Directory::open(&dir.path().join("t")).expect("folder");
    let db = sled::open(directory.database(1)).expect("sled");
    db.insert([&[crate::record::USER], b"long".as_slice()].concat(), b"garbage").expect("insert");
    db.flush().expect("flush");
    drop(db);
    let tables = open_ready(&dir.path().join("t"), b"1");
    tables.commit(one(b"long", b"2"), b"2").expect("commit");
    assert!(matches!(tables.flush(), Err(TableError::Damaged(_))));
    assert!(matches!(tables.flush(), Err(TableError::Sled { .. })));
    assert!(matches!(tables.commit(one(b"c", b"3"), b"3"), Err(TableError::Sled { .. })));
    assert_eq!((tables.durable(), tables.get(b"long").expect("get")), (Some(b"1".to_vec()), Some(b"2".to_vec())));
    tables.install(&snapshot).expect("install");
    tables.commit(one(b"c", b"3"), b"3").expect("commit");
    assert_eq!(tables.flush().expect("flush"), b"3");
    assert_eq!(tables.get(b"long").expect("get"), Some(vec![1; 5_000]));
}
