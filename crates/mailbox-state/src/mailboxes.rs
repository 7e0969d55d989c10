//! CREATE, DELETE, SUBSCRIBE, SETACL and the default mailboxes (RFC 9051 sections 6.3.4 to 6.3.8, RFC 6154, RFC 4314).

use crate::acl::{self, AclEntry};
use crate::counters::{self, Counters};
use crate::decide::{Context, Decision, Stop};
use crate::event::Event;
use crate::port::TableFault;
use crate::records::codec::damaged;
use crate::work::Work;
use crate::{expunge, flags, keywords, messages, metadata, names, quota, references, vanished};
use parliament_ids::limits::MAILBOXES_PER_ACCOUNT_MAX;
use parliament_ids::{MailboxId, MailboxName, Rights};
use parliament_mail_api::{AclChange, Rejection, Reply, SpecialUse};

/// Name nodes of an account: mailboxes, and names that are only subscribed.
const NODES_MAX: u32 = 2 * MAILBOXES_PER_ACCOUNT_MAX;

/// What Provision makes.
const DEFAULTS: [(&str, SpecialUse); 5] = [
    ("Drafts", SpecialUse::Drafts),
    ("Sent", SpecialUse::Sent),
    ("Junk", SpecialUse::Junk),
    ("Trash", SpecialUse::Trash),
    ("Archive", SpecialUse::Archive),
];

/// The nearest name above that is a mailbox.
pub(crate) fn nearest_parent(cx: &Context<'_>, name: &MailboxName) -> Result<Option<MailboxId>, TableFault> {
    let mut above = name.parent();
    while let Some(parent) = above {
        if let Some(mailbox) = cx.resolve(&parent)? {
            return Ok(Some(mailbox));
        }
        above = parent.parent();
    }
    Ok(None)
}

/// The right to make a name: `k` on the nearest mailbox above; without one only the owner.
pub(crate) fn require_create(cx: &Context<'_>, parent: Option<MailboxId>) -> Result<(), Stop> {
    if cx.is_owner() {
        return Ok(());
    }
    match parent {
        Some(parent) => Ok(acl::require(cx.rights(parent)?, Rights::CREATE)?),
        None => Err(Rejection::NoPermission.into()),
    }
}

/// The names above, outermost first, that are no mailboxes yet.
pub(crate) fn missing_above(cx: &Context<'_>, name: &MailboxName) -> Result<Vec<MailboxName>, TableFault> {
    let mut missing = Vec::new();
    let mut above = name.parent();
    while let Some(parent) = above {
        if cx.resolve(&parent)?.is_none() {
            missing.push(parent.clone());
        }
        above = parent.parent();
    }
    missing.reverse();
    Ok(missing)
}

/// Room for as many nodes as a name has levels.
pub(crate) fn allow_nodes(cx: &Context<'_>, name: &MailboxName) -> Result<(), Rejection> {
    if cx.head.nodes + name.levels().count() as u32 > NODES_MAX || cx.head.next_node > u32::MAX - 64 {
        return Err(Rejection::Limit);
    }
    Ok(())
}

/// Events that make a mailbox and what it lacks above.
pub(crate) fn making(cx: &Context<'_>, name: &MailboxName, special_use: Vec<SpecialUse>) -> Result<Vec<Event>, Stop> {
    let parent = nearest_parent(cx, name)?;
    require_create(cx, parent)?;
    let missing = missing_above(cx, name)?;
    quota::allow_mailboxes(cx, missing.len() + 1)?;
    allow_nodes(cx, name)?;
    let mut events: Vec<Event> =
        missing.into_iter().map(|name| Event::MailboxMade { name, special_use: Vec::new(), acl_of: parent }).collect();
    events.push(Event::MailboxMade { name: name.clone(), special_use, acl_of: parent });
    Ok(events)
}

/// Decides CREATE.
pub(crate) fn decide_create(cx: &Context<'_>, name: &MailboxName, special_use: &[SpecialUse]) -> Result<Decision, Stop> {
    if cx.resolve(name)?.is_some() {
        return Err(Rejection::AlreadyExists.into());
    }
    let mut uses = special_use.to_vec();
    uses.sort_unstable();
    uses.dedup();
    let unfit = |u: &SpecialUse| matches!(u, SpecialUse::All | SpecialUse::Flagged) || cx.head.special.iter().any(|(taken, _)| taken == u);
    if uses.iter().any(unfit) || (!uses.is_empty() && !cx.is_owner()) {
        return Err(Rejection::UseAttribute.into());
    }
    Ok(Decision::events(making(cx, name, uses)?))
}

/// Decides DELETE. A name with others below stays as a node without mailbox.
pub(crate) fn decide_delete(cx: &Context<'_>, name: &MailboxName) -> Result<Decision, Stop> {
    let (mailbox, _, _) = cx.named(name, Rights::DELETE_MAILBOX)?;
    if mailbox == MailboxId::INBOX {
        return Err(Rejection::Cannot.into());
    }
    Ok(Decision::events(vec![Event::MailboxRemoved { name: name.clone(), mailbox }]))
}

