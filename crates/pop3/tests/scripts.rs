//! Dialogues in `scripts/*.txt`, each run whole, byte by byte, and cut in two at every byte.
//!
//! `C:` is a line from the client, `S:` a line from the server, `M:` a change that the mail service was asked for,
//! `!plain`, `!stls`, `!trusted` and `!down` are settings: no password without TLS is offered unless `!plain`. `F:` is what a
//! trusted proxy told of its client. INBOX has UIDVALIDITY 9 and four messages with UIDs 3, 4, 7 and 8; 7 was removed by another
//! client after the list was taken, 8 cannot be read now. Users: ann (password `a secret`); `later` cannot be
//! checked now, `broken` has no quorum.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use parliament_ids::{
    AccountId, BodyHash, Boot, DateTime, EmailId, MailboxId, MailboxName, ModSeq, NodeId, RequestSeq, Rights, SessionKey,
};
use parliament_ids::{SystemFlags, ThreadId, Uid, UidSet, UidValidity};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{Answer, Call, FetchPage, FetchRow, FlagRow, Identity, LoginError, Mutation, Rejection, Reply, Request};
use parliament_mail_api::{Selected, Unserved};
use parliament_pop3::{IDLE_MS, Input, Output, Session, Settings};

const MESSAGES: [(u32, &str); 4] =
    [(3, "A: 1\r\n\r\n.one\r\ntwo\r\nthree"), (4, "B: 2\r\n\r\nbody\r\n"), (7, "gone\r\n"), (8, "unreadable\r\n")];

struct Script {
    settings: Settings,
    down: bool,
    input: Vec<u8>,
    expected: Vec<String>,
}

fn load(text: &str) -> Script {
    let key = SessionKey { node: NodeId(1), boot: Boot(1), session: 5 };
    let settings = Settings { key, host: "mx.example".into(), tls: false, plain_login: false, stls: false, trusted: false };
    let mut script = Script { settings, down: false, input: Vec::new(), expected: Vec::new() };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_at(line.len().min(3)) {
            ("C: ", rest) => script.input.extend([rest.as_bytes(), b"\r\n"].concat()),
            ("S: " | "M: " | "F: ", _) => script.expected.push(line.to_owned()),
            _ if line == "S:" => script.expected.push("S: ".to_owned()),
            _ if line == "!plain" => script.settings.plain_login = true,
            _ if line == "!stls" => script.settings.stls = true,
            _ if line == "!trusted" => script.settings.trusted = true,
            _ if line == "!down" => script.down = true,
            _ => panic!("what is {line}?"),
        }
    }
    script
}

fn login(name: &str, password: &str) -> Result<Identity, LoginError> {
    match (name, password) {
        ("ann", "a secret") => Ok(Identity { account: AccountId(1), name: name.into() }),
        ("broken", _) => Ok(Identity { account: AccountId(2), name: name.into() }),
        ("later", _) => Err(LoginError::Unavailable),
        _ => Err(LoginError::Refused),
    }
}

fn selected() -> Reply {
    Reply::Selected(Box::new(Selected {
        mailbox: MailboxId::INBOX,
        name: MailboxName::inbox(),
        uid_validity: UidValidity(9),
        uid_next: Uid(9),
        highest_modseq: ModSeq(1),
        uids: MESSAGES.iter().map(|(uid, _)| Uid(*uid)).collect(),
        first_unseen: None,
        keywords: Vec::new(),
        rights: Rights::ALL,
        recent_from: Uid(9),
    }))
}

/// Pages of two rows, so that the session has to ask again.
fn sizes(uids: &UidSet) -> Reply {
    let found: Vec<_> = MESSAGES.iter().filter(|(uid, _)| uids.contains(Uid(*uid))).collect();
    let row = |(uid, text): &(u32, &str)| FetchRow {
        flags: FlagRow { uid: Uid(*uid), system: SystemFlags::NONE, keywords: 0, modseq: ModSeq(1) },
        internal_date: DateTime::default(),
        save_date: 0,
        size: text.len() as u64,
        hash: None,
        email_id: EmailId(1),
        thread_id: ThreadId(1),
        envelope: None,
        body: None,
        body_structure: None,
        preview: None,
        parts: Vec::new(),
    };
    let rows = found.iter().take(2).map(|found| row(found)).collect();
    Reply::Fetched(FetchPage { rows, next: found.get(2).map(|(uid, _)| Uid(*uid)), ..FetchPage::default() })
}

