//! The replicated log and what the real state machine makes of it. A twin is broken by rewriting commands on their way in.

use crate::{FIRST_BOOT, Twin, VOTERS, id};
use parliament_ids::{
    AccountId, BodyHash, Boot, Fence, FlagSet, MailboxId, MailboxName, NodeId, OpNo, RequestId, RequestSeq, SessionKey, ThreadId, Uid,
    UidSet,
};
use parliament_mail_api::Reply;
use parliament_mailbox_state::{
    Acquire, Command, Evidence, MemoryTables, NewMessage, Op, Overlay, Owner, OwnerRecord, UserCommand, apply, view,
};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

const USER: AccountId = AccountId(1);

/// A proposal: an entry once it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proposal {
    /// Takes the lease.
    Acquire {
        /// The new holder.
        by: (NodeId, Boot),
        /// The fence that it saw.
        expect: u64,
        /// The owner that was withdrawn.
        from: (NodeId, Boot),
        /// How many voters withdrew: which ones makes no difference.
        withdrawn: usize,
    },
    /// Appends a message.
    Append {
        /// The holder.
        by: (NodeId, Boot),
        /// Its fence.
        fence: u64,
        /// Its number.
        op_no: u64,
        /// The message.
        message: u8,
    },
    /// Gives the lease away.
    Handover {
        /// The holder.
        by: (NodeId, Boot),
        /// Its fence.
        fence: u64,
        /// Its number.
        op_no: u64,
        /// The new holder.
        to: (NodeId, Boot),
    },
}

/// What the proposer of an entry hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message has this UID.
    Appended(u32),
    /// Done.
    Done,
    /// Refused or rejected.
    Refused,
}

/// An append that put a message into the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The message.
    pub message: u8,
    /// Its UID.
    pub uid: u32,
    /// The fence in force, and the proposer's number.
    pub order: (u64, u64),
    /// The proposer was the owner and its fence the one in force.
    pub by_holder: bool,
}

/// A log, and what tables show that have applied it. Two are equal when their entries are.
pub struct View {
    /// The entries.
    pub entries: Vec<Proposal>,
    before: Option<Arc<View>>,
    /// The owner.
    pub owner: Option<(NodeId, Boot)>,
    /// The fence.
    pub fence: u64,
    /// The last number under it.
    pub last_op_no: u64,
    /// The mailbox: UID and message.
    pub messages: Vec<(u32, u8)>,
    /// What came of each entry.
    pub outcomes: Vec<Outcome>,
    /// Appends, in the order of the log.
    pub effects: Vec<Effect>,
    tables: MemoryTables,
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}
impl Eq for View {}
impl Hash for View {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.entries.hash(hasher);
    }
}
impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.entries.fmt(f)
    }
}

impl View {
    /// What tables show that have applied the first `applied` entries only.
    #[must_use]
    pub fn at(&self, applied: usize) -> &Self {
        match &self.before {
            Some(before) if applied < self.entries.len() => before.at(applied),
            _ => self,
        }
    }
}

/// The state machine, the results for all logs so far remembered.
pub struct Replicated {
    twin: Twin,
    requests: bool,
    views: Mutex<HashMap<Vec<Proposal>, Arc<View>>>,
}

impl Replicated {
    pub(crate) fn new(twin: Twin, requests: bool) -> Self {
        Self { twin, requests, views: Mutex::default() }
    }

    /// The log without entries: the first node has just taken the lease.
    #[must_use]
    pub fn first(&self) -> Arc<View> {
        let mut tables = MemoryTables::new();
        run(&mut tables, &Command::CreateAccount { account: USER, uid_validity_floor: 0, time: 0 });
        let acquire = Acquire { node: id(0), boot: FIRST_BOOT, expect_fence: Fence(0), evidence: Evidence::Free };
        run(&mut tables, &user(1, 1, Some(acquire), None, Op::Noop));
        Arc::new(seen(tables))
    }

