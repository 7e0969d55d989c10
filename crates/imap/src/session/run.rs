//! From framed bytes to running commands.

use super::{Job, Output, Session};
use crate::parse::{self, Command, Tagged};
use crate::wire::{Announce, COMMAND_BYTES_MAX, Event, ParseError};

/// Commands that a client may give before it is logged in.
const COMMANDS_BEFORE_LOGIN_MAX: u32 = 100;
/// Commands that could not be parsed before the client is taken for something else than a mail client.
const BAD_COMMANDS_MAX: u32 = 50;

/// A command that is refused while its literals still come: they are thrown away, then the client is told.
#[derive(Clone, Debug)]
pub(crate) struct Discard {
    /// The whole tagged response, without line end.
    pub(crate) reply: String,
    /// Bytes of literals that may still be thrown away before the connection is ended (trap 8).
    pub(crate) room: u64,
}

impl Session {
    pub(crate) fn greet(&mut self) {
        let (capabilities, host) = (self.capabilities(), self.settings.host.clone());
        self.w.fmt(format_args!("* OK [CAPABILITY {capabilities}] {host} Parliament is ready\r\n"));
    }

    /// Works on what was received until nothing more can be done now.
    pub(crate) fn pump(&mut self) {
        while !self.is_closed() && self.advance() {}
    }

    /// One event of the framer, for whoever is to have it. False when there is none.
    fn advance(&mut self) -> bool {
        match &self.job {
            // A call of an APPEND that was given up may still be in flight.
            Job::None => !self.is_calling() && self.next_command(),
            Job::Sasl(_) => self.next_sasl_line(),
            Job::Idle(_) => self.next_idle_line(),
            Job::Append(_) => self.next_append_event(),
            Job::Discard(_) => self.next_discarded(),
            Job::Login(_) | Job::Tls | Job::Simple(_) | Job::Fetch(_) | Job::Store(_) | Job::Search(_) => false,
        }
    }

    fn next_command(&mut self) -> bool {
        let Some(event) = self.framer.next(false) else { return false };
        match event {
            Event::Line(line) => self.on_line(&line),
            Event::Literal(literal) => self.on_literal(literal),
            Event::Overlong { head, literal } => self.on_overlong(&head, literal),
            // The rest of a line after a literal that was thrown away whole is taken by `Job::Discard`.
            Event::Chunk(_) | Event::LiteralEnd => {}
        }
        true
    }

    /// A line beyond the bound. When it announced a literal that is on its way already, commands can no longer be told from
    /// data.
    pub(crate) fn on_overlong(&mut self, head: &[u8], literal: Option<Announce>) {
        if literal.is_some_and(|literal| !literal.sync) {
            return self.bye(format_args!("[TOOBIG] Command line is too long"));
        }
        let tag = parse::parse_tag(head).map_or_else(|| "*".to_owned(), |(tag, _)| tag);
        self.tagged(&tag, "BAD [TOOBIG] Command line is too long");
        self.count_bad();
    }

    fn count_bad(&mut self) {
        self.bad_commands += 1;
        if self.bad_commands >= BAD_COMMANDS_MAX {
            self.bye(format_args!("Too many invalid commands"));
        }
    }

    fn count_before_login(&mut self) {
        if self.identity.is_none() {
            self.commands_before_login += 1;
            if self.commands_before_login > COMMANDS_BEFORE_LOGIN_MAX {
                self.bye(format_args!("Too many commands before login"));
            }
        }
    }

    fn on_literal(&mut self, literal: Announce) {
        if let Some(head) = parse::parse_append_head(self.framer.text(), self.w.utf8) {
            self.count_before_login();
            if !self.is_closed() {
                self.append_begin(head, literal);
            }
        } else if self.framer.fits(literal.size) {
            self.framer.buffer();
            if literal.sync {
                self.go_on("Ready for the literal");
            }
        } else {
            let tag = parse::parse_tag(self.framer.text()).map_or_else(|| "*".to_owned(), |(tag, _)| tag);
            self.discard(literal, format!("{tag} BAD [TOOBIG] Literal is too large"), COMMAND_BYTES_MAX as u64);
        }
    }

