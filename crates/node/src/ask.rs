//! What one node asks another for an operator's command: facts that only the other has, and orders that only it can carry out.

use crate::census::{Holder, census};
use crate::moves::{Order, Whereabouts};
use crate::pulse::Pulse;
use crate::running::Running;
use crate::who::{kick, sessions};
use bytes::Bytes;
use parliament_cluster_state::AccountRecord;
use parliament_ctl::api;
use parliament_frontend::Protocol;
use parliament_groups::{ChangeError, Group, Machine, NodeInfo, Role};
use parliament_ids::{AccountId, Boot, GroupId, MoveId, NodeId};
use parliament_journal::Space;
use parliament_mail_service::UsersMachine;
use parliament_mailbox_state::{Command, MoveCommand, MoveStep, view};
use parliament_routing::alone::Heard;
use parliament_rpc::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a node waits for another's answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a replica waits to have seen all that is committed, ms; less than [`TIMEOUT`].
const BARRIER_MS: u64 = 2_500;
/// How long a node waits for one that it does not hear of: that one is not expected to answer.
const SILENT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long one round of copying a user may take, ms.
const COPY_MS_MAX: u64 = 10_000;
/// A voter that lacks more entries than this does not become the leader yet.
const NEAR_ENTRIES: u64 = 1_000;
/// Sessions of one node that the status page is told of.
const BOARD_SESSIONS_MAX: usize = 100;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    Facts,
    /// What every node asks every other each second.
    Pulse,
    /// What the status page shows of a node beyond its facts, and the facts.
    Board,
    /// What `doctor` is told of a node.
    Examine,
    Sessions {
        mask: String,
    },
    Kick {
        mask: String,
        dry_run: bool,
    },
    Hashes {
        group: u32,
        accounts: Vec<u64>,
    },
    /// What a replica's copies of accounts are like; with `bodies` each body is read and hashed.
    Verify {
        group: u32,
        accounts: Vec<u64>,
        bodies: bool,
    },
    /// Makes a replica's copies of accounts what the others have.
    Resync {
        group: u32,
        accounts: Vec<u64>,
        /// Build the tables anew, from a snapshot of one of these nodes.
        sources: Option<Vec<u64>>,
    },
    /// A piece of the newest snapshot file of a group, which must cover this index.
    Snapshot {
        group: u32,
        index: u64,
        offset: u64,
    },
    /// How far the node's pass over everything is; with `start` one begins.
    Scrub {
        start: bool,
    },
    /// What a replica of the group knows of accounts; with `fresh` at least all that was committed when it was asked.
    Accounts {
        group: u32,
        accounts: Vec<u64>,
        fresh: bool,
    },
    /// Removes all mail of an account that group 0 has deleted.
    Forget {
        group: u32,
        account: u64,
    },
    HandOver {
        account: u64,
        to: u64,
        to_boot: u64,
    },
    Transfer {
        group: u32,
        to: u64,
    },
    Initialize,
    /// Where the node takes clients.
    MailPorts,
    /// Who holds the user, as far as this replica of its group knows.
    Home {
        account: u64,
    },
    /// As [`Question::Facts`], without what takes a look at every user: how far copies are on their way.
    Groups,
    /// Looks whether anything is missing of a group; [`GroupFacts::complete`] tells later.
    Check {
        group: u32,
    },
    /// To a group's leader, if the entry that made its members is still this one.
    AddLearner {
        group: u32,
        node: u64,
        address: String,
        zone: String,
        since: u64,
        #[serde(default)]
        witness: bool,
    },
    /// Likewise.
    RemoveLearner {
        group: u32,
        node: u64,
        since: u64,
    },
    /// Likewise.
    SetVoters {
        group: u32,
        voters: Vec<u64>,
        since: u64,
    },
    /// Answers no request for promises or withdrawals by an older list of group 0's voters.
    SettleVoters {
        version: u64,
    },
    /// Boots that voters of group 0 have withdrawn, by node.
    HearOfWithdrawals {
        floors: Vec<(u64, u64)>,
    },
    /// Whether the node hears this one.
    Hears {
        node: u64,
    },
    /// What a replica of the group has of a user on the move, all that was committed when it was asked included.
    Whereabouts {
        group: u32,
        account: u64,
    },
    /// To a replica of the group: has a step of a move committed.
    TakeMoveStep {
        group: u32,
        account: u64,
        move_id: u64,
        from: u32,
        order: Order,
    },
    /// To the user's holder, or a node that may take the lease.
    Freeze {
        account: u64,
        move_id: u64,
        from: u32,
        to: u32,
    },
    /// To a replica of the target: copies what the target lacks, and activates when the source is frozen.
    CopyUser {
        account: u64,
        move_id: u64,
        from: u32,
        to: u32,
        within_ms: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Facts(Facts),
    Pulse(Pulse),
    Board(Board),
    Examined(Box<api::NodeExam>),
    Sessions(Vec<api::Session>),
    Count(u64),
    /// The index up to which the replica is applied, 0 when that changed meanwhile, and a hash per account.
    Hashes(u64, Vec<(u64, String)>),
    Replicas(Vec<Replica>),
    /// The index that the snapshot covers, the file's bytes, and the piece in base64.
    Snapshot {
        covers: u64,
        bytes: u64,
        piece: String,
    },
    Scrub(Box<api::NodeScrub>),
    Accounts(Vec<AccountFacts>),
    MailPorts(MailPorts),
    Home(Option<u64>),
    /// True when it is heard, and since when it is or is not, ms.
    Heard(bool, u64),
    /// Every boot that was withdrawn, by node.
    Withdrawn(Vec<(u64, u64)>),
    Whereabouts(Whereabouts),
    /// Records that differed, and that still differ, and whether the activation was proposed.
    Copied {
        differed: u64,
        left: u64,
        activated: bool,
    },
    /// Done, or why not.
    Order(Result<(), String>),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) version: String,
    pub(crate) ready: bool,
    /// It has been up to date with all its groups since its start.
    pub(crate) caught_up: bool,
    pub(crate) draining: bool,
    /// The boot under which the node holds leases.
    pub(crate) lease_boot: u64,
    pub(crate) boot: u64,
    pub(crate) users_held: u64,
    pub(crate) sessions: u64,
    pub(crate) disk_free: u64,
    /// Too little of it is free to take messages.
    pub(crate) refuses_bodies: bool,
    pub(crate) uid_regressions: u64,
    pub(crate) missing_bodies: u64,
    pub(crate) groups: BTreeMap<u32, GroupFacts>,
    /// Groups that have a copy there and cannot be opened, and why.
    #[serde(default)]
    pub(crate) aside: BTreeMap<u32, String>,
    /// Of these, those that must leave their group and come back.
    #[serde(default)]
    pub(crate) unfit: Vec<u32>,
}

