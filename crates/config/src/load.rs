//! From sources to a checked [`Config`].

use crate::problem::{COMBINATION, Problem, Problems, UNREADABLE, VALUE};
use crate::settings::{
    Auth, AuthDriver, Cluster, ClusterTls, Config, Frontend, Imap, Limits, Lmtp, Log, LogFormat, MailTls, Node, Pop3, Reads, Storage,
};
use crate::sources::{Origin, Sources, gather};
use crate::table::{self, Default, SETTINGS, Setting};
use crate::value::{Raw, Value};
use parliament_ids::Network;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

const CLUSTER_TLS: [&str; 3] = ["tls.cluster.ca", "tls.cluster.cert", "tls.cluster.key_file"];

/// A setting with its value and where that came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Dotted path.
    pub key: &'static str,
    /// The value.
    pub value: Value,
    /// Its origin.
    pub origin: Origin,
}

/// A configuration and the origin of each of its values.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// All settings in the table's order.
    pub values: Vec<Resolved>,
}

/// Reads, lays over each other and checks all sources.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let (values, mut problems) = resolve(sources);
    let picker = Picker { values: &values };
    let config = picker.config();
    check_together(&picker, &mut problems);
    match config {
        Some(config) if problems.is_empty() => {
            let values = SETTINGS.iter().filter_map(|s| values.get(s.key).cloned()).collect();
            Ok(Loaded { config, values })
        }
        _ => Err(Problems(problems)),
    }
}

/// What an operator's command needs of a configuration to reach a node: cluster name and certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `cluster.name`
    pub cluster: String,
    /// `[tls.cluster]`
    pub tls: Option<ClusterTls>,
}

/// As [`load`], for an operator's command: what only the daemon needs may be missing.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load_credentials(sources: &Sources) -> Result<Credentials, Problems> {
    let (values, mut problems) = resolve(sources);
    let picker = Picker { values: &values };
    all_or_none(&picker, &CLUSTER_TLS, &mut problems);
    match picker.text("cluster.name") {
        Some(cluster) if problems.is_empty() => Ok(Credentials { cluster, tls: picker.tls_cluster() }),
        _ => Err(Problems(problems)),
    }
}

/// The value of every setting that has a valid one, and what is wrong with the others.
fn resolve(sources: &Sources) -> (BTreeMap<&'static str, Resolved>, Vec<Problem>) {
    let mut problems = Vec::new();
    let given = gather(sources, &mut problems);
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        let (value, origin) = match given.get(setting.key) {
            Some((Raw::Reported, _)) => continue,
            Some((raw, origin)) => match setting.kind.check(raw) {
                Ok(value) => (value, origin.clone()),
                Err(why) => {
                    problems.push(Problem::new(VALUE, format!("{origin}: {} {why}", setting.key)).hint(setting.doc));
                    continue;
                }
            },
            None => (default_of(setting), Origin::Default),
        };
        values.insert(setting.key, Resolved { key: setting.key, value, origin });
    }
    derive(&mut values);
    (values, problems)
}

/// The table's default. That each default is valid TOML of its kind is held by a test.
fn default_of(setting: &Setting) -> Value {
    let Default::Is(text) = setting.default else { return Value::Unset };
    let parsed: Option<toml::Table> = format!("v = {text}").parse().ok();
    let value = parsed.and_then(|mut table| table.remove("v")).and_then(|v| setting.kind.check(&raw_of(v)).ok());
    debug_assert!(value.is_some(), "the default of {} is not of its kind", setting.key);
    value.unwrap_or(Value::Unset)
}

fn raw_of(value: toml::Value) -> Raw {
    match value {
        toml::Value::String(text) => Raw::Text(text),
        toml::Value::Integer(n) => Raw::Integer(n.into()),
        toml::Value::Boolean(on) => Raw::Flag(on),
        toml::Value::Array(items) => Raw::List(items.into_iter().map(raw_of).collect()),
        other => Raw::Other(other.type_str()),
    }
}

/// Fills in what is worked out from the machine or other settings.
fn derive(values: &mut BTreeMap<&'static str, Resolved>) {
    if let Some(name) = values.get_mut("node.name").filter(|v| v.value == Value::Unset) {
        name.value = Value::Text(host_name());
    }
    let picker = Picker { values };
    let (Some(name), Some(peer)) = (picker.text("node.name"), picker.address("peer.listen")) else { return };
    if let Some(advertise) = values.get_mut("node.advertise").filter(|v| v.value == Value::Unset) {
        let definite = !peer.ip().is_unspecified();
        advertise.value = Value::Text(if definite { peer.to_string() } else { format!("{name}:{}", peer.port()) });
    }
}

/// The kernel's host name; `localhost` where it has none that can be a node's name.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    match table::Kind::Name.check(&Raw::Text(name.to_owned())) {
        Ok(_) => name.to_owned(),
        Err(_) => "localhost".to_owned(),
    }
}

