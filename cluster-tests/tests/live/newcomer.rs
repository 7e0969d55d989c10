//! What somebody tries first: write at one node, look at another.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::message::Message;
use std::time::{Duration, Instant};

#[test]
fn newcomer() {
    with_demo_of_two(async |demo, ann, ben| {
        append_here_see_it_there(demo, ann).await;
        flags_and_expunge_are_seen_elsewhere(demo, ann).await;
        folders_are_seen_elsewhere(demo, ann).await;
        idle_tells_of_a_delivery_at_another_node(demo, ben).await;
        a_wrong_password_is_refused_everywhere(demo, ann).await;
    });
}

fn with_demo_of_two(test: impl AsyncFnOnce(&Demo, &str, &str)) {
    super::with_demo(Options { users: 2, ..Options::default() }, async |demo| {
        let accounts = demo.accounts();
        test(demo, &accounts[0], &accounts[1]).await;
    });
}

async fn append_here_see_it_there(demo: &Demo, user: &str) {
    let message = Message::new("first", b"Hello.\r\n");
    let mut one = demo.imap(1, user).await.unwrap();
    let appended = one.append("INBOX", "\\Flagged", &message.bytes).await.unwrap();
    assert_eq!(appended.uid, 1);
    for number in [2, 3] {
        let mut other = demo.imap(number, user).await.unwrap();
        let mailbox = other.select("INBOX", false).await.unwrap();
        assert_eq!((mailbox.exists, mailbox.uidnext, mailbox.uidvalidity), (1, 2, appended.uidvalidity), "n{number}");
        let seen = other.uid_fetch("1", "(UID FLAGS BODY.PEEK[])").await.unwrap();
        assert_eq!(seen[0].body.as_deref(), Some(message.bytes.as_slice()), "n{number}");
        assert!(seen[0].flags.as_ref().unwrap().iter().any(|f| f == "\\Flagged"), "n{number}: {seen:?}");
    }
}

async fn flags_and_expunge_are_seen_elsewhere(demo: &Demo, user: &str) {
    let mut one = demo.imap(1, user).await.unwrap();
    let mut two = demo.imap(2, user).await.unwrap();
    let second = one.append("INBOX", "", &Message::new("second", b"x\r\n").bytes).await.unwrap();
    one.select("INBOX", false).await.unwrap();
    two.select("INBOX", false).await.unwrap();
    one.command(&format!("UID STORE {} +FLAGS (\\Seen $Label1)", second.uid)).await.unwrap();
    let seen = two.uid_fetch(&second.uid.to_string(), "(FLAGS)").await.unwrap();
    let flags = seen.iter().rev().find_map(|m| m.flags.clone()).unwrap();
    assert!(flags.iter().any(|f| f == "\\Seen") && flags.iter().any(|f| f == "$Label1"), "{flags:?}");
    two.command("UID STORE 1 +FLAGS (\\Deleted)").await.unwrap();
    two.command("UID EXPUNGE 1").await.unwrap();
    let noop = one.command("NOOP").await.unwrap();
    assert_eq!(noop.number("EXPUNGE"), Some(1), "{noop:?}");
    let status = demo.imap(3, user).await.unwrap().status("INBOX").await.unwrap();
    assert_eq!((status.exists, status.uidnext), (1, second.uid + 1));
    let gone = demo.imap(3, user).await.unwrap().select("INBOX", true).await.unwrap();
    assert_eq!(gone.exists, 1);
}

async fn folders_are_seen_elsewhere(demo: &Demo, user: &str) {
    demo.imap(3, user).await.unwrap().command("CREATE Work/2026").await.unwrap();
    let mut two = demo.imap(2, user).await.unwrap();
    let list = two.command("LIST \"\" *").await.unwrap().data("LIST").unwrap();
    let names: Vec<_> = list.iter().filter_map(|row| row.last()).map(parliament_cluster_tests::token::Token::text).collect();
    for wanted in ["INBOX", "Work/2026", "Sent", "Trash"] {
        assert!(names.iter().any(|n| n == wanted), "{wanted} is not in {names:?}");
    }
    two.command("RENAME Work Play").await.unwrap();
    demo.imap(1, user).await.unwrap().select("Play/2026", true).await.unwrap();
    two.command("DELETE Play/2026").await.unwrap();
    assert!(demo.imap(1, user).await.unwrap().select("Play/2026", true).await.is_err());
}

/// The median of five must be told within 200 ms; one that is slower may be the machine's doing.
async fn idle_tells_of_a_delivery_at_another_node(demo: &Demo, user: &str) {
    let mut idle = demo.imap(2, user).await.unwrap();
    idle.select("INBOX", false).await.unwrap();
    idle.idle().await.unwrap();
    let mut lmtp = demo.lmtp(1).await.unwrap();
    let mut times = Vec::new();
    for n in 1..=5 {
        let message = Message::new(&format!("idle-{n}"), b"x\r\n");
        let results = lmtp.deliver("tests@tests.example", &[user], &message.bytes).await.unwrap();
        results.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        let delivered = Instant::now();
        let wanted = format!("* {n} EXISTS");
        while idle.idle_wait(Duration::from_secs(5)).await.unwrap() != wanted {}
        times.push(delivered.elapsed());
    }
    times.sort_unstable();
    eprintln!("IDLE tells of a delivery at another node after {times:?}");
    assert!(times[2] <= Duration::from_millis(200), "{times:?}");
    idle.idle_done().await.unwrap();
}

async fn a_wrong_password_is_refused_everywhere(demo: &Demo, user: &str) {
    for node in &demo.nodes {
        let refused = parliament_cluster_tests::imap::Imap::login(&node.imap, user, "not this").await.unwrap_err();
        assert!(refused.to_string().contains("AUTHENTICATIONFAILED"), "{}: {refused}", node.id);
    }
}
