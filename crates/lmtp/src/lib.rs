//! LMTP (RFC 2033) as a pure step machine: bytes and answers go in, outputs come out. No socket, no clock, no task.
//!
//! The driver feeds what the client sends to [`Session::receive`] and carries out each [`Output`] in order. While
//! [`Session::wants`] says [`Wants::Answer`], the session consumes nothing, so that the driver's unread socket is the
//! client's back-pressure. Service extensions: PIPELINING (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8
//! (RFC 6531), ENHANCEDSTATUSCODES (RFC 2034), CHUNKING (RFC 3030), and STARTTLS (RFC 3207) where the driver offers it.
//!
//! A message is stored byte for byte as it was sent, after dot-unstuffing; only `<CRLF>.<CRLF>` ends DATA, so a bare CR or
//! LF cannot be made to mean the end of a message here and not elsewhere. With [`Settings::add_headers`] a `Return-Path:`
//! and a `Received:` field are put in front; what follows them is still byte for byte what was sent.

mod address;
mod collect;
mod command;
mod replies;
mod session;
mod trace;
mod undot;

pub use session::{Answer, Body, Message, Output, Peer, Session, Settings, Wants};

/// Longest command line, bytes with CRLF: RFC 5321 section 4.5.3.1.4 asks for 512 and RFC 6531 for more; paths of forwarders are longer.
pub const COMMAND_LINE_BYTES_MAX: usize = 4096;
/// Longest address taken, bytes (RFC 5321 section 4.5.3.1.3 asks for 256).
pub const ADDRESS_BYTES_MAX: usize = 512;
/// Recipients per message, at most. RFC 5321 section 4.5.3.1.8 asks for at least 100.
pub const RECIPIENTS_MAX: usize = 1_000;
/// Commands refused for their syntax or order before the session is closed.
pub const ERRORS_MAX: u32 = 20;
/// A message up to this many bytes, added header fields included, is handed over in memory; a larger one is spooled.
pub const INLINE_BYTES_MAX: usize = parliament_ids::limits::JOURNAL_BODY_BYTES_MAX;
