//! Commands as values.

use crate::session::Secret;
use crate::wire::SeqSet;
use parliament_ids::{MailboxName, ModSeq};
use parliament_mail_api::{FlagChange, ListPattern, SearchKey, Section, SpecialUse};

/// A command with its tag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tagged {
    pub(crate) tag: String,
    pub(crate) command: Command,
}

/// Every command but APPEND, whose message never lies in memory as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Capability,
    Noop,
    Logout,
    StartTls,
    Id(Vec<(String, Option<String>)>),
    Login { name: String, password: Secret },
    Authenticate { mechanism: String, initial: Option<Vec<u8>> },
    Enable(Vec<String>),
    Namespace,
    List(ListCommand),
    Lsub { patterns: Vec<ListPattern> },
    Status { name: MailboxName, items: Vec<StatusItem> },
    Select { name: MailboxName, read_only: bool, condstore: bool },
    Close,
    Unselect,
    Check,
    Create { name: MailboxName, special_use: Vec<SpecialUse> },
    Delete(MailboxName),
    Rename { from: MailboxName, to: MailboxName },
    Subscribe { name: MailboxName, on: bool },
    Expunge,
    UidExpunge(SeqSet),
    Search(SearchCommand),
    Fetch(FetchCommand),
    Store(StoreCommand),
    Copy { uid: bool, set: SeqSet, to: MailboxName },
    Move { uid: bool, set: SeqSet, to: MailboxName },
    Idle,
    GetQuota(String),
    GetQuotaRoot(MailboxName),
}

/// LIST (RFC 5258, RFC 5819, RFC 6154).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListCommand {
    /// Patterns joined with the reference; an empty one asks for the hierarchy separator.
    pub(crate) patterns: Vec<ListPattern>,
    pub(crate) only_subscribed: bool,
    pub(crate) only_special_use: bool,
    pub(crate) recursive_match: bool,
    pub(crate) return_subscribed: bool,
    pub(crate) status: Option<Vec<StatusItem>>,
}

/// What STATUS can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusItem {
    Messages,
    UidNext,
    UidValidity,
    Unseen,
    Deleted,
    Size,
    Recent,
    HighestModSeq,
    MailboxId,
    AppendLimit,
}

/// FETCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchCommand {
    pub(crate) uid: bool,
    pub(crate) set: SeqSet,
    pub(crate) atts: FetchAtts,
    pub(crate) changed_since: Option<ModSeq>,
}

/// What FETCH asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FetchAtts {
    pub(crate) uid: bool,
    pub(crate) flags: bool,
    pub(crate) modseq: bool,
    pub(crate) internal_date: bool,
    pub(crate) save_date: bool,
    pub(crate) size: bool,
    pub(crate) email_id: bool,
    pub(crate) thread_id: bool,
    pub(crate) envelope: bool,
    pub(crate) body: bool,
    pub(crate) body_structure: bool,
    pub(crate) preview: bool,
    pub(crate) sections: Vec<FetchSection>,
}

/// A section asked by FETCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchSection {
    pub(crate) section: Section,
    pub(crate) label: Label,
    /// Does not set `\Seen`.
    pub(crate) peek: bool,
}

/// Under which name a section is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Body,
    Binary,
    BinarySize,
    Rfc822,
    Rfc822Header,
    Rfc822Text,
}

/// STORE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreCommand {
    pub(crate) uid: bool,
    pub(crate) set: SeqSet,
    pub(crate) change: FlagChange,
    pub(crate) silent: bool,
    pub(crate) unchanged_since: Option<ModSeq>,
}

/// SEARCH.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SearchCommand {
    pub(crate) uid: bool,
    /// `None` without RETURN.
    pub(crate) result: Option<SearchReturn>,
    pub(crate) charset: bool,
    pub(crate) term: SearchTerm,
    /// A MODSEQ key is among the terms.
    pub(crate) modseq: bool,
}

/// RETURN options of SEARCH (RFC 4731, RFC 5182).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SearchReturn {
    pub(crate) min: bool,
    pub(crate) max: bool,
    pub(crate) count: bool,
    pub(crate) all: bool,
    pub(crate) save: bool,
}

/// A search key as written: what needs the session's view is not resolved yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SearchTerm {
    /// Needs nothing of the session.
    Key(SearchKey),
    /// Sequence numbers, or `$`.
    Seq(SeqSet),
    /// UIDs, or `$`.
    Uid(SeqSet),
    Recent,
    /// `OLDER n` (true) and `YOUNGER n` (false), seconds (RFC 5032).
    Age {
        older: bool,
        seconds: u32,
    },
    EmailId(String),
    ThreadId(String),
    And(Vec<SearchTerm>),
    Or(Box<(SearchTerm, SearchTerm)>),
    Not(Box<SearchTerm>),
}
