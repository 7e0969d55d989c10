//! Faults: nodes of a demo killed with signal 9 one after the other or all at once, and started again.

use crate::demo::Demo;
use crate::history::Recorder;
use crate::random::Random;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a restarted node may take to be ready on a busy machine before the run counts as failed.
const READY_WAIT: Duration = Duration::from_secs(60);

/// Why a victim was chosen; they take turns.
const REASONS: [&str; 3] = ["random", "leader", "holder"];

/// Nodes are killed one at a time.
#[derive(Clone, Copy, Debug)]
pub struct Kills {
    /// From kill to kill; longer where the victim takes longer to be ready.
    pub every: Duration,
    /// From the kill to the restart. Longer than the pause that is promised: otherwise a cluster that only waits for its dead node
    /// to come back would keep the promise.
    pub down: Duration,
}

impl Default for Kills {
    fn default() -> Self {
        Self { every: Duration::from_secs(3), down: Duration::from_millis(2200) }
    }
}

/// Kills a random node, the leader of a random group, or the holder of a random account in turn, until the time is over; the last
/// victim is ready again at the end.
///
/// # Errors
/// In words: a verb failed, or a victim did not come back.
pub async fn kill_in_turn(
    demo: &Demo,
    recorder: &Recorder,
    accounts: &[String],
    kills: Kills,
    time: Duration,
    random: &mut Random,
) -> Result<(), String> {
    let until = Instant::now() + time;
    let mut turn = 0;
    while Instant::now() < until {
        let next = Instant::now() + kills.every;
        let (victim, reason, of) = choose(demo, accounts, REASONS[turn % REASONS.len()], random).await;
        turn += 1;
        recorder.nemesis("kill", &victim, json!({ "reason": reason, "of": of }));
        demo.kill(&victim).await?;
        tokio::time::sleep(kills.down).await;
        restart(demo, recorder, &[&victim]).await?;
        tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
    }
    Ok(())
}

/// The victim, why it was taken, and of what it was leader or holder.
async fn choose(demo: &Demo, accounts: &[String], reason: &'static str, random: &mut Random) -> (String, &'static str, Value) {
    match reason {
        "leader" => {
            let leaders = demo.leaders().await;
            if !leaders.is_empty() {
                let (group, node) = random.pick(&leaders).clone();
                return (node, reason, json!(group));
            }
        }
        "holder" => {
            let account = random.pick(accounts);
            if let Some(node) = demo.holder(account).await {
                return (node, reason, json!(account));
            }
        }
        _ => {}
    }
    (random.pick(&demo.nodes).id.clone(), "random", Value::Null)
}

async fn restart(demo: &Demo, recorder: &Recorder, nodes: &[&str]) -> Result<(), String> {
    for node in nodes {
        recorder.nemesis("start", node, Value::Null);
    }
    let started = Instant::now();
    demo.start_nodes(nodes).await?;
    for node in nodes {
        demo.wait_ready(node, READY_WAIT).await?;
        recorder.nemesis("ready", node, json!({ "after_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX) }));
    }
    Ok(())
}

/// Kills all nodes at once, starts them, waits until all are ready, and lets the load run for `between`; so many times.
///
/// # Errors
/// As [`kill_in_turn`].
pub async fn kill_all(demo: &Demo, recorder: &Recorder, times: usize, between: Duration) -> Result<(), String> {
    let ids: Vec<&str> = demo.nodes.iter().map(|n| n.id.as_str()).collect();
    for _ in 0..times {
        tokio::time::sleep(between).await;
        for id in &ids {
            recorder.nemesis("kill", id, json!({ "reason": "all at once" }));
        }
        demo.kill_at_once(&ids).await?;
        restart(demo, recorder, &ids).await?;
    }
    tokio::time::sleep(between).await;
    Ok(())
}
