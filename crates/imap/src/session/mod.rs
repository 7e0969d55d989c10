//! The session: a pure step machine over a resumable value.
//!
//! Bytes, answers and time go in, responses and calls come out. All that a session knows is in [`Session`]; the holder that
//! serves its calls may change between any two of them.

mod io;
mod reply;
mod resume;
mod run;
mod view;

pub use io::{CallId, Input, Mechanism, Now, Output, Secret, Settings, SpoolId};

pub(crate) use resume::Absorbed;
pub(crate) use run::Discard;
pub(crate) use view::View;

use crate::commands::append::Append;
use crate::commands::fetch::Fetch;
use crate::commands::idle::Idle;
use crate::commands::login::{Login, Sasl};
use crate::commands::mailbox::Simple;
use crate::commands::search::Search;
use crate::commands::store::Store;
use crate::wire::{COMMAND_BYTES_MAX, Framer, Writer};
use parliament_ids::{MailboxId, RequestId, RequestSeq, UidSet};
use parliament_mail_api::{Answer, Call, Identity, Rejection, Reply, Request, Unserved};

/// A session ends after this long without a command (RFC 9051 section 5.4), ms.
const AUTOLOGOUT_MS: u64 = 30 * 60 * 1000;
/// The same before login, ms.
const AUTOLOGOUT_BEFORE_LOGIN_MS: u64 = 3 * 60 * 1000;

/// What ENABLE, or a command that implies it, has switched on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Enabled {
    pub(crate) condstore: bool,
    pub(crate) utf8: bool,
    pub(crate) rev2: bool,
}

/// What the session is doing.
#[derive(Clone, Debug, Default)]
pub(crate) enum Job {
    /// Waits for a command.
    #[default]
    None,
    /// Waits for the directory.
    Login(Login),
    /// Waits for a line of AUTHENTICATE.
    Sasl(Sasl),
    /// Waits for TLS.
    Tls,
    /// Throws away the rest of a refused command.
    Discard(run::Discard),
    /// IDLE.
    Idle(Idle),
    /// APPEND.
    Append(Box<Append>),
    /// A command of one or two calls.
    Simple(Simple),
    /// FETCH.
    Fetch(Box<Fetch>),
    /// STORE.
    Store(Box<Store>),
    /// SEARCH.
    Search(Box<Search>),
}

/// One client's session.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) settings: Settings,
    pub(crate) now: Now,
    pub(crate) framer: Framer,
    pub(crate) w: Writer,
    out: Vec<Output>,
    closed: bool,
    pub(crate) identity: Option<Identity>,
    pub(crate) enabled: Enabled,
    pub(crate) view: Option<View>,
    /// The result that `$` names (RFC 5182); it lives in the session, so it survives the holder.
    pub(crate) saved: UidSet,
    pub(crate) job: Job,
    in_flight: Option<CallId>,
    calls: u64,
    /// The number of the last mutating request.
    seq: RequestSeq,
    pub(crate) uploads: u64,
    pub(crate) spools: u64,
    last_activity_ms: u64,
    commands_before_login: u32,
    pub(crate) failed_logins: u32,
    bad_commands: u32,
}

