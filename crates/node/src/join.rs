//! A new node enters a cluster: `node invite` makes a token, `server --join` of an empty data directory shows it to a seed, which
//! has group 0 enter the node. The certificate decides who may speak, the token who may join.

use crate::identity::{Document, hex};
use crate::node::{Fatal, Node};
use parliament_cluster_state::{Command, Joining, Refused, Reply};
use parliament_ids::{NodeId, NodeRole};
use parliament_mail_service::{boot_ms, unix_seconds};
use parliament_rpc::{PeerPool, v1};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What a token begins with; the number is its form's version.
const PREFIX: &str = "parliament-join-1-";
/// Longest token that is looked at, bytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// How long group 0 may take to enter a node, ms.
const ENTER_MS: u64 = 10_000;
/// Between two rounds over the seeds.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// Hex of the cluster's id.
    pub(crate) cluster: String,
    /// Its name.
    pub(crate) name: String,
    /// Peer addresses of nodes that can enter the bearer.
    pub(crate) seeds: Vec<String>,
    /// Hex of 32 random bytes. Group 0 knows only their hash.
    secret: String,
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl Token {
    /// A token with a new secret.
    pub(crate) fn new(document: &Document, seeds: Vec<String>) -> io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        Ok(Self { cluster: document.cluster.clone(), name: document.name.clone(), seeds, secret: hex(&secret) })
    }
    /// What group 0 knows of the secret.
    pub(crate) fn hash(&self) -> [u8; 32] {
        hash(&self.secret_bytes())
    }
    fn secret_bytes(&self) -> Vec<u8> {
        bytes_of(&self.secret).unwrap_or_default()
    }
    /// The token as operators carry it.
    pub(crate) fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_vec(self).map(|json| format!("{PREFIX}{}", hex(&json)))
    }
    /// Reads what an operator gave.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or("it does not begin as tokens of `parliament node invite` do")?;
        let json = bytes_of(body).filter(|_| text.len() <= TOKEN_BYTES_MAX).ok_or("it is cut short or garbled")?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| "it is cut short or garbled")?;
        if token.seeds.is_empty() || token.secret_bytes().len() != 32 { Err("it is incomplete") } else { Ok(token) }
    }
}

