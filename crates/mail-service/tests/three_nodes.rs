//! What a client is promised while nodes die and are cut off: three nodes in one process over real links.

#![allow(clippy::unwrap_used)]

mod cluster;

use cluster::{Cluster, Node, USERS, Way};
use parliament_ids::{
    AccountId, BodyHash, Boot, FlagSet, GroupId, MailboxId, MailboxName, MoveId, NodeId, RequestId, RequestSeq, SessionKey, Uid, UidSet,
};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{
    AppendMessage, BodySource, Call, MailService, Reply, Request, SearchKey, SearchRequest, StatusRequest, Unserved,
};
use parliament_mailbox_state::view::{self, Presence};
use parliament_mailbox_state::{MoveCommand, MoveStep};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn append(owner: AccountId, seq: u64) -> Call {
    let session = SessionKey { node: NodeId(2), boot: Boot(1), session: 1 };
    let bytes = format!("Subject: {seq}\r\n\r\nMail number {seq}.\r\n").into_bytes();
    let message = AppendMessage { body: BodySource::Inline(BytesField(bytes.into())), flags: FlagSet::default(), internal_date: None };
    Call {
        owner,
        actor: owner,
        request: Some(RequestId { session, seq: RequestSeq(seq) }),
        view: None,
        body: Request::Append { to: MailboxName::inbox(), messages: vec![message] },
    }
}

/// Calls in a task of the test, and gives the UID told.
async fn uid(node: &Node, call: Call) -> UidSet {
    let answer = node.router.call(call).await.unwrap();
    match answer.outcome {
        Ok(Reply::Appended { uids, .. }) => uids,
        other => panic!("{other:?}"),
    }
}

async fn uid_next(node: &Node, owner: AccountId) -> Result<Uid, Unserved> {
    let body = Request::Status(StatusRequest { name: MailboxName::inbox() });
    let answer = node.router.call(Call { owner, actor: owner, request: None, view: None, body }).await?;
    match answer.outcome {
        Ok(Reply::Status(status)) => Ok(status.uid_next),
        other => panic!("{other:?}"),
    }
}

fn one(uid: u32) -> UidSet {
    UidSet::one(Uid(uid))
}

