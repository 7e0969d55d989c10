//! Sixty sessions of all kinds live on at two nodes while the third, which holds their users, is killed, stopped and emptied.

use parliament_cluster_tests::demo::Options;
use parliament_cluster_tests::survive::{Plan, carry_out, summary};
use std::time::Duration;

#[test]
fn sessions_outlive_the_holders_of_their_users() {
    let plan = Plan { sessions: 60, time: Duration::from_secs(30), seed: 1, huge: 2000 };
    super::with_demo(Options { users: plan.accounts(), ..Options::default() }, async |demo| {
        let outcome = carry_out(demo, &plan).await.unwrap();
        eprintln!("{}", summary(&outcome.document));
        assert!(outcome.holds, "{:#}", outcome.document);
        assert!(outcome.costs.session_kills() >= 100, "{:#}", outcome.document);
    });
}
