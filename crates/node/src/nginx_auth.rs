//! `/nginx-auth`: the `auth_http` protocol of nginx's mail proxy. nginx asks with a client's login in header fields, and is told
//! where to connect: to the node that holds the user, where a session costs no hop. There it logs in again with the same password.

use crate::ask::{MailPorts, Question, Reply, ask, home_here, mail_ports};
use crate::node::Node;
use crate::running::Running;
use axum::Router;
use axum::extract::State;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use parliament_ids::{AccountId, NodeId};
use parliament_mail_api::LoginError;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Logins that are verified at once; further ones are told to try later.
const ASKING_MAX: usize = 1_000;
/// Longest user name or password as sent, bytes: each byte may come as three.
const FIELD_BYTES_MAX: usize = 3 * 1_024;
/// A verification takes at most this long, or is told to be tried later.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(20);
/// Another node is asked for this long at most before the next best is named.
const ASK_TIMEOUT: Duration = Duration::from_millis(700);
/// What is known of another node's ports is believed for this time.
const PORTS_BELIEVED: Duration = Duration::from_secs(5);
/// After that many logins of one connection to nginx, nginx is not told to wait for another.
const ATTEMPTS_MAX: u32 = 10;
/// nginx tells of a temporary failure after this time, s; without it nginx would hang up.
const TEMPORARY_WAIT_S: u64 = 1;

/// Both ends of a connection to the HTTP port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    peer: SocketAddr,
    /// Where the peer has reached this node.
    here: Option<SocketAddr>,
}

impl Connected<IncomingStream<'_, TcpListener>> for Ends {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self { peer: *stream.remote_addr(), here: stream.io().local_addr().ok() }
    }
}

struct NginxAuth {
    node: Arc<Node>,
    asking: Semaphore,
    /// Where other nodes listen, as they told lately.
    ports: Mutex<BTreeMap<NodeId, (Instant, MailPorts)>>,
    told_of_trust: AtomicBool,
}

/// The route.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let state = NginxAuth { node, asking: Semaphore::new(ASKING_MAX), ports: Mutex::default(), told_of_trust: AtomicBool::new(false) };
    Router::new().route("/nginx-auth", get(nginx_auth)).with_state(Arc::new(state))
}

async fn nginx_auth(State(state): State<Arc<NginxAuth>>, ConnectInfo(ends): ConnectInfo<Ends>, headers: HeaderMap) -> Response {
    match Asked::read(&headers) {
        Ok(asked) => tell(asked.protocol, asked.attempt, state.decide(&asked, ends).await),
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

/// What a client speaks to nginx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Imap,
    Pop3,
    Smtp,
}

/// What nginx asks.
#[derive(PartialEq, Eq)]
struct Asked {
    protocol: Protocol,
    /// `None` when name or password is not UTF-8: no account has such a name or password.
    login: Option<(String, String)>,
    is_plain: bool,
    client: Option<IpAddr>,
    attempt: u32,
}

/// What nginx is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Connect there, as this user.
    Connect { to: SocketAddr, user: String },
    /// Unknown user or wrong password.
    Refuse { wait: Duration },
    /// It cannot be said now.
    TryLater,
    /// The client chose a mechanism that needs the password in the clear on this side.
    Unsupported,
}

impl Asked {
    /// Reads the fields of a request; the error is for whoever sends what nginx never does.
    fn read(headers: &HeaderMap) -> Result<Self, &'static str> {
        let protocol = match one(headers, "auth-protocol")?.ok_or("Auth-Protocol is missing")? {
            b"imap" => Protocol::Imap,
            b"pop3" => Protocol::Pop3,
            b"smtp" => Protocol::Smtp,
            _ => return Err("Auth-Protocol is none of imap, pop3 and smtp"),
        };
        let text = |name: &str| Ok::<_, &'static str>(one(headers, name)?.and_then(|value| std::str::from_utf8(value).ok()));
        let name = decoded(one(headers, "auth-user")?.unwrap_or_default())?;
        let password = decoded(one(headers, "auth-pass")?.unwrap_or_default())?;
        Ok(Self {
            protocol,
            login: String::from_utf8(name).ok().zip(String::from_utf8(password).ok()),
            is_plain: one(headers, "auth-method")?.is_none_or(|method| method.eq_ignore_ascii_case(b"plain")),
            client: text("client-ip")?.and_then(|ip| ip.parse().ok()),
            attempt: text("auth-login-attempt")?.and_then(|n| n.parse().ok()).unwrap_or(1),
        })
    }
}

