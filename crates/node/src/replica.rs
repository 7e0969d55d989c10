//! What this node's copies of accounts are like, and making them what they should be.

use crate::ask::{Replica, Reply};
use crate::mend;
use crate::running::Running;
use parliament_bodies::BodyFault;
use parliament_ids::{AccountId, BodyHash, GroupId, NodeId};
use parliament_mailbox_state::{TableFault, check, view};
use parliament_tables::GroupTables;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How often an account is looked at again because it changed meanwhile.
const STEADY_TRIES: usize = 16;
/// Rules of one account that are told to be broken, at most.
const PROBLEMS_MAX: usize = 8;
/// How long bodies may take to come.
const BODIES_WAIT: Duration = Duration::from_secs(60);

/// The hashes of accounts at one applied index; 0 stands for none. Quick.
pub(crate) fn hashes(running: &Running, group: GroupId, accounts: &[u64]) -> Reply {
    let Some(shard) = running.local.shard(group) else { return Reply::Hashes(0, Vec::new()) };
    // What consensus says is applied lags behind the tables.
    let applied = || shard.group.applied_in_tables().unwrap_or(0);
    let before = applied();
    let row = |id: &u64| {
        let hash = view::state_hash(shard.group.tables(), AccountId(*id)).ok()?;
        Some((*id, format!("{hash:032x}")))
    };
    let rows = accounts.iter().filter_map(row).collect();
    // An entry applied in between makes the hashes of no one index: asked again.
    Reply::Hashes(if before == applied() { before } else { 0 }, rows)
}

/// Rules and bodies of accounts. Reads the disk.
pub(crate) fn verify(running: &Running, group: GroupId, accounts: &[u64], bodies: bool) -> Reply {
    let Some(shard) = running.local.shard(group) else { return Reply::Order(Err("the group has no copy here".into())) };
    let tables = shard.group.tables();
    let one = |id: &u64| {
        let mut row = Replica { account: *id, problems: problems(tables, AccountId(*id)), ..Replica::default() };
        if let Err(fault) = look_for_bodies(running, tables, &mut row, bodies) {
            row.problems.push(fault.to_string());
        }
        row
    };
    Reply::Replicas(accounts.iter().map(one).collect())
}

/// Rules that do not hold.
fn problems(tables: &GroupTables, account: AccountId) -> Vec<String> {
    let mut problems = Vec::new();
    for _ in 0..STEADY_TRIES {
        let before = view::state_hash(tables, account);
        problems = match check(tables, account) {
            Ok(()) => return Vec::new(),
            Err(problems) => problems.into_iter().take(PROBLEMS_MAX).collect(),
        };
        // What changes under the recount looks broken.
        match (before, view::state_hash(tables, account)) {
            (Ok(before), Ok(after)) if before != after => {}
            _ => break,
        }
    }
    problems
}

fn named(tables: &GroupTables, account: AccountId) -> Result<HashSet<BodyHash>, TableFault> {
    let mut hashes = HashSet::new();
    // Before the first login there are no records: that is an empty account.
    if view::account(tables, account)?.is_none() {
        return Ok(hashes);
    }
    view::bodies(tables, account, &mut |hash| {
        hashes.insert(hash);
    })?;
    Ok(hashes)
}

/// A body that is not here, or not right, is pulled.
fn look_for_bodies(running: &Running, tables: &GroupTables, row: &mut Replica, read: bool) -> Result<(), TableFault> {
    if !keeps_bodies(running) {
        return Ok(());
    }
    let store = running.local.bodies.store();
    for hash in named(tables, AccountId(row.account))? {
        row.bodies += 1;
        let found = if read { store.read(&hash).map(drop) } else { store.size(&hash).map(drop).ok_or(BodyFault::Missing(hash)) };
        match found {
            Ok(()) => continue,
            Err(BodyFault::Damaged(_)) => row.damaged += 1,
            Err(_) => row.missing += 1,
        }
        mend::want(running, &[hash]);
    }
    Ok(())
}

fn keeps_bodies(running: &Running) -> bool {
    running.document().role(running.local.me).keeps_bodies()
}

/// Makes this node's copy of accounts what the others have: their bodies are pulled, and with `sources` the tables of their group are built
/// anew from a snapshot of one of these nodes.
pub(crate) async fn resync(running: &Arc<Running>, group: GroupId, accounts: &[u64], sources: Option<&[u64]>) -> Result<(), String> {
    if let Some(sources) = sources {
        rebuild_from_peer(running, group, sources).await?;
    }
    if !keeps_bodies(running) {
        return Ok(());
    }
    let (looking, accounts) = (running.clone(), accounts.to_vec());
    let missing = tokio::task::spawn_blocking(move || missing(&looking, group, &accounts)).await.map_err(|e| e.to_string())??;
    let left = running.local.bodies.store().wait_present(&missing, BODIES_WAIT).await;
    if left.is_empty() { Ok(()) } else { Err(format!("{} bodies are not to be had", left.len())) }
}

fn missing(running: &Running, group: GroupId, accounts: &[u64]) -> Result<Vec<BodyHash>, String> {
    let shard = running.local.shard(group).ok_or("the group has no copy here")?;
    let store = running.local.bodies.store();
    let mut missing = Vec::new();
    for account in accounts {
        let named = named(shard.group.tables(), AccountId(*account)).map_err(|fault| fault.to_string())?;
        missing.extend(named.into_iter().filter(|hash| store.read(hash).is_err()));
    }
    mend::want(running, &missing);
    Ok(missing)
}

/// What differs without a checksum that is wrong cannot be told from the own snapshot file either: that of a node which was seen to be right
/// is taken, and of no other.
async fn rebuild_from_peer(running: &Arc<Running>, group: GroupId, sources: &[u64]) -> Result<(), String> {
    let shard = running.local.shard(group).ok_or("the group has no copy here")?;
    let at_least = shard.group.applied_in_tables().unwrap_or(0);
    drop(shard);
    let voters = running.document().voters(group);
    let right = |node: &NodeId| *node != running.local.me && sources.contains(&node.0);
    let sources: Vec<NodeId> = voters.into_iter().filter(right).collect();
    if sources.is_empty() {
        return Err("no other copy is known to be right".into());
    }
    let path = mend::rescue_path(&running.data_dir, group);
    mend::fetch_patiently(&running.local.pool, &sources, group, at_least, &path).await?;
    running.rescue_from(group, Some(sources));
    if mend::renew(running, group).await {
        return Ok(());
    }
    if running.local.shard(group).is_some() {
        // It was not given up.
        running.rescue_from(group, None);
    }
    Err("the group is not open again yet".into())
}