/// A replica's copy of an account.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Replica {
    pub(crate) account: u64,
    /// Rules that do not hold; a few.
    pub(crate) problems: Vec<String>,
    pub(crate) bodies: u64,
    pub(crate) missing: u64,
    pub(crate) damaged: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct GroupFacts {
    pub(crate) leads: bool,
    pub(crate) learner: bool,
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) last_log: Option<u64>,
    pub(crate) committed: Option<u64>,
    pub(crate) applied: Option<u64>,
    pub(crate) stopped: Option<String>,
    pub(crate) users: u64,
    /// Voters, of both sets during a change, and all members, as this replica knows them.
    #[serde(default)]
    pub(crate) voters: Vec<u64>,
    #[serde(default)]
    pub(crate) members: Vec<u64>,
    #[serde(default)]
    pub(crate) changing_to: Option<Vec<u64>>,
    /// Index of the entry that made these members.
    #[serde(default)]
    pub(crate) members_since: Option<u64>,
    /// Nothing was missing here of what is committed up to this index.
    #[serde(default)]
    pub(crate) complete: Option<u64>,
    /// Leases of the group's users here, where the node gives them away.
    #[serde(default)]
    pub(crate) holds: Option<u64>,
    #[serde(default)]
    pub(crate) resting: bool,
}

