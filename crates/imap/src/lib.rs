//! IMAP4rev1 and IMAP4rev2 (RFC 3501, RFC 9051): bytes, commands and sessions, without sockets, clocks or threads.
//!
//! Layers, bottom up: `wire` (framing, cursor, writer, modified UTF-7, sequence sets), `parse` (bytes of a command to a typed
//! value), `session` (the step machine) with one file per family of commands in `commands`.
//!
//! A driver owns the socket. It makes a [`Session`], gives it [`Input::Connected`], then in a loop reads from the client while
//! [`Session::wants_input`] says so, calls [`Session::step`] with what happened and carries out the [`Output`]s in order.
//! A session has at most one [`Output::Call`] in flight; further commands of the client wait as bytes.

mod commands;
mod parse;
mod session;
mod wire;

pub use session::{CallId, Input, Mechanism, Now, Output, Secret, Session, Settings, SpoolId};
