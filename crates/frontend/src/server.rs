//! Listeners, and the life of a frontend.

use crate::connection::{Connection, Ends, Held, admit};
use crate::options::FrontendOptions;
use crate::proxy::{Client, read_header};
use crate::registry::{Protocol, Registry};
use crate::shared::{Phase, Refusal, Shared, phase_reached};
use crate::stats::{FrontendStats, count};
use crate::tls::TlsError;
use crate::{lmtp, numbers::SessionNumbers};
use parliament_mail_api::{Directory, Identity, MailService};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const BACKLOG: u32 = 1024;
/// After the goodbye, sessions have this long to end by themselves.
const GOODBYE: Duration = Duration::from_secs(5);
/// A silent peer is probed after this time, so that a dead one is noticed within about 5 minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// Why a frontend cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spool directory cannot be made or cleaned.
    #[error("spool directory: {0}")]
    Spool(io::Error),
    /// An address cannot be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A listener with TLS from the first byte has no certificate.
    #[error("{0} needs a certificate")]
    NoCertificate(SocketAddr),
}

/// A bound listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What is spoken there.
    pub protocol: Protocol,
    /// TLS from the first byte.
    pub implicit_tls: bool,
    /// The address, with the port the system chose where 0 was asked.
    pub address: SocketAddr,
}

/// The running listeners and their connections. Dropping it ends them at once; [`Frontend::drain`] ends them politely.
pub struct Frontend {
    shared: Arc<Shared>,
    bound: Vec<Bound>,
    acceptors: Mutex<JoinSet<()>>,
}

impl Frontend {
    /// Binds every listener and begins to serve.
    ///
    /// # Errors
    /// [`StartError`]: nothing is served then.
    pub async fn start(options: FrontendOptions, service: Arc<dyn MailService>, directory: Arc<dyn Directory>) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new(options, service, directory).map_err(StartError::Spool)?);
        let mut listeners = Vec::new();
        for (protocol, implicit_tls, address) in wanted(&shared.options) {
            if implicit_tls && shared.options.certificates.is_none() {
                return Err(StartError::NoCertificate(address));
            }
            let fault = |source| StartError::Listen { address, source };
            let listener = listen(address).map_err(fault)?;
            let address = listener.local_addr().map_err(fault)?;
            listeners.push((listener, Bound { protocol, implicit_tls, address }));
        }
        let bound = listeners.iter().map(|(_, bound)| *bound).collect();
        let mut acceptors = JoinSet::new();
        for (listener, bound) in listeners {
            acceptors.spawn(accept(Arc::clone(&shared), listener, bound));
        }
        Ok(Self { shared, bound, acceptors: Mutex::new(acceptors) })
    }

    /// What is listened on.
    #[must_use]
    pub fn bound(&self) -> &[Bound] {
        &self.bound
    }

    /// The first address of a protocol, for those who asked for port 0.
    #[must_use]
    pub fn address(&self, protocol: Protocol, implicit_tls: bool) -> Option<SocketAddr> {
        self.bound.iter().find(|b| b.protocol == protocol && b.implicit_tls == implicit_tls).map(|b| b.address)
    }

    /// The sessions, for `who` and `kick`.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Session numbers. Their watermark is what the cluster may forget below.
    #[must_use]
    pub fn numbers(&self) -> &SessionNumbers {
        &self.shared.numbers
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<FrontendStats> {
        &self.shared.stats
    }

    /// Reads certificate and key again. Without certificates nothing happens.
    ///
    /// # Errors
    /// [`TlsError`]: the old certificate stays in use.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        self.shared.options.certificates.as_ref().map_or(Ok(()), |certificates| certificates.reload())
    }

    /// Checks a login for a proxy, with the same throttling as a client's own; `address` is the client's. The proxy logs in
    /// again when it has connected, so none of the user's connections is taken.
    ///
    /// # Errors
    /// [`Refusal`]: the client should wait for the time told.
    pub async fn verify_login(&self, name: &str, password: &str, address: IpAddr) -> Result<Identity, Refusal> {
        let identity = self.shared.verify(name, password, address).await?;
        count(&self.shared.stats.logins_verified_for_proxies, 1);
        Ok(identity)
    }

    /// True when a proxy at this address is believed what it tells of its clients.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.shared.options.trusts(address)
    }

    /// Begins a stop: no new connections, LMTP sessions end between messages, POP3 sessions before their login; IMAP goes on.
    pub fn begin_drain(&self) {
        self.shared.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Running;
            *phase = (*phase).max(Phase::Draining);
            first
        });
    }

    /// Stops: as [`Self::begin_drain`]; once no LMTP session is left, and after `grace` in any case, every session is told
    /// goodbye; what does not end within 5 seconds is cut off. Returns when no connection is left.
    pub async fn drain(&self, grace: Duration) {
        self.begin_drain();
        let until = Instant::now() + grace;
        while self.shared.stats.lmtp_connections_now.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
        }
        self.shared.phase.send_replace(Phase::Closing);
        let mut acceptors = self.acceptors.lock().await;
        if timeout(GOODBYE, async { while acceptors.join_next().await.is_some() {} }).await.is_err() {
            acceptors.shutdown().await;
        }
    }
}

