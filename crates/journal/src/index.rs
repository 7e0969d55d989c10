//! Where bodies lie, in 12 bytes each: a table from the first bits of a hash to places. Several bodies may share those bits, so whoever looks
//! one up compares the whole hash at the place itself.
//!
//! 8,192 sorted arrays, chosen by 13 bits of the hash and ordered by the next 32, each grown by an eighth: about 13 bytes per body with the
//! slack, and an insertion moves a few kilobytes at most at ten million bodies.

use parliament_ids::BodyHash;

const SHARD_BITS: u32 = 13;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    bits: u32,
    segment: u32,
    offset: u32,
}

/// The table.
#[derive(Debug)]
pub(crate) struct BodyIndex {
    shards: Vec<Vec<Row>>,
    len: u64,
}

/// Shard and row bits of a hash's first eight bytes.
fn split(prefix: [u8; 8]) -> (usize, u32) {
    let bits = u64::from_be_bytes(prefix);
    ((bits >> (64 - SHARD_BITS)) as usize, (bits >> (64 - SHARD_BITS - 32)) as u32)
}

/// The first eight bytes of a hash.
pub(crate) fn prefix(hash: &BodyHash) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&hash.0[..8]);
    prefix
}

impl BodyIndex {
    pub(crate) fn new() -> Self {
        Self { shards: (0..1 << SHARD_BITS).map(|_| Vec::new()).collect(), len: 0 }
    }

    /// Number of places known.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of memory taken.
    pub(crate) fn memory(&self) -> u64 {
        let rows: usize = self.shards.iter().map(Vec::capacity).sum();
        (rows * size_of::<Row>() + self.shards.capacity() * size_of::<Vec<Row>>()) as u64
    }

    /// Places that may hold the body, newest segment first.
    pub(crate) fn places(&self, hash: &BodyHash) -> Vec<(u32, u32)> {
        let (shard, bits) = split(prefix(hash));
        let rows = &self.shards[shard];
        let start = rows.partition_point(|row| row.bits < bits);
        let found: Vec<_> = rows[start..].iter().take_while(|row| row.bits == bits).map(|row| (row.segment, row.offset)).collect();
        found.into_iter().rev().collect()
    }

    /// Offsets of all places in one segment, ascending. Reads the whole table.
    pub(crate) fn offsets_in(&self, segment: u32) -> Vec<u32> {
        let rows = self.shards.iter().flatten().filter(|row| row.segment == segment);
        let mut offsets: Vec<u32> = rows.map(|row| row.offset).collect();
        offsets.sort_unstable();
        offsets
    }

    /// Removes the places in one segment at whose offsets `keep` does not want one; returns how many went.
    pub(crate) fn retain_in(&mut self, segment: u32, keep: impl Fn(u32) -> bool) -> u64 {
        let mut gone = 0;
        for rows in &mut self.shards {
            let before = rows.len();
            rows.retain(|row| row.segment != segment || keep(row.offset));
            gone += (before - rows.len()) as u64;
        }
        self.len -= gone;
        gone
    }

    /// True when this very place is known for the body.
    pub(crate) fn contains(&self, prefix: [u8; 8], segment: u32, offset: u32) -> bool {
        let (shard, bits) = split(prefix);
        self.shards[shard].binary_search(&Row { bits, segment, offset }).is_ok()
    }

    /// Adds a place; false when it was known.
    pub(crate) fn insert(&mut self, prefix: [u8; 8], segment: u32, offset: u32) -> bool {
        let (shard, bits) = split(prefix);
        let rows = &mut self.shards[shard];
        let row = Row { bits, segment, offset };
        let Err(at) = rows.binary_search(&row) else { return false };
        if rows.len() == rows.capacity() {
            rows.reserve_exact((rows.len() / 8).max(2));
        }
        rows.insert(at, row);
        self.len += 1;
        true
    }

    /// Removes a place; false when it was not known.
    pub(crate) fn remove(&mut self, prefix: [u8; 8], segment: u32, offset: u32) -> bool {
        let (shard, bits) = split(prefix);
        let rows = &mut self.shards[shard];
        let Ok(at) = rows.binary_search(&Row { bits, segment, offset }) else { return false };
        rows.remove(at);
        self.len -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> BodyHash {
        BodyHash(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn places_come_newest_first_and_go_one_by_one() {
        let mut index = BodyIndex::new();
        let body = hash(1);
        assert!(index.insert(prefix(&body), 3, 100) && index.insert(prefix(&body), 7, 50) && !index.insert(prefix(&body), 3, 100));
        assert_eq!(index.places(&body), vec![(7, 50), (3, 100)]);
        assert!(index.remove(prefix(&body), 7, 50) && !index.remove(prefix(&body), 7, 50));
        assert_eq!((index.places(&body), index.len()), (vec![(3, 100)], 1));
        assert!(index.places(&hash(2)).is_empty());
    }

    #[test]
    fn memory_per_body_stays_below_sixteen_bytes() {
        let mut index = BodyIndex::new();
        for number in 0..400_000u32 {
            index.insert(prefix(&hash(u64::from(number))), number / 3000, number);
        }
        let each = index.memory() as f64 / index.len() as f64;
        assert!(each < 16.0, "{each} bytes per body");
    }
}
