//! What the command line and the nodes say to each other: one verb, one request document, one reply document. Any node
//! answers any verb; it asks the others where it must. A change answers only once it is committed. With `dry_run` a node does
//! everything but the change, refusals included.
//!
//! | verb | request | reply | refused with |
//! |---|---|---|---|
//! | [`CLUSTER_INIT`] | [`ClusterInit`] | [`Cluster`] | `PC210` a cluster exists already (exit 64); 69 a seed does not answer |
//! | [`CLUSTER_SHOW`] | [`Nothing`] | [`Cluster`] | `PC211` no cluster yet (exit 69) |
//! | [`STATUS`] | [`Nothing`] | [`Status`] | never: it answers without a quorum, from what the node knows |
//! | [`NODE_LIST`] | [`Nothing`] | [`Nodes`] | never |
//! | [`NODE_INVITE`] | [`NodeInvite`] | [`Invitation`] | `PC240` too many are open (exit 75); 69 |
//! | [`NODE_DRAIN`] | [`NodeChange`] | [`NodeChanged`] | `PC230` no such node (exit 64); `PC241` nobody could serve instead (exit 75) |
//! | [`NODE_UNDRAIN`] | [`NodeChange`] | [`NodeChanged`] | `PC230` |
//! | [`NODE_REMOVE`] | [`NodeChange`] | [`NodeChanged`] | `PC230`; `PC242` not drained, or alive (exit 64); `PC243` no room, no quorum left (exit 75); `PC244` it still votes in group 0 (exit 75) |
//! | [`NODE_REPLACE`] | [`NodeChange`] | [`NodeChanged`] | as [`NODE_REMOVE`] |
//! | [`GROUP_LIST`] | [`Nothing`] | [`Groups`] | never |
//! | [`GROUP_TRANSFER`] | [`GroupTransfer`] | [`Done`] | `PC230` no such group or node, or no copy there (exit 64); 75 not caught up |
//! | [`USER_IMPORT`] | [`UserImport`] | [`UserImported`] | 69 |
//! | [`USER_LIST`] | [`Page`] | [`Users`] | 69 |
//! | [`USER_SHOW`] | [`OneUser`] | [`User`] | `PC301` no such user (exit 67) |
//! | [`USER_PASSWD`] | [`UserPasswd`] | [`Done`] | `PC301`; `PC302` unknown scheme (exit 64) |
//! | [`USER_DELETE`] | [`UserDelete`] | [`Done`] | `PC301` |
//! | [`USER_VERIFY`] | [`Verify`] | [`Verified`] | 69 |
//! | [`USER_MOVE`] | [`UserMove`] | [`UserMoving`] | `PC301`; `PC330` no such group (exit 64); `PC331` on the way already, `PC332` too many moves, `PC333` nodes of different versions (exit 75) |
//! | [`USER_MOVING`] | [`OneUser`] | [`UserMoving`] | `PC301`; `PC334` never moved (exit 64) |
//! | [`LEASE_SHOW`] | [`OneUser`] | [`Lease`] | `PC301` |
//! | [`LEASE_LIST`] | [`Page`] | [`Leases`] | 69 |
//! | [`LEASE_MOVE`] | [`LeaseMove`] | [`Lease`] | `PC301`; `PC320` no such node, or no copy of the user there (exit 64) |
//! | [`SESSION_LIST`] | [`Mask`] | [`Sessions`] | never; nodes that do not answer stand in `unreachable` |
//! | [`SESSION_KICK`] | [`Kick`] | [`Kicked`] | never, likewise |
//! | [`REPLICATION_STATUS`] | [`Nothing`] | [`Replication`] | never, likewise |
//! | [`BODY_SCRUB_START`] | [`ScrubStart`] | [`Scrubs`] | `PC230` no such node (exit 64) |
//! | [`BODY_SCRUB_STATUS`] | [`Nothing`] | [`Scrubs`] | never; nodes that do not answer stand in `unreachable` |
//! | [`USER_REPAIR`] | [`UserRepair`] | [`Repaired`] | 69 |
//! | [`DOCTOR`] | [`Examine`] | [`Exam`] | never: it answers without a quorum and before there is a cluster |
//! | [`METRICS`] | [`Nothing`] | [`Metrics`] | never: this node's |
//!
//! No quorum is `PC201` with exit 69, an outcome not known in time `PC202` with exit 75, an unknown verb `PC200` with exit 64.
//! Masks know `*` (any text) and `?` (any character), and ignore ASCII case; a mask without a domain also matches names of any domain.

