//! Decisions: a command against the tables gives events or a rejection. Nothing is written here.

use crate::account::Head;
use crate::acl;
use crate::applied::Owner;
use crate::command::Op;
use crate::counters::{self, Counters};
use crate::event::Event;
use crate::names;
use crate::port::{TableFault, Tables};
use crate::well_formed::is_well_formed;
use crate::{append, copy_move, expunge, mailboxes, metadata, quota, rename, store};
use parliament_ids::{AccountId, MailboxId, MailboxName, Rights};
use parliament_mail_api::{Mutation, Rejection, Reply};

/// Why a decision ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The answer is no.
    Rejected(Rejection),
    /// The tables cannot be read.
    Fault(TableFault),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}
impl From<TableFault> for Stop {
    fn from(fault: TableFault) -> Self {
        Self::Fault(fault)
    }
}

/// What is to happen, and the reply; without one the last event gives it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) events: Vec<Event>,
    pub(crate) reply: Option<Reply>,
}

impl Decision {
    pub(crate) fn events(events: Vec<Event>) -> Self {
        Self { events, reply: None }
    }
    pub(crate) fn reply(reply: Reply) -> Self {
        Self { events: Vec::new(), reply: Some(reply) }
    }
}

/// What a decision looks at.
pub(crate) struct Context<'a> {
    pub(crate) tables: &'a dyn Tables,
    pub(crate) account: AccountId,
    pub(crate) actor: AccountId,
    pub(crate) head: &'a Head,
    pub(crate) now: i64,
}

impl Context<'_> {
    /// True when the owner acts.
    pub(crate) fn is_owner(&self) -> bool {
        self.account == self.actor
    }
    /// The actor's rights.
    pub(crate) fn rights(&self, mailbox: MailboxId) -> Result<Rights, TableFault> {
        acl::rights(self.tables, self.account, self.actor, mailbox)
    }
    /// The counters of a mailbox for which the actor holds rights, and those rights.
    pub(crate) fn mailbox(&self, mailbox: MailboxId, needed: Rights) -> Result<(Counters, Rights), Stop> {
        let row = counters::get(self.tables, self.account, mailbox)?.ok_or(Rejection::NoSuchMailbox)?;
        let held = self.rights(mailbox)?;
        acl::require(held, needed)?;
        Ok((row, held))
    }
    /// The mailbox of a name, if it exists, whatever the rights.
    pub(crate) fn resolve(&self, name: &MailboxName) -> Result<Option<MailboxId>, TableFault> {
        names::resolve(self.tables, self.account, name)
    }
    /// The mailbox of a name for which the actor holds rights.
    pub(crate) fn named(&self, name: &MailboxName, needed: Rights) -> Result<(MailboxId, Counters, Rights), Stop> {
        let mailbox = self.resolve(name)?.ok_or(Rejection::NoSuchMailbox)?;
        let (row, held) = self.mailbox(mailbox, needed)?;
        Ok((mailbox, row, held))
    }
}

/// Decides a holder's command.
pub(crate) fn decide(cx: &Context<'_>, op: &Op) -> Result<Decision, Stop> {
    if !is_well_formed(op) {
        return Err(Rejection::Cannot.into());
    }
    match op {
        Op::Append { to, messages } => append::decide(cx, to, messages),
        Op::Deliver { to, message, dedupe } => append::decide_delivery(cx, to, message, dedupe),
        Op::Mutate(mutation) => decide_mutation(cx, mutation),
        Op::RotateDedupe => Ok(Decision::events(vec![Event::DedupeRotated])),
        Op::Handover { .. } if cx.head.lease.fence.is_last() => Err(Rejection::Exhausted.into()),
        Op::Handover { to, to_boot } => Ok(Decision::events(vec![Event::LeasePassed(Owner { node: *to, boot: *to_boot })])),
        Op::Release => Ok(Decision::events(vec![Event::LeaseReleased])),
        Op::Provision => mailboxes::decide_provision(cx),
        Op::Noop => Ok(Decision::reply(Reply::Done)),
        Op::Freeze { move_id, .. } if *move_id <= cx.head.last_move => Err(Rejection::Cannot.into()),
        Op::Freeze { move_id, to } => Ok(Decision::events(vec![Event::Frozen { move_id: *move_id, to: *to }])),
    }
}

fn decide_mutation(cx: &Context<'_>, mutation: &Mutation) -> Result<Decision, Stop> {
    match mutation {
        Mutation::Create { name, special_use } => mailboxes::decide_create(cx, name, special_use),
        Mutation::Delete { name } => mailboxes::decide_delete(cx, name),
        Mutation::Rename { from, to } => rename::decide(cx, from, to),
        Mutation::Subscribe { name, on } => mailboxes::decide_subscribe(cx, name, *on),
        Mutation::Store { mailbox, uids, change, unchanged_since } => store::decide(cx, *mailbox, uids, change, *unchanged_since),
        Mutation::Expunge { mailbox, uids } => expunge::decide(cx, *mailbox, uids.as_ref()),
        Mutation::Copy { from, uids, to } => copy_move::decide(cx, *from, uids, to, false),
        Mutation::Move { from, uids, to } => copy_move::decide(cx, *from, uids, to, true),
        Mutation::SetAcl(change) => mailboxes::decide_acl(cx, change),
        Mutation::SetQuota(limits) => quota::decide(cx, limits),
        Mutation::SetMetadata { mailbox, entries } => metadata::decide(cx, mailbox.as_ref(), entries),
    }
}
