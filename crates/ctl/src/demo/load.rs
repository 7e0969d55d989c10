//! `--load`: appends all the while, and checks that every acknowledged UID stays and is given once.

use super::layout::Ready;
use super::wire::{Imap, Spoken};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections that append.
const WRITERS: usize = 4;
/// Pause of a writer between two messages: this is to show faults, not to measure speed.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause before a writer or checker turns to the next node.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause between two checks of a user.
const CHECK_PAUSE: Duration = Duration::from_secs(2);
/// Every so many checks all messages are looked at, not just the new ones.
const FULL_CHECK_EVERY: u64 = 15;
/// The mailbox.
const MAILBOX: &str = "Load";

/// What is known of one user's mailbox.
#[derive(Debug, Default)]
struct Ledger {
    /// (UIDVALIDITY, UID) of acknowledged messages, and the number in their Message-ID.
    acked: BTreeMap<(u32, u32), u64>,
    lost: BTreeSet<(u32, u32)>,
    duplicates: u64,
}

impl Ledger {
    /// Notes an acknowledgement.
    fn ack(&mut self, key: (u32, u32), number: u64) {
        if self.acked.insert(key, number).is_some_and(|earlier| earlier != number) {
            self.duplicates += 1;
        }
    }

    /// Compares what was acknowledged before a look, from UID `from` on, with what the look showed: messages by UID with the
    /// number in their Message-ID (`None` for messages of other runs).
    fn compare(&mut self, before: &[((u32, u32), u64)], validity: u32, from: u32, seen: &BTreeMap<u32, Option<u64>>) {
        for ((at, uid), number) in before {
            // Another UIDVALIDITY means that every earlier UID is void.
            let looked_at = *at != validity || *uid >= from;
            let there = *at == validity && seen.get(uid) == Some(&Some(*number));
            if looked_at && !there {
                self.lost.insert((*at, *uid));
            }
        }
    }
}

/// The figures so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Tally {
    pub(crate) acked: u64,
    pub(crate) lost: u64,
    pub(crate) duplicate_uids: u64,
}

impl Tally {
    pub(crate) fn line(self) -> String {
        format!("acked {} · lost {} · duplicate UIDs {}", self.acked, self.lost, self.duplicate_uids)
    }
    pub(crate) fn is_clean(self) -> bool {
        self.lost == 0 && self.duplicate_uids == 0
    }
}

/// A running load. Its tasks end with the runtime.
#[derive(Clone)]
pub(crate) struct Load {
    ledgers: Arc<BTreeMap<String, Mutex<Ledger>>>,
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Starts writers and checkers on the first accounts. `run` tells this run's messages from those of others.
    pub(crate) fn start(ready: &Ready, run: &str) -> Self {
        let users: Vec<String> = ready.users.iter().take(WRITERS).cloned().collect();
        let load = Self { ledgers: Arc::new(users.iter().map(|u| (u.clone(), Mutex::default())).collect()) };
        let nodes: Arc<[String]> = ready.nodes.iter().map(|n| n.imap.clone()).collect();
        let password: Arc<str> = ready.password.as_str().into();
        for (number, user) in users.iter().cycle().take(WRITERS).enumerate() {
            let worker = Worker::new(&load, &nodes, &password, user, run, number);
            tokio::spawn(worker.write_for_ever());
        }
        for (number, user) in users.iter().enumerate() {
            let worker = Worker::new(&load, &nodes, &password, user, run, WRITERS + number);
            tokio::spawn(worker.check_for_ever());
        }
        load
    }

    pub(crate) fn tally(&self) -> Tally {
        self.ledgers.values().map(lock).fold(Tally::default(), |sum, ledger| Tally {
            acked: sum.acked + ledger.acked.len() as u64,
            lost: sum.lost + ledger.lost.len() as u64,
            duplicate_uids: sum.duplicate_uids + ledger.duplicates,
        })
    }
}

struct Worker {
    load: Load,
    nodes: Arc<[String]>,
    password: Arc<str>,
    user: String,
    run: String,
    number: usize,
}

impl Worker {
    fn new(load: &Load, nodes: &Arc<[String]>, password: &Arc<str>, user: &str, run: &str, number: usize) -> Self {
        let (nodes, password) = (nodes.clone(), password.clone());
        Self { load: load.clone(), nodes, password, user: user.to_owned(), run: run.to_owned(), number }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // `Load::start` makes a ledger for each user that it starts a worker for.
        lock(&self.load.ledgers[&self.user])
    }

    async fn log_in(&self, turn: usize) -> Spoken<Imap> {
        Imap::login(&self.nodes[turn % self.nodes.len()], &self.user, &self.password).await
    }

