//! Several groups beside each other.

use super::lab::{Lab, set};
use parliament_ids::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const GROUPS: u32 = 9;
const QUIET: Duration = Duration::from_secs(3);

/// Processor time of this process so far, milliseconds.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // utime and stime, in ticks of 10 ms.
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

fn leaders(lab: &Lab) -> BTreeMap<GroupId, (Option<NodeId>, u64)> {
    let mut seen = BTreeMap::new();
    for group in &lab.nodes[&NodeId(1)].more {
        let metrics = group.metrics();
        seen.insert(group.id(), (metrics.leader, metrics.term));
    }
    seen
}

/// Also prints what idling costs, when run alone with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_groups_keep_their_leaders_while_one_works() {
    let mut lab = Lab::three().await;
    lab.add_groups(GROUPS - 1).await;
    lab.write("a", "1").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while leaders(&lab).values().any(|(leader, _)| leader.is_none()) {
        assert!(Instant::now() < deadline, "groups without leader: {:?}", leaders(&lab));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = leaders(&lab);
    let spread: std::collections::BTreeSet<_> = before.values().filter_map(|(leader, _)| *leader).collect();
    assert_eq!(spread.len(), 3, "the founders lead: {before:?}");
    let (cpu, appends, start) = (cpu_ms(), lab.net.counted("append"), Instant::now());
    tokio::time::sleep(QUIET).await;
    let share = (cpu_ms() - cpu) as f64 / start.elapsed().as_secs_f64() / 10.0;
    let rate = (lab.net.counted("append") - appends) as f64 / start.elapsed().as_secs_f64();
    println!("{GROUPS} idle groups x 3 nodes: {share:.1} % of a core in all, {rate:.0} append messages per second");
    let leader = lab.leader().await;
    let busy = Instant::now();
    while busy.elapsed() < Duration::from_secs(1) {
        let proposals = (0..64).map(|n| lab.group(leader).propose(set(&n.to_string(), "x")));
        futures::future::try_join_all(proposals).await.unwrap();
    }
    assert_eq!(leaders(&lab), before, "no election happened");
    lab.stop_all().await;
}
