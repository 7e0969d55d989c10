//! Disks that fail or are full.

use super::options;
use bytes::Bytes;
use parliament_ids::{BodyHash, GroupId};
use parliament_journal::{Done, Journal, JournalFault, Options, Space};
use parliament_store_tests::{Action, Fault, Loss, Random, mounted};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

type Told = Receiver<Result<(), JournalFault>>;

fn told() -> (Done, Told) {
    let (tell, hear) = channel();
    let done: Done = Box::new(move |result| {
        // A test that has seen enough no longer listens.
        let _ = tell.send(result);
    });
    (done, hear)
}

fn vote(journal: &Journal, number: u64) -> Result<(), JournalFault> {
    let (done, heard) = told();
    journal.group(GroupId(3)).save_vote(Bytes::from(number.to_le_bytes().to_vec()), done);
    heard.recv_timeout(Duration::from_secs(10)).expect("an answer")
}

fn entry(journal: &Journal, index: u64) -> Result<(), JournalFault> {
    let (done, heard) = told();
    journal.group(GroupId(1)).append(vec![(index, Bytes::from(index.to_le_bytes().to_vec()))], done);
    heard.recv_timeout(Duration::from_secs(10)).expect("an answer")
}

fn put(journal: &Journal, seed: u64, len: usize) -> (BodyHash, Result<(), JournalFault>) {
    let bytes = Bytes::from(Random::new(seed).bytes(len));
    let hash = BodyHash(*blake3::hash(&bytes).as_bytes());
    let (done, heard) = told();
    journal.put_body(hash, bytes, done);
    (hash, heard.recv_timeout(Duration::from_secs(10)).expect("an answer"))
}

fn last_index(journal: &Journal) -> Option<u64> {
    journal.group(GroupId(1)).state().last_index
}

/// The write or sync that fails, and every one after it although the disk is well again: refused, and not there after a cut.
#[test]
fn failed_write_or_sync_ends_the_journal() {
    let Some(mounted) = mounted("failing syncs of the journal", 11) else { return };
    for (round, action) in [Action::Sync, Action::Write, Action::Sync, Action::Write].into_iter().enumerate() {
        let folder = mounted.path().join(format!("journal-{round}"));
        let journal = Journal::open(options(&folder)).expect("open");
        (1..=20).for_each(|index| entry(&journal, index).expect("append"));
        mounted.volume.fail(Fault { action, name: "segment-", after: round as u64, times: 1 });
        let answers: Vec<bool> = (21..=40).map(|index| entry(&journal, index).is_ok()).collect();
        assert_eq!(answers.iter().filter(|good| **good).count(), round, "the failing one and all after it: {answers:?}");
        assert!(answers[..round].iter().all(|good| *good));
        assert!(matches!(journal.fault(), Some(JournalFault::Disk { .. })));
        assert!(vote(&journal, 1).is_err() && put(&journal, 1, 100).1.is_err() && journal.flush_now().is_err());
        mounted.volume.cut(Loss::All);
        journal.close();
        mounted.volume.start();
        let journal = Journal::open(options(&folder)).expect("open");
        assert_eq!(last_index(&journal), Some(20 + round as u64));
        entry(&journal, 21 + round as u64).expect("append");
        journal.close();
    }
    assert_eq!(mounted.volume.bitten(), 4);
}

/// A failing sync of the folder, when a segment changes.
#[test]
fn failed_folder_sync_loses_nothing_acknowledged() {
    let Some(mounted) = mounted("failing folder syncs of the journal", 12) else { return };
    let folder = mounted.path().join("journal");
    let journal = Journal::open(options(&folder)).expect("open");
    mounted.volume.fail(Fault { action: Action::SyncFolder, name: "journal", after: 0, times: 1 });
    let mut acknowledged = Vec::new();
    for seed in 0..200 {
        match put(&journal, seed, 4000) {
            (hash, Ok(())) => acknowledged.push(hash),
            (_, Err(_)) => break,
        }
    }
    assert!(mounted.volume.bitten() == 1 && !acknowledged.is_empty());
    mounted.volume.cut(Loss::All);
    journal.close();
    mounted.volume.start();
    let journal = Journal::open(options(&folder)).expect("open");
    for hash in acknowledged {
        assert!(journal.read_body(&hash).expect("read").is_some());
    }
    journal.close();
}

