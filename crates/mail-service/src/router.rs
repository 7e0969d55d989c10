//! Where a request goes: served here, relayed, or served after taking the lease; and what happens when that fails half-way. Every
//! try repeats the request under its own id, so that it takes effect once whatever was lost.

use crate::clock::{boot_ms, unix_seconds};
use crate::node::{Local, Shard};
use async_trait::async_trait;
use bytes::Bytes;
use parliament_cluster_state::AccountRecord;
use parliament_formats::{decode_answer, decode_call, encode_answer, encode_call};
use parliament_ids::limits::REQUEST_DEADLINE_MS;
use parliament_ids::{AccountId, Boot, Fence, GroupId, MailboxId, NodeId, OpNo};
use parliament_mail_api::{Answer, Call, Changed, Delta, MailService, Rejection, Request, Unserved, Watch};
use parliament_mailbox_state::view::{self, Presence};
use parliament_mailbox_state::{Acquire, Command, Evidence, Op, OwnerRecord, UserCommand};
use parliament_routing::{Facts, OwnerFacts, Step, decide, heir};
use parliament_rpc::{LinkError, Method};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A relayed request is served or refused within this, ms; the frontend then looks around again.
const RELAYED_DEADLINE_MS: u64 = 6_000;
/// How often a watch looks again at a node without a copy of the user's group.
const AFAR_LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How often a relay in flight asks whether its holder is still heard from.
const LIVENESS_CHECK: Duration = Duration::from_millis(50);
/// How often a holder is asked again that has not applied yet what was applied here, and the pause between two times.
const LOOKS_MAX: u32 = 50;
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// How long one gathering of withdrawals may take before the facts are looked at again, ms.
const WITHDRAWAL_ROUND_MS: u64 = 800;
/// The same while the owner is heard from: it will hardly be withdrawn, and the facts may look better soon, ms.
const LIVE_OWNER_ROUND_MS: u64 = 150;
/// Pause before it is looked again for a user on the move, ms: moves are rare, and clients wait.
const MOVING_PAUSE_MS: u64 = 5;
/// Pause between tries, ms: doubled from the first to the second.
const PAUSE_MS: (u64, u64) = (4, 40);
/// The same, ms, for so many tries in which a node named the next holder: it will serve as soon as it has applied the handover.
const TOLD_PAUSE_MS: u64 = 2;
const TOLD_TRIES: u32 = 15;
/// How often a lost user's heir is asked again that still hears the former holder, or cannot take the lease yet. With the pauses between, a
/// little longer than promises run: a broken link tells one node at once what another knows only when they have run out.
const HEIR_TRIES: u32 = 25;

/// The mail service that frontends of this node hold.
pub struct Router(Arc<Local>);

impl Router {
    /// A router over this node.
    #[must_use]
    pub fn new(local: Arc<Local>) -> Self {
        Self(local)
    }
}

#[async_trait]
impl MailService for Router {
    async fn call(&self, call: Call) -> Result<Answer, Unserved> {
        self.0.route(call, None).await
    }
    fn watch(&self, owner: AccountId, mailbox: MailboxId) -> Box<dyn Watch> {
        Box::new(Watching { inner: self.0.hub.watch(owner, mailbox), local: self.0.clone(), owner })
    }
}

/// A watch that looks again from time to time where nothing is applied that could wake it. [`Local::hear_of_changes`] tells of changes
/// elsewhere at once; this bounds the wait while the node that it asks is away.
struct Watching {
    inner: Box<dyn Watch>,
    local: Arc<Local>,
    owner: AccountId,
}

#[async_trait]
impl Watch for Watching {
    async fn changed(&mut self) -> Changed {
        let row = self.local.account(self.owner).ok().flatten();
        // A copy that is closed wakes all watches, and so does a user who leaves it, so that this is asked again.
        if row.is_some_and(|row| self.local.is_home(row.group, self.owner)) {
            return self.inner.changed().await;
        }
        tokio::select! {
            changed = self.inner.changed() => changed,
            () = tokio::time::sleep(AFAR_LOOK_INTERVAL) => Changed,
        }
    }
}