fn serve(call: &Call, seq: &mut u64, down: bool, told: &mut Vec<u8>) -> Result<Answer, Unserved> {
    assert_eq!((call.owner, call.request.is_some()), (call.actor, call.body.mutates()));
    if call.owner == AccountId(2) {
        return Err(Unserved::NoQuorum);
    }
    let mut change = |text: String| {
        *seq += 1;
        assert_eq!(call.request.unwrap().seq, RequestSeq(*seq));
        told.extend_from_slice(format!("M: {text}\r\n").as_bytes());
    };
    let outcome = match &call.body {
        Request::Select(_) => Ok(selected()),
        Request::Fetch(fetch) => Ok(sizes(&fetch.uids)),
        Request::ReadBody { uid: Uid(7), .. } => Err(Rejection::Expunged),
        Request::ReadBody { uid: Uid(8), .. } => return Err(Unserved::BodyUnavailable),
        Request::ReadBody { uid, offset: 0, .. } => {
            let (_, text) = MESSAGES.iter().find(|(known, _)| known == &uid.0).unwrap();
            Ok(Reply::Piece(BytesField(text.as_bytes().into())))
        }
        Request::Mutate(Mutation::Store { uids, .. }) => {
            change(format!("mark {:?}", uids.ranges()));
            if down {
                return Err(Unserved::OutcomeUnknown);
            }
            Ok(Reply::Done)
        }
        Request::Mutate(Mutation::Expunge { uids: Some(uids), .. }) => {
            change(format!("remove {:?}", uids.ranges()));
            Ok(Reply::Done)
        }
        other => panic!("{other:?}"),
    };
    Ok(Answer { outcome, delta: None })
}

fn run<'a>(script: &Script, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut session = Session::new(script.settings.clone());
    let (mut told, mut seq) = (Vec::new(), 0);
    let mut step = |input: Input<'_>| {
        let mut queue = Vec::new();
        session.step(0, input, &mut queue);
        let mut at = 0;
        while at < queue.len() {
            let output = queue[at].clone();
            at += 1;
            match output {
                Output::Send(bytes) => told.extend_from_slice(&bytes),
                Output::Call { call, body } => {
                    let result = serve(&body, &mut seq, script.down, &mut told);
                    session.step(0, Input::Answer { call, result }, &mut queue);
                }
                Output::Login { name, password } => session.step(0, Input::LoginResult(login(&name, &password)), &mut queue),
                Output::Forwarded(client) => {
                    let port = client.port.map(|port| port.to_string()).unwrap_or_default();
                    let address = client.address.map(|address| address.to_string()).unwrap_or_default();
                    told.extend_from_slice(format!("F: {address} {port} {}\r\n", client.session.unwrap_or_default()).as_bytes());
                }
                Output::StartTls => session.step(0, Input::TlsStarted, &mut queue),
                Output::Close => assert!(session.is_closed()),
            }
        }
        assert!(session.is_closed() || session.wants_input());
    };
    step(Input::Connected);
    pieces.for_each(|piece| step(Input::Bytes(piece)));
    let label = |line: &str| if line.starts_with("M: ") || line.starts_with("F: ") { line.to_owned() } else { format!("S: {line}") };
    String::from_utf8(told).unwrap().split_terminator("\r\n").map(label).collect()
}

#[test]
fn scripts_hold_however_they_are_cut() {
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts")).unwrap() {
        let path = entry.unwrap().path();
        let script = load(&std::fs::read_to_string(&path).unwrap());
        let name = path.display();
        // What follows STLS in the same packet is thrown away, so those dialogues come line by line only.
        if !script.settings.stls {
            assert_eq!(run(&script, std::iter::once(&script.input[..])), script.expected, "{name} whole");
            for cut in 1..script.input.len() {
                let (head, tail) = script.input.split_at(cut);
                assert_eq!(run(&script, [head, tail].into_iter()), script.expected, "{name} cut at {cut}");
            }
        }
        assert_eq!(run(&script, script.input.split_inclusive(|b| *b == b'\n')), script.expected, "{name} line by line");
        assert_eq!(run(&script, script.input.chunks(1)), script.expected, "{name} byte by byte");
        count += 1;
    }
    assert!(count >= 4, "{count} scripts");
}

fn session_and_outputs() -> (Session, Vec<Output>) {
    let script = load("!plain\n!stls");
    let (mut session, mut out) = (Session::new(script.settings), Vec::new());
    session.step(0, Input::Connected, &mut out);
    out.clear();
    (session, out)
}

#[test]
fn what_was_injected_after_stls_is_thrown_away() {
    let (mut session, mut out) = session_and_outputs();
    session.step(0, Input::Bytes(b"STLS\r\nUSER evil\r\n"), &mut out);
    assert_eq!(out.pop(), Some(Output::StartTls));
    session.step(0, Input::TlsStarted, &mut out);
    out.clear();
    session.step(0, Input::Bytes(b"PASS x\r\n"), &mut out);
    assert_eq!(out, [Output::Send("-ERR USER first\r\n".into())]);
}

