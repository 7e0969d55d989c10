//! Faults for holders alone: users are brought to one node that owns no measured session, and that node is killed, hangs, or hands
//! its users to another.

use super::record::{Book, Fault};
use crate::demo::Demo;
use crate::random::Random;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a restarted node may take to be ready.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Leases moved at once.
const MOVES_AT_ONCE: usize = 4;
/// How long a holder stands still before it is killed, in most of the kills: what comes in meanwhile is in flight then. Shorter than
/// its promises, so that it is the kill that ends its leases.
const HANGS_FIRST: Duration = Duration::from_millis(500);
/// How long a holder is down before it is started again, and how long one hangs that goes on afterwards.
const DOWN: Duration = Duration::from_millis(2200);

/// Who holds whom; users by their place in `names`.
async fn holders(demo: &Demo, names: &BTreeMap<String, usize>) -> Result<BTreeMap<usize, String>, String> {
    let list = demo.verb(&["lease", "list"]).await?;
    let row = |lease: &Value| {
        let user = *names.get(lease["user"].as_str()?)?;
        Some((user, lease["holder"].as_str().filter(|_| lease["live"] != false)?.to_owned()))
    };
    Ok(list["leases"].as_array().into_iter().flatten().filter_map(row).collect())
}

/// Brings users to a node; how many moves were made. What does not move, because nobody holds it or it moved by itself, stays.
async fn gather(demo: &Demo, names: &BTreeMap<String, usize>, to: &str, book: &Book, faults: &mut Vec<Fault>) -> Result<(), String> {
    let held = holders(demo, names).await?;
    let away: Vec<(&String, usize)> =
        names.iter().filter(|(_, user)| held.get(user).is_some_and(|node| node != to)).map(|(name, user)| (name, *user)).collect();
    for some in away.chunks(MOVES_AT_ONCE) {
        let moves = some.iter().map(|(name, user)| async move {
            let at = book.now();
            let words = ["lease", "move", name.as_str(), "--to", to];
            demo.verb(&words).await.ok().map(|_| Fault { kind: "move", since: at, at, users: [*user].into() })
        });
        faults.extend(join(moves).await.into_iter().flatten());
    }
    Ok(())
}

/// All of a few futures, one thread's worth at once.
pub(super) async fn join<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut ready = true;
        for (future, result) in waiting.iter_mut().filter(|(_, result)| result.is_none()) {
            match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => *result = Some(value),
                std::task::Poll::Pending => ready = false,
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, result)| result).collect()
}

/// Faults until the time is over. The victim is up again at the end.
///
/// # Errors
/// In words: a verb failed, or the victim did not come back.
pub async fn torment(
    demo: &Demo,
    names: &BTreeMap<String, usize>,
    victim: &str,
    time: Duration,
    book: &Book,
    random: &mut Random,
) -> Result<Vec<Fault>, String> {
    let until = std::time::Instant::now() + time;
    let mut faults = Vec::new();
    let mut turn = 0;
    while std::time::Instant::now() < until {
        gather(demo, names, victim, book, &mut faults).await?;
        if turn % 3 == 1 {
            crown(demo, victim).await;
        }
        tokio::time::sleep(Duration::from_millis(200 + random.below(500) as u64)).await;
        let held = holders(demo, names).await?;
        let users: BTreeSet<usize> = held.iter().filter(|(_, node)| *node == victim).map(|(user, _)| *user).collect();
        let kind = if turn % 6 == 5 { "hang" } else { ["kill", "hang, then kill", "hang, then kill"][turn % 3] };
        let since = book.now();
        if kind != "kill" {
            demo.pause(victim).await?;
        }
        if kind == "hang" {
            faults.push(Fault { kind, since, at: since, users });
            tokio::time::sleep(DOWN).await;
            demo.resume(victim).await?;
        } else {
            if kind != "kill" {
                tokio::time::sleep(HANGS_FIRST).await;
            }
            faults.push(Fault { kind, since, at: book.now(), users });
            demo.kill(victim).await?;
            tokio::time::sleep(DOWN).await;
            demo.start_nodes(&[victim]).await?;
        }
        demo.wait_ready(victim, READY_WAIT).await?;
        turn += 1;
    }
    Ok(faults)
}

/// The victim leads all groups too, so that its death costs an election besides. What cannot be moved now stays.
async fn crown(demo: &Demo, victim: &str) {
    for (group, leader) in demo.leaders().await {
        if leader != victim {
            let _ = demo.verb(&["group", "transfer", &group.to_string(), "--to", victim]).await;
        }
    }
}
