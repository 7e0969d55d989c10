//! Documents about whether what the nodes keep is what it should be.

use serde::{Deserialize, Serialize};

use super::{Page, is_false};

/// Compares replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Which users.
    #[serde(flatten)]
    pub page: Page,
    /// Every body is read and hashed, on every replica; otherwise only looked for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bodies: bool,
}

/// What is wrong with one replica of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaProblem {
    /// Name of the node.
    pub node: String,
    /// What, in words.
    pub what: String,
}

/// Whether the replicas of an account are equal, and as they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedUser {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: u32,
    /// The replicas' state hashes at one applied index, by node name; a replica that did not answer stands in `missing`.
    pub hashes: Vec<(String, String)>,
    /// Nodes with a copy that did not answer.
    pub missing: Vec<String>,
    /// True when all hashes are equal.
    pub equal: bool,
    /// Rules about UIDs, counters and names that do not hold, and bodies that are missing or damaged; a few per replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ReplicaProblem>,
    /// Messages looked at on all replicas together.
    #[serde(default)]
    pub bodies: u64,
}

/// A page of verified accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The accounts.
    pub users: Vec<VerifiedUser>,
    /// True when a further page may follow the last name.
    pub more: bool,
}

/// Makes replicas equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRepair {
    /// Which users.
    #[serde(flatten)]
    pub page: Page,
    /// Change nothing; say what would be done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// What was done to a page of accounts, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// Accounts looked at.
    pub users: u64,
    /// One sentence for each thing done.
    pub done: Vec<String>,
    /// One sentence for each thing that is wrong and was not mended.
    pub left: Vec<String>,
    /// The last name of the page; none when it was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// True when a further page may follow.
    pub more: bool,
}

/// Has nodes read everything again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStart {
    /// Name of the node; `None` means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Start nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// One pass over everything on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPass {
    /// When it began, seconds of Unix time.
    pub started: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
    /// Bytes read from the medium.
    pub bytes: u64,
    /// Bodies hashed.
    pub bodies: u64,
    /// Records of tables checked.
    pub records: u64,
    /// Places found damaged.
    pub damaged: u64,
    /// Of these, mended.
    pub repaired: u64,
    /// Of these, not to be mended: no other node has what is lost, or none answers.
    pub not_repairable: u64,
    /// What was found, in words; not more than a few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
}

/// How far a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeScrub {
    /// Name of the node.
    pub node: String,
    /// What is being read, such as `journal`; `None` when no pass is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// The pass under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<ScrubPass>,
    /// About how many bytes it will read.
    #[serde(default)]
    pub bytes_in_all: u64,
    /// The last finished pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ScrubPass>,
    /// When the next one begins by itself, seconds of Unix time; `None` when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// How far the nodes are, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubs {
    /// The nodes.
    pub nodes: Vec<NodeScrub>,
    /// Nodes that did not answer.
    pub unreachable: Vec<String>,
}
