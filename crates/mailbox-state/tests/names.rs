//! Names: hierarchy, RENAME, DELETE, LIST, special uses, rights, metadata.
#![allow(clippy::unwrap_used)] // A test that meets an unexpected value should stop there.

mod common;
use common::*;
use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;

fn rename(bed: &mut Bed, from: &str, to: &str) -> Result<Reply, Rejection> {
    bed.mutate(Mutation::Rename { from: name(from), to: name(to) })
}
fn delete(bed: &mut Bed, what: &str) -> Result<Reply, Rejection> {
    bed.mutate(Mutation::Delete { name: name(what) })
}
fn subscribe(bed: &mut Bed, what: &str, on: bool) {
    bed.mutate(Mutation::Subscribe { name: name(what), on }).unwrap();
}
fn patterns(patterns: &[&str]) -> ListRequest {
    ListRequest { patterns: patterns.iter().map(|p| ListPattern((*p).into())).collect(), ..ListRequest::default() }
}

#[test]
fn create_makes_real_parents_and_a_name_once() {
    let mut bed = Bed::new();
    bed.create("a/b/c");
    assert_eq!(bed.list_all(), ["INBOX", "a +", "a/b +", "a/b/c"]);
    for taken in ["a/b/c", "a", "inbox"] {
        assert_eq!(bed.mutate(Mutation::Create { name: name(taken), special_use: vec![] }), Err(Rejection::AlreadyExists));
    }
    let validities: std::collections::BTreeSet<_> = ["INBOX", "a", "a/b", "a/b/c"].iter().map(|n| bed.status(n).uid_validity).collect();
    assert_eq!(validities.len(), 4);
}

#[test]
fn delete_keeps_children_and_a_recreated_name_is_another_mailbox() {
    let mut bed = Bed::new();
    let old = bed.create("a");
    bed.create("a/b");
    let validity = bed.status("a").uid_validity;
    delete(&mut bed, "a").unwrap();
    assert_eq!(bed.list_all(), ["INBOX", "a !+", "a/b"]);
    assert_eq!(delete(&mut bed, "a"), Err(Rejection::NoSuchMailbox));
    assert_ne!(bed.create("a"), old);
    assert!(bed.status("a").uid_validity > validity);
    delete(&mut bed, "a").unwrap();
    delete(&mut bed, "a/b").unwrap();
    assert_eq!(bed.list_all(), ["INBOX"]);
    assert_eq!(delete(&mut bed, "INBOX"), Err(Rejection::Cannot));
}

#[test]
fn rename_of_a_tree_of_5000_writes_a_few_records() {
    let mut bed = Bed::new();
    bed.create("old");
    let mut overlay_tables = bed.tables.clone();
    for n in 0..5000 {
        let op = Op::Mutate(Mutation::Create { name: name(&format!("old/{}/{n}", n % 70)), special_use: vec![] });
        let command = Command::User(bed.user(op));
        let mut overlay = Overlay::new(&overlay_tables);
        apply(&mut overlay, n, &command).unwrap().outcome.unwrap();
        let writes = overlay.into_writes();
        overlay_tables.commit(writes);
    }
    bed.tables = overlay_tables;
    let (id, validity) = (bed.id("old/3/3"), bed.status("old/3/3").uid_validity);
    let command = Command::User(bed.user(Op::Mutate(Mutation::Rename { from: name("old"), to: name("x/new") })));
    let mut overlay = Overlay::new(&bed.tables);
    apply(&mut overlay, 1, &command).unwrap().outcome.unwrap();
    let writes = overlay.into_writes();
    assert!(writes.len() <= 8, "{} records", writes.len());
    bed.tables.commit(writes);
    check(&bed.tables, ANN).unwrap();
    assert_eq!((bed.id("x/new/3/3"), bed.status("x/new/3/3").uid_validity), (id, validity));
    assert_eq!(view::name_of(&bed.tables, ANN, id).unwrap(), Some(name("x/new/3/3")));
    assert_eq!(view::resolve(&bed.tables, ANN, &name("old")).unwrap(), None);
}

