//! The naive twin of the state machine: plain maps, no runs, no counters.

use crate::common::*;
use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;
use std::collections::{BTreeMap, BTreeSet};

/// A seeded source of numbers.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len() as u64) as usize]
    }
}

const NAMES: [&str; 9] = ["INBOX", "a", "a/b", "a/b/c", "b", "b/c", "INBOX/x", "d/e", "d"];
const KEYWORDS: [&str; 4] = ["$One", "two", "Three", "four"];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    hash: BodyHash,
    size: u64,
    system: SystemFlags,
    keywords: BTreeSet<String>,
    email: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mailbox {
    id: MailboxId,
    validity: UidValidity,
    uid_next: u32,
    messages: BTreeMap<u32, Message>,
}

pub(crate) struct Model {
    /// Messages of a large APPEND.
    pub(crate) burst: u64,
    mailboxes: BTreeMap<String, Mailbox>,
    subscribed: BTreeSet<String>,
    next_id: u64,
    validity: u32,
    email: u64,
    delivered: BTreeMap<BodyHash, (MailboxId, Uid)>,
    bodies: BTreeSet<BodyHash>,
}

type Outcome = Result<Reply, Rejection>;

fn names_of(set: &FlagSet) -> BTreeSet<String> {
    set.keywords.iter().map(|k| k.as_str().to_ascii_lowercase()).collect()
}

fn parents(name: &str) -> Vec<String> {
    name.match_indices('/').map(|(at, _)| name[..at].to_owned()).collect()
}

impl Model {
    pub(crate) fn new(bed: &Bed) -> Self {
        let inbox = bed.status("INBOX");
        let mailbox = Mailbox { id: inbox.mailbox, validity: inbox.uid_validity, uid_next: 1, messages: BTreeMap::new() };
        Self {
            burst: 90,
            mailboxes: BTreeMap::from([("INBOX".to_owned(), mailbox)]),
            subscribed: BTreeSet::new(),
            next_id: 2,
            validity: inbox.uid_validity.0,
            email: 1,
            delivered: BTreeMap::new(),
            bodies: BTreeSet::new(),
        }
    }

    fn draw_uids(draw: &mut Draw, mailbox: &Mailbox) -> UidSet {
        let top = u64::from(mailbox.uid_next) + 2;
        let ranges: Vec<(u32, u32)> = (0..=draw.below(3))
            .map(|_| {
                let first = 1 + draw.below(top) as u32;
                let spread = if draw.below(3) == 0 { top } else { 3 };
                (first, first + draw.below(spread) as u32)
            })
            .collect();
        UidSet::from_ranges(ranges)
    }

    fn draw_flags(draw: &mut Draw) -> FlagSet {
        let keywords = KEYWORDS.iter().filter(|_| draw.below(4) == 0).map(|k| Keyword::new(k).unwrap()).collect();
        FlagSet { system: SystemFlags(draw.below(32) as u8), keywords }
    }

    fn draw_message(draw: &mut Draw) -> NewMessage {
        NewMessage { flags: Self::draw_flags(draw), ..message(draw.below(40)) }
    }

    pub(crate) fn draw_op(&self, draw: &mut Draw) -> Op {
        let to = name(draw.pick(&NAMES));
        let boxes: Vec<&Mailbox> = self.mailboxes.values().collect();
        let from = boxes[draw.below(boxes.len() as u64) as usize];
        let mailbox = from.id;
        let uids = Self::draw_uids(draw, from);
        let mutation = match draw.below(20) {
            0..=3 => {
                let count = if draw.below(6) == 0 { 1 + draw.below(self.burst) } else { 1 + draw.below(4) };
                return Op::Append { to, messages: (0..count).map(|_| Self::draw_message(draw)).collect() };
            }
            4 => return Op::Deliver { to, message: Self::draw_message(draw), dedupe: hash(draw.below(12)) },
            5..=8 => {
                let mode = [FlagMode::Add, FlagMode::Remove, FlagMode::Replace][draw.below(3) as usize];
                Mutation::Store { mailbox, uids, change: FlagChange { mode, flags: Self::draw_flags(draw) }, unchanged_since: None }
            }
            9..=10 => Mutation::Expunge { mailbox, uids: (draw.below(2) == 0).then_some(uids) },
            11..=12 => Mutation::Copy { from: mailbox, uids, to },
            13..=14 => Mutation::Move { from: mailbox, uids, to },
            15..=16 => Mutation::Create { name: to, special_use: vec![] },
            17 => Mutation::Delete { name: to },
            18 => Mutation::Rename { from: name(draw.pick(&NAMES)), to },
            _ => Mutation::Subscribe { name: to, on: draw.below(3) > 0 },
        };
        Op::Mutate(mutation)
    }

