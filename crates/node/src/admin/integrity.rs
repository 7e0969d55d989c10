//! Whether replicas are what they should be: comparing them, mending them, and passes over everything on the nodes.

use super::{Asked, Outcome, bug, document};
use crate::admin::users::page;
use crate::ask::{Question, Replica, Reply, ask_all, ask_within};
use parliament_cluster_state::{AccountRecord, accounts};
use parliament_ctl::{AdminError, api, exit};
use parliament_ids::{AccountId, GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Tries to read all replicas at one index.
const VERIFY_TRIES: usize = 40;
/// How long a replica may take to tell hashes.
const HASHES_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a replica may take to look through accounts.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a replica may take to read and hash all bodies of accounts.
const HASH_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a replica may take to be built anew.
const RESYNC_TIMEOUT: Duration = Duration::from_secs(90);

/// Between two looks at replicas that seem to differ.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);
/// Accounts of a group that are looked at in one go when all of them are.
const CHUNK_ACCOUNTS: usize = 200;
/// Tries to see such accounts at one index.
const CHUNK_TRIES: usize = 3;
/// How long a replica that was built anew may take to be like the others.
const SETTLE_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn verify(asked: &Asked, request: &api::Verify) -> Outcome {
    let (accounts, more) = page(asked, &request.page).await?;
    let mut users = Vec::new();
    for (group, accounts) in by_group(&accounts) {
        let mut seen = look(asked, group, &accounts, request.bodies).await;
        if !accounts.iter().all(|account| verdict(asked, account, &seen).equal) {
            // A difference is one when it is seen twice.
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let again = look(asked, group, &accounts, false).await;
            seen.hashes = again.hashes;
        }
        users.extend(accounts.iter().map(|account| verdict(asked, account, &seen)));
    }
    users.sort_by(|a, b| a.name.cmp(&b.name));
    document(&api::Verified { users, more })
}

fn by_group(accounts: &[AccountRecord]) -> BTreeMap<GroupId, Vec<&AccountRecord>> {
    let mut groups: BTreeMap<GroupId, Vec<&AccountRecord>> = BTreeMap::new();
    accounts.iter().for_each(|account| groups.entry(account.group).or_default().push(account));
    groups
}

/// What the replicas of a group say of accounts.
#[derive(Default)]
struct Seen {
    /// The applied index, and hashes by account, by node.
    hashes: BTreeMap<NodeId, (u64, BTreeMap<u64, String>)>,
    /// Rules and bodies by account, by node.
    rows: BTreeMap<NodeId, BTreeMap<u64, Replica>>,
}

impl Seen {
    /// The index at which all replicas were read, if it was one.
    fn index(&self) -> Option<u64> {
        let indexes: BTreeSet<u64> = self.hashes.values().map(|(index, _)| *index).collect();
        indexes.first().copied().filter(|index| indexes.len() == 1 && *index != 0)
    }
    /// Nodes that have answered both.
    fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.hashes.keys().copied().filter(|node| self.rows.contains_key(node))
    }
    fn hash(&self, node: NodeId, account: u64) -> String {
        let hash = self.hashes.get(&node).and_then(|(_, rows)| rows.get(&account)).cloned();
        hash.unwrap_or_else(|| "no records yet".to_owned())
    }
    /// The records that a majority of the copies has, and that break no rule, are right.
    fn right(&self, voters: usize, account: u64) -> Option<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for node in self.nodes().filter(|node| self.row(*node, account).problems.is_empty()) {
            *counts.entry(self.hash(node, account)).or_default() += 1;
        }
        counts.into_iter().find(|(_, count)| *count > voters / 2).map(|(hash, _)| hash)
    }
    /// True when a copy has the right records; all must have been read at one index.
    fn is_right(&self, node: NodeId, voters: usize, account: u64) -> bool {
        let answered = self.nodes().any(|seen| seen == node) && self.row(node, account).problems.is_empty();
        answered && self.right(voters, account) == Some(self.hash(node, account))
    }
    fn row(&self, node: NodeId, account: u64) -> Replica {
        self.rows.get(&node).and_then(|rows| rows.get(&account)).cloned().unwrap_or_default()
    }
}