/// Hands the lease to node 1 where a slow start has made another node the group's leader and so the holder.
async fn held_at_first(cluster: &Cluster, account: AccountId) {
    let first = &cluster.node(1).local;
    let row = first.account(account).unwrap().unwrap();
    for _ in 0..100 {
        match first.holder_of(&row).unwrap().owner {
            Some(owner) if owner.node == NodeId(1) => return,
            Some(owner) => {
                // Refused while that node's own tables lag; asked again.
                let _ = cluster.node(owner.node.0).local.hand_over(account, NodeId(1), first.support.boot()).await;
            }
            None => {}
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("node 1 did not get the lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_holder_is_taken_over_and_a_repeated_append_keeps_its_uid() {
    let (mut cluster, ann) = Cluster::found("takeover").await;
    assert_eq!(uid(cluster.node(2), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    cluster.kill(NodeId(1)).await;
    let died = Instant::now();
    // As a session does whose answer was lost.
    assert_eq!(uid(cluster.node(2), append(ann, 1)).await, one(1));
    let took = died.elapsed();
    eprintln!("a dead holder was taken over in {took:?}");
    assert!(took < Duration::from_secs(4), "take-over took {took:?}");
    assert_eq!(uid(cluster.node(3), append(ann, 2)).await, one(2));
    assert_eq!(uid(cluster.node(2), append(ann, 2)).await, one(2), "through another node");
    cluster.start(NodeId(1)).await;
    cluster.set_ways(NodeId(1), Way::Open);
    assert_eq!(uid(cluster.node(1), append(ann, 3)).await, one(3), "a node that came back serves");
    assert_eq!(uid_next(cluster.node(1), ann).await, Ok(Uid(4)));
    cluster.end().await;
}

/// A host that hangs breaks no connection: whoever waits for its answer must find out by other means.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_hangs_is_taken_over_as_fast() {
    let (cluster, ann) = Cluster::found("hang").await;
    assert_eq!(uid(cluster.node(2), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    cluster.set_ways(NodeId(1), Way::Frozen);
    let hung = Instant::now();
    assert_eq!(uid(cluster.node(3), append(ann, 2)).await, one(2));
    let took = hung.elapsed();
    eprintln!("a hanging holder was taken over in {took:?}");
    assert!(took < Duration::from_secs(3), "take-over took {took:?}");
    assert_eq!(uid(cluster.node(2), append(ann, 3)).await, one(3));
    cluster.set_ways(NodeId(1), Way::Open);
    let healed = Instant::now();
    while uid_next(cluster.node(1), ann).await != Ok(Uid(4)) {
        assert!(healed.elapsed() < Duration::from_secs(10));
    }
    cluster.end().await;
}

/// The owner of the lease as node 3 knows it, after a barrier.
async fn owner(cluster: &Cluster, account: AccountId) -> NodeId {
    let local = &cluster.node(3).local;
    local.read_barrier_within(USERS, 5_000).await.unwrap();
    local.holder_of(&local.account(account).unwrap().unwrap()).unwrap().owner.unwrap().node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_closed_is_served_elsewhere_and_its_entries_never_reach_group_0() {
    let (cluster, ann) = Cluster::found("close").await;
    assert_eq!(uid(cluster.node(2), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    cluster.node(1).close_users().await;
    let closed = Instant::now();
    assert_eq!(uid(cluster.node(2), append(ann, 2)).await, one(2));
    eprintln!("a holder that closed its copy was followed in {:?}", closed.elapsed());
    assert_eq!(uid(cluster.node(1), append(ann, 3)).await, one(3), "relayed from where the copy was");
    assert_eq!(uid(cluster.node(2), append(ann, 3)).await, one(3), "and exactly once");
    let mut watch = cluster.node(1).router.watch(ann, parliament_ids::MailboxId(1));
    tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("woken though nothing is applied here");
    // As a node sends that still takes node 1 for the leader.
    let entry = parliament_groups::Command::new(&[], b"a command of a group of users").unwrap();
    let mut payload = USERS.0.to_le_bytes().to_vec();
    payload.extend_from_slice(entry.as_bytes());
    let first = &cluster.node(1).local;
    let answer = first.on_propose(payload.into()).await.unwrap();
    assert_ne!(answer[0], 0, "taken");
    first.read_barrier_within(parliament_ids::GroupId::CLUSTER, 5_000).await.unwrap();
    assert_eq!(first.cluster.stopped(), None);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_gives_its_leases_away_takes_none() {
    let (cluster, ann) = Cluster::found("giving").await;
    assert_eq!(uid(cluster.node(2), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    cluster.set_giving(&[1]);
    assert_eq!(uid(cluster.node(1), append(ann, 2)).await, one(2), "it serves what it holds until it has handed it over");
    let (first, second) = (&cluster.node(1).local, &cluster.node(2).local);
    first.hand_over(ann, NodeId(2), second.support.boot()).await.unwrap();
    assert_eq!(uid(cluster.node(1), append(ann, 3)).await, one(3));
    assert_eq!(owner(&cluster, ann).await, NodeId(2));
    second.support.renounce();
    for seq in 4..12 {
        assert_eq!(uid(cluster.node(1), append(ann, seq)).await, one(u32::try_from(seq).unwrap()));
        assert_ne!(owner(&cluster, ann).await, NodeId(1));
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_answers_nothing_stale() {
    let (cluster, ann) = Cluster::found("cut").await;
    assert_eq!(uid(cluster.node(1), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    assert_eq!(uid_next(cluster.node(1), ann).await, Ok(Uid(2)));
    // A cluster this young may not have promised anything yet.
    let support = cluster.node(1).local.support.clone();
    while !support.reads_locally(support.boot()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.set_ways(NodeId(1), Way::Cut);
    // The old holder is asked all the time, while another takes over.
    let old = cluster.node(1).local.clone();
    let router = cluster.node(1).router.clone();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let asking = tokio::spawn(async move {
        loop {
            let asked = Instant::now();
            let body = Request::Status(StatusRequest { name: MailboxName::inbox() });
            let call = router.call(Call { owner: ann, actor: ann, request: None, view: None, body });
            if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_millis(200), call).await {
                let _ = told.send((asked, answer.outcome));
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(uid(cluster.node(2), append(ann, 2)).await, one(2));
    let acknowledged = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut answers = 0;
    while let Ok((asked, outcome)) = heard.try_recv() {
        let Ok(Reply::Status(status)) = outcome else { panic!("{outcome:?}") };
        assert!(asked < acknowledged || status.uid_next == Uid(3), "a stale answer, asked {:?} after the other's", asked - acknowledged);
        answers += 1;
    }
    assert!(answers > 0, "while its promises held it answered");
    assert!(!old.support.trusted(old.support.boot()));
    cluster.set_ways(NodeId(1), Way::Open);
    let healed = Instant::now();
    while uid_next(cluster.node(1), ann).await != Ok(Uid(3)) {
        assert!(healed.elapsed() < Duration::from_secs(10));
    }
    asking.abort();
    let boot = old.support.boot();
    assert!(boot > Boot(1), "its ownerships of the boot that was withdrawn are over");
    assert_eq!(old.leader(USERS), cluster.node(2).local.leader(USERS));
    cluster.end().await;
}

/// Nothing is applied on a node without a replica, so its sessions hear of changes from one that has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_a_node_without_a_replica_is_told_of_changes() {
    let (mut cluster, ann) = Cluster::found_on("far", &[NodeId(1), NodeId(2)]).await;
    assert_eq!(uid(cluster.node(3), append(ann, 1)).await, one(1));
    let mut watch = cluster.node(3).router.watch(ann, MailboxId::INBOX);
    let told = async |watch: &mut Box<dyn parliament_mail_api::Watch>| tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
    // The first answer of a node says that anything may have changed before.
    assert!(told(&mut watch).await.is_ok());
    assert_eq!(uid(cluster.node(1), append(ann, 2)).await, one(2));
    assert!(told(&mut watch).await.is_ok(), "a change at the node that is asked");
    cluster.kill(NodeId(1)).await;
    cluster.start(NodeId(1)).await;
    cluster.set_ways(NodeId(1), Way::Open);
    assert_eq!(uid(cluster.node(2), append(ann, 3)).await, one(3));
    assert!(told(&mut watch).await.is_ok(), "after the asked node has died and come back");
    cluster.end().await;
}

/// A rolling restart must not cost what a death costs: nobody waits for promises to run out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_gives_its_leases_up_at_once() {
    let (cluster, ann) = Cluster::found("retire").await;
    assert_eq!(uid(cluster.node(2), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    let first = cluster.node(1).local.clone();
    while !first.support.trusted(first.support.boot()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // As at a graceful stop, where leaderships go first.
    let second_leads = || [1, 3].iter().all(|node| cluster.node(*node).local.leader(USERS) == Some(NodeId(2)));
    while !second_leads() {
        if let Some(leader) = first.leader(USERS).filter(|leader| *leader != NodeId(2)) {
            let _ = cluster.node(leader.0).local.shard(USERS).unwrap().group.transfer_leader(NodeId(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let began = Instant::now();
    assert!(first.give_up_leases(Duration::from_secs(2)).await);
    assert_eq!(uid(cluster.node(3), append(ann, 2)).await, one(2));
    let took = began.elapsed();
    eprintln!("leases were given up and one was taken in {took:?}");
    assert!(took < Duration::from_millis(parliament_ids::limits::SUPPORT_MS), "it took {took:?}");
    let row = first.account(ann).unwrap().unwrap();
    assert_eq!(uid(cluster.node(1), append(ann, 3)).await, one(3), "its own sessions go on");
    assert_eq!(first.holder_of(&row).unwrap().owner.map(|owner| owner.node), Some(NodeId(2)));
    cluster.end().await;
}

/// A node missed a message. One of those that have it hangs with its connection up: the other is asked in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_had_from_another_node_when_the_first_hangs() {
    let (cluster, ann) = Cluster::found("hangs").await;
    assert_eq!(uid(cluster.node(1), append(ann, 1)).await, one(1));
    cluster.set_ways(NodeId(3), Way::Frozen);
    // What is on its way arrives.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = append(ann, 2);
    let Request::Append { messages, .. } = &second.body else { unreachable!() };
    let BodySource::Inline(bytes) = &messages[0].body else { unreachable!() };
    let hash = BodyHash(*blake3::hash(&bytes.0).as_bytes());
    assert_eq!(uid(cluster.node(1), second).await, one(2));
    let third = &cluster.node(3).local.bodies;
    assert!(third.store().size(&hash).is_none());
    cluster.set_way(NodeId(2), NodeId(3), Way::Open);
    cluster.set_way(NodeId(3), NodeId(2), Way::Open);
    third.want(hash, true);
    let left = third.store().wait_present(&[hash], Duration::from_secs(4)).await;
    assert!(left.is_empty(), "it waits for the node that hangs");
    cluster.set_ways(NodeId(3), Way::Open);
    cluster.end().await;
}

/// Two nodes do not hear each other, and the third hears both: whoever leads and whoever holds, each node serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_do_not_hear_each_other_are_served_through_one_that_hears_both() {
    let (cluster, ann) = Cluster::found("line").await;
    assert_eq!(uid(cluster.node(1), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    // Node 1 leads and holds.
    cluster.set_way(NodeId(1), NodeId(2), Way::Frozen);
    cluster.set_way(NodeId(2), NodeId(1), Way::Frozen);
    let began = Instant::now();
    assert_eq!(uid(cluster.node(2), append(ann, 2)).await, one(2), "through the third node");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "it took {took:?}");
    let began = Instant::now();
    assert_eq!(uid(cluster.node(2), append(ann, 3)).await, one(3));
    assert!(began.elapsed() < Duration::from_millis(500), "the way is known: {:?}", began.elapsed());
    assert_eq!(owner(&cluster, ann).await, NodeId(1), "nobody took the lease of a holder that serves");
    let barrier = cluster.node(2).local.read_barrier_within(GroupId::CLUSTER, 2_000).await;
    assert!(barrier.is_ok(), "logins work where the leader of group 0 is not heard");
    assert_eq!(uid(cluster.node(1), append(ann, 4)).await, one(4));
    assert_eq!(uid(cluster.node(3), append(ann, 5)).await, one(5));
    cluster.set_ways(NodeId(1), Way::Open);
    cluster.end().await;
}

/// The holder hears a majority, but not the group's leader, whom the others hear: it can neither propose nor apply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_does_not_hear_the_leader_gives_its_leases_up() {
    let (cluster, ann) = Cluster::found("stuck").await;
    assert_eq!(uid(cluster.node(1), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    let (first, second) = (&cluster.node(1).local, &cluster.node(2).local);
    first.hand_over(ann, NodeId(2), second.support.boot()).await.unwrap();
    assert_eq!(uid(cluster.node(2), append(ann, 2)).await, one(2));
    assert_eq!((first.leader(USERS), owner(&cluster, ann).await), (Some(NodeId(1)), NodeId(2)));
    cluster.set_way(NodeId(1), NodeId(2), Way::Frozen);
    cluster.set_way(NodeId(2), NodeId(1), Way::Frozen);
    let began = Instant::now();
    assert_eq!(uid(cluster.node(3), append(ann, 3)).await, one(3));
    let took = began.elapsed();
    eprintln!("a holder without a leader was replaced in {took:?}");
    assert!(took < Duration::from_secs(4), "it took {took:?}");
    assert_eq!(uid(cluster.node(2), append(ann, 4)).await, one(4), "its own sessions go on through the third node");
    assert_eq!(uid(cluster.node(1), append(ann, 5)).await, one(5));
    cluster.set_ways(NodeId(1), Way::Open);
    cluster.end().await;
}

/// Rule 17, in motion: who tells a clock of another rate makes no promise that reads rest on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_of_a_wrong_clock_do_not_count_for_reads() {
    let (cluster, ann) = Cluster::found("rates").await;
    assert_eq!(uid(cluster.node(1), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    let first = cluster.node(1).local.clone();
    let local = || first.support.reads_locally(first.support.boot());
    let until = async |wanted: bool| {
        let began = Instant::now();
        while local() != wanted {
            assert!(began.elapsed() < Duration::from_secs(15), "local reads are not {wanted}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(true).await;
    for node in [2, 3] {
        cluster.node(node).clock_percent.store(200, Ordering::Relaxed);
    }
    until(false).await;
    assert!(first.support.trusted(first.support.boot()), "it is not cut off, and holds what it holds");
    // One of them was enough; the other is found out a moment later.
    let began = Instant::now();
    while first.support.wrong_clocks() != [NodeId(2), NodeId(3)] {
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", first.support.wrong_clocks());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = first.counters.barrier_reads.load(Ordering::Relaxed);
    assert_eq!(uid_next(cluster.node(1), ann).await, Ok(Uid(2)));
    assert!(first.counters.barrier_reads.load(Ordering::Relaxed) > before, "the read asked a quorum");
    assert_eq!(owner(&cluster, ann).await, NodeId(1));
    // One right clock beside the own is a majority.
    cluster.node(2).clock_percent.store(100, Ordering::Relaxed);
    until(true).await;
    first.support.read_by_quorum();
    assert!(!local(), "the setting of hosts that are stopped with their clocks");
    cluster.end().await;
}

/// Rule 13: what a user leaves behind is swept away under whoever still reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_waited_until_its_user_had_moved_away_is_not_answered_from_what_is_left() {
    let (cluster, ann) = Cluster::found("left").await;
    assert_eq!(uid(cluster.node(1), append(ann, 1)).await, one(1));
    held_at_first(&cluster, ann).await;
    let first = cluster.node(1).local.clone();
    let cores = u32::try_from(first.long_reads.available_permits()).unwrap();
    let others = first.long_reads.acquire_many(cores).await.unwrap();
    let search = SearchRequest { mailbox: MailboxId::INBOX, key: SearchKey::All, from: Uid(1) };
    let call = Call { owner: ann, actor: ann, request: None, view: None, body: Request::Search(search) };
    let (asked, payload) = (first.clone(), parliament_formats::encode_call(&call).unwrap());
    let served = || first.counters.served.load(std::sync::atomic::Ordering::Relaxed);
    let before = served();
    let asking = tokio::spawn(async move { asked.on_relay(NodeId(2), payload).await });
    while served() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It looks who holds the user and waits for its turn.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let row = first.account(ann).unwrap().unwrap();
    first.freeze(&row, MoveId(1), GroupId(2)).await.unwrap();
    for step in [MoveStep::Depart, MoveStep::Sweep] {
        first.take_move_step(USERS, MoveCommand { account: ann, move_id: MoveId(1), step }).await.unwrap();
    }
    let left = view::presence(first.shard(USERS).unwrap().group.tables(), ann).unwrap();
    assert_eq!(left, Presence::Absent { last: MoveId(1), at: GroupId(2), arriving: false, left: false });
    drop(others);
    let answer = parliament_formats::decode_answer(&asking.await.unwrap().unwrap()).unwrap();
    assert_eq!(answer, Err(Unserved::NotHolder { hint: None }));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_moves_before_the_first_use_has_the_mailboxes_that_users_expect() {
    let (cluster, ann) = Cluster::found("unused").await;
    let began = Instant::now();
    let first = &cluster.node(1).local;
    let row = first.account(ann).unwrap().unwrap();
    while let Err(why) = first.freeze(&row, MoveId(1), GroupId(2)).await {
        assert!(began.elapsed() < Duration::from_secs(10), "{why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let shard = first.shard(USERS).unwrap();
    let here = view::presence(shard.group.tables(), ann).unwrap();
    assert_eq!(here, Presence::Here { last: MoveId(1), frozen_for: Some(GroupId(2)) });
    let (_, usage) = view::quota(shard.group.tables(), ann).unwrap().unwrap();
    assert!(usage.mailboxes > 1, "INBOX alone");
    cluster.end().await;
}
