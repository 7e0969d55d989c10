//! Whatever comes in, however it is cut: the same answers and the same messages, and never a panic.

use parliament_ids::{AccountId, BodyHash, Boot, NodeId, SessionKey};
use parliament_lmtp::{Answer, Body, Output, Peer, Session, Settings, Wants};
use parliament_mail_api::{Identity, Unserved};
use proptest::prelude::*;
use std::sync::Arc;

const PARTS: [&str; 26] = [
    "LHLO a\r\n",
    "MAIL FROM:<a@b>\r\n",
    "MAIL FROM:<> SIZE=9\r\n",
    "RCPT TO:<c@d>\r\n",
    "RCPT TO:<ef@d>\r\n",
    "DATA\r\n",
    "BDAT 3\r\n",
    "BDAT 3 LAST\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT x\r\n",
    "RSET\r\n",
    "STARTTLS\r\n",
    "XCLIENT ADDR=::7\r\n",
    "XCLIENT ADDR\r\n",
    "QUIT\r\n",
    ".\r\n",
    "..\r\n",
    "\r\n",
    "\n",
    "\r",
    ".",
    "abc",
    "\0",
    "<",
    "\u{e9}",
    "xxxxxxxxxxxxxxxxxxxxxxxx",
];

type Delivered = Vec<(Vec<AccountId>, Vec<u8>, BodyHash)>;

fn carry_out(session: &mut Session, outputs: Vec<Output>, said: &mut Vec<u8>, delivered: &mut Delivered) {
    for output in outputs {
        let mut more = Vec::new();
        match output {
            Output::Send(bytes) => said.extend_from_slice(&bytes),
            Output::Lookup { address } => {
                let account = AccountId(address.len() as u64);
                session.answer(Answer::Recipient(Ok(Identity { account, name: address })), &mut more);
            }
            Output::Deliver(message) => {
                let Body::Inline(bytes) = &message.body else { panic!("a small message") };
                for index in 0..message.accounts.len() {
                    session.answer(Answer::Delivered { index, result: Err(Unserved::Busy) }, &mut more);
                }
                delivered.push((message.accounts, bytes.to_vec(), message.dedupe));
            }
            Output::StartTls => session.answer(Answer::TlsStarted, &mut more),
            Output::Spool(_) | Output::DropSpool => panic!("a small message"),
            Output::Forwarded(_) | Output::Close => {}
        }
        carry_out(session, more, said, delivered);
    }
}

fn run(input: &[u8], mut sizes: impl Iterator<Item = usize>) -> (Vec<u8>, Delivered) {
    let settings = Settings { host: "mx".into(), message_bytes_max: 500, add_headers: true, starttls: true };
    let session = SessionKey { node: NodeId(1), boot: Boot(1), session: 1 };
    let peer = Peer { address: std::net::Ipv4Addr::LOCALHOST.into(), session, tls: false, trusted: true };
    let (mut out, mut said, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
    let mut session = Session::new(Arc::new(settings), peer, &mut out);
    carry_out(&mut session, out, &mut said, &mut delivered);
    let mut rest = input;
    while !rest.is_empty() && session.wants() == Wants::Bytes {
        let (piece, _) = rest.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        let mut out = Vec::new();
        let consumed = session.receive(piece, 0, &mut out);
        assert!(consumed > 0 && consumed <= piece.len());
        rest = &rest[consumed..];
        carry_out(&mut session, out, &mut said, &mut delivered);
    }
    assert_ne!(session.wants(), Wants::Answer);
    (said, delivered)
}

// At most 40 parts of at most 24 bytes: no message exceeds twice the limit, where the end of a piece decides when to hang up.
proptest! {
    #[test]
    fn cuts_change_nothing(parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..40), sizes in prop::collection::vec(1usize..20, 0..60)) {
        let input = parts.concat().into_bytes();
        let begun = [b"LHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n".to_vec(), input.clone()].concat();
        for input in [input, begun] {
            let whole = run(&input, std::iter::empty());
            prop_assert_eq!(&run(&input, sizes.iter().copied()), &whole);
            prop_assert_eq!(&run(&input, std::iter::repeat(1)), &whole);
        }
    }
}
