//! What it takes to judge a mail cluster from outside: clients, a cluster of real processes, loads, faults, histories and
//! the checkers that read them.
//!
//! | topic | modules |
//! |---|---|
//! | clients, black box, for any IMAP or LMTP server | [`imap`], [`lmtp`], [`token`] |
//! | a browser, for the status page | [`browser`] |
//! | a cluster of real processes on this machine | [`demo`], [`site`], [`binary`] |
//! | the same with a network of its own, which loses and delays at will, and with wrong clocks | [`netns`] |
//! | messages whose content can be checked | [`message`] |
//! | loads, faults, and what they leave behind | [`load`], [`nemesis`], [`history`], [`scan`] |
//! | verdicts, one file per property | [`checkers`], [`run`] |
//! | sessions that outlive their users' holders | [`survive`] |
//! | costs | [`mod@bench`], [`usage`] |

pub mod bench;
pub mod binary;
pub mod browser;
pub mod checkers;
pub mod demo;
pub mod history;
pub mod imap;
pub mod lmtp;
pub mod load;
pub mod message;
pub mod nemesis;
pub mod netns;
pub mod random;
pub mod run;
pub mod scan;
pub mod site;
pub mod survive;
pub mod token;
pub mod usage;

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

/// What may go wrong between a client and a server.
#[derive(Debug)]
pub enum Error {
    /// The connection broke, or could not be made: what was asked last may or may not have happened.
    Io(std::io::Error),
    /// No answer in time: what was asked last may or may not have happened.
    Timeout(Duration),
    /// The server said something that the protocol does not allow.
    Protocol(String),
    /// The server refused: the text of its `NO`, `BAD` or 4xx/5xx reply.
    Refused(String),
}

impl Error {
    /// True when what was asked may have happened all the same. `NO [UNAVAILABLE]` and 4xx replies count among these: a server
    /// that lost its quorum cannot know whether what it proposed will stand.
    pub fn is_unknown(&self) -> bool {
        match self {
            Error::Io(_) | Error::Timeout(_) => true,
            Error::Refused(text) => text.contains("[UNAVAILABLE]") || text.starts_with('4'),
            Error::Protocol(_) => false,
        }
    }

    /// True when the connection is of no more use.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Error::Refused(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "connection: {error}"),
            Error::Timeout(after) => write!(f, "no answer within {after:?}"),
            Error::Protocol(what) => write!(f, "not the protocol: {what}"),
            Error::Refused(text) => write!(f, "refused: {text}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io(error)
    }
}

/// Says that a test or a part of one could not run here. `cargo xtask test` collects and counts these lines, through the file
/// that `PARLIAMENT_SKIPPED_FILE` names, because the output of tests that pass is not shown.
pub fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
    let Some(path) = std::env::var_os("PARLIAMENT_SKIPPED_FILE") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut f| writeln!(f, "{what}: {why}")) {
        eprintln!("{}: {error}", path.display());
    }
}
