//! Users are held where they are used: what a holder remembers of who asked for its users lately, and which of them should go to another
//! zone. Everything here is bounded and may be forgotten: then a user stays where they are.

use crate::window::Window;
use parliament_ids::{AccountId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Users that are counted at once; with one node each a row takes about 150 bytes.
const ROWS_MAX: usize = 50_000;
/// Nodes that are counted for one user. One that comes later takes the place of the one that asked least.
const NODES_PER_USER_MAX: usize = 8;
/// Users whose turn is awaited at once.
const RIPE_MAX: usize = 1_000;
/// How often rows that say nothing any more are looked for, ms.
const SWEEP_MS: u64 = 1_000;

/// A lease that was taken stays for so long, ms: whoever takes over from a dead node is not the user's choice.
const TAKEN_STAYS_MS: u64 = 10_000;
/// One that was handed over, by an operator, a drain or this policy, stays for so long, ms.
const HANDED_STAYS_MS: u64 = 300_000;
/// After a try to hand a user over there is no other for so long, ms.
const TRIED_STAYS_MS: u64 = 10_000;

/// Share of the requests that must come from one other zone, percent.
const SHARE_PERCENT: u64 = 80;
/// Slots of a window, of five, in which that zone must have asked: a burst is no sustained use.
const SLOTS_LEAST: u32 = 4;
/// Requests of the last 10 s, and of the last 10 minutes, that are sustained use.
const LEAST: (u64, u64) = (20, 50);

/// The last 10 s.
type Short = Window<2_000>;
/// The last 10 minutes: people who read mail ask seldom.
type Long = Window<120_000>;

/// A user who should be held in another zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Who.
    pub account: AccountId,
    /// The nodes of that zone: those that asked first, the one that asked most before the others.
    pub nodes: Vec<NodeId>,
}

/// Who asked for the users of this node lately.
#[derive(Debug, Default)]
pub struct Uses {
    rows: BTreeMap<AccountId, Row>,
    /// Users with much use from elsewhere, who are to be looked at.
    ripe: BTreeSet<AccountId>,
    swept_ms: u64,
}

#[derive(Debug)]
struct Row {
    /// The user stays until then.
    stays_until_ms: u64,
    used_ms: u64,
    by: Vec<By>,
}

#[derive(Debug)]
struct By {
    node: NodeId,
    short: Short,
    long: Long,
}

impl Row {
    fn new(stays_until_ms: u64, now_ms: u64) -> Self {
        Self { stays_until_ms, used_ms: now_ms, by: Vec::new() }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.stays_until_ms && now_ms.saturating_sub(self.used_ms) > Long::SPAN_MS
    }

    fn note(&mut self, from: NodeId, now_ms: u64) {
        self.used_ms = now_ms;
        let place = self.by.iter().position(|by| by.node == from).unwrap_or_else(|| {
            let new = By { node: from, short: Short::default(), long: Long::default() };
            if self.by.len() < NODES_PER_USER_MAX {
                self.by.push(new);
                return self.by.len() - 1;
            }
            let least = (0..self.by.len()).min_by_key(|at| self.by[*at].long.count(now_ms)).unwrap_or(0);
            self.by[least] = new;
            least
        });
        self.by[place].short.note(now_ms);
        self.by[place].long.note(now_ms);
    }

    /// True when so much use comes from other nodes that a closer look is worth its while.
    fn is_ripe(&self, me: NodeId, now_ms: u64) -> bool {
        let (mut short, mut long) = (0, 0);
        for by in self.by.iter().filter(|by| by.node != me) {
            short += by.short.count(now_ms);
            long += by.long.count(now_ms);
        }
        now_ms >= self.stays_until_ms && (short >= LEAST.0 || long >= LEAST.1)
    }

    fn wish(&self, me: NodeId, zones: &BTreeMap<NodeId, String>, now_ms: u64) -> Option<Vec<NodeId>> {
        if now_ms < self.stays_until_ms {
            return None;
        }
        let short = self.by.iter().map(|by| (by.node, by.short.count(now_ms), by.short.used(now_ms))).collect::<Vec<_>>();
        let long = self.by.iter().map(|by| (by.node, by.long.count(now_ms), by.long.used(now_ms))).collect::<Vec<_>>();
        prevailing(&short, LEAST.0, me, zones).or_else(|| prevailing(&long, LEAST.1, me, zones))
    }
}

