//! The session: which command may come when, and what each leads to.

use crate::collect::Collector;
use crate::command::{Command, parse};
use crate::{COMMAND_LINE_BYTES_MAX, ERRORS_MAX, RECIPIENTS_MAX, replies, trace};
use bytes::Bytes;
use parliament_ids::{AccountId, BodyHash, SessionKey};
use parliament_mail_api::{Forwarded, Identity, RecipientError, Unserved, XclientError};
use std::net::IpAddr;
use std::sync::Arc;

/// What an operator sets, the same for all sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This host's name, as greeted and written in `Received:`; a domain without line ends or spaces.
    pub host: String,
    /// Largest message, bytes of DATA; told as SIZE.
    pub message_bytes_max: u64,
    /// Put `Return-Path:` and `Received:` in front of each message, as final delivery should (RFC 5321 section 4.4). Without
    /// them exactly the bytes that were sent are stored.
    pub add_headers: bool,
    /// Offer STARTTLS on connections without TLS.
    pub starttls: bool,
}

/// Whom the session talks to.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: IpAddr,
    /// The session's number, written in `Received:`.
    pub session: SessionKey,
    /// The connection has TLS.
    pub tls: bool,
    /// It is a proxy that is believed what it tells of the client behind it.
    pub trusted: bool,
}

/// What the driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send to the client.
    Send(Bytes),
    /// Find an account ([`parliament_mail_api::Directory::recipient`]); answer with [`Answer::Recipient`]. The local part is
    /// quoted only where it has to be.
    Lookup {
        /// `local@domain`, or `local` alone where the client gave no domain.
        address: String,
    },
    /// A trusted proxy told who its client is: from now on that is the client.
    Forwarded(Forwarded),
    /// Append to the spool of the present message; on failure call [`Session::spool_failed`].
    Spool(Bytes),
    /// Drop what was spooled.
    DropSpool,
    /// Deliver; answer each account with [`Answer::Delivered`], in any order. A spool may be dropped after the last.
    Deliver(Message),
    /// Send what is pending, discard what is unread, do the TLS handshake as server; answer [`Answer::TlsStarted`].
    StartTls,
    /// Send what is pending and close.
    Close,
}

/// A message to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Each once, 1 to [`RECIPIENTS_MAX`], in the order of their first RCPT.
    pub accounts: Vec<AccountId>,
    /// What to store.
    pub body: Body,
    /// BLAKE3 over sender and DATA, the same whenever the message is sent again.
    pub dedupe: BodyHash,
}

/// Where a message's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Here: at most [`crate::INLINE_BYTES_MAX`].
    Inline(Bytes),
    /// In the spool: all the [`Output::Spool`] since the last [`Output::Deliver`] or [`Output::DropSpool`].
    Spooled {
        /// Bytes.
        size: u64,
        /// BLAKE3 of all bytes.
        hash: BodyHash,
    },
}

/// An answer to an [`Output`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Output::Lookup`].
    Recipient(Result<Identity, RecipientError>),
    /// To [`Output::Deliver`], for one account.
    Delivered {
        /// Index in [`Message::accounts`].
        index: usize,
        /// What came of it.
        result: Result<parliament_mail_api::Answer, Unserved>,
    },
    /// To [`Output::StartTls`].
    TlsStarted,
}

/// What the session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Bytes from the client.
    Bytes,
    /// An answer to an output; bytes are not consumed until then.
    Answer,
    /// Nothing: it is over.
    Nothing,
}

enum Mode {
    Command,
    /// The rest of a line that is too long.
    SkipLine,
    Lookup {
        address: String,
    },
    Data,
    Chunk {
        left: u64,
        last: bool,
    },
    Delivering(Delivering),
    StartTls,
    Closed,
}

/// Replies go out in the order of RCPT, each as soon as those before it are known.
struct Delivering {
    /// Per recipient: its address and the index of its account.
    recipients: Vec<(String, usize)>,
    told: usize,
    results: Vec<Option<&'static str>>,
}

