//! Node liveness by promises (rule 23). Every node asks the voters of group 0, in memory, to support its present boot for
//! [`SUPPORT_MS`]. A holder answers reads from its own tables while a majority's promises hold, counted from *before* it sent
//! its request and cut to [`SUPPORT_TRUST_PERCENT`]. Its leases can be taken over only with a majority's *withdrawals*: a voter
//! withdraws when its promise has run out, and journals "never again for this boot" before it says so. Two majorities share a
//! voter, so a boot that is still supported cannot be taken over, whatever the clocks' offsets; only their rates must agree
//! within 10 %.

use parliament_ids::limits::{SUPPORT_MS, SUPPORT_TRUST_PERCENT};
use parliament_ids::{Boot, NodeId};
use std::collections::BTreeMap;

/// A voter's book of promises.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Promises {
    started_ms: u64,
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
}

impl Promises {
    /// A book at the start of a process: what the process before it promised is unknown, so it withdraws nothing for
    /// [`SUPPORT_MS`]. `floors` are the journaled withdrawals.
    #[must_use]
    pub fn new(now_ms: u64, floors: impl IntoIterator<Item = (NodeId, Boot)>) -> Self {
        let rows =
            floors.into_iter().map(|(node, boot)| (node, Row { boot, expires_ms: 0, heard_until_ms: 0, floor: Some(boot) })).collect();
        Self { started_ms: now_ms, rows }
    }

    /// A node asks for support of a boot.
    pub fn support(&mut self, node: NodeId, boot: Boot, now_ms: u64) -> Granted {
        let row = self.rows.entry(node).or_default();
        if boot >= row.boot {
            // Also one whose boot this voter withdrew while it was cut off: others may support it all the same.
            row.heard_until_ms = now_ms + SUPPORT_MS;
        }
        if row.floor.is_some_and(|floor| boot <= floor) || boot < row.boot {
            return Granted::Never;
        }
        row.boot = boot;
        row.expires_ms = now_ms + SUPPORT_MS;
        Granted::Yes
    }