/// Which node to ask about a user whose group has no replica here.
struct Guess {
    /// The node that is thought to hold the lease.
    node: Option<NodeId>,
    /// Which of the group's nodes is asked otherwise.
    turn: usize,
}

impl Guess {
    /// The node asked did not serve.
    fn missed(&mut self, unserved: &Unserved) {
        self.node = match unserved {
            Unserved::NotHolder { hint } => *hint,
            _ => None,
        };
        self.turn += usize::from(self.node.is_none());
    }
}

/// How a lease may be taken.
pub(crate) enum Prepared {
    /// This node owns it already.
    Held,
    /// Not now, or not from that owner.
    Denied,
    Ready(Taking),
}

/// What an entry needs that takes a lease.
pub(crate) struct Taking {
    pub(crate) acquire: Acquire,
    from: Option<(NodeId, Boot)>,
    started_ms: u64,
    _one_at_a_time: tokio::sync::OwnedMutexGuard<()>,
    _acquiring: crate::node::Acquiring,
}

/// What this node knows before it serves or sends on a request.
enum Sight {
    /// The facts of the user's group.
    Home(Facts),
    /// The user is on the way to or from this group: it is looked again soon.
    OnTheWay,
    /// The user lives in another group.
    At(GroupId),
}

fn is_ahead(here: &Delta, told: &Delta) -> bool {
    !told.gone && (here.gone || here.modseq > told.modseq)
}

/// True when a user's heir has refused because it still hears the former holder, or could not take the lease yet.
fn is_early(facts: &Facts, asked: NodeId, unserved: &Unserved) -> bool {
    let Unserved::NotHolder { hint } = unserved else { return false };
    facts.heir == Some(asked) && facts.owner.is_some_and(|owner| hint.is_none_or(|named| owner.node == named))
}

fn rejected(rejection: Rejection) -> Answer {
    Answer { outcome: Err(rejection), delta: None }
}