/// A node as the status page shows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Board {
    pub(crate) facts: Facts,
    /// Users by group, holder and the holder's boot; without a holder those that nobody has taken yet.
    pub(crate) held: Vec<(u32, Option<Holder>, u64)>,
    /// At most [`BOARD_SESSIONS_MAX`].
    pub(crate) sessions: Vec<api::Session>,
}

/// A node's first listeners without TLS, as bound.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct MailPorts {
    pub(crate) imap: Option<SocketAddr>,
    pub(crate) pop3: Option<SocketAddr>,
    /// It takes no new clients.
    pub(crate) draining: bool,
}

/// An account as its group's tables have it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AccountFacts {
    pub(crate) account: u64,
    /// The node that holds it, and its boot.
    pub(crate) owner: Option<(u64, u64)>,
    pub(crate) fence: u64,
    /// False when the owner is known to be gone.
    pub(crate) live: bool,
    /// Greatest UIDVALIDITY given; 0 before the first mailbox.
    pub(crate) uid_validity: u32,
    /// The account lives in another group: nothing else is known of it here.
    #[serde(default)]
    pub(crate) elsewhere: bool,
    pub(crate) mailboxes: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// Asks another node, or this one.
pub(crate) async fn ask(running: &Arc<Running>, node: NodeId, question: &Question) -> Result<Reply, String> {
    ask_within(running, node, question, TIMEOUT).await
}

/// As [`ask`], with another patience.
pub(crate) async fn ask_within(running: &Arc<Running>, node: NodeId, question: &Question, timeout: Duration) -> Result<Reply, String> {
    if node == running.local.me {
        return Ok(carry_out(running, question).await);
    }
    let peer = running.local.pool.get(node).ok_or("no such node")?;
    let payload = serde_json::to_vec(question).map_err(|e| e.to_string())?;
    let answer = peer.request(Method::Ask, payload.into(), timeout).await.map_err(|e| e.to_string())?;
    serde_json::from_slice(&answer).map_err(|e| e.to_string())
}

/// Asks all nodes at once; those that do not answer have an error.
pub(crate) async fn ask_all(running: &Arc<Running>, question: &Question) -> Vec<(NodeId, Result<Reply, String>)> {
    let nodes: Vec<NodeId> = running.document().members.iter().map(|member| NodeId(member.id)).collect();
    futures::future::join_all(nodes.into_iter().map(|node| async move { (node, ask(running, node, question).await) })).await
}

/// As [`ask_all`], but hardly waits for nodes that are silent already: for what people look at again and again.
pub(crate) async fn ask_all_heard(running: &Arc<Running>, question: &Question, timeout: Duration) -> Vec<(NodeId, Result<Reply, String>)> {
    let document = running.document();
    let nodes = document.members.iter().map(|member| NodeId(member.id));
    let asked = nodes.map(|node| async move {
        let timeout = if running.silent_ms(node) > 0 { timeout.min(SILENT_TIMEOUT) } else { timeout };
        (node, ask_within(running, node, question, timeout).await)
    });
    futures::future::join_all(asked).await
}

/// What each node says of itself; `None` where it does not answer.
pub(crate) async fn facts_of_all(running: &Arc<Running>) -> BTreeMap<NodeId, Option<Facts>> {
    let answers = ask_all_heard(running, &Question::Facts, TIMEOUT).await;
    let one = |(node, answer)| match answer {
        Ok(Reply::Facts(facts)) => (node, Some(facts)),
        _ => (node, None),
    };
    answers.into_iter().map(one).collect()
}

