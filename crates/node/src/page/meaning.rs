//! What the cluster's state means, for somebody who sees it for the first time: a few whole sentences.

use super::view::Held;
use parliament_ctl::api::{NodeState, Status};
use parliament_ctl::{Health, Verdict};

/// The sentences, the gravest first.
pub(crate) fn meaning(status: &Status, verdict: &Verdict, leases: &[Held]) -> Vec<String> {
    if !status.formed {
        return vec!["This node runs, and waits to become part of a cluster.".to_owned()];
    }
    let in_state = |state| status.nodes.iter().filter(move |node| node.state == state).map(|node| node.name.as_str()).collect::<Vec<_>>();
    let (down, starting, draining) = (in_state(NodeState::Down), in_state(NodeState::Starting), in_state(NodeState::Draining));
    let leaderless = status.groups.iter().filter(|group| group.leader.is_none()).count();
    let mut told = Vec::new();
    if verdict.health == Health::NoQuorum {
        told.push(
            "Some users have to wait: of their groups fewer than a majority of the nodes answers. Nothing that was acknowledged is lost."
                .to_owned(),
        );
        if !down.is_empty() {
            told.push(format!("Service comes back by itself once enough of {} answer again.", and(&down)));
        }
        return told;
    }
    if !down.is_empty() {
        let (does, its) = if down.len() == 1 { ("does", "it") } else { ("do", "they") };
        told.push(format!("{} {does} not answer. Everything that {its} acknowledged is on other nodes, which serve it.", and(&down)));
        told.push("Sessions at the other nodes go on; clients that were connected there connect again to another node.".to_owned());
    }
    if let Some(alone) = &status.alone {
        told.push(format!(
            "{alone} serves alone beside the witness: what it takes now is on its disk only. Once its partner is back and has everything, both have it."
        ));
    }
    if leaderless > 0 {
        let (groups, their) = if leaderless == 1 { ("group is", "its") } else { ("groups are", "their") };
        told.push(format!("{leaderless} {groups} choosing a new leader; {their} users wait a moment."));
    } else if !down.is_empty() {
        told.push("Every group is led by a node that answers.".to_owned());
    }
    if !starting.is_empty() {
        let reads =
            if starting.len() == 1 { "reads what it has missed, and then takes" } else { "read what they have missed, and then take" };
        told.push(format!("{} {reads} part again.", and(&starting)));
    }
    if !draining.is_empty() {
        told.push(format!("{} is being stopped in order: groups and users are handed to the others first.", and(&draining)));
    }
    if told.is_empty() {
        told.push(match (verdict.health, verdict.survives_nodes) {
            (Health::Healthy, 0) => "Every node answers. There is nobody to take over, should one fail.".to_owned(),
            (Health::Healthy, _) => {
                "Every node answers. Should one fail, the others go on by themselves, with everything that was acknowledged.".to_owned()
            }
            _ => "Everything is served.".to_owned(),
        });
    }
    let waiting: u64 = leases.iter().filter(|row| row.holder.is_some() && !row.live).map(|row| row.users).sum();
    if waiting > 0 {
        let users = if waiting == 1 { "1 user was" } else { &format!("{waiting} users were") };
        told.push(format!("{users} held by a node that is gone or began anew: another takes over with the next request."));
    }
    told
}

/// `n1`, `n1 and n2`, `n1, n2 and n3`.
fn and(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::fixture::status;
    use NodeState::{Down, Starting, Up};

    fn told(nodes: &[(&str, &str, NodeState)], gone: u64) -> String {
        let status = status(nodes);
        let leases = [Held { holder: Some("n2".into()), live: false, users: gone }];
        meaning(&status, &parliament_ctl::verdict(&status), &leases[..usize::from(gone > 0)]).join(" ")
    }

    #[test]
    fn a_newcomer_is_told_what_it_means() {
        let healthy = told(&[("n1", "a", Up), ("n2", "b", Up), ("n3", "c", Up)], 0);
        assert_eq!(healthy, "Every node answers. Should one fail, the others go on by themselves, with everything that was acknowledged.");
        let used_again = told(&[("n1", "a", Up), ("n2", "b", Up), ("n3", "c", Up)], 1);
        assert!(used_again.starts_with("Every node answers.") && used_again.contains("1 user was held"), "{used_again}");
        assert!(told(&[("n1", "a", Up)], 0).contains("nobody to take over"));
        let down = told(&[("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Up)], 4);
        assert!(down.starts_with("n2 does not answer. Everything that it acknowledged is on other nodes"), "{down}");
        assert!(
            down.contains("Every group is led")
                && down.ends_with("4 users were held by a node that is gone or began anew: another takes over with the next request."),
            "{down}"
        );
        let back = told(&[("n1", "a", Up), ("n2", "b", Starting), ("n3", "c", Up)], 0);
        assert_eq!(back, "n2 reads what it has missed, and then takes part again.");
        let lost = told(&[("n1", "a", Up), ("n2", "b", Down), ("n3", "c", Down)], 0);
        assert!(lost.starts_with("Some users have to wait") && lost.contains("once enough of n2 and n3 answer"), "{lost}");
        let unformed = Status::default();
        assert!(meaning(&unformed, &parliament_ctl::verdict(&unformed), &[])[0].contains("waits to become part"));
    }

    #[test]
    fn one_disk_is_told_of() {
        let mut status = status(&[("n1", "a", Up), ("n2", "b", Down), ("w", "c", Up)]);
        status.alone = Some("n1".into());
        let told = meaning(&status, &parliament_ctl::verdict(&status), &[]).join(" ");
        assert!(told.contains("n1 serves alone beside the witness"), "{told}");
    }

    #[test]
    fn names_are_listed_as_people_do() {
        assert_eq!([and(&["a"]), and(&["a", "b"]), and(&["a", "b", "c"])], ["a", "a and b", "a, b and c"]);
    }
}
