//! POP3 (RFC 1939, RFC 2449, RFC 2595) as a pure step machine: no socket, no clock, no task.
//!
//! A driver makes a [`Session`], gives it [`Input::Connected`], then reads from the client while [`Session::wants_input`]
//! says so, calls [`Session::step`] with what happened and carries out each [`Output`] in order. At most one
//! [`Output::Call`] is in flight; further commands of the client wait as bytes (PIPELINING).
//!
//! The maildrop is INBOX. It is not locked: the list with its numbers is taken at login and stays as it is, so several
//! clients may be logged in at once; a message that another one removed meanwhile answers `-ERR`. DELE marks within the
//! session, and QUIT removes what is marked by UID, which does the same however often it is tried. The unique id of a
//! message is `<uidvalidity>.<uid>`.
//!
//! A proxy that [`Settings::trusted`] names tells its client's address with Dovecot's XCLIENT; others are refused it.

mod command;
mod list;
mod session;
mod transfer;

pub use session::{CallId, Input, Output, Session, Settings};

/// Longest command line, bytes. RFC 2449 section 4 asks for 255; a line of AUTH PLAIN may be longer.
pub const COMMAND_LINE_BYTES_MAX: usize = 2048;
/// A client may be silent this long (RFC 1939 section 3: at least 10 minutes), ms.
pub const IDLE_MS: u64 = 10 * 60 * 1000;
/// Unknown or malformed commands before the session is closed.
pub const ERRORS_MAX: u32 = 20;
/// Refused logins before the session is closed.
pub const LOGINS_MAX: u32 = 5;
