//! The next step of a group whose copies are on their way, from what its leader and its nodes say now. A controller that dies
//! half-way is followed by one that sees the same and goes on.
//!
//! The order is what keeps every committed entry and its bodies on a majority: a copy gets a vote only once it has all that was
//! committed before, bodies included; a voter leaves only once the others have all that was committed up to the change that made
//! them the voters. In between there is one voter more, and no fewer.

use crate::placement::Row;
use parliament_ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// A group as its leader has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Led {
    /// The leader.
    pub leader: NodeId,
    /// Its voters, of both sets during a change.
    pub voters: BTreeSet<NodeId>,
    /// Where a change under way leads.
    pub changing_to: Option<BTreeSet<NodeId>>,
    /// All its members.
    pub members: BTreeSet<NodeId>,
    /// Index of the entry that made these members.
    pub since: u64,
}

/// What a node says of its copy of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// It has opened the group.
    pub open: bool,
    /// It had every entry up to this index, and every body that they name.
    pub complete: Option<u64>,
    /// Bodies that it knows to lack, of any group.
    pub missing: u64,
    /// Leases of the group's users that it holds or is about to take; `None` when it cannot tell.
    pub holds: Option<u64>,
}

/// What to do next for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is under way.
    Rest,
    /// Something must happen by itself first.
    Wait(Obstacle),
    /// The leader takes a member without a vote.
    AddLearner(NodeId),
    /// The leader lets a member without a vote go.
    RemoveLearner(NodeId),
    /// The leader changes the voters.
    SetVoters(BTreeSet<NodeId>),
    /// These nodes look whether they lack anything.
    Check(Vec<NodeId>),
    /// Group 0 is told how things stand.
    Record(Row),
}

/// What a group waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A leader.
    Leader,
    /// A node's answer.
    Answer(NodeId),
    /// A node to open its copy.
    Open(NodeId),
    /// A node to hand over its leases, or the lead.
    HandOver(NodeId),
    /// Voters that are alive: without the one that is to leave they would be too few.
    Quorum,
}

/// `gives` tells which nodes give their copies away, `lost` which of them are given up for dead.
#[must_use]
pub fn step(row: &Row, led: Option<&Led>, words: &BTreeMap<NodeId, Word>, gives: &BTreeSet<NodeId>, lost: &BTreeSet<NodeId>) -> Step {
    let resting = row.learners.is_empty() && row.leaving.is_empty();
    let Some(led) = led else { return if resting { Step::Rest } else { Step::Wait(Obstacle::Leader) } };
    // A change that has begun is finished: its second half cannot be wrong when its first was not.
    if let Some(goal) = &led.changing_to {
        return Step::SetVoters(goal.clone());
    }
    if row.voters.iter().copied().collect::<BTreeSet<_>>() != led.voters {
        return Step::Record(follow(row, led));
    }
    if resting {
        return Step::Rest;
    }
    match row.learners.iter().find(|id| gives.contains(id)) {
        Some(id) if led.members.contains(id) => return Step::RemoveLearner(*id),
        Some(id) => {
            let learners = row.learners.iter().copied().filter(|learner| learner != id).collect();
            return Step::Record(Row { learners, ..row.clone() });
        }
        None => {}
    }
    if !row.learners.is_empty() { enter(row, led, words, lost) } else { leave(row, led, words, lost) }
}

/// The row as the voters are now.
fn follow(row: &Row, led: &Led) -> Row {
    let mut voters: Vec<NodeId> = row.voters.iter().copied().filter(|id| led.voters.contains(id)).collect();
    voters.extend(led.voters.iter().copied().filter(|id| !row.voters.contains(id)));
    Row {
        group: row.group,
        voters,
        learners: row.learners.iter().copied().filter(|id| !led.voters.contains(id)).collect(),
        leaving: row.leaving.iter().copied().filter(|id| led.voters.contains(id)).collect(),
    }
}

/// The first of these nodes that does not answer, or has not opened the group.
fn silent(mut nodes: impl Iterator<Item = NodeId>, words: &BTreeMap<NodeId, Word>) -> Option<Step> {
    nodes.find(|id| !words.get(id).is_some_and(|word| word.open)).map(|id| Step::Wait(Obstacle::Answer(id)))
}

/// True when the node has shown that it has all that was committed before the group had these members.
fn is_complete(id: NodeId, since: u64, words: &BTreeMap<NodeId, Word>) -> bool {
    words.get(&id).is_some_and(|word| word.complete >= Some(since))
}

