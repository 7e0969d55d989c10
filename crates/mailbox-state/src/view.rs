//! Reads. Pure over [`Tables`], exact at the moment of the call; where rights matter they are the actor's. A mailbox that the
//! actor may not know of is told as absent.

use crate::account::{self, AccountRecord};
use crate::acl;
use crate::applied::OwnerRecord;
use crate::counters::{self, Counters};
use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::damaged;
use crate::{flags, keywords as keyword_lists, messages, metadata as annotations, names, session_record, vanished};
use parliament_ids::{
    AccountId, GroupId, Keyword, MailboxId, MailboxName, ModSeq, RequestSeq, Rights, SessionKey, SystemFlags, Uid, UidSet, UidValidity,
};
use parliament_mail_api::{
    Delta, FlagRow, MailboxRef, Mark, MetadataEntry, QuotaLimits, QuotaUsage, Rejection, Reply, Selected, SpecialUse, StatusData,
};

pub use crate::acl::AclEntry;
pub use crate::list::list;
pub use crate::messages::MessageRow;

/// What is known of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountView {
    /// It lives.
    Live {
        /// Its lease.
        lease: OwnerRecord,
        /// Its last MODSEQ.
        modseq: ModSeq,
        /// Its last UIDVALIDITY.
        uid_validity: UidValidity,
        /// Its special uses.
        special_use: Vec<(SpecialUse, MailboxId)>,
        /// Its state hash.
        state_hash: u128,
    },
    /// It was deleted; an account of the same name must use greater UIDVALIDITYs (rule 4).
    Deleted {
        /// The greatest UIDVALIDITY it may have used.
        uid_validity_floor: UidValidity,
    },
    /// It lives in another group.
    Elsewhere {
        /// Which, as far as is known here.
        group: GroupId,
    },
}

pub use crate::moving::{
    ImageEntry, ImagePlace, Presence, accounts_with_records, bodies, image_head, image_page, image_record, presence, session_marks,
};

type Read<T> = Result<T, TableFault>;

fn everything() -> UidSet {
    UidSet::range(Uid(1), Uid(u32::MAX))
}

/// An account, living or deleted; `None` when this group never had it.
///
/// # Errors
/// As all functions here: [`TableFault`] when a record cannot be read.
pub fn account(tables: &dyn Tables, account: AccountId) -> Read<Option<AccountView>> {
    Ok(account::read(tables, account)?.map(|record| match record {
        AccountRecord::Live(head) => AccountView::Live {
            lease: head.lease,
            modseq: head.modseq,
            uid_validity: head.uid_validity,
            special_use: head.special,
            state_hash: head.state_hash,
        },
        AccountRecord::Tombstone(uid_validity_floor) => AccountView::Deleted { uid_validity_floor },
        AccountRecord::Absent(absent) => AccountView::Elsewhere { group: absent.at },
    }))
}

/// The accounts that live in this group, ascending.
///
/// # Errors
/// [`TableFault`].
pub fn accounts(tables: &dyn Tables) -> Read<Vec<AccountId>> {
    let prefix = [Table::Account as u8];
    let mut found = Vec::new();
    let mut fault = None;
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, value| {
        match (keys::number_at(key, 1), account::decode(value)) {
            (Some(id), Ok(AccountRecord::Live(_))) => found.push(AccountId(id)),
            (Some(_), Ok(AccountRecord::Tombstone(_) | AccountRecord::Absent(_))) => {}
            (None, _) => fault = Some(damaged("key of an account")),
            (_, Err(e)) => fault = Some(e),
        }
        fault.is_none()
    })?;
    fault.map_or(Ok(found), Err)
}

/// The lease of a living account.
///
/// # Errors
/// [`TableFault`].
pub fn owner(tables: &dyn Tables, account: AccountId) -> Read<Option<OwnerRecord>> {
    Ok(account::head(tables, account)?.map(|head| head.lease))
}

