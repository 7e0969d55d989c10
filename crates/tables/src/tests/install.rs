//! Installing snapshots, and what interrupts that.

use std::fs;
use std::path::{Path, PathBuf};

use parliament_mailbox_state::{Tables, Writes};

use super::{one, open, open_ready};
use crate::directory::{Directory, Incomplete};
use crate::testing::records;
use crate::{TableError, TableState, read_snapshot_meta, verify_snapshot};

fn snapshot(dir: &Path) -> PathBuf {
    let tables = open(&dir.join("source")).tables;
    let writes: Writes = (0..3_000_u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; n as usize % 700]))).collect();
    tables.commit(writes, b"source").expect("commit");
    tables.commit(one(b"long", &[5; 9_000]), b"source").expect("commit");
    let path = dir.join("snapshot");
    tables.snapshot_to(&path, b"meta").expect("snapshot").run().expect("run");
    path
}

#[test]
fn install_replaces_everything() {
    let dir = tempfile::tempdir().expect("dir");
    let path = snapshot(dir.path());
    let target = dir.path().join("target");
    let tables = open(&target).tables;
    tables.commit(one(b"old", b"v"), b"old").expect("commit");
    tables.flush().expect("flush");
    tables.commit(one(b"older", b"v"), b"old").expect("commit");
    let run = tables.snapshot_to(&dir.path().join("lost"), b"").expect("snapshot");
    assert_eq!(tables.install(&path).expect("install"), b"meta");
    assert!(matches!(run.run(), Err(TableError::SnapshotLost(_))));
    assert_eq!((tables.applied(), tables.durable()), (Some(b"source".to_vec()), Some(b"source".to_vec())));
    assert_eq!(tables.get(b"old").expect("get"), None);
    assert_eq!(tables.get(b"older").expect("get"), None);
    assert_eq!(tables.len().expect("len"), 3_001);
    tables.commit(one(b"new", b"v"), b"new").expect("commit");
    assert_eq!(tables.flush().expect("flush"), b"new");
    drop(tables);
    assert_eq!(open_ready(&target, b"new").len().expect("len"), 3_002);
}

#[test]
fn interrupted_install_is_found_until_one_completes() {
    let dir = tempfile::tempdir().expect("dir");
    let path = snapshot(dir.path());
    let target = dir.path().join("target");
    let tables = open(&target).tables;
    tables.commit(one(b"old", b"v"), b"old").expect("commit");
    tables.flush().expect("flush");
    drop(tables);
    // What a crash right after the mark, or anywhere in the load, leaves.
    Directory::open(&target).expect("folder").write_mark(&Incomplete::Installing).expect("mark");
    for _ in 0..2 {
        let opened = open(&target);
        assert_eq!(opened.state, TableState::Installing);
        let tables = opened.tables;
        assert_eq!(tables.applied(), None);
        assert!(tables.get(b"old").is_err());
        assert!(tables.scan(b"", b"\xff", &mut |_, _| true).is_err());
        assert!(tables.last(b"", b"\xff").is_err());
        assert!(matches!(tables.commit(one(b"k", b"v"), b"1"), Err(TableError::Incomplete(_))));
        assert!(matches!(tables.flush(), Err(TableError::Incomplete(_))));
        assert!(matches!(tables.snapshot_to(&dir.path().join("s"), b""), Err(TableError::Incomplete(_))));
    }
    let tables = open(&target).tables;
    tables.install(&path).expect("install");
    drop(tables);
    assert_eq!(open_ready(&target, b"source").len().expect("len"), 3_001);
}

#[test]
fn start_empty_allows_a_replay() {
    let dir = tempfile::tempdir().expect("dir");
    Directory::open(dir.path()).expect("folder").write_mark(&Incomplete::Installing).expect("mark");
    let tables = open(dir.path()).tables;
    tables.start_empty().expect("start");
    tables.commit(one(b"k", b"v"), b"1").expect("commit");
    tables.flush().expect("flush");
    drop(tables);
    open_ready(dir.path(), b"1");
}

#[test]
fn a_damaged_snapshot_is_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().expect("dir");
    let path = snapshot(dir.path());
    let tables = open(&dir.path().join("target")).tables;
    tables.commit(one(b"k", b"v"), b"1").expect("commit");
    let whole = fs::read(&path).expect("read");
    let bad = dir.path().join("bad");
    for cut in [0, 7, 16, 20, whole.len() / 2, whole.len() - 49, whole.len() - 1] {
        fs::write(&bad, &whole[..cut]).expect("write");
        assert!(matches!(tables.install(&bad), Err(TableError::Damaged(_))), "cut at {cut}");
    }
    for at in (0..whole.len()).step_by(whole.len() / 150 + 1).chain(whole.len() - 60..whole.len()) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&bad, &flipped).expect("write");
        assert!(matches!(verify_snapshot(&bad), Err(TableError::Damaged(_))), "flip at {at}");
    }
    fs::write(&bad, [whole.as_slice(), b"x"].concat()).expect("write");
    assert!(matches!(tables.install(&bad), Err(TableError::Damaged(_))));
    assert!(matches!(tables.install(&dir.path().join("absent")), Err(TableError::Io { .. })));
    assert_eq!(tables.get(b"k").expect("get"), Some(b"v".to_vec()));
    assert_eq!(tables.applied(), Some(b"1".to_vec()));
    assert_eq!(read_snapshot_meta(&path).expect("meta"), b"meta");
}

#[test]
fn lengths_from_a_hostile_file_are_bounded() {
    let dir = tempfile::tempdir().expect("dir");
    let bad = dir.path().join("bad");
    let mut header = b"PTABLE01".to_vec();
    header.extend_from_slice(&[0; 8]);
    let crc = crc32c::crc32c(&header).to_le_bytes();
    header.extend_from_slice(&crc);
    for block in
        [[0xff; 13], [b'B', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], [b'B', 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]]
    {
        fs::write(&bad, [header.as_slice(), &block].concat()).expect("write");
        assert!(matches!(verify_snapshot(&bad), Err(TableError::Damaged(_))));
    }
    fs::write(&bad, [b"PTABLE01".as_slice(), &[0xff; 8]].concat()).expect("write");
    assert!(matches!(read_snapshot_meta(&bad), Err(TableError::Damaged(_))));
}

#[test]
fn memory_of_install_survives_in_records() {
    let dir = tempfile::tempdir().expect("dir");
    let path = snapshot(dir.path());
    let tables = open(&dir.path().join("target")).tables;
    tables.install(&path).expect("install");
    let again = dir.path().join("again");
    tables.snapshot_to(&again, b"meta").expect("snapshot").run().expect("run");
    assert!(fs::read(&path).expect("read") == fs::read(&again).expect("read"), "a snapshot of an install is the same file");
    assert_eq!(records(&tables, b"long", b"lonh"), [(b"long".to_vec(), vec![5; 9_000])]);
}
