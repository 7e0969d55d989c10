//! A cluster of real processes: `parliament demo` as a child, its nodes reached by their fixed ports, killed and started through
//! its own verbs, and gone without a trace afterwards.

use crate::imap::Imap;
use crate::lmtp::Lmtp;
use crate::{Error, binary};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long a demo may take until all its accounts can log in, on a machine busy with other things. The promise is 10 s.
const READY_WAIT: Duration = Duration::from_secs(90);
/// How long a demo may take to end.
const END_WAIT: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes.
    pub nodes: usize,
    /// Accounts `user0` … beside `alice` and `bob`.
    pub users: usize,
    /// Where the data is kept; a temporary folder when `None`.
    pub dir: Option<PathBuf>,
    /// Raft groups; the program's default when `None`.
    pub groups: Option<u32>,
    /// The last of three nodes is a witness.
    pub witness: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, users: 0, dir: None, groups: None, witness: false }
    }
}

/// Where a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `n1`…
    pub id: String,
    /// IMAP.
    pub imap: String,
    /// LMTP.
    pub lmtp: String,
    /// POP3.
    pub pop3: String,
    /// HTTP.
    pub http: String,
    /// Node-to-node and admin.
    pub peer: String,
}

/// A running demo.
pub struct Demo {
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Login names of its accounts, with domain.
    pub users: Vec<String>,
    /// Password of all of them.
    pub password: String,
    /// How long it took to be ready.
    pub ready_after: Duration,
    binary: PathBuf,
    dir: PathBuf,
    child: Child,
    temporary: Option<tempfile::TempDir>,
    /// The ports are fixed: one demo at a time on a machine.
    _alone: File,
}

/// Waits until no other test runs a demo on this machine.
pub(crate) fn alone() -> Result<File, String> {
    let path = std::env::temp_dir().join("parliament-demo-tests.lock");
    let file = File::options().create(true).append(true).open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(file)
}

impl Demo {
    /// Starts a demo and waits until it is ready.
    ///
    /// # Errors
    /// In words: it could not be built or started, ended by itself, or was not ready in time.
    pub async fn start(options: &Options) -> Result<Self, String> {
        let binary = tokio::task::spawn_blocking(binary::parliament).await.map_err(|e| e.to_string())??;
        let alone = tokio::task::spawn_blocking(alone).await.map_err(|e| e.to_string())??;
        let temporary = if options.dir.is_none() { Some(tempfile::tempdir().map_err(|e| e.to_string())?) } else { None };
        let home = options.dir.clone().or_else(|| temporary.as_ref().map(|t| t.path().to_owned())).unwrap_or_default();
        std::fs::create_dir_all(&home).map_err(|e| format!("{}: {e}", home.display()))?;
        let home = home.canonicalize().map_err(|e| format!("{}: {e}", home.display()))?;
        let (dir, ready, log) = (home.join("demo"), home.join("ready.json"), home.join("demo.log"));
        let _ = std::fs::remove_file(&ready);
        let output = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = output.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(&binary);
        command.arg("demo").arg("--dir").arg(&dir).arg("--ready-file").arg(&ready);
        command.args(["--password", "pw", "--nodes", &options.nodes.to_string(), "--users", &options.users.to_string()]);
        command.args(options.groups.iter().flat_map(|g| ["--groups".to_owned(), g.to_string()]));
        command.args(options.witness.then_some("--witness"));
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let started = Instant::now();
        let child = command.spawn().map_err(|e| format!("{}: {e}", binary.display()))?;
        let mut demo = Self {
            nodes: Vec::new(),
            users: Vec::new(),
            password: String::new(),
            ready_after: Duration::ZERO,
            binary,
            dir,
            child,
            temporary,
            _alone: alone,
        };
        let document = demo.wait_ready_file(&ready, &log).await?;
        demo.ready_after = started.elapsed();
        demo.nodes = nodes(&document).ok_or_else(|| format!("ready file: {document}"))?;
        let users = document["users"].as_array().into_iter().flatten();
        demo.users = users.filter_map(|u| u.as_str().map(str::to_owned)).collect();
        demo.password = document["password"].as_str().unwrap_or_default().to_owned();
        Ok(demo)
    }