    /// True when appends carry the id of a request.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.requests
    }

    /// How many different logs came up.
    #[must_use]
    pub fn logs(&self) -> usize {
        self.views.lock().map_or(0, |views| views.len())
    }

    /// A log with one more entry.
    #[must_use]
    pub fn push(&self, log: &Arc<View>, entry: Proposal) -> Arc<View> {
        let mut entries = log.entries.clone();
        entries.push(entry);
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.entry(entries).or_insert_with_key(|entries| Arc::new(self.after(log, entries.clone()))).clone()
    }

    fn after(&self, before: &Arc<View>, entries: Vec<Proposal>) -> View {
        let mut tables = before.tables.clone();
        let reply = entries.last().and_then(|entry| run(&mut tables, &self.command(before, entry)));
        let outcome = match reply {
            Some(Reply::Appended { uids, .. }) => uids.first().map_or(Outcome::Done, |uid| Outcome::Appended(uid.0)),
            Some(_) => Outcome::Done,
            None => Outcome::Refused,
        };
        let mut view = seen(tables);
        view.outcomes = before.outcomes.iter().copied().chain([outcome]).collect();
        view.effects.clone_from(&before.effects);
        if let Some(Proposal::Append { by, fence, op_no, message }) = entries.last()
            && let Some(&(uid, _)) = view.messages.iter().find(|row| !before.messages.contains(row))
        {
            let by_holder = before.owner == Some(*by) && before.fence == *fence;
            view.effects.push(Effect { message: *message, uid, order: (before.fence, *op_no), by_holder });
        }
        View { entries, before: Some(before.clone()), ..view }
    }

    /// The command of an entry, as a sound or a broken state machine takes it.
    fn command(&self, before: &View, entry: &Proposal) -> Command {
        let in_force = |fence: u64| if self.twin == Twin::NoFence { before.fence } else { fence };
        let number = |op_no: u64| if self.twin == Twin::NoOpNumbers { before.last_op_no + 1 } else { op_no };
        match entry {
            Proposal::Acquire { by, expect, from, withdrawn } => {
                let voters = (0..*withdrawn).map(id).collect();
                let evidence = Evidence::Withdrawn { node: from.0, boot: from.1, voters, of: VOTERS as u32 };
                let expect = in_force(*expect);
                let acquire = Acquire { node: by.0, boot: by.1, expect_fence: Fence(expect), evidence };
                user(expect + 1, 1, Some(acquire), None, Op::Noop)
            }
            Proposal::Append { fence, op_no, message, .. } => {
                let session = SessionKey { node: NodeId(9), boot: Boot(1), session: 1 };
                let keeps = self.requests && self.twin != Twin::NoRequestRecords;
                let request = keeps.then(|| RequestId { session, seq: RequestSeq(u64::from(*message)) });
                let new = NewMessage {
                    hash: BodyHash([*message; 32]),
                    size: 1,
                    internal_date: None,
                    flags: FlagSet::default(),
                    thread: ThreadId(0),
                };
                let op = Op::Append { to: MailboxName::inbox(), messages: vec![new] };
                user(in_force(*fence), number(*op_no), None, request, op)
            }
            Proposal::Handover { fence, op_no, to, .. } => {
                user(in_force(*fence), number(*op_no), None, None, Op::Handover { to: to.0, to_boot: to.1 })
            }
        }
    }
}

fn user(fence: u64, op_no: u64, acquire: Option<Acquire>, request: Option<RequestId>, op: Op) -> Command {
    let (fence, op_no) = (Fence(fence), OpNo(op_no));
    Command::User(UserCommand { account: USER, fence, op_no, request, actor: USER, time: 0, acquire, op })
}

fn run(tables: &mut MemoryTables, command: &Command) -> Option<Reply> {
    let mut overlay = Overlay::new(tables);
    let applied = apply(&mut overlay, 0, command).expect("tables in memory are never damaged");
    let writes = overlay.into_writes();
    tables.commit(writes);
    applied.outcome.ok()
}

fn seen(tables: MemoryTables) -> View {
    let lease = view::owner(&tables, USER).expect("readable");
    let OwnerRecord { owner, fence, last_op_no } = lease.expect("the account lives");
    let mut messages = Vec::new();
    view::message_rows(&tables, USER, MailboxId::INBOX, &UidSet::range(Uid(1), Uid(u32::MAX)), &mut |row| {
        messages.push((row.uid.0, row.hash.0[0]));
        true
    })
    .expect("readable");
    let owner = owner.map(|Owner { node, boot }| (node, boot));
    View {
        entries: Vec::new(),
        before: None,
        owner,
        fence: fence.0,
        last_op_no: last_op_no.0,
        messages,
        outcomes: Vec::new(),
        effects: Vec::new(),
        tables,
    }
}
