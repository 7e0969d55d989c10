//! Two data nodes and a witness (rule 5): who hears whom, the decision that one data node serves alone, and on the witness whom it runs ahead
//! for and when that is over.

use crate::ask::{Facts, Question, Reply, ask_within};
use crate::identity::Document;
use crate::running::Running;
use parliament_cluster_state::{self as state, Alone, AloneStep, Command, NodeState};
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
/// Every how many looks it is asked how far they are, and looked whether they are fit.
const FACTS_EVERY: u64 = 5;
/// How long a data node may take to tell.
const FACTS_WITHIN: Duration = Duration::from_secs(2);
/// A node that is so few entries behind has caught up: the last ones come while both are waited for again.
const NEARLY: u64 = 200;
/// A data node that says that it cannot do its part is waited for so long, ms.
const UNFIT_MS: u64 = 5_000;
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
        if !has_witness(&document) && known(&running).node.is_none() {
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

/// The data nodes of the groups that are two of them and a witness: in any other every majority has two nodes with bodies.
fn pair(document: &Document) -> Option<BTreeSet<NodeId>> {
    let rows = (1..=document.groups).map(|group| document.voters(GroupId(group)));
    let data =
        |voters: Vec<NodeId>| -> BTreeSet<NodeId> { voters.into_iter().filter(|node| document.role(*node) == NodeRole::Data).collect() };
    let beside = rows.filter(|voters| voters.iter().any(|node| document.role(*node) == NodeRole::Witness)).map(data);
    let pair: BTreeSet<NodeId> = beside.filter(|data| data.len() <= 2).flatten().collect();
    (!pair.is_empty()).then_some(pair)
}

/// All data nodes that vote in any group.
fn voters(document: &Document) -> BTreeSet<NodeId> {
    let voters = (1..=document.groups).flat_map(|group| document.voters(GroupId(group)));
    voters.filter(|node| document.role(*node) == NodeRole::Data).collect()
}

/// On the leader of group 0: decides for as long as the node runs.
pub(crate) async fn decide(running: Arc<Running>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut number, mut caught_up, mut unfit) = (0_u64, BTreeSet::new(), BTreeMap::new());
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
            caught_up = who_caught_up(&running, &voters(&document), present.node).await;
        }
        if number.is_multiple_of(FACTS_EVERY) {
            note_unfit(&running, &document, &mut unfit);
        }
        let mut sight = look(&running, &document, number, present.node.is_some(), &caught_up).await;
        leave_out(&mut sight, &unfit);
        let Some(change) = next(present.node, present.ending, &sight) else { continue };
        let step = match change {
            Next::Begin(node) if !may_begin(&running, &document, node, &sight) => continue,
            Next::Begin(node) => AloneStep::Begin(node),
            Next::End => AloneStep::End,
            Next::Over if all_have_all(&running, &sight.voters).await => AloneStep::Over,
            Next::Over => continue,
        };
        propose(&running, present.version, step).await;
    }
}

/// What the operator has decided: for good by a setting, or by giving the other node up for dead.
fn may_begin(running: &Running, document: &Document, node: NodeId, sight: &Sight) -> bool {
    let mut others = sight.pair.iter().flatten().filter(|other| **other != node);
    running.config.cluster.serve_alone || others.all(|other| document.state(*other) == NodeState::Lost)
}

/// Since when a data node has said that it cannot do its part, ms: it answers, and its copies wait for what only it can mend.
fn note_unfit(running: &Running, document: &Document, unfit: &mut BTreeMap<NodeId, u64>) {
    let now = boot_ms();
    for node in voters(document) {
        let pulse = if node == running.local.me { Some(running.pulse()) } else { running.hearsay.pulse(node) };
        if pulse.is_some_and(|pulse| pulse.disk_full || !pulse.stopped.is_empty() || !pulse.aside.is_empty()) {
            unfit.entry(node).or_insert(now);
        } else {
            unfit.remove(&node);
        }
    }
}

/// One that is unfit for a while counts as if nobody heard it.
fn leave_out(sight: &mut Sight, unfit: &BTreeMap<NodeId, u64>) {
    let now = boot_ms();
    for (node, since) in unfit.iter().filter(|(_, since)| **since + UNFIT_MS <= now) {
        let silent = Heard::Silent(now - since);
        sight.caught_up.remove(node);
        sight.heard.insert(*node, silent);
        for who in sight.voters.iter().filter(|who| *who != node) {
            sight.told.insert((*who, *node), silent);
        }
    }
}

async fn propose(running: &Arc<Running>, version: AloneVersion, step: AloneStep) {
    match running.local.propose_cluster(&Command::Alone { version, step }, boot_ms() + PROPOSE_MS).await {
        Ok(Ok(_)) => tracing::warn!(?step, "who serves alone beside the witness"),
        other => tracing::debug!(?step, ?other, "who serves alone stays as it was"),
    }
}