/// The value of a field that comes once or not at all.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.len() <= FIELD_BYTES_MAX => Ok(Some(value.as_bytes())),
        (Some(_), None) => Err("a field is too long"),
        (Some(_), Some(_)) => Err("a field comes twice"),
    }
}

/// Undoes the URL encoding that nginx gives to names and passwords; `+` stands for itself there.
fn decoded(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    const MALFORMED: &str = "a field is not URL-encoded";
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let (mut bytes, mut plain) = (value.iter().copied(), Vec::with_capacity(value.len()));
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (digit(bytes.next()).ok_or(MALFORMED)?, digit(bytes.next()).ok_or(MALFORMED)?);
            plain.push(high * 16 + low);
        } else {
            plain.push(byte);
        }
    }
    Ok(plain)
}

/// The answer in nginx's terms. What stands in Auth-Status goes to the client, behind `NO` or `-ERR`.
fn tell(protocol: Protocol, attempt: u32, verdict: Verdict) -> Response {
    let mut told = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| {
        // Names of accounts hold no control characters; one that did would better be left out.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            told.insert(HeaderName::from_static(name), value);
        }
    };
    let wait = |wait: Duration| wait.as_millis().div_ceil(1000).max(1).to_string();
    match verdict {
        Verdict::Connect { to, user } => {
            put("auth-status", "OK");
            put("auth-server", &to.ip().to_string());
            put("auth-port", &to.port().to_string());
            put("auth-user", &user);
        }
        Verdict::Refuse { wait: time } => {
            put("auth-status", "Invalid login or password");
            // Without a time to wait nginx hangs up.
            if attempt < ATTEMPTS_MAX {
                put("auth-wait", &wait(time));
            }
        }
        Verdict::TryLater => {
            let text = "Temporary server problem, try again later";
            match protocol {
                Protocol::Imap => put("auth-status", &format!("[UNAVAILABLE] {text}")),
                Protocol::Pop3 => put("auth-status", &format!("[SYS/TEMP] {text}")),
                Protocol::Smtp => {
                    put("auth-status", text);
                    put("auth-error-code", "454 4.7.0");
                }
            }
            put("auth-wait", &TEMPORARY_WAIT_S.to_string());
        }
        Verdict::Unsupported => {
            put("auth-status", "Mechanism not supported, use PLAIN or LOGIN");
            put("auth-wait", "1");
            if protocol == Protocol::Smtp {
                put("auth-error-code", "504 5.5.4");
            }
        }
    }
    (told, ()).into_response()
}

impl NginxAuth {
    async fn decide(&self, asked: &Asked, ends: Ends) -> Verdict {
        if !asked.is_plain {
            return Verdict::Unsupported;
        }
        let Some((name, password)) = &asked.login else { return Verdict::Refuse { wait: Duration::ZERO } };
        let Some(running) = self.node.running() else { return Verdict::TryLater };
        let Some(frontend) = running.frontend.get() else { return Verdict::TryLater };
        let Ok(_slot) = self.asking.try_acquire() else { return Verdict::TryLater };
        let client = match asked.client {
            Some(client) if frontend.trusts(ends.peer.ip()) => client,
            Some(_) => {
                self.tell_of_trust(ends.peer);
                ends.peer.ip()
            }
            None => ends.peer.ip(),
        };
        let client = client.to_canonical();
        match timeout(VERIFY_TIMEOUT, frontend.verify_login(name, password, client)).await {
            Ok(Ok(identity)) => match self.place(&running, identity.account, asked.protocol, ends).await {
                Some(to) => {
                    tracing::info!(user = %identity.name, rip = %client, protocol = ?asked.protocol, %to, "verified for nginx");
                    Verdict::Connect { to, user: identity.name }
                }
                None => Verdict::TryLater,
            },
            Ok(Err(refusal)) => {
                tracing::info!(rip = %client, protocol = ?asked.protocol, error = ?refusal.error, "not verified for nginx");
                match refusal.error {
                    LoginError::Refused | LoginError::Throttled => Verdict::Refuse { wait: refusal.wait },
                    LoginError::Unavailable => Verdict::TryLater,
                }
            }
            Err(_) => Verdict::TryLater,
        }
    }

