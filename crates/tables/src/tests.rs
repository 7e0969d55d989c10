//! Tests of the crate as its callers see it.

mod crash;
mod damage;
mod exact;
mod install;
mod rebuild;

use std::path::Path;

use parliament_mailbox_state::{MemoryTables, Tables, Writes};
use proptest::prelude::*;

use crate::testing::{conformance, same};
use crate::{GroupTables, KEY_BYTES_MAX, Opened, TableError, TableOptions, TableState, VALUE_BYTES_MAX};

/// Little memory, so that flushes and spills happen in small tests.
fn small() -> TableOptions {
    TableOptions { cache_bytes: 1 << 20, pending_bytes_max: 64 << 10, snapshot_value_bytes_max: 2 << 10, snapshot_key_bytes_max: 1 << 20 }
}

fn open(dir: &Path) -> Opened {
    GroupTables::open(dir, &small()).expect("open")
}

fn open_ready(dir: &Path, applied: &[u8]) -> GroupTables {
    let opened = open(dir);
    assert_eq!(opened.state, TableState::Ready { applied: applied.to_vec() });
    opened.tables
}

fn one(key: &[u8], value: &[u8]) -> Writes {
    Writes::from([(key.to_vec(), Some(value.to_vec()))])
}

#[test]
fn memory_tables_conform() {
    conformance(&mut MemoryTables::new(), |tables, writes| tables.commit(writes));
}

#[test]
fn pending_tables_conform() {
    let dir = tempfile::tempdir().expect("dir");
    conformance(&mut open(dir.path()).tables, |tables, writes| tables.commit(writes, b"m").expect("commit"));
}

#[test]
fn flushed_tables_conform() {
    let dir = tempfile::tempdir().expect("dir");
    conformance(&mut open(dir.path()).tables, |tables, writes| {
        tables.commit(writes, b"m").expect("commit");
        tables.flush().expect("flush");
    });
}

#[test]
fn flushed_below_pending_conform() {
    let dir = tempfile::tempdir().expect("dir");
    let mut turn = 0;
    conformance(&mut open(dir.path()).tables, |tables, writes| {
        tables.commit(writes, b"m").expect("commit");
        turn += 1;
        if turn % 2 == 0 {
            tables.flush().expect("flush");
        }
    });
}

#[test]
fn marks_of_commit_and_flush() {
    let dir = tempfile::tempdir().expect("dir");
    let opened = open(dir.path());
    assert_eq!(opened.state, TableState::Fresh);
    let tables = opened.tables;
    assert_eq!((tables.applied(), tables.durable()), (None, None));
    assert_eq!(tables.flush().expect("nothing to flush"), b"");
    tables.commit(one(b"k", b"v"), b"1").expect("commit");
    assert_eq!((tables.applied(), tables.durable()), (Some(b"1".to_vec()), None));
    assert_eq!(tables.flush().expect("flush"), b"1");
    tables.commit(Writes::new(), b"2").expect("a mark alone");
    assert_eq!((tables.applied(), tables.durable()), (Some(b"2".to_vec()), Some(b"1".to_vec())));
    assert_eq!(tables.flush().expect("flush"), b"2");
    assert_eq!(tables.flush().expect("again"), b"2");
    tables.commit(one(b"lost", b"v"), b"3").expect("commit");
    drop(tables);
    let tables = open_ready(dir.path(), b"2");
    assert_eq!(tables.get(b"lost").expect("get"), None);
    assert_eq!(tables.get(b"k").expect("get"), Some(b"v".to_vec()));
    assert_eq!((tables.len().expect("len"), tables.is_empty().expect("empty")), (1, false));
}

#[test]
fn a_flush_syncs_the_device() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(dir.path()).tables;
    tables.commit(one(b"k", b"v"), b"1").expect("commit");
    let before = crate::real_sync::calls();
    tables.flush().expect("flush");
    assert!(crate::real_sync::calls() > before);
    assert!(tables.stats().expect("stats").device_syncs > before);
}

#[test]
fn self_test_passes_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    crate::self_test_in(dir.path()).expect("self-test");
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
    crate::self_test().expect("self-test");
}

