//! A random node, a leader or a holder is killed every three seconds while 16 clients write.

use parliament_cluster_tests::checkers::pauses::percentile;
use parliament_cluster_tests::demo::Options;
use parliament_cluster_tests::nemesis::Kills;
use parliament_cluster_tests::run::{Faults, Plan, carry_out, summary};
use std::time::Duration;

/// Half of all pauses must be over before the victim is started again, so that it was not it who ended them.
const PAUSE_P50_MAX: Duration = Duration::from_millis(2200);
/// Everything works again within this, whatever the machine does besides. The promised p99 of 2 s is what `cargo xtask chaos` measures
/// over many kills; ten kills on two processors, which three nodes, 16 clients and a restart that replays a log share, make one
/// unlucky kill the p99.
const PAUSE_MAX: Duration = Duration::from_secs(12);

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
        assert!(pause(0.5) <= PAUSE_P50_MAX && pause(1.0) <= PAUSE_MAX, "pauses: {:#}", outcome.document);
    });
}
