//! Applying a log entry: admission by fence, number and session first, then the decision, then its events.

use crate::account::{self, AccountRecord, Head};
use crate::applied::{Applied, Change, Refusal};
use crate::command::{Command, UserCommand};
use crate::decide::{Context, Stop, decide};
use crate::evolve::{evolve, set_lease};
use crate::keys::{self, Table};
use crate::port::{Overlay, TableFault, Tables};
use crate::work::Work;
use crate::{clock, lease, mailboxes, messages, moves, session_record};
use parliament_ids::{AccountId, BodyHash, Boot, Fence, MailboxName, NodeId, RequestId, UidSet, UidValidity};
use parliament_ids::{Uid, limits::MAILBOXES_PER_ACCOUNT_MAX};
use parliament_mail_api::{Rejection, Reply};
use std::collections::BTreeSet;

/// Applies one command. `index` is the log index; it names the entry in faults only, so that tables do not depend on it.
///
/// The result, and what the overlay then holds, depend on the tables and the command alone. Cost is linear in the messages
/// touched, plus a handful of records.
///
/// # Errors
/// [`TableFault`] when a record cannot be read: the overlay must be dropped, and this replica of the group must stop.
pub fn apply(tables: &mut Overlay<'_>, index: u64, command: &Command) -> Result<Applied, TableFault> {
    let applied = match command {
        Command::User(command) => apply_user(tables, command),
        Command::CreateAccount { account, uid_validity_floor, time } => create(tables, *account, UidValidity(*uid_validity_floor), *time),
        Command::DeleteAccount { account } => delete(tables, *account),
        Command::SessionsOver { node, boot, below } => sessions_over(tables, *node, *boot, *below),
        Command::Move(command) => moves::apply(tables, command),
    };
    applied.map_err(|fault| TableFault { what: format!("entry {index}: {}", fault.what) })
}

fn refused(refusal: Refusal, fence: Fence) -> Applied {
    Applied { outcome: Err(refusal), fence, changes: Vec::new() }
}

pub(crate) fn rejected(rejection: Rejection) -> Applied {
    refused(Refusal::Rejected(rejection), Fence(0))
}

pub(crate) fn done(changes: Vec<Change>) -> Applied {
    Applied { outcome: Ok(Reply::Done), fence: Fence(0), changes }
}

fn apply_user(tables: &mut Overlay<'_>, command: &UserCommand) -> Result<Applied, TableFault> {
    let head = match account::read(tables, command.account)? {
        Some(AccountRecord::Live(head)) => *head,
        Some(AccountRecord::Absent(absent)) => return Ok(refused(Refusal::Moved { to: absent.at }, Fence(0))),
        Some(AccountRecord::Tombstone(_)) | None => return Ok(rejected(Rejection::NoSuchAccount)),
    };
    // Before anything else, an acquire too: the image that the target takes over is the one of the moment of the freeze.
    if let Some(to) = head.frozen_for {
        return Ok(refused(Refusal::Frozen { to }, head.lease.fence));
    }
    let lease = match lease::admit(&head.lease, command) {
        Ok(lease) => lease,
        Err(refusal) => return Ok(refused(refusal, head.lease.fence)),
    };
    let now = clock::advance(tables, command.time)?;
    let mut work = Work::begin(tables, command.account, head, now);
    set_lease(&mut work, lease);
    let outcome = match known_outcome(&work, command.request.as_ref())? {
        Some(outcome) => outcome,
        None => {
            let outcome = carry_out(&mut work, command)?;
            if let Some(request) = &command.request {
                session_record::record(&mut work, request, &outcome)?;
            }
            outcome
        }
    };
    let fence = work.head.lease.fence;
    Ok(Applied { outcome: outcome.map_err(Refusal::Rejected), fence, changes: work.finish()? })
}

/// The answer to a request that was answered before, or that is too old to be answered.
fn known_outcome(work: &Work<'_, '_>, request: Option<&RequestId>) -> Result<Option<Result<Reply, Rejection>>, TableFault> {
    let Some(request) = request else { return Ok(None) };
    if session_record::is_over(work, &request.session)? {
        return Ok(Some(Err(Rejection::StaleRequest)));
    }
    Ok(match session_record::last(work, work.account, &request.session)? {
        Some((seq, outcome)) if seq == request.seq => Some(outcome),
        Some((seq, _)) if seq > request.seq => Some(Err(Rejection::StaleRequest)),
        _ => None,
    })
}