mod exam;
mod integrity;

pub use exam::{Certificate, CopyExam, Exam, Examine, Heard, Member, NodeExam};
pub use integrity::{NodeScrub, Repaired, ReplicaProblem, ScrubPass, ScrubStart, Scrubs, UserRepair, Verified, VerifiedUser, Verify};

use parliament_ids::NodeRole;
use serde::{Deserialize, Serialize};
use std::future::Future;

use crate::error::{AdminError, code, exit};
use async_trait::async_trait;

mod nodes;

pub use nodes::{GroupMove, INVITE_SECONDS_MAX, Invitation, NodeChange, NodeChanged, NodeInvite};

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// Every verb.
        pub const VERBS: &[&str] = &[$($text),*];
    };
}

verbs! {
    /// Forms the cluster, once.
    CLUSTER_INIT = "cluster.init";
    /// What the cluster is.
    CLUSTER_SHOW = "cluster.show";
    /// Nodes and groups, as the asked node sees them.
    STATUS = "status";
    /// The nodes.
    NODE_LIST = "node.list";
    /// Makes an invitation for one more node.
    NODE_INVITE = "node.invite";
    /// Has a node give away its leases, leaderships and copies.
    NODE_DRAIN = "node.drain";
    /// Lets it take part in everything again.
    NODE_UNDRAIN = "node.undrain";
    /// Removes a node that is drained, or given up for dead.
    NODE_REMOVE = "node.remove";
    /// Drains a node, or gives it up, for another that takes its place.
    NODE_REPLACE = "node.replace";
    /// The groups.
    GROUP_LIST = "group.list";
    /// Makes another node a group's leader.
    GROUP_TRANSFER = "group.transfer";
    /// Makes or changes accounts, up to [`IMPORT_USERS_MAX`] in one entry.
    USER_IMPORT = "user.import";
    /// A page of accounts.
    USER_LIST = "user.list";
    /// One account.
    USER_SHOW = "user.show";
    /// Sets a password.
    USER_PASSWD = "user.passwd";
    /// Deletes an account and all its mail.
    USER_DELETE = "user.delete";
    /// Compares the replicas of a page of accounts.
    USER_VERIFY = "user.verify";
    /// Makes replicas of a page of accounts that differ, or lack bodies, equal to the others.
    USER_REPAIR = "user.repair";
    /// Has nodes read everything again, and mend what is damaged.
    BODY_SCRUB_START = "body.scrub.start";
    /// How far they are.
    BODY_SCRUB_STATUS = "body.scrub.status";
    /// Has a user moved to another group.
    USER_MOVE = "user.move";
    /// How far the last move of a user is.
    USER_MOVING = "user.moving";
    /// Who holds a user.
    LEASE_SHOW = "lease.show";
    /// A page of who holds whom.
    LEASE_LIST = "lease.list";
    /// Hands a user over to another node.
    LEASE_MOVE = "lease.move";
    /// Client sessions on all nodes.
    SESSION_LIST = "session.list";
    /// Ends client sessions on all nodes.
    SESSION_KICK = "session.kick";
    /// How far each replica is.
    REPLICATION_STATUS = "replication.status";
    /// What the asked node, and the others through it, find about themselves and each other.
    DOCTOR = "doctor";
    /// The asked node's metrics.
    METRICS = "metrics";
}

