//! The session: states, commands, and what each leads to.

use crate::command::{Command, parse, plain};
use crate::list::List;
use crate::transfer::Transfer;
use crate::{COMMAND_LINE_BYTES_MAX, ERRORS_MAX, IDLE_MS, LOGINS_MAX};
use bytes::Bytes;
use parliament_ids::limits::{BODY_PIECE_BYTES, MESSAGES_PER_ENTRY_MAX};
use parliament_ids::{AccountId, BodyHash, FlagSet, MailboxId, MailboxName, RequestId, RequestSeq, SessionKey, SystemFlags, Uid, UidSet};
use parliament_mail_api::{
    Answer, Call, FetchItems, FetchPage, FetchRequest, FlagChange, FlagMode, Forwarded, Identity, LoginError, MailboxRef,
};
use parliament_mail_api::{Mutation, Rejection, Reply, Request, SelectRequest, Unserved};

/// Tries to read on within a message that is half sent; each lasts as long as the mail store's deadline.
const TRIES_WITHIN_MESSAGE: u32 = 3;

/// What a session needs to know of its connection and server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The session's key: part of the id of every mutating request.
    pub key: SessionKey,
    /// Host name told in the greeting.
    pub host: String,
    /// The link is encrypted already. The session sets this itself after STLS.
    pub tls: bool,
    /// Passwords may be sent although the link is plain.
    pub plain_login: bool,
    /// STLS can be carried out while the link is plain.
    pub stls: bool,
    /// The client is a proxy that is believed what it tells of the client behind it.
    pub trusted: bool,
}

/// Names a call within its session; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// One thing that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection is ready: the greeting is due. Comes once, first.
    Connected,
    /// Bytes from the client. Given only while [`Session::wants_input`]; at most 64 KiB at once.
    Bytes(&'a [u8]),
    /// The outcome of the call in flight; given when what was sent before has left for the socket.
    Answer {
        /// Which call.
        call: CallId,
        /// `MailService::call`'s result.
        result: Result<Answer, Unserved>,
    },
    /// The outcome of [`Output::Login`].
    LoginResult(Result<Identity, LoginError>),
    /// Time passed; due at [`Session::deadline_ms`], harmless at any time.
    Tick,
    /// The TLS handshake is complete.
    TlsStarted,
    /// The client closed its side.
    Eof,
    /// An operator ends the session, or the server stops; nothing that was marked is removed (RFC 1939 section 6).
    Stop(&'a str),
}

/// One thing for the driver to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Write to the client.
    Send(Bytes),
    /// Carry out a call and give [`Input::Answer`]. At most one is in flight.
    Call {
        /// Its name.
        call: CallId,
        /// The call.
        body: Box<Call>,
    },
    /// Check a password and give [`Input::LoginResult`].
    Login {
        /// User name as told.
        name: String,
        /// Password as told.
        password: String,
    },
    /// A trusted proxy told who its client is: from now on that is the client. Comes before a login only.
    Forwarded(Forwarded),
    /// After the bytes sent so far: discard what was received and not yet given, do the TLS handshake as server, give
    /// [`Input::TlsStarted`].
    StartTls,
    /// Close after the bytes sent so far. Nothing follows.
    Close,
}

/// What the session is doing.
#[derive(Debug)]
enum Job {
    /// Waits for a command.
    None,
    /// Waits for the response of AUTH PLAIN.
    Sasl,
    /// The rest of a line that is too long.
    SkipLine,
    /// Waits for the directory.
    Login,
    /// Waits for TLS.
    Tls,
    /// Waits for SELECT.
    Select,
    /// Waits for a page of sizes; these UIDs are still to come.
    Sizes(UidSet),
    /// Waits for the address of a large message's body, so that it can be read to its end whatever becomes of the message.
    Locate(Reading),
    /// Waits for a piece of a message.
    Read(Reading),
    /// Waits for the marks of a chunk, then its removal; the rest of the UIDs wait behind it.
    Remove {
        chunk: UidSet,
        rest: UidSet,
        marked: bool,
    },
    Closed,
}

#[derive(Debug)]
struct Reading {
    uid: Uid,
    size: u64,
    hash: Option<BodyHash>,
    offset: u64,
    transfer: Transfer,
    /// Tries in a row that brought nothing after the first piece.
    tries: u32,
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    job: Job,
    input: Vec<u8>,
    pending: Vec<u8>,
    out: Vec<Output>,
    user: Option<String>,
    account: Option<AccountId>,
    mailbox: MailboxId,
    list: List,
    calls: u64,
    seq: RequestSeq,
    failed_logins: u32,
    errors: u32,
    last_activity_ms: u64,
}

