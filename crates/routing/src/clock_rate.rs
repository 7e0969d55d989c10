//! Whether another node's clock runs as fast as this node's (rule 17). Promises are counted by two clocks, the voter's and the asker's,
//! and nothing but their rates needs to agree, within 10 %.
//!
//! A voter reads its clock between the moment it was asked and the moment its answer came. Two such readings bound the rate however
//! long the messages took: the own time between the two is at least from the first answer to the second question, and at most from the
//! first question to the second answer. So a slow network makes the bounds wide, never wrong.

use std::collections::VecDeque;

/// Readings are kept for so many times [`SLOT_MS`].
const SLOTS_MAX: usize = 64;
/// Of each such time one reading is kept, the one with the shortest round trip, ms.
const SLOT_MS: u64 = 250;
/// After so long without a reading that shows the rate to be right, it is unknown again, ms.
const SHOWN_FOR_MS: u64 = SLOTS_MAX as u64 * SLOT_MS;
/// A clock that was wrong once must be right over a time of so many ms before it counts again.
const AFTER_WRONG_MS: u64 = 5_000;
/// A reading is whole milliseconds, so a difference of two may be off by one.
const GRAIN_MS: i128 = 1;
/// The rates that are taken for right, percent.
const RATE_PERCENT: (i128, i128) = (90, 110);

/// A voter's clock as read by it while it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was asked, own clock, ms.
    pub sent_ms: u64,
    /// When its answer came, own clock, ms.
    pub received_ms: u64,
    /// What its clock said in between, ms.
    pub peer_ms: u64,
}

/// What is known of the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rate {
    /// Too little was heard yet, or lately.
    #[default]
    Unknown,
    /// It was shown to be within 0.9 and 1.1.
    Right,
    /// It was shown to be outside.
    Wrong,
}

/// The rate of one peer's clock.
#[derive(Clone, Debug, Default)]
pub struct ClockRate {
    slots: VecDeque<Slot>,
    rate: Rate,
    /// When it was shown to be right last.
    shown_ms: u64,
    /// It was wrong, and not right for [`AFTER_WRONG_MS`] since.
    mistrusted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    began_ms: u64,
    reading: Reading,
}

impl Reading {
    fn round_trip_ms(&self) -> u64 {
        self.received_ms.saturating_sub(self.sent_ms)
    }

    /// The rate between an earlier reading and this one. Readings that overlap show nothing.
    fn since(&self, earlier: &Reading) -> Rate {
        let between = |from: u64, to: u64| i128::from(to) - i128::from(from);
        let peer = between(earlier.peer_ms, self.peer_ms);
        let least = between(earlier.received_ms, self.sent_ms) - GRAIN_MS;
        let most = between(earlier.sent_ms, self.received_ms) + GRAIN_MS;
        if least <= 0 {
            return Rate::Unknown;
        }
        let (slow, fast) = RATE_PERCENT;
        if (peer - GRAIN_MS) * 100 > fast * most || (peer + GRAIN_MS) * 100 < slow * least {
            Rate::Wrong
        } else if (peer - GRAIN_MS) * 100 >= slow * most && (peer + GRAIN_MS) * 100 <= fast * least {
            Rate::Right
        } else {
            Rate::Unknown
        }
    }
}

impl ClockRate {
    /// Takes a reading; returns what is known with it.
    pub fn observe(&mut self, reading: Reading) -> Rate {
        if reading.received_ms < reading.sent_ms {
            return self.rate;
        }
        let apart = |slot: &&Slot| slot.reading.received_ms < reading.sent_ms;
        // A clock that goes backwards belongs to a host that was started anew, and says nothing of the rate.
        if self.slots.iter().filter(apart).any(|slot| slot.reading.peer_ms > reading.peer_ms) {
            *self = Self { mistrusted: self.mistrusted, ..Self::default() };
        }
        let before: Vec<Reading> = self.slots.iter().map(|slot| slot.reading).collect();
        if before.iter().any(|earlier| reading.since(earlier) == Rate::Wrong) {
            // What was read before belongs to another rate.
            self.slots.clear();
            (self.rate, self.mistrusted) = (Rate::Wrong, true);
        } else {
            let least_ms = if self.mistrusted { AFTER_WRONG_MS } else { 0 };
            let long_ago = |earlier: &Reading| reading.sent_ms.saturating_sub(earlier.received_ms) >= least_ms;
            if before.iter().any(|earlier| long_ago(earlier) && reading.since(earlier) == Rate::Right) {
                (self.rate, self.shown_ms, self.mistrusted) = (Rate::Right, reading.received_ms, false);
            } else if self.rate == Rate::Right && reading.received_ms.saturating_sub(self.shown_ms) > SHOWN_FOR_MS {
                self.rate = Rate::Unknown;
            }
        }
        self.keep(reading);
        self.rate
    }