/// Typed access to checked values. `None` where a value was bad (and has been reported).
struct Picker<'a> {
    values: &'a BTreeMap<&'static str, Resolved>,
}

macro_rules! pick {
    ($name:ident, $variant:ident, $out:ty) => {
        fn $name(&self, key: &'static str) -> Option<$out> {
            match self.value(key)? {
                Value::$variant(v) => Some(v.clone()),
                _ => None,
            }
        }
    };
}

impl Picker<'_> {
    fn value(&self, key: &'static str) -> Option<&Value> {
        #[cfg(test)]
        tests::TAKEN.with_borrow_mut(|taken| taken.insert(key));
        self.values.get(key).map(|r| &r.value)
    }
    pick!(text, Text, String);
    pick!(texts, Texts, Vec<String>);
    pick!(path, Path, PathBuf);
    pick!(address, Address, SocketAddr);
    pick!(addresses, Addresses, Vec<SocketAddr>);
    pick!(networks, Networks, Vec<Network>);
    pick!(integer, Integer, u64);
    pick!(bytes, Bytes, u64);
    pick!(flag, Flag, bool);

    /// False also where a value was bad: that has been reported already.
    fn is_unset(&self, key: &'static str) -> bool {
        self.value(key) == Some(&Value::Unset)
    }

    fn config(&self) -> Option<Config> {
        Some(Config {
            cluster: Cluster {
                name: self.text("cluster.name")?,
                seeds: self.texts("cluster.seeds")?,
                groups: u32::try_from(self.integer("cluster.groups")?).ok()?,
                replication: u8::try_from(self.integer("cluster.replication")?).ok()?,
                serve_alone: self.text("cluster.lone_copy")? == "serve",
            },
            node: Node {
                name: self.text("node.name")?,
                zone: self.text("node.zone")?,
                data_dir: self.path("node.data_dir")?,
                advertise: self.text("node.advertise")?,
                role: self.text("node.role")?.parse().ok()?,
                reads: if self.text("node.reads")? == "quorum" { Reads::Quorum } else { Reads::Local },
                follow_users: self.flag("node.follow_users")?,
            },
            tls_cluster: self.tls_cluster(),
            tls_mail: self.tls_mail(),
            imap: Imap {
                listen: self.addresses("imap.listen")?,
                listen_tls: self.addresses("imap.listen_tls")?,
                imap4rev2: self.flag("imap.imap4rev2")?,
            },
            pop3: Pop3 { listen: self.addresses("pop3.listen")?, listen_tls: self.addresses("pop3.listen_tls")? },
            lmtp: Lmtp {
                listen: self.addresses("lmtp.listen")?,
                add_headers: self.flag("lmtp.add_headers")?,
                recipient_delimiter: self.text("lmtp.recipient_delimiter")?.chars().next(),
            },
            frontend: Frontend {
                trusted: self.networks("frontend.trusted")?,
                proxy_protocol: self.networks("frontend.proxy_protocol")?,
                smtp: self.address("frontend.smtp"),
            },
            http_listen: self.addresses("http.listen")?,
            peer_listen: self.address("peer.listen")?,
            auth: self.auth()?,
            limits: self.limits()?,
            storage: Storage {
                segment_bytes: self.bytes("storage.segment_bytes")?,
                cache_bytes: self.bytes("storage.cache_bytes")?,
                snapshot_entries: self.integer("storage.snapshot_entries")?,
                scrub_days: self.integer("storage.scrub_days")?,
                scrub_bytes_per_second: self.bytes("storage.scrub_bytes_per_second")?,
            },
            log: self.log()?,
        })
    }

    fn tls_cluster(&self) -> Option<ClusterTls> {
        let (ca, cert, key) = (self.path("tls.cluster.ca"), self.path("tls.cluster.cert"), self.path("tls.cluster.key_file"));
        Some(ClusterTls { ca: ca?, cert: cert?, key_file: key? })
    }

    fn tls_mail(&self) -> Option<MailTls> {
        let (cert, key) = (self.path("tls.mail.cert"), self.path("tls.mail.key_file"));
        Some(MailTls { cert: cert?, key_file: key? })
    }

    fn auth(&self) -> Option<Auth> {
        let driver = match self.text("auth.driver")?.as_str() {
            "internal" => AuthDriver::Internal,
            _ => return None,
        };
        let default_domain = Some(self.text("auth.default_domain")?.to_ascii_lowercase()).filter(|d| !d.is_empty());
        Some(Auth { driver, default_domain, plaintext_on_loopback: self.flag("auth.plaintext_on_loopback")? })
    }

    fn limits(&self) -> Option<Limits> {
        Some(Limits {
            message_bytes: self.bytes("limits.message_bytes")?,
            connections: usize::try_from(self.integer("limits.connections")?).ok()?,
            connections_per_user_and_address: usize::try_from(self.integer("limits.connections_per_user_and_address")?).ok()?,
            spool_bytes: self.bytes("limits.spool_bytes")?,
        })
    }

    fn log(&self) -> Option<Log> {
        let format = match self.text("log.format")?.as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        Some(Log { format, filter: self.text("log.filter")? })
    }
}

