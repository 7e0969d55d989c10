//! Operators' commands at the node that was asked.

pub(crate) mod cluster;
mod form;
mod integrity;
mod moves;
mod nodes;
pub(crate) mod users;

use crate::node::Node;
use crate::running::Running;
use async_trait::async_trait;
use bytes::Bytes;
use parliament_ctl::{AdminError, api, exit};
use parliament_mail_api::Unserved;
use parliament_mailbox_state::TableFault;
use parliament_rpc::AdminHandler;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The handler of the operators' service.
pub(crate) struct Operators(pub(crate) Arc<Node>);

/// How long a change waits for its quorum, ms.
const CHANGE_DEADLINE_MS: u64 = 10_000;

pub(crate) type Outcome = Result<serde_json::Value, AdminError>;

fn unserved(unserved: &Unserved) -> AdminError {
    match unserved {
        Unserved::OutcomeUnknown => {
            AdminError::new("PC202", exit::TRY_AGAIN, "no quorum confirmed the change in time; it may yet take effect")
                .with_hint("look with `parliament status`, then try again: a change made twice is made once")
        }
        _ => {
            AdminError::new("PC201", exit::UNAVAILABLE, "no quorum answers").with_hint("`parliament status` tells which nodes are missing")
        }
    }
}

fn damaged(fault: &TableFault) -> AdminError {
    AdminError::new("PC299", exit::DATA, fault.to_string()).with_hint("the node's log tells more; replace this replica")
}

fn bug(what: impl std::fmt::Display) -> AdminError {
    AdminError::new("PC298", exit::BUG, what.to_string())
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, AdminError> {
    serde_json::from_slice(if json.is_empty() { b"{}" } else { json })
        .map_err(|e| AdminError::new("PC203", exit::USAGE, format!("the request is not understood: {e}")))
}

pub(crate) fn document(value: &impl Serialize) -> Outcome {
    serde_json::to_value(value).map_err(bug)
}

fn no_such_user(name: &str) -> AdminError {
    AdminError::new("PC301", exit::NO_USER, format!("there is no user {name}")).with_hint("`parliament user list` shows all")
}

fn not_formed() -> AdminError {
    AdminError::new(api::NOT_FORMED, exit::UNAVAILABLE, "this node belongs to no cluster yet")
        .with_hint("form it with `parliament cluster init`")
}

#[async_trait]
impl AdminHandler for Operators {
    async fn call(&self, verb: String, json: Bytes) -> Result<Bytes, Bytes> {
        let node = self.0.clone();
        let work = self.0.runtime.spawn(async move { carry_out(&node, &verb, &json).await });
        let outcome = match work.await {
            Ok(outcome) => outcome,
            Err(error) => Err(bug(error)),
        };
        match outcome {
            Ok(value) => Ok(Bytes::from(value.to_string())),
            Err(error) => Err(serde_json::to_vec(&error).map(Bytes::from).unwrap_or_default()),
        }
    }
}

async fn carry_out(node: &Arc<Node>, verb: &str, json: &[u8]) -> Outcome {
    match verb {
        api::CLUSTER_INIT => return form::init(node, &parse(json)?).await,
        api::STATUS => return cluster::status(node).await,
        api::DOCTOR => return crate::exam::doctor(node, &parse(json)?).await,
        api::METRICS => return document(&api::Metrics { text: crate::metrics::render(node) }),
        _ => {}
    }
    let running = node.running().ok_or_else(not_formed)?;
    let domain = node.config.auth.default_domain.clone().unwrap_or_default();
    let asked = Asked { running, domain };
    match verb {
        api::CLUSTER_SHOW => cluster::show(&asked),
        api::NODE_LIST => cluster::nodes(&asked).await,
        api::NODE_INVITE => nodes::invite(&asked, &parse(json)?).await,
        api::NODE_DRAIN => nodes::drain(&asked, &parse(json)?).await,
        api::NODE_UNDRAIN => nodes::undrain(&asked, &parse(json)?).await,
        api::NODE_REMOVE => nodes::remove(&asked, &parse(json)?).await,
        api::NODE_REPLACE => nodes::replace(&asked, &parse(json)?).await,
        api::GROUP_LIST => cluster::groups(&asked).await,
        api::GROUP_TRANSFER => cluster::transfer(&asked, &parse(json)?).await,
        api::REPLICATION_STATUS => cluster::replication(&asked).await,
        api::SESSION_LIST => cluster::sessions(&asked, &parse(json)?).await,
        api::SESSION_KICK => cluster::kick(&asked, &parse(json)?).await,
        api::USER_IMPORT => users::import(&asked, &parse(json)?).await,
        api::USER_LIST => users::list(&asked, &parse(json)?).await,
        api::USER_SHOW => users::show(&asked, &parse(json)?).await,
        api::USER_PASSWD => users::passwd(&asked, &parse(json)?).await,
        api::USER_DELETE => users::delete(&asked, &parse(json)?).await,
        api::USER_VERIFY => integrity::verify(&asked, &parse(json)?).await,
        api::USER_REPAIR => integrity::repair(&asked, &parse(json)?).await,
        api::BODY_SCRUB_START => integrity::scrub_start(&asked, &parse(json)?).await,
        api::BODY_SCRUB_STATUS => integrity::scrub_status(&asked).await,
        api::USER_MOVE => moves::begin(&asked, &parse(json)?).await,
        api::USER_MOVING => moves::state(&asked, &parse(json)?).await,
        api::LEASE_SHOW => users::lease(&asked, &parse(json)?).await,
        api::LEASE_LIST => users::leases(&asked, &parse(json)?).await,
        api::LEASE_MOVE => users::move_lease(&asked, &parse(json)?).await,
        _ => Err(AdminError::new("PC200", exit::USAGE, format!("this node does not know the verb {verb:?}"))),
    }
}

/// A node in a cluster that was asked something.
struct Asked {
    running: Arc<Running>,
    domain: String,
}
