//! The session: a pure step machine over a resumable value.
//!
//! Its face to the driver is `Session::new(Settings)`, `step(&mut self, Now, Input<'_>, &mut Vec<Output>)`,
//! `wants_input() -> bool`, `deadline_ms() -> Option<u64>` (monotonic ms at which [`Input::Tick`] is due), `is_closed() -> bool`,
//! `identity() -> Option<&Identity>` and `selected() -> Option<MailboxId>`.

mod io;

pub use io::{CallId, Input, Mechanism, Now, Output, Secret, Settings, SpoolId};
