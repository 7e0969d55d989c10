//! Settings of consensus on one node.

use openraft::{Config, ConfigError};
use parliament_ids::NodeId;

/// Times, in milliseconds. A follower starts an election after `election_max` (the leader's lease) plus a random time from
/// `election_min` to `election_max` without a word from its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats; also how long one may take.
    pub heartbeat: u64,
    /// Lower end of the random election time-out.
    pub election_min: u64,
    /// Upper end, and the length of a leader's lease.
    pub election_max: u64,
}

impl Timing {
    /// For nodes within a few milliseconds of each other: a dead leader is replaced in 0.7 to 0.9 s.
    pub const LAN: Self = Self { heartbeat: 100, election_min: 300, election_max: 400 };
    /// For nodes up to about 100 ms from each other: 2.5 to 3.5 s.
    pub const WAN: Self = Self { heartbeat: 400, election_min: 1200, election_max: 1600 };
}

/// When a group writes a snapshot file, after which its log is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// At least so many entries since the last one, and their commands at least a quarter of its size: keeps what snapshots
    /// write in proportion to what the log writes.
    pub entries_min: u64,
    /// At so many entries in any case: bounds the replay after a crash.
    pub entries_max: u64,
    /// At so many bytes of commands in any case: bounds the journal.
    pub bytes_max: u64,
    /// Entries kept behind a snapshot, so that a follower that was away briefly catches up from the log.
    pub keep_entries: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self { entries_min: 20_000, entries_max: 200_000, bytes_max: 64 * 1024 * 1024, keep_entries: 2_000 }
    }
}

impl SnapshotPolicy {
    /// Whether a snapshot is due, `newest` being the size in bytes of the last one.
    pub(crate) fn is_due(&self, (entries, bytes): (u64, u64), newest: u64) -> bool {
        entries >= self.entries_max || bytes >= self.bytes_max || (entries >= self.entries_min && bytes >= newest / 4)
    }
}

/// Consensus on one node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub node: NodeId,
    /// Names the cluster in logs.
    pub cluster: String,
    /// Time-outs.
    pub timing: Timing,
    /// Threads that write tables.
    pub apply_threads: usize,
    /// When to write snapshots.
    pub snapshots: SnapshotPolicy,
    /// How long [`crate::Group::propose`] and [`crate::Group::read_index`] wait for a quorum, milliseconds.
    pub deadline: u64,
    /// Tables are made durable at least so often, milliseconds: bounds the replay after a crash.
    pub flush_interval: u64,
    /// A group that nobody has used for so long rests, milliseconds. Longer than nodes take to hear from each other what they lead.
    pub rest_after: u64,
}

impl NodeConfig {
    /// Defaults for a node on a LAN.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            cluster: "parliament".into(),
            timing: Timing::LAN,
            apply_threads: 2,
            snapshots: SnapshotPolicy::default(),
            deadline: 10_000,
            flush_interval: 5_000,
            rest_after: 5_000,
        }
    }

    pub(crate) fn openraft(&self) -> Result<Config, ConfigError> {
        let config = Config {
            cluster_name: self.cluster.clone(),
            heartbeat_interval: self.timing.heartbeat,
            election_timeout_min: self.timing.election_min,
            election_timeout_max: self.timing.election_max,
            // The network bounds stalls; this bounds what openraft thinks of one transfer.
            install_snapshot_timeout: 60_000,
            max_payload_entries: 256,
            max_append_entries: Some(1024),
            replication_lag_threshold: u64::MAX,
            // The group's own policy triggers snapshots, by entries and by bytes.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.snapshots.keep_entries,
            purge_batch_size: 500,
            api_channel_size: Some(4096),
            notification_channel_size: Some(4096),
            enable_pre_vote: Some(true),
            // A leader that was stopped must not lead again on the strength of its old vote.
            enable_leader_restore: Some(false),
            // A leader without a quorum falls silent now and then; its heartbeat lane sees to that (`pace::may_beat`), because openraft would
            // count a rest as a loss of the quorum.
            quorum_loss_probe_interval: None,
            ..Config::default()
        };
        config.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_valid() {
        for timing in [Timing::LAN, Timing::WAN] {
            let config = NodeConfig { timing, ..NodeConfig::new(NodeId(1)) }.openraft().unwrap();
            assert_eq!(config.enable_leader_restore, Some(false));
            assert_eq!(config.enable_pre_vote, Some(true));
            assert_eq!(config.quorum_loss_probe_interval, None);
        }
        let bad = Timing { heartbeat: 400, ..Timing::LAN };
        assert!(NodeConfig { timing: bad, ..NodeConfig::new(NodeId(1)) }.openraft().is_err());
    }

    #[test]
    fn snapshots_are_due_in_proportion_or_at_the_bounds() {
        let policy = SnapshotPolicy { entries_min: 10, entries_max: 100, bytes_max: 1000, keep_entries: 0 };
        assert!(!policy.is_due((9, 999), 0));
        assert!(policy.is_due((10, 0), 0));
        assert!(!policy.is_due((10, 100), 404));
        assert!(policy.is_due((10, 100), 400));
        assert!(policy.is_due((100, 0), u64::MAX));
        assert!(policy.is_due((1, 1000), u64::MAX));
    }
}
