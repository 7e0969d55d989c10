//! The table of all settings: the one place that names them, their defaults, bounds and meaning. Loading, `config show`,
//! `config explain`, `init config` and `deploy/example.toml` all come from it.

use parliament_ids::limits;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Dotted path, such as `imap.listen_tls`.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What holds when nobody says otherwise.
    pub default: Default,
    /// What it means: whole sentences, without line breaks.
    pub doc: &'static str,
}

/// What a setting is when no flag, variable or file gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This value, in TOML.
    Is(&'static str),
    /// Worked out when loading.
    Derived {
        /// How, in words.
        how: &'static str,
        /// A value for the example file, in TOML.
        example: &'static str,
    },
    /// Nothing: the feature is off.
    Unset {
        /// A value for the example file, in TOML.
        example: &'static str,
    },
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1 to 63 letters, digits, `-`, `_`, `.`; starts with a letter or digit.
    Name,
    /// Any text without control characters, at most 1,024 bytes.
    Text,
    /// A mail domain in ASCII, or empty.
    Domain,
    /// Empty or one ASCII character.
    Delimiter,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path; absolute, so that it does not depend on where the daemon is started.
    Path,
    /// One address to listen on, `IP:PORT`.
    Address,
    /// Addresses to listen on; none switches the listener off.
    Addresses,
    /// Networks of addresses; none switches off what they are for.
    Networks,
    /// `HOST:PORT` as others connect to it.
    Endpoint,
    /// Several `HOST:PORT`.
    Endpoints,
    /// A whole number within these bounds.
    Integer(u64, u64),
    /// A number of bytes within these bounds; `KiB`, `MiB`, `GiB` and `TiB` may follow.
    Bytes(u64, u64),
    /// `true` or `false`.
    Flag,
}

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

const fn setting(key: &'static str, kind: Kind, default: Default, doc: &'static str) -> Setting {
    Setting { key, kind, default, doc }
}

