//! What lies on the medium is read while the tables are in use, and what is damaged is replaced beside its readers.

use std::fs;
use std::path::Path;

use parliament_mailbox_state::Tables;

use super::{one, open, open_ready, small};
use crate::{GroupTables, TableError};

/// Two hundred records, all flushed, and one that is pending.
fn filled(dir: &Path) -> GroupTables {
    let tables = open(dir).tables;
    for n in 0..200_u32 {
        tables.commit(one(&n.to_be_bytes(), value(n).as_bytes()), b"mark").expect("commit");
    }
    for n in 0..2 {
        tables.commit(one(b"k", &[n]), b"mark").expect("commit");
        tables.flush().expect("flush");
    }
    tables.commit(one(b"pending", b"1"), b"last").expect("commit");
    tables
}

fn value(n: u32) -> String {
    format!("value-{n:05}-{}", "x".repeat(100))
}

fn flip(path: &Path, pattern: &[u8]) {
    let mut bytes = fs::read(path).expect("read");
    let hits: Vec<usize> = bytes.windows(pattern.len()).enumerate().filter(|(_, window)| *window == pattern).map(|(at, _)| at).collect();
    assert!(!hits.is_empty());
    hits.into_iter().for_each(|at| bytes[at + 3] ^= 1);
    // In place: sled has the file open.
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).expect("write");
    file.sync_all().expect("sync");
}

fn expect_all(tables: &GroupTables) {
    for n in 0..200_u32 {
        assert_eq!(tables.get(&n.to_be_bytes()).expect("get"), Some(value(n).into_bytes()));
    }
    assert_eq!(tables.get(b"pending").expect("get"), Some(b"1".to_vec()));
    assert_eq!(tables.applied().as_deref(), Some(&b"last"[..]));
}

#[test]
fn sound_tables_are_found_sound_while_they_are_written() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = filled(dir.path());
    for _ in 0..3 {
        let checked = tables.check().expect("check");
        assert!(checked.records == 201 && checked.bytes > 20_000 && !checked.redo_damaged, "{checked:?}");
        tables.commit(one(b"k", b"more"), b"last").expect("commit");
    }
    expect_all(&tables);
    assert!(!dir.path().join("check").exists());
}

#[test]
fn a_flip_in_the_database_is_found_although_memory_has_the_page_and_a_rebuild_mends_it() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = filled(dir.path());
    let snapshot = dir.path().join("snapshot");
    tables.snapshot_to(&snapshot, b"meta").expect("begin").run().expect("run");
    tables.commit(one(b"later", b"2"), b"last").expect("commit");
    expect_all(&tables);
    flip(&dir.path().join("tables.1/db"), b"value-00077");
    assert!(matches!(tables.check(), Err(TableError::Damaged(_))));
    // A replay that leads nowhere changes nothing.
    let refused = tables.rebuild(Some(&snapshot), |_| Err(TableError::Damaged("the log".into())));
    assert!(refused.is_err());
    expect_all(&tables);
    tables
        .rebuild(Some(&snapshot), |staging| {
            assert_eq!(staging.get(b"pending").expect("get"), Some(b"1".to_vec()));
            assert_eq!(staging.last(b"a", b"l").expect("last").map(|(key, _)| key), Some(b"k".to_vec()));
            staging.write(one(b"later", b"2"))
        })
        .expect("rebuild");
    expect_all(&tables);
    assert_eq!(tables.get(b"later").expect("get"), Some(b"2".to_vec()));
    assert_eq!(tables.check().expect("check").records, 203);
    tables.commit(one(b"after", b"3"), b"after").expect("commit");
    tables.flush().expect("flush");
    drop(tables);
    let tables = open_ready(dir.path(), b"after");
    assert_eq!(tables.get(b"after").expect("get"), Some(b"3".to_vec()));
    assert_eq!(tables.len().expect("len"), 204);
}

#[test]
fn a_damaged_redo_file_is_written_anew() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = filled(dir.path());
    let redo = dir.path().join("redo");
    let middle = fs::read(&redo).expect("read")[20..28].to_vec();
    flip(&redo, &middle);
    assert!(tables.check().expect("check").redo_damaged);
    assert!(!tables.check().expect("check").redo_damaged);
    drop(tables);
    drop(open_ready(dir.path(), b"mark"));
}

#[test]
fn a_read_that_meets_damage_is_remembered_until_the_rebuild() {
    let dir = tempfile::tempdir().expect("dir");
    drop(filled(dir.path()));
    flip(&dir.path().join("tables.1/db"), b"value-00077");
    let crate::Opened { tables, state } = GroupTables::open(dir.path(), &small()).expect("open");
    if !matches!(state, crate::TableState::Ready { .. }) {
        // sled itself found it on the way.
        return;
    }
    assert!(!tables.is_suspect());
    assert!(tables.get(&77_u32.to_be_bytes()).is_err());
    assert!(tables.is_suspect());
    let all = |staging: &crate::Staging| (0..200_u32).try_for_each(|n| staging.write(one(&n.to_be_bytes(), value(n).as_bytes())));
    tables.rebuild(None, all).expect("rebuild");
    assert!(!tables.is_suspect() && tables.get(&77_u32.to_be_bytes()).expect("get").is_some());
}
