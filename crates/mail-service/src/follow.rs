//! The use of this node's users and groups, as [`parliament_routing`] judges it: leases follow use between zones, leaderships follow the
//! holders' proposals, and users of a node that died fall evenly upon the others.

use crate::clock::boot_ms;
use crate::node::{Layout, Local, Shard};
use parliament_cluster_state::AccountRecord;
use parliament_ids::{AccountId, GroupId, NodeId};
use parliament_mail_api::Request;
use parliament_mailbox_state::Owner;
use parliament_routing::{Uses, Window, Wish, heir};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Slots of [`Proposals`], of five, in which something must have been proposed: a burst is no sustained use.
const SLOTS_LEAST: u32 = 4;

/// A holder's entries of one group in the last 10 s.
#[derive(Debug, Default)]
pub(crate) struct Proposals(Mutex<Window<2_000>>);

impl Proposals {
    pub(crate) fn note(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(boot_ms());
    }
    /// How many there were; 0 unless they came all the while.
    fn sustained(&self) -> u64 {
        let (window, now) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner), boot_ms());
        if window.used(now).count_ones() >= SLOTS_LEAST { window.count(now) } else { 0 }
    }
}

/// Who asked for the users that this node holds, while there are several zones and the setting wants users followed.
#[derive(Debug)]
pub(crate) struct Follow {
    me: NodeId,
    wanted: AtomicBool,
    several_zones: AtomicBool,
    uses: Mutex<Uses>,
}

/// True for what a session asks. Mail comes from anywhere and says nothing of where its recipient is, and a large message is one request,
/// however many pieces it comes in.
fn is_use(request: &Request) -> bool {
    !matches!(request, Request::Deliver(_) | Request::Upload { .. })
}

impl Follow {
    pub(crate) fn new(me: NodeId) -> Arc<Self> {
        let off = || AtomicBool::new(false);
        Arc::new(Self { me, wanted: off(), several_zones: off(), uses: Mutex::default() })
    }
    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn turn_on(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }
    #[cfg(test)]
    pub(crate) fn stays_for_ms(&self, account: AccountId) -> Option<u64> {
        self.uses().stays_for_ms(account, boot_ms())
    }
    fn is_on(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.several_zones.load(Ordering::Relaxed)
    }
    pub(crate) fn look_at(&self, layout: &Layout) {
        let zones: BTreeSet<&String> = layout.zones.values().collect();
        self.several_zones.store(zones.len() > 1, Ordering::Relaxed);
    }
    /// A session at `from` asks something of a user who is held here.
    pub(crate) fn used(&self, account: AccountId, from: NodeId, request: &Request) {
        if self.is_on() && is_use(request) {
            self.uses().note(account, self.me, from, boot_ms());
        }
    }
    /// The lease changed hands, as applied here.
    pub(crate) fn owned(&self, account: AccountId, owner: Option<Owner>, handed: bool) {
        if !self.is_on() {
            return;
        }
        if owner.is_some_and(|owner| owner.node == self.me) {
            self.uses().began(account, handed, boot_ms());
        } else {
            self.uses().ended(account);
        }
    }
}

impl Local {
    /// Who inherits a user of `owner`, whose ownership is over: not that node itself, which may be ending right now, nor one that has just
    /// refused.
    pub(crate) fn heir_of(&self, owner: NodeId, row: &AccountRecord, denied: Option<NodeId>) -> Option<NodeId> {
        let layout = self.layout();
        let stopping = |node: NodeId| node == self.me && self.retired.load(Ordering::Acquire);
        let able = |node: &NodeId| {
            *node != owner && denied != Some(*node) && !stopping(*node) && layout.may_hold(row.group, *node) && self.support.is_live(*node)
        };
        heir(row.id, layout.voters(row.group).iter().copied().filter(able))
    }

    /// From now on users are handed over to the zone where they are used.
    pub fn follow_users(&self) {
        self.follow.turn_on();
    }

    /// Users held here who should go to another zone, at most so many; each is told once per try.
    #[must_use]
    pub fn users_to_hand_over(&self, most: usize) -> Vec<Wish> {
        if !self.follow.is_on() {
            return Vec::new();
        }
        self.follow.uses().wishes(self.me, &self.layout().zones, boot_ms(), most)
    }

    /// Entries that this node proposed in the last 10 s as a holder, of the groups where it did so all the while.
    #[must_use]
    pub fn proposed_lately(&self) -> BTreeMap<GroupId, u64> {
        let counted = |(group, shard): (GroupId, Arc<Shard>)| Some((group, shard.proposals.sustained())).filter(|(_, count)| *count > 0);
        self.shards().into_iter().filter_map(counted).collect()
    }
}
