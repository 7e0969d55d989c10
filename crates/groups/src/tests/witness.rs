//! Two data nodes and a witness (rule 5): a data node is killed at each step with the other's body delayed.

use super::lab::{Lab, WAIT, set, until};
use crate::{Command, ProposeError};
use parliament_ids::{BodyHash, NodeId};
use std::time::{Duration, Instant};

const WITNESS: NodeId = NodeId(3);
/// Long enough for anything that is going to be committed.
const LONG: Duration = Duration::from_millis(700);

fn partner(data: NodeId) -> NodeId {
    NodeId(3 - data.0)
}

fn mail(body: BodyHash) -> Command {
    Command::new(&[body], b"mail=1").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_makes_no_majority_with_one_body_unless_that_node_serves_alone() {
    let (mut lab, rule) = Lab::two_and_witness().await;
    lab.write("a", "1").await;
    let leader = lab.leader().await;
    let other = partner(leader);
    let body = BodyHash([9; 32]);
    lab.shelves[&leader].put(body);
    let group = lab.group(leader).clone();
    let proposal = tokio::spawn(async move { group.propose(mail(body)).await });
    tokio::time::sleep(LONG).await;
    assert!(!proposal.is_finished(), "one disk has the body");
    assert!(lab.group(WITNESS).metrics().last_log < lab.group(leader).metrics().last_log, "its log has no such entry");
    lab.shelves[&other].put(body);
    let (index, _) = proposal.await.unwrap().unwrap();
    lab.agree(index).await;
    // The other node is away: not even an entry without a body is taken, so that the witness is never ahead of a data node.
    lab.net.isolate(other, true);
    let group = lab.group(leader).clone();
    let proposal = tokio::spawn(async move { group.propose(set("b", "2")).await });
    tokio::time::sleep(LONG).await;
    assert!(!proposal.is_finished());
    rule.set_alone(Some(other));
    tokio::time::sleep(LONG / 2).await;
    assert!(!proposal.is_finished(), "alone is another node");
    rule.set_alone(Some(leader));
    proposal.await.unwrap().unwrap();
    let second = BodyHash([8; 32]);
    lab.shelves[&leader].put(second);
    // Its lease had run out while the witness took another for the one that serves.
    let began = Instant::now();
    let index = loop {
        match lab.group(leader).propose(mail(second)).await {
            Ok((index, _)) => break index,
            Err(error) => assert!(began.elapsed() < WAIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    rule.set_alone(None);
    rule.settled().await;
    assert_eq!(lab.group(WITNESS).metrics().last_log, Some(index));
    // It comes back without the body, which it lacks by what is committed: the gate there lets the entry pass.
    lab.net.isolate(other, false);
    lab.group(other).wait_applied(index, WAIT).await.unwrap();
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_data_node_is_elected_and_has_all_that_was_confirmed() {
    let (mut lab, rule) = Lab::two_and_witness().await;
    for life in 0..4 {
        let leader = lab.leader().await;
        assert_ne!(leader, WITNESS);
        let mut last = 0;
        for n in 0..10 {
            let body = BodyHash([10 * life + n; 32]);
            [leader, partner(leader)].iter().for_each(|node| lab.shelves[node].put(body));
            last = lab.group(leader).propose(mail(body)).await.unwrap().0;
        }
        // One more that only the leader can have; nobody was told of it.
        let lone = BodyHash([200 + life; 32]);
        lab.shelves[&leader].put(lone);
        let group = lab.group(leader).clone();
        let unconfirmed = tokio::spawn(async move { group.propose(mail(lone)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        lab.stop(leader).await;
        assert!(!matches!(unconfirmed.await.unwrap(), Ok(_) | Err(ProposeError::Body(_))));
        let heir = partner(leader);
        until("an heir", || lab.group(heir).is_leader()).await;
        assert!(lab.group(heir).metrics().last_log >= Some(last));
        assert!(lab.group(heir).read_index().await.is_err(), "its term begins with an entry that it has alone");
        rule.set_alone(Some(heir));
        lab.write("heir", &heir.to_string()).await;
        assert!(!lab.group(WITNESS).is_leader());
        rule.set_alone(None);
        lab.start(leader).await;
        let (last, _) = lab.write("both", "again").await;
        lab.agree(last).await;
    }
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_never_leads() {
    let (mut lab, rule) = Lab::two_and_witness().await;
    lab.write("a", "1").await;
    let leader = lab.leader().await;
    // The leader only asks; what matters is that nothing comes of it.
    let _ = lab.group(leader).transfer_leader(WITNESS).await;
    tokio::time::sleep(LONG).await;
    assert!(!lab.group(WITNESS).is_leader());
    rule.set_alone(Some(NodeId(1)));
    lab.write("b", "2").await;
    lab.stop(NodeId(1)).await;
    lab.stop(NodeId(2)).await;
    tokio::time::sleep(3 * LONG).await;
    let metrics = lab.group(WITNESS).metrics();
    assert!(!lab.group(WITNESS).is_leader() && metrics.role != crate::Role::Candidate, "{metrics:?}");
    lab.start(NodeId(1)).await;
    lab.write("c", "3").await;
    lab.stop_all().await;
}
