//! The bytes of a file, as they are read and as a power cut leaves them.

use crate::random::Random;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;
/// What a disk writes wholly or not at all, bytes.
const SECTOR: usize = 512;

/// Bytes in pages; a page that is missing holds zeros.
#[derive(Clone, Default)]
pub(crate) struct Image {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Image {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn read(&self, offset: u64, count: u64) -> Vec<u8> {
        let end = offset.saturating_add(count).min(self.len);
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        let mut at = offset;
        while at < end {
            let within = (at % PAGE) as usize;
            let part = (PAGE - at % PAGE).min(end - at) as usize;
            if let Some(page) = self.pages.get(&(at / PAGE)) {
                let start = (at - offset) as usize;
                out[start..start + part].copy_from_slice(&page[within..within + part]);
            }
            at += part as u64;
        }
        out
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let (part, later) = rest.split_at((PAGE as usize - within).min(rest.len()));
            let known = self.pages.contains_key(&(at / PAGE));
            if known || part.iter().any(|byte| *byte != 0) {
                let page = self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize].into());
                page[within..within + part.len()].copy_from_slice(part);
            }
            at += part.len() as u64;
            rest = later;
        }
        self.len = self.len.max(at);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|page, _| page * PAGE < len);
            if let Some(last) = self.pages.get_mut(&(len / PAGE)) {
                last[(len % PAGE) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.write(*offset, bytes),
            Change::Len(len) => self.set_len(*len),
        }
    }
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Len(u64),
}

/// A file: what reads see, what is durable, and what leads from the one to the other.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) live: Image,
    durable: Image,
    unsynced: Vec<Change>,
}

impl Content {
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.change(Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        self.change(Change::Len(len));
    }

    fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.unsynced.push(change);
    }

    /// How many changes a sync that begins now has to make durable.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Makes the first changes durable.
    pub(crate) fn sync(&mut self, count: usize) {
        for change in self.unsynced.drain(..count.min(self.unsynced.len())) {
            self.durable.apply(&change);
        }
    }

    /// A sync that failed, as Linux has it: reads see the bytes still, no later sync writes them.
    pub(crate) fn fail_sync(&mut self) {
        self.unsynced.clear();
    }

    /// Loses what was not synced.
    pub(crate) fn cut(&mut self) {
        self.unsynced.clear();
        self.live = self.durable.clone();
    }

    /// Loses some of it: what came after a random moment, or random sectors.
    pub(crate) fn tear(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced);
        if random.one_in(2) {
            let whole = random.below(changes.len() as u64 + 1) as usize;
            changes[..whole].iter().for_each(|change| self.durable.apply(change));
            if let Some(Change::Write { offset, bytes }) = changes.get(whole) {
                let sectors = random.below(bytes.len().div_ceil(SECTOR) as u64 + 1) as usize;
                self.durable.write(*offset, &bytes[..(sectors * SECTOR).min(bytes.len())]);
            }
        } else {
            for change in &changes {
                match change {
                    Change::Len(_) if random.one_in(2) => self.durable.apply(change),
                    Change::Len(_) => {}
                    Change::Write { offset, bytes } => self.tear_write(*offset, bytes, random),
                }
            }
        }
        self.cut();
    }

    fn tear_write(&mut self, offset: u64, bytes: &[u8], random: &mut Random) {
        let mut at = 0;
        while at < bytes.len() {
            // Sectors are aligned on the disk, not in the write.
            let sector = SECTOR - (offset as usize + at) % SECTOR;
            let end = (at + sector).min(bytes.len());
            if random.one_in(2) {
                self.durable.write(offset + at as u64, &bytes[at..end]);
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_see_writes_and_cuts_of_length() {
        let mut file = Content::default();
        file.write(4090, b"across pages");
        assert_eq!((file.live.len(), file.live.read(4088, 100)), (4102, b"\0\0across pages".to_vec()));
        file.set_len(4094);
        file.set_len(5000);
        assert_eq!(file.live.read(4089, 8), b"\0acro\0\0\0");
        assert_eq!(file.live.read(4999, 10), [0]);
        assert!(file.live.read(5000, 10).is_empty());
    }

    #[test]
    fn only_what_was_synced_survives_a_cut() {
        let mut file = Content::default();
        file.write(0, b"kept");
        let begun = file.unsynced();
        file.write(1, b"later");
        file.sync(begun);
        file.cut();
        assert_eq!(file.live.read(0, 100), b"kept");
    }

    #[test]
    fn failed_sync_is_seen_by_reads_and_never_written() {
        let mut file = Content::default();
        file.write(0, b"once");
        file.fail_sync();
        file.sync(file.unsynced());
        assert_eq!(file.live.read(0, 4), b"once");
        file.cut();
        assert_eq!(file.live.len(), 0);
    }

    #[test]
    fn torn_file_has_old_or_new_sectors_and_all_outcomes_occur() {
        let (mut none, mut all, mut mixed) = (0, 0, 0);
        for seed in 0..200 {
            let mut file = Content::default();
            file.write(0, &[1; 2048]);
            file.sync(1);
            file.write(0, &[2; 2048]);
            file.tear(&mut Random::new(seed));
            let bytes = file.live.read(0, 4096);
            assert!(bytes.chunks(SECTOR).all(|sector| sector == [1; SECTOR] || sector == [2; SECTOR]));
            match bytes.iter().filter(|byte| **byte == 2).count() {
                0 => none += 1,
                2048 => all += 1,
                _ => mixed += 1,
            }
        }
        assert!(none > 10 && all > 10 && mixed > 50, "{none} {all} {mixed}");
    }
}
