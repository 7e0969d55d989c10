//! Bodies on a disk that loses what was not synced: a large body with a receipt and a small one that was flushed survive, a name never stands
//! for other bytes, and what was not finished leaves nothing behind.

use bytes::Bytes;
use parliament_bodies::{BodyFault, BodyStore, Options, Stage};
use parliament_ids::{BodyHash, limits::JOURNAL_BODY_BYTES_MAX};
use parliament_journal::Journal;
use parliament_store_tests::{Action, Fault, Loss, Mounted, Random, mounted, seconds};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

fn body(seed: u64, large: bool) -> Bytes {
    let mut random = Random::new(seed);
    let len = if large { JOURNAL_BODY_BYTES_MAX as u64 + 1 + random.below(300_000) } else { random.below(20_000) };
    Bytes::from(random.bytes(len as usize))
}

fn hash_of(bytes: &Bytes) -> BodyHash {
    BodyHash(*blake3::hash(bytes).as_bytes())
}

fn open(folder: &Path) -> Result<(Journal, BodyStore), BodyFault> {
    let journal =
        parliament_journal::Options { segment_bytes: 1 << 20, ..parliament_journal::Options::new(folder.join("data").join("journal")) };
    let journal = Journal::open(journal)?;
    let store = BodyStore::open(journal.clone(), Options { grace_ms: 0, ..Options::new(folder.join("data").join("bodies")) });
    store.map(|store| (journal.clone(), store)).inspect_err(|_| journal.close())
}

/// What the runs came to.
#[derive(Debug, Default)]
struct Tally {
    lives: u32,
    large: u32,
    small: u32,
    removed: u32,
    cut_in_recovery: u32,
}

/// What was stored through several lives.
struct World<'a> {
    mounted: &'a Mounted,
    random: Random,
    loss: &'a dyn Fn(&mut Random) -> Loss,
    tally: &'a mut Tally,
    known: BTreeMap<BodyHash, Bytes>,
    /// Bodies that must be there.
    kept: BTreeSet<BodyHash>,
    /// Small ones that must be there after the next flush.
    queued: BTreeSet<BodyHash>,
    next: u64,
}

