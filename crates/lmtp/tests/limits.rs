//! Bounds: sizes, counts, memory, and what happens to messages that break them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use parliament_ids::{AccountId, BodyHash, Boot, NodeId, SessionKey};
use parliament_lmtp::{
    Answer, Body, COMMAND_LINE_BYTES_MAX, INLINE_BYTES_MAX, Message, Output, Peer, RECIPIENTS_MAX, Session, Settings, Wants,
};
use parliament_mail_api::{Identity, Unserved};
use std::sync::Arc;

struct Driver {
    session: Session,
    told: String,
    spool: Vec<u8>,
    largest_piece: usize,
    spool_fails: bool,
    deliveries: Vec<(Message, Vec<u8>)>,
}

impl Driver {
    fn new(message_bytes_max: u64) -> Self {
        let settings = Settings { host: "mx".into(), message_bytes_max, add_headers: false, starttls: false };
        let peer = Peer {
            address: "::1".parse().unwrap(),
            session: SessionKey { node: NodeId(1), boot: Boot(1), session: 1 },
            tls: false,
            trusted: false,
        };
        let mut out = Vec::new();
        let session = Session::new(Arc::new(settings), peer, &mut out);
        let mut driver =
            Self { session, told: String::new(), spool: Vec::new(), largest_piece: 0, spool_fails: false, deliveries: Vec::new() };
        driver.carry_out(out);
        driver
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let mut more = Vec::new();
            match output {
                Output::Send(bytes) => self.told.push_str(std::str::from_utf8(&bytes).unwrap()),
                Output::Lookup { address } => {
                    let account = AccountId(address.len() as u64);
                    self.session.answer(Answer::Recipient(Ok(Identity { account, name: address })), &mut more);
                }
                Output::Spool(_) if self.spool_fails => self.session.spool_failed(&mut more),
                Output::Spool(bytes) => {
                    self.largest_piece = self.largest_piece.max(bytes.len());
                    self.spool.extend_from_slice(&bytes);
                }
                Output::DropSpool => self.spool.clear(),
                // After a failed spool the driver passes a delivery of the same batch over.
                Output::Deliver(_) if self.spool_fails => {}
                Output::Deliver(message) => {
                    self.session.answer(Answer::Delivered { index: 0, result: Err(Unserved::Busy) }, &mut more);
                    self.deliveries.push((message, std::mem::take(&mut self.spool)));
                }
                Output::StartTls | Output::Forwarded(_) | Output::Close => {}
            }
            self.carry_out(more);
        }
    }

    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.session.wants() == Wants::Bytes {
            let mut out = Vec::new();
            let piece = &bytes[..bytes.len().min(16_384)];
            let consumed = self.session.receive(piece, 0, &mut out);
            bytes = &bytes[consumed..];
            self.carry_out(out);
        }
    }

    fn begin(&mut self) {
        self.send(b"LHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<ann@x>\r\n");
        self.told.clear();
    }
}

fn big_message() -> Vec<u8> {
    (0..40_000u32).flat_map(|line| format!(".line {line} of a large message\r\n").into_bytes()).collect()
}

#[test]
fn a_large_message_is_spooled_in_pieces_with_its_hash() {
    let mut driver = Driver::new(100_000_000);
    let message = big_message();
    driver.begin();
    driver.send(b"DATA\r\n");
    driver.send(String::from_utf8(message.clone()).unwrap().replace("\r\n.", "\r\n..").replacen('.', "..", 1).as_bytes());
    driver.send(b".\r\n");
    let (delivered, spool) = &driver.deliveries[0];
    assert!(*spool == message && driver.largest_piece < INLINE_BYTES_MAX + 16_384);
    let hash = BodyHash(*blake3_of(&message));
    assert_eq!(delivered.body, Body::Spooled { size: message.len() as u64, hash });
    assert!(driver.told.ends_with("451 4.3.0 <ann@x> Mailbox not available now\r\n"));
}

fn blake3_of(bytes: &[u8]) -> Box<[u8; 32]> {
    Box::new(*blake3::hash(bytes).as_bytes())
}

