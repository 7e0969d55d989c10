//! Leases, numbers and idempotency: who may write, and that a request happens once.
#![allow(clippy::unwrap_used)] // A test that meets an unexpected value should stop there.

mod common;
use common::*;
use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;

fn withdrawn(node: u64, boot: u64, voters: &[u64], of: u32) -> Evidence {
    Evidence::Withdrawn { node: NodeId(node), boot: Boot(boot), voters: voters.iter().map(|v| NodeId(*v)).collect(), of }
}

fn taking(bed: &Bed, node: u64, boot: u64, expect: u64, evidence: Evidence) -> Command {
    Command::User(UserCommand {
        account: ANN,
        fence: Fence(expect + 1),
        op_no: OpNo(1),
        request: None,
        actor: ANN,
        time: bed.time,
        acquire: Some(Acquire { node: NodeId(node), boot: Boot(boot), expect_fence: Fence(expect), evidence }),
        op: Op::Noop,
    })
}

#[test]
fn append_stale_fence_refused() {
    let mut bed = Bed::new();
    let mut zombie = bed.user(Op::Append { to: name("INBOX"), messages: vec![message(1)] });
    bed.raw(taking(&bed, 2, 1, 1, withdrawn(1, 1, &[2, 3], 3))).outcome.unwrap();
    zombie.op_no = OpNo(99);
    let owner = Some(Owner { node: NodeId(2), boot: Boot(1) });
    let applied = bed.raw(Command::User(zombie.clone()));
    assert_eq!(applied.outcome, Err(Refusal::StaleFence { current: Fence(2), owner }));
    assert_eq!(applied.fence, Fence(2));
    zombie.fence = Fence(3);
    assert!(matches!(bed.raw(Command::User(zombie)).outcome, Err(Refusal::StaleFence { .. })), "a fence of the future is no better");
    assert_eq!(bed.status("INBOX").messages, 0);
}

#[test]
fn acquire_needs_evidence_that_names_the_owner() {
    for (node, boot, evidence, taken) in [
        (2, 1, Evidence::Free, false),
        (2, 1, Evidence::SamePriorOwner, false),
        (2, 1, withdrawn(1, 1, &[1], 3), false),
        (2, 1, withdrawn(1, 1, &[2, 2, 2], 3), false),
        (2, 1, withdrawn(1, 1, &[1, 2], 4), false),
        (2, 1, withdrawn(1, 2, &[1, 2], 3), false),
        (2, 1, withdrawn(3, 1, &[1, 2], 3), false),
        (2, 1, withdrawn(1, 1, &[1, 2, 3, 4], 3), false),
        (2, 1, withdrawn(1, 1, &[1, 2], 0), false),
        (2, 1, withdrawn(1, 1, &[1, 2], 3), true),
        (2, 1, withdrawn(1, 1, &[1], 1), true),
        (1, 2, Evidence::SamePriorOwner, false),
        (1, 2, withdrawn(1, 1, &[2, 3], 3), true),
        (1, 0, withdrawn(1, 1, &[2, 3], 3), false),
        (1, 1, Evidence::SamePriorOwner, true),
    ] {
        let mut bed = Bed::new();
        let command = taking(&bed, node, boot, 1, evidence);
        let applied = bed.raw(command.clone());
        assert_eq!(applied.outcome.is_ok(), taken, "{command:?}");
        let record = view::owner(&bed.tables, ANN).unwrap().unwrap();
        let owner = Owner { node: NodeId(node), boot: Boot(boot) };
        assert_eq!((record.owner == Some(owner)) && record.fence == Fence(2), taken);
        assert_eq!(applied.changes.contains(&Change::Owner { account: ANN, owner: Some(owner), fence: Fence(2) }), taken);
        assert!(bed.raw(command).outcome.is_err(), "the same acquire never succeeds twice");
    }
}