#[test]
fn rename_refusals_and_merges() {
    let mut bed = Bed::new();
    for text in ["a/b", "c", "d/e/f"] {
        bed.create(text);
    }
    assert_eq!(rename(&mut bed, "a", "c"), Err(Rejection::AlreadyExists));
    assert_eq!(rename(&mut bed, "a", "a"), Err(Rejection::AlreadyExists));
    assert_eq!(rename(&mut bed, "a", "a/b/x"), Err(Rejection::Cannot));
    assert_eq!(rename(&mut bed, "no", "x"), Err(Rejection::NoSuchMailbox));
    delete(&mut bed, "d").unwrap();
    assert_eq!(rename(&mut bed, "a", "d"), Err(Rejection::AlreadyExists), "two trees do not merge");
    rename(&mut bed, "c", "d").unwrap();
    assert_eq!(bed.list_all(), ["INBOX", "a +", "a/b", "d +", "d/e +", "d/e/f"], "but a leaf takes a free name");
    let deep = vec!["x"; 31].join("/");
    bed.create(&deep);
    assert_eq!(rename(&mut bed, "d", &format!("{deep}/y")), Err(Rejection::Limit));
    assert_eq!(rename(&mut bed, "d/e/f", &format!("{deep}/y")), Ok(Reply::Done));
}

#[test]
fn rename_onto_subscribed_names_keeps_their_subscriptions() {
    let mut bed = Bed::new();
    bed.create("a/x");
    for text in ["b", "b/x", "b/y/z", "a/x"] {
        subscribe(&mut bed, text, true);
    }
    rename(&mut bed, "a", "b").unwrap();
    assert_eq!(bed.list_all(), ["INBOX", "b +s", "b/x s"]);
    let subscribed = ListRequest { subscribed: true, ..patterns(&["*"]) };
    assert_eq!(bed.list(&subscribed), ["b +s", "b/x s", "b/y/z !s"]);
}

#[test]
fn rename_of_inbox_leaves_inbox_with_its_uidnext() {
    let mut bed = Bed::new();
    bed.create("INBOX/child");
    bed.append("INBOX", (0..3).map(|n| NewMessage { flags: flags(1, &["k"]), ..message(n) }).collect());
    let before = bed.status("INBOX");
    rename(&mut bed, "INBOX", "old/mail").unwrap();
    let (inbox, old) = (bed.status("INBOX"), bed.status("old/mail"));
    assert_eq!((inbox.mailbox, inbox.uid_validity, inbox.uid_next), (before.mailbox, before.uid_validity, before.uid_next));
    assert_eq!((inbox.messages, old.messages, old.uid_next), (0, 3, Uid(4)));
    assert_eq!(bed.list_all(), ["INBOX +", "INBOX/child", "old +", "old/mail"]);
    assert_eq!(bed.selected("old/mail").keywords.len(), 1);
    rename(&mut bed, "INBOX", "empty").unwrap();
    assert_eq!(bed.status("empty").messages, 0);
}

#[test]
fn list_patterns_and_child_flags() {
    let mut bed = Bed::new();
    for text in ["a/b/c", "ab", "z"] {
        bed.create(text);
    }
    for (pattern, expected) in [
        ("%", vec!["INBOX", "a +", "ab", "z"]),
        ("a%", vec!["a +", "ab"]),
        ("a*", vec!["a +", "a/b +", "a/b/c", "ab"]),
        ("a/%", vec!["a/b +"]),
        ("%/%", vec!["a/b +"]),
        ("inBOX", vec!["INBOX"]),
        ("*%*%*c", vec!["a/b/c"]),
        ("", vec![]),
    ] {
        assert_eq!(bed.list(&patterns(&[pattern])), expected, "{pattern}");
    }
    assert_eq!(bed.list(&patterns(&["z", "a", "z"])), ["a +", "z"], "each name once");
    let rows = view::list(&bed.tables, ANN, ANN, &ListRequest { with_status: true, ..patterns(&["a"]) }).unwrap();
    assert_eq!(rows[0].status, Some(bed.status("a")));
}

