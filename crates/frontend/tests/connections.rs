//! What all protocols share: TLS, limits, logins, `who` and `kick`, slow clients. POP3 serves as the example.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{ANN, Client, Served, eventually, start};
use parliament_frontend::{Certificates, Protocol};
use parliament_ids::MailboxId;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

async fn logged_in(served: &Served, user: &str) -> Client<TcpStream> {
    let mut client = Client::connect(served, Protocol::Pop3).await;
    client.say(&format!("USER {user}"), "+OK Password").await;
    client.say("PASS secret", "+OK").await;
    client
}

#[tokio::test]
async fn pop3_reads_and_removes() {
    let served = start(|_| {}).await;
    served.memory.put(ANN, b"one\r\n.two\r\n");
    served.memory.put(ANN, &vec![b'x'; 700_000]);
    let mut client = logged_in(&served, "ann").await;
    client.say("UIDL", "+OK").await;
    assert_eq!((client.line().await, client.line().await), ("1 9.1".to_owned(), "2 9.2".to_owned()));
    client.send("RETR 1\r\nRETR 2\r\nDELE 1\r\nQUIT\r\n").await;
    client.until("+OK 11").await;
    assert_eq!((client.line().await, client.line().await), ("one".to_owned(), "..two".to_owned()));
    client.until("+OK 700000").await;
    assert_eq!(client.line().await.len(), 700_000);
    assert_eq!(client.rest().await, ".\r\n+OK Marked\r\n+OK Bye\r\n");
    assert_eq!(served.memory.messages(ANN).len(), 1);
}

fn write_certificate(directory: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().to_vec()
}

/// Connects with TLS, trusting `certificate` alone.
async fn secured(stream: TcpStream, certificate: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("mx.example").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn tls_from_the_first_byte_and_later_and_with_a_new_certificate() {
    let files = tempfile::tempdir().unwrap();
    let first = write_certificate(files.path());
    let certificates = Certificates::load(&files.path().join("cert.pem"), &files.path().join("key.pem")).unwrap();
    let served = start(|options| {
        options.certificates = Some(Arc::new(certificates));
        options.pop3s = options.pop3.clone();
        options.plain_login = parliament_frontend::PlainLogin::Never;
    })
    .await;
    let mut plain = Client::connect(&served, Protocol::Pop3).await;
    plain.say("USER ann", "-ERR Only with TLS").await;
    plain.send("STLS\r\n").await;
    plain.until("+OK Begin TLS").await;
    let mut later = Client { stream: tokio::io::BufReader::new(secured(plain.stream.into_inner(), &first).await.unwrap()) };
    later.say("USER ann", "+OK").await;
    later.say("PASS secret", "+OK").await;
    assert!(served.frontend.registry().list()[0].tls);

    let implicit = served.frontend.address(Protocol::Pop3, true).unwrap();
    let connect = async || TcpStream::connect(implicit).await.unwrap();
    let stream = secured(connect().await, &first).await.unwrap();
    Client { stream: tokio::io::BufReader::new(stream) }.until("+OK mx.example").await;

    let second = write_certificate(files.path());
    assert!(secured(connect().await, &second).await.is_err(), "not yet read");
    served.frontend.reload_certificates().unwrap();
    assert!(secured(connect().await, &second).await.is_ok());
    std::fs::write(files.path().join("key.pem"), "no key").unwrap();
    assert!(served.frontend.reload_certificates().is_err());
    assert!(secured(connect().await, &second).await.is_ok(), "the old pair stays");
    later.say("STAT", "+OK 0 0").await;
}

#[tokio::test]
async fn connections_are_limited_per_address_and_user() {
    let served = start(|options| {
        options.connections_per_address_max = 4;
        options.connections_per_user_and_address_max = 2;
    })
    .await;
    let (first, mut second) = (logged_in(&served, "ann").await, logged_in(&served, "ann").await);
    let mut third = Client::connect(&served, Protocol::Pop3).await;
    third.say("USER ann", "+OK").await;
    third.say("PASS secret", "-ERR [SYS/TEMP]").await;
    third.say("USER bob", "+OK").await;
    third.say("PASS secret", "+OK").await;
    let _fourth = Client::connect(&served, Protocol::Lmtp).await;
    let mut fifth = Client::connect(&served, Protocol::Pop3).await;
    assert_eq!(fifth.rest().await, "-ERR [SYS/TEMP] Too many connections\r\n");
    drop(first);
    eventually("its place is free", || served.frontend.registry().list().len() == 3).await;
    logged_in(&served, "ann").await.say("NOOP", "+OK").await;
    second.say("NOOP", "+OK").await;
    assert_eq!(served.frontend.stats().connections_refused.load(SeqCst), 1);
}

#[tokio::test]
async fn refused_logins_take_longer_each_time() {
    let served = start(|_| {}).await;
    let mut client = Client::connect(&served, Protocol::Pop3).await;
    let began = Instant::now();
    for _ in 0..2 {
        client.say("USER ann", "+OK").await;
        client.say("PASS wrong", "-ERR [AUTH]").await;
    }
    assert!(began.elapsed() >= Duration::from_millis(590));
    assert_eq!(served.frontend.stats().logins_refused.load(SeqCst), 2);
}

#[tokio::test]
async fn sessions_are_told_and_kicked() {
    let served = start(|_| {}).await;
    let (mut ann, mut bob) = (logged_in(&served, "ann").await, logged_in(&served, "bob").await);
    let registry = served.frontend.registry();
    eventually("both are told", || registry.list().iter().all(|info| info.mailbox == Some(MailboxId::INBOX))).await;
    let users: Vec<_> = registry.list().into_iter().map(|info| (info.id, info.user.unwrap())).collect();
    assert_eq!(users, [(1, "ann@x".to_owned()), (2, "bob@x".to_owned())]);
    assert_eq!(registry.kick("maintenance", |info| info.user.as_deref() == Some("bob@x")), 1);
    assert_eq!(bob.rest().await, "-ERR [SYS/TEMP] maintenance\r\n");
    ann.say("NOOP", "+OK").await;
    eventually("one is left", || registry.list().len() == 1).await;
    assert_eq!(served.frontend.numbers().watermark(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_little_and_is_cut_off() {
    let served = start(|options| options.write_timeout = Duration::from_millis(300)).await;
    served.memory.put(ANN, &vec![b'x'; 60_000_000]);
    let mut client = logged_in(&served, "ann").await;
    client.send("RETR 1\r\n").await;
    eventually("it is cut off", || served.frontend.registry().list().is_empty()).await;
    assert_eq!(served.frontend.stats().write_timeouts.load(SeqCst), 1);
    // The kernel's buffers hold some; the rest of the 230 pieces was never asked for.
    assert!(served.memory.pieces_read.load(SeqCst) < 60, "{:?}", served.memory.pieces_read);
}

#[tokio::test]
async fn a_change_that_was_begun_is_finished_although_its_client_leaves() {
    let served = start(|_| {}).await;
    served.memory.put(ANN, b"one\r\n");
    served.memory.slow.lock().unwrap().insert(ANN, Duration::from_millis(200));
    let mut client = logged_in(&served, "ann").await;
    client.say("DELE 1", "+OK").await;
    client.send("QUIT\r\n").await;
    client.stream.get_mut().set_zero_linger().unwrap();
    drop(client);
    eventually("the message is removed", || served.memory.messages(ANN).is_empty()).await;
}
