//! What an idle connection costs. Alone in its file, so that nothing else happens in its process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Client, start};
use parliament_frontend::Protocol;

const CONNECTIONS: i64 = 400;
/// The client's half included, and no optimiser: about 6,500 were measured.
const BYTES_EACH_MAX: i64 = 12 * 1024;

fn resident_bytes() -> i64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<i64>().unwrap();
    pages * 4096
}

#[tokio::test]
async fn an_idle_imap_connection_is_small() {
    let served = start(|options| options.connections_per_user_and_address_max = 1000).await;
    let mut connections = Vec::new();
    let mut before = 0;
    for number in 0..CONNECTIONS + 50 {
        // The first ones pay for what all share.
        if number == 50 {
            before = resident_bytes();
        }
        let mut client = Client::connect(&served, Protocol::Imap).await;
        client.say("a LOGIN ann secret", "a OK").await;
        client.say("b SELECT INBOX", "b OK").await;
        client.say("c IDLE", "+ ").await;
        connections.push(client.stream.into_inner());
    }
    let each = (resident_bytes() - before) / CONNECTIONS;
    assert!(each < BYTES_EACH_MAX, "{each} bytes per idle connection");
}
