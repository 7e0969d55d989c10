//! What a session holds back, repeats and never forgets: driven step by step, without a mail store.

// The lint knows test functions only, not the helpers that they share.
#![allow(clippy::unwrap_used)]

use parliament_ids::limits::BODY_PIECE_BYTES;
use parliament_ids::*;
use parliament_imap::{CallId, Input, Now, Output, Session, Settings, SpoolId};
use parliament_mail_api::*;

struct Driver {
    session: Session,
}

impl Driver {
    fn logged_in() -> Self {
        let key = SessionKey { node: NodeId(1), boot: Boot(1), session: 1 };
        let mut driver = Self { session: Session::new(Settings::new(key, "h")) };
        driver.step(Input::Connected);
        driver.step(Input::Bytes(b"x LOGIN a b\r\n"));
        driver.step(Input::LoginResult(Ok(Identity { account: AccountId(4), name: "a".to_owned() })));
        driver
    }
    fn step(&mut self, input: Input<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        self.session.step(Now::default(), input, &mut out);
        out
    }
    fn answer(&mut self, call: CallId, outcome: Result<Reply, Rejection>) -> Vec<Output> {
        self.step(Input::Answer { call, result: Ok(Answer { outcome, delta: None }) })
    }
}

fn calls(out: &[Output]) -> Vec<(CallId, Call)> {
    let calls = out.iter().filter_map(|output| match output {
        Output::Call { call, body } => Some((*call, (**body).clone())),
        _ => None,
    });
    calls.collect()
}