#[test]
fn dedupe_key_is_of_sender_and_data_however_they_come() {
    let key = |commands: &str| {
        let mut driver = Driver::new(1000);
        driver.send(format!("LHLO a\r\n{commands}").as_bytes());
        driver.deliveries.pop().unwrap().0.dedupe
    };
    let data = key("MAIL FROM:<a@b>\r\nRCPT TO:<ann@x>\r\nDATA\r\nhi\r\n.\r\n");
    assert_eq!(key("MAIL FROM:<a@b>\r\nRCPT TO:<ann@x>\r\nBDAT 4 LAST\r\nhi\r\n"), data);
    assert_eq!(key("MAIL FROM:<\"a\"@b>\r\nRCPT TO:<bob@x>\r\nDATA\r\nhi\r\n.\r\n"), data);
    assert_ne!(key("MAIL FROM:<c@b>\r\nRCPT TO:<ann@x>\r\nDATA\r\nhi\r\n.\r\n"), data);
    assert_ne!(key("MAIL FROM:<a@b>\r\nRCPT TO:<ann@x>\r\nDATA\r\nho\r\n.\r\n"), data);
    assert_ne!(key("MAIL FROM:<a@bh>\r\nRCPT TO:<ann@x>\r\nBDAT 3 LAST\r\ni\r\n"), data);
}

#[test]
fn a_message_too_big_is_read_to_its_end_and_the_session_goes_on() {
    let mut driver = Driver::new(300_000);
    driver.begin();
    driver.send(b"DATA\r\n");
    driver.send(&vec![b'x'; 400_000]);
    assert!(driver.spool.is_empty(), "dropped as soon as it is too big");
    driver.send(b"\r\n.\r\nNOOP\r\n");
    assert!(driver.told.ends_with("552 5.3.4 <ann@x> Message too big\r\n250 2.0.0 OK\r\n"), "{}", driver.told);
    assert!(driver.deliveries.is_empty());
}

#[test]
fn a_message_without_end_closes_the_session() {
    let mut driver = Driver::new(300_000);
    driver.begin();
    driver.send(b"DATA\r\n");
    driver.send(&vec![b'x'; 700_000]);
    assert_eq!(driver.session.wants(), Wants::Nothing);
    assert!(driver.told.contains("552 5.3.4 <ann@x> Message too big\r\n"));
}

#[test]
fn a_full_spool_refuses_the_message_and_only_it() {
    for tail in [&b"\r\n.\r\n"[..], b""] {
        let mut driver = Driver::new(100_000_000);
        driver.spool_fails = true;
        driver.begin();
        let message = vec![b'x'; INLINE_BYTES_MAX + 1];
        if tail.is_empty() {
            driver.send(format!("BDAT {} LAST\r\n", message.len()).as_bytes());
        } else {
            driver.send(b"DATA\r\n");
        }
        driver.send(&message);
        driver.send(tail);
        driver.send(b"NOOP\r\n");
        assert!(driver.told.ends_with("452 4.3.1 <ann@x> No space for the message now\r\n250 2.0.0 OK\r\n"), "{}", driver.told);
    }
}

#[test]
fn recipients_and_lines_are_bounded() {
    let mut driver = Driver::new(1000);
    driver.begin();
    for _ in 1..RECIPIENTS_MAX {
        driver.send(b"RCPT TO:<ann@x>\r\n");
    }
    driver.told.clear();
    driver.send(b"RCPT TO:<ann@x>\r\n");
    assert_eq!(driver.told, "452 4.5.3 Too many recipients\r\n");
    driver.told.clear();
    driver.send(&[&vec![b'x'; 10 * COMMAND_LINE_BYTES_MAX][..], b"\r\nNOOP\r\n"].concat());
    assert_eq!(driver.told, "500 5.5.2 Line too long\r\n250 2.0.0 OK\r\n");
    driver.told.clear();
    driver.send(b"DATA\r\n.\r\n");
    assert_eq!(driver.told.matches("451 4.3.0 <ann@x>").count(), RECIPIENTS_MAX);
}
