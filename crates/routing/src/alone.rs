//! When one of two data nodes is to serve alone beside the witness, and when no more: decided by the leader of group 0 from what it and the
//! data nodes hear. That a wrong decision costs no mail is the record's and the witness's part (rule 5); this one is only to be quick and steady.

use parliament_ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// A node that nobody has heard for so long is down, ms. Its promises and its leases have run out by then.
pub const DOWN_MS: u64 = 800;
/// Two nodes that do not hear each other for so long, and are heard by the witness, are cut off from each other, ms.
pub const CUT_MS: u64 = 2_000;
/// A node is back once it was heard for so long, ms.
pub const BACK_MS: u64 = 1_000;

/// What is known now. Times are as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The data nodes of those groups that are two data nodes and a witness; `None` when there is no such group.
    pub pair: Option<BTreeSet<NodeId>>,
    /// All data nodes that vote in any group.
    pub voters: BTreeSet<NodeId>,
    /// Since when the decider hears each of them, or hears it no more, ms. Its own row says that it hears itself.
    pub heard: BTreeMap<NodeId, Heard>,
    /// What each says of the other, as far as it has answered.
    pub told: BTreeMap<(NodeId, NodeId), Heard>,
    /// How many groups each leads, as far as is known.
    pub leads: BTreeMap<NodeId, usize>,
    /// Data nodes that are known to have nearly all entries that the one that serves alone has told of, and lack no body that they
    /// know of.
    pub caught_up: BTreeSet<NodeId>,
}

/// Whether a node hears another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// For so long, ms.
    For(u64),
    /// Not for so long, ms.
    Silent(u64),
}

impl Heard {
    fn is_silent(self, ms: u64) -> bool {
        matches!(self, Self::Silent(for_) if for_ >= ms)
    }
    fn is_heard(self, ms: u64) -> bool {
        matches!(self, Self::For(for_) if for_ >= ms)
    }
}

/// What to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This node serves alone.
    Begin(NodeId),
    /// The other one is back: both are waited for again.
    End,
    /// Every data node is to have everything: what the witness sees to, where there is one.
    Over,
}

/// The next change, from who serves alone and whether that is ending.
#[must_use]
pub fn next(alone: Option<NodeId>, ending: bool, sight: &Sight) -> Option<Next> {
    let Some(alone) = alone else { return sight.pair.as_ref().and_then(|pair| begin(pair, sight)).map(Next::Begin) };
    let others = || sight.voters.iter().copied().filter(|node| *node != alone);
    let tells = |who, whom| sight.told.get(&(who, whom)).copied();
    if ending {
        // Whoever leads more: the other one may lack something.
        let misses = |other| tells(alone, other).is_some_and(|heard| heard.is_silent(DOWN_MS));
        let heard = sight.heard.get(&alone).is_some_and(|heard| heard.is_heard(0));
        if sight.pair.is_some() && heard && others().any(misses) {
            return Some(Next::Begin(alone));
        }
        return sight.pair.is_none().then_some(Next::Over);
    }
    let hears = |who, whom| tells(who, whom).is_some_and(|heard| heard.is_heard(BACK_MS));
    let back = |node| {
        let here = sight.heard.get(&node).is_some_and(|heard| heard.is_heard(BACK_MS));
        here && hears(alone, node) && hears(node, alone) && sight.caught_up.contains(&node)
    };
    (others().count() > 0 && others().all(back)).then_some(Next::End)
}

