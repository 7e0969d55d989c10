//! A workload made from a seed, and what must be there after everything that was not synced is gone.

use bytes::Bytes;
use parliament_ids::{BodyHash, GroupId};
use parliament_journal::{Done, Journal, JournalFault};
use parliament_store_tests::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const GROUPS: u64 = 4;

#[derive(Clone, Debug)]
enum Step {
    Vote(u32, Bytes),
    Entry(u32, u64, Bytes),
    Truncate(u32, u64),
    Purge(u32, u64, Bytes),
    Reset(u32),
    Note(Vec<u8>, Vec<u8>),
    NoteGone(Vec<u8>),
    Put(BodyHash, Bytes),
    Bury(BodyHash),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    vote: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    entries: BTreeMap<u64, Bytes>,
}

impl Group {
    /// The index that the next entry gets, and the first one that is there.
    fn bounds(&self) -> (u64, u64) {
        let after_purge = self.purged.as_ref().map_or(1, |(index, _)| index + 1);
        let first = self.entries.keys().next().copied().unwrap_or(after_purge);
        (first, self.entries.keys().next_back().map_or(after_purge, |last| last + 1))
    }
}

/// What a beginning of the workload leaves, bodies and commit marks apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Image {
    groups: BTreeMap<u32, Group>,
    notes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Image {
    fn apply(&mut self, step: &Step) {
        match step.clone() {
            Step::Vote(group, vote) => self.group(group).vote = Some(vote),
            Step::Entry(group, index, bytes) => {
                self.group(group).entries.insert(index, bytes);
            }
            Step::Truncate(group, index) => {
                self.group(group).entries.split_off(&index);
            }
            Step::Purge(group, index, marker) => {
                let group = self.group(group);
                group.entries = group.entries.split_off(&(index + 1));
                group.purged = Some((index, marker));
            }
            Step::Reset(group) => {
                self.groups.remove(&group);
            }
            Step::Note(key, value) => {
                self.notes.insert(key, value);
            }
            Step::NoteGone(key) => {
                self.notes.remove(&key);
            }
            Step::Put(..) | Step::Bury(_) => {}
        }
    }

    fn group(&mut self, group: u32) -> &mut Group {
        self.groups.entry(group).or_default()
    }

    fn of(journal: &Journal) -> Result<Self, String> {
        let mut image = Self { notes: journal.notes(b"").into_iter().collect(), ..Self::default() };
        for group in journal.groups() {
            let log = journal.group(group);
            let state = log.state();
            let (first, end) = (log.first_index().unwrap_or(0), state.last_index.map_or(0, |last| last + 1));
            let entries = log.read(first, end, usize::MAX).map_err(|fault| fault.to_string())?;
            let entries: BTreeMap<_, _> = entries.into_iter().collect();
            if entries.len() as u64 != end - first.min(end) {
                return Err(format!("{} entries of group {group} between {first} and {end}", entries.len()));
            }
            image.groups.insert(group.0, Group { vote: state.vote, purged: state.purged, entries });
        }
        Ok(image.normal())
    }

    /// Without groups that hold nothing, which need not be known.
    fn normal(mut self) -> Self {
        self.groups.retain(|_, group| *group != Group::default());
        self
    }
}

/// What was submitted, in order, and how much of it was acknowledged.
pub(super) struct Workload {
    pub(super) random: Random,
    steps: Vec<Step>,
    now: Image,
    marks: BTreeSet<Bytes>,
    /// Bodies of all lives: a buried one may come back after a cut.
    known: BTreeSet<BodyHash>,
    /// One more than the last acknowledged step.
    acknowledged: Arc<AtomicUsize>,
    /// An acknowledgement came before that of an earlier step.
    unordered: Arc<AtomicBool>,
    pub(super) total: usize,
}