#[test]
fn release_and_handover_end_the_ownership() {
    let mut bed = Bed::new();
    bed.op(Op::Release).unwrap();
    assert!(matches!(bed.run(Op::Noop).outcome, Err(Refusal::StaleFence { current: Fence(1), owner: None })));
    bed.raw(taking(&bed, 2, 5, 1, Evidence::Free)).outcome.unwrap();
    bed.fence = Fence(2);
    let applied = bed.run(Op::Handover { to: NodeId(3), to_boot: Boot(4) });
    assert_eq!((applied.outcome, applied.fence), (Ok(Reply::Done), Fence(3)));
    assert!(matches!(bed.run(Op::Noop).outcome, Err(Refusal::StaleFence { .. })));
    (bed.fence, bed.op_no) = (Fence(3), 0);
    assert_eq!(bed.run(Op::Noop).outcome, Ok(Reply::Done), "numbers begin again");
}

#[test]
fn late_proposals_are_out_of_order() {
    let mut bed = Bed::new();
    let late = bed.user(Op::Append { to: name("INBOX"), messages: vec![message(1)] });
    let again = bed.user(late.op.clone());
    bed.raw(Command::User(again.clone())).outcome.unwrap();
    for command in [late, again] {
        assert!(matches!(bed.raw(Command::User(command)).outcome, Err(Refusal::OutOfOrder { .. })));
    }
    bed.op_no += 1000;
    bed.append("INBOX", vec![message(2)]);
    assert_eq!(bed.status("INBOX").messages, 2);
}

#[test]
fn a_rejection_still_acquires_and_takes_its_number() {
    let mut bed = Bed::new();
    let Command::User(mut command) = taking(&bed, 2, 1, 1, withdrawn(1, 1, &[2, 3], 3)) else { panic!() };
    command.op = Op::Append { to: name("nowhere"), messages: vec![message(1)] };
    let applied = bed.raw(Command::User(command));
    assert_eq!(applied.outcome, Err(Refusal::Rejected(Rejection::NoSuchMailbox)));
    assert_eq!(applied.fence, Fence(2));
    let record = view::owner(&bed.tables, ANN).unwrap().unwrap();
    assert_eq!((record.fence, record.last_op_no), (Fence(2), OpNo(1)));
}

#[test]
fn append_retry_same_uid() {
    let mut bed = Bed::new();
    let mut first = bed.user(Op::Append { to: name("INBOX"), messages: vec![message(1)] });
    first.request = Some(request(1, 1));
    let reply = bed.raw(Command::User(first.clone())).outcome;
    assert!(matches!(reply, Ok(Reply::Appended { .. })));
    let Command::User(mut retry) = taking(&bed, 2, 1, 1, withdrawn(1, 1, &[2, 3], 3)) else { panic!() };
    (retry.op, retry.request) = (first.op.clone(), first.request);
    assert_eq!(bed.raw(Command::User(retry)).outcome, reply, "the next holder answers from the record");
    assert_eq!(bed.status("INBOX").messages, 1);
    assert!(matches!(bed.raw(Command::User(first)).outcome, Err(Refusal::StaleFence { .. })), "the fence is asked first");
}

#[test]
fn a_recorded_rejection_is_repeated() {
    let mut bed = Bed::new();
    let op = Op::Append { to: name("later"), messages: vec![message(1)] };
    let send = |bed: &mut Bed, seq| {
        let mut command = bed.user(op.clone());
        command.request = Some(request(1, seq));
        bed.raw(Command::User(command)).outcome
    };
    let refused = Err(Refusal::Rejected(Rejection::NoSuchMailbox));
    assert_eq!(send(&mut bed, 3), refused);
    bed.create("later");
    assert_eq!(send(&mut bed, 3), refused, "the same request has the same answer");
    assert!(send(&mut bed, 4).is_ok());
    assert_eq!(send(&mut bed, 3), Err(Refusal::Rejected(Rejection::StaleRequest)));
}

