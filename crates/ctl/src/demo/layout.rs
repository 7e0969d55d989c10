//! Where everything of a demo lies: ports, folders, the nodes' configurations, and the ready file.

use crate::error::AdminError;
use crate::pki::{Authority, Purpose, make_private_dir};
use crate::verbs::small_config;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Domain of all accounts.
pub(crate) const DOMAIN: &str = "demo.test";
/// Longest path of a unix socket, bytes (sun_path, less its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Ports of node 1; those of node *i* are 10000 × (*i* - 1) above.
const IMAP: u16 = 11143;
const IMAPS: u16 = 11993;
const POP3: u16 = 11110;
const LMTP: u16 = 11024;
const PEER: u16 = 17400;
const HTTP: u16 = 17480;

/// Whether a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its process runs.
    Up,
    /// It has no process.
    Down,
    /// Its process is stopped.
    Paused,
}

/// A node as the ready file tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeEntry {
    /// `n1` to `n5`.
    pub(crate) id: String,
    /// Its process; 0 while it has none.
    pub(crate) pid: u32,
    pub(crate) imap: String,
    pub(crate) imaps: String,
    pub(crate) pop3: String,
    pub(crate) lmtp: String,
    pub(crate) peer: String,
    pub(crate) http: String,
    /// Its folder: `parliament.toml`, `log` and `data`.
    pub(crate) dir: PathBuf,
    /// Only in `demo ls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<State>,
}

/// The ready file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) nodes: Vec<NodeEntry>,
    /// Login names with their domain.
    pub(crate) users: Vec<String>,
    pub(crate) password: String,
    /// The authority that signed the certificate of the IMAPS ports.
    pub(crate) ca: PathBuf,
}

/// What a demo is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) ready: Ready,
    pub(crate) groups: u32,
    /// The last node is a witness.
    pub(crate) witness: bool,
}

impl Plan {
    pub(crate) fn new(dir: &Path, nodes: usize, groups: u32, users: u32, password: String) -> Result<Self, AdminError> {
        let entries: Vec<NodeEntry> = (1..=nodes).map(|number| entry(dir, number)).collect();
        for node in &entries {
            let socket = node.dir.join("data/admin.sock");
            if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                let message = format!("{}: too long a path for a unix socket (at most {SOCKET_PATH_BYTES_MAX} bytes)", socket.display());
                return Err(AdminError::usage(message).with_hint("choose a --dir with a shorter path"));
            }
        }
        let names = ["alice".to_owned(), "bob".to_owned()].into_iter().chain((0..users).map(|n| format!("user{n}")));
        let users = names.map(|name| format!("{name}@{DOMAIN}")).collect();
        let ready = Ready { nodes: entries, users, password, ca: dir.join("ca/ca.pem") };
        Ok(Self { dir: dir.to_owned(), ready, groups, witness: false })
    }

    /// The last of three nodes votes and keeps no mail.
    pub(crate) fn with_witness(mut self) -> Result<Self, AdminError> {
        if self.ready.nodes.len() != 3 {
            return Err(AdminError::usage("--witness wants three nodes: two with mail, and the witness"));
        }
        self.witness = true;
        Ok(self)
    }

    /// Makes folders, certificates (once) and configurations.
    pub(crate) fn write(&self) -> Result<(), AdminError> {
        let ca = self.dir.join("ca");
        let (authority, _) = Authority::open_or_make(&ca)?;
        if !ca.join("mail.pem").exists() {
            let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            authority.issue("mail", &Purpose::Mail, &names, 825)?;
        }
        for (number, node) in self.ready.nodes.iter().enumerate() {
            make_private_dir(&node.dir)?;
            let path = config_path(node);
            let text = self.config(number + 1, node)?;
            std::fs::write(&path, text).map_err(|e| AdminError::file(&path, e))?;
        }
        Ok(())
    }

    fn config(&self, number: usize, node: &NodeEntry) -> Result<String, AdminError> {
        let nodes = &self.ready.nodes;
        let seeds: Vec<_> = nodes.iter().map(|n| n.peer.clone()).collect();
        let path = |p: PathBuf| p.display().to_string();
        small_config(&[
            ("cluster.name", "demo".into()),
            ("cluster.seeds", seeds.join(",")),
            ("cluster.groups", self.groups.to_string()),
            ("cluster.replication", nodes.len().min(3).to_string()),
            ("node.name", node.id.clone()),
            ("node.zone", format!("z{number}")),
            ("node.role", if self.witness && number == nodes.len() { "witness" } else { "data" }.into()),
            ("node.data_dir", path(node.dir.join("data"))),
            ("tls.mail.cert", path(self.dir.join("ca/mail.pem"))),
            ("tls.mail.key_file", path(self.dir.join("ca/mail.key"))),
            ("imap.listen", node.imap.clone()),
            ("imap.listen_tls", node.imaps.clone()),
            ("pop3.listen", node.pop3.clone()),
            ("pop3.listen_tls", String::new()),
            ("lmtp.listen", node.lmtp.clone()),
            // What is delivered comes back byte for byte.
            ("lmtp.add_headers", "false".into()),
            ("http.listen", node.http.clone()),
            ("peer.listen", node.peer.clone()),
            ("auth.default_domain", DOMAIN.into()),
            ("auth.plaintext_on_loopback", "true".into()),
            // All clients of a demo come from one address.
            ("limits.connections_per_user_and_address", "1000".into()),
            // Smaller files are zeroed faster, and five nodes share one machine.
            ("storage.segment_bytes", "16MiB".into()),
            ("storage.cache_bytes", "64MiB".into()),
        ])
    }

    /// The first port that something else listens on.
    pub(crate) fn busy_port(&self) -> Option<String> {
        let mut ports = self.ready.nodes.iter().flat_map(|n| [&n.imap, &n.imaps, &n.pop3, &n.lmtp, &n.peer, &n.http]);
        ports.find(|address| std::net::TcpListener::bind(address).is_err()).cloned()
    }
}