/// The nodes of the other zone from which nearly all of this use comes, when it is sustained.
fn prevailing(by: &[(NodeId, u64, u32)], least: u64, me: NodeId, zones: &BTreeMap<NodeId, String>) -> Option<Vec<NodeId>> {
    let home = zones.get(&me)?;
    let all: u64 = by.iter().map(|(_, count, _)| count).sum();
    let mut of_zone: BTreeMap<&str, (u64, u32)> = BTreeMap::new();
    for (node, count, used) in by {
        // One that left the cluster has no zone, and counts against all.
        let Some(zone) = zones.get(node) else { continue };
        let row = of_zone.entry(zone).or_default();
        *row = (row.0 + count, row.1 | used);
    }
    let enough = |(count, used): (u64, u32)| count >= least && used.count_ones() >= SLOTS_LEAST && count * 100 >= all * SHARE_PERCENT;
    let (zone, _) = of_zone.into_iter().find(|(zone, row)| *zone != home.as_str() && enough(*row))?;
    let asked = |node: &NodeId| by.iter().find(|(id, _, _)| id == node).map_or(0, |(_, count, _)| *count);
    let mut nodes: Vec<NodeId> = zones.iter().filter(|(_, of)| of.as_str() == zone).map(|(node, _)| *node).collect();
    nodes.sort_by_key(|node| (std::cmp::Reverse(asked(node)), *node));
    Some(nodes)
}

impl Uses {
    /// This node holds the user from now on; `handed` tells that another node gave the user away, else the lease was taken.
    pub fn began(&mut self, account: AccountId, handed: bool, now_ms: u64) {
        self.ended(account);
        if self.has_room(now_ms) {
            let stays_ms = if handed { HANDED_STAYS_MS } else { TAKEN_STAYS_MS };
            self.rows.insert(account, Row::new(now_ms.saturating_add(stays_ms), now_ms));
        }
    }

    /// This node holds the user no more.
    pub fn ended(&mut self, account: AccountId) {
        self.rows.remove(&account);
        self.ripe.remove(&account);
    }

    /// For how long the user stays here whatever comes, ms; `None` for one that nothing is remembered of.
    #[must_use]
    pub fn stays_for_ms(&self, account: AccountId, now_ms: u64) -> Option<u64> {
        self.rows.get(&account).map(|row| row.stays_until_ms.saturating_sub(now_ms))
    }

    /// A session at `from` asked something of a user whom this node, `me`, holds.
    pub fn note(&mut self, account: AccountId, me: NodeId, from: NodeId, now_ms: u64) {
        if !self.rows.contains_key(&account) {
            if !self.has_room(now_ms) {
                return;
            }
            self.rows.insert(account, Row::new(now_ms.saturating_add(TAKEN_STAYS_MS), now_ms));
        }
        let Some(row) = self.rows.get_mut(&account) else { return };
        row.note(from, now_ms);
        if from != me && self.ripe.len() < RIPE_MAX && row.is_ripe(me, now_ms) {
            self.ripe.insert(account);
        }
    }

    /// The users to hand over now, at most so many; the others wait. Each one told has been tried then, whatever comes of it.
    pub fn wishes(&mut self, me: NodeId, zones: &BTreeMap<NodeId, String>, now_ms: u64, most: usize) -> Vec<Wish> {
        let mut wishes = Vec::new();
        while wishes.len() < most
            && let Some(account) = self.ripe.pop_first()
        {
            let Some(row) = self.rows.get_mut(&account) else { continue };
            if let Some(nodes) = row.wish(me, zones, now_ms) {
                row.stays_until_ms = now_ms.saturating_add(TRIED_STAYS_MS);
                wishes.push(Wish { account, nodes });
            }
        }
        wishes
    }

