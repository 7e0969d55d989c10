//! Node liveness by promises (rule 23). Every node asks the voters of group 0, in memory, to support its present boot for
//! [`SUPPORT_MS`]. A holder answers reads from its own tables while a majority's promises hold, counted from *before* it sent
//! its request and cut to [`SUPPORT_TRUST_PERCENT`]. Its leases can be taken over only with a majority's *withdrawals*: a voter
//! withdraws when its promise has run out, and journals "never again for this boot" before it says so. Two majorities share a
//! voter, so a boot that is still supported cannot be taken over, whatever the clocks' offsets; only their rates must agree
//! within 10 %.
//!
//! The list of voters changes by one node at a time, so that majorities of a list and of the next share a voter, too. Before a list gets
//! a next one it is *settled*: a majority of it answers no request that rests on an older list ([`Promises::settle`]), a majority has
//! heard of all withdrawals that such a majority knows of ([`Promises::hear_of`]), and what was promised before it heard has run out. So
//! lists that are in use at one time are the same or neighbours, and a withdrawal by a majority of any earlier list is known to a voter
//! of every later majority.

use parliament_ids::limits::{SUPPORT_MS, SUPPORT_TRUST_PERCENT};
use parliament_ids::{Boot, NodeId, VotersVersion};
use std::collections::BTreeMap;

/// The nodes whose promises count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VoterList {
    /// Which list it is.
    pub version: VotersVersion,
    /// The voters of group 0.
    pub nodes: Vec<NodeId>,
}

impl VoterList {
    /// True when so many of the voters are more than half of them.
    #[must_use]
    pub fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.nodes.len()
    }
}

/// What the voters must hear of before their list gets a next one, from what a majority of them has withdrawn or heard of: all that a
/// majority of this list, or of the one before, can have withdrawn. Of those, at least half of the voters here (rounded up) have it, and
/// who did not answer may be among them. What fewer have is one voter's word, who was cut off perhaps: to pass that on would end boots
/// that all others support.
#[must_use]
pub fn withdrawn_by_many(list: &VoterList, said: &[BTreeMap<NodeId, Boot>]) -> BTreeMap<NodeId, Boot> {
    let silent = list.nodes.len().saturating_sub(said.len());
    let enough = list.nodes.len().div_ceil(2).saturating_sub(silent).max(1);
    let mut floors: BTreeMap<NodeId, Vec<Boot>> = BTreeMap::new();
    for (node, boot) in said.iter().flatten() {
        floors.entry(*node).or_default().push(*boot);
    }
    let of_enough = |(node, mut boots): (NodeId, Vec<Boot>)| {
        boots.sort_unstable_by(|a, b| b.cmp(a));
        boots.get(enough - 1).map(|boot| (node, *boot))
    };
    floors.into_iter().filter_map(of_enough).collect()
}

/// A voter's book of promises.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Promises {
    started_ms: u64,
    /// Requests by older lists of voters are not answered. Journaled by the owner of this book.
    oldest_list: VotersVersion,
    rows: BTreeMap<NodeId, Row>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    /// The greatest boot that ever asked; smaller ones belong to processes that have ended.
    boot: Boot,
    expires_ms: u64,
    /// The node itself asked, for whatever boot was its last: until then it counts as alive.
    heard_until_ms: u64,
    /// Boots up to here are never supported again. Journaled by the owner of this book.
    floor: Option<Boot>,
}

/// The answer to a request for support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// Promised for [`SUPPORT_MS`] from now.
    Yes,
    /// This boot is never supported again: the node must begin a new one.
    Never,
    /// The request rests on an old list of voters.
    Outdated,
}

/// The answer to a request to withdraw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// Never again for this boot: `journal` is true when that must be made durable before it is said.
    Yes {
        /// The floor rose with this answer.
        journal: bool,
    },
    /// A promise may still run for this long, ms.
    NotYet(u64),
    /// The request rests on an old list of voters.
    Outdated,
}

impl Promises {
    /// A book at the start of a process: what the process before it promised is unknown, so it withdraws nothing for
    /// [`SUPPORT_MS`]. `floors` are the journaled withdrawals, `oldest_list` the journaled word of [`Promises::settle`].
    #[must_use]
    pub fn new(now_ms: u64, floors: impl IntoIterator<Item = (NodeId, Boot)>, oldest_list: VotersVersion) -> Self {
        let rows =
            floors.into_iter().map(|(node, boot)| (node, Row { boot, expires_ms: 0, heard_until_ms: 0, floor: Some(boot) })).collect();
        Self { started_ms: now_ms, oldest_list, rows }
    }

    /// A node asks for support of a boot, by the list of voters that it knows.
    pub fn support(&mut self, node: NodeId, boot: Boot, list: VotersVersion, now_ms: u64) -> Granted {
        let row = self.rows.entry(node).or_default();
        if boot >= row.boot {
            // Also one whose boot this voter withdrew while it was cut off: others may support it all the same.
            row.heard_until_ms = now_ms + SUPPORT_MS;
        }
        if row.floor.is_some_and(|floor| boot <= floor) || boot < row.boot {
            return Granted::Never;
        }
        if list < self.oldest_list {
            return Granted::Outdated;
        }
        row.boot = boot;
        row.expires_ms = now_ms + SUPPORT_MS;
        Granted::Yes
    }

