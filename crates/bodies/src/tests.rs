use super::*;
use parliament_journal::sim::{Mishap, SimDisk};
use parliament_journal::{Driver, Progress};

const LARGE: usize = limits::JOURNAL_BODY_BYTES_MAX * 2 + 1000;

/// Bytes without repetition, so that a part of one body is found nowhere else.
fn bytes(seed: u8, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    Bytes::from(bytes)
}

fn hash_of(bytes: &Bytes) -> BodyHash {
    BodyHash(*blake3::hash(bytes).as_bytes())
}

fn open(disk: &SimDisk) -> (BodyStore, Driver) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let journal = parliament_journal::Options {
        segment_bytes: 512 * 1024,
        disk: disk.clone(),
        journal_id: Some(5),
        ..parliament_journal::Options::new("/n/journal")
    };
    let (journal, driver) = Journal::open_driven(journal).unwrap();
    let options = Options { staged_bytes_max: 2_000_000, disk, ..Options::new("/n/bodies") };
    (BodyStore::open(journal, options).unwrap(), driver)
}

#[test]
fn small_and_large_bodies_are_read_whole_and_in_parts() {
    let disk = SimDisk::default();
    let (store, mut driver) = open(&disk);
    for body in [bytes(1, 0), bytes(2, 1000), bytes(3, limits::JOURNAL_BODY_BYTES_MAX), bytes(4, LARGE)] {
        let hash = store.put(body.clone()).unwrap().hash();
        driver.write_all();
        assert_eq!(hash, hash_of(&body));
        assert_eq!(store.size(&hash), Some(body.len() as u64));
        assert!(store.read(&hash).unwrap() == body);
        for (offset, len) in
            [(0, 10), (5, 600_000), (262_143, 2), (262_144, 1), (body.len() as u64 - body.len().min(3) as u64, 99), (1 << 40, 5)]
        {
            let start = (offset as usize).min(body.len());
            let end = (start + len as usize).min(body.len());
            assert!(store.read_range(&hash, offset, len).unwrap() == body.slice(start..end), "{offset} {len}");
        }
    }
    assert!(matches!(store.read(&BodyHash([0; 32])), Err(BodyFault::Missing(_))));
    assert!(matches!(store.put_expected(BodyHash([0; 32]), bytes(1, 3)), Err(BodyFault::WrongHash { .. })));
}

