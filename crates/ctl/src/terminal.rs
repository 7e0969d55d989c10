//! The terminal: what is printed, what is asked.

use crate::error::{AdminError, code, exit};
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal as _, Write};

/// Where a command prints, what it reads, and its environment.
pub struct Terminal {
    /// Standard output.
    pub out: Box<dyn Write + Send>,
    /// Standard error.
    pub err: Box<dyn Write + Send>,
    /// Standard input.
    pub input: Box<dyn BufRead + Send>,
    /// True when somebody can answer questions.
    pub interactive: bool,
    /// True when standard output is a screen.
    pub screen: bool,
    /// True once nobody reads standard output any more.
    pub gone: bool,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
}

/// Longest line read from standard input, bytes.
const LINE_BYTES_MAX: u64 = 4096;

impl Terminal {
    /// The process's own.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            input: Box::new(std::io::BufReader::new(std::io::stdin())),
            interactive: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
            screen: std::io::stdout().is_terminal(),
            gone: false,
            env: parliament_config::Sources::of_process(None).env,
        }
    }

    /// Prints to standard output. A reader who has gone away is no error.
    pub(crate) fn print(&mut self, text: &str) {
        self.gone |= self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).is_err();
    }

    /// True once nobody reads standard output any more, so that what prints for ever can end.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Rows of the screen; `None` where standard output is none.
    pub(crate) fn screen_rows(&self) -> Option<usize> {
        let size = self.screen.then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok());
        size.map(|size| size.map_or(24, |size| usize::from(size.ws_row)).max(8))
    }

    /// Prints to standard error.
    pub(crate) fn complain(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }

    /// Tells an error, as a document on standard output or as text on standard error; returns its exit code.
    pub(crate) fn error(&mut self, error: &AdminError, json: bool) -> u8 {
        if json {
            let document = serde_json::json!({ "code": error.code, "message": error.message, "hint": error.hint });
            self.print(&format!("{document}\n"));
        } else {
            self.complain(&format!("{}\n", printable(&error.to_string())));
        }
        error.exit
    }

    /// Asks a question whose answer is yes or no; no is an error, and so is nobody to ask.
    pub(crate) fn confirm(&mut self, question: &str) -> Result<(), AdminError> {
        if !self.interactive {
            return Err(AdminError::usage("this asks before it acts, and there is no terminal to ask at")
                .with_hint("say --yes to go ahead, or --dry-run to see what it would do. Nothing was changed."));
        }
        self.complain(&format!("{} [y/N] ", printable(question)));
        match self.read_line()?.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(AdminError::new(code::DECLINED, exit::UNEXPECTED, "left alone").with_hint("nothing was changed")),
        }
    }

    /// Reads one line, without its end.
    pub(crate) fn read_line(&mut self) -> Result<String, AdminError> {
        let mut line = String::new();
        let mut bounded = std::io::Read::take(&mut self.input, LINE_BYTES_MAX);
        bounded.read_line(&mut line).map_err(|e| AdminError::usage(format!("standard input: {e}")))?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Asks for a new password twice, without showing it.
    pub(crate) fn new_password(&mut self, user: &str) -> Result<String, AdminError> {
        if !self.interactive {
            return Err(AdminError::usage("no password was given, and there is no terminal to ask at")
                .with_hint("give it with --password-stdin, or have one made with --generate"));
        }
        let silence = Silence::begin();
        self.complain(&format!("New password for {}: ", printable(user)));
        let first = self.read_line()?;
        self.complain("\nOnce more: ");
        let second = self.read_line()?;
        self.complain("\n");
        drop(silence);
        if first != second {
            return Err(AdminError::usage("the two passwords differ").with_hint("nothing was changed; try again"));
        }
        Ok(first)
    }
}

/// While it lives, the terminal does not show what is typed.
struct Silence(Option<rustix::termios::Termios>);

impl Silence {
    fn begin() -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = rustix::termios::tcgetattr(&stdin) else { return Self(None) };
        let mut silent = before.clone();
        silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
        let set = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Flush, &silent);
        Self(set.ok().map(|()| before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Flush, before);
        }
    }
}

/// The text with control characters made harmless: names come from clients, and a terminal obeys escape sequences.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(input: &'static str, interactive: bool) -> Terminal {
        Terminal {
            out: Box::new(std::io::sink()),
            err: Box::new(std::io::sink()),
            input: Box::new(input.as_bytes()),
            interactive,
            screen: false,
            gone: false,
            env: BTreeMap::new(),
        }
    }

    #[test]
    fn only_yes_is_yes() {
        assert!(terminal("y\n", true).confirm("sure?").is_ok());
        for no in ["n\n", "", "yea\n"] {
            assert_eq!(terminal(no, true).confirm("sure?").unwrap_err().code, code::DECLINED);
        }
        assert_eq!(terminal("y\n", false).confirm("sure?").unwrap_err().exit, exit::USAGE);
    }

    #[test]
    fn passwords_are_typed_twice() {
        assert_eq!(terminal("a b \na b \n", true).new_password("ann").unwrap(), "a b ");
        assert!(terminal("a\nb\n", true).new_password("ann").is_err());
        assert!(terminal("a\na\n", false).new_password("ann").is_err());
    }

    #[test]
    fn escape_sequences_are_not_obeyed() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\nc");
    }
}