/// An error of reading is told, damages nothing and passes.
#[test]
fn failed_read_is_told_and_passes() {
    let Some(mounted) = mounted("failing reads of the journal", 13) else { return };
    let folder = mounted.path().join("journal");
    let journal = Journal::open(Options { cache_bytes_per_group: 0, ..options(&folder) }).expect("open");
    (1..=50).for_each(|index| entry(&journal, index).expect("append"));
    let (hash, stored) = put(&journal, 5, 3000);
    stored.expect("put");
    mounted.volume.fail(Fault { action: Action::Read, name: "segment-", after: 0, times: 2 });
    assert!(matches!(journal.group(GroupId(1)).read(1, 51, usize::MAX), Err(JournalFault::Disk { .. })));
    assert!(matches!(journal.read_body(&hash), Err(JournalFault::Disk { .. })));
    assert_eq!(journal.group(GroupId(1)).read(1, 51, usize::MAX).expect("read").len(), 50);
    assert!(journal.read_body(&hash).expect("read").is_some() && !journal.group(GroupId(1)).state().damaged);
    journal.close();
    drop(journal);
    // The same while recovering: the start fails and may be repeated.
    mounted.volume.fail(Fault { action: Action::Read, name: "segment-", after: 1, times: 1 });
    assert!(Journal::open(options(&folder)).is_err());
    let journal = Journal::open(options(&folder)).expect("open");
    assert_eq!((last_index(&journal), journal.damage().groups.len()), (Some(50), 0));
    journal.close();
}

/// Rule 25: a full disk refuses bodies; votes, truncations and small entries go on out of the reserve; freed space heals.
#[test]
fn full_disk_refuses_bodies_keeps_votes_and_heals() {
    let Some(mounted) = mounted("a full disk under the journal", 14) else { return };
    let folder = mounted.path().join("journal");
    mounted.volume.set_capacity(Some(20 * 64 * 1024));
    let journal = Journal::open(Options { reserve_segments: 2, ..options(&folder) }).expect("open");
    let mut stored = Vec::new();
    let full = (0..2000).find(|seed| match put(&journal, *seed, 6000) {
        (hash, Ok(())) => {
            stored.push(hash);
            false
        }
        (_, Err(fault)) => {
            assert!(matches!(fault, JournalFault::NoSpace), "{fault}");
            true
        }
    });
    assert!(full.is_some() && journal.space() >= Space::NoBodies);
    mounted.volume.set_capacity(Some(mounted.volume.used()));
    for number in 1..=100 {
        vote(&journal, number).expect("votes go on");
        entry(&journal, number).expect("small entries go on");
    }
    let (done, heard) = told();
    journal.group(GroupId(1)).truncate_from(90, done);
    heard.recv_timeout(Duration::from_secs(10)).expect("an answer").expect("truncations go on");
    // Full at restart, after a cut.
    mounted.volume.cut(Loss::All);
    journal.close();
    mounted.volume.start();
    let journal = Journal::open(Options { reserve_segments: 2, ..options(&folder) }).expect("open on a full disk");
    assert_eq!((last_index(&journal), stored.iter().filter(|hash| journal.body_state(hash).is_none()).count()), (Some(89), 0));
    vote(&journal, 101).expect("votes go on");
    stored.iter().for_each(|hash| journal.remove_body(hash));
    mounted.volume.set_capacity(Some(40 * 64 * 1024));
    let healed = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        put(&journal, 1, 6000).1.is_ok()
    });
    assert!(healed, "{:?} {:?}", journal.space(), journal.stats());
    journal.close();
}