impl Local {
    /// Carries out a request until `deadline_ms`; `relayed_by` tells that another node sent it here.
    pub(crate) async fn route(self: &Arc<Self>, call: Call, relayed_by: Option<NodeId>) -> Result<Answer, Unserved> {
        let deadline = boot_ms() + if relayed_by.is_some() { RELAYED_DEADLINE_MS } else { REQUEST_DEADLINE_MS };
        let Some(mut row) = self.account_or_wait(call.owner, deadline).await? else {
            return Ok(rejected(Rejection::NoSuchAccount));
        };
        let mut directory = row.group;
        let (mut pause, mut denied, mut told, mut told_left) = (PAUSE_MS.0, None, None, TOLD_TRIES);
        let mut guess = Guess { node: self.leases.hint(call.owner), turn: 0 };
        let (mut looks, mut heir_left) = (0, HEIR_TRIES);
        loop {
            let seen = self.sight(&row, denied.take(), relayed_by.is_some(), &guess)?;
            let mut facts = match seen {
                Sight::Home(facts) => facts,
                Sight::OnTheWay | Sight::At(_) => {
                    let unserved = match seen {
                        Sight::At(group) => Unserved::Moved { group },
                        _ => Unserved::NotHolder { hint: None },
                    };
                    if relayed_by.is_some() || boot_ms() >= deadline {
                        return Err(unserved);
                    }
                    tokio::time::sleep(Duration::from_millis(MOVING_PAUSE_MS)).await;
                    self.look_elsewhere(&mut row, &mut directory, &unserved, &mut guess);
                    continue;
                }
            };
            facts.told = told.take();
            let unheard = facts.owner.filter(|owner| owner.node != self.me && !owner.live && !owner.boot_ended).map(|owner| owner.node);
            if let Some((owner, through)) = unheard.filter(|_| !facts.relayed).and_then(|owner| Some((owner, self.way_around(owner)?)))
                && let Ok(answer) = self.relay_around(owner, through, &call).await
            {
                return Ok(answer);
            }
            let failed = match decide(&facts) {
                Step::Serve => {
                    self.follow.used(call.owner, relayed_by.unwrap_or(self.me), &call.body);
                    match self.serve(row.group, &call, None, deadline).await {
                        Ok(answer) => return Ok(answer),
                        Err(unserved) => unserved,
                    }
                }
                Step::Relay(node) => match self.relay(node, &call).await {
                    Ok(answer) if looks < LOOKS_MAX && self.knows_more(&row, &call, &answer) => {
                        looks += 1;
                        tokio::time::sleep(LOOK_PAUSE).await;
                        continue;
                    }
                    Ok(answer) => {
                        if !facts.replica {
                            self.leases.keep_hint(call.owner, node);
                        }
                        return Ok(answer);
                    }
                    Err(unserved) => {
                        // A holder without a quorum or with full queues is the holder all the same.
                        if matches!(unserved, Unserved::NotHolder { .. } | Unserved::Unreachable) {
                            if !facts.relayed
                                && let Some(holder) = self.unheard_holder(&unserved)
                                && let Ok(answer) = self.relay_around(holder, node, &call).await
                            {
                                return Ok(answer);
                            }
                            if heir_left > 0 && is_early(&facts, node, &unserved) {
                                heir_left -= 1;
                            } else {
                                denied = Some(node);
                                told = self.named_by(node, &unserved);
                                guess.missed(&unserved);
                            }
                        }
                        unserved
                    }
                },
                Step::Acquire { from } => match self.acquire_for(&row, from, &call, deadline).await {
                    Ok(Some(answer)) => return Ok(answer),
                    Ok(None) => {
                        pause = PAUSE_MS.0;
                        continue;
                    }
                    Err(unserved) => match self.around(&row, unheard, &call, facts.relayed).await {
                        Some(answer) => return Ok(answer),
                        None => unserved,
                    },
                },
                Step::Refuse(hint) => Unserved::NotHolder { hint },
                Step::Wait => Unserved::NotHolder { hint: None },
            };
            let refuse_now =
                relayed_by.is_some() && matches!(failed, Unserved::NotHolder { .. } | Unserved::BodyUnavailable | Unserved::Moved { .. });
            if boot_ms() >= deadline || refuse_now {
                return Err(failed);
            }
            self.look_elsewhere(&mut row, &mut directory, &failed, &mut guess);
            if told.is_some() && told_left > 0 {
                told_left -= 1;
                tokio::time::sleep(Duration::from_millis(TOLD_PAUSE_MS)).await;
                continue;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            pause = (pause * 2).min(PAUSE_MS.1);
        }
    }

    /// After a try that failed: the group that the directory names by now, or that the one asked has named. The directory is the last
    /// to hear of a move, so a hint counts until the directory says something new.
    fn look_elsewhere(&self, row: &mut AccountRecord, directory: &mut GroupId, failed: &Unserved, guess: &mut Guess) {
        let before = row.group;
        if let Ok(Some(now)) = self.account(row.id)
            && now.group != *directory
        {
            *directory = now.group;
            *row = now;
        }
        if let Unserved::Moved { group } = failed {
            row.group = *group;
        }
        if row.group != before {
            *guess = Guess { node: None, turn: 0 };
        }
    }

    /// True when a replica of the group is here and the user lives in it, as far as it is applied.
    pub(crate) fn is_home(&self, group: GroupId, account: AccountId) -> bool {
        let Some(shard) = self.shard(group) else { return false };
        matches!(view::presence(shard.group.tables(), account), Ok(Presence::Here { frozen_for: None, .. } | Presence::Unknown))
    }

    /// The live node that the one asked has named as the holder.
    fn named_by(&self, asked: NodeId, unserved: &Unserved) -> Option<NodeId> {
        let Unserved::NotHolder { hint } = unserved else { return None };
        hint.filter(|node| *node != asked && self.support.is_live(*node))
    }

    /// True when this replica has applied changes of the mailbox that the holder's answer does not tell yet: a session that the apply
    /// here woke would wait on, and nothing would wake it for them again.
    fn knows_more(&self, row: &AccountRecord, call: &Call, answer: &Answer) -> bool {
        let (Request::Sync, Some(mark), Some(told)) = (&call.body, &call.view, &answer.delta) else { return false };
        let Some(shard) = self.shard(row.group).filter(|_| self.is_home(row.group, row.id)) else { return false };
        view::delta(shard.group.tables(), call.owner, call.actor, mark).is_ok_and(|here| is_ahead(&here, told))
    }

    /// The account; when it is unknown here, after a barrier of group 0, because this replica may lag.
    async fn account_or_wait(&self, id: AccountId, deadline: u64) -> Result<Option<AccountRecord>, Unserved> {
        let look = || {
            self.account(id).map_err(|fault| {
                tracing::error!(%fault, "directory");
                Unserved::Busy
            })
        };
        if let Some(row) = look()? {
            return Ok(Some(row));
        }
        self.read_barrier_within(GroupId::CLUSTER, deadline.saturating_sub(boot_ms())).await?;
        look()
    }

    fn sight(&self, row: &AccountRecord, denied: Option<NodeId>, relayed: bool, guess: &Guess) -> Result<Sight, Unserved> {
        let Some(shard) = self.shard(row.group).filter(|shard| !shard.has_stopped()) else {
            return Ok(Sight::Home(self.facts_from_afar(row, relayed, guess, None)));
        };
        let owner = self.owner_record(&shard, row.id)?.and_then(|record| record.owner);
        // Nobody owns a user on the move.
        if owner.is_none() {
            match self.presence(&shard, row.id)? {
                Presence::Here { frozen_for: Some(_), .. } | Presence::Absent { arriving: true, .. } => return Ok(Sight::OnTheWay),
                Presence::Absent { at, .. } => return Ok(Sight::At(at)),
                Presence::Here { .. } | Presence::Unknown | Presence::Deleted => {}
            }
        }
        let layout = self.layout();
        // A copy without a vote, or of a node that is to leave, serves what it holds and takes nothing new.
        let mine = owner.is_some_and(|owner| owner.node == self.me && owner.boot == self.support.boot());
        if !mine && !layout.may_hold(row.group, self.me) {
            let likely = owner.map(|owner| owner.node).filter(|node| denied != Some(*node));
            return Ok(Sight::Home(self.facts_from_afar(row, relayed, guess, likely)));
        }
        let leader = self.leader(row.group).filter(|leader| layout.may_hold(row.group, *leader));
        let owner = owner.map(|owner| OwnerFacts {
            node: owner.node,
            boot: owner.boot,
            boot_ended: self.support.boot_ended(owner.node, owner.boot),
            live: self.support.is_live(owner.node),
            denied: denied == Some(owner.node),
        });
        Ok(Sight::Home(Facts {
            me: self.me,
            my_boot: self.support.boot(),
            // A node that stops serves what it still holds, and takes nothing.
            replica: !self.retired.load(Ordering::Acquire),
            owner,
            leader,
            leader_near: leader.is_some_and(|l| denied != Some(l) && self.support.is_live(l)),
            relayed,
            told: None,
            heir: owner
                .filter(|owner| owner.boot_ended || !owner.live || owner.denied)
                .and_then(|owner| self.heir_of(owner.node, row, denied)),
        }))
    }

    fn presence(&self, shard: &Shard, account: AccountId) -> Result<Presence, Unserved> {
        view::presence(shard.group.tables(), account).map_err(|fault| {
            tracing::error!(%fault, %account, "where the user is");
            Unserved::Busy
        })
    }

    /// Without a replica here that may take the lease, one of the group's nodes is asked; it serves, or tells who holds the lease. It may
    /// have to take it, so who is asked first differs from user to user, and is the heir where another node has died.
    fn facts_from_afar(&self, row: &AccountRecord, relayed: bool, guess: &Guess, likely: Option<NodeId>) -> Facts {
        let layout = self.layout();
        // A witness would only ask further.
        let serves = |node: &NodeId| *node != self.me && !layout.bodiless.contains(node);
        let others: Vec<NodeId> = layout.voters(row.group).iter().copied().filter(serves).collect();
        let live: Vec<NodeId> = others.iter().copied().filter(|node| self.support.is_live(*node)).collect();
        let among = if live.is_empty() { &others } else { &live };
        let leader = guess.node.or(likely).filter(|node| among.contains(node)).or_else(|| {
            let first = heir(row.id, among.iter().copied())?;
            let place = among.iter().position(|node| *node == first)?;
            among.get((place + guess.turn) % among.len()).copied()
        });
        // A request that came here by mistake is sent back without a hint.
        let leader = leader.filter(|_| !relayed);
        let (me, my_boot) = (self.me, self.support.boot());
        Facts { me, my_boot, replica: false, owner: None, leader, leader_near: true, relayed, told: None, heir: None }
    }

    pub(crate) fn owner_record(&self, shard: &Shard, account: AccountId) -> Result<Option<OwnerRecord>, Unserved> {
        self.owner(shard, account).map_err(|fault| {
            tracing::error!(%fault, %account, "owner record");
            Unserved::Busy
        })
    }

    /// Sends a request to the holder; given up as soon as the holder is no longer heard from.
    async fn relay(&self, node: NodeId, call: &Call) -> Result<Answer, Unserved> {
        self.relay_as(Method::Relay, node, call).await
    }

    /// Sends a request to a node by one of the methods that carry requests.
    pub(crate) async fn relay_as(&self, method: Method, node: NodeId, call: &Call) -> Result<Answer, Unserved> {
        let peer = self.pool.get(node).ok_or(Unserved::Unreachable)?;
        let payload = encode_call(call).map_err(|_| Unserved::Busy)?;
        self.counters.relayed.fetch_add(1, Ordering::Relaxed);
        let timeout = Duration::from_millis(RELAYED_DEADLINE_MS + 1_000);
        let asking = peer.request(method, payload, timeout);
        let gone = async {
            loop {
                tokio::time::sleep(LIVENESS_CHECK).await;
                if !self.support.is_live(node) {
                    return;
                }
            }
        };
        tokio::select! {
            answer = asking => {
                let bytes = answer.map_err(|error| match error {
                    LinkError::Busy | LinkError::Refused(_) => Unserved::Busy,
                    _ => Unserved::Unreachable,
                })?;
                decode_answer(&bytes).map_err(|_| Unserved::Unreachable)?
            }
            () = gone => Err(Unserved::Unreachable),
        }
    }

    /// Answers a peer's [`Method::Relay`].
    ///
    /// # Errors
    /// When the payload is garbled.
    pub async fn on_relay(self: &Arc<Self>, from: NodeId, payload: Bytes) -> Result<Bytes, String> {
        let call = decode_call(&payload).map_err(|e| e.to_string())?;
        encode_answer(&self.route(call, Some(from)).await).map_err(|e| e.to_string())
    }

    /// Takes a user's lease for a call. A change rides in the entry that takes the lease, and is answered; before any other call, and
    /// for a user whose records are made first, the lease is taken by itself, and there is no answer yet.
    async fn acquire_for(
        self: &Arc<Self>,
        row: &AccountRecord,
        from: Option<(NodeId, Boot)>,
        call: &Call,
        deadline: u64,
    ) -> Result<Option<Answer>, Unserved> {
        let denied = Unserved::NotHolder { hint: None };
        match self.prepare(row, from, deadline).await {
            Prepared::Held => Ok(None),
            Prepared::Denied => Err(denied),
            Prepared::Ready(taking) if call.body.mutates() && taking.acquire.expect_fence != Fence(0) => {
                let answer = self.serve(row.group, call, Some(taking.acquire.clone()), deadline).await;
                self.note_taken(row, &taking);
                answer.map(Some)
            }
            Prepared::Ready(taking) => {
                if self.take(row, &taking).await {
                    Ok(None)
                } else {
                    Err(denied)
                }
            }
        }
    }

    /// Gathers what an entry needs that takes the lease from `from`.
    pub(crate) async fn prepare(self: &Arc<Self>, row: &AccountRecord, from: Option<(NodeId, Boot)>, deadline: u64) -> Prepared {
        let Some(shard) = self.shard(row.group) else { return Prepared::Denied };
        let acquiring = shard.begin_acquire();
        // Looked at after the mark: a node that is to leave is asked whether it is acquiring once it knows that it is to leave.
        if !self.layout().may_hold(row.group, self.me) {
            return Prepared::Denied;
        }
        let one_at_a_time = self.leases.acquiring(row.id).lock_owned().await;
        let started_ms = boot_ms();
        // Those before may have taken all the time there was.
        if started_ms >= deadline {
            return Prepared::Denied;
        }
        let Ok(mut record) = self.owner_record(&shard, row.id) else { return Prepared::Denied };
        if record.is_none() {
            // The account's records are made with its first use; group 0 knows it already.
            let make = Command::CreateAccount { account: row.id, uid_validity_floor: row.uid_validity_floor, time: unix_seconds() };
            if self.propose_users(row.group, &make, deadline).await.is_err() {
                return Prepared::Denied;
            }
            record = self.owner_record(&shard, row.id).ok().flatten();
        }
        let Some(record) = record else { return Prepared::Denied };
        let boot = self.support.boot();
        let owner = record.owner.map(|owner| (owner.node, owner.boot));
        if owner == Some((self.me, boot)) {
            return Prepared::Held;
        }
        if owner != from {
            return Prepared::Denied;
        }
        let Some(evidence) = self.evidence(from, deadline).await else { return Prepared::Denied };
        let acquire = Acquire { node: self.me, boot, expect_fence: record.fence, evidence };
        Prepared::Ready(Taking { acquire, from, started_ms, _one_at_a_time: one_at_a_time, _acquiring: acquiring })
    }

    /// That nobody owns the lease, or that a majority of group 0's voters has withdrawn its support from who does.
    async fn evidence(&self, from: Option<(NodeId, Boot)>, deadline: u64) -> Option<Evidence> {
        let Some((node, boot)) = from else { return Some(Evidence::Free) };
        let is_heard = self.support.is_live(node) && !self.support.boot_ended(node, boot);
        let round = deadline.min(boot_ms() + if is_heard { LIVE_OWNER_ROUND_MS } else { WITHDRAWAL_ROUND_MS });
        let (voters, of) = self.support.withdrawals(node, boot, round).await?;
        Some(Evidence::Withdrawn { node, boot, voters, of })
    }

    /// Takes the lease with an entry that does nothing else, but for the first one of all, which makes the mailboxes that users expect.
    pub(crate) async fn take(&self, row: &AccountRecord, taking: &Taking) -> bool {
        let fence = taking.acquire.expect_fence;
        let command = UserCommand {
            account: row.id,
            fence: fence.next(),
            op_no: self.leases.next_op(row.id, fence.next(), OpNo(0)),
            request: None,
            actor: row.id,
            time: unix_seconds(),
            acquire: Some(taking.acquire.clone()),
            op: if fence.0 == 0 { Op::Provision } else { Op::Noop },
        };
        let tried = self.try_user(row.group, command).await;
        let mine = self.note_taken(row, taking);
        if !mine {
            tracing::debug!(user = %row.name, ?tried, "lease not acquired");
        }
        mine
    }

    /// True when this node owns the lease now; counted and told then.
    fn note_taken(&self, row: &AccountRecord, taking: &Taking) -> bool {
        let Some(shard) = self.shard(row.group) else { return false };
        let Acquire { node, boot, expect_fence, .. } = taking.acquire;
        let held = self.owner_record(&shard, row.id).ok().flatten();
        let mine = held.is_some_and(|record| record.owner.is_some_and(|owner| (owner.node, owner.boot) == (node, boot)));
        if mine {
            self.count_acquired(taking.from.map(|(node, _)| node), taking.started_ms);
            tracing::info!(user = %row.name, fence = %expect_fence.next(), epoch = %boot, from = ?taking.from.map(|f| f.0.0), "lease acquired");
        }
        mine
    }

    fn count_acquired(&self, former: Option<NodeId>, started: u64) {
        if let Some(former) = former {
            let now = boot_ms();
            self.counters.taken_over.fetch_add(1, Ordering::Relaxed);
            self.counters.take_over_max_ms.fetch_max(now - started, Ordering::Relaxed);
            self.counters.taken_from.note(former, now - started, now);
        } else {
            self.counters.acquired.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a user's lease to another node: one entry. True when the entry is in.
    ///
    /// # Errors
    /// [`Unserved::NotHolder`] when this node does not hold the lease, or no quorum took the entry in time.
    pub async fn hand_over(self: &Arc<Self>, account: AccountId, to: NodeId, to_boot: Boot) -> Result<(), Unserved> {
        let row = self.account(account).ok().flatten().ok_or(Unserved::NotHolder { hint: None })?;
        let shard = self.shard(row.group).ok_or(Unserved::NotHolder { hint: None })?;
        let record = self.owner_record(&shard, account)?.ok_or(Unserved::NotHolder { hint: None })?;
        if !self.layout().may_hold(row.group, to) {
            // It would serve from what it does not have.
            return Err(Unserved::Busy);
        }
        let mine = record.owner.is_some_and(|owner| owner.node == self.me && owner.boot == self.support.boot());
        if !mine {
            return Err(Unserved::NotHolder { hint: record.owner.map(|owner| owner.node) });
        }
        let op_no = self.leases.next_op(account, record.fence, record.last_op_no);
        // Rule 1: from here on no read is answered from the own tables alone, until the entry is known to be in or out.
        self.leases.begin_yield(account, record.fence, op_no);
        let command = UserCommand {
            account,
            fence: record.fence,
            op_no,
            request: None,
            actor: account,
            time: unix_seconds(),
            acquire: None,
            op: Op::Handover { to, to_boot },
        };
        match self.try_user(row.group, command).await {
            Ok(applied) => {
                self.leases.end_yield(account, record.fence, op_no);
                applied.outcome.map(|_| ()).map_err(|_| Unserved::Busy)
            }
            // Unknown: the mark stays, and reads of this fence go through a barrier from now on.
            Err(_) => Err(Unserved::OutcomeUnknown),
        }
    }

    /// Before this node stops: it takes no lease any more and ends the boot under which it holds all of its leases, so that others take
    /// them at their next request without waiting for promises to run out. True when a majority of group 0's voters knows of it.
    pub async fn give_up_leases(&self, within: Duration) -> bool {
        self.retired.store(true, Ordering::Release);
        let boot = self.support.boot();
        self.support.renounce();
        tokio::time::timeout(within, self.support.begun_after(boot)).await.is_ok()
    }

    /// The holder of a user's lease as this replica knows it.
    #[must_use]
    pub fn holder_of(&self, row: &AccountRecord) -> Option<OwnerRecord> {
        let shard = self.shard(row.group)?;
        view::owner(shard.group.tables(), row.id).ok().flatten()
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
