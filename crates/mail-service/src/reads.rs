//! Computing the answer of a read on this node's tables. That it may be told is the caller's matter.

use crate::node::{Local, Shard};
use parliament_ids::limits::BODY_PIECE_BYTES;
use parliament_ids::{AccountId, BodyHash, MailboxId, Rights, Uid, UidSet};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{Answer, Call, Delta, Rejection, Reply, Request, Unserved};
use parliament_mail_reads::{Parsing, ReadError, fetch_page, search_page};
use parliament_mailbox_state::{TableFault, Tables, view};
use std::sync::atomic::Ordering;

/// How often a read of several records is repeated when the account changed meanwhile.
const STEADY_TRIES: usize = 16;

/// Rows of records that may be read between two turns of other requests.
const QUICK_ROWS: u64 = 1000;

fn fault(fault: &TableFault) -> Unserved {
    tracing::error!(%fault, "a record of the tables");
    Unserved::Busy
}

impl Local {
    /// Reads several records of one account at one moment: repeated while the account's state hash changes under it. A mailbox
    /// that never rests is read anyway in the end: views read the counters first, and what is newer than those is told again
    /// with the next delta, so a session only learns some things twice.
    pub(crate) fn steady<T>(&self, shard: &Shard, account: AccountId, read: impl Fn() -> Result<T, TableFault>) -> Result<T, Unserved> {
        let tables = shard.group.tables();
        let mut before = view::state_hash(tables, account).map_err(|f| fault(&f))?;
        for _ in 0..STEADY_TRIES {
            let value = read().map_err(|f| fault(&f))?;
            let after = view::state_hash(tables, account).map_err(|f| fault(&f))?;
            if before == after {
                return Ok(value);
            }
            before = after;
        }
        read().map_err(|f| fault(&f))
    }

    pub(crate) fn answer(&self, shard: &Shard, call: &Call) -> Result<Answer, Unserved> {
        let outcome = match &call.body {
            // The tables are read as for any quick read; to give this thread's other work away costs more than that.
            Request::Fetch(request) if !request.items.need_body() && request.uids.len() <= QUICK_ROWS => self.long_read(shard, call)?,
            Request::Fetch(_) | Request::Search(_) | Request::ReadBody { .. } | Request::ReadOn { .. } => {
                tokio::task::block_in_place(|| self.long_read(shard, call))?
            }
            _ => self.steady(shard, call.owner, || quick_read(shard.group.tables(), call))?,
        };
        Ok(Answer { outcome, delta: self.delta(shard, call)? })
    }

    /// What changed since the session's mark. Also where the promise that a UIDNEXT never falls is watched: each told value is
    /// compared with what this node had told of the mailbox before the read began.
    pub(crate) fn delta(&self, shard: &Shard, call: &Call) -> Result<Option<Delta>, Unserved> {
        let Some(mark) = &call.view else { return Ok(None) };
        let told_before = self.told.uid_next(call.owner, mark.mailbox);
        let delta = self.steady(shard, call.owner, || view::delta(shard.group.tables(), call.owner, call.actor, mark))?;
        if !delta.gone {
            if delta.uid_next < told_before {
                self.counters.uid_regressions.fetch_add(1, Ordering::Relaxed);
                tracing::error!(account = %call.owner, mailbox = %mark.mailbox, uid_next = %delta.uid_next, %told_before, "UIDNEXT fell");
            }
            self.told.tell(call.owner, mark.mailbox, delta.uid_next);
        }
        Ok(Some(delta))
    }

