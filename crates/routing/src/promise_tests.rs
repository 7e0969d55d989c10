use super::*;

const A: NodeId = NodeId(1);
const LATE: u64 = 10_000;
const LIST: VotersVersion = VotersVersion(0);

#[test]
fn a_promise_holds_off_a_withdrawal_until_it_has_run_out() {
    let mut book = Promises::new(0, [], LIST);
    assert_eq!(book.support(A, Boot(1), LIST, LATE), Granted::Yes);
    assert_eq!(book.withdraw(A, Boot(1), LIST, LATE + SUPPORT_MS - 1), Withdrawn::NotYet(1));
    assert_eq!(book.withdraw(A, Boot(1), LIST, LATE + SUPPORT_MS), Withdrawn::Yes { journal: true });
    assert_eq!(book.withdraw(A, Boot(1), LIST, LATE + SUPPORT_MS), Withdrawn::Yes { journal: false });
    assert_eq!(book.support(A, Boot(1), LIST, LATE + SUPPORT_MS), Granted::Never);
    assert_eq!(book.support(A, Boot(2), LIST, LATE + SUPPORT_MS), Granted::Yes);
}

#[test]
fn a_restarted_voter_withdraws_nothing_until_old_promises_are_over() {
    let mut book = Promises::new(LATE, [], LIST);
    assert_eq!(book.withdraw(A, Boot(1), LIST, LATE + 1), Withdrawn::NotYet(SUPPORT_MS - 1));
    assert_eq!(book.withdraw(A, Boot(1), LIST, LATE + SUPPORT_MS), Withdrawn::Yes { journal: true });
}

/// A voter that was cut off and withdrew everybody must not take them for dead when it is back.
#[test]
fn a_node_that_asks_counts_as_alive_even_if_its_boot_was_withdrawn_here() {
    let mut book = Promises::new(0, [], LIST);
    assert_eq!(book.withdraw(A, Boot(1), LIST, LATE), Withdrawn::Yes { journal: true });
    assert!(!book.is_live(A, LATE));
    assert_eq!(book.support(A, Boot(1), LIST, LATE + 1), Granted::Never);
    assert!(book.is_live(A, LATE + 2) && !book.is_live(A, LATE + 1 + SUPPORT_MS));
    assert_eq!(book.support(A, Boot(2), LIST, LATE + 1), Granted::Yes);
    assert_eq!(book.support(A, Boot(1), LIST, LATE + 9_000), Granted::Never);
    assert!(!book.is_live(A, LATE + 9_000), "an earlier boot's word is no sign of life");
}

#[test]
fn a_restarted_voter_remembers_its_withdrawals() {
    let mut book = Promises::new(LATE, [(A, Boot(4))], LIST);
    assert_eq!(book.support(A, Boot(4), LIST, LATE), Granted::Never);
    assert_eq!(book.support(A, Boot(5), LIST, LATE), Granted::Yes);
    assert_eq!(book.boot_of(A), Some(Boot(5)));
}

#[test]
fn a_new_boot_ends_the_old_one_at_once() {
    let mut book = Promises::new(0, [], LIST);
    book.support(A, Boot(1), LIST, LATE);
    book.support(A, Boot(2), LIST, LATE + 1);
    assert_eq!(book.withdraw(A, Boot(1), LIST, LATE + 2), Withdrawn::Yes { journal: true });
    assert_eq!(book.support(A, Boot(1), LIST, LATE + 3), Granted::Never);
    assert_eq!(book.withdraw(A, Boot(2), LIST, LATE + 3), Withdrawn::NotYet(SUPPORT_MS - 2));
}

#[test]
fn own_support_needs_a_majority_and_counts_from_before_sending() {
    let mut own = OwnSupport::new(Boot(3), [NodeId(1), NodeId(2), NodeId(3)]);
    assert_eq!(own.trusted_until_ms(), 0);
    own.granted(NodeId(1), Boot(3), 1000);
    own.granted(NodeId(9), Boot(3), 9000);
    own.granted(NodeId(2), Boot(2), 9000);
    assert_eq!(own.trusted_until_ms(), 0, "one of three, a stranger and an old boot are no majority");
    own.granted(NodeId(2), Boot(3), 1200);
    assert_eq!(own.trusted_until_ms(), 1000 + SUPPORT_MS * 9 / 10);
    own.granted(NodeId(3), Boot(3), 1300);
    own.refused(NodeId(1), Boot(3));
    let until = 1200 + SUPPORT_MS * 9 / 10;
    assert_eq!(own.trusted_until_ms(), until, "two of three still promise");
    assert!(!own.is_withdrawn(until - 1) && own.is_withdrawn(until));
    own.refused(NodeId(2), Boot(3));
    assert_eq!(own.trusted_until_ms(), 0);
    assert!(own.is_withdrawn(0));
}