fn wanted(options: &FrontendOptions) -> impl Iterator<Item = (Protocol, bool, SocketAddr)> + '_ {
    let lists = [
        (Protocol::Imap, false, &options.imap),
        (Protocol::Imap, true, &options.imaps),
        (Protocol::Pop3, false, &options.pop3),
        (Protocol::Pop3, true, &options.pop3s),
        (Protocol::Lmtp, false, &options.lmtp),
    ];
    lists.into_iter().flat_map(|(protocol, tls, addresses)| addresses.iter().map(move |address| (protocol, tls, *address)))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until a stop begins, then waits for the connections it made; aborting it aborts them.
async fn accept(shared: Arc<Shared>, listener: TcpListener, bound: Bound) {
    let mut connections = JoinSet::new();
    let mut phases = shared.phase.subscribe();
    loop {
        tokio::select! {
            () = phase_reached(&mut phases, Phase::Draining) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => take_in(&shared, stream, remote, bound, &mut connections),
                // Mostly the lack of file descriptors, which passes: accepting at full speed would only burn the processor.
                Err(error) => {
                    tracing::warn!(%error, address = %bound.address, "accept");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn take_in(shared: &Arc<Shared>, stream: TcpStream, remote: SocketAddr, bound: Bound, connections: &mut JoinSet<()>) {
    let Some(held) = admit(shared, remote) else { return turn_away(shared, &stream, bound) };
    let shared = Arc::clone(shared);
    connections.spawn(async move {
        // Each protocol's task is boxed, so that a connection takes the memory of its own protocol only.
        if let Err(error) = Box::pin(serve(&shared, stream, remote, bound, held)).await {
            tracing::debug!(%error, %remote, "connection ended");
        }
    });
}

/// Closes a connection beyond a limit.
fn turn_away(shared: &Shared, stream: &TcpStream, bound: Bound) {
    count(&shared.stats.connections_refused, 1);
    if !bound.implicit_tls {
        // As much as the empty socket takes at once; a client that misses it sees the connection close.
        let _ = stream.try_write(refusal(bound.protocol));
    }
}

const fn refusal(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Imap => b"* BYE [LIMIT] Too many connections\r\n",
        Protocol::Pop3 => b"-ERR [SYS/TEMP] Too many connections\r\n",
        Protocol::Lmtp => b"421 4.7.0 Too many connections\r\n",
    }
}

/// Who is behind a connection: what connected, or whom a proxy tells in the header that its connections begin with.
async fn ends(shared: &Shared, stream: &mut TcpStream, peer: SocketAddr, bound: Bound) -> io::Result<Ends> {
    if !shared.options.expects_proxy_header(peer.ip()) {
        return Ok(Ends { peer, client: peer });
    }
    match Box::pin(read_header(stream, shared.options.proxy_header_timeout)).await {
        Ok(Client::At(client)) => Ok(Ends { peer, client }),
        Ok(Client::Connected) => Ok(Ends { peer, client: peer }),
        Err(error) => {
            // Proxies' health checks come every other second: the first is told aloud.
            let first = shared.stats.proxy_headers_refused.fetch_add(1, Ordering::Relaxed) == 0;
            let help = "let the proxy send it (send-proxy-v2 and check-send-proxy in HAProxy, proxy_protocol in nginx), \
                        or take it out of frontend.proxy_protocol";
            if first {
                tracing::warn!(%error, %peer, to = %bound.address, code = "PC340", help, "a proxy's connection without its PROXY header");
            }
            Err(error)
        }
    }
}

async fn serve(shared: &Arc<Shared>, mut stream: TcpStream, peer: SocketAddr, bound: Bound, mut held: Held) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let ends = ends(shared, &mut stream, peer, bound).await?;
    // A proxy that speaks for itself is not counted: it asks whether the node serves.
    if ends.client != peer && !held.count_for(shared, ends.client.ip()) {
        turn_away(shared, &stream, bound);
        return Ok(());
    }
    let mut connection = Connection::new(shared, stream, ends, bound.protocol, held);
    if bound.implicit_tls {
        connection.start_tls(shared).await?;
    }
    match bound.protocol {
        Protocol::Lmtp => Box::pin(lmtp::serve(shared, &mut connection)).await,
        Protocol::Imap => Box::pin(crate::sessions::imap(shared, &mut connection)).await,
        Protocol::Pop3 => Box::pin(crate::sessions::pop3(shared, &mut connection)).await,
    }?;
    connection.socket.close().await;
    Ok(())
}
