//! Proxies in front: PROXY headers, clients told by ID and XCLIENT, logins verified for others.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{ANN, Client, Served, eventually, start};
use parliament_frontend::{FrontendOptions, PlainLogin, Protocol, Refusal};
use parliament_mail_api::LoginError;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::TcpStream;

const HEADER: &str = "PROXY TCP4 203.0.113.9 192.0.2.1 40000 110\r\n";

/// Version 2 of [`HEADER`], with a TLV.
const HEADER_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xcb\0\x71\x09\xc0\0\x02\x01\x9c\x40\0\x6e\x03\0\x01x";

/// Everything that loopback connections send begins with a PROXY header.
fn behind_proxies(options: &mut FrontendOptions) {
    options.proxy_protocol = vec!["127.0.0.0/8".parse().unwrap()];
    // The clients told are not on loopback.
    options.plain_login = PlainLogin::Always;
}

fn trusting(options: &mut FrontendOptions) {
    options.trusted = vec!["127.0.0.0/8".parse().unwrap()];
}

fn remotes(served: &Served) -> Vec<String> {
    served.frontend.registry().list().into_iter().map(|info| info.remote.to_string()).collect()
}

async fn through_a_proxy(served: &Served, protocol: Protocol, header: impl AsRef<[u8]>) -> Client<TcpStream> {
    let mut client = Client::connect(served, protocol).await;
    client.send(header).await;
    client
}

