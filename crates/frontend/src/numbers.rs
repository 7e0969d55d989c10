//! Session numbers of this boot and their watermark (rule 2).

use parliament_ids::{Boot, NodeId, SessionKey};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Hands out [`SessionKey`]s, ascending from 1, and knows the lowest that may still carry a request.
#[derive(Clone, Debug)]
pub struct SessionNumbers {
    node: NodeId,
    boot: Boot,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    next: u64,
    live: BTreeSet<u64>,
}

/// A live session number; dropping it says that its session will send no further request.
#[derive(Debug)]
pub struct NumberGuard {
    key: SessionKey,
    state: Arc<Mutex<State>>,
}

impl SessionNumbers {
    /// Numbers of a node's boot.
    #[must_use]
    pub fn new(node: NodeId, boot: Boot) -> Self {
        Self { node, boot, state: Arc::new(Mutex::new(State { next: 1, live: BTreeSet::new() })) }
    }

    /// The next number. It is live before anyone can ask for the watermark again.
    #[must_use]
    pub fn allocate(&self) -> NumberGuard {
        let mut state = lock(&self.state);
        let session = state.next;
        state.next += 1;
        state.live.insert(session);
        NumberGuard { key: SessionKey { node: self.node, boot: self.boot, session }, state: Arc::clone(&self.state) }
    }

    /// Every session below this number is over; it never decreases.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        let state = lock(&self.state);
        state.live.first().copied().unwrap_or(state.next)
    }
}

impl NumberGuard {
    /// The session's key.
    #[must_use]
    pub const fn key(&self) -> SessionKey {
        self.key
    }
}

impl Drop for NumberGuard {
    fn drop(&mut self) {
        lock(&self.state).live.remove(&self.key.session);
    }
}

/// No code that holds the lock can panic half-way, so a poisoned lock's state is whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermark_is_the_lowest_live_number_and_ascends() {
        let numbers = SessionNumbers::new(NodeId(1), Boot(4));
        assert_eq!(numbers.watermark(), 1);
        let (first, second) = (numbers.allocate(), numbers.allocate());
        assert_eq!(first.key(), SessionKey { node: NodeId(1), boot: Boot(4), session: 1 });
        drop(second);
        assert_eq!(numbers.watermark(), 1);
        drop(first);
        assert_eq!(numbers.watermark(), 3);
        let third = numbers.allocate();
        assert_eq!((third.key().session, numbers.watermark()), (3, 3));
    }
}
