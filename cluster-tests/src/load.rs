//! Clients that write, look and note down what they saw, whatever happens to the nodes. Each keeps a connection to a node of its
//! own, goes elsewhere while that one does not answer, and never sends a message twice: an outcome that it does not learn is
//! unknown, and stays so.

use crate::Error;
use crate::history::{Kind, Recorder, Where};
use crate::imap::Imap;
use crate::lmtp::Lmtp;
use crate::message::{Message, id_of};
use crate::random::Random;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long an operation may take before its outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages that a read in the middle of the run goes back at most.
const READ_BACK: u32 = 20;

/// A server that clients may connect to.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// Its name in the history.
    pub id: String,
    /// IMAP.
    pub imap: String,
    /// LMTP.
    pub lmtp: String,
}

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Servers; client *n* prefers server *n* mod their number.
    pub servers: Vec<Server>,
    /// Accounts; client *n* uses the (*n* / servers) mod their number, so that an account is written through all servers.
    pub accounts: Vec<String>,
    /// Password of all accounts.
    pub password: String,
    /// Clients. Each eighth delivers by LMTP, the others append.
    pub clients: usize,
    /// Sizes of messages to choose from, bytes.
    pub sizes: Vec<usize>,
    /// Pause after each operation: bounds how much is written in a long run.
    pub pause: Duration,
    /// For the choice of sizes.
    pub seed: u64,
    /// So that ids of several loads in one history differ.
    pub name: String,
}

/// Running clients.
pub struct Running {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Lets every client end what it is doing, and waits for them.
    ///
    /// # Panics
    /// When a client panicked.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap_or_else(|error| panic!("a client: {error}"));
        }
    }
}

impl Load {
    /// `USER/INBOX` of all accounts.
    pub fn keys(&self) -> Vec<String> {
        self.accounts.iter().map(|account| format!("{account}/INBOX")).collect()
    }

    /// Starts the clients.
    pub fn start(&self, recorder: &Arc<Recorder>) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |number| {
            let client = Client::new(self.clone(), number, recorder.clone());
            tokio::spawn(client.run(stop.clone()))
        };
        Running { tasks: (0..self.clients).map(spawn).collect(), stop }
    }
}

enum Connection {
    Imap(Box<Imap>),
    Lmtp(Box<Lmtp>),
}

struct Client {
    load: Load,
    number: usize,
    recorder: Arc<Recorder>,
    random: Random,
    account: String,
    key: String,
    process: u64,
    connection: Option<Connection>,
    server: usize,
    connections: u64,
    session: String,
    sent: u64,
    /// Operations since the connection was made.
    since: u64,
}

