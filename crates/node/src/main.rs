//! `parliament`: one binary, the daemon and its command line.

mod admin;
mod alone;
mod ask;
mod census;
mod control;
mod events;
mod exam;
mod follow;
mod http;
mod identity;
mod join;
mod links;
mod mask;
mod membership;
mod mend;
mod metrics;
mod moves;
mod nginx_auth;
mod node;
mod opener;
mod page;
mod peers;
mod pulse;
mod replica;
mod rest;
mod running;
mod scrub;
mod server;
mod tasks;
mod tls;
mod voters;
mod who;

use async_trait::async_trait;
use parliament_ctl::{AdminClient, AdminError, Target, Wiring, code, exit};
use parliament_rpc as rpc;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

struct Client {
    inner: rpc::AdminClient,
    what: String,
    timeout: Duration,
}

#[async_trait]
impl AdminClient for Client {
    async fn call(&self, verb: &str, request: serde_json::Value) -> Result<serde_json::Value, AdminError> {
        let unreachable = |why: String| AdminError::new(code::UNREACHABLE, exit::UNAVAILABLE, format!("{}: {why}", self.what));
        let reply = self.inner.call(verb, request.to_string().into(), self.timeout).await.map_err(|e| match e {
            rpc::LinkError::TimedOut => AdminError::new(code::TIMEOUT, exit::TRY_AGAIN, format!("{}: no answer in time", self.what)),
            other => unreachable(other.to_string()),
        })?;
        let garbled = |e: serde_json::Error| AdminError::new(code::REPLY, exit::BUG, format!("{}: {e}", self.what));
        match reply {
            Ok(json) => serde_json::from_slice(&json).map_err(garbled),
            Err(json) => Err(serde_json::from_slice(&json).unwrap_or_else(garbled)),
        }
    }
}

fn connect(target: &Target, timeout: Duration) -> Result<Box<dyn AdminClient>, AdminError> {
    let client = match target {
        Target::Socket(path) => Client { inner: rpc::AdminClient::unix(path.clone()), what: path.display().to_string(), timeout },
        Target::Peer { address, tls } => {
            let tls = match tls {
                Some(tls) => {
                    let loaded = tls::load(&tls.files, &tls.cluster);
                    Some(loaded.map_err(|e| AdminError::new(code::FILE, exit::CONFIG, e.to_string()))?)
                }
                None => None,
            };
            Client { inner: rpc::AdminClient::tcp(address.clone(), tls), what: address.clone(), timeout }
        }
    };
    Ok(Box::new(client))
}

fn main() -> ExitCode {
    let wiring = Wiring { connect: Arc::new(connect), serve: Box::new(server::run) };
    ExitCode::from(parliament_ctl::run(std::env::args_os(), wiring))
}
