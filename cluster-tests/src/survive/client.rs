//! An IMAP client whose whole stream is judged and whose waits are noted.

use super::judge::{Heard, Judge};
use super::record::{Ended, Log};
use crate::imap::{Imap, quote};
use crate::token::fetched;
use crate::{Error, message};
use bytes::Bytes;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// A command that is not answered within this is a violation: the promise is an answer or `NO [UNAVAILABLE]` within 20 s.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Receive buffer of a slow reader, bytes.
const SLOW_BUFFER_BYTES: u32 = 32 * 1024;
/// Rest of a slow reader after each read.
const SLOW_REST: Duration = Duration::from_millis(12);

/// A judged session.
pub struct Client {
    imap: Imap,
    /// Its judge.
    pub judge: Judge,
    log: Log,
    tag: u32,
}

/// The answer of a tag, and what came before it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// `OK`, `NO` or `BAD`.
    pub status: String,
    /// The text behind it.
    pub text: String,
    /// Untagged lines.
    pub untagged: Vec<Bytes>,
}

impl Answer {
    /// True for OK.
    pub fn is_ok(&self) -> bool {
        self.status == "OK"
    }

    /// True when the mail store could not serve it within its bound.
    pub fn is_unavailable(&self) -> bool {
        self.text.contains("[UNAVAILABLE]")
    }

    fn is_lawful(&self) -> bool {
        // A message that another session has expunged, or an UNCHANGEDSINCE that failed, is nobody's fault.
        self.is_ok() || self.is_unavailable() || (self.status == "NO" && self.text.contains("[EXPUNGEISSUED]"))
    }
}

impl Client {
    /// Connects and logs in; a `slow` one reads as over a thin line.
    ///
    /// # Errors
    /// As [`Imap::connect`]; [`Error::Refused`] when the login is refused.
    pub async fn login(address: &str, user: &str, password: &str, log: Log, slow: bool) -> Result<Self, Error> {
        let mut imap = Imap::connect_with(address, slow.then_some(SLOW_BUFFER_BYTES)).await?;
        imap.rest = slow.then_some(SLOW_REST);
        let mut client = Self { imap, judge: Judge::default(), log, tag: 0 };
        let answer = client.command("LOGIN", &format!("LOGIN {} {}", quote(user), quote(password))).await?;
        if answer.is_ok() { Ok(client) } else { Err(Error::Refused(answer.text)) }
    }

    /// The session is over against its will.
    pub fn broke(&mut self, error: &Error) {
        self.judge.violation(&format!("the session broke: {error}"));
        self.log.end(Ended::Broken, None);
    }

    fn next_tag(&mut self) -> String {
        self.tag += 1;
        format!("s{}", self.tag)
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// The connection broke or said nothing: the session is over, which is a violation.
    pub async fn command(&mut self, kind: &'static str, command: &str) -> Result<Answer, Error> {
        let tag = self.next_tag();
        self.judge.sent(&tag, command);
        self.begin(kind);
        self.imap.write(format!("{tag} {command}\r\n").as_bytes()).await?;
        self.answer(kind, &tag).await
    }

    /// Sends several commands in one write and waits for all answers.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn burst(&mut self, commands: &[String]) -> Result<Vec<Answer>, Error> {
        let (mut bytes, mut tags) = (String::new(), Vec::new());
        for command in commands {
            let tag = self.next_tag();
            self.judge.sent(&tag, command);
            let _ = write!(bytes, "{tag} {command}\r\n");
            tags.push(tag);
        }
        self.begin("pipelined");
        self.imap.write(bytes.as_bytes()).await?;
        let mut answers = Vec::new();
        for tag in tags {
            answers.push(self.answer("pipelined", &tag).await?);
            self.begin("pipelined");
        }
        self.log.abandon();
        Ok(answers)
    }

