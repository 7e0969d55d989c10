//! Which nodes should hold which groups, when nodes come and go: the next steps from where things stand. Nothing is remembered
//! between two calls, so whoever asks next goes on from there.
//!
//! Copies are kept by data nodes. Where there are just two of them, a witness votes beside them in place of a third copy.
//!
//! In the order of importance: copies leave nodes that give theirs away; no group has fewer copies than wanted; copies of a group
//! lie in different zones; copies are spread evenly. A copy is made before one goes, and none goes while too few would be left.

use parliament_ids::{GroupId, NodeId, NodeRole};
use std::collections::{BTreeMap, BTreeSet};

/// A node, as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Which.
    pub id: NodeId,
    /// Its zone; nodes of one zone may die together.
    pub zone: String,
    /// What it is for.
    pub role: NodeRole,
    /// False when it gives its copies away (draining, or given up for dead).
    pub takes: bool,
    /// True when it answers: new copies are begun only where they can be made.
    pub up: bool,
}

/// A group's copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which group.
    pub group: GroupId,
    /// Its voters.
    pub voters: Vec<NodeId>,
    /// Copies on their way to a vote.
    pub learners: Vec<NodeId>,
    /// Voters on their way out.
    pub leaving: Vec<NodeId>,
}

/// A change to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make copies on these nodes.
    Add(GroupId, Vec<NodeId>),
    /// Let these voters leave.
    Drop(GroupId, Vec<NodeId>),
}

const fn odd(n: usize) -> usize {
    if n == 0 || !n.is_multiple_of(2) { n } else { n - 1 }
}

/// What is known of all nodes, and how loaded each will be once all that was begun is done.
struct Table<'a> {
    seats: BTreeMap<NodeId, &'a Seat>,
    load: BTreeMap<NodeId, usize>,
    /// Copies that every group has at least, the witness's vote included.
    floor: usize,
    /// The witness that votes beside two data nodes.
    witness: Option<NodeId>,
}

impl<'a> Table<'a> {
    fn new(seats: &'a [Seat], rows: &[Row], replication: usize) -> Self {
        let mut load: BTreeMap<NodeId, usize> = seats.iter().map(|seat| (seat.id, 0)).collect();
        for row in rows {
            for id in row.voters.iter().chain(&row.learners).filter(|id| !row.leaving.contains(id)) {
                *load.entry(*id).or_default() += 1;
            }
        }
        let data = || seats.iter().filter(|seat| seat.role == NodeRole::Data);
        // Nodes that give their copies away count: to drain one is no reason to keep fewer copies.
        let copies = replication.min(odd(data().count())).max(1);
        let witness = seats.iter().find(|seat| seat.role == NodeRole::Witness && seat.takes).map(|seat| seat.id);
        let witness = witness.filter(|_| replication >= 3 && data().count() >= 2 && data().filter(|seat| seat.takes).count() <= 2);
        // Without its witness a pair waits for the next one as a pair: nothing it has is thrown away meanwhile.
        let pair = data().count() >= 2 && replication >= 3 && seats.iter().any(|seat| seat.role == NodeRole::Witness);
        let floor = if witness.is_some() { 3 } else { copies.max(if pair { 2 } else { 1 }) };
        Self { seats: seats.iter().map(|seat| (seat.id, seat)).collect(), load, floor, witness }
    }
    fn load(&self, id: NodeId) -> usize {
        self.load.get(&id).copied().unwrap_or(0)
    }
    fn takes(&self, id: NodeId) -> bool {
        let takes = |seat: &&Seat| seat.takes && (seat.role == NodeRole::Data || self.witness == Some(id));
        self.seats.get(&id).is_some_and(takes)
    }
    fn zone(&self, id: NodeId) -> &str {
        self.seats.get(&id).map_or("", |seat| seat.zone.as_str())
    }
    fn zones(&self, ids: impl IntoIterator<Item = NodeId>) -> usize {
        ids.into_iter().map(|id| self.zone(id)).collect::<BTreeSet<_>>().len()
    }
    fn zones_without(&self, ids: &[NodeId], without: NodeId) -> usize {
        self.zones(ids.iter().copied().filter(|id| *id != without))
    }

