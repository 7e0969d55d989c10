//! RENAME (RFC 9051 section 6.3.6): atomic with all below, and of constant cost, because a tree hangs on one entry.
//!
//! Mailboxes keep their id, UIDVALIDITY, UIDs, rights and subscriptions. INBOX stays: its messages move to a new mailbox.

use crate::counters;
use crate::decide::{Context, Decision, Stop};
use crate::event::{Event, Transfer};
use crate::flags;
use crate::keywords::{self, Interner};
use crate::mailboxes::{allow_nodes, making, missing_above, nearest_parent, require_create};
use crate::names::{self, Node};
use crate::port::TableFault;
use crate::quota;
use crate::records::codec::damaged;
use crate::work::Work;
use parliament_ids::limits::NAME_DEPTH_MAX;
use parliament_ids::{MailboxId, MailboxName, Rights, SystemFlags, Uid, UidSet};
use parliament_mail_api::{Rejection, Reply};

/// Decides RENAME.
pub(crate) fn decide(cx: &Context<'_>, from: &MailboxName, to: &MailboxName) -> Result<Decision, Stop> {
    if from.is_inbox() {
        return decide_inbox(cx, to);
    }
    let source = names::find(cx.tables, cx.account, from)?.filter(|node| node.mailbox.is_some() || node.mailboxes_below > 0);
    let source = source.ok_or(Rejection::NoSuchMailbox)?;
    match source.mailbox {
        Some(mailbox) => {
            cx.mailbox(mailbox, Rights::DELETE_MAILBOX)?;
        }
        None if cx.is_owner() => {}
        None => return Err(Rejection::NoSuchMailbox.into()),
    }
    if to.is_below(from) {
        return Err(Rejection::Cannot.into());
    }
    let target = names::find(cx.tables, cx.account, to)?;
    if from == to || target.is_some_and(|node| node.mailbox.is_some()) {
        return Err(Rejection::AlreadyExists.into());
    }
    allow_depth(cx, from, to, &source)?;
    let mut events = parents(cx, to)?;
    match (target, source.mailbox) {
        (Some(node), Some(mailbox)) if node.mailboxes_below > 0 && source.mailboxes_below == 0 => {
            events.push(Event::MailboxRenamed { from: from.clone(), to: to.clone(), mailbox });
        }
        (Some(node), _) if node.mailboxes_below > 0 => return Err(Rejection::AlreadyExists.into()),
        (target, _) => {
            let subscribed = target.map_or_else(|| Ok(Vec::new()), |node| subscriptions(cx, to, &node))?;
            let subscribe = |on: bool| subscribed.iter().map(move |name| Event::Subscribed { name: name.clone(), on });
            events.extend(subscribe(false));
            events.push(Event::TreeMoved { from: from.clone(), to: to.clone() });
            events.extend(subscribe(true));
        }
    }
    Ok(Decision { events, reply: Some(Reply::Done) })
}

/// Makes the mailboxes missing above the new name.
fn parents(cx: &Context<'_>, to: &MailboxName) -> Result<Vec<Event>, Stop> {
    let parent = nearest_parent(cx, to)?;
    require_create(cx, parent)?;
    allow_nodes(cx, to)?;
    let missing = missing_above(cx, to)?;
    if !missing.is_empty() {
        quota::allow_mailboxes(cx, missing.len())?;
    }
    Ok(missing.into_iter().map(|name| Event::MailboxMade { name, special_use: Vec::new(), acl_of: parent }).collect())
}

/// No name below may become deeper than names can be. Only a move downwards needs a look at the tree.
fn allow_depth(cx: &Context<'_>, from: &MailboxName, to: &MailboxName, source: &Node) -> Result<(), Stop> {
    let (old, new) = (from.levels().count(), to.levels().count());
    if new <= old || (source.mailboxes_below == 0 && source.subscribed_below == 0) {
        return Ok(());
    }
    let mut trail = Vec::new();
    let fits = names::walk_below(cx.tables, cx.account, source.id, &mut trail, &mut |trail, _| new + trail.len() <= NAME_DEPTH_MAX)?;
    if fits { Ok(()) } else { Err(Rejection::Limit.into()) }
}

/// The subscribed names at and below a node that has no mailboxes.
fn subscriptions(cx: &Context<'_>, top: &MailboxName, node: &Node) -> Result<Vec<MailboxName>, TableFault> {
    let mut found = if node.subscribed { vec![top.clone()] } else { Vec::new() };
    let (mut trail, mut bad) = (Vec::new(), false);
    names::walk_below(cx.tables, cx.account, node.id, &mut trail, &mut |trail, node| {
        if node.subscribed {
            match MailboxName::new(&format!("{top}/{}", trail.join("/"))) {
                Ok(name) => found.push(name),
                Err(_) => bad = true,
            }
        }
        !bad
    })?;
    if bad { Err(damaged("name")) } else { Ok(found) }
}

/// RENAME of INBOX: a new mailbox takes its messages; INBOX keeps its id, its UIDNEXT and what lies below it.
fn decide_inbox(cx: &Context<'_>, to: &MailboxName) -> Result<Decision, Stop> {
    if cx.resolve(to)?.is_some() {
        return Err(Rejection::AlreadyExists.into());
    }
    cx.mailbox(MailboxId::INBOX, Rights::DELETE_MAILBOX.union(Rights::READ))?;
    let mut events = making(cx, to, Vec::new())?;
    let target = MailboxId(cx.head.next_mailbox.0 + events.len() as u64 - 1);
    let (mut uids, mut used) = (UidSet::new(), 0_u128);
    flags::visit_rows(cx.tables, cx.account, MailboxId::INBOX, &UidSet::range(Uid(1), Uid(u32::MAX)), None, &mut |row| {
        uids.insert(row.uid);
        used |= row.keywords;
        true
    })?;
    if !uids.is_empty() {
        let mut interner = Interner::default();
        let mut keyword_bits = Vec::new();
        for (bit, keyword) in (0_u8..).zip(keywords::list(cx.tables, cx.account, MailboxId::INBOX)?) {
            if used & 1 << bit != 0 {
                let to = interner.bits(std::slice::from_ref(&keyword)).ok_or(Rejection::Limit)?;
                keyword_bits.push((bit, to.trailing_zeros() as u8));
            }
        }
        let new_keywords = interner.into_new();
        events.push(Event::Transferred(Transfer {
            from: MailboxId::INBOX,
            uids,
            to: target,
            keyword_bits,
            new_keywords,
            system_kept: SystemFlags::ALL,
            moved: true,
        }));
    }
    Ok(Decision { events, reply: Some(Reply::Done) })
}

/// Moves a mailbox, without what is only subscribed below it, to a name that has mailboxes below.
pub(crate) fn evolve_mailbox(work: &mut Work<'_, '_>, from: &MailboxName, to: &MailboxName, mailbox: MailboxId) -> Result<(), TableFault> {
    let mut subscribed = false;
    names::edit(work, from, |node| {
        node.mailbox = None;
        subscribed = std::mem::take(&mut node.subscribed);
    })?;
    let node = names::edit(work, to, |node| {
        node.mailbox = Some(mailbox);
        node.subscribed |= subscribed;
    })?;
    let mut row = counters::get(work, work.account, mailbox)?.ok_or_else(|| damaged("counters of an existing mailbox"))?;
    row.node = node;
    counters::set(work, mailbox, &row)
}