    /// Asks for what the client waits to send; it is put on its way at once.
    pub(crate) fn go_on(&mut self, text: &str) {
        self.w.fmt(format_args!("+ {text}\r\n"));
    }

    /// Refuses a command at an announced literal of which at most twice `limit` bytes are worth throwing away.
    pub(crate) fn discard(&mut self, literal: Announce, reply: String, limit: u64) {
        self.discard_within(literal, Discard { reply, room: limit.saturating_mul(2) });
    }

    fn discard_within(&mut self, literal: Announce, mut discard: Discard) {
        if literal.sync {
            self.framer.refuse();
            self.tagged_whole(&discard.reply);
            return;
        }
        match discard.room.checked_sub(literal.size) {
            Some(room) => {
                discard.room = room;
                self.framer.skip();
                self.job = Job::Discard(discard);
            }
            None => self.bye(format_args!("[TOOBIG] Literal is too large")),
        }
    }

    fn tagged_whole(&mut self, reply: &str) {
        self.w.fmt(format_args!("{reply}\r\n"));
        self.job = Job::None;
    }

    fn next_discarded(&mut self) -> bool {
        let Some(event) = self.framer.next(false) else { return false };
        let Job::Discard(discard) = std::mem::take(&mut self.job) else { return false };
        match event {
            Event::Line(_) => self.tagged_whole(&discard.reply),
            Event::Literal(literal) => self.discard_within(literal, discard),
            Event::Chunk(_) | Event::LiteralEnd => self.job = Job::Discard(discard),
            Event::Overlong { literal: Some(literal), .. } if !literal.sync => self.bye(format_args!("[TOOBIG] Command is too long")),
            Event::Overlong { .. } => self.tagged_whole(&discard.reply),
        }
        true
    }