/// Answers a peer's question.
pub(crate) async fn answer(running: &Arc<Running>, payload: &Bytes) -> Result<Bytes, String> {
    let question: Question = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
    let reply = carry_out(running, &question).await;
    serde_json::to_vec(&reply).map(Bytes::from).map_err(|e| e.to_string())
}

async fn carry_out(running: &Arc<Running>, question: &Question) -> Reply {
    match question {
        Question::Facts => {
            let running = running.clone();
            Reply::Facts(tokio::task::spawn_blocking(move || facts(&running, true)).await.unwrap_or_default())
        }
        Question::Pulse => Reply::Pulse(running.pulse()),
        Question::Board => {
            let running = running.clone();
            Reply::Board(tokio::task::spawn_blocking(move || board(&running)).await.unwrap_or_default())
        }
        Question::Examine => {
            let running = running.clone();
            let examined = tokio::task::spawn_blocking(move || crate::exam::examine_member(&running)).await;
            examined.map_or_else(|error| Reply::Order(Err(error.to_string())), |exam| Reply::Examined(Box::new(exam)))
        }
        Question::Sessions { mask } => Reply::Sessions(sessions(running, mask, usize::MAX)),
        Question::Groups => {
            let mut facts = facts(running, false);
            for (group, row) in &mut facts.groups {
                row.holds = crate::membership::leases_left(running, GroupId(*group)).await;
            }
            Reply::Facts(facts)
        }
        Question::Check { group } => {
            running.check(GroupId(*group));
            Reply::Order(Ok(()))
        }
        Question::AddLearner { group, node, address, zone, since, witness } => {
            let info = NodeInfo { addr: address.clone(), zone: zone.clone(), witness: *witness };
            Reply::Order(match led_here(running, GroupId(*group), *since) {
                Ok(group) => bounded(group.add_learner(NodeId(*node), info)).await,
                Err(why) => Err(why),
            })
        }
        Question::RemoveLearner { group, node, since } => Reply::Order(match led_here(running, GroupId(*group), *since) {
            Ok(group) => bounded(group.remove_learners([NodeId(*node)].into())).await,
            Err(why) => Err(why),
        }),
        Question::SetVoters { group: 0, voters, since } => {
            let voters = voters.iter().copied().map(NodeId).collect();
            Reply::Order(match led_in(&running.local.cluster, *since) {
                // Former voters keep their copies: every node has one.
                Ok(()) => bounded(running.local.cluster.set_voters(voters, true)).await,
                Err(why) => Err(why),
            })
        }
        Question::SettleVoters { version } => crate::voters::settle_here(running, *version).await,
        Question::HearOfWithdrawals { floors } => crate::voters::hear_here(running, floors).await,
        Question::SetVoters { group, voters, since } => Reply::Order(match led_here(running, GroupId(*group), *since) {
            Ok(group) => bounded(group.set_voters(voters.iter().copied().map(NodeId).collect(), false)).await,
            Err(why) => Err(why),
        }),
        Question::Kick { mask, dry_run } => Reply::Count(kick(running, mask, *dry_run)),
        Question::Hashes { group, accounts } => crate::replica::hashes(running, GroupId(*group), accounts),
        Question::Verify { group, accounts, bodies } => {
            let (running, group, accounts, bodies) = (running.clone(), GroupId(*group), accounts.clone(), *bodies);
            let looked = tokio::task::spawn_blocking(move || crate::replica::verify(&running, group, &accounts, bodies)).await;
            looked.unwrap_or_else(|error| Reply::Order(Err(error.to_string())))
        }
        Question::Resync { group, accounts, sources } => {
            Reply::Order(crate::replica::resync(running, GroupId(*group), accounts, sources.as_deref()).await)
        }
        Question::Snapshot { group, index, offset } => crate::mend::piece(running, GroupId(*group), *index, *offset).await,
        Question::Scrub { start } => {
            if *start {
                running.scrubber.start();
            }
            let mut status = running.scrubber.status(running.config.node.name.clone());
            if status.now.is_none() {
                status.bytes_in_all = crate::scrub::bytes_in_all(running);
            }
            Reply::Scrub(Box::new(status))
        }
        Question::Accounts { group, accounts, fresh } => account_facts(running, GroupId(*group), accounts, *fresh).await,
        Question::Forget { group, account } => {
            let command = Command::DeleteAccount { account: AccountId(*account) };
            let done = running.local.propose_everywhere(GroupId(*group), &command).await;
            Reply::Order(if done { Ok(()) } else { Err(format!("group {group} has no quorum")) })
        }
        Question::HandOver { account, to, to_boot } => {
            let done = running.local.hand_over(AccountId(*account), NodeId(*to), Boot(*to_boot)).await;
            Reply::Order(done.map_err(|unserved| format!("{unserved:?}")))
        }
        Question::Whereabouts { group, account } => whereabouts(running, GroupId(*group), AccountId(*account)).await,
        Question::TakeMoveStep { group, account, move_id, from, order } => {
            let (account, move_id) = (AccountId(*account), MoveId(*move_id));
            Reply::Order(take_move_step(running, GroupId(*group), account, move_id, GroupId(*from), *order).await)
        }
        Question::Freeze { account, move_id, from, to } => {
            let frozen = match account_in(running, AccountId(*account), GroupId(*from)) {
                Ok(row) => running.local.freeze(&row, MoveId(*move_id), GroupId(*to)).await,
                Err(why) => Err(why),
            };
            Reply::Order(frozen)
        }
        Question::CopyUser { account, move_id, from, to, within_ms } => {
            // A peer's number: bounded here, too.
            let within = Duration::from_millis((*within_ms).min(COPY_MS_MAX));
            let groups = (GroupId(*from), GroupId(*to));
            match running.local.copy_user(AccountId(*account), MoveId(*move_id), groups, within).await {
                Ok(copied) => Reply::Copied { differed: copied.differed, left: copied.left, activated: copied.activated },
                Err(why) => Reply::Order(Err(why)),
            }
        }
        Question::Transfer { group, to } => {
            let (group, to) = (GroupId(*group), NodeId(*to));
            Reply::Order(match near(running, group, to) {
                Ok(()) => running.transfer(group, to).await,
                Err(why) => Err(why),
            })
        }
        Question::MailPorts => Reply::MailPorts(mail_ports(running)),
        Question::Home { account } => Reply::Home(home_here(running, AccountId(*account)).map(|node| node.0)),
        Question::Initialize => Reply::Order(running.initialize().await),
        Question::Hears { node } => match running.alone.heard(NodeId(*node)) {
            Some(Heard::For(ms)) => Reply::Heard(true, ms),
            Some(Heard::Silent(ms)) => Reply::Heard(false, ms),
            None => Reply::Order(Err("it was not listened for yet".into())),
        },
    }
}