    /// Says once why all clients of a proxy are throttled as one.
    fn tell_of_trust(&self, peer: SocketAddr) {
        if !self.told_of_trust.swap(true, Ordering::Relaxed) {
            let help = "name its network in frontend.trusted";
            tracing::warn!(%peer, code = "PC341", help, "/nginx-auth is told of clients by a proxy that is not trusted");
        }
    }

    /// Where nginx should connect: to the user's holder, else to the leader of its group, else here, else to any node that serves.
    async fn place(&self, running: &Arc<Running>, account: AccountId, protocol: Protocol, ends: Ends) -> Option<SocketAddr> {
        if protocol == Protocol::Smtp {
            return self.node.config.frontend.smtp;
        }
        let me = running.local.me;
        let home = home_of(running, account).await;
        let document = running.document();
        let others = document.members.iter().map(|member| NodeId(member.id));
        let live = others.filter(|node| Some(*node) != home && *node != me && running.local.support.is_live(*node));
        for node in home.into_iter().filter(|home| *home != me).chain([me]).chain(live) {
            let Some(ports) = self.ports_of(running, node).await.filter(|ports| !ports.draining) else { continue };
            let listener = if protocol == Protocol::Imap { ports.imap } else { ports.pop3 };
            let Some(listener) = listener else { continue };
            let reached =
                if node == me { ends.here.map(|here| here.ip()).into_iter().collect() } else { self.ips_of(running, node, listener).await };
            if let Some(to) = reachable(listener, &reached) {
                return Some(to);
            }
        }
        let help = "give the nodes listeners without TLS (imap.listen, pop3.listen), which nginx needs";
        tracing::warn!(code = "PC342", help, ?protocol, "/nginx-auth finds no node that nginx could connect to");
        None
    }

    async fn ports_of(&self, running: &Arc<Running>, node: NodeId) -> Option<MailPorts> {
        if node == running.local.me {
            return Some(mail_ports(running));
        }
        let known = self.ports.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned();
        if let Some((_, ports)) = known.filter(|(at, _)| at.elapsed() < PORTS_BELIEVED) {
            return Some(ports);
        }
        match timeout(ASK_TIMEOUT, ask(running, node, &Question::MailPorts)).await {
            Ok(Ok(Reply::MailPorts(ports))) => {
                self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (Instant::now(), ports.clone()));
                Some(ports)
            }
            _ => None,
        }
    }

    /// Addresses of another node, needed where it listens on all it has.
    async fn ips_of(&self, running: &Running, node: NodeId, listener: SocketAddr) -> Vec<IpAddr> {
        if !listener.ip().is_unspecified() {
            return Vec::new();
        }
        let document = running.document();
        let Some(member) = document.member(node) else { return Vec::new() };
        let looked = timeout(ASK_TIMEOUT, tokio::net::lookup_host(member.address.clone())).await;
        looked.ok().and_then(Result::ok).map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
    }
}

/// The node that holds the user, or else leads its group.
async fn home_of(running: &Arc<Running>, account: AccountId) -> Option<NodeId> {
    let row = running.local.account(account).ok().flatten()?;
    if running.local.shard(row.group).is_some() {
        return home_here(running, account);
    }
    let copies = running.document().voters(row.group);
    let mut live = copies.into_iter().filter(|node| running.local.support.is_live(*node));
    let question = Question::Home { account: account.0 };
    match timeout(ASK_TIMEOUT, ask(running, live.next()?, &question)).await {
        Ok(Ok(Reply::Home(home))) => home.map(NodeId),
        _ => None,
    }
}

