//! A client that believes every untagged response, against random commands, other sessions' changes and failures: its sequence map
//! is right at every moment, EXPUNGE comes only where it may, and each tag is answered exactly once.

// The lint knows test functions only, not the helpers that they share.
#![allow(clippy::unwrap_used)]

mod fake;

use fake::Fake;
use parliament_ids::*;
use parliament_imap::{Input, Now, Output, Session, Settings};
use parliament_mail_api::*;
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Clone, Debug)]
enum Act {
    /// Commands sent in one go.
    Say(Vec<u8>),
    Deliver,
    Expunge(u8),
    Flag(u8),
    Unserved,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => prop::collection::vec(0_u8..12, 1..4).prop_map(Act::Say),
        2 => Just(Act::Deliver),
        2 => any::<u8>().prop_map(Act::Expunge),
        2 => any::<u8>().prop_map(Act::Flag),
        1 => Just(Act::Unserved),
    ]
}

/// Commands that are lawful whatever the mailbox holds, but may name numbers that are gone.
const COMMANDS: [&str; 12] = [
    "NOOP",
    "FETCH 1:* (UID FLAGS)",
    "UID FETCH 1:* (UID)",
    "STORE 1:* +FLAGS (\\Seen)",
    "UID STORE 1:* -FLAGS.SILENT (\\Seen)",
    "SEARCH ALL",
    "UID SEARCH RETURN (ALL) ALL",
    "STORE 1 +FLAGS (\\Deleted)",
    "EXPUNGE",
    "COPY 1 INBOX",
    "FETCH 1 BODY[]",
    "MOVE 1 INBOX",
];

struct Client {
    session: Session,
    store: Fake,
    said: Vec<u8>,
    /// UIDs by sequence number; 0 where not told yet.
    map: Vec<u32>,
    waiting: VecDeque<(String, &'static str)>,
    tags: u32,
}

impl Client {
    fn new() -> Self {
        let key = SessionKey { node: NodeId(1), boot: Boot(1), session: 1 };
        let mut client = Self {
            session: Session::new(Settings::new(key, "h")),
            store: Fake::new(),
            said: Vec::new(),
            map: Vec::new(),
            waiting: VecDeque::new(),
            tags: 0,
        };
        for _ in 0..4 {
            client.deliver();
        }
        client.step(Input::Connected);
        client.step(Input::Bytes(b"x LOGIN a b\r\ny SELECT INBOX\r\n"));
        client.said.clear();
        client.map = vec![0; 4];
        client
    }

    fn deliver(&mut self) {
        self.store.deliver(&MailboxName::inbox(), b"Subject: x\r\n\r\nhello", &FlagSet::default(), None).unwrap();
    }

    fn step(&mut self, input: Input<'_>) {
        let mut todo = Vec::new();
        self.session.step(Now::default(), input, &mut todo);
        let mut todo: VecDeque<Output> = todo.into();
        while let Some(output) = todo.pop_front() {
            let mut out = Vec::new();
            match output {
                Output::Send(bytes) => self.said.extend_from_slice(&bytes),
                Output::Call { call, body } => {
                    let result = self.store.call(*body);
                    self.session.step(Now::default(), Input::Answer { call, result }, &mut out);
                }
                Output::Login { .. } => {
                    let identity = Identity { account: AccountId(4), name: "a".to_owned() };
                    self.session.step(Now::default(), Input::LoginResult(Ok(identity)), &mut out);
                }
                other => panic!("{other:?}"),
            }
            todo.extend(out);
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Say(commands) => {
                let mut bytes = String::new();
                for command in commands {
                    self.tags += 1;
                    let (tag, command) = (format!("t{}", self.tags), COMMANDS[usize::from(*command)]);
                    bytes.push_str(&format!("{tag} {command}\r\n"));
                    self.waiting.push_back((tag, command));
                }
                self.step(Input::Bytes(bytes.as_bytes()));
                self.listen();
            }
            Act::Deliver => self.deliver(),
            Act::Expunge(n) => {
                let uids: Vec<u32> = self.store.mailboxes[0].messages.keys().copied().collect();
                if let Some(uid) = uids.get(usize::from(*n) % uids.len().max(1)) {
                    self.store.expunge(0, &UidSet::one(Uid(*uid))).unwrap();
                }
            }
            Act::Flag(n) => {
                let flags = FlagSet { system: SystemFlags::FLAGGED, keywords: Vec::new() };
                let uids = UidSet::one(Uid(u32::from(*n) % 8 + 1));
                self.store.store(0, &uids, &FlagChange { mode: FlagMode::Add, flags }, None).unwrap();
            }
            Act::Unserved => self.store.faults.push_back(Some(Err(Unserved::NoQuorum))),
        }
    }