    /// A node that wants to take over asks to withdraw support from a boot.
    pub fn withdraw(&mut self, node: NodeId, boot: Boot, now_ms: u64) -> Withdrawn {
        let row = self.rows.entry(node).or_default();
        if row.floor.is_some_and(|floor| boot <= floor) {
            return Withdrawn::Yes { journal: false };
        }
        // A greater boot has asked: the process of this one has ended and its promises bind nobody.
        let ended = boot < row.boot;
        let silent_until = self.started_ms + SUPPORT_MS;
        let until = if row.boot == boot { row.expires_ms.max(silent_until) } else { silent_until };
        if !ended && now_ms < until {
            return Withdrawn::NotYet(until - now_ms);
        }
        row.floor = Some(boot);
        row.boot = row.boot.max(boot);
        Withdrawn::Yes { journal: true }
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
        let mut until: Vec<u64> = self.trusted_ms.values().copied().collect();
        until.sort_unstable_by(|a, b| b.cmp(a));
        until.get(until.len() / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const LATE: u64 = 10_000;

    #[test]
    fn a_promise_holds_off_a_withdrawal_until_it_has_run_out() {
        let mut book = Promises::new(0, []);
        assert_eq!(book.support(A, Boot(1), LATE), Granted::Yes);
        assert_eq!(book.withdraw(A, Boot(1), LATE + SUPPORT_MS - 1), Withdrawn::NotYet(1));
        assert_eq!(book.withdraw(A, Boot(1), LATE + SUPPORT_MS), Withdrawn::Yes { journal: true });
        assert_eq!(book.withdraw(A, Boot(1), LATE + SUPPORT_MS), Withdrawn::Yes { journal: false });
        assert_eq!(book.support(A, Boot(1), LATE + SUPPORT_MS), Granted::Never);
        assert_eq!(book.support(A, Boot(2), LATE + SUPPORT_MS), Granted::Yes);
    }

    #[test]
    fn a_restarted_voter_withdraws_nothing_until_old_promises_are_over() {
        let mut book = Promises::new(LATE, []);
        assert_eq!(book.withdraw(A, Boot(1), LATE + 1), Withdrawn::NotYet(SUPPORT_MS - 1));
        assert_eq!(book.withdraw(A, Boot(1), LATE + SUPPORT_MS), Withdrawn::Yes { journal: true });
    }

    /// A voter that was cut off and withdrew everybody must not take them for dead when it is back.
    #[test]
    fn a_node_that_asks_counts_as_alive_even_if_its_boot_was_withdrawn_here() {
        let mut book = Promises::new(0, []);
        assert_eq!(book.withdraw(A, Boot(1), LATE), Withdrawn::Yes { journal: true });
        assert!(!book.is_live(A, LATE));
        assert_eq!(book.support(A, Boot(1), LATE + 1), Granted::Never);
        assert!(book.is_live(A, LATE + 2) && !book.is_live(A, LATE + 1 + SUPPORT_MS));
        assert_eq!(book.support(A, Boot(2), LATE + 1), Granted::Yes);
        assert_eq!(book.support(A, Boot(1), LATE + 9_000), Granted::Never);
        assert!(!book.is_live(A, LATE + 9_000), "an earlier boot's word is no sign of life");
    }

    #[test]
    fn a_restarted_voter_remembers_its_withdrawals() {
        let mut book = Promises::new(LATE, [(A, Boot(4))]);
        assert_eq!(book.support(A, Boot(4), LATE), Granted::Never);
        assert_eq!(book.support(A, Boot(5), LATE), Granted::Yes);
        assert_eq!(book.boot_of(A), Some(Boot(5)));
    }

    #[test]
    fn a_new_boot_ends_the_old_one_at_once() {
        let mut book = Promises::new(0, []);
        book.support(A, Boot(1), LATE);
        book.support(A, Boot(2), LATE + 1);
        assert_eq!(book.withdraw(A, Boot(1), LATE + 2), Withdrawn::Yes { journal: true });
        assert_eq!(book.support(A, Boot(1), LATE + 3), Granted::Never);
        assert_eq!(book.withdraw(A, Boot(2), LATE + 3), Withdrawn::NotYet(SUPPORT_MS - 2));
    }

    #[test]
    fn own_support_needs_a_majority_and_counts_from_before_sending() {
        let mut own = OwnSupport::new(Boot(3), [NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(own.trusted_until_ms(), 0);
        own.granted(NodeId(1), Boot(3), 1000);
        own.granted(NodeId(9), Boot(3), 9000);
        own.granted(NodeId(2), Boot(2), 9000);
        assert_eq!(own.trusted_until_ms(), 0, "one of three, a stranger and an old boot are no majority");
        own.granted(NodeId(2), Boot(3), 1200);
        assert_eq!(own.trusted_until_ms(), 1000 + SUPPORT_MS * 9 / 10);
        own.granted(NodeId(3), Boot(3), 1300);
        own.refused(NodeId(1), Boot(3));
        let until = 1200 + SUPPORT_MS * 9 / 10;
        assert_eq!(own.trusted_until_ms(), until, "two of three still promise");
        assert!(!own.is_withdrawn(until - 1) && own.is_withdrawn(until));
        own.refused(NodeId(2), Boot(3));
        assert_eq!(own.trusted_until_ms(), 0);
        assert!(own.is_withdrawn(0));
    }

    #[test]
    fn a_single_voter_is_its_own_majority() {
        let mut own = OwnSupport::new(Boot(1), [A]);
        own.granted(A, Boot(1), 50);
        assert_eq!(own.trusted_until_ms(), 50 + SUPPORT_MS * 9 / 10);
    }

    /// No history of grants and withdrawals lets a boot be trusted at a time after a majority has withdrawn it.
    #[test]
    fn never_trusted_and_taken_over_at_once() {
        let mut seed = 5_u64;
        let mut draw = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..2_000 {
            let mut books: Vec<Promises> = (0..3).map(|_| Promises::new(0, [])).collect();
            let mut own = OwnSupport::new(Boot(1), (1..=3).map(NodeId));
            let (mut now, mut taken) = (SUPPORT_MS, [false; 3]);
            for _ in 0..60 {
                let sent = now;
                now += draw(250);
                let voter = draw(3) as usize;
                let id = NodeId(voter as u64 + 1);
                let what = draw(4);
                // The grant is computed now, and its answer may be heard later than anything else.
                if what == 0 && books[voter].support(A, Boot(1), now) == Granted::Yes {
                    own.granted(id, Boot(1), sent);
                } else if what == 1 {
                    taken[voter] |= matches!(books[voter].withdraw(A, Boot(1), now), Withdrawn::Yes { .. });
                }
                let majority_gone = taken.iter().filter(|t| **t).count() >= 2;
                assert!(!(majority_gone && now < own.trusted_until_ms()));
            }
        }
    }
}