#[test]
fn commands_keep_a_session_alive_and_trickled_bytes_do_not() {
    let (mut session, mut out) = session_and_outputs();
    session.step(100, Input::Bytes(b"CAPA\r\n"), &mut out);
    for minute in 1..10 {
        session.step(100 + minute * 60_000, Input::Bytes(b"x"), &mut out);
    }
    assert_eq!(session.deadline_ms(), Some(100 + IDLE_MS));
    session.step(100 + IDLE_MS, Input::Tick, &mut out);
    assert!(session.is_closed());
}

#[test]
fn silence_stop_and_long_lines() {
    let (mut session, mut out) = session_and_outputs();
    session.step(4, Input::Bytes(&[b'x'; 60_000]), &mut out);
    session.step(5, Input::Bytes(b"\r\nNOOP\r\n"), &mut out);
    assert_eq!(out, [Output::Send("-ERR Line too long\r\n-ERR Log in first\r\n".into())]);
    assert_eq!(session.deadline_ms(), Some(5 + IDLE_MS));
    session.step(4 + IDLE_MS, Input::Tick, &mut out);
    assert!(!session.is_closed());
    session.step(5 + IDLE_MS, Input::Tick, &mut out);
    assert!(session.is_closed());
    let (mut session, mut out) = session_and_outputs();
    session.step(0, Input::Stop("a\r\nb"), &mut out);
    assert_eq!(out, [Output::Send("-ERR [SYS/TEMP] a  b\r\n".into()), Output::Close]);
}

/// Answers the call in flight; what the session wants next.
fn answered(session: &mut Session, call: parliament_pop3::CallId, outcome: Result<Result<Reply, Rejection>, Unserved>) -> Vec<Output> {
    let mut out = Vec::new();
    let result = outcome.map(|outcome| Answer { outcome, delta: None });
    session.step(0, Input::Answer { call, result }, &mut out);
    out
}

/// The call among the outputs.
fn asked(out: &[Output]) -> (parliament_pop3::CallId, Request) {
    let call = |output: &Output| match output {
        Output::Call { call, body } => Some((*call, body.body.clone())),
        _ => None,
    };
    out.iter().find_map(call).unwrap_or_else(|| panic!("no call in {out:?}"))
}

/// Within a message nothing can be said, so it is read to its end through a pause and although another client has removed it.
#[test]
fn a_large_message_that_was_begun_is_completed() {
    const SIZE: u64 = 300_000;
    let script = load("!plain");
    let (mut session, mut out) = (Session::new(script.settings), Vec::new());
    session.step(0, Input::Connected, &mut out);
    session.step(0, Input::Bytes(b"USER ann\r\nPASS a secret\r\n"), &mut out);
    out.clear();
    session.step(0, Input::LoginResult(login("ann", "a secret")), &mut out);
    let sized = |uids: &UidSet| {
        let Reply::Fetched(mut page) = sizes(uids) else { unreachable!() };
        page.rows.iter_mut().for_each(|row| (row.size, row.hash) = (SIZE, Some(BodyHash([7; 32]))));
        Reply::Fetched(page)
    };
    out = answered(&mut session, asked(&out).0, Ok(Ok(selected())));
    while let Some(Output::Call { call, body }) = out.last().cloned() {
        let Request::Fetch(fetch) = &body.body else { panic!("{body:?}") };
        out = answered(&mut session, call, Ok(Ok(sized(&fetch.uids))));
    }
    session.step(0, Input::Bytes(b"RETR 1\r\n"), &mut out);
    out = answered(&mut session, asked(&out).0, Ok(Ok(sized(&UidSet::one(Uid(3))))));
    let piece = |bytes: usize| Ok(Ok(Reply::Piece(BytesField(vec![b'x'; bytes].into()))));
    out = answered(&mut session, asked(&out).0, piece(256 * 1024));
    for _ in 0..2 {
        let (call, request) = asked(&out);
        assert!(matches!(request, Request::ReadOn { hash: BodyHash([7, ..]), offset: 262_144, .. }), "{request:?}");
        out = answered(&mut session, call, Err(Unserved::NoQuorum));
    }
    out = answered(&mut session, asked(&out).0, piece(SIZE as usize - 256 * 1024));
    assert!(!session.is_closed() && session.wants_input());
    let Some(Output::Send(end)) = out.last() else { panic!("{out:?}") };
    assert!(end.ends_with(b"xx\r\n.\r\n"));
}
