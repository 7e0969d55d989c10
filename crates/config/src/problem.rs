//! What is wrong with a configuration, told so that it can be mended.

use std::fmt;

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable code, `PC101` to `PC199`.
    pub code: &'static str,
    /// What and where, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// No file could be read, or a file that a setting names cannot be.
pub const UNREADABLE: &str = "PC101";
/// The text is no TOML.
pub const SYNTAX: &str = "PC102";
/// No such setting.
pub const UNKNOWN: &str = "PC103";
/// The value is not of the setting's kind or out of its bounds.
pub const VALUE: &str = "PC104";
/// `${VAR}` names a variable that is not set, or is not closed.
pub const VARIABLE: &str = "PC105";
/// Settings that are each right do not go together.
pub const COMBINATION: &str = "PC106";

impl Problem {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

/// Everything wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
