//! What came of a command.

use parliament_ids::{AccountId, BodyHash, Boot, Fence, GroupId, MailboxId, ModSeq, NodeId, OpNo};
use parliament_mail_api::{Rejection, Reply};

/// The result of applying one command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The reply or the refusal, the same on all replicas.
    pub outcome: Result<Reply, Refusal>,
    /// The user's fence in force after the command; 0 for commands without an account.
    pub fence: Fence,
    /// What watchers, caches and the body store must hear, in the order of the changes.
    pub changes: Vec<Change>,
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Decided against the request. No mailbox changed; the ownership that the command brought, its number and (with a request
    /// id) the rejection itself were recorded.
    Rejected(Rejection),
    /// The proposer does not hold the lease, or may not take it. Nothing changed.
    StaleFence {
        /// The fence in force.
        current: Fence,
        /// Who holds it.
        owner: Option<Owner>,
    },
    /// The command's number is not above the last one under this fence. Nothing changed.
    OutOfOrder {
        /// The last number taken.
        last: OpNo,
    },
    /// The account is on its way to another group, and nothing about it changes until that is decided. Nothing changed: the request
    /// is to be made again, here or there.
    Frozen {
        /// The other group.
        to: GroupId,
    },
    /// The account lives in another group. Nothing changed: the request is to be made there.
    Moved {
        /// The other group, as far as is known here.
        to: GroupId,
    },
}

/// A lease's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
}

/// A user's lease record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerRecord {
    /// The holder; `None` when the lease is free.
    pub owner: Option<Owner>,
    /// The fence, never decreasing. A free lease keeps its last one.
    pub fence: Fence,
    /// The last command number taken under this fence.
    pub last_op_no: OpNo,
}

/// Something that others keep in memory or on disk has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A mailbox's messages, flags or keywords changed, or it is gone.
    Mailbox {
        /// Whose.
        account: AccountId,
        /// Which.
        mailbox: MailboxId,
        /// The MODSEQ of the change.
        modseq: ModSeq,
    },
    /// Names, subscriptions, special uses, rights, quota or metadata changed.
    Names {
        /// Whose.
        account: AccountId,
    },
    /// The account now refers to a body that it did not refer to before.
    BodyReferenced {
        /// Whose.
        account: AccountId,
        /// Which.
        hash: BodyHash,
    },
    /// The account's last reference to a body is gone.
    BodyReleased {
        /// Whose.
        account: AccountId,
        /// Which.
        hash: BodyHash,
    },
    /// The lease changed hands.
    Owner {
        /// Whose.
        account: AccountId,
        /// The holder now.
        owner: Option<Owner>,
        /// The fence now.
        fence: Fence,
    },
}
