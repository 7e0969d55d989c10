//! What happens to messages: APPEND, delivery, STORE, EXPUNGE, COPY, MOVE, and what sessions are told of it.

mod common;
use common::*;
use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;

#[test]
fn append_assigns_dense_uids_from_one() {
    let mut bed = Bed::new();
    assert_eq!(bed.append("INBOX", vec![message(1)]), set("1"));
    assert_eq!(bed.append("INBOX", (2..=200).map(message).collect()), set("2:200"));
    for n in 201..=300 {
        assert_eq!(bed.append("INBOX", vec![message(n)]).first(), Some(Uid(n as u32)));
    }
    let status = bed.status("INBOX");
    assert_eq!((status.messages, status.unseen, status.uid_next), (300, 300, Uid(301)));
    assert_eq!(status.size, (1..=300).map(|n| 100 + n).sum::<u64>());
    let rows = bed.message_rows(MailboxId::INBOX);
    assert!(rows.iter().zip(1..).all(|(row, n)| row.uid == Uid(n) && row.hash == hash(u64::from(n)) && row.thread_id.0 == u64::from(n)));
}

#[test]
fn append_is_all_or_none() {
    let mut bed = Bed::new();
    bed.mutate(Mutation::SetQuota(QuotaLimits { messages: Some(2), ..QuotaLimits::default() })).unwrap();
    let refused = bed.op(Op::Append { to: name("INBOX"), messages: (0..3).map(message).collect() });
    assert_eq!(refused, Err(Rejection::OverQuota));
    assert_eq!(bed.status("INBOX").uid_next, Uid(1), "a refused APPEND uses no UID");
    assert_eq!(bed.append("INBOX", (0..2).map(message).collect()), set("1:2"));
}

#[test]
fn append_refusals() {
    let mut bed = Bed::new();
    let huge = NewMessage { size: limits::MESSAGE_BYTES_MAX + 1, ..message(1) };
    for (to, messages, expected) in [
        ("nowhere", vec![message(1)], Rejection::NoSuchMailbox),
        ("INBOX", vec![], Rejection::Limit),
        ("INBOX", vec![huge], Rejection::TooBig),
        ("INBOX", vec![message(1); limits::MESSAGES_PER_ENTRY_MAX + 1], Rejection::Limit),
    ] {
        assert_eq!(bed.op(Op::Append { to: name(to), messages }), Err(expected));
    }
}

#[test]
fn append_keeps_dates_flags_and_keywords() {
    let mut bed = Bed::new();
    let date = DateTime { seconds: -5, zone_minutes: -90 };
    bed.append("INBOX", vec![NewMessage { internal_date: Some(date), flags: flags(1 | 4, &["$Junk", "x"]), ..message(1) }, message(2)]);
    let rows = bed.message_rows(MailboxId::INBOX);
    assert_eq!((rows[0].internal_date, rows[0].save_date), (date, T0));
    assert_eq!(rows[1].internal_date, DateTime { seconds: T0, zone_minutes: 0 });
    let selected = bed.selected("INBOX");
    assert_eq!(selected.keywords.iter().map(Keyword::as_str).collect::<Vec<_>>(), ["$Junk", "x"]);
    assert_eq!(selected.first_unseen, Some(Uid(2)));
    assert_eq!(bed.flag_rows(MailboxId::INBOX)[0].keywords, 3);
    bed.append("INBOX", vec![NewMessage { flags: flags(0, &["X", "y"]), ..message(3) }]);
    assert_eq!(bed.flag_rows(MailboxId::INBOX)[2].keywords, 0b110, "keywords match in any case");
}