    /// Appends until the connection fails, then goes on at the next node. What was under way then is unknown, and is not tried
    /// again: only what was acknowledged counts.
    async fn write_for_ever(self) {
        let mut next = 0u64;
        for turn in self.number.. {
            if let Ok(mut imap) = self.log_in(turn).await {
                // It may exist.
                let _ = imap.command(&format!("CREATE {MAILBOX}")).await;
                while self.append(&mut imap, &mut next).await.is_ok() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn append(&self, imap: &mut Imap, next: &mut u64) -> Spoken<()> {
        *next += 1;
        let number = *next * 1000 + self.number as u64;
        let message = super::fill::mail(&self.user, "load", "load\r\n", &id(&self.run, number));
        let answer = imap.append(MAILBOX, message.as_bytes()).await?;
        if !answer.is_ok() {
            return Err(answer.tagged);
        }
        let given = answer.code("APPENDUID").and_then(|c| c.split_once(' '));
        let key = given.and_then(|(validity, uid)| Some((validity.parse().ok()?, uid.parse().ok()?)));
        self.ledger().ack(key.ok_or("OK without APPENDUID")?, number);
        Ok(())
    }

    async fn check_for_ever(self) {
        let mut verified = 0;
        for turn in self.number.. {
            let full = (turn as u64).is_multiple_of(FULL_CHECK_EVERY);
            let from = if full { 1 } else { verified + 1 };
            match self.check(turn, from).await {
                Ok(up_to) => {
                    verified = up_to;
                    tokio::time::sleep(CHECK_PAUSE).await;
                }
                // A failed look says nothing: unavailable is not empty.
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Looks at all messages from UID `from` on at the next node; returns the highest UID known before the look.
    async fn check(&self, turn: usize, from: u32) -> Spoken<u32> {
        let before: Vec<_> = self.ledger().acked.iter().map(|(k, v)| (*k, *v)).collect();
        let highest = before.iter().map(|((_, uid), _)| *uid).max().unwrap_or(0);
        if before.is_empty() {
            return Ok(0);
        }
        let mut imap = self.log_in(turn).await?;
        let selected = imap.command(&format!("EXAMINE {MAILBOX}")).await?;
        let validity = selected.code("UIDVALIDITY").and_then(|v| v.parse().ok()).filter(|_| selected.is_ok()).ok_or(selected.tagged)?;
        let answer = imap.command(&format!("UID FETCH {from}:* (UID BODY.PEEK[HEADER.FIELDS (Message-ID)])")).await?;
        if !answer.is_ok() {
            return Err(answer.tagged);
        }
        let mut seen = BTreeMap::new();
        let mut twice = 0;
        for row in answer.untagged.iter().filter(|r| r.contains("FETCH (")) {
            if let Some(uid) = uid_of(row) {
                let number = number_of(row, &self.run);
                twice += u64::from(seen.insert(uid, number).is_some_and(|earlier| earlier != number));
            }
        }
        let mut ledger = self.ledger();
        ledger.duplicates += twice;
        ledger.compare(&before, validity, from, &seen);
        Ok(highest)
    }
}

fn id(run: &str, number: u64) -> String {
    format!("load.{run}.{number}")
}

/// The UID of a FETCH response.
fn uid_of(row: &str) -> Option<u32> {
    let (_, rest) = row.split_once("UID ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The number in the Message-ID of a FETCH response, if the message is of this run.
fn number_of(row: &str, run: &str) -> Option<u64> {
    let (_, rest) = row.split_once(&format!("<load.{run}."))?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let row = "* 3 FETCH (UID 7 BODY[HEADER.FIELDS (Message-ID)] {40}\r\nMessage-ID: <load.ab.5001.alice@demo.test>\r\n\r\n)";
        assert_eq!((uid_of(row), number_of(row, "ab"), number_of(row, "cd")), (Some(7), Some(5001), None));
    }

    #[test]
    fn one_uid_for_two_messages_is_a_duplicate() {
        let mut ledger = Ledger::default();
        ledger.ack((900, 1), 1);
        ledger.ack((900, 1), 1);
        assert_eq!(ledger.duplicates, 0);
        ledger.ack((900, 1), 2);
        assert_eq!(ledger.duplicates, 1);
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_lost() {
        let before = [((900, 1), 1), ((900, 2), 2), ((900, 3), 3)];
        let seen = |rows: &[(u32, Option<u64>)]| rows.iter().copied().collect::<BTreeMap<_, _>>();
        let lost = |validity, from, rows: &[(u32, Option<u64>)]| {
            let mut ledger = Ledger::default();
            ledger.compare(&before, validity, from, &seen(rows));
            ledger.lost.into_iter().map(|(_, uid)| uid).collect::<Vec<_>>()
        };
        assert_eq!(lost(900, 1, &[(1, Some(1)), (2, Some(2)), (3, Some(3)), (4, None)]), Vec::<u32>::new());
        assert_eq!(lost(900, 1, &[(1, Some(1)), (3, Some(3))]), [2], "missing");
        assert_eq!(lost(900, 1, &[(1, Some(1)), (2, Some(9)), (3, Some(3))]), [2], "another message bears its UID");
        assert_eq!(lost(900, 3, &[(3, Some(3))]), Vec::<u32>::new(), "below the look nothing is known");
        assert_eq!(lost(901, 3, &[(3, Some(3))]), [1, 2, 3], "UIDVALIDITY changed");
        assert_eq!(Tally { acked: 3, lost: 1, duplicate_uids: 0 }.line(), "acked 3 · lost 1 · duplicate UIDs 0");
    }
}