/// Code of the refusal of [`CLUSTER_INIT`] where a cluster exists.
pub const ALREADY_FORMED: &str = "PC210";
/// Code of the refusal of [`CLUSTER_SHOW`] where none exists.
pub const NOT_FORMED: &str = "PC211";
/// Accounts that one [`USER_IMPORT`] carries at most.
pub const IMPORT_USERS_MAX: usize = 1000;
/// Events that one [`Status`] tells at most.
pub const EVENTS_TOLD_MAX: usize = 50;
/// Rows that one page of a list holds at most.
pub const PAGE_ROWS_MAX: u32 = 1000;

/// Asks a node. Implemented over the peer port and the admin socket, and by fakes in tests.
#[async_trait]
pub trait AdminClient: Send + Sync {
    /// Carries out a verb.
    ///
    /// # Errors
    /// What the node refused, as it told it; [`AdminError`] of code [`code::UNREACHABLE`] when the node could not be asked at all.
    async fn call(&self, verb: &str, request: serde_json::Value) -> Result<serde_json::Value, AdminError>;
}

/// Carries out a verb with typed documents.
///
/// # Errors
/// As [`AdminClient::call`]; [`code::REPLY`] when the reply is not of the verb's form.
pub fn ask<'a, Q, R>(client: &'a dyn AdminClient, verb: &'a str, request: &Q) -> impl Future<Output = Result<R, AdminError>> + use<'a, Q, R>
where
    Q: Serialize,
    R: serde::de::DeserializeOwned,
{
    let request = serde_json::to_value(request);
    async move {
        let bad = |what: &str, why: serde_json::Error| {
            AdminError::new(code::REPLY, exit::BUG, format!("{verb}: {what}: {why}"))
                .with_hint("the node and this command may be of different versions")
        };
        let reply = client.call(verb, request.map_err(|e| bad("request", e))?).await?;
        serde_json::from_value(reply).map_err(|e| bad("reply", e))
    }
}

fn is_false(on: &bool) -> bool {
    !on
}

/// An empty document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// A change was made, or with `dry_run` would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, in one sentence; with `dry_run` what would be and what it would cost, as an order (`delete ann with 7
    /// messages`).
    pub message: String,
}

/// Asks about one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneUser {
    /// Login name; the domain may be left out where the node has a default.
    pub user: String,
}

/// Asks about all that match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// The mask; `*` for all.
    pub mask: String,
}

/// Asks for a page of users' rows, in the order of canonical names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Which users.
    pub mask: String,
    /// The last name of the page before; `None` for the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Rows wanted, 1 to [`PAGE_ROWS_MAX`].
    pub limit: u32,
}

/// Forms the cluster of the nodes that the asked node's `cluster.seeds` name (itself alone when there are none). Each must
/// answer, bear the same cluster name, and be in no cluster yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInit {
    /// Groups; `None` takes `cluster.groups` of the asked node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<u32>,
    /// Copies; `None` takes `cluster.replication`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<u8>,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// What the cluster is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// `cluster.name`
    pub name: String,
    /// Random, made by `cluster init`.
    pub id: String,
    /// Groups that hold users; group 0 comes on top.
    pub groups: u32,
    /// Copies of each group.
    pub replication: u8,
    /// Names of the nodes.
    pub nodes: Vec<String>,
    /// Version that all nodes speak.
    pub version: String,
}

/// Whether a node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Answers.
    Up,
    /// Answers, but is not ready: starting, or catching up.
    Starting,
    /// Gives up its users, leaderships and copies, or is about to stop.
    Draining,
    /// Drained: nothing is left on it that it would have to give up.
    Drained,
    /// Does not answer, and is given up for dead.
    Lost,
    /// Does not answer.
    Down,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `node.name`
    pub name: String,
    /// Its number in the cluster.
    pub id: u64,
    /// `node.zone`
    pub zone: String,
    /// `node.role`
    #[serde(default)]
    pub role: NodeRole,
    /// `node.advertise`
    pub address: String,
    /// Whether it serves.
    pub state: NodeState,
    /// Seconds since it was last heard of; 0 while it is up.
    pub silent_s: u64,
    /// Its starts so far.
    pub boot: u64,
    /// Version of its program.
    pub version: String,
    /// Groups it leads, group 0 included.
    pub leads: u32,
    /// Groups it has a copy of.
    pub copies: u32,
    /// Users it holds; `None` while it does not answer.
    pub users_held: Option<u64>,
    /// Client sessions on it; `None` while it does not answer.
    pub sessions: Option<u64>,
    /// Free bytes where its data lies; `None` while it does not answer.
    pub disk_free_bytes: Option<u64>,
}