    /// True when there is room for one more row. Looks for some now and then.
    fn has_room(&mut self, now_ms: u64) -> bool {
        if self.rows.len() >= ROWS_MAX && now_ms >= self.swept_ms.saturating_add(SWEEP_MS) {
            self.swept_ms = now_ms;
            self.rows.retain(|_, row| !row.is_over(now_ms));
        }
        self.rows.len() < ROWS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: AccountId = AccountId(7);
    const HERE: NodeId = NodeId(1);
    const BESIDE: NodeId = NodeId(2);
    const FAR: NodeId = NodeId(3);
    const FAR_TOO: NodeId = NodeId(4);
    const ELSEWHERE: NodeId = NodeId(5);

    fn zones() -> BTreeMap<NodeId, String> {
        [(HERE, "a"), (BESIDE, "a"), (FAR, "b"), (FAR_TOO, "b"), (ELSEWHERE, "c")].map(|(node, zone)| (node, zone.to_owned())).into()
    }

    /// One user, handed to and fro as the nodes' tables wish.
    struct World {
        holder: NodeId,
        uses: BTreeMap<NodeId, Uses>,
        now_ms: u64,
        moves: Vec<(u64, NodeId)>,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self { holder: HERE, uses: BTreeMap::new(), now_ms: 1_000_000, moves: Vec::new() };
            world.uses.entry(HERE).or_default().began(ANN, false, world.now_ms);
            world
        }

        /// For so many seconds each node asks so often in a second; each second the holder looks.
        fn pass(&mut self, seconds: u64, per_second: &[(NodeId, u64)]) {
            for _ in 0..seconds {
                for tick in 0..100 {
                    for (node, times) in per_second {
                        if *times > 0 && tick % (100 / times) == 0 {
                            self.uses.entry(self.holder).or_default().note(ANN, self.holder, *node, self.now_ms);
                        }
                    }
                    self.now_ms += 10;
                }
                let (me, now_ms) = (self.holder, self.now_ms);
                let wishes = self.uses.entry(me).or_default().wishes(me, &zones(), now_ms, 10);
                if let Some(to) = wishes.first().and_then(|wish| wish.nodes.first()).copied() {
                    self.uses.entry(me).or_default().ended(ANN);
                    self.uses.entry(to).or_default().began(ANN, true, now_ms);
                    (self.holder, self.moves) = (to, [self.moves.clone(), vec![(now_ms - 1_000_000, to)]].concat());
                }
            }
        }
        fn moved(&self) -> Vec<NodeId> {
            self.moves.iter().map(|(_, to)| *to).collect()
        }
    }

    #[test]
    fn a_user_follows_sustained_use_and_then_stays() {
        let mut world = World::new();
        world.pass(30, &[(FAR, 5)]);
        assert_eq!(world.moved(), [FAR]);
        let (when, _) = world.moves[0];
        assert!((10_000..=12_000).contains(&when), "not before the lease is old enough, and not much later: {when} ms");
        world.pass(120, &[(FAR, 5)]);
        assert_eq!(world.moved(), [FAR]);
    }

    #[test]
    fn the_node_that_asks_most_comes_first_and_the_whole_zone_counts() {
        let mut uses = Uses::default();
        uses.began(ANN, false, 0);
        for now_ms in (10_000..20_000).step_by(400) {
            uses.note(ANN, HERE, if now_ms % 1_200 == 0 { FAR } else { FAR_TOO }, now_ms);
        }
        let wishes = uses.wishes(HERE, &zones(), 20_000, 10);
        assert_eq!(wishes, [Wish { account: ANN, nodes: vec![FAR_TOO, FAR] }]);
        assert_eq!(uses.wishes(HERE, &zones(), 20_000, 10), [], "it has been tried");
    }

    #[test]
    fn little_use_is_followed_too_when_it_lasts() {
        let mut world = World::new();
        // A person who opens a mailbox every twenty seconds: four requests at once.
        for _ in 0..60 {
            for _ in 0..4 {
                world.uses.entry(world.holder).or_default().note(ANN, world.holder, FAR, world.now_ms);
            }
            world.pass(20, &[]);
        }
        assert_eq!(world.moved(), [FAR]);
    }

