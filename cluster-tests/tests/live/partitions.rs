//! Links between nodes are cut, one way or both, or lose and delay packets, while clients reach every node. Nodes in network namespaces.

use parliament_cluster_tests::checkers::pauses::percentile;
use parliament_cluster_tests::netns::faults::Fault;
use parliament_cluster_tests::netns::partitions::{Outcome, Trial, Work, summary};
use parliament_cluster_tests::netns::{Cluster, Options, lacking};
use parliament_cluster_tests::skipped;
use std::time::Duration;

/// The pauses of `kills`, for the same reasons: at living nodes a cut costs what a death costs.
const PAUSE_P50_MAX: Duration = Duration::from_millis(1500);
const PAUSE_P99_MAX: Duration = Duration::from_millis(3500);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Longer than the pause that is promised: otherwise a cluster that only waits for the end of the cut would keep the promise.
const CUT: Duration = Duration::from_millis(4_500);

/// Where some nodes hear each other and some do not, a holder first finds out that it hears no leader, which takes 1.8 s, and then others
/// find out that it gave its leases up. The cut lasts longer than that may take on a busy machine.
const PARTIAL_P50_MAX: Duration = Duration::from_millis(2500);
const PARTIAL_P99_MAX: Duration = Duration::from_millis(5000);
const PARTIAL_CUT: Duration = Duration::from_millis(6_000);

/// Runs a test on a cluster of its own, or says loudly that it could not.
pub(crate) fn with_cluster<T: AsyncFnOnce(&Cluster)>(name: &str, options: Options, test: T) {
    if let Some(why) = lacking() {
        return skipped(name, &why);
    }
    super::block_on(async {
        let mut cluster = Cluster::start(&options).await.unwrap_or_else(|error| panic!("{error}"));
        eprintln!("the cluster was ready after {:?}", cluster.ready_after);
        if let Err(panic) = super::catch(test(&cluster)).await {
            eprintln!("the nodes' data and logs are kept in {}", cluster.keep().display());
            drop(cluster);
            std::panic::resume_unwind(panic);
        }
        cluster.end().await.unwrap();
    });
}

/// A load that is under way for a while before anything happens.
pub(crate) async fn begin(cluster: &Cluster) -> Trial<'_> {
    let history = Some(cluster.dir().join("history.jsonl"));
    let trial = Trial::begin(cluster, &Work { history, ..Work::default() }).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    trial
}

pub(crate) async fn judge(trial: Trial<'_>) -> Outcome {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let outcome = trial.judge().await.unwrap();
    eprintln!("{}", summary(&outcome.document));
    assert!(outcome.holds, "{:#}", outcome.document);
    outcome
}

/// At living nodes everything goes on soon, in the sessions that were open.
fn assert_pauses(outcome: &Outcome) {
    assert_pauses_within(outcome, PAUSE_P50_MAX, PAUSE_P99_MAX);
}

fn assert_pauses_within(outcome: &Outcome, p50_max: Duration, p99_max: Duration) {
    let pause = |q| Duration::from_nanos(percentile(&outcome.pauses.gaps, q));
    assert!(!outcome.pauses.gaps.is_empty(), "nobody was at a living node: {:#}", outcome.document);
    let within = pause(0.5) <= p50_max && pause(0.99) <= p99_max && pause(1.0) <= PAUSE_MAX;
    assert!(within, "pauses: {:#}", outcome.document);
    assert_eq!(outcome.pauses.broken, 0, "sessions broke at living nodes: {:#}", outcome.document);
    assert!(outcome.document["packets"]["cut"].as_u64() > Some(0), "no packet was lost: {:#}", outcome.document);
}

async fn holder(cluster: &Cluster) -> usize {
    let holder = cluster.holder(&cluster.users[0]).await.expect("somebody holds a user who is written all the time");
    cluster.number(&holder)
}

async fn leader(cluster: &Cluster) -> usize {
    cluster.number(&cluster.leader(0).await.expect("group 0 has a leader"))
}

/// A holder, then the leader of group 0, exchanges nothing with the others; their clients go on asking them.
#[test]
fn cut_off() {
    with_cluster("partitions::cut_off", Options::default(), async |cluster| {
        let mut trial = begin(cluster).await;
        trial.fault(Fault::Alone(holder(cluster).await), "holder", CUT).await.unwrap();
        trial.fault(Fault::Alone(leader(cluster).await), "leader", CUT).await.unwrap();
        assert_pauses(&judge(trial).await);
    });
}