struct Recipient {
    address: String,
    account: AccountId,
}

struct Transaction {
    from: String,
    utf8: bool,
    recipients: Vec<Recipient>,
    /// Present from DATA or the first BDAT on.
    message: Option<Box<Collector>>,
}

/// One LMTP connection. Small while idle: buffers exist only while a line or a message is incomplete.
pub struct Session {
    settings: Arc<Settings>,
    peer: Peer,
    mode: Mode,
    lhlo: Option<String>,
    line: Vec<u8>,
    pending: Vec<u8>,
    transaction: Option<Box<Transaction>>,
    errors: u32,
    messages: u64,
    now: i64,
}

impl Session {
    /// A session that has greeted its client.
    #[must_use]
    pub fn new(settings: Arc<Settings>, peer: Peer, out: &mut Vec<Output>) -> Self {
        let mut session = Self {
            settings,
            peer,
            mode: Mode::Command,
            lhlo: None,
            line: Vec::new(),
            pending: Vec::new(),
            transaction: None,
            errors: 0,
            messages: 0,
            now: 0,
        };
        session.greet();
        session.flush(out);
        session
    }

    fn greet(&mut self) {
        let greeting = format!("220 {} LMTP ready", self.settings.host);
        self.say(&greeting);
    }

    /// What the session waits for.
    #[must_use]
    pub const fn wants(&self) -> Wants {
        match self.mode {
            Mode::Command | Mode::SkipLine | Mode::Data | Mode::Chunk { .. } => Wants::Bytes,
            Mode::Lookup { .. } | Mode::Delivering(_) | Mode::StartTls => Wants::Answer,
            Mode::Closed => Wants::Nothing,
        }
    }

