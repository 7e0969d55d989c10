//! Where a request for a user is served: here, at a peer, or after taking the lease.

use parliament_ids::{Boot, NodeId};

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

/// Decides one step. A free or orphaned lease goes to the group's leader when it is near, because its writes then take one
/// hop; else to the node that was asked.
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
            match facts.leader {
                Some(leader) if leader != facts.me && facts.leader_near && !facts.relayed => Step::Relay(leader),
                // A relayed request was sent here because this node should take the lease: if the leadership has moved since, the
                // lease works from here all the same.
                _ if facts.replica => Step::Acquire { from },
                leader => Step::Refuse(leader),
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
        Facts { me: ME, my_boot: Boot(5), replica: true, owner: None, leader: Some(ME), leader_near: true, relayed: false, told: None }
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
            ("relayed to me, free, another leads", Facts { leader: Some(OTHER), relayed: true, ..facts() }, Step::Acquire { from: None }),
            ("no replica here, no leader", Facts { replica: false, leader: None, ..facts() }, Step::Refuse(None)),
        ];
        for (what, facts, step) in table {
            assert_eq!(decide(&facts), step, "{what}");
        }
    }
}
