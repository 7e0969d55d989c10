//! Where values come from: flags, the environment, a file, defaults.

use crate::problem::{Problem, SYNTAX, UNKNOWN, UNREADABLE, VARIABLE};
use crate::table::{self, SETTINGS};
use crate::value::Raw;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What every variable that sets something starts with.
pub const ENV_PREFIX: &str = "PARLIAMENT_";
/// The file that is read when none is named and it exists.
pub const DEFAULT_FILE: &str = "/etc/parliament/parliament.toml";
/// Largest file read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Everything that a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; `None` for none.
    pub file: Option<PathBuf>,
    /// The environment. Names that do not start with [`ENV_PREFIX`] serve `${VAR}` only.
    pub env: BTreeMap<String, String>,
    /// Keys and values from the command line; they win over everything.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The process's environment with this file, else the file that `PARLIAMENT_CONFIG` names, else [`DEFAULT_FILE`] if it
    /// exists. Variables that are not UTF-8 are passed over.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let env: BTreeMap<_, _> = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        let named = file.or_else(|| env.get("PARLIAMENT_CONFIG").map(PathBuf::from));
        let file = named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()));
        Self { file, env, flags: Vec::new() }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This variable.
    Variable(String),
    /// The file that this variable names.
    VariableFile(String, PathBuf),
    /// This line of the file.
    File(PathBuf, usize),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::VariableFile(name, path) => write!(f, "{name}={}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as given, with its origin.
pub(crate) type Given = BTreeMap<&'static str, (Raw, Origin)>;

/// Lays flags over the environment over the file.
pub(crate) fn gather(sources: &Sources, problems: &mut Vec<Problem>) -> Given {
    let mut given = Given::new();
    if let Some(path) = &sources.file {
        match read_bounded(path) {
            Ok(text) => read_toml(&text, path, &sources.env, &mut given, problems),
            Err(why) => problems.push(
                Problem::new(UNREADABLE, format!("{}: {why}", path.display()))
                    .hint("name another file with --config, or write one with `parliament init config`"),
            ),
        }
    }
    read_env(&sources.env, &mut given, problems);
    for (key, text) in &sources.flags {
        match table::find(key) {
            Some(setting) => {
                given.insert(setting.key, (Raw::Text(text.clone()), Origin::Flag));
            }
            None => problems.push(unknown(key, "command line")),
        }
    }
    given
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes are more than a configuration has (at most {FILE_BYTES_MAX})"));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

fn unknown(key: &str, place: &str) -> Problem {
    let problem = Problem::new(UNKNOWN, format!("{place}: unknown setting {key}"));
    match table::suggest(key) {
        Some(meant) => problem.hint(format!("did you mean {meant}?")),
        None => problem.hint("`parliament config explain` lists all settings"),
    }
}

/// Takes `PARLIAMENT_SECTION__KEY` and `PARLIAMENT_SECTION__KEY_FILE`. Only names with a double underscore are settings:
/// container platforms invent names such as `PARLIAMENT_PORT` of their own.
fn read_env(env: &BTreeMap<String, String>, given: &mut Given, problems: &mut Vec<Problem>) {
    let ours = env.iter().filter(|(name, _)| name.strip_prefix(ENV_PREFIX).is_some_and(|rest| rest.contains("__")));
    for (name, text) in ours {
        if let Some(setting) = SETTINGS.iter().find(|s| s.variable() == *name) {
            given.insert(setting.key, (Raw::Text(text.clone()), Origin::Variable(name.clone())));
            continue;
        }
        let of_file = name.strip_suffix("_FILE").and_then(|stem| SETTINGS.iter().find(|s| s.variable() == stem));
        match of_file {
            Some(setting) => match read_bounded(Path::new(text)) {
                Ok(content) => {
                    let value = Raw::Text(content.trim_end_matches(['\r', '\n']).to_owned());
                    // The plain variable is the more definite of the two, whichever comes first in the environment.
                    if !env.contains_key(&setting.variable()) {
                        given.insert(setting.key, (value, Origin::VariableFile(name.clone(), text.into())));
                    }
                }
                Err(why) => problems.push(Problem::new(UNREADABLE, format!("{name}: {text}: {why}"))),
            },
            None => {
                let key = name.trim_start_matches(ENV_PREFIX).replace("__", ".").to_ascii_lowercase();
                problems.push(unknown(&key, name));
            }
        }
    }
}

/// Reads the file's text, and reports every mistake in it.
fn read_toml(text: &str, path: &Path, env: &BTreeMap<String, String>, given: &mut Given, problems: &mut Vec<Problem>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, path, env, given, problems };
    for error in &errors {
        let place = reader.place(error.span().map_or(0, |s| s.start));
        reader.problems.push(Problem::new(SYNTAX, format!("{place}: {}", error.message().trim().replace('\n', "; "))));
    }
    // After a syntax error the rest of the tree is guesswork: telling more would mislead.
    if errors.is_empty() {
        reader.table("", root.get_ref());
    }
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    env: &'a BTreeMap<String, String>,
    given: &'a mut Given,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count()
    }

    fn place(&self, offset: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(offset))
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            let offset = name.span().start;
            let is_section = SETTINGS.iter().any(|s| s.key.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')));
            match (table::find(&key), value.get_ref()) {
                (Some(setting), _) => {
                    let raw = self.raw(&key, value);
                    let origin = Origin::File(self.path.to_owned(), self.line(offset));
                    self.given.insert(setting.key, (raw, origin));
                }
                (None, DeValue::Table(inner)) if is_section => self.table(&key, inner),
                (None, DeValue::Table(_)) => self.unknown_section(&key, offset),
                (None, _) if is_section => {
                    let message = format!("{}: [{key}] is a section, not a setting", self.place(offset));
                    self.problems.push(Problem::new(UNKNOWN, message));
                }
                (None, _) => {
                    let place = self.place(offset);
                    self.problems.push(unknown(&key, &place));
                }
            }
        }
    }

    fn unknown_section(&mut self, key: &str, offset: usize) {
        let problem = Problem::new(UNKNOWN, format!("{}: unknown section [{key}]", self.place(offset)));
        self.problems.push(match table::suggest_section(key) {
            Some(meant) => problem.hint(format!("did you mean [{meant}]?")),
            None => problem.hint(format!("the sections are {}", table::sections().join(", "))),
        });
    }

    fn raw(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Raw {
        match value.get_ref() {
            DeValue::String(text) => match expand(text, self.env) {
                Ok(text) => Raw::Text(text),
                Err((message, hint)) => {
                    let message = format!("{}: {key}: {message}", self.place(value.span().start));
                    self.problems.push(Problem::new(VARIABLE, message).hint(hint));
                    Raw::Reported
                }
            },
            DeValue::Integer(n) => i128::from_str_radix(n.as_str(), n.radix()).map_or(Raw::Other("number too large"), Raw::Integer),
            DeValue::Boolean(on) => Raw::Flag(*on),
            DeValue::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| self.raw(key, item)).collect();
                if items.contains(&Raw::Reported) { Raw::Reported } else { Raw::List(items) }
            }
            other => Raw::Other(other.type_str()),
        }
    }
}

