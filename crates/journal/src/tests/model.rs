//! A workload made from a seed, and what must be there after it was cut.

use super::body;
use crate::{Done, Driver, Journal};
use bytes::Bytes;
use parliament_ids::{BodyHash, GroupId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const GROUPS: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Vote(u32, Bytes),
    Entry(u32, u64, Bytes),
    Truncate(u32, u64),
    Purge(u32, u64, Bytes),
    Note(Vec<u8>, Vec<u8>),
    Put(BodyHash, Bytes),
    Remove(BodyHash),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    vote: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    entries: BTreeMap<u64, Bytes>,
}

/// Everything that a prefix of the workload leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Image {
    groups: BTreeMap<u32, Group>,
    notes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Image {
    fn apply(&mut self, step: &Step) {
        match step.clone() {
            Step::Vote(group, vote) => self.groups.entry(group).or_default().vote = Some(vote),
            Step::Entry(group, index, bytes) => {
                self.groups.entry(group).or_default().entries.insert(index, bytes);
            }
            Step::Truncate(group, index) => {
                self.groups.entry(group).or_default().entries.split_off(&index);
            }
            Step::Purge(group, index, marker) => {
                let state = self.groups.entry(group).or_default();
                state.entries = state.entries.split_off(&(index + 1));
                state.purged = Some((index, marker));
            }
            Step::Note(key, value) => {
                self.notes.insert(key, value);
            }
            Step::Put(..) | Step::Remove(_) => {}
        }
    }

    fn of(journal: &Journal) -> Self {
        let mut image = Self { notes: journal.notes(b"").into_iter().collect(), ..Self::default() };
        for group in journal.groups() {
            let log = journal.group(group);
            let state = log.state();
            assert!(!state.damaged, "group {group} is damaged after a plain cut");
            let first = log.first_index().unwrap_or(0);
            let to = state.last_index.map_or(0, |last| last + 1);
            let entries: BTreeMap<_, _> = log.read(first, to, usize::MAX).unwrap().into_iter().collect();
            assert_eq!(entries.len() as u64, to - first.min(to));
            let group_image = Group { vote: state.vote, purged: state.purged, entries };
            image.groups.insert(group.0, group_image);
        }
        image.normal()
    }

    /// Without groups that hold nothing, which need not be known.
    fn normal(mut self) -> Self {
        self.groups.retain(|_, group| *group != Group::default());
        self
    }
}

/// The workload: what was submitted so far, in order, and how much of it was acknowledged.
pub(super) struct Workload {
    random: u64,
    steps: Vec<Step>,
    acknowledged: Arc<AtomicU64>,
    marks: BTreeSet<Bytes>,
    next: BTreeMap<u32, (u64, u64)>,
    /// All payloads of a kind have one length, so that stale frames fit exactly where new ones go.
    equal: bool,
}

impl Workload {
    pub(super) fn new(seed: u64, equal: bool) -> Self {
        let next = BTreeMap::new();
        Self { random: seed, steps: Vec::new(), acknowledged: Arc::default(), marks: BTreeSet::new(), next, equal }
    }

    fn roll(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % bound
    }

    fn bytes(&mut self, bound: u64) -> Bytes {
        let len = if self.equal { bound / 2 } else { self.roll(bound) };
        let fill = self.roll(256) as u8;
        Bytes::from(vec![fill; len as usize])
    }

    /// Submits and drives for so many rounds. Goes on when the power is off, as callers would.
    pub(super) fn run(&mut self, journal: &Journal, driver: &mut Driver, rounds: usize) {
        for _ in 0..rounds {
            for _ in 0..1 + self.roll(4) {
                self.submit(journal);
            }
            match self.roll(8) {
                0 => driver.keep_once(),
                1 => {}
                _ => {
                    driver.write_once();
                }
            }
        }
        driver.write_all();
    }

    fn submit(&mut self, journal: &Journal) {
        let group = self.roll(u64::from(GROUPS)) as u32;
        let log = journal.group(GroupId(group));
        let (first, end) = *self.next.entry(group).or_insert((1, 1));
        let refused = Arc::new(AtomicBool::new(false));
        let done = noting(&self.acknowledged, &refused);
        let step = match self.roll(20) {
            0 => Step::Vote(group, self.bytes(40)),
            1 if end > first => Step::Truncate(group, end - 1),
            2 | 3 if end > first + 2 => Step::Purge(group, first + self.roll(end - first - 1), self.bytes(20)),
            4 => Step::Note(vec![self.roll(5) as u8], self.bytes(30).to_vec()),
            5..=9 => {
                let (len, seed) = (if self.equal { 3000 } else { self.roll(9000) as usize }, self.roll(40) as u8);
                let (hash, bytes) = body(seed, len);
                Step::Put(hash, bytes)
            }
            10 | 11 => match self.live_body() {
                Some(hash) => Step::Remove(hash),
                None => return,
            },
            12 => {
                let mark = self.bytes(16);
                self.marks.insert(mark.clone());
                return log.save_committed(mark);
            }
            _ => Step::Entry(group, end, self.bytes(1500)),
        };
        self.steps.push(step.clone());
        match step {
            Step::Vote(_, vote) => log.save_vote(vote, done),
            Step::Entry(_, index, bytes) => {
                self.next.insert(group, (first, end + 1));
                log.append(vec![(index, bytes)], done);
            }
            Step::Truncate(_, index) => {
                self.next.insert(group, (first, index));
                log.truncate_from(index, done);
            }
            Step::Purge(_, index, marker) => {
                self.next.insert(group, (index + 1, end));
                log.purge_to(index, marker, done);
            }
            Step::Note(key, value) => journal.put_note(&key, &value, done),
            Step::Put(hash, bytes) => journal.put_body(hash, bytes, done),
            Step::Remove(hash) => {
                journal.remove_body(&hash);
                journal.flush(done);
            }
        }
        if refused.load(Ordering::Relaxed) {
            // Refused at once: a body without space, or anything on a dead journal.
            self.steps.pop();
        }
    }

