//! Verbs that ask no node: `server`, `init`, `config`.

use crate::Serve;
use crate::cli::{ConfigVerb, Global, Init, ServerArgs};
use crate::discover::{config_error, sources};
use crate::error::{AdminError, code, exit};
use crate::output::{Report, table};
use crate::pki::{Authority, Purpose, write_new};
use crate::terminal::Terminal;
use parliament_config::{Problems, check_files, explain, load, suggest};
use serde_json::json;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Loads the configuration and hands over to the daemon.
pub(crate) fn server(
    args: ServerArgs,
    global: Global,
    serve: Box<dyn FnOnce(Serve) -> u8>,
    terminal: &mut Terminal,
) -> Result<u8, AdminError> {
    let mut sources = sources(global.config, terminal);
    sources.flags = args.set.iter().map(|text| key_value(text)).collect::<Result<_, _>>()?;
    let loaded = match load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(tell_all(&problems, global.json, terminal)),
    };
    if args.end_with_stdin {
        end_with_stdin();
    }
    Ok(serve(Serve { config: loaded.config, sources, join: args.join }))
}

/// A thread that ends the process as soon as standard input ends. All that is acknowledged is durable, so there is nothing to
/// wait for; whoever wants a drain sends SIGTERM first.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let mut discarded = [0u8; 64];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut discarded) {
                Ok(0) => std::process::exit(i32::from(exit::OK)),
                Err(e) if e.kind() != std::io::ErrorKind::Interrupted => std::process::exit(i32::from(exit::UNEXPECTED)),
                _ => {}
            }
        }
    });
}

