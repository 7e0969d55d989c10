//! Dialogues in `scripts/*.txt`, each run whole, byte by byte, and cut in two at every byte.
//!
//! `C:` is a line from the client, `R:` raw bytes from it (`\r \n \0 \\`, no line end added), `S:` a line from the server,
//! `M:` a message handed over: its accounts, then its bytes escaped the same way. `!headers`, `!starttls` and `!trusted` turn
//! settings on; `F:` is the address that a trusted proxy told of its client. Known recipients: ann 1, bob 2, full 3 (over quota),
//! far 4 (no quorum), big 5 (too big), late 6 (gone meanwhile).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use parliament_ids::{AccountId, Boot, MailboxId, NodeId, SessionKey, Uid};
use parliament_lmtp::{Answer, Body, Output, Peer, Session, Settings, Wants};
use parliament_mail_api::{Answer as MailAnswer, Identity, RecipientError, Rejection, Reply, Unserved};
use std::sync::Arc;

const NOW: i64 = 1_709_251_199;

struct Script {
    settings: Settings,
    trusted: bool,
    input: Vec<u8>,
    expected: Vec<String>,
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next().expect("a character after the backslash") {
                'r' => bytes.push(b'\r'),
                'n' => bytes.push(b'\n'),
                '0' => bytes.push(0),
                't' => bytes.push(b'\t'),
                '\\' => bytes.push(b'\\'),
                other => panic!("unknown escape {other}"),
            },
            _ => bytes.extend_from_slice(c.to_string().as_bytes()),
        }
    }
    bytes
}

fn escape(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\\', "\\\\");
    text.replace('\r', "\\r").replace('\n', "\\n").replace('\0', "\\0").replace('\t', "\\t")
}

fn load(text: &str) -> Script {
    let settings = Settings { host: "mx.example".into(), message_bytes_max: 1000, add_headers: false, starttls: false };
    let mut script = Script { settings, trusted: false, input: Vec::new(), expected: Vec::new() };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_at(line.len().min(3)) {
            ("C: ", rest) => script.input.extend([rest.as_bytes(), b"\r\n"].concat()),
            ("R: ", rest) => script.input.extend(unescape(rest)),
            ("S: " | "M: " | "F: ", _) => script.expected.push(line.to_owned()),
            _ if line == "C:" => script.input.extend(b"\r\n"),
            _ if line == "!headers" => script.settings.add_headers = true,
            _ if line == "!trusted" => script.trusted = true,
            _ if line == "!starttls" => script.settings.starttls = true,
            _ => panic!("what is {line}?"),
        }
    }
    script
}

fn lookup(address: &str) -> Result<Identity, RecipientError> {
    let local = address.split(['@', '+']).next().unwrap_or_default();
    let known = ["ann", "bob", "full", "far", "big", "late"];
    match known.iter().position(|name| *name == local) {
        Some(at) => Ok(Identity { account: AccountId(at as u64 + 1), name: format!("{local}@x") }),
        None if local == "down" => Err(RecipientError::Unavailable),
        None => Err(RecipientError::Unknown),
    }
}

fn deliver(account: AccountId) -> Result<MailAnswer, Unserved> {
    let outcome = match account.0 {
        3 => Err(Rejection::OverQuota),
        4 => return Err(Unserved::NoQuorum),
        5 => Err(Rejection::TooBig),
        6 => Err(Rejection::NoSuchAccount),
        _ => Ok(Reply::Delivered { mailbox: MailboxId::INBOX, uid: Some(Uid(1)), duplicate: false }),
    };
    Ok(MailAnswer { outcome, delta: None })
}

/// Carries out outputs until the session wants bytes again; sent text is gathered, so that its cuts do not matter.
fn carry_out(session: &mut Session, outputs: Vec<Output>, told: &mut Vec<u8>) {
    let mut queue: std::collections::VecDeque<Output> = outputs.into();
    while let Some(output) = queue.pop_front() {
        let mut more = Vec::new();
        match output {
            Output::Send(bytes) => told.extend_from_slice(&bytes),
            Output::Lookup { address } => session.answer(Answer::Recipient(lookup(&address)), &mut more),
            Output::Deliver(message) => {
                let Body::Inline(bytes) = &message.body else { panic!("scripts have small messages") };
                let accounts: Vec<String> = message.accounts.iter().map(ToString::to_string).collect();
                told.extend_from_slice(format!("M: {} {}\r\n", accounts.join(","), escape(bytes)).as_bytes());
                for index in (0..message.accounts.len()).rev() {
                    session.answer(Answer::Delivered { index, result: deliver(message.accounts[index]) }, &mut more);
                }
            }
            Output::Forwarded(client) => {
                let address = client.address.map(|address| address.to_string()).unwrap_or_default();
                told.extend_from_slice(format!("F: {address}\r\n").as_bytes());
            }
            Output::StartTls => session.answer(Answer::TlsStarted, &mut more),
            Output::Close => assert_eq!(session.wants(), Wants::Nothing),
            Output::Spool(_) | Output::DropSpool => panic!("scripts have small messages"),
        }
        queue.extend(more);
    }
}

fn run<'a>(script: &Script, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let address = "127.0.0.1".parse().unwrap();
    let peer = Peer { address, session: SessionKey { node: NodeId(1), boot: Boot(2), session: 3 }, tls: false, trusted: script.trusted };
    let (mut out, mut told) = (Vec::new(), Vec::new());
    let mut session = Session::new(Arc::new(script.settings.clone()), peer, &mut out);
    carry_out(&mut session, out, &mut told);
    for mut piece in pieces {
        while !piece.is_empty() && session.wants() == Wants::Bytes {
            let mut out = Vec::new();
            let consumed = session.receive(piece, NOW, &mut out);
            piece = &piece[consumed..];
            carry_out(&mut session, out, &mut told);
        }
    }
    let text = String::from_utf8(told).unwrap();
    let label = |line: &str| if line.starts_with("M: ") || line.starts_with("F: ") { line.to_owned() } else { format!("S: {line}") };
    text.split_terminator("\r\n").map(label).collect()
}

#[test]
fn scripts_hold_however_they_are_cut() {
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts")).unwrap() {
        let path = entry.unwrap().path();
        let script = load(&std::fs::read_to_string(&path).unwrap());
        let name = path.display();
        assert_eq!(run(&script, std::iter::once(&script.input[..])), script.expected, "{name} whole");
        assert_eq!(run(&script, script.input.chunks(1)), script.expected, "{name} byte by byte");
        for cut in 1..script.input.len() {
            let (head, tail) = script.input.split_at(cut);
            assert_eq!(run(&script, [head, tail].into_iter()), script.expected, "{name} cut at {cut}");
        }
        count += 1;
    }
    assert!(count >= 6, "{count} scripts");
}
