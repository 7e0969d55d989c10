//! A model of one user's lease, checked state by state: who may write, who may read from its own tables, which UIDs come of it.
//!
//! Three nodes vote on promises (rule 23); two of them can hold the lease. The promise books, a node's view of its own support and
//! the state machine behind the log are the real ones. The model adds what is around them: a network that delays, reorders,
//! repeats and loses, clocks that advance in steps, voters and holders that restart, and tables that lag behind the log.
//!
//! What is left out: changes of the list of voters (`parliament_routing` has schedules for these), replication itself (the log is one sequence, an entry in it is committed), clocks whose rates differ, and
//! requests for support that arrive late (they only lengthen a promise, never the trust in it).
//!
//! [`Twin`] names rules that a broken twin of the model leaves out. The checker must refute each; it shows that the properties see
//! what the rule is for.

mod action;
mod log;
mod properties;
mod state;

pub use action::Action;
pub use log::{Effect, Outcome, Proposal, Replicated, View};
pub use properties::{ACKNOWLEDGED_STAYS, IN_ORDER_OF_PROPOSAL, NO_STALE_READ, ONCE_ONLY, ONE_HOLDER, ONE_READER, UIDS_ASCEND};
pub use state::{Node, Reply, State};

use parliament_ids::{Boot, NodeId, VotersVersion};
use stateright::{Model, Property};

/// The list of voters stays the same.
const LIST: VotersVersion = VotersVersion(0);

/// Rules that a twin of the model leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Twin {
    /// None: the model as designed.
    #[default]
    Sound,
    /// The state machine takes any fence for the one in force.
    NoFence,
    /// A holder counts a promise from when it hears of it, not from before it asked.
    TrustFromReceipt,
    /// A restarted voter withdraws at once what it may have promised before.
    VoterNotSilent,
    /// A restarted voter has forgotten what it withdrew.
    WithdrawalsForgotten,
    /// The state machine takes any number for the next one.
    NoOpNumbers,
    /// The state machine keeps no records of requests.
    NoRequestRecords,
    /// A holder goes on reading while it hands the lease over.
    ReadsDuringHandover,
}

/// Bounds of the state space.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The clocks begin at 600 ms and end here.
    pub until_ms: u64,
    /// By how much they advance at once.
    pub tick_ms: u64,
    /// How often a node asks each voter for support, within one boot.
    pub asks: u8,
    /// Take-overs proposed.
    pub takeovers: u8,
    /// Restarts, of any nodes.
    pub restarts: u8,
    /// Appends proposed, tries of the same one included.
    pub submits: u8,
    /// Messages appended.
    pub messages: u8,
    /// Proposals that reach the log once more.
    pub repeats: u8,
    /// Hand-overs proposed.
    pub handovers: u8,
    /// Entries of the log.
    pub entries: usize,
}

/// The model.
pub struct Lease {
    /// Bounds.
    pub bounds: Bounds,
    /// What is broken.
    pub twin: Twin,
    /// The log's state machine, each log's result remembered.
    pub replicated: Replicated,
}

/// Nodes that vote on promises.
pub const VOTERS: usize = 3;
/// The first nodes are replicas, which can hold the lease.
pub const HOLDERS: usize = 2;

/// The id of the n-th node.
#[must_use]
pub fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

impl Lease {
    /// A model. With `requests`, appends are one session's, each repeated until it is answered; else each is a request of its own
    /// that nobody repeats.
    #[must_use]
    pub fn new(bounds: Bounds, twin: Twin, requests: bool) -> Self {
        Self { bounds, twin, replicated: Replicated::new(twin, requests) }
    }

    /// True when a node may answer a read from its own tables now.
    #[must_use]
    pub fn may_read(&self, state: &State, node: usize) -> bool {
        let Some(me) = state.nodes.get(node) else { return false };
        let handing_over = me.handing_over.is_some() && self.twin != Twin::ReadsDuringHandover;
        if handing_over || state.now_ms >= me.support.trusted_until_ms() {
            return false;
        }
        state.log.at(me.applied).owner == Some((id(node), me.boot))
    }
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.replicated.first())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        action::possible(self, state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        action::take(self, last, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

/// The first boot of every node.
pub const FIRST_BOOT: Boot = Boot(1);
