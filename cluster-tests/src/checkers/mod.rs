//! Verdicts on histories, one file per property. Each ships histories with planted bugs that it must reject.

pub mod duplicates;
pub mod durable;
pub mod fresh;
pub mod isolated;
pub mod latency;
pub mod pauses;
pub mod phantom;
pub mod uid;

use crate::history::History;
use serde_json::{Value, json};

/// Problems that are told one by one; the rest is counted.
const TOLD_MAX: usize = 10;

/// What a checker found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Violations found.
    pub violations: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
    /// Things looked at: a verdict on nothing is worth nothing.
    pub checked: u64,
}

impl Verdict {
    /// Notes a violation.
    pub fn add(&mut self, problem: impl FnOnce() -> String) {
        self.violations += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(problem());
        }
    }

    /// True when nothing was wrong, and something was looked at.
    pub fn holds(&self) -> bool {
        self.violations == 0 && self.checked > 0
    }
}

/// A property: its name and its checker.
pub type Checker = (&'static str, fn(&History) -> Verdict);

/// The properties that every history must have.
pub const ALL: &[Checker] = &[
    ("uid", uid::check),
    ("durable", durable::check),
    ("no_phantom", phantom::check),
    ("no_duplicate", duplicates::check),
    ("fresh", fresh::check),
];

/// Applies all checkers. The document is `{property: {violations, checked, told}}`; the flag says whether all hold.
pub fn judge(history: &History) -> (bool, Value) {
    let mut all = true;
    let mut document = serde_json::Map::new();
    for (name, check) in ALL {
        let verdict = check(history);
        all &= verdict.holds();
        document.insert(
            (*name).to_owned(),
            json!({ "holds": verdict.holds(), "violations": verdict.violations, "checked": verdict.checked, "told": verdict.told }),
        );
    }
    (all, Value::Object(document))
}

/// Short histories for the checkers' own tests.
#[cfg(test)]
pub(crate) mod planted {
    use crate::history::{History, Kind, Op, Process};
    use serde_json::{Value, json};

    pub(crate) const KEY: &str = "ann/INBOX";

    /// A history that is built entry by entry, 1 ms apart.
    pub(crate) struct Story(History, u64, &'static str);

    impl Story {
        pub(crate) fn new() -> Self {
            let mut story = Self(History::default(), 0, "s.1");
            story.op(Process::Other("nemesis".into()), Kind::Info, "setup", json!({ "nodes": ["n1", "n2"], "keys": [KEY] }), "");
            story
        }

        fn op(&mut self, process: Process, kind: Kind, f: &str, value: Value, node: &str) {
            self.1 += 1_000_000;
            let (index, time) = (self.0.ops.len() as u64, self.1);
            let (f, key) = (f.to_owned(), KEY.to_owned());
            self.0.ops.push(Op { index, time, process, kind, f, key, value, node: node.to_owned(), session: self.2.to_owned() });
        }

        pub(crate) fn begin(&mut self, process: u64, f: &str, value: Value) -> &mut Self {
            self.op(Process::Client(process), Kind::Invoke, f, value, "n1");
            self
        }

        pub(crate) fn end(&mut self, process: u64, kind: Kind, f: &str, value: Value) -> &mut Self {
            self.op(Process::Client(process), kind, f, value, "n1");
            self
        }

        pub(crate) fn fault(&mut self, f: &str, node: &str) -> &mut Self {
            self.fault_with(f, node, json!({ "reason": "random" }))
        }

        pub(crate) fn fault_with(&mut self, f: &str, node: &str, value: Value) -> &mut Self {
            self.op(Process::Other("nemesis".into()), Kind::Info, f, value, node);
            self.0.ops.last_mut().expect("just made").key = node.to_owned();
            self
        }

        /// The client goes on in another session.
        pub(crate) fn session(&mut self, session: &'static str) -> &mut Self {
            self.2 = session;
            self
        }

        /// Nothing happens for so many milliseconds.
        pub(crate) fn wait(&mut self, ms: u64) -> &mut Self {
            self.1 += ms * 1_000_000;
            self
        }

        /// An APPEND of message `id`, acknowledged under `uid`.
        pub(crate) fn append(&mut self, id: &str, uid: u64) -> &mut Self {
            let sent = json!({ "id": id, "sha": format!("sha-{id}"), "bytes": 1 });
            self.begin(0, "append", sent.clone());
            let mut told = sent;
            told["uid"] = json!(uid);
            told["uidvalidity"] = json!(9);
            self.end(0, Kind::Ok, "append", told)
        }

        /// An APPEND with another outcome.
        pub(crate) fn append_ends(&mut self, process: u64, id: &str, kind: Kind) -> &mut Self {
            self.begin(process, "append", json!({ "id": id, "sha": format!("sha-{id}"), "bytes": 1 }));
            self.end(process, kind, "append", Value::Null)
        }

        pub(crate) fn status(&mut self, uidnext: u64, messages: u64) -> &mut Self {
            self.begin(1, "status", Value::Null);
            self.end(1, Kind::Ok, "status", json!({ "uidvalidity": 9, "uidnext": uidnext, "messages": messages }))
        }

        /// A read or scan of everything at a node.
        pub(crate) fn list(&mut self, f: &str, node: &str, uidnext: u64, rows: &[(u64, &str)]) -> &mut Self {
            let messages: Vec<_> = rows.iter().map(|(uid, id)| json!([uid, id, format!("sha-{id}")])).collect();
            self.op(Process::Client(2), Kind::Invoke, f, json!({ "from": 1 }), node);
            let told = json!({ "from": 1, "uidvalidity": 9, "uidnext": uidnext, "messages": messages });
            self.op(Process::Client(2), Kind::Ok, f, told, node);
            self
        }

        /// Scans of the same content at both nodes.
        pub(crate) fn scans(&mut self, uidnext: u64, rows: &[(u64, &str)]) -> &mut Self {
            self.list("scan", "n1", uidnext, rows).list("scan", "n2", uidnext, rows)
        }

        pub(crate) fn done(&mut self) -> History {
            std::mem::take(&mut self.0)
        }
    }
}