impl Workload {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            steps: Vec::new(),
            now: Image::default(),
            marks: BTreeSet::new(),
            known: BTreeSet::new(),
            acknowledged: Arc::default(),
            unordered: Arc::default(),
            total: 0,
        }
    }

    fn roll(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn bytes(&mut self, max: u64) -> Bytes {
        let len = self.random.below(max + 1) as usize;
        Bytes::from(self.random.bytes(len))
    }

    /// Submits bursts of steps until the journal dies or, if it does not, until so many were acknowledged.
    pub(super) fn run(&mut self, journal: &Journal, steps: usize) {
        let end = self.steps.len() + steps;
        while journal.fault().is_none() && self.steps.len() < end {
            for _ in 0..=self.roll(12) {
                self.submit(journal);
            }
            let behind = self.roll(40) as usize;
            while journal.fault().is_none() && self.acknowledged.load(Ordering::Acquire) + behind < self.steps.len() {
                std::thread::yield_now();
            }
        }
    }

    fn submit(&mut self, journal: &Journal) {
        let group = self.roll(GROUPS) as u32;
        let (first, end) = self.now.groups.get(&group).map_or((1, 1), Group::bounds);
        let step = match self.roll(24) {
            0 | 1 => Step::Vote(group, self.bytes(40)),
            2 if end > first => Step::Truncate(group, end - 1 - self.roll((end - first).min(3))),
            3 | 4 if end > first + 2 => Step::Purge(group, first + self.roll(end - first - 1), self.bytes(20)),
            5 => Step::Note(vec![self.roll(6) as u8], self.bytes(60).to_vec()),
            6 => Step::NoteGone(vec![self.roll(6) as u8]),
            7 if self.random.one_in(8) => Step::Reset(group),
            8..=11 => {
                let (seed, len) = (self.roll(60), self.roll(9000) as usize);
                let bytes = Bytes::from(Random::new(seed).bytes(len));
                Step::Put(BodyHash(*blake3::hash(&bytes).as_bytes()), bytes)
            }
            12 => match self.a_body() {
                Some(hash) => Step::Bury(hash),
                None => return,
            },
            13 => {
                let mark = self.bytes(16);
                self.marks.insert(mark.clone());
                return journal.group(GroupId(group)).save_committed(mark);
            }
            _ => Step::Entry(group, end, self.bytes(1800)),
        };
        self.now.apply(&step);
        if let Step::Put(hash, _) = &step {
            self.known.insert(*hash);
        }
        self.steps.push(step.clone());
        self.total += 1;
        let done = self.noting();
        tell(journal, step, done);
    }

    fn noting(&self) -> Done {
        let (at, acknowledged, unordered) = (self.steps.len(), self.acknowledged.clone(), self.unordered.clone());
        Box::new(move |result: Result<(), JournalFault>| {
            if result.is_ok() && acknowledged.fetch_max(at, Ordering::AcqRel) > at {
                unordered.store(true, Ordering::Release);
            }
        })
    }

    fn a_body(&mut self) -> Option<BodyHash> {
        let live: Vec<_> = bodies(&self.steps).into_keys().collect();
        (!live.is_empty()).then(|| live[self.roll(live.len() as u64) as usize])
    }

    /// Compares what was recovered with the beginnings of the workload that are allowed: all that was acknowledged, and perhaps more.
    pub(super) fn check(&self, journal: &Journal) -> Result<(), String> {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        if self.unordered.load(Ordering::Acquire) {
            return Err("acknowledged out of order".into());
        }
        let damage = journal.damage();
        if damage != parliament_journal::Damage::default() {
            return Err(format!("{damage:?} although nothing was damaged"));
        }
        let found = Image::of(journal)?;
        let mut image = Image::default();
        let mut matches = false;
        for length in 0..=self.steps.len() {
            if length > 0 {
                image.apply(&self.steps[length - 1]);
            }
            matches = matches || (length >= acknowledged && image.clone().normal() == found);
        }
        if !matches {
            return Err(format!("no beginning of {} steps, {acknowledged} acknowledged, leaves what was found", self.steps.len()));
        }
        if let Some(mark) =
            journal.groups().into_iter().filter_map(|group| journal.group(group).state().committed).find(|mark| !self.marks.contains(mark))
        {
            return Err(format!("commit mark {mark:?} was never given"));
        }
        self.check_bodies(journal, acknowledged)
    }

    fn check_bodies(&self, journal: &Journal, acknowledged: usize) -> Result<(), String> {
        let buried_later: BTreeSet<BodyHash> =
            self.steps[acknowledged..].iter().filter_map(|step| if let Step::Bury(hash) = step { Some(*hash) } else { None }).collect();
        for (hash, bytes) in bodies(&self.steps[..acknowledged]) {
            if !buried_later.contains(&hash) && journal.read_body(&hash).map_err(|fault| fault.to_string())? != Some(bytes) {
                return Err(format!("body {hash} was acknowledged and is gone"));
            }
        }
        for (hash, bytes) in all_bodies(journal)? {
            if !self.known.contains(&hash) || *blake3::hash(&bytes).as_bytes() != hash.0 {
                return Err(format!("body {hash} was invented"));
            }
        }
        Ok(())
    }

    /// Takes what was recovered as the new beginning: none of it may be lost from here on.
    pub(super) fn resume(&mut self, journal: &Journal) -> Result<(), String> {
        let found = Image::of(journal)?;
        self.steps.clear();
        for (number, group) in &found.groups {
            self.steps.extend(group.vote.clone().map(|vote| Step::Vote(*number, vote)));
            self.steps.extend(group.purged.clone().map(|(index, marker)| Step::Purge(*number, index, marker)));
            self.steps.extend(group.entries.iter().map(|(index, bytes)| Step::Entry(*number, *index, bytes.clone())));
        }
        self.steps.extend(found.notes.iter().map(|(key, value)| Step::Note(key.clone(), value.clone())));
        self.steps.extend(all_bodies(journal)?.into_iter().map(|(hash, bytes)| Step::Put(hash, bytes)));
        self.marks = journal.groups().into_iter().filter_map(|group| journal.group(group).state().committed).collect();
        self.now = found;
        self.acknowledged = Arc::new(AtomicUsize::new(self.steps.len()));
        self.unordered = Arc::default();
        Ok(())
    }
}

