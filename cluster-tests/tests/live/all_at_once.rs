//! All nodes are killed at once under load, twice: a cluster that acknowledges before its disks have it does not survive that.

use parliament_cluster_tests::demo::Options;
use parliament_cluster_tests::run::{Faults, Plan, carry_out, summary};
use std::time::Duration;

#[test]
fn all_at_once() {
    let plan = Plan {
        faults: Faults::AllAtOnce(2, Duration::from_secs(3)),
        clients: 16,
        accounts: 6,
        seed: 2,
        pause: Duration::from_millis(5),
        history: None,
    };
    super::with_demo(Options { users: plan.accounts, ..Options::default() }, async |demo| {
        let outcome = carry_out(demo, &plan).await.unwrap();
        eprintln!("{}", summary(&outcome.document));
        assert!(outcome.holds, "{:#}", outcome.document);
    });
}
