//! How a second terminal finds a running demo: a file per demo in a folder that belongs to the user alone, and beside it the
//! demo's control socket.

use super::layout::{Ready, State};
use crate::error::{AdminError, code, exit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the demo may take to answer; `start` and `kill` answer as soon as the signal is sent.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer, bytes: a demo of 10,000 users tells all their names.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The file of a demo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: u32,
    dir: PathBuf,
}

/// A running demo.
#[derive(Clone, Debug)]
pub(crate) struct Demo {
    pub(crate) dir: PathBuf,
    pub(crate) socket: PathBuf,
    /// With current pids and states.
    pub(crate) ready: Ready,
    /// Peer addresses of the nodes that are up; of all when none is.
    pub(crate) peers: Vec<String>,
}

/// Folders where demos of this user may stand, the preferred one first.
fn folders(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let own = env.get("XDG_RUNTIME_DIR").filter(|d| Path::new(d).is_dir()).map(|d| Path::new(d).join("parliament-demo"));
    let tmp = env.get("TMPDIR").map_or("/tmp", String::as_str);
    own.into_iter().chain([Path::new(tmp).join(format!("parliament-demo-{uid}"))]).collect()
}

/// True when the folder is the user's own: in `/tmp` anybody may make a folder of that name.
fn is_own(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|m| m.is_dir() && m.uid() == rustix::process::getuid().as_raw() && m.mode() & 0o022 == 0)
}

/// The entry of the demo that this process is; dropping it takes it away.
pub(crate) struct Entry {
    record: PathBuf,
    /// Where the control socket listens.
    pub(crate) socket: PathBuf,
}

impl Entry {
    /// Makes the folder and picks the socket's path; [`Self::publish`] follows once the socket listens.
    pub(crate) fn new(env: &BTreeMap<String, String>) -> Result<Self, AdminError> {
        let mut error = AdminError::demo("no folder for the demo's control socket");
        for folder in folders(env) {
            match crate::pki::make_private_dir(&folder) {
                Ok(()) if is_own(&folder) => {
                    let pid = std::process::id();
                    return Ok(Self { record: folder.join(format!("{pid}.json")), socket: folder.join(format!("{pid}.sock")) });
                }
                Ok(()) => error = AdminError::demo(format!("{} belongs to somebody else", folder.display())),
                Err(why) => error = why,
            }
        }
        Err(error)
    }

    pub(crate) fn publish(&self, dir: &Path) -> Result<(), AdminError> {
        let record = Record { pid: std::process::id(), dir: dir.to_owned() };
        super::layout::write_whole(&self.record, &format!("{}\n", json!(record)))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.record);
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Asks a demo something: one line there, one line back.
pub(crate) fn ask(socket: &Path, request: &Value) -> Result<Value, AdminError> {
    let gone = |e: &dyn std::fmt::Display| AdminError::new(code::DEMO, exit::UNAVAILABLE, format!("the demo does not answer: {e}"));
    let mut stream = UnixStream::connect(socket).map_err(|e| gone(&e))?;
    stream.set_read_timeout(Some(CONTROL_TIMEOUT)).and_then(|()| stream.set_write_timeout(Some(CONTROL_TIMEOUT))).map_err(|e| gone(&e))?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(|e| gone(&e))?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line).map_err(|e| gone(&e))?;
    let mut answer: Value = serde_json::from_str(&line).map_err(|e| gone(&e))?;
    match answer.get_mut("error").map(Value::take) {
        Some(error) => Err(serde_json::from_value(error).unwrap_or_else(|e| gone(&e))),
        None => Ok(answer),
    }
}

/// The demo that runs, or the one that runs in `dir`; `None` when there is none. Entries of dead demos are cleared away.
pub(crate) fn find(env: &BTreeMap<String, String>, dir: Option<&Path>) -> Result<Option<Demo>, AdminError> {
    let wanted = dir.map(|d| d.canonicalize().unwrap_or_else(|_| d.to_owned()));
    let mut found = Vec::new();
    for folder in folders(env).into_iter().filter(|f| is_own(f)) {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let records = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "json"));
        found.extend(records.filter_map(|path| look(&path)));
    }
    found.retain(|demo: &Demo| wanted.as_ref().is_none_or(|dir| demo.dir == *dir));
    if found.len() > 1 {
        let dirs: Vec<_> = found.iter().map(|d| d.dir.display().to_string()).collect();
        return Err(AdminError::usage(format!("several demos run: {}", dirs.join(", ")))
            .with_hint("choose one with --dir DIR, or a node with --node"));
    }
    Ok(found.pop())
}

fn look(path: &Path) -> Option<Demo> {
    let record: Record = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let socket = path.with_extension("sock");
    let Ok(answer) = ask(&socket, &json!({ "verb": "ls" })) else {
        // Whoever holds the pid now, a demo whose socket refuses connections is dead.
        if UnixStream::connect(&socket).is_err() {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_file(&socket);
        }
        return None;
    };
    let ready: Ready = serde_json::from_value(answer).ok()?;
    let peers = |up: bool| ready.nodes.iter().filter(|n| !up || n.state == Some(State::Up)).map(|n| n.peer.clone()).collect::<Vec<_>>();
    let peers = Some(peers(true)).filter(|p| !p.is_empty()).unwrap_or_else(|| peers(false));
    Some(Demo { dir: record.dir, socket, ready, peers })
}

/// The demo that runs, or an error that says how to start one.
pub(crate) fn find_running(env: &BTreeMap<String, String>, dir: Option<&Path>) -> Result<Demo, AdminError> {
    find(env, dir)?.ok_or_else(|| {
        let place = dir.map_or_else(String::new, |d| format!(" in {}", d.display()));
        AdminError::new(code::DEMO, exit::UNAVAILABLE, format!("no demo runs{place}")).with_hint("`parliament demo` starts one")
    })
}
