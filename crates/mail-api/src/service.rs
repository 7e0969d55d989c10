//! The traits that carry requests: a session holds them as trait objects and knows nothing of what is behind.

use crate::{Answer, Call};
use async_trait::async_trait;
use parliament_ids::{AccountId, GroupId, MailboxId, NodeId};
use serde::{Deserialize, Serialize};

/// Why a request was not served *here and now*. Whether it took effect may be unknown; repeating it under the same
/// [`parliament_ids::RequestId`] is always safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unserved {
    /// Another node holds the user's lease.
    NotHolder {
        /// Who, as far as is known here.
        hint: Option<NodeId>,
    },
    /// No quorum answered in time; a mutation's outcome is unknown.
    NoQuorum,
    /// The deadline passed with the outcome unknown.
    OutcomeUnknown,
    /// Bounded queues are full, or the node is starting or stopping.
    Busy,
    /// The node cannot be reached.
    Unreachable,
    /// The body of a message cannot be read on this node now.
    BodyUnavailable,
    /// The user lives in another group; the request is to be made there.
    Moved {
        /// Which, as far as is known here.
        group: GroupId,
    },
}

/// Carries out requests. The implementation that frontends hold routes each to the user's holder and retries under the
/// same request id until a deadline; so an error here is final for the client: `NO [UNAVAILABLE]`, LMTP 451.
#[async_trait]
pub trait MailService: Send + Sync {
    /// Carries out one request.
    async fn call(&self, call: Call) -> Result<Answer, Unserved>;
    /// Tells of changes of a mailbox as they become visible on this node. The subscription exists when this returns, so a
    /// `Sync` made after it misses nothing.
    fn watch(&self, owner: AccountId, mailbox: MailboxId) -> Box<dyn Watch>;
}

/// A subscription to one mailbox.
#[async_trait]
pub trait Watch: Send {
    /// Waits for the next change; changes in between are merged. The session then asks [`crate::Request::Sync`].
    async fn changed(&mut self) -> Changed;
}

/// Something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed;

/// An account as a login or recipient names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account.
    pub account: AccountId,
    /// Its canonical name, `user@domain`.
    pub name: String,
}

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// Unknown user or wrong password: told alike.
    Refused,
    /// Too many failures lately; told like `Refused`, later.
    Throttled,
    /// Cannot be decided now: `NO [UNAVAILABLE]`, never an authentication failure.
    Unavailable,
}

/// Why a recipient was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecipientError {
    /// 550 5.1.1
    Unknown,
    /// 451 4.3.0
    Unavailable,
}

/// Finds accounts.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Checks a name and password. `remote` is the client's address, for throttling.
    async fn login(&self, name: &str, password: &str, remote: std::net::IpAddr) -> Result<Identity, LoginError>;
    /// Finds the account of a recipient address (`local@domain`, detail and case folded).
    async fn recipient(&self, address: &str) -> Result<Identity, RecipientError>;
}