/// The configuration of a node.
pub(crate) fn config_path(node: &NodeEntry) -> PathBuf {
    node.dir.join("parliament.toml")
}

fn entry(dir: &Path, number: usize) -> NodeEntry {
    // At most five nodes, so that 10000 × (number - 1) and every base stay below 65536.
    let shift = u16::try_from((number - 1) * 10_000).unwrap_or(u16::MAX);
    let at = |base: u16| format!("127.0.0.1:{}", base.saturating_add(shift));
    let id = format!("n{number}");
    NodeEntry {
        pid: 0,
        imap: at(IMAP),
        imaps: at(IMAPS),
        pop3: at(POP3),
        lmtp: at(LMTP),
        peer: at(PEER),
        http: at(HTTP),
        dir: dir.join(&id),
        state: None,
        id,
    }
}

/// Writes a file so that whoever waits for it sees it whole.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), AdminError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(|e| AdminError::file(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_documented_ones() {
        let plan = Plan::new(Path::new("/tmp/d"), 5, 8, 2, "p".into()).unwrap();
        let first = &plan.ready.nodes[0];
        let ports = [&first.imap, &first.imaps, &first.pop3, &first.lmtp, &first.peer, &first.http];
        assert_eq!(
            ports,
            ["127.0.0.1:11143", "127.0.0.1:11993", "127.0.0.1:11110", "127.0.0.1:11024", "127.0.0.1:17400", "127.0.0.1:17480"]
        );
        assert_eq!(plan.ready.nodes[1].imap, "127.0.0.1:21143");
        assert_eq!(plan.ready.nodes[4].http, "127.0.0.1:57480");
        assert_eq!(plan.ready.users, ["alice@demo.test", "bob@demo.test", "user0@demo.test", "user1@demo.test"]);
    }

    #[test]
    fn what_is_written_is_a_valid_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(dir.path(), 3, 8, 0, "p".into()).unwrap();
        plan.write().unwrap();
        plan.write().unwrap();
        for node in &plan.ready.nodes {
            let sources = parliament_config::Sources { file: Some(config_path(node)), ..Default::default() };
            let config = parliament_config::load(&sources).unwrap().config;
            assert_eq!((config.node.name.as_str(), config.cluster.seeds.len(), config.cluster.groups), (node.id.as_str(), 3, 8));
            assert_eq!(config.node.advertise, node.peer);
            assert_eq!(parliament_config::check_files(&config), []);
            assert!(config.auth.plaintext_on_loopback && config.tls_cluster.is_none() && !config.lmtp.add_headers);
        }
        assert!(plan.ready.ca.exists());
    }

    #[test]
    fn the_last_of_three_may_be_a_witness() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Plan::new(dir.path(), 1, 8, 0, "p".into()).unwrap().with_witness().is_err());
        let plan = Plan::new(dir.path(), 3, 8, 0, "p".into()).unwrap().with_witness().unwrap();
        plan.write().unwrap();
        let role = |node: &NodeEntry| {
            let sources = parliament_config::Sources { file: Some(config_path(node)), ..Default::default() };
            parliament_config::load(&sources).unwrap().config.node.role.name()
        };
        assert_eq!(plan.ready.nodes.iter().map(role).collect::<Vec<_>>(), ["data", "data", "witness"]);
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused() {
        assert!(Plan::new(&Path::new("/tmp").join("x".repeat(90)), 1, 8, 0, "p".into()).is_err());
    }

    #[test]
    fn the_ready_file_has_the_documented_form() {
        let plan = Plan::new(Path::new("/tmp/d"), 1, 8, 0, "secret".into()).unwrap();
        let json = serde_json::to_value(&plan.ready).unwrap();
        let node = json["nodes"][0].as_object().unwrap();
        let keys: Vec<_> = node.keys().map(String::as_str).collect();
        assert_eq!(keys, ["dir", "http", "id", "imap", "imaps", "lmtp", "peer", "pid", "pop3"]);
        assert_eq!(json["password"], "secret");
        assert_eq!(json["ca"], "/tmp/d/ca/ca.pem");
    }
}
