//! A run: a load, faults, the look at everything afterwards, and the verdict.

use crate::checkers::{self, pauses};
use crate::demo::{Demo, Node};
use crate::history::{History, Recorder};
use crate::load::{Load, Server};
use crate::nemesis::{self, Kills};
use crate::random::Random;
use crate::scan;
use crate::site::Site;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is done to the nodes.
#[derive(Clone, Copy, Debug)]
pub enum Faults {
    /// One is killed after the other for a while.
    Kills(Kills, Duration),
    /// All are killed at once, so many times, with a load of so long in between.
    AllAtOnce(usize, Duration),
    /// So many times the node that holds an account and leads its group and group 0 is killed.
    Crowned(Kills, usize),
    /// So many times a holder is stopped for so long and goes on.
    Paused(usize, Duration),
    /// So many times a data node beside a witness is killed, the other one serves alone, and both have everything again.
    Beside(Kills, usize),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done to the nodes.
    pub faults: Faults,
    /// Clients.
    pub clients: usize,
    /// Accounts they share; the demo must have as many.
    pub accounts: usize,
    /// For victims and sizes.
    pub seed: u64,
    /// Pause of each client after each operation.
    pub pause: Duration,
    /// Where the history is kept.
    pub history: Option<PathBuf>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True when every property holds, the faults bit, and all replicas are equal at the end.
    pub holds: bool,
    /// Everything that is told about the run.
    pub document: Value,
    /// What the kills cost.
    pub pauses: pauses::Pauses,
    /// The history.
    pub history: History,
}

/// Sizes of messages, bytes: most are small, so that a long run fits the disk; some are larger than what rides with its entry.
const SIZES: [usize; 16] = [300, 300, 300, 300, 1000, 1000, 1000, 1000, 2000, 2000, 2000, 2000, 4000, 4000, 20_000, 70_000];

/// The clients' view of a cluster.
pub fn servers<S: Site>(site: &S) -> Vec<Server> {
    servers_of(site.nodes())
}

/// Some nodes as servers.
pub fn servers_of(nodes: &[Node]) -> Vec<Server> {
    nodes.iter().map(|n| Server { id: n.id.clone(), imap: n.imap.clone(), lmtp: n.lmtp.clone() }).collect()
}

/// Notes the start of a history: nodes and mailboxes that the checkers must find at the end.
pub fn note_setup<S: Site>(recorder: &Recorder, site: &S, keys: &[String], seed: u64) {
    note_setup_of(recorder, site.nodes(), keys, seed);
}

/// As [`note_setup`], for nodes that are there at the end.
pub fn note_setup_of(recorder: &Recorder, nodes: &[Node], keys: &[String], seed: u64) {
    let nodes: Vec<_> = nodes.iter().map(|n| n.id.as_str()).collect();
    recorder.nemesis("setup", "", json!({ "nodes": nodes, "keys": keys, "seed": seed }));
}

