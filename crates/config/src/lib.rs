//! Settings of a node: one table that names and explains them all ([`SETTINGS`]), and [`load`], which reads them once into a
//! checked [`Config`].
//!
//! A value comes from the command line, else the environment (`PARLIAMENT_SECTION__KEY`, or the file that
//! `PARLIAMENT_SECTION__KEY_FILE` names), else the TOML file, else the table's default; [`Loaded::values`] tells which. Unknown
//! keys are errors that name their neighbour, `${VAR}` in the file's strings expands, and all problems are told at once.

mod example;
mod load;
mod problem;
mod settings;
mod sources;
mod table;
mod value;

pub use example::{example, explain};
pub use load::{Credentials, Loaded, Resolved, check_files, host_name, load, load_credentials};
pub use problem::{COMBINATION, Problem, Problems, SYNTAX, UNKNOWN, UNREADABLE, VALUE, VARIABLE};
pub use settings::{
    Auth, AuthDriver, Cluster, ClusterTls, Config, Frontend, Imap, Limits, Lmtp, Log, LogFormat, MailTls, Node, Pop3, Reads, Storage,
};
pub use sources::{DEFAULT_FILE, ENV_PREFIX, Origin, Sources};
pub use table::{Default, Kind, SETTINGS, Setting, closest, find, sections, suggest, suggest_section};
pub use value::{Value, bytes_text, duration_text, is_endpoint, parse_duration, quoted};