#[tokio::test]
async fn the_client_of_a_proxy_header_is_the_client() {
    let served = start(behind_proxies).await;
    let mut first = through_a_proxy(&served, Protocol::Pop3, HEADER).await;
    first.say("USER ann", "+OK Password").await;
    first.say("PASS secret", "+OK").await;
    let mut second = through_a_proxy(&served, Protocol::Imap, HEADER_2).await;
    second.say("a LOGIN ann secret", "a OK").await;
    let mut third = through_a_proxy(&served, Protocol::Lmtp, HEADER).await;
    third.say("LHLO c", "250 SIZE").await;
    assert_eq!(remotes(&served), ["203.0.113.9:40000"; 3]);
    let mut check = through_a_proxy(&served, Protocol::Pop3, "PROXY UNKNOWN\r\n").await;
    check.until("+OK").await;
    assert!(remotes(&served)[3].starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn a_proxy_header_may_come_in_pieces_and_is_required() {
    let served = start(|options| {
        behind_proxies(options);
        options.proxy_header_timeout = Duration::from_millis(300);
    })
    .await;
    let (head, tail) = HEADER.split_at(17);
    let mut slow = through_a_proxy(&served, Protocol::Pop3, head).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    slow.send(format!("{tail}USER ann\r\n")).await;
    slow.until("+OK mx.example").await;
    slow.until("+OK Password?").await;
    let mut without = through_a_proxy(&served, Protocol::Pop3, "USER ann\r\n").await;
    assert_eq!(without.rest().await, "");
    let mut never_ends = through_a_proxy(&served, Protocol::Pop3, "PROXY ").await;
    assert_eq!(never_ends.rest().await, "");
    assert_eq!(served.frontend.stats().proxy_headers_refused.load(SeqCst), 2);
}

#[tokio::test]
async fn from_elsewhere_a_proxy_header_is_an_error() {
    let served = start(|options| options.proxy_protocol = vec!["192.0.2.0/24".parse().unwrap()]).await;
    let mut pop3 = through_a_proxy(&served, Protocol::Pop3, HEADER).await;
    pop3.until("-ERR Unknown command").await;
    let mut imap = through_a_proxy(&served, Protocol::Imap, HEADER).await;
    imap.until("PROXY BAD").await;
    let mut lmtp = through_a_proxy(&served, Protocol::Lmtp, HEADER).await;
    lmtp.until("500 5.5.1").await;
    assert!(remotes(&served).iter().all(|remote| remote.starts_with("127.0.0.1:")));
}

#[tokio::test]
async fn limits_count_the_client_and_not_its_proxy() {
    let served = start(|options| {
        behind_proxies(options);
        options.connections_per_address_max = 2;
    })
    .await;
    let from = |last: u8| format!("PROXY TCP4 203.0.113.{last} 192.0.2.1 40000 110\r\n");
    let mut kept = Vec::new();
    for last in [1, 1, 2, 2, 3] {
        let mut client = through_a_proxy(&served, Protocol::Pop3, from(last)).await;
        client.until("+OK").await;
        kept.push(client);
    }
    let mut third_of_one = through_a_proxy(&served, Protocol::Pop3, from(1)).await;
    assert_eq!(third_of_one.rest().await, "-ERR [SYS/TEMP] Too many connections\r\n");
    drop(kept);
    eventually("the places are free", || served.frontend.registry().list().is_empty()).await;
    through_a_proxy(&served, Protocol::Pop3, from(1)).await.until("+OK").await;
}

#[tokio::test]
async fn tls_begins_right_behind_a_proxy_header() {
    let files = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).unwrap();
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let certificates = parliament_frontend::Certificates::load(&cert, &key).unwrap();
    let served = start(|options| {
        behind_proxies(options);
        options.certificates = Some(Arc::new(certificates));
        options.imaps = options.imap.clone();
    })
    .await;
    let mut stream = TcpStream::connect(served.frontend.address(Protocol::Imap, true).unwrap()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, HEADER_2).await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("mx.example").unwrap();
    let secured = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let mut client = Client { stream: BufReader::new(secured) };
    client.say("a LOGIN ann secret", "a OK").await;
    let info = served.frontend.registry().list().remove(0);
    assert!(info.tls && info.remote.to_string() == "203.0.113.9:40000");
}

#[tokio::test]
async fn a_trusted_proxy_tells_its_client_in_each_protocol() {
    let served = start(|options| {
        trusting(options);
        // From a trusted proxy passwords are taken all the same: it has ended TLS.
        options.plain_login = PlainLogin::Never;
    })
    .await;
    let mut imap = Client::connect(&served, Protocol::Imap).await;
    imap.say(r#"a ID ("x-originating-ip" "203.0.113.9" "x-originating-port" "7" "x-session-id" "s")"#, "a OK").await;
    imap.say("b LOGIN ann secret", "b OK").await;
    let mut pop3 = Client::connect(&served, Protocol::Pop3).await;
    pop3.until("+OK [XCLIENT]").await;
    pop3.send("XCLIENT ADDR=203.0.113.9 PORT=7\r\nUSER ann\r\nPASS secret\r\n").await;
    pop3.until("+OK 0 messages").await;
    let mut lmtp = Client::connect(&served, Protocol::Lmtp).await;
    lmtp.say("LHLO c", "250 SIZE").await;
    lmtp.say("XCLIENT ADDR=203.0.113.9 PORT=7", "220").await;
    lmtp.send("LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@x>\r\nDATA\r\nx\r\n.\r\n").await;
    lmtp.until("250 2.0.0 <ann@x>").await;
    assert_eq!(remotes(&served), ["203.0.113.9:7"; 3]);
    assert_eq!(served.frontend.stats().clients_forwarded.load(SeqCst), 3);
    assert_eq!(served.memory.messages(ANN).len(), 1);
}

#[tokio::test]
async fn others_tell_nothing() {
    let served = start(|_| {}).await;
    let mut imap = Client::connect(&served, Protocol::Imap).await;
    imap.say(r#"a ID ("x-originating-ip" "203.0.113.9")"#, "a OK").await;
    let mut pop3 = Client::connect(&served, Protocol::Pop3).await;
    pop3.say("XCLIENT ADDR=203.0.113.9", "-ERR You are not").await;
    let mut lmtp = Client::connect(&served, Protocol::Lmtp).await;
    lmtp.say("XCLIENT ADDR=203.0.113.9", "550 5.7.14").await;
    assert!(remotes(&served).iter().all(|remote| remote.starts_with("127.0.0.1:")));
    assert_eq!(served.frontend.stats().clients_forwarded.load(SeqCst), 0);
}

#[tokio::test]
async fn a_trusted_proxy_is_not_counted_and_its_clients_are() {
    let served = start(|options| {
        trusting(options);
        options.connections_per_address_max = 1;
        options.connections_per_user_and_address_max = 1;
    })
    .await;
    let connect = async |last: u8| {
        let mut client = Client::connect(&served, Protocol::Imap).await;
        client.send(format!("a ID (\"x-originating-ip\" \"203.0.113.{last}\")\r\nb LOGIN ann secret\r\n")).await;
        client
    };
    let (mut one, mut two) = (connect(1).await, connect(2).await);
    one.until("b OK").await;
    two.until("b OK").await;
    connect(1).await.until("* BYE [UNAVAILABLE] Too many connections").await;
    assert_eq!(served.frontend.stats().connections_refused.load(SeqCst), 1);
}

#[tokio::test]
async fn clients_behind_a_proxy_are_throttled_each_for_themselves() {
    let served = start(trusting).await;
    let (here, there) = ("203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap());
    let mut last = None;
    for _ in 0..11 {
        last = served.frontend.verify_login("ann", "wrong", here).await.err();
    }
    assert_eq!(last, Some(Refusal { error: LoginError::Refused, wait: Duration::from_secs(8) }));
    let unasked = served.frontend.verify_login("ann", "secret", here).await.unwrap_err();
    assert_eq!(unasked.error, LoginError::Throttled);
    assert_eq!(served.frontend.verify_login("ann", "secret", there).await.unwrap().account, ANN);
    // The same scores hold for logins here.
    let login = async |address: &str| {
        let mut client = Client::connect(&served, Protocol::Imap).await;
        client.say(&format!("a ID (\"x-originating-ip\" \"{address}\")"), "a OK").await;
        client.say("b LOGIN ann secret", "b ").await
    };
    assert!(login("203.0.113.1").await.starts_with("b NO [AUTHENTICATIONFAILED]"));
    assert!(login("203.0.113.2").await.starts_with("b OK"));
    let stats = served.frontend.stats();
    assert_eq!((stats.logins_verified_for_proxies.load(SeqCst), stats.logins_accepted.load(SeqCst)), (1, 1));
}