#[test]
fn keywords_full_is_refused_and_changes_nothing() {
    let mut bed = Bed::new();
    let all: Vec<String> = (0..128).map(|n| format!("keyword-with-a-rather-long-name-to-fill-its-records-{n}")).collect();
    let refs: Vec<&str> = all.iter().map(String::as_str).collect();
    bed.append("INBOX", vec![NewMessage { flags: flags(0, &refs), ..message(1) }]);
    assert_eq!(bed.flag_rows(MailboxId::INBOX)[0].keywords, u128::MAX);
    assert_eq!(bed.store(MailboxId::INBOX, "1", FlagMode::Add, flags(0, &["more"])), Err(Rejection::Limit));
    let refused = bed.op(Op::Append { to: name("INBOX"), messages: vec![NewMessage { flags: flags(0, &["more"]), ..message(2) }] });
    assert_eq!(refused, Err(Rejection::Limit));
    bed.store(MailboxId::INBOX, "1", FlagMode::Remove, flags(0, &["more"])).unwrap();
    bed.append("INBOX", (0..200).map(|n| NewMessage { flags: flags(0, &refs), ..message(n) }).collect());
    bed.store(MailboxId::INBOX, "1:201", FlagMode::Add, flags(1, &refs[..1])).unwrap();
}

#[test]
fn delivery_twice_arrives_once() {
    let mut bed = Bed::new();
    let deliver = |to: &str, n, dedupe| Op::Deliver { to: name(to), message: message(n), dedupe: hash(dedupe) };
    let inbox = MailboxId::INBOX;
    let once = Ok(Reply::Delivered { mailbox: inbox, uid: Some(Uid(1)), duplicate: false });
    let again = Ok(Reply::Delivered { mailbox: inbox, uid: Some(Uid(1)), duplicate: true });
    assert_eq!(bed.op(deliver("INBOX", 1, 50)), once);
    assert_eq!(bed.op(deliver("INBOX", 1, 50)), again);
    bed.store(inbox, "1", FlagMode::Add, flags(8, &[])).unwrap();
    bed.mutate(Mutation::Expunge { mailbox: inbox, uids: None }).unwrap();
    assert_eq!(bed.op(deliver("INBOX", 1, 50)), again, "the memory survives expunge");
    bed.op(Op::RotateDedupe).unwrap();
    assert_eq!(bed.op(deliver("INBOX", 1, 50)), again, "and one rotation");
    bed.op(Op::RotateDedupe).unwrap();
    assert_eq!(bed.op(deliver("INBOX", 1, 50)), Ok(Reply::Delivered { mailbox: inbox, uid: Some(Uid(2)), duplicate: false }));
    assert_eq!(bed.op(deliver("missing", 2, 51)), Ok(Reply::Delivered { mailbox: inbox, uid: Some(Uid(3)), duplicate: false }));
}

#[test]
fn same_message_id_two_bodies_both_arrive() {
    let mut bed = Bed::new();
    for (n, dedupe) in [(1, 60), (2, 61)] {
        let reply = bed.op(Op::Deliver { to: name("INBOX"), message: message(n), dedupe: hash(dedupe) }).unwrap();
        assert!(matches!(reply, Reply::Delivered { duplicate: false, .. }));
    }
}

#[test]
fn store_modes_and_no_change_keeps_modseq() {
    let mut bed = Bed::new();
    let inbox = MailboxId::INBOX;
    bed.append("INBOX", (0..5).map(message).collect());
    let before = bed.status("INBOX").highest_modseq;
    let Ok(Reply::Stored { modseq: Some(first), missing: false, .. }) = bed.store(inbox, "2:3", FlagMode::Add, flags(1, &["k"])) else {
        panic!()
    };
    assert!(first > before);
    let unchanged = Ok(Reply::Stored { modseq: None, modified: UidSet::new(), missing: false });
    assert_eq!(bed.store(inbox, "2:3", FlagMode::Add, flags(1, &["K"])), unchanged);
    assert_eq!(bed.store(inbox, "4", FlagMode::Remove, flags(1, &["k", "unknown"])), unchanged);
    assert_eq!(bed.status("INBOX").highest_modseq, first);
    bed.store(inbox, "2,9", FlagMode::Replace, flags(8, &[])).unwrap();
    let rows = bed.flag_rows(inbox);
    assert_eq!((rows[1].system, rows[1].keywords), (SystemFlags::DELETED, 0));
    assert_eq!((rows[2].system, rows[2].keywords, rows[2].modseq), (SystemFlags::SEEN, 1, first));
    let status = bed.status("INBOX");
    assert_eq!((status.unseen, status.deleted), (4, 1));
}

