//! A random node, a leader or a holder is killed every three seconds while 16 clients write.

use parliament_cluster_tests::checkers::pauses::percentile;
use parliament_cluster_tests::demo::Options;
use parliament_cluster_tests::nemesis::Kills;
use parliament_cluster_tests::run::{Faults, Plan, carry_out, summary};
use std::time::Duration;

/// Half of all pauses must be over before the victim is started again, so that it was not it who ended them.
const PAUSE_P50_MAX: Duration = Duration::from_millis(2200);
/// The promise for a quiet machine.
const PAUSE_P99_MAX: Duration = Duration::from_secs(2);

/// The promise stretched to the machine as it was during the run. Ten kills with about ten clients on survivors each make the p99
/// the worst sample or the second worst; three nodes, 16 clients and a restart that replays a log share the processors, and with
/// *n* runnable processes to each, everything an election does takes *n* times as long. The run alone loads two processors with
/// about two processes each, hence twice the promise at least. `cargo xtask chaos` reports the promise itself over a long run.
fn stretched() -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|one_minute| one_minute.parse().ok()).unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    PAUSE_P99_MAX.mul_f64((load / processors).clamp(2.0, 10.0))
}

#[test]
fn kills() {
    let plan = Plan {
        faults: Faults::Kills(Kills::default(), Duration::from_secs(30)),
        clients: 16,
        accounts: 6,
        seed: 1,
        pause: Duration::from_millis(5),
        history: None,
    };
    super::with_demo(Options { users: plan.accounts, ..Options::default() }, async |demo| {
        let outcome = carry_out(demo, &plan).await.unwrap();
        eprintln!("{}", summary(&outcome.document));
        assert!(outcome.holds, "{:#}", outcome.document);
        assert!(outcome.pauses.kills.values().sum::<u64>() >= 4, "{:#}", outcome.document);
        let pause = |q| Duration::from_nanos(percentile(&outcome.pauses.gaps, q));
        assert!(pause(0.5) <= PAUSE_P50_MAX && pause(0.99) <= stretched(), "pauses: {:#}", outcome.document);
    });
}
