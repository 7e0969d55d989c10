//! How often something happened lately.

/// Slots that a window remembers, the one under way included.
const SLOTS: usize = 5;

/// Counts of the newest slots of time, of `SLOT_MS` each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window<const SLOT_MS: u64> {
    /// Number of the newest slot.
    newest: u64,
    /// The newest first.
    counts: [u16; SLOTS],
}

impl<const SLOT_MS: u64> Window<SLOT_MS> {
    /// The time that is remembered, ms.
    pub const SPAN_MS: u64 = SLOT_MS * SLOTS as u64;

    fn at(mut self, now_ms: u64) -> Self {
        let slot = now_ms / SLOT_MS;
        let passed = usize::try_from(slot.saturating_sub(self.newest)).unwrap_or(SLOTS).min(SLOTS);
        self.counts.rotate_right(passed);
        self.counts[..passed].fill(0);
        self.newest = self.newest.max(slot);
        self
    }

    /// It happened now.
    pub fn note(&mut self, now_ms: u64) {
        *self = self.at(now_ms);
        self.counts[0] = self.counts[0].saturating_add(1);
    }

    /// How often it happened.
    #[must_use]
    pub fn count(&self, now_ms: u64) -> u64 {
        self.at(now_ms).counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// In which slots it happened: a bit for each.
    #[must_use]
    pub fn used(&self, now_ms: u64) -> u32 {
        self.at(now_ms).counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(slot, _)| 1 << slot).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_forgotten_slot_by_slot() {
        let mut window: Window<100> = Window::default();
        [50, 60, 150, 450].iter().for_each(|now_ms| window.note(*now_ms));
        assert_eq!((window.count(499), window.used(499)), (4, 0b11001));
        assert_eq!((window.count(500), window.used(500)), (2, 0b10010));
        assert_eq!((window.count(949), window.used(949)), (0, 0));
        assert_eq!(window.count(u64::MAX), 0);
        window.note(120);
        assert_eq!(window.count(450), 5, "a look of a moment ago counts for now");
    }

    #[test]
    fn a_count_never_wraps() {
        let mut window: Window<1_000> = Window::default();
        (0..70_000).for_each(|_| window.note(5));
        assert_eq!(window.count(5), u64::from(u16::MAX));
    }
}
