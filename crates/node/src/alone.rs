//! Two data nodes and a witness (rule 5): who hears whom, the decision that one data node serves alone, and on the witness whom it runs ahead
//! for and when that is over.

use crate::ask::{Facts, Question, Reply, ask_within};
use crate::identity::Document;
use crate::running::Running;
use parliament_cluster_state::{self as state, Alone, AloneStep, Command};
use parliament_groups::WitnessRule;
use parliament_ids::limits::SUPPORT_MS;
use parliament_ids::{AloneVersion, GroupId, NodeId, NodeRole};
use parliament_mail_service::boot_ms;
use parliament_routing::alone::{DOWN_MS, Heard, Next, Sight, next};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a node listens, and group 0's leader decides.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A node that was not heard since this one's start is not called silent for so long: it may be starting, too. In ms.
const START_MS: u64 = 3_000;
/// How long a data node may take to say whom it hears.
const ASK_WITHIN: Duration = Duration::from_millis(250);
/// Every how many looks the data nodes are asked though nothing seems wrong: they may be cut off from each other.
const ASK_EVERY: u64 = 10;
/// Every how many looks it is asked how far they are.
const FACTS_EVERY: u64 = 5;
/// How long a data node may take to tell.
const FACTS_WITHIN: Duration = Duration::from_secs(2);
/// A node that is so few entries behind has caught up: the last ones come while both are waited for again.
const NEARLY: u64 = 200;
/// How often the witness looks whether all is there.
const OVER_INTERVAL: Duration = Duration::from_millis(250);
/// How long a change of the record may take, ms.
const PROPOSE_MS: u64 = 2_000;

#[derive(Clone, Copy)]
struct Ear {
    hears: bool,
    since_ms: u64,
}

/// What a node needs for this.
pub(crate) struct Beside {
    rule: Option<Arc<WitnessRule>>,
    /// One row per other node.
    ears: Mutex<BTreeMap<NodeId, Ear>>,
}

impl Beside {
    pub(crate) fn new(role: NodeRole) -> Self {
        Self { rule: (role == NodeRole::Witness).then(Arc::default), ears: Mutex::default() }
    }
    /// On a witness: what its replicas go by.
    pub(crate) fn rule(&self) -> Option<Arc<WitnessRule>> {
        self.rule.clone()
    }
    /// Whether this node hears another; `None` before it has listened.
    pub(crate) fn heard(&self, node: NodeId) -> Option<Heard> {
        let ear = *self.ears.lock().unwrap_or_else(PoisonError::into_inner).get(&node)?;
        let since = boot_ms().saturating_sub(ear.since_ms);
        Some(if ear.hears { Heard::For(since) } else { Heard::Silent(since) })
    }
    fn listen(&self, node: NodeId, hears: bool, now_ms: u64) {
        let mut ears = self.ears.lock().unwrap_or_else(PoisonError::into_inner);
        let first = if hears { now_ms } else { now_ms + START_MS };
        let ear = ears.entry(node).or_insert(Ear { hears, since_ms: first });
        if ear.hears != hears {
            // It counts as heard for as long as its last request is good.
            *ear = Ear { hears, since_ms: if hears { now_ms } else { now_ms.saturating_sub(SUPPORT_MS) } };
        }
    }
}

/// Who serves alone, as this node's copy of group 0 says.
pub(crate) fn known(running: &Running) -> Alone {
    state::alone(running.local.cluster_tables()).unwrap_or_else(|fault| {
        tracing::error!(%fault, "who serves alone");
        Alone::default()
    })
}

/// Listens for as long as the node runs.
pub(crate) async fn listen(running: Arc<Running>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !running.is_draining() {
        interval.tick().await;
        let document = running.document();
        if !has_witness(&document) {
            continue;
        }
        for member in document.members.iter().filter(|member| member.role == NodeRole::Data && member.id != running.local.me.0) {
            let node = NodeId(member.id);
            running.alone.listen(node, running.local.support.is_live(node), boot_ms());
        }
    }
}

fn has_witness(document: &Document) -> bool {
    document.members.iter().any(|member| member.role == NodeRole::Witness)
}

