//! A user moves between groups and back while its mail flows, first with all nodes up, then with one killed during each move. At the
//! nodes that stay no command fails and no session ends; UIDs stay dense, flags and mailboxes are what they were.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::Recorder;
use parliament_cluster_tests::imap::Imap;
use parliament_cluster_tests::load::Load;
use parliament_cluster_tests::message::Message;
use parliament_cluster_tests::{run, scan};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Moves with all nodes up, and with one killed.
const CALM_MOVES: usize = 6;
const KILL_MOVES: usize = 2;
/// The promise is 1 s on a machine that is not busy; what was measured is printed.
const CALM_PAUSE_MAX: Duration = Duration::from_secs(3);
/// With a leader or holder killed in the middle of it.
const KILL_PAUSE_MAX: Duration = Duration::from_secs(12);

/// What a session that writes has done, and how long its slowest command took since it was last asked.
struct Writer {
    imap: Imap,
    archive: Imap,
    round: u32,
    /// UID in Sent → flagged; the archive has as many as were moved.
    sent: BTreeMap<u32, bool>,
    moved: u32,
    slowest: Arc<std::sync::Mutex<Duration>>,
}

impl Writer {
    async fn new(demo: &Demo, user: &str, slowest: Arc<std::sync::Mutex<Duration>>) -> Self {
        let (mut imap, mut archive) = (demo.imap(1, user).await.unwrap(), demo.imap(2, user).await.unwrap());
        imap.select("Sent", false).await.unwrap();
        archive.select("Archive", false).await.unwrap();
        Self { imap, archive, round: 0, sent: BTreeMap::new(), moved: 0, slowest }
    }

    async fn command(&mut self, command: &str) -> String {
        let began = Instant::now();
        let reply = self.imap.command(command).await.unwrap_or_else(|error| panic!("{command}: {error}"));
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = began.elapsed().max(*slowest);
        reply.code("COPYUID").unwrap_or_default()
    }

    /// APPEND, STORE, and for some of the messages MOVE or EXPUNGE.
    async fn turn(&mut self) {
        self.round += 1;
        let began = Instant::now();
        let message = Message::new(&format!("turn-{}", self.round), b"turn\r\n");
        let appended = self.imap.append("Sent", "", &message.bytes).await.unwrap_or_else(|error| panic!("APPEND: {error}"));
        {
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = began.elapsed().max(*slowest);
        }
        let uid = appended.uid;
        assert_eq!(uid, self.round, "nobody else writes there: UIDs are dense");
        self.command(&format!("UID STORE {uid} +FLAGS (\\Flagged $Work)")).await;
        self.sent.insert(uid, true);
        match self.round % 5 {
            0 => {
                let copyuid = self.command(&format!("UID MOVE {uid} Archive")).await;
                self.moved += 1;
                let to = copyuid.rsplit(' ').next().unwrap_or_default().to_owned();
                assert_eq!(to, self.moved.to_string(), "COPYUID {copyuid:?}");
                self.sent.remove(&uid);
            }
            1 => {
                self.command(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)")).await;
                self.command(&format!("UID EXPUNGE {uid}")).await;
                self.sent.remove(&uid);
            }
            2 => {
                self.command(&format!("UID STORE {uid} -FLAGS (\\Flagged)")).await;
                self.sent.insert(uid, false);
            }
            _ => {}
        }
    }

    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            self.turn().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self
    }

    /// Both mailboxes hold what the session was told.
    async fn compare(mut self) {
        let there = self.imap.uid_fetch("1:*", "(UID FLAGS)").await.unwrap();
        let there: BTreeMap<u32, bool> =
            there.iter().map(|row| (row.uid.unwrap(), row.flags.iter().flatten().any(|flag| flag == "\\Flagged"))).collect();
        assert_eq!(there, self.sent);
        let keyworded = self.imap.command("UID SEARCH KEYWORD $Work").await.unwrap().data("SEARCH").unwrap();
        assert_eq!(keyworded[0].len(), self.sent.len(), "keywords came along");
        let archived = self.archive.select("Archive", true).await.unwrap();
        assert_eq!((archived.exists, archived.uidnext), (self.moved, self.moved + 1));
        eprintln!("{} turns, {} messages moved", self.round, self.moved);
    }
}

