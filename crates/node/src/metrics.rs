//! Metrics in the Prometheus text format: `parliament_<area>_<what>_<unit>[_total]`, none per user.

use crate::node::Node;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

struct Text(String);

impl Text {
    fn row(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.row(name, "counter", help, value);
    }
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.row(name, "gauge", help, value);
    }
}

/// All metrics of this node.
pub(crate) fn render(node: &Node) -> String {
    let mut text = Text(String::new());
    journal(&mut text, node);
    disk(&mut text, node);
    let Some(running) = node.running() else {
        text.gauge("parliament_node_ready", "1 when this node serves.", 0);
        return text.0;
    };
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &running.local.counters;
    text.gauge("parliament_node_ready", "1 when this node serves.", u64::from(running.unready().is_none()));
    text.gauge("parliament_node_boot", "Starts of this node.", node.boot.0);
    text.gauge("parliament_groups_here", "Groups with a replica on this node.", running.group_ids().len() as u64);
    text.gauge("parliament_groups_led", "Groups that this node leads.", running.leads() as u64);
    let leaderless = running.group_ids().into_iter().filter(|group| running.local.leader(*group).is_none()).count();
    text.gauge("parliament_groups_leaderless", "Groups whose leader this node does not know.", leaderless as u64);
    let rests = |group: &parliament_ids::GroupId| running.local.shard(*group).is_some_and(|shard| shard.group.is_resting());
    let resting = running.group_ids().iter().filter(|group| rests(group)).count();
    text.gauge("parliament_groups_resting", "Groups here that nobody uses: they have leaders and cost nothing.", resting as u64);
    let quorumless = running.without_quorum().len() as u64;
    text.gauge("parliament_groups_quorumless", "Groups here of whose voters this node does not hear a majority.", quorumless);
    text.counter("parliament_uid_regressions_total", "UIDs given twice or out of order: always 0.", load(&counters.uid_regressions));
    text.gauge(
        "parliament_bodies_damaged",
        "Bodies found damaged here and not replaced yet.",
        running.local.bodies.store().damaged().len() as u64,
    );
    text.counter("parliament_requests_served_total", "Requests served here as the holder.", load(&counters.served));
    text.counter("parliament_requests_relayed_total", "Requests sent to another holder.", load(&counters.relayed));
    text.counter("parliament_reads_behind_barrier_total", "Reads that needed a read barrier.", load(&counters.barrier_reads));
    let local = running.local.support.reads_locally(running.local.support.boot());
    text.gauge("parliament_reads_local", "1 while this node answers reads for its users without asking a quorum.", u64::from(local));
    let wrong = running.local.support.wrong_clocks().len() as u64;
    text.gauge("parliament_clocks_wrong", "Voters whose clocks run at another rate than this node's.", wrong);
    text.counter("parliament_leases_acquired_total", "Free leases taken.", load(&counters.acquired));
    text.counter("parliament_leases_taken_over_total", "Leases taken over from a node that died or restarted.", load(&counters.taken_over));
    text.counter(
        "parliament_leases_followed_total",
        "Leases handed over to the zone where their users are used.",
        load(&counters.followed),
    );
    let take_over = load(&counters.take_over_max_ms) as f64 / 1000.0;
    text.row("parliament_leases_take_over_max_seconds", "gauge", "Longest take-over since the start.", take_over);
    text.counter("parliament_stale_fences_total", "Commands refused because of a stale fence.", load(&counters.stale_fences));
    if let Some(frontend) = running.frontend.get() {
        for (name, value) in frontend.stats().values() {
            match name.strip_suffix("_now") {
                Some(name) => text.gauge(&format!("parliament_frontend_{name}"), &format!("{} now.", words(name)), value),
                None => text.counter(&format!("parliament_frontend_{name}_total"), &format!("{} since the start.", words(name)), value),
            }
        }
    }
    text.0
}

/// A counter's name as a sentence begins: `Logins accepted`.
fn words(name: &str) -> String {
    let mut words = name.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

fn disk(text: &mut Text, node: &Node) {
    if let Ok(stat) = rustix::fs::statvfs(&node.data.path) {
        text.gauge("parliament_disk_size_bytes", "Size of the file system with the data directory.", stat.f_blocks * stat.f_frsize);
        let refused = node.journal.space() as u64;
        text.gauge("parliament_disk_refused", "For lack of space: 0 nothing, 1 messages, 2 all but what frees space.", refused);
        text.gauge("parliament_disk_free_bytes", "Free for this node on it.", stat.f_bavail * stat.f_frsize);
    }
}

fn journal(text: &mut Text, node: &Node) {
    let stats = node.journal.stats();
    text.counter("parliament_journal_syncs_total", "Device syncs of the journal.", stats.flushes);
    text.counter("parliament_journal_batches_total", "Batches written.", stats.batches);
    text.counter("parliament_journal_written_bytes_total", "Bytes written.", stats.bytes_written);
    text.counter("parliament_journal_entry_bytes_total", "Bytes of log entries taken.", stats.entry_bytes);
    text.counter("parliament_journal_body_bytes_total", "Bytes of bodies taken.", stats.body_bytes);
}
