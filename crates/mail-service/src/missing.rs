//! Bodies that entries on this node name and that are not here: after a time away, a snapshot, or damage. They are pulled from the
//! other replicas until none is missing; what a client waits for comes first.

use crate::body::BodyExchange;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parliament_ids::BodyHash;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Pulled at once.
const PULLS: usize = 16;
/// Remembered at once; when it overflows, the next look through the tables finds the rest.
const MISSING_MAX: usize = 1_000_000;
/// Pause after no peer had a body.
const PAUSE: Duration = Duration::from_millis(200);

/// The bodies that this node lacks.
#[derive(Default)]
pub(crate) struct Missing {
    rows: Mutex<Rows>,
    wake: Notify,
}

#[derive(Default)]
struct Rows {
    queue: VecDeque<BodyHash>,
    known: HashSet<BodyHash>,
    /// Those that peers are being asked for.
    pulling: HashSet<BodyHash>,
    /// More were told than are remembered.
    overflowed: bool,
}

impl Missing {
    fn rows(&self) -> std::sync::MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a body; `urgent` when a client waits for it.
    pub(crate) fn add(&self, hash: BodyHash, urgent: bool) {
        let mut rows = self.rows();
        let new = !rows.known.contains(&hash);
        if new && rows.known.len() >= MISSING_MAX {
            rows.overflowed = true;
            return;
        }
        if new {
            rows.known.insert(hash);
        }
        if urgent {
            rows.queue.push_front(hash);
        } else if new {
            rows.queue.push_back(hash);
        }
        drop(rows);
        self.wake.notify_one();
    }

    /// How many are missing.
    pub(crate) fn len(&self) -> usize {
        self.rows().known.len()
    }

    /// True once after an overflow.
    pub(crate) fn take_overflow(&self) -> bool {
        std::mem::take(&mut self.rows().overflowed)
    }

    fn take(&self, most: usize) -> Vec<BodyHash> {
        let mut rows = self.rows();
        let mut taken = Vec::with_capacity(most);
        while taken.len() < most
            && let Some(hash) = rows.queue.pop_front()
        {
            // An urgent one stands twice, and is asked for again while it is pulled.
            if rows.known.contains(&hash) && rows.pulling.insert(hash) {
                taken.push(hash);
            }
        }
        taken
    }

    /// `final_` tells that all peers were asked: what none has was given up meanwhile (rule 21), or is found by the next look
    /// through the tables.
    fn settle(&self, hash: BodyHash, got: bool, final_: bool) {
        let mut rows = self.rows();
        rows.pulling.remove(&hash);
        if got || final_ {
            rows.known.remove(&hash);
            rows.overflowed |= !got;
        } else {
            rows.queue.push_back(hash);
        }
    }

    /// Pulls for ever.
    pub(crate) async fn run(&self, exchange: &Arc<BodyExchange>) {
        let mut pulls = FuturesUnordered::new();
        loop {
            let wake = self.wake.notified();
            // One by one as places are free, so that what a client waits for is never behind a whole round of others.
            pulls.extend(self.take(PULLS - pulls.len()).into_iter().map(|hash| pull(exchange, hash)));
            if pulls.is_empty() {
                wake.await;
                continue;
            }
            tokio::select! {
                Some((hash, got, final_)) = pulls.next() => self.settle(hash, got, final_),
                () = wake, if pulls.len() < PULLS => {}
            }
        }
    }
}

/// Whether it was got, and whether all peers could be asked.
async fn pull(exchange: &BodyExchange, hash: BodyHash) -> (BodyHash, bool, bool) {
    let all_up = exchange.can_ask_all();
    let got = exchange.pull(hash, None).await;
    if !got {
        tokio::time::sleep(PAUSE).await;
    }
    // One that did not answer may have it.
    (hash, got, all_up && exchange.can_ask_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_ones_come_first_and_each_is_pulled_once() {
        let missing = Missing::default();
        let hash = |n| BodyHash([n; 32]);
        (1..=3).for_each(|n| missing.add(hash(n), false));
        missing.add(hash(1), false);
        missing.add(hash(3), true);
        assert_eq!(missing.len(), 3);
        assert_eq!(missing.take(2), [hash(3), hash(1)]);
        missing.add(hash(3), true);
        assert_eq!(missing.take(1), [hash(2)], "what is being pulled is not pulled twice");
        missing.settle(hash(2), false, false);
        missing.settle(hash(3), true, true);
        missing.settle(hash(1), false, false);
        assert_eq!(missing.take(10), [hash(2), hash(1)], "what was not got is asked again, what was got is not");
        assert_eq!(missing.len(), 2);
        missing.settle(hash(2), false, true);
        assert!(missing.len() == 1 && missing.take_overflow() && !missing.take_overflow(), "given up, and looked for once more");
    }
}
