//! Who holds whom, counted from this node's copies. Counting reads every account's owner record, so a count is kept for a while that
//! grows with what it cost.

use crate::running::Running;
use parliament_ids::AccountId;
use parliament_mail_service::boot_ms;
use parliament_mailbox_state::view;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Accounts of a group that are looked at; beyond it the counts are lower bounds.
const COUNTED_MAX: usize = 200_000;
/// A count is good for so many times what it took: counting costs at most a twentieth of one core.
const KEEP_FACTOR: u32 = 20;

/// A node and its boot.
pub(crate) type Holder = (u64, u64);

/// One group's accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupCensus {
    /// Accounts with records.
    pub(crate) users: u64,
    /// By holder and its boot; `None` for accounts that nobody has taken yet.
    pub(crate) held: BTreeMap<Option<Holder>, u64>,
}

/// All groups with a copy here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) groups: BTreeMap<u32, GroupCensus>,
}

impl Census {
    /// Users that a node holds under a boot, of the groups with a copy here.
    pub(crate) fn held_by(&self, node: u64, boot: u64) -> u64 {
        self.groups.values().filter_map(|group| group.held.get(&Some((node, boot)))).sum()
    }
}

/// The latest count: when it was made, what it took, and what it came to.
#[derive(Debug, Default)]
pub(crate) struct Cached(Mutex<Option<(u64, Duration, Arc<Census>)>>);

/// Counts, or tells the latest count. Reads the disk.
pub(crate) fn census(running: &Running) -> Arc<Census> {
    // Held while counting: those that ask meanwhile wait for this count instead of making their own.
    let mut cached = running.census.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at_ms, took, census)) = cached.as_ref()
        && u128::from(boot_ms().saturating_sub(*at_ms)) < (*took * KEEP_FACTOR).as_millis()
    {
        return census.clone();
    }
    let began = Instant::now();
    let groups = running.local.shards().into_iter().map(|(group, shard)| {
        let tables = shard.group.tables();
        let accounts = view::accounts(tables).unwrap_or_default();
        let mut counted = GroupCensus { users: accounts.len() as u64, held: BTreeMap::new() };
        let owner = |id: &AccountId| view::owner(tables, *id).ok().flatten().and_then(|record| record.owner);
        for id in accounts.iter().take(COUNTED_MAX) {
            let holder = owner(id).map(|owner| (owner.node.0, owner.boot.0));
            *counted.held.entry(holder).or_default() += 1;
        }
        (group.0, counted)
    });
    let census = Arc::new(Census { groups: groups.collect() });
    *cached = Some((boot_ms(), began.elapsed(), census.clone()));
    census
}
