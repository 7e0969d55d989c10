//! Disks that fail or are full.

use super::{batch, durable_folder, mark, options};
use parliament_mailbox_state::Tables;
use parliament_store_tests::{Action, Fault, Loss, mounted};
use parliament_tables::{GroupTables, TableError, TableState, self_test_in};

/// A full disk fails the flush, which keeps everything pending and may be repeated.
#[test]
fn full_disk_fails_the_flush_which_may_be_repeated() {
    let Some(mounted) = mounted("a full disk under the tables", 21) else { return };
    let folder = durable_folder(&mounted.path().join("group"));
    let tables = GroupTables::open(&folder.join("tables"), &options()).expect("open").tables;
    tables.commit(batch(1, 1), &mark(1)).expect("commit");
    assert_eq!(tables.flush().expect("flush"), mark(1));
    mounted.volume.set_capacity(Some(mounted.volume.used()));
    tables.commit(batch(1, 2), &mark(2)).expect("commit");
    assert!(matches!(tables.flush(), Err(TableError::Io { .. })));
    assert_eq!((tables.durable(), tables.applied()), (Some(mark(1).to_vec()), Some(mark(2).to_vec())));
    mounted.volume.set_capacity(None);
    assert_eq!(tables.flush().expect("flush"), mark(2));
    drop(tables);
    mounted.volume.cut(Loss::All);
    mounted.volume.start();
    let opened = GroupTables::open(&folder.join("tables"), &options()).expect("open");
    assert_eq!(opened.state, TableState::Ready { applied: mark(2).to_vec() });
}

/// A failing sync anywhere in a flush: the flush fails, nothing is said to be durable that is not.
#[test]
fn failed_sync_is_told_and_nothing_flushed_is_lost() {
    let Some(mounted) = mounted("failing syncs of the tables", 22) else { return };
    let mut told = Vec::new();
    for (round, (action, name)) in
        [(Action::Sync, "redo"), (Action::SyncFolder, "tables"), (Action::Sync, "db"), (Action::Write, "db"), (Action::Write, "redo")]
            .into_iter()
            .enumerate()
    {
        let folder = durable_folder(&mounted.path().join(format!("group-{round}")));
        let tables = GroupTables::open(&folder.join("tables"), &options()).expect("open").tables;
        tables.commit(batch(2, 1), &mark(1)).expect("commit");
        let mut flushed = tables.flush().expect("flush");
        mounted.volume.fail(Fault { action, name, after: 1, times: 1 });
        for turn in 2..12 {
            if tables.commit(batch(2, turn), &mark(turn)).is_err() {
                break;
            }
            match tables.flush() {
                Ok(applied) => flushed = applied,
                Err(error) => {
                    told.push((action, name, error));
                    break;
                }
            }
        }
        drop(tables);
        mounted.volume.cut(Loss::All);
        mounted.volume.start();
        let opened = GroupTables::open(&folder.join("tables"), &options()).expect("open");
        match opened.state {
            TableState::Ready { applied } => {
                assert!(applied >= flushed, "{action:?} of {name}: flushed {flushed:?}, found {applied:?}");
                assert_eq!(opened.tables.get(b"turn").expect("get"), Some(applied));
            }
            TableState::SetAside { why } => println!("{action:?} of {name}: set aside: {why}"),
            other => panic!("{action:?} of {name}: {other:?}"),
        }
    }
    assert_eq!((told.len(), mounted.volume.bitten()), (5, 5), "{told:?}");
}

/// The start-up self-test sees syncs arrive at this file system.
#[test]
fn syncs_of_the_database_are_real() {
    let Some(mounted) = mounted("real syncs of the tables", 23) else { return };
    self_test_in(&mounted.path()).expect("real");
}
