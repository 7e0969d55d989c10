//! The operator's command line: every verb of `parliament`.
//!
//! `parliament server` is handed to [`Wiring::serve`]. Every other verb is a client: it finds a node ([`Target`]), asks it over
//! [`AdminClient`] with the documents of [`api`], and prints a table or, with `--json`, one document. `parliament demo` runs real
//! node processes of the same program. Nothing here knows how a node works.

pub mod api;
pub mod certificate;
mod cli;
mod credential;
mod demo;
pub mod diagnosis;
mod discover;
mod error;
pub mod output;
mod pki;
mod terminal;
mod verbs;
mod verdict;

pub use api::AdminClient;
pub use discover::{PeerTls, Target};
pub use error::{AdminError, code, exit};
pub use pki::{Authority, CertificateFiles};
pub use terminal::Terminal;
pub use verdict::{Health, Verdict, verdict};

use clap::Parser as _;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

/// Makes a client for a node; the second argument bounds each call. It need not connect yet: a node that does not answer is
/// told by the first call, with [`code::UNREACHABLE`].
pub type Connect = Arc<dyn Fn(&Target, Duration) -> Result<Box<dyn AdminClient>, AdminError> + Send + Sync>;

/// What `parliament server` needs.
#[derive(Clone, Debug)]
pub struct Serve {
    /// The checked configuration.
    pub config: parliament_config::Config,
    /// What it was made from, to be loaded again on SIGHUP.
    pub sources: parliament_config::Sources,
    /// The token with which a new node joins.
    pub join: Option<String>,
}

/// What the program gives to the command line.
pub struct Wiring {
    /// Makes clients of nodes.
    pub connect: Connect,
    /// Runs the daemon until it ends; returns the exit code.
    pub serve: Box<dyn FnOnce(Serve) -> u8>,
}

/// Carries out a command line (its first word is the program's name) at the process's terminal; returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, wiring: Wiring) -> u8 {
    run_at(args, wiring, &mut Terminal::of_process())
}

/// As [`run`], at a given terminal.
pub fn run_at(args: impl IntoIterator<Item = OsString>, wiring: Wiring, terminal: &mut Terminal) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    // Asked before parsing, so that errors of parsing are documents too.
    let json = args.iter().take_while(|a| *a != "--").any(|a| a == "--json");
    match cli::Cli::try_parse_from(&args) {
        Ok(cli) => match verbs::carry_out(cli, wiring, terminal) {
            Ok(code) => code,
            Err(error) => terminal.error(&error, json),
        },
        Err(error) if !error.use_stderr() => {
            terminal.print(&error.to_string());
            exit::OK
        }
        Err(error) if json => {
            let text = error.to_string();
            let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            terminal.error(&AdminError::usage(message).with_hint("see `parliament --help`"), true)
        }
        Err(error) => {
            terminal.complain(&error.to_string());
            exit::USAGE
        }
    }
}

#[cfg(test)]
mod tests;