/// The account, if the directory here still has it in this group.
fn account_in(running: &Running, account: AccountId, group: GroupId) -> Result<AccountRecord, String> {
    let row = running.local.account(account).map_err(|fault| fault.to_string())?;
    row.filter(|row| row.group == group).ok_or_else(|| format!("account {account} is not in group {group}"))
}

async fn whereabouts(running: &Running, group: GroupId, account: AccountId) -> Reply {
    let local = &running.local;
    let presence = match local.whereabouts(group, account, BARRIER_MS).await {
        Ok(presence) => presence,
        Err(why) => return Reply::Order(Err(why)),
    };
    let record = local.shard(group).and_then(|shard| local.owner(&shard, account).ok().flatten());
    let owner = record.and_then(|record| record.owner);
    let live = owner.filter(|owner| local.support.is_live(owner.node) && !local.support.boot_ended(owner.node, owner.boot));
    let holder = live.map(|owner| owner.node.0);
    Reply::Whereabouts(Whereabouts { presence, holder, leader: local.leader(group).map(|leader| leader.0) })
}

async fn take_move_step(
    running: &Running,
    group: GroupId,
    account: AccountId,
    move_id: MoveId,
    from: GroupId,
    order: Order,
) -> Result<(), String> {
    let step = match order {
        Order::Make => return running.local.make_records(&account_in(running, account, group)?).await,
        Order::Refuse => MoveStep::Refuse { from },
        Order::Depart => MoveStep::Depart,
        Order::Thaw => MoveStep::Thaw,
        Order::Sweep => MoveStep::Sweep,
    };
    running.local.take_move_step(group, MoveCommand { account, move_id, step }).await
}