    /// What is known.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    fn keep(&mut self, reading: Reading) {
        match self.slots.back_mut() {
            Some(last) if reading.sent_ms < last.began_ms.saturating_add(SLOT_MS) => {
                if reading.round_trip_ms() <= last.reading.round_trip_ms() {
                    last.reading = reading;
                }
            }
            _ => {
                if self.slots.len() == SLOTS_MAX {
                    self.slots.pop_front();
                }
                self.slots.push_back(Slot { began_ms: reading.sent_ms, reading });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A voter at the other end of a network, asked every 100 ms.
    struct Voter {
        now_ms: u64,
        peer_us: u64,
        rate: ClockRate,
        seed: u64,
    }

    impl Voter {
        fn new() -> Self {
            Self { now_ms: 5_000, peer_us: 77_000_000, rate: ClockRate::default(), seed: 9 }
        }
        fn draw(&mut self, n: u64) -> u64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.seed >> 33) % n
        }
        fn pass(&mut self, ms: u64, percent: u64) {
            self.now_ms += ms;
            self.peer_us += ms * percent * 10;
        }
        /// So many questions while its clock has this rate and each way takes from `ways.0` to `ways.1` ms.
        fn ask(&mut self, times: usize, percent: u64, ways: (u64, u64)) -> Rate {
            for _ in 0..times {
                self.pass(100, percent);
                let sent_ms = self.now_ms;
                let way = ways.0 + self.draw(ways.1 - ways.0 + 1);
                self.pass(way, percent);
                let peer_ms = self.peer_us / 1000;
                let back = ways.0 + self.draw(ways.1 - ways.0 + 1);
                self.pass(back, percent);
                self.rate.observe(Reading { sent_ms, received_ms: self.now_ms, peer_ms });
            }
            self.rate.rate()
        }
    }

    #[test]
    fn clocks_of_one_rate_are_right_at_once() {
        let mut voter = Voter::new();
        assert_eq!(voter.ask(1, 100, (0, 1)), Rate::Unknown, "one reading says nothing");
        assert_eq!(voter.ask(3, 100, (0, 1)), Rate::Right);
        assert_eq!(Voter::new().ask(8, 97, (0, 1)), Rate::Right);
        assert_eq!(Voter::new().ask(8, 103, (0, 1)), Rate::Right);
    }

    #[test]
    fn rates_outside_are_wrong() {
        for percent in [50, 80, 88, 112, 120, 200] {
            assert_eq!(Voter::new().ask(40, percent, (0, 1)), Rate::Wrong, "{percent} %");
        }
    }

    #[test]
    fn no_delay_makes_a_right_clock_wrong_or_a_wrong_one_right() {
        for ways in [(0, 30), (40, 60), (0, 100), (100, 200)] {
            for (percent, never) in [(100, Rate::Wrong), (91, Rate::Wrong), (109, Rate::Wrong), (50, Rate::Right), (112, Rate::Right)] {
                let mut voter = Voter::new();
                for turn in 0..300 {
                    assert_ne!(voter.ask(1, percent, ways), never, "{percent} %, ways of {ways:?} ms, turn {turn}");
                }
            }
            assert_eq!(Voter::new().ask(300, 100, ways), Rate::Right, "{ways:?}");
            assert_eq!(Voter::new().ask(300, 50, ways), Rate::Wrong, "{ways:?}");
        }
    }

    #[test]
    fn a_change_is_seen_within_two_questions_and_forgiven_after_a_while() {
        let mut voter = Voter::new();
        assert_eq!(voter.ask(50, 100, (0, 1)), Rate::Right);
        assert_eq!(voter.ask(2, 50, (0, 1)), Rate::Wrong);
        assert_eq!(voter.ask(30, 50, (0, 1)), Rate::Wrong);
        assert_eq!(voter.ask(40, 100, (0, 1)), Rate::Wrong, "not yet");
        assert_eq!(voter.ask(20, 100, (0, 1)), Rate::Right);
    }

    /// The own host was stopped with its clock: the other's clock seems to have jumped.
    #[test]
    fn a_pause_of_the_own_clock_is_seen() {
        let mut voter = Voter::new();
        voter.ask(50, 100, (0, 1));
        voter.peer_us += 2_000_000;
        assert_eq!(voter.ask(1, 100, (0, 1)), Rate::Wrong);
    }

    #[test]
    fn a_restarted_host_and_silence_make_it_unknown() {
        let mut voter = Voter::new();
        voter.ask(50, 100, (0, 1));
        voter.peer_us = 1_000_000;
        assert_eq!(voter.ask(1, 100, (0, 1)), Rate::Unknown);
        assert_eq!(voter.ask(3, 100, (0, 1)), Rate::Right);
        // Answers so slow that they show nothing.
        let (mut sent_ms, mut peer_ms) = (voter.now_ms, voter.peer_us / 1000);
        let mut rate = Rate::Right;
        for _ in 0..20 {
            (sent_ms, peer_ms) = (sent_ms + 1_000, peer_ms + 1_000);
            rate = voter.rate.observe(Reading { sent_ms, received_ms: sent_ms + 20_000, peer_ms });
        }
        assert_eq!(rate, Rate::Unknown);
    }

    #[test]
    fn answers_out_of_order_and_numbers_out_of_this_world_do_no_harm() {
        let mut rate = ClockRate::default();
        let read = |sent_ms, received_ms, peer_ms| Reading { sent_ms, received_ms, peer_ms };
        for n in 0..30 {
            rate.observe(read(n * 100, n * 100 + 2, 1_000 + n * 100));
        }
        // Asked before the last ones, answered after them.
        assert_eq!(rate.observe(read(2_750, 3_100, 3_752)), Rate::Right);
        assert_eq!(rate.observe(read(3_200, 3_100, 9)), Rate::Right, "answered before it was asked: nothing");
        assert_eq!(rate.observe(read(3_200, 3_202, u64::MAX)), Rate::Wrong);
        assert_eq!(rate.observe(read(u64::MAX, u64::MAX, 0)), Rate::Unknown);
        assert!(rate.slots.len() <= SLOTS_MAX);
    }
}