    fn long_read(&self, shard: &Shard, call: &Call) -> Result<Result<Reply, Rejection>, Unserved> {
        let tables = shard.group.tables();
        let parsing = Parsing { bodies: &*self.bodies, cache: self.bodies.parsed() };
        let mailbox = match &call.body {
            // The right to read was there when the body was begun.
            Request::ReadOn { hash, offset, length } => return self.read_on(hash, *offset, *length),
            Request::Fetch(request) => request.mailbox,
            Request::Search(request) => request.mailbox,
            Request::ReadBody { mailbox, .. } => *mailbox,
            _ => return Ok(Err(Rejection::Cannot)),
        };
        if let Err(rejection) = may_read(tables, call, mailbox).map_err(|f| fault(&f))? {
            return Ok(Err(rejection));
        }
        let read = match &call.body {
            Request::Fetch(request) => fetch_page(tables, &parsing, call.owner, request).map(|page| page.map(Reply::Fetched)),
            Request::Search(request) => search_page(tables, &parsing, call.owner, request).map(|page| Ok(Reply::Found(page))),
            Request::ReadBody { uid, offset, length, .. } => self.piece(shard, call.owner, mailbox, *uid, *offset, *length),
            _ => Ok(Err(Rejection::Cannot)),
        };
        match read {
            Ok(outcome) => Ok(outcome),
            Err(ReadError::Tables(damage)) => Err(fault(&damage)),
            Err(ReadError::Body(hash)) => {
                self.bodies.want(hash, true);
                Err(Unserved::BodyUnavailable)
            }
        }
    }

    fn read_on(&self, hash: &BodyHash, offset: u64, length: u32) -> Result<Result<Reply, Rejection>, Unserved> {
        match self.bodies.read_range(hash, offset, (length as usize).min(BODY_PIECE_BYTES)) {
            Ok(piece) => Ok(Ok(Reply::Piece(BytesField(piece)))),
            Err(_) => {
                self.bodies.want(*hash, true);
                Err(Unserved::BodyUnavailable)
            }
        }
    }

    fn piece(
        &self,
        shard: &Shard,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
        offset: u64,
        length: u32,
    ) -> Result<Result<Reply, Rejection>, ReadError> {
        let mut hash = None;
        view::message_rows(shard.group.tables(), account, mailbox, &UidSet::one(uid), &mut |row| {
            hash = Some(row.hash);
            false
        })?;
        let Some(hash) = hash else { return Ok(Err(Rejection::Expunged)) };
        let length = (length as usize).min(BODY_PIECE_BYTES);
        let piece = self.bodies.read_range(&hash, offset, length).map_err(ReadError::from)?;
        Ok(Ok(Reply::Piece(BytesField(piece))))
    }
}

fn may_read(tables: &dyn Tables, call: &Call, mailbox: MailboxId) -> Result<Result<(), Rejection>, TableFault> {
    if view::name_of(tables, call.owner, mailbox)?.is_none() {
        return Ok(Err(Rejection::NoSuchMailbox));
    }
    let rights = view::rights(tables, call.owner, call.actor, mailbox)?;
    Ok(if rights.contains(Rights::READ) {
        Ok(())
    } else if rights.contains(Rights::LOOKUP) {
        Err(Rejection::NoPermission)
    } else {
        Err(Rejection::NoSuchMailbox)
    })
}

fn quick_read(tables: &dyn Tables, call: &Call) -> Result<Result<Reply, Rejection>, TableFault> {
    Ok(match &call.body {
        Request::Sync => Ok(Reply::Done),
        Request::Select(request) => view::select(tables, call.owner, call.actor, &request.mailbox)?.map(|s| Reply::Selected(Box::new(s))),
        Request::Status(request) => view::status(tables, call.owner, call.actor, &request.name)?.map(Reply::Status),
        Request::List(request) => Ok(Reply::List(view::list(tables, call.owner, call.actor, request)?)),
        Request::GetQuota => match view::quota(tables, call.owner)? {
            Some((limits, usage)) => Ok(Reply::Quota { limits, usage }),
            None => Err(Rejection::NoSuchAccount),
        },
        Request::MyRights { name } => match view::resolve(tables, call.owner, name)? {
            Some(mailbox) => Ok(Reply::MyRights(view::rights(tables, call.owner, call.actor, mailbox)?)),
            None => Err(Rejection::NoSuchMailbox),
        },
        _ => Err(Rejection::Cannot),
    })
}
