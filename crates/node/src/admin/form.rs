//! `cluster init`: asks the seeds who they are, gives every one the cluster's document, and makes the groups.

use super::{Outcome, bug, document, not_formed};
use crate::ask::{Question, Reply, ask_all};
use crate::identity::{Document, Member, hex, place, random_id};
use crate::node::Node;
use crate::running::Running;
use parliament_cluster_state as state;
use parliament_ctl::{AdminError, api, exit};
use parliament_ids::{Boot, GroupId, NodeId, NodeRole};
use parliament_mail_service::boot_ms;
use parliament_rpc::{PeerPool, v1};
use std::sync::Arc;
use std::time::Duration;

/// How long a forming cluster may take to have leaders, ms.
const FORM_DEADLINE_MS: u64 = 30_000;

fn unavailable(why: String) -> AdminError {
    AdminError::new("PC212", exit::UNAVAILABLE, why)
        .with_hint("start all nodes that cluster.seeds names, then try again. Nothing was changed.")
}

fn formed_already(who: &str) -> AdminError {
    AdminError::new(api::ALREADY_FORMED, exit::USAGE, format!("{who} belongs to a cluster already"))
}

pub(super) async fn init(node: &Arc<Node>, request: &api::ClusterInit) -> Outcome {
    if node.running().is_some() || node.data.identity().map_err(bug)?.is_some() {
        return Err(formed_already(&node.config.node.name));
    }
    let groups = request.groups.unwrap_or(node.config.cluster.groups).clamp(1, 4096);
    let replication = request.replication.unwrap_or(node.config.cluster.replication);
    let pool = PeerPool::new(node.runtime.clone(), [0; 16], NodeId(0), node.boot, node.tls.clone());
    let members = ask_seeds(node, &pool).await?;
    check_roles(&members)?;
    let placement = place(&members, groups, replication);
    let name = node.config.cluster.name.clone();
    let document_ = Document {
        cluster: hex(&random_id().map_err(bug)?),
        name,
        groups,
        replication,
        members,
        placement,
        learners: Vec::new(),
        leaving: Vec::new(),
        removed: Vec::new(),
        voters_version: 0,
    };
    document_.check().map_err(bug)?;
    if !request.dry_run {
        adopt_all(node, &pool, &document_).await?;
        let running = node.running().ok_or_else(not_formed)?;
        make_groups(&running, &document_).await?;
    }
    document(&describe(&document_))
}

fn check_roles(members: &[Member]) -> Result<(), AdminError> {
    let count = |role| members.iter().filter(|member| member.role == role).count();
    let wrong = |why: &str, hint: &str| Err(AdminError::new("PC217", exit::CONFIG, why).with_hint(hint));
    if count(NodeRole::Data) == 0 {
        return wrong("no seed is a data node", "a cluster needs at least one node with node.role = \"data\"");
    }
    if count(NodeRole::Witness) > 1 {
        return wrong("two seeds are witnesses", "one witness votes beside two data nodes; more nodes with mail need none");
    }
    Ok(())
}

