//! Moves of a user between groups (rule 13): every entry may be delayed, repeated, lost; controllers and holders may be old ones. The
//! user is served in one group at most, no UID is given twice, no request takes effect twice, nothing acknowledged is lost, and in
//! the end somebody serves. Twins with one of the rules broken must be found out.
#![allow(clippy::unwrap_used)] // A test that meets an unexpected value should stop there.

mod common;
use common::*;
use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;
use std::collections::BTreeMap;

const GROUPS: usize = 3;

/// A seeded source of numbers.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    /// None.
    Sound,
    /// The source thaws without asking the target for its refusal.
    ThawsUnasked,
    /// A freeze that comes late counts.
    LateFreezeCounts,
    /// The target activates whatever was copied.
    ActivatesAnything,
}

/// A move as group 0 has it.
#[derive(Clone, Copy, Debug)]
struct Row {
    id: MoveId,
    from: usize,
    to: usize,
    stopping: bool,
    arrived: bool,
    ready: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    group: usize,
    command: Command,
    /// It is the last one of its session: when it was answered, the session ends.
    ends_session: bool,
}

/// What the session asks for until it is answered.
#[derive(Clone, Debug)]
struct Asked {
    request: RequestId,
    op: Op,
}

struct World {
    twin: Twin,
    draw: Draw,
    groups: Vec<MemoryTables>,
    directory: usize,
    row: Option<Row>,
    last_move: u64,
    flying: Vec<Entry>,
    op_no: u64,
    session: u64,
    seq: u64,
    asked: Option<Asked>,
    /// What each request was answered first.
    answers: BTreeMap<RequestId, Result<Reply, Rejection>>,
    /// UID to what is there now: the truth by the order of effects.
    mailbox: BTreeMap<u32, (BodyHash, bool)>,
    /// Every UID ever given.
    given: BTreeMap<u32, BodyHash>,
    next_body: u64,
    marks: (Fence, ModSeq, Uid),
    moves_done: u64,
    moves_failed: u64,
}

type Broken = Result<(), String>;

fn expect(holds: bool, what: impl FnOnce() -> String) -> Broken {
    if holds { Ok(()) } else { Err(what()) }
}

impl World {
    fn new(seed: u64, twin: Twin) -> Self {
        let mut world = Self {
            twin,
            draw: Draw(seed),
            groups: vec![MemoryTables::new(); GROUPS],
            directory: 0,
            row: None,
            last_move: 0,
            flying: Vec::new(),
            op_no: 0,
            session: 1,
            seq: 0,
            asked: None,
            answers: BTreeMap::new(),
            mailbox: BTreeMap::new(),
            given: BTreeMap::new(),
            next_body: 0,
            marks: (Fence(0), ModSeq(0), Uid(0)),
            moves_done: 0,
            moves_failed: 0,
        };
        world.deliver(&Entry { group: 0, command: create(), ends_session: false }).unwrap();
        world
    }

    fn presence(&self, group: usize) -> view::Presence {
        view::presence(&self.groups[group], ANN).unwrap()
    }

    fn serves(&self, group: usize) -> bool {
        matches!(self.presence(group), view::Presence::Here { frozen_for: None, .. })
    }

    /// A command of whoever believes to hold the user in a group, or of whoever takes the lease there.
    fn command(&mut self, group: usize, request: Option<RequestId>, op: Op) -> Entry {
        self.op_no += 1;
        let record = view::owner(&self.groups[group], ANN).unwrap();
        let (fence, owner) = record.map_or((Fence(0), None), |record| (record.fence, record.owner));
        let takes = owner.is_none() || self.draw.below(4) == 0;
        let evidence = match owner {
            Some(owner) => Evidence::Withdrawn { node: owner.node, boot: owner.boot, voters: vec![NodeId(8), NodeId(9)], of: 3 },
            None => Evidence::Free,
        };
        let acquire = takes.then(|| acquire(1 + self.draw.below(3), fence.0, evidence));
        let fence = if takes { fence.next() } else { fence };
        let (op_no, actor) = (OpNo(self.op_no), ANN);
        let command = UserCommand { account: ANN, fence, op_no, request, actor, time: T0, acquire, op };
        Entry { group, command: Command::User(command), ends_session: false }
    }