#[test]
fn upload_finishes_only_under_its_hash_and_within_the_bounds() {
    let disk = SimDisk::default();
    let (store, mut driver) = open(&disk);
    for len in [1000, LARGE] {
        let body = bytes(9, len);
        let upload = || {
            let mut stage = store.stage();
            body.chunks(100_000).for_each(|piece| stage.write(piece).unwrap());
            assert_eq!(stage.len(), len as u64);
            stage
        };
        assert!(matches!(upload().finish(Some(BodyHash([1; 32]))), Err(BodyFault::WrongHash { .. })));
        assert_eq!(store.size(&hash_of(&body)), None);
        let receipt = upload().finish(Some(hash_of(&body))).unwrap();
        assert_eq!((receipt.hash(), receipt.size()), (hash_of(&body), len as u64));
        driver.write_all();
        assert!(store.read(&receipt.hash()).unwrap() == body);
    }
    let mut stages: Vec<Stage> = (0..3).map(|_| store.stage()).collect();
    let piece = vec![0; 700_000];
    let results: Vec<_> = stages.iter_mut().map(|stage| stage.write(&piece).is_ok()).collect();
    assert_eq!(results, [true, true, false]);
    stages.remove(0);
    assert!(stages[1].write(&piece).is_ok());
    drop(stages);
    assert!(!disk.files().iter().any(|path| path.to_string_lossy().contains("spool")));
    assert_eq!(store.inner.staged.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// The name of a large body is never seen without its bytes, and a body once received survives.
#[test]
fn cut_at_every_operation_of_a_large_body() {
    let whole = SimDisk::default();
    let before = {
        let (_store, _driver) = open(&whole);
        whole.operations()
    };
    let body = bytes(7, LARGE);
    for operation in before + 1..before + 20 {
        let disk = SimDisk::default();
        let (store, _driver) = open(&disk);
        disk.plan(operation, Mishap::Cut);
        let received = store.put(body.clone()).is_ok();
        let (store, _driver) = open(&disk.after_cut(operation));
        match store.read(&hash_of(&body)) {
            Ok(read) => assert!(read == body),
            Err(BodyFault::Missing(_)) => assert!(!received),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn pins_and_references_keep_bodies_and_grace_delays() {
    let disk = SimDisk::default();
    let (store, mut driver) = open(&disk);
    for body in [bytes(1, 100), bytes(2, LARGE)] {
        let receipt = store.put(body.clone()).unwrap();
        let hash = receipt.hash();
        driver.write_all();
        store.release(hash, 1000);
        let collected = |removed, referenced, waiting| Collected { removed, referenced, waiting };
        assert_eq!(store.collect(700_000, |_| false), collected(0, 0, 1));
        store.pin(&hash);
        drop(receipt);
        assert_eq!(store.collect(700_000, |_| false), collected(0, 0, 1));
        store.unpin(&hash);
        assert_eq!(store.collect(500_000, |_| false), collected(0, 0, 1));
        assert_eq!(store.collect(700_000, |_| true), collected(0, 1, 0));
        assert_eq!(store.collect(900_000, |_| false), collected(0, 0, 0));
        store.release(hash, 900_000);
        assert_eq!(store.collect(1_500_000, |_| false), collected(1, 0, 0));
        assert_eq!((store.size(&hash), store.receipt(&hash).is_none()), (None, true));
        // The same bytes come again.
        drop(store.put(body.clone()).unwrap());
        driver.write_all();
        assert!(store.read(&hash).unwrap() == body);
    }
    assert!(lock(&store.inner.pins).is_empty());
}

#[test]
fn collection_racing_with_the_same_body_never_takes_a_received_one() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let options = parliament_journal::Options { segment_bytes: 1 << 20, ..parliament_journal::Options::new(folder.join("journal")) };
    let journal = Journal::open(options).unwrap();
    let store = BodyStore::open(journal.clone(), Options { grace_ms: 0, ..Options::new(folder.join("bodies")) }).unwrap();
    let body = bytes(3, 2000);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            for now in 0..2000 {
                store.release(hash_of(&body), now);
                store.collect(now, |_| false);
            }
        });
        while !collector.is_finished() {
            let receipt = store.put(body.clone()).unwrap();
            for _ in 0..5 {
                assert!(store.read(&receipt.hash()).unwrap() == body);
            }
        }
    });
    journal.close();
}

#[test]
fn scrub_finds_damage_and_replacement_heals_it() {
    let disk = SimDisk::default();
    let (store, mut driver) = open(&disk);
    let bodies: Vec<Bytes> = (0..20).map(|seed| bytes(seed, 40_000 + seed as usize)).chain([bytes(77, LARGE), bytes(78, LARGE)]).collect();
    for body in &bodies {
        drop(store.put(body.clone()).unwrap());
        assert_eq!(driver.write_all(), Progress::Idle);
    }
    let (small, large) = (&bodies[2], &bodies[20]);
    for path in disk.files() {
        let stored = disk.bytes(&path);
        for body in [small, large] {
            if let Some(at) = stored.windows(300).position(|window| window == &body[..300]) {
                disk.flip(&path, at + 7000, 2);
            }
        }
    }
    let (mut walk, mut damaged, mut sound, mut steps) = (Scrub::default(), Vec::new(), 0, 0);
    loop {
        let step = store.scrub(&mut walk, 100_000);
        damaged.extend(step.damaged);
        sound += step.sound.len();
        steps += 1;
        if step.finished {
            break;
        }
    }
    assert!(steps > 3 && sound == bodies.len() - 2, "{steps} {sound}");
    assert_eq!(damaged, vec![hash_of(large)]);
    // What lay in the journal is told once its keeper has looked at all that lives in the damaged file.
    for _ in 0..10 {
        driver.write_all();
        driver.keep_once();
    }
    assert_eq!(store.take_lost(), vec![hash_of(small)]);
    assert_eq!((store.damaged().len(), store.inner.journal.condemned()), (2, 0));
    for body in [small, large] {
        assert!(matches!(store.read(&hash_of(body)), Err(BodyFault::Missing(_))));
        store.replace(hash_of(body), body.clone()).unwrap();
        assert!(store.read(&hash_of(body)).unwrap() == *body);
    }
    assert!(store.damaged().is_empty());
}

