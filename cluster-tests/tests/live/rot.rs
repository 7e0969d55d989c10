//! Bytes of one node's files change by themselves: journal, tables, redo files, snapshot files, large bodies. One pass over everything finds
//! and mends all of it while the node serves, and no client sees a wrong byte.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::message::Message;
use parliament_cluster_tests::random::Random;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The node whose files rot.
const NODE: &str = "n2";
const SMALL: usize = 30;
const LARGE: usize = 6;
const PASS_WAIT: Duration = Duration::from_secs(60);

#[test]
fn rot() {
    super::with_demo(Options { users: 3, groups: Some(3), ..Options::default() }, async |demo| {
        let mails = Arc::new(write(demo).await);
        let data = data_dir(demo).await;
        // What memory has of entries would do for them, and tables belong on the disk before they rot there.
        demo.kill(NODE).await.unwrap();
        demo.start_nodes(&[NODE]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        // An entry that is lost is covered by a snapshot, so that afterwards there are snapshot files to rot too.
        let mut random = Random::new(7);
        let first = flip_entries(&data, &mails);
        let pass = scrub(demo).await;
        eprintln!("{} flips in entries: {pass}", first.len());
        mended(&data, &first, &pass);
        assert!(!snapshots(&data).is_empty(), "lost entries were covered by snapshots");
        let reading = Reading::start(demo, &mails);
        let flips = flip_everywhere(&data, &mails, &mut random);
        eprintln!("{:?}", kinds(&flips));
        let began = Instant::now();
        let pass = scrub(demo).await;
        eprintln!("{} flips, found and mended after {:?}: {pass}", flips.len(), began.elapsed());
        mended(&data, &flips, &pass);
        let read = reading.end().await;
        eprintln!("{read} messages were read meanwhile, each as it was sent");
        assert!(read > 0, "refusing everything is no service");
        assert_eq!(scrub(demo).await["damaged"], 0, "one pass is enough");
        verify(demo).await;
        demo.kill(NODE).await.unwrap();
        demo.start_nodes(&[NODE]).await.unwrap();
        read_all(demo, &mails).await;
        verify(demo).await;
    });
}

/// Bytes that had been synced change while the node is down, and its vote in that group may be among what is lost: the node starts and serves,
/// its copy of the group leaves and comes back, made anew.
#[test]
fn unfit() {
    super::with_demo(Options { users: 3, groups: Some(3), ..Options::default() }, async |demo| {
        let mails = write(demo).await;
        let data = data_dir(demo).await;
        demo.kill(NODE).await.unwrap();
        let one: Mails = mails.iter().take(1).map(|(account, sent)| (account.clone(), sent.clone())).collect();
        assert!(!flip_entries(&data, &one).is_empty());
        demo.start_nodes(&[NODE]).await.unwrap();
        let began = Instant::now();
        read_all(demo, &mails).await;
        let mut left = false;
        loop {
            let groups = demo.verb(&["group", "list"]).await.unwrap();
            let has = |group: &serde_json::Value| group["voters"].as_array().unwrap().iter().any(|voter| voter == NODE);
            let groups = groups["groups"].as_array().unwrap();
            left |= !groups.iter().all(has);
            if left && groups.iter().all(|group| has(group) && group["incomplete"].is_null()) {
                break;
            }
            assert!(began.elapsed() < PASS_WAIT, "{groups:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eprintln!("the copy left and was made anew within {:?}", began.elapsed());
        verify(demo).await;
        read_all(demo, &mails).await;
    });
}

/// A record of a user is missing on one node, and no checksum tells: the sum of the user's records does, and the other nodes know better.
#[test]
fn differs() {
    super::with_demo(Options { users: 1, groups: Some(1), ..Options::default() }, async |demo| {
        let mails = write(demo).await;
        let data = data_dir(demo).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        demo.kill(NODE).await.unwrap();
        lose_a_record(&data.join("groups/1/tables"));
        demo.start_nodes(&[NODE]).await.unwrap();
        let wrong = demo.verb(&["user", "verify", "user0"]).await.unwrap_err();
        assert!(wrong.contains("state hash"), "{wrong}");
        let would = demo.verb(&["user", "repair", "user0", "--dry-run"]).await.unwrap();
        assert_eq!(would["done"].as_array().unwrap().len(), 1, "{would}");
        let done = demo.verb(&["user", "repair", "user0", "--yes"]).await.unwrap();
        assert_eq!((done["done"].as_array().unwrap().len(), done["left"].as_array().unwrap().len()), (1, 0), "{done}");
        verify_at_least(demo, 1).await;
        read_all(demo, &mails).await;
    });
}

/// Removes the flags of a mailbox, lawfully as far as the tables can tell.
fn lose_a_record(dir: &Path) {
    use parliament_mailbox_state::Tables as _;
    let tables = parliament_tables::GroupTables::open(dir, &parliament_tables::TableOptions::default()).unwrap().tables;
    let mut flags = Vec::new();
    tables
        .scan(b"F", b"G", &mut |key, _| {
            flags.push(key.to_vec());
            true
        })
        .unwrap();
    let gone = flags.pop().unwrap();
    let applied = tables.applied().unwrap();
    tables.commit([(gone, None)].into_iter().collect(), &applied).unwrap();
    tables.flush().unwrap();
}

type Mails = BTreeMap<String, Vec<Message>>;

async fn write(demo: &Demo) -> Mails {
    let mut mails = Mails::new();
    for (number, account) in demo.accounts().into_iter().enumerate() {
        let mut random = Random::new(number as u64);
        let mut imap = demo.imap(1 + number % 3, &account).await.unwrap();
        let mut sent = Vec::new();
        for n in 0..SMALL + LARGE {
            let bytes = if n < SMALL { 600 + n * 900 } else { 300_000 + n * 10_000 };
            let message = Message::of_size(&format!("r{number}-{n}"), bytes, &mut random);
            imap.append("INBOX", "", &message.bytes).await.unwrap();
            sent.push(message);
        }
        mails.insert(account, sent);
    }
    mails
}

async fn data_dir(demo: &Demo) -> PathBuf {
    let list = demo.ls().await.unwrap();
    let node = list["nodes"].as_array().unwrap().iter().find(|node| node["id"] == NODE).unwrap().clone();
    PathBuf::from(node["dir"].as_str().unwrap()).join("data")
}

/// A byte that was changed, and what it was.
struct Flip {
    path: PathBuf,
    at: usize,
    was: u8,
}

fn flip(path: &Path, at: usize) -> Flip {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at as u64).unwrap();
    file.sync_all().unwrap();
    Flip { path: path.to_owned(), at, was: byte[0] }
}

/// How many flips hit files of which kind.
fn kinds(flips: &[Flip]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for flip in flips {
        let name = flip.path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = if name.len() == 64 { "large body" } else { name.split(['-', '.']).next_back().unwrap() };
        let kind = if name.starts_with("segment-") { "segment" } else { kind };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool + Copy) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if path.file_name().and_then(|name| name.to_str()).is_some_and(wanted) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn segments(data: &Path) -> Vec<PathBuf> {
    files(&data.join("journal"), |name| name.starts_with("segment-"))
}
fn snapshots(data: &Path) -> Vec<PathBuf> {
    files(&data.join("groups"), |name| name.ends_with(".snapshot"))
}
fn databases(data: &Path) -> Vec<PathBuf> {
    files(&data.join("groups"), |name| name == "db")
}
fn large(data: &Path) -> Vec<PathBuf> {
    files(&data.join("bodies"), |name| name.len() == 64)
}
fn redos(data: &Path) -> Vec<PathBuf> {
    files(&data.join("groups"), |name| name == "redo")
}

/// Every place of some bytes in a file.
fn places(path: &Path, needle: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(&fs::read(path).unwrap(), needle).collect()
}

fn hash(message: &Message) -> [u8; 32] {
    *blake3::hash(&message.bytes).as_bytes()
}

/// One entry of each account, which names its body by its hash, as the body's own frame does.
fn flip_entries(data: &Path, mails: &Mails) -> Vec<Flip> {
    let mut flips = Vec::new();
    for sent in mails.values() {
        let message = &sent[3];
        for path in segments(data) {
            let bytes = fs::read(&path).unwrap();
            for at in places(&path, &hash(message)) {
                if !bytes[at + 32..].starts_with(&message.bytes[..50]) {
                    flips.push(flip(&path, at + 5));
                }
            }
        }
    }
    assert!(flips.len() >= mails.len());
    flips
}

/// A hundred places, spread over all that the node keeps.
fn flip_everywhere(data: &Path, mails: &Mails, random: &mut Random) -> Vec<Flip> {
    let mut flips = Vec::new();
    // Large bodies, their bytes, piece hashes and trailers.
    for (number, path) in large(data).iter().enumerate() {
        let length = fs::metadata(path).unwrap().len() as usize;
        let at = if number % 3 == 0 { length - 1 - number } else { random.below(length) };
        flips.push(flip(path, at));
    }
    for path in snapshots(data).iter().chain(redos(data).iter()) {
        let length = fs::metadata(path).unwrap().len() as usize;
        flips.push(flip(path, random.below(length)));
    }
    // Records that name bodies, in every version that lies in the database: the newest is among them.
    for path in databases(data) {
        let mut hit = 0;
        for message in mails.values().flatten() {
            for at in places(&path, &hash(message)) {
                flips.push(flip(&path, at + 3));
                hit += 1;
            }
            if hit >= 6 {
                break;
            }
        }
    }
    flips.push(flip(&data.join("journal/identity"), 15));
    // The journal: heads, small bodies, and any place up to the last body.
    let newest = segments(data).pop().unwrap();
    flips.push(flip(&newest, 21));
    let all: Vec<&Message> = mails.values().flat_map(|sent| &sent[..SMALL]).collect();
    for message in all.iter().step_by(3) {
        for path in segments(data) {
            if let Some(at) = places(&path, &message.bytes[..200]).first() {
                flips.push(flip(&path, at + 100 + random.below(300)));
            }
        }
    }
    let ends: Vec<(PathBuf, usize)> = segments(data)
        .into_iter()
        .filter_map(|path| {
            let last = all.iter().filter_map(|message| places(&path, &message.bytes[..200]).last().copied()).max()?;
            Some((path, last))
        })
        .collect();
    while flips.len() < 100 {
        let (path, end) = random.pick(&ends);
        let at = 4096 + random.below(end - 4096);
        flips.push(flip(path, at));
    }
    flips
}

/// Has the node read everything, and waits until it has.
async fn scrub(demo: &Demo) -> serde_json::Value {
    let state = |scrubs: &serde_json::Value| {
        scrubs["nodes"].as_array().unwrap().iter().find(|node| node["node"] == NODE).cloned().unwrap_or_default()
    };
    let before = state(&demo.verb(&["body", "scrub", "status"]).await.unwrap())["last"].clone();
    // A pass that ends in the second in which the last one began must not be taken for that one.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    demo.verb(&["body", "scrub", "start", NODE, "--yes"]).await.unwrap();
    let until = Instant::now() + PASS_WAIT;
    loop {
        let status = state(&demo.verb(&["body", "scrub", "status"]).await.unwrap());
        if status["doing"].is_null() && status["last"].is_object() && status["last"]["started"] != before["started"] {
            return status["last"].clone();
        }
        assert!(Instant::now() < until, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Nothing is left of any flip: its file is gone, or has the right byte again. Files that are written anew as a whole count as mended
/// when they are other files by now.
fn mended(data: &Path, flips: &[Flip], pass: &serde_json::Value) {
    assert_eq!(pass["not_repairable"], 0, "{pass}");
    assert!(pass["damaged"].as_u64().unwrap() > 0);
    // A file that nothing needs any more goes a moment later.
    let until = Instant::now() + Duration::from_secs(3);
    for Flip { path, at, was } in flips {
        let name = path.strip_prefix(data).unwrap().display().to_string();
        let anew = name.ends_with("redo") || name.ends_with(".snapshot");
        while let Ok(bytes) = fs::read(path)
            && !anew
            && bytes.get(*at) != Some(was)
        {
            assert!(Instant::now() < until, "{name} at {at} is still wrong");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// How long a message may not be to be had once all is mended.
const READ_WAIT: Duration = Duration::from_secs(10);

/// Clients that read all mail at the node again and again.
struct Reading {
    stop: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Reading {
    fn start(demo: &Demo, mails: &Arc<Mails>) -> Self {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let address = demo.named(NODE).unwrap().imap.clone();
        let task = |account: String| {
            let (stop, read, mails, address, password) =
                (stop.clone(), read.clone(), mails.clone(), address.clone(), demo.password.clone());
            tokio::spawn(async move {
                let login = parliament_cluster_tests::imap::Imap::login(&address, &account, &password).await;
                let mut imap = login.unwrap();
                imap.select("INBOX", true).await.unwrap();
                let mut last_round = false;
                while !last_round {
                    last_round = stop.load(Ordering::Relaxed);
                    for (number, message) in mails[&account].iter().enumerate() {
                        // What cannot be had at the moment is said to be so; it is never something else. In the end all is to be had.
                        let until = Instant::now() + READ_WAIT;
                        let fetched = loop {
                            match imap.uid_fetch(&(number + 1).to_string(), "(UID BODY.PEEK[])").await {
                                Ok(fetched) => break Some(fetched),
                                Err(error) if last_round => {
                                    assert!(Instant::now() < until, "{account} {number}: {error}");
                                    tokio::time::sleep(Duration::from_millis(100)).await;
                                }
                                Err(_) => break None,
                            }
                        };
                        let Some(fetched) = fetched else { continue };
                        let body = fetched.iter().find_map(|row| row.body.as_deref());
                        assert!(body == Some(&message.bytes[..]), "{account} {number}: a client saw a wrong byte");
                        read.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let tasks = mails.keys().cloned().map(task).collect();
        Self { stop, read, tasks }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.read.load(Ordering::Relaxed)
    }
}

async fn read_all(demo: &Demo, mails: &Mails) {
    for (account, sent) in mails {
        let mut imap = demo.imap(2, account).await.unwrap();
        assert_eq!(imap.select("INBOX", true).await.unwrap().exists as usize, sent.len());
        let fetched = imap.uid_fetch("1:*", "(UID BODY.PEEK[])").await.unwrap();
        assert!(fetched.iter().zip(sent).all(|(row, message)| row.body.as_deref() == Some(&message.bytes[..])));
        assert_eq!(fetched.len(), sent.len());
    }
}

/// All copies are equal, keep the rules, and have every body with its right bytes.
async fn verify(demo: &Demo) {
    verify_at_least(demo, 3).await;
}

async fn verify_at_least(demo: &Demo, users: u64) {
    let verified = demo.verb(&["user", "verify", "*", "--bodies"]).await.unwrap();
    assert_eq!((&verified["differ"], &verified["missing"], &verified["wrong"]), (&0.into(), &0.into(), &0.into()), "{verified}");
    assert!(verified["equal"].as_u64().unwrap() >= users);
}
