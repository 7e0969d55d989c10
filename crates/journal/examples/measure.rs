//! Measures the journal on a real disk: `measure DIR [SECONDS]`. One line per load and kind of segment: appends of a 20 KB body and its entry, or
//! of the entry alone, from so many callers that each wait for durability.

use bytes::Bytes;
use parliament_ids::{BodyHash, GroupId};
use parliament_journal::{Fresh, Journal, Options, Stats};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

struct Load {
    callers: u64,
    body_bytes: usize,
    fresh: Fresh,
}

/// Bytes that this process caused to be written to the device.
fn device_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

fn body(number: u64, len: usize) -> (BodyHash, Bytes) {
    let mut bytes = vec![b'm'; len];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let bytes = Bytes::from(bytes);
    (BodyHash(*blake3::hash(&bytes).as_bytes()), bytes)
}

fn call(journal: &Journal, load: &Load, caller: u64, end: Instant, numbers: &AtomicU64) -> Vec<Duration> {
    let log = journal.group(GroupId(caller as u32));
    let (told, heard) = mpsc::channel();
    let mut times = Vec::new();
    for index in 0.. {
        let clock = Instant::now();
        if clock > end {
            break;
        }
        if load.body_bytes > 0 {
            let (hash, bytes) = body(numbers.fetch_add(1, Ordering::Relaxed), load.body_bytes);
            journal.put_body(hash, bytes, Box::new(|_| {}));
        }
        let told = told.clone();
        log.append(vec![(index, Bytes::from_static(&[7; 250]))], Box::new(move |result| drop(told.send(result))));
        if index >= 1000 && index.is_multiple_of(500) {
            log.purge_to(index - 500, Bytes::new(), Box::new(|_| {}));
        }
        if !matches!(heard.recv(), Ok(Ok(()))) {
            break;
        }
        times.push(clock.elapsed());
    }
    times
}

fn run(dir: &Path, load: &Load, seconds: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options::new(dir.join("measure"));
    options.fresh = load.fresh;
    let journal = Journal::open(options)?;
    // The stock of ready files is not part of the load.
    std::thread::sleep(Duration::from_millis(1500));
    let (before, device) = (journal.stats(), device_bytes());
    let numbers = AtomicU64::new(1);
    let start = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let spawn = |caller| {
            scope.spawn({
                let (journal, numbers) = (&journal, &numbers);
                move || call(journal, load, caller, start + Duration::from_secs(seconds), numbers)
            })
        };
        let callers: Vec<_> = (0..load.callers).map(spawn).collect();
        callers.into_iter().filter_map(|caller| caller.join().ok()).flatten().collect()
    });
    let elapsed = start.elapsed();
    times.sort_unstable();
    let stats = journal.stats();
    report(load, &times, elapsed, (&before, &stats), device_bytes() - device);
    let bodies = stats.bodies;
    journal.close();
    drop(journal);
    let clock = Instant::now();
    let journal = Journal::open(Options::new(dir.join("measure")))?;
    println!("    reopened in {:?} with {bodies} bodies, {:.1} bytes of index each", clock.elapsed(), index_share(&journal.stats()));
    journal.close();
    std::fs::remove_dir_all(dir.join("measure"))?;
    Ok(())
}

fn index_share(stats: &Stats) -> f64 {
    stats.index_bytes as f64 / stats.bodies.max(1) as f64
}

fn report(load: &Load, times: &[Duration], elapsed: Duration, (before, after): (&Stats, &Stats), device: u64) {
    let appends = times.len() as f64;
    let given = appends * (load.body_bytes + 250) as f64;
    println!(
        "{:?} callers={} body={}: {:.0}/s, p50 {:?}, p99 {:?}, {:.2} appends per batch, {:.2} syncs per batch, {:.3} bytes written and {:.3} to the device per byte",
        load.fresh,
        load.callers,
        load.body_bytes,
        appends / elapsed.as_secs_f64(),
        times.get(times.len() / 2).copied().unwrap_or_default(),
        times.get(times.len() * 99 / 100).copied().unwrap_or_default(),
        appends / (after.batches - before.batches).max(1) as f64,
        (after.flushes - before.flushes) as f64 / (after.batches - before.batches).max(1) as f64,
        (after.bytes_written - before.bytes_written) as f64 / given,
        device as f64 / given,
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("measure DIR [SECONDS]")?;
    let seconds = arguments.next().map_or(Ok(2), |seconds| seconds.parse())?;
    for body_bytes in [20_000, 0] {
        for callers in [1, 16, 64] {
            for fresh in [Fresh::Allocate, Fresh::Zero] {
                run(Path::new(&dir), &Load { callers, body_bytes, fresh }, seconds)?;
            }
        }
    }
    Ok(())
}
