//! One client's connection with what it holds: number, place in the registry, share of the limits.

use crate::numbers::NumberGuard;
use crate::registry::{Protocol, Registered, SessionInfo, SessionState};
use crate::shared::{Shared, unix_now};
use crate::socket::Socket;
use crate::stats::{count, lower};
use crate::throttle::{Use, counted};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpStream;

pub(crate) struct Connection {
    pub(crate) socket: Socket,
    pub(crate) remote: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) registered: Registered,
    pub(crate) number: Arc<NumberGuard>,
    busy: bool,
    _gauge: Gauge,
    _held: Held,
}

/// A connection's share of the limits.
pub(crate) struct Held {
    _address: Use<IpAddr>,
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
pub(crate) fn admit(shared: &Shared, remote: SocketAddr) -> Option<Held> {
    Some(Held { _total: shared.total.take(())?, _address: shared.by_address.take(counted(remote.ip()))? })
}

impl Connection {
    pub(crate) fn new(shared: &Arc<Shared>, stream: TcpStream, remote: SocketAddr, protocol: Protocol, held: Held) -> Self {
        count(&shared.stats.connections_accepted, 1);
        count(Gauge::of(shared, protocol), 1);
        let number = Arc::new(shared.numbers.allocate());
        let info = SessionInfo {
            id: number.key().session,
            protocol,
            user: None,
            remote,
            since: unix_now(),
            mailbox: None,
            state: SessionState::Start,
            tls: false,
        };
        Self {
            socket: Socket::new(stream, Arc::clone(&shared.stats), shared.options.write_timeout),
            remote,
            tls: false,
            registered: shared.registry.enter(info),
            number,
            busy: false,
            _gauge: Gauge { shared: Arc::clone(shared), protocol },
            _held: held,
        }
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
