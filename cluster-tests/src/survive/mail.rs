//! POP3 sessions whose numbers must stay as they were, and LMTP transactions that stop in the middle of DATA.

use super::record::{Ended, Log};
use super::user::User;
use crate::Error;
use crate::lmtp::Lmtp;
use crate::message::{self, Message};
use crate::random::Random;
use bytes::BytesMut;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Largest answer, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = super::client::PATIENCE;
/// How often a delivery that was answered 4xx is tried again, as a mail transfer agent does.
const DELIVERY_TRIES: u32 = 10;

/// A POP3 connection.
pub struct Pop3 {
    stream: TcpStream,
    input: BytesMut,
    log: Log,
}

impl Pop3 {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn connect(address: &str, log: Log) -> Result<Self, Error> {
        let mut pop = Self { stream: TcpStream::connect(address).await?, input: BytesMut::new(), log };
        pop.line().await?;
        Ok(pop)
    }

    async fn line(&mut self) -> Result<Vec<u8>, Error> {
        let reading = async {
            loop {
                if let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                    let line = self.input.split_to(end + 2);
                    return Ok(line[..end].to_vec());
                }
                if self.input.len() > ANSWER_BYTES_MAX {
                    return Err(Error::Protocol("endless line".to_owned()));
                }
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.map_err(|_| Error::Timeout(PATIENCE))?
    }

    /// Sends a command; its answer's first line behind `+OK`.
    ///
    /// # Errors
    /// [`Error::Refused`] for `-ERR`; anything else ends the session.
    pub async fn command(&mut self, kind: &'static str, command: &str) -> Result<String, Error> {
        self.log.begin(kind);
        self.stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let line = String::from_utf8_lossy(&self.line().await?).into_owned();
        let ok = line.strip_prefix("+OK").map(|rest| rest.trim().to_owned());
        let ended = match &ok {
            Some(_) => Ended::Ok,
            None if line.contains("[SYS/TEMP]") => Ended::Unavailable,
            None => Ended::Refused,
        };
        self.log.end(ended, None);
        ok.ok_or(Error::Refused(line))
    }

    /// As [`Self::command`], with the lines up to the final dot.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn lines(&mut self, kind: &'static str, command: &str) -> Result<Vec<u8>, Error> {
        self.command(kind, command).await?;
        let mut text = Vec::new();
        loop {
            let line = self.line().await?;
            match line.strip_prefix(b".") {
                Some(b"") => return Ok(text),
                Some(rest) => text.extend_from_slice(rest),
                None => text.extend_from_slice(&line),
            }
            text.extend_from_slice(b"\r\n");
        }
    }
}

/// POP3 sessions one after the other until the run is over; each lives through several faults. Violations are the user's troubles.
///
/// # Errors
/// The session broke.
pub async fn pop3(address: &str, user: &Arc<User>, log: Log, random: &mut Random) -> Result<(), Error> {
    let mut pop = Pop3::connect(address, log).await?;
    pop.command("POP3 login", &format!("USER {}", user.name)).await?;
    match pop.command("POP3 login", &format!("PASS {}", user.password)).await {
        Ok(_) => {}
        // Beyond its bound; the next session tries again.
        Err(Error::Refused(_)) => return Ok(()),
        Err(error) => return Err(error),
    }
    let numbering = pop.lines("POP3 UIDL", "UIDL").await?;
    let count = numbering.split(|b| *b == b'\n').count().saturating_sub(1);
    let (mut marked, mut seen) = (BTreeSet::new(), std::collections::BTreeMap::new());
    for turn in 0..4 + random.below(8) {
        if user.is_over() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300 + random.below(1200) as u64)).await;
        if turn % 3 == 2 && marked.is_empty() {
            let now = pop.lines("POP3 UIDL", "UIDL").await?;
            if now != numbering {
                user.note_trouble("the numbering of a POP3 session changed");
            }
            continue;
        }
        if count == 0 {
            pop.command("POP3 NOOP", "NOOP").await?;
            continue;
        }
        let number = 1 + random.below(count);
        match pop.lines("POP3 RETR", &format!("RETR {number}")).await {
            Ok(stored) => {
                let id = message::id_of(&stored).unwrap_or_default();
                if !message::is_whole(&stored) {
                    user.note_trouble(&format!("POP3 message {number} is not what was sent: {} bytes", stored.len()));
                }
                if seen.insert(number, id.clone()).is_some_and(|before| before != id) {
                    user.note_trouble(&format!("POP3 message {number} became another one: {id}"));
                }
                if random.below(2) == 0 && pop.command("POP3 DELE", &format!("DELE {number}")).await.is_ok() {
                    marked.insert(id);
                }
            }
            // Marked already, or beyond the bound.
            Err(Error::Refused(text)) if marked.is_empty() && !text.contains("SYS/TEMP") => {
                user.note_trouble(&format!("POP3 message {number} of {count}: {text}"));
            }
            Err(Error::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    user.ledger("INBOX").quit(marked.clone(), false);
    match pop.command("POP3 QUIT", "QUIT").await {
        Ok(_) => user.ledger("INBOX").quit(marked, true),
        Err(Error::Refused(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Deliveries until the run is over, most of them stopped in the middle of DATA for a while.
///
/// # Errors
/// The session broke.
pub async fn lmtp(address: &str, user: &Arc<User>, mut log: Log, random: &mut Random) -> Result<(), Error> {
    let mut lmtp = Lmtp::connect(address).await?;
    lmtp.patience = PATIENCE;
    while !user.is_over() {
        let id = user.next_id("lmtp");
        let message = Message::of_size(&id, 200 + random.below(6000), random);
        user.ledger("INBOX").sent(&id);
        for _ in 0..DELIVERY_TRIES {
            let quiet = user.quiet.clone();
            let _working = quiet.read().await;
            lmtp.stops = (random.below(3) > 0).then(|| Duration::from_millis(200 + random.below(1500) as u64));
            log.begin("LMTP");
            let results = lmtp.deliver("tests@tests.example", &[&user.name], &message.bytes).await?;
            match results.into_iter().next() {
                Some(Ok(_)) => {
                    log.end(Ended::Ok, None);
                    user.ledger("INBOX").acknowledged(&id);
                    break;
                }
                Some(Err(Error::Refused(text))) if text.starts_with('4') => log.end(Ended::Unavailable, None),
                Some(Err(error)) => {
                    log.end(Ended::Refused, None);
                    user.note_trouble(&format!("LMTP: {error}"));
                    break;
                }
                None => return Err(Error::Protocol("no result for the recipient".to_owned())),
            }
        }
        tokio::time::sleep(Duration::from_millis(200 + random.below(2000) as u64)).await;
    }
    Ok(())
}
