//! The tables on a disk that loses what was not synced: they are found as they were at one applied mark, not before the last that a flush
//! returned, or say that they are not whole.

mod faults;
mod model;

use model::{History, batch, mark, turn_of};
use parliament_store_tests::{Loss, Mounted, Random, mounted, seconds};
use parliament_tables::{GroupTables, Opened, SnapshotInfo, TableError, TableOptions, TableState, verify_snapshot};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn options() -> TableOptions {
    TableOptions { cache_bytes: 1 << 20, pending_bytes_max: 256 << 10, snapshot_value_bytes_max: 2 << 10, snapshot_key_bytes_max: 1 << 20 }
}

/// Makes folders whose names are durable.
fn durable_folder(path: &Path) -> PathBuf {
    fs::create_dir(path).expect("folder");
    fs::File::open(path.parent().expect("a parent")).and_then(|parent| parent.sync_all()).expect("sync");
    path.to_owned()
}

/// What the runs came to.
#[derive(Debug, Default)]
struct Tally {
    lives: u32,
    commits: u64,
    flushes: u64,
    /// Cuts after which more was found than the last flush had returned.
    ahead: u32,
    snapshots: u32,
    snapshots_cut: u32,
    installs: u32,
    installs_cut: u32,
    cut_in_recovery: u32,
    set_aside: u32,
}

/// A snapshot file that was finished, and what it holds.
#[derive(Clone)]
struct Snapshot {
    path: PathBuf,
    image: History,
}

/// Tables through several lives.
struct World<'a> {
    mounted: &'a Mounted,
    seed: u64,
    loss: &'a dyn Fn(&mut Random) -> Loss,
    random: Random,
    folder: PathBuf,
    tally: &'a mut Tally,
    history: History,
    /// The last turn that a flush has returned.
    flushed: u64,
    turn: u64,
    newest: Option<Snapshot>,
    /// The image that an install was bringing when the cut came, and whether it had ended.
    installing: Option<(History, bool)>,
}

impl<'a> World<'a> {
    fn new(mounted: &'a Mounted, seed: u64, loss: &'a dyn Fn(&mut Random) -> Loss, tally: &'a mut Tally) -> Self {
        let folder = durable_folder(&mounted.path().join(format!("world-{seed}")));
        durable_folder(&folder.join("snapshots"));
        World {
            mounted,
            seed,
            loss,
            random: Random::new(seed),
            folder,
            tally,
            history: History::new(seed),
            flushed: 0,
            turn: 0,
            newest: None,
            installing: None,
        }
    }

    fn cut(&mut self) {
        let loss = (self.loss)(&mut self.random);
        self.mounted.volume.cut(loss);
        self.mounted.volume.start();
    }

    fn plan_cut(&mut self, within: u64) {
        let (after, loss, carried_out) = (self.random.below(within), (self.loss)(&mut self.random), self.random.one_in(2));
        self.mounted.volume.cut_after(after, loss, carried_out);
    }

    fn open(&self) -> Result<Opened, TableError> {
        GroupTables::open(&self.folder.join("tables"), &options())
    }

    fn live(&mut self) -> Result<(), String> {
        if self.random.one_in(3) {
            self.plan_cut(8);
            let opened = self.open();
            self.tally.cut_in_recovery += u32::from(opened.is_err());
            self.cut();
        }
        let opened = self.open().map_err(|error| error.to_string())?;
        self.check(&opened)?;
        let tables = opened.tables;
        if !matches!(opened.state, TableState::Ready { .. } | TableState::Fresh) {
            self.rebuild(&tables)?;
        }
        match self.newest.clone() {
            Some(snapshot) if self.random.one_in(4) => {
                self.plan_cut(80);
                self.install(&tables, snapshot);
            }
            _ => {
                self.plan_cut(400);
                self.work(&tables)?;
            }
        }
        drop(tables);
        self.cut();
        self.tally.lives += 1;
        Ok(())
    }

    /// Judges what was found, and takes it as the new beginning.
    fn check(&mut self, opened: &Opened) -> Result<(), String> {
        let installing = self.installing.take();
        let turn = match &opened.state {
            TableState::SetAside { why } => {
                println!("seed {}: set aside: {why}", self.seed);
                self.tally.set_aside += 1;
                return Ok(());
            }
            TableState::Installing if installing.as_ref().is_some_and(|(_, ended)| !ended) => return Ok(()),
            TableState::Installing => return Err("an install that did not happen or had ended was found unfinished".into()),
            TableState::Fresh => 0,
            TableState::Ready { applied } => turn_of(applied),
        };
        if let Some((image, ended)) = installing {
            if turn == image.from {
                (self.history, self.flushed) = (image, turn);
            } else if ended {
                return Err(format!("installed turn {}, found turn {turn}", image.from));
            }
        }
        let (flushed, last) = (self.flushed, self.history.last());
        if turn < flushed {
            return Err(format!("flushed turn {flushed}, found turn {turn}"));
        }
        self.tally.ahead += u32::from(turn > flushed);
        self.history = self.history.at(turn).ok_or(format!("found turn {turn}, which was not among those up to {last}"))?;
        self.flushed = turn;
        self.history.compare(&opened.tables)?;
        self.check_snapshot()
    }

    fn check_snapshot(&self) -> Result<(), String> {
        let Some(snapshot) = &self.newest else { return Ok(()) };
        let info: SnapshotInfo = verify_snapshot(&snapshot.path).map_err(|error| format!("a finished snapshot: {error}"))?;
        if turn_of(&info.applied) == snapshot.image.from { Ok(()) } else { Err("a finished snapshot has another mark".into()) }
    }