    /// The session asks, or asks again, somewhere: where the directory says, or where an old one or a hint says.
    fn client(&mut self) {
        if self.asked.is_none() {
            self.seq += 1;
            let request =
                RequestId { session: SessionKey { node: NodeId(1), boot: Boot(1), session: self.session }, seq: RequestSeq(self.seq) };
            let op = self.draw_op();
            self.asked = Some(Asked { request, op });
        }
        let Asked { request, op } = self.asked.clone().unwrap();
        let group = if self.draw.below(3) == 0 { self.draw.below(GROUPS as u64) as usize } else { self.directory };
        let mut entry = self.command(group, Some(request), op);
        entry.ends_session = self.seq.is_multiple_of(5);
        self.flying.push(entry);
    }

    fn draw_op(&mut self) -> Op {
        let uids: Vec<u32> = self.mailbox.keys().copied().collect();
        let pick = |draw: &mut Draw| UidSet::one(Uid(uids[draw.below(uids.len() as u64) as usize]));
        match self.draw.below(6) {
            0 if !uids.is_empty() => {
                let change = FlagChange { mode: FlagMode::Add, flags: flags(SystemFlags::FLAGGED.0, &[]) };
                let uids = pick(&mut self.draw);
                Op::Mutate(Mutation::Store { mailbox: MailboxId::INBOX, uids, change, unchanged_since: None })
            }
            1 if !uids.is_empty() => Op::Mutate(Mutation::Expunge { mailbox: MailboxId::INBOX, uids: Some(pick(&mut self.draw)) }),
            2 => {
                self.next_body += 1;
                let n = self.next_body;
                Op::Deliver { to: name("INBOX"), message: message(n), dedupe: hash(1_000_000 + n) }
            }
            _ => {
                self.next_body += 1;
                Op::Append { to: name("INBOX"), messages: vec![message(self.next_body)] }
            }
        }
    }

    /// One look of a controller, perhaps one that was deposed: what it orders flies.
    fn controller(&mut self) {
        let Some(row) = self.row else { return };
        let facts = MoveFacts {
            move_id: row.id,
            source: self.presence(row.from),
            target: self.presence(row.to),
            arrived: row.arrived,
            stopping: row.stopping,
            ready: row.ready,
        };
        let mut next = next_step(&facts);
        if self.twin == Twin::ThawsUnasked && next == MoveNext::Refuse && matches!(facts.source, view::Presence::Here { .. }) {
            next = MoveNext::Thaw;
        }
        let step = |step| Command::Move(MoveCommand { account: ANN, move_id: row.id, step });
        let (group, command) = match next {
            MoveNext::Make => (row.from, create()),
            MoveNext::Freeze => {
                let entry = self.command(row.from, None, Op::Freeze { move_id: row.id, to: group_id(row.to) });
                return self.flying.push(entry);
            }
            MoveNext::Copy => return self.copy(row),
            MoveNext::Refuse => (row.to, step(MoveStep::Refuse { from: group_id(row.from) })),
            MoveNext::Thaw => (row.from, step(MoveStep::Thaw)),
            MoveNext::Depart => (row.from, step(MoveStep::Depart)),
            MoveNext::SweepSource => (row.from, step(MoveStep::Sweep)),
            MoveNext::SweepTarget => (row.to, step(MoveStep::Sweep)),
            MoveNext::Arrive => {
                self.directory = row.to;
                self.row = Some(Row { arrived: true, ..row });
                return;
            }
            MoveNext::End => {
                if row.arrived {
                    self.moves_done += 1;
                } else {
                    self.moves_failed += 1;
                }
                self.row = None;
                return;
            }
            MoveNext::Stuck => return,
        };
        self.flying.push(Entry { group, command, ends_session: false });
    }

