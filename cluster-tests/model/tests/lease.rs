//! The model holds in its bounds, and in the same bounds each broken twin is refuted by the property that its rule is for.

use parliament_model_tests::{Bounds, IN_ORDER_OF_PROPOSAL, Lease, NO_STALE_READ, ONCE_ONLY, ONE_HOLDER, ONE_READER, Twin};
use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;

/// One take-over while two appends are under way. The clocks go from before a promise's end to behind it.
const TAKE_OVER: Bounds = Bounds {
    until_ms: 1200,
    tick_ms: 600,
    asks: 1,
    takeovers: 1,
    restarts: 0,
    submits: 2,
    messages: 2,
    repeats: 0,
    handovers: 0,
    entries: 3,
};
/// The same for one append, with moments between: 540 ms after asking trust ends, 600 ms after it the promise.
const RENEWAL: Bounds = Bounds { until_ms: 1500, tick_ms: 300, asks: 1, submits: 1, messages: 1, entries: 2, ..TAKE_OVER };
/// Any one node restarts.
const RESTART: Bounds = Bounds { restarts: 1, submits: 1, messages: 1, entries: 2, ..TAKE_OVER };
/// The lease is handed over.
const HAND_OVER: Bounds = Bounds { takeovers: 0, handovers: 1, ..TAKE_OVER };
/// A proposal reaches the log twice.
const REPEAT: Bounds = Bounds { repeats: 1, asks: 1, submits: 2, messages: 2, until_ms: 600, ..TAKE_OVER };

fn holds(bounds: Bounds, requests: bool) {
    let checker = Lease::new(bounds, Twin::Sound, requests).checker().threads(2).spawn_bfs().join();
    println!("{} states, depth {}, {} logs", checker.unique_state_count(), checker.max_depth(), checker.model().replicated.logs());
    checker.assert_properties();
}

fn refuted(twin: Twin, bounds: Bounds, requests: bool, property: &'static str) {
    let found = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = Lease::new(bounds, twin, requests).checker().finish_when(found).threads(2).spawn_bfs().join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{twin:?} was not refuted"));
    println!("{property:?} fails: {:?}", path.into_actions());
}

#[test]
fn holds_over_a_take_over() {
    holds(TAKE_OVER, true);
}

#[test]
fn holds_between_the_moments_of_a_promise() {
    holds(RENEWAL, true);
}

#[test]
fn holds_over_a_restart() {
    holds(RESTART, true);
}

#[test]
fn holds_over_a_handover() {
    holds(HAND_OVER, true);
}

#[test]
fn holds_when_proposals_are_repeated() {
    holds(REPEAT, false);
}

#[test]
fn without_the_fence_a_former_holder_writes() {
    refuted(Twin::NoFence, TAKE_OVER, true, ONE_HOLDER);
    refuted(Twin::NoFence, TAKE_OVER, true, NO_STALE_READ);
}

#[test]
fn a_promise_counted_from_its_receipt_lets_a_stale_read_through() {
    refuted(Twin::TrustFromReceipt, TAKE_OVER, true, NO_STALE_READ);
}

#[test]
fn a_restarted_voter_that_is_not_silent_lets_two_nodes_read() {
    refuted(Twin::VoterNotSilent, RESTART, true, ONE_READER);
    refuted(Twin::VoterNotSilent, RESTART, true, NO_STALE_READ);
}

#[test]
fn a_withdrawal_that_is_not_journaled_lets_two_nodes_read() {
    refuted(Twin::WithdrawalsForgotten, RESTART, true, ONE_READER);
    refuted(Twin::WithdrawalsForgotten, RESTART, true, NO_STALE_READ);
}

#[test]
fn without_numbers_a_repeated_proposal_takes_effect_twice() {
    refuted(Twin::NoOpNumbers, REPEAT, false, ONCE_ONLY);
    refuted(Twin::NoOpNumbers, REPEAT, false, IN_ORDER_OF_PROPOSAL);
}

#[test]
fn without_records_a_repeated_request_takes_effect_twice() {
    refuted(Twin::NoRequestRecords, TAKE_OVER, true, ONCE_ONLY);
}

#[test]
fn reads_during_a_handover_are_stale() {
    refuted(Twin::ReadsDuringHandover, HAND_OVER, true, NO_STALE_READ);
}