/// Every setting, grouped by section in the order of the example file.
pub static SETTINGS: &[Setting] = &[
    setting(
        "cluster.name",
        Kind::Name,
        Default::Is("\"parliament\""),
        "Name of the cluster. Every node's cluster certificate must name it, and nodes of another name are turned away.",
    ),
    setting(
        "cluster.seeds",
        Kind::Endpoints,
        Default::Is("[]"),
        "Peer addresses where a node finds the cluster when it starts. The node's own may be among them, so that the list is the same everywhere. With none, the node is a cluster of its own.",
    ),
    setting(
        "cluster.groups",
        Kind::Integer(1, 1024),
        Default::Is("64"),
        "Raft groups that users are spread over. Read once, by `cluster init`; it never changes afterwards.",
    ),
    setting(
        "cluster.replication",
        Kind::Integer(1, 7),
        Default::Is("3"),
        "Copies of each group: 1, 3, 5 or 7. A cluster of fewer nodes keeps one on each. Read once, by `cluster init`.",
    ),
    setting(
        "cluster.lone_copy",
        Kind::Choice(&["serve", "refuse"]),
        Default::Is("\"serve\""),
        "With two data nodes and a witness, while one data node is down. `serve`: the other one serves alone, which every node records first; new mail is on one disk until its partner is back and has caught up, and `status` says DEGRADED. `refuse`: nothing is confirmed until both are there.",
    ),
    setting(
        "node.name",
        Kind::Name,
        Default::Derived { how: "the host name", example: "\"mx1\"" },
        "Name of this node in commands and logs. The node's identity is not its name: it lies in the data directory.",
    ),
    setting(
        "node.zone",
        Kind::Name,
        Default::Is("\"default\""),
        "What this node shares a fate with (a rack, a room, a data centre). The copies of a group are spread over zones.",
    ),
    setting(
        "node.data_dir",
        Kind::Path,
        Default::Is("\"/var/lib/parliament\""),
        "Where everything lies that the node keeps, and the admin socket. Belongs to the daemon alone (mode 0700).",
    ),
    setting(
        "node.advertise",
        Kind::Endpoint,
        Default::Derived {
            how: "node.name with the port of peer.listen; peer.listen itself where that is one definite address",
            example: "\"mx1.example.org:7400\"",
        },
        "Address at which the other nodes reach this one. A host name is looked up again at each connect.",
    ),
    setting(
        "node.role",
        Kind::Choice(&["data", "witness", "frontend", "copy"]),
        Default::Is("\"data\""),
        "What the node is in the cluster for, from its first start on. `data`: it keeps mail and serves it. `witness`: it votes beside two data nodes, so that either may die, and keeps no bodies. `frontend`: it serves clients and keeps no mail. `copy`: it follows all groups without a vote, for another site; nobody waits for it.",
    ),
    setting(
        "node.reads",
        Kind::Choice(&["local", "quorum"]),
        Default::Is("\"local\""),
        "`local`: the holder of a user's lease answers reads by itself while the other nodes promise that nobody takes the lease, counted by clocks that are watched to run at one rate. `quorum`: every read asks a majority first. For virtual machines that are paused or moved while they run: their clock may stop unseen.",
    ),
    setting(
        "node.follow_users",
        Kind::Flag,
        Default::Is("true"),
        "Whether this node hands users whom it holds over to the zone where nearly all of their sessions have been for a while. Says nothing where all nodes are of one zone.",
    ),
    setting(
        "tls.cluster.ca",
        Kind::Path,
        Default::Unset { example: "\"/etc/parliament/cluster-ca.pem\"" },
        "The cluster's certificate authority, PEM. Nodes prove themselves to each other with certificates signed by it.",
    ),
    setting(
        "tls.cluster.cert",
        Kind::Path,
        Default::Unset { example: "\"/etc/parliament/node.pem\"" },
        "This node's cluster certificate, PEM. Its names hold node.name and cluster.name; `init ca` makes it.",
    ),
    setting(
        "tls.cluster.key_file",
        Kind::Path,
        Default::Unset { example: "\"/etc/parliament/node.key\"" },
        "The key of tls.cluster.cert, PEM. Only the daemon may read it.",
    ),
    setting(
        "tls.mail.cert",
        Kind::Path,
        Default::Unset { example: "\"/etc/parliament/mail.pem\"" },
        "The certificate shown to mail clients, PEM, with its intermediates. Read again on SIGHUP.",
    ),
    setting(
        "tls.mail.key_file",
        Kind::Path,
        Default::Unset { example: "\"/etc/parliament/mail.key\"" },
        "The key of tls.mail.cert, PEM. Only the daemon may read it.",
    ),
    setting(
        "imap.listen",
        Kind::Addresses,
        Default::Is("[\"[::]:143\"]"),
        "Addresses for IMAP with STARTTLS. `[::]` takes IPv4 as well; hosts without IPv6 say `0.0.0.0:143`.",
    ),
    setting("imap.listen_tls", Kind::Addresses, Default::Is("[\"[::]:993\"]"), "Addresses for IMAP under TLS from the first byte."),
    setting(
        "imap.imap4rev2",
        Kind::Flag,
        Default::Is("true"),
        "Whether IMAP4rev2 is offered beside IMAP4rev1. Without, clients that stumble over it see IMAP4rev1 alone.",
    ),
    setting("pop3.listen", Kind::Addresses, Default::Is("[\"[::]:110\"]"), "Addresses for POP3 with STLS."),
    setting("pop3.listen_tls", Kind::Addresses, Default::Is("[\"[::]:995\"]"), "Addresses for POP3 under TLS from the first byte."),
    setting(
        "lmtp.listen",
        Kind::Addresses,
        Default::Is("[]"),
        "Addresses for LMTP, where the mail transfer agent delivers. Off by default: whoever connects may deliver to anyone. The usual port is 24.",
    ),
    setting(
        "lmtp.add_headers",
        Kind::Flag,
        Default::Is("true"),
        "Whether delivery adds Return-Path and Received. Without, the bytes are kept exactly as they came.",
    ),
    setting(
        "lmtp.recipient_delimiter",
        Kind::Delimiter,
        Default::Is("\"+\""),
        "What separates the account from a detail in a recipient's local part (ann+lists@example.org). Empty: nothing does.",
    ),
    setting(
        "frontend.trusted",
        Kind::Networks,
        Default::Is("[]"),
        "Networks of proxies that have ended TLS and know their clients (nginx, Dovecot, Postfix). They are believed what they tell of a client: Client-IP at /nginx-auth, IMAP's ID with x-originating-ip, XCLIENT of POP3 and LMTP. Passwords are taken from them without TLS.",
    ),
    setting(
        "frontend.proxy_protocol",
        Kind::Networks,
        Default::Is("[]"),
        "Networks of proxies that begin every connection to a mail port with a PROXY header, version 1 or 2 (HAProxy's send-proxy, nginx's proxy_protocol). From there a connection without one is closed; from elsewhere a header is an error. Whether they are trusted further is frontend.trusted's matter.",
    ),
    setting(
        "frontend.smtp",
        Kind::Address,
        Default::Unset { example: "\"192.0.2.25:587\"" },
        "Submission server that /nginx-auth names to nginx for SMTP clients whose password is right. Not set: SMTP clients are told to try later.",
    ),
    setting(
        "http.listen",
        Kind::Addresses,
        Default::Is("[\"127.0.0.1:7480\"]"),
        "Addresses for the status page, /livez, /readyz, /metrics and /nginx-auth. None of them asks for a password, and /nginx-auth is sent some: keep it within the machine or a network of your own. The page shows names of users and addresses of clients on loopback addresses only.",
    ),
    setting(
        "peer.listen",
        Kind::Address,
        Default::Is("\"[::]:7400\""),
        "Address where nodes and admin commands connect (gRPC). Off loopback it is refused without [tls.cluster].",
    ),
    setting(
        "auth.driver",
        Kind::Choice(&["internal"]),
        Default::Is("\"internal\""),
        "Who knows accounts and passwords. `internal`: the cluster itself, with `user add`.",
    ),
    setting(
        "auth.default_domain",
        Kind::Domain,
        Default::Is("\"\""),
        "Domain of login names and recipients given without one. Empty: the bare name is the account's name.",
    ),
    setting(
        "auth.plaintext_on_loopback",
        Kind::Flag,
        Default::Is("false"),
        "Whether clients on this machine may log in without TLS. Of all others only those of frontend.trusted may.",
    ),
    setting(
        "limits.message_bytes",
        Kind::Bytes(64 * 1024, limits::MESSAGE_BYTES_MAX),
        Default::Is("\"50MiB\""),
        "Largest message taken by APPEND (told as APPENDLIMIT) and LMTP (told as SIZE).",
    ),
    setting("limits.connections", Kind::Integer(1, 1_000_000), Default::Is("20000"), "Client connections of all protocols on this node."),
    setting(
        "limits.connections_per_user_and_address",
        Kind::Integer(1, 10_000),
        Default::Is("20"),
        "Connections of one user from one address on this node.",
    ),
    setting(
        "limits.spool_bytes",
        Kind::Bytes(64 * MIB, 16 * 1024 * GIB),
        Default::Is("\"4GiB\""),
        "Disk that messages in the middle of being received may take. When it is full, further literals are refused before the client sends them.",
    ),
    setting(
        "storage.segment_bytes",
        Kind::Bytes(4 * MIB, GIB),
        Default::Is("\"64MiB\""),
        "Size of one journal file. Files are written with zeros before use and used again.",
    ),
    setting(
        "storage.cache_bytes",
        Kind::Bytes(16 * MIB, 1024 * GIB),
        Default::Is("\"256MiB\""),
        "Memory for the tables' caches, shared by all groups of this node.",
    ),
    setting(
        "storage.snapshot_entries",
        Kind::Integer(100, 10_000_000),
        Default::Is("20000"),
        "Log entries of a group between two snapshots. More: fewer bytes written, a longer start.",
    ),
    setting(
        "storage.scrub_days",
        Kind::Integer(0, 365),
        Default::Is("7"),
        "Days between two passes that read everything on this node again, find what rotted, and mend it from the other nodes. 0: only when `body scrub start` asks for one.",
    ),
    setting(
        "storage.scrub_bytes_per_second",
        Kind::Bytes(MIB, 16 * GIB),
        Default::Is("\"32MiB\""),
        "Pace of such a pass: bytes read per second at most.",
    ),
    setting("log.format", Kind::Choice(&["text", "json"]), Default::Is("\"text\""), "Form of the log lines on standard error."),
    setting(
        "log.filter",
        Kind::Text,
        Default::Is("\"info\""),
        "What is logged: a level (error, warn, info, debug, trace), or levels by target such as `info,parliament_imap=debug`. Read again on SIGHUP.",
    ),
];

