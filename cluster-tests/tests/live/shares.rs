//! What each node bears: when one dies no other takes more than half as much again as its share of the users, and leaderships are spread
//! within the same bound, while it is away and after it is back.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::message::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const GROUPS: u32 = 16;
const USERS: usize = 200;
/// Nodes must have come or gone for 5 s, then one leadership moves every 2 s.
const SPREAD_WAIT: Duration = Duration::from_secs(60);

/// Waits until the groups of users are led by these nodes as is fair: by none of them more than half as much again as its share, nor less
/// than half of it.
pub(super) async fn leaders_are_fair(demo: &Demo, nodes: &[&str]) {
    let began = Instant::now();
    loop {
        let mut leads: BTreeMap<String, usize> = nodes.iter().map(|node| ((*node).to_owned(), 0)).collect();
        let leaders = demo.verb(&["group", "list"]).await.map(|groups| groups["groups"].as_array().cloned().unwrap_or_default());
        let leaders: Vec<Value> = leaders.unwrap_or_default().into_iter().filter(|group| group["id"] != 0).collect();
        for leader in leaders.iter().filter_map(|group| group["leader"].as_str()) {
            *leads.entry(leader.to_owned()).or_default() += 1;
        }
        let all: usize = leads.values().sum();
        let fair = |count: &usize| 2 * count * nodes.len() <= 3 * all && 2 * count * nodes.len() >= all;
        if all > 0 && all == leaders.len() && leads.len() == nodes.len() && leads.values().all(fair) {
            eprintln!("leaderships {leads:?} after {:?}", began.elapsed());
            return;
        }
        assert!(began.elapsed() < SPREAD_WAIT, "leaderships {leads:?} of {} groups", leaders.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Uses every account at these nodes in turn.
async fn touch_all(demo: &Demo, nodes: &[usize], what: &str) {
    for (turn, number) in nodes.iter().enumerate() {
        let mut lmtp = demo.lmtp(*number).await.unwrap();
        let theirs: Vec<&str> = demo.users.iter().skip(turn).step_by(nodes.len()).map(String::as_str).collect();
        for some in theirs.chunks(20) {
            let message = Message::new(&format!("{what}-{number}-{}", some[0]), b"touched\r\n");
            let results = lmtp.deliver("tests@tests.example", some, &message.bytes).await.unwrap();
            results.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        }
    }
}

/// Who holds whom.
async fn holders(demo: &Demo) -> BTreeMap<String, String> {
    let leases = demo.verb(&["lease", "list"]).await.unwrap();
    let rows = leases["leases"].as_array().into_iter().flatten();
    rows.filter_map(|row| Some((row["user"].as_str()?.to_owned(), row["holder"].as_str()?.to_owned()))).collect()
}

fn count(holders: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    holders.for_each(|holder| *counts.entry(holder).or_default() += 1);
    counts
}

#[test]
fn survivors_share_what_a_dead_node_held() {
    super::with_demo(Options { users: USERS, groups: Some(GROUPS), ..Options::default() }, async |demo| {
        leaders_are_fair(demo, &["n1", "n2", "n3"]).await;
        touch_all(demo, &[1, 2, 3], "first").await;
        let before = holders(demo).await;
        let counts = count(before.values().cloned());
        eprintln!("users held {counts:?}");
        assert_eq!(before.len(), demo.users.len());
        // One of those that hold most, so that there is something to share.
        let victim = counts.iter().max_by_key(|(_, users)| **users).unwrap().0.clone();
        let left: Vec<usize> = (1..=3).filter(|number| demo.node(*number).id != victim).collect();
        demo.kill(&victim).await.unwrap();
        let died = Instant::now();
        touch_all(demo, &left, "second").await;
        eprintln!("all {} users were served again after {:?}", demo.users.len(), died.elapsed());
        let after = holders(demo).await;
        let inherited = count(before.iter().filter(|(_, holder)| **holder == victim).filter_map(|(user, _)| after.get(user).cloned()));
        let all: usize = inherited.values().sum();
        eprintln!("of {victim} inherited {inherited:?}");
        assert_eq!(all, counts[&victim]);
        assert!(inherited.len() == 2 && !inherited.contains_key(&victim), "{inherited:?}");
        assert!(inherited.values().all(|users| users * 2 * 2 <= 3 * all), "more than 1.5 times its share: {inherited:?}");
        let stayed = before.iter().filter(|(_, holder)| **holder != victim).all(|(user, holder)| after.get(user) == Some(holder));
        assert!(stayed, "users of living nodes stay where they are");
        let names: Vec<&str> = left.iter().map(|number| demo.node(*number).id.as_str()).collect();
        leaders_are_fair(demo, &names).await;
        demo.start_nodes(&[&victim]).await.unwrap();
        leaders_are_fair(demo, &["n1", "n2", "n3"]).await;
    });
}