impl World<'_> {
    fn cut(&mut self) {
        let loss = (self.loss)(&mut self.random);
        self.mounted.volume.cut(loss);
    }

    fn plan_cut(&mut self, within: u64) {
        let (after, loss, carried_out) = (self.random.below(within), (self.loss)(&mut self.random), self.random.one_in(2));
        self.mounted.volume.cut_after(after, loss, carried_out);
    }

    fn live(&mut self, folder: &Path) -> Result<(), String> {
        if self.random.one_in(3) {
            self.plan_cut(25);
            let opened = open(folder);
            self.tally.cut_in_recovery += u32::from(opened.is_err());
            self.cut();
            if let Ok((journal, _)) = opened {
                journal.close();
            }
            self.mounted.volume.start();
        }
        let (journal, store) = open(folder).map_err(|fault| fault.to_string())?;
        self.check(&store, folder)?;
        self.plan_cut(60);
        let mut uploads = Vec::new();
        for _ in 0..200 {
            if self.mounted.volume.is_off() {
                break;
            }
            self.step(&journal, &store, &mut uploads);
        }
        self.cut();
        drop(uploads);
        journal.close();
        self.mounted.volume.start();
        self.tally.lives += 1;
        Ok(())
    }

    fn step(&mut self, journal: &Journal, store: &BodyStore, uploads: &mut Vec<Stage>) {
        self.next += 1;
        match self.random.below(8) {
            0..=2 => self.put(store),
            3 | 4 => self.upload(store),
            5 => {
                // Begun, and never finished.
                let mut stage = store.stage();
                if stage.write(&body(self.next, true)).is_ok() {
                    uploads.push(stage);
                }
            }
            6 => self.remove(store),
            _ => {
                let queued = std::mem::take(&mut self.queued);
                if journal.flush_now().is_ok() {
                    self.kept.extend(queued);
                }
            }
        }
    }

    fn put(&mut self, store: &BodyStore) {
        let bytes = body(self.next, self.random.one_in(2));
        self.known.insert(hash_of(&bytes), bytes.clone());
        if let Ok(receipt) = store.put(bytes) {
            self.received(receipt.hash(), receipt.size());
        }
    }

    fn upload(&mut self, store: &BodyStore) {
        let bytes = body(self.next, true);
        self.known.insert(hash_of(&bytes), bytes.clone());
        let mut stage = store.stage();
        if bytes.chunks(100_000).all(|piece| stage.write(piece).is_ok())
            && let Ok(receipt) = stage.finish(Some(hash_of(&bytes)))
        {
            self.received(receipt.hash(), receipt.size());
        }
    }

    fn received(&mut self, hash: BodyHash, size: u64) {
        if size > JOURNAL_BODY_BYTES_MAX as u64 {
            self.kept.insert(hash);
            self.tally.large += 1;
        } else {
            self.queued.insert(hash);
            self.tally.small += 1;
        }
    }

    /// From the moment a removal begins the body may be gone, and after a cut it may be back.
    fn remove(&mut self, store: &BodyStore) {
        let count = self.kept.len() as u64;
        let Some(hash) = (count > 0).then(|| self.random.below(count)).and_then(|at| self.kept.iter().nth(at as usize).copied()) else {
            return;
        };
        self.kept.remove(&hash);
        self.queued.remove(&hash);
        store.release(hash, 0);
        self.tally.removed += store.collect(1, |_| false).removed as u32;
    }

    fn check(&mut self, store: &BodyStore, folder: &Path) -> Result<(), String> {
        self.queued.clear();
        for (hash, bytes) in &self.known {
            match store.read(hash) {
                Ok(read) if read == *bytes => {}
                Err(BodyFault::Missing(_)) if !self.kept.contains(hash) => {}
                Ok(_) => return Err(format!("{hash} has other bytes")),
                Err(fault) => return Err(format!("{fault}; {} bytes, received: {}", bytes.len(), self.kept.contains(hash))),
            }
        }
        for entry in std::fs::read_dir(folder.join("data").join("bodies")).map_err(|error| error.to_string())? {
            let name = entry.map_err(|error| error.to_string())?.file_name();
            if name.to_string_lossy().len() > 2 {
                return Err(format!("{} was left behind", name.display()));
            }
        }
        Ok(())
    }
}

fn worlds(test: &str, seed: u64, loss: impl Fn(&mut Random) -> Loss) {
    let Some(mounted) = mounted(test, seed) else { return };
    let (start, mut tally) = (Instant::now(), Tally::default());
    for number in seed.. {
        world(&mounted, number, &loss, &mut tally).unwrap_or_else(|what| panic!("{what}"));
        if start.elapsed() > seconds(4) && tally.lives >= 6 && tally.large > 20 && tally.removed > 0 {
            break;
        }
    }
    println!("{tally:?}");
}

fn world(mounted: &Mounted, seed: u64, loss: &dyn Fn(&mut Random) -> Loss, tally: &mut Tally) -> Result<(), String> {
    let mut world = World {
        mounted,
        random: Random::new(seed),
        loss,
        tally,
        known: BTreeMap::new(),
        kept: BTreeSet::new(),
        queued: BTreeSet::new(),
        next: seed * 1_000_000,
    };
    let folder = mounted.path().join(format!("world-{seed}"));
    (0..6).try_for_each(|life| world.live(&folder).map_err(|what| format!("seed {seed}, life {life}: {what}")))
}

#[test]
fn cuts_lose_no_received_body() {
    worlds("power cuts of bodies", 500, |_| Loss::All);
}

#[test]
fn torn_writes_lose_no_received_body() {
    worlds("torn writes of bodies", 600, |_| Loss::Some);
}

