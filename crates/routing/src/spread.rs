//! Spreading users over the nodes: which leases should move, and where to, so that no node holds more than its share.

use parliament_ids::NodeId;
use std::collections::BTreeMap;

/// A user that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldUser {
    /// Who holds the user.
    pub holder: NodeId,
    /// Nodes with a data replica of the user's group.
    pub candidates: Vec<NodeId>,
    /// The leader of the user's group: writes take one hop less when it is the holder too.
    pub leader: Option<NodeId>,
}

/// The fewest moves after which no two live nodes that could take each other's users differ by more than one, at most `most` of them:
/// users by their place in `held`, with their next holder. Users of nodes that are not live are left to take-over. What is even already
/// is not touched, so repeating this moves nothing.
#[must_use]
pub fn spread(held: &[HeldUser], live: &[NodeId], most: usize) -> Vec<(usize, NodeId)> {
    let mut users: BTreeMap<NodeId, Vec<usize>> = live.iter().map(|node| (*node, Vec::new())).collect();
    for (at, user) in held.iter().enumerate() {
        if let Some(list) = users.get_mut(&user.holder) {
            list.push(at);
        }
    }
    let mut moves = Vec::new();
    while moves.len() < most
        && let Some((from, place, to)) = next_move(held, &users)
    {
        let Some(user) = users.get_mut(&from).map(|list| list.swap_remove(place)) else { break };
        // Not among those that may move again: a user moves once.
        moves.push((user, to));
        users.entry(to).or_default().push(user);
    }
    moves
}

/// From the fullest node, of what it holds the place of a user, to the emptiest that may hold that one.
fn next_move(held: &[HeldUser], users: &BTreeMap<NodeId, Vec<usize>>) -> Option<(NodeId, usize, NodeId)> {
    let mut nodes: Vec<(usize, NodeId)> = users.iter().map(|(node, list)| (list.len(), *node)).collect();
    nodes.sort_unstable();
    for (full, from) in nodes.iter().rev() {
        for (count, to) in nodes.iter().take_while(|(count, _)| count + 2 <= *full) {
            debug_assert!(count < full);
            let list = users.get(from)?;
            // One that came here by a move of this plan stays.
            let may = |at: &usize| held.get(*at).is_some_and(|user| user.holder == *from && user.candidates.contains(to));
            let follows = |at: &usize| may(at) && held.get(*at).is_some_and(|user| user.leader == Some(*to));
            if let Some(place) = list.iter().position(follows).or_else(|| list.iter().position(may)) {
                return Some((*from, place, *to));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: [NodeId; 4] = [NodeId(1), NodeId(2), NodeId(3), NodeId(4)];

    fn user(holder: u64, candidates: &[u64], leader: u64) -> HeldUser {
        let candidates = candidates.iter().map(|n| NodeId(*n)).collect();
        HeldUser { holder: NodeId(holder), candidates, leader: Some(NodeId(leader)) }
    }

    /// How many users each of three nodes holds after the moves.
    fn after(held: &[HeldUser], moves: &[(usize, NodeId)]) -> [usize; 3] {
        let mut held = held.to_vec();
        moves.iter().for_each(|(at, to)| held[*at].holder = *to);
        [0, 1, 2].map(|n| held.iter().filter(|user| user.holder == N[n]).count())
    }

    #[test]
    fn users_end_up_even_with_the_fewest_moves_and_then_stay() {
        let all = &[1, 2, 3];
        for counts in [[9, 0, 0], [5, 4, 0], [3, 3, 3], [10, 1, 1], [4, 3, 3], [0, 0, 1]] {
            let mut held = Vec::new();
            for (node, count) in counts.iter().enumerate() {
                held.extend(std::iter::repeat_n(user(node as u64 + 1, all, 1), *count));
            }
            let moves = spread(&held, &N[..3], 1000);
            let even = after(&held, &moves);
            let (least, greatest) = (even.iter().min().unwrap(), even.iter().max().unwrap());
            assert!(greatest - least <= 1, "{counts:?} became {even:?}");
            let needed: usize = counts.iter().map(|count| count.saturating_sub(*greatest)).sum();
            assert_eq!(moves.len(), needed, "{counts:?}: {moves:?}");
            moves.iter().for_each(|(at, to)| held[*at].holder = *to);
            assert_eq!(spread(&held, &N[..3], 1000), []);
        }
    }

    #[test]
    fn a_user_goes_where_its_group_is_led_and_only_where_a_replica_is() {
        let held = [user(1, &[1, 2, 3], 1), user(1, &[1, 2, 3], 2), user(1, &[1, 3], 3)];
        let mut moves = spread(&held, &N[..3], 1000);
        moves.sort_unstable();
        assert_eq!(moves, [(1, N[1]), (2, N[2])]);
        let stuck = [user(1, &[1], 1), user(1, &[1], 1), user(1, &[1, 2], 1)];
        assert_eq!(spread(&stuck, &N[..3], 1000), [(2, N[1])]);
    }

    #[test]
    fn dead_nodes_take_and_give_nothing_and_the_bound_holds() {
        let held = [user(1, &[1, 2], 1), user(1, &[1, 2], 1), user(3, &[1, 2, 3], 1)];
        assert_eq!(spread(&held, &N[..1], 1000), []);
        let full: Vec<HeldUser> = (0..30).map(|_| user(1, &[1, 2, 3], 1)).collect();
        assert_eq!(spread(&full, &N[..3], 7).len(), 7);
        assert_eq!(spread(&full, &N[..3], 1000).len(), 20);
    }
}