/// Who should serve alone, seen without regard to who did so before.
fn begin(pair: &BTreeSet<NodeId>, sight: &Sight) -> Option<NodeId> {
    let [one, two] = pair.iter().copied().collect::<Vec<_>>()[..] else { return None };
    let heard = |node: NodeId| sight.heard.get(&node).is_some_and(|heard| heard.is_heard(0));
    let silent = |node: NodeId| sight.heard.get(&node).is_some_and(|heard| heard.is_silent(DOWN_MS));
    let misses = |who: NodeId, whom: NodeId, ms| sight.told.get(&(who, whom)).is_some_and(|heard| heard.is_silent(ms));
    let survives = |who: NodeId, whom: NodeId| heard(who) && silent(whom) && misses(who, whom, DOWN_MS);
    if survives(one, two) {
        return Some(one);
    }
    if survives(two, one) {
        return Some(two);
    }
    // Both are there, and cannot reach each other: the one with more to lose.
    let cut = heard(one) && heard(two) && misses(one, two, CUT_MS) && misses(two, one, CUT_MS);
    let leads = |node: NodeId| sight.leads.get(&node).copied().unwrap_or(0);
    cut.then(|| if leads(two) > leads(one) { two } else { one })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Heard::{For, Silent};

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn sight(heard: [Heard; 2], told: [Option<Heard>; 2]) -> Sight {
        let told = [((A, B), told[0]), ((B, A), told[1])];
        Sight {
            pair: Some([A, B].into()),
            voters: [A, B].into(),
            heard: [(A, heard[0]), (B, heard[1])].into(),
            told: told.into_iter().filter_map(|(pair, heard)| heard.map(|heard| (pair, heard))).collect(),
            ..Sight::default()
        }
    }

    #[test]
    fn the_survivor_serves_alone_once_nobody_hears_the_other() {
        let dead = |of_it: Option<Heard>| next(None, false, &sight([For(9_000), Silent(DOWN_MS)], [of_it, None]));
        assert_eq!(dead(Some(Silent(DOWN_MS))), Some(Next::Begin(A)));
        assert_eq!(dead(Some(Silent(DOWN_MS - 1))), None, "not yet");
        assert_eq!(dead(Some(For(10))), None, "only the decider is cut off from it");
        assert_eq!(dead(None), None, "the survivor has said nothing");
        assert_eq!(next(None, false, &sight([Silent(5_000), For(0)], [None, Some(Silent(4_000))])), Some(Next::Begin(B)));
        assert_eq!(next(None, false, &sight([Silent(5_000), Silent(5_000)], [None, None])), None, "nobody is left");
        assert_eq!(next(None, false, &sight([For(9_000), For(9_000)], [Some(For(1)), Some(For(1))])), None);
    }

    #[test]
    fn of_two_that_cannot_reach_each_other_one_serves() {
        let mut cut = sight([For(9_000), For(9_000)], [Some(Silent(CUT_MS)), Some(Silent(CUT_MS))]);
        assert_eq!(next(None, false, &cut), Some(Next::Begin(A)));
        cut.leads = [(A, 1), (B, 3)].into();
        assert_eq!(next(None, false, &cut), Some(Next::Begin(B)));
        cut.caught_up = [A, B].into();
        assert_eq!(next(Some(A), false, &cut), None, "it is decided, and not over while they do not hear each other");
        assert_eq!(next(Some(A), true, &cut), Some(Next::Begin(A)), "the one that lacks something is never chosen");
        let one_way = sight([For(9_000), For(9_000)], [Some(Silent(CUT_MS)), Some(For(1))]);
        assert_eq!(next(None, false, &one_way), None);
    }

    #[test]
    fn it_ends_when_the_other_is_back_and_has_caught_up() {
        let mut back = sight([For(9_000), For(BACK_MS)], [Some(For(BACK_MS)), Some(For(BACK_MS))]);
        assert_eq!(next(Some(A), false, &back), None, "it may lack much");
        back.caught_up = [A, B].into();
        assert_eq!(next(Some(A), false, &back), Some(Next::End));
        assert_eq!(next(Some(A), true, &back), None, "the witness says when it is over");
        back.heard.insert(B, For(BACK_MS - 1));
        assert_eq!(next(Some(A), false, &back), None);
        let silent = Sight { told: BTreeMap::from([((B, A), For(BACK_MS))]), ..sight([For(9_000), For(9_000)], [None, None]) };
        assert_eq!(next(Some(A), false, &Sight { caught_up: [A, B].into(), ..silent }), None, "without the word of the one that serves");
        let gone = sight([For(9_000), Silent(DOWN_MS)], [Some(Silent(DOWN_MS)), None]);
        assert_eq!(next(Some(A), true, &gone), Some(Next::Begin(A)), "it went away again");
        assert_eq!(next(Some(B), true, &gone), None, "what the other has is not known to be all");
        assert_eq!(next(Some(A), false, &gone), None);
    }

    #[test]
    fn without_a_witness_nobody_begins_and_what_began_ends_likewise() {
        let three = Sight { pair: None, ..sight([For(9_000), Silent(9_000)], [Some(Silent(9_000)), None]) };
        assert_eq!(next(None, false, &three), None);
        assert_eq!(next(Some(A), false, &three), None, "it may lack something all the same");
        let heard = Some(For(9_000));
        let back = Sight { pair: None, caught_up: [A, B].into(), ..sight([For(9_000), For(9_000)], [heard, heard]) };
        assert_eq!(next(Some(A), false, &back), Some(Next::End));
        assert_eq!(next(Some(A), true, &back), Some(Next::Over));
        // While a third data node comes, a majority of a group that has it has two of them.
        let wide = Sight { pair: Some([A, B, NodeId(4)].into()), ..three };
        assert_eq!(next(None, false, &wide), None);
    }
}
