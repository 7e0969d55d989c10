//! IMAP over real sockets: what the driver adds to the session.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{ANN, Client, Served, eventually, start};
use parliament_frontend::{Protocol, SessionState};
use parliament_ids::MailboxId;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn selected(served: &Served) -> Client<TcpStream> {
    let mut client = Client::connect(served, Protocol::Imap).await;
    client.until("* OK").await;
    client.say("a LOGIN ann secret", "a OK").await;
    client.say("b SELECT INBOX", "b OK").await;
    client
}

#[tokio::test]
async fn small_and_large_messages_are_appended_byte_for_byte() {
    let served = start(|_| {}).await;
    served.memory.lose_uploads.store(1, SeqCst);
    let mut client = selected(&served).await;
    let large: Vec<u8> = b"a line of text\r\n".iter().copied().cycle().take(900_000).collect();
    client.send("c APPEND INBOX (\\Seen) {4+}\r\nhi\r\n\r\n").await;
    client.until("c OK [APPENDUID 9 1]").await;
    client.say(&format!("d APPEND INBOX {{{}}}", large.len()), "+ ").await;
    assert_eq!(served.frontend.stats().spool_bytes_now.load(SeqCst), 900_000);
    client.send(&large).await;
    client.send("\r\n").await;
    client.until("d OK [APPENDUID 9 2]").await;
    assert!(served.memory.messages(ANN) == [b"hi\r\n".to_vec(), large]);
    eventually("the spool is free", || served.frontend.stats().spool_bytes_now.load(SeqCst) == 0).await;
}

/// Clients with Nagle's algorithm that send the line end after a literal by itself wait for an acknowledgement of the literal; the
/// system would delay each by 40 ms.
#[tokio::test]
async fn a_line_end_behind_a_literal_does_not_wait_for_an_acknowledgement() {
    let served = start(|_| {}).await;
    let mut client = selected(&served).await;
    let begun = Instant::now();
    for round in 1..=20 {
        client.say("c APPEND INBOX {4}", "+ ").await;
        client.send("hi\r\n").await;
        client.send("\r\n").await;
        client.until(&format!("c OK [APPENDUID 9 {round}]")).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_literal_without_room_is_refused_before_it_is_sent() {
    let served = start(|options| options.spool_bytes_max = 500_000).await;
    let mut client = selected(&served).await;
    client.say("c APPEND INBOX {900000}", "c NO").await;
    client.say("d NOOP", "d OK").await;
    assert_eq!(served.frontend.stats().spool_refusals.load(SeqCst), 1);
}

#[tokio::test]
async fn idle_tells_of_a_delivery_by_lmtp() {
    let served = start(|_| {}).await;
    let mut client = selected(&served).await;
    client.say("c IDLE", "+ ").await;
    let mut lmtp = Client::connect(&served, Protocol::Lmtp).await;
    for round in 1..4 {
        lmtp.send("LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@x>\r\nDATA\r\nx\r\n.\r\n").await;
        lmtp.until("250 2.0.0 <ann@x>").await;
        let told = Instant::now();
        client.until(&format!("* {round} EXISTS")).await;
        assert!(told.elapsed() < Duration::from_millis(200));
    }
    client.say("DONE", "c OK").await;
    let info = served.frontend.registry().list().remove(0);
    assert_eq!((info.protocol, info.mailbox, info.state), (Protocol::Imap, Some(MailboxId::INBOX), SessionState::Idle));
}

#[tokio::test]
async fn commands_before_a_half_close_are_answered() {
    let served = start(|_| {}).await;
    served.memory.slow.lock().unwrap().insert(ANN, Duration::from_millis(100));
    let address = served.frontend.address(Protocol::Imap, false).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"a LOGIN ann secret\r\nb APPEND INBOX {4+}\r\nhi\r\n\r\nc NOOP\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    let tags: Vec<&str> = said.lines().filter_map(|line| line.split_once(" OK").map(|(tag, _)| tag)).collect();
    assert_eq!(tags, ["*", "a", "b", "c"], "{said}");
}

#[tokio::test]
async fn a_stop_tells_imap_last() {
    let served = start(|_| {}).await;
    let mut imap = selected(&served).await;
    imap.say("c IDLE", "+ ").await;
    let mut lmtp = Client::connect(&served, Protocol::Lmtp).await;
    lmtp.send("LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@x>\r\nDATA\r\n").await;
    lmtp.until("354").await;
    eventually("the message has begun", || served.frontend.registry().list().iter().any(|s| s.state == SessionState::Busy)).await;
    let drained = served.frontend.drain(Duration::from_secs(10));
    let clients = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lmtp.send("x\r\n.\r\n").await;
        lmtp.until("421").await;
        assert_eq!(imap.line().await, "* 1 EXISTS", "still served");
        assert!(imap.rest().await.contains("* BYE"));
    };
    tokio::join!(drained, clients);
    assert!(served.frontend.registry().list().is_empty());
}

#[tokio::test]
async fn a_kicked_session_is_told_while_its_change_goes_on() {
    let served = start(|_| {}).await;
    let mut client = selected(&served).await;
    served.memory.slow.lock().unwrap().insert(ANN, Duration::from_millis(300));
    client.send("c APPEND INBOX {4+}\r\nhi\r\n\r\n").await;
    eventually("it is under way", || served.memory.requests.lock().unwrap().len() == 1).await;
    served.frontend.registry().kick("maintenance", |_| true);
    client.until("* BYE [UNAVAILABLE] maintenance").await;
    drop(client);
    eventually("the connection is gone", || served.frontend.registry().list().is_empty()).await;
    assert_eq!(served.frontend.numbers().watermark(), 1, "its number lives as long as its request");
    eventually("the message is there", || served.memory.messages(ANN).len() == 1).await;
    eventually("its number is over", || served.frontend.numbers().watermark() == 2).await;
}
