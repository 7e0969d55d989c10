//! Runs under faults of the network and of clocks: a load, faults one after the other, the look at everything afterwards, the verdict.

use super::Cluster;
use super::faults::{Fault, heal};
use crate::checkers::{self, isolated, latency, pauses};
use crate::history::{History, Recorder};
use crate::load::{Load, Running};
use crate::random::Random;
use crate::site::Site;
use crate::{run, scan};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the cluster may take to be whole again after a fault.
const HEALED_WAIT: Duration = Duration::from_secs(30);

/// How much is done to the cluster by its clients.
#[derive(Clone, Debug)]
pub struct Work {
    /// Clients.
    pub clients: usize,
    /// Pause of each client after each operation.
    pub pause: Duration,
    /// For sizes and victims.
    pub seed: u64,
    /// Where the history is kept.
    pub history: Option<PathBuf>,
}

impl Default for Work {
    fn default() -> Self {
        Self { clients: 9, pause: Duration::from_millis(10), seed: 1, history: None }
    }
}

/// A run under way.
pub struct Trial<'c> {
    /// The cluster.
    pub cluster: &'c Cluster,
    /// Its history.
    pub recorder: Arc<Recorder>,
    running: Running,
    keys: Vec<String>,
    faults: usize,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True when every property holds and all replicas are equal at the end.
    pub holds: bool,
    /// Everything that is told about the run.
    pub document: Value,
    /// What the faults cost.
    pub pauses: pauses::Pauses,
    /// Latencies by phase.
    pub phases: Vec<latency::Phase>,
}

impl<'c> Trial<'c> {
    /// Starts the load.
    ///
    /// # Errors
    /// When the history's file cannot be made.
    pub fn begin(cluster: &'c Cluster, work: &Work) -> Result<Self, String> {
        let recorder = Arc::new(Recorder::new(work.history.as_deref()).map_err(|e| format!("history: {e}"))?);
        let load = Load {
            servers: run::servers(cluster),
            accounts: cluster.users.clone(),
            password: cluster.password().to_owned(),
            clients: work.clients,
            sizes: vec![300, 300, 1000, 2000, 4000, 20_000],
            pause: work.pause,
            seed: work.seed,
            name: "w".to_owned(),
        };
        let keys = load.keys();
        run::note_setup(&recorder, cluster, &keys, work.seed);
        let running = load.start(&recorder);
        Ok(Self { cluster, recorder, running, keys, faults: 0 })
    }

    /// From here on latencies belong to this phase.
    pub fn phase(&self, name: &str) {
        self.recorder.nemesis("phase", "", json!({ "name": name }));
    }

    /// Brings a fault about, lets it last, heals it, and waits until all nodes are ready.
    ///
    /// # Errors
    /// In words, when the cluster is not whole again in time.
    pub async fn fault(&mut self, fault: Fault, reason: &str, length: Duration) -> Result<(), String> {
        self.faults += 1;
        fault.begin(self.cluster, &self.recorder, reason)?;
        tokio::time::sleep(length).await;
        self.heal(fault).await
    }

    /// Heals a fault and waits until all nodes are ready.
    ///
    /// # Errors
    /// As [`Self::fault`].
    pub async fn heal(&mut self, fault: Fault) -> Result<(), String> {
        heal(self.cluster, &self.recorder, fault.node())?;
        let healed = Instant::now();
        for node in &self.cluster.nodes {
            let left = HEALED_WAIT.saturating_sub(healed.elapsed());
            self.cluster.wait_ready(&node.id, left).await.map_err(|error| format!("after {fault:?}: {error}"))?;
        }
        eprintln!("{fault:?}: all nodes were ready {} ms after it", healed.elapsed().as_millis());
        Ok(())
    }

    /// Ends the load, looks at everything, and judges.
    ///
    /// # Errors
    /// In words, when a mailbox cannot be read at some node.
    pub async fn judge(self) -> Result<Outcome, String> {
        self.running.stop().await;
        scan::everything(self.cluster, &self.cluster.users, &self.recorder).await?;
        let history = self.recorder.finish();
        let equal = run::replicas_equal(self.cluster).await;
        Ok(verdict(&history, equal, self.cluster, self.keys.len()))
    }
}

fn verdict(history: &History, equal: Result<bool, String>, cluster: &Cluster, keys: usize) -> Outcome {
    let (mut lawful, mut properties) = checkers::judge(history);
    let is_alone = history.faults().any(|op| op.f == "cut" && op.value["alone"] == true);
    if is_alone {
        let isolated = isolated::check(history);
        lawful &= isolated.holds();
        properties["isolated"] = json!({ "violations": isolated.violations, "checked": isolated.checked, "told": isolated.told });
    }
    let pauses = pauses::measure(history);
    let phases = latency::by_phase(history);
    let counted = cluster.switch.counted();
    let holds = lawful && equal == Ok(true) && pauses.acknowledged > 0;
    let document = json!({
        "holds": holds, "replicas_equal": equal.clone().ok(), "replicas_compared": equal.err(), "mailboxes": keys,
        "costs": pauses.to_json(), "properties": properties, "phases": phases.iter().map(latency::Phase::to_json).collect::<Vec<_>>(),
        "packets": { "carried": counted.carried, "cut": counted.cut, "lost": counted.lost, "delayed": counted.delayed },
    });
    Outcome { holds, document, pauses, phases }
}

/// A run in a few lines, for people.
pub fn summary(document: &Value) -> String {
    let mut text = format!("packets {}\n", document["packets"]);
    for phase in document["phases"].as_array().into_iter().flatten() {
        text.push_str(&format!("{phase}\n"));
    }
    let isolated = &document["properties"]["isolated"];
    if !isolated.is_null() {
        text.push_str(&format!("answers of a node that is cut off {} (of {} asked)\n", isolated["violations"], isolated["checked"]));
        for told in isolated["told"].as_array().into_iter().flatten() {
            text.push_str(&format!("    {}\n", told.as_str().unwrap_or_default()));
        }
    }
    text + &run::summary(document)
}

/// Faults at random for so long, in a cluster that has clocks to be set.
///
/// # Errors
/// As [`Trial::fault`].
pub async fn soak(trial: &mut Trial<'_>, time: Duration, random: &mut Random) -> Result<(), String> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        let (node, reason) = victim(trial.cluster, random).await;
        let other = 1 + (node + random.below(trial.cluster.nodes.len() - 1)) % trial.cluster.nodes.len();
        let kinds = [
            Fault::Alone(node),
            Fault::Mute(node),
            Fault::Deaf(node),
            Fault::OneWay(node, other),
            Fault::Ring(node),
            Fault::Lossy(node, 200),
            Fault::Slow(node, 50, 50),
            Fault::Rate(node, 2_000_000),
            Fault::Rate(node, 500_000),
            Fault::Wall(node, 3_600),
            Fault::Wall(node, -3_600),
        ];
        let length = Duration::from_millis(2_000 + random.next_u64() % 6_000);
        trial.fault(*random.pick(&kinds), reason, length).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(())
}

/// A holder, a leader or any node.
pub async fn victim(cluster: &Cluster, random: &mut Random) -> (usize, &'static str) {
    let any = 1 + random.below(cluster.nodes.len());
    let (found, reason) = match random.below(3) {
        0 => (cluster.holder(random.pick::<String>(&cluster.users)).await, "holder"),
        1 => (cluster.leader(0).await, "leader"),
        _ => (None, "random"),
    };
    found.map_or((any, "random"), |id| (cluster.number(&id), reason))
}