    /// Data nodes that could take one more copy beside `present`.
    fn free(&self, present: &[NodeId]) -> impl Iterator<Item = &&'a Seat> {
        self.seats.values().filter(move |seat| seat.role == NodeRole::Data && seat.takes && seat.up && !present.contains(&seat.id))
    }

    /// The best node for one more copy beside `present`: of a new zone first, the least loaded next; the witness once two data nodes have one.
    fn candidate(&self, present: &[NodeId]) -> Option<NodeId> {
        let zones: BTreeSet<&str> = present.iter().map(|id| self.zone(*id)).collect();
        let witness = self.witness.filter(|id| present.len() == 2 && !present.contains(id) && self.seats[id].up);
        if witness.is_some() {
            return witness;
        }
        let free = self.free(present);
        free.min_by_key(|seat| (zones.contains(seat.zone.as_str()), self.load(seat.id), seat.id)).map(|seat| seat.id)
    }

    /// Copies that are missing, beside those that stay.
    fn lacking(&mut self, row: &Row) -> Vec<NodeId> {
        let staying: Vec<NodeId> = row.voters.iter().copied().filter(|id| self.takes(*id)).collect();
        // Never a copy where one is: a node that gives away is no candidate, so only those that stay and those that come count.
        let mut present = staying.clone();
        let mut added = Vec::new();
        while present.len() < self.floor
            && let Some(id) = self.candidate(&present)
        {
            present.push(id);
            added.push(id);
        }
        let voters = row.voters.len() + added.len();
        // An even number of voters outvotes no more than the odd one below: only as a step on the way of a replacement.
        if staying.len() == row.voters.len() && voters.is_multiple_of(2) {
            added.pop();
        }
        for id in &added {
            *self.load.entry(*id).or_default() += 1;
        }
        added
    }

    /// Copies that are too many: those of nodes that give away once enough others are there, else the one whose node is most
    /// loaded among those that the spread over zones misses least.
    fn surplus(&self, row: &Row) -> Vec<NodeId> {
        let staying: Vec<NodeId> = row.voters.iter().copied().filter(|id| self.takes(*id)).collect();
        let giving: Vec<NodeId> = row.voters.iter().copied().filter(|id| !self.takes(*id)).collect();
        // Before the next witness comes: with two of them, no majority would be sure to have two nodes with bodies.
        let witness = giving.iter().find(|id| self.seats.get(id).is_some_and(|seat| seat.role == NodeRole::Witness && !seat.takes));
        if let Some(witness) = witness.filter(|_| staying.len() >= 2) {
            return vec![*witness];
        }
        if staying.len() < self.floor {
            return Vec::new();
        }
        // One after the other: each is a change of the quorum.
        if let Some(first) = giving.first() {
            return vec![*first];
        }
        if staying.len() == self.floor {
            return Vec::new();
        }
        let worst = staying.iter().copied().max_by_key(|id| (self.zones_without(&staying, *id), self.load(*id), *id));
        worst.into_iter().collect()
    }

    /// A copy that would lie better elsewhere: where a zone is missing, or where there are at least two copies less.
    fn better(&self, row: &Row) -> Option<NodeId> {
        if self.witness.is_some() || row.voters.iter().any(|id| !self.takes(*id)) || row.voters.len() != self.floor {
            return None;
        }
        let zones = self.zones(row.voters.iter().copied());
        let free = self.free(&row.voters);
        let gain = |to: NodeId| {
            let mut grown = row.voters.clone();
            grown.push(to);
            // What would go once the new copy is there.
            let gone = grown.iter().copied().max_by_key(|id| (self.zones_without(&grown, *id), self.load(*id), *id))?;
            let after = self.zones_without(&grown, gone);
            let evens = self.load(gone) >= self.load(to) + 2;
            (gone != to && (after > zones || (after == zones && evens)))
                .then(|| (after, self.load(gone) - self.load(to).min(self.load(gone))))
        };
        free.filter_map(|seat| gain(seat.id).map(|gain| (gain, seat.id)))
            .max_by_key(|(gain, id)| (*gain, std::cmp::Reverse(*id)))
            .map(|(_, id)| id)
    }
}

