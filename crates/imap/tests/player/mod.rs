//! Plays a script: drives a session as a socket driver would, with the mail store answering at once.

use crate::fake::Fake;
use parliament_ids::*;
use parliament_imap::{Input, Now, Output, Session, Settings, SpoolId};
use parliament_mail_api::*;
use std::collections::{BTreeMap, VecDeque};

pub(crate) struct Player {
    session: Session,
    store: Fake,
    now: Now,
    said: Vec<u8>,
    spools: BTreeMap<SpoolId, Vec<u8>>,
    spool_full: bool,
    watching: bool,
    bytewise: bool,
    /// Calls wait here while the store is held.
    held: Option<VecDeque<(parliament_imap::CallId, Call)>>,
}

fn settings() -> Settings {
    let key = SessionKey { node: NodeId(1), boot: Boot(1), session: 1 };
    Settings { message_bytes_max: 1_000_000, ..Settings::new(key, "mail.example") }
}

impl Player {
    fn new(settings: Settings, bytewise: bool) -> Self {
        Self {
            session: Session::new(settings),
            store: Fake::new(),
            now: Now { unix: 1_767_225_700, monotonic_ms: 0 },
            said: Vec::new(),
            spools: BTreeMap::new(),
            spool_full: false,
            watching: false,
            bytewise,
            held: None,
        }
    }
    pub(crate) fn play(script: &str) -> String {
        Self::new(settings(), false).run(script)
    }
    pub(crate) fn play_bytewise(script: &str) -> String {
        Self::new(settings(), true).run(script)
    }

    fn run(mut self, script: &str) -> String {
        let mut played = String::new();
        let mut together: Option<String> = None;
        if script.lines().any(|line| line == "! trusted") {
            self.session = Session::new(Settings { trusted: true, ..settings() });
        }
        let plain = script.lines().any(|line| line == "! plain");
        if plain {
            self.session = Session::new(Settings { tls: false, starttls: true, ..settings() });
        }
        self.step(Input::Connected);
        self.tell(&mut played);
        for line in script.lines().filter(|line| !line.starts_with("S:")) {
            let text = line.get(3..).unwrap_or_default();
            // The first lines of a script are comments and settings: the greeting comes after them.
            if played.starts_with("S:")
                && (line.starts_with('#') || line == "! plain" || line == "! trusted")
                && !played.contains("\nC:")
                && !played.contains("\n!")
            {
                let at = played.find("S:").unwrap();
                let greeting = played.split_off(at);
                played.push_str(&format!("{line}\n{greeting}"));
                continue;
            }
            played.push_str(line);
            played.push('\n');
            if line.starts_with("C:") {
                match &mut together {
                    Some(lines) => lines.push_str(&format!("{text}\r\n")),
                    None => self.send(format!("{text}\r\n").as_bytes()),
                }
            } else if line == "! together" {
                together = Some(String::new());
            } else if line == "! end" {
                let lines = together.take().unwrap();
                self.send(lines.as_bytes());
            } else if let Some(directive) = line.strip_prefix("! ") {
                self.happen(directive);
            }
            if together.is_none() {
                self.tell(&mut played);
            }
        }
        assert!(self.spools.is_empty() || self.session.is_closed(), "every spool is let go");
        played
    }