impl Session {
    /// A session before its greeting.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            job: Job::None,
            input: Vec::new(),
            pending: Vec::new(),
            out: Vec::new(),
            user: None,
            account: None,
            mailbox: MailboxId::INBOX,
            list: List::default(),
            calls: 0,
            seq: RequestSeq::default(),
            failed_logins: 0,
            errors: 0,
            last_activity_ms: 0,
        }
    }

    /// Takes one input at `monotonic_ms` of a clock that never goes back; what is to be done is added to `out`.
    pub fn step(&mut self, monotonic_ms: u64, input: Input<'_>, out: &mut Vec<Output>) {
        if self.is_closed() {
            return;
        }
        // Commands keep a session alive (RFC 1939 section 3); a client that trickles the bytes of one does not.
        let is_activity = match input {
            Input::Tick => false,
            Input::Bytes(bytes) => bytes.contains(&b'\n'),
            _ => true,
        };
        if is_activity {
            self.last_activity_ms = monotonic_ms;
        }
        match input {
            Input::Connected => self.greet(),
            Input::Bytes(bytes) => self.input.extend_from_slice(bytes),
            Input::Answer { call, result } if call.0 == self.calls => self.answered(result),
            Input::LoginResult(result) => self.login_result(result),
            Input::TlsStarted => self.tls_started(),
            Input::Tick if self.deadline_ms().is_some_and(|due| due <= monotonic_ms) => self.close("-ERR [SYS/TEMP] Idle too long"),
            // An answer that was not asked for is a fault of the driver and is passed over.
            Input::Tick | Input::Answer { .. } => {}
            Input::Eof => self.close(""),
            Input::Stop(text) => self.close(&format!("-ERR [SYS/TEMP] {}", text.replace(['\r', '\n'], " "))),
        }
        self.run_commands();
        self.flush();
        out.append(&mut self.out);
    }

    /// True when bytes may be given. While a request is under way the client waits, unread.
    #[must_use]
    pub const fn wants_input(&self) -> bool {
        matches!(self.job, Job::None | Job::Sasl | Job::SkipLine)
    }

    /// When [`Input::Tick`] is due, ms.
    #[must_use]
    pub const fn deadline_ms(&self) -> Option<u64> {
        if self.wants_input() { Some(self.last_activity_ms.saturating_add(IDLE_MS)) } else { None }
    }

    /// True after [`Output::Close`].
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.job, Job::Closed)
    }

    /// The mailbox, once logged in.
    #[must_use]
    pub fn selected(&self) -> Option<MailboxId> {
        self.account.map(|_| self.mailbox)
    }

    fn say(&mut self, text: &str) {
        self.pending.extend_from_slice(text.as_bytes());
        self.pending.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.out.push(Output::Send(Bytes::from(std::mem::take(&mut self.pending))));
        }
    }

    fn close(&mut self, last_words: &str) {
        // Inside a message they would be read as part of it.
        if !last_words.is_empty() && !matches!(self.job, Job::Read(_)) {
            self.say(last_words);
        }
        self.flush();
        self.out.push(Output::Close);
        self.job = Job::Closed;
        self.input = Vec::new();
    }

    fn fault(&mut self, text: &str) {
        self.errors += 1;
        if self.errors >= ERRORS_MAX { self.close("-ERR Too many errors") } else { self.say(&format!("-ERR {text}")) }
    }

    fn greet(&mut self) {
        // Dovecot's proxies look for the mark in the greeting.
        let mark = if self.settings.trusted { "[XCLIENT] " } else { "" };
        let greeting = format!("+OK {mark}{} POP3 ready", self.settings.host);
        self.say(&greeting);
    }

    /// Runs the lines that are complete, until one has to wait.
    fn run_commands(&mut self) {
        let mut at = 0;
        let mut input = std::mem::take(&mut self.input);
        while self.wants_input() {
            let rest = input.get(at..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', rest) else {
                if rest.len() > COMMAND_LINE_BYTES_MAX {
                    self.job = Job::SkipLine;
                }
                if matches!(self.job, Job::SkipLine) {
                    at = input.len();
                }
                break;
            };
            at += end + 1;
            let line = rest.get(..end).unwrap_or_default();
            match self.job {
                Job::SkipLine => {
                    self.job = Job::None;
                    self.fault("Line too long");
                }
                _ if line.len() > COMMAND_LINE_BYTES_MAX => {
                    self.job = Job::None;
                    self.fault("Line too long");
                }
                _ => self.line(line.strip_suffix(b"\r").unwrap_or(line)),
            }
        }
        // What follows STLS in plain text is not trusted (RFC 2595 section 4); a closed session has no use for it.
        if matches!(self.job, Job::Tls | Job::Closed) {
            return;
        }
        input.drain(..at);
        self.input = if input.is_empty() { Vec::new() } else { input };
    }

    fn line(&mut self, line: &[u8]) {
        if matches!(self.job, Job::Sasl) {
            self.job = Job::None;
            return match std::str::from_utf8(line) {
                Ok("*") => self.say("-ERR Cancelled"),
                Ok(response) => self.login_plain(response),
                Err(_) => self.fault("Not base64"),
            };
        }
        match parse(line) {
            Ok(command) if self.account.is_none() => self.authorization(command),
            Ok(command) => self.transaction(command),
            Err(text) => self.fault(text),
        }
    }

    const fn may_log_in(&self) -> bool {
        self.settings.tls || self.settings.plain_login
    }

    fn capabilities(&mut self) {
        let before_login = self.account.is_none();
        self.say("+OK Capabilities");
        for capability in ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"] {
            self.say(capability);
        }
        if before_login && self.may_log_in() {
            self.say("USER");
            self.say("SASL PLAIN");
        }
        if before_login && self.settings.stls && !self.settings.tls {
            self.say("STLS");
        }
        if before_login && self.settings.trusted {
            self.say("XCLIENT");
        }
        self.say(".");
    }

    fn authorization(&mut self, command: Command) {
        match command {
            Command::Capa => self.capabilities(),
            Command::Quit => self.close("+OK Bye"),
            Command::Stls if self.settings.stls && !self.settings.tls => {
                self.say("+OK Begin TLS");
                self.flush();
                self.out.push(Output::StartTls);
                self.job = Job::Tls;
            }
            Command::Stls => self.fault("TLS is not available"),
            Command::Xclient(_) if !self.settings.trusted => self.fault("You are not from a trusted network"),
            Command::Xclient(arguments) => self.believe(&arguments),
            Command::User(_) | Command::Pass(_) | Command::AuthPlain(_) if !self.may_log_in() => self.fault("Only with TLS"),
            Command::User(name) => {
                self.user = Some(name);
                self.say("+OK Password?");
            }
            Command::Pass(password) => match self.user.take() {
                Some(name) => self.log_in(name, password),
                None => self.fault("USER first"),
            },
            Command::AuthPlain(Some(response)) => self.login_plain(&response),
            Command::AuthPlain(None) => {
                self.say("+ ");
                self.job = Job::Sasl;
            }
            Command::AuthUnknown => self.fault("Unknown mechanism"),
            _ => self.fault("Log in first"),
        }
    }

    /// Takes what a trusted proxy tells of its client.
    fn believe(&mut self, arguments: &str) {
        match Forwarded::from_xclient(arguments) {
            Ok(told) => {
                self.flush();
                self.out.push(Output::Forwarded(told));
                self.say("+OK Updated");
            }
            Err(_) => self.fault("Invalid parameters"),
        }
    }

    fn login_plain(&mut self, response: &str) {
        match plain(response) {
            Some((name, password)) => self.log_in(name, password),
            None => self.fault("Malformed response"),
        }
    }

    fn log_in(&mut self, name: String, password: String) {
        self.flush();
        self.out.push(Output::Login { name, password });
        self.job = Job::Login;
    }

    fn tls_started(&mut self) {
        if matches!(self.job, Job::Tls) {
            self.settings.tls = true;
            self.user = None;
            self.input = Vec::new();
            self.job = Job::None;
        }
    }

    fn login_result(&mut self, result: Result<Identity, LoginError>) {
        if !matches!(self.job, Job::Login) {
            return;
        }
        self.job = Job::None;
        match result {
            Ok(identity) => {
                self.account = Some(identity.account);
                let mailbox = MailboxRef::Name(MailboxName::inbox());
                self.call(Job::Select, None, Request::Select(SelectRequest { mailbox }));
            }
            Err(LoginError::Unavailable) => self.say("-ERR [SYS/TEMP] Try again later"),
            Err(LoginError::Refused | LoginError::Throttled) => {
                self.failed_logins += 1;
                let text = "-ERR [AUTH] Login refused";
                if self.failed_logins >= LOGINS_MAX { self.close(text) } else { self.say(text) }
            }
        }
    }

    fn call(&mut self, job: Job, request: Option<RequestId>, body: Request) {
        let Some(account) = self.account else {
            return debug_assert!(false, "calls are made after login");
        };
        self.flush();
        self.calls += 1;
        let call = Call { owner: account, actor: account, request, view: None, body };
        self.out.push(Output::Call { call: CallId(self.calls), body: Box::new(call) });
        self.job = job;
    }

    fn answered(&mut self, result: Result<Answer, Unserved>) {
        let outcome = result.map(|answer| answer.outcome);
        match std::mem::replace(&mut self.job, Job::None) {
            Job::Select => self.selected_inbox(outcome),
            Job::Sizes(left) => self.sizes(&left, outcome),
            Job::Locate(reading) => self.located(reading, outcome),
            Job::Read(reading) => self.read(reading, outcome),
            Job::Remove { chunk, rest, marked } => self.removed(chunk, rest, marked, &outcome),
            job => self.job = job,
        }
    }

    /// The maildrop cannot be opened now: the client is not logged in, and may try again.
    fn not_opened(&mut self) {
        self.account = None;
        self.list = List::default();
        self.say("-ERR [SYS/TEMP] Mailbox not available now");
    }

    fn selected_inbox(&mut self, outcome: Result<Result<Reply, Rejection>, Unserved>) {
        let Ok(Ok(Reply::Selected(selected))) = outcome else { return self.not_opened() };
        self.mailbox = selected.mailbox;
        self.list = List::new(selected.uid_validity);
        self.ask_sizes(selected.uids);
    }

    fn ask_sizes(&mut self, uids: UidSet) {
        if uids.is_empty() {
            let (count, bytes) = self.list.stat();
            return self.say(&format!("+OK {count} messages, {bytes} octets"));
        }
        let items = FetchItems { size: true, ..FetchItems::default() };
        let fetch = FetchRequest { mailbox: self.mailbox, uids: uids.clone(), items, changed_since: None, vanished: false };
        self.call(Job::Sizes(uids), None, Request::Fetch(fetch));
    }

    fn sizes(&mut self, asked: &UidSet, outcome: Result<Result<Reply, Rejection>, Unserved>) {
        let Ok(Ok(Reply::Fetched(FetchPage { rows, next, .. }))) = outcome else { return self.not_opened() };
        rows.iter().for_each(|row| self.list.push(row.flags.uid, row.size));
        let left = next.map_or_else(UidSet::new, |next| asked.intersection(&UidSet::range(next, Uid(u32::MAX))));
        self.ask_sizes(left);
    }

    fn transaction(&mut self, command: Command) {
        match command {
            Command::Capa => self.capabilities(),
            Command::Noop => self.say("+OK"),
            Command::Stat => {
                let (count, bytes) = self.list.stat();
                self.say(&format!("+OK {count} {bytes}"));
            }
            Command::List(None) => self.listing(false),
            Command::Uidl(None) => self.listing(true),
            Command::List(Some(number)) => self.with(number, |_, _, size| format!("+OK {number} {size}")),
            Command::Uidl(Some(number)) => self.with(number, |list, uid, _| format!("+OK {number} {}", list.unique_id(uid))),
            Command::Dele(number) => self.with(number, |list, uid, _| {
                list.delete(uid);
                "+OK Marked".to_owned()
            }),
            Command::Rset => {
                self.list.undelete_all();
                self.say("+OK");
            }
            Command::Retr(number) => self.retrieve(number, Transfer::whole()),
            Command::Top(number, lines) => self.retrieve(number, Transfer::top(lines)),
            Command::Quit => {
                let marked = self.list.deleted().clone();
                self.remove(marked);
            }
            _ => self.fault("Already logged in"),
        }
    }

    fn listing(&mut self, unique_ids: bool) {
        let lines = self.list.lines(unique_ids);
        self.say("+OK");
        self.pending.extend_from_slice(lines.as_bytes());
        self.say(".");
    }

    fn with(&mut self, number: u32, reply: impl FnOnce(&mut List, Uid, u64) -> String) {
        match self.list.get(number) {
            Some((uid, size)) => {
                let text = reply(&mut self.list, uid, size);
                self.say(&text);
            }
            None => self.say("-ERR No such message"),
        }
    }

    fn retrieve(&mut self, number: u32, transfer: Transfer) {
        match self.list.get(number) {
            Some((uid, size)) => {
                let reading = Reading { uid, size, hash: None, offset: 0, transfer, tries: 0 };
                if size <= BODY_PIECE_BYTES as u64 { self.read_on(reading) } else { self.locate(reading) }
            }
            None => self.say("-ERR No such message"),
        }
    }

    fn locate(&mut self, reading: Reading) {
        let (items, uids) = (FetchItems { size: true, ..FetchItems::default() }, UidSet::one(reading.uid));
        let request = FetchRequest { mailbox: self.mailbox, uids, items, changed_since: None, vanished: false };
        self.call(Job::Locate(reading), None, Request::Fetch(request));
    }

    fn located(&mut self, mut reading: Reading, outcome: Result<Result<Reply, Rejection>, Unserved>) {
        match outcome {
            Ok(Ok(Reply::Fetched(FetchPage { rows, .. }))) if !rows.is_empty() => {
                reading.hash = rows.first().and_then(|row| row.hash);
                self.read_on(reading);
            }
            Ok(_) => self.say("-ERR Message is gone"),
            Err(_) => self.say("-ERR [SYS/TEMP] Message not available now"),
        }
    }

    fn read_on(&mut self, reading: Reading) {
        let length = u32::try_from(BODY_PIECE_BYTES).unwrap_or(u32::MAX);
        let body = match reading.hash {
            Some(hash) if reading.offset > 0 => Request::ReadOn { hash, offset: reading.offset, length },
            _ => Request::ReadBody { mailbox: self.mailbox, uid: reading.uid, offset: reading.offset, length },
        };
        self.call(Job::Read(reading), None, body);
    }

    fn read(&mut self, mut reading: Reading, outcome: Result<Result<Reply, Rejection>, Unserved>) {
        let bytes = match outcome {
            Ok(Ok(Reply::Piece(bytes))) => bytes.0,
            Err(_) if reading.offset > 0 && reading.tries < TRIES_WITHIN_MESSAGE => {
                reading.tries += 1;
                return self.read_on(reading);
            }
            // What was begun can be neither ended nor taken back.
            _ if reading.offset > 0 => {
                self.job = Job::Read(reading);
                return self.close("");
            }
            Ok(_) => return self.say("-ERR Message is gone"),
            Err(_) => return self.say("-ERR [SYS/TEMP] Message not available now"),
        };
        if reading.offset == 0 {
            self.say(&format!("+OK {} octets", reading.size));
        }
        let mut wire = std::mem::take(&mut self.pending);
        let enough = reading.transfer.piece(&bytes, &mut wire);
        reading.offset += bytes.len() as u64;
        reading.tries = 0;
        let ended = enough || bytes.len() < BODY_PIECE_BYTES || reading.offset >= reading.size;
        if ended {
            reading.transfer.finish(&mut wire);
        }
        self.pending = wire;
        if !ended {
            self.read_on(reading);
        }
    }

    /// UPDATE state: marks, then removes, a bounded chunk at a time; both by UID, so that a repetition changes nothing more.
    fn remove(&mut self, marked: UidSet) {
        if marked.is_empty() {
            return self.close("+OK Bye");
        }
        let chunk: UidSet = marked.iter().take(MESSAGES_PER_ENTRY_MAX).collect();
        let rest = marked.difference(&chunk);
        let flags = FlagSet { system: SystemFlags::DELETED, keywords: Vec::new() };
        let change = FlagChange { mode: FlagMode::Add, flags };
        let store = Mutation::Store { mailbox: self.mailbox, uids: chunk.clone(), change, unchanged_since: None };
        self.mutate(Job::Remove { chunk, rest, marked: false }, store);
    }

    fn mutate(&mut self, job: Job, mutation: Mutation) {
        self.seq = self.seq.next();
        let request = Some(RequestId { session: self.settings.key, seq: self.seq });
        self.call(job, request, Request::Mutate(mutation));
    }

    fn removed(&mut self, chunk: UidSet, rest: UidSet, marked: bool, outcome: &Result<Result<Reply, Rejection>, Unserved>) {
        match outcome {
            Ok(Ok(_)) if !marked => {
                let expunge = Mutation::Expunge { mailbox: self.mailbox, uids: Some(chunk.clone()) };
                self.mutate(Job::Remove { chunk, rest, marked: true }, expunge);
            }
            Ok(Ok(_)) => self.remove(rest),
            _ => self.close("-ERR [SYS/TEMP] Some deleted messages may not be removed"),
        }
    }
}