    /// Some of what the target lacks flies there, and when it lacks nothing, the activation.
    fn copy(&mut self, row: Row) {
        let (source, target) = (&self.groups[row.from], &self.groups[row.to]);
        let (here, there) = (image(source), image(target));
        let head = view::image_head(source, ANN, row.id).unwrap();
        let changed = here.iter().filter(|(place, hash)| there.get(*place) != Some(hash)).map(|(place, _)| place.clone());
        let gone = there.keys().filter(|place| !here.contains_key(*place)).cloned();
        let mut records: Vec<MovedRecord> = changed
            .chain(gone)
            .map(|place| MovedRecord { value: view::image_record(source, ANN, &place).unwrap(), table: place.0, key: place.1 })
            .collect();
        let from = group_id(row.from);
        if records.is_empty() {
            if let Some(head) = head {
                let over = view::session_marks(source).unwrap();
                let head = if self.twin == Twin::ActivatesAnything { head_for(&head, &here, target) } else { head };
                self.fly(row, row.to, MoveStep::Activate { head, over });
                return;
            }
            self.row = Some(Row { ready: true, ..row });
        } else if self.draw.below(2) == 0 {
            records.truncate(1 + records.len() / 2);
        }
        if self.twin == Twin::ActivatesAnything
            && let Some(head) = head
        {
            let head = head_for(&head, &here, target);
            return self.fly(row, row.to, MoveStep::Activate { head, over: Vec::new() });
        }
        self.fly(row, row.to, MoveStep::Import { from, records });
    }

    fn fly(&mut self, row: Row, group: usize, step: MoveStep) {
        let command = Command::Move(MoveCommand { account: ANN, move_id: row.id, step });
        self.flying.push(Entry { group, command, ends_session: false });
    }

    /// An entry is committed and applied.
    fn deliver(&mut self, entry: &Entry) -> Broken {
        let mut command = entry.command.clone();
        if let (Twin::LateFreezeCounts, Command::User(UserCommand { op: Op::Freeze { move_id, .. }, .. })) = (self.twin, &mut command)
            && let view::Presence::Here { last, frozen_for: None } = self.presence(entry.group)
        {
            *move_id = (*move_id).max(last.next());
        }
        let applied = apply_checked(&mut self.groups[entry.group], 1, &command);
        let tables = &self.groups[entry.group];
        check(tables, ANN).and_then(|()| check_sessions(tables, ANN)).map_err(|found| format!("after {command:?}: {found:?}"))?;
        if let Command::User(UserCommand { request: Some(request), op, .. }) = &command {
            self.answered(*request, op, &applied, entry.ends_session)?;
        }
        self.look()
    }

    /// A request was decided in some group.
    fn answered(&mut self, request: RequestId, op: &Op, applied: &Applied, ends_session: bool) -> Broken {
        let outcome = match &applied.outcome {
            Ok(reply) => Ok(reply.clone()),
            Err(Refusal::Rejected(rejection)) => Err(*rejection),
            Err(_) => return Ok(()),
        };
        let took_effect = applied.changes.iter().any(|change| matches!(change, Change::Mailbox { .. }));
        match &outcome {
            Ok(Reply::Appended { uids, .. }) if took_effect => self.gave(uids.first().unwrap(), op)?,
            Ok(Reply::Delivered { uid: Some(uid), duplicate: false, .. }) if took_effect => self.gave(*uid, op)?,
            Ok(Reply::Stored { .. }) if took_effect => {
                let Op::Mutate(Mutation::Store { uids, .. }) = op else { panic!() };
                uids.iter().for_each(|uid| self.mailbox.get_mut(&uid.0).into_iter().for_each(|row| row.1 = true));
            }
            Ok(Reply::Expunged { uids, .. }) if took_effect => {
                self.mailbox.retain(|uid, _| !uids.contains(Uid(*uid)));
            }
            _ => {}
        }
        // Too late, or where the user never was: neither is recorded.
        if matches!(outcome, Err(Rejection::StaleRequest | Rejection::NoSuchAccount)) {
            return Ok(());
        }
        let first = self.answers.entry(request).or_insert_with(|| outcome.clone());
        expect(*first == outcome, || format!("{request:?} was answered {first:?} and then {outcome:?}"))?;
        if self.asked.as_ref().is_some_and(|asked| asked.request == request) {
            self.asked = None;
            if ends_session {
                // The frontend tells the groups it knows of; some hear it late.
                self.session += 1;
                self.seq = 0;
                let over = Command::SessionsOver { node: NodeId(1), boot: Boot(1), below: self.session };
                let heard = self.draw.below(GROUPS as u64) as usize;
                for group in [self.directory, heard] {
                    self.flying.push(Entry { group, command: over.clone(), ends_session: false });
                }
            }
        }
        Ok(())
    }