/// Where this node takes clients.
pub(crate) fn mail_ports(running: &Running) -> MailPorts {
    let address = |protocol| running.frontend.get().and_then(|frontend| frontend.address(protocol, false));
    MailPorts { imap: address(Protocol::Imap), pop3: address(Protocol::Pop3), draining: running.is_draining() }
}

/// The node that holds the user, or else leads its group; `None` when neither is known and up, or the group has no copy here.
pub(crate) fn home_here(running: &Running, account: AccountId) -> Option<NodeId> {
    let local = &running.local;
    let row = local.account(account).ok().flatten()?;
    let owner = local.holder_of(&row).and_then(|record| record.owner);
    let holder = owner.filter(|owner| local.support.is_live(owner.node) && !local.support.boot_ended(owner.node, owner.boot));
    holder.map(|owner| owner.node).or_else(|| local.leader(row.group).filter(|leader| local.support.is_live(*leader)))
}

async fn account_facts(running: &Running, group: GroupId, accounts: &[u64], fresh: bool) -> Reply {
    let local = &running.local;
    let Some(shard) = local.shard(group) else { return Reply::Order(Err(format!("group {group} has no copy here"))) };
    if fresh && local.read_barrier_within(group, BARRIER_MS).await.is_err() {
        return Reply::Order(Err(format!("group {group} has no quorum")));
    }
    let one = |id: u64| {
        let (tables, account) = (shard.group.tables(), AccountId(id));
        let record = view::owner(tables, account)?;
        let owner = record.and_then(|record| record.owner);
        let (uid_validity, elsewhere) = match view::account(tables, account)? {
            Some(view::AccountView::Live { uid_validity, .. }) => (uid_validity.0, false),
            Some(view::AccountView::Deleted { uid_validity_floor }) => (uid_validity_floor.0, false),
            Some(view::AccountView::Elsewhere { .. }) => (0, true),
            None => (0, false),
        };
        // Before the first login there are no records: that is an empty account.
        let usage = view::quota(tables, account)?.map(|(_, usage)| usage);
        Ok::<_, parliament_mailbox_state::TableFault>(AccountFacts {
            account: id,
            owner: owner.map(|owner| (owner.node.0, owner.boot.0)),
            fence: record.map_or(0, |record| record.fence.0),
            live: owner.is_some_and(|owner| local.support.is_live(owner.node) && !local.support.boot_ended(owner.node, owner.boot)),
            uid_validity,
            elsewhere,
            mailboxes: usage.as_ref().map_or(0, |usage| usage.mailboxes),
            messages: usage.as_ref().map_or(0, |usage| usage.messages),
            bytes: usage.as_ref().map_or(0, |usage| usage.storage_bytes),
        })
    };
    match accounts.iter().copied().map(one).collect() {
        Ok(rows) => Reply::Accounts(rows),
        Err(fault) => Reply::Order(Err(fault.to_string())),
    }
}