/// The setting of this key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

/// Edit distance with neighbouring letters swapped counting as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// The candidate nearest to a mistyped word, if one is near enough to be meant. Words above 100 characters have none.
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 100 {
        return None;
    }
    let near = |c: &&str| (distance(word, c), c.len().abs_diff(word.len()));
    candidates.into_iter().min_by_key(near).filter(|c| distance(word, c) <= (word.len() / 3).clamp(1, 4))
}

/// What an unknown key was probably meant to be: the only one of the same last part in another section, or the nearest key.
#[must_use]
pub fn suggest(key: &str) -> Option<&'static str> {
    let keys = || SETTINGS.iter().map(|s| s.key);
    let last = |k: &str| k.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(key);
    let mut same = keys().filter(|k| last(k) == wanted);
    same.next().filter(|_| same.next().is_none()).or_else(|| closest(key, keys()))
}

/// What an unknown section was probably meant to be.
#[must_use]
pub fn suggest_section(name: &str) -> Option<&'static str> {
    closest(name, sections())
}

/// The sections in order, such as `tls.cluster`.
#[must_use]
pub fn sections() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for s in SETTINGS {
        let section = s.section();
        if names.last() != Some(&section) {
            names.push(section);
        }
    }
    names
}

impl Setting {
    /// The part of the key before the last dot.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.key.rsplit_once('.').map_or("", |(section, _)| section)
    }
    /// The part of the key after the last dot.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }
    /// Reads a value given as text, as from a variable: lists are separated by commas.
    ///
    /// # Errors
    /// A sentence saying what was wanted and what came.
    pub fn parse(&self, text: &str) -> Result<crate::Value, String> {
        self.kind.check(&crate::value::Raw::Text(text.to_owned()))
    }
    /// The default in words or TOML.
    #[must_use]
    pub fn default_text(&self) -> &'static str {
        match self.default {
            Default::Is(text) => text,
            Default::Derived { how, .. } => how,
            Default::Unset { .. } => "not set",
        }
    }
    /// The environment variable that sets it: `PARLIAMENT_IMAP__LISTEN_TLS`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}{}", crate::ENV_PREFIX, self.key.replace('.', "__").to_ascii_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_sections_stand_together() {
        let mut keys: Vec<_> = SETTINGS.iter().map(|s| s.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), SETTINGS.len());
        let mut names = sections();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), sections().len(), "a section is split in two");
    }

    #[test]
    fn docs_are_sentences() {
        for s in SETTINGS {
            assert!(s.doc.ends_with('.') && !s.doc.contains('\n'), "{}", s.key);
        }
    }

    #[test]
    fn mistyped_words_find_their_neighbour() {
        assert_eq!(suggest("imap.lisen"), Some("imap.listen"));
        assert_eq!(suggest("imap.listne"), Some("imap.listen"));
        assert_eq!(suggest("cluster.zone"), Some("node.zone"));
        assert_eq!(suggest("cluster.listen"), None, "listen is in several sections");
        assert_eq!(suggest("blancmange"), None);
        assert_eq!(suggest_section("imapp"), Some("imap"));
        assert_eq!(closest("strat", ["start", "stop"]), Some("start"));
    }
}