    fn gave(&mut self, uid: Uid, op: &Op) -> Broken {
        let hash = match op {
            Op::Append { messages, .. } => messages[0].hash,
            Op::Deliver { message, .. } => message.hash,
            _ => panic!(),
        };
        expect(!self.given.values().any(|known| *known == hash), || format!("UID {uid}: the request took effect twice"))?;
        let before = self.given.insert(uid.0, hash);
        expect(before.is_none(), || format!("UID {uid} was given twice"))?;
        expect(self.given.keys().max() == Some(&uid.0) && self.given.len() as u32 == uid.0, || format!("UID {uid} is out of order"))?;
        self.mailbox.insert(uid.0, (hash, false));
        Ok(())
    }

    /// What must hold at every moment.
    fn look(&mut self) -> Broken {
        let served: Vec<usize> = (0..GROUPS).filter(|group| self.serves(*group)).collect();
        expect(served.len() <= 1, || format!("served in groups {served:?}"))?;
        let Some(group) = served.first() else { return Ok(()) };
        let tables = &self.groups[*group];
        let Some(view::AccountView::Live { lease, modseq, .. }) = view::account(tables, ANN).unwrap() else { panic!() };
        let status = view::status(tables, ANN, ANN, &name("INBOX")).unwrap().unwrap();
        let marks = (lease.fence, modseq, status.uid_next);
        let grows = marks.0 >= self.marks.0 && marks.1 >= self.marks.1 && marks.2 >= self.marks.2;
        expect(grows, || format!("fence, MODSEQ, UIDNEXT went from {:?} to {marks:?}", self.marks))?;
        self.marks = marks;
        let mut held = BTreeMap::new();
        view::message_rows(tables, ANN, MailboxId::INBOX, &UidSet::range(Uid(1), Uid(u32::MAX)), &mut |row| {
            held.insert(row.uid.0, row.hash);
            true
        })
        .unwrap();
        let mut found = BTreeMap::new();
        view::flag_rows(tables, ANN, MailboxId::INBOX, &UidSet::range(Uid(1), Uid(u32::MAX)), None, &mut |row| {
            found.insert(row.uid.0, (held[&row.uid.0], row.system.contains(SystemFlags::FLAGGED)));
            true
        })
        .unwrap();
        expect(found == self.mailbox, || format!("group {group} has {found:?}, not {:?}", self.mailbox))
    }

    fn step(&mut self) -> Broken {
        match self.draw.below(10) {
            0..=2 => self.client(),
            3..=5 => self.controller(),
            6 if self.row.is_none() => self.begin_move(),
            6 if self.draw.below(12) == 0 => self.row.iter_mut().for_each(|row| row.stopping = !row.arrived),
            _ => return self.arrival(),
        }
        Ok(())
    }

    fn begin_move(&mut self) {
        self.last_move += 1;
        let from = self.directory;
        let to = (from + 1 + self.draw.below(GROUPS as u64 - 1) as usize) % GROUPS;
        self.row = Some(Row { id: MoveId(self.last_move), from, to, stopping: false, arrived: false, ready: false });
    }

