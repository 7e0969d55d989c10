//! What processes cost: CPU time and bytes written, their dead and waited-for children included, and flushes of the devices.

use std::fs;

/// A reading; the difference of two is what was spent in between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time, user and system, seconds.
    pub cpu_s: f64,
    /// Bytes that were sent towards the disk.
    pub written: u64,
    /// Flush requests that this machine's disks completed, whoever asked for them.
    pub flushes: u64,
}

impl Usage {
    /// What was spent since an earlier reading. Where a process vanished without its parent's waiting for it, the difference would be
    /// negative; 0 is told then.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_s: (self.cpu_s - earlier.cpu_s).max(0.0),
            written: self.written.saturating_sub(earlier.written),
            flushes: self.flushes.saturating_sub(earlier.flushes),
        }
    }
}

/// Reads the costs of processes so far.
pub fn of(pids: &[i32]) -> Usage {
    let mut usage = Usage { flushes: flushes(&fs::read_to_string("/proc/diskstats").unwrap_or_default()), ..Usage::default() };
    #[expect(clippy::cast_precision_loss, reason = "ticks per second are few")]
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    for pid in pids {
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            usage.cpu_s += ticks(&stat) / ticks_per_second;
        }
        if let Ok(io) = fs::read_to_string(format!("/proc/{pid}/io")) {
            usage.written += io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0);
        }
    }
    usage
}

/// Memory of a process that is resident now, bytes.
pub fn resident(pid: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// User, system, and those of waited-for children: fields 14 to 17 of /proc/PID/stat.
fn ticks(stat: &str) -> f64 {
    // The name in brackets may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(4).filter_map(|f| f.parse::<f64>().ok()).sum()
}

/// Field 19 of /proc/diskstats, of whole disks.
fn flushes(diskstats: &str) -> u64 {
    let of_line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let name = fields.get(2)?;
        let partition = name.ends_with(|c: char| c.is_ascii_digit()) && !name.starts_with("nvme");
        let partition = partition || (name.starts_with("nvme") && name.contains('p'));
        fields.get(18).filter(|_| !partition)?.parse::<u64>().ok()
    };
    diskstats.lines().filter_map(of_line).sum()
}

/// A process and all below it.
pub fn tree(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        at += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|c| c.parse::<i32>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_that_ended_are_counted() {
        assert!((ticks("7 (a b) c) S 1 1 1 0 -1 4 0 0 0 0 10 20 3 4 20 0 1") - 37.0).abs() < 0.1);
    }

    #[test]
    fn flushes_of_partitions_are_not_counted_twice() {
        let line = |name: &str, n: u32| format!("8 0 {name} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 {n} 17\n");
        assert_eq!(flushes(&[line("sda", 5), line("sda1", 4), line("nvme0n1", 7), line("nvme0n1p1", 6), line("loop0", 0)].concat()), 12);
    }

    #[test]
    fn a_busy_process_costs_time() {
        let me = i32::try_from(std::process::id()).unwrap();
        let before = of(&[me]);
        let started = std::time::Instant::now();
        let mut hash = String::new();
        while started.elapsed().as_millis() < 200 {
            hash = crate::message::sha(hash.as_bytes());
        }
        assert!(of(&tree(me)).since(before).cpu_s > 0.01, "{hash}");
    }
}
