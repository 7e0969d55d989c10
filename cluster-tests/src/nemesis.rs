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

/// Makes one node after the other holder of an account and leader of that account's group and of group 0, and kills it; so many times.
///
/// # Errors
/// As [`kill_in_turn`], and when a node cannot be made all three.
pub async fn kill_crowned(
    demo: &Demo,
    recorder: &Recorder,
    accounts: &[String],
    kills: Kills,
    times: usize,
    random: &mut Random,
) -> Result<(), String> {
    for turn in 0..times {
        let next = Instant::now() + kills.every;
        let victim = &demo.nodes[turn % demo.nodes.len()].id;
        let account = held(demo, accounts, random).await?;
        crown(demo, victim, &account).await?;
        recorder.nemesis("kill", victim, json!({ "reason": "crowned", "of": account }));
        demo.kill(victim).await?;
        tokio::time::sleep(kills.down).await;
        restart(demo, recorder, &[victim]).await?;
        tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
    }
    Ok(())
}

/// An account that somebody holds; what no client has touched yet is held by nobody.
async fn held(demo: &Demo, accounts: &[String], random: &mut Random) -> Result<String, String> {
    for _ in 0..accounts.len() * 10 {
        let account = random.pick(accounts);
        if demo.holder(account).await.is_some() {
            return Ok(account.clone());
        }
    }
    Err("nobody holds any account".to_owned())
}

/// Until it is so: what is moved first may have moved on when the last is.
async fn crown(demo: &Demo, node: &str, account: &str) -> Result<(), String> {
    let until = Instant::now() + READY_WAIT;
    let mut last = String::new();
    while Instant::now() < until {
        let lease = demo.verb(&["lease", "show", account]).await?;
        let group = lease["group"].as_u64().ok_or("no group in the lease")?;
        let leaders = demo.leaders().await;
        let leads = |group: u64| leaders.iter().any(|(led, by)| *led == group && by == node);
        if lease["holder"] == node && leads(group) && leads(0) {
            return Ok(());
        }
        let group = group.to_string();
        for words in [
            ["group", "transfer", "0", "--to", node],
            ["group", "transfer", &group, "--to", node],
            ["lease", "move", account, "--to", node],
        ] {
            if let Err(error) = demo.verb(&words).await {
                last = error;
            }
        }
    }
    Err(format!("{node} could not be made holder of {account} and leader: {last}"))
}

/// Kills one of two data nodes beside a witness, sees that the other one serves alone, starts the victim and waits until both have
/// everything; so many times.
///
/// # Errors
/// As [`kill_in_turn`], and when nobody serves alone, or it does not end.
pub async fn kill_beside(demo: &Demo, recorder: &Recorder, kills: Kills, times: usize, random: &mut Random) -> Result<(), String> {
    for _ in 0..times {
        let next = Instant::now() + kills.every;
        let data: Vec<&str> = demo.nodes.iter().take(2).map(|node| node.id.as_str()).collect();
        let victim = *random.pick(&data);
        let survivor = data.iter().find(|node| **node != victim).copied().unwrap_or_default();
        recorder.nemesis("kill", victim, json!({ "reason": "beside", "of": survivor }));
        demo.kill(victim).await?;
        tokio::time::sleep(kills.down).await;
        wait_alone(demo, Some(survivor), Duration::from_secs(10)).await?;
        restart(demo, recorder, &[victim]).await?;
        wait_alone(demo, None, READY_WAIT).await?;
        recorder.nemesis("both", survivor, Value::Null);
        tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
    }
    Ok(())
}

/// Waits until this node serves alone beside the witness, or none.
///
/// # Errors
/// In words, when it does not come to that within `wait`.
pub async fn wait_alone(demo: &Demo, node: Option<&str>, wait: Duration) -> Result<(), String> {
    let until = Instant::now() + wait;
    loop {
        let status = demo.verb(&["status"]).await?;
        let (found, degraded) = (status["alone"].as_str(), status["verdict"]["health"] == "degraded");
        if found == node && (node.is_none() || degraded) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("{found:?} serves alone, and not {node:?}: {status}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Stops the process of a holder where it stands for `length`, lets it go on, and waits until it is ready again; so many times.
///
/// # Errors
/// As [`kill_in_turn`].
pub async fn pause_holders(
    demo: &Demo,
    recorder: &Recorder,
    accounts: &[String],
    length: Duration,
    times: usize,
    random: &mut Random,
) -> Result<(), String> {
    for _ in 0..times {
        let (victim, reason, of) = choose(demo, accounts, "holder", random).await;
        recorder.nemesis("pause", &victim, json!({ "reason": format!("paused {reason}"), "of": of }));
        demo.pause(&victim).await?;
        tokio::time::sleep(length).await;
        recorder.nemesis("resume", &victim, Value::Null);
        demo.resume(&victim).await?;
        demo.wait_ready(&victim, READY_WAIT).await?;
        recorder.nemesis("ready", &victim, Value::Null);
        tokio::time::sleep(Duration::from_secs(3)).await;
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
