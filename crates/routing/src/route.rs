//! Where a request for a user is served: here, at a peer, or after taking the lease.

use parliament_ids::{AccountId, Boot, NodeId};

/// What is known about a user's owner record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerFacts {
    /// The owner.
    pub node: NodeId,
    /// The boot the ownership belongs to.
    pub boot: Boot,
    /// True when a greater boot of that node has been seen: the ownership is over.
    pub boot_ended: bool,
    /// True when the node has been heard from within [`parliament_ids::limits::SUPPORT_MS`].
    pub live: bool,
    /// True when it just answered that it does not hold the lease.
    pub denied: bool,
}

/// The facts that a routing decision rests on. Stale facts cost a detour, never correctness: the fence decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// This node.
    pub me: NodeId,
    /// Its boot for leases.
    pub my_boot: Boot,
    /// True when this node is a data replica of the user's group, so that it may hold the lease.
    pub replica: bool,
    /// The owner record as applied here; `None` when nobody owns the lease.
    pub owner: Option<OwnerFacts>,
    /// The leader of the user's group, when known.
    pub leader: Option<NodeId>,
    /// True when the leader has been heard from lately.
    pub leader_near: bool,
    /// True when this request was relayed here already: it is served or refused, not sent on.
    pub relayed: bool,
    /// The live node that the owner as applied here, or another one asked, has just named as the holder: it knows of a handover that
    /// this node has not applied yet.
    pub told: Option<NodeId>,
    /// The live node that inherits the user from another whose ownership is over, as [`heir`] says.
    pub heir: Option<NodeId>,
}