/// A listener's address as nginx can use it: one that listens on all addresses is reached at the first of `ips` that it covers.
fn reachable(listener: SocketAddr, ips: &[IpAddr]) -> Option<SocketAddr> {
    if !listener.ip().is_unspecified() {
        return Some(listener);
    }
    let mut covered = ips.iter().map(IpAddr::to_canonical).filter(|ip| listener.is_ipv6() || ip.is_ipv4());
    covered.next().map(|ip| SocketAddr::new(ip, listener.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn told(response: &Response, name: &str) -> Option<String> {
        response.headers().get(name).map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn what_nginx_sends_is_read() {
        let asked = Asked::read(&headers(&[
            ("auth-method", b"plain"),
            ("auth-user", b"ann%40demo.test"),
            ("auth-pass", b"a+b%20%25%c3%A4"),
            ("auth-protocol", b"imap"),
            ("auth-login-attempt", b"3"),
            ("client-ip", b"203.0.113.9"),
            ("client-host", b"[UNAVAILABLE]"),
        ]));
        let asked = asked.ok().unwrap();
        assert_eq!(asked.login, Some(("ann@demo.test".into(), "a+b %ä".into())));
        assert!(asked.is_plain && asked.protocol == Protocol::Imap && asked.attempt == 3);
        assert_eq!(asked.client, "203.0.113.9".parse().ok());
        let bare = Asked::read(&headers(&[("auth-protocol", b"pop3"), ("client-ip", b"unix:"), ("auth-method", b"cram-md5")]));
        let bare = bare.ok().unwrap();
        assert!(!bare.is_plain && bare.client.is_none() && bare.login == Some((String::new(), String::new())));
        let latin = Asked::read(&headers(&[("auth-protocol", b"smtp"), ("auth-pass", b"%E4")])).ok().unwrap();
        assert_eq!(latin.login, None);
    }

    #[test]
    fn what_nginx_never_sends_is_refused() {
        let long = vec![b'x'; FIELD_BYTES_MAX + 1];
        let cases: [&[(&str, &[u8])]; 8] = [
            &[],
            &[("auth-protocol", b"IMAP4")],
            &[("auth-protocol", b"imap"), ("auth-protocol", b"imap")],
            &[("auth-protocol", b"imap"), ("auth-user", b"ann"), ("auth-user", b"bob")],
            &[("auth-protocol", b"imap"), ("auth-pass", b"%")],
            &[("auth-protocol", b"imap"), ("auth-pass", b"100%2")],
            &[("auth-protocol", b"imap"), ("auth-pass", b"%+1")],
            &[("auth-protocol", b"imap"), ("auth-user", &long)],
        ];
        for case in cases {
            let mut fields = HeaderMap::new();
            for (name, value) in case {
                fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
            }
            assert!(Asked::read(&fields).is_err(), "{:?}", case.first());
        }
    }

    #[test]
    fn answers_are_in_nginx_terms() {
        let to = "192.0.2.1:143".parse().unwrap();
        let ok = tell(Protocol::Imap, 1, Verdict::Connect { to, user: "jürgen@x".into() });
        assert_eq!(ok.status(), StatusCode::OK);
        assert_eq!(told(&ok, "auth-status").as_deref(), Some("OK"));
        assert_eq!(told(&ok, "auth-server").as_deref(), Some("192.0.2.1"));
        assert_eq!(told(&ok, "auth-port").as_deref(), Some("143"));
        assert_eq!(told(&ok, "auth-user").as_deref(), Some("jürgen@x"));
        let refused = Verdict::Refuse { wait: Duration::from_millis(1600) };
        let first = tell(Protocol::Imap, 1, refused.clone());
        assert_eq!(told(&first, "auth-status").as_deref(), Some("Invalid login or password"));
        assert_eq!(told(&first, "auth-wait").as_deref(), Some("2"));
        assert_eq!(told(&tell(Protocol::Imap, ATTEMPTS_MAX, refused), "auth-wait"), None);
        let later = |protocol| tell(protocol, 1, Verdict::TryLater);
        assert!(told(&later(Protocol::Imap), "auth-status").unwrap().starts_with("[UNAVAILABLE] "));
        assert!(told(&later(Protocol::Pop3), "auth-status").unwrap().starts_with("[SYS/TEMP] "));
        assert_eq!(told(&later(Protocol::Smtp), "auth-error-code").as_deref(), Some("454 4.7.0"));
        assert_eq!(told(&later(Protocol::Imap), "auth-server"), None);
    }

    #[test]
    fn listeners_on_all_addresses_are_reached_at_one() {
        let ips: Vec<IpAddr> = ["2001:db8::1", "::ffff:192.0.2.1"].map(|ip| ip.parse().unwrap()).into();
        let reached = |listener: &str, ips: &[IpAddr]| reachable(listener.parse().unwrap(), ips).map(|to| to.to_string());
        assert_eq!(reached("127.0.0.1:21143", &ips).as_deref(), Some("127.0.0.1:21143"));
        assert_eq!(reached("0.0.0.0:143", &ips).as_deref(), Some("192.0.2.1:143"));
        assert_eq!(reached("[::]:143", &ips).as_deref(), Some("[2001:db8::1]:143"));
        assert_eq!(reached("[::]:143", &[]), None);
    }
}