async fn look(running: &Arc<Running>, document: &Document, number: u64, is_alone: bool, caught_up: &BTreeSet<NodeId>) -> Sight {
    let (me, pair) = (running.local.me, voters(document));
    let mut sight = Sight { pair: self::pair(document), voters: pair.clone(), caught_up: caught_up.clone(), ..Sight::default() };
    for node in &pair {
        let heard = if *node == me { Some(Heard::For(u64::MAX)) } else { running.alone.heard(*node) };
        sight.heard.extend(heard.map(|heard| (*node, heard)));
        let leads = if *node == me { Some(running.leads()) } else { running.hearsay.pulse(*node).map(|pulse| pulse.leads.len()) };
        sight.leads.extend(leads.map(|leads| (*node, leads)));
    }
    let silent = sight.heard.values().any(|heard| matches!(heard, Heard::Silent(ms) if *ms >= DOWN_MS));
    if !(silent || is_alone && number.is_multiple_of(FACTS_EVERY) || number.is_multiple_of(ASK_EVERY)) {
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

/// Those that are near what the one that serves alone has; nobody without its word.
async fn who_caught_up(running: &Arc<Running>, pair: &BTreeSet<NodeId>, alone: Option<NodeId>) -> BTreeSet<NodeId> {
    let asked = pair.iter().map(|node| async move { (*node, facts_of(running, *node).await) });
    let facts: Vec<(NodeId, Option<Facts>)> = futures::future::join_all(asked).await;
    if !facts.iter().any(|(node, facts)| Some(*node) == alone && facts.is_some()) {
        return BTreeSet::new();
    }
    let committed = |group: &u32| {
        let rows = facts.iter().filter_map(|(_, facts)| facts.as_ref()?.groups.get(group));
        rows.filter_map(|row| row.committed).max().unwrap_or(0)
    };
    let near = |facts: &Facts| {
        let behind = |(group, row): (&u32, &crate::ask::GroupFacts)| row.applied.unwrap_or(0) + NEARLY < committed(group);
        facts.missing_bodies == 0 && facts.aside.is_empty() && facts.caught_up && !facts.refuses_bodies && !facts.groups.iter().any(behind)
    };
    facts.iter().filter(|(_, facts)| facts.as_ref().is_some_and(near)).map(|(node, _)| *node).collect()
}

/// On the witness: acknowledges by what group 0 says, for as long as the node runs.
pub(crate) async fn witness(running: Arc<Running>) {
    let Some(rule) = running.alone.rule() else { return };
    // What was applied when this node stopped may be less than it has gone by: only all that is committed will do.
    while running.local.read_barrier(GroupId::CLUSTER).await.is_err() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let mut applied = running.local.cluster.watch_applied();
    let mut ending: Option<(AloneVersion, tokio::task::JoinHandle<()>)> = None;
    while !running.is_draining() {
        applied.mark_unchanged();
        let present = known(&running);
        rule.set_alone(present.node.filter(|_| !present.ending));
        let stale = |(version, _): &mut (AloneVersion, _)| !present.ending || *version != present.version;
        // What it found out is worth nothing once the record has changed, and must not hold up what follows.
        if let Some((_, task)) = ending.take_if(stale) {
            task.abort();
        }
        if present.ending && ending.is_none() {
            ending = Some((present.version, tokio::spawn(end(running.clone(), rule.clone(), present.version))));
        }
        // Group 0 stops with the node.
        let _ = tokio::time::timeout(Duration::from_secs(1), applied.changed()).await;
    }
    if let Some((_, task)) = ending {
        task.abort();
    }
}

/// Says that it is over once every data node has everything.
async fn end(running: Arc<Running>, rule: Arc<WitnessRule>, version: AloneVersion) {
    // From here on nothing is acknowledged that only one has; what was is in the logs here.
    rule.settled().await;
    let ends = loop {
        match own_ends(&running) {
            Some(ends) => break ends,
            None => tokio::time::sleep(OVER_INTERVAL).await,
        }
    };
    loop {
        if have_all(&running, &voters(&running.document()), &ends).await {
            propose(&running, version, AloneStep::Over).await;
        }
        tokio::time::sleep(OVER_INTERVAL).await;
    }
}

/// The same where no group has a witness any more: up to where the data nodes' own logs end.
async fn all_have_all(running: &Arc<Running>, voters: &BTreeSet<NodeId>) -> bool {
    let mut ends: BTreeMap<GroupId, u64> = BTreeMap::new();
    for node in voters {
        let Some(facts) = facts_of(running, *node).await else { return false };
        for (group, row) in facts.groups.iter().filter(|(group, _)| **group != 0) {
            let end = ends.entry(GroupId(*group)).or_default();
            *end = row.committed.unwrap_or(0).max(*end);
        }
    }
    have_all(running, voters, &ends).await
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

/// True when each of these data nodes has all entries up to these of the groups that it votes in, and their bodies.
async fn have_all(running: &Arc<Running>, voters: &BTreeSet<NodeId>, ends: &BTreeMap<GroupId, u64>) -> bool {
    let document = running.document();
    let mut all = !voters.is_empty();
    for node in voters {
        let Some(facts) = facts_of(running, *node).await else { return false };
        let complete = |group: &GroupId, end: u64| facts.groups.get(&group.0).is_some_and(|row| row.complete >= Some(end));
        let due = ends.iter().filter(|(group, _)| document.voters(**group).contains(node));
        for (group, _) in due.filter(|(group, end)| !complete(group, **end)) {
            all = false;
            if ask_within(running, *node, &Question::Check { group: group.0 }, FACTS_WITHIN).await.is_err() {
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