/// What operators are told of a cluster.
pub(super) fn describe(document: &Document) -> api::Cluster {
    // A cluster of fewer nodes than wanted copies keeps fewer.
    let copies = document.placement.iter().skip(1).map(Vec::len).max().unwrap_or(0);
    api::Cluster {
        name: document.name.clone(),
        id: document.cluster.clone(),
        groups: document.groups,
        replication: u8::try_from(copies).unwrap_or(u8::MAX),
        nodes: document.members.iter().map(|member| member.name.clone()).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The members in the order of the seeds. The seed that names this very node is known by its disk.
async fn ask_seeds(node: &Arc<Node>, pool: &PeerPool) -> Result<Vec<Member>, AdminError> {
    let mut seeds = node.config.cluster.seeds.clone();
    if seeds.is_empty() {
        seeds.push(node.config.node.advertise.clone());
    }
    let mut members: Vec<Member> = Vec::new();
    for seed in &seeds {
        let hello: v1::HelloReply = if *seed == node.config.node.advertise {
            node.hello()
        } else {
            let peer = pool.connect(NodeId(0), seed);
            peer.hello().await.map_err(|e| unavailable(format!("the seed {seed} does not answer: {e}")))?
        };
        if !hello.cluster_id.is_empty() {
            return Err(formed_already(&hello.name));
        }
        if members.iter().any(|member| member.name == hello.name) {
            return Err(AdminError::new("PC213", exit::CONFIG, format!("two seeds are named {}", hello.name))
                .with_hint("give each node its own node.name"));
        }
        members.push(Member {
            id: members.len() as u64 + 1,
            name: hello.name,
            zone: hello.zone,
            address: hello.advertise,
            disk: hex(&hello.disk_id),
            imap: hello.imap,
            state: state::NodeState::Active,
            role: crate::join::role_named(&hello.role).ok_or_else(|| unavailable(format!("{seed} has a role that is unknown here")))?,
        });
    }
    if members.iter().any(|member| member.disk == hex(&node.data.disk)) {
        return Ok(members);
    }
    Err(AdminError::new("PC214", exit::CONFIG, "cluster.seeds does not name this node")
        .with_hint("put node.advertise of every node among cluster.seeds"))
}

async fn adopt_all(node: &Arc<Node>, pool: &PeerPool, document: &Document) -> Result<(), AdminError> {
    let json = serde_json::to_vec(document).map_err(bug)?;
    for member in &document.members {
        let refused = if member.disk == hex(&node.data.disk) {
            node.adopt(&json, NodeId(member.id)).await.err().unwrap_or_default()
        } else {
            let peer = pool.connect(NodeId(member.id), &member.address);
            let adopted = peer.adopt(json.clone().into(), NodeId(member.id)).await;
            adopted.map_err(|e| unavailable(format!("{} went away: {e}", member.name)))?.refused
        };
        if !refused.is_empty() {
            return Err(unavailable(format!("{} refuses: {refused}", member.name)));
        }
    }
    Ok(())
}

async fn make_groups(running: &Arc<Running>, document: &Document) -> Result<(), AdminError> {
    let deadline = boot_ms() + FORM_DEADLINE_MS;
    let mut failed = String::new();
    while boot_ms() < deadline {
        let answers = ask_all(running, &Question::Initialize).await;
        let wrong = answers.into_iter().find_map(|(id, answer)| match answer {
            Ok(Reply::Order(Ok(()))) => None,
            Ok(Reply::Order(Err(why))) | Err(why) => Some(format!("{}: {why}", document.name_of(id))),
            Ok(other) => Some(format!("{}: unexpected {other:?}", document.name_of(id))),
        });
        let Some(why) = wrong else {
            return form_group_0(running, document, deadline).await;
        };
        failed = why;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(unavailable(failed))
}

async fn form_group_0(running: &Arc<Running>, document: &Document, deadline: u64) -> Result<(), AdminError> {
    let nodes = document.members.iter().map(|member| state::NodeRecord {
        id: NodeId(member.id),
        name: member.name.clone(),
        zone: member.zone.clone(),
        disk: crate::identity::unhex(&member.disk).unwrap_or_default(),
        // Each node announces its boot by itself.
        boot: Boot(0),
        peer_address: member.address.clone(),
        imap_address: member.imap.clone(),
    });
    let placement = (0..=document.groups).map(|group| state::Placement { group: GroupId(group), voters: document.voters(GroupId(group)) });
    let cluster = state::ClusterRecord { id: running.cluster_id(), name: document.name.clone(), groups: document.groups };
    let roles = document.members.iter().filter(|member| member.role != NodeRole::Data).map(|member| (NodeId(member.id), member.role));
    let (nodes, roles, placement) = (nodes.collect(), roles.collect::<Vec<_>>(), placement.collect());
    let form = if roles.is_empty() {
        state::Command::Form { cluster, nodes, placement }
    } else {
        state::Command::FormWith { cluster, nodes, roles, placement }
    };
    match running.local.propose_cluster(&form, deadline).await {
        Ok(Ok(_) | Err(state::Refused::AlreadyFormed)) => Ok(()),
        Ok(Err(refused)) => Err(bug(format!("{refused:?}"))),
        Err(error) => Err(super::unserved(&error)),
    }
}
