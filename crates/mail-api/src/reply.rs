//! What the cluster answers.

use crate::bytes_serde::BytesField;
use crate::{QuotaLimits, SpecialUse};
use parliament_ids::{
    BodyHash, DateTime, EmailId, Keyword, MailboxId, MailboxName, ModSeq, Rights, SystemFlags, ThreadId, Uid, UidSet, UidValidity,
};
use serde::{Deserialize, Serialize};

/// A reply to a request that was carried out. Those of mutations are kept with the session's record, so they stay small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Carried out; nothing more to tell.
    Done,
    /// The mailbox was made.
    Created {
        /// Its id, told as MAILBOXID.
        mailbox: MailboxId,
    },
    /// APPENDUID (RFC 4315), UIDs in the order of the messages.
    Appended {
        /// Where to.
        mailbox: MailboxId,
        /// Its UIDVALIDITY.
        uid_validity: UidValidity,
        /// The new UIDs: consecutive.
        uids: UidSet,
    },
    /// COPYUID. Pairs: the n-th of `source` became the n-th of `target`, both ascending. Both empty when no UID was a message.
    Copied {
        /// The target's UIDVALIDITY.
        uid_validity: UidValidity,
        /// Old UIDs.
        source: UidSet,
        /// New UIDs.
        target: UidSet,
    },
    /// STORE was carried out.
    Stored {
        /// The MODSEQ given to the messages that changed; `None` when none did.
        modseq: Option<ModSeq>,
        /// Messages that failed UNCHANGEDSINCE.
        modified: UidSet,
        /// Of the asked UIDs, those that are no messages (any more).
        missing: bool,
    },
    /// EXPUNGE was carried out.
    Expunged {
        /// What was removed.
        uids: UidSet,
        /// The MODSEQ of the removal; `None` when nothing was removed.
        modseq: Option<ModSeq>,
    },
    /// LMTP delivery was carried out, now or at an earlier try.
    Delivered {
        /// Where to.
        mailbox: MailboxId,
        /// The UID; `None` when an earlier delivery with the same key is older than this record's memory of its UID.
        uid: Option<Uid>,
        /// True when an equal delivery was suppressed.
        duplicate: bool,
    },
    /// SELECT.
    Selected(Box<Selected>),
    /// STATUS.
    Status(StatusData),
    /// LIST, in the order of names.
    List(Vec<ListRow>),
    /// A page of FETCH.
    Fetched(FetchPage),
    /// A page of SEARCH.
    Found(SearchPage),
    /// A piece of a body; shorter than asked only at its end.
    Piece(BytesField),
    /// Quota limits and usage.
    Quota {
        /// Limits.
        limits: QuotaLimits,
        /// Usage.
        usage: QuotaUsage,
    },
    /// MYRIGHTS.
    MyRights(Rights),
}

/// Usage of an account, exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaUsage {
    /// Bytes.
    pub storage_bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Mailboxes.
    pub mailboxes: u64,
}

/// A decision against a request: the same on all replicas, final, and nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// No such mailbox, or the actor may not know of it: `[NONEXISTENT]`, for APPEND and COPY `[TRYCREATE]`.
    NoSuchMailbox,
    /// `[ALREADYEXISTS]`
    AlreadyExists,
    /// `[NOPERM]`
    NoPermission,
    /// `[OVERQUOTA]`, LMTP 452 4.2.2.
    OverQuota,
    /// `[LIMIT]`: mailboxes per account, keywords per mailbox, depth.
    Limit,
    /// `[CANNOT]`: INBOX deleted, a mailbox moved below itself, and the like.
    Cannot,
    /// The special use is taken or unknown: `[USEATTR]` (RFC 6154).
    UseAttribute,
    /// A message is larger than the limit: `[TOOBIG]`.
    TooBig,
    /// The session's request number was used before and its reply is forgotten, or it skips: a fault of the caller.
    StaleRequest,
    /// The upload is unknown at this holder (for example after a fail-over): send it again.
    UploadLost,
    /// The uploaded or stored bytes do not have the hash that was told.
    BadBody,
    /// BINARY met an encoding that it does not know: `[UNKNOWN-CTE]`.
    UnknownEncoding,
    /// The account is deleted.
    NoSuchAccount,
    /// Internal counters of the mailbox are exhausted (UIDNEXT at its end).
    Exhausted,
    /// The message is gone: `[EXPUNGEISSUED]`.
    Expunged,
}

/// What SELECT tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selected {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its present name.
    pub name: MailboxName,
    /// Its UIDVALIDITY.
    pub uid_validity: UidValidity,
    /// Its UIDNEXT.
    pub uid_next: Uid,
    /// Its HIGHESTMODSEQ.
    pub highest_modseq: ModSeq,
    /// All its messages: the session's first sequence map.
    pub uids: UidSet,
    /// The first message without `\Seen`.
    pub first_unseen: Option<Uid>,
    /// The keywords by their bit in [`FlagRow::keywords`].
    pub keywords: Vec<Keyword>,
    /// The actor's rights.
    pub rights: Rights,
    /// UIDs from here on were not yet told to any session as recent (best effort).
    pub recent_from: Uid,
}