fn said(out: &[Output]) -> String {
    let bytes: Vec<u8> = out.iter().flat_map(|output| if let Output::Send(bytes) = output { bytes.to_vec() } else { Vec::new() }).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn pipelined_commands_wait_one_call_at_a_time_and_hold_the_client_back() {
    let mut driver = Driver::logged_in();
    let many = "p LIST \"\" *\r\n".repeat(10_000);
    let (mut sent, mut first) = (0, Vec::new());
    for piece in many.as_bytes().chunks(4096) {
        if !driver.session.wants_input() {
            break;
        }
        sent += piece.len();
        first.extend(driver.step(Input::Bytes(piece)));
    }
    assert!(sent <= 72 * 1024, "{sent} bytes were taken although nothing is answered");
    let mut waiting = calls(&first);
    assert_eq!(waiting.len(), 1);
    let mut answered = 0;
    while let Some((call, _)) = waiting.pop() {
        let out = driver.answer(call, Ok(Reply::List(Vec::new())));
        answered += said(&out).matches("p OK").count();
        waiting = calls(&out);
        assert!(waiting.len() <= 1);
    }
    assert_eq!(answered, sent / "p LIST \"\" *\r\n".len());
    assert!(driver.session.wants_input());
}

#[test]
fn a_large_append_holds_the_client_back_while_its_pieces_wait() {
    let mut driver = Driver::logged_in();
    let out = driver.step(Input::Bytes(b"a APPEND INBOX {5000000+}\r\n"));
    assert_eq!(out, vec![Output::SpoolReserve { spool: SpoolId(1), bytes: 5_000_000 }]);
    driver.step(Input::SpoolReserved(SpoolId(1)));
    let (mut sent, mut uploads) = (0, 0);
    while driver.session.wants_input() && sent < 5_000_000 {
        sent += 16_384;
        uploads += calls(&driver.step(Input::Bytes(&[b'x'; 16_384]))).len();
    }
    assert_eq!(uploads, 1);
    assert!(sent <= 2 * BODY_PIECE_BYTES + 192 * 1024, "{sent} bytes lie in memory");
}

#[test]
fn an_append_is_sent_anew_under_one_request_id() {
    let mut driver = Driver::logged_in();
    driver.step(Input::Bytes(b"a APPEND INBOX {300000+}\r\n"));
    driver.step(Input::SpoolReserved(SpoolId(1)));
    let mut out = Vec::new();
    for _ in 0..30 {
        out.extend(driver.step(Input::Bytes(&[b'x'; 10_000])));
    }
    out.extend(driver.step(Input::Bytes(b"\r\n")));
    let spooled: usize = out.iter().map(|output| if let Output::SpoolWrite { bytes, .. } = output { bytes.len() } else { 0 }).sum();
    assert_eq!(spooled, 300_000);
    let mut request = None;
    let mut tries = 0;
    let mut waiting = calls(&out);
    while let Some((call, body)) = waiting.pop() {
        let out = match body.body {
            Request::Upload { .. } => driver.answer(call, Ok(Reply::Done)),
            Request::Append { .. } => {
                tries += 1;
                assert!(request.is_none() || request == body.request, "every try is the same request");
                request = body.request;
                if tries < 3 {
                    driver.answer(call, Err(Rejection::UploadLost))
                } else {
                    let uids = UidSet::one(Uid(7));
                    driver.answer(call, Ok(Reply::Appended { mailbox: MailboxId(1), uid_validity: UidValidity(9), uids }))
                }
            }
            other => panic!("{other:?}"),
        };
        waiting = calls(&out);
        let read =
            out.iter().find_map(|output| if let Output::SpoolRead { spool, length, .. } = output { Some((*spool, *length)) } else { None });
        if let Some((spool, length)) = read {
            let bytes = vec![b'x'; length as usize].into();
            waiting = calls(&driver.step(Input::SpoolPiece { spool, bytes }));
        }
        if tries == 3 {
            assert_eq!(out[0], Output::SpoolRelease(SpoolId(1)));
            assert_eq!(said(&out), "a OK [APPENDUID 9 7] Append completed\r\n");
        }
    }
    assert_eq!(tries, 3);
}

#[test]
fn a_given_up_append_leaves_its_call_in_flight_alone() {
    let mut driver = Driver::logged_in();
    driver.step(Input::Bytes(b"a APPEND INBOX {300000+}\r\n"));
    driver.step(Input::SpoolReserved(SpoolId(1)));
    let mut out = Vec::new();
    for _ in 0..27 {
        out.extend(driver.step(Input::Bytes(&[b'x'; 10_000])));
    }
    let (call, _) = calls(&out).pop().unwrap();
    driver.step(Input::SpoolFailed(SpoolId(1)));
    let mut rest = vec![b'x'; 30_000];
    rest.extend_from_slice(b"\r\nb LIST \"\" *\r\n");
    let out = driver.step(Input::Bytes(&rest));
    assert!(said(&out).starts_with("a NO [UNAVAILABLE]"));
    assert!(calls(&out).is_empty(), "one call in flight");
    let out = driver.answer(call, Ok(Reply::Done));
    assert_eq!(calls(&out).len(), 1, "the next command runs once the old call is over");
}

#[test]
fn nothing_is_told_within_a_literal_that_cannot_be_finished() {
    let mut driver = Driver::logged_in();
    let (call, _) = calls(&driver.step(Input::Bytes(b"s SELECT INBOX\r\n"))).pop().unwrap();
    let selected = Selected {
        mailbox: MailboxId(1),
        name: MailboxName::inbox(),
        uid_validity: UidValidity(9),
        uid_next: Uid(2),
        highest_modseq: ModSeq(2),
        uids: UidSet::one(Uid(1)),
        first_unseen: None,
        keywords: Vec::new(),
        rights: Rights::ALL,
        recent_from: Uid(2),
    };
    driver.answer(call, Ok(Reply::Selected(Box::new(selected))));
    let (call, _) = calls(&driver.step(Input::Bytes(b"f FETCH 1 BODY.PEEK[]\r\n"))).pop().unwrap();
    let flags = FlagRow { uid: Uid(1), system: SystemFlags::NONE, keywords: 0, modseq: ModSeq(2) };
    let row = FetchRow {
        flags,
        internal_date: DateTime::default(),
        save_date: 0,
        size: 600_000,
        hash: None,
        email_id: EmailId(1),
        thread_id: ThreadId(1),
        envelope: None,
        body: None,
        body_structure: None,
        preview: None,
        parts: vec![PartResult { data: Some(PartData::Range { offset: 0, length: 600_000 }) }],
    };
    let out = driver.answer(call, Ok(Reply::Fetched(FetchPage { rows: vec![row], ..FetchPage::default() })));
    assert_eq!(said(&out), "", "nothing is announced before its first piece is here");
    let (call, _) = calls(&out).pop().unwrap();
    let piece = bytes_serde::BytesField(vec![b'x'; BODY_PIECE_BYTES].into());
    let out = driver.answer(call, Ok(Reply::Piece(piece)));
    assert!(said(&out).starts_with("* 1 FETCH (BODY[] {600000}\r\nxxx"));
    assert_eq!(driver.step(Input::Kick("now")), vec![Output::Close]);
}
