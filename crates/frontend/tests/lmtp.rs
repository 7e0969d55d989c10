//! LMTP over real sockets.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{ANN, BOB, Client, Served, eventually, start};
use parliament_frontend::{Protocol, SessionState};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

async fn greeted(served: &Served) -> Client<TcpStream> {
    let mut client = Client::connect(served, Protocol::Lmtp).await;
    client.until("220 mx.example").await;
    client.say("LHLO client.example", "250 SIZE").await;
    client
}

fn large(bytes: usize) -> Vec<u8> {
    let line = b".line of a large message with \0 and \r alone\r\n";
    line.iter().copied().cycle().take(bytes / line.len() * line.len()).collect()
}

fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len());
    for (at, byte) in message.iter().enumerate() {
        if *byte == b'.' && (at == 0 || message[..at].ends_with(b"\r\n")) {
            wire.push(b'.');
        }
        wire.push(*byte);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[tokio::test]
async fn small_and_large_messages_arrive_byte_for_byte() {
    let served = start(|_| {}).await;
    served.memory.lose_uploads.store(2, SeqCst);
    let mut client = greeted(&served).await;
    let messages = [b"hi\r\n".to_vec(), large(900_000)];
    for message in &messages {
        client.send("MAIL FROM:<a@b>\r\nRCPT TO:<ann@x>\r\nRCPT TO:<nobody@x>\r\nRCPT TO:<bob+tag@x>\r\nDATA\r\n").await;
        client.until("550 5.1.1").await;
        client.until("354").await;
        client.send(stuffed(message)).await;
        assert_eq!(client.line().await, "250 2.0.0 <ann@x> Saved");
        assert_eq!(client.line().await, "250 2.0.0 <bob+tag@x> Saved");
    }
    assert!(served.memory.messages(ANN) == messages && served.memory.messages(BOB) == messages);
    let requests = served.memory.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 6, "two deliveries twice, and two whose upload was lost once");
    let mut sessions: Vec<u64> = requests.iter().map(|request| request.session.session).collect();
    sessions.sort_unstable();
    sessions.dedup();
    assert!(sessions.len() == 6 && requests.iter().all(|request| request.seq.0 == 1));
    client.say("QUIT", "221").await;
    eventually("all numbers are over", || served.frontend.numbers().watermark() > *sessions.last().unwrap()).await;
    let stats = served.frontend.stats();
    assert_eq!((stats.lmtp_delivered.load(SeqCst), stats.spool_bytes_now.load(SeqCst)), (4, 0));
}

#[tokio::test]
async fn deliveries_run_at_once_and_are_told_in_order_of_rcpt() {
    let served = start(|_| {}).await;
    let wait = Duration::from_millis(300);
    served.memory.slow.lock().unwrap().extend([(ANN, wait), (BOB, wait)]);
    let mut client = greeted(&served).await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<bob@x>\r\nRCPT TO:<ann@x>\r\nRCPT TO:<bob@x>\r\nDATA\r\n").await;
    client.until("354").await;
    let began = Instant::now();
    client.send("x\r\n.\r\n").await;
    for address in ["bob", "ann", "bob"] {
        assert_eq!(client.line().await, format!("250 2.0.0 <{address}@x> Saved"));
    }
    assert!(began.elapsed() < 2 * wait);
    assert_eq!(served.memory.messages(BOB).len(), 1, "one account, one message");
    served.memory.no_quorum.store(true, SeqCst);
    client.send("MAIL FROM:<>\r\nRCPT TO:<bob@x>\r\nDATA\r\n").await;
    client.until("354").await;
    client.send("x\r\n.\r\n").await;
    assert_eq!(client.line().await, "451 4.3.0 <bob@x> Mailbox not available now");
}

#[tokio::test]
async fn a_delivery_is_finished_although_its_client_leaves() {
    let served = start(|_| {}).await;
    served.memory.slow.lock().unwrap().insert(ANN, Duration::from_millis(200));
    let mut client = greeted(&served).await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<ann@x>\r\nDATA\r\n").await;
    client.until("354").await;
    client.send("x\r\n.\r\n").await;
    drop(client);
    eventually("the message is there", || served.memory.messages(ANN).len() == 1).await;
    eventually("the connection is gone", || served.frontend.registry().list().is_empty()).await;
}

#[tokio::test]
async fn a_full_spool_is_a_temporary_failure() {
    let served = start(|options| options.spool_bytes_max = 300_000).await;
    let mut client = greeted(&served).await;
    for (bytes, reply) in [(600_000, "452 4.3.1 <ann@x> No space for the message now"), (1000, "250 2.0.0 <ann@x> Saved")] {
        client.send("MAIL FROM:<>\r\nRCPT TO:<ann@x>\r\nDATA\r\n").await;
        client.until("354").await;
        client.send(stuffed(&large(bytes))).await;
        assert_eq!(client.line().await, reply);
    }
    assert_eq!(served.frontend.stats().spool_bytes_now.load(SeqCst), 0);
}

#[tokio::test]
async fn silence_ends_a_session() {
    let served = start(|options| options.lmtp_idle_timeout = Duration::from_millis(100)).await;
    let mut client = greeted(&served).await;
    assert_eq!(client.rest().await, "421 4.4.2 Idle too long\r\n");
}

#[tokio::test]
async fn a_stop_lets_the_message_end_that_is_coming_in() {
    let served = start(|_| {}).await;
    let (mut idle, mut busy) = (greeted(&served).await, greeted(&served).await);
    busy.send("MAIL FROM:<>\r\nRCPT TO:<ann@x>\r\nDATA\r\n").await;
    busy.until("354").await;
    eventually("it is busy", || served.frontend.registry().list()[1].state == SessionState::Busy).await;
    let drained = served.frontend.drain(Duration::from_secs(10));
    let client = async {
        assert_eq!(idle.rest().await, "421 4.3.2 Shutting down\r\n");
        busy.send("x\r\n.\r\n").await;
        assert_eq!(busy.rest().await, "250 2.0.0 <ann@x> Saved\r\n421 4.3.2 Shutting down\r\n");
    };
    tokio::join!(drained, client);
    let address = served.frontend.address(Protocol::Lmtp, false).unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