    async fn wait_ready_file(&mut self, ready: &Path, log: &Path) -> Result<Value, String> {
        let tail = || {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let until = Instant::now() + READY_WAIT;
        loop {
            if let Ok(bytes) = std::fs::read(ready)
                && let Ok(document) = serde_json::from_slice(&bytes)
            {
                return Ok(document);
            }
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Err(format!("the demo ended ({status}) before it was ready:\n{}", tail()));
            }
            if Instant::now() > until {
                return Err(format!("the demo was not ready within {READY_WAIT:?}:\n{}", tail()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// A node by its name.
    pub fn named(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == id)
    }

    /// The empty accounts, `user0@demo.test` and so on; alice and bob have mail from the start.
    pub fn accounts(&self) -> Vec<String> {
        self.users.iter().filter(|name| name.starts_with("user")).cloned().collect()
    }

    /// Logs in at a node, numbered from 1.
    ///
    /// # Errors
    /// As [`Imap::login`].
    pub async fn imap(&self, number: usize, user: &str) -> Result<Imap, Error> {
        Imap::login(&self.node(number).imap, user, &self.password).await
    }

    /// Connects to the LMTP port of a node, numbered from 1.
    ///
    /// # Errors
    /// As [`Lmtp::connect`].
    pub async fn lmtp(&self, number: usize) -> Result<Lmtp, Error> {
        Lmtp::connect(&self.node(number).lmtp).await
    }

    /// Runs a verb of the program with `--json`.
    ///
    /// # Errors
    /// What it printed when its exit code is neither 0 nor 2 nor 3; or that it did not end within 60 s or printed no JSON.
    pub async fn verb(&self, arguments: &[&str]) -> Result<Value, String> {
        call(self.binary.clone(), arguments.iter().map(|a| (*a).to_owned()).collect()).await
    }

    async fn action(&self, verb: &str, node: &str) -> Result<Value, String> {
        let dir = self.dir.display().to_string();
        self.verb(&["demo", verb, node, "--dir", &dir]).await
    }

    /// Kills a node with signal 9; returns when it is gone.
    ///
    /// # Errors
    /// As [`Self::verb`].
    pub async fn kill(&self, node: &str) -> Result<(), String> {
        self.action("kill", node).await.map(|_| ())
    }

    /// Sends signal 9 to several nodes as close together as this machine allows; returns when all are gone.
    ///
    /// # Errors
    /// As [`Self::verb`].
    pub async fn kill_at_once(&self, nodes: &[&str]) -> Result<(), String> {
        let pids = self.pids().await?;
        for (node, pid) in pids.iter().filter(|(node, _)| nodes.contains(&node.as_str())) {
            signal(*pid, Signal::KILL).map_err(|e| format!("{node}: {e}"))?;
        }
        for node in nodes {
            self.wait_state(node, "down").await?;
        }
        Ok(())
    }

    async fn wait_state(&self, node: &str, state: &str) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let list = self.ls().await?;
            let found = list["nodes"].as_array().into_iter().flatten().find(|n| n["id"] == node);
            if found.is_some_and(|n| n["state"] == state) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{node} is not {state}: {list}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops a node's process where it stands.
    ///
    /// # Errors
    /// As [`Self::verb`].
    pub async fn pause(&self, node: &str) -> Result<(), String> {
        self.action("pause", node).await.map(|_| ())
    }

    /// Lets a stopped node go on.
    ///
    /// # Errors
    /// As [`Self::verb`].
    pub async fn resume(&self, node: &str) -> Result<(), String> {
        self.action("resume", node).await.map(|_| ())
    }

    /// Starts nodes that are down, all at once; returns when they are ready.
    ///
    /// # Errors
    /// As [`Self::verb`].
    pub async fn start_nodes(&self, nodes: &[&str]) -> Result<(), String> {
        let mut calls = tokio::task::JoinSet::new();
        for node in nodes {
            let dir = self.dir.display().to_string();
            let words = ["demo", "start", node, "--dir", &dir, "--timeout", "50s"].map(str::to_owned);
            calls.spawn(call(self.binary.clone(), words.into()));
        }
        while let Some(done) = calls.join_next().await {
            done.map_err(|e| e.to_string())??;
        }
        Ok(())
    }

    /// `demo ls --json`
    ///
    /// # Errors
    /// As [`Self::verb`].
    pub async fn ls(&self) -> Result<Value, String> {
        self.verb(&["demo", "ls", "--dir", &self.dir.display().to_string()]).await
    }

    /// Processes of the nodes that are up or paused.
    ///
    /// # Errors
    /// As [`Self::verb`].
    pub async fn pids(&self) -> Result<Vec<(String, i32)>, String> {
        let list = self.ls().await?;
        let pid = |n: &Value| i32::try_from(n["pid"].as_i64()?).ok().filter(|pid| *pid > 0);
        let nodes = list["nodes"].as_array().into_iter().flatten();
        Ok(nodes.filter_map(|n| Some((n["id"].as_str()?.to_owned(), pid(n)?))).collect())
    }

    /// The node that holds a user; `None` when nobody does, or the cluster cannot tell now.
    pub async fn holder(&self, user: &str) -> Option<String> {
        let lease = self.verb(&["lease", "show", user]).await.ok()?;
        lease["holder"].as_str().filter(|_| lease["live"] != false).map(str::to_owned)
    }

    /// Leaders of the groups by number, those that have one.
    pub async fn leaders(&self) -> Vec<(u64, String)> {
        let Ok(list) = self.verb(&["group", "list"]).await else { return Vec::new() };
        let groups = list["groups"].as_array().into_iter().flatten();
        groups.filter_map(|g| Some((g["id"].as_u64()?, g["leader"].as_str()?.to_owned()))).collect()
    }

    /// Waits until a node's `/readyz` says 200.
    ///
    /// # Errors
    /// In words, when it does not within `wait`.
    pub async fn wait_ready(&self, id: &str, wait: Duration) -> Result<Duration, String> {
        self.wait_readyz(id, 200, wait).await
    }

    /// Waits until a node's `/readyz` says this.
    ///
    /// # Errors
    /// In words, when it does not within `wait`.
    pub async fn wait_readyz(&self, id: &str, wanted: u16, wait: Duration) -> Result<Duration, String> {
        let node = self.named(id).ok_or_else(|| format!("no node {id}"))?;
        let started = Instant::now();
        let mut last = String::new();
        while started.elapsed() < wait {
            match http_status(&node.http, "/readyz").await {
                Ok(status) if status == wanted => return Ok(started.elapsed()),
                Ok(status) => last = format!("HTTP {status}"),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("/readyz of {id} does not say {wanted} within {wait:?}: {last}"))
    }

    /// Ends the demo as Ctrl-C does and makes sure that nothing of it is left.
    ///
    /// # Errors
    /// In words: it did not end in time or not well, or left a process behind.
    pub async fn end(mut self) -> Result<(), String> {
        self.ask_to_end();
        let status = match tokio::time::timeout(END_WAIT, self.child.wait()).await {
            Ok(status) => status.map_err(|e| e.to_string())?,
            Err(_) => {
                let left = self.processes();
                return Err(format!("the demo did not end within {END_WAIT:?}; running: {left:?}"));
            }
        };
        let left = self.processes();
        if !left.is_empty() {
            return Err(format!("the demo left processes behind: {left:?}"));
        }
        // 130: ended by the signal it was sent, which is what it should say of itself, as shells do.
        if status.success() || matches!(status.code(), Some(130 | 143)) { Ok(()) } else { Err(format!("the demo ended with {status}")) }
    }

    fn ask_to_end(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = signal(pid, Signal::TERM);
        }
    }

    /// Processes whose command line names this demo's folder, other than those of this test.
    fn processes(&self) -> Vec<(i32, String)> {
        let name = self.dir.display().to_string();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let look = |entry: std::fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
            (line.contains("parliament") && line.contains(&name)).then_some((pid, line))
        };
        entries.filter_map(look).collect()
    }

    /// The process that watches over the nodes, which are its children; 0 when it has ended.
    pub fn pid(&self) -> i32 {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0)
    }

    /// The folder with the nodes' data and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps the folder of a failed run; returns its path.
    pub fn keep(&mut self) -> PathBuf {
        self.temporary.take().map_or_else(|| self.dir.clone(), tempfile::TempDir::keep)
    }
}

impl Drop for Demo {
    /// For tests that fail: nothing may be left running. [`Demo::end`] has done it otherwise.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.ask_to_end();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
        }
        for (pid, _) in self.processes() {
            let _ = signal(pid, Signal::KILL);
        }
    }
}

