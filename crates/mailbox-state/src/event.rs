//! What a decision makes happen. Events are facts: carrying them out cannot be refused.

use crate::acl::AclEntry;
use crate::applied::Owner;
use crate::keywords::NewKeywords;
use parliament_ids::{AccountId, BodyHash, DateTime, GroupId, MailboxId, MailboxName, MoveId, SystemFlags, ThreadId, UidSet};
use parliament_mail_api::{MetadataEntry, QuotaLimits, SpecialUse};

/// A message that is to arrive, its keywords as bits of the target mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) hash: BodyHash,
    pub(crate) size: u64,
    pub(crate) internal_date: Option<DateTime>,
    pub(crate) thread: ThreadId,
    pub(crate) system: SystemFlags,
    pub(crate) keywords: u128,
}

/// New flags are `old & !clear | set`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlagEdit {
    pub(crate) system_clear: SystemFlags,
    pub(crate) system_set: SystemFlags,
    pub(crate) keywords_clear: u128,
    pub(crate) keywords_set: u128,
}

impl FlagEdit {
    /// The flags after the edit.
    pub(crate) fn apply(&self, system: SystemFlags, keywords: u128) -> (SystemFlags, u128) {
        (system.minus(self.system_clear).union(self.system_set), keywords & !self.keywords_clear | self.keywords_set)
    }
}

/// Messages copied or moved within the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) from: MailboxId,
    /// All of them are messages.
    pub(crate) uids: UidSet,
    pub(crate) to: MailboxId,
    /// Pairs of keyword bits: source, target.
    pub(crate) keyword_bits: Vec<(u8, u8)>,
    pub(crate) new_keywords: NewKeywords,
    /// Only these flags are kept.
    pub(crate) system_kept: SystemFlags,
    /// Take them out of the source.
    pub(crate) moved: bool,
}

/// Something that happens to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    MailboxMade { name: MailboxName, special_use: Vec<SpecialUse>, acl_of: Option<MailboxId> },
    MailboxRemoved { name: MailboxName, mailbox: MailboxId },
    TreeMoved { from: MailboxName, to: MailboxName },
    MailboxRenamed { from: MailboxName, to: MailboxName, mailbox: MailboxId },
    Subscribed { name: MailboxName, on: bool },
    Arrived { mailbox: MailboxId, new_keywords: NewKeywords, arrivals: Vec<Arrival> },
    Delivered { mailbox: MailboxId, new_keywords: NewKeywords, arrival: Arrival, dedupe: BodyHash },
    FlagsChanged { mailbox: MailboxId, uids: UidSet, edit: FlagEdit, new_keywords: NewKeywords, modified: UidSet, missing: bool },
    Vanished { mailbox: MailboxId, uids: UidSet },
    Transferred(Transfer),
    AclChanged { mailbox: MailboxId, entry: AclEntry },
    QuotaSet(QuotaLimits),
    MetadataChanged { mailbox: Option<MailboxId>, entries: Vec<MetadataEntry>, reader: AccountId },
    DedupeRotated,
    LeasePassed(Owner),
    LeaseReleased,
    Frozen { move_id: MoveId, to: GroupId },
}