#[test]
fn store_unchanged_since_tells_what_failed() {
    let mut bed = Bed::new();
    let inbox = MailboxId::INBOX;
    bed.append("INBOX", (0..4).map(message).collect());
    let mark = bed.status("INBOX").highest_modseq;
    bed.store(inbox, "2", FlagMode::Add, flags(1, &[])).unwrap();
    let change = FlagChange { mode: FlagMode::Add, flags: flags(4, &[]) };
    let store = |since| Mutation::Store { mailbox: inbox, uids: set("1:4"), change: change.clone(), unchanged_since: Some(since) };
    let Ok(Reply::Stored { modseq: Some(_), modified, .. }) = bed.mutate(store(mark)) else { panic!() };
    assert_eq!(modified, set("2"));
    let Ok(Reply::Stored { modseq: None, modified, .. }) = bed.mutate(store(ModSeq(0))) else { panic!() };
    assert_eq!(modified, set("1:4"), "0 always fails");
}

#[test]
fn expunge_removes_deleted_only_and_uids_never_come_back() {
    let mut bed = Bed::new();
    let inbox = MailboxId::INBOX;
    bed.append("INBOX", (0..100).map(message).collect());
    bed.store(inbox, "10:90", FlagMode::Add, flags(8, &[])).unwrap();
    let Ok(Reply::Expunged { uids, .. }) = bed.mutate(Mutation::Expunge { mailbox: inbox, uids: Some(set("1:20,95")) }) else { panic!() };
    assert_eq!(uids, set("10:20"));
    let Ok(Reply::Expunged { uids, modseq: Some(_) }) = bed.mutate(Mutation::Expunge { mailbox: inbox, uids: None }) else { panic!() };
    assert_eq!(uids, set("21:90"));
    assert_eq!(bed.mutate(Mutation::Expunge { mailbox: inbox, uids: None }), Ok(Reply::Expunged { uids: set(""), modseq: None }));
    bed.store(inbox, "1:100", FlagMode::Add, flags(8, &[])).unwrap();
    bed.mutate(Mutation::Expunge { mailbox: inbox, uids: None }).unwrap();
    assert_eq!(bed.status("INBOX").messages, 0);
    assert_eq!(bed.append("INBOX", vec![message(1)]), set("101"));
}

#[test]
fn copy_keeps_emailid_and_pairs_ascend() {
    let mut bed = Bed::new();
    let target = bed.create("a/b");
    bed.append("INBOX", (0..6).map(|n| NewMessage { flags: flags(1, &["k1", "k2"]), ..message(n) }).collect());
    bed.append("a/b", vec![NewMessage { flags: flags(0, &["k2"]), ..message(9) }]);
    let copied = bed.mutate(Mutation::Copy { from: MailboxId::INBOX, uids: set("2,4:5,77"), to: name("a/b") });
    let Ok(Reply::Copied { source, target: new, uid_validity }) = copied else { panic!("{copied:?}") };
    assert_eq!((source, new), (set("2,4:5"), set("2:4")));
    assert_eq!(uid_validity, bed.status("a/b").uid_validity);
    let (from, to) = (bed.message_rows(MailboxId::INBOX), bed.message_rows(target));
    assert_eq!((from[1].email_id, from[1].internal_date), (to[1].email_id, to[1].internal_date));
    assert_eq!(bed.flag_rows(target)[1].keywords, 0b11, "keywords by name, not by bit");
    assert_eq!(bed.selected("a/b").keywords.iter().map(Keyword::as_str).collect::<Vec<_>>(), ["k2", "k1"]);
    let none = bed.mutate(Mutation::Copy { from: MailboxId::INBOX, uids: set("90"), to: name("a/b") });
    assert!(matches!(none, Ok(Reply::Copied { source, .. }) if source.is_empty()));
    let missing = bed.mutate(Mutation::Copy { from: MailboxId::INBOX, uids: set("1"), to: name("no") });
    assert_eq!(missing, Err(Rejection::NoSuchMailbox));
}