    /// Carries the command out on the model. Numbers that the model does not keep (MODSEQ) are taken from what happened.
    pub(crate) fn apply(&mut self, op: &Op, told: &Outcome) -> Outcome {
        match op {
            Op::Append { to, messages } => {
                let mailbox = self.mailboxes.get(to.as_str()).ok_or(Rejection::NoSuchMailbox)?;
                let (id, uid_validity) = (mailbox.id, mailbox.validity);
                let uids = messages.iter().map(|m| self.arrive(id, m)).collect();
                Ok(Reply::Appended { mailbox: id, uid_validity, uids })
            }
            Op::Deliver { to, message, dedupe } => {
                if let Some((mailbox, uid)) = self.delivered.get(dedupe) {
                    return Ok(Reply::Delivered { mailbox: *mailbox, uid: Some(*uid), duplicate: true });
                }
                let mailbox = self.mailboxes.get(to.as_str()).map_or(MailboxId::INBOX, |m| m.id);
                let uid = self.arrive(mailbox, message);
                self.delivered.insert(*dedupe, (mailbox, uid));
                Ok(Reply::Delivered { mailbox, uid: Some(uid), duplicate: false })
            }
            Op::Mutate(mutation) => self.mutate(mutation, told),
            other => panic!("not drawn: {other:?}"),
        }
    }

    fn by_id(&mut self, id: MailboxId) -> &mut Mailbox {
        self.mailboxes.values_mut().find(|m| m.id == id).unwrap()
    }

    fn arrive(&mut self, to: MailboxId, message: &NewMessage) -> Uid {
        let email = self.email;
        self.email += 1;
        let NewMessage { hash, size, flags, .. } = message;
        self.put(to, Message { hash: *hash, size: *size, system: flags.system, keywords: names_of(flags), email })
    }

    fn put(&mut self, to: MailboxId, message: Message) -> Uid {
        let mailbox = self.by_id(to);
        let uid = mailbox.uid_next;
        mailbox.uid_next += 1;
        mailbox.messages.insert(uid, message);
        Uid(uid)
    }

    fn mutate(&mut self, mutation: &Mutation, told: &Outcome) -> Outcome {
        match mutation {
            Mutation::Store { mailbox, uids, change, .. } => Ok(self.store(*mailbox, uids, change, told)),
            Mutation::Expunge { mailbox, uids } => {
                let messages = &mut self.by_id(*mailbox).messages;
                let asked = |uid: u32| uids.as_ref().is_none_or(|set| set.contains(Uid(uid)));
                let gone: UidSet = messages
                    .iter()
                    .filter(|(uid, m)| asked(**uid) && m.system.contains(SystemFlags::DELETED))
                    .map(|(uid, _)| Uid(*uid))
                    .collect();
                messages.retain(|uid, _| !gone.contains(Uid(*uid)));
                let modseq = if gone.is_empty() { None } else { modseq_of(told) };
                Ok(Reply::Expunged { uids: gone, modseq })
            }
            Mutation::Copy { from, uids, to } => self.transfer(*from, uids, to, false),
            Mutation::Move { from, uids, to } => self.transfer(*from, uids, to, true),
            Mutation::Create { name, .. } => {
                if self.mailboxes.contains_key(name.as_str()) {
                    return Err(Rejection::AlreadyExists);
                }
                self.make_parents(name.as_str());
                Ok(Reply::Created { mailbox: self.make(name.as_str()) })
            }
            Mutation::Delete { name } => {
                let mailbox = self.mailboxes.get(name.as_str()).ok_or(Rejection::NoSuchMailbox)?;
                if mailbox.id == MailboxId::INBOX {
                    return Err(Rejection::Cannot);
                }
                self.mailboxes.remove(name.as_str());
                Ok(Reply::Done)
            }
            Mutation::Rename { from, to } => self.rename(from.as_str(), to.as_str()),
            Mutation::Subscribe { name, on } => {
                if *on {
                    self.subscribed.insert(name.to_string())
                } else {
                    self.subscribed.remove(name.as_str())
                };
                Ok(Reply::Done)
            }
            other => panic!("not drawn: {other:?}"),
        }
    }