fn key_value(text: &str) -> Result<(String, String), AdminError> {
    let (key, value) = text.split_once('=').ok_or_else(|| AdminError::usage(format!("--set wants KEY=VALUE, not {text:?}")))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn tell_all(problems: &Problems, json: bool, terminal: &mut Terminal) -> u8 {
    if json {
        terminal.error(&config_error(problems), true);
    } else {
        terminal.complain(&format!("{problems}\n"));
    }
    exit::CONFIG
}

pub(crate) fn init(init: Init) -> Result<Report, AdminError> {
    match init {
        Init::Config { path, set } => init_config(&path, &set),
        Init::Ca { out, cluster, nodes, admin, days } => init_ca(&out, &cluster, &nodes, admin, days),
    }
}

fn init_config(path: &Path, set: &[String]) -> Result<Report, AdminError> {
    let mut given = Vec::new();
    for text in set {
        let (key, value) = key_value(text)?;
        let setting = parliament_config::find(&key).ok_or_else(|| unknown_key(&key))?;
        given.push((setting.key, toml_value(setting, &value)?));
    }
    let text = parliament_config::example(&given);
    if path == Path::new("-") {
        return Ok(Report::new(&json!({ "config": text }), text.clone()));
    }
    write_new(path, text.as_bytes(), 0o644)?;
    let next = format!("wrote {}\nnext: set [tls.cluster] and [tls.mail], then `parliament config check --config {0}`", path.display());
    Ok(Report::new(&json!({ "path": path }), next))
}

/// A checked value, written as TOML.
fn toml_value(setting: &parliament_config::Setting, value: &str) -> Result<String, AdminError> {
    setting
        .parse(value)
        .map(|v| v.to_string())
        .map_err(|why| AdminError::new(parliament_config::VALUE, exit::CONFIG, format!("{} {why}", setting.key)).with_hint(setting.doc))
}

fn unknown_key(key: &str) -> AdminError {
    let error = AdminError::new(parliament_config::UNKNOWN, exit::CONFIG, format!("there is no setting {key}"));
    match suggest(key) {
        Some(meant) => error.with_hint(format!("did you mean {meant}?")),
        None => error.with_hint("`parliament config explain` lists all settings"),
    }
}

fn init_ca(out: &Path, cluster: &str, nodes: &[String], admin: bool, days: u32) -> Result<Report, AdminError> {
    let name = |text: &str| {
        let setting = parliament_config::find("node.name").ok_or_else(|| unknown_key("node.name"))?;
        setting.parse(text).map_err(|why| AdminError::usage(format!("{text:?}: a name {why}")))
    };
    name(cluster)?;
    let mut wanted = Vec::new();
    for node in nodes {
        let names: Vec<String> = node.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect();
        let first = names.first().ok_or_else(|| AdminError::usage("--for wants the name of a node"))?.clone();
        name(&first)?;
        if ["ca", "admin"].contains(&first.as_str()) {
            return Err(AdminError::usage(format!("{first} is no name for a node: {first}.pem is another file")));
        }
        wanted.push((first, Purpose::Node, names));
    }
    if admin {
        wanted.push(("admin".to_owned(), Purpose::Admin, Vec::new()));
    }
    let (authority, made) = Authority::open_or_make(out)?;
    let mut text = format!("{} {}\n", if made { "made" } else { "using" }, authority.cert().display());
    let mut issued = Vec::new();
    for (stem, purpose, mut names) in wanted {
        names.push(cluster.to_owned());
        let files = authority.issue(&stem, &purpose, &names, days)?;
        text.push_str(&format!("made {} and {} for {}\n", files.cert.display(), files.key.display(), names.join(", ")));
        issued.push(json!({ "name": stem, "cert": files.cert, "key": files.key, "names": names }));
    }
    if made {
        text.push_str(&format!("keep {} off the nodes: who has it can make himself a node\n", out.join("ca.key").display()));
    }
    Ok(Report::new(&json!({ "ca": authority.cert(), "made": made, "issued": issued }), text))
}

pub(crate) fn config(verb: ConfigVerb, file: Option<PathBuf>, terminal: &Terminal) -> Result<Report, AdminError> {
    match verb {
        ConfigVerb::Check { no_files } => Ok(check(file, no_files, terminal)),
        ConfigVerb::Show => show(file, terminal),
        ConfigVerb::Explain { key } => {
            let text = explain(&key).ok_or_else(|| unknown_key(&key))?;
            let chosen = parliament_config::SETTINGS
                .iter()
                .filter(|s| key.is_empty() || s.key == key || s.key.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.')));
            let settings: Vec<_> = chosen
                .map(|s| json!({ "key": s.key, "takes": s.kind.wanted(), "default": s.default_text(), "environment": s.variable(), "doc": s.doc }))
                .collect();
            Ok(Report::new(&json!({ "settings": settings }), text))
        }
    }
}

fn check(file: Option<PathBuf>, no_files: bool, terminal: &Terminal) -> Report {
    let sources = sources(file, terminal);
    let place = sources.file.as_ref().map_or_else(|| "defaults and environment".to_owned(), |p| p.display().to_string());
    let problems = match load(&sources) {
        Ok(_) if no_files => Vec::new(),
        Ok(loaded) => check_files(&loaded.config),
        Err(Problems(problems)) => problems,
    };
    let told: Vec<_> = problems.iter().map(|p| json!({ "code": p.code, "message": p.message, "hint": p.hint })).collect();
    let document = json!({ "ok": problems.is_empty(), "source": place, "problems": told });
    if problems.is_empty() {
        return Report::new(&document, format!("{place}: no problems"));
    }
    let count = problems.len();
    let text = format!("{}\n{count} problem{}\n", Problems(problems), if count == 1 { "" } else { "s" });
    Report::new(&document, text).exit(exit::CONFIG)
}

fn show(file: Option<PathBuf>, terminal: &Terminal) -> Result<Report, AdminError> {
    let loaded = load(&sources(file, terminal)).map_err(|problems| config_error(&problems))?;
    let shown = |v: &parliament_config::Resolved| vec![v.key.to_owned(), v.value.to_string(), v.origin.to_string()];
    let rows: Vec<_> = loaded.values.iter().map(shown).collect();
    let document: Vec<_> = rows.iter().map(|row| json!({ "key": row[0], "value": row[1], "origin": row[2] })).collect();
    Ok(Report::new(&json!({ "settings": document }), table(&["SETTING", "VALUE", "FROM"], &rows)))
}

/// The TOML of a child's configuration: only what is given, section by section.
pub(crate) fn small_config(values: &[(&str, String)]) -> Result<String, AdminError> {
    let mut out = String::new();
    let mut section = "";
    for (key, value) in values {
        let setting = parliament_config::find(key).ok_or_else(|| AdminError::new(code::REPLY, exit::BUG, format!("no setting {key}")))?;
        if setting.section() != section {
            section = setting.section();
            out.push_str(&format!("{}[{section}]\n", if out.is_empty() { "" } else { "\n" }));
        }
        out.push_str(&format!("{} = {}\n", setting.name(), toml_value(setting, value)?));
    }
    Ok(out)
}
