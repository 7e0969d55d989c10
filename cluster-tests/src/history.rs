//! What clients saw and when: operations as JSON Lines of the form that Jepsen's tools read,
//! `{index,time,process,type,f,key,value,node,session}`. `invoke` is followed by `ok`, `fail` (it did not happen) or `info` (it may
//! have), and `info` retires the process number. Faults are entries of the process `nemesis`.
//!
//! | f | key | value at invoke | value at ok |
//! |---|---|---|---|
//! | append | USER/MAILBOX | `{id, sha, bytes}` | the same with `{uidvalidity, uid}` |
//! | deliver | USER/MAILBOX | `{id, sha, bytes}` | the same |
//! | status | USER/MAILBOX | null | `{uidvalidity, uidnext, messages}` |
//! | read | USER/MAILBOX | `{from}`, the lowest UID asked for | `{from, uidvalidity, uidnext, messages: [[uid, id, sha or null], …]}` |
//! | scan | USER/MAILBOX | `{from: 1}` | as read, of everything, at the end, at the node of the entry |
//! | setup | | | by the nemesis, first: `{nodes, keys, seed}` |
//! | kill, pause | node | | by the nemesis: `{reason}`, when the signal was sent |
//! | start, resume, ready | node | | by the nemesis |
//! | cut | node or empty | | by the nemesis, before packets are lost: `{reason, alone}`; `alone`: the node exchanges words with no other |
//! | heal | node or empty | | by the nemesis, before they are carried again |
//! | phase | | | by the nemesis: `{name}` of what begins, for latencies |

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The part an entry plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An operation begins.
    Invoke,
    /// It was acknowledged.
    Ok,
    /// It was refused and did not happen.
    Fail,
    /// Nobody knows; or an entry of the nemesis.
    Info,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Process {
    /// A client.
    Client(u64),
    /// `nemesis`
    Other(String),
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// Place in the history, from 0.
    pub index: u64,
    /// Nanoseconds since its start; rises with the index.
    pub time: u64,
    /// Who.
    pub process: Process,
    /// What part of the operation.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What.
    pub f: String,
    /// On what.
    pub key: String,
    /// With what, or what came of it.
    pub value: Value,
    /// The node that the client is connected to.
    pub node: String,
    /// The connection.
    pub session: String,
}

/// An operation from its begin to its end.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who.
    pub process: u64,
    /// What.
    pub f: String,
    /// On what.
    pub key: String,
    /// With what.
    pub asked: Value,
    /// What came of it; null unless acknowledged.
    pub told: Value,
    /// When it began, nanoseconds.
    pub start: u64,
    /// When its end was seen; `u64::MAX` when it is not known to have ended.
    pub end: u64,
    /// How it ended.
    pub outcome: Kind,
    /// The node that the client was connected to.
    pub node: String,
    /// The connection.
    pub session: String,
}

impl Call {
    /// A number in the answer.
    pub fn told_number(&self, name: &str) -> Option<u64> {
        self.told.get(name)?.as_u64()
    }

    /// A text in the request.
    pub fn asked_text(&self, name: &str) -> &str {
        self.asked.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// The messages that a read or scan told: UID, id, hash where it was computed.
    pub fn messages(&self) -> impl Iterator<Item = (u64, &str, Option<&str>)> {
        let rows = self.told.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        rows.iter().filter_map(|row| Some((row.get(0)?.as_u64()?, row.get(1)?.as_str()?, row.get(2).and_then(Value::as_str))))
    }

    /// True for APPEND and LMTP, which put a message somewhere.
    pub fn sends(&self) -> bool {
        self.f == "append" || self.f == "deliver"
    }

    /// True for reads and scans.
    pub fn lists(&self) -> bool {
        self.f == "read" || self.f == "scan"
    }
}

/// A finished history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Its entries in order.
    pub ops: Vec<Op>,
}

