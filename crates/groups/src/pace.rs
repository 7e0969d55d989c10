//! When a group rests and what wakes a replica of it: the decisions alone, moments being values.
//!
//! A resting replica's consensus has no clock: no heartbeats, no elections, no cost. All replicas of a group rest together, behind a leader
//! that all of them follow and that has nothing to tell them. The leader wakes by use. A follower never does, for it would ask for votes
//! under a leader that is well: it wakes by a word of a leader, by being asked for its vote, or when the node says that its leader is gone.

use parliament_ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Awake,
    /// It leads, and its group rests or is about to.
    Leading,
    /// It rests behind this leader.
    Following {
        leader: NodeId,
        term: u64,
        since: Instant,
        lost: bool,
    },
}

/// Names one rest of a replica: what was begun in it has nothing to say after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest(u64);

/// Whether one replica rests.
#[derive(Debug)]
pub(crate) struct Pace {
    state: State,
    /// Counts changes of `state`.
    changes: u64,
    used: Instant,
    /// When it woke last, as the leader.
    woke: Option<Instant>,
    /// The quorum that let this leader write was heard of before its rest.
    stale: bool,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: State::Awake, changes: 0, used: now, woke: None, stale: false }
    }

    fn enter(&mut self, state: State) -> Rest {
        self.state = state;
        self.changes += 1;
        Rest(self.changes)
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.state != State::Awake
    }

    /// The leader it rests behind, and that leader's term, unless it was said to be gone.
    pub(crate) fn behind(&self) -> Option<(NodeId, u64, Instant)> {
        match self.state {
            State::Following { leader, term, since, lost: false } => Some((leader, term, since)),
            _ => None,
        }
    }

    pub(crate) fn is_in(&self, rest: Rest) -> bool {
        self.is_resting() && Rest(self.changes) == rest
    }

    /// Nobody has used the awake replica for so long.
    pub(crate) fn is_unused(&self, now: Instant, long: Duration) -> bool {
        self.state == State::Awake && now.saturating_duration_since(self.used) >= long
    }

    /// Somebody wants something of this replica. True when that wakes it.
    pub(crate) fn use_it(&mut self, now: Instant) -> bool {
        self.used = now.max(self.used);
        self.state == State::Leading && self.wake(now)
    }

    /// True when it rested.
    pub(crate) fn wake(&mut self, now: Instant) -> bool {
        let rested = self.is_resting();
        if self.state == State::Leading {
            (self.woke, self.stale) = (Some(now), true);
        }
        if rested {
            self.used = now.max(self.used);
            self.enter(State::Awake);
        }
        rested
    }

    /// The leader lets its group rest, if it was not used meanwhile.
    pub(crate) fn lead_to_rest(&mut self, now: Instant, long: Duration) -> Option<Rest> {
        self.is_unused(now, long).then(|| self.enter(State::Leading))
    }

    /// The replica rests because its leader asked it to.
    pub(crate) fn follow_to_rest(&mut self, leader: NodeId, term: u64, now: Instant) -> Rest {
        self.enter(State::Following { leader, term, since: now, lost: false })
    }

    /// The leader it rests behind is gone. `None` when that is known, or it rests behind nobody.
    pub(crate) fn lose_leader(&mut self) -> Option<(NodeId, Rest)> {
        match &mut self.state {
            State::Following { leader, lost, .. } if !*lost => {
                *lost = true;
                Some((*leader, Rest(self.changes)))
            }
            _ => None,
        }
    }

    /// True when a quorum must be heard of before the next write.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }
    /// A quorum has confirmed this leader after it woke.
    pub(crate) fn confirmed(&mut self) {
        self.stale = false;
    }

    /// How long the leader has been awake since it rested: before, nobody could have heard of a quorum.
    pub(crate) fn awake_for(&self, now: Instant) -> Duration {
        self.woke.map_or(Duration::MAX, |woke| now.saturating_duration_since(woke))
    }
}

/// A member's answer to the wish to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It rests.
    Rests,
    /// It will not: it lags, follows another leader, or does not know how.
    Refuses,
    /// It was not reached. Its own clock runs, if it lives: it asks for votes, which wakes the leader.
    Absent,
}

/// Whether the group may rest after these answers. A voter that is away is waited for by nobody: whoever it is, the leader hears of it when it
/// comes back. A member without a vote could not make itself heard.
pub(crate) fn may_rest(me: NodeId, voters: &BTreeSet<NodeId>, words: &BTreeMap<NodeId, Word>) -> bool {
    let settled = |(node, word): (&NodeId, &Word)| *word == Word::Rests || (*word == Word::Absent && voters.contains(node));
    let rests = |node: &&NodeId| **node == me || words.get(node) == Some(&Word::Rests);
    voters.contains(&me) && words.iter().all(settled) && voters.iter().filter(rests).count() > voters.len() / 2
}

