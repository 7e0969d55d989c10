//! A mail store in memory: one account, one holder, every request answered at once and exactly.

mod read;

use parliament_ids::*;
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::*;
use std::collections::{BTreeMap, HashMap, VecDeque};

pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) system: SystemFlags,
    pub(crate) keywords: u128,
    pub(crate) modseq: ModSeq,
    pub(crate) date: DateTime,
    pub(crate) email_id: u64,
}

pub(crate) struct Mailbox {
    pub(crate) id: MailboxId,
    pub(crate) name: MailboxName,
    pub(crate) uid_validity: u32,
    pub(crate) uid_next: u32,
    pub(crate) messages: BTreeMap<u32, Message>,
    pub(crate) vanished: Vec<(ModSeq, u32)>,
    pub(crate) keywords: Vec<Keyword>,
    pub(crate) special_use: Vec<SpecialUse>,
    pub(crate) changed: ModSeq,
}

pub(crate) struct Fake {
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) subscribed: Vec<MailboxName>,
    pub(crate) uploads: HashMap<u64, Vec<u8>>,
    /// Told instead of carrying out the next calls; `None` carries one out.
    pub(crate) faults: VecDeque<Option<Result<Rejection, Unserved>>>,
    pub(crate) rights: Rights,
    pub(crate) page: usize,
    pub(crate) limits: QuotaLimits,
    /// All bodies that ever were; a real store keeps them for a while too.
    stored: Vec<Vec<u8>>,
    modseq: u64,
    ids: u64,
    last: Option<(RequestSeq, Result<Reply, Rejection>)>,
}

type Outcome = Result<Reply, Rejection>;

impl Fake {
    pub(crate) fn new() -> Self {
        let mut fake = Self {
            mailboxes: Vec::new(),
            subscribed: Vec::new(),
            uploads: HashMap::new(),
            faults: VecDeque::new(),
            rights: Rights::ALL,
            page: 3,
            limits: QuotaLimits::default(),
            stored: Vec::new(),
            modseq: 1,
            ids: 0,
            last: None,
        };
        fake.create(&MailboxName::inbox(), Vec::new()).unwrap();
        fake
    }

    pub(crate) fn find(&self, name: &MailboxName) -> Result<usize, Rejection> {
        self.mailboxes.iter().position(|m| m.name == *name).ok_or(Rejection::NoSuchMailbox)
    }
    fn by_id(&self, id: MailboxId) -> Result<usize, Rejection> {
        self.mailboxes.iter().position(|m| m.id == id).ok_or(Rejection::NoSuchMailbox)
    }
    fn bump(&mut self, at: usize) -> ModSeq {
        self.modseq += 1;
        self.mailboxes[at].changed = ModSeq(self.modseq);
        ModSeq(self.modseq)
    }

