//! Requests that change something. The same values travel in log entries, so variants are only ever added at the end.

use crate::UploadId;
use crate::bytes_serde::BytesField;
use parliament_ids::{AccountId, BodyHash, DateTime, FlagSet, MailboxId, MailboxName, ModSeq, Rights, UidSet};
use serde::{Deserialize, Serialize};

/// A change that brings no new body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Mutation {
    /// RFC 9051 section 6.3.4; missing parents become real mailboxes. Replies [`crate::Reply::Created`].
    Create {
        /// The new mailbox.
        name: MailboxName,
        /// RFC 6154 CREATE-SPECIAL-USE.
        special_use: Vec<SpecialUse>,
    },
    /// RFC 9051 section 6.3.5. With children below, the name stays as a `\NonExistent` node.
    Delete {
        /// The mailbox.
        name: MailboxName,
    },
    /// RFC 9051 section 6.3.6, atomic with all below. INBOX: its messages move to a new mailbox, INBOX stays.
    Rename {
        /// The old name.
        from: MailboxName,
        /// The new name; missing parents are made.
        to: MailboxName,
    },
    /// RFC 9051 sections 6.3.7 and 6.3.8. The mailbox need not exist.
    Subscribe {
        /// The name.
        name: MailboxName,
        /// Subscribe or unsubscribe.
        on: bool,
    },
    /// STORE. Replies [`crate::Reply::Stored`]. UIDs that are no messages are passed over and told as `missing`.
    Store {
        /// The mailbox.
        mailbox: MailboxId,
        /// The messages.
        uids: UidSet,
        /// What to do.
        change: FlagChange,
        /// RFC 7162 UNCHANGEDSINCE.
        unchanged_since: Option<ModSeq>,
    },
    /// Removes those of `uids` (all messages when `None`) that carry `\Deleted`. Replies [`crate::Reply::Expunged`].
    Expunge {
        /// The mailbox.
        mailbox: MailboxId,
        /// RFC 4315 UID EXPUNGE.
        uids: Option<UidSet>,
    },
    /// Within one account, all or none. Replies [`crate::Reply::Copied`].
    Copy {
        /// The source.
        from: MailboxId,
        /// The messages.
        uids: UidSet,
        /// The target.
        to: MailboxName,
    },
    /// Within one account, atomic (RFC 6851). Replies [`crate::Reply::Copied`].
    Move {
        /// The source.
        from: MailboxId,
        /// The messages.
        uids: UidSet,
        /// The target.
        to: MailboxName,
    },
    /// RFC 4314 SETACL, DELETEACL.
    SetAcl(AclChange),
    /// RFC 9208 SETQUOTA, by the administrator.
    SetQuota(QuotaLimits),
    /// RFC 5464 SETMETADATA; `mailbox` is `None` for server annotations of the account.
    SetMetadata {
        /// The mailbox.
        mailbox: Option<MailboxName>,
        /// Entries to set, or to remove where the value is `None`.
        entries: Vec<MetadataEntry>,
    },
}

/// A METADATA entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataEntry {
    /// Name such as `/private/comment`, matched without regard to ASCII case.
    pub name: String,
    /// Value; `None` removes.
    pub value: Option<Vec<u8>>,
}

/// How STORE changes flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlagMode {
    /// `FLAGS`
    Replace,
    /// `+FLAGS`
    Add,
    /// `-FLAGS`
    Remove,
}

/// A change of flags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagChange {
    /// How.
    pub mode: FlagMode,
    /// Which.
    pub flags: FlagSet,
}

/// RFC 6154 special uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SpecialUse {
    /// `\All`
    All,
    /// `\Archive`
    Archive,
    /// `\Drafts`
    Drafts,
    /// `\Flagged`
    Flagged,
    /// `\Junk`
    Junk,
    /// `\Sent`
    Sent,
    /// `\Trash`
    Trash,
    /// `\Important` (RFC 8457)
    Important,
}

impl SpecialUse {
    /// Every use with its attribute on the wire.
    pub const NAMES: [(Self, &'static str); 8] = [
        (Self::All, "\\All"),
        (Self::Archive, "\\Archive"),
        (Self::Drafts, "\\Drafts"),
        (Self::Flagged, "\\Flagged"),
        (Self::Junk, "\\Junk"),
        (Self::Sent, "\\Sent"),
        (Self::Trash, "\\Trash"),
        (Self::Important, "\\Important"),
    ];
}

/// Whom an ACL entry names. By id, so that a recreated account inherits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AclSubject {
    /// `anyone`
    Anyone,
    /// An account.
    Account(AccountId),
    /// A group of accounts, by its id.
    Group(u64),
}

/// How SETACL changes rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AclMode {
    /// Replace.
    Set,
    /// `+`
    Add,
    /// `-`
    Remove,
}

/// RFC 4314 SETACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclChange {
    /// The mailbox.
    pub name: MailboxName,
    /// Whose rights.
    pub subject: AclSubject,
    /// Negative rights (`-identifier`).
    pub negative: bool,
    /// How.
    pub mode: AclMode,
    /// Which; setting none removes the entry.
    pub rights: Rights,
}

/// RFC 9208 limits of an account; `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaLimits {
    /// Bytes of all messages, each counted where it lies.
    pub storage_bytes: Option<u64>,
    /// Messages.
    pub messages: Option<u64>,
    /// Mailboxes.
    pub mailboxes: Option<u64>,
}

/// A message given with APPEND.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppendMessage {
    /// Its bytes.
    pub body: BodySource,
    /// Its flags.
    pub flags: FlagSet,
    /// Its INTERNALDATE; `None` is the time of the command.
    pub internal_date: Option<DateTime>,
}

/// Where the bytes of a new message are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BodySource {
    /// Here; at most [`parliament_ids::limits::JOURNAL_BODY_BYTES_MAX`].
    Inline(BytesField),
    /// In an upload that the same session finished.
    Uploaded {
        /// The upload.
        upload: UploadId,
        /// Its whole size, bytes.
        size: u64,
        /// BLAKE3 of all bytes.
        hash: BodyHash,
    },
}

/// A message given by LMTP for one recipient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The mailbox; when it is absent, INBOX takes the message.
    pub to: MailboxName,
    /// The message as it will be stored (with Return-Path and Received).
    pub message: AppendMessage,
    /// BLAKE3 over the envelope sender and the bytes of DATA (rule 16); the recipient is the account.
    pub dedupe: BodyHash,
}