impl History {
    /// Reads a file of JSON Lines.
    ///
    /// # Errors
    /// When it cannot be read, or a line is no entry.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let lines = BufReader::new(std::fs::File::open(path)?).lines();
        let ops = lines.map(|line| serde_json::from_str(&line?).map_err(std::io::Error::from)).collect::<Result<_, _>>()?;
        Ok(Self { ops })
    }

    /// The clients' operations, by their begin.
    ///
    /// # Panics
    /// When a process begins something before its last operation ended: the harness is at fault then.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        let mut open: HashMap<u64, usize> = HashMap::new();
        for op in &self.ops {
            let Process::Client(process) = op.process else { continue };
            if op.kind == Kind::Invoke {
                let before = open.insert(process, calls.len());
                assert!(before.is_none(), "process {process} begins two operations at once, entry {}", op.index);
                calls.push(Call {
                    process,
                    f: op.f.clone(),
                    key: op.key.clone(),
                    asked: op.value.clone(),
                    told: Value::Null,
                    start: op.time,
                    end: u64::MAX,
                    outcome: Kind::Info,
                    node: op.node.clone(),
                    session: op.session.clone(),
                });
                continue;
            }
            let call = open.remove(&process).map(|at| &mut calls[at]);
            let call = call.unwrap_or_else(|| panic!("process {process} ends what it did not begin, entry {}", op.index));
            call.outcome = op.kind;
            if op.kind != Kind::Info {
                call.end = op.time;
            }
            if op.kind == Kind::Ok {
                call.told = op.value.clone();
            }
        }
        calls
    }

    /// The nemesis's entries.
    pub fn faults(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| matches!(&op.process, Process::Other(name) if name == "nemesis"))
    }

    /// A list of names in the setup entry.
    pub fn setup(&self, name: &str) -> Vec<String> {
        let setup = self.faults().find(|op| op.f == "setup");
        let list = setup.and_then(|op| op.value.get(name)?.as_array());
        list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }
}

/// Writes a history as it happens.
pub struct Recorder {
    started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    ops: Vec<Op>,
    file: Option<BufWriter<std::fs::File>>,
    next_process: u64,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Where<'a> {
    /// On what.
    pub key: &'a str,
    /// The node that the client is connected to.
    pub node: &'a str,
    /// The connection.
    pub session: &'a str,
}

impl Recorder {
    /// Starts a history; with `file`, every entry is written there as well.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(file: Option<&Path>) -> std::io::Result<Self> {
        let file = file.map(std::fs::File::create).transpose()?.map(BufWriter::new);
        Ok(Self { started: Instant::now(), inner: Mutex::new(Inner { ops: Vec::new(), file, next_process: 0 }) })
    }

    /// A process number that nobody has.
    pub fn new_process(&self) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.next_process += 1;
        inner.next_process - 1
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Writes an entry of a client.
    pub fn client(&self, process: u64, kind: Kind, f: &str, at: Where<'_>, value: Value) {
        self.write(Process::Client(process), kind, f, at, value);
    }

    /// Writes an entry of the nemesis.
    pub fn nemesis(&self, f: &str, node: &str, value: Value) {
        self.write(Process::Other("nemesis".to_owned()), Kind::Info, f, Where { key: node, node, session: "" }, value);
    }

    /// Index and time are taken under one lock, so that they rise together.
    fn write(&self, process: Process, kind: Kind, f: &str, at: Where<'_>, value: Value) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, time) = (inner.ops.len() as u64, self.now());
        let text = |t: &str| t.to_owned();
        let op = Op { index, time, process, kind, f: text(f), key: text(at.key), value, node: text(at.node), session: text(at.session) };
        if let Some(file) = &mut inner.file {
            let written = serde_json::to_writer(&mut *file, &op).map_err(std::io::Error::from).and_then(|()| file.write_all(b"\n"));
            written.unwrap_or_else(|error| panic!("the history cannot be written: {error}"));
        }
        inner.ops.push(op);
    }

    /// Ends the history.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn finish(&self) -> History {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut inner.file {
            file.flush().unwrap_or_else(|error| panic!("the history cannot be written: {error}"));
        }
        History { ops: std::mem::take(&mut inner.ops) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_history_is_read_back_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let recorder = Recorder::new(Some(file.path())).unwrap();
        let at = Where { key: "ann/INBOX", node: "n1", session: "w0.0" };
        recorder.nemesis("setup", "", json!({ "nodes": ["n1"], "keys": ["ann/INBOX"] }));
        let (a, b) = (recorder.new_process(), recorder.new_process());
        recorder.client(a, Kind::Invoke, "append", at, json!({ "id": "1" }));
        recorder.client(b, Kind::Invoke, "status", at, Value::Null);
        recorder.client(a, Kind::Ok, "append", at, json!({ "id": "1", "uid": 4 }));
        recorder.client(b, Kind::Info, "status", at, Value::Null);
        let written = recorder.finish();
        let read = History::read(file.path()).unwrap();
        assert_eq!(read.ops, written.ops);
        assert_eq!(serde_json::to_value(&read.ops[1]).unwrap()["type"], "invoke");
        let calls = read.calls();
        assert_eq!((calls[0].outcome, calls[0].told_number("uid"), calls[0].asked_text("id")), (Kind::Ok, Some(4), "1"));
        assert_eq!((calls[1].outcome, calls[1].end), (Kind::Info, u64::MAX));
        assert_eq!(read.setup("nodes"), ["n1"]);
    }
}
