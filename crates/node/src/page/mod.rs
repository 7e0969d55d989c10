//! The status page: `/` shows the whole cluster as this node sees it, `/live` sends its live part again every second while somebody
//! listens. However many look, the cluster is asked once a second; nothing here needs a quorum.
//!
//! The page asks for no password, so names of users and addresses of clients are shown only to who comes over loopback, and names
//! this host as what it is: a web site that a browser was led to under another name must not read them.

mod board;
mod meaning;
mod render;
mod view;

#[cfg(test)]
mod fixture;

use crate::node::Node;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use board::Board;
use render::Users;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};

/// How often a listener is sent the live part.
const LIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Listeners of one node at once; further ones are told to come back.
const LISTENERS_MAX: usize = 64;
/// Longest name of a user that is looked up, bytes.
const USER_BYTES_MAX: usize = 320;

/// The document's own style and script by their hashes, its own server, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        hash(render::STYLE),
        hash(render::SCRIPT)
    )
});

/// What all listeners of a node share.
struct Shared {
    node: Arc<Node>,
    board: Board,
    listeners: Arc<Semaphore>,
}

/// The page at one address.
#[derive(Clone)]
struct Pages {
    shared: Arc<Shared>,
    loopback: bool,
}

/// The page's routes at any of the node's addresses.
#[derive(Clone)]
pub(crate) struct Routes(Arc<Shared>);

impl Routes {
    /// For all addresses of a node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self(Arc::new(Shared { node, board: Board::default(), listeners: Arc::new(Semaphore::new(LISTENERS_MAX)) }))
    }

    /// For one of them.
    pub(crate) fn at(&self, address: SocketAddr) -> Router {
        let pages = Pages { shared: self.0.clone(), loopback: address.ip().is_loopback() };
        Router::new().route("/", get(page)).route("/live", get(live)).with_state(pages)
    }
}

/// True when a request over loopback is meant for this host.
fn is_meant_here(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    name.is_some_and(|name| name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()))
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    user: Option<String>,
}

impl Asked {
    /// The user's name, if one is asked for that may exist.
    fn user(&self) -> Option<String> {
        let user = self.user.as_deref().map(str::trim).unwrap_or_default();
        (!user.is_empty() && user.len() <= USER_BYTES_MAX).then(|| user.to_owned())
    }
}

/// What every answer of the page carries: no stale copies, no other site's frame, no referrer.
fn guarded(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in
        [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::REFERRER_POLICY, "no-referrer")]
    {
        headers.insert::<HeaderName>(name, HeaderValue::from_static(value));
    }
    response
}

async fn page(State(pages): State<Pages>, headers: HeaderMap, Query(asked): Query<Asked>) -> Response {
    let Shared { node, board, .. } = &*pages.shared;
    let view = board.view(node).await;
    if !pages.loopback || !is_meant_here(&headers) {
        return guarded(Html(render::page(&view, Users::Hidden)));
    }
    let look_up = board.look_up(node, asked.user()).await;
    guarded(Html(render::page(&view, Users::Shown(look_up.as_deref()))))
}

struct Listener {
    shared: Arc<Shared>,
    shows_users: bool,
    user: Option<String>,
    interval: Interval,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// The live part, at the next tick.
    async fn next(&mut self) -> Event {
        self.interval.tick().await;
        let Shared { node, board, .. } = &*self.shared;
        let view = board.view(node).await;
        let look_up = if self.shows_users { board.look_up(node, self.user.clone()).await } else { None };
        let users = if self.shows_users { Users::Shown(look_up.as_deref()) } else { Users::Hidden };
        // Line ends would end the message; none is part of any value.
        let html = render::live(&view, users).into_string().replace(['\r', '\n'], " ");
        Event::default().retry(LIVE_INTERVAL).data(html)
    }
}

async fn live(State(pages): State<Pages>, headers: HeaderMap, Query(asked): Query<Asked>) -> Response {
    let Ok(permit) = pages.shared.listeners.clone().try_acquire_owned() else {
        return guarded((StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], "too many listeners\n"));
    };
    let mut interval = tokio::time::interval(LIVE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shows_users = pages.loopback && is_meant_here(&headers);
    let listener = Listener { shared: pages.shared, shows_users, user: asked.user(), interval, _permit: permit };
    // A listener that does not read is not waited for by others; one that has gone drops this, and its permit with it.
    let events = futures::stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await;
        Some((Ok::<_, Infallible>(event), listener))
    });
    guarded(Sse::new(events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_what_stands_in_the_page_and_nothing_else() {
        assert!(POLICY.starts_with("default-src 'none'; style-src 'sha256-"), "{}", *POLICY);
        assert!(!POLICY.contains("unsafe") && !POLICY.contains('*') && HeaderValue::from_str(&POLICY).is_ok());
    }

    #[test]
    fn names_are_shown_to_who_names_this_host() {
        let meant = |host: &'static str| is_meant_here(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]));
        assert!(["127.0.0.1:17480", "localhost", "LOCALHOST:8080", "[::1]:17480", "127.9.9.9"].into_iter().all(meant));
        assert!(
            !["evil.example", "127.0.0.1.evil.example:17480", "localhost.evil.example", "", "10.0.0.1", "[::2]:1"].into_iter().any(meant)
        );
        assert!(!is_meant_here(&HeaderMap::new()));
    }

    #[test]
    fn only_names_that_may_exist_are_looked_up() {
        let user = |text: &str| Asked { user: Some(text.to_owned()) }.user();
        assert_eq!(user(" ann@demo.test "), Some("ann@demo.test".to_owned()));
        assert_eq!((user("  "), user(&"a".repeat(USER_BYTES_MAX + 1)), Asked::default().user()), (None, None, None));
    }
}
