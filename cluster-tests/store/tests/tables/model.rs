//! What is committed, and what the tables may hold after a cut.

use parliament_mailbox_state::{MemoryTables, Tables, Writes};
use parliament_store_tests::Random;
use parliament_tables::GroupTables;

/// A batch of a few records: short and long values, removals, and one that changes each time.
pub(super) fn batch(seed: u64, turn: u64) -> Writes {
    let mut random = Random::new(seed ^ turn.wrapping_mul(0x9e37_79b9));
    let mut writes: Writes = (0..=random.below(6))
        .map(|_| {
            let key = random.below(300).to_be_bytes().to_vec();
            let len = if random.one_in(30) { 5000 + random.below(9000) } else { random.below(900) } as usize;
            (key, (!random.one_in(5)).then(|| random.bytes(len)))
        })
        .collect();
    writes.insert(b"turn".to_vec(), Some(turn.to_be_bytes().to_vec()));
    writes
}

/// The applied mark of a turn.
pub(super) fn mark(turn: u64) -> [u8; 8] {
    turn.to_be_bytes()
}

pub(super) fn turn_of(mark: &[u8]) -> u64 {
    mark.try_into().map_or(u64::MAX, u64::from_be_bytes)
}

/// The tables as they were at the start of a life, and what was committed since.
#[derive(Clone)]
pub(super) struct History {
    seed: u64,
    base: MemoryTables,
    /// The turn of the base; 0 if nothing was committed.
    pub(super) from: u64,
    pub(super) turns: Vec<u64>,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, base: MemoryTables::new(), from: 0, turns: Vec::new() }
    }

    pub(super) fn last(&self) -> u64 {
        self.turns.last().copied().unwrap_or(self.from)
    }

    /// The history that begins with the tables of this turn; none if no commit had it.
    pub(super) fn at(&self, turn: u64) -> Option<Self> {
        if turn != self.from && !self.turns.contains(&turn) {
            return None;
        }
        let mut base = self.base.clone();
        self.turns.iter().filter(|done| **done <= turn).for_each(|done| base.commit(batch(self.seed, *done)));
        Some(Self { seed: self.seed, base, from: turn, turns: Vec::new() })
    }

    /// Compares every record with those of the base.
    pub(super) fn compare(&self, tables: &GroupTables) -> Result<(), String> {
        let mut expected = self.base.iter();
        let mut difference = None;
        let scanned = tables.scan(b"", b"\xff\xff", &mut |key, value| {
            if expected.next() != Some((&key.to_vec(), &value.to_vec())) {
                difference = Some(format!("record {key:?} is not that of turn {}", self.from));
            }
            difference.is_none()
        });
        scanned.map_err(|fault| fault.to_string())?;
        match difference {
            Some(difference) => Err(difference),
            None if expected.next().is_some() => Err(format!("records of turn {} are missing", self.from)),
            None => Ok(()),
        }
    }
}