/// RFC 5258 section 5, examples 8 and 9.
#[test]
fn list_recursive_match_as_in_the_rfc() {
    let mut bed = Bed::new();
    for text in ["foo2/bar1", "foo2/bar2", "baz2/bar2", "baz2/bar22", "baz2/bar222", "eps2/mamba", "qux2/bar2"] {
        bed.create(text);
    }
    delete(&mut bed, "qux2").unwrap();
    for text in ["foo2/bar1", "foo2/bar2", "baz2/bar2", "baz2/bar22", "baz2/bar222", "eps2", "eps2/mamba", "qux2/bar2"] {
        subscribe(&mut bed, text, true);
    }
    let subscribed = |pattern| ListRequest { subscribed: true, ..patterns(&[pattern]) };
    let recursive = |pattern| ListRequest { recursive_match: true, ..subscribed(pattern) };
    assert_eq!(bed.list(&subscribed("%")), ["eps2 +s"]);
    assert_eq!(
        bed.list(&recursive("*2")),
        ["baz2/bar2 s", "baz2/bar22 s", "baz2/bar222 s", "eps2 +sc", "foo2 +c", "foo2/bar2 s", "qux2/bar2 s"]
    );
    assert_eq!(bed.list(&recursive("%")), ["baz2 +c", "eps2 +sc", "foo2 +c", "qux2 !+c"]);
    delete(&mut bed, "eps2/mamba").unwrap();
    assert_eq!(bed.list(&recursive("eps2")), ["eps2 sc"], "CHILDINFO without children");
    assert_eq!(bed.list(&subscribed("eps2/%")), ["eps2/mamba !s"], "subscribed names need not exist");
    subscribe(&mut bed, "eps2/mamba", false);
    subscribe(&mut bed, "never/was", false);
    assert_eq!(bed.list(&recursive("eps2")), ["eps2 s"]);
}

#[test]
fn special_uses_are_given_once() {
    let mut bed = Bed::new();
    bed.op(Op::Provision).unwrap();
    bed.op(Op::Provision).unwrap();
    let special = ListRequest { special_use: true, ..patterns(&["*"]) };
    assert_eq!(bed.list(&special), ["Archive s", "Drafts s", "Junk s", "Sent s", "Trash s"]);
    let create = |uses: &[SpecialUse]| Mutation::Create { name: name("new"), special_use: uses.to_vec() };
    assert_eq!(bed.mutate(create(&[SpecialUse::Trash])), Err(Rejection::UseAttribute));
    assert_eq!(bed.mutate(create(&[SpecialUse::All])), Err(Rejection::UseAttribute));
    rename(&mut bed, "Trash", "Bin").unwrap();
    assert_eq!(bed.list(&special), ["Archive s", "Bin s", "Drafts s", "Junk s", "Sent s"]);
    delete(&mut bed, "Bin").unwrap();
    assert!(bed.mutate(create(&[SpecialUse::Trash, SpecialUse::Important])).is_ok());
}

#[test]
fn rights_decide_what_others_may_do() {
    let mut bed = Bed::new();
    let bob = AccountId(8);
    let shared = bed.create("shared");
    bed.create("shared/hidden");
    bed.append("shared", vec![message(1)]);
    let grant = |bed: &mut Bed, mode, negative, letters: &str| {
        let rights = Rights::from_letters(letters).unwrap();
        bed.actor = ANN;
        let subject = AclSubject::Account(bob);
        bed.mutate(Mutation::SetAcl(AclChange { name: name("shared"), subject, negative, mode, rights })).unwrap();
        bed.actor = bob;
    };
    let append = Op::Append { to: name("shared"), messages: vec![NewMessage { flags: flags(1 | 4 | 8, &["k"]), ..message(2) }] };
    bed.actor = bob;
    assert_eq!(bed.op(append.clone()), Err(Rejection::NoSuchMailbox), "without l it does not exist");
    grant(&mut bed, AclMode::Set, false, "lr");
    assert_eq!(bed.op(append.clone()), Err(Rejection::NoPermission));
    assert_eq!(bed.store(shared, "1", FlagMode::Add, flags(1, &[])), Err(Rejection::NoPermission));
    grant(&mut bed, AclMode::Add, false, "is");
    bed.op(append).unwrap();
    assert_eq!(bed.flag_rows(shared)[1].system, SystemFlags::SEEN, "only the flags that the rights keep");
    bed.store(shared, "1", FlagMode::Replace, flags(1 | 8, &[])).unwrap();
    assert_eq!(bed.flag_rows(shared)[0].system, SystemFlags::SEEN);
    assert_eq!(bed.mutate(Mutation::Expunge { mailbox: shared, uids: None }), Err(Rejection::NoPermission));
    assert_eq!(rename(&mut bed, "shared", "x"), Err(Rejection::NoPermission));
    assert_eq!(bed.mutate(Mutation::Create { name: name("shared/y"), special_use: vec![] }), Err(Rejection::NoPermission));
    let seen = view::list(&bed.tables, ANN, bob, &patterns(&["*"])).unwrap();
    assert_eq!(seen.iter().map(describe).collect::<Vec<_>>(), ["shared"], "nothing of INBOX or of hidden children");
    grant(&mut bed, AclMode::Add, false, "k");
    bed.create("shared/y");
    assert_eq!(view::acl(&bed.tables, ANN, bed.id("shared/y")).unwrap(), view::acl(&bed.tables, ANN, shared).unwrap(), "inherited");
    grant(&mut bed, AclMode::Set, true, "rs");
    let rights = view::rights(&bed.tables, ANN, bob, shared).unwrap();
    assert_eq!(rights.to_string(), "lik");
    let refused = view::select(&bed.tables, ANN, bob, &MailboxRef::Id(shared)).unwrap();
    assert_eq!(refused, Err(Rejection::NoPermission));
}

