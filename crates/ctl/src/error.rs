//! Errors and exit codes of the command line.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Exit codes (sysexits, and three of our own below 64).
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Something unexpected.
    pub const UNEXPECTED: u8 = 1;
    /// Done, with warnings.
    pub const WARNINGS: u8 = 2;
    /// The cluster serves, but is degraded.
    pub const DEGRADED: u8 = 3;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// Data is damaged.
    pub const DATA: u8 = 65;
    /// No such user.
    pub const NO_USER: u8 = 67;
    /// No quorum, or nobody to ask.
    pub const UNAVAILABLE: u8 = 69;
    /// A bug.
    pub const BUG: u8 = 70;
    /// Try again.
    pub const TRY_AGAIN: u8 = 75;
    /// Not permitted.
    pub const PERMISSION: u8 = 77;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 78;
}

/// Stable codes of the command line's own errors. Nodes use `PC200` to `PC399`; `PC101` to `PC199` are the configuration's.
pub mod code {
    /// The command line is wrong.
    pub const USAGE: &str = "PC400";
    /// No node could be reached.
    pub const UNREACHABLE: &str = "PC401";
    /// A node did not answer in time.
    pub const TIMEOUT: &str = "PC402";
    /// A node answered what nobody expects.
    pub const REPLY: &str = "PC403";
    /// A file could not be read or written.
    pub const FILE: &str = "PC404";
    /// The demo could not start, or is not there.
    pub const DEMO: &str = "PC405";
    /// The operator said no.
    pub const DECLINED: &str = "PC406";
}

/// An error as operators see it: what, where and why, and one next step. Also the form in which nodes tell errors
/// (`{"code", "message", "hint", "exit"}`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminError {
    /// Stable code, such as `PC201`.
    pub code: String,
    /// What, where and why, in one sentence.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit code, of [`exit`].
    pub exit: u8,
}

impl AdminError {
    /// An error without a hint.
    #[must_use]
    pub fn new(code: &str, exit: u8, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), hint: None, exit }
    }
    /// The same with a next step.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// True when another node may answer where this one did not.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.code == code::UNREACHABLE
    }
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(code::USAGE, exit::USAGE, message)
    }
    pub(crate) fn file(path: &std::path::Path, why: impl fmt::Display) -> Self {
        Self::new(code::FILE, exit::UNEXPECTED, format!("{}: {why}", path.display()))
    }
    pub(crate) fn demo(message: impl Into<String>) -> Self {
        Self::new(code::DEMO, exit::UNEXPECTED, message)
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  help: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AdminError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_print_and_travel() {
        let error = AdminError::new("PC201", exit::TRY_AGAIN, "n2 is down").with_hint("bring n2 back. Nothing was changed.");
        assert_eq!(error.to_string(), "error[PC201]: n2 is down\n  help: bring n2 back. Nothing was changed.");
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(serde_json::from_value::<AdminError>(json).unwrap(), error);
    }
}