    fn on_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            // Left behind by clients that end an APPEND with two line ends.
            return;
        }
        self.count_before_login();
        if self.is_closed() {
            return;
        }
        match parse::parse_command(line, self.w.utf8) {
            Ok(Tagged { tag, command }) => self.run(tag, command),
            Err((tag, error)) => {
                let creates = line.split(|b| *b == b' ').nth(1).is_some_and(|word| {
                    [&b"CREATE"[..], b"RENAME", b"SUBSCRIBE", b"UNSUBSCRIBE"].iter().any(|verb| word.eq_ignore_ascii_case(verb))
                });
                self.refuse(&tag, &error, if creates { "CANNOT" } else { "NONEXISTENT" });
                if matches!(error, ParseError::Bad(_)) {
                    self.count_bad();
                }
            }
        }
    }

    /// Starts a command.
    fn run(&mut self, tag: String, command: Command) {
        match command {
            Command::Capability => {
                let capabilities = self.capabilities();
                self.w.fmt(format_args!("* CAPABILITY {capabilities}\r\n"));
                self.done(&tag, format_args!("OK Capability completed"));
            }
            Command::Noop | Command::Check => self.sync(tag, command == Command::Check),
            Command::Logout => {
                self.w.text("* BYE Logging out\r\n");
                self.tagged(&tag, "OK Logout completed");
                self.close();
            }
            Command::Id(pairs) => {
                self.believe(&pairs);
                self.w.fmt(format_args!("* ID (\"name\" \"Parliament\" \"version\" \"{}\")\r\n", env!("CARGO_PKG_VERSION")));
                self.done(&tag, format_args!("OK Id completed"));
            }
            Command::StartTls => self.start_tls(&tag),
            Command::Login { name, password } => self.login(tag, name, password),
            Command::Authenticate { mechanism, initial } => self.authenticate(tag, &mechanism, initial),
            _ if self.identity.is_none() => self.tagged(&tag, "BAD Log in first"),
            command => self.run_authenticated(tag, command),
        }
    }

    fn run_authenticated(&mut self, tag: String, command: Command) {
        match command {
            Command::Enable(names) => self.enable(&tag, &names),
            Command::Namespace => {
                self.w.text("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n");
                self.done(&tag, format_args!("OK Namespace completed"));
            }
            Command::List(list) => self.list(tag, list),
            Command::Lsub { patterns } => self.lsub(tag, patterns),
            Command::Status { name, items } => self.status(tag, name, items),
            Command::Select { name, read_only, condstore } => self.select(tag, name, read_only, condstore),
            Command::Create { name, special_use } => self.create(tag, name, special_use),
            Command::Delete(name) => self.delete(tag, name),
            Command::Rename { from, to } => self.rename(tag, from, to),
            Command::Subscribe { name, on } => self.subscribe(tag, name, on),
            Command::GetQuota(root) => self.get_quota(tag, &root),
            Command::GetQuotaRoot(name) => self.get_quota_root(tag, name),
            Command::Idle => self.idle(tag),
            _ if self.view.is_none() => self.tagged(&tag, "BAD Select a mailbox first"),
            Command::Unselect => self.unselect(&tag),
            Command::Close => self.close_mailbox(tag),
            _ if self.view.as_ref().is_some_and(|view| view.gone) => {
                let by_number = match &command {
                    Command::Fetch(fetch) => !fetch.uid,
                    Command::Store(store) => !store.uid,
                    Command::Search(search) => !search.uid,
                    _ => false,
                };
                self.finish(&tag, !by_number, format_args!("NO [NONEXISTENT] The mailbox was deleted"));
            }
            Command::Expunge => self.expunge(tag, None),
            Command::UidExpunge(set) => self.expunge(tag, Some(&set)),
            Command::Fetch(fetch) => self.fetch(tag, fetch),
            Command::Store(store) => self.store(tag, store),
            Command::Search(search) => self.search(tag, search),
            Command::Copy { uid, set, to } => self.copy(tag, uid, &set, to, false),
            Command::Move { uid, set, to } => self.copy(tag, uid, &set, to, true),
            // Handled by `run`.
            Command::Capability
            | Command::Noop
            | Command::Check
            | Command::Logout
            | Command::Id(_)
            | Command::StartTls
            | Command::Login { .. }
            | Command::Authenticate { .. } => {}
        }
    }

    /// What works now (RFC 9051 section 7.2.2).
    pub(crate) fn capabilities(&self) -> String {
        let mut list = String::from("IMAP4rev1");
        let mut add = |names: &str| {
            list.push(' ');
            list.push_str(names);
        };
        if self.settings.imap4rev2 {
            add("IMAP4rev2");
        }
        add("LITERAL+ SASL-IR ID ENABLE");
        if self.identity.is_none() {
            if self.settings.starttls && !self.settings.tls {
                add("STARTTLS");
            }
            add(if self.may_send_password() { "AUTH=PLAIN AUTH=LOGIN" } else { "LOGINDISABLED" });
            return list;
        }
        add("IDLE NAMESPACE CHILDREN UIDPLUS UNSELECT MOVE CONDSTORE LIST-EXTENDED LIST-STATUS SPECIAL-USE CREATE-SPECIAL-USE");
        add("ESEARCH SEARCHRES WITHIN BINARY MULTIAPPEND UTF8=ACCEPT STATUS=SIZE OBJECTID SAVEDATE PREVIEW");
        add("QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE QUOTA=RES-MAILBOX");
        list.push_str(&format!(" APPENDLIMIT={}", self.settings.message_bytes_max));
        list
    }

    pub(crate) fn is_within_literal(&self) -> bool {
        matches!(&self.job, Job::Fetch(fetch) if fetch.is_within_literal())
    }

    pub(crate) fn start_watch(&mut self) {
        let account = self.identity.as_ref().map(|identity| identity.account);
        if let (Some(account), Some(view)) = (account, self.view.as_ref()) {
            let mailbox = view.mailbox;
            self.push(Output::Watch(Some((account, mailbox))));
        }
    }
}