/// The changes to begin now, of groups in which none is under way; at most `at_once` are under way in all. `rows` are groups of
/// users.
#[must_use]
pub fn plan(seats: &[Seat], rows: &[Row], replication: usize, at_once: usize) -> Vec<Change> {
    let mut table = Table::new(seats, rows, replication);
    let (moving, resting): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| !row.learners.is_empty() || !row.leaving.is_empty());
    let mut room = at_once.saturating_sub(moving.len());
    let mut changes = Vec::new();
    for row in &resting {
        if room == 0 {
            return changes;
        }
        let surplus = table.surplus(row);
        let change = if surplus.is_empty() {
            let lacking = table.lacking(row);
            (!lacking.is_empty()).then_some(Change::Add(row.group, lacking))
        } else {
            Some(Change::Drop(row.group, surplus))
        };
        if let Some(change) = change {
            room -= 1;
            changes.push(change);
        }
    }
    // What only would be nicer waits until all that must be is done, and goes one by one.
    if changes.is_empty() && moving.is_empty() && room > 0 {
        let nicer = resting.iter().find_map(|row| table.better(row).map(|to| Change::Add(row.group, vec![to])));
        changes.extend(nicer);
    }
    changes
}

/// Where the copies of each group are once all that the planner would begin from here on has succeeded.
#[must_use]
pub fn foresee(seats: &[Seat], rows: &[Row], replication: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.iter().map(finished).collect();
    // Each group changes a few times at most; the bound is for the unforeseen.
    for _ in 0..rows.len() * 16 {
        let changes = plan(seats, &rows, replication, 1);
        let Some(Change::Add(group, _) | Change::Drop(group, _)) = changes.first() else { break };
        let Some(row) = rows.iter_mut().find(|row| row.group == *group) else { break };
        match &changes[0] {
            Change::Add(_, nodes) => row.voters.extend(nodes),
            Change::Drop(_, nodes) => row.voters.retain(|id| !nodes.contains(id)),
        }
    }
    rows
}