    /// Some entry that flies arrives: mostly a late one; some arrive again, some are lost.
    fn arrival(&mut self) -> Broken {
        if self.flying.is_empty() {
            return Ok(());
        }
        let newest = self.draw.below(3) > 0;
        let at = if newest { self.flying.len() - 1 } else { self.draw.below(self.flying.len() as u64) as usize };
        let entry = if self.draw.below(5) == 0 { self.flying[at].clone() } else { self.flying.remove(at) };
        if self.draw.below(20) == 0 { Ok(()) } else { self.deliver(&entry) }
    }

    /// Everything works again: the move comes to its end, and then all that still flies arrives.
    fn settle(&mut self) -> Broken {
        let late = std::mem::take(&mut self.flying);
        for _ in 0..200 {
            self.controller();
            for entry in std::mem::take(&mut self.flying) {
                self.deliver(&entry)?;
            }
        }
        expect(self.row.is_none(), || format!("the move never ends: {:?}", self.row))?;
        for entry in late {
            self.deliver(&entry)?;
        }
        let answered = self.answers.len();
        for _ in 0..40 {
            self.client();
            for entry in std::mem::take(&mut self.flying) {
                self.deliver(&entry)?;
            }
        }
        expect(self.serves(self.directory), || format!("nobody serves: {:?}", (0..GROUPS).map(|g| self.presence(g)).collect::<Vec<_>>()))?;
        expect(self.answers.len() > answered + 10, || "requests are not answered any more".to_owned())
    }
}

fn create() -> Command {
    Command::CreateAccount { account: ANN, uid_validity_floor: 0, time: T0 }
}

fn group_id(group: usize) -> GroupId {
    GroupId(group as u32 + 1)
}

type Image = BTreeMap<(u8, Vec<u8>), u128>;

fn image(tables: &MemoryTables) -> Image {
    let mut image = Image::new();
    let mut from = Some((0, Vec::new()));
    while let Some(place) = from {
        let (page, next) = view::image_page(tables, ANN, &place, 3).unwrap();
        image.extend(page);
        from = next;
    }
    image
}

/// A head that fits whatever the target has: what an activation without the comparison of sums would take.
fn head_for(head: &[u8], source: &Image, target: &MemoryTables) -> Vec<u8> {
    let (rest, sum) = head.split_at(head.len() - 16);
    let sum = u128::from_le_bytes(sum.try_into().unwrap());
    let others = source.values().fold(0_u128, |sum, hash| sum.wrapping_add(*hash));
    let sum = sum.wrapping_sub(others).wrapping_add(view::state_hash(target, ANN).unwrap());
    [rest, &sum.to_le_bytes()].concat()
}

/// Runs a history; which promise it breaks, if any, and how many moves were done and given up.
fn run(seed: u64, steps: u64, twin: Twin) -> Result<(u64, u64), String> {
    let mut world = World::new(seed, twin);
    for _ in 0..steps {
        world.step()?;
    }
    world.settle()?;
    Ok((world.moves_done, world.moves_failed))
}

