//! Bytes change by themselves under a running replica, or under one that is down.

use super::lab::{Lab, image, journal_options};
use crate::log_store::LogStore;
use crate::records::{encode_entry, encode_log_id};
use crate::start::drop_contradicting_tail;
use crate::types::{Entry, log_id};
use crate::{SnapshotPolicy, StartError};
use openraft::EntryPayload;
use parliament_ids::{GroupId, NodeId};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);

/// Flips a bit in every place of `needle` in the files below `dir`; tells how many.
fn flip(dir: &Path, needle: &[u8]) -> usize {
    let mut hits = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            hits += flip(&path, needle);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for at in (0..bytes.len().saturating_sub(needle.len())).filter(|at| bytes[*at..].starts_with(needle)) {
            file.write_all_at(&[bytes[at + 2] ^ 4], at as u64 + 2).unwrap();
            hits += 1;
        }
        file.sync_all().unwrap();
    }
    hits
}

fn value(n: usize) -> String {
    format!("value-{n:04}-of-a-record")
}

/// Records in all tables and on all disks; a snapshot of node 2 covers the first half when asked for.
async fn filled(snapshot: bool) -> (Lab, u64) {
    let lab = Lab::three_with(SnapshotPolicy { keep_entries: 0, ..SnapshotPolicy::default() }).await;
    let mut last = 0;
    for n in 0..40 {
        (last, _) = lab.write(&format!("k{n}"), &value(n)).await;
        if n == 20 && snapshot {
            lab.agree(last).await;
            lab.group(NodeId(2)).snapshot_covering(last, WAIT).await.unwrap();
        }
    }
    lab.agree(last).await;
    lab.group(NodeId(2)).tables().flush().unwrap();
    (lab, last)
}

fn tables(lab: &Lab) -> PathBuf {
    lab.folder(NodeId(2)).join("group-7/tables/tables.1")
}

