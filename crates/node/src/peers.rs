//! What this node does with its peers' messages.

use crate::ask;
use crate::node::Node;
use async_trait::async_trait;
use bytes::Bytes;
use parliament_groups::CallKind;
use parliament_ids::{BodyHash, Boot, GroupId, NodeId, VotersVersion};
use parliament_rpc::{Appends, Method, PeerHandler, v1};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The handler of a node's peer port. Serves before the node belongs to a cluster, too.
pub(crate) struct Peers(pub(crate) Arc<Node>);

struct Connection {
    inner: parliament_groups::Connection,
    answers: mpsc::UnboundedSender<(GroupId, Bytes)>,
}

impl Appends for Connection {
    fn append(&self, group: GroupId, payload: Bytes) -> Result<(), String> {
        let answers = self.answers.clone();
        // A link that has broken needs no answer.
        let answer = Box::new(move |bytes| drop(answers.send((group, bytes))));
        self.inner.append(group, payload, answer).map_err(|refusal| refusal.to_string())
    }
}

/// Stands in for a connection before this node has groups.
struct NoGroups;

impl Appends for NoGroups {
    fn append(&self, _: GroupId, _: Bytes) -> Result<(), String> {
        Err("this node belongs to no cluster".into())
    }
}

/// What a node that cannot serve its peers yet refuses them with.
pub(crate) const STARTING: &str = "this node is starting";

#[async_trait]
impl PeerHandler for Peers {
    fn admits(&self, cluster: [u8; 16], node: NodeId, boot: Boot) -> bool {
        self.0.running().is_some_and(|running| running.admits(cluster, node, boot))
    }

    fn connected(&self, from: NodeId, answers: mpsc::UnboundedSender<(GroupId, Bytes)>) -> Box<dyn Appends> {
        match self.0.running() {
            Some(running) => Box::new(Connection { inner: running.groups.inbound().connection(from), answers }),
            None => Box::new(NoGroups),
        }
    }

    fn body(&self, _: NodeId, hash: BodyHash, payload: Bytes) {
        if let Some(running) = self.0.running() {
            running.local.bodies.arrived(hash, payload);
        }
    }

    async fn request(&self, from: NodeId, method: Method, payload: Bytes) -> Result<Bytes, String> {
        let running = self.0.running().ok_or(STARTING)?;
        match method {
            Method::Propose => running.local.on_propose(payload).await,
            Method::ReadIndex => running.local.on_read_index(payload).await,
            Method::ReadIndexOnward => running.local.on_read_index_onward(payload).await,
            // Mail requests read disks and wait: not on the runtime of consensus.
            Method::Relay => {
                let work = self.0.runtime.spawn(async move { running.local.on_relay(from, payload).await });
                work.await.map_err(|e| e.to_string())?
            }
            Method::Onward => {
                let work = self.0.runtime.spawn(async move { running.local.on_onward(from, payload).await });
                work.await.map_err(|e| e.to_string())?
            }
            Method::Changes => {
                let work = self.0.runtime.spawn(async move { running.local.on_changes(&payload).await });
                work.await.map_err(|e| e.to_string())?
            }
            Method::Image => {
                let work = self.0.runtime.spawn(async move { running.local.on_image(payload).await });
                work.await.map_err(|e| e.to_string())?
            }
            Method::Ask => {
                let work = self.0.runtime.spawn(async move { ask::answer(&running, &payload).await });
                work.await.map_err(|e| e.to_string())?
            }
        }
    }

    async fn hello(&self) -> v1::HelloReply {
        self.0.hello()
    }

    async fn adopt(&self, request: v1::AdoptRequest) -> v1::AdoptReply {
        let node = self.0.clone();
        let work = self.0.runtime.spawn(async move { node.adopt(&request.document, NodeId(request.node_id)).await });
        let refused = match work.await {
            Ok(Ok(())) => String::new(),
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        v1::AdoptReply { refused }
    }

    async fn join(&self, request: v1::JoinRequest) -> v1::JoinReply {
        let node = self.0.clone();
        let work = self.0.runtime.spawn(async move { crate::join::enter(&node, request).await });
        work.await.unwrap_or_else(|error| crate::join::refused(&error.to_string(), true))
    }

    async fn raft(&self, from: NodeId, group: GroupId, kind: u32, payload: Bytes) -> Result<Bytes, String> {
        let running = self.0.running().ok_or(STARTING)?;
        let kind = u8::try_from(kind).ok().and_then(CallKind::from_u8).ok_or("unknown kind of call")?;
        running.groups.inbound().handle_call(from, group, kind, payload).await.map_err(|refusal| refusal.to_string())
    }

    async fn support(&self, node: NodeId, boot: Boot, list: VotersVersion) -> v1::SupportReply {
        match self.0.running() {
            Some(running) => running.local.support.on_support(node, boot, list),
            None => v1::SupportReply::default(),
        }
    }

    async fn withdraw(&self, node: NodeId, boot: Boot, list: VotersVersion) -> v1::WithdrawReply {
        match self.0.running() {
            Some(running) => running.local.support.on_withdraw(node, boot, list).await,
            None => v1::WithdrawReply { withdrawn: false, remaining_ms: 100 },
        }
    }

    async fn snapshot(&self, group: GroupId, head: Bytes, path: PathBuf) -> Result<Bytes, String> {
        let running = self.0.running().ok_or(STARTING)?;
        let answer = running.groups.inbound().handle_snapshot(group, head, path).await.map_err(|refusal| refusal.to_string());
        running.local.hub.everything_changed();
        running.installed.notify_one();
        answer
    }

    fn snapshot_dir(&self, group: GroupId) -> Result<PathBuf, String> {
        let running = self.0.running().ok_or(STARTING)?;
        running.groups.inbound().snapshot_spool(group).map_err(|refusal| refusal.to_string())
    }

    async fn fetch_body(&self, hash: BodyHash) -> Option<Bytes> {
        self.0.running()?.local.bodies.for_peer(hash).await
    }

    async fn store_body(&self, hash: BodyHash, bytes: Bytes) -> bool {
        match self.0.running() {
            Some(running) => running.local.bodies.store_large(hash, bytes).await,
            None => false,
        }
    }
}