    fn live_body(&mut self) -> Option<BodyHash> {
        let live: Vec<_> = bodies(&self.steps).into_keys().collect();
        (!live.is_empty()).then(|| live[self.roll(live.len() as u64) as usize])
    }

    /// Compares what was recovered with the prefixes that are allowed: all that was acknowledged, and perhaps more.
    pub(super) fn check(&self, journal: &Journal) {
        let acknowledged = self.acknowledged.load(Ordering::Relaxed) as usize;
        let found = Image::of(journal);
        let mut image = Image::default();
        let mut matched = Vec::new();
        for length in 0..=self.steps.len() {
            if length > 0 {
                image.apply(&self.steps[length - 1]);
            }
            if length >= acknowledged && image.clone().normal() == found {
                matched.push(length);
            }
        }
        assert!(!matched.is_empty(), "{acknowledged} of {} acknowledged, found {:?}", self.steps.len(), found.groups.keys());
        self.check_bodies(journal, acknowledged, &matched);
        for group in journal.groups() {
            assert!(journal.group(group).state().committed.is_none_or(|mark| self.marks.contains(&mark)));
        }
    }

    /// Bodies put and not removed in the acknowledged part are there unless a removal that was not acknowledged came after; none is invented.
    fn check_bodies(&self, journal: &Journal, acknowledged: usize, matched: &[usize]) {
        let removed_later: BTreeSet<BodyHash> =
            self.steps[acknowledged..].iter().filter_map(|step| if let Step::Remove(hash) = step { Some(*hash) } else { None }).collect();
        for (hash, bytes) in bodies(&self.steps[..acknowledged]) {
            if !removed_later.contains(&hash) {
                assert!(
                    journal.read_body(&hash).unwrap() == Some(bytes),
                    "body {hash} of {acknowledged} acknowledged, matched {matched:?}"
                );
            }
        }
        let known: BTreeMap<BodyHash, Bytes> = self
            .steps
            .iter()
            .filter_map(|step| if let Step::Put(hash, bytes) = step { Some((*hash, bytes.clone())) } else { None })
            .collect();
        for segment in journal.body_segments() {
            for (hash, len) in journal.bodies_of(segment).unwrap() {
                assert_eq!(known.get(&hash).map(|bytes| bytes.len() as u64), Some(len));
                assert_eq!(journal.read_body(&hash).unwrap().as_ref(), known.get(&hash));
            }
        }
    }

    /// Takes what was recovered as the new beginning.
    pub(super) fn resume(&mut self, journal: &Journal) {
        self.steps.clear();
        self.acknowledged = Arc::default();
        self.next.clear();
        for group in journal.groups() {
            let log = journal.group(group);
            let state = log.state();
            let steps = &mut self.steps;
            steps.extend(state.vote.map(|vote| Step::Vote(group.0, vote)));
            let after_purge = state.purged.as_ref().map_or(1, |(index, _)| index + 1);
            let first = log.first_index().unwrap_or(after_purge);
            steps.extend(state.purged.map(|(index, marker)| Step::Purge(group.0, index, marker)));
            let end = state.last_index.map_or(after_purge, |last| last + 1);
            let entries = log.read(first, end, usize::MAX).unwrap();
            steps.extend(entries.into_iter().map(|(index, bytes)| Step::Entry(group.0, index, bytes)));
            self.marks.extend(state.committed);
            self.next.insert(group.0, (first, end));
        }
        self.steps.extend(journal.notes(b"").into_iter().map(|(key, value)| Step::Note(key, value)));
        for segment in journal.body_segments() {
            for (hash, _) in journal.bodies_of(segment).unwrap() {
                self.steps.push(Step::Put(hash, journal.read_body(&hash).unwrap().unwrap()));
            }
        }
        self.acknowledged.store(self.steps.len() as u64, Ordering::Relaxed);
    }
}

fn noting(acknowledged: &Arc<AtomicU64>, refused: &Arc<AtomicBool>) -> Done {
    let (acknowledged, refused) = (acknowledged.clone(), refused.clone());
    Box::new(move |result| match result {
        Ok(()) => {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Err(_) => refused.store(true, Ordering::Relaxed),
    })
}

/// Bodies that a part of the workload leaves.
fn bodies(steps: &[Step]) -> BTreeMap<BodyHash, Bytes> {
    let mut live = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put(hash, bytes) => {
                live.insert(*hash, bytes.clone());
            }
            Step::Remove(hash) => {
                live.remove(hash);
            }
            _ => {}
        }
    }
    live
}
