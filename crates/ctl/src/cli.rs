//! The command line's grammar.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 unexpected, 2 done with warnings, 3 degraded, 64 usage, 65 corrupt data, 67 no such user,\n\
    69 no quorum or unreachable, 70 bug, 75 try again, 77 permission, 78 configuration.";

/// Mail cluster: `server` is the daemon, every other verb is its client.
#[derive(Debug, Parser)]
#[command(name = "parliament", version, about, after_help = EXIT_CODES, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Print one JSON document (one a line with --watch).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Ask this node: HOST:PORT of its peer port, or the path of its admin socket.
    #[arg(long, global = true, value_name = "ADDR")]
    pub(crate) node: Option<String>,
    /// Configuration file.
    #[arg(long, global = true, value_name = "F")]
    pub(crate) config: Option<PathBuf>,
    /// How long to wait for an answer, such as 500ms or 30s.
    #[arg(long, global = true, value_name = "TIME", value_parser = duration, default_value = "20s")]
    pub(crate) timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let max = Duration::from_secs(86_400);
    parliament_config::parse_duration(text)
        .filter(|d| !d.is_zero() && *d <= max)
        .ok_or_else(|| "wants a time up to 1d with its unit, such as 500ms, 30s or 2m".to_owned())
}

/// For verbs that change something.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Change {
    /// Change nothing; say what would happen.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the daemon.
    Server(ServerArgs),
    /// Run a whole cluster on this machine: real node processes, accounts, mail.
    Demo(DemoArgs),
    /// Write a configuration or certificates.
    #[command(subcommand)]
    Init(Init),
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// The cluster's health; exits 0 healthy, 3 degraded, 69 no quorum.
    Status(StatusArgs),
    /// Look for what is wrong, also without a quorum; ends in one next step. Exits 0 nothing, 2 warnings, 3 degraded, 65 damage, 69 no
    /// quorum or no node, 78 configuration.
    Doctor {
        /// Write all that was found into this file, as JSON: no passwords, hashes, names of users, subjects or bodies.
        #[arg(long, value_name = "F")]
        collect: Option<PathBuf>,
    },
    /// The cluster's health for Nagios and its kin: one line, exits 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    Check,
    /// Nodes.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Raft groups.
    #[command(subcommand)]
    Group(GroupVerb),
    /// Accounts.
    #[command(subcommand)]
    User(UserVerb),
    /// Who holds whom.
    #[command(subcommand)]
    Lease(LeaseVerb),
    /// Client sessions on all nodes.
    Who {
        /// Users; `*` and `?` stand for any text and any character.
        #[arg(default_value = "*")]
        mask: String,
    },
    /// End client sessions on all nodes.
    Kick {
        /// Users; `*` and `?` stand for any text and any character.
        mask: String,
        #[command(flatten)]
        change: Change,
    },
    /// How far the replicas are.
    #[command(subcommand)]
    Replication(ReplicationVerb),
    /// What the nodes keep.
    #[command(subcommand)]
    Body(BodyVerb),
    /// The configuration: check, show, explain.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// A node's metrics, in the text form of OpenMetrics.
    Metrics,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Join a cluster as a new node, with a token of `parliament node invite`. Once it has joined, the token changes nothing.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) join: Option<String>,
    /// End when standard input ends: for a parent that must leave no orphan.
    #[arg(long, hide = true)]
    pub(crate) end_with_stdin: bool,
    /// Give a setting, which wins over variables and file.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    pub(crate) action: Option<DemoAction>,
    /// Nodes: 1, 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = nodes)]
    pub(crate) nodes: usize,
    /// Make the last of three nodes a witness: it votes and keeps no mail.
    #[arg(long)]
    pub(crate) witness: bool,
    /// Raft groups, 1 to 64.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) groups: u32,
    /// Accounts user0@demo.test, user1@demo.test … beside alice and bob; up to 10000.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) users: u32,
    /// Password of all accounts; otherwise one is made up.
    #[arg(long)]
    pub(crate) password: Option<String>,
    /// Keep the data here (and with an action: the demo that runs here).
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Write this file once every account can log in.
    #[arg(long, value_name = "F")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Append all the while, and check that no UID is lost or given twice.
    #[arg(long)]
    pub(crate) load: bool,
}