    /// True between messages: closing now loses nothing.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.mode, Mode::Command) && self.transaction.is_none() && self.line.is_empty()
    }

    /// Takes bytes from the client at `now`, seconds since 1970 UTC. Returns how many were consumed: fewer than all only when
    /// the session now wants something else.
    pub fn receive(&mut self, bytes: &[u8], now: i64, out: &mut Vec<Output>) -> usize {
        self.now = now;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.mode {
                Mode::Command => self.take_line(rest, out),
                Mode::SkipLine => self.skip_line(rest, out),
                Mode::Data => self.take_data(rest, out),
                Mode::Chunk { left, last } => self.take_chunk(rest, left, last, out),
                Mode::Lookup { .. } | Mode::Delivering(_) | Mode::StartTls | Mode::Closed => break,
            };
        }
        self.flush(out);
        at
    }

    /// Takes an answer. One that was not asked for is a fault of the driver and is passed over.
    pub fn answer(&mut self, answer: Answer, out: &mut Vec<Output>) {
        match (std::mem::replace(&mut self.mode, Mode::Command), answer) {
            (Mode::Lookup { address }, Answer::Recipient(result)) => self.recipient(address, result),
            (Mode::Delivering(mut delivering), Answer::Delivered { index, result }) => {
                if let Some(slot) = delivering.results.get_mut(index) {
                    slot.get_or_insert(replies::delivery(&result));
                }
                self.tell_deliveries(delivering);
            }
            (Mode::StartTls, Answer::TlsStarted) => {
                self.peer.tls = true;
                self.lhlo = None;
            }
            (mode, _) => self.mode = mode,
        }
        self.flush(out);
    }

    /// An [`Output::Spool`] could not be carried out: the message is read to its end and refused with 452 4.3.1. An
    /// [`Output::Deliver`] that came in the same batch of outputs is void.
    pub fn spool_failed(&mut self, out: &mut Vec<Output>) {
        if let Some(message) = self.transaction.as_mut().and_then(|t| t.message.as_mut()) {
            message.refuse(replies::NO_SPACE, out);
        }
        // The failure may be of the last piece, after the message's end.
        match std::mem::replace(&mut self.mode, Mode::Command) {
            Mode::Delivering(mut delivering) => {
                delivering.results.fill(Some(replies::NO_SPACE));
                self.tell_deliveries(delivering);
            }
            mode => self.mode = mode,
        }
        self.flush(out);
    }

    /// The client was silent for too long.
    pub fn time_out(&mut self, out: &mut Vec<Output>) {
        self.close(replies::IDLE, out);
    }

    /// The node stops; meant for idle sessions.
    pub fn shut_down(&mut self, out: &mut Vec<Output>) {
        self.close(replies::SHUTDOWN, out);
    }

    /// The client whom a trusted proxy told has too many connections.
    pub fn too_many(&mut self, out: &mut Vec<Output>) {
        self.close(replies::TOO_MANY_CONNECTIONS, out);
    }

    fn say(&mut self, text: &str) {
        self.pending.extend_from_slice(text.as_bytes());
        self.pending.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self, out: &mut Vec<Output>) {
        if !self.pending.is_empty() {
            out.push(Output::Send(Bytes::from(std::mem::take(&mut self.pending))));
        }
    }

    fn close(&mut self, reply: &str, out: &mut Vec<Output>) {
        if matches!(self.mode, Mode::Closed) {
            return;
        }
        self.reset(out);
        self.say(reply);
        self.flush(out);
        self.mode = Mode::Closed;
        out.push(Output::Close);
    }

    /// Refuses a command; too many of these end the session.
    fn refuse(&mut self, reply: &str, out: &mut Vec<Output>) {
        self.errors += 1;
        if self.errors >= ERRORS_MAX { self.close(replies::TOO_MANY_ERRORS, out) } else { self.say(reply) }
    }

    fn reset(&mut self, out: &mut Vec<Output>) {
        if let Some(message) = self.transaction.take().and_then(|t| t.message) {
            message.abandon(out);
        }
    }

    fn take_line(&mut self, rest: &[u8], out: &mut Vec<Output>) -> usize {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            if self.line.len() + rest.len() > COMMAND_LINE_BYTES_MAX {
                self.line = Vec::new();
                self.mode = Mode::SkipLine;
            } else {
                self.line.extend_from_slice(rest);
            }
            return rest.len();
        };
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(rest.get(..end).unwrap_or_default());
        match line.strip_suffix(b"\r") {
            // To run what follows a bare LF would let an address that holds one smuggle commands in.
            None => self.close(replies::BARE_LF, out),
            Some(_) if line.len() >= COMMAND_LINE_BYTES_MAX => self.refuse(replies::LINE_TOO_LONG, out),
            Some(line) => match parse(line) {
                Ok(command) => self.command(command, out),
                Err(reply) if reply == replies::CHUNK => self.close(reply, out),
                Err(reply) => self.refuse(reply, out),
            },
        }
        end + 1
    }

    fn skip_line(&mut self, rest: &[u8], out: &mut Vec<Output>) -> usize {
        let Some(end) = memchr::memchr(b'\n', rest) else { return rest.len() };
        self.mode = Mode::Command;
        self.refuse(replies::LINE_TOO_LONG, out);
        end + 1
    }

    fn command(&mut self, command: Command, out: &mut Vec<Output>) {
        match command {
            Command::Lhlo { domain } => self.hello(domain, out),
            Command::Mail { from, size, utf8 } => self.mail(from, size, utf8, out),
            Command::Rcpt { to } => self.rcpt(to, out),
            Command::Data => self.data(out),
            Command::Bdat { size, last } => self.bdat(size, last, out),
            Command::Rset => {
                self.reset(out);
                self.say(replies::OK);
            }
            Command::Noop => self.say(replies::OK),
            Command::Vrfy => self.say(replies::VRFY),
            Command::Help => self.say(replies::HELP),
            Command::Quit => self.close(replies::BYE, out),
            Command::StartTls if self.settings.starttls && !self.peer.tls => {
                self.reset(out);
                self.say(replies::START_TLS);
                self.flush(out);
                self.mode = Mode::StartTls;
                out.push(Output::StartTls);
            }
            Command::StartTls => self.refuse(replies::NO_TLS, out),
            Command::Xclient { arguments } => self.xclient(&arguments, out),
        }
    }

    /// Takes what a trusted proxy tells of its client; the dialogue begins anew, as with Postfix and Dovecot.
    fn xclient(&mut self, arguments: &str, out: &mut Vec<Output>) {
        if !self.peer.trusted {
            return self.refuse(replies::NOT_TRUSTED, out);
        }
        if self.transaction.is_some() {
            return self.refuse(replies::IN_TRANSACTION, out);
        }
        match Forwarded::from_xclient(arguments) {
            Ok(told) => {
                self.peer.address = told.address.unwrap_or(self.peer.address);
                self.lhlo = None;
                self.flush(out);
                out.push(Output::Forwarded(told));
                self.greet();
            }
            Err(XclientError::Value) => self.refuse(replies::XCLIENT_VALUE, out),
            Err(XclientError::Name) => self.refuse(replies::XCLIENT_NAME, out),
        }
    }

    fn hello(&mut self, domain: String, out: &mut Vec<Output>) {
        self.reset(out);
        self.lhlo = Some(domain);
        let starttls = if self.settings.starttls && !self.peer.tls { "250-STARTTLS\r\n" } else { "" };
        let xclient = if self.peer.trusted { "250-XCLIENT ADDR PORT SESSION\r\n" } else { "" };
        let text = format!(
            "250-{}\r\n250-PIPELINING\r\n{starttls}{xclient}250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE {}",
            self.settings.host, self.settings.message_bytes_max
        );
        self.say(&text);
    }

    fn mail(&mut self, from: String, size: u64, utf8: bool, out: &mut Vec<Output>) {
        if self.lhlo.is_none() {
            self.refuse(replies::LHLO_FIRST, out);
        } else if self.transaction.is_some() {
            self.refuse(replies::NESTED_MAIL, out);
        } else if size > self.settings.message_bytes_max {
            self.say(replies::TOO_BIG);
        } else {
            self.transaction = Some(Box::new(Transaction { from, utf8, recipients: Vec::new(), message: None }));
            self.say(replies::SENDER_OK);
        }
    }

    fn rcpt(&mut self, address: String, out: &mut Vec<Output>) {
        match &self.transaction {
            Some(t) if t.message.is_some() => self.refuse(replies::AFTER_BDAT, out),
            Some(t) if !t.utf8 && !address.is_ascii() => self.refuse(replies::NOT_ASCII, out),
            Some(t) if t.recipients.len() >= RECIPIENTS_MAX => self.say(replies::TOO_MANY_RECIPIENTS),
            Some(_) => {
                self.flush(out);
                out.push(Output::Lookup { address: address.clone() });
                self.mode = Mode::Lookup { address };
            }
            None => self.refuse(replies::MAIL_FIRST, out),
        }
    }

    fn recipient(&mut self, address: String, result: Result<Identity, RecipientError>) {
        match (result, &mut self.transaction) {
            (Ok(identity), Some(transaction)) => {
                transaction.recipients.push(Recipient { address, account: identity.account });
                self.say(replies::RECIPIENT_OK);
            }
            (Ok(_), None) => self.say(replies::MAIL_FIRST),
            (Err(error), _) => self.say(replies::recipient(error)),
        }
    }

    fn data(&mut self, out: &mut Vec<Output>) {
        match &self.transaction {
            Some(t) if t.message.is_some() => self.refuse(replies::AFTER_BDAT, out),
            Some(t) if !t.recipients.is_empty() => {
                self.begin_message();
                self.mode = Mode::Data;
                self.say(replies::GO_AHEAD);
            }
            _ => self.refuse(replies::NO_RECIPIENTS, out),
        }
    }

    fn begin_message(&mut self) {
        self.messages += 1;
        let (settings, peer) = (&self.settings, &self.peer);
        let lhlo = self.lhlo.as_deref().unwrap_or_default();
        if let Some(t) = &mut self.transaction {
            let header = if settings.add_headers {
                trace::headers(settings, peer, lhlo, &t.from, t.utf8, self.messages, self.now)
            } else {
                String::new()
            };
            t.message = Some(Box::new(Collector::new(header, &t.from, settings.message_bytes_max)));
        }
    }

    fn take_data(&mut self, rest: &[u8], out: &mut Vec<Output>) -> usize {
        let Some(message) = self.transaction.as_mut().and_then(|t| t.message.as_mut()) else {
            self.mode = Mode::Command;
            return 0;
        };
        let (consumed, done) = message.data(rest, out);
        let beyond = message.beyond_all_bounds();
        if done || beyond {
            self.message_ended(out);
        }
        if beyond && !done {
            self.close(replies::TOO_BIG, out);
        }
        consumed
    }

    fn bdat(&mut self, size: u64, last: bool, out: &mut Vec<Output>) {
        if size > self.settings.message_bytes_max.saturating_mul(2) {
            return self.close(replies::CHUNK_TOO_LONG, out);
        }
        if self.transaction.as_ref().is_some_and(|t| t.message.is_none() && !t.recipients.is_empty()) {
            self.begin_message();
        }
        if size == 0 {
            self.chunk_ended(last, out);
        } else {
            self.mode = Mode::Chunk { left: size, last };
        }
    }

    fn take_chunk(&mut self, rest: &[u8], left: u64, last: bool, out: &mut Vec<Output>) -> usize {
        let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - take as u64;
        if let Some(message) = self.transaction.as_mut().and_then(|t| t.message.as_mut()) {
            message.chunk(rest.get(..take).unwrap_or_default(), out);
        }
        self.mode = Mode::Chunk { left, last };
        if left == 0 {
            self.mode = Mode::Command;
            self.chunk_ended(last, out);
        }
        take
    }

    /// RFC 2033 section 4.3: one reply per recipient to the last chunk, none where there are no recipients; else one.
    fn chunk_ended(&mut self, last: bool, out: &mut Vec<Output>) {
        match &self.transaction {
            None => self.refuse(replies::MAIL_FIRST, out),
            Some(_) if last => self.message_ended(out),
            Some(t) => match &t.message {
                None => self.refuse(replies::NO_RECIPIENTS, out),
                Some(message) => self.say(message.refused().unwrap_or(replies::OK)),
            },
        }
    }

    /// Ends the transaction: hands the message over, or tells every recipient why not.
    fn message_ended(&mut self, out: &mut Vec<Output>) {
        self.mode = Mode::Command;
        let Some(transaction) = self.transaction.take() else { return };
        let Some(message) = transaction.message else { return };
        let mut accounts: Vec<AccountId> = Vec::new();
        let mut index_of = std::collections::HashMap::new();
        let recipients: Vec<(String, usize)> = transaction
            .recipients
            .into_iter()
            .map(|recipient| {
                let index = *index_of.entry(recipient.account).or_insert_with(|| {
                    accounts.push(recipient.account);
                    accounts.len() - 1
                });
                (recipient.address, index)
            })
            .collect();
        let mut delivering = Delivering { recipients, told: 0, results: vec![None; accounts.len()] };
        self.flush(out);
        match message.finish(out) {
            Ok((body, dedupe)) => {
                out.push(Output::Deliver(Message { accounts, body, dedupe }));
                self.mode = Mode::Delivering(delivering);
            }
            Err(reply) => {
                delivering.results.fill(Some(reply));
                self.tell_deliveries(delivering);
            }
        }
    }

    fn tell_deliveries(&mut self, mut delivering: Delivering) {
        while let Some((address, index)) = delivering.recipients.get(delivering.told) {
            let Some(Some(reply)) = delivering.results.get(*index) else { break };
            let (code, text) = reply.split_at(reply.match_indices(' ').nth(1).map_or(reply.len(), |(at, _)| at));
            let line = format!("{code} <{address}>{text}");
            self.say(&line);
            delivering.told += 1;
        }
        self.mode = if delivering.told < delivering.recipients.len() { Mode::Delivering(delivering) } else { Mode::Command };
    }
}