/// A group once what is under way is done.
fn finished(row: &Row) -> Row {
    let stays = |id: &&NodeId| !row.leaving.contains(id);
    let voters = row.voters.iter().filter(stays).chain(&row.learners).copied().collect();
    Row { voters, learners: Vec::new(), leaving: Vec::new(), ..row.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(id: u64, zone: &str) -> Seat {
        Seat { id: NodeId(id), zone: zone.into(), role: NodeRole::Data, takes: true, up: true }
    }
    fn seats(n: u64) -> Vec<Seat> {
        (1..=n).map(|id| seat(id, &format!("z{id}"))).collect()
    }
    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }
    fn row(group: u32, voters: &[u64]) -> Row {
        Row { group: GroupId(group), voters: ids(voters), learners: Vec::new(), leaving: Vec::new() }
    }
    fn three_everywhere(groups: u32) -> Vec<Row> {
        (1..=groups).map(|group| row(group, &[1, 2, 3])).collect()
    }

    /// Carries out plans until none is left, checking what must hold on the way; how many copies were made.
    fn settle(seats: &[Seat], rows: &mut [Row], replication: usize) -> usize {
        let data = seats.iter().filter(|seat| seat.role == NodeRole::Data).count();
        let floor = replication.min(odd(data));
        let mut made = 0;
        for _ in 0..1000 {
            let changes = plan(seats, rows, replication, 2);
            if changes.is_empty() {
                return made;
            }
            assert!(changes.len() <= 2);
            for change in changes {
                let (Change::Add(group, _) | Change::Drop(group, _)) = &change;
                let row = rows.iter_mut().find(|row| row.group == *group).unwrap();
                match change {
                    Change::Add(_, nodes) => {
                        made += nodes.len();
                        assert!(nodes.iter().all(|id| !row.voters.contains(id)));
                        row.voters.extend(nodes);
                    }
                    Change::Drop(_, nodes) => {
                        row.voters.retain(|id| !nodes.contains(id));
                        assert!(row.voters.len() >= floor, "{row:?}");
                    }
                }
            }
        }
        panic!("it goes round in circles: {rows:?}");
    }

    fn loads(seats: &[Seat], rows: &[Row]) -> Vec<usize> {
        seats.iter().map(|seat| rows.iter().filter(|row| row.voters.contains(&seat.id)).count()).collect()
    }

    #[test]
    fn at_rest_nothing_moves() {
        assert_eq!(plan(&seats(3), &three_everywhere(8), 3, 2), []);
        assert_eq!(plan(&seats(1), &[row(1, &[1])], 3, 2), []);
        assert_eq!(plan(&seats(2), &[row(1, &[2])], 3, 2), [], "two nodes cannot outvote each other");
    }

    #[test]
    fn a_fourth_node_gets_its_share_and_no_more_moves_than_that() {
        let (seats, mut rows) = (seats(4), three_everywhere(8));
        let made = settle(&seats, &mut rows, 3);
        assert_eq!((loads(&seats, &rows), made), (vec![6, 6, 6, 6], 6));
        assert!(rows.iter().all(|row| row.voters.len() == 3));
    }

    #[test]
    fn a_drained_node_gives_all_away_and_gets_its_share_back() {
        let (mut seats, mut rows) = (seats(4), three_everywhere(8));
        settle(&seats, &mut rows, 3);
        seats[0].takes = false;
        settle(&seats, &mut rows, 3);
        assert_eq!(loads(&seats, &rows), [0, 8, 8, 8]);
        seats[0].takes = true;
        settle(&seats, &mut rows, 3);
        assert_eq!(loads(&seats, &rows), [6, 6, 6, 6]);
    }

    #[test]
    fn what_is_foreseen_is_what_comes() {
        let (mut seats, mut rows) = (seats(4), three_everywhere(8));
        seats[0].takes = false;
        let foreseen = foresee(&seats, &rows, 3);
        settle(&seats, &mut rows, 3);
        assert_eq!(loads(&seats, &foreseen), loads(&seats, &rows));
        let under_way = Row { learners: ids(&[4]), leaving: ids(&[1]), ..row(1, &[1, 2, 3]) };
        assert_eq!(foresee(&seats, &[under_way], 3)[0].voters, ids(&[2, 3, 4]));
    }

    #[test]
    fn without_room_a_drained_node_keeps_its_copies() {
        let mut seats = seats(3);
        seats[2].takes = false;
        assert_eq!(plan(&seats, &three_everywhere(8), 3, 2), []);
        seats.push(Seat { up: false, ..seat(4, "z4") });
        assert_eq!(plan(&seats, &three_everywhere(8), 3, 2), [], "nor is a copy begun on a node that is down");
    }

    #[test]
    fn a_lone_copy_becomes_three_at_once_and_a_lone_node_can_be_replaced() {
        assert_eq!(plan(&seats(3), &[row(1, &[1])], 3, 2), [Change::Add(GroupId(1), ids(&[2, 3]))]);
        let mut two = seats(2);
        two[0].takes = false;
        let mut rows = [row(1, &[1])];
        assert_eq!(settle(&two, &mut rows, 3), 1);
        assert_eq!(rows[0].voters, ids(&[2]));
    }

    /// Two data nodes and a witness, which is node 3.
    fn witnessed() -> Vec<Seat> {
        let mut seats = seats(3);
        seats[2].role = NodeRole::Witness;
        seats
    }

    #[test]
    fn a_witness_votes_beside_two_data_nodes_and_leaves_when_there_is_a_third() {
        let mut seats = witnessed();
        let mut rows = three_everywhere(4);
        assert_eq!(plan(&seats, &rows, 3, 2), []);
        seats.push(seat(4, "z4"));
        settle(&seats, &mut rows, 3);
        assert!(rows.iter().all(|row| row.voters == ids(&[1, 2, 4])), "{rows:?}");
        seats[1].takes = false;
        settle(&seats, &mut rows, 3);
        assert!(rows.iter().all(|row| row.voters == ids(&[1, 4, 3])), "one was drained: {rows:?}");
        let mut one_copy = [row(1, &[1])];
        settle(&witnessed(), &mut one_copy, 3);
        assert_eq!(one_copy[0].voters, ids(&[1, 2, 3]), "a cluster of one node grew");
    }

    #[test]
    fn a_lost_data_node_is_replaced_beside_the_witness() {
        let mut seats = witnessed();
        let mut rows = three_everywhere(4);
        seats[1].takes = false;
        seats[1].up = false;
        assert_eq!(plan(&seats, &rows, 3, 2), [], "there is nobody in its place yet");
        seats.push(seat(4, "z4"));
        settle(&seats, &mut rows, 3);
        assert!(rows.iter().all(|row| row.voters == ids(&[1, 3, 4])), "{rows:?}");
    }

    #[test]
    fn a_lost_witness_leaves_a_pair_and_is_replaced() {
        let mut seats = witnessed();
        let mut rows = three_everywhere(4);
        seats[2].takes = false;
        seats[2].up = false;
        settle(&seats, &mut rows, 3);
        assert!(rows.iter().all(|row| row.voters == ids(&[1, 2])), "both disks are kept: {rows:?}");
        seats.push(Seat { role: NodeRole::Witness, ..seat(4, "z4") });
        settle(&seats, &mut rows, 3);
        assert!(rows.iter().all(|row| row.voters == ids(&[1, 2, 4])), "{rows:?}");
        seats.remove(2);
        assert_eq!(plan(&seats, &rows, 3, 2), []);
    }

    #[test]
    fn nodes_without_mail_get_none() {
        let mut seats = seats(5);
        seats[3].role = NodeRole::Frontend;
        seats[4].role = NodeRole::Copy;
        let mut rows = three_everywhere(4);
        assert_eq!(plan(&seats, &rows, 3, 2), []);
        seats[2].takes = false;
        settle(&seats, &mut rows, 3);
        assert!(rows.iter().all(|row| row.voters == ids(&[1, 2, 3])), "there is no room elsewhere: {rows:?}");
    }

    #[test]
    fn copies_are_spread_over_zones_first() {
        let seats = [seat(1, "a"), seat(2, "a"), seat(3, "b"), seat(4, "c")];
        let mut rows = [row(1, &[1, 2, 3]), row(2, &[1, 2, 3])];
        settle(&seats, &mut rows, 3);
        for row in &rows {
            let zones: BTreeSet<_> = row.voters.iter().map(|id| &seats[id.0 as usize - 1].zone).collect();
            assert_eq!(zones.len(), 3, "{row:?}");
        }
    }

    #[test]
    fn a_group_under_way_is_left_alone_and_counts_against_the_bound() {
        let seats = seats(4);
        let mut rows = three_everywhere(8);
        rows[0].learners = ids(&[4]);
        assert_eq!(plan(&seats, &rows, 3, 2), [], "what is only nicer goes one by one");
        let mut draining = seats.clone();
        draining[0].takes = false;
        assert_eq!(plan(&draining, &rows, 3, 2), [Change::Add(GroupId(2), ids(&[4]))]);
        rows[1].leaving = ids(&[1]);
        assert_eq!(plan(&draining, &rows, 3, 2), []);
    }

    /// What a controller that died half-way leaves behind is finished by the next.
    #[test]
    fn four_voters_become_three_again() {
        let seats = seats(4);
        let mut rows = three_everywhere(8);
        rows[3].voters = ids(&[1, 2, 3, 4]);
        let changes = plan(&seats, &rows, 3, 2);
        assert!(matches!(&changes[0], Change::Drop(GroupId(4), gone) if gone.len() == 1 && gone[0] != NodeId(4)), "{changes:?}");
    }

    #[test]
    fn any_cluster_settles() {
        let mut seed = 7_u64;
        let mut draw = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let n = 3 + draw(5);
            let mut seats: Vec<Seat> = (1..=n).map(|id| seat(id, &format!("z{}", draw(4)))).collect();
            let mut rows: Vec<Row> = (1..=12)
                .map(|group| {
                    let first = draw(n);
                    row(group, &[first % n + 1, (first + 1) % n + 1, (first + 2) % n + 1])
                })
                .collect();
            for _ in 0..3 {
                let which = draw(n) as usize;
                seats[which].takes = !seats[which].takes;
                settle(&seats, &mut rows, 3);
            }
        }
    }
}