fn nodes(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| [1, 3, 5].contains(n)).ok_or_else(|| "wants 1, 3 or 5".to_owned())
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DemoAction {
    /// List the nodes of the running demo.
    Ls,
    /// Kill a node with signal 9.
    Kill {
        /// The node, such as n2.
        #[arg(required_unless_present = "holder_of")]
        node: Option<String>,
        /// The node that holds this user.
        #[arg(long, value_name = "USER", conflicts_with = "node")]
        holder_of: Option<String>,
    },
    /// Stop a node's process where it stands (SIGSTOP).
    Pause {
        /// The node, such as n2.
        node: String,
    },
    /// Let a paused node go on.
    Resume {
        /// The node, such as n2.
        node: String,
    },
    /// Start a node that is down.
    Start {
        /// The node, such as n2.
        node: String,
    },
    /// Deliver a mail to a user.
    Send {
        /// The user.
        user: String,
    },
    /// End a process as soon as standard input ends before it says a line.
    #[command(hide = true)]
    Guard {
        /// The process.
        pid: i32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Init {
    /// Write a configuration with every setting explained.
    Config {
        /// Where to; `-` for standard output.
        #[arg(default_value = "parliament.toml")]
        path: PathBuf,
        /// Write this setting in instead of its default.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Make the cluster's certificate authority, and certificates of nodes and operators.
    Ca {
        /// Folder of the authority; made when missing. Its ca.key signs for the whole cluster: keep it off the nodes.
        #[arg(long, default_value = "ca", value_name = "DIR")]
        out: PathBuf,
        /// Name of the cluster, as in cluster.name.
        #[arg(long, default_value = "parliament", value_name = "NAME")]
        cluster: String,
        /// Make a node's certificate: its name, and after commas further names and addresses it is reached at.
        #[arg(long = "for", value_name = "NODE[,NAME…]")]
        nodes: Vec<String>,
        /// Make an operator's certificate (admin.pem), which no node accepts as another node.
        #[arg(long)]
        admin: bool,
        /// Days that the certificates are valid.
        #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Form the cluster of the nodes in cluster.seeds, once.
    Init {
        /// Raft groups, instead of cluster.groups.
        #[arg(long)]
        groups: Option<u32>,
        /// Copies of each group, instead of cluster.replication.
        #[arg(long)]
        replication: Option<u8>,
        #[command(flatten)]
        change: Change,
    },
    /// What the cluster is.
    Show,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct StatusArgs {
    /// Again and again: in place on a terminal, one document a line with --json.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Every group too.
    #[arg(long)]
    pub(crate) groups: bool,
    /// Time between two looks of --watch.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(crate) interval: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the nodes.
    List,
    /// Make a token with which one more node can join: `parliament server --join TOKEN` there.
    Invite {
        /// For how long it is valid.
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1h")]
        valid: Duration,
    },
    /// Have a node give away its users, leaderships and copies, such as before it is serviced or removed.
    Drain {
        /// The node.
        #[arg(value_name = "NODE")]
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let a drained node take part again.
    Undrain {
        /// The node.
        #[arg(value_name = "NODE")]
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Remove a node for ever.
    Remove {
        /// The node.
        #[arg(value_name = "NODE")]
        name: String,
        /// It is dead: make its copies anew elsewhere, without it.
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Have a node that has joined take the place of another, which is drained, or given up when it does not answer.
    Replace {
        /// The node that goes.
        old: String,
        /// The node that comes.
        #[arg(long)]
        with: String,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// List the groups.
    List,
    /// One group.
    Show {
        /// Its number; 0 is the cluster's own.
        group: u32,
    },
    /// Make another node the group's leader.
    Transfer {
        /// Its number.
        group: u32,
        /// The node.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        change: Change,
    },
}

/// Where a new password comes from; asked for when none of these is given.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PasswordArgs {
    /// Read the password from standard input, one line.
    #[arg(long, conflicts_with_all = ["generate", "hash"])]
    pub(crate) password_stdin: bool,
    /// Make a password up and print it.
    #[arg(long, conflicts_with = "hash")]
    pub(crate) generate: bool,
    /// Take a finished hash, such as {SHA512-CRYPT}$6$….
    #[arg(long, value_name = "{SCHEME}HASH")]
    pub(crate) hash: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Existing {
    /// Tell it among the refused.
    Refuse,
    /// Leave the account as it is.
    Skip,
    /// Set its password hash.
    Update,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserVerb {
    /// Make an account.
    Add {
        /// Login name.
        user: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        change: Change,
    },
    /// Make the accounts of a file with a line `name:{SCHEME}hash` each (`-`: standard input).
    Import {
        /// The file.
        file: PathBuf,
        /// What to do with names that exist.
        #[arg(long, value_enum, default_value = "refuse")]
        existing: Existing,
        #[command(flatten)]
        change: Change,
    },
    /// List accounts.
    List {
        /// Users; `*` and `?` stand for any text and any character.
        #[arg(default_value = "*")]
        mask: String,
    },
    /// One account.
    Show {
        /// Login name.
        user: String,
    },
    /// Set a password.
    Passwd {
        /// Login name.
        user: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        change: Change,
    },
    /// Delete an account and all its mail.
    Delete {
        /// Login name.
        user: String,
        #[command(flatten)]
        change: Change,
    },
    /// Move a user to another group, while it is served, and wait until it is there. It is copied first, so that clients wait for a
    /// moment only. When --timeout is over the move goes on by itself.
    Move {
        /// Login name.
        user: String,
        /// The group.
        #[arg(long)]
        group: u32,
        #[command(flatten)]
        change: Change,
    },
    /// Compare the replicas of accounts by hash, check the rules about UIDs and counters, and look for every body; exits 65 when something
    /// is wrong, 2 when some replica did not answer.
    Verify {
        /// Users; `*` and `?` stand for any text and any character.
        #[arg(default_value = "*")]
        mask: String,
        /// Read and hash every body on every replica; give it time with --timeout.
        #[arg(long)]
        bodies: bool,
    },
    /// Make replicas of accounts that differ from the majority, break a rule, or lack bodies like the others; exits 65 when something is left.
    Repair {
        /// Users; `*` and `?` stand for any text and any character.
        mask: String,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BodyVerb {
    /// Reading everything again (bodies, journal, tables, snapshots), and mending what is damaged.
    #[command(subcommand)]
    Scrub(ScrubVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScrubVerb {
    /// Begin a pass.
    Start {
        /// The node; all nodes when none is named.
        #[arg(value_name = "NODE")]
        name: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// How far the passes are, and what the last ones found; exits 65 when something could not be mended, 2 when a node did not answer.
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseVerb {
    /// Who holds a user.
    Show {
        /// Login name.
        user: String,
    },
    /// Who holds whom.
    List {
        /// Users; `*` and `?` stand for any text and any character.
        #[arg(default_value = "*")]
        mask: String,
    },
    /// Hand a user over to another node.
    Move {
        /// Login name.
        user: String,
        /// The node.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        change: Change,
    },
    /// Spread users evenly over the nodes that are up; exits 2 when some could not be moved.
    Rebalance {
        /// Users moved per second at most.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rate: u32,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReplicationVerb {
    /// How far each replica is.
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Read the configuration and report all problems.
    Check {
        /// Do not look at the certificates and keys it names.
        #[arg(long)]
        no_files: bool,
    },
    /// Every setting with its value and where that comes from.
    Show,
    /// What a setting means; without a key, all of them.
    Explain {
        /// A setting or a section.
        #[arg(default_value = "")]
        key: String,
    },
}
