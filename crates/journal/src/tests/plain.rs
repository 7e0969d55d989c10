use super::*;
use parliament_ids::{GroupId, limits};
use std::sync::Barrier;

#[test]
fn threads_on_a_real_disk_find_everything_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options { segment_bytes: 256 * 1024, ..Options::new(folder.path()) };
    let journal = Journal::open(options()).unwrap();
    assert!(matches!(Journal::open(options()), Err(JournalFault::Unusable { .. })));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for group in 0..4u32 {
            let (journal, acknowledged, start) = (&journal, &acknowledged, &start);
            scope.spawn(move || {
                start.wait();
                for index in 0..100u64 {
                    let (hash, bytes) = body(group as u8 * 50 + index as u8 % 50, 2000 + group as usize);
                    journal.put_body(hash, bytes, nothing());
                    journal.group(GroupId(group)).append(vec![(index, Bytes::from(hash.0.to_vec()))], counting(acknowledged));
                }
                journal.group(GroupId(group)).save_committed(Bytes::from_static(b"99"));
            });
        }
    });
    journal.flush_now().unwrap();
    assert_eq!(acknowledged.load(Ordering::Relaxed), 400);
    let stats = journal.stats();
    assert!(stats.batches < 400 && stats.sync_times.iter().sum::<u64>() == stats.batches, "{stats:?}");
    journal.close();
    assert!(matches!(journal.flush_now(), Err(JournalFault::Closed)));
    drop(journal);
    let journal = Journal::open(options()).unwrap();
    for group in 0..4 {
        let log = journal.group(GroupId(group));
        assert_eq!(log.state().committed, Some(Bytes::from_static(b"99")));
        for (_, hash) in log.read(0, 100, usize::MAX).unwrap() {
            let hash = BodyHash(*hash.first_chunk().unwrap());
            assert!(journal.read_body(&hash).unwrap().is_some());
        }
    }
    journal.close();
}

#[test]
fn entries_are_contiguous_cached_and_read_back() {
    let disk = SimDisk::default();
    let (journal, mut driver) = open(&disk);
    let log = journal.group(GroupId(1));
    log.append((10..30).map(|index| (index, Bytes::from(vec![index as u8; 500]))).collect(), nothing());
    assert_eq!(log.read(10, 30, usize::MAX).unwrap().len(), 20);
    let (done, result) = kept();
    log.append(vec![(31, Bytes::new())], done);
    assert!(matches!(*result.lock().unwrap(), Some(Err(JournalFault::NotContiguous { expected: 30, got: 31, .. }))));
    driver.write_all();
    // Most have left the cache of 2,048 bytes.
    let read = log.read(10, 30, usize::MAX).unwrap();
    assert!(read.iter().all(|(index, bytes)| bytes[..] == vec![*index as u8; 500][..]));
    assert_eq!(log.read(10, 30, 1200).unwrap().len(), 2);
    assert_eq!(log.read(10, 30, 0).unwrap().len(), 1);
    assert!(log.read(9, 30, 100).unwrap().is_empty() && log.read(30, 40, 100).unwrap().is_empty());
    log.truncate_from(20, nothing());
    log.append(vec![(20, Bytes::from_static(b"new"))], nothing());
    log.purge_to(14, Bytes::from_static(b"m"), nothing());
    driver.write_all();
    let state = log.state();
    assert_eq!((state.last_index, state.purged, log.first_index()), (Some(20), Some((14, Bytes::from_static(b"m"))), Some(15)));
    assert_eq!(log.read(20, 21, 100).unwrap(), vec![(20, Bytes::from_static(b"new"))]);
    log.purge_to(50, Bytes::new(), nothing());
    assert_eq!((log.state().last_index, log.first_index()), (None, None));
    log.append(vec![(51, Bytes::new())], nothing());
    driver.write_all();
    drop((journal, driver, log));
    let (journal, _driver) = open(&disk);
    assert_eq!(journal.group(GroupId(1)).state().last_index, Some(51));
}

#[test]
fn one_batch_costs_one_sync_whatever_the_number_of_groups() {
    let disk = SimDisk::default();
    let (journal, mut driver) = open(&disk);
    let before = disk.syncs();
    for group in 0..64 {
        journal.group(GroupId(group)).append(vec![(0, Bytes::from_static(b"e"))], nothing());
        let (hash, bytes) = body(group as u8, 300);
        journal.put_body(hash, bytes, nothing());
    }
    driver.write_all();
    assert_eq!((disk.syncs() - before, journal.stats().batches), (1, 1));
}

#[test]
fn callbacks_come_in_order_and_presence_waits_for_the_first_copy() {
    let disk = SimDisk::default();
    let (journal, mut driver) = open(&disk);
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = |number| {
        let order = order.clone();
        Box::new(move |result: Result<(), JournalFault>| order.lock().unwrap().push((number, result.is_ok()))) as Done
    };
    let (hash, bytes) = body(1, 10);
    journal.put_body(hash, bytes.clone(), tell(1));
    journal.group(GroupId(1)).save_vote(Bytes::new(), tell(2));
    journal.put_body(hash, bytes.clone(), tell(3));
    assert_eq!(journal.body_state(&hash), Some(10));
    driver.write_all();
    journal.put_body(hash, bytes, tell(4));
    driver.write_all();
    assert_eq!(*order.lock().unwrap(), vec![(1, true), (2, true), (3, true), (4, true)]);
    assert_eq!(journal.stats().bodies, 1);
}

#[test]
fn body_put_again_right_after_removal_stays() {
    let disk = SimDisk::default();
    let (journal, mut driver) = open(&disk);
    let (hash, bytes) = body(1, 100);
    for _ in 0..3 {
        journal.put_body(hash, bytes.clone(), nothing());
        journal.remove_body(&hash);
        assert_eq!(journal.body_state(&hash), None);
        journal.put_body(hash, bytes.clone(), nothing());
        driver.write_all();
        assert_eq!((journal.read_body(&hash).unwrap(), journal.stats().bodies), (Some(bytes.clone()), 1));
        journal.remove_body(&hash);
        assert_eq!(journal.read_body(&hash).unwrap(), None);
    }
    driver.write_all();
    drop((journal, driver));
    let (journal, _driver) = open(&disk);
    assert_eq!(journal.stats().bodies, 0);
}

#[test]
fn bounds_are_told() {
    let disk = SimDisk::default();
    let (journal, mut driver) = Journal::open_driven(Options { queue_bytes_max: 1000, ..options(&disk) }).unwrap();
    let result_of = |put: &dyn Fn(Done)| {
        let (done, result) = kept();
        put(done);
        result.lock().unwrap().take()
    };
    let (hash, bytes) = body(1, 900);
    assert!(result_of(&|done| journal.put_body(hash, bytes.clone(), done)).is_none());
    let (second, more) = body(2, 900);
    assert!(matches!(result_of(&|done| journal.put_body(second, more.clone(), done)), Some(Err(JournalFault::Busy))));
    driver.write_all();
    assert!(result_of(&|done| journal.put_body(second, more.clone(), done)).is_none());
    let large = Bytes::from(vec![0; limits::JOURNAL_BODY_BYTES_MAX + 1]);
    assert!(matches!(result_of(&|done| journal.put_body(hash, large.clone(), done)), Some(Err(JournalFault::TooLarge { .. }))));
    assert!(matches!(result_of(&|done| journal.put_note(&[0; 300], b"", done)), Some(Err(JournalFault::TooLarge { .. }))));
}
