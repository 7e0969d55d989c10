//! What a protocol session asks of the cluster, and what it is told: requests, replies, notices, and the traits that carry
//! them. Plain values and traits only; the protocols know nothing below this crate, and nothing here knows a protocol's bytes.
//!
//! Everything is a request with one bounded reply. Long results come in pages that the caller asks for one by one, so that
//! back-pressure is the caller's silence and a page can be asked again from another node after a fail-over.

mod forward;
mod mutation;
mod read;
mod reply;
mod service;

pub use forward::{Forwarded, XclientError};
pub use mutation::{
    AclChange, AclMode, AclSubject, AppendMessage, BodySource, Delivery, FlagChange, FlagMode, MetadataEntry, Mutation, QuotaLimits,
    SpecialUse,
};
pub use read::{
    FetchItems, FetchRequest, HeaderMatch, ListPattern, ListRequest, MailboxRef, SearchDate, SearchKey, SearchRequest, Section,
    SectionKind, SelectRequest, StatusRequest,
};
pub use reply::{
    Delta, FetchPage, FetchRow, FlagRow, ListRow, PartData, PartResult, QuotaUsage, Rejection, Reply, SearchPage, Selected, StatusData,
};
pub use service::{Changed, Directory, Identity, LoginError, MailService, RecipientError, Unserved, Watch};

use parliament_ids::{AccountId, MailboxId, ModSeq, RequestId, Uid};
use serde::{Deserialize, Serialize};

/// One request, with all that the holder needs to carry it out, wherever the holder is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Whose mailboxes.
    pub owner: AccountId,
    /// Who asks: rights are evaluated for this account.
    pub actor: AccountId,
    /// The idempotency key. Required for requests that change something, absent otherwise.
    pub request: Option<RequestId>,
    /// The session's view of its selected mailbox; the answer then carries what changed since.
    pub view: Option<Mark>,
    /// The request proper.
    pub body: Request,
}

/// What a session has been told of its selected mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Changes up to here are known to the session (not necessarily shown to its client yet).
    pub modseq: ModSeq,
    /// UIDs below this are known to the session.
    pub uid_next: Uid,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Nothing but the delta against the mark. Also the probe that the holder serves.
    Sync,
    /// Replies [`Reply::Selected`].
    Select(SelectRequest),
    /// Replies [`Reply::Status`].
    Status(StatusRequest),
    /// Replies [`Reply::List`].
    List(ListRequest),
    /// Replies [`Reply::Fetched`].
    Fetch(FetchRequest),
    /// Replies [`Reply::Found`].
    Search(SearchRequest),
    /// Reads a piece of a message's body; replies [`Reply::Piece`].
    ReadBody {
        /// The mailbox of a message with this body, for the check of rights.
        mailbox: MailboxId,
        /// That message.
        uid: Uid,
        /// First byte.
        offset: u64,
        /// At most this many bytes, at most [`parliament_ids::limits::BODY_PIECE_BYTES`].
        length: u32,
    },
    /// Sends a piece of a body too large to ride in its APPEND. Pieces ascend without gaps; repeating one is harmless.
    /// Replies [`Reply::Done`]; [`Rejection::UploadLost`] asks to begin again at offset 0.
    Upload {
        /// Names the upload within the session (`Call::request`'s session is not used: uploads change no state).
        upload: UploadId,
        /// Where in the body this piece begins.
        offset: u64,
        /// The piece, at most [`parliament_ids::limits::BODY_PIECE_BYTES`].
        bytes: bytes_serde::BytesField,
    },
    /// Replies [`Reply::Appended`]. All messages or none.
    Append {
        /// Target, by name: a mailbox may be created between two tries.
        to: parliament_ids::MailboxName,
        /// 1 to [`parliament_ids::limits::MESSAGES_PER_ENTRY_MAX`] messages.
        messages: Vec<AppendMessage>,
    },
    /// Delivery by LMTP; replies [`Reply::Delivered`].
    Deliver(Delivery),
    /// Any other change.
    Mutate(Mutation),
    /// Replies [`Reply::Quota`].
    GetQuota,
    /// Replies [`Reply::MyRights`].
    MyRights {
        /// The mailbox.
        name: parliament_ids::MailboxName,
    },
    /// Goes on with a body of which [`Request::ReadBody`] gave the session a piece already: what was begun can be neither taken back
    /// nor left unfinished, whatever became of the message since. Replies [`Reply::Piece`].
    ReadOn {
        /// Address of the body, as [`FetchRow::hash`] told it.
        hash: parliament_ids::BodyHash,
        /// First byte.
        offset: u64,
        /// At most this many bytes, at most [`parliament_ids::limits::BODY_PIECE_BYTES`].
        length: u32,
    },
}

impl Request {
    /// True when the request changes replicated state and so needs a [`RequestId`].
    #[must_use]
    pub const fn mutates(&self) -> bool {
        matches!(self, Self::Append { .. } | Self::Deliver(_) | Self::Mutate(_))
    }
}

/// Names an upload: the frontend session and a number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UploadId {
    /// The session.
    pub session: parliament_ids::SessionKey,
    /// Ascending within the session.
    pub number: u64,
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What came of it; a rejection is final and the same on all replicas.
    pub outcome: Result<Reply, Rejection>,
    /// What changed in the selected mailbox since the call's mark, this call's own changes included. Present iff a mark was.
    pub delta: Option<Delta>,
}

/// Serde for [`bytes::Bytes`] without its own serde feature's sequence form.
pub mod bytes_serde {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Shared bytes that serialise as one byte string.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct BytesField(pub Bytes);

    impl Serialize for BytesField {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }

    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = BytesField;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }
        fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<Self::Value, E> {
            Ok(BytesField(Bytes::copy_from_slice(v)))
        }
        fn visit_byte_buf<E: serde::de::Error>(self, v: Vec<u8>) -> Result<Self::Value, E> {
            Ok(BytesField(Bytes::from(v)))
        }
    }

    impl<'de> Deserialize<'de> for BytesField {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_byte_buf(Visitor)
        }
    }
}