#[test]
fn move_leaves_each_message_in_one_mailbox() {
    let mut bed = Bed::new();
    let target = bed.create("t");
    bed.append("INBOX", (0..150).map(message).collect());
    bed.mutate(Mutation::SetQuota(QuotaLimits { messages: Some(1), storage_bytes: Some(1), mailboxes: Some(1) })).unwrap();
    let moved = bed.mutate(Mutation::Move { from: MailboxId::INBOX, uids: set("3:140"), to: name("t") });
    let Ok(Reply::Copied { source, target: new, .. }) = moved else { panic!() };
    assert_eq!((source, new), (set("3:140"), set("1:138")), "MOVE works over quota");
    assert_eq!(bed.status("INBOX").messages + bed.status("t").messages, 150);
    bed.mutate(Mutation::Move { from: target, uids: set("1"), to: name("t") }).unwrap();
    assert_eq!(view::uids(&bed.tables, ANN, target).unwrap(), set("2:139"), "MOVE into itself gives a new UID");
    assert_eq!(bed.mutate(Mutation::Copy { from: target, uids: set("2"), to: name("INBOX") }), Err(Rejection::OverQuota));
}

#[test]
fn copy_to_trash_may_overdraw() {
    let mut bed = Bed::new();
    bed.op(Op::Provision).unwrap();
    bed.append("INBOX", vec![message(1)]);
    bed.mutate(Mutation::SetQuota(QuotaLimits { messages: Some(1), ..QuotaLimits::default() })).unwrap();
    let copy = |to: &str| Mutation::Copy { from: MailboxId::INBOX, uids: set("1"), to: name(to) };
    assert_eq!(bed.mutate(copy("Archive")), Err(Rejection::OverQuota));
    assert!(bed.mutate(copy("Trash")).is_ok());
}

#[test]
fn bodies_are_released_with_their_last_reference() {
    let mut bed = Bed::new();
    bed.create("t");
    let inbox = MailboxId::INBOX;
    let referenced = Change::BodyReferenced { account: ANN, hash: hash(5) };
    let released = Change::BodyReleased { account: ANN, hash: hash(5) };
    assert!(bed.run(Op::Append { to: name("INBOX"), messages: vec![message(5)] }).changes.contains(&referenced));
    let again = bed.run(Op::Append { to: name("INBOX"), messages: vec![message(5), message(6)] });
    assert!(!again.changes.contains(&referenced), "the same bytes appended twice are one body");
    bed.mutate(Mutation::Copy { from: inbox, uids: set("1"), to: name("t") }).unwrap();
    bed.store(inbox, "1:3", FlagMode::Add, flags(8, &[])).unwrap();
    let first = bed.run(Op::Mutate(Mutation::Expunge { mailbox: inbox, uids: Some(set("1")) }));
    assert!(!first.changes.contains(&released));
    let second = bed.run(Op::Mutate(Mutation::Expunge { mailbox: inbox, uids: None }));
    assert!(!second.changes.contains(&released) && second.changes.contains(&Change::BodyReleased { account: ANN, hash: hash(6) }));
    let last = bed.run(Op::Mutate(Mutation::Delete { name: name("t") }));
    assert!(last.changes.contains(&released));
}

#[test]
fn delta_tells_exactly_what_changed() {
    let mut bed = Bed::new();
    let inbox = MailboxId::INBOX;
    bed.append("INBOX", (0..600).map(message).collect());
    let mark = |bed: &Bed| {
        let s = bed.status("INBOX");
        Mark { mailbox: inbox, modseq: s.highest_modseq, uid_next: s.uid_next }
    };
    let start = mark(&bed);
    let quiet = view::delta(&bed.tables, ANN, ANN, &start).unwrap();
    assert!(quiet.changed.is_empty() && quiet.arrived.is_empty() && quiet.vanished.is_empty() && !quiet.gone);
    bed.append("INBOX", vec![message(700)]);
    bed.store(inbox, "5,300", FlagMode::Add, flags(1, &["new"])).unwrap();
    bed.store(inbox, "7,601", FlagMode::Add, flags(8, &[])).unwrap();
    bed.mutate(Mutation::Expunge { mailbox: inbox, uids: Some(set("7")) }).unwrap();
    let delta = view::delta(&bed.tables, ANN, ANN, &start).unwrap();
    assert_eq!(delta.arrived, set("601"));
    assert_eq!(delta.vanished, set("7"));
    assert_eq!(delta.changed.iter().map(|r| r.uid.0).collect::<Vec<_>>(), [5, 300]);
    assert_eq!((delta.keywords.len(), delta.uid_next), (1, Uid(602)));
    assert_eq!((delta.modseq, delta.uid_next), (mark(&bed).modseq, mark(&bed).uid_next));
    bed.create("gone");
    let gone = Mark { mailbox: bed.id("gone"), modseq: ModSeq(0), uid_next: Uid(1) };
    bed.mutate(Mutation::Delete { name: name("gone") }).unwrap();
    assert!(view::delta(&bed.tables, ANN, ANN, &gone).unwrap().gone);
}