fn tell(journal: &Journal, step: Step, done: Done) {
    match step {
        Step::Vote(group, vote) => journal.group(GroupId(group)).save_vote(vote, done),
        Step::Entry(group, index, bytes) => journal.group(GroupId(group)).append(vec![(index, bytes)], done),
        Step::Truncate(group, index) => journal.group(GroupId(group)).truncate_from(index, done),
        Step::Purge(group, index, marker) => journal.group(GroupId(group)).purge_to(index, marker, done),
        Step::Reset(group) => journal.group(GroupId(group)).reset(done),
        Step::Note(key, value) => journal.put_note(&key, &value, done),
        Step::NoteGone(key) => journal.remove_note(&key, done),
        Step::Put(hash, bytes) => journal.put_body(hash, bytes, done),
        Step::Bury(hash) => {
            journal.remove_body(&hash);
            journal.flush(done);
        }
    }
}

/// Bodies that a part of the workload leaves.
fn bodies(steps: &[Step]) -> BTreeMap<BodyHash, Bytes> {
    let mut live = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put(hash, bytes) => {
                live.insert(*hash, bytes.clone());
            }
            Step::Bury(hash) => {
                live.remove(hash);
            }
            _ => {}
        }
    }
    live
}

fn all_bodies(journal: &Journal) -> Result<Vec<(BodyHash, Bytes)>, String> {
    let mut found = Vec::new();
    for segment in journal.body_segments() {
        for (hash, _) in journal.bodies_of(segment).map_err(|fault| fault.to_string())? {
            let bytes = journal.read_body(&hash).map_err(|fault| fault.to_string())?;
            found.push((hash, bytes.ok_or_else(|| format!("body {hash} is listed and absent"))?));
        }
    }
    Ok(found)
}