/// The others hear a holder, and it does not hear them; then they do not hear the leader of group 0, and it hears them.
#[test]
fn one_way() {
    with_cluster("partitions::one_way", Options::default(), async |cluster| {
        let mut trial = begin(cluster).await;
        trial.fault(Fault::Deaf(holder(cluster).await), "holder", CUT).await.unwrap();
        trial.fault(Fault::Mute(leader(cluster).await), "leader", CUT).await.unwrap();
        assert_pauses(&judge(trial).await);
    });
}

/// Of three nodes two do not hear each other: the third hears both, so each has a majority. First one of them leads group 0, then not.
#[test]
fn majority_ring() {
    with_cluster("partitions::majority_ring", Options::default(), async |cluster| {
        let mut trial = begin(cluster).await;
        let first = leader(cluster).await;
        trial.fault(Fault::Ring(first), "begins at a leader", PARTIAL_CUT).await.unwrap();
        let last = 1 + leader(cluster).await % 3;
        trial.fault(Fault::Ring(last), "begins behind a leader", PARTIAL_CUT).await.unwrap();
        assert_pauses_within(&judge(trial).await, PARTIAL_P50_MAX, PARTIAL_P99_MAX);
    });
}

/// Of five nodes each hears two others, so each has a majority, and no two the same one. Nothing is lost or old, and most are served within
/// the time of a partial partition. Some wait until the ring is whole; a way around takes one node between, and here there may be none.
#[test]
fn majority_ring_of_five() {
    with_cluster("partitions::majority_ring_of_five", Options { nodes: 5, ..Options::default() }, async |cluster| {
        let mut trial = begin(cluster).await;
        trial.fault(Fault::Ring(1), "of five", CUT).await.unwrap();
        assert_pauses_within(&judge(trial).await, PARTIAL_P50_MAX, PAUSE_MAX);
    });
}

/// A node is heard by one of two others only; whoever they are, somebody leads and somebody holds.
#[test]
fn one_way_pairs() {
    with_cluster("partitions::one_way_pairs", Options::default(), async |cluster| {
        let mut trial = begin(cluster).await;
        let from = leader(cluster).await;
        trial.fault(Fault::OneWay(from, 1 + from % 3), "from a leader", PARTIAL_CUT).await.unwrap();
        let to = holder(cluster).await;
        trial.fault(Fault::OneWay(1 + to % 3, to), "to a holder", PARTIAL_CUT).await.unwrap();
        assert_pauses_within(&judge(trial).await, PARTIAL_P50_MAX, PARTIAL_P99_MAX);
    });
}

/// Row 25 of the mission: 2 % of the packets of one node's links are lost. Then they take 50 to 100 ms.
#[test]
fn lossy() {
    with_cluster("partitions::lossy", Options::default(), async |cluster| {
        let mut trial = begin(cluster).await;
        let node = holder(cluster).await;
        trial.phase("calm");
        tokio::time::sleep(PHASE).await;
        trial.phase("2 % lost");
        trial.fault(Fault::Lossy(node, 200), "holder", PHASE).await.unwrap();
        trial.phase("between");
        tokio::time::sleep(Duration::from_secs(1)).await;
        trial.phase("50 to 100 ms");
        trial.fault(Fault::Slow(node, 50, 50), "holder", PHASE).await.unwrap();
        trial.phase("after");
        let outcome = judge(trial).await;
        let p99 = |name: &str| outcome.phases.iter().find(|phase| phase.name == name).map(|phase| phase.ms(0.99)).unwrap();
        let (calm, lossy) = (p99("calm"), p99("2 % lost"));
        assert!(lossy <= 3 * calm.max(CALM_P99_MS_LEAST), "p99 {lossy} ms, {calm} ms without loss: {:#}", outcome.document);
        assert!(outcome.document["packets"]["lost"].as_u64() > Some(0) && outcome.document["packets"]["delayed"].as_u64() > Some(0));
    });
}

/// How long latencies are measured.
const PHASE: Duration = Duration::from_secs(4);
/// On an idle machine everything is so quick that three times it would be less than one turn of the scheduler.
const CALM_P99_MS_LEAST: u64 = 20;
