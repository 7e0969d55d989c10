//! Rules that hold for the whole tree, as tests.

use crate::cargo::{cargo, workspace};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest source file, lines.
const FILE_LINES_MAX: usize = 700;

/// Crates that know nothing of runtimes, storage, network or consensus.
const PURE: &[&str] = &["ids", "mail-api", "mailbox-state", "cluster-state", "routing", "formats", "mime", "imap", "lmtp", "pop3"];
/// What they must not reach, not even through others.
const IMPURE: &[&str] =
    &["tokio", "sled", "tonic", "openraft", "axum", "hyper", "rustls", "rand", "mio", "socket2", "prometheus-client", "tokio-rustls"];

/// Crates from the bottom to the top: each uses only crates that stand before it.
const ORDER: &[&str] = &[
    "ids",
    "mail-api",
    "mime",
    "mailbox-state",
    "cluster-state",
    "routing",
    "formats",
    "imap",
    "lmtp",
    "pop3",
    "journal",
    "tables",
    "bodies",
    "mail-reads",
    "rpc",
    "groups",
    "mail-service",
    "config",
    "frontend",
    "ctl",
    "node",
];

/// Only these may use what they wrap.
const OWNERS: &[(&str, &[&str])] = &[("sled", &["tables"]), ("tonic", &["rpc"]), ("prost", &["rpc"]), ("openraft", &["groups", "rpc"])];

struct Package {
    /// Its name without `parliament-`; `None` for packages from elsewhere.
    own: Option<String>,
    name: String,
    /// Ids of what it links.
    uses: Vec<String>,
}

/// All packages by id, with what they link: no build scripts' and tests' dependencies.
fn packages() -> BTreeMap<String, Package> {
    let output =
        cargo().args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name_of: BTreeMap<&str, &str> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap())).collect();
    let linked = |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
    let members: BTreeSet<&str> = metadata["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let package = |node: &Value| {
        let id = node["id"].as_str().unwrap();
        let name = name_of[id].to_owned();
        let uses = node["deps"].as_array().unwrap().iter().filter(linked).map(|d| d["pkg"].as_str().unwrap().to_owned()).collect();
        let own = members.contains(id).then(|| name.strip_prefix("parliament-").unwrap_or(&name).to_owned());
        (id.to_owned(), Package { own, name, uses })
    };
    let packages: BTreeMap<_, _> = metadata["resolve"]["nodes"].as_array().unwrap().iter().map(package).collect();
    let used_by_own: usize = packages.values().filter(|p| p.own.is_some()).map(|p| p.uses.len()).sum();
    assert!(used_by_own > 100, "the metadata was not understood");
    packages
}

#[test]
fn pure_crates_reach_no_runtime_storage_or_network() {
    let packages = packages();
    for (id, package) in packages.iter().filter(|(_, p)| p.own.as_deref().is_some_and(|own| PURE.contains(&own))) {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![id];
        while let Some(next) = ahead.pop() {
            for used in packages[next].uses.iter().filter(|used| seen.insert((*used).clone())) {
                let name = &packages[used].name;
                assert!(!IMPURE.contains(&name.as_str()), "{} reaches {name} through {}", package.name, packages[next].name);
                ahead.push(used);
            }
        }
    }
}

#[test]
fn crates_use_only_crates_below_them() {
    let packages = packages();
    let rank = |own: &str| ORDER.iter().position(|name| *name == own);
    for package in packages.values() {
        let Some(own) = package.own.as_deref() else { continue };
        // Tools stand above everything and are used by nothing.
        let tool = own == "xtask" || own == "jepsen" || own.contains("tests");
        let own_rank = rank(own).or(tool.then_some(ORDER.len()));
        let own_rank = own_rank.unwrap_or_else(|| panic!("{own} has no place in the order of crates: give it one"));
        for used in package.uses.iter().filter_map(|id| packages[id].own.as_deref()) {
            let below = rank(used).is_some_and(|used| used < own_rank) || (tool && used == "cluster-tests");
            assert!(below, "{own} uses {used}, which does not stand below it");
        }
    }
}

#[test]
fn what_is_wrapped_is_used_by_its_owner_alone() {
    let packages = packages();
    for package in packages.values() {
        let Some(own) = package.own.as_deref() else { continue };
        for (wrapped, owners) in OWNERS.iter().copied() {
            let uses = package.uses.iter().any(|id| packages[id].name == wrapped);
            assert!(!uses || owners.contains(&own), "{own} uses {wrapped}, which belongs to {owners:?}");
        }
    }
}

/// All `.rs` files of ours.
fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![workspace()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 100, "the sources were not found");
    files
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

#[test]
fn files_can_be_read_in_one_go() {
    let long: Vec<String> = sources()
        .iter()
        .map(|path| (path, std::fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{}: {lines} lines", shown(path)))
        .collect();
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn nothing_is_left_to_be_done() {
    // Put together here, so that this file does not hold them.
    let banned = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    let mut found = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            found.extend(banned.iter().filter(|b| line.contains(**b)).map(|b| format!("{}:{}: {b}", shown(&path), number + 1)));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