fn carry_out(work: &mut Work<'_, '_>, command: &UserCommand) -> Result<Result<Reply, Rejection>, TableFault> {
    let cx = Context { tables: &*work, account: command.account, actor: command.actor, head: &work.head, now: work.now };
    let decision = match decide(&cx, &command.op) {
        Ok(decision) => decision,
        Err(Stop::Rejected(rejection)) => return Ok(Err(rejection)),
        Err(Stop::Fault(fault)) => return Err(fault),
    };
    let mut last = None;
    for event in decision.events {
        last = evolve(work, event)?;
    }
    Ok(Ok(decision.reply.or(last).unwrap_or(Reply::Done)))
}

fn create(tables: &mut Overlay<'_>, account: AccountId, floor: UidValidity, time: i64) -> Result<Applied, TableFault> {
    match account::read(tables, account)? {
        Some(AccountRecord::Live(head)) => return Ok(refused(Refusal::Rejected(Rejection::AlreadyExists), head.lease.fence)),
        Some(AccountRecord::Tombstone(_)) => return Ok(rejected(Rejection::NoSuchAccount)),
        // Whoever proposes this has an old directory.
        Some(AccountRecord::Absent(absent)) => return Ok(refused(Refusal::Moved { to: absent.at }, Fence(0))),
        None if floor.0 > u32::MAX - MAILBOXES_PER_ACCOUNT_MAX => return Ok(rejected(Rejection::Exhausted)),
        None => {}
    }
    let now = clock::advance(tables, time)?;
    let mut work = Work::begin(tables, account, Head::new(floor), now);
    mailboxes::make(&mut work, &MailboxName::inbox(), &[], None)?;
    Ok(done(work.finish()?))
}

fn delete(tables: &mut Overlay<'_>, account: AccountId) -> Result<Applied, TableFault> {
    let Some(head) = account::head(tables, account)? else { return Ok(rejected(Rejection::NoSuchAccount)) };
    // Group 0 deletes no account that is on its way.
    if head.frozen_for.is_some() {
        return Ok(rejected(Rejection::Cannot));
    }
    let floor = head.uid_validity;
    let owned = head.lease.owner.is_some();
    let hashes = bodies_of(tables, account)?;
    for session in session_record::sessions(tables, account)? {
        tables.delete(keys::session_index(&session, account));
    }
    for table in Table::OF_ACCOUNT {
        let prefix = keys::of(table, account);
        let mut gone = Vec::new();
        tables.scan(&prefix, &keys::end(&prefix), &mut |key, _| {
            gone.push(key.to_vec());
            true
        })?;
        gone.into_iter().for_each(|key| tables.delete(key));
    }
    tables.put(account::key(account), account::encode_tombstone(floor));
    let mut changes = vec![Change::Names { account }];
    if owned {
        changes.push(Change::Owner { account, owner: None, fence: head.lease.fence });
    }
    changes.extend(hashes.into_iter().map(|hash| Change::BodyReleased { account, hash }));
    Ok(done(changes))
}

fn bodies_of(tables: &dyn Tables, account: AccountId) -> Result<BTreeSet<BodyHash>, TableFault> {
    let mut hashes = BTreeSet::new();
    for (mailbox, _) in crate::counters::all(tables, account)? {
        messages::visit_rows(tables, account, mailbox, &UidSet::range(Uid(1), Uid(u32::MAX)), &mut |row| {
            hashes.insert(row.hash);
            true
        })?;
    }
    Ok(hashes)
}

pub(crate) fn sessions_over(tables: &mut Overlay<'_>, node: NodeId, boot: Boot, below: u64) -> Result<Applied, TableFault> {
    if (boot, below) <= session_record::watermark(tables, node)? {
        return Ok(done(Vec::new()));
    }
    tables.put(keys::watermark(node), session_record::encode_watermark(boot, below));
    let over = session_record::below(tables, node, boot, below)?;
    for of_account in over.chunk_by(|a, b| a.0 == b.0) {
        let Some((account, _)) = of_account.first() else { continue };
        let Some(head) = account::head(tables, *account)? else { continue };
        // The image of one that is on its way stays as it is; the next mark finds these records again.
        if head.frozen_for.is_some() {
            continue;
        }
        let mut work = Work::begin(tables, *account, head, 0);
        for (_, session) in of_account {
            session_record::forget(&mut work, session)?;
        }
        work.finish()?;
    }
    Ok(done(Vec::new()))
}
