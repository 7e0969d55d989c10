//! What happens to messages: APPEND, delivery, STORE, EXPUNGE, COPY, MOVE, and what sessions are told of it.
#![allow(clippy::unwrap_used)] // A test that meets an unexpected value should stop there.

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
fn expunge_around_untouched_runs_keeps_their_order() {
    let mut bed = Bed::new();
    let inbox = MailboxId::INBOX;
    bed.append("INBOX", (0..1100).map(message).collect());
    bed.store(inbox, "2:250,515:760", FlagMode::Add, flags(8, &[])).unwrap();
    bed.mutate(Mutation::Expunge { mailbox: inbox, uids: None }).unwrap();
    let left = set("1,251:514,761:1100");
    assert_eq!(view::uids(&bed.tables, ANN, inbox).unwrap(), left);
    assert_eq!(bed.message_rows(inbox).iter().map(|m| m.uid).collect::<UidSet>(), left);
    assert_eq!(bed.message_rows(inbox).last().map(|m| m.hash), Some(hash(1099)));
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
fn history_tells_what_vanished_since_each_mark() {
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
}

#[test]
fn forgotten_history_over_reports_and_never_under_reports() {
    let mut bed = Bed::new();
    let inbox = MailboxId::INBOX;
    bed.append("INBOX", (0..4).map(message).collect());
    let start = bed.status("INBOX").highest_modseq;
    let deleted = || flags(8, &[]);
    for _ in 0..11 {
        let messages = (0..10_000).map(|n| NewMessage { flags: deleted(), ..message(n % 7) }).collect();
        bed.run_unchecked(Op::Append { to: name("INBOX"), messages });
    }
    let expunge = |uids| Op::Mutate(Mutation::Expunge { mailbox: inbox, uids: Some(uids) });
    let early = bed.status("INBOX").highest_modseq;
    bed.run_unchecked(expunge(set("5:6")));
    let scattered = UidSet::from_ranges((50..54_000).map(|n| (2 * n, 2 * n)));
    bed.run_unchecked(expunge(scattered.clone()));
    let late = bed.status("INBOX").highest_modseq;
    bed.run_unchecked(expunge(set("109000:109500")));
    check(&bed.tables, ANN).unwrap();
    let live = view::uids(&bed.tables, ANN, inbox).unwrap();
    let gone = scattered.union(&set("5:6,109000:109500"));
    for since in [start, early] {
        let told = view::vanished_since(&bed.tables, ANN, inbox, since, &set("1:200000")).unwrap();
        assert!(gone.difference(&told).is_empty(), "misses none");
        assert!(told.intersection(&live).is_empty(), "and names no message");
    }
    let told = view::vanished_since(&bed.tables, ANN, inbox, late, &set("1:200000")).unwrap();
    assert_eq!(told, set("109000:109500"), "above the floor it is exact");
}

#[test]
fn sparse_sets_are_found_across_many_runs() {
    let mut bed = Bed::new();
    bed.append("INBOX", (0..3000).map(message).collect());
    let wanted = set("1,2,900,901,2999,3000,3500");
    let (mut messages, mut flag_uids) = (Vec::new(), Vec::new());
    view::message_rows(&bed.tables, ANN, MailboxId::INBOX, &wanted, &mut |row| {
        messages.push(row.uid.0);
        true
    })
    .unwrap();
    view::flag_rows(&bed.tables, ANN, MailboxId::INBOX, &wanted, None, &mut |row| {
        flag_uids.push(row.uid.0);
        flag_uids.len() < 5
    })
    .unwrap();
    assert_eq!(messages, [1, 2, 900, 901, 2999, 3000]);
    assert_eq!(flag_uids, [1, 2, 900, 901, 2999]);
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

#[test]
fn malformed_values_of_a_command_are_refused() {
    let mut bed = Bed::new();
    bed.append("INBOX", vec![message(1)]);
    let bad_name: MailboxName = serde_json::from_str(&format!("\"{}\"", "x".repeat(300))).unwrap();
    let empty_level: MailboxName = serde_json::from_str("\"a//b\"").unwrap();
    let bad_keyword: Keyword = serde_json::from_str("\"a b\"").unwrap();
    let bad_sets: Vec<UidSet> = serde_json::from_str("[[[5,3]],[[0,0]],[[4,6],[1,2]],[[1,2],[3,4]]]").unwrap();
    let bad_flags = FlagSet { system: SystemFlags::NONE, keywords: vec![bad_keyword] };
    let change = FlagChange { mode: FlagMode::Add, flags: bad_flags.clone() };
    let mut ops = vec![
        Op::Append { to: bad_name.clone(), messages: vec![message(1)] },
        Op::Append { to: name("INBOX"), messages: vec![NewMessage { flags: bad_flags, ..message(1) }] },
        Op::Mutate(Mutation::Create { name: bad_name, special_use: vec![] }),
        Op::Mutate(Mutation::Subscribe { name: empty_level, on: true }),
        Op::Mutate(Mutation::Store { mailbox: MailboxId::INBOX, uids: set("1"), change, unchanged_since: None }),
    ];
    ops.extend(bad_sets.into_iter().map(|uids| Op::Mutate(Mutation::Copy { from: MailboxId::INBOX, uids, to: name("INBOX") })));
    for op in ops {
        assert_eq!(bed.op(op.clone()), Err(Rejection::Cannot), "{op:?}");
    }
    bed.append("INBOX", vec![NewMessage { flags: FlagSet { system: SystemFlags(0xff), keywords: vec![] }, ..message(2) }]);
    assert_eq!(bed.flag_rows(MailboxId::INBOX)[1].system, SystemFlags::ALL, "unknown flag bits are dropped");
}

/// The bytes of every kind of record, as one number. It changes only when the format is changed on purpose, with a new version
/// byte and a way to read the old one.
#[test]
fn records_keep_their_bytes() {
    let mut bed = Bed::new();
    bed.op(Op::Provision).unwrap();
    bed.append("INBOX", (0..70).map(|n| NewMessage { flags: flags((n % 32) as u8, &["$k", "other"]), ..message(n) }).collect());
    bed.op(Op::Deliver { to: name("Sent"), message: message(3), dedupe: hash(3) }).unwrap();
    bed.mutate(Mutation::Copy { from: MailboxId::INBOX, uids: set("2:5,9"), to: name("Trash") }).unwrap();
    bed.store(MailboxId::INBOX, "1:9", FlagMode::Add, flags(8, &[])).unwrap();
    bed.mutate(Mutation::Expunge { mailbox: MailboxId::INBOX, uids: Some(set("3:5,8")) }).unwrap();
    let rights = Rights::ALL;
    let (subject, mode) = (AclSubject::Anyone, AclMode::Set);
    bed.mutate(Mutation::SetAcl(AclChange { name: name("Junk"), subject, negative: true, mode, rights })).unwrap();
    let entries = vec![MetadataEntry { name: "/shared/x".into(), value: Some(vec![1, 2]) }];
    bed.mutate(Mutation::SetMetadata { mailbox: Some(name("Sent")), entries }).unwrap();
    let mut last = bed.user(Op::Mutate(Mutation::Rename { from: name("Junk"), to: name("a/b") }));
    last.request = Some(request(1, 1));
    bed.raw(Command::User(last)).outcome.unwrap();
    assert_eq!(format!("{:032x}", view::state_hash(&bed.tables, ANN).unwrap()), "9faf7c7e50881fa2eeb8a8eeb55fd7e2");
}