/// A POP3 session that asks all the while.
async fn pop3(address: String, user: String, password: String, stop: Arc<AtomicBool>) -> u32 {
    let mut stream = BufReader::new(TcpStream::connect(&address).await.unwrap());
    let mut answers = 0;
    let mut ask = async |command: &str| {
        if !command.is_empty() {
            stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        }
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_line(&mut line)).await;
        assert!(read.is_ok_and(|read| read.is_ok()) && line.starts_with("+OK"), "{command}: {line:?}");
        while command.starts_with("TOP") && line != ".\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
    };
    ask("").await;
    ask(&format!("USER {user}")).await;
    ask(&format!("PASS {password}")).await;
    while !stop.load(Ordering::Relaxed) {
        for command in ["STAT", "TOP 1 0", "NOOP"] {
            ask(command).await;
            answers += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ask("QUIT").await;
    answers
}

async fn group_of(demo: &Demo, user: &str) -> u64 {
    demo.verb(&["user", "show", user]).await.unwrap()["group"].as_u64().unwrap()
}

/// Moves the user on to the next group; how long the verb took.
async fn move_on(demo: &Demo, user: &str, groups: u64) -> Duration {
    let from = group_of(demo, user).await;
    let to = from % groups + 1;
    let began = Instant::now();
    let moved = demo.verb(&["user", "move", user, "--group", &to.to_string(), "--yes", "--timeout", "40s"]).await.unwrap();
    assert_eq!((moved["stage"].as_str(), moved["to"].as_u64()), (Some("done"), Some(to)), "{moved}");
    assert_eq!(group_of(demo, user).await, to);
    began.elapsed()
}

/// Something new comes to an idle session.
async fn hears(idle: &mut Imap) {
    // What came before says nothing.
    while idle.idle_wait(Duration::from_millis(1)).await.is_ok() {}
    let began = Instant::now();
    idle.idle_wait(Duration::from_secs(10)).await.unwrap_or_else(|error| panic!("an idle session hears nothing: {error}"));
    eprintln!("the idle session heard after {:?}", began.elapsed());
}

#[test]
fn moves() {
    const GROUPS: u64 = 2;
    super::with_demo(Options { nodes: 5, users: 1, groups: Some(GROUPS as u32), ..Options::default() }, async |demo| {
        let accounts = vec![demo.accounts()[0].clone()];
        let user = accounts[0].clone();
        let recorder = Arc::new(Recorder::new(None).unwrap());
        // Clients are at two nodes; only others are killed.
        let load = Load {
            servers: run::servers(demo).into_iter().take(2).collect(),
            accounts: accounts.clone(),
            password: demo.password.clone(),
            clients: 4,
            sizes: vec![300, 1000, 4000, 20_000],
            pause: Duration::from_millis(20),
            seed: 5,
            name: "w".to_owned(),
        };
        run::note_setup(&recorder, demo, &load.keys(), load.seed);
        let running = load.start(&recorder);
        let mut looking = demo.imap(1, &user).await.unwrap();
        while looking.status("INBOX").await.unwrap().exists == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let writer = tokio::spawn(Writer::new(demo, &user, Arc::clone(&slowest)).await.run(stop.clone()));
        let popper = tokio::spawn(pop3(demo.node(2).pop3.clone(), user.clone(), demo.password.clone(), stop.clone()));
        let mut idle = demo.imap(2, &user).await.unwrap();
        idle.select("INBOX", true).await.unwrap();
        idle.idle().await.unwrap();
        let slowest_since = || std::mem::take(&mut *slowest.lock().unwrap());

        let refused = demo.verb(&["user", "move", &user, "--group", "99", "--yes"]).await.unwrap_err();
        assert!(refused.contains("PC330"), "{refused}");
        let home = group_of(demo, &user).await;
        let would = demo.verb(&["user", "move", &user, "--group", &(home % GROUPS + 1).to_string(), "--dry-run"]).await.unwrap();
        assert_eq!((would["from"].as_u64(), group_of(demo, &user).await), (Some(home), home), "{would}");
        slowest_since();
        tokio::time::sleep(Duration::from_secs(2)).await;
        eprintln!("without a move the slowest command of 2 s took {:?}", slowest_since());
        for number in 0..CALM_MOVES {
            slowest_since();
            recorder.nemesis("move", &user, json!({ "number": number }));
            let took = move_on(demo, &user, GROUPS).await;
            let pause = slowest_since();
            eprintln!("move {number} took {took:?}, the slowest command {pause:?}");
            assert!(pause <= CALM_PAUSE_MAX, "a command took {pause:?}");
            hears(&mut idle).await;
        }
        for (number, victim) in ["n3", "n4", "n5"].into_iter().cycle().take(KILL_MOVES).enumerate() {
            slowest_since();
            let killing = async {
                // Once it has begun: a move does not begin while a node is down.
                let asked = Instant::now();
                while asked.elapsed() < Duration::from_secs(5) && demo.verb(&["user", "show", &user]).await.unwrap()["moving"].is_null() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                tokio::time::sleep(Duration::from_millis(150 * number as u64)).await;
                demo.kill(victim).await.unwrap();
            };
            let (took, ()) = tokio::join!(move_on(demo, &user, GROUPS), killing);
            let pause = slowest_since();
            eprintln!("move {number} with {victim} killed took {took:?}, the slowest command {pause:?}");
            assert!(pause <= KILL_PAUSE_MAX, "a command took {pause:?}");
            hears(&mut idle).await;
            demo.start_nodes(&[victim]).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let writer = writer.await.unwrap_or_else(|error| panic!("the writer: {error}"));
        assert!(popper.await.unwrap() > 50);
        running.stop().await;
        idle.idle_done().await.unwrap();
        writer.compare().await;
        scan::everything(demo, &accounts, &recorder).await.unwrap();
        super::assert_nothing_failed(demo, &recorder).await;
    });
}