    /// A node that wants to take over asks to withdraw support from a boot, by the list of voters that it knows.
    pub fn withdraw(&mut self, node: NodeId, boot: Boot, list: VotersVersion, now_ms: u64) -> Withdrawn {
        if !self.answers(list) {
            return Withdrawn::Outdated;
        }
        let row = self.rows.entry(node).or_default();
        // A greater boot has asked: the process of this one has ended and its promises bind nobody.
        let ended = boot < row.boot;
        let silent_until = self.started_ms + SUPPORT_MS;
        let until = if row.boot == boot { row.expires_ms.max(silent_until) } else { silent_until };
        // Also where the floor is above it: that may be another voter's withdrawal, and this one's promise still binds.
        if !ended && now_ms < until {
            return Withdrawn::NotYet(until - now_ms);
        }
        if row.floor.is_some_and(|floor| boot <= floor) {
            return Withdrawn::Yes { journal: false };
        }
        row.floor = Some(boot);
        row.boot = row.boot.max(boot);
        Withdrawn::Yes { journal: true }
    }

    /// From now on no request by an older list is answered. Journal it before it is told, and tell [`Promises::floors`] with it.
    pub fn settle(&mut self, list: VotersVersion) {
        self.oldest_list = self.oldest_list.max(list);
    }

    /// True while requests by this list are answered.
    #[must_use]
    pub fn answers(&self, list: VotersVersion) -> bool {
        list >= self.oldest_list
    }

    /// The oldest list whose requests are answered.
    #[must_use]
    pub fn oldest_list(&self) -> VotersVersion {
        self.oldest_list
    }

    /// All that was withdrawn here or heard of.
    #[must_use]
    pub fn floors(&self) -> BTreeMap<NodeId, Boot> {
        self.rows.iter().filter_map(|(node, row)| row.floor.map(|floor| (*node, floor))).collect()
    }

    /// Other voters have withdrawn their support from a boot: nothing more is promised to it here. What was promised still holds.
    /// True when that is news, which must be journaled.
    pub fn hear_of(&mut self, node: NodeId, boot: Boot) -> bool {
        let row = self.rows.entry(node).or_default();
        let news = row.floor.is_none_or(|floor| floor < boot);
        if news {
            row.floor = Some(boot);
        }
        news
    }

    /// The greatest boot of a node that asked for support or was withdrawn.
    #[must_use]
    pub fn boot_of(&self, node: NodeId) -> Option<Boot> {
        self.rows.get(&node).map(|row| row.boot)
    }

    /// True when the node has asked within [`SUPPORT_MS`].
    #[must_use]
    pub fn is_live(&self, node: NodeId, now_ms: u64) -> bool {
        self.rows.get(&node).is_some_and(|row| now_ms < row.heard_until_ms)
    }
}

/// What a node knows of its own support.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnSupport {
    boot: Boot,
    /// Until when each voter's promise is trusted, this node's clock.
    trusted_ms: BTreeMap<NodeId, u64>,
    withdrawn: bool,
}

impl OwnSupport {
    /// No support yet for a new boot; `voters` are the voters of group 0.
    #[must_use]
    pub fn new(boot: Boot, voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { boot, trusted_ms: voters.into_iter().map(|v| (v, 0)).collect(), withdrawn: false }
    }
    /// From now on these voters count; that another has refused says nothing any more. A promise binds the voter that made it, whatever list it was asked by, so those of voters that
    /// stay go on.
    pub fn set_voters(&mut self, voters: impl IntoIterator<Item = NodeId>) {
        let known = std::mem::take(&mut self.trusted_ms);
        self.trusted_ms = voters.into_iter().map(|v| (v, known.get(&v).copied().unwrap_or(0))).collect();
        // One that still votes says so again.
        self.withdrawn = false;
    }
    /// The boot that support is asked for.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.boot
    }
    /// A voter granted the request that was sent at `sent_ms` for `boot`.
    pub fn granted(&mut self, voter: NodeId, boot: Boot, sent_ms: u64) {
        if boot == self.boot
            && let Some(until) = self.trusted_ms.get_mut(&voter)
        {
            *until = (*until).max(sent_ms + SUPPORT_MS * SUPPORT_TRUST_PERCENT / 100);
        }
    }
    /// A voter said: never again for `boot`.
    pub fn refused(&mut self, voter: NodeId, boot: Boot) {
        if boot == self.boot && self.trusted_ms.contains_key(&voter) {
            self.trusted_ms.insert(voter, 0);
            self.withdrawn = true;
        }
    }
    /// True when a voter will never support this boot again and the others' promises make no majority: begin a new one (all leases of
    /// this one end). A voter that was cut off withdraws every other node's boot; while a majority supports this one, nobody can take its
    /// leases, and to end them for one voter's sake would be a pause for all their users.
    #[must_use]
    pub fn is_withdrawn(&self, now_ms: u64) -> bool {
        self.withdrawn && now_ms >= self.trusted_until_ms()
    }
    /// Until when a majority's promises are trusted, ms; at or after it, no local read may be answered.
    #[must_use]
    pub fn trusted_until_ms(&self) -> u64 {
        self.trusted_until_ms_by(|_| true)
    }
    /// The same, where only these voters' promises count, towards the same majority: those of the others were counted by clocks
    /// whose rate is not known to be right ([`crate::ClockRate`]).
    #[must_use]
    pub fn trusted_until_ms_by(&self, counts: impl Fn(NodeId) -> bool) -> u64 {
        let mut until: Vec<u64> = self.trusted_ms.iter().map(|(voter, until)| if counts(*voter) { *until } else { 0 }).collect();
        until.sort_unstable_by(|a, b| b.cmp(a));
        until.get(until.len() / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod lists_tests;
#[cfg(test)]
#[path = "promise_tests.rs"]
mod tests;