    fn create(&mut self, name: &MailboxName, special_use: Vec<SpecialUse>) -> Outcome {
        if self.find(name).is_ok() {
            return Err(Rejection::AlreadyExists);
        }
        if let Some(parent) = name.parent()
            && self.find(&parent).is_err()
        {
            self.create(&parent, Vec::new())?;
        }
        self.ids += 1;
        let id = MailboxId(self.ids);
        self.mailboxes.push(Mailbox {
            id,
            name: name.clone(),
            uid_validity: 900 + self.ids as u32,
            uid_next: 1,
            messages: BTreeMap::new(),
            vanished: Vec::new(),
            keywords: Vec::new(),
            special_use,
            changed: ModSeq(self.modseq),
        });
        self.mailboxes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Reply::Created { mailbox: id })
    }

    /// Adds a message as another session or a delivery would.
    pub(crate) fn deliver(&mut self, name: &MailboxName, body: &[u8], flags: &FlagSet, date: Option<DateTime>) -> Result<u32, Rejection> {
        let at = self.find(name)?;
        let modseq = self.bump(at);
        let keywords = self.keyword_bits(at, &flags.keywords);
        self.ids += 1;
        let email_id = self.ids;
        self.stored.push(body.to_vec());
        let mailbox = &mut self.mailboxes[at];
        let uid = mailbox.uid_next;
        mailbox.uid_next += 1;
        let date = date.unwrap_or(DateTime { seconds: 1_767_225_600, zone_minutes: 60 });
        let message = Message { body: body.to_vec(), system: flags.system, keywords, modseq, date, email_id };
        mailbox.messages.insert(uid, message);
        Ok(uid)
    }

    fn keyword_bits(&mut self, at: usize, keywords: &[Keyword]) -> u128 {
        let known = &mut self.mailboxes[at].keywords;
        keywords.iter().fold(0, |bits, keyword| {
            let bit = known.iter().position(|k| k == keyword).unwrap_or_else(|| {
                known.push(keyword.clone());
                known.len() - 1
            });
            bits | 1 << bit
        })
    }

    pub(crate) fn store(&mut self, at: usize, uids: &UidSet, change: &FlagChange, unchanged_since: Option<ModSeq>) -> Outcome {
        let bits = self.keyword_bits(at, &change.flags.keywords);
        let (mut modified, mut missing, mut changed) = (UidSet::new(), false, Vec::new());
        for uid in uids {
            let Some(message) = self.mailboxes[at].messages.get(&uid.0) else {
                missing = true;
                continue;
            };
            if unchanged_since.is_some_and(|since| message.modseq > since) {
                modified.insert(uid);
                continue;
            }
            let (system, keywords) = match change.mode {
                FlagMode::Replace => (change.flags.system, bits),
                FlagMode::Add => (message.system.union(change.flags.system), message.keywords | bits),
                FlagMode::Remove => (message.system.minus(change.flags.system), message.keywords & !bits),
            };
            if (system, keywords) != (message.system, message.keywords) {
                changed.push((uid, system, keywords));
            }
        }
        let modseq = if changed.is_empty() { None } else { Some(self.bump(at)) };
        for (uid, system, keywords) in changed {
            let message = self.mailboxes[at].messages.get_mut(&uid.0).unwrap();
            (message.system, message.keywords) = (system, keywords);
            message.modseq = modseq.unwrap();
        }
        Ok(Reply::Stored { modseq, modified, missing })
    }

    pub(crate) fn expunge(&mut self, at: usize, uids: &UidSet) -> Outcome {
        let gone: Vec<u32> = self.mailboxes[at].messages.keys().copied().filter(|uid| uids.contains(Uid(*uid))).collect();
        let modseq = if gone.is_empty() { None } else { Some(self.bump(at)) };
        for uid in &gone {
            self.mailboxes[at].messages.remove(uid);
            self.mailboxes[at].vanished.push((modseq.unwrap(), *uid));
        }
        Ok(Reply::Expunged { uids: gone.into_iter().map(Uid).collect(), modseq })
    }

    fn copy(&mut self, from: MailboxId, uids: &UidSet, to: &MailboxName, moves: bool) -> Outcome {
        let (from, to_at) = (self.by_id(from)?, self.find(to)?);
        let mut pairs = (UidSet::new(), UidSet::new());
        for uid in uids {
            let Some(message) = self.mailboxes[from].messages.get(&uid.0) else { continue };
            let flags = FlagSet { system: message.system, keywords: Vec::new() };
            let (body, date) = (message.body.clone(), message.date);
            let new = self.deliver(to, &body, &flags, Some(date))?;
            pairs.0.insert(uid);
            pairs.1.insert(Uid(new));
        }
        if moves {
            self.expunge(from, &pairs.0.clone())?;
        }
        let uid_validity = UidValidity(self.mailboxes[to_at].uid_validity);
        Ok(Reply::Copied { uid_validity, source: pairs.0, target: pairs.1 })
    }

    fn append(&mut self, to: &MailboxName, messages: &[AppendMessage]) -> Outcome {
        let at = self.find(to)?;
        let mut bodies = Vec::new();
        for message in messages {
            bodies.push(match &message.body {
                BodySource::Inline(bytes) => bytes.0.to_vec(),
                BodySource::Uploaded { upload, size, hash } => {
                    let body = self.uploads.get(&upload.number).ok_or(Rejection::UploadLost)?.clone();
                    if body.len() as u64 != *size || blake3::hash(&body).as_bytes() != &hash.0 {
                        return Err(Rejection::BadBody);
                    }
                    body
                }
            });
        }
        let mut uids = UidSet::new();
        for (message, body) in messages.iter().zip(bodies) {
            uids.insert(Uid(self.deliver(to, &body, &message.flags, message.internal_date)?));
        }
        Ok(Reply::Appended { mailbox: self.mailboxes[at].id, uid_validity: UidValidity(self.mailboxes[at].uid_validity), uids })
    }

    fn mutate(&mut self, mutation: &Mutation) -> Outcome {
        match mutation {
            Mutation::Create { name, special_use } => self.create(name, special_use.clone()),
            Mutation::Delete { name } => {
                let at = self.find(name)?;
                self.mailboxes.remove(at);
                Ok(Reply::Done)
            }
            Mutation::Rename { from, to } => {
                let at = self.find(from)?;
                if self.find(to).is_ok() {
                    return Err(Rejection::AlreadyExists);
                }
                self.mailboxes[at].name = to.clone();
                Ok(Reply::Done)
            }
            Mutation::Subscribe { name, on } => {
                self.subscribed.retain(|known| known != name);
                if *on {
                    self.subscribed.push(name.clone());
                }
                Ok(Reply::Done)
            }
            Mutation::Store { mailbox, uids, change, unchanged_since } => {
                let at = self.by_id(*mailbox)?;
                self.store(at, uids, change, *unchanged_since)
            }
            Mutation::Expunge { mailbox, uids } => {
                let at = self.by_id(*mailbox)?;
                let all = UidSet::range(Uid(1), Uid(u32::MAX));
                let asked = uids.as_ref().unwrap_or(&all);
                let deleted = self.mailboxes[at].messages.iter().filter(|(_, m)| m.system.contains(SystemFlags::DELETED));
                let deleted: UidSet = deleted.map(|(uid, _)| Uid(*uid)).collect();
                self.expunge(at, &deleted.intersection(asked))
            }
            Mutation::Copy { from, uids, to } => self.copy(*from, uids, to, false),
            Mutation::Move { from, uids, to } => self.copy(*from, uids, to, true),
            other => panic!("not asked by this protocol yet: {other:?}"),
        }
    }

    fn delta(&self, mark: Mark) -> Delta {
        let Ok(at) = self.by_id(mark.mailbox) else {
            let (mailbox, modseq, uid_next) = (mark.mailbox, mark.modseq, mark.uid_next);
            let empty = UidSet::new();
            return Delta {
                mailbox,
                gone: true,
                modseq,
                uid_next,
                vanished: empty.clone(),
                arrived: empty,
                changed: vec![],
                keywords: vec![],
            };
        };
        let mailbox = &self.mailboxes[at];
        let (old, new): (Vec<_>, Vec<_>) = mailbox.messages.iter().partition(|(uid, _)| **uid < mark.uid_next.0);
        Delta {
            mailbox: mark.mailbox,
            gone: false,
            modseq: mailbox.changed,
            uid_next: Uid(mailbox.uid_next),
            vanished: mailbox.vanished.iter().filter(|(modseq, _)| *modseq > mark.modseq).map(|(_, uid)| Uid(*uid)).collect(),
            arrived: new.into_iter().map(|(uid, _)| Uid(*uid)).collect(),
            changed: old.into_iter().filter(|(_, m)| m.modseq > mark.modseq).map(|(uid, m)| flag_row(*uid, m)).collect(),
            keywords: mailbox.keywords.clone(),
        }
    }

    /// Carries out a call, as the holder would.
    pub(crate) fn call(&mut self, call: Call) -> Result<Answer, Unserved> {
        assert_eq!(call.request.is_some(), call.body.mutates(), "exactly what changes something has an id");
        let fault = self.faults.pop_front().flatten();
        let outcome = match fault {
            Some(Err(unserved)) => return Err(unserved),
            Some(Ok(rejection)) => Err(rejection),
            None => match (&self.last, call.request) {
                (Some((seq, reply)), Some(id)) if *seq == id.seq => reply.clone(),
                (last, id) => {
                    assert!(id.is_none_or(|id| last.as_ref().is_none_or(|(seq, _)| *seq < id.seq)), "request numbers ascend");
                    self.carry_out(&call.body)
                }
            },
        };
        if let Some(id) = call.request
            && outcome != Err(Rejection::UploadLost)
        {
            self.last = Some((id.seq, outcome.clone()));
        }
        Ok(Answer { outcome, delta: call.view.map(|mark| self.delta(mark)) })
    }

    fn carry_out(&mut self, request: &Request) -> Outcome {
        match request {
            Request::Sync => Ok(Reply::Done),
            Request::Mutate(mutation) => self.mutate(mutation),
            Request::Append { to, messages } => self.append(to, messages),
            Request::Upload { upload, offset, bytes } => {
                let body = self.uploads.entry(upload.number).or_default();
                if *offset > body.len() as u64 {
                    return Err(Rejection::UploadLost);
                }
                body.truncate(*offset as usize);
                body.extend_from_slice(&bytes.0);
                Ok(Reply::Done)
            }
            Request::ReadBody { mailbox, uid, offset, length } => {
                let body = &self.mailboxes[self.by_id(*mailbox)?].messages.get(&uid.0).ok_or(Rejection::Expunged)?.body;
                let from = (*offset as usize).min(body.len());
                let to = (from + *length as usize).min(body.len());
                Ok(Reply::Piece(BytesField(body[from..to].to_vec().into())))
            }
            Request::ReadOn { hash, offset, length } => {
                let body = self.stored.iter().find(|body| hash_of(body) == *hash).unwrap();
                let from = (*offset as usize).min(body.len());
                let to = (from + *length as usize).min(body.len());
                Ok(Reply::Piece(BytesField(body[from..to].to_vec().into())))
            }
            other => self.read(other),
        }
    }
}

pub(crate) fn hash_of(body: &[u8]) -> BodyHash {
    BodyHash(*blake3::hash(body).as_bytes())
}

pub(crate) fn flag_row(uid: u32, message: &Message) -> FlagRow {
    FlagRow { uid: Uid(uid), system: message.system, keywords: message.keywords, modseq: message.modseq }
}
