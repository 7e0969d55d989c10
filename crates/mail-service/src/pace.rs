//! Whose promises count for local reads: a voter's clock must run as fast as this node's (rule 17). And the setting of hosts whose
//! clocks may stop unseen: there no promise counts.

use parliament_ids::{Boot, NodeId};
use parliament_routing::{ClockRate, OwnSupport, Rate, Reading};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The rates of the voters' clocks, and until when this node's reads need no quorum.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// As many rows as group 0 has had voters since the start.
    rates: Mutex<BTreeMap<NodeId, ClockRate>>,
    until_ms: AtomicU64,
    by_quorum: AtomicBool,
}

impl Pace {
    /// A voter answered a request for support, and read its clock meanwhile. A reading of 0 is none: the voter is of an earlier version.
    pub(crate) fn observe(&self, voter: NodeId, reading: Reading) {
        if reading.peer_ms == 0 {
            return;
        }
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rates.entry(voter).or_default();
        let before = row.rate();
        match (before, row.observe(reading)) {
            (Rate::Unknown | Rate::Right, Rate::Wrong) => {
                let help = "see `parliament doctor`; where this host is a virtual machine that is paused, set node.reads = \"quorum\"";
                tracing::warn!(%voter, code = "PC360", help, "this node's clock and the voter's run at different rates: its promises do not count for reads");
            }
            (Rate::Wrong, Rate::Right) => tracing::info!(%voter, "this node's clock and the voter's run at one rate again"),
            _ => {}
        }
    }

    /// Looks anew at the promises of the present boot, which are locked meanwhile.
    pub(crate) fn update(&self, me: NodeId, own: &OwnSupport) {
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = |voter| voter == me || rates.get(&voter).is_some_and(|row| row.rate() == Rate::Right);
        self.until_ms.store(own.trusted_until_ms_by(counts), Ordering::Release);
    }

    /// A new boot begins, to which nobody has promised anything.
    pub(crate) fn reset(&self) {
        self.until_ms.store(0, Ordering::Release);
    }

    pub(crate) fn read_by_quorum(&self) {
        self.by_quorum.store(true, Ordering::Release);
    }

    /// Until when reads are answered from this node's own tables, ms of the boot-time clock; 0 when they are not.
    pub(crate) fn until_ms(&self) -> u64 {
        if self.by_quorum.load(Ordering::Acquire) { 0 } else { self.until_ms.load(Ordering::Acquire) }
    }

    /// Voters whose clocks run at another rate than this node's.
    pub(crate) fn wrong(&self) -> Vec<NodeId> {
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.iter().filter(|(_, row)| row.rate() == Rate::Wrong).map(|(voter, _)| *voter).collect()
    }
}

impl crate::Support {
    /// True while a majority's promises to `boot` hold and were counted by clocks of this node's rate, so that a holder may answer from
    /// its own tables. Ask again after computing the answer.
    #[must_use]
    pub fn reads_locally(&self, boot: Boot) -> bool {
        crate::boot_ms() < self.pace().until_ms() && self.boot() == boot
    }

    /// From now on every read asks a quorum: the host may be stopped together with its clock.
    pub fn read_by_quorum(&self) {
        self.pace().read_by_quorum();
    }

    /// Voters of group 0 whose clocks run at another rate than this node's.
    #[must_use]
    pub fn wrong_clocks(&self) -> Vec<NodeId> {
        self.pace().wrong()
    }
}
