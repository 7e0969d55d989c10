//! Nodes in namespaces: configured, started, formed to a cluster with accounts, and ended.

use super::clock::{self, Clock};
use super::space::{Space, client_address, peer_address, remove_leftovers};
use super::switch::Switch;
use crate::binary;
use crate::demo::{Node, alone, call, http_get, http_status};
use crate::imap::Imap;
use crate::site::Site;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long the cluster may take to form, on a machine busy with other things.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How long a node may take to stop before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(10);
const DOMAIN: &str = "demo.test";
const CLUSTER: &str = "partitions";
const PASSWORD: &str = "pw";
/// [`PASSWORD`], cheap to check.
const HASH: &str = "{SHA512-CRYPT}$6$parliament$WWBZBO0OjmA9lI1GHI8wguhUaVt4D4A/d8F2HJPWgexnkgdSzhsYbtE7ibxyy.RGvNfPGQ8eK8jcrifPxEuq90";

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes.
    pub nodes: usize,
    /// Copies of each group.
    pub replication: usize,
    /// Accounts `user0` ….
    pub users: usize,
    /// Raft groups.
    pub groups: u32,
    /// Each node gets a clock that may be set wrong.
    pub clocks: bool,
    /// Further settings of all nodes.
    pub settings: Vec<(&'static str, &'static str)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, replication: 3, users: 3, groups: 4, clocks: false, settings: Vec::new() }
    }
}

/// A running cluster.
pub struct Cluster {
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Login names of its accounts, with domain.
    pub users: Vec<String>,
    /// The network between the nodes.
    pub switch: Switch,
    /// The nodes' clocks, where they were asked for.
    pub clocks: Vec<Clock>,
    /// How long it took until all accounts could log in.
    pub ready_after: Duration,
    binary: PathBuf,
    dir: PathBuf,
    processes: Vec<Child>,
    spaces: Vec<Space>,
    temporary: Option<tempfile::TempDir>,
    /// Addresses and names of namespaces are fixed: one cluster at a time on a machine, and no demo beside it.
    _alone: File,
}

