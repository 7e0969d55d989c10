//! A group with one account and one holder, for tests.
#![allow(dead_code)]

use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;

pub(crate) const ANN: AccountId = AccountId(7);
pub(crate) const T0: i64 = 1_700_000_000;

/// Tables, a log, and the holder's counters.
pub(crate) struct Bed {
    pub(crate) tables: MemoryTables,
    pub(crate) log: Vec<Command>,
    pub(crate) fence: Fence,
    pub(crate) op_no: u64,
    pub(crate) time: i64,
    pub(crate) actor: AccountId,
}

pub(crate) fn name(text: &str) -> MailboxName {
    MailboxName::new(text).unwrap()
}

pub(crate) fn set(text: &str) -> UidSet {
    if text.is_empty() {
        return UidSet::new();
    }
    UidSet::from_ranges(text.split(',').map(|part| {
        let (a, b) = part.split_once(':').unwrap_or((part, part));
        (a.parse().unwrap(), b.parse().unwrap())
    }))
}

pub(crate) fn flags(system: u8, keywords: &[&str]) -> FlagSet {
    FlagSet { system: SystemFlags(system), keywords: keywords.iter().map(|k| Keyword::new(k).unwrap()).collect() }
}

pub(crate) fn hash(n: u64) -> BodyHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_be_bytes());
    BodyHash(bytes)
}

pub(crate) fn message(n: u64) -> NewMessage {
    NewMessage { hash: hash(n), size: 100 + n, internal_date: None, flags: FlagSet::default(), thread: ThreadId(n) }
}

pub(crate) fn request(session: u64, seq: u64) -> RequestId {
    RequestId { session: SessionKey { node: NodeId(1), boot: Boot(1), session }, seq: RequestSeq(seq) }
}

pub(crate) fn acquire(node: u64, expect: u64, evidence: Evidence) -> Acquire {
    Acquire { node: NodeId(node), boot: Boot(1), expect_fence: Fence(expect), evidence }
}

/// Applies to a copy of the tables and checks what must hold whatever the command is.
pub(crate) fn apply_checked(tables: &mut MemoryTables, index: u64, command: &Command) -> Applied {
    let before = tables.clone();
    let mut overlay = Overlay::new(tables);
    let applied = apply(&mut overlay, index, command).unwrap();
    let mut seen = Vec::new();
    overlay
        .scan(&[], &[0xff], &mut |k, v| {
            seen.push((k.to_vec(), v.to_vec()));
            true
        })
        .unwrap();
    let writes = overlay.into_writes();
    tables.commit(writes);
    let committed: Vec<_> = tables.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(seen, committed, "the overlay shows what the tables then hold");
    if matches!(
        applied.outcome,
        Err(Refusal::StaleFence { .. } | Refusal::OutOfOrder { .. } | Refusal::Frozen { .. } | Refusal::Moved { .. })
    ) {
        assert_eq!(*tables, before, "a refused command changes nothing");
        assert_eq!(applied.changes, []);
    }
    applied
}