/// The data nodes that vote beside a witness, in any group.
fn pair(document: &Document) -> Option<BTreeSet<NodeId>> {
    let is_witness = |node: &NodeId| document.role(*node) == NodeRole::Witness;
    let rows = (1..=document.groups).map(|group| document.voters(GroupId(group)));
    let beside = rows.filter(|voters| voters.iter().any(is_witness)).flatten();
    let pair: BTreeSet<NodeId> = beside.filter(|node| !is_witness(node)).collect();
    (!pair.is_empty()).then_some(pair)
}

/// On the leader of group 0: decides for as long as the node runs.
pub(crate) async fn decide(running: Arc<Running>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut number, mut caught_up) = (0_u64, BTreeSet::new());
    while !running.is_draining() {
        interval.tick().await;
        number += 1;
        let present = known(&running);
        let document = running.document();
        if running.local.leader(GroupId::CLUSTER) != Some(running.local.me) || (present.node.is_none() && !has_witness(&document)) {
            continue;
        }
        if present.node.is_none() || present.ending {
            caught_up.clear();
        } else if number.is_multiple_of(FACTS_EVERY) {
            caught_up = who_caught_up(&running, &pair(&document).unwrap_or_default()).await;
        }
        let sight = look(&running, &document, number, &caught_up).await;
        let Some(change) = next(present.node, present.ending, &sight) else { continue };
        let step = match change {
            Next::Begin(_) if !running.config.cluster.serve_alone => continue,
            Next::Begin(node) => AloneStep::Begin(node),
            Next::End => AloneStep::End,
            Next::Over => AloneStep::Over,
        };
        propose(&running, present.version, step).await;
    }
}

async fn propose(running: &Arc<Running>, version: AloneVersion, step: AloneStep) {
    match running.local.propose_cluster(&Command::Alone { version, step }, boot_ms() + PROPOSE_MS).await {
        Ok(Ok(_)) => tracing::warn!(?step, "who serves alone beside the witness"),
        other => tracing::debug!(?step, ?other, "who serves alone stays as it was"),
    }
}

async fn look(running: &Arc<Running>, document: &Document, number: u64, caught_up: &BTreeSet<NodeId>) -> Sight {
    let me = running.local.me;
    let mut sight = Sight { pair: pair(document), caught_up: caught_up.clone(), ..Sight::default() };
    let Some(pair) = sight.pair.clone() else { return sight };
    for node in &pair {
        let heard = if *node == me { Some(Heard::For(u64::MAX)) } else { running.alone.heard(*node) };
        sight.heard.extend(heard.map(|heard| (*node, heard)));
        let leads = if *node == me { Some(running.leads()) } else { running.hearsay.pulse(*node).map(|pulse| pulse.leads.len()) };
        sight.leads.extend(leads.map(|leads| (*node, leads)));
    }
    let silent = sight.heard.values().any(|heard| matches!(heard, Heard::Silent(ms) if *ms >= DOWN_MS));
    if !silent && !number.is_multiple_of(ASK_EVERY) {
        return sight;
    }
    let pairs = pair.iter().flat_map(|who| pair.iter().map(move |whom| (*who, *whom))).filter(|(who, whom)| who != whom);
    let answers = pairs.map(|(who, whom)| async move {
        if who == me {
            return running.alone.heard(whom).map(|heard| ((who, whom), heard));
        }
        match ask_within(running, who, &Question::Hears { node: whom.0 }, ASK_WITHIN).await {
            Ok(Reply::Heard(true, ms)) => Some(((who, whom), Heard::For(ms))),
            Ok(Reply::Heard(false, ms)) => Some(((who, whom), Heard::Silent(ms))),
            _ => None,
        }
    });
    sight.told = futures::future::join_all(answers).await.into_iter().flatten().collect();
    sight
}

async fn facts_of(running: &Arc<Running>, node: NodeId) -> Option<Facts> {
    match ask_within(running, node, &Question::Groups, FACTS_WITHIN).await {
        Ok(Reply::Facts(facts)) => Some(facts),
        _ => None,
    }
}

