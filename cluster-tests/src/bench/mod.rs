//! What operations cost at a running system, black box: throughput, times, CPU of all server processes, bytes written, flushes.

pub mod dovecot;
mod work;

use crate::demo::Demo;
use crate::usage::{self, Usage};
use serde_json::{Value, json};
use std::time::Duration;
use work::Work;

/// Bytes of the body of a message in most rows.
const MESSAGE_BYTES: usize = 20 * 1024;

/// Accounts that the rows need.
pub const ACCOUNTS: usize = 64;

/// A row: what is done, by how many connections, each with an account of its own.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Connections.
    pub connections: usize,
    work: Work,
}

/// All rows.
pub const ROWS: [Row; 7] = [
    Row { name: "append", connections: 1, work: Work::Append },
    Row { name: "append", connections: 16, work: Work::Append },
    Row { name: "append", connections: 64, work: Work::Append },
    Row { name: "lmtp", connections: 16, work: Work::Lmtp },
    Row { name: "fetch_body", connections: 16, work: Work::FetchBody },
    Row { name: "fetch_flags_500", connections: 1, work: Work::FetchFlags },
    Row { name: "store", connections: 16, work: Work::Store },
];

/// An account and where it is reached.
#[derive(Clone, Debug)]
pub struct Account {
    /// Login name.
    pub user: String,
    /// IMAP address.
    pub imap: String,
    /// LMTP address.
    pub lmtp: String,
}

/// A system that is measured.
pub struct System {
    /// Its name.
    pub name: &'static str,
    /// [`ACCOUNTS`] accounts.
    pub accounts: Vec<Account>,
    /// Password of all accounts.
    pub password: String,
    /// What of it runs.
    pids: Box<dyn Fn() -> Vec<i32> + Send + Sync>,
}

impl System {
    /// A Dovecot.
    pub fn dovecot(running: &dovecot::Dovecot) -> Self {
        let account = |n: usize| Account { user: format!("user{n}"), imap: running.imap.clone(), lmtp: running.lmtp.clone() };
        let file = running.pid_file();
        Self {
            name: "dovecot",
            accounts: (0..ACCOUNTS).map(account).collect(),
            password: dovecot::PASSWORD.to_owned(),
            pids: Box::new(move || {
                std::fs::read_to_string(&file).ok().and_then(|t| t.trim().parse().ok()).map_or_else(Vec::new, usage::tree)
            }),
        }
    }

    /// A demo. Each account is reached at the node that holds it, where the program tells which that is; else they take turns.
    pub async fn demo(demo: &Demo) -> Self {
        let users: Vec<String> = demo.accounts().into_iter().take(ACCOUNTS).collect();
        let turns = |n: usize, user: &String| {
            let node = &demo.nodes[n % demo.nodes.len()];
            Account { user: user.clone(), imap: node.imap.clone(), lmtp: node.lmtp.clone() }
        };
        let pid = demo.pid();
        Self {
            name: "parliament",
            accounts: users.iter().enumerate().map(|(n, user)| turns(n, user)).collect(),
            password: demo.password.clone(),
            pids: Box::new(move || usage::tree(pid)),
        }
    }

    /// Turns to the holders of the accounts; returns how many are known.
    pub async fn go_to_holders(&mut self, demo: &Demo) -> usize {
        let mut known = 0;
        for account in &mut self.accounts {
            let holder = demo.holder(&account.user).await;
            if let Some(node) = holder.and_then(|id| demo.named(&id)) {
                (account.imap, account.lmtp) = (node.imap.clone(), node.lmtp.clone());
                known += 1;
            }
        }
        known
    }

    /// Puts mail where the rows look for it.
    ///
    /// # Errors
    /// In words.
    pub async fn fill(&self) -> Result<(), String> {
        work::fill(self).await.map_err(|e| format!("{}: {e}", self.name))
    }

    /// Measures a row for a time.
    ///
    /// # Errors
    /// In words, when a connection broke or a command was refused.
    pub async fn measure(&self, row: &Row, time: Duration) -> Result<Measured, String> {
        let ran = work::run(self, row, time).await.map_err(|e| format!("{}, {} at {}: {e}", self.name, row.name, row.connections))?;
        Ok(ran)
    }

    fn usage(&self) -> Usage {
        usage::of(&(self.pids)())
    }
}

/// What a row costs.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Times of all operations, nanoseconds, sorted.
    pub times: Vec<u64>,
    /// How long was measured.
    pub seconds: f64,
    /// What the servers spent.
    pub usage: Usage,
    /// Bytes of mail that were sent or read.
    pub mail_bytes: u64,
}

impl Measured {
    /// Operations each second.
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
        let operations = self.times.len() as f64;
        operations / self.seconds.max(1e-9)
    }

    /// As a document.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn to_json(&self) -> Value {
        let at = |q| crate::checkers::pauses::percentile(&self.times, q) as f64 / 1e6;
        let each = |n: f64| n / (self.times.len() as f64).max(1.0);
        let round = |n: f64, digits: i32| (n * 10f64.powi(digits)).round() / 10f64.powi(digits);
        json!({
            "per_second": round(self.per_second(), 1), "p50_ms": round(at(0.5), 3), "p99_ms": round(at(0.99), 3), "operations": self.times.len(),
            "cpu_ms_each": round(each(self.usage.cpu_s * 1000.0), 4), "flushes_each": round(each(self.usage.flushes as f64), 3),
            "written_bytes_each": round(each(self.usage.written as f64), 0),
            "written_per_mail_byte": round(self.usage.written as f64 / (self.mail_bytes as f64).max(1.0), 2),
        })
    }
}