#[test]
fn whatever_is_late_lost_or_repeated_a_moving_user_is_served_once() {
    let (mut done, mut failed) = (0, 0);
    for seed in 0..60 {
        match run(seed, 400, Twin::Sound) {
            Ok(moves) => (done, failed) = (done + moves.0, failed + moves.1),
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
    }
    assert!(done > 100 && failed > 10, "moves that were done and given up: {done}, {failed}");
}

#[test]
fn every_broken_twin_is_found_out() {
    // Histories that a search has found; a sound one passes them.
    for (twin, seed) in [(Twin::ThawsUnasked, 0), (Twin::LateFreezeCounts, 74), (Twin::ActivatesAnything, 0)] {
        assert!(run(seed, 600, twin).is_err(), "{twin:?} passes for sound");
        run(seed, 600, Twin::Sound).unwrap();
    }
}

/// Two groups, one of which has the user.
struct Two {
    source: MemoryTables,
    target: MemoryTables,
}

const MOVE: MoveId = MoveId(1);

fn step(move_id: MoveId, step: MoveStep) -> Command {
    Command::Move(MoveCommand { account: ANN, move_id, step })
}

fn run_in(tables: &mut MemoryTables, command: &Command) -> Applied {
    let applied = apply_checked(tables, 1, command);
    check(tables, ANN).and_then(|()| check_sessions(tables, ANN)).unwrap();
    applied
}

impl Two {
    fn of(bed: &Bed) -> Self {
        Self { source: bed.tables.clone(), target: MemoryTables::new() }
    }
    fn freeze(&mut self, bed: &mut Bed) {
        let freeze = Command::User(bed.user(Op::Freeze { move_id: MOVE, to: GroupId(2) }));
        run_in(&mut self.source, &freeze).outcome.unwrap();
    }
    fn import(&mut self) -> Vec<Change> {
        let records = image(&self.source).into_keys().map(|place| MovedRecord {
            value: view::image_record(&self.source, ANN, &place).unwrap(),
            table: place.0,
            key: place.1,
        });
        let import = step(MOVE, MoveStep::Import { from: GroupId(1), records: records.collect() });
        run_in(&mut self.target, &import).changes
    }
    fn activate(&mut self, over: Vec<SessionMark>) -> Applied {
        let head = view::image_head(&self.source, ANN, MOVE).unwrap().unwrap();
        run_in(&mut self.target, &step(MOVE, MoveStep::Activate { head, over }))
    }
}

#[test]
fn a_session_that_the_source_forgot_is_not_taken_for_a_new_one() {
    let run = |with_marks: bool| {
        let mut bed = Bed::new();
        let mut first = bed.user(Op::Append { to: name("INBOX"), messages: vec![message(1)] });
        first.request = Some(request(1, 1));
        bed.raw(Command::User(first.clone())).outcome.unwrap();
        bed.raw(Command::SessionsOver { node: NodeId(1), boot: Boot(1), below: 2 }).outcome.unwrap();
        let mut two = Two::of(&bed);
        two.freeze(&mut bed);
        two.import();
        let marks = view::session_marks(&two.source).unwrap();
        two.activate(if with_marks { marks } else { Vec::new() }).outcome.unwrap();
        // What was sent long ago is proposed by the target's holder.
        (first.acquire, first.fence, first.op_no) = (Some(acquire(2, 1, Evidence::Free)), Fence(2), OpNo(1));
        run_in(&mut two.target, &Command::User(first)).outcome
    };
    assert_eq!(run(true), Err(Refusal::Rejected(Rejection::StaleRequest)));
    assert!(run(false).is_ok(), "the marks are what keeps it from taking effect twice");
}

#[test]
fn all_that_belongs_to_a_user_moves_and_nothing_else_counts() {
    let mut bed = Bed::new();
    bed.op(Op::Provision).unwrap();
    let keyed = NewMessage { flags: flags(SystemFlags::SEEN.0, &["$Work"]), ..message(1) };
    bed.append("INBOX", vec![keyed, message(2), message(3)]);
    bed.mutate(Mutation::Expunge { mailbox: MailboxId::INBOX, uids: Some(set("2")) }).unwrap();
    bed.mutate(Mutation::Subscribe { name: name("Sent"), on: true }).unwrap();
    bed.mutate(Mutation::SetQuota(QuotaLimits { storage_bytes: Some(1 << 30), messages: None, mailboxes: None })).unwrap();
    let delivery = Op::Deliver { to: name("INBOX"), message: message(4), dedupe: hash(99) };
    bed.op(delivery.clone()).unwrap();
    let (mailboxes, listed) = (view::mailboxes(&bed.tables, ANN).unwrap(), bed.list_all());
    let (flags_before, quota) = (bed.flag_rows(MailboxId::INBOX), view::quota(&bed.tables, ANN).unwrap());
    let mut two = Two::of(&bed);
    two.freeze(&mut bed);
    let late = Command::User(bed.user(Op::Append { to: name("INBOX"), messages: vec![message(9)] }));
    assert_eq!(run_in(&mut two.source, &late).outcome, Err(Refusal::Frozen { to: GroupId(2) }));
    let referenced = two.import();
    for n in [1, 3, 4] {
        assert!(referenced.contains(&Change::BodyReferenced { account: ANN, hash: hash(n) }), "body {n}");
    }
    assert_eq!(view::accounts(&two.target).unwrap(), [], "nobody sees it");
    assert_eq!(view::accounts_with_records(&two.target).unwrap(), [ANN], "its bodies are counted");
    assert_eq!(run_in(&mut two.source, &step(MOVE, MoveStep::Depart)).outcome, Ok(Reply::Done));
    assert_eq!(run_in(&mut two.source, &late).outcome, Err(Refusal::Moved { to: GroupId(2) }));
    assert_eq!(run_in(&mut two.source, &create()).outcome, Err(Refusal::Moved { to: GroupId(2) }), "an old directory makes no second user");
    let head = view::image_head(&bed.tables, ANN, MOVE).unwrap();
    assert_eq!(head, None, "only a frozen head is told");
    // The head was read before the departure.
    let mut again = Two { source: bed.tables.clone(), target: two.target.clone() };
    again.freeze(&mut bed_at(&bed));
    assert_eq!(again.activate(Vec::new()).outcome, Ok(Reply::Done));
    two.target = again.target;
    bed.tables = two.target;
    assert_eq!(view::mailboxes(&bed.tables, ANN).unwrap(), mailboxes);
    assert_eq!((bed.list_all(), bed.flag_rows(MailboxId::INBOX)), (listed, flags_before));
    assert_eq!(view::quota(&bed.tables, ANN).unwrap(), quota);
    assert_eq!(view::presence(&bed.tables, ANN).unwrap(), view::Presence::Here { last: MOVE, frozen_for: None });
    assert!(matches!(bed.run(Op::Noop).outcome, Err(Refusal::StaleFence { current: Fence(1), owner: None })), "the old holder");
    let mut taking = bed.user(delivery);
    (taking.fence, taking.op_no, taking.acquire) = (Fence(2), OpNo(1), Some(acquire(3, 1, Evidence::Free)));
    let told = bed.raw(Command::User(taking)).outcome;
    assert!(matches!(told, Ok(Reply::Delivered { duplicate: true, .. })), "{told:?}");
    // What is left at the source goes, and the hint stays.
    while matches!(view::presence(&two.source, ANN).unwrap(), view::Presence::Absent { left: true, .. }) {
        run_in(&mut two.source, &step(MOVE, MoveStep::Sweep)).outcome.unwrap();
    }
    let hint = view::Presence::Absent { last: MOVE, at: GroupId(2), arriving: false, left: false };
    assert_eq!(view::presence(&two.source, ANN).unwrap(), hint);
}

/// A holder with the numbers of another.
fn bed_at(bed: &Bed) -> Bed {
    Bed { tables: bed.tables.clone(), log: Vec::new(), fence: bed.fence, op_no: bed.op_no, time: bed.time, actor: bed.actor }
}

#[test]
fn an_import_is_checked_before_any_of_it_is_written() {
    let mut tables = MemoryTables::new();
    let record = |table: u8, key: &[u8], value: &[u8]| MovedRecord { table, key: key.to_vec(), value: Some(value.to_vec()) };
    for bad in [
        record(b'A', b"", b"x"),
        record(b'T', b"", b"x"),
        record(b'Y', &[0; 8], b"x"),
        record(b'F', &[0; 400], b"x"),
        record(b'F', b"k", &[0; 5000]),
        record(b'M', &[0; 12], b"no run"),
        record(b'W', b"short", b"x"),
    ] {
        let records = vec![record(b'F', b"k", b"v"), bad.clone()];
        let applied = run_in(&mut tables, &step(MOVE, MoveStep::Import { from: GroupId(1), records }));
        assert_eq!((applied.outcome, tables.iter().count()), (Err(Refusal::Rejected(Rejection::Cannot)), 0), "{bad:?}");
    }
}
