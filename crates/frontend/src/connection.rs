//! One client's connection with what it holds: number, place in the registry, share of the limits; and who the client is, which
//! a proxy may tell.

use crate::numbers::NumberGuard;
use crate::registry::{Protocol, Registered, SessionInfo, SessionState};
use crate::shared::{Shared, unix_now};
use crate::socket::Socket;
use crate::stats::{count, lower};
use crate::throttle::{Use, counted};
use parliament_mail_api::Forwarded;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpStream;

pub(crate) struct Connection {
    pub(crate) socket: Socket,
    /// The client, as far as is known: what connected, or whom a proxy told.
    pub(crate) remote: SocketAddr,
    pub(crate) tls: bool,
    /// It may send its password without TLS.
    pub(crate) plain_login: bool,
    /// It is a proxy that may tell its client.
    pub(crate) trusted: bool,
    pub(crate) registered: Registered,
    pub(crate) number: Arc<NumberGuard>,
    busy: bool,
    _gauge: Gauge,
    held: Held,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// What has connected.
    pub(crate) peer: SocketAddr,
    /// The client: the same, or whom the PROXY header told.
    pub(crate) client: SocketAddr,
}

/// A connection's share of the limits. A proxy's connections count for its clients' addresses only.
pub(crate) struct Held {
    address: Option<Use<IpAddr>>,
    _total: Use<()>,
}

struct Gauge {
    shared: Arc<Shared>,
    protocol: Protocol,
}

impl Gauge {
    fn of(shared: &Shared, protocol: Protocol) -> &AtomicU64 {
        match protocol {
            Protocol::Imap => &shared.stats.imap_connections_now,
            Protocol::Pop3 => &shared.stats.pop3_connections_now,
            Protocol::Lmtp => &shared.stats.lmtp_connections_now,
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        lower(Self::of(&self.shared, self.protocol), 1);
    }
}

/// Takes a connection's share of the limits; `None` when one is reached.
pub(crate) fn admit(shared: &Shared, peer: SocketAddr) -> Option<Held> {
    let mut held = Held { _total: shared.total.take(())?, address: None };
    let is_proxy = shared.options.expects_proxy_header(peer.ip());
    (is_proxy || held.count_for(shared, peer.ip())).then_some(held)
}

impl Held {
    /// Counts the connection for its client's address; false when that has as many as it may have. A trusted proxy is not counted.
    pub(crate) fn count_for(&mut self, shared: &Shared, client: IpAddr) -> bool {
        if shared.options.trusts(client) {
            return true;
        }
        // Given back first: the address may be the one that holds it.
        self.address = None;
        self.address = shared.by_address.take(counted(client));
        self.address.is_some()
    }
}

impl Connection {
    pub(crate) fn new(shared: &Arc<Shared>, stream: TcpStream, ends: Ends, protocol: Protocol, held: Held) -> Self {
        count(&shared.stats.connections_accepted, 1);
        count(Gauge::of(shared, protocol), 1);
        let number = Arc::new(shared.numbers.allocate());
        let info = SessionInfo {
            id: number.key().session,
            protocol,
            user: None,
            remote: ends.client,
            since: unix_now(),
            mailbox: None,
            state: SessionState::Start,
            tls: false,
        };
        Self {
            socket: Socket::new(stream, Arc::clone(&shared.stats), shared.options.write_timeout),
            remote: ends.client,
            tls: false,
            plain_login: shared.options.plain_login_from(ends.peer.ip(), ends.client.ip()),
            trusted: shared.options.trusts(ends.client.ip()),
            registered: shared.registry.enter(info),
            number,
            busy: false,
            _gauge: Gauge { shared: Arc::clone(shared), protocol },
            held,
        }
    }

    /// A trusted proxy told its client: limits, logs and `who` see that from now on. False when the client's address has as many
    /// connections as it may have.
    pub(crate) fn forwarded(&mut self, shared: &Shared, told: &Forwarded) -> bool {
        let session = self.number.key();
        tracing::debug!(%session, proxy = %self.remote, client = ?told, "a proxy told its client");
        let Some(address) = told.address else { return true };
        count(&shared.stats.clients_forwarded, 1);
        self.remote = SocketAddr::new(address, told.port.unwrap_or(0));
        self.registered.update(|info| info.remote = self.remote);
        let counted = self.held.count_for(shared, address);
        count(&shared.stats.connections_refused, u64::from(!counted));
        counted
    }

    /// Does the TLS handshake.
    pub(crate) async fn start_tls(&mut self, shared: &Shared) -> io::Result<()> {
        let certificates = shared.options.certificates.as_ref().ok_or_else(|| io::Error::other("no certificate"))?;
        // Boxed: a handshake's state is large and short-lived, and would else be part of every connection for its whole life.
        Box::pin(self.socket.start_tls(&certificates.acceptor(), shared.options.handshake_timeout)).await?;
        self.tls = true;
        self.registered.update(|info| info.tls = true);
        Ok(())
    }

    /// Tells the registry; cheap when nothing changed.
    pub(crate) fn set_busy(&mut self, busy: bool) {
        if self.busy != busy {
            self.busy = busy;
            self.registered.update(|info| {
                info.state = match (busy, info.user.is_some()) {
                    (true, _) => SessionState::Busy,
                    (false, true) => SessionState::Idle,
                    (false, false) => SessionState::Start,
                };
            });
        }
    }
}
