//! Requests that change nothing.

use parliament_ids::{Keyword, MailboxId, MailboxName, ModSeq, SystemFlags, Uid, UidSet};
use serde::{Deserialize, Serialize};

/// A mailbox by name or by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailboxRef {
    /// As a client names it.
    Name(MailboxName),
    /// As a session with it selected names it.
    Id(MailboxId),
}

/// SELECT or EXAMINE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectRequest {
    /// By name; by id when a session comes back after a fail-over.
    pub mailbox: MailboxRef,
}

/// STATUS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRequest {
    /// The mailbox.
    pub name: MailboxName,
}

/// One LIST pattern, with its reference already joined: `*` matches anything, `%` anything but `/`. Canonical UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPattern(pub String);

/// LIST, LSUB (RFC 9051 section 6.3.9, RFC 5258).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// A name that matches any of these is listed.
    pub patterns: Vec<ListPattern>,
    /// Only subscribed names, whether or not they exist.
    pub subscribed: bool,
    /// Also names whose descendants match `subscribed` (RFC 5258 RECURSIVEMATCH).
    pub recursive_match: bool,
    /// Only mailboxes with a special use.
    pub special_use: bool,
    /// Add STATUS of each mailbox that exists.
    pub with_status: bool,
}

/// Which attributes a FETCH asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchItems {
    /// FLAGS, and MODSEQ with them.
    pub flags: bool,
    /// INTERNALDATE.
    pub internal_date: bool,
    /// SAVEDATE (RFC 8514).
    pub save_date: bool,
    /// RFC822.SIZE.
    pub size: bool,
    /// EMAILID and THREADID (RFC 8474).
    pub object_ids: bool,
    /// ENVELOPE.
    pub envelope: bool,
    /// BODY (without extension data).
    pub body: bool,
    /// BODYSTRUCTURE.
    pub body_structure: bool,
    /// PREVIEW (RFC 8970).
    pub preview: bool,
    /// Section contents, in the order asked.
    pub sections: Vec<Section>,
}

impl FetchItems {
    /// True when the message must be taken apart.
    #[must_use]
    pub const fn need_parsed(&self) -> bool {
        self.envelope || self.body || self.body_structure || self.preview
    }
    /// True when the message's bytes are needed, not only its records.
    #[must_use]
    pub fn need_body(&self) -> bool {
        self.need_parsed() || !self.sections.is_empty()
    }
}

/// A section of a message: `BODY[…]<…>`, `BINARY[…]<…>` or `BINARY.SIZE[…]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Part numbers, outermost first; empty for the message itself.
    pub path: Vec<u32>,
    /// What of the part.
    pub kind: SectionKind,
    /// First byte and count of `<offset.count>`.
    pub partial: Option<(u32, u32)>,
}

/// What of a part is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SectionKind {
    /// `BODY[]`, `BODY[1.2]`: everything.
    Whole,
    /// `HEADER`
    Header,
    /// `HEADER.FIELDS (…)`, names as given.
    HeaderFields(Vec<String>),
    /// `HEADER.FIELDS.NOT (…)`
    HeaderFieldsNot(Vec<String>),
    /// `TEXT`
    Text,
    /// `MIME`
    Mime,
    /// `BINARY[…]`: the decoded part (RFC 3516).
    Binary,
    /// `BINARY.SIZE[…]`
    BinarySize,
}

/// FETCH of messages by UID. The reply is a page; ask again from [`crate::FetchPage::next`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The messages; those that no longer exist are told as missing.
    pub uids: UidSet,
    /// What of them.
    pub items: FetchItems,
    /// RFC 7162 CHANGEDSINCE.
    pub changed_since: Option<ModSeq>,
    /// RFC 7162 VANISHED: also tell which of `uids` were expunged since `changed_since`. Ask on the first page only.
    pub vanished: bool,
}

/// SEARCH. The reply is a page; ask again from [`crate::SearchPage::next`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchRequest {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The condition; sequence numbers and `$` are UIDs already.
    pub key: SearchKey,
    /// Only UIDs from here on are looked at.
    pub from: Uid,
}

/// A day, as SEARCH compares it: year, month 1 to 12, day 1 to 31. RFC 9051 disregards time and zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SearchDate {
    /// Year, 0 to 9999.
    pub year: u16,
    /// Month from 1.
    pub month: u8,
    /// Day from 1.
    pub day: u8,
}

/// Header test of SEARCH: substring, without regard to case, on the decoded value. Text is UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Field name.
    pub field: String,
    /// Substring; empty means that the field exists.
    pub text: String,
}

/// A search key (RFC 9051 section 6.4.4), normalised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SearchKey {
    /// Every message.
    All,
    /// No message (for example `RECENT` under IMAP4rev2's rules).
    Never,
    /// All of these.
    And(Vec<SearchKey>),
    /// Any of these.
    Or(Vec<SearchKey>),
    /// Not this.
    Not(Box<SearchKey>),
    /// UIDs.
    Uids(UidSet),
    /// A system flag is set.
    Flag(SystemFlags),
    /// A keyword is set.
    Keyword(Keyword),
    /// RFC822.SIZE is greater.
    Larger(u64),
    /// RFC822.SIZE is smaller.
    Smaller(u64),
    /// INTERNALDATE's day is before.
    Before(SearchDate),
    /// INTERNALDATE's day is.
    On(SearchDate),
    /// INTERNALDATE's day is or is after.
    Since(SearchDate),
    /// The Date field's day is before.
    SentBefore(SearchDate),
    /// The Date field's day is.
    SentOn(SearchDate),
    /// The Date field's day is or is after.
    SentSince(SearchDate),
    /// SAVEDATE's day is before (RFC 8514).
    SavedBefore(SearchDate),
    /// SAVEDATE's day is.
    SavedOn(SearchDate),
    /// SAVEDATE's day is or is after.
    SavedSince(SearchDate),
    /// INTERNALDATE at or before this second (OLDER of RFC 5032, made absolute by the frontend).
    OlderThan(i64),
    /// INTERNALDATE at or after this second (YOUNGER of RFC 5032).
    YoungerThan(i64),
    /// A header field holds the text; FROM, TO, CC, BCC and SUBJECT are this too.
    Header(HeaderMatch),
    /// The decoded text of a body part holds it.
    Body(String),
    /// Header or body holds it.
    Text(String),
    /// MODSEQ is at least this (RFC 7162).
    ModSeq(ModSeq),
    /// EMAILID is.
    EmailId(u64),
    /// THREADID is.
    ThreadId(u64),
}