    fn store(&mut self, mailbox: MailboxId, uids: &UidSet, change: &FlagChange, told: &Outcome) -> Reply {
        let wanted = names_of(&change.flags);
        let (mut changed, mut found) = (false, 0);
        for (_, m) in self.by_id(mailbox).messages.iter_mut().filter(|(uid, _)| uids.contains(Uid(**uid))) {
            found += 1;
            let before = m.clone();
            match change.mode {
                FlagMode::Add => {
                    m.system = m.system.union(change.flags.system);
                    m.keywords.extend(wanted.clone());
                }
                FlagMode::Remove => {
                    m.system = m.system.minus(change.flags.system);
                    m.keywords = &m.keywords - &wanted;
                }
                FlagMode::Replace => (m.system, m.keywords) = (change.flags.system, wanted.clone()),
            }
            changed |= *m != before;
        }
        let modseq = if changed { modseq_of(told) } else { None };
        Reply::Stored { modseq, modified: UidSet::new(), missing: found != uids.len() }
    }

    fn transfer(&mut self, from: MailboxId, uids: &UidSet, to: &MailboxName, moved: bool) -> Outcome {
        let target = self.mailboxes.get(to.as_str()).ok_or(Rejection::NoSuchMailbox)?;
        let (id, uid_validity) = (target.id, target.validity);
        let messages: Vec<(u32, Message)> =
            self.by_id(from).messages.iter().filter(|(u, _)| uids.contains(Uid(**u))).map(|(u, m)| (*u, m.clone())).collect();
        let source: UidSet = messages.iter().map(|(uid, _)| Uid(*uid)).collect();
        if moved {
            self.by_id(from).messages.retain(|uid, _| !source.contains(Uid(*uid)));
        }
        let target = messages.into_iter().map(|(_, m)| self.put(id, m)).collect();
        Ok(Reply::Copied { uid_validity, source, target })
    }

    fn make(&mut self, name: &str) -> MailboxId {
        let id = MailboxId(self.next_id);
        self.next_id += 1;
        self.validity = (self.validity + 1).max(T0 as u32);
        let mailbox = Mailbox { id, validity: UidValidity(self.validity), uid_next: 1, messages: BTreeMap::new() };
        assert!(self.mailboxes.insert(name.to_owned(), mailbox).is_none());
        id
    }

    fn make_parents(&mut self, name: &str) {
        for parent in parents(name) {
            if !self.mailboxes.contains_key(&parent) {
                self.make(&parent);
            }
        }
    }

    fn has_mailboxes_below(&self, name: &str) -> bool {
        let prefix = format!("{name}/");
        self.mailboxes.keys().any(|n| n.starts_with(&prefix))
    }

