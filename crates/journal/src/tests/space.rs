use super::*;
use crate::{Progress, Space};
use parliament_ids::GroupId;

#[test]
fn full_disk_refuses_bodies_keeps_votes_and_resumes() {
    let disk = SimDisk::default();
    disk.set_capacity(Some(8 * 64 * 1024));
    let (journal, mut driver) = open(&disk);
    let mut stored = Vec::new();
    let refused = (0..200u8).find(|seed| {
        let (hash, bytes) = body(*seed, 6000);
        let (done, result) = kept();
        journal.put_body(hash, bytes, done);
        driver.write_all();
        driver.keep_once();
        stored.push(hash);
        matches!(*result.lock().unwrap(), Some(Err(JournalFault::NoSpace)))
    });
    assert!(refused.is_some() && journal.space() >= Space::NoBodies);
    stored.pop();
    let log = journal.group(GroupId(3));
    let votes = Arc::new(AtomicU64::new(0));
    for number in 0..100u64 {
        log.save_vote(Bytes::from(number.to_le_bytes().to_vec()), counting(&votes));
        log.append(vec![(number, Bytes::from_static(b"small"))], counting(&votes));
        assert_eq!(driver.write_all(), Progress::Idle);
    }
    assert_eq!(votes.load(Ordering::Relaxed), 200);
    // Freed space: bodies go, compaction gives their segments back, bodies come again.
    stored.iter().for_each(|hash| journal.remove_body(hash));
    for _ in 0..20 {
        driver.write_all();
        driver.keep_once();
    }
    assert_eq!(journal.space(), Space::Ok, "{:?}", journal.stats());
    let (hash, bytes) = body(250, 6000);
    let (done, result) = kept();
    journal.put_body(hash, bytes, done);
    driver.write_all();
    assert!(matches!(*result.lock().unwrap(), Some(Ok(()))));
}

#[test]
fn no_space_and_no_reserve_stalls_and_loses_nothing() {
    let disk = SimDisk::default();
    disk.set_capacity(Some(2 * 64 * 1024));
    let (journal, mut driver) = open(&disk);
    let log = journal.group(GroupId(1));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut last = Progress::Idle;
    for index in 0..200 {
        log.append(vec![(index, Bytes::from(vec![7; 1000]))], counting(&acknowledged));
        last = driver.write_all();
    }
    assert_eq!(last, Progress::Stalled);
    let before = acknowledged.load(Ordering::Relaxed);
    assert!(before < 200);
    disk.set_capacity(None);
    assert_eq!(driver.write_all(), Progress::Idle);
    assert_eq!(acknowledged.load(Ordering::Relaxed), 200);
    drop((journal, driver, log));
    let (journal, _driver) = open(&disk.after_cut(4));
    assert_eq!(journal.group(GroupId(1)).read(0, 200, usize::MAX).unwrap().len(), 200);
}

#[test]
fn dead_entry_segments_are_recycled_and_live_bodies_move() {
    let disk = SimDisk::default();
    let (journal, mut driver) = open(&disk);
    let log = journal.group(GroupId(1));
    let (kept_hash, kept_bytes) = body(1, 3000);
    journal.put_body(kept_hash, kept_bytes.clone(), nothing());
    let idle = journal.group(GroupId(2));
    idle.append(vec![(0, Bytes::from_static(b"old")), (1, Bytes::from_static(b"older"))], nothing());
    for index in 0..2000u64 {
        log.append(vec![(index, Bytes::from(vec![index as u8; 1000]))], nothing());
        if index % 10 == 9 {
            log.purge_to(index - 5, Bytes::new(), nothing());
            driver.write_all();
            driver.keep_once();
        }
    }
    for _ in 0..10 {
        driver.write_all();
        driver.keep_once();
    }
    let stats = journal.stats();
    assert!(stats.segments <= 6 && stats.recycled > 20 && stats.carried_bytes >= 3000, "{stats:?}");
    assert_eq!(journal.read_body(&kept_hash).unwrap(), Some(kept_bytes.clone()));
    assert_eq!(idle.read(0, 2, 100).unwrap()[1].1, Bytes::from_static(b"older"));
    drop((journal, driver, log, idle));
    let (journal, _driver) = open(&disk);
    assert_eq!(journal.read_body(&kept_hash).unwrap(), Some(kept_bytes));
    assert_eq!(journal.group(GroupId(2)).read(0, 2, 100).unwrap().len(), 2);
    assert_eq!(journal.group(GroupId(1)).state().last_index, Some(1999));
}