    /// Appends what the server said; long lines are told by length and hash.
    fn tell(&mut self, played: &mut String) {
        let said = std::mem::take(&mut self.said);
        if said.is_empty() {
            return;
        }
        let text = said.strip_suffix(b"\r\n").unwrap_or(&said);
        for line in text.split(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if let Some(at) = line.windows(16).position(|w| w == b"OK [CAPABILITY I") {
                let end = line.iter().position(|b| *b == b']').unwrap();
                let text = [&line[..at], b"OK [CAPABILITY ...", &line[end..]].concat();
                played.push_str(&format!("S: {}\n", text.escape_ascii()));
            } else if line.len() > 600 {
                played.push_str(&format!("S: <{} bytes, {}>\n", line.len(), &blake3::hash(line).to_hex()[..8]));
            } else {
                played.push_str(format!("S: {}", line.escape_ascii().to_string().replace("\\\"", "\"").replace("\\\\", "\\")).trim_end());
                played.push('\n');
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let size = if self.bytewise { 1 } else { 4096 };
        for piece in bytes.chunks(size) {
            assert!(
                self.held.is_some() || self.session.wants_input() || self.session.is_closed(),
                "the session takes input when nothing is held"
            );
            self.step(Input::Bytes(piece));
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let mut todo = VecDeque::new();
        self.one_step(input, &mut todo);
        while let Some(output) = todo.pop_front() {
            match output {
                Output::Send(bytes) => self.said.extend_from_slice(&bytes),
                Output::Call { call, body } => match &mut self.held {
                    Some(held) => held.push_back((call, *body)),
                    None => {
                        let result = self.store.call(*body);
                        self.one_step(Input::Answer { call, result }, &mut todo);
                    }
                },
                Output::Login { name, password, .. } => {
                    let result = match (name.as_str(), password.0.as_str()) {
                        ("ann", "secret") => Ok(Identity { account: AccountId(4), name: "ann@example.org".to_owned() }),
                        ("ann", "later") => Err(LoginError::Unavailable),
                        _ => Err(LoginError::Refused),
                    };
                    self.one_step(Input::LoginResult(result), &mut todo);
                }
                Output::Forwarded(client) => self.said.extend_from_slice(format!("<{client:?}>\r\n").as_bytes()),
                Output::StartTls => {
                    self.said.extend_from_slice(b"<TLS>\r\n");
                    self.one_step(Input::TlsStarted, &mut todo);
                }
                Output::Watch(target) => self.watching = target.is_some(),
                Output::SpoolReserve { spool, bytes } => {
                    assert!(bytes > 0);
                    let full = std::mem::take(&mut self.spool_full);
                    self.spools.insert(spool, Vec::new());
                    self.one_step(if full { Input::SpoolFailed(spool) } else { Input::SpoolReserved(spool) }, &mut todo);
                }
                Output::SpoolWrite { spool, bytes } => self.spools.get_mut(&spool).unwrap().extend_from_slice(&bytes),
                Output::SpoolRead { spool, offset, length } => {
                    let bytes = self.spools[&spool][offset as usize..][..length as usize].to_vec().into();
                    self.one_step(Input::SpoolPiece { spool, bytes }, &mut todo);
                }
                Output::SpoolRelease(spool) => assert!(self.spools.remove(&spool).is_some()),
                Output::Close => self.said.extend_from_slice(b"<closed>\r\n"),
            }
        }
    }

    /// Outputs of a step stand before those still to do, in order.
    fn one_step(&mut self, input: Input<'_>, todo: &mut VecDeque<Output>) {
        let mut out = Vec::new();
        self.session.step(self.now, input, &mut out);
        todo.extend(out);
    }

    fn happen(&mut self, directive: &str) {
        let mut words = directive.split(' ');
        let verb = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let name = |at: usize| MailboxName::new(rest[at]).unwrap();
        match verb {
            "deliver" => {
                let body = format!("Subject: {}\r\n\r\nhello\r\n", rest[1..].join(" "));
                self.store.deliver(&name(0), body.as_bytes(), &FlagSet::default(), None).unwrap();
                self.changed();
            }
            "deliver-big" => {
                let body = pattern(rest[1].parse().unwrap());
                self.store.deliver(&name(0), &body, &FlagSet::default(), None).unwrap();
            }
            "flag" => {
                let at = self.store.find(&name(0)).unwrap();
                let flags = FlagSet { system: SystemFlags::from_name(rest[2]).unwrap(), keywords: Vec::new() };
                let uids = UidSet::one(Uid(rest[1].parse().unwrap()));
                self.store.store(at, &uids, &FlagChange { mode: FlagMode::Add, flags }, None).unwrap();
                self.changed();
            }
            "expunge" => {
                let at = self.store.find(&name(0)).unwrap();
                self.store.expunge(at, &UidSet::one(Uid(rest[1].parse().unwrap()))).unwrap();
                self.changed();
            }
            "delete" => {
                let at = self.store.find(&name(0)).unwrap();
                self.store.mailboxes.remove(at);
                self.changed();
            }
            "limit-storage" => self.store.limits.storage_bytes = Some(rest[0].parse().unwrap()),
            "rights" => self.store.rights = Rights::from_letters(rest[0]).unwrap(),
            "pass" => self.store.faults.extend(std::iter::repeat_n(None, rest[0].parse().unwrap())),
            "unserved" => {
                let times = rest.first().map_or(1, |n| n.parse().unwrap());
                self.store.faults.extend(std::iter::repeat_n(Some(Err(Unserved::NoQuorum)), times));
            }
            "overquota" => self.store.faults.push_back(Some(Ok(Rejection::OverQuota))),
            "lose-upload" => {
                self.store.uploads.clear();
                self.store.faults.push_back(Some(Ok(Rejection::UploadLost)));
            }
            "spool-full" => self.spool_full = true,
            "hold" => self.held = Some(VecDeque::new()),
            "go" => {
                let next = (rest.first() == Some(&"hold")).then(VecDeque::new);
                for (call, body) in std::mem::replace(&mut self.held, next).unwrap() {
                    let result = self.store.call(body);
                    self.step(Input::Answer { call, result });
                }
            }
            "wait" => {
                let seconds: u64 = rest[0].parse().unwrap();
                self.now.monotonic_ms += seconds * 1000;
                let due = self.session.deadline_ms().is_some_and(|deadline| deadline <= self.now.monotonic_ms);
                self.said.extend_from_slice(if due { b"" } else { b"<not due>\r\n" });
                self.step(Input::Tick);
            }
            "send" => self.send(&unescape(directive.strip_prefix("send ").unwrap_or_default())),
            "send-big" => self.send(&pattern(rest[0].parse().unwrap())),
            "eof" => self.step(Input::Eof),
            "kick" => self.step(Input::Kick(&String::from_utf8(unescape(&rest.join(" "))).unwrap())),
            "shutdown" => self.step(Input::Shutdown),
            "plain" | "trusted" => {}
            _ => panic!("unknown directive {directive}"),
        }
    }

    fn changed(&mut self) {
        if self.watching {
            self.step(Input::Changed);
        }
    }
}

/// Bytes without line ends, different everywhere.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|n| b'a' + (n * n % 26) as u8).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0").into_bytes()
}