async fn who_caught_up(running: &Arc<Running>, pair: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let asked = pair.iter().map(|node| async move { (*node, facts_of(running, *node).await) });
    let facts: Vec<(NodeId, Option<Facts>)> = futures::future::join_all(asked).await;
    let committed = |group: &u32| {
        let rows = facts.iter().filter_map(|(_, facts)| facts.as_ref()?.groups.get(group));
        rows.filter_map(|row| row.committed).max().unwrap_or(0)
    };
    let near = |facts: &Facts| {
        let behind = |(group, row): (&u32, &crate::ask::GroupFacts)| row.applied.unwrap_or(0) + NEARLY < committed(group);
        facts.missing_bodies == 0 && facts.aside.is_empty() && facts.caught_up && !facts.groups.iter().any(behind)
    };
    facts.iter().filter(|(_, facts)| facts.as_ref().is_some_and(near)).map(|(node, _)| *node).collect()
}

/// On the witness: acknowledges by what group 0 says, and says when everything is on both disks again.
pub(crate) async fn witness(running: Arc<Running>) {
    let Some(rule) = running.alone.rule() else { return };
    // What was applied when this node stopped may be less than it has gone by: only all that is committed will do.
    while running.local.read_barrier(GroupId::CLUSTER).await.is_err() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let mut applied = running.local.cluster.watch_applied();
    let mut ends: Option<(AloneVersion, BTreeMap<GroupId, u64>)> = None;
    while !running.is_draining() {
        applied.mark_unchanged();
        let present = known(&running);
        rule.set_alone(present.node.filter(|_| !present.ending));
        if present.ending {
            if ends.as_ref().is_none_or(|(version, _)| *version != present.version) {
                // From here on nothing is acknowledged that only one has; what was is in the logs here.
                rule.settled().await;
                ends = own_ends(&running).map(|ends| (present.version, ends));
            }
            if let Some((version, ends)) = &ends
                && has_all(&running, present.node, ends).await
            {
                propose(&running, *version, AloneStep::Over).await;
            }
        }
        let wait = if present.ending { OVER_INTERVAL } else { Duration::from_secs(1) };
        // Group 0 stops with the node.
        let _ = tokio::time::timeout(wait, applied.changed()).await;
    }
}

/// Where the logs end here; `None` unless this node is the one witness of every group.
fn own_ends(running: &Running) -> Option<BTreeMap<GroupId, u64>> {
    let (document, me) = (running.document(), running.local.me);
    let end = |group: GroupId| {
        let voters = document.voters(group);
        let others = voters.iter().filter(|node| **node != me && document.role(**node) == NodeRole::Witness).count();
        let shard = running.local.shard(group).filter(|_| others == 0 && voters.contains(&me))?;
        Some((group, shard.group.metrics().last_log?))
    };
    (1..=document.groups).map(|group| end(GroupId(group))).collect()
}

/// True when every data node beside the one that served alone has all entries up to these, and their bodies.
async fn has_all(running: &Arc<Running>, alone: Option<NodeId>, ends: &BTreeMap<GroupId, u64>) -> bool {
    let others: Vec<NodeId> = pair(&running.document()).unwrap_or_default().into_iter().filter(|node| Some(*node) != alone).collect();
    let mut all = !others.is_empty();
    for node in others {
        let Some(facts) = facts_of(running, node).await else { return false };
        let complete = |group: &GroupId, end: u64| facts.groups.get(&group.0).is_some_and(|row| row.complete >= Some(end));
        for (group, _) in ends.iter().filter(|(group, end)| !complete(group, **end)) {
            all = false;
            let asked = ask_within(running, node, &Question::Check { group: group.0 }, FACTS_WITHIN).await;
            if asked.is_err() {
                return false;
            }
        }
        all &= facts.missing_bodies == 0 && facts.aside.is_empty();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_last_word_and_not_before_the_others_could_start() {
        let beside = Beside::new(NodeRole::Data);
        assert!(beside.rule().is_none() && beside.heard(NodeId(2)).is_none());
        let now = boot_ms();
        beside.listen(NodeId(2), true, now);
        assert!(matches!(beside.heard(NodeId(2)), Some(Heard::For(_))));
        beside.listen(NodeId(2), false, now);
        assert!(matches!(beside.heard(NodeId(2)), Some(Heard::Silent(ms)) if ms >= SUPPORT_MS.min(now)));
        beside.listen(NodeId(3), false, now);
        assert!(matches!(beside.heard(NodeId(3)), Some(Heard::Silent(0))), "it may be starting");
        beside.listen(NodeId(3), true, now);
        beside.listen(NodeId(3), true, now + 50);
        assert!(matches!(beside.heard(NodeId(3)), Some(Heard::For(_))));
    }
}