impl Client {
    fn new(load: Load, number: usize, recorder: Arc<Recorder>) -> Self {
        let account = load.accounts[(number / load.servers.len()) % load.accounts.len()].clone();
        Self {
            number,
            random: Random::new(load.seed ^ ((number as u64) << 32)),
            key: format!("{account}/INBOX"),
            account,
            process: recorder.new_process(),
            connection: None,
            server: number % load.servers.len(),
            connections: 0,
            session: String::new(),
            sent: 0,
            since: 0,
            recorder,
            load,
        }
    }

    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut turn = self.number as u64;
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            // Away from home for a while: look whether home answers again.
            if self.since > 100 && self.server != self.home() {
                self.connection = None;
                self.server = self.home();
            }
            match self.connection.take() {
                None => self.connect().await,
                Some(mut connection) => {
                    let kept = self.operation(&mut connection, turn).await;
                    self.since += 1;
                    self.connection = kept.then_some(connection);
                    tokio::time::sleep(self.load.pause).await;
                }
            }
        }
    }

    fn home(&self) -> usize {
        self.number % self.load.servers.len()
    }

    /// Tries the current server, and turns to the next one if it does not let us in.
    async fn connect(&mut self) {
        let server = &self.load.servers[self.server];
        let made = if self.number % 8 == 7 {
            Lmtp::connect(&server.lmtp).await.map(|mut lmtp| {
                lmtp.patience = PATIENCE;
                Connection::Lmtp(Box::new(lmtp))
            })
        } else {
            Imap::login(&server.imap, &self.account, &self.load.password).await.map(|mut imap| {
                imap.patience = PATIENCE;
                Connection::Imap(Box::new(imap))
            })
        };
        match made {
            Ok(connection) => {
                self.connection = Some(connection);
                self.connections += 1;
                self.since = 0;
                self.session = format!("{}{}.{}", self.load.name, self.number, self.connections);
            }
            Err(_) => {
                self.server = (self.server + 1) % self.load.servers.len();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// One operation; false when the connection is of no more use.
    async fn operation(&mut self, connection: &mut Connection, turn: u64) -> bool {
        match connection {
            Connection::Lmtp(lmtp) => self.deliver(lmtp).await,
            Connection::Imap(imap) if turn % 16 == 3 => self.status(imap).await,
            Connection::Imap(imap) if turn % 16 == 11 => self.read(imap).await,
            Connection::Imap(imap) => self.append(imap).await,
        }
    }

    fn note(&self, kind: Kind, f: &str, value: Value) {
        let node = &self.load.servers[self.server].id;
        self.recorder.client(self.process, kind, f, Where { key: &self.key, node, session: &self.session }, value);
    }

    /// Notes how an operation ended; false when the connection is of no more use. An unknown outcome ends the process's number.
    fn ended(&mut self, f: &str, outcome: Result<Value, Error>) -> bool {
        match outcome {
            Ok(value) => {
                self.note(Kind::Ok, f, value);
                true
            }
            Err(error) => {
                let kind = if error.is_unknown() { Kind::Info } else { Kind::Fail };
                self.note(kind, f, json!({ "error": error.to_string() }));
                if kind == Kind::Info {
                    self.process = self.recorder.new_process();
                }
                !error.is_fatal()
            }
        }
    }

    fn message(&mut self) -> (Message, Value) {
        self.sent += 1;
        let id = format!("{}{}-{}", self.load.name, self.number, self.sent);
        let size = *self.random.pick(&self.load.sizes);
        let message = Message::of_size(&id, size, &mut self.random);
        let value = json!({ "id": message.id, "sha": message.sha, "bytes": message.bytes.len() });
        (message, value)
    }

    async fn append(&mut self, imap: &mut Imap) -> bool {
        let (message, mut value) = self.message();
        self.note(Kind::Invoke, "append", value.clone());
        let outcome = imap.append("INBOX", "", &message.bytes).await.map(|appended| {
            value["uid"] = json!(appended.uid);
            value["uidvalidity"] = json!(appended.uidvalidity);
            value
        });
        self.ended("append", outcome)
    }

    async fn deliver(&mut self, lmtp: &mut Lmtp) -> bool {
        let (message, value) = self.message();
        self.note(Kind::Invoke, "deliver", value.clone());
        let outcome = lmtp.deliver("tests@tests.example", &[&self.account], &message.bytes).await;
        let one = outcome.and_then(|mut all| all.pop().unwrap_or_else(|| Err(Error::Protocol("no reply".to_owned()))));
        self.ended("deliver", one.map(|_| value))
    }

    async fn status(&mut self, imap: &mut Imap) -> bool {
        self.note(Kind::Invoke, "status", Value::Null);
        let outcome = imap.status("INBOX").await;
        let value = |m: crate::imap::Mailbox| json!({ "uidvalidity": m.uidvalidity, "uidnext": m.uidnext, "messages": m.exists });
        self.ended("status", outcome.map(value))
    }

    /// Looks at the last messages.
    async fn read(&mut self, imap: &mut Imap) -> bool {
        self.note(Kind::Invoke, "read", Value::Null);
        let outcome = read_back(imap).await;
        self.ended("read", outcome)
    }
}

/// The last messages of INBOX. UIDNEXT is told before what is above it is listed, so only what lies below belongs to the value.
async fn read_back(imap: &mut Imap) -> Result<Value, Error> {
    let mailbox = imap.select("INBOX", true).await?;
    let from = mailbox.uidnext.saturating_sub(READ_BACK).max(1);
    let items = format!("(BODY.PEEK[HEADER.FIELDS ({})])", crate::message::ID_FIELD);
    let listed = imap.uid_fetch(&format!("{from}:*"), &items).await?;
    imap.command("UNSELECT").await?;
    let row = |m: &crate::token::Fetched| Some((m.uid?, id_of(m.body.as_ref()?).unwrap_or_default()));
    let rows: Vec<_> = listed.iter().filter_map(row).filter(|(uid, _)| (from..mailbox.uidnext).contains(uid)).collect();
    let messages: Vec<_> = rows.into_iter().map(|(uid, id)| json!([uid, id, null])).collect();
    Ok(json!({ "from": from, "uidvalidity": mailbox.uidvalidity, "uidnext": mailbox.uidnext, "messages": messages }))
}