pub(crate) async fn call(binary: PathBuf, arguments: Vec<String>) -> Result<Value, String> {
    let mut command = Command::new(binary);
    command.args(&arguments).arg("--json").stdin(Stdio::null()).kill_on_drop(true);
    let name = arguments.join(" ");
    let ended = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = ended.map_err(|_| format!("{name}: no end within 60 s"))?.map_err(|e| format!("{name}: {e}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !matches!(output.status.code(), Some(0 | 2 | 3)) {
        return Err(format!("{name}: {}: {}{}", output.status, out.trim(), err.trim()));
    }
    serde_json::from_str(&out).map_err(|e| format!("{name}: {e}: {out}"))
}

fn signal(pid: i32, signal: Signal) -> std::io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
    Ok(kill_process(pid, signal)?)
}

fn nodes(document: &Value) -> Option<Vec<Node>> {
    let text = |n: &Value, key: &str| Some(n[key].as_str()?.to_owned());
    let node = |n: &Value| {
        Some(Node {
            id: text(n, "id")?,
            imap: text(n, "imap")?,
            lmtp: text(n, "lmtp")?,
            pop3: text(n, "pop3")?,
            http: text(n, "http")?,
            peer: text(n, "peer")?,
        })
    };
    document["nodes"].as_array()?.iter().map(node).collect()
}

/// The status of a GET.
pub(crate) async fn http_status(address: &str, path: &str) -> Result<u16, Error> {
    http_get(address, path).await.map(|(status, _)| status)
}

/// Status and body of a GET.
pub(crate) async fn http_get(address: &str, path: &str) -> Result<(u16, String), Error> {
    let wait = Duration::from_secs(2);
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(256 * 1024).read_to_end(&mut answer).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| Error::Protocol(text.chars().take(20).collect()))?;
        Ok((status, text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())))
    };
    tokio::time::timeout(wait, asking).await.map_err(|_| Error::Timeout(wait))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_is_read() {
        let document = serde_json::json!({ "nodes": [{ "id": "n1", "pid": 7, "imap": "127.0.0.1:11143", "imaps": "127.0.0.1:11993",
            "pop3": "127.0.0.1:11110", "lmtp": "127.0.0.1:11024", "peer": "127.0.0.1:17400", "http": "127.0.0.1:17480", "dir": "/x/n1" }] });
        let read = nodes(&document).unwrap();
        assert_eq!((read[0].id.as_str(), read[0].http.as_str()), ("n1", "127.0.0.1:17480"));
        assert!(nodes(&serde_json::json!({ "nodes": [{ "id": "n1" }] })).is_none());
    }
}
