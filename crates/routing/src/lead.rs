//! Who leads which group: one rule for two wishes. Leaderships are spread, so that nobody leads more than half as much again as its
//! share, or less than half of it, where it could; and within these bounds a group is led by the node that proposes most of its entries,
//! because a holder's writes then take one hop.
//!
//! Spreading comes first and follows nothing but the bounds; following never leaves them. So neither undoes what the other did.

use parliament_ids::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries that a node must have proposed lately before a leadership follows it.
const ENTRIES_LEAST: u64 = 50;
/// Its share of the group's entries, percent.
const SHARE_PERCENT: u64 = 80;
/// A leadership that is not used by its leader makes room for one that would be used by so many times as much.
const WORTH: u64 = 4;

/// A group with a leader, and no change of its copies under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Which group.
    pub group: GroupId,
    /// Its leader.
    pub leader: NodeId,
    /// The nodes that could lead it now: caught-up voters that take what is given. With the leader, when it may go on.
    pub able: BTreeSet<NodeId>,
    /// Entries that nodes have proposed lately, by sustained use.
    pub proposed: BTreeMap<NodeId, u64>,
    /// True when its leadership was moved a moment ago: it counts, and stays.
    pub rests: bool,
}

impl Leadership {
    fn by(&self, node: NodeId) -> u64 {
        self.proposed.get(&node).copied().unwrap_or(0)
    }

    /// The node that proposes nearly all entries.
    fn main_proposer(&self) -> Option<NodeId> {
        let all: u64 = self.proposed.values().sum();
        let (node, most) = self.proposed.iter().max_by_key(|(_, entries)| **entries)?;
        (*most >= ENTRIES_LEAST && most * 100 >= all * SHARE_PERCENT).then_some(*node)
    }

    /// What the leader's writes and another's would lose and gain if that one led.
    fn gain(&self, to: NodeId) -> i128 {
        i128::from(self.by(to)) - i128::from(self.by(self.leader))
    }

    fn can_move_to(&self, to: NodeId) -> bool {
        !self.rests && self.leader != to && self.able.contains(&to)
    }
}

/// How many groups each node leads that can lead any.
struct Counts {
    leads: BTreeMap<NodeId, usize>,
    groups: usize,
}

impl Counts {
    fn of(all: &[Leadership]) -> Self {
        let mut leads: BTreeMap<NodeId, usize> = all.iter().flat_map(|led| led.able.iter().map(|node| (*node, 0))).collect();
        for led in all {
            if let Some(count) = leads.get_mut(&led.leader) {
                *count += 1;
            }
        }
        Self { leads, groups: all.len() }
    }
    fn get(&self, node: NodeId) -> usize {
        self.leads.get(&node).copied().unwrap_or(0)
    }
    fn is_too_many(&self, count: usize) -> bool {
        2 * count * self.leads.len() > 3 * self.groups
    }
    fn is_too_few(&self, count: usize) -> bool {
        2 * count * self.leads.len() < self.groups
    }
}

/// A leadership that should move now, and to whom; asked again once that is done. Settles after a few moves per group while use stays
/// what it is.
#[must_use]
pub fn lead(all: &[Leadership]) -> Option<(GroupId, NodeId)> {
    let counts = Counts::of(all);
    spread(all, &counts).or_else(|| follow(all, &counts))
}

/// From a node out of bounds to another, or to one out of bounds. Where no group leads from one straight to the other the last step of the
/// shortest way is made first, so that nobody in between leads more than it did.
fn spread(all: &[Leadership], counts: &Counts) -> Option<(GroupId, NodeId)> {
    let mut by_count: Vec<(usize, NodeId)> = counts.leads.iter().map(|(node, count)| (*count, *node)).collect();
    by_count.sort_unstable();
    let too_many = by_count.iter().rev().filter(|(count, _)| counts.is_too_many(*count));
    let too_few = by_count.iter().filter(|(count, _)| counts.is_too_few(*count));
    let from_full = too_many.filter_map(|(count, from)| last_step(all, counts, *from, |to| counts.get(to) + 2 <= *count));
    let to_empty = too_few.filter_map(|(count, to)| {
        let full = by_count.iter().rev().filter(|(most, _)| count + 2 <= *most);
        full.filter_map(|(_, from)| last_step(all, counts, *from, |node| node == *to)).next()
    });
    from_full.chain(to_empty).next()
}