/// The nodes, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its number; 0 is the cluster's own.
    pub id: u32,
    /// Name of its leader; `None` when there is none.
    pub leader: Option<String>,
    /// Its term.
    pub term: u64,
    /// Names of its voters.
    pub voters: Vec<String>,
    /// Names of its learners.
    pub learners: Vec<String>,
    /// Index of the last committed entry that the asked node knows of.
    pub committed: u64,
    /// Users in it; 0 for group 0.
    pub users: u64,
    /// Voters that lack bodies of committed entries, or are set aside after damage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
    /// Nobody uses it: its leader and voters are as they were, and say nothing to each other until somebody does.
    #[serde(default, skip_serializing_if = "is_false")]
    pub resting: bool,
}

/// The groups, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
}

/// Nodes and groups, as the asked node sees them. What follows from them for the cluster's health is worked out by
/// [`crate::verdict`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `cluster.name`
    pub cluster: String,
    /// False before `cluster init`.
    pub formed: bool,
    /// Name of the node that answers.
    pub answered_by: String,
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// All groups, by number, group 0 included.
    pub groups: Vec<Group>,
    /// The data node that serves alone beside a witness, if one does: what it has taken since is on its disk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<String>,
    /// `cluster.lone_copy` is `refuse`: beside a witness, both data nodes are needed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_both: bool,
    /// Bodies with fewer durable copies than a quorum, as far as known.
    pub bodies_below_quorum: u64,
    /// Times that a UID was seen to be given twice or out of order: always 0.
    pub uid_regressions: u64,
    /// Anything else the operator should know, one sentence each; each makes the verdict `DEGRADED`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the asked node has seen happen, the newest first; at most [`EVENTS_TOLD_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// How long ago, ms.
    pub age_ms: u64,
    /// `bad`, `change` or `good`.
    pub tone: String,
    /// What, as a sentence without its full stop: `n2 stopped answering`.
    pub text: String,
}

/// Makes another node a group's leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTransfer {
    /// The group.
    pub group: u32,
    /// Name of the node.
    pub to: String,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// What import does with a name that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExisting {
    /// Tells it among the refused.
    #[default]
    Refuse,
    /// Leaves it as it is.
    Skip,
    /// Sets its credential.
    Update,
}

/// An account to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUser {
    /// Login name; without a domain it gets the node's default one.
    pub name: String,
    /// `{SCHEME}hash`: `{ARGON2ID}` (a PHC string, with whatever costs it names), `{SHA512-CRYPT}`, `{SHA256-CRYPT}`, `{BLF-CRYPT}`. Never
    /// a password in clear.
    pub credential: String,
}

/// Makes accounts, with INBOX, Drafts, Sent, Junk, Trash and Archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserImport {
    /// 1 to [`IMPORT_USERS_MAX`] accounts.
    pub users: Vec<NewUser>,
    /// What happens to names that exist.
    #[serde(default)]
    pub on_existing: OnExisting,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// An account that was not made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedUser {
    /// Its name.
    pub name: String,
    /// Why, in words.
    pub why: String,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserImported {
    /// Accounts made.
    pub created: u64,
    /// Accounts whose credential was set.
    pub updated: u64,
    /// Accounts left as they were.
    pub skipped: u64,
    /// Accounts that were not made.
    pub refused: Vec<RefusedUser>,
}

/// An account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Canonical name.
    pub name: String,
    /// Immutable number.
    pub id: u64,
    /// Its group.
    pub group: u32,
    /// Mailboxes, messages and bytes; `None` where the user's group does not answer, and in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Scheme of its credential, such as `ARGON2ID`.
    pub scheme: String,
    /// Its move to another group, while one is under way; `None` in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<UserMoving>,
}