/// Replaces `${VAR}`; `$${` stands for a plain `${`.
fn expand(text: &str, env: &BTreeMap<String, String>) -> Result<String, (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            return Err(("`${` is not closed".into(), "close it with `}`, or write `$${` for a plain `${`".into()));
        };
        let value = env.get(name).ok_or_else(|| {
            (format!("the variable {name} is not set"), format!("set {name} in the daemon's environment, or write the value here"))
        })?;
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn variables_expand() {
        let env = env(&[("A", "1"), ("B", "${A}")]);
        assert_eq!(expand("x${A}y${B}", &env).unwrap(), "x1y${A}", "what a variable holds is not expanded again");
        assert_eq!(expand("$${A} $A $", &env).unwrap(), "${A} $A $");
        assert_eq!(expand("${C}", &env).unwrap_err().0, "the variable C is not set");
        assert_eq!(expand("${A", &env).unwrap_err().0, "`${` is not closed");
    }

    fn problems_of(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        read_toml(text, Path::new("p.toml"), &env(&[]), &mut Given::new(), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_unknown_key_is_told_with_its_line_and_neighbour() {
        let told = problems_of("[imap]\nlisen = []\n[nod]\nzone = \"a\"\n[log]\nshape = 1\n");
        assert_eq!(
            told,
            [
                "error[PC103]: p.toml:2: unknown setting imap.lisen\n  help: did you mean imap.listen?",
                "error[PC103]: p.toml:6: unknown setting log.shape\n  help: `parliament config explain` lists all settings",
                "error[PC103]: p.toml:3: unknown section [nod]\n  help: did you mean [node]?",
            ]
        );
        assert_eq!(problems_of("imap = 1"), ["error[PC103]: p.toml:1: [imap] is a section, not a setting"]);
    }

    #[test]
    fn syntax_errors_are_told_with_their_line() {
        let told = problems_of("[imap]\nlisten = [\"a\"\n[node]\nzone = 'x\n");
        assert!(!told.is_empty() && told.iter().all(|t| t.starts_with("error[PC102]: p.toml:")), "{told:?}");
    }

    #[test]
    fn only_names_with_two_underscores_are_settings() {
        let vars = env(&[
            ("PARLIAMENT_PORT", "tcp://10.0.0.1:143"),
            ("PARLIAMENT_PORT_143_TCP_ADDR", "10.0.0.1"),
            ("PARLIAMENT_NODE__ZONE", "a"),
            ("PARLIAMENT_NODE__ZON", "a"),
            ("HOME", "/root"),
        ]);
        let (mut given, mut problems) = (Given::new(), Vec::new());
        read_env(&vars, &mut given, &mut problems);
        assert_eq!(given.keys().copied().collect::<Vec<_>>(), ["node.zone"]);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].hint.as_deref(), Some("did you mean node.zone?"));
    }

    #[test]
    fn a_variable_may_name_a_file_and_the_plain_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zone");
        std::fs::write(&path, "east\n").unwrap();
        let named = path.to_str().unwrap();
        let (mut given, mut problems) = (Given::new(), Vec::new());
        read_env(&env(&[("PARLIAMENT_NODE__ZONE_FILE", named)]), &mut given, &mut problems);
        assert_eq!(given["node.zone"].0, Raw::Text("east".into()));
        read_env(&env(&[("PARLIAMENT_NODE__ZONE_FILE", named), ("PARLIAMENT_NODE__ZONE", "west")]), &mut given, &mut problems);
        assert_eq!(given["node.zone"].0, Raw::Text("west".into()));
        read_env(&env(&[("PARLIAMENT_TLS__MAIL__KEY_FILE", "/k")]), &mut given, &mut problems);
        assert_eq!(given["tls.mail.key_file"].0, Raw::Text("/k".into()), "a setting that ends in _file is itself");
        assert!(problems.is_empty());
    }
}