#[test]
fn deaths_and_cuts_in_turns_lose_no_received_body() {
    worlds("process deaths and power cuts of bodies", 700, |random| match random.below(4) {
        0 => Loss::All,
        1 => Loss::Some,
        _ => Loss::None,
    });
}

/// A process dies after a large body has its name and before that name is synced. The next process takes the body for present, gives a receipt,
/// and the power goes.
#[test]
fn body_that_a_new_process_found_survives_a_cut() {
    let Some(mounted) = mounted("bodies found by a new process", 31) else { return };
    let mut found = 0;
    for changes in 0..40 {
        let folder = mounted.path().join(format!("run-{changes}"));
        let (journal, store) = open(&folder).expect("open");
        let bytes = body(changes, true);
        mounted.volume.cut_after(changes, Loss::None, false);
        let stored = store.put(bytes.clone()).is_ok();
        mounted.volume.cut(Loss::None);
        journal.close();
        mounted.volume.start();
        let (journal, store) = open(&folder).expect("open");
        let receipt = store.receipt(&hash_of(&bytes)).is_some();
        found += u32::from(receipt && !stored);
        mounted.volume.cut(Loss::All);
        journal.close();
        mounted.volume.start();
        let (journal, store) = open(&folder).expect("open");
        assert!(!receipt || store.read(&hash_of(&bytes)).is_ok_and(|read| read == bytes), "cut after {changes} changes");
        journal.close();
        if stored {
            break;
        }
    }
    assert!(found > 0, "no death fell between the name and its sync");
}

/// A full or failing disk: no receipt, no name, nothing left behind, and the same body can be stored once the disk is well.
#[test]
fn failing_and_full_disks_give_no_receipt() {
    let Some(mounted) = mounted("failing disks under bodies", 32) else { return };
    let (volume, folder) = (&mounted.volume, mounted.path().join("run"));
    let (journal, store) = open(&folder).expect("open");
    let bytes = body(1, true);
    for action in [Action::Write, Action::Sync] {
        volume.fail(Fault { action, name: "spool-", after: 0, times: 1 });
        assert!(matches!(store.put(bytes.clone()), Err(BodyFault::Disk { .. })));
        assert_eq!((store.size(&hash_of(&bytes)), store.receipt(&hash_of(&bytes)).is_none()), (None, true));
    }
    let folder_of = format!("{:02x}", hash_of(&bytes).0[0]);
    volume.fail(Fault { action: Action::SyncFolder, name: Box::leak(folder_of.into_boxed_str()), after: 0, times: 1 });
    assert!(store.put(bytes.clone()).is_err() && store.receipt(&hash_of(&bytes)).is_none());
    assert_eq!(volume.bitten(), 3);
    volume.set_capacity(Some(volume.used() + 100_000));
    assert!(store.put(body(2, true)).is_err() && store.put(body(3, true)).is_err());
    volume.set_capacity(None);
    let spools = std::fs::read_dir(folder.join("data/bodies")).expect("list").filter(|entry| {
        let name = entry.as_ref().expect("entry").file_name();
        name.to_string_lossy().starts_with("spool-")
    });
    assert_eq!(spools.count(), 0);
    drop(store.put(bytes.clone()).expect("put"));
    volume.cut(Loss::All);
    journal.close();
    volume.start();
    let (journal, store) = open(&folder).expect("open");
    assert!(store.read(&hash_of(&bytes)).expect("read") == bytes);
    journal.close();
}

/// The judge must see a disk that does not sync.
#[test]
fn lying_disk_is_caught() {
    let Some(mounted) = mounted("bodies on a lying disk", 33) else { return };
    mounted.volume.set_lying(true);
    let caught = (800..803).any(|seed| world(&mounted, seed, &|_| Loss::All, &mut Tally::default()).is_err());
    assert!(caught, "three runs without syncs lost nothing");
}