    #[test]
    fn what_must_not_move_a_user() {
        let table: &[(&str, &[(NodeId, u64)])] = &[
            ("both zones alike", &[(HERE, 10), (FAR, 10)]),
            ("three zones alike", &[(HERE, 5), (FAR, 5), (ELSEWHERE, 5)]),
            ("two other zones alike", &[(FAR, 10), (ELSEWHERE, 10)]),
            ("more from the other zone, not nearly all", &[(HERE, 5), (FAR, 10)]),
            ("another node of the same zone", &[(BESIDE, 20)]),
            ("a node that left the cluster", &[(NodeId(99), 20)]),
            ("the own zone", &[(HERE, 20)]),
        ];
        for (what, use_of) in table {
            let mut world = World::new();
            world.pass(100, use_of);
            assert_eq!(world.moved(), [], "{what}");
        }
        let mut world = World::new();
        world.pass(60, &[]);
        world.pass(2, &[(FAR, 100)]);
        world.pass(60, &[]);
        assert_eq!(world.moved(), [], "a burst");
    }

    #[test]
    fn zones_that_take_turns_never_make_it_go_to_and_fro() {
        for turn_s in [1, 3, 5] {
            let mut world = World::new();
            for _ in 0..40 {
                world.pass(turn_s, &[(HERE, 20)]);
                world.pass(turn_s, &[(FAR, 20)]);
            }
            assert_eq!(world.moved(), [], "turns of {turn_s} s");
        }
        // Turns so long that each is sustained use: then seldom.
        let mut world = World::new();
        for _ in 0..60 {
            world.pass(30, &[(FAR, 20)]);
            world.pass(30, &[(HERE, 20)]);
        }
        let gaps: Vec<u64> = world.moves.windows(2).map(|two| two[1].0 - two[0].0).collect();
        assert!(gaps.iter().all(|gap| *gap >= HANDED_STAYS_MS), "{:?}", world.moves);
    }

    #[test]
    fn when_use_shifts_there_is_one_move() {
        let mut world = World::new();
        world.pass(400, &[(HERE, 10)]);
        world.pass(400, &[(FAR, 10)]);
        assert_eq!(world.moved(), [FAR]);
        world.pass(400, &[(HERE, 10)]);
        assert_eq!(world.moved(), [FAR, HERE]);
    }

    #[test]
    fn what_was_handed_over_stays_for_a_while() {
        let mut uses = Uses::default();
        uses.began(ANN, true, 0);
        assert_eq!((uses.stays_for_ms(ANN, 0), uses.stays_for_ms(AccountId(1), 0)), (Some(HANDED_STAYS_MS), None));
        let tell = |until_ms: u64, uses: &mut Uses| {
            for now_ms in (until_ms - 10_000..until_ms).step_by(100) {
                uses.note(ANN, HERE, FAR, now_ms);
            }
            uses.wishes(HERE, &zones(), until_ms, 10).len()
        };
        assert_eq!(tell(HANDED_STAYS_MS - 1, &mut uses), 0);
        assert_eq!(tell(HANDED_STAYS_MS + 5_000, &mut uses), 1);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_what_is_old() {
        let mut uses = Uses::default();
        for account in 0..ROWS_MAX as u64 + 10 {
            uses.note(AccountId(account), HERE, FAR, 1_000);
        }
        assert_eq!(uses.rows.len(), ROWS_MAX);
        uses.note(AccountId(u64::MAX), HERE, FAR, 1_000 + Long::SPAN_MS * 2);
        assert_eq!(uses.rows.len(), 1, "only what says something is kept");
        for node in 0..100 {
            uses.note(ANN, HERE, NodeId(node), 2_000);
        }
        assert_eq!(uses.rows[&ANN].by.len(), NODES_PER_USER_MAX);
        for account in 0..RIPE_MAX as u64 * 2 {
            for tick in 0..100 {
                uses.note(AccountId(account), HERE, FAR, 2_000_000 + tick * 200);
            }
        }
        assert_eq!(uses.ripe.len(), RIPE_MAX);
        assert_eq!(uses.wishes(HERE, &zones(), 2_020_000, 7).len(), 7);
    }
}