/// The state hash of a living account, or of what is here of one that lives elsewhere: equal on replicas that hold equal records; 0
/// when there is none.
///
/// # Errors
/// [`TableFault`].
pub fn state_hash(tables: &dyn Tables, account: AccountId) -> Read<u128> {
    Ok(match account::read(tables, account)? {
        Some(AccountRecord::Live(head)) => head.state_hash,
        Some(AccountRecord::Absent(absent)) => absent.sum,
        Some(AccountRecord::Tombstone(_)) | None => 0,
    })
}

/// The mailbox of a name, whatever the rights.
///
/// # Errors
/// [`TableFault`].
pub fn resolve(tables: &dyn Tables, account: AccountId, name: &MailboxName) -> Read<Option<MailboxId>> {
    if account::head(tables, account)?.is_none() {
        return Ok(None);
    }
    names::resolve(tables, account, name)
}

/// The present name of a mailbox.
///
/// # Errors
/// [`TableFault`].
pub fn name_of(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Read<Option<MailboxName>> {
    counters::get(tables, account, mailbox)?.map(|row| names::name_of(tables, account, row.node)).transpose()
}

/// The rights of an actor in a mailbox: all for the owner, none where the mailbox does not exist.
///
/// # Errors
/// [`TableFault`].
pub fn rights(tables: &dyn Tables, account: AccountId, actor: AccountId, mailbox: MailboxId) -> Read<Rights> {
    if counters::get(tables, account, mailbox)?.is_none() {
        return Ok(Rights::NONE);
    }
    acl::rights(tables, account, actor, mailbox)
}

/// The ACL of a mailbox, without the owner's implied rights.
///
/// # Errors
/// [`TableFault`].
pub fn acl(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Read<Vec<AclEntry>> {
    acl::list(tables, account, mailbox)
}

/// Finds a mailbox for which the actor holds rights.
fn open(
    tables: &dyn Tables,
    account: AccountId,
    actor: AccountId,
    mailbox: Option<MailboxId>,
    needed: Rights,
) -> Read<Result<(MailboxId, Counters, Rights), Rejection>> {
    let Some(mailbox) = mailbox else { return Ok(Err(Rejection::NoSuchMailbox)) };
    let Some(row) = counters::get(tables, account, mailbox)? else { return Ok(Err(Rejection::NoSuchMailbox)) };
    let held = acl::rights(tables, account, actor, mailbox)?;
    Ok(acl::require(held, needed).map(|()| (mailbox, row, held)))
}

/// SELECT. `recent_from` is UIDNEXT: which messages were told as recent is the holder's memory, not the state's.
///
/// # Errors
/// [`TableFault`].
pub fn select(tables: &dyn Tables, account: AccountId, actor: AccountId, mailbox: &MailboxRef) -> Read<Result<Selected, Rejection>> {
    let id = match mailbox {
        MailboxRef::Name(name) => names::resolve(tables, account, name)?,
        MailboxRef::Id(id) => Some(*id),
    };
    let (id, row, held) = match open(tables, account, actor, id, Rights::READ)? {
        Ok(found) => found,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let (uids, first_unseen) = uids_and_first_unseen(tables, account, id)?;
    Ok(Ok(Selected {
        mailbox: id,
        name: match mailbox {
            MailboxRef::Name(name) => name.clone(),
            MailboxRef::Id(_) => names::name_of(tables, account, row.node)?,
        },
        uid_validity: row.uid_validity,
        uid_next: row.uid_next,
        highest_modseq: row.highest_modseq,
        uids,
        first_unseen,
        keywords: keyword_lists::list(tables, account, id)?,
        rights: held,
        recent_from: row.uid_next,
    }))
}

/// All UIDs, mostly from the headers of dense runs, and the first one without `\Seen`.
fn uids_and_first_unseen(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Read<(UidSet, Option<Uid>)> {
    let (mut uids, mut first_unseen) = (UidSet::new(), None);
    flags::visit_runs(tables, account, mailbox, &everything(), &mut |header, value| {
        let looks_for_unseen = first_unseen.is_none() && header.unseen > 0;
        if header.run.is_dense() {
            uids.insert_range(header.run.first, header.run.last);
        }
        if looks_for_unseen || !header.run.is_dense() {
            for row in flags::decode(header, value)? {
                uids.insert(row.uid);
                if first_unseen.is_none() && !row.system.contains(SystemFlags::SEEN) {
                    first_unseen = Some(row.uid);
                }
            }
        }
        Ok(true)
    })?;
    Ok((uids, first_unseen))
}

/// The UIDs of all messages of a mailbox.
///
/// # Errors
/// [`TableFault`].
pub fn uids(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Read<UidSet> {
    uids_from(tables, account, mailbox, Uid(1))
}

fn uids_from(tables: &dyn Tables, account: AccountId, mailbox: MailboxId, from: Uid) -> Read<UidSet> {
    let mut uids = UidSet::new();
    let wanted = UidSet::range(from, Uid(u32::MAX));
    flags::visit_runs(tables, account, mailbox, &wanted, &mut |header, value| {
        if header.run.is_dense() {
            uids.insert_range(header.run.first.max(from), header.run.last);
        } else {
            flags::decode(header, value)?.iter().filter(|row| row.uid >= from).for_each(|row| uids.insert(row.uid));
        }
        Ok(true)
    })?;
    Ok(uids)
}

/// STATUS.
///
/// # Errors
/// [`TableFault`].
pub fn status(tables: &dyn Tables, account: AccountId, actor: AccountId, name: &MailboxName) -> Read<Result<StatusData, Rejection>> {
    let id = names::resolve(tables, account, name)?;
    Ok(open(tables, account, actor, id, Rights::READ)?.map(|(id, row, _)| row.status(id)))
}

/// What changed in a mailbox since a mark. Reads one record when nothing did, and only the runs at the end when messages merely
/// arrived.
///
/// # Errors
/// [`TableFault`].
pub fn delta(tables: &dyn Tables, account: AccountId, actor: AccountId, mark: &Mark) -> Read<Delta> {
    let mut delta = Delta {
        mailbox: mark.mailbox,
        gone: false,
        modseq: mark.modseq,
        uid_next: mark.uid_next,
        vanished: UidSet::new(),
        arrived: UidSet::new(),
        changed: Vec::new(),
        keywords: Vec::new(),
    };
    let Ok((id, row, _)) = open(tables, account, actor, Some(mark.mailbox), Rights::READ)? else {
        return Ok(Delta { gone: true, ..delta });
    };
    if row.highest_modseq <= mark.modseq {
        return Ok(delta);
    }
    delta.modseq = row.highest_modseq;
    delta.uid_next = row.uid_next;
    let known = UidSet::range(Uid(1), Uid(mark.uid_next.0.saturating_sub(1)));
    if row.vanished_modseq > mark.modseq {
        delta.vanished = vanished_of(tables, account, id, &row, mark.modseq, &known)?;
    }
    if row.uid_next > mark.uid_next {
        delta.arrived = uids_from(tables, account, id, mark.uid_next.max(Uid(1)))?;
    }
    if row.flags_modseq > mark.modseq {
        flags::visit_rows(tables, account, id, &known, Some(mark.modseq), &mut |row| {
            delta.changed.push(row);
            true
        })?;
    }
    if row.keywords_modseq > mark.modseq {
        delta.keywords = keyword_lists::list(tables, account, id)?;
    }
    Ok(delta)
}

/// Visits the flags of those of `uids` that are messages and, with `changed_since`, whose MODSEQ is above; ascending, until `visit`
/// returns false. Each run is read once; runs unchanged since are not decoded.
///
/// # Errors
/// [`TableFault`].
pub fn flag_rows(
    tables: &dyn Tables,
    account: AccountId,
    mailbox: MailboxId,
    uids: &UidSet,
    changed_since: Option<ModSeq>,
    visit: &mut dyn FnMut(FlagRow) -> bool,
) -> Read<()> {
    flags::visit_rows(tables, account, mailbox, uids, changed_since, visit)
}

/// Visits the immutable part of those of `uids` that are messages, ascending, until `visit` returns false.
///
/// # Errors
/// [`TableFault`].
pub fn message_rows(
    tables: &dyn Tables,
    account: AccountId,
    mailbox: MailboxId,
    uids: &UidSet,
    visit: &mut dyn FnMut(MessageRow) -> bool,
) -> Read<()> {
    messages::visit_rows(tables, account, mailbox, uids, visit)
}

/// Which of `among` vanished above `since` (RFC 7162 section 3.2.5.2). May name UIDs that never were messages or vanished
/// earlier; misses none.
///
/// # Errors
/// [`TableFault`].
pub fn vanished_since(tables: &dyn Tables, account: AccountId, mailbox: MailboxId, since: ModSeq, among: &UidSet) -> Read<UidSet> {
    let Some(row) = counters::get(tables, account, mailbox)? else { return Ok(UidSet::new()) };
    vanished_of(tables, account, mailbox, &row, since, among)
}

fn vanished_of(tables: &dyn Tables, account: AccountId, mailbox: MailboxId, row: &Counters, since: ModSeq, among: &UidSet) -> Read<UidSet> {
    if row.vanished_modseq <= since {
        return Ok(UidSet::new());
    }
    if since >= row.vanished_floor {
        return Ok(vanished::since(tables, account, mailbox, since)?.intersection(among));
    }
    let assigned = UidSet::range(Uid(1), Uid(row.uid_next.0.saturating_sub(1)));
    Ok(among.intersection(&assigned).difference(&uids(tables, account, mailbox)?))
}

/// The keywords of a mailbox by their bit.
///
/// # Errors
/// [`TableFault`].
pub fn keywords(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Read<Vec<Keyword>> {
    keyword_lists::list(tables, account, mailbox)
}

/// Quota limits and usage of a living account.
///
/// # Errors
/// [`TableFault`].
pub fn quota(tables: &dyn Tables, account: AccountId) -> Read<Option<(QuotaLimits, QuotaUsage)>> {
    Ok(account::head(tables, account)?.map(|head| (head.limits, head.usage)))
}

/// The metadata of a mailbox, or of the account, that an actor sees: `/shared` entries and its own `/private` ones.
///
/// # Errors
/// [`TableFault`].
pub fn metadata(tables: &dyn Tables, account: AccountId, actor: AccountId, mailbox: Option<MailboxId>) -> Read<Vec<MetadataEntry>> {
    annotations::list(tables, account, actor, mailbox)
}

/// The head of a mailbox's ledger: a hash chain over every UID ever assigned in it.
///
/// # Errors
/// [`TableFault`].
pub fn ledger_head(tables: &dyn Tables, account: AccountId, mailbox: MailboxId) -> Read<Option<[u8; 16]>> {
    Ok(counters::get(tables, account, mailbox)?.map(|row| row.ledger))
}

/// All mailboxes of an account with their STATUS, by id.
///
/// # Errors
/// [`TableFault`].
pub fn mailboxes(tables: &dyn Tables, account: AccountId) -> Read<Vec<StatusData>> {
    Ok(counters::all(tables, account)?.into_iter().map(|(id, row)| row.status(id)).collect())
}

/// A session's last recorded request and its outcome.
///
/// # Errors
/// [`TableFault`].
pub fn session_last(tables: &dyn Tables, account: AccountId, session: &SessionKey) -> Read<Option<(RequestSeq, Result<Reply, Rejection>)>> {
    session_record::last(tables, account, session)
}
