//! Events change the tables. Only this and what it calls write.

use crate::applied::{Change, OwnerRecord};
use crate::event::Event;
use crate::port::TableFault;
use crate::work::Work;
use crate::{acl, append, copy_move, dedupe, expunge, lease, mailboxes, metadata, names, rename, store};
use parliament_mail_api::Reply;

/// Carries out one event and gives the reply that it makes, if it makes one.
pub(crate) fn evolve(work: &mut Work<'_, '_>, event: Event) -> Result<Option<Reply>, TableFault> {
    Ok(match event {
        Event::MailboxMade { name, special_use, acl_of } => {
            Some(Reply::Created { mailbox: mailboxes::make(work, &name, &special_use, acl_of)? })
        }
        Event::MailboxRemoved { name, mailbox } => {
            mailboxes::remove(work, &name, mailbox)?;
            None
        }
        Event::TreeMoved { from, to } => {
            names::move_tree(work, &from, &to)?;
            work.names_touched();
            None
        }
        Event::MailboxRenamed { from, to, mailbox } => {
            rename::evolve_mailbox(work, &from, &to, mailbox)?;
            work.names_touched();
            None
        }
        Event::Subscribed { name, on } => {
            names::edit(work, &name, |node| node.subscribed = on)?;
            work.names_touched();
            None
        }
        Event::Arrived { mailbox, new_keywords, arrivals } => Some(append::evolve(work, mailbox, &new_keywords, &arrivals)?),
        Event::Delivered { mailbox, new_keywords, arrival, dedupe } => {
            Some(append::evolve_delivery(work, mailbox, &new_keywords, &arrival, &dedupe)?)
        }
        Event::FlagsChanged { mailbox, uids, edit, new_keywords, modified, missing } => {
            let modseq = store::evolve(work, mailbox, &uids, &edit, &new_keywords)?;
            Some(Reply::Stored { modseq: Some(modseq), modified, missing })
        }
        Event::Vanished { mailbox, uids } => {
            let modseq = expunge::evolve(work, mailbox, &uids, true)?;
            Some(Reply::Expunged { uids, modseq: Some(modseq) })
        }
        Event::Transferred(transfer) => Some(copy_move::evolve(work, &transfer)?),
        Event::AclChanged { mailbox, entry } => {
            acl::set(work, mailbox, &entry)?;
            work.names_touched();
            work.touched(mailbox);
            None
        }
        Event::QuotaSet(limits) => {
            work.head.limits = limits;
            work.names_touched();
            None
        }
        Event::MetadataChanged { mailbox, entries, reader } => {
            metadata::evolve(work, mailbox, &entries, reader)?;
            None
        }
        Event::DedupeRotated => {
            dedupe::rotate(work)?;
            None
        }
        Event::LeasePassed(owner) => {
            let lease = lease::passed_to(&work.head.lease, owner);
            set_lease(work, lease);
            None
        }
        Event::LeaseReleased => {
            release(work);
            None
        }
        Event::Frozen { move_id, to } => {
            (work.head.last_move, work.head.frozen_for) = (move_id, Some(to));
            release(work);
            None
        }
    })
}

fn release(work: &mut Work<'_, '_>) {
    let lease = OwnerRecord { owner: None, ..work.head.lease };
    set_lease(work, lease);
}

/// Writes the lease and tells of a new owner or fence.
pub(crate) fn set_lease(work: &mut Work<'_, '_>, lease: OwnerRecord) {
    if (lease.owner, lease.fence) != (work.head.lease.owner, work.head.lease.fence) {
        work.changes.push(Change::Owner { account: work.account, owner: lease.owner, fence: lease.fence });
    }
    work.head.lease = lease;
}
