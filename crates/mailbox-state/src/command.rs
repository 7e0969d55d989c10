//! What a log entry of a group of users carries. Variants and fields are only ever added at the end: entries outlive programs.

use crate::moves::{self, MoveCommand};
use parliament_ids::{
    AccountId, BodyHash, Boot, DateTime, Fence, FlagSet, GroupId, MailboxName, MoveId, NodeId, OpNo, RequestId, ThreadId,
};
use parliament_mail_api::Mutation;
use serde::{Deserialize, Serialize};

/// One log entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // Nearly every command is the large one.
pub enum Command {
    /// A command of a user's holder.
    User(UserCommand),
    /// Makes an account with its INBOX. Replies `Done`, or `AlreadyExists`; an id whose account was deleted is never used again
    /// (`NoSuchAccount`).
    CreateAccount {
        /// The account, made in group 0.
        account: AccountId,
        /// Greatest UIDVALIDITY that an earlier account of the same name may have used; 0 when there was none (rule 4).
        uid_validity_floor: u32,
        /// UTC seconds from the proposer.
        time: i64,
    },
    /// Removes an account and all its records but a tombstone with its UIDVALIDITY floor.
    DeleteAccount {
        /// The account.
        account: AccountId,
    },
    /// Raises the watermark of a frontend (rule 2): its sessions of `boot` with a number below `below`, and all sessions of its
    /// smaller boots, are over. Their records go, and requests of them are refused from now on.
    SessionsOver {
        /// The frontend's node.
        node: NodeId,
        /// Its boot.
        boot: Boot,
        /// First session number that may still be alive.
        below: u64,
    },
    /// A step of a move of an account between groups that its holder has no part in.
    Move(MoveCommand),
}

/// A command about one user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserCommand {
    /// Whose mailboxes.
    pub account: AccountId,
    /// The proposer's fence; with `acquire` the fence that the acquire brings, `expect_fence + 1`.
    pub fence: Fence,
    /// The proposer's number for this proposal under this fence, ascending from 1, gaps allowed.
    pub op_no: OpNo,
    /// The client's request, when this carries one.
    pub request: Option<RequestId>,
    /// Who asks: rights are evaluated for this account.
    pub actor: AccountId,
    /// UTC seconds from the proposer.
    pub time: i64,
    /// Takes the lease first.
    pub acquire: Option<Acquire>,
    /// What to do.
    pub op: Op,
}

/// Takes a user's lease: a compare-and-swap on its fence, riding in the entry of the first write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// The new holder.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
    /// The fence that the acquirer saw; another one refuses the command.
    pub expect_fence: Fence,
    /// Why the lease may be taken.
    pub evidence: Evidence,
}

/// Why a lease may be taken (rule 23).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Nobody owns it.
    Free,
    /// The acquirer, in this very boot, owns it already and wants a new fence (rule 7).
    SamePriorOwner,
    /// The owner can no longer be supported: a majority of the voters of group 0 will never again support this boot.
    Withdrawn {
        /// The owner.
        node: NodeId,
        /// Its boot.
        boot: Boot,
        /// Who withdrew, in any order.
        voters: Vec<NodeId>,
        /// How many voters there are.
        of: u32,
    },
}

/// What a holder does with its user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// APPEND, all messages or none. Replies `Appended`.
    Append {
        /// Target.
        to: MailboxName,
        /// 1 to [`parliament_ids::limits::MESSAGES_PER_ENTRY_MAX`].
        messages: Vec<NewMessage>,
    },
    /// Delivery with suppression of duplicates (rule 16). Replies `Delivered`.
    Deliver {
        /// Target; INBOX when it does not exist.
        to: MailboxName,
        /// The message.
        message: NewMessage,
        /// Hash over envelope sender and DATA.
        dedupe: BodyHash,
    },
    /// A change without a new body. Proposers give large STORE, COPY, MOVE and EXPUNGE in chunks of at most
    /// [`parliament_ids::limits::MESSAGES_PER_ENTRY_MAX`] messages; apply's cost is linear in the messages touched.
    Mutate(Mutation),
    /// Forgets the older generation of delivery records and begins a new one. Replies `Done`.
    RotateDedupe,
    /// Gives the lease to another node, whose fence is this one's successor. Replies `Done`.
    Handover {
        /// The new holder.
        to: NodeId,
        /// Its boot.
        to_boot: Boot,
    },
    /// Gives the lease up. Replies `Done`.
    Release,
    /// Makes those of Drafts, Sent, Junk, Trash and Archive, with their special uses, that do not exist. Replies `Done`.
    Provision,
    /// Nothing: for an acquire alone. Replies `Done`.
    Noop,
    /// Gives the lease up and lets nothing change until the move is decided at its target. Refused when a move of this number or a
    /// later one has touched the account here. Replies `Done`.
    Freeze {
        /// The move.
        move_id: MoveId,
        /// Its target.
        to: GroupId,
    },
}

/// A message whose body is stored already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMessage {
    /// Address of its bytes.
    pub hash: BodyHash,
    /// How many bytes.
    pub size: u64,
    /// INTERNALDATE; `None` is the group's time.
    pub internal_date: Option<DateTime>,
    /// Its flags.
    pub flags: FlagSet,
    /// THREADID.
    pub thread: ThreadId,
}

/// The bodies that a command names: what a replica must hold durably before it acknowledges the entry (I1).
#[must_use]
pub fn bodies_named(command: &Command) -> Vec<BodyHash> {
    match command {
        Command::User(UserCommand { op: Op::Append { messages, .. }, .. }) => messages.iter().map(|m| m.hash).collect(),
        Command::User(UserCommand { op: Op::Deliver { message, .. }, .. }) => vec![message.hash],
        Command::Move(command) => moves::bodies_named(command),
        _ => Vec::new(),
    }
}

/// The account that a command is about; `None` when it concerns the whole group.
#[must_use]
pub fn account_of(command: &Command) -> Option<AccountId> {
    match command {
        Command::User(UserCommand { account, .. }) | Command::CreateAccount { account, .. } | Command::DeleteAccount { account } => {
            Some(*account)
        }
        Command::Move(command) => Some(command.account),
        Command::SessionsOver { .. } => None,
    }
}