/// Has a user moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMove {
    /// Whom.
    pub user: String,
    /// The target.
    pub group: u32,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// A user's move to another group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMoving {
    /// Canonical name.
    pub user: String,
    /// The group where it began.
    pub from: u32,
    /// The group where it leads.
    pub to: u32,
    /// The number of the move; 0 when there is nothing to move.
    pub number: u64,
    /// How far it is.
    pub stage: MoveStage,
    /// Why it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveStage {
    /// The target copies; the user is served by the source but for the last moment.
    Copying,
    /// It is being given up.
    Stopping,
    /// The user is served by the target; what is left at the source goes.
    CleaningUp,
    /// The user lives at the target.
    Done,
    /// The user stays at the source.
    GivenUp,
}

impl MoveStage {
    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Stopping => "being given up",
            Self::CleaningUp => "arrived, cleaning up",
            Self::Done => "done",
            Self::GivenUp => "given up",
        }
    }
    /// True when nothing is left to wait for.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::GivenUp)
    }
}

/// What an account takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Mailboxes.
    pub mailboxes: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes of all messages.
    pub bytes: u64,
}

/// A page of accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The accounts.
    pub users: Vec<User>,
    /// True when a further page may follow the last name.
    pub more: bool,
}

/// Sets a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPasswd {
    /// Whose.
    pub user: String,
    /// As [`NewUser::credential`].
    pub credential: String,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// Deletes an account with all its mail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDelete {
    /// Whose.
    pub user: String,
    /// Change nothing, and tell what it would cost.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// Who holds a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Canonical name.
    pub user: String,
    /// The user's group.
    pub group: u32,
    /// Name of the holder; `None` when nobody has taken the user yet.
    pub holder: Option<String>,
    /// The holder's boot.
    pub boot: u64,
    /// The fence.
    pub fence: u64,
    /// False when the holder is down or restarted, so that the next request takes over.
    pub live: bool,
    /// Nodes that could hold the user: those with a copy of the group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

/// A page of who holds whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// The leases.
    pub leases: Vec<Lease>,
    /// True when a further page may follow the last name.
    pub more: bool,
}

/// Hands a user over to another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseMove {
    /// Whom.
    pub user: String,
    /// Name of the node.
    pub to: String,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// A client session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Canonical name of the user.
    pub user: String,
    /// `imap`, `pop3` or `lmtp`.
    pub protocol: String,
    /// Name of the node that has the client's socket.
    pub node: String,
    /// The client's address.
    pub remote: String,
    /// Number of the session as in the logs.
    pub session: String,
    /// Seconds since it logged in.
    pub age_s: u64,
    /// Selected mailbox; `None` when none is.
    pub selected: Option<String>,
    /// The command being carried out, or `IDLE`; `None` when it waits for the client.
    pub doing: Option<String>,
}

/// Client sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// The sessions, by user.
    pub sessions: Vec<Session>,
    /// Nodes that did not answer.
    pub unreachable: Vec<String>,
}

/// Ends client sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kick {
    /// Whose.
    pub mask: String,
    /// Change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

/// How many sessions were ended, or with `dry_run` would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kicked {
    /// Sessions ended.
    pub sessions: u64,
    /// Nodes that did not answer; their sessions go on.
    pub unreachable: Vec<String>,
}

/// How far a replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The group.
    pub group: u32,
    /// Name of the node.
    pub node: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Index of its last durable entry, as the group's leader knows it; `None` when unknown.
    pub durable: Option<u64>,
    /// Entries it lacks of what is committed; `None` when unknown.
    pub lag: Option<u64>,
    /// Bodies it lacks; `None` when unknown.
    pub missing_bodies: Option<u64>,
}

/// How far each replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// The replicas, by group and node.
    pub replicas: Vec<Replica>,
    /// Bodies with fewer durable copies than a quorum.
    pub bodies_below_quorum: u64,
    /// Nodes that did not answer.
    pub unreachable: Vec<String>,
}

/// Metrics in the text form of OpenMetrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// The text, as `/metrics` gives it.
    pub text: String,
}