/// Which of these nodes inherits a user from a node that died: each node would say the same, and the users of one node fall evenly upon
/// the others, whoever leads their groups by then. Each node draws a lot for each user, and the highest wins.
#[must_use]
pub fn heir(account: AccountId, among: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    // The finalizer of splitmix64: every bit of the number changes about half of the result's.
    let mix = |number: u64| {
        let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    };
    let lot = |node: &NodeId| mix(mix(account.0.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ mix(node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    among.into_iter().max_by_key(|node| (lot(node), *node))
}

/// What to do with the request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Serve it here: this node holds the lease.
    Serve,
    /// Send it to this node, which holds the lease or should take it.
    Relay(NodeId),
    /// Take the lease here, then serve. `from` is the owner whose support must be withdrawn first.
    Acquire {
        /// The ownership that must be shown to be over.
        from: Option<(NodeId, Boot)>,
    },
    /// Answer that another node should be asked.
    Refuse(Option<NodeId>),
    /// Look again soon: this node is said to be the holder and has yet to apply that.
    Wait,
}

/// Decides one step. A free lease goes to the group's leader when it is near, because its writes then take one hop; one that another
/// node has lost goes to its heir, because one leader may lead all the groups of a node that died; else to the node that was asked.
#[must_use]
pub fn decide(facts: &Facts) -> Step {
    match facts.owner {
        Some(owner) if owner.node == facts.me && owner.boot == facts.my_boot => Step::Serve,
        Some(owner) if owner.node != facts.me && owner.live && !owner.boot_ended && !owner.denied => {
            if facts.relayed {
                Step::Refuse(Some(owner.node))
            } else {
                Step::Relay(owner.node)
            }
        }
        // A handover that is not applied here yet. Taking the lease from an owner that lives would only cost the time of the attempt.
        Some(OwnerFacts { denied: true, .. }) if facts.told.is_some() && !facts.relayed => match facts.told {
            Some(node) if node != facts.me => Step::Relay(node),
            _ => Step::Wait,
        },
        other => {
            let from = other.map(|owner| (owner.node, owner.boot));
            let lost = other.is_some_and(|owner| owner.node != facts.me);
            let taker = facts.heir.filter(|_| lost).or(facts.leader.filter(|_| facts.leader_near));
            match taker {
                Some(taker) if taker != facts.me && !facts.relayed => Step::Relay(taker),
                // A relayed request was sent here because this node should take the lease: if the leadership has moved since, the
                // lease works from here all the same.
                _ if facts.replica => Step::Acquire { from },
                _ => Step::Refuse(facts.leader),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn facts() -> Facts {
        let (owner, leader, leader_near, relayed, told, heir) = (None, Some(ME), true, false, None, None);
        Facts { me: ME, my_boot: Boot(5), replica: true, owner, leader, leader_near, relayed, told, heir }
    }
    fn owner(node: NodeId, boot: u64) -> OwnerFacts {
        OwnerFacts { node, boot: Boot(boot), boot_ended: false, live: true, denied: false }
    }

    #[test]
    fn decisions() {
        let by = |owner| Facts { owner: Some(owner), ..facts() };
        let dead = OwnerFacts { live: false, ..owner(OTHER, 1) };
        let table = [
            ("free, I lead", facts(), Step::Acquire { from: None }),
            ("free, another leads", Facts { leader: Some(OTHER), ..facts() }, Step::Relay(OTHER)),
            ("free, a far node leads", Facts { leader: Some(OTHER), leader_near: false, ..facts() }, Step::Acquire { from: None }),
            ("free, no leader", Facts { leader: None, ..facts() }, Step::Acquire { from: None }),
            ("mine", by(owner(ME, 5)), Step::Serve),
            ("mine of an earlier boot", by(owner(ME, 4)), Step::Acquire { from: Some((ME, Boot(4))) }),
            ("a live owner", by(owner(OTHER, 1)), Step::Relay(OTHER)),
            ("a live owner, relayed here", Facts { relayed: true, ..by(owner(OTHER, 1)) }, Step::Refuse(Some(OTHER))),
            ("a dead owner", by(dead), Step::Acquire { from: Some((OTHER, Boot(1))) }),
            ("an ended boot", by(OwnerFacts { boot_ended: true, ..owner(OTHER, 1) }), Step::Acquire { from: Some((OTHER, Boot(1))) }),
            ("a denying owner", by(OwnerFacts { denied: true, ..owner(OTHER, 1) }), Step::Acquire { from: Some((OTHER, Boot(1))) }),
            (
                "handed over to another",
                Facts { told: Some(NodeId(3)), ..by(OwnerFacts { denied: true, ..owner(OTHER, 1) }) },
                Step::Relay(NodeId(3)),
            ),
            ("handed over to me", Facts { told: Some(ME), ..by(OwnerFacts { denied: true, ..owner(OTHER, 1) }) }, Step::Wait),
            ("told of a handover and applied it", Facts { told: Some(NodeId(3)), ..by(owner(ME, 5)) }, Step::Serve),
            ("a dead owner, another leads", Facts { leader: Some(NodeId(3)), ..by(dead) }, Step::Relay(NodeId(3))),
            (
                "a dead owner with an heir, another leads",
                Facts { leader: Some(NodeId(3)), heir: Some(NodeId(4)), ..by(dead) },
                Step::Relay(NodeId(4)),
            ),
            (
                "a dead owner, I am the heir",
                Facts { leader: Some(OTHER), heir: Some(ME), ..by(dead) },
                Step::Acquire { from: Some((OTHER, Boot(1))) },
            ),
            (
                "an heir, no replica here",
                Facts { replica: false, heir: Some(ME), leader: Some(OTHER), ..by(dead) },
                Step::Refuse(Some(OTHER)),
            ),
            (
                "an owner that does not answer, and has an heir",
                Facts { heir: Some(NodeId(4)), ..by(OwnerFacts { denied: true, ..owner(OTHER, 1) }) },
                Step::Relay(NodeId(4)),
            ),
            ("free: there is nothing to inherit", Facts { heir: Some(OTHER), ..facts() }, Step::Acquire { from: None }),
            ("a live owner with an heir", Facts { heir: Some(NodeId(4)), ..by(owner(OTHER, 1)) }, Step::Relay(OTHER)),
            (
                "mine of an earlier boot: I need no heir",
                Facts { heir: Some(OTHER), ..by(owner(ME, 4)) },
                Step::Acquire { from: Some((ME, Boot(4))) },
            ),
            ("relayed to me, free, another leads", Facts { leader: Some(OTHER), relayed: true, ..facts() }, Step::Acquire { from: None }),
            ("no replica here, no leader", Facts { replica: false, leader: None, ..facts() }, Step::Refuse(None)),
        ];
        for (what, facts, step) in table {
            assert_eq!(decide(&facts), step, "{what}");
        }
    }

    /// A node dies: what each of the others inherits, with as many users as a small site has and as many as a large one.
    #[test]
    fn no_heir_gets_half_as_much_again_as_its_share() {
        for (nodes, groups, users, seed) in [(3, 16, 200, 1), (3, 8, 1_000, 5), (5, 64, 1_000, 9), (7, 64, 20_000, 3)] {
            let dead = NodeId(2);
            let mut inherited = std::collections::BTreeMap::new();
            let mut all = 0;
            for user in seed * 1_000..seed * 1_000 + users {
                let group = user % groups;
                // Copies as a new cluster has them; each group is led by its first, who holds its users.
                let voters: Vec<NodeId> = (0..3).map(|copy| NodeId((group + copy) % nodes + 1)).collect();
                if voters[0] == dead {
                    all += 1;
                    let living = voters.iter().copied().filter(|node| *node != dead);
                    *inherited.entry(heir(AccountId(user), living).unwrap()).or_insert(0_u64) += 1;
                }
            }
            // With copies of three, the users of one node fall upon the two that follow it.
            let heirs = inherited.len() as u64;
            assert_eq!(heirs, 2, "{inherited:?}");
            assert!(inherited.values().all(|count| count * heirs * 2 <= all * 3), "{nodes} nodes, {users} users: {inherited:?} of {all}");
        }
        assert_eq!(heir(AccountId(1), []), None);
    }

    #[test]
    fn who_inherits_depends_on_nobody_else() {
        for user in 0..1_000 {
            let four = heir(AccountId(user), (1..=4).map(NodeId)).unwrap();
            let three = heir(AccountId(user), (1..=4).map(NodeId).filter(|node| *node != NodeId(4))).unwrap();
            assert!(four == NodeId(4) || four == three);
            assert_eq!(heir(AccountId(user), (1..=4).rev().map(NodeId)), Some(four), "in any order");
        }
    }
}
