//! What commits cost: time, processor time, bytes written and device syncs for each, with several groups committing at once.
//!
//! ```text
//! cargo run --release --example commit_cost -- FOLDER [GROUPS] [COMMITS]
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use parliament_mailbox_state::{Tables, Writes};
use parliament_tables::{GroupTables, TableOptions};

/// A number of `/proc/self/io`.
fn io_counter(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

/// Processor time of this process, in microseconds, in steps of 10 ms.
fn processor_micros() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = text.rsplit(')').next().unwrap_or_default().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    (fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0)) * 10_000
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn bytes(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(bytes).collect()
    }
}

/// An APPEND of one of 2,000 accounts: 5 records, 3.6 kB.
fn append(random: &mut Random) -> Writes {
    let account = random.next() % 2_000;
    [(b'A', 150), (b'S', 1_056), (b'F', 1_200), (b'M', 992), (b'W', 120)]
        .into_iter()
        .map(|(table, bytes)| {
            let key = [[table].as_slice(), &account.to_be_bytes(), &(random.next() % 3).to_be_bytes()].concat();
            (key, Some(random.bytes(bytes)))
        })
        .collect()
}

fn one_group(folder: &Path, commits: u64, seed: u64) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
    let tables = GroupTables::open(folder, &TableOptions::default())?.tables;
    let flusher = tables.clone();
    let mut random = Random(seed);
    let mut worst = Duration::ZERO;
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flushes = scope.spawn(move || -> Result<u32, parliament_tables::TableError> {
            let mut flushes = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if flusher.needs_flush() {
                    flusher.flush()?;
                    flushes += 1;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            flusher.flush().map(|_| flushes + 1)
        });
        for turn in 0..commits {
            let writes = append(&mut random);
            let start = Instant::now();
            let outcome = tables.commit(writes, &turn.to_le_bytes());
            worst = worst.max(start.elapsed());
            if outcome.is_err() {
                break;
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let flushes = flushes.join().map_err(|_| "the flusher panicked")??;
        println!("{flushes} flushes on the other thread, {} device syncs of sled in all groups so far", tables.stats()?.device_syncs);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    let start = Instant::now();
    for _ in 0..100_000 {
        let key = [[b'A'].as_slice(), &(random.next() % 2_000).to_be_bytes(), &(random.next() % 3).to_be_bytes()].concat();
        std::hint::black_box(tables.get(&key)?);
    }
    println!("get {:.2} µs, files {} kB", start.elapsed().as_secs_f64() * 10.0, tables.size()? / 1024);
    Ok(worst)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    parliament_tables::self_test()?;
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("a folder to write to")?;
    let groups: u64 = arguments.next().map_or(Ok(1), |groups| groups.parse())?;
    let commits: u64 = arguments.next().map_or(Ok(20_000), |commits| commits.parse())?;
    let (device, written, processor, start) = (io_counter("write_bytes:"), io_counter("wchar:"), processor_micros(), Instant::now());
    let worst = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..groups)
            .map(|group| {
                let folder = Path::new(&folder).join(format!("group.{group}"));
                scope.spawn(move || one_group(&folder, commits, group + 1))
            })
            .collect();
        runs.into_iter()
            .map(|run| run.join().map_err(|_| "a group panicked")?)
            .try_fold(Duration::ZERO, |worst, run| Ok::<_, Box<dyn std::error::Error + Send + Sync>>(worst.max(run?)))
    })?;
    let total = groups * commits;
    println!(
        "{total} commits: {:.1} µs each, worst {worst:?}, {} µs processor, {} B written, {} B to the device",
        start.elapsed().as_secs_f64() * 1e6 / total as f64,
        (processor_micros() - processor) / total,
        (io_counter("wchar:") - written) / total,
        (io_counter("write_bytes:") - device) / total,
    );
    Ok(())
}
