//! Minds the leaders of groups that rest here: their replicas hear nothing, so this node tells them when a leader is gone
//! ([`parliament_groups::GroupSet::leader_lost`]).

use crate::running::Running;
use parliament_groups::Behind;
use parliament_ids::{Boot, GroupId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the leaders are looked at. Voters of group 0 learn within [`parliament_ids::limits::SUPPORT_MS`] and this that a node is gone, about as
/// fast as replicas that are awake.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What this node knows of the leader that a group rests behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// Its node is heard.
    heard: bool,
    /// Its node's start when it was looked at first in this rest, and now.
    boots: (Option<Boot>, Option<Boot>),
    /// When that node was last asked what it leads, ms ago, and the term in which it said to lead the group.
    told: Option<(u64, Option<u64>)>,
}

/// Whether a group that has rested for so long behind a leader of this term still has it. What was asked before the rest says nothing.
fn leads_still(rested_ms: u64, term: u64, known: &Known) -> bool {
    let same_start = known.boots.0 == known.boots.1;
    known.heard && same_start && known.told.is_none_or(|(asked_ms, leads)| asked_ms >= rested_ms || leads == Some(term))
}

/// Looks for as long as the node runs.
pub(crate) async fn mind_leaders(running: Arc<Running>) {
    // The leader's start, as met first, and its term, by the groups that rest here.
    let mut met: BTreeMap<GroupId, (Behind, Option<Boot>)> = BTreeMap::new();
    let mut interval = crate::tasks::beat(LOOK_INTERVAL);
    while !running.is_draining() {
        interval.tick().await;
        let behind = running.groups.behind();
        let mut heard = BTreeMap::new();
        let mut now = BTreeMap::new();
        for row in behind {
            let leader = row.leader;
            let (heard, boot) = *heard
                .entry(leader)
                .or_insert_with(|| (running.local.support.is_live(leader) && running.silent_ms(leader) == 0, running.boot_met(leader)));
            let same_rest =
                |known: &&(Behind, Option<Boot>)| (known.0.leader, known.0.term) == (leader, row.term) && known.0.since <= row.since;
            let first = met.get(&row.group).filter(same_rest).map_or(boot, |known| known.1);
            let known = Known { heard, boots: (first, boot), told: running.hearsay.leads(leader, row.group) };
            let rested_ms = u64::try_from(row.since.as_millis()).unwrap_or(u64::MAX);
            if leads_still(rested_ms, row.term, &known) {
                now.insert(row.group, (row, first));
            } else {
                tracing::debug!(group = %row.group, %leader, term = row.term, ?known, "the leader of a resting group is gone");
                running.groups.leader_lost(row.group);
            }
        }
        met = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_gone_with_its_node_its_start_or_its_own_word() {
        let well = Known { heard: true, boots: (Some(Boot(4)), Some(Boot(4))), told: Some((300, Some(7))) };
        let table = [
            ("it is well", well, true),
            ("nothing was asked yet", Known { told: None, ..well }, true),
            ("its start is not known", Known { boots: (None, None), ..well }, true),
            ("silent", Known { heard: false, ..well }, false),
            ("restarted", Known { boots: (Some(Boot(4)), Some(Boot(5))), ..well }, false),
            ("it leads no more", Known { told: Some((300, None)), ..well }, false),
            ("another term", Known { told: Some((300, Some(8))), ..well }, false),
            ("asked before the rest", Known { told: Some((1_000, None)), ..well }, true),
        ];
        for (name, known, expected) in table {
            assert_eq!(leads_still(1_000, 7, &known), expected, "{name}");
        }
    }
}