    /// Believes what was said.
    fn listen(&mut self) {
        let said = String::from_utf8(std::mem::take(&mut self.said)).unwrap();
        for line in said.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = words.get(1).and_then(|word| word.parse::<usize>().ok());
            match (words[0], number, words.get(2).copied()) {
                ("*", Some(count), Some("EXISTS")) => {
                    assert!(count >= self.map.len(), "EXISTS never takes away: {line}");
                    self.map.resize(count, 0);
                }
                ("*", Some(seq), Some("EXPUNGE")) => {
                    let (_, command) = self.waiting.front().expect("EXPUNGE only within a command");
                    assert!(!["FETCH", "STORE", "SEARCH"].iter().any(|verb| command.starts_with(verb)), "{line} in {command}");
                    self.map.remove(seq - 1);
                }
                ("*", Some(seq), Some("FETCH")) => {
                    let uid = line.split("UID ").nth(1).and_then(|rest| rest.split([' ', ')']).next()).and_then(|uid| uid.parse().ok());
                    let known = self.map.get_mut(seq - 1).unwrap_or_else(|| panic!("{line}: no such message"));
                    if let Some(uid) = uid {
                        assert!(*known == 0 || *known == uid, "{line}: was {known}");
                        *known = uid;
                    }
                }
                (tag, _, _) if tag.starts_with('t') => {
                    let (expected, command) = self.waiting.pop_front().expect("an answer to a command");
                    assert_eq!(tag, expected, "in order, once");
                    assert!(words[1] != "BAD" || self.map.is_empty(), "{command}: {line}");
                }
                _ => {}
            }
        }
        assert!(self.waiting.is_empty(), "every command is answered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_clients_map_is_right(acts in prop::collection::vec(act(), 1..25)) {
        let mut client = Client::new();
        for act in &acts {
            client.act(act);
        }
        client.store.faults.clear();
        client.act(&Act::Say(vec![0]));
        client.act(&Act::Say(vec![2]));
        let truth: Vec<u32> = client.store.mailboxes[0].messages.keys().copied().collect();
        prop_assert_eq!(client.map, truth);
    }

    #[test]
    fn garbage_never_panics(pieces in prop::collection::vec(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..30),
        (0..12_usize).prop_map(|at| format!("g {}\r\n", COMMANDS[at]).into_bytes()),
        Just(b"a APPEND INBOX {5+}\r\nhello {3}\r\n".to_vec()),
        Just(b"b LOGIN {3}\r\n".to_vec()), Just(b"c IDLE\r\n".to_vec()), Just(b"DONE\r\n".to_vec()), Just(b"d AUTHENTICATE PLAIN\r\n".to_vec()),
    ], 0..20)) {
        let key = SessionKey { node: NodeId(1), boot: Boot(1), session: 1 };
        let mut fake = Fake::new();
        let mut session = Session::new(Settings::new(key, "h"));
        let mut todo = VecDeque::new();
        let login = b"x LOGIN a b\r\ny SELECT INBOX\r\n".to_vec();
        for piece in std::iter::once(&login).chain(&pieces) {
            let mut out = Vec::new();
            session.step(Now::default(), Input::Bytes(piece), &mut out);
            todo.extend(out);
            while let Some(output) = todo.pop_front() {
                let mut out = Vec::new();
                let input = match output {
                    Output::Call { call, body } => Input::Answer { call, result: fake.call(*body) },
                    Output::Login { .. } => Input::LoginResult(Ok(Identity { account: AccountId(4), name: String::new() })),
                    Output::SpoolReserve { spool, .. } => Input::SpoolFailed(spool),
                    _ => continue,
                };
                session.step(Now::default(), input, &mut out);
                todo.extend(out);
            }
            prop_assert!(session.wants_input() || session.is_closed());
        }
    }
}
