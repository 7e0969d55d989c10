//! The node journal on a disk that loses what was not synced, tears it, fails or is full.

mod faults;
mod model;

use model::Workload;
use parliament_journal::{Journal, Options};
use parliament_store_tests::{Loss, Mounted, Random, mounted, seconds};
use std::path::Path;
use std::time::Instant;

/// Small segments, so that they change, are carried forward and used again all the time.
fn options(folder: &Path) -> Options {
    Options {
        segment_bytes: 64 * 1024,
        reserve_segments: 1,
        carry_after_bytes: 128 * 1024,
        cache_bytes_per_group: 2048,
        compact_bytes_per_second: 1 << 30,
        ..Options::new(folder)
    }
}

/// What a run came to.
#[derive(Debug, Default)]
struct Tally {
    lives: u32,
    cut_in_recovery: u32,
    steps: usize,
    rolls: u64,
    recycled: u64,
    carried: u64,
}

/// How one run is made.
struct Plan<'a> {
    mounted: &'a Mounted,
    /// False leaves out the journal's syncs.
    sync: bool,
    loss: &'a dyn Fn(&mut Random) -> Loss,
}

impl Plan<'_> {
    fn options(&self, folder: &Path) -> Options {
        Options { sync: self.sync, ..options(folder) }
    }

    /// Opens, only to be cut while recovering or right after.
    fn cut_in_recovery(&self, folder: &Path, random: &mut Random) -> bool {
        let (volume, loss) = (&self.mounted.volume, (self.loss)(random));
        volume.cut_after(random.below(40), loss, random.one_in(2));
        let opened = Journal::open(self.options(folder));
        assert!(opened.is_ok() || volume.is_off(), "recovery failed without a cut");
        volume.cut(loss);
        if let Ok(journal) = &opened {
            journal.close();
        }
        volume.start();
        opened.is_err()
    }

    /// One journal through several lives.
    fn world(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let volume = &self.mounted.volume;
        let folder = self.mounted.path().join(format!("world-{seed}")).join("journal");
        let mut random = Random::new(seed);
        let mut workload = Workload::new(seed);
        for life in 0..10 {
            let told = |what: String| format!("seed {seed}, life {life}: {what}");
            if random.one_in(3) && self.cut_in_recovery(&folder, &mut random) {
                tally.cut_in_recovery += 1;
            }
            let journal = Journal::open(self.options(&folder)).map_err(|fault| told(fault.to_string()))?;
            workload.check(&journal).map_err(told)?;
            workload.resume(&journal).map_err(told)?;
            volume.cut_after(random.below(160), (self.loss)(&mut random), random.one_in(2));
            workload.run(&journal, 3000);
            let stats = journal.stats();
            tally.rolls += stats.rolls;
            tally.recycled += stats.recycled;
            tally.carried += stats.carried_bytes;
            volume.cut((self.loss)(&mut random));
            journal.close();
            volume.start();
            tally.lives += 1;
        }
        tally.steps += workload.total;
        Ok(())
    }
}

/// Worlds of consecutive seeds for some seconds, or for as many as `PARLIAMENT_STORE_SECONDS` says.
fn worlds(test: &str, seed: u64, loss: impl Fn(&mut Random) -> Loss) {
    let Some(mounted) = mounted(test, seed) else { return };
    let (start, mut tally) = (Instant::now(), Tally::default());
    let plan = Plan { mounted: &mounted, sync: true, loss: &loss };
    for number in 0.. {
        plan.world(seed + number, &mut tally).unwrap_or_else(|what| panic!("{what}"));
        if start.elapsed() > seconds(6) && tally.lives >= 10 && tally.steps > 500 && tally.rolls > 5 {
            break;
        }
    }
    println!("{tally:?}");
}

#[test]
fn cuts_lose_nothing_acknowledged_and_invent_nothing() {
    worlds("power cuts of the journal", 1000, |_| Loss::All);
}

#[test]
fn torn_writes_lose_nothing_acknowledged_and_invent_nothing() {
    worlds("torn writes of the journal", 2000, |_| Loss::Some);
}

/// A process that dies leaves writes that only memory has: what recovery builds on them must survive the cut that comes next.
#[test]
fn deaths_and_cuts_in_turns_lose_nothing() {
    worlds("process deaths and power cuts of the journal", 3000, |random| match random.below(4) {
        0 => Loss::All,
        1 => Loss::Some,
        _ => Loss::None,
    });
}

/// The judge must see a journal that acknowledges before it syncs.
#[test]
fn journal_without_syncs_is_caught() {
    let Some(mounted) = mounted("a journal that does not sync", 5) else { return };
    let plan = Plan { mounted: &mounted, sync: false, loss: &|_| Loss::All };
    let caught = (4000..4003).find_map(|seed| plan.world(seed, &mut Tally::default()).err());
    assert!(caught.is_some(), "three runs without syncs lost nothing");
}
