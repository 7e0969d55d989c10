//! Nasty mail, half of it delivered at one node and half appended at another, comes back from the third as it was sent.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::message::{Message, nasty_bodies, without_trace};
use parliament_cluster_tests::random::Random;

const ACCOUNTS: usize = 5;

#[test]
fn mails() {
    super::with_demo(Options { users: ACCOUNTS, ..Options::default() }, async |demo| {
        let accounts = demo.accounts();
        for (number, account) in accounts.iter().enumerate() {
            let sent = send(demo, account, number).await;
            read(demo, account, &sent).await;
        }
    });
}

/// Every body, by LMTP or APPEND in turn; which one it is depends on the account, so that each goes both ways.
async fn send(demo: &Demo, account: &str, number: usize) -> Vec<(String, Message)> {
    let mut random = Random::new(number as u64);
    let mut lmtp = demo.lmtp(1).await.unwrap();
    let mut imap = demo.imap(2, account).await.unwrap();
    let mut sent = Vec::new();
    for (n, (what, body)) in nasty_bodies(&mut random).into_iter().enumerate() {
        // Megabytes once in each way are enough.
        if body.len() > 1024 * 1024 && number > 1 {
            continue;
        }
        let message = Message::new(&format!("m{number}-{n}"), &body);
        let uid = sent.len() + 1;
        if (n + number).is_multiple_of(2) {
            let done = lmtp.deliver("tests@tests.example", &[account], &message.bytes).await;
            done.unwrap_or_else(|e| panic!("{what}: {e}")).remove(0).unwrap_or_else(|e| panic!("{what} by LMTP: {e}"));
            sent.push((format!("{what} by LMTP"), message));
        } else {
            let appended = imap.append("INBOX", "", &message.bytes).await.unwrap_or_else(|e| panic!("{what} by APPEND: {e}"));
            assert_eq!(appended.uid as usize, uid, "{what}");
            sent.push((format!("{what} by APPEND"), message));
        }
    }
    sent
}

async fn read(demo: &Demo, account: &str, sent: &[(String, Message)]) {
    let mut imap = demo.imap(3, account).await.unwrap();
    let mailbox = imap.select("INBOX", true).await.unwrap();
    assert_eq!((mailbox.exists as usize, mailbox.uidnext as usize), (sent.len(), sent.len() + 1));
    for (n, (what, message)) in sent.iter().enumerate() {
        let uid = n + 1;
        // literal8 carries what holds NUL (RFC 3516); everything else is read as everybody reads it.
        let item = if message.bytes.contains(&0) { "BINARY.PEEK[]" } else { "BODY.PEEK[]" };
        let fetched =
            imap.uid_fetch(&uid.to_string(), &format!("(UID RFC822.SIZE {item})")).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let body = fetched[0].body.as_deref().unwrap_or_else(|| panic!("{what}: no body in {:?}", fetched[0].items));
        assert_eq!(fetched[0].uid, Some(u32::try_from(uid).unwrap()));
        let size = fetched[0].items.iter().find(|(name, _)| name == "RFC822.SIZE").and_then(|(_, value)| value.number());
        assert_eq!(size, Some(body.len() as u64), "{what}");
        let got = without_trace(body);
        assert_eq!(
            parliament_cluster_tests::message::sha(got),
            message.sha,
            "{what}: {} bytes sent, {} read",
            message.bytes.len(),
            got.len()
        );
    }
}
