//! What can be wrong with the network between nodes and with their clocks.

use super::Cluster;
use super::switch::Way;
use crate::history::Recorder;
use serde_json::{Value, json};
use std::time::Duration;

/// A fault; nodes by number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node and the others exchange nothing.
    Alone(usize),
    /// The others hear nothing of the node, which hears them.
    Mute(usize),
    /// The node hears nothing of the others, which hear it.
    Deaf(usize),
    /// The second hears nothing of the first; the first hears the second, and everybody hears all others.
    OneWay(usize, usize),
    /// The nodes stand in a ring that begins with this one, and hear only their neighbours: with five each hears a majority; of three,
    /// the first and the last do not hear each other.
    Ring(usize),
    /// So many of 10,000 packets from and to the node are lost.
    Lossy(usize, u16),
    /// Packets from and to the node take so long, and up to so long in addition, ms.
    Slow(usize, u64, u64),
    /// The node's clock runs at so many millionths of the true rate.
    Rate(usize, i64),
    /// The node's wall clock is so many seconds ahead.
    Wall(usize, i64),
}

impl Fault {
    /// The node whose clients it is about; none when it is about the whole.
    pub fn node(self) -> Option<usize> {
        match self {
            Fault::Alone(node) | Fault::Mute(node) | Fault::Deaf(node) => Some(node),
            Fault::Lossy(node, _) | Fault::Slow(node, ..) | Fault::Rate(node, _) | Fault::Wall(node, _) => Some(node),
            Fault::OneWay(..) | Fault::Ring(_) => None,
        }
    }

    /// True when the node exchanges words with no other.
    pub fn is_alone(self) -> bool {
        matches!(self, Fault::Alone(_) | Fault::Mute(_) | Fault::Deaf(_))
    }

    /// What one direction of a pair becomes by it.
    fn change(self, from: usize, to: usize, nodes: usize, way: &mut Way) {
        match self {
            Fault::Alone(node) => way.cut |= from == node || to == node,
            Fault::Mute(node) => way.cut |= from == node,
            Fault::Deaf(node) => way.cut |= to == node,
            Fault::OneWay(one, other) => way.cut |= (from, to) == (one, other),
            Fault::Ring(first) => {
                let place = |node: usize| (node + nodes - first) % nodes;
                let apart = place(from).abs_diff(place(to));
                way.cut |= !(apart <= 1 || (nodes > 3 && apart == nodes - 1));
            }
            Fault::Lossy(node, lost) if from == node || to == node => way.lost_of_10000 = lost,
            Fault::Slow(node, delay, jitter) if from == node || to == node => {
                (way.delay, way.jitter) = (Duration::from_millis(delay), Duration::from_millis(jitter));
            }
            Fault::Lossy(..) | Fault::Slow(..) | Fault::Rate(..) | Fault::Wall(..) => {}
        }
    }

    /// Brings it about. It is noted before: what is answered after the note may have been answered before the fault.
    ///
    /// # Errors
    /// In words, when the cluster has no clocks to be set.
    pub fn begin(self, cluster: &Cluster, recorder: &Recorder, reason: &str) -> Result<(), String> {
        let node = self.node().map_or("", |number| cluster.node(number).id.as_str());
        recorder.nemesis("cut", node, json!({ "reason": format!("{self:?} {reason}"), "alone": self.is_alone() }));
        let nodes = cluster.nodes.len();
        cluster.switch.change(|from, to, way| self.change(from, to, nodes, way));
        let clock = |node: usize| cluster.clocks.get(node - 1).ok_or("this cluster's clocks cannot be set");
        match self {
            Fault::Rate(node, millionths) => clock(node)?.run_at(millionths),
            Fault::Wall(node, ahead) => clock(node)?.jump(Duration::from_secs(ahead.unsigned_abs()), ahead < 0),
            _ => Ok(()),
        }
    }
}

/// Ends all faults.
///
/// # Errors
/// In words, when a clock cannot be set.
pub fn heal(cluster: &Cluster, recorder: &Recorder, node: Option<usize>) -> Result<(), String> {
    recorder.nemesis("heal", node.map_or("", |number| cluster.node(number).id.as_str()), Value::Null);
    cluster.switch.heal();
    for clock in &cluster.clocks {
        clock.run_at(1_000_000)?;
        clock.jump(Duration::ZERO, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs that still hear each other: `12` when 2 hears 1.
    fn heard(fault: Fault, nodes: usize) -> Vec<String> {
        let pairs = (1..=nodes).flat_map(|from| (1..=nodes).map(move |to| (from, to))).filter(|(from, to)| from != to);
        let whole = |(from, to): &(usize, usize)| {
            let mut way = Way::default();
            fault.change(*from, *to, nodes, &mut way);
            !way.cut
        };
        pairs.filter(whole).map(|(from, to)| format!("{from}{to}")).collect()
    }

    #[test]
    fn who_hears_whom() {
        assert_eq!(heard(Fault::Alone(2), 3), ["13", "31"]);
        assert_eq!(heard(Fault::Mute(2), 3), ["12", "13", "31", "32"]);
        assert_eq!(heard(Fault::Deaf(2), 3), ["13", "21", "23", "31"]);
        assert_eq!(heard(Fault::OneWay(1, 2), 3), ["13", "21", "23", "31", "32"]);
        assert_eq!(heard(Fault::Ring(1), 3), ["12", "21", "23", "32"]);
        assert_eq!(heard(Fault::Ring(2), 3), ["13", "23", "31", "32"]);
        assert_eq!(heard(Fault::Ring(1), 5), ["12", "15", "21", "23", "32", "34", "43", "45", "51", "54"]);
        assert_eq!(heard(Fault::Rate(1, 2), 3).len(), 6);
    }
}
