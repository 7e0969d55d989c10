use super::*;
use parliament_ids::{Boot, NodeId, SessionKey};
use parliament_journal::Options;

fn store(dir: &Path) -> Arc<BodyStore> {
    let mut options = Options::new(dir.join("journal"));
    options.sync = false;
    BodyStore::open(&dir.join("bodies"), Journal::open(options).unwrap()).unwrap()
}

fn large(seed: u8) -> Bytes {
    (0..JOURNAL_BODY_BYTES_MAX + 1000).map(|n| (n as u8).wrapping_mul(7).wrapping_add(seed)).collect::<Vec<u8>>().into()
}

#[test]
fn small_and_large_bodies_come_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (small, big) = (Bytes::from_static(b"hello"), large(1));
    let store_1 = store(dir.path());
    let (a, b) = (store_1.put(&small, 0).unwrap().hash(), store_1.put(&big, 0).unwrap().hash());
    assert_eq!((store_1.read(&a).unwrap(), store_1.read(&b).unwrap()), (small.clone(), big.clone()));
    assert_eq!((store_1.size(&a), store_1.size(&b)), (Some(5), Some(big.len() as u64)));
    assert_eq!(store_1.read_range(&b, 1000, 10).unwrap(), big.slice(1000..1010));
    assert_eq!(store_1.read_range(&a, 3, 10).unwrap(), small.slice(3..));
    assert_eq!(store_1.large_usage(), (1, big.len() as u64));
    assert!(matches!(store_1.read(&BodyHash([1; 32])), Err(BodyError::Absent(_))));
    drop(store_1);
    // The large file's name, not a table, says that it is here.
    let again = LargeBodies::open(&dir.path().join("bodies")).unwrap();
    assert_eq!(again.read(&b).unwrap(), big);
}

#[test]
fn a_damaged_large_body_is_absent_and_can_be_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let big = large(2);
    let hash = store.put(&big, 0).unwrap().hash();
    let path = dir.path().join("bodies").join(format!("{:02x}", hash.0[0])).join(hash.to_string());
    let mut damaged = big.to_vec();
    damaged[77] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    assert!(matches!(store.read_range(&hash, 0, 10), Err(BodyError::Absent(_))));
    assert_eq!(store.size(&hash), None);
    store.put_checked(hash, &big, 0).unwrap();
    assert_eq!(store.read(&hash).unwrap(), big);
    assert!(matches!(store.put_checked(hash, &large(3), 0), Err(BodyError::WrongHash(_))));
}

#[test]
fn only_what_nobody_refers_to_pins_or_awaits_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let put = |text: &'static [u8]| store.put(&Bytes::from_static(text), 0).unwrap();
    let (orphan, pinned, referenced) = (put(b"orphan").hash(), put(b"pinned"), put(b"referenced").hash());
    store.referenced(&referenced);
    assert!(store.due(GRACE_MS - 1, 10).is_empty());
    let due = store.due(GRACE_MS, 10);
    assert_eq!(due, [orphan], "a receipt pins its body");
    let hash = pinned.hash();
    drop(pinned);
    assert_eq!(store.collect(&due, GRACE_MS), 1);
    assert_eq!((store.size(&orphan), store.size(&referenced).is_some()), (None, true));
    // An entry that names it passes the gate: it stays although its grace is over.
    store.hold(&[hash], GRACE_MS);
    assert!(store.due(GRACE_MS + 1, 10).is_empty());
    store.applied(&[hash]);
    assert_eq!(store.due(GRACE_MS + 1, 10), [hash]);
    // It is pinned again between the look and the collection.
    let again = put(b"pinned");
    assert_eq!(store.collect(&[hash], 2 * GRACE_MS), 0);
    drop(again);
    store.released(referenced, 0);
    assert_eq!(store.collect(&[referenced], GRACE_MS), 1);
}

#[tokio::test]
async fn a_gate_waits_for_what_arrives_and_tells_what_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    let hashes = [address(&first), address(&second)];
    store.put(&first, 0).unwrap();
    let missing = store.wait_present(&hashes, Duration::from_millis(20), 0).await;
    assert_eq!(missing, [hashes[1]]);
    let later = store.clone();
    let putting = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(later.put(&second, 0));
    });
    assert!(store.wait_present(&hashes, Duration::from_secs(10), 0).await.is_empty());
    putting.await.unwrap();
}

#[test]
fn uploads_are_gapless_checked_and_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let key = (SessionKey { node: NodeId(1), boot: Boot(1), session: 1 }, 1);
    let big = large(4);
    let half = big.len() / 2;
    let max = big.len() as u64;
    assert!(matches!(store.upload(key, 5, b"x", max), Err(BodyError::UploadLost)), "it must begin at 0");
    store.upload(key, 0, &big[..half], max).unwrap();
    store.upload(key, 0, &big[..half], max).unwrap();
    store.upload(key, half as u64, &big[half..], max).unwrap();
    let hash = address(&big);
    assert!(matches!(store.put_upload(&key, max, address(b"other"), 0), Err(BodyError::WrongHash(_))));
    assert!(matches!(store.put_upload(&key, max - 1, hash, 0), Err(BodyError::UploadLost)));
    let (bytes, receipt) = store.put_upload(&key, max, hash, 0).unwrap();
    assert_eq!((bytes, receipt.hash(), receipt.size()), (big.clone(), hash, max));
    assert!(store.put_upload(&key, max, hash, 0).is_ok(), "the request is repeated");
    assert!(matches!(store.upload(key, max, b"more", max), Err(BodyError::UploadLost)), "beyond the bound");
    assert!(matches!(store.put_upload(&key, max, hash, 0), Err(BodyError::UploadLost)));
    store.end_uploads_of(key.0);
}
