//! What the status page shows, as plain values: everything is decided here and in [`super::meaning`], and only laid out in
//! [`super::render`].

use parliament_ctl::{Verdict, api};
use std::collections::BTreeMap;

/// The cluster at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The document of `parliament status`.
    pub(crate) status: api::Status,
    /// What follows from it.
    pub(crate) verdict: Verdict,
    /// When, as `15:04:05 UTC`.
    pub(crate) at: String,
    /// Round trips by observer and observed node.
    pub(crate) latency: BTreeMap<String, BTreeMap<String, Way>>,
    /// By holder; those that nobody holds last.
    pub(crate) leases: Vec<Held>,
    /// Who holds the users of each group, by group.
    pub(crate) held: BTreeMap<u32, Vec<Held>>,
    /// At most as many as one look may show.
    pub(crate) sessions: Vec<api::Session>,
}

/// The way from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Shortest of the latest round trips, µs; `None` before the first.
    Open(Option<u64>),
    /// Nothing was heard for so long, ms.
    Silent(u64),
}

/// Users by holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Name of the holder; `None` where nobody has taken the user yet.
    pub(crate) holder: Option<String>,
    /// False when the holder has died or begun a new start, so that the next request takes over.
    pub(crate) live: bool,
    pub(crate) users: u64,
}

/// A user that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) asked: String,
    /// The lease, or why it is not known.
    pub(crate) found: Result<api::Lease, String>,
}

/// Adds up what the groups have.
pub(crate) fn add_up(held: &BTreeMap<u32, Vec<Held>>) -> Vec<Held> {
    let mut sums: BTreeMap<(bool, Option<String>, bool), u64> = BTreeMap::new();
    for row in held.values().flatten() {
        *sums.entry((row.holder.is_none(), row.holder.clone(), !row.live)).or_default() += row.users;
    }
    sums.into_iter().map(|((_, holder, gone), users)| Held { holder, live: !gone, users }).collect()
}