/// Carries out a run.
///
/// # Errors
/// In words, when the run could not be carried out to its end: a verb failed, a node did not come back, a mailbox could not be
/// read. That is a failure of the cluster or of the harness, never a success.
pub async fn carry_out(demo: &Demo, plan: &Plan) -> Result<Outcome, String> {
    let recorder = Arc::new(Recorder::new(plan.history.as_deref()).map_err(|e| format!("history: {e}"))?);
    let accounts: Vec<String> = demo.accounts().into_iter().take(plan.accounts).collect();
    let load = Load {
        servers: servers(demo),
        accounts: accounts.clone(),
        password: demo.password.clone(),
        clients: plan.clients,
        sizes: SIZES.to_vec(),
        pause: plan.pause,
        seed: plan.seed,
        name: "w".to_owned(),
    };
    note_setup(&recorder, demo, &load.keys(), plan.seed);
    let started = Instant::now();
    let running = load.start(&recorder);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut random = Random::new(plan.seed);
    let faults = match plan.faults {
        Faults::Kills(kills, time) => nemesis::kill_in_turn(demo, &recorder, &accounts, kills, time, &mut random).await,
        Faults::AllAtOnce(times, between) => nemesis::kill_all(demo, &recorder, times, between).await,
        Faults::Crowned(kills, times) => nemesis::kill_crowned(demo, &recorder, &accounts, kills, times, &mut random).await,
        Faults::Beside(kills, times) => nemesis::kill_beside(demo, &recorder, kills, times, &mut random).await,
        Faults::Paused(times, length) => nemesis::pause_holders(demo, &recorder, &accounts, length, times, &mut random).await,
    };
    if faults.is_ok() {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    running.stop().await;
    let load_seconds = started.elapsed().as_secs();
    let scanned = match &faults {
        Ok(()) => scan::everything(demo, &accounts, &recorder).await,
        Err(error) => Err(error.clone()),
    };
    let history = recorder.finish();
    let at_holder = scanned?;
    let equal = replicas_equal(demo).await;
    Ok(judge(history, equal, at_holder, load_seconds, plan))
}

fn judge(history: History, equal: Result<bool, String>, at_holder: u64, load_seconds: u64, plan: &Plan) -> Outcome {
    let (lawful, properties) = checkers::judge(&history);
    let pauses = pauses::measure(&history);
    let bit = !pauses.kills.is_empty() && pauses.in_flight > 0 && pauses.acknowledged > 0;
    let holds = lawful && bit && equal == Ok(true);
    let document = json!({
        "holds": holds, "seed": plan.seed, "load_seconds": load_seconds, "faults_bit": bit, "replicas_equal": equal.clone().ok(),
        "replicas_compared": equal.err().unwrap_or_else(|| "by state hash".to_owned()), "scans_at_the_holder": at_holder,
        "costs": pauses.to_json(), "properties": properties,
    });
    Outcome { holds, document, pauses, history }
}

/// Whether the replicas of all accounts have equal state hashes, by the program's own word. Replicas that still catch up get half a
/// minute.
///
/// # Errors
/// As [`Site::verb`].
pub async fn replicas_equal<S: Site>(site: &S) -> Result<bool, String> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let verified = site.verb(&["user", "verify", "*"]).await;
        let equal = verified.map(|v| {
            let users = v["users"].as_array().map(Vec::as_slice).unwrap_or_default();
            let same = |u: &Value| u["equal"] == true && u["missing"].as_array().is_none_or(Vec::is_empty);
            !users.is_empty() && users.iter().all(same)
        });
        if equal == Ok(true) || Instant::now() > until {
            return equal;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The run in a few lines, for people.
pub fn summary(document: &Value) -> String {
    let costs = &document["costs"];
    let mut text = format!(
        "kills {}   acknowledged {}   in flight at kills {}   unknown {}   refused {}\n",
        costs["kills"], costs["acknowledged"], costs["in_flight_at_kills"], costs["unknown"], costs["refused"]
    );
    for (title, key) in [("pauses, each client and kill", "pause_ms"), ("pauses, worst client of a kill", "worst_pause_per_kill_ms")] {
        let three = &costs[key];
        text.push_str(&format!(
            "{title}: p50 {} ms, p99 {} ms, max {} ms (of {})\n",
            three["p50"], three["p99"], three["max"], three["of"]
        ));
    }
    text.push_str(&format!("sessions that broke at a living node {}\n", costs["broken_sessions"]));
    let names = [
        ("durable", "lost"),
        ("no_duplicate", "duplicates"),
        ("uid", "UIDs twice or out of order"),
        ("no_phantom", "phantoms"),
        ("fresh", "stale reads"),
    ];
    for (property, title) in names {
        let found = &document["properties"][property];
        text.push_str(&format!("{title} {} (of {} looked at)\n", found["violations"], found["checked"]));
        for told in found["told"].as_array().into_iter().flatten() {
            text.push_str(&format!("    {}\n", told.as_str().unwrap_or_default()));
        }
    }
    let equal = &document["replicas_equal"];
    text.push_str(&format!("replicas equal: {equal} ({})\n", document["replicas_compared"].as_str().unwrap_or_default()));
    text.push_str(&format!("verdict: {}\n", if document["holds"] == true { "holds" } else { "FAILED" }));
    text
}
