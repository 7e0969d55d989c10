//! Real clients among the sessions, at nodes that stay up, of a user whose holder is killed with the others: Python's imaplib in one
//! session from beginning to end, curl and mbsync over and over. Each must succeed every time.

use crate::Error;
use crate::demo::Demo;
use crate::message::Message;
use crate::random::Random;
use crate::survive::VICTIM;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// How long a client may take for one run: far more than any pause.
const RUN_MAX: Duration = Duration::from_secs(60);
/// Bytes of the message that curl and mbsync read.
const LARGE: usize = 900_000;
/// Between two runs of one client.
const REST: Duration = Duration::from_millis(300);

/// The clients at work.
pub struct Real(Vec<(&'static str, JoinHandle<Result<u64, String>>)>);

impl Real {
    /// Puts a message into the user's INBOX and starts those clients that are installed; the others are told of on stderr.
    ///
    /// # Errors
    /// When the message is not taken.
    pub async fn start(demo: &Demo, user: &str, time: Duration) -> Result<Self, Error> {
        let mut imap = demo.imap(1, user).await?;
        imap.append("INBOX", "", &Message::of_size("large", LARGE, &mut Random::new(1)).bytes).await?;
        let mut tasks = Vec::new();
        let nodes: Vec<&crate::demo::Node> = demo.nodes.iter().filter(|node| node.id != VICTIM).collect();
        let [first, .., last] = nodes.as_slice() else { return Ok(Self(tasks)) };
        let (user, password) = (user.to_owned(), demo.password.clone());
        if installed("python3") {
            let (host, port) = last.imap.rsplit_once(':').unwrap_or_default();
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/long_session.py").display().to_string();
            let words = [script, host.to_owned(), port.to_owned(), user.clone(), password.clone(), time.as_secs().to_string()];
            tasks.push(("imaplib", tokio::spawn(one_session(words.to_vec(), time))));
        }
        if installed("curl") {
            let words = vec!["-sS".into(), format!("imap://{}/INBOX;MAILINDEX=1", first.imap), "-u".into(), format!("{user}:{password}")];
            tasks.push(("curl", tokio::spawn(again_and_again("curl", words, None, time))));
        }
        if installed("mbsync") {
            let home = demo.dir().join("mbsync");
            let words = mbsync(&home, &last.imap, &user, &password);
            tasks.push(("mbsync", tokio::spawn(again_and_again("mbsync", words, Some(home), time))));
        }
        Ok(Self(tasks))
    }

    /// Waits for all; how often each succeeded, and what failed.
    pub async fn end(self) -> (Vec<(&'static str, u64)>, Vec<String>) {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for (name, task) in self.0 {
            match task.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(times) => done.push((name, times)),
                Err(why) => failed.push(format!("{name}: {why}")),
            }
        }
        (done, failed)
    }
}

fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        eprintln!("skipped: {program} is not installed, so it is not among the clients");
    }
    found
}

fn mbsync(home: &Path, imap: &str, user: &str, password: &str) -> Vec<String> {
    let (host, port) = imap.rsplit_once(':').unwrap_or_default();
    let config = format!(
        "IMAPAccount demo\nHost {host}\nPort {port}\nUser {user}\nPass {password}\nSSLType None\nAuthMechs LOGIN PLAIN\n\
         \nIMAPStore far\nAccount demo\n\nMaildirStore near\nSubFolders Verbatim\nPath {home}/mail/\nInbox {home}/mail/INBOX\n\
         \nChannel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Near\nExpunge Near\nSync Pull\nSyncState *\n",
        home = home.display()
    );
    let file = home.join("mbsyncrc");
    let written = std::fs::create_dir_all(home.join("mail")).and_then(|()| std::fs::write(&file, config));
    if let Err(error) = written {
        eprintln!("{}: {error}", file.display());
    }
    vec!["-q".into(), "-c".into(), file.display().to_string(), "all".into()]
}

async fn run(program: &str, words: &[String], home: Option<&Path>, wait: Duration) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(home) = home {
        command.env("HOME", home);
    }
    let ended = tokio::time::timeout(wait, command.output()).await.map_err(|_| format!("not done in {wait:?}"))?;
    let output = ended.map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(output.stdout) } else { Err(format!("{}: {told}", output.status)) }
}

async fn one_session(words: Vec<String>, time: Duration) -> Result<u64, String> {
    let told = run("python3", &words, None, time + RUN_MAX).await?;
    String::from_utf8_lossy(&told).trim().parse().map_err(|_| "it told no number".to_owned())
}

async fn again_and_again(program: &'static str, words: Vec<String>, home: Option<PathBuf>, time: Duration) -> Result<u64, String> {
    let (until, mut times, mut first) = (Instant::now() + time, 0, None);
    while Instant::now() < until {
        let told = run(program, &words, home.as_deref(), RUN_MAX).await.map_err(|why| format!("run {times}: {why}"))?;
        let known = first.get_or_insert_with(|| told.clone());
        if *known != told {
            return Err(format!("run {times}: {} bytes instead of {}, or others", told.len(), known.len()));
        }
        times += 1;
        tokio::time::sleep(REST).await;
    }
    match home {
        Some(home) => kept(&home).map(|()| times),
        None if first.is_none_or(|bytes| bytes.is_empty()) => Err("nothing was read".into()),
        None => Ok(times),
    }
}

/// What mbsync pulled must be there.
fn kept(home: &Path) -> Result<(), String> {
    let folder = |name: &str| std::fs::read_dir(home.join("mail/INBOX").join(name)).map(Iterator::count).unwrap_or(0);
    if folder("cur") + folder("new") > 0 { Ok(()) } else { Err("no message was pulled".into()) }
}