#[test]
fn sessions_over_are_forgotten_and_refused() {
    let mut bed = Bed::new();
    let send = |bed: &mut Bed, boot, session| {
        let mut command = bed.user(Op::Append { to: name("INBOX"), messages: vec![message(1)] });
        command.request = Some(RequestId { session: SessionKey { node: NodeId(1), boot: Boot(boot), session }, seq: RequestSeq(1) });
        bed.raw(Command::User(command)).outcome
    };
    for (boot, session) in [(1, 9), (2, 1), (2, 2), (2, 3)] {
        assert!(send(&mut bed, boot, session).is_ok());
    }
    let over = |boot, below| Command::SessionsOver { node: NodeId(1), boot: Boot(boot), below };
    bed.raw(over(2, 3)).outcome.unwrap();
    let stale = Err(Refusal::Rejected(Rejection::StaleRequest));
    for (boot, session, expected_stale) in [(1, 9, true), (1, 100, true), (2, 2, true), (2, 3, false), (2, 4, false), (3, 1, false)] {
        assert_eq!(send(&mut bed, boot, session) == stale, expected_stale, "{boot} {session}");
    }
    assert_eq!(bed.status("INBOX").messages, 6);
    bed.raw(over(1, 50)).outcome.unwrap();
    assert_eq!(send(&mut bed, 2, 1), stale, "a watermark never falls");
    let key = |boot, session| SessionKey { node: NodeId(1), boot: Boot(boot), session };
    assert_eq!(view::session_last(&bed.tables, ANN, &key(2, 2)).unwrap(), None);
    assert!(view::session_last(&bed.tables, ANN, &key(2, 3)).unwrap().is_some());
}

#[test]
fn large_replies_are_recorded_whole() {
    let mut bed = Bed::new();
    bed.append("INBOX", (0..10_000).map(message).collect());
    bed.create("t");
    let odd = UidSet::from_ranges((0..5000).map(|n| (2 * n + 1, 2 * n + 1)));
    for (seq, uids) in [(1, odd.clone()), (2, set("2"))] {
        let mut command = bed.user(Op::Mutate(Mutation::Copy { from: MailboxId::INBOX, uids, to: name("t") }));
        command.request = Some(request(1, seq));
        let first = bed.raw(Command::User(command.clone())).outcome;
        command.op_no = bed.user(Op::Noop).op_no;
        assert_eq!(bed.raw(Command::User(command)).outcome, first);
    }
    let (seq, outcome) = view::session_last(&bed.tables, ANN, &request(1, 1).session).unwrap().unwrap();
    assert_eq!(seq, RequestSeq(2));
    assert!(matches!(outcome, Ok(Reply::Copied { source, .. }) if source == set("2")));
}

#[test]
fn deleted_accounts_leave_a_floor_and_never_return() {
    let mut bed = Bed::new();
    bed.op(Op::Provision).unwrap();
    bed.append("INBOX", vec![message(1)]);
    let last = bed.status("Archive").uid_validity;
    let applied = bed.raw(Command::DeleteAccount { account: ANN });
    assert!(applied.changes.contains(&Change::BodyReleased { account: ANN, hash: hash(1) }));
    let floor = view::AccountView::Deleted { uid_validity_floor: last };
    assert_eq!(view::account(&bed.tables, ANN).unwrap(), Some(floor));
    assert_eq!(view::accounts(&bed.tables).unwrap(), []);
    let gone = Err(Refusal::Rejected(Rejection::NoSuchAccount));
    assert_eq!(bed.raw(Command::CreateAccount { account: ANN, uid_validity_floor: 0, time: T0 }).outcome, gone);
    assert_eq!(bed.run(Op::Noop).outcome, gone);
    let again = AccountId(8);
    bed.raw(Command::CreateAccount { account: again, uid_validity_floor: last.0, time: 0 }).outcome.unwrap();
    assert!(check(&bed.tables, again).is_ok());
    let inbox = view::status(&bed.tables, again, again, &MailboxName::inbox()).unwrap().unwrap();
    assert!(inbox.uid_validity > last, "even with the clock set back");
    assert_eq!(view::accounts(&bed.tables).unwrap(), [again]);
}

#[test]
fn time_never_runs_back_nor_leaps() {
    let mut bed = Bed::new();
    let date_of_next = |bed: &mut Bed, time| {
        bed.time = time;
        bed.append("INBOX", vec![message(1)]);
        bed.message_rows(MailboxId::INBOX).last().unwrap().save_date
    };
    assert_eq!(date_of_next(&mut bed, T0 + 5), T0 + 5);
    assert_eq!(date_of_next(&mut bed, 0), T0 + 5);
    assert_eq!(date_of_next(&mut bed, i64::MAX), T0 + 5 + 30 * 86_400);
    assert_eq!(date_of_next(&mut bed, i64::MIN), T0 + 5 + 30 * 86_400);
}
