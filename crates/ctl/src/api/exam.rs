//! The documents of `doctor`.

use serde::{Deserialize, Serialize};

/// Asks nodes to look at themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examine {
    /// The asked node alone, without the others.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub alone: bool,
}

/// What was found. What follows from it is worked out by [`crate::diagnosis`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exam {
    /// `cluster.name`
    pub cluster: String,
    /// False before `cluster init`.
    pub formed: bool,
    /// Name of the node that answers.
    pub answered_by: String,
    /// All nodes of the cluster, by name.
    pub members: Vec<Member>,
    /// Names of the voters of each group, from group 0.
    pub voters: Vec<Vec<String>>,
    /// The nodes that answered.
    pub nodes: Vec<NodeExam>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `node.name`
    pub name: String,
    /// `node.zone`
    pub zone: String,
    /// Where the others reach it.
    pub address: String,
}

/// What a node finds about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeExam {
    /// `node.name`
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Its starts so far.
    pub boot: u64,
    /// Why it should get no new connections; `None` when it serves.
    pub unready: Option<String>,
    /// What it hears of the others.
    pub hears: Vec<Heard>,
    /// Free bytes where its data lies.
    pub disk_free_bytes: u64,
    /// Size of that file system.
    pub disk_size_bytes: u64,
    /// What it refuses for lack of space: nothing, `messages`, or `all but what frees space`.
    pub disk_refuses: Option<String>,
    /// The certificates that its configuration names.
    pub certificates: Vec<Certificate>,
    /// What is wrong with the files that its configuration names.
    pub config_problems: Vec<String>,
    /// Its copies of groups.
    pub groups: Vec<CopyExam>,
    /// Bodies found damaged on it and not replaced yet.
    pub damaged_bodies: u64,
    /// Bodies that it lacks.
    pub missing_bodies: u64,
    /// Times that a UID was seen to be given twice or out of order: always 0.
    pub uid_regressions: u64,
}

/// What one node hears of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Name of the other.
    pub node: String,
    /// Since when nothing was heard of it, ms; 0 while it is heard.
    pub silent_ms: u64,
    /// Shortest of the latest round trips, µs; `None` when unknown.
    pub round_trip_us: Option<u64>,
    /// How far its wall clock is ahead, ms; `None` when unknown.
    pub ahead_ms: Option<i64>,
    /// Ticks of its clock for a million of the own one; `None` in the first half minute.
    pub rate_ppm: Option<i64>,
}

/// When a certificate ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The setting that names it, such as `tls.mail.cert`.
    pub setting: String,
    /// Days until the first certificate of its file ends; negative when it has ended; `None` when it cannot be read.
    pub days_left: Option<i64>,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A node's copy of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyExam {
    /// The group.
    pub group: u32,
    /// Name of the leader that the copy follows, or the node itself.
    pub leader: Option<String>,
    /// Its term.
    pub term: u64,
    /// Last entry in its log.
    pub last_log: Option<u64>,
    /// Last entry known to be committed.
    pub committed: Option<u64>,
    /// Last entry in its tables.
    pub applied: Option<u64>,
    /// Why it has stopped, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}
