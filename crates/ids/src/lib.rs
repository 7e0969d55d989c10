//! Identifiers, counters and bounds of the mail store. Everything here is a plain value: no I/O, no clock, no randomness.
//!
//! Ids do not mix and have only the arithmetic of their domain ([`Uid::next`], no `+`).

mod flags;
pub mod limits;
mod name;
mod network;
mod rights;
mod role;
mod uid_set;

pub use flags::{FlagSet, Keyword, KeywordError, SystemFlags};
pub use name::{MailboxName, NameError};
pub use network::{Network, NotANetwork};
pub use rights::Rights;
pub use role::{NoSuchRole, NodeRole};
pub use uid_set::{UidSet, UidSetIter};

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        id!($(#[$doc])* $name($inner));
        impl $name {
            /// The value that follows this one. Saturates at the type's end, which callers check with [`Self::is_last`].
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
            /// True when no further value exists.
            #[must_use]
            pub const fn is_last(self) -> bool {
                self.0 == <$inner>::MAX
            }
        }
    };
}

id!(/// A node of the cluster. Assigned once, never reused; lives in the data directory.
    NodeId(u64));
counter!(/// How many times a node has started (its *node epoch*). Persisted before the node speaks.
    Boot(u64));
id!(/// A version of the list of group 0's voters, whose promises of support count; +1 at each change of their row in the placement.
    VotersVersion(u64));
counter!(/// A version of the record that says which data node serves alone beside a witness.
    AloneVersion(u64));
id!(/// A Raft group. Group 0 holds the cluster's own state, groups 1…G hold users.
    GroupId(u32));
id!(/// An account, made in group 0, immutable, never reused.
    AccountId(u64));
counter!(/// A mailbox within its account; never reused within the account.
    MailboxId(u64));
counter!(/// RFC 9051 section 2.3.1.1: unique identifier of a message in a mailbox; 0 is never a message.
    Uid(u32));
counter!(/// RFC 9051 section 2.3.1.1: unique identifier validity value; never 0.
    UidValidity(u32));
counter!(/// RFC 7162: mod-sequence, one counter per account, at most 2^63 - 1.
    ModSeq(u64));
counter!(/// Fencing token of a user's ownership lease: +1 at each acquire, moves with the user.
    Fence(u64));
counter!(/// RFC 8474 EMAILID: a counter of the account.
    EmailId(u64));
counter!(/// A move of a user from one group to another: numbered in group 0, ascending over the whole cluster, so that of two moves of one
    /// user the later has the greater number.
    MoveId(u64));
id!(/// RFC 8474 THREADID: a keyed hash of the thread root's Message-ID.
    ThreadId(u64));
counter!(/// Number of a holder's proposal under one fence; apply takes them only in ascending order.
    OpNo(u64));
counter!(/// Number of a mutating request within a frontend session, from 1.
    RequestSeq(u64));
id!(/// A message's position in a session's view of its selected mailbox, from 1 (RFC 9051 section 2.3.1.2).
    SeqNo(u32));

impl GroupId {
    /// The group that holds nodes, settings, accounts and the directory.
    pub const CLUSTER: Self = Self(0);
}

impl MailboxId {
    /// INBOX exists from the account's first moment and keeps this id for ever.
    pub const INBOX: Self = Self(1);
}

/// A frontend session: the unit of idempotency. A session has at most one mutating request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The frontend's node.
    pub node: NodeId,
    /// The frontend's boot.
    pub boot: Boot,
    /// Ascending within the boot, from 1.
    pub session: u64,
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.node, self.boot, self.session)
    }
}

/// The id of a mutating request: repeated with the same id it is executed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Whose request.
    pub session: SessionKey,
    /// Which of the session's requests.
    pub seq: RequestSeq,
}

/// BLAKE3 of a message's bytes: the address of its body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BodyHash(pub [u8; 32]);

impl fmt::Display for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}{:02x}…", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// Seconds since 1970-01-01T00:00:00Z with the zone it was told in, as INTERNALDATE needs it (RFC 9051 section 2.3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DateTime {
    /// UTC seconds.
    pub seconds: i64,
    /// Minutes east of UTC, -1439 to 1439.
    pub zone_minutes: i16,
}