/// Decides SUBSCRIBE and UNSUBSCRIBE: of any name, existing or not.
pub(crate) fn decide_subscribe(cx: &Context<'_>, name: &MailboxName, on: bool) -> Result<Decision, Stop> {
    if !cx.is_owner() {
        return Err(Rejection::NoPermission.into());
    }
    let node = names::find(cx.tables, cx.account, name)?;
    if node.is_some_and(|node| node.subscribed) == on {
        return Ok(Decision::reply(Reply::Done));
    }
    if node.is_none() {
        allow_nodes(cx, name)?;
    }
    Ok(Decision::events(vec![Event::Subscribed { name: name.clone(), on }]))
}

/// Decides SETACL and DELETEACL.
pub(crate) fn decide_acl(cx: &Context<'_>, change: &AclChange) -> Result<Decision, Stop> {
    let (mailbox, _, _) = cx.named(&change.name, Rights::ADMINISTER)?;
    let entries = acl::list(cx.tables, cx.account, mailbox)?;
    let old = entries.iter().find(|e| e.subject == change.subject && e.negative == change.negative).map(|e| e.rights);
    let asked = Rights(change.rights.0 & Rights::ALL.0);
    let rights = acl::combined(old.unwrap_or_default(), change.mode, asked);
    if rights == old.unwrap_or_default() {
        return Ok(Decision::reply(Reply::Done));
    }
    if old.is_none() && entries.len() >= acl::ENTRIES_MAX {
        return Err(Rejection::Limit.into());
    }
    let entry = AclEntry { subject: change.subject, negative: change.negative, rights };
    Ok(Decision::events(vec![Event::AclChanged { mailbox, entry }]))
}

/// Decides which default mailboxes are made. They and INBOX are subscribed, because many clients show nothing else.
pub(crate) fn decide_provision(cx: &Context<'_>) -> Result<Decision, Stop> {
    let mut events = Vec::new();
    let mut subscribe = vec![MailboxName::inbox()];
    for (name, special_use) in DEFAULTS {
        let name = MailboxName::new(name).map_err(|_| damaged("name of a default mailbox"))?;
        if cx.resolve(&name)?.is_none() && cx.head.special.iter().all(|(taken, _)| *taken != special_use) {
            events.push(Event::MailboxMade { name: name.clone(), special_use: vec![special_use], acl_of: None });
            subscribe.push(name);
        }
    }
    quota::allow_mailboxes(cx, events.len())?;
    events.extend(subscribe.into_iter().map(|name| Event::Subscribed { name, on: true }));
    Ok(Decision { events, reply: Some(Reply::Done) })
}

/// Makes a mailbox: a new id, a UIDVALIDITY above every one the account had.
pub(crate) fn make(
    work: &mut Work<'_, '_>,
    name: &MailboxName,
    special_use: &[SpecialUse],
    acl_of: Option<MailboxId>,
) -> Result<MailboxId, TableFault> {
    let mailbox = work.head.next_mailbox;
    work.head.next_mailbox = mailbox.next();
    work.head.usage.mailboxes += 1;
    work.head.uid_validity = quota::uid_validity_after(work.head.uid_validity, work.now);
    work.head.special.extend(special_use.iter().map(|u| (*u, mailbox)));
    work.head.special.sort_unstable();
    let node = names::edit(work, name, |node| node.mailbox = Some(mailbox))?;
    let row = Counters::new(node, work.head.uid_validity, work.modseq());
    counters::set(work, mailbox, &row)?;
    if let Some(parent) = acl_of {
        acl::inherit(work, parent, mailbox)?;
    }
    work.names_touched();
    Ok(mailbox)
}

/// Removes a mailbox with all it holds.
pub(crate) fn remove(work: &mut Work<'_, '_>, name: &MailboxName, mailbox: MailboxId) -> Result<(), TableFault> {
    let row = counters::get(work, work.account, mailbox)?.ok_or_else(|| damaged("counters of an existing mailbox"))?;
    names::edit(work, name, |node| node.mailbox = None)?;
    counters::remove(work, mailbox)?;
    let gone = messages::clear(work, mailbox)?;
    flags::clear(work, mailbox)?;
    keywords::clear(work, mailbox)?;
    vanished::clear(work, mailbox)?;
    acl::clear(work, mailbox)?;
    metadata::clear(work, mailbox)?;
    references::release(work, gone.iter().map(|m| &m.hash))?;
    expunge::lighten(work, u64::from(row.messages), row.bytes)?;
    work.head.usage.mailboxes -= 1;
    work.head.special.retain(|(_, m)| *m != mailbox);
    work.touched(mailbox);
    work.names_touched();
    Ok(())
}