#[test]
fn forgotten_history_over_reports_and_never_under_reports() {
    let mut bed = Bed::new();
    let inbox = MailboxId::INBOX;
    bed.append("INBOX", (0..2000).map(message).collect());
    bed.store(inbox, "1:1000", FlagMode::Add, flags(8, &[])).unwrap();
    let start = bed.status("INBOX").highest_modseq;
    let (mut marks, mut gone) = (Vec::new(), UidSet::new());
    for batch in 0..10_u32 {
        marks.push((bed.status("INBOX").highest_modseq, gone.clone()));
        let uids = UidSet::from_ranges((0..50).map(|n| (batch * 100 + 2 * n + 1, batch * 100 + 2 * n + 1)));
        bed.mutate(Mutation::Expunge { mailbox: inbox, uids: Some(uids.clone()) }).unwrap();
        gone = gone.union(&uids);
    }
    let all = set("1:5000");
    assert_eq!(view::vanished_since(&bed.tables, ANN, inbox, start, &all).unwrap(), gone);
    for (modseq, before) in &marks {
        assert_eq!(view::vanished_since(&bed.tables, ANN, inbox, *modseq, &all).unwrap(), gone.difference(before));
    }
    bed.append("INBOX", (0..60_000 / 6).map(message).collect());
    bed.append("INBOX", (0..60_000 / 6).map(message).collect());
    bed.append("INBOX", (0..60_000 / 6).map(message).collect());
    bed.store(inbox, "2001:32000", FlagMode::Add, flags(8, &[])).unwrap();
    let scattered = UidSet::from_ranges((1000..16_000).map(|n| (2 * n + 1, 2 * n + 1)));
    bed.mutate(Mutation::Expunge { mailbox: inbox, uids: Some(scattered.clone()) }).unwrap();
    bed.mutate(Mutation::Expunge { mailbox: inbox, uids: Some(set("2002:31000")) }).unwrap();
    let told = view::vanished_since(&bed.tables, ANN, inbox, start, &set("1:40000")).unwrap();
    assert!(gone.union(&scattered).union(&set("2002:31000")).difference(&told).is_empty(), "misses none");
    assert!(told.intersection(&view::uids(&bed.tables, ANN, inbox).unwrap()).is_empty(), "and names no message");
}

#[test]
fn ledger_grows_with_each_uid_and_agrees_between_replicas() {
    let (mut a, mut b) = (Bed::new(), Bed::new());
    let head = |bed: &Bed| view::ledger_head(&bed.tables, ANN, MailboxId::INBOX).unwrap().unwrap();
    assert_eq!(head(&a), [0; 16]);
    a.append("INBOX", vec![message(1)]);
    let first = head(&a);
    a.append("INBOX", vec![message(2)]);
    assert_ne!(first, head(&a));
    b.append("INBOX", vec![message(1)]);
    b.append("INBOX", vec![message(2)]);
    assert_eq!(head(&a), head(&b));
}

#[test]
fn an_append_reads_and_writes_a_handful_of_small_records() {
    let mut bed = Bed::new();
    for _ in 0..3 {
        bed.append("INBOX", (0..10_000).map(message).collect());
    }
    for n in 0..40 {
        let command = Command::User(bed.user(Op::Append { to: name("INBOX"), messages: vec![message(50_000 + n)] }));
        let mut overlay = Overlay::new(&bed.tables);
        apply(&mut overlay, 1, &command).unwrap();
        let writes = overlay.into_writes();
        let bytes: usize = writes.values().flatten().map(Vec::len).sum();
        assert!(writes.len() <= 8 && bytes <= 9000, "{} records, {bytes} bytes", writes.len());
        bed.tables.commit(writes);
    }
}