/// When a follower whose leader is gone asks for votes: the voters take turns `step` apart, other groups' voters in another order. `None` for
/// one without a vote.
pub(crate) fn turn(me: NodeId, gone: NodeId, voters: &BTreeSet<NodeId>, group: u32, step: Duration) -> Option<Duration> {
    let left: Vec<NodeId> = voters.iter().copied().filter(|node| *node != gone).collect();
    let place = left.iter().position(|node| *node == me)?;
    let turn = (place + group as usize) % left.len();
    Some(step * u32::try_from(turn).unwrap_or(u32::MAX))
}

/// Whether a leader may send heartbeats `age` after it last heard of a quorum. Without one it falls silent for one `pause`, speaks for one, and
/// so on: those that do hear it, and whom it cannot hear or are too few, get their chance to elect another.
pub(crate) fn may_beat(age: Duration, lease: Duration, pause: Duration) -> bool {
    let Some(over) = age.checked_sub(lease) else { return true };
    over.as_nanos() / pause.as_nanos().max(1) % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn only_an_unused_replica_leads_to_rest_and_use_wakes_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.awake_for(start), Duration::MAX, "it never rested");
        assert_eq!(pace.lead_to_rest(start + LONG - Duration::from_millis(1), LONG), None);
        assert!(!pace.use_it(start + LONG), "it was awake");
        assert_eq!(pace.lead_to_rest(start + LONG, LONG), None);
        let rest = pace.lead_to_rest(start + 2 * LONG, LONG).unwrap();
        assert!(pace.is_in(rest) && pace.is_resting() && !pace.is_stale());
        let woke = start + 3 * LONG;
        assert!(pace.use_it(woke));
        assert!(!pace.is_in(rest) && !pace.is_resting() && pace.is_stale());
        assert_eq!(pace.awake_for(woke + LONG), LONG);
        pace.confirmed();
        assert!(!pace.is_stale());
        let next = pace.lead_to_rest(woke + LONG, LONG).unwrap();
        assert_ne!(rest, next, "what belongs to the first rest says nothing in the second");
    }

    #[test]
    fn a_follower_is_not_woken_by_use_but_by_words() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.follow_to_rest(NodeId(3), 7, now);
        assert!(!pace.use_it(now) && pace.is_resting());
        assert_eq!(pace.behind(), Some((NodeId(3), 7, now)));
        let (leader, rest) = pace.lose_leader().unwrap();
        assert_eq!(leader, NodeId(3));
        assert!(pace.is_in(rest), "until its turn has come");
        assert_eq!(pace.lose_leader(), None, "told once");
        assert_eq!(pace.behind(), None);
        assert!(pace.wake(now) && !pace.wake(now));
        assert!(!pace.is_stale(), "it has no lease to renew");
        assert_eq!(pace.lose_leader(), None);
    }

    #[test]
    fn a_group_rests_when_all_that_can_be_reached_do_and_they_are_a_majority() {
        use Word::{Absent, Refuses, Rests};
        let (three, five) = (nodes(&[1, 2, 3]), nodes(&[1, 2, 3, 4, 5]));
        type Answers<'a> = &'a [(u64, Word)];
        let table: [(&BTreeSet<NodeId>, Answers<'_>, bool); 10] = [
            (&three, &[(2, Rests), (3, Rests)], true),
            (&three, &[(2, Rests), (3, Refuses)], false),
            (&three, &[(2, Rests), (3, Absent)], true),
            (&three, &[(2, Absent), (3, Absent)], false),
            (&three, &[(2, Rests), (3, Rests), (9, Rests)], true),
            (&three, &[(2, Rests), (3, Rests), (9, Absent)], false),
            (&five, &[(2, Rests), (3, Rests), (4, Absent), (5, Absent)], true),
            (&five, &[(2, Rests), (3, Absent), (4, Absent), (5, Absent)], false),
            (&nodes(&[1]), &[], true),
            (&nodes(&[2, 3]), &[(2, Rests), (3, Rests)], false),
        ];
        for (voters, words, expected) in table {
            let words: BTreeMap<NodeId, Word> = words.iter().map(|(id, word)| (NodeId(*id), *word)).collect();
            assert_eq!(may_rest(NodeId(1), voters, &words), expected, "{voters:?} {words:?}");
        }
    }

    #[test]
    fn voters_take_turns_and_groups_begin_with_different_ones() {
        let step = Duration::from_millis(250);
        let of = |me, group| turn(NodeId(me), NodeId(2), &nodes(&[1, 2, 3]), group, step);
        assert_eq!((of(1, 4), of(3, 4)), (Some(Duration::ZERO), Some(step)));
        assert_eq!((of(1, 5), of(3, 5)), (Some(step), Some(Duration::ZERO)));
        assert_eq!((of(2, 4), of(9, 4)), (None, None), "the lost one and a learner have no turn");
    }

    #[test]
    fn without_a_quorum_a_leader_is_silent_every_other_time() {
        let (lease, pause) = (Duration::from_millis(400), Duration::from_millis(800));
        let spoken = [0, 399, 400, 1199, 1200, 1999, 2000, 2799, 2800].map(|age| may_beat(Duration::from_millis(age), lease, pause));
        assert_eq!(spoken, [true, true, false, false, true, true, false, false, true]);
    }
}