/// That a voter is near enough to the leader, which is this node, to lead in its place: the group takes nothing in meanwhile.
fn near(running: &Running, group: GroupId, to: NodeId) -> Result<(), String> {
    let metrics = running.metrics(group).ok_or_else(|| format!("group {group} has no copy here"))?;
    let matched = metrics.followers.get(&to).and_then(|follower| follower.matched);
    match metrics.last_log.unwrap_or(0).checked_sub(matched.unwrap_or(0)) {
        Some(lag) if metrics.role == Role::Leader && lag > NEAR_ENTRIES => Err(format!("{to} lacks {lag} entries of group {group}")),
        _ => Ok(()),
    }
}

/// A group that this node leads, with the members that the asker has seen: what was decided on older ones is not carried out.
fn led_here(running: &Running, group: GroupId, since: u64) -> Result<Group<UsersMachine>, String> {
    let shard = running.local.shard(group).ok_or_else(|| format!("group {group} has no copy here"))?;
    led_in(&shard.group, since).map(|()| shard.group.clone())
}

fn led_in<M: Machine>(group: &Group<M>, since: u64) -> Result<(), String> {
    let metrics = group.metrics();
    if metrics.role != Role::Leader {
        return Err(format!("group {} is led elsewhere", group.id()));
    }
    if metrics.members_since != Some(since) {
        return Err(format!("the members of group {} have changed", group.id()));
    }
    Ok(())
}

/// Waits for a change of members for a while. One that takes longer goes on by itself, or is made again.
async fn bounded(change: impl Future<Output = Result<(), ChangeError>>) -> Result<(), String> {
    match tokio::time::timeout(Duration::from_millis(BARRIER_MS), change).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("no quorum confirmed it in time".into()),
    }
}

fn board(running: &Running) -> Board {
    let counted = census(running);
    let rows = counted.groups.iter().flat_map(|(group, row)| row.held.iter().map(|(holder, users)| (*group, *holder, *users)));
    Board { facts: facts(running, true), held: rows.collect(), sessions: sessions(running, "*", BOARD_SESSIONS_MAX) }
}

fn facts(running: &Running, with_users: bool) -> Facts {
    let counted = if with_users { census(running) } else { Default::default() };
    let disk_free = rustix::fs::statvfs(&running.data_dir).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    let mut facts = Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: running.unready().is_none(),
        caught_up: running.is_caught_up(),
        draining: running.is_draining(),
        lease_boot: running.local.support.boot().0,
        boot: running.boot.0,
        users_held: counted.held_by(running.local.me.0, running.local.support.boot().0),
        sessions: running.frontend.get().map_or(0, |frontend| frontend.registry().list().len() as u64),
        disk_free,
        refuses_bodies: running.journal.space() >= Space::NoBodies,
        uid_regressions: running.local.counters.uid_regressions.load(std::sync::atomic::Ordering::Relaxed),
        missing_bodies: running.local.bodies.lacking().max(running.local.bodies.store().damaged().len()) as u64,
        aside: running.aside().iter().map(|(group, why)| (group.0, why.to_string())).collect(),
        unfit: running.aside().iter().filter(|(_, why)| **why == crate::mend::Aside::Damaged).map(|(group, _)| group.0).collect(),
        ..Facts::default()
    };
    for group in running.group_ids() {
        let Some(metrics) = running.metrics(group) else { continue };
        let users = counted.groups.get(&group.0).map_or(0, |row| row.users);
        let row = GroupFacts {
            leads: metrics.role == Role::Leader,
            learner: metrics.role == Role::Learner,
            leader: metrics.leader.map(|leader| leader.0),
            term: metrics.term,
            last_log: metrics.last_log,
            committed: metrics.committed,
            applied: metrics.applied,
            stopped: metrics.stopped,
            users,
            voters: metrics.voters.iter().map(|id| id.0).collect(),
            members: metrics.members.keys().map(|id| id.0).collect(),
            changing_to: metrics.changing_to.map(|ids| ids.into_iter().map(|id| id.0).collect()),
            members_since: metrics.members_since,
            complete: running.complete(group),
            holds: None,
            resting: metrics.resting,
        };
        facts.groups.insert(group.0, row);
    }
    facts
}