/// EIO is no proof: the only right bytes may be these.
#[test]
fn what_the_medium_does_not_give_stays_and_counts_as_missing_until_it_is_given_or_replaced() {
    let disk = SimDisk::default();
    let (store, mut driver) = open(&disk);
    let bodies: Vec<Bytes> = (0..20).map(|seed| bytes(seed, 40_000)).chain([bytes(77, LARGE)]).collect();
    for body in &bodies {
        drop(store.put(body.clone()).unwrap());
        assert_eq!(driver.write_all(), Progress::Idle);
    }
    let place = |body: &Bytes| {
        let found = disk.files().into_iter().find_map(|path| {
            let at = disk.bytes(&path).windows(300).position(|window| window == &body[..300])?;
            Some((path, at + 7000))
        });
        found.unwrap()
    };
    for body in [&bodies[2], &bodies[20]] {
        let (hash, (path, at)) = (hash_of(body), place(body));
        disk.refuse_reads(&path, at, true);
        for _ in 0..2 {
            let read = store.read(&hash);
            assert!(read.as_ref().is_err_and(BodyFault::is_unreadable), "{read:?}");
            assert_eq!((store.size(&hash), store.damaged()), (None, vec![hash]));
        }
        disk.refuse_reads(&path, at, false);
        assert!(store.read(&hash).unwrap() == *body, "it was not buried");
        assert_eq!((store.size(&hash), store.damaged()), (Some(body.len() as u64), vec![]));
        disk.refuse_reads(&path, at, true);
        assert!(store.read(&hash).is_err());
        store.replace(hash, body.clone()).unwrap();
        assert_eq!(driver.write_all(), Progress::Idle);
        assert!(store.read(&hash).unwrap() == *body, "from the new place");
        assert!(store.damaged().is_empty());
    }
    // A pass finds it, keeps it, and tells it.
    let (hash, (path, at)) = (hash_of(&bodies[5]), place(&bodies[5]));
    disk.refuse_reads(&path, at, true);
    let mut walk = Scrub::default();
    while !store.scrub(&mut walk, 100_000).finished {}
    for _ in 0..10 {
        driver.write_all();
        driver.keep_once();
    }
    drop(store.take_lost());
    assert_eq!(store.damaged(), vec![hash]);
    disk.refuse_reads(&path, at, false);
    assert!(store.read(&hash).unwrap() == bodies[5], "the keeper did not bury it");
}

#[tokio::test]
async fn gate_waits_for_arrival_and_tells_what_stays_missing() {
    let disk = SimDisk::default();
    let (store, _driver) = open(&disk);
    let (first, second) = (bytes(1, 10), bytes(2, 10));
    let hashes = [hash_of(&first), hash_of(&second)];
    assert_eq!(store.pin_missing(&hashes), hashes);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_present(&hashes, Duration::from_secs(20)).await }
    });
    tokio::task::yield_now().await;
    drop(store.put(first).unwrap());
    tokio::task::yield_now().await;
    drop(store.put_patiently(second, Duration::from_secs(1)).await.unwrap());
    assert!(waiting.await.unwrap().is_empty());
    let absent = BodyHash([9; 32]);
    assert_eq!(store.wait_present(&[hashes[0], absent], Duration::from_millis(20)).await, vec![absent]);
}
