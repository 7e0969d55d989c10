//! A random node, a leader or a holder is killed every three seconds while 16 clients write.

use parliament_cluster_tests::checkers::pauses::percentile;
use parliament_cluster_tests::demo::Options;
use parliament_cluster_tests::nemesis::Kills;
use parliament_cluster_tests::run::{Faults, Plan, carry_out, summary};
use std::time::Duration;

/// Half of all pauses must be over before the victim is started again, so that it was not it who ended them.
const PAUSE_P50_MAX: Duration = Duration::from_millis(2000);
/// The promise is a p99 of 2 s on a quiet machine, and `cargo xtask chaos` reports it over a long run. Here ten kills with about ten
/// clients on survivors each make the p99 the worst sample or the second worst, and three nodes, 16 clients and often other tests
/// share two cores, where a process waits up to a second for its turn and an election or a restart's replay takes several turns
/// (seen: 3.4 s and 4.2 s at a load of 12 and 15). So three times the promise is asserted: still below any client's time-out.
const PAUSE_P99_MAX: Duration = Duration::from_secs(6);

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
        assert!(pause(0.5) <= PAUSE_P50_MAX && pause(0.99) <= PAUSE_P99_MAX, "pauses: {:#}", outcome.document);
    });
}