/// Rules between settings. A rule whose settings are not all readable is passed over.
fn check_together(values: &Picker<'_>, problems: &mut Vec<Problem>) {
    if values.integer("cluster.replication").is_some_and(|n| n % 2 == 0) {
        problems.push(
            Problem::new(COMBINATION, "cluster.replication is even: it costs a copy and survives no more than the odd number below")
                .hint("say 1, 3, 5 or 7"),
        );
    }
    all_or_none(values, &CLUSTER_TLS, problems);
    all_or_none(values, &["tls.mail.cert", "tls.mail.key_file"], problems);
    if let Some(peer) = values.address("peer.listen").filter(|a| !a.ip().is_loopback() && values.is_unset("tls.cluster.ca")) {
        problems.push(
            Problem::new(COMBINATION, format!("peer.listen = \"{peer}\" is not on loopback, and there is no [tls.cluster]"))
                .hint("make certificates with `parliament init ca` and name them in [tls.cluster], or listen on 127.0.0.1"),
        );
    }
    for key in ["imap.listen_tls", "pop3.listen_tls"] {
        if values.addresses(key).is_some_and(|a| !a.is_empty()) && values.is_unset("tls.mail.cert") {
            problems.push(
                Problem::new(COMBINATION, format!("{key} listens with TLS, and there is no [tls.mail]"))
                    .hint(format!("name a certificate and key in [tls.mail], or set {key} = []")),
            );
        }
    }
    check_listeners(values, problems);
}

fn all_or_none(values: &Picker<'_>, keys: &[&'static str], problems: &mut Vec<Problem>) {
    let missing: Vec<_> = keys.iter().filter(|k| values.is_unset(k)).copied().collect();
    if !missing.is_empty() && missing.len() < keys.len() {
        let section = keys[0].rsplit_once('.').map_or("", |(s, _)| s);
        problems.push(Problem::new(COMBINATION, format!("[{section}] lacks {}", missing.join(" and "))).hint("give all of them or none"));
    }
}

/// Two listeners on one port of one address: the second could not bind. (An unspecified address covers its whole family.)
fn check_listeners(values: &Picker<'_>, problems: &mut Vec<Problem>) {
    let mut all: Vec<(&str, SocketAddr)> = Vec::new();
    for key in ["imap.listen", "imap.listen_tls", "pop3.listen", "pop3.listen_tls", "lmtp.listen", "http.listen"] {
        all.extend(values.addresses(key).unwrap_or_default().into_iter().map(|a| (key, a)));
    }
    all.extend(values.address("peer.listen").map(|a| ("peer.listen", a)));
    for (i, (key, address)) in all.iter().enumerate() {
        let clash = all[..i].iter().find(|(_, other)| other.port() == address.port() && address.port() != 0 && overlap(other, address));
        if let Some((earlier, _)) = clash {
            problems.push(Problem::new(COMBINATION, format!("{key} and {earlier} both listen on port {}", address.port())));
        }
    }
}

fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let covers = |a: &SocketAddr, b: &SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.ip() == b.ip() || covers(a, b) || covers(b, a)
}

/// Looks at what the settings name: certificates and keys that can be read, keys that only their owner can. For
/// `config check`, on the machine that will run the daemon.
#[must_use]
pub fn check_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut look = |key: &str, path: &PathBuf, secret: bool| match std::fs::File::open(path).and_then(|f| f.metadata()) {
        Err(why) => problems.push(Problem::new(UNREADABLE, format!("{key}: {}: {why}", path.display()))),
        Ok(meta) if !meta.is_file() => problems.push(Problem::new(UNREADABLE, format!("{key}: {} is no file", path.display()))),
        Ok(meta) => {
            let mode = std::os::unix::fs::MetadataExt::mode(&meta);
            if secret && mode & 0o007 != 0 {
                let message = format!("{key}: {} may be read by everyone (mode {:04o})", path.display(), mode & 0o7777);
                problems.push(Problem::new(UNREADABLE, message).hint(format!("chmod 0600 {}", path.display())));
            }
        }
    };
    if let Some(tls) = &config.tls_cluster {
        look("tls.cluster.ca", &tls.ca, false);
        look("tls.cluster.cert", &tls.cert, false);
        look("tls.cluster.key_file", &tls.key_file, true);
    }
    if let Some(tls) = &config.tls_mail {
        look("tls.mail.cert", &tls.cert, false);
        look("tls.mail.key_file", &tls.key_file, true);
    }
    problems
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
