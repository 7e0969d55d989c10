//! `/livez`, `/readyz`, `/metrics`, and the status page; `/nginx-auth` is a file of its own.

use crate::metrics::render;
use crate::node::Node;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;

/// The routes at one address.
pub(crate) fn router(node: Arc<Node>, page: &crate::page::Routes, address: SocketAddr) -> Router {
    let probes = Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/metrics", get(metrics));
    probes.with_state(node.clone()).merge(page.at(address)).merge(crate::nginx_auth::router(node))
}

/// The process answers: says nothing of quorums, so that no supervisor restarts a node for its peers' faults.
async fn livez() -> &'static str {
    "alive\n"
}

async fn readyz(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let why = match node.running() {
        Some(running) => running.unready(),
        None => Some("this node belongs to no cluster yet".into()),
    };
    match why {
        None => (StatusCode::OK, "ready\n".into()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&node))
}