    /// What the owner of tables that are not whole does: installs the newest snapshot, or begins anew.
    fn rebuild(&mut self, tables: &GroupTables) -> Result<(), String> {
        match &self.newest {
            Some(snapshot) => {
                tables.install(&snapshot.path).map_err(|error| error.to_string())?;
                self.history = snapshot.image.clone();
            }
            None => {
                tables.start_empty().map_err(|error| error.to_string())?;
                self.history = History::new(self.seed);
            }
        }
        self.flushed = self.history.from;
        self.history.compare(tables)
    }

    fn install(&mut self, tables: &GroupTables, snapshot: Snapshot) {
        let ended = tables.install(&snapshot.path).is_ok();
        self.tally.installs += u32::from(ended);
        self.tally.installs_cut += u32::from(!ended);
        self.installing = Some((snapshot.image, ended));
    }

    /// Commits until the cut, while another thread flushes and snapshots are written.
    fn work(&mut self, tables: &GroupTables) -> Result<(), String> {
        let flushed = AtomicU64::new(self.flushed);
        let flushes = AtomicU64::new(0);
        let volume = &self.mounted.volume;
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !volume.is_off() {
                    if let Ok(applied) = tables.flush() {
                        flushed.fetch_max(if applied.is_empty() { 0 } else { turn_of(&applied) }, Ordering::AcqRel);
                        flushes.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
            });
            let outcome = self.commits(tables);
            if outcome.is_err() || !volume.is_off() {
                volume.cut(Loss::All);
            }
            outcome
        });
        self.flushed = flushed.into_inner();
        self.tally.flushes += flushes.into_inner();
        outcome
    }

    fn commits(&mut self, tables: &GroupTables) -> Result<(), String> {
        let (mut run, until) = (None, self.turn + 2000);
        while !self.mounted.volume.is_off() && self.turn < until {
            self.turn += 1;
            match tables.commit(batch(self.seed, self.turn), &mark(self.turn)) {
                Ok(()) => self.history.turns.push(self.turn),
                Err(_) if self.mounted.volume.is_off() => break,
                // A commit that had to flush first met the cut in another thread.
                Err(error) => return if wait_for_cut(self.mounted) { Ok(()) } else { Err(error.to_string()) },
            }
            self.tally.commits += 1;
            if self.random.one_in(40) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            match run.take() {
                None if self.random.one_in(60) => run = Some(self.start_snapshot(tables)?),
                Some((run_of, snapshot)) if self.random.one_in(10) => self.finish_snapshot(run_of, snapshot),
                still => run = still,
            }
        }
        Ok(())
    }

    fn start_snapshot(&mut self, tables: &GroupTables) -> Result<(parliament_tables::SnapshotRun, Snapshot), String> {
        let path = self.folder.join("snapshots").join(format!("{:08}", self.turn));
        let run = tables.snapshot_to(&path, b"meta").map_err(|error| error.to_string())?;
        let image = self.history.at(turn_of(run.applied())).ok_or("a snapshot of a mark that was not committed")?;
        Ok((run, Snapshot { path, image }))
    }

    fn finish_snapshot(&mut self, run: parliament_tables::SnapshotRun, snapshot: Snapshot) {
        if run.run().is_err() {
            self.tally.snapshots_cut += 1;
            return;
        }
        self.tally.snapshots += 1;
        if let Some(old) = self.newest.replace(snapshot) {
            // After a cut it may be back, which nobody minds.
            let _ = fs::remove_file(old.path);
        }
    }
}

fn wait_for_cut(mounted: &Mounted) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        mounted.volume.is_off()
    })
}

/// What runs must come to, however slow the machine is.
const LIVES_MIN: u32 = 9;
const FLUSHES_MIN: u64 = 20;

/// Runs until the time is over.
fn worlds(test: &str, seed: u64, loss: impl Fn(&mut Random) -> Loss) -> Option<Tally> {
    let mounted = mounted(test, seed)?;
    let (start, mut tally) = (Instant::now(), Tally::default());
    'time: for number in 0.. {
        let mut world = World::new(&mounted, seed + number, &loss, &mut tally);
        for life in 0..12 {
            world.live().unwrap_or_else(|what| panic!("seed {}, life {life}: {what}", seed + number));
            if start.elapsed() > seconds(8) && world.tally.lives >= LIVES_MIN && world.tally.flushes >= FLUSHES_MIN {
                break 'time;
            }
        }
    }
    println!("{tally:?}");
    Some(tally)
}

#[test]
fn cuts_leave_one_state_and_nothing_flushed_is_lost() {
    if let Some(tally) = worlds("power cuts of the tables", 100, |_| Loss::All) {
        assert_eq!(tally.set_aside, 0, "a plain cut must not cost a database");
    }
}

#[test]
fn torn_writes_leave_one_state_or_say_so() {
    worlds("torn writes of the tables", 200, |_| Loss::Some);
}

#[test]
fn deaths_and_cuts_in_turns_leave_one_state_or_say_so() {
    worlds("process deaths and power cuts of the tables", 300, |random| match random.below(4) {
        0 => Loss::All,
        1 => Loss::Some,
        _ => Loss::None,
    });
}

/// The judge must see a disk that does not sync.
#[test]
fn lying_disk_is_caught() {
    let Some(mounted) = mounted("tables on a lying disk", 400) else { return };
    let mut tally = Tally::default();
    let mut world = World::new(&mounted, 400, &|_| Loss::All, &mut tally);
    world.live().expect("nothing was there to be lost");
    mounted.volume.set_lying(true);
    let caught = (0..6).any(|_| world.live().is_err());
    assert!(caught || tally.set_aside > 0, "six cuts without syncs lost nothing");
}
