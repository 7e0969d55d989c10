//! The state of the whole cluster.

use crate::{FIRST_BOOT, HOLDERS, LIST, Proposal, VOTERS, View, id};
use parliament_ids::limits::SUPPORT_MS;
use parliament_ids::{Boot, NodeId};
use parliament_routing::{OwnSupport, Promises};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its boot.
    pub boot: Boot,
    /// What it promised.
    pub book: Promises,
    /// What it withdrew: journaled, so it survives a restart.
    pub floors: BTreeMap<NodeId, Boot>,
    /// What was promised to it.
    pub support: OwnSupport,
    /// How often it asked each voter in this boot.
    pub asked: [u8; VOTERS],
    /// Entries of the log that its tables have.
    pub applied: usize,
    /// The last number it gave to a proposal, and under which fence.
    pub numbered: (u64, u64),
    /// Its appends whose outcome it waits for: fence, number, message.
    pub pending: BTreeSet<(u64, u64, u8)>,
    /// The last fence that it proposed to follow.
    pub tried: u64,
    /// Its hand-over that is not known to have failed: fence and number.
    pub handing_over: Option<(u64, u64)>,
}

/// A promise on its way to the node that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reply {
    /// Who asked.
    pub to: usize,
    /// Its boot then.
    pub boot: Boot,
    /// Who promised.
    pub voter: usize,
    /// When it was asked, the asker's clock.
    pub sent_ms: u64,
}

/// A state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// All clocks.
    pub now_ms: u64,
    /// The nodes, [`VOTERS`] of them.
    pub nodes: Vec<Arc<Node>>,
    /// Promises under way.
    pub replies: BTreeSet<Reply>,
    /// Proposals under way to the log.
    pub proposals: BTreeSet<Proposal>,
    /// What is committed.
    pub log: Arc<View>,
    /// What clients were told: message and UID.
    pub acknowledged: BTreeSet<(u8, u32)>,
    /// Take-overs proposed so far.
    pub takeovers: u8,
    /// Restarts so far.
    pub restarts: u8,
    /// Appends proposed so far.
    pub submits: u8,
    /// Proposals repeated so far.
    pub repeats: u8,
    /// Hand-overs so far.
    pub handovers: u8,
}

impl Node {
    pub(crate) fn first() -> Self {
        Self {
            boot: FIRST_BOOT,
            book: Promises::new(0, [], LIST),
            floors: BTreeMap::new(),
            support: OwnSupport::new(FIRST_BOOT, (0..VOTERS).map(id)),
            asked: [0; VOTERS],
            applied: 0,
            numbered: (0, 0),
            pending: BTreeSet::new(),
            tried: 0,
            handing_over: None,
        }
    }

    /// The same node after a restart at `now_ms`; its tables have what was applied to them.
    pub(crate) fn restarted(&self, book: Promises) -> Self {
        let boot = self.boot.next();
        let support = OwnSupport::new(boot, (0..VOTERS).map(id));
        Self { boot, book, floors: self.floors.clone(), support, applied: self.applied, ..Self::first() }
    }
}

impl State {
    /// The first node holds the lease; nobody has promised anything, and whoever has run for long enough to withdraw.
    #[must_use]
    pub fn first(log: Arc<View>) -> Self {
        Self {
            now_ms: SUPPORT_MS,
            nodes: std::iter::repeat_n(Arc::new(Node::first()), VOTERS).collect(),
            replies: BTreeSet::new(),
            proposals: BTreeSet::new(),
            log,
            acknowledged: BTreeSet::new(),
            takeovers: 0,
            restarts: 0,
            submits: 0,
            repeats: 0,
            handovers: 0,
        }
    }

    /// The replicas.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().map(Arc::as_ref).enumerate().take(HOLDERS)
    }
}
