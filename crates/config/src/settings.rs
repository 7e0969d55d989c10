//! The checked configuration, as the daemon uses it. What each field means stands in the table of settings.

use parliament_ids::{Network, NodeRole};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A checked configuration. Fields bear the names of the settings; `parliament config explain` tells of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[node]`
    pub node: Node,
    /// `[tls.cluster]`; `None` only when peers listen on loopback.
    pub tls_cluster: Option<ClusterTls>,
    /// `[tls.mail]`; `None` only when nothing listens with TLS.
    pub tls_mail: Option<MailTls>,
    /// `[imap]`
    pub imap: Imap,
    /// `[pop3]`
    pub pop3: Pop3,
    /// `[lmtp]`
    pub lmtp: Lmtp,
    /// `[frontend]`
    pub frontend: Frontend,
    /// `[http] listen`
    pub http_listen: Vec<SocketAddr>,
    /// `[peer] listen`
    pub peer_listen: SocketAddr,
    /// `[auth]`
    pub auth: Auth,
    /// `[limits]`
    pub limits: Limits,
    /// `[storage]`
    pub storage: Storage,
    /// `[log]`
    pub log: Log,
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `cluster.name`
    pub name: String,
    /// `cluster.seeds`
    pub seeds: Vec<String>,
    /// `cluster.groups`
    pub groups: u32,
    /// `cluster.replication`: 1, 3, 5 or 7.
    pub replication: u8,
    /// `cluster.lone_copy` is `serve`: one of two data nodes may serve alone beside a witness.
    pub serve_alone: bool,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `node.name`
    pub name: String,
    /// `node.zone`
    pub zone: String,
    /// `node.data_dir`
    pub data_dir: PathBuf,
    /// `node.advertise`, `HOST:PORT`.
    pub advertise: String,
    /// `node.role`
    pub role: NodeRole,
    /// `node.reads`
    pub reads: Reads,
    /// `node.follow_users`
    pub follow_users: bool,
}

/// How reads are answered by the holder of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// From its own tables, while promises hold.
    Local,
    /// After asking a majority.
    Quorum,
}

/// `[tls.cluster]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTls {
    /// `tls.cluster.ca`
    pub ca: PathBuf,
    /// `tls.cluster.cert`
    pub cert: PathBuf,
    /// `tls.cluster.key_file`
    pub key_file: PathBuf,
}

/// `[tls.mail]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailTls {
    /// `tls.mail.cert`
    pub cert: PathBuf,
    /// `tls.mail.key_file`
    pub key_file: PathBuf,
}

/// `[imap]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imap {
    /// `imap.listen`
    pub listen: Vec<SocketAddr>,
    /// `imap.listen_tls`
    pub listen_tls: Vec<SocketAddr>,
    /// `imap.imap4rev2`
    pub imap4rev2: bool,
}

/// `[pop3]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pop3 {
    /// `pop3.listen`
    pub listen: Vec<SocketAddr>,
    /// `pop3.listen_tls`
    pub listen_tls: Vec<SocketAddr>,
}

/// `[lmtp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lmtp {
    /// `lmtp.listen`
    pub listen: Vec<SocketAddr>,
    /// `lmtp.add_headers`
    pub add_headers: bool,
    /// `lmtp.recipient_delimiter`
    pub recipient_delimiter: Option<char>,
}

/// `[frontend]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// `frontend.trusted`
    pub trusted: Vec<Network>,
    /// `frontend.proxy_protocol`
    pub proxy_protocol: Vec<Network>,
    /// `frontend.smtp`
    pub smtp: Option<SocketAddr>,
}

/// Who knows accounts and passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthDriver {
    /// The cluster's own accounts.
    Internal,
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// `auth.driver`
    pub driver: AuthDriver,
    /// `auth.default_domain`, in lower case.
    pub default_domain: Option<String>,
    /// `auth.plaintext_on_loopback`
    pub plaintext_on_loopback: bool,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `limits.message_bytes`
    pub message_bytes: u64,
    /// `limits.connections`
    pub connections: usize,
    /// `limits.connections_per_user_and_address`
    pub connections_per_user_and_address: usize,
    /// `limits.spool_bytes`
    pub spool_bytes: u64,
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// `storage.segment_bytes`
    pub segment_bytes: u64,
    /// `storage.cache_bytes`
    pub cache_bytes: u64,
    /// `storage.snapshot_entries`
    pub snapshot_entries: u64,
    /// `storage.scrub_days`
    pub scrub_days: u64,
    /// `storage.scrub_bytes_per_second`
    pub scrub_bytes_per_second: u64,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `log.format`
    pub format: LogFormat,
    /// `log.filter`, in tracing-subscriber's syntax.
    pub filter: String,
}

impl Config {
    /// The unix socket for admin commands: `<data_dir>/admin.sock`, mode 0600.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.node.data_dir.join("admin.sock")
    }
}
