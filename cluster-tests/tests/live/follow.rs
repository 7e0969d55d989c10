//! A user who works at a node of another zone is held there before long, and no command fails or waits for it; one who works in two zones
//! alike stays; and what an operator has moved stays where it was put. In a demo each node is a zone of its own.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::imap::Imap;
use parliament_cluster_tests::message::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A lease that was taken stays for 10 s, and then follows within a look or two; the rest is for a busy machine.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(25);
/// Longer than a move would take that must not come.
const WATCHED: Duration = Duration::from_secs(25);
/// What a client may wait for while its lease goes to another node.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A session that works all the while, ten commands a second; a command that fails ends the test.
struct Worker {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(u32, Duration)>,
}

impl Worker {
    async fn start(demo: &Demo, number: usize, user: &str, mailbox: &'static str) -> Self {
        let mut imap = demo.imap(number, user).await.unwrap();
        imap.select(mailbox, false).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let task = tokio::spawn(async move {
            let (mut round, mut uids, mut slowest) = (0, 0, Duration::ZERO);
            while !stopping.load(Ordering::Relaxed) {
                round += 1;
                let began = Instant::now();
                uids += work(&mut imap, mailbox, round, uids).await;
                slowest = slowest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (round, slowest)
        });
        Self { stop, task }
    }

    /// How many commands it gave, and what the slowest took.
    async fn end(self) -> (u32, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_else(|error| panic!("a session: {error}"))
    }
}

/// One command: two of three read. How many messages it appended, which nobody else does in this mailbox.
async fn work(imap: &mut Imap, mailbox: &str, round: u32, uids: u32) -> u32 {
    if !round.is_multiple_of(3) {
        imap.command("NOOP").await.unwrap_or_else(|error| panic!("NOOP: {error}"));
        return 0;
    }
    let message = Message::new(&format!("{mailbox}-{round}"), b"work\r\n");
    let appended = imap.append(mailbox, "", &message.bytes).await.unwrap_or_else(|error| panic!("APPEND: {error}"));
    assert_eq!(appended.uid, uids + 1, "UIDs are dense");
    1
}

/// Who holds the user, as a node's number from 1, and the fence.
async fn lease(demo: &Demo, user: &str) -> (usize, u64) {
    let lease = demo.verb(&["lease", "show", user]).await.unwrap();
    let holder = lease["holder"].as_str().unwrap_or_default();
    let number = demo.nodes.iter().position(|node| node.id == holder).unwrap_or_else(|| panic!("{lease}"));
    (number + 1, lease["fence"].as_u64().unwrap())
}

#[test]
fn leases_follow_their_users_between_zones() {
    super::with_demo(Options { users: 2, ..Options::default() }, async |demo| {
        let (ann, ben) = (&demo.accounts()[0], &demo.accounts()[1]);
        for user in [ann, ben] {
            demo.imap(1, user).await.unwrap().select("INBOX", true).await.unwrap();
        }
        let (ann_was_at, ann_fence) = lease(demo, ann).await;
        let (ben_at, ben_fence) = lease(demo, ben).await;
        // One works far from where she is held, the other there and elsewhere at once.
        let far = ann_was_at % 3 + 1;
        let annes = Worker::start(demo, far, ann, "Sent").await;
        let bens = [Worker::start(demo, ben_at, ben, "Sent").await, Worker::start(demo, ben_at % 3 + 1, ben, "Drafts").await];
        let began = Instant::now();
        while lease(demo, ann).await.0 != far {
            assert!(began.elapsed() < FOLLOWS_WITHIN, "the lease stays at n{ann_was_at}, the sessions are at n{far}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eprintln!("the lease followed its user after {:?}", began.elapsed());
        tokio::time::sleep(WATCHED.saturating_sub(began.elapsed())).await;
        assert_eq!(lease(demo, ann).await, (far, ann_fence + 1), "one move, and then none");
        let (rounds, slowest) = annes.end().await;
        eprintln!("{rounds} commands, the slowest took {slowest:?}");
        assert!(slowest <= PAUSE_MAX, "a command took {slowest:?}");
        assert_eq!(lease(demo, ben).await, (ben_at, ben_fence), "used in two zones alike: nothing moves");
        for worker in bens {
            let (rounds, slowest) = worker.end().await;
            assert!(rounds > 50 && slowest <= PAUSE_MAX, "{rounds} commands, the slowest took {slowest:?}");
        }
        what_an_operator_moved_stays(demo, ann, far).await;
    });
}

async fn what_an_operator_moved_stays(demo: &Demo, user: &str, at: usize) {
    let to = at % 3 + 1;
    demo.verb(&["lease", "move", user, "--to", &demo.node(to).id, "--yes"]).await.unwrap();
    let (_, fence) = lease(demo, user).await;
    let worker = Worker::start(demo, at, user, "Archive").await;
    tokio::time::sleep(WATCHED).await;
    assert_eq!(lease(demo, user).await, (to, fence), "an operator put it there a moment ago");
    worker.end().await;
}