#[test]
fn a_promise_by_a_wrong_clock_counts_for_nothing_and_still_against_the_majority() {
    let mut own = OwnSupport::new(Boot(3), [NodeId(1), NodeId(2), NodeId(3)]);
    own.granted(NodeId(1), Boot(3), 1000);
    own.granted(NodeId(2), Boot(3), 1200);
    assert!(own.trusted_until_ms() > 0);
    assert_eq!(own.trusted_until_ms_by(|voter| voter != NodeId(2)), 0);
    own.granted(NodeId(3), Boot(3), 1100);
    assert_eq!(own.trusted_until_ms_by(|voter| voter != NodeId(2)), 1000 + SUPPORT_MS * 9 / 10);
}

#[test]
fn a_single_voter_is_its_own_majority() {
    let mut own = OwnSupport::new(Boot(1), [A]);
    own.granted(A, Boot(1), 50);
    assert_eq!(own.trusted_until_ms(), 50 + SUPPORT_MS * 9 / 10);
}

/// No history of grants and withdrawals lets a boot be trusted at a time after a majority has withdrawn it.
#[test]
fn never_trusted_and_taken_over_at_once() {
    let mut seed = 5_u64;
    let mut draw = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    for _ in 0..2_000 {
        let mut books: Vec<Promises> = (0..3).map(|_| Promises::new(0, [], LIST)).collect();
        let mut own = OwnSupport::new(Boot(1), (1..=3).map(NodeId));
        let (mut now, mut taken) = (SUPPORT_MS, [false; 3]);
        for _ in 0..60 {
            let sent = now;
            now += draw(250);
            let voter = draw(3) as usize;
            let id = NodeId(voter as u64 + 1);
            let what = draw(4);
            // The grant is computed now, and its answer may be heard later than anything else.
            if what == 0 && books[voter].support(A, Boot(1), LIST, now) == Granted::Yes {
                own.granted(id, Boot(1), sent);
            } else if what == 1 {
                taken[voter] |= matches!(books[voter].withdraw(A, Boot(1), LIST, now), Withdrawn::Yes { .. });
            }
            let majority_gone = taken.iter().filter(|t| **t).count() >= 2;
            assert!(!(majority_gone && now < own.trusted_until_ms()));
        }
    }
}

#[test]
fn what_one_voter_alone_withdrew_is_not_passed_on() {
    let list = |nodes: u64| VoterList { version: LIST, nodes: (1..=nodes).map(NodeId).collect() };
    let said = |boots: &[Option<u64>]| -> Vec<BTreeMap<NodeId, Boot>> {
        boots.iter().map(|boot| boot.map(|boot| (A, Boot(boot))).into_iter().collect()).collect()
    };
    let told = |nodes, boots: &[Option<u64>]| withdrawn_by_many(&list(nodes), &said(boots)).get(&A).map(|boot| boot.0);
    assert_eq!(told(3, &[Some(5), None, None]), None, "two of three are needed, and all have answered");
    assert_eq!(told(3, &[Some(5), None]), Some(5), "the third may be the second");
    assert_eq!(told(3, &[Some(5), Some(4), None]), Some(4));
    assert_eq!(told(4, &[Some(5), Some(5), None, None]), Some(5), "two of an earlier three");
    assert_eq!(told(5, &[Some(5), Some(5), None, None, None]), None);
    assert_eq!(told(5, &[Some(5), Some(3), Some(4), None, None]), Some(3));
    assert_eq!(told(1, &[Some(5)]), Some(5));
    assert_eq!(told(2, &[Some(5), None]), Some(5), "the only voter of an earlier list");
}