    fn rename(&mut self, from: &str, to: &str) -> Outcome {
        if from == "INBOX" {
            if self.mailboxes.contains_key(to) {
                return Err(Rejection::AlreadyExists);
            }
            self.make_parents(to);
            let id = self.make(to);
            let messages = std::mem::take(&mut self.by_id(MailboxId::INBOX).messages);
            messages.into_values().for_each(|m| {
                self.put(id, m);
            });
            return Ok(Reply::Done);
        }
        let (source_exists, source_below) = (self.mailboxes.contains_key(from), self.has_mailboxes_below(from));
        if !source_exists && !source_below {
            return Err(Rejection::NoSuchMailbox);
        }
        if to.starts_with(&format!("{from}/")) {
            return Err(Rejection::Cannot);
        }
        if from == to || self.mailboxes.contains_key(to) {
            return Err(Rejection::AlreadyExists);
        }
        let only_itself = self.has_mailboxes_below(to);
        if only_itself && (!source_exists || source_below) {
            return Err(Rejection::AlreadyExists);
        }
        self.make_parents(to);
        let moves = |name: &str| name == from || (!only_itself && name.starts_with(&format!("{from}/")));
        let renamed = |name: String| if moves(&name) { format!("{to}{}", &name[from.len()..]) } else { name };
        self.mailboxes = std::mem::take(&mut self.mailboxes).into_iter().map(|(n, m)| (renamed(n), m)).collect();
        self.subscribed = std::mem::take(&mut self.subscribed).into_iter().map(renamed).collect();
        Ok(Reply::Done)
    }

    /// Follows what the body store is told.
    pub(crate) fn hear(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::BodyReferenced { hash, .. } => assert!(self.bodies.insert(*hash), "referenced twice"),
                Change::BodyReleased { hash, .. } => assert!(self.bodies.remove(hash), "released twice"),
                _ => {}
            }
        }
    }

    /// The tables hold what the model holds.
    pub(crate) fn compare(&self, bed: &Bed) {
        let rows =
            view::list(&bed.tables, ANN, ANN, &ListRequest { patterns: vec![ListPattern("*".into())], ..ListRequest::default() }).unwrap();
        let listed: BTreeMap<String, MailboxId> = rows.iter().filter_map(|r| r.mailbox.map(|id| (r.name.to_string(), id))).collect();
        assert_eq!(listed, self.mailboxes.iter().map(|(n, m)| (n.clone(), m.id)).collect());
        for row in &rows {
            assert_eq!(row.has_children, self.has_mailboxes_below(row.name.as_str()), "{}", row.name);
            assert_eq!(row.subscribed, self.subscribed.contains(row.name.as_str()), "{}", row.name);
        }
        let subscribed = ListRequest { patterns: vec![ListPattern("*".into())], subscribed: true, ..ListRequest::default() };
        let subscribed: BTreeSet<String> =
            view::list(&bed.tables, ANN, ANN, &subscribed).unwrap().into_iter().map(|r| r.name.to_string()).collect();
        assert_eq!(subscribed, self.subscribed);
        let mut bodies = BTreeSet::new();
        for (name, mailbox) in &self.mailboxes {
            let status = bed.status(name);
            assert_eq!((status.uid_next.0, status.uid_validity), (mailbox.uid_next, mailbox.validity), "{name}");
            assert_eq!(view::name_of(&bed.tables, ANN, mailbox.id).unwrap().unwrap().as_str(), name);
            let keywords = view::keywords(&bed.tables, ANN, mailbox.id).unwrap();
            let flag_rows = bed.flag_rows(mailbox.id);
            let stored: BTreeMap<u32, Message> = bed
                .message_rows(mailbox.id)
                .into_iter()
                .zip(flag_rows)
                .map(|(m, f)| {
                    let set = (0..keywords.len()).filter(|bit| f.keywords & 1 << bit != 0);
                    let keywords = set.map(|bit| keywords[bit].as_str().to_ascii_lowercase()).collect();
                    (m.uid.0, Message { hash: m.hash, size: m.size, system: f.system, keywords, email: m.email_id.0 })
                })
                .collect();
            assert_eq!(stored, mailbox.messages, "{name}");
            bodies.extend(mailbox.messages.values().map(|m| m.hash));
        }
        assert_eq!(self.bodies, bodies, "the body store knows exactly the bodies that messages name");
    }
}

fn modseq_of(told: &Outcome) -> Option<ModSeq> {
    match told {
        Ok(Reply::Stored { modseq, .. } | Reply::Expunged { modseq, .. }) => Some(modseq.expect("a change has a MODSEQ")),
        _ => None,
    }
}