#[test]
fn sizes_out_of_bounds_apply_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(dir.path()).tables;
    let refused = [
        (one(&[1; KEY_BYTES_MAX + 1], b"v"), b"1".to_vec()),
        (one(b"k", &vec![1; VALUE_BYTES_MAX + 1]), b"1".to_vec()),
        (one(b"k", b"v"), Vec::new()),
        (one(b"k", b"v"), vec![1; 10_000]),
    ];
    for (writes, applied) in refused {
        assert!(matches!(tables.commit(writes, &applied), Err(TableError::Size { .. })));
    }
    assert!(tables.is_empty().expect("empty"));
    assert_eq!(tables.applied(), None);
    tables.commit(one(&[1; KEY_BYTES_MAX], &vec![1; VALUE_BYTES_MAX]), b"1").expect("at the bounds");
    tables.flush().expect("flush");
    assert_eq!(tables.get(&[1; KEY_BYTES_MAX]).expect("get"), Some(vec![1; VALUE_BYTES_MAX]));
    let blobs = std::fs::read_dir(dir.path().join("tables.1/blobs")).expect("list").count();
    assert_eq!(blobs, 0, "sled never syncs its blobs");
}

#[test]
fn largest_inline_records_make_no_blobs() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(dir.path()).tables;
    for round in 0..3_u8 {
        for n in 0..60_u8 {
            let mut key = vec![n.wrapping_mul(97); KEY_BYTES_MAX];
            key[0] = n;
            tables.commit(one(&key, &[round; crate::record::INLINE_BYTES_MAX]), &[round + 1]).expect("commit");
        }
        tables.flush().expect("flush");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("tables.1/blobs")).expect("list").count(), 0);
}

#[test]
fn visitors_may_read_the_tables() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(dir.path()).tables;
    tables.commit((0..100_u8).map(|n| (vec![n], Some(vec![n]))).collect(), b"1").expect("commit");
    let mut seen = 0;
    tables
        .scan(b"", b"\xff", &mut |key, value| {
            assert_eq!(tables.get(key).expect("get").as_deref(), Some(value));
            tables.commit(one(b"\xff", value), b"2").expect("a commit from within a scan");
            seen += 1;
            true
        })
        .expect("scan");
    assert_eq!(seen, 100);
}

#[test]
fn a_second_opener_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let tables = open(dir.path()).tables;
    tables.commit(one(b"k", b"v"), b"1").expect("commit");
    tables.flush().expect("flush");
    assert!(matches!(GroupTables::open(dir.path(), &small()), Err(TableError::Sled { .. })));
    drop(tables);
    open_ready(dir.path(), b"1");
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<u16>)>),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..40_u8, prop_oneof![2 => Just(None), 5 => (0..300_u16).prop_map(Some), 1 => (3_000..12_000_u16).prop_map(Some)]);
    let step = prop_oneof![6 => prop::collection::vec(write, 0..8).prop_map(Step::Commit), 3 => Just(Step::Flush), 1 => Just(Step::Reopen)];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_matches_the_model(steps in steps()) {
        let dir = tempfile::tempdir().expect("dir");
        let mut tables = open(dir.path()).tables;
        let (mut now, mut kept) = (MemoryTables::new(), MemoryTables::new());
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Commit(writes) => {
                    let writes: Writes = writes.into_iter().map(|(key, bytes)| (vec![key / 4, key], bytes.map(|bytes| vec![index as u8; bytes as usize]))).collect();
                    now.commit(writes.clone());
                    // A commit may flush on its own; here that must not happen unseen.
                    if tables.needs_flush() {
                        tables.flush().expect("flush");
                        kept = now.clone();
                        tables.commit(writes, &[1]).expect("commit");
                        tables.flush().expect("flush");
                    } else {
                        tables.commit(writes, &[1]).expect("commit");
                    }
                }
                Step::Flush => {
                    tables.flush().expect("flush");
                    kept = now.clone();
                }
                Step::Reopen => {
                    drop(tables);
                    tables = open(dir.path()).tables;
                    now = kept.clone();
                }
            }
            same(&tables, &now);
        }
    }
}
