//! The operations that are measured.

use super::{ACCOUNTS, Account, MESSAGE_BYTES, Measured, Row, System};
use crate::Error;
use crate::imap::Imap;
use crate::lmtp::Lmtp;
use crate::message::Message;
use crate::random::Random;
use std::time::{Duration, Instant};

/// Mailboxes that [`fill`] makes, and their messages.
const BODIES: (&str, usize) = ("Bodies", 100);
const MANY: (&str, usize) = ("Many", 500);
/// Accounts that have them.
const FILLED: usize = 16;
/// Not measured: connections, caches and time-slices settle.
const WARM_UP: Duration = Duration::from_millis(400);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Append,
    Lmtp,
    FetchBody,
    FetchFlags,
    Store,
}

pub(super) async fn fill(system: &System) -> Result<(), Error> {
    let mut tasks = tokio::task::JoinSet::new();
    for (n, account) in system.accounts.iter().take(ACCOUNTS).cloned().enumerate() {
        let password = system.password.clone();
        tasks.spawn(async move { fill_one(n, &account, &password).await });
    }
    while let Some(filled) = tasks.join_next().await {
        filled.map_err(|e| Error::Protocol(e.to_string()))??;
    }
    Ok(())
}

/// Every account gets a message, so that somebody holds it; some get the mailboxes that are read.
async fn fill_one(n: usize, account: &Account, password: &str) -> Result<(), Error> {
    let mut imap = Imap::login(&account.imap, &account.user, password).await?;
    let mut random = Random::new(n as u64);
    imap.append("INBOX", "", &Message::of_size("first", 1000, &mut random).bytes).await?;
    if n < FILLED {
        imap.command(&format!("CREATE {}", BODIES.0)).await?;
        for m in 0..BODIES.1 {
            imap.append(BODIES.0, "", &Message::of_size(&format!("b{m}"), MESSAGE_BYTES, &mut random).bytes).await?;
        }
    }
    if n == 0 {
        imap.command(&format!("CREATE {}", MANY.0)).await?;
        for m in 0..MANY.1 {
            imap.append(MANY.0, "", &Message::of_size(&format!("m{m}"), 500, &mut random).bytes).await?;
        }
    }
    imap.logout().await
}

enum Connection {
    Imap(Imap),
    Lmtp(Lmtp),
}

/// A connection at work.
struct Worker {
    work: Work,
    connection: Connection,
    user: String,
    message: Vec<u8>,
    random: Random,
    turn: usize,
}

impl Worker {
    async fn new(row: &Row, number: usize, account: &Account, password: &str) -> Result<Self, Error> {
        let connection = if row.work == Work::Lmtp {
            Connection::Lmtp(Lmtp::connect(&account.lmtp).await?)
        } else {
            let mut imap = Imap::login(&account.imap, &account.user, password).await?;
            match row.work {
                Work::FetchBody | Work::Store => imap.select(BODIES.0, false).await.map(|_| ())?,
                Work::FetchFlags => imap.select(MANY.0, false).await.map(|_| ())?,
                Work::Append | Work::Lmtp => {}
            }
            Connection::Imap(imap)
        };
        let mut random = Random::new(number as u64 + 1000);
        let message = Message::of_size("bench", MESSAGE_BYTES, &mut random).bytes;
        Ok(Self { work: row.work, connection, user: account.user.clone(), message, random, turn: number })
    }

    /// One operation; the bytes of mail that it moved.
    async fn once(&mut self) -> Result<usize, Error> {
        self.turn += 1;
        match &mut self.connection {
            Connection::Lmtp(lmtp) => {
                change(&mut self.message, &mut self.random);
                let done = lmtp.deliver("bench@tests.example", &[&self.user], &self.message).await?;
                done.into_iter().collect::<Result<Vec<_>, _>>()?;
                Ok(self.message.len())
            }
            Connection::Imap(imap) => match self.work {
                Work::FetchBody => {
                    let reply = imap.command(&format!("FETCH {} BODY.PEEK[]", 1 + self.random.below(BODIES.1))).await?;
                    let bytes = reply.untagged.iter().map(bytes::Bytes::len).sum();
                    if bytes > MESSAGE_BYTES { Ok(bytes) } else { Err(Error::Protocol(format!("a body of {bytes} bytes"))) }
                }
                Work::FetchFlags => {
                    let reply = imap.command(&format!("FETCH 1:{} (UID FLAGS)", MANY.1)).await?;
                    let rows = reply.untagged.len();
                    if rows >= MANY.1 { Ok(0) } else { Err(Error::Protocol(format!("{rows} rows"))) }
                }
                Work::Store => {
                    let sign = if (self.turn / BODIES.1).is_multiple_of(2) { '+' } else { '-' };
                    imap.command(&format!("STORE {} {sign}FLAGS (\\Flagged)", 1 + self.turn % BODIES.1)).await?;
                    Ok(0)
                }
                Work::Append | Work::Lmtp => {
                    change(&mut self.message, &mut self.random);
                    imap.append("INBOX", "", &self.message).await?;
                    Ok(self.message.len())
                }
            },
        }
    }
}

/// No message is sent twice: a system that stores equal bodies once must not gain by it.
fn change(message: &mut [u8], random: &mut Random) {
    let end = message.len() - 20;
    for byte in &mut message[end..end + 16] {
        *byte = b'a' + random.byte() % 26;
    }
}

/// Lets all connections of a row work; what they do in the warm-up is not counted.
pub(super) async fn run(system: &System, row: &Row, time: Duration) -> Result<Measured, Error> {
    let mut workers = Vec::new();
    for (n, account) in system.accounts.iter().take(row.connections).enumerate() {
        workers.push(Worker::new(row, n, account, &system.password).await?);
    }
    let from = Instant::now() + WARM_UP;
    let until = from + time;
    let mut tasks = tokio::task::JoinSet::new();
    for mut worker in workers {
        tasks.spawn(async move {
            let (mut times, mut bytes) = (Vec::new(), 0);
            loop {
                let start = Instant::now();
                if start >= until {
                    return Ok::<_, Error>((times, bytes, worker));
                }
                let moved = worker.once().await?;
                if start >= from {
                    times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
                    bytes += moved as u64;
                }
            }
        });
    }
    tokio::time::sleep_until(from.into()).await;
    let (started, before) = (Instant::now(), system.usage());
    let mut measured = Measured::default();
    // A process whose client hangs up may end and not be counted: connections stay open until the reading.
    let mut open = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (times, bytes, worker) = done.map_err(|e| Error::Protocol(e.to_string()))??;
        measured.times.extend(times);
        measured.mail_bytes += bytes;
        open.push(worker);
    }
    measured.seconds = started.elapsed().as_secs_f64();
    measured.usage = system.usage().since(before);
    drop(open);
    measured.times.sort_unstable();
    Ok(measured)
}
