//! What a planned handover costs: one user is written to at a steady rate through a node that is neither, while the lease goes back
//! and forth between the two others.

use crate::checkers::pauses::percentile;
use crate::demo::Demo;
use crate::message::Message;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Writes of one second. Several connections share them, so that a slow write holds back no other.
const WRITES_PER_SECOND: u64 = 20;
/// Connections that write in turn.
const WRITERS: u64 = 10;

#[derive(Clone, Debug)]
struct Write {
    start: Instant,
    end: Instant,
    error: Option<String>,
}

async fn write(demo: &Demo, user: &str, number: u64, over: &AtomicBool) -> Result<Vec<Write>, String> {
    let mut imap = demo.imap(3, user).await.map_err(|e| e.to_string())?;
    let mut writes = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 * WRITERS / WRITES_PER_SECOND));
    ticks.reset_after(Duration::from_millis(1000 * number / WRITES_PER_SECOND));
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let message = Message::new(&format!("handover-{number}-{}", writes.len()), b"moved\r\n");
        let start = Instant::now();
        let error = imap.append("INBOX", "", &message.bytes).await.err();
        writes.push(Write { start, end: Instant::now(), error: error.as_ref().map(ToString::to_string) });
        if error.is_some_and(|e| e.is_fatal()) {
            break;
        }
    }
    Ok(writes)
}

fn three(mut times: Vec<u64>) -> Value {
    times.sort_unstable();
    let ms = |q| {
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let us = percentile(&times, q) as f64;
        (us / 100.0).round() / 10.0
    };
    json!({ "p50": ms(0.5), "p99": ms(0.99), "max": ms(1.0), "of": times.len() })
}

/// Of each move during which a write was under way the longest wait of one, µs.
fn pauses(moves: &[(Instant, Instant)], writes: &[Write]) -> Vec<u64> {
    let micros = |from: Instant, to: Instant| u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX);
    let longest = |(from, to): &(Instant, Instant)| {
        let affected = writes.iter().filter(|write| write.start <= *to && write.end >= *from);
        affected.map(|write| micros(write.start, write.end)).max()
    };
    moves.iter().filter_map(longest).collect()
}

/// Moves a user so many times; the document, and whether no command failed.
///
/// # Errors
/// In words, when it could not be carried out.
pub async fn measure(demo: &Demo, times: usize) -> Result<(bool, Value), String> {
    let user = demo.accounts().into_iter().next().ok_or("the demo has no account")?;
    demo.imap(3, &user).await.map_err(|e| e.to_string())?.append("INBOX", "", b"first\r\n").await.map_err(|e| e.to_string())?;
    let over = Arc::new(AtomicBool::new(false));
    let moving = async {
        let mut moves = Vec::new();
        let mut refused = 0_u64;
        tokio::time::sleep(Duration::from_secs(1)).await;
        while moves.len() < times {
            let to = ["n1", "n2"][(moves.len() + usize::try_from(refused).unwrap_or(0)) % 2];
            let from = Instant::now();
            match demo.verb(&["lease", "move", &user, "--to", to]).await {
                Ok(_) => moves.push((from, Instant::now())),
                Err(_) if refused < times as u64 => refused += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        over.store(true, Ordering::Relaxed);
        Ok((moves, refused))
    };
    let writing = super::holders::join((0..WRITERS).map(|number| write(demo, &user, number, &over)));
    let (moved, written) = tokio::join!(moving, writing);
    let (moves, refused) = moved?;
    let mut writes = Vec::new();
    for some in written {
        writes.extend(some?);
    }
    let failed: Vec<&str> = writes.iter().filter_map(|write| write.error.as_deref()).collect();
    let all = writes.iter().map(|w| u64::try_from((w.end - w.start).as_micros()).unwrap_or(u64::MAX)).collect();
    let document = json!({
        "moves": moves.len(), "moves_refused": refused, "writes": writes.len(), "failed": failed.len(),
        "errors": failed.iter().take(5).collect::<Vec<_>>(), "pause_ms": three(pauses(&moves, &writes)), "write_ms": three(all),
        "move_verb_ms": three(moves.iter().map(|(a, b)| u64::try_from((*b - *a).as_micros()).unwrap_or(u64::MAX)).collect()),
    });
    Ok((failed.is_empty(), document))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_of_a_move_is_that_of_the_slowest_write_under_way() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let write = |start, end| Write { start: at(start), end: at(end), error: None };
        let writes = [write(0, 5), write(90, 300), write(100, 120), write(400, 402)];
        assert_eq!(pauses(&[(at(95), at(110)), (at(350), at(360)), (at(401), at(500))], &writes), [210_000, 2_000]);
    }
}