async fn ask_replicas(asked: &Asked, group: GroupId, question: &Question, timeout: Duration) -> Vec<(NodeId, Reply)> {
    let voters = asked.running.document().voters(group);
    let asking = voters.into_iter().map(|node| async move { (node, ask_within(&asked.running, node, question, timeout).await) });
    let answers = futures::future::join_all(asking).await;
    answers.into_iter().filter_map(|(node, answer)| Some((node, answer.ok()?))).collect()
}

/// Asks all replicas of a group: for hashes again while they differ in their index, for the rest once.
async fn look(asked: &Asked, group: GroupId, accounts: &[&AccountRecord], bodies: bool) -> Seen {
    let accounts: Vec<u64> = accounts.iter().map(|account| account.id.0).collect();
    let mut seen = Seen::default();
    let question = Question::Verify { group: group.0, accounts: accounts.clone(), bodies };
    for (node, answer) in ask_replicas(asked, group, &question, if bodies { HASH_TIMEOUT } else { LOOK_TIMEOUT }).await {
        if let Reply::Replicas(rows) = answer {
            seen.rows.insert(node, rows.into_iter().map(|row| (row.account, row)).collect());
        }
    }
    let question = Question::Hashes { group: group.0, accounts };
    for _ in 0..VERIFY_TRIES {
        seen.hashes.clear();
        for (node, answer) in ask_replicas(asked, group, &question, HASHES_TIMEOUT).await {
            if let Reply::Hashes(index, rows) = answer {
                seen.hashes.insert(node, (index, rows.into_iter().collect()));
            }
        }
        if seen.index().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seen
}

fn verdict(asked: &Asked, account: &AccountRecord, seen: &Seen) -> api::VerifiedUser {
    let cluster = &*asked.running.document();
    let hashes: Vec<(String, String)> = seen.nodes().map(|node| (cluster.name_of(node), seen.hash(node, account.id.0))).collect();
    let answered: BTreeSet<NodeId> = seen.nodes().collect();
    let missing = cluster.voters(account.group).into_iter().filter(|node| !answered.contains(node));
    let equal = seen.index().is_some() && hashes.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let problems = seen.nodes().flat_map(|node| {
        let row = seen.row(node, account.id.0);
        let bodies = (row.missing + row.damaged > 0).then(|| format!("{} bodies are missing and {} damaged", row.missing, row.damaged));
        let name = cluster.name_of(node);
        row.problems.into_iter().chain(bodies).map(move |what| api::ReplicaProblem { node: name.clone(), what })
    });
    api::VerifiedUser {
        name: account.name.clone(),
        group: account.group.0,
        missing: missing.map(|node| cluster.name_of(node)).collect(),
        equal,
        problems: problems.collect(),
        bodies: seen.nodes().map(|node| seen.row(node, account.id.0).bodies).sum(),
        hashes,
    }
}

/// What is to be done about one replica of a group.
#[derive(Default)]
struct Todo {
    users: Vec<String>,
    accounts: Vec<u64>,
    /// Its records differ from the others', or break a rule.
    rebuild: bool,
    /// It lacks bodies.
    bodies: bool,
}

/// All accounts of a group, looked at once more.
#[derive(Default)]
struct Whole {
    /// Copies that are right for every account: nothing else may be spread.
    sources: BTreeSet<NodeId>,
    /// Copies that are wrong, and for which accounts.
    wrong: BTreeMap<NodeId, BTreeSet<u64>>,
}

async fn look_at_whole(asked: &Asked, group: GroupId) -> Result<Whole, String> {
    let voters = asked.running.document().voters(group);
    let mut whole = Whole { sources: voters.iter().copied().collect(), ..Whole::default() };
    let mut from = AccountId(0);
    loop {
        let tables = asked.running.local.cluster_tables().clone();
        let rows = tokio::task::spawn_blocking(move || accounts(&tables, from, 1000)).await;
        let rows = rows.map_err(|e| e.to_string())?.map_err(|fault| fault.to_string())?;
        let Some(last) = rows.last() else { return Ok(whole) };
        from = AccountId(last.id.0 + 1);
        let of_group: Vec<&AccountRecord> = rows.iter().filter(|row| row.group == group).collect();
        for chunk in of_group.chunks(CHUNK_ACCOUNTS) {
            let seen = look_at_one_index(asked, group, chunk).await?;
            for id in chunk.iter().map(|account| account.id.0) {
                for node in voters.iter().filter(|node| !seen.is_right(**node, voters.len(), id)) {
                    whole.sources.remove(node);
                    if seen.right(voters.len(), id).is_some() && seen.nodes().any(|seen| seen == *node) {
                        whole.wrong.entry(*node).or_default().insert(id);
                    }
                }
            }
        }
    }
}

async fn look_at_one_index(asked: &Asked, group: GroupId, accounts: &[&AccountRecord]) -> Result<Seen, String> {
    for _ in 0..CHUNK_TRIES {
        let seen = look(asked, group, accounts, false).await;
        if seen.index().is_some() {
            return Ok(seen);
        }
    }
    Err(format!("the copies of group {group} could not be read at one moment; try again"))
}

pub(super) async fn repair(asked: &Asked, request: &api::UserRepair) -> Outcome {
    let (accounts, more) = page(asked, &request.page).await?;
    let mut outcome = api::Repaired { users: accounts.len() as u64, more, ..api::Repaired::default() };
    outcome.last = accounts.last().map(|account| account.name.clone());
    for (group, accounts) in by_group(&accounts) {
        let seen = look(asked, group, &accounts, true).await;
        let mut todo = plan(asked, &accounts, &seen, &mut outcome);
        let mut sources = BTreeSet::new();
        if todo.values().any(|todo| todo.rebuild) {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            match look_at_whole(asked, group).await {
                Ok(whole) => {
                    sources = whole.sources;
                    for (node, todo) in &mut todo {
                        let wrong = whole.wrong.get(node);
                        todo.rebuild &= wrong.is_some_and(|wrong| todo.accounts.iter().any(|id| wrong.contains(id)));
                    }
                }
                Err(why) => {
                    outcome.left.push(why);
                    todo.values_mut().for_each(|todo| todo.rebuild = false);
                }
            }
        }
        todo.retain(|_, todo| todo.rebuild || todo.bodies);
        // One replica after the other, so that the others serve.
        for (node, todo) in todo {
            let of_todo: Vec<&AccountRecord> = accounts.iter().copied().filter(|account| todo.accounts.contains(&account.id.0)).collect();
            mend(asked, group, (node, &sources), (&todo, &of_todo), request.dry_run, &mut outcome).await;
        }
    }
    document(&outcome)
}

/// Which replicas are wrong.
fn plan(asked: &Asked, accounts: &[&AccountRecord], seen: &Seen, outcome: &mut api::Repaired) -> BTreeMap<NodeId, Todo> {
    let cluster = &*asked.running.document();
    let mut todo: BTreeMap<NodeId, Todo> = BTreeMap::new();
    for account in accounts {
        let (id, voters) = (account.id.0, cluster.voters(account.group));
        let right = seen.right(voters.len(), id);
        for node in voters.iter().filter(|node| !seen.nodes().any(|seen| seen == **node)) {
            outcome.left.push(format!("{}: {} does not answer", account.name, cluster.name_of(*node)));
        }
        if seen.index().is_none() {
            outcome.left.push(format!("{}: the copies could not be read at one moment; try again", account.name));
            continue;
        }
        for node in seen.nodes() {
            let found = seen.row(node, id);
            let differs = !found.problems.is_empty() || right.as_ref() != Some(&seen.hash(node, id));
            if differs && right.is_none() {
                outcome.left.push(format!("{}: no majority of the copies agrees on what is right", account.name));
                break;
            }
            if differs || found.missing + found.damaged > 0 {
                let todo = todo.entry(node).or_default();
                todo.users.push(account.name.clone());
                todo.accounts.push(id);
                todo.rebuild |= differs;
                todo.bodies |= found.missing + found.damaged > 0;
            }
        }
    }
    todo
}

async fn mend(
    asked: &Asked,
    group: GroupId,
    (node, sources): (NodeId, &BTreeSet<NodeId>),
    (todo, accounts): (&Todo, &[&AccountRecord]),
    dry_run: bool,
    outcome: &mut api::Repaired,
) {
    let name = asked.running.document().name_of(node);
    let users = match &todo.users[..] {
        [one] => one.clone(),
        many => format!("{} users", many.len()),
    };
    let what = match todo.rebuild {
        true => format!("build the copy of group {group} on {name} anew, because of {users}"),
        false => format!("fetch bodies of {users} to {name}"),
    };
    let sources: Vec<u64> = sources.iter().filter(|source| **source != node).map(|source| source.0).collect();
    if todo.rebuild && sources.is_empty() {
        outcome.left.push(format!("{what}: no other copy is right for every user of the group"));
        return;
    }
    if dry_run {
        outcome.done.push(what);
        return;
    }
    let order = Question::Resync { group: group.0, accounts: todo.accounts.clone(), sources: todo.rebuild.then_some(sources) };
    match ask_within(&asked.running, node, &order, RESYNC_TIMEOUT).await {
        Ok(Reply::Order(Ok(()))) if todo.rebuild && !is_right_by_now(asked, group, node, accounts).await => {
            outcome.left.push(format!("{what}: that was done, and it is still not seen to be like the others"));
        }
        Ok(Reply::Order(Ok(()))) => outcome.done.push(what),
        Ok(Reply::Order(Err(why))) | Err(why) => outcome.left.push(format!("{what}: {why}")),
        Ok(other) => outcome.left.push(format!("{what}: {other:?}")),
    }
}

async fn is_right_by_now(asked: &Asked, group: GroupId, node: NodeId, accounts: &[&AccountRecord]) -> bool {
    let deadline = tokio::time::Instant::now() + SETTLE_WAIT;
    loop {
        let voters = asked.running.document().voters(group).len();
        let seen = look(asked, group, accounts, false).await;
        if seen.index().is_some() && accounts.iter().all(|account| seen.is_right(node, voters, account.id.0)) {
            return true;
        }
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

pub(super) async fn scrub_start(asked: &Asked, request: &api::ScrubStart) -> Outcome {
    let cluster = &*asked.running.document();
    let only = match &request.node {
        None => None,
        Some(name) => Some(cluster.named(name).ok_or_else(|| {
            AdminError::new("PC230", exit::USAGE, format!("there is no node {name}")).with_hint("`parliament node list` shows all")
        })?),
    };
    scrubs(asked, only, &Question::Scrub { start: !request.dry_run }).await
}

pub(super) async fn scrub_status(asked: &Asked) -> Outcome {
    scrubs(asked, None, &Question::Scrub { start: false }).await
}

async fn scrubs(asked: &Asked, only: Option<NodeId>, question: &Question) -> Outcome {
    let answers = match only {
        Some(node) => vec![(node, ask_within(&asked.running, node, question, LOOK_TIMEOUT).await)],
        None => ask_all(&asked.running, question).await,
    };
    let cluster = &*asked.running.document();
    let mut scrubs = api::Scrubs::default();
    for (node, answer) in answers {
        match answer {
            Ok(Reply::Scrub(scrub)) => scrubs.nodes.push(*scrub),
            Ok(other) => return Err(bug(format!("{other:?}"))),
            Err(_) => scrubs.unreachable.push(cluster.name_of(node)),
        }
    }
    scrubs.nodes.sort_by(|a, b| a.node.cmp(&b.node));
    scrubs.unreachable.sort();
    document(&scrubs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_right_when_most_have_its_records_and_they_break_no_rule() {
        let mut seen = Seen::default();
        for (node, hash, problems) in [(1, "a", 0), (2, "a", 0), (3, "b", 0), (4, "a", 1)] {
            seen.hashes.insert(NodeId(node), (7, BTreeMap::from([(9, hash.to_owned())])));
            let row = Replica { account: 9, problems: vec!["a rule".to_owned(); problems], ..Replica::default() };
            seen.rows.insert(NodeId(node), BTreeMap::from([(9, row)]));
        }
        let right = |seen: &Seen, voters| (1..=5).filter(|node| seen.is_right(NodeId(*node), voters, 9)).collect::<Vec<_>>();
        assert_eq!(right(&seen, 3), [1, 2], "neither another's records, nor broken ones, nor one that did not answer");
        assert!(right(&seen, 5).is_empty(), "two of five are no majority");
        seen.rows.remove(&NodeId(2));
        assert!(right(&seen, 3).is_empty());
    }
}
