//! The sockets: listeners, TLS, logins, limits, and the drivers that feed the pure sessions of IMAP, POP3 and LMTP.
//!
//! A connection is one task and one session. Nothing is read while the session cannot take it, a request's answer is
//! given only when what was sent before has left, and what is spooled is bounded: a slow client costs bounded memory, and a
//! client that takes nothing for a minute is disconnected. An idle connection owns no buffers: reads go through one that
//! the thread's connections share.
//!
//! A proxy may stand in front: from its networks connections begin with a PROXY header ([`FrontendOptions::proxy_protocol`]), or it
//! tells its client in ID or XCLIENT ([`FrontendOptions::trusted`]). Throttling, limits, logs and `who` see the client then.
//!
//! [`Frontend::start`] takes [`FrontendOptions`] and the two traits of `mail-api`; [`Frontend::registry`] serves `who` and
//! `kick`, [`Frontend::numbers`] the watermark below which the cluster may forget sessions.

mod connection;
mod deliver;
mod interactive;
mod lmtp;
mod numbers;
mod options;
mod proxy;
mod registry;
mod server;
mod sessions;
mod shared;
mod socket;
mod spool;
mod stats;
mod throttle;
mod tls;

pub use numbers::{NumberGuard, SessionNumbers};
pub use options::{FrontendOptions, PlainLogin};
pub use registry::{Protocol, Registry, SessionInfo, SessionState};
pub use server::{Bound, Frontend, StartError};
pub use shared::Refusal;
pub use stats::FrontendStats;
pub use tls::{Certificates, TlsError};