/// What changed in a mailbox since a [`crate::Mark`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// True when the mailbox was deleted or the actor lost the right to see it; then nothing else is told.
    pub gone: bool,
    /// Everything up to here is in this delta.
    pub modseq: ModSeq,
    /// The mailbox's UIDNEXT.
    pub uid_next: Uid,
    /// UIDs below the mark's `uid_next` that are no longer messages; may name more UIDs than the session knew, never fewer.
    pub vanished: UidSet,
    /// Messages from the mark's `uid_next` on.
    pub arrived: UidSet,
    /// Messages below the mark's `uid_next` whose flags changed.
    pub changed: Vec<FlagRow>,
    /// All keywords by their bit, when any is newer than the mark; else empty.
    pub keywords: Vec<Keyword>,
}

/// Flags of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagRow {
    /// Which.
    pub uid: Uid,
    /// System flags.
    pub system: SystemFlags,
    /// Keywords, bit n being the n-th of the mailbox's list.
    pub keywords: u128,
    /// Its MODSEQ.
    pub modseq: ModSeq,
}

/// STATUS of a mailbox, of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusData {
    /// MAILBOXID
    pub mailbox: MailboxId,
    /// MESSAGES
    pub messages: u32,
    /// UNSEEN
    pub unseen: u32,
    /// DELETED
    pub deleted: u32,
    /// SIZE, bytes
    pub size: u64,
    /// UIDNEXT
    pub uid_next: Uid,
    /// UIDVALIDITY
    pub uid_validity: UidValidity,
    /// HIGHESTMODSEQ
    pub highest_modseq: ModSeq,
    /// RECENT, best effort
    pub recent: u32,
}

/// A row of LIST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    /// The name.
    pub name: MailboxName,
    /// `None` for a `\NonExistent` node.
    pub mailbox: Option<MailboxId>,
    /// `\HasChildren` or `\HasNoChildren`
    pub has_children: bool,
    /// `\Subscribed`
    pub subscribed: bool,
    /// Some descendant meets the selection that this name itself does not: CHILDINFO (RFC 5258).
    pub child_matches: bool,
    /// Special uses.
    pub special_use: Vec<SpecialUse>,
    /// When asked and the mailbox exists.
    pub status: Option<StatusData>,
}

/// A page of FETCH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchPage {
    /// Rows, ascending by UID.
    pub rows: Vec<FetchRow>,
    /// Ask again with the UIDs from here on; `None` when this page ends the request.
    pub next: Option<Uid>,
    /// Of the UIDs this page covers, those that are no messages. Empty with `changed_since`, which leaves them out.
    pub missing: UidSet,
    /// With `vanished`: of all asked UIDs those expunged since, whatever this page covers.
    pub vanished: UidSet,
    /// The keywords by their bit, when rows carry flags.
    pub keywords: Vec<Keyword>,
}

/// One message of a [`FetchPage`]. Attributes that were not asked have their default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRow {
    /// Flags, UID and MODSEQ; always present.
    pub flags: FlagRow,
    /// INTERNALDATE
    pub internal_date: DateTime,
    /// SAVEDATE, seconds since 1970.
    pub save_date: i64,
    /// RFC822.SIZE, bytes.
    pub size: u64,
    /// Address of the body.
    pub hash: Option<BodyHash>,
    /// EMAILID
    pub email_id: EmailId,
    /// THREADID
    pub thread_id: ThreadId,
    /// ENVELOPE as on the wire, parentheses included.
    pub envelope: Option<BytesField>,
    /// BODY as on the wire.
    pub body: Option<BytesField>,
    /// BODYSTRUCTURE as on the wire.
    pub body_structure: Option<BytesField>,
    /// PREVIEW, UTF-8.
    pub preview: Option<String>,
    /// One result per asked section, in order.
    pub parts: Vec<PartResult>,
}

/// The content of one section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartResult {
    /// `NIL` when the part does not exist.
    pub data: Option<PartData>,
}

/// Bytes of a section, here or to be read in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartData {
    /// Here. BINARY may hold NUL: literal8.
    Inline(BytesField),
    /// A range of the stored body, read by [`crate::Request::ReadBody`]: of anything larger than
    /// [`parliament_ids::limits::FETCH_INLINE_BYTES_MAX`], of any size (even 0) when the message is, or when the row has much inline.
    Range {
        /// First byte in the stored body.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// `BINARY.SIZE`
    Size(u64),
}

/// A page of SEARCH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchPage {
    /// Matches.
    pub uids: UidSet,
    /// Greatest MODSEQ of the matches.
    pub highest_modseq: ModSeq,
    /// Ask again from here; `None` at the end.
    pub next: Option<Uid>,
}