    /// Appends with a synchronising literal; with a pause, it comes in two halves.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn append(&mut self, mailbox: &str, bytes: &[u8], pause: Option<Duration>) -> Result<Answer, Error> {
        let kind = if pause.is_some() { "APPEND cut" } else { "APPEND" };
        let (tag, command) = (self.next_tag(), format!("APPEND {} {{{}}}", quote(mailbox), bytes.len()));
        self.judge.sent(&tag, &command);
        self.begin(kind);
        self.imap.write(format!("{tag} {command}\r\n").as_bytes()).await?;
        let mut untagged = Vec::new();
        loop {
            let line = self.line().await?;
            match self.judge.heard(&line) {
                Heard::Continue => break,
                Heard::Untagged => untagged.push(line),
                Heard::Tagged(_, status, text) => return Ok(self.end(kind, Answer { status, text, untagged })),
            }
        }
        let (first, rest) = bytes.split_at(if pause.is_some() { bytes.len() / 2 } else { 0 });
        self.imap.write(first).await?;
        tokio::time::sleep(pause.unwrap_or_default()).await;
        self.imap.waited = None;
        self.imap.write(&[rest, b"\r\n"].concat()).await?;
        let mut answer = self.answer(kind, &tag).await?;
        untagged.append(&mut answer.untagged);
        answer.untagged = untagged;
        Ok(answer)
    }

    /// IDLE for `length`.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn idle(&mut self, length: Duration) -> Result<Answer, Error> {
        let tag = self.next_tag();
        self.judge.sent(&tag, "IDLE");
        self.begin("IDLE");
        self.imap.write(format!("{tag} IDLE\r\n").as_bytes()).await?;
        let mut until = Instant::now() + PATIENCE;
        let mut going = false;
        while Instant::now() < until {
            let line = tokio::time::timeout_at(until.into(), self.imap.response()).await;
            match line {
                Err(_) if going => break,
                Err(_) => return Err(Error::Timeout(PATIENCE)),
                Ok(line) => match self.judge.heard(&line?) {
                    Heard::Continue => {
                        going = true;
                        until = Instant::now() + length;
                    }
                    Heard::Untagged => {}
                    Heard::Tagged(_, status, text) => return Ok(self.end("IDLE", Answer { status, text, untagged: Vec::new() })),
                },
            }
        }
        // The wait for news is no wait for the server.
        self.imap.waited = None;
        self.imap.write(b"DONE\r\n").await?;
        self.answer("IDLE", &tag).await
    }

    fn begin(&mut self, kind: &'static str) {
        self.imap.waited = None;
        self.log.begin(kind);
    }

    fn end(&mut self, kind: &'static str, answer: Answer) -> Answer {
        let ended = match answer.status.as_str() {
            _ if answer.is_unavailable() => Ended::Unavailable,
            "OK" => Ended::Ok,
            _ => Ended::Refused,
        };
        self.log.end(ended, self.imap.waited);
        if !answer.is_lawful() {
            self.judge.violation(&format!("{kind} was answered {} {}", answer.status, answer.text));
        }
        answer
    }

    async fn line(&mut self) -> Result<Bytes, Error> {
        tokio::time::timeout(PATIENCE, self.imap.response()).await.map_err(|_| Error::Timeout(PATIENCE))?
    }

    async fn answer(&mut self, kind: &'static str, tag: &str) -> Result<Answer, Error> {
        let mut untagged = Vec::new();
        loop {
            let line = self.line().await?;
            match self.judge.heard(&line) {
                Heard::Tagged(heard, status, text) if heard == tag => return Ok(self.end(kind, Answer { status, text, untagged })),
                // The judge has noted what does not belong here.
                Heard::Tagged(..) | Heard::Continue => {}
                Heard::Untagged => untagged.push(line),
            }
        }
    }

    /// Selects a mailbox and learns its UIDs and flags.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn select(&mut self, mailbox: &str) -> Result<(), Error> {
        let answer = self.command("SELECT", &format!("SELECT {}", quote(mailbox))).await?;
        if answer.is_ok() && !self.judge.is_empty() {
            self.command("FETCH", "FETCH 1:* (UID FLAGS)").await?;
        }
        Ok(())
    }

    /// Checks that each message body in the answer has the hash that it carries.
    pub fn check_bodies(&mut self, answer: &Answer) {
        for line in &answer.untagged {
            if let Ok(Some(message)) = fetched(line)
                && let Some(body) = message.body
                && !message::is_whole(&body)
            {
                self.judge.violation(&format!(
                    "message {} (UID {:?}) is not what was sent: {} bytes",
                    message.seq,
                    message.uid,
                    body.len()
                ));
            }
        }
    }
}