async fn works(lab: &mut Lab) {
    let (last, _) = lab.write("after", "all").await;
    lab.agree(last).await;
    lab.stop_all().await;
    for node in (1..=3).map(NodeId) {
        lab.start(node).await;
    }
    let (last, _) = lab.write("after", "a restart").await;
    lab.agree(last).await;
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_tables_are_rebuilt_from_snapshot_and_log_beside_their_readers() {
    for snapshot in [true, false] {
        let (mut lab, last) = filled(snapshot).await;
        let group = lab.group(NodeId(2)).clone();
        assert_eq!(group.scrub_tables().await.unwrap().damage, None);
        let before = image(group.tables());
        assert!(flip(&tables(&lab), value(7).as_bytes()) > 0);
        assert_eq!(image(group.tables()), before, "memory has the page");
        assert!(group.scrub_tables().await.unwrap().damage.is_some());
        assert_eq!(group.metrics().applied, Some(last));
        assert_eq!(image(group.tables()), before);
        assert_eq!(group.scrub_tables().await.unwrap().damage, None);
        drop(group);
        works(&mut lab).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_meets_damage_has_the_tables_rebuilt() {
    let (mut lab, last) = filled(true).await;
    let before = image(lab.group(NodeId(2)).tables());
    lab.stop(NodeId(2)).await;
    assert!(flip(&tables(&lab), value(33).as_bytes()) > 0);
    lab.start(NodeId(2)).await;
    let group = lab.group(NodeId(2)).clone();
    group.wait_applied(last, WAIT).await.unwrap();
    let until = tokio::time::Instant::now() + WAIT;
    loop {
        let mut records = Vec::new();
        let read = parliament_mailbox_state::Tables::scan(group.tables(), &[], &[0xff; 4], &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            true
        });
        if read.is_ok() {
            assert_eq!(records, before, "what is read is right, or it is not read");
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{read:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(group);
    works(&mut lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_file_is_made_anew_and_never_installed() {
    let (mut lab, _) = filled(true).await;
    let group = lab.group(NodeId(2)).clone();
    assert!(group.scrub_snapshot().await.1);
    let file = group.snapshot().unwrap();
    let spoil = |path: &Path| {
        let open = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let (at, mut byte) = (open.metadata().unwrap().len() - 60, [0]);
        open.read_exact_at(&mut byte, at).unwrap();
        open.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    spoil(file.path());
    assert!(!group.scrub_snapshot().await.1);
    group.snapshot_covering(0, WAIT).await.unwrap();
    assert!(group.scrub_snapshot().await.1);
    // With the tables gone too, what is left of a damaged file is not believed.
    let path = group.snapshot().unwrap().path().to_owned();
    drop((group, file));
    lab.stop(NodeId(2)).await;
    spoil(&path);
    std::fs::remove_dir_all(lab.folder(NodeId(2)).join("group-7/tables")).unwrap();
    let whole = match lab.try_start(NodeId(2), None).await {
        // The log may still reach back to the first entry.
        Ok(()) => true,
        Err(StartError::SnapshotNeeded { .. }) => false,
        Err(other) => panic!("{other}"),
    };
    if !whole {
        let leader = lab.leader().await;
        lab.group(leader).snapshot_covering(0, WAIT).await.unwrap();
        let applied = lab.group(leader).metrics().applied.unwrap();
        lab.group(leader).snapshot_covering(applied, WAIT).await.unwrap();
        let rescue = lab.folder(NodeId(2)).join("rescue");
        std::fs::copy(lab.group(leader).snapshot().unwrap().path(), &rescue).unwrap();
        lab.try_start(NodeId(2), Some(rescue)).await.unwrap();
    }
    works(&mut lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_leader_wrote_behind_a_snapshot_of_a_later_term_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let journal = parliament_journal::Journal::open(journal_options(folder.path())).unwrap();
    for (group, term, left) in [(1, 3, false), (2, 5, true), (3, 6, true)] {
        let log = journal.group(GroupId(group));
        let entries = (0..4).map(|index| {
            let entry = Entry { log_id: log_id(if index < 2 { 3 } else { term }, index), payload: EntryPayload::Blank };
            (index, encode_entry(&entry))
        });
        let (told, heard) = std::sync::mpsc::channel();
        let done = |told: &std::sync::mpsc::Sender<_>| {
            let told = told.clone();
            Box::new(move |result| told.send(result).unwrap())
        };
        log.append(entries.collect(), done(&told));
        // A snapshot of a peer covers the entry with index 1, as a leader of term 5 wrote it.
        log.purge_to(1, encode_log_id(&log_id(5, 1)), done(&told));
        heard.recv().unwrap().unwrap();
        heard.recv().unwrap().unwrap();
        let log = LogStore::open(log).unwrap();
        drop_contradicting_tail(GroupId(group), &log).await.unwrap();
        let last = if left { log_id(term, 3) } else { log_id(5, 1) };
        assert_eq!((log.last(), log.entry(2).unwrap().is_some()), (Some(last), left), "term {term}");
    }
    journal.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_rot_while_the_replica_is_down_are_covered_by_a_snapshot_when_it_starts() {
    for with_tables in [true, false] {
        let (mut lab, last) = filled(false).await;
        // The entries then lie in a file that a start does not read through.
        lab.stop(NodeId(2)).await;
        lab.start(NodeId(2)).await;
        lab.stop(NodeId(2)).await;
        assert!(flip(&lab.folder(NodeId(2)).join("journal"), value(13).as_bytes()) > 0);
        if with_tables {
            lab.start(NodeId(2)).await;
        } else {
            // Without the entry nobody can say what the tables were: a peer must, and until then the replica does not take part.
            std::fs::remove_dir_all(lab.folder(NodeId(2)).join("group-7/tables")).unwrap();
            let refused = lab.try_start(NodeId(2), None).await;
            assert!(matches!(refused, Err(StartError::SnapshotNeeded { .. })), "{refused:?}");
            let leader = lab.leader().await;
            lab.group(leader).snapshot_covering(last, WAIT).await.unwrap();
            let rescue = lab.folder(NodeId(2)).join("rescue");
            std::fs::copy(lab.group(leader).snapshot().unwrap().path(), &rescue).unwrap();
            lab.try_start(NodeId(2), Some(rescue)).await.unwrap();
        }
        works(&mut lab).await;
    }
}