impl Session {
    /// A session before its greeting; give it [`Input::Connected`] first.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: Now::default(),
            framer: Framer::new(),
            w: Writer::default(),
            out: Vec::new(),
            closed: false,
            identity: None,
            enabled: Enabled::default(),
            view: None,
            saved: UidSet::new(),
            job: Job::None,
            in_flight: None,
            calls: 0,
            seq: RequestSeq::default(),
            uploads: 0,
            spools: 0,
            last_activity_ms: 0,
            commands_before_login: 0,
            failed_logins: 0,
            bad_commands: 0,
        }
    }

    /// Takes one input at time `now` and appends what is to be done to `out`, in order. After [`Output::Close`] every input
    /// is ignored.
    pub fn step(&mut self, now: Now, input: Input<'_>, out: &mut Vec<Output>) {
        if self.closed {
            return;
        }
        self.now = now;
        // Before login bytes alone do not count: a client that trickles them is timed out all the same.
        let trickle = matches!(input, Input::Bytes(_)) && self.identity.is_none();
        if !trickle && !matches!(input, Input::Tick | Input::Changed) {
            self.last_activity_ms = now.monotonic_ms;
        }
        match input {
            Input::Connected => self.greet(),
            Input::Bytes(bytes) => self.framer.push(bytes),
            Input::Answer { call, result } => self.on_answer(call, result),
            Input::LoginResult(result) => self.on_login_result(result),
            Input::Changed => self.on_changed(),
            Input::Tick => self.on_tick(),
            Input::TlsStarted => self.on_tls_started(),
            Input::SpoolReserved(spool) => self.on_spool_reserved(spool),
            Input::SpoolFailed(spool) => self.on_spool_failed(spool),
            Input::SpoolPiece { spool, bytes } => self.on_spool_piece(spool, bytes),
            Input::Eof => self.close(),
            Input::Kick(text) => self.bye(format_args!("[UNAVAILABLE] {}", text.replace(['\r', '\n'], " "))),
            Input::Shutdown => self.bye(format_args!("[UNAVAILABLE] Server is shutting down")),
        }
        self.pump();
        self.flush();
        out.append(&mut self.out);
    }

    /// True when the session can take more bytes. While false the driver stops reading, which is how a client that sends
    /// faster than it is served is held back; what is buffered is bounded by this and one piece of [`Input::Bytes`].
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.closed && !matches!(self.job, Job::Tls) && self.framer.pending().len() <= COMMAND_BYTES_MAX
    }

    /// True when a part of a command is here and its rest is still to come. A client that sends a literal and the line end
    /// behind it in two writes may hold the second back until the first is acknowledged (RFC 9293 section 3.7.4).
    #[must_use]
    pub fn awaits_rest(&self) -> bool {
        match &self.job {
            _ if self.closed => false,
            Job::Append(append) => append.is_receiving(),
            Job::Discard(_) => true,
            _ => self.framer.is_within_command(),
        }
    }

    /// When [`Input::Tick`] is due, by [`Now::monotonic_ms`]; `None` when only other inputs matter.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        match &self.job {
            _ if self.closed => None,
            Job::Idle(idle) => Some(idle.deadline_ms()),
            // A client that stops within a literal or an exchange is timed out as one that sends nothing.
            _ if self.in_flight.is_none() && !matches!(self.job, Job::Login(_)) => Some(self.last_activity_ms + self.autologout_ms()),
            _ => None,
        }
    }

    /// True after [`Output::Close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }
    /// Who is logged in.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
    /// The selected mailbox.
    #[must_use]
    pub fn selected(&self) -> Option<MailboxId> {
        self.view.as_ref().map(|view| view.mailbox)
    }

    fn autologout_ms(&self) -> u64 {
        if self.identity.is_some() { AUTOLOGOUT_MS } else { AUTOLOGOUT_BEFORE_LOGIN_MS }
    }

    fn on_tick(&mut self) {
        if matches!(self.job, Job::Idle(_)) {
            self.idle_tick();
        } else if self.deadline_ms().is_some_and(|deadline| deadline <= self.now.monotonic_ms) {
            self.bye(format_args!("Logged out after too long without a command"));
        }
    }

    /// Puts the responses written so far in line before what follows.
    pub(crate) fn flush(&mut self) {
        if self.w.len() > 0 {
            self.out.push(Output::Send(self.w.take()));
        }
    }
    pub(crate) fn push(&mut self, output: Output) {
        self.flush();
        self.out.push(output);
    }
    pub(crate) fn close(&mut self) {
        self.push(Output::Close);
        self.closed = true;
        self.job = Job::None;
    }
    pub(crate) fn is_calling(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The id of the next mutating request.
    pub(crate) fn next_request(&mut self) -> RequestId {
        self.seq = self.seq.next();
        RequestId { session: self.settings.key, seq: self.seq }
    }

    /// Sends a request; one that changes something gets the next request id.
    pub(crate) fn call(&mut self, body: Request) {
        let request = body.mutates().then(|| self.next_request());
        self.call_as(request, body);
    }

    /// Sends a request under a given id, so that a second try is the same request.
    pub(crate) fn call_as(&mut self, request: Option<RequestId>, body: Request) {
        debug_assert!(self.in_flight.is_none(), "one call in flight");
        let Some(identity) = self.identity.as_ref() else {
            return debug_assert!(false, "calls are made after login");
        };
        let account = identity.account;
        let view = match body {
            // Pieces of bodies and a new selection leave the present view alone.
            Request::Select(_) | Request::Upload { .. } | Request::ReadBody { .. } | Request::ReadOn { .. } => None,
            _ => self.view.as_ref().filter(|view| !view.gone).map(|view| view.mark),
        };
        self.calls += 1;
        let call = CallId(self.calls);
        self.in_flight = Some(call);
        self.push(Output::Call { call, body: Box::new(Call { owner: account, actor: account, request, view, body }) });
    }

    fn on_answer(&mut self, call: CallId, result: Result<Answer, Unserved>) {
        if self.in_flight != Some(call) {
            return;
        }
        self.in_flight = None;
        let job = std::mem::take(&mut self.job);
        let (outcome, absorbed) = match result {
            Ok(answer) => (Outcome::from(answer.outcome), self.absorb(answer.delta)),
            Err(_) => (Outcome::Unserved, Absorbed::default()),
        };
        match job {
            Job::Store(store) => self.on_store(store, outcome, &absorbed),
            Job::Fetch(fetch) => self.on_fetch(fetch, outcome, &absorbed),
            job => {
                self.tell_changed(&absorbed.changed);
                match job {
                    Job::Simple(simple) => self.on_simple(simple, outcome),
                    Job::Search(search) => self.on_search(search, outcome),
                    Job::Append(append) => self.on_append(append, outcome),
                    Job::Idle(idle) => self.on_idle(idle, outcome),
                    other => self.job = other,
                }
            }
        }
    }
}

/// What came of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Carried out.
    Reply(Reply),
    /// Refused for good.
    Rejected(Rejection),
    /// Not served; the session and its view are as before.
    Unserved,
}

impl From<Result<Reply, Rejection>> for Outcome {
    fn from(outcome: Result<Reply, Rejection>) -> Self {
        match outcome {
            Ok(reply) => Self::Reply(reply),
            Err(rejection) => Self::Rejected(rejection),
        }
    }
}