impl Cluster {
    /// Starts a cluster and waits until every account can log in at every node.
    ///
    /// # Errors
    /// In words: something could not be made or started, or was not ready in time.
    pub async fn start(options: &Options) -> Result<Self, String> {
        let binary = tokio::task::spawn_blocking(binary::parliament).await.map_err(|e| e.to_string())??;
        let alone = tokio::task::spawn_blocking(alone).await.map_err(|e| e.to_string())??;
        let started = Instant::now();
        remove_leftovers();
        let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
        let dir = temporary.path().to_owned();
        let switch = Switch::start(options.nodes)?;
        let spaces = (1..=options.nodes).map(Space::make).collect::<Result<Vec<_>, _>>()?;
        let mut cluster = Self {
            nodes: (1..=options.nodes).map(node).collect(),
            users: (0..options.users).map(|n| format!("user{n}@{DOMAIN}")).collect(),
            switch,
            clocks: Vec::new(),
            ready_after: Duration::ZERO,
            binary,
            dir,
            temporary: Some(temporary),
            processes: Vec::new(),
            spaces,
            _alone: alone,
        };
        cluster.configure(options).await?;
        let library = if options.clocks { Some(clock::build(&cluster.dir)?) } else { None };
        for number in 1..=options.nodes {
            cluster.start_process(number, library.as_deref())?;
        }
        let formed = cluster.form().await;
        formed.map_err(|error| format!("{error}\n{}", cluster.log_tail()))?;
        cluster.ready_after = started.elapsed();
        Ok(cluster)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    async fn configure(&self, options: &Options) -> Result<(), String> {
        let ca = self.file("ca").display().to_string();
        let named: Vec<String> = self.nodes.iter().flat_map(|n| ["--for".to_owned(), n.id.clone()]).collect();
        let mut words: Vec<&str> = vec!["init", "ca", "--out", &ca, "--cluster", CLUSTER];
        words.extend(named.iter().map(String::as_str));
        self.run(&words).await?;
        for (number, node) in self.nodes.iter().enumerate() {
            let dir = self.file(&node.id);
            std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            let given = self.settings(number + 1, &dir, options);
            let given: Vec<String> = given.into_iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]).collect();
            let path = dir.join("parliament.toml").display().to_string();
            let mut words = vec!["init", "config", path.as_str()];
            words.extend(given.iter().map(String::as_str));
            self.run(&words).await?;
        }
        Ok(())
    }

    fn settings(&self, number: usize, dir: &Path, options: &Options) -> Vec<(&'static str, String)> {
        let node = self.node(number);
        let peers: Vec<&str> = self.nodes.iter().map(|n| n.peer.as_str()).collect();
        let ca = |name: String| self.dir.join("ca").join(name).display().to_string();
        let mut settings = vec![
            ("cluster.name", CLUSTER.to_owned()),
            ("cluster.seeds", peers.join(",")),
            ("cluster.groups", options.groups.to_string()),
            ("cluster.replication", options.replication.to_string()),
            ("node.name", node.id.clone()),
            ("node.zone", format!("z{number}")),
            ("node.data_dir", dir.join("data").display().to_string()),
            ("tls.cluster.ca", ca("ca.pem".to_owned())),
            ("tls.cluster.cert", ca(format!("{}.pem", node.id))),
            ("tls.cluster.key_file", ca(format!("{}.key", node.id))),
            ("imap.listen", node.imap.clone()),
            ("imap.listen_tls", String::new()),
            ("pop3.listen", node.pop3.clone()),
            ("pop3.listen_tls", String::new()),
            ("lmtp.listen", node.lmtp.clone()),
            ("lmtp.add_headers", "false".to_owned()),
            ("http.listen", node.http.clone()),
            ("peer.listen", node.peer.clone()),
            // The clients' links carry passwords as those behind a proxy do that ends TLS.
            ("frontend.trusted", "10.210.0.0/16".to_owned()),
            ("auth.default_domain", DOMAIN.to_owned()),
            ("limits.connections_per_user_and_address", "1000".to_owned()),
            ("storage.segment_bytes", "16MiB".to_owned()),
            ("storage.cache_bytes", "64MiB".to_owned()),
        ];
        settings.extend(options.settings.iter().map(|(key, value)| (*key, (*value).to_owned())));
        settings
    }

    fn start_process(&mut self, number: usize, clock: Option<&Path>) -> Result<(), String> {
        let dir = self.file(&self.nodes[number - 1].id);
        let log = File::create(dir.join("log")).map_err(|e| format!("{}: {e}", dir.display()))?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.spaces[number - 1].name]).arg(&self.binary).arg("server");
        command.arg("--config").arg(dir.join("parliament.toml")).arg("--end-with-stdin");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|n| n.starts_with("PARLIAMENT_"))) {
            command.env_remove(name);
        }
        if let Some(library) = clock {
            let clock = Clock::new(dir.join("clock"))?;
            command.env("LD_PRELOAD", library).env("PARLIAMENT_TEST_CLOCK", &clock.path);
            self.clocks.push(clock);
        }
        command.stdin(Stdio::piped()).stdout(log).stderr(errors).process_group(0).kill_on_drop(true);
        self.processes.push(command.spawn().map_err(|e| format!("{}: {e}", self.binary.display()))?);
        Ok(())
    }

    async fn form(&self) -> Result<(), String> {
        self.insist(&["cluster", "init", "--yes"]).await?;
        for node in &self.nodes {
            self.wait_ready(&node.id, READY_WAIT).await?;
        }
        let (file, mut lines) = (self.file("users"), String::new());
        for user in &self.users {
            lines.push_str(&format!("{user}:{HASH}\n"));
        }
        std::fs::write(&file, lines).map_err(|e| format!("{}: {e}", file.display()))?;
        let file = file.display().to_string();
        self.insist(&["user", "import", &file, "--existing", "skip"]).await?;
        let until = Instant::now() + READY_WAIT;
        for (node, user) in self.nodes.iter().flat_map(|n| self.users.iter().map(move |u| (n, u))) {
            while let Err(error) = Imap::login(&node.imap, user, PASSWORD).await {
                if Instant::now() > until {
                    return Err(format!("{user} cannot log in at {}: {error}", node.id));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// A verb, again and again until it succeeds.
    async fn insist(&self, words: &[&str]) -> Result<Value, String> {
        let until = Instant::now() + READY_WAIT;
        loop {
            match self.verb(words).await {
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                done => return done,
            }
        }
    }

    async fn run(&self, words: &[&str]) -> Result<Value, String> {
        call(self.binary.clone(), words.iter().map(|w| (*w).to_owned()).collect()).await
    }

    /// Runs a verb at one node, over its admin socket, which no partition cuts.
    ///
    /// # Errors
    /// As [`crate::demo::Demo::verb`].
    pub async fn verb_at(&self, node: &str, words: &[&str]) -> Result<Value, String> {
        let socket = self.file(node).join("data/admin.sock").display().to_string();
        self.run(&[words, &["--node", &socket]].concat()).await
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The number of a node by its name; 0 when there is none.
    pub fn number(&self, id: &str) -> usize {
        self.nodes.iter().position(|n| n.id == id).map_or(0, |at| at + 1)
    }

    /// The node that holds a user, as the first node to answer knows it.
    pub async fn holder(&self, user: &str) -> Option<String> {
        let lease = self.verb(&["lease", "show", user]).await.ok()?;
        lease["holder"].as_str().filter(|_| lease["live"] != false).map(str::to_owned)
    }

    /// The leader of a group.
    pub async fn leader(&self, group: u64) -> Option<String> {
        let list = self.verb(&["group", "list"]).await.ok()?;
        let row = list["groups"].as_array()?.iter().find(|g| g["id"] == group)?;
        row["leader"].as_str().map(str::to_owned)
    }

    /// A metric of a node.
    pub async fn metric(&self, node: usize, name: &str) -> Option<f64> {
        let (_, text) = http_get(&self.node(node).http, "/metrics").await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Waits until a node's `/readyz` says 200.
    ///
    /// # Errors
    /// In words, when it does not within `wait`.
    pub async fn wait_ready(&self, id: &str, wait: Duration) -> Result<Duration, String> {
        let node = self.nodes.iter().find(|n| n.id == id).ok_or_else(|| format!("no node {id}"))?;
        let started = Instant::now();
        while !matches!(http_status(&node.http, "/readyz").await, Ok(200)) {
            if started.elapsed() > wait {
                return Err(format!("{id} is not ready within {wait:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(started.elapsed())
    }

    fn log_tail(&self) -> String {
        let tail = |node: &Node| {
            let text = std::fs::read_to_string(self.file(&node.id).join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(8).collect();
            format!("{}:\n{}", node.id, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// Ends all nodes as an operator does.
    ///
    /// # Errors
    /// In words, when one ended badly or had to be killed.
    pub async fn end(mut self) -> Result<(), String> {
        self.switch.heal();
        for process in &mut self.processes {
            // The end of its standard input is its order to stop.
            drop(process.stdin.take());
        }
        for (process, node) in self.processes.iter_mut().zip(&self.nodes) {
            let ended = tokio::time::timeout(STOP_WAIT, process.wait()).await;
            let status = ended.map_err(|_| format!("{} did not stop within {STOP_WAIT:?}", node.id))?.map_err(|e| e.to_string())?;
            if !status.success() {
                return Err(format!("{} ended with {status}", node.id));
            }
        }
        Ok(())
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

impl Site for Cluster {
    fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    fn password(&self) -> &str {
        PASSWORD
    }
    /// At the first node that can answer it: one that is cut off may not.
    async fn verb(&self, words: &[&str]) -> Result<Value, String> {
        let mut last = "no nodes".to_owned();
        for node in &self.nodes {
            match self.verb_at(&node.id, words).await {
                Ok(value) => return Ok(value),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn node(number: usize) -> Node {
    let (clients, peers) = (client_address(number), peer_address(number));
    Node {
        id: format!("n{number}"),
        imap: format!("{clients}:143"),
        lmtp: format!("{clients}:24"),
        pop3: format!("{clients}:110"),
        http: format!("{clients}:7480"),
        peer: format!("{peers}:7400"),
    }
}