/// The last step of the shortest way over groups from a node that leads to one that is wanted.
fn last_step(all: &[Leadership], counts: &Counts, from: NodeId, is_wanted: impl Fn(NodeId) -> bool) -> Option<(GroupId, NodeId)> {
    let (mut seen, mut next) = (BTreeSet::from([from]), VecDeque::from([from]));
    while let Some(at) = next.pop_front() {
        let mut steps: Vec<(&Leadership, NodeId)> = all
            .iter()
            .filter(|led| led.leader == at)
            .flat_map(|led| led.able.iter().map(move |to| (led, *to)))
            .filter(|(led, to)| led.can_move_to(*to) && !seen.contains(to))
            .collect();
        // What helps the users most goes first, then to who leads least.
        steps.sort_by_key(|(led, to)| (std::cmp::Reverse(led.gain(*to)), counts.get(*to), led.group, *to));
        if let Some((led, to)) = steps.iter().find(|(_, to)| is_wanted(*to)) {
            return Some((led.group, *to));
        }
        for (_, to) in steps {
            if seen.insert(to) {
                next.push_back(to);
            }
        }
    }
    None
}

/// The group with the most entries of a node that does not lead it and has room, or for which room can be made.
fn follow(all: &[Leadership], counts: &Counts) -> Option<(GroupId, NodeId)> {
    let may_give = |node| !counts.leads.contains_key(&node) || !counts.is_too_few(counts.get(node).saturating_sub(1));
    let has_room = |node| !counts.is_too_many(counts.get(node) + 1);
    let mut wishes: Vec<(&Leadership, NodeId)> = all
        .iter()
        .filter_map(|led| Some((led, led.main_proposer()?)))
        .filter(|(led, to)| led.can_move_to(*to) && may_give(led.leader))
        .collect();
    wishes.sort_by_key(|(led, to)| (std::cmp::Reverse(led.gain(*to)), led.group));
    for (led, to) in wishes {
        if has_room(to) {
            return Some((led.group, to));
        }
        let spare = |other: &&Leadership| other.leader == to && other.by(to).saturating_mul(WORTH) < led.by(to);
        let makes_room = all.iter().filter(spare).filter_map(|other| {
            let takers = other.able.iter().copied().filter(|node| other.can_move_to(*node) && has_room(*node));
            takers.max_by_key(|node| (other.gain(*node), std::cmp::Reverse((counts.get(*node), *node)))).map(|taker| (other, taker))
        });
        if let Some((other, taker)) = makes_room.max_by_key(|(other, taker)| (other.gain(*taker), std::cmp::Reverse(other.group))) {
            return Some((other.group, taker));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wish = Option<(GroupId, NodeId)>;
    type Case = (&'static str, &'static [(u64, u64)], Wish);

    fn led(group: u32, leader: u64, able: &[u64], proposed: &[(u64, u64)]) -> Leadership {
        Leadership {
            group: GroupId(group),
            leader: NodeId(leader),
            able: able.iter().copied().map(NodeId).collect(),
            proposed: proposed.iter().map(|(node, entries)| (NodeId(*node), *entries)).collect(),
            rests: false,
        }
    }
    fn idle(leaders: &[u64], able: &[u64]) -> Vec<Leadership> {
        (1..).zip(leaders).map(|(group, leader)| led(group, *leader, able, &[])).collect()
    }
    fn to(group: u32, node: u64) -> Wish {
        Some((GroupId(group), NodeId(node)))
    }

    /// Carries out what is wished until nothing is; how many moves it took.
    fn settle(all: &mut [Leadership]) -> usize {
        for moves in 0..all.len() * 6 {
            let Some((group, to)) = lead(all) else { return moves };
            let led = all.iter_mut().find(|led| led.group == group).unwrap();
            assert!(led.able.contains(&to) && led.leader != to && !led.rests);
            led.leader = to;
        }
        panic!("it goes round in circles: {all:?}");
    }

    fn counts(all: &[Leadership], nodes: u64) -> Vec<usize> {
        (1..=nodes).map(|node| all.iter().filter(|led| led.leader == NodeId(node)).count()).collect()
    }

    #[test]
    fn the_bounds_are_half_as_much_again_and_half() {
        let all = [1, 2, 3];
        let table: &[(&[u64], Wish)] = &[
            (&[1, 1, 2, 2, 3, 3], None),
            (&[1, 1, 1, 2, 2, 3], None),
            (&[1, 1, 1, 1, 2, 2], to(1, 3)),
            (&[1, 1, 1, 2, 2, 2], to(4, 3)),
            (&[1, 1, 1], to(1, 2)),
            (&[2], None),
            (&[], None),
        ];
        for (leaders, wish) in table {
            assert_eq!(lead(&idle(leaders, &all)), *wish, "{leaders:?}");
        }
        assert_eq!(lead(&idle(&[1, 1, 1, 1, 2, 2], &[1, 2])), None, "of two that are up");
        let mut resting = idle(&[1, 1, 1, 1, 2, 2], &all);
        resting[0].rests = true;
        assert_eq!(lead(&resting), to(2, 3));
        resting.iter_mut().for_each(|led| led.rests = true);
        assert_eq!(lead(&resting), None);
    }

    #[test]
    fn a_leadership_goes_by_way_of_others_where_no_group_leads_straight() {
        // Node 1 leads twice its share, and node 4 has no copy of what it leads.
        let mut all = [led(1, 1, &[1, 2, 3], &[]), led(2, 1, &[1, 2, 3], &[]), led(3, 2, &[2, 3, 4], &[]), led(4, 3, &[1, 3, 4], &[])];
        assert_eq!(settle(&mut all), 2);
        assert_eq!(counts(&all, 4), [1, 1, 1, 1]);
    }

    #[test]
    fn who_cannot_lead_has_no_share() {
        // Node 3 votes without bodies: it is able nowhere.
        assert_eq!(lead(&idle(&[1, 1, 2, 2], &[1, 2])), None);
        let mut drained = idle(&[3, 3, 3, 3], &[1, 2]);
        settle(&mut drained);
        assert_eq!(counts(&drained, 3), [0, 0, 4], "its leader gives them away by itself");
    }

    #[test]
    fn a_leader_follows_the_holder_of_most_users() {
        let all = [1, 2, 3];
        let six = |first: &[(u64, u64)]| {
            let mut six = idle(&[1, 1, 2, 2, 3, 3], &all);
            six[0] = led(1, 1, &all, first);
            six
        };
        let table: [Case; 6] = [
            ("all of it", &[(2, 300)], to(1, 2)),
            ("nearly all of it", &[(1, 20), (2, 80)], to(1, 2)),
            ("less", &[(1, 21), (2, 79)], None),
            ("too little", &[(2, 49)], None),
            ("the leader itself", &[(1, 300)], None),
            ("one without a copy", &[(9, 300)], None),
        ];
        for (what, proposed, wish) in table {
            assert_eq!(lead(&six(proposed)), wish, "{what}");
        }
        let mut resting = six(&[(2, 300)]);
        resting[0].rests = true;
        assert_eq!(lead(&resting), None);
    }

    #[test]
    fn one_node_that_holds_everybody_leads_what_is_used_most_and_no_more_than_its_bound() {
        let all = [1, 2, 3];
        let mut eight: Vec<Leadership> =
            (1..=8).map(|group| led(group, u64::from(group % 3) + 1, &all, &[(1, 100 * u64::from(group))])).collect();
        settle(&mut eight);
        let first: Vec<u32> = eight.iter().filter(|led| led.leader == NodeId(1)).map(|led| led.group.0).collect();
        assert_eq!(counts(&eight, 3)[0], 4, "{eight:?}");
        assert!(first.contains(&8) && first.contains(&7), "{first:?}");
        assert!(counts(&eight, 3).iter().all(|count| (2..=4).contains(count)), "{eight:?}");
    }

    #[test]
    fn idle_leaderships_make_room_for_busy_ones() {
        let all = [1, 2, 3];
        let mut six = idle(&[1, 1, 1, 2, 2, 3], &all);
        six[3] = led(4, 2, &all, &[(1, 500)]);
        settle(&mut six);
        assert_eq!(six[3].leader, NodeId(1));
        assert!(counts(&six, 3).iter().all(|count| (1..=3).contains(count)), "{six:?}");
    }

    /// Any cluster settles within the bounds, and what is drawn anew of nearly the same use moves next to nothing.
    #[test]
    fn any_cluster_settles_and_stays() {
        let mut seed = 11_u64;
        let mut draw = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for round in 0..300 {
            let (nodes, groups) = (3 + draw(5), 4 + draw(61));
            let mut all: Vec<Leadership> = (1..=u32::try_from(groups).unwrap())
                .map(|group| {
                    let first = draw(nodes);
                    let able: Vec<u64> = (0..3).map(|n| (first + n) % nodes + 1).collect();
                    let main = able[usize::try_from(draw(3)).unwrap()];
                    let leader = able[usize::try_from(draw(3)).unwrap()];
                    led(group, leader, &able, &[(main, draw(2) * 1_000), (first + 1, draw(100))])
                })
                .collect();
            settle(&mut all);
            let fair = Counts::of(&all);
            for (node, count) in &fair.leads {
                let could_give = all.iter().any(|led| led.leader == *node && led.able.iter().any(|to| fair.get(*to) + 2 <= *count));
                assert!(!fair.is_too_many(*count) || !could_give, "round {round}: {node} leads {count} of {groups}");
            }
            if nodes == 3 {
                assert!(fair.leads.values().all(|count| !fair.is_too_many(*count) && !fair.is_too_few(*count)), "{all:?}");
            }
            let noisy = (0..20).map(|_| {
                for led in &mut all {
                    led.proposed.values_mut().for_each(|entries| *entries = *entries * (90 + draw(21)) / 100);
                    led.proposed.values_mut().filter(|entries| **entries > 500).for_each(|entries| *entries = (*entries).max(700));
                }
                settle(&mut all)
            });
            let moved: usize = noisy.sum();
            assert!(moved <= all.len() / 4 + 1, "round {round}: {moved} moves of {groups} groups by noise alone");
        }
    }
}
