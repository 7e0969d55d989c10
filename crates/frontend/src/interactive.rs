//! Drives IMAP and POP3 sessions: one request in flight, and everything else that may happen meanwhile.

use crate::connection::Connection;
use crate::shared::{Phase, Shared, UserUse, phase_reached, unix_now};
use crate::spool::SpoolFile;
use crate::stats::count;
use bytes::Bytes;
use parliament_ids::MailboxId;
use parliament_imap::{CallId, Input, Now, Output, SpoolId};
use parliament_mail_api::{Answer, Call, Identity, LoginError, Unserved, Watch};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

/// A name that somebody tried to log in with is logged up to this length, characters.
const LOGGED_NAME_CHARS_MAX: usize = 64;

/// A session that is driven. IMAP's inputs and outputs are the widest; POP3's are a part of them.
pub(crate) trait Stepper: Send {
    /// Something happened; what to do comes in `outputs`.
    fn step(&mut self, now: Now, input: Input<'_>, outputs: &mut Vec<Output>);
    /// Bytes may be given.
    fn wants_input(&self) -> bool;
    /// A part of a command is here and its rest is still to come.
    fn awaits_rest(&self) -> bool;
    /// When [`Input::Tick`] is due, ms of [`Now::monotonic_ms`].
    fn deadline_ms(&self) -> Option<u64>;
    /// It is over.
    fn is_closed(&self) -> bool;
    /// The selected mailbox.
    fn selected(&self) -> Option<MailboxId>;
    /// A stop need not wait for this session: it loses nothing.
    fn ends_when_draining(&self) -> bool;
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A request under way, or its result until the session can take it.
struct InFlight {
    id: CallId,
    mutates: bool,
    future: Boxed<Result<Answer, Unserved>>,
    result: Option<Result<Answer, Unserved>>,
}

/// What ended a wait.
enum Event {
    Kicked(String),
    Stop,
    Answered,
    Changed,
    Tick,
    Read(Vec<u8>),
}

struct Driver<'a, S> {
    shared: &'a Arc<Shared>,
    connection: &'a mut Connection,
    session: S,
    user: Option<UserUse>,
    call: Option<InFlight>,
    /// Kept across waits, so that no change is lost between two.
    watch: Option<Boxed<Box<dyn Watch>>>,
    spools: BTreeMap<SpoolId, SpoolFile>,
    queue: VecDeque<Output>,
    sending: Vec<Bytes>,
    selected: Option<MailboxId>,
    at_end: bool,
    told_to_stop: bool,
}

/// Serves a connection to its end.
pub(crate) async fn serve<S: Stepper>(shared: &Arc<Shared>, connection: &mut Connection, session: S) -> io::Result<()> {
    // Boxed, as are the rarer steps: a task is as large as all that it may ever hold at once, and most are idle.
    let mut driver = Box::new(Driver {
        shared,
        connection,
        session,
        user: None,
        call: None,
        watch: None,
        spools: BTreeMap::new(),
        queue: VecDeque::new(),
        sending: Vec::new(),
        selected: None,
        at_end: false,
        told_to_stop: false,
    });
    let served = driver.run().await;
    driver.finish_call();
    served
}

impl<S: Stepper> Driver<'_, S> {
    async fn run(&mut self) -> io::Result<()> {
        self.step(Input::Connected);
        loop {
            self.carry_out().await?;
            if self.session.is_closed() {
                return Ok(());
            }
            // Commands that came before the end of the stream are answered first.
            if self.at_end && self.call.is_none() {
                self.step(Input::Eof);
                continue;
            }
            self.tell_registry();
            match self.wait().await? {
                Event::Kicked(reason) => {
                    self.told_to_stop = true;
                    count(&self.shared.stats.sessions_kicked, 1);
                    self.step(Input::Kick(&reason));
                }
                Event::Stop => {
                    self.told_to_stop = true;
                    self.step(Input::Shutdown);
                }
                Event::Answered => {
                    if let Some(InFlight { id, result: Some(result), .. }) = self.call.take() {
                        self.step(Input::Answer { call: id, result });
                    }
                }
                Event::Changed => self.step(Input::Changed),
                Event::Tick => self.step(Input::Tick),
                Event::Read(bytes) if bytes.is_empty() => self.at_end = true,
                Event::Read(bytes) => self.step(Input::Bytes(&bytes)),
            }
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let now = Now { unix: unix_now(), monotonic_ms: self.shared.monotonic_ms() };
        let mut outputs = Vec::new();
        self.session.step(now, input, &mut outputs);
        self.queue.extend(outputs);
    }

    async fn wait(&mut self) -> io::Result<Event> {
        let reads = self.session.wants_input() && !self.at_end;
        let stops = !self.told_to_stop;
        let stop_at = if self.session.ends_when_draining() { Phase::Draining } else { Phase::Closing };
        let deadline = self.session.deadline_ms().map(|due| Duration::from_millis(due.saturating_sub(self.shared.monotonic_ms()).max(1)));
        let mut phases = self.shared.phase.subscribe();
        let Connection { registered, socket, .. } = &mut *self.connection;
        if reads && self.session.awaits_rest() {
            socket.acknowledge();
        }
        tokio::select! {
            biased;
            reason = registered.kicked(), if stops => Ok(Event::Kicked(reason)),
            () = phase_reached(&mut phases, stop_at), if stops => Ok(Event::Stop),
            () = answered(&mut self.call) => Ok(Event::Answered),
            () = fired(&mut self.watch) => Ok(Event::Changed),
            bytes = socket.read(), if reads => Ok(Event::Read(bytes?)),
            () = after(deadline) => Ok(Event::Tick),
        }
    }

    async fn carry_out(&mut self) -> io::Result<()> {
        while let Some(output) = self.queue.pop_front() {
            match output {
                Output::Send(bytes) => self.sending.push(bytes),
                Output::Call { call, body } => self.start_call(call, *body),
                Output::Login { name, password, .. } => {
                    self.flush().await?;
                    Box::pin(self.login(&name, &password.0)).await;
                }
                Output::Forwarded(told) => {
                    if !self.connection.forwarded(self.shared, &told) {
                        self.told_to_stop = true;
                        self.step(Input::Kick("Too many connections"));
                    }
                }
                Output::StartTls => {
                    self.flush().await?;
                    self.connection.start_tls(self.shared).await?;
                    self.step(Input::TlsStarted);
                }
                Output::Watch(None) => self.watch = None,
                Output::Watch(Some((owner, mailbox))) => self.watch = Some(next_change(self.shared.service.watch(owner, mailbox))),
                Output::SpoolReserve { spool, bytes } => Box::pin(self.reserve(spool, bytes)).await,
                Output::SpoolWrite { spool, bytes } => Box::pin(self.append(spool, bytes)).await,
                Output::SpoolRead { spool, offset, length } => Box::pin(self.read_back(spool, offset, length)).await,
                Output::SpoolRelease(spool) => drop(self.spools.remove(&spool)),
                Output::Close => {
                    self.flush().await?;
                    self.spools.clear();
                }
            }
        }
        self.flush().await?;
        // What a burst needed is given back while the client is silent.
        self.queue = VecDeque::new();
        Ok(())
    }

    /// Writes what is to be sent, in one piece where it is small; a request under way goes on meanwhile.
    async fn flush(&mut self) -> io::Result<()> {
        let sending = std::mem::take(&mut self.sending);
        let whole: Vec<Bytes> = match sending.len() {
            0 => return Ok(()),
            1 => sending,
            _ => join_small(sending),
        };
        for bytes in whole {
            let mut writing = pin!(self.connection.socket.write_all(&bytes));
            loop {
                tokio::select! {
                    biased;
                    written = &mut writing => break written?,
                    () = answered(&mut self.call), if self.call.as_ref().is_some_and(|call| call.result.is_none()) => {}
                }
            }
        }
        Ok(())
    }

    fn start_call(&mut self, id: CallId, call: Call) {
        debug_assert!(self.call.is_none(), "a session has one request in flight");
        let (shared, mutates) = (Arc::clone(self.shared), call.body.mutates());
        let future = Box::pin(async move { shared.call(call).await });
        self.call = Some(InFlight { id, mutates, future, result: None });
    }

    /// A change that was begun is seen through although its client has gone, and its session's number lives as long.
    fn finish_call(&mut self) {
        if let Some(InFlight { mutates: true, future, result: None, .. }) = self.call.take() {
            let number = Arc::clone(&self.connection.number);
            tokio::spawn(async move {
                // Nobody is left to hear the outcome.
                let _ = future.await;
                drop(number);
            });
        }
    }

    async fn login(&mut self, name: &str, password: &str) {
        let result = self.shared.login(name, password, self.connection.remote.ip()).await;
        self.tell_log(name, &result);
        let result = result.map(|(identity, held)| {
            self.user = Some(held);
            self.connection.registered.update(|info| info.user = Some(identity.name.clone()));
            identity
        });
        self.step(Input::LoginResult(result));
    }

    fn tell_log(&self, name: &str, result: &Result<(Identity, UserUse), LoginError>) {
        let Connection { remote, tls, number, .. } = &*self.connection;
        let (rip, session) = (remote.ip().to_canonical(), number.key());
        match result {
            Ok((identity, _)) => tracing::info!(user = %identity.name, %rip, %session, tls, "logged in"),
            // The name is whatever somebody sent.
            Err(error) => {
                let name: String = name.chars().take(LOGGED_NAME_CHARS_MAX).collect();
                tracing::info!(?name, %rip, %session, tls, ?error, "not logged in");
            }
        }
    }

    async fn reserve(&mut self, spool: SpoolId, bytes: u64) {
        match self.shared.spool.create(bytes).await {
            Ok(file) => {
                self.spools.insert(spool, file);
                self.step(Input::SpoolReserved(spool));
            }
            Err(error) => self.spool_failed(spool, &error),
        }
    }

    async fn append(&mut self, spool: SpoolId, bytes: Bytes) {
        // A piece of a literal that failed before is passed over: the session knows.
        if let Some(file) = self.spools.get_mut(&spool)
            && let Err(error) = file.append(bytes).await
        {
            self.spool_failed(spool, &error);
        }
    }

    async fn read_back(&mut self, spool: SpoolId, offset: u64, length: u32) {
        let read = match self.spools.get(&spool) {
            Some(file) => file.read(offset, usize::try_from(length).unwrap_or(usize::MAX)).await,
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match read {
            Ok(bytes) => self.step(Input::SpoolPiece { spool, bytes }),
            Err(error) => self.spool_failed(spool, &error),
        }
    }

    fn spool_failed(&mut self, spool: SpoolId, error: &io::Error) {
        tracing::warn!(%error, "spool");
        self.spools.remove(&spool);
        self.step(Input::SpoolFailed(spool));
    }

    fn tell_registry(&mut self) {
        self.connection.set_busy(self.call.is_some());
        let selected = self.session.selected();
        if selected != self.selected {
            self.selected = selected;
            self.connection.registered.update(|info| info.mailbox = selected);
        }
    }
}

/// Waits until the request under way has its result; for ever when there is none.
async fn answered(call: &mut Option<InFlight>) {
    match call {
        Some(InFlight { result: Some(_), .. }) => {}
        Some(InFlight { future, result, .. }) => *result = Some(future.await),
        None => pending().await,
    }
}

/// Waits for a change of the watched mailbox and watches on.
async fn fired(watch: &mut Option<Boxed<Box<dyn Watch>>>) {
    match watch {
        Some(future) => {
            let again = future.await;
            *watch = Some(next_change(again));
        }
        None => pending().await,
    }
}

fn next_change(mut watch: Box<dyn Watch>) -> Boxed<Box<dyn Watch>> {
    Box::pin(async move {
        watch.changed().await;
        watch
    })
}

async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => pending().await,
    }
}

/// Joins neighbours into packets of up to 64 KiB, so that many short lines are one write.
fn join_small(pieces: Vec<Bytes>) -> Vec<Bytes> {
    const PACKET_BYTES: usize = 64 * 1024;
    let (mut whole, mut packet) = (Vec::new(), Vec::new());
    for piece in pieces {
        if packet.len() + piece.len() > PACKET_BYTES && !packet.is_empty() {
            whole.push(Bytes::from(std::mem::take(&mut packet)));
        }
        if piece.len() >= PACKET_BYTES { whole.push(piece) } else { packet.extend_from_slice(&piece) }
    }
    if !packet.is_empty() {
        whole.push(Bytes::from(packet));
    }
    whole
}