#[test]
fn metadata_is_private_by_reader_and_bounded() {
    let mut bed = Bed::new();
    let bob = AccountId(8);
    let entry = |n: &str, value: Option<&[u8]>| MetadataEntry { name: n.into(), value: value.map(<[u8]>::to_vec) };
    let set_one =
        |bed: &mut Bed, mailbox: Option<&str>, e| bed.mutate(Mutation::SetMetadata { mailbox: mailbox.map(name), entries: vec![e] });
    let long = vec![b'x'; 10_000];
    set_one(&mut bed, Some("INBOX"), entry("/Private/Comment", Some(b"mine"))).unwrap();
    set_one(&mut bed, Some("INBOX"), entry("/shared/comment", Some(&long))).unwrap();
    set_one(&mut bed, None, entry("/shared/admin", Some(b""))).unwrap();
    let of = |bed: &Bed, actor| view::metadata(&bed.tables, ANN, actor, Some(MailboxId::INBOX)).unwrap();
    assert_eq!(of(&bed, ANN), [entry("/private/comment", Some(b"mine")), entry("/shared/comment", Some(&long))]);
    assert_eq!(of(&bed, bob), [entry("/shared/comment", Some(&long))]);
    assert_eq!(view::metadata(&bed.tables, ANN, ANN, None).unwrap(), [entry("/shared/admin", Some(b""))]);
    set_one(&mut bed, Some("INBOX"), entry("/shared/comment", Some(b"short"))).unwrap();
    set_one(&mut bed, Some("INBOX"), entry("/private/comment", None)).unwrap();
    assert_eq!(of(&bed, ANN), [entry("/shared/comment", Some(b"short"))]);
    for bad in ["comment", "/shared/", "/shared/a//b", "/private/a*", "/other/x", "/shared/ü"] {
        assert_eq!(set_one(&mut bed, None, entry(bad, Some(b"x"))), Err(Rejection::Cannot), "{bad}");
    }
    let huge = vec![0; limits::METADATA_BYTES_MAX + 1];
    assert_eq!(set_one(&mut bed, None, entry("/shared/x", Some(&huge))), Err(Rejection::TooBig));
    assert_eq!(set_one(&mut bed, None, entry("/shared/x", Some(&huge[1..]))), Err(Rejection::Limit));
}

#[test]
fn mailbox_quota_and_usage_are_exact() {
    let mut bed = Bed::new();
    bed.mutate(Mutation::SetQuota(QuotaLimits { mailboxes: Some(3), storage_bytes: Some(250), messages: None })).unwrap();
    bed.create("a");
    assert_eq!(bed.mutate(Mutation::Create { name: name("b/c"), special_use: vec![] }), Err(Rejection::OverQuota));
    assert_eq!(bed.list_all(), ["INBOX", "a"], "no parent is left behind");
    bed.append("INBOX", vec![message(1), message(1)]);
    assert_eq!(bed.op(Op::Append { to: name("a"), messages: vec![message(1)] }), Err(Rejection::OverQuota));
    let (limits, usage) = view::quota(&bed.tables, ANN).unwrap().unwrap();
    assert_eq!(limits.mailboxes, Some(3));
    assert_eq!(usage, QuotaUsage { storage_bytes: 202, messages: 2, mailboxes: 2 });
}
