//! A request at its user's holder.

use crate::clock::{boot_ms, unix_seconds};
use crate::node::{Local, Shard};
use crate::propose::TryError;
use bytes::Bytes;
use parliament_bodies::Receipt;
use parliament_ids::limits::{JOURNAL_BODY_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGES_PER_ENTRY_MAX};
use parliament_ids::{Fence, GroupId, NodeId, OpNo, ThreadId};
use parliament_mail_api::{Answer, AppendMessage, BodySource, Call, Rejection, Reply, Request, SectionKind, Unserved};
use parliament_mailbox_state::{Acquire, NewMessage, Op, OwnerRecord, Refusal, UserCommand};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause before a proposal whose outcome is unknown is made again.
const PROPOSE_PAUSE: Duration = Duration::from_millis(15);
/// How much of a message's head is looked at for its Message-ID and References.
const THREAD_HEAD_BYTES: usize = 64 * 1024;

/// A body on its way into an entry: the proof that it is stored here, and what the entry says of it.
struct Stored {
    receipt: Receipt,
    message: NewMessage,
}

impl Local {
    /// Serves a request of a user whose lease this node owns, as far as its tables say, or takes with a change's own entry.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        group: GroupId,
        call: &Call,
        acquire: Option<Acquire>,
        deadline: u64,
    ) -> Result<Answer, Unserved> {
        let shard = &*self.shard(group).ok_or(Unserved::NotHolder { hint: None })?;
        self.counters.served.fetch_add(1, Ordering::Relaxed);
        match &call.body {
            Request::Upload { upload, offset, bytes } => {
                let outcome = self.bodies.upload(*upload, *offset, &bytes.0).map(|()| Reply::Done);
                Ok(Answer { outcome, delta: None })
            }
            Request::Append { to, messages } => match self.store_all(shard, messages).await? {
                Ok(stored) => {
                    let op = Op::Append { to: to.clone(), messages: stored.iter().map(|s| s.message.clone()).collect() };
                    self.mutate(group, shard, call, op, &stored, acquire, deadline).await
                }
                Err(rejection) => Ok(Answer { outcome: Err(rejection), delta: None }),
            },
            Request::Deliver(delivery) => match self.store_all(shard, std::slice::from_ref(&delivery.message)).await? {
                Ok(stored) => {
                    let Some(first) = stored.first() else { return Err(Unserved::Busy) };
                    let op = Op::Deliver { to: delivery.to.clone(), message: first.message.clone(), dedupe: delivery.dedupe };
                    self.mutate(group, shard, call, op, &stored, acquire, deadline).await
                }
                Err(rejection) => Ok(Answer { outcome: Err(rejection), delta: None }),
            },
            Request::Mutate(mutation) => self.mutate(group, shard, call, Op::Mutate(mutation.clone()), &[], acquire, deadline).await,
            _ => self.read(group, shard, call).await,
        }
    }

    /// Proposes until the outcome is known or the deadline passes. `stored` proves that every body the operation names is
    /// stored on this node ahead of the entry, and keeps it pinned meanwhile. The first try takes the lease with `acquire`; it may
    /// do so even if its outcome stays unknown, and the next ones go by what this replica has applied.
    #[expect(clippy::too_many_arguments, reason = "each is one thing a proposal needs")]
    async fn mutate(
        self: &Arc<Self>,
        group: GroupId,
        shard: &Shard,
        call: &Call,
        op: Op,
        stored: &[Stored],
        mut acquire: Option<Acquire>,
        deadline: u64,
    ) -> Result<Answer, Unserved> {
        if call.request.is_none() {
            return Ok(Answer { outcome: Err(Rejection::StaleRequest), delta: None });
        }
        debug_assert!(stored.iter().all(|body| body.receipt.hash() == body.message.hash));
        let (mut least, began) = (OpNo(0), boot_ms());
        let held = acquire.is_none().then(|| self.support.boot());
        loop {
            let (fence, last) = match &acquire {
                Some(acquire) => (acquire.expect_fence.next(), OpNo(0)),
                None => self.held(shard, call).map(|record| (record.fence, record.last_op_no))?,
            };
            let command = UserCommand {
                account: call.owner,
                fence,
                op_no: self.leases.next_op(call.owner, fence, last.max(least)),
                request: call.request,
                actor: call.actor,
                time: unix_seconds(),
                acquire: acquire.take(),
                op: op.clone(),
            };
            let failed = match self.try_user(group, command).await {
                Ok(applied) => match applied.outcome {
                    Ok(reply) => return self.with_delta(shard, call, fence, Ok(reply)),
                    Err(Refusal::Rejected(rejection)) => return self.with_delta(shard, call, fence, Err(rejection)),
                    Err(Refusal::StaleFence { owner, .. }) => {
                        self.counters.stale_fences.fetch_add(1, Ordering::Relaxed);
                        return Err(Unserved::NotHolder { hint: owner.map(|owner| owner.node) });
                    }
                    Err(Refusal::Frozen { .. }) => return Err(Unserved::NotHolder { hint: None }),
                    Err(Refusal::Moved { to }) => return Err(Unserved::Moved { group: to }),
                    Err(Refusal::OutOfOrder { last }) => {
                        least = last;
                        continue;
                    }
                },
                Err(TryError::TooLarge) => return Ok(Answer { outcome: Err(Rejection::Limit), delta: None }),
                Err(TryError::NotLeader) => Unserved::NoQuorum,
                Err(TryError::Unknown) => Unserved::OutcomeUnknown,
            };
            if self.is_stuck(group, began) {
                held.into_iter().for_each(|boot| self.give_up(group, boot));
                return Err(Unserved::NotHolder { hint: None });
            }
            if boot_ms() >= deadline {
                return Err(failed);
            }
            tokio::time::sleep(PROPOSE_PAUSE).await;
        }
    }

    /// The owner record, if it still names this node and its present boot.
    fn held(&self, shard: &Shard, call: &Call) -> Result<OwnerRecord, Unserved> {
        // A replica that was closed here is applied no further, whatever its tables say.
        if shard.has_stopped() {
            return Err(Unserved::NotHolder { hint: None });
        }
        let record = self.owner_record(shard, call.owner)?.ok_or(Unserved::NotHolder { hint: None })?;
        match record.owner {
            Some(owner) if owner.node == self.me && owner.boot == self.support.boot() => Ok(record),
            other => Err(Unserved::NotHolder { hint: other.map(|owner| owner.node) }),
        }
    }

    /// That this node holds the user under the same fence as before. Asked *after* the tables were read, too: once a user has left,
    /// its records are swept away under whoever reads them, and an answer made of what was left would tell of lost mail.
    fn still_held(&self, shard: &Shard, call: &Call, fence: Fence) -> Result<(), Unserved> {
        if self.held(shard, call)?.fence == fence { Ok(()) } else { Err(Unserved::NotHolder { hint: None }) }
    }

    /// An answer with what changed since the session's mark, the call's own change included. Where the user left meanwhile, the same
    /// request gets its recorded reply from the next holder.
    fn with_delta(&self, shard: &Shard, call: &Call, fence: Fence, outcome: Result<Reply, Rejection>) -> Result<Answer, Unserved> {
        if call.view.is_none() {
            return Ok(Answer { outcome, delta: None });
        }
        let delta = self.delta(shard, call);
        self.still_held(shard, call, fence)?;
        Ok(Answer { outcome, delta: delta? })
    }

    /// Answers a read: from the own tables while a majority's promises hold before *and* after computing, else behind a barrier of
    /// the group.
    async fn read(self: &Arc<Self>, group: GroupId, shard: &Shard, call: &Call) -> Result<Answer, Unserved> {
        let record = self.held(shard, call)?;
        // The boot of the record: the present one may have begun since, and its promises say nothing of this ownership.
        let Some(boot) = record.owner.map(|owner| owner.boot) else { return Err(Unserved::NotHolder { hint: None }) };
        let trusted = || self.support.reads_locally(boot) && !self.leases.is_yielding(call.owner, record.fence);
        // Held until the answer is made; whoever waits for it has its own deadline. Nobody closes the semaphore.
        let _permit = if takes_bodies_apart(&call.body) { self.long_reads.acquire().await.ok() } else { None };
        // The wait may have been longer than the user stayed.
        self.still_held(shard, call, record.fence)?;
        if trusted() {
            let answer = self.answer(shard, call);
            if trusted() {
                self.still_held(shard, call, record.fence)?;
                return answer;
            }
        }
        self.counters.barrier_reads.fetch_add(1, Ordering::Relaxed);
        self.read_barrier(group).await?;
        self.still_held(shard, call, record.fence)?;
        let answer = self.answer(shard, call);
        self.still_held(shard, call, record.fence)?;
        answer
    }

    /// Stores bodies here and sends them to the group's other replicas, ahead of the entry that will name them.
    async fn store_all(self: &Arc<Self>, shard: &Shard, messages: &[AppendMessage]) -> Result<Result<Vec<Stored>, Rejection>, Unserved> {
        if messages.is_empty() || messages.len() > MESSAGES_PER_ENTRY_MAX {
            return Ok(Err(Rejection::Limit));
        }
        let mut stored = Vec::with_capacity(messages.len());
        for message in messages {
            match self.store(shard, message).await? {
                Ok(one) => stored.push(one),
                Err(rejection) => return Ok(Err(rejection)),
            }
        }
        Ok(Ok(stored))
    }

    async fn store(self: &Arc<Self>, shard: &Shard, message: &AppendMessage) -> Result<Result<Stored, Rejection>, Unserved> {
        let others = self.others(shard.group.id());
        let (bytes, receipt) = match &message.body {
            BodySource::Inline(bytes) if bytes.0.len() > JOURNAL_BODY_BYTES_MAX => return Ok(Err(Rejection::TooBig)),
            BodySource::Inline(bytes) => (bytes.0.clone(), self.bodies.put_small(bytes.0.clone(), others.into_iter()).await?),
            BodySource::Uploaded { size, .. } if *size > MESSAGE_BYTES_MAX * 2 => return Ok(Err(Rejection::TooBig)),
            BodySource::Uploaded { upload, size, hash } => match self.bodies.put_upload(*upload, *size, *hash, others.into_iter()).await? {
                Ok((bytes, receipt)) => (bytes, receipt),
                Err(rejection) => return Ok(Err(rejection)),
            },
        };
        let new = NewMessage {
            hash: receipt.hash(),
            size: receipt.size(),
            internal_date: message.internal_date,
            flags: message.flags.clone(),
            thread: self.thread(&bytes),
        };
        Ok(Ok(Stored { receipt, message: new }))
    }

    /// The other nodes with a copy of a group and its bodies. Those without a vote too: what they have when the entry comes need not be asked for.
    fn others(&self, group: GroupId) -> Vec<NodeId> {
        let layout = self.layout();
        let Some(place) = layout.groups.get(&group) else { return Vec::new() };
        place.voters.iter().chain(&place.learners).copied().filter(|node| *node != self.me && !layout.bodiless.contains(node)).collect()
    }

    /// THREADID: a keyed hash of the Message-ID of the thread's root, so that a conversation has one id without any state; a
    /// message without ids is a thread of its own.
    fn thread(&self, bytes: &Bytes) -> ThreadId {
        let head = &bytes[..bytes.len().min(THREAD_HEAD_BYTES)];
        let end = memchr::memmem::find(head, b"\r\n\r\n").map_or(head.len(), |at| at + 4);
        let structure = parliament_mime::Structure::parse(&head[..end]);
        let hash = match parliament_mime::thread_root(&head[..end], &structure) {
            Some(id) => blake3::keyed_hash(&self.thread_key, &id),
            None => blake3::keyed_hash(&self.thread_key, bytes),
        };
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        // RFC 8474 wants an id that is never 0-length; 0 is kept for "none".
        ThreadId(u64::from_le_bytes(first).max(1))
    }
}

/// True for a page of FETCH or SEARCH that parses messages, not for one that only reads records or a whole body.
fn takes_bodies_apart(request: &Request) -> bool {
    match request {
        Request::Search(_) => true,
        Request::Fetch(fetch) => {
            let items = &fetch.items;
            items.need_parsed() || items.sections.iter().any(|section| !section.path.is_empty() || section.kind != SectionKind::Whole)
        }
        _ => false,
    }
}