fn enter(row: &Row, led: &Led, words: &BTreeMap<NodeId, Word>, lost: &BTreeSet<NodeId>) -> Step {
    if let Some(new) = row.learners.iter().copied().find(|id| !led.members.contains(id)) {
        let open = words.get(&new).is_some_and(|word| word.open);
        return if open { Step::AddLearner(new) } else { Step::Wait(Obstacle::Open(new)) };
    }
    let voters = || row.voters.iter().copied().filter(|id| !lost.contains(id));
    let all = || voters().chain(row.learners.iter().copied());
    if let Some(wait) = silent(all(), words) {
        return wait;
    }
    // While another voter lacks something, the vote of one more would not be worth what it seems. One that knows of nothing is
    // believed; one that lacks something at this moment shows whether that is more than what is just arriving.
    let doubtful = voters().filter(|id| words.get(id).is_some_and(|word| word.missing > 0));
    let unchecked: Vec<NodeId> = row.learners.iter().copied().chain(doubtful).filter(|id| !is_complete(*id, led.since, words)).collect();
    if !unchecked.is_empty() {
        return Step::Check(unchecked);
    }
    Step::SetVoters(led.voters.iter().chain(&row.learners).copied().collect())
}

fn leave(row: &Row, led: &Led, words: &BTreeMap<NodeId, Word>, lost: &BTreeSet<NodeId>) -> Step {
    let staying: BTreeSet<NodeId> = led.voters.iter().copied().filter(|id| !row.leaving.contains(id)).collect();
    // One that is given up for dead answers never; the others must be enough to go on without the one that leaves.
    let present = || staying.iter().copied().filter(|id| !lost.contains(id));
    if present().count() * 2 <= staying.len() {
        return Step::Wait(Obstacle::Quorum);
    }
    if let Some(wait) = silent(present(), words) {
        return wait;
    }
    let lacks = |id: NodeId| words.get(&id).is_none_or(|word| word.missing > 0);
    let unchecked: Vec<NodeId> = present().filter(|id| lacks(*id) || !is_complete(*id, led.since, words)).collect();
    if !unchecked.is_empty() {
        return Step::Check(unchecked);
    }
    for id in row.leaving.iter().copied().filter(|id| !lost.contains(id)) {
        match words.get(&id).and_then(|word| word.holds) {
            _ if led.leader == id => return Step::Wait(Obstacle::HandOver(id)),
            None => return Step::Wait(Obstacle::Answer(id)),
            Some(0) => {}
            Some(_) => return Step::Wait(Obstacle::HandOver(id)),
        }
    }
    Step::SetVoters(staying)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parliament_ids::GroupId;

    fn ids<T: FromIterator<NodeId>>(ids: &[u64]) -> T {
        ids.iter().copied().map(NodeId).collect()
    }
    fn row(voters: &[u64], learners: &[u64], leaving: &[u64]) -> Row {
        Row { group: GroupId(1), voters: ids(voters), learners: ids(learners), leaving: ids(leaving) }
    }
    fn led(voters: &[u64], members: &[u64], since: u64) -> Led {
        Led { leader: NodeId(2), voters: ids(voters), changing_to: None, members: ids(members), since }
    }
    fn sound(complete: u64) -> Word {
        Word { open: true, complete: Some(complete), missing: 0, holds: Some(0) }
    }
    fn words(nodes: &[(u64, Word)]) -> BTreeMap<NodeId, Word> {
        nodes.iter().map(|(id, word)| (NodeId(*id), word.clone())).collect()
    }
    fn next(row: &Row, led: &Led, said: &BTreeMap<NodeId, Word>) -> Step {
        step(row, Some(led), said, &BTreeSet::new(), &BTreeSet::new())
    }

    #[test]
    fn a_copy_becomes_a_voter_only_when_it_has_everything() {
        let going = row(&[1, 2, 3], &[4], &[]);
        let mut said = words(&[(1, sound(0)), (2, sound(0)), (3, sound(0))]);
        assert_eq!(next(&row(&[1, 2, 3], &[], &[]), &led(&[1, 2, 3], &[1, 2, 3], 5), &said), Step::Rest);
        assert_eq!(step(&going, None, &said, &BTreeSet::new(), &BTreeSet::new()), Step::Wait(Obstacle::Leader));
        let alone = led(&[1, 2, 3], &[1, 2, 3], 5);
        assert_eq!(next(&going, &alone, &said), Step::Wait(Obstacle::Open(NodeId(4))));
        said.insert(NodeId(4), Word { open: true, ..Word::default() });
        assert_eq!(next(&going, &alone, &said), Step::AddLearner(NodeId(4)));
        let joined = led(&[1, 2, 3], &[1, 2, 3, 4], 9);
        assert_eq!(next(&going, &joined, &said), Step::Check(ids(&[4])));
        said.insert(NodeId(4), sound(8));
        assert_eq!(next(&going, &joined, &said), Step::Check(ids(&[4])), "before it was a member");
        said.insert(NodeId(4), sound(9));
        said.insert(NodeId(3), Word { missing: 1, ..sound(8) });
        assert_eq!(next(&going, &joined, &said), Step::Check(ids(&[3])), "never while another voter lacks a body");
        said.insert(NodeId(3), Word { missing: 1, ..sound(9) });
        assert_eq!(next(&going, &joined, &said), Step::SetVoters(ids(&[1, 2, 3, 4])));
        said.remove(&NodeId(1));
        assert_eq!(next(&going, &joined, &said), Step::Wait(Obstacle::Answer(NodeId(1))));
        let given_up = ids(&[1]);
        assert_eq!(step(&going, Some(&joined), &said, &given_up, &given_up), Step::SetVoters(ids(&[1, 2, 3, 4])));
    }

    #[test]
    fn what_has_begun_is_finished_and_what_is_done_is_recorded() {
        let said = BTreeMap::new();
        let resting = row(&[1, 2, 3], &[], &[]);
        let late = led(&[1, 2, 3, 4], &[1, 2, 3, 4], 10);
        assert_eq!(next(&resting, &late, &said), Step::Record(row(&[1, 2, 3, 4], &[], &[])), "by an order that came late");
        let going = row(&[1, 2, 3], &[4], &[]);
        let half = Led { changing_to: Some(ids(&[1, 2, 3, 4])), ..led(&[1, 2, 3, 4], &[1, 2, 3, 4], 9) };
        assert_eq!(next(&going, &half, &said), Step::SetVoters(ids(&[1, 2, 3, 4])));
        assert_eq!(next(&going, &led(&[1, 2, 3, 4], &[1, 2, 3, 4], 10), &said), Step::Record(row(&[1, 2, 3, 4], &[], &[])));
        let leaving = row(&[1, 2, 3, 4], &[], &[1]);
        assert_eq!(next(&leaving, &led(&[2, 3, 4], &[2, 3, 4], 12), &said), Step::Record(row(&[2, 3, 4], &[], &[])));
    }

    #[test]
    fn a_voter_leaves_only_when_the_others_have_everything_and_it_holds_nothing() {
        let leaving = row(&[1, 2, 3, 4], &[], &[1]);
        let four = led(&[1, 2, 3, 4], &[1, 2, 3, 4], 10);
        let mut said = words(&[(1, sound(0)), (2, sound(10)), (3, sound(11)), (4, sound(9))]);
        assert_eq!(next(&leaving, &four, &said), Step::Check(ids(&[4])), "what it had before it got its vote is not enough");
        said.insert(NodeId(4), sound(10));
        assert_eq!(next(&leaving, &four, &said), Step::SetVoters(ids(&[2, 3, 4])));
        for holds in [Some(3), None] {
            said.insert(NodeId(1), Word { holds, ..sound(0) });
            assert!(matches!(next(&leaving, &four, &said), Step::Wait(_)), "{holds:?}");
        }
        said.insert(NodeId(1), sound(0));
        let leads = Led { leader: NodeId(1), ..four.clone() };
        assert_eq!(next(&leaving, &leads, &said), Step::Wait(Obstacle::HandOver(NodeId(1))));
        said.remove(&NodeId(1));
        assert_eq!(next(&leaving, &four, &said), Step::Wait(Obstacle::Answer(NodeId(1))));
        let given_up = ids(&[1]);
        assert_eq!(step(&leaving, Some(&four), &said, &given_up, &given_up), Step::SetVoters(ids(&[2, 3, 4])));
        said.remove(&NodeId(3));
        assert_eq!(step(&leaving, Some(&four), &said, &given_up, &given_up), Step::Wait(Obstacle::Answer(NodeId(3))));
    }

    /// Two disks are lost: the first leaves although the second, whose turn comes later, never answers.
    #[test]
    fn a_lost_voter_that_stays_for_now_holds_up_nobody() {
        let all = [1, 2, 3, 4, 5];
        let (leaving, five) = (row(&all, &[], &[1]), Led { leader: NodeId(3), ..led(&all, &all, 10) });
        let said = words(&[(3, sound(10)), (4, sound(10)), (5, sound(10))]);
        let lost = ids(&[1, 2]);
        assert_eq!(step(&leaving, Some(&five), &said, &lost, &lost), Step::SetVoters(ids(&[2, 3, 4, 5])));
        let lost = ids(&[1, 2, 3]);
        assert_eq!(step(&leaving, Some(&five), &said, &lost, &lost), Step::Wait(Obstacle::Quorum));
    }

    #[test]
    fn a_copy_that_was_begun_on_a_node_that_gives_away_is_given_up() {
        let going = row(&[1, 2, 3], &[4], &[]);
        let (said, gives) = (BTreeMap::new(), ids(&[4]));
        let none = BTreeSet::new();
        assert_eq!(step(&going, Some(&led(&[1, 2, 3], &[1, 2, 3, 4], 9)), &said, &gives, &none), Step::RemoveLearner(NodeId(4)));
        assert_eq!(step(&going, Some(&led(&[1, 2, 3], &[1, 2, 3], 9)), &said, &gives, &none), Step::Record(row(&[1, 2, 3], &[], &[])));
    }
}
