//! The sessions of IMAP and POP3 as the driver sees them.

use crate::connection::Connection;
use crate::interactive::{Stepper, serve};
use crate::shared::Shared;
use parliament_ids::MailboxId;
use parliament_imap::{CallId, Input, Mechanism, Now, Output, Secret};
use parliament_pop3 as pop;
use std::io;
use std::sync::Arc;

/// Serves an IMAP connection to its end.
pub(crate) async fn imap(shared: &Arc<Shared>, connection: &mut Connection) -> io::Result<()> {
    let options = &shared.options;
    let settings = parliament_imap::Settings {
        tls: connection.tls,
        plain_login: connection.plain_login,
        starttls: options.certificates.is_some(),
        trusted: connection.trusted,
        imap4rev2: options.imap4rev2,
        message_bytes_max: options.message_bytes_max,
        ..parliament_imap::Settings::new(connection.number.key(), &options.host)
    };
    serve(shared, connection, parliament_imap::Session::new(settings)).await
}

/// Serves a POP3 connection to its end.
pub(crate) async fn pop3(shared: &Arc<Shared>, connection: &mut Connection) -> io::Result<()> {
    let settings = pop::Settings {
        key: connection.number.key(),
        host: shared.options.host.clone(),
        tls: connection.tls,
        plain_login: connection.plain_login,
        stls: shared.options.certificates.is_some(),
        trusted: connection.trusted,
    };
    serve(shared, connection, Pop3 { session: pop::Session::new(settings), outputs: Vec::new() }).await
}

impl Stepper for parliament_imap::Session {
    fn step(&mut self, now: Now, input: Input<'_>, outputs: &mut Vec<Output>) {
        self.step(now, input, outputs);
    }
    fn wants_input(&self) -> bool {
        self.wants_input()
    }
    fn awaits_rest(&self) -> bool {
        self.awaits_rest()
    }
    fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms()
    }
    fn is_closed(&self) -> bool {
        self.is_closed()
    }
    fn selected(&self) -> Option<MailboxId> {
        self.selected()
    }
    /// IMAP clients stay connected for days; they are told last, when their next connection finds a node that serves.
    fn ends_when_draining(&self) -> bool {
        false
    }
}

struct Pop3 {
    session: pop::Session,
    outputs: Vec<pop::Output>,
}

impl Stepper for Pop3 {
    fn step(&mut self, now: Now, input: Input<'_>, outputs: &mut Vec<Output>) {
        let input = match input {
            Input::Connected => pop::Input::Connected,
            Input::Bytes(bytes) => pop::Input::Bytes(bytes),
            Input::Answer { call, result } => pop::Input::Answer { call: pop::CallId(call.0), result },
            Input::LoginResult(result) => pop::Input::LoginResult(result),
            Input::Tick => pop::Input::Tick,
            Input::TlsStarted => pop::Input::TlsStarted,
            Input::Eof => pop::Input::Eof,
            Input::Kick(text) => pop::Input::Stop(text),
            Input::Shutdown => pop::Input::Stop("Server is shutting down"),
            // POP3 asks for none of these.
            Input::Changed | Input::SpoolReserved(_) | Input::SpoolFailed(_) | Input::SpoolPiece { .. } => return,
        };
        self.session.step(now.monotonic_ms, input, &mut self.outputs);
        outputs.extend(self.outputs.drain(..).map(|output| match output {
            pop::Output::Send(bytes) => Output::Send(bytes),
            pop::Output::Call { call, body } => Output::Call { call: CallId(call.0), body },
            pop::Output::Login { name, password } => Output::Login { mechanism: Mechanism::Plain, name, password: Secret(password) },
            pop::Output::Forwarded(told) => Output::Forwarded(told),
            pop::Output::StartTls => Output::StartTls,
            pop::Output::Close => Output::Close,
        }));
    }
    fn wants_input(&self) -> bool {
        self.session.wants_input()
    }
    /// POP3 has no literals: clients send a command in one piece.
    fn awaits_rest(&self) -> bool {
        false
    }
    fn deadline_ms(&self) -> Option<u64> {
        self.session.deadline_ms()
    }
    fn is_closed(&self) -> bool {
        self.session.is_closed()
    }
    fn selected(&self) -> Option<MailboxId> {
        self.session.selected()
    }
    /// A logged-in client may have marked messages; it is given time to QUIT.
    fn ends_when_draining(&self) -> bool {
        self.session.selected().is_none()
    }
}