impl Bed {
    pub(crate) fn new() -> Self {
        let mut bed = Self { tables: MemoryTables::new(), log: Vec::new(), fence: Fence(1), op_no: 0, time: T0, actor: ANN };
        bed.raw(Command::CreateAccount { account: ANN, uid_validity_floor: 0, time: T0 }).outcome.unwrap();
        let mut first = bed.user(Op::Noop);
        first.acquire = Some(acquire(1, 0, Evidence::Free));
        bed.raw(Command::User(first)).outcome.unwrap();
        bed
    }
    pub(crate) fn user(&mut self, op: Op) -> UserCommand {
        self.op_no += 1;
        let (fence, op_no) = (self.fence, OpNo(self.op_no));
        UserCommand { account: ANN, fence, op_no, request: None, actor: self.actor, time: self.time, acquire: None, op }
    }
    pub(crate) fn raw(&mut self, command: Command) -> Applied {
        let applied = apply_checked(&mut self.tables, self.log.len() as u64 + 1, &command);
        self.log.push(command);
        if let Err(findings) = check(&self.tables, ANN).and_then(|()| check_sessions(&self.tables, ANN)) {
            panic!("after {:?}: {findings:#?}", self.log.last());
        }
        applied
    }
    pub(crate) fn run(&mut self, op: Op) -> Applied {
        let command = self.user(op);
        self.raw(Command::User(command))
    }
    /// For large set-ups: the caller checks the invariants when it is done.
    pub(crate) fn run_unchecked(&mut self, op: Op) {
        let command = Command::User(self.user(op));
        let mut overlay = Overlay::new(&self.tables);
        apply(&mut overlay, 0, &command).unwrap().outcome.unwrap();
        let writes = overlay.into_writes();
        self.tables.commit(writes);
        self.log.push(command);
    }
    pub(crate) fn op(&mut self, op: Op) -> Result<Reply, Rejection> {
        match self.run(op).outcome {
            Ok(reply) => Ok(reply),
            Err(Refusal::Rejected(rejection)) => Err(rejection),
            Err(other) => panic!("refused: {other:?}"),
        }
    }
    pub(crate) fn mutate(&mut self, mutation: Mutation) -> Result<Reply, Rejection> {
        self.op(Op::Mutate(mutation))
    }
    pub(crate) fn create(&mut self, text: &str) -> MailboxId {
        match self.mutate(Mutation::Create { name: name(text), special_use: vec![] }) {
            Ok(Reply::Created { mailbox }) => mailbox,
            other => panic!("{other:?}"),
        }
    }
    pub(crate) fn append(&mut self, to: &str, messages: Vec<NewMessage>) -> UidSet {
        match self.op(Op::Append { to: name(to), messages }) {
            Ok(Reply::Appended { uids, .. }) => uids,
            other => panic!("{other:?}"),
        }
    }
    pub(crate) fn store(&mut self, mailbox: MailboxId, uids: &str, mode: FlagMode, set_to: FlagSet) -> Result<Reply, Rejection> {
        self.mutate(Mutation::Store { mailbox, uids: set(uids), change: FlagChange { mode, flags: set_to }, unchanged_since: None })
    }
    pub(crate) fn id(&self, text: &str) -> MailboxId {
        view::resolve(&self.tables, ANN, &name(text)).unwrap().unwrap()
    }
    pub(crate) fn selected(&self, text: &str) -> Selected {
        view::select(&self.tables, ANN, ANN, &MailboxRef::Name(name(text))).unwrap().unwrap()
    }
    pub(crate) fn status(&self, text: &str) -> StatusData {
        view::status(&self.tables, ANN, ANN, &name(text)).unwrap().unwrap()
    }
    pub(crate) fn list(&self, request: &ListRequest) -> Vec<String> {
        let rows = view::list(&self.tables, ANN, ANN, request).unwrap();
        rows.iter().map(describe).collect()
    }
    pub(crate) fn list_all(&self) -> Vec<String> {
        self.list(&ListRequest { patterns: vec![ListPattern("*".into())], ..ListRequest::default() })
    }
    pub(crate) fn flag_rows(&self, mailbox: MailboxId) -> Vec<FlagRow> {
        let mut rows = Vec::new();
        let all = UidSet::range(Uid(1), Uid(u32::MAX));
        view::flag_rows(&self.tables, ANN, mailbox, &all, None, &mut |row| {
            rows.push(row);
            true
        })
        .unwrap();
        rows
    }
    pub(crate) fn message_rows(&self, mailbox: MailboxId) -> Vec<view::MessageRow> {
        let mut rows = Vec::new();
        let all = UidSet::range(Uid(1), Uid(u32::MAX));
        view::message_rows(&self.tables, ANN, mailbox, &all, &mut |row| {
            rows.push(row);
            true
        })
        .unwrap();
        rows
    }
}

/// A row of LIST in a line: `!` no mailbox, `+` has children, `s` subscribed, `c` a child matches.
pub(crate) fn describe(row: &ListRow) -> String {
    let mark = |on: bool, text: &'static str| if on { text } else { "" };
    let marks =
        [mark(row.mailbox.is_none(), "!"), mark(row.has_children, "+"), mark(row.subscribed, "s"), mark(row.child_matches, "c")].concat();
    if marks.is_empty() { row.name.to_string() } else { format!("{} {marks}", row.name) }
}
