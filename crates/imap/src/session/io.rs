//! What goes into a session and what comes out: the whole contract with the driver that owns the socket.

use bytes::Bytes;
use parliament_ids::limits::MESSAGE_BYTES_MAX;
use parliament_ids::{AccountId, MailboxId, SessionKey};
use parliament_mail_api::{Answer, Call, Forwarded, Identity, LoginError, Unserved};
use std::fmt;

/// What a session needs to know of its connection and server; fixed for the connection but for `tls`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The session's key: part of the id of every mutating request.
    pub key: SessionKey,
    /// Host name told in the greeting.
    pub host: String,
    /// The link is encrypted already. The session sets this itself after STARTTLS.
    pub tls: bool,
    /// Passwords may be sent although the link is plain (loopback, or a trusted proxy that ended TLS).
    pub plain_login: bool,
    /// STARTTLS can be carried out while the link is plain.
    pub starttls: bool,
    /// The client is a proxy that is believed what it tells of the client behind it.
    pub trusted: bool,
    /// Offer IMAP4rev2 beside IMAP4rev1; some clients stumble over it.
    pub imap4rev2: bool,
    /// Largest message accepted, bytes; at most [`MESSAGE_BYTES_MAX`].
    pub message_bytes_max: u64,
}

impl Settings {
    /// Settings of an encrypted connection with default limits.
    #[must_use]
    pub fn new(key: SessionKey, host: &str) -> Self {
        Self {
            key,
            host: host.to_owned(),
            tls: true,
            plain_login: false,
            starttls: false,
            trusted: false,
            imap4rev2: true,
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }
}

/// The time as the driver reads it, given with every step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970-01-01T00:00:00Z: used for SEARCH OLDER and YOUNGER only.
    pub unix: i64,
    /// A clock that never goes back, ms: used for time-outs.
    pub monotonic_ms: u64,
}

/// Names a call within its session; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Names a spooled literal within its session; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

/// Text that never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// How a client logged in; for logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The LOGIN command.
    LoginCommand,
    /// AUTHENTICATE PLAIN (RFC 4616).
    Plain,
    /// AUTHENTICATE LOGIN.
    Login,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection is ready (TLS from the first byte included): the greeting is due. Comes once, first.
    Connected,
    /// Bytes from the client, in plain text. Given only while [`super::Session::wants_input`]; a piece should not exceed 64 KiB.
    Bytes(&'a [u8]),
    /// The outcome of the call in flight. The driver gives it only when the earlier [`Output::Send`] bytes have left for the
    /// socket (but for a bounded rest): that is all the back-pressure a slow reader needs.
    Answer {
        /// Which call.
        call: CallId,
        /// `MailService::call`'s result.
        result: Result<Answer, Unserved>,
    },
    /// The outcome of [`Output::Login`].
    LoginResult(Result<Identity, LoginError>),
    /// The watch asked by [`Output::Watch`] fired. Several may be merged into one.
    Changed,
    /// Time passed; due at [`super::Session::deadline_ms`], harmless at any time.
    Tick,
    /// The TLS handshake asked by [`Output::StartTls`] is complete.
    TlsStarted,
    /// Room for the literal of [`Output::SpoolReserve`] is reserved: pieces may come.
    SpoolReserved(SpoolId),
    /// No room (total bound reached), or a write or read of the spool failed. May come at any time between
    /// [`Output::SpoolReserve`] and [`Output::SpoolRelease`]. The client is told `NO [UNAVAILABLE]`.
    SpoolFailed(SpoolId),
    /// The bytes asked by [`Output::SpoolRead`], exactly as many as asked.
    SpoolPiece {
        /// Which literal.
        spool: SpoolId,
        /// The bytes.
        bytes: Bytes,
    },
    /// The client closed its side.
    Eof,
    /// An operator ends the session; the text is told with BYE.
    Kick(&'a str),
    /// The server stops.
    Shutdown,
}

/// One thing for the driver to do. The outputs of a step are carried out in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Write to the client.
    Send(Bytes),
    /// Carry out a call and give [`Input::Answer`]. At most one is in flight per session.
    Call {
        /// Its name.
        call: CallId,
        /// The call.
        body: Box<Call>,
    },
    /// Check a password with the directory and give [`Input::LoginResult`].
    Login {
        /// How the client sent it.
        mechanism: Mechanism,
        /// User name as told.
        name: String,
        /// Password as told.
        password: Secret,
    },
    /// A trusted proxy told who its client is: from now on that is the client. Comes before a login only.
    Forwarded(Forwarded),
    /// After the bytes sent so far: discard all that was received and not yet given, do the TLS handshake as a server, give
    /// [`Input::TlsStarted`]. On failure close the connection.
    StartTls,
    /// Subscribe to a mailbox (`Some`, replaces any earlier one) with `MailService::watch` before the next output is carried
    /// out, or drop the subscription (`None`).
    Watch(Option<(AccountId, MailboxId)>),
    /// A literal too large for memory is announced: reserve room (rule 27) and give [`Input::SpoolReserved`] or
    /// [`Input::SpoolFailed`]. The client is not yet told to go on.
    SpoolReserve {
        /// Its name.
        spool: SpoolId,
        /// Its size.
        bytes: u64,
    },
    /// Append these bytes to the spooled literal. No answer unless it fails.
    SpoolWrite {
        /// Which literal.
        spool: SpoolId,
        /// The bytes.
        bytes: Bytes,
    },
    /// Read back bytes that were written, after a fail-over; answer with [`Input::SpoolPiece`].
    SpoolRead {
        /// Which literal.
        spool: SpoolId,
        /// First byte.
        offset: u64,
        /// How many, at most [`parliament_ids::limits::BODY_PIECE_BYTES`].
        length: u32,
    },
    /// The literal is no longer needed: its command was answered. Also implied by [`Output::Close`].
    SpoolRelease(SpoolId),
    /// Close the connection after the bytes sent so far. Nothing follows.
    Close,
}