fn hash(secret: &[u8]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

/// A refusal; `again` when another try may succeed.
pub(crate) fn refused(why: &str, again: bool) -> v1::JoinReply {
    v1::JoinReply { refused: why.to_owned(), again, ..v1::JoinReply::default() }
}

/// At the seed: has group 0 enter a node.
pub(crate) async fn enter(node: &Arc<Node>, request: v1::JoinRequest) -> v1::JoinReply {
    let Some(running) = node.running() else { return refused("this node is starting, or belongs to no cluster", true) };
    if request.cluster_id[..] != running.cluster_id() {
        return refused("the invitation is for another cluster", false);
    }
    let Ok(disk) = <[u8; 16]>::try_from(&request.disk_id[..]) else { return refused("the request is garbled", false) };
    let Some(role) = role_named(&request.role) else { return refused("this program does not know the node's role", false) };
    let (name, peer_address) = (request.name.clone(), request.advertise.clone());
    let joining = Joining { invite: hash(&request.secret), name, zone: request.zone, disk, peer_address, imap_address: request.imap };
    let time = unix_seconds();
    let command = if role == NodeRole::Data { Command::AddNode { joining, time } } else { Command::AddNodeAs { joining, role, time } };
    let entered = running.local.propose_cluster(&command, boot_ms() + ENTER_MS).await;
    let id = match entered {
        Ok(Ok(Reply::Node(id))) => id,
        Ok(Err(why)) => return refused(&reason(&why, &request.name), false),
        Ok(Ok(_)) => return refused("an unexpected answer of group 0", false),
        Err(_) => return refused("no quorum answers", true),
    };
    let known = running.document();
    match Document::of(running.local.cluster_tables(), &known) {
        Ok(Some(document)) if document.member(id).is_some() => match serde_json::to_vec(&document) {
            Ok(json) => {
                tracing::info!(node = %id, name = %request.name, address = %request.advertise, "a node was entered");
                v1::JoinReply { document: json.into(), node_id: id.0, ..v1::JoinReply::default() }
            }
            Err(error) => refused(&error.to_string(), false),
        },
        Ok(_) => refused("the node's entry is not applied here yet", true),
        Err(fault) => refused(&fault.to_string(), true),
    }
}

/// The role of this name; programs before there were roles tell none.
pub(crate) fn role_named(name: &str) -> Option<NodeRole> {
    if name.is_empty() { Some(NodeRole::Data) } else { name.parse().ok() }
}

fn reason(why: &Refused, name: &str) -> String {
    match why {
        Refused::NotInvited => "the invitation is unknown, over, or was used".into(),
        Refused::NameTaken => format!("another node is named {name}: give this one its own node.name"),
        Refused::Removed => {
            "this data directory belongs to a node that was removed, or bore another name or role: begin with an empty one".into()
        }
        Refused::SecondWitness => "the cluster has a witness already: `parliament node remove` takes it out first".into(),
        other => format!("{other:?}"),
    }
}

fn fail(why: impl Into<String>) -> Fatal {
    Fatal { what: "--join", why: why.into() }
}

/// At the new node: shows the token to the seeds until one enters this node. A node that belongs to that cluster already goes on
/// as it is, so that the same command line may start it again.
pub(crate) async fn join(node: &Arc<Node>, token: &str) -> Result<(), Fatal> {
    let token = Token::parse(token).map_err(fail)?;
    if let Some(identity) = node.data.identity().map_err(|e| fail(e.to_string()))? {
        if identity.document.cluster != token.cluster {
            return Err(fail(format!("{} belongs to another cluster, {}", node.data.path.display(), identity.document.name)));
        }
        return node.resume().await.map(drop);
    }
    if token.name != node.config.cluster.name {
        return Err(fail(format!("the invitation is for cluster {:?}, cluster.name is {:?}", token.name, node.config.cluster.name)));
    }
    let pool = PeerPool::new(node.runtime.clone(), [0; 16], NodeId(0), node.boot, node.tls.clone());
    loop {
        for seed in &token.seeds {
            match pool.connect(NodeId(0), seed).join(request(node, &token)).await {
                Ok(reply) if reply.refused.is_empty() => {
                    return node.adopt(&reply.document, NodeId(reply.node_id)).await.map_err(fail);
                }
                Ok(reply) if !reply.again => return Err(fail(format!("{seed} refuses: {}", reply.refused))),
                Ok(reply) => tracing::warn!(seed, why = reply.refused, "not entered yet"),
                Err(error) => tracing::warn!(seed, %error, "the seed does not answer"),
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn request(node: &Node, token: &Token) -> v1::JoinRequest {
    let hello = node.hello();
    v1::JoinRequest {
        cluster_id: bytes_of(&token.cluster).unwrap_or_default().into(),
        secret: token.secret_bytes().into(),
        name: hello.name,
        zone: hello.zone,
        disk_id: hello.disk_id,
        advertise: hello.advertise,
        imap: hello.imap,
        role: hello.role,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_was_put_into_it_and_nothing_else_passes_for_one() {
        let secret = hex(&[7; 32]);
        let token = Token { cluster: hex(&[1; 16]), name: "acme".into(), seeds: vec!["h:7400".into()], secret };
        let text = token.text().unwrap();
        assert_eq!(Token::parse(&format!(" {text}\n")), Ok(token.clone()));
        assert_eq!(token.hash(), hash(&[7; 32]));
        assert!(!text.contains("acme"));
        for bad in ["", "x", PREFIX, &text[..text.len() - 2], &text[..text.len() - 1], &format!("{text}zz")] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
        let short = Token { secret: hex(&[7; 31]), ..token };
        assert!(Token::parse(&short.text().unwrap()).is_err());
    }
}
