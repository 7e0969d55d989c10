//! What the frontend is told when it starts.

use crate::tls::Certificates;
use parliament_ids::limits::MESSAGE_BYTES_MAX;
use parliament_ids::{Boot, Network, NodeId};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// When a password may be sent on a link without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainLogin {
    /// Only to clients on a loopback address.
    #[default]
    Loopback,
    /// Always: for networks that are secured otherwise.
    Always,
    /// Never.
    Never,
}

/// Where to listen, and the bounds. Fields are public: take [`FrontendOptions::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct FrontendOptions {
    /// This node.
    pub node: NodeId,
    /// Its boot: session numbers begin anew with each.
    pub boot: Boot,
    /// Host name told in greetings and in `Received:`.
    pub host: String,
    /// IMAP, with STARTTLS when there are [`Self::certificates`].
    pub imap: Vec<SocketAddr>,
    /// IMAP with TLS from the first byte; needs certificates.
    pub imaps: Vec<SocketAddr>,
    /// POP3, with STLS when there are certificates.
    pub pop3: Vec<SocketAddr>,
    /// POP3 with TLS from the first byte; needs certificates.
    pub pop3s: Vec<SocketAddr>,
    /// LMTP, with STARTTLS when there are certificates. LMTP knows no login: who reaches it may deliver.
    pub lmtp: Vec<SocketAddr>,
    /// Certificate and key shown to clients.
    pub certificates: Option<Arc<Certificates>>,
    /// Passwords without TLS.
    pub plain_login: PlainLogin,
    /// Proxies that have ended TLS and are believed what they tell of their clients: in ID, in XCLIENT, and when they ask for a
    /// login to be verified. Passwords are taken from them without TLS.
    pub trusted: Vec<Network>,
    /// Proxies that begin every connection with a PROXY header; without one they are not served.
    pub proxy_protocol: Vec<Network>,
    /// The PROXY header comes within this time.
    pub proxy_header_timeout: Duration,
    /// Offer IMAP4rev2.
    pub imap4rev2: bool,
    /// Largest message, bytes.
    pub message_bytes_max: u64,
    /// LMTP puts `Return-Path:` and `Received:` in front of each message. Without, exactly the bytes sent are stored.
    pub lmtp_add_headers: bool,
    /// Deliveries of one LMTP message that run at once.
    pub lmtp_parallel: usize,
    /// Directory of the spool; made where missing.
    pub spool_dir: PathBuf,
    /// Bound on all spooled literals and messages together, bytes.
    pub spool_bytes_max: u64,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections of one address (IPv6: one /64).
    pub connections_per_address_max: usize,
    /// IMAP and POP3 connections of one user from one address.
    pub connections_per_user_and_address_max: usize,
    /// A TLS handshake takes at most this long.
    pub handshake_timeout: Duration,
    /// LMTP clients may be silent this long (RFC 5321 section 4.5.3.2.7: at least 5 minutes).
    pub lmtp_idle_timeout: Duration,
    /// A client that takes no byte for this long is disconnected.
    pub write_timeout: Duration,
}

impl FrontendOptions {
    /// Defaults with no listener.
    #[must_use]
    pub fn new(node: NodeId, boot: Boot, host: &str, spool_dir: PathBuf) -> Self {
        Self {
            node,
            boot,
            host: host.to_owned(),
            imap: Vec::new(),
            imaps: Vec::new(),
            pop3: Vec::new(),
            pop3s: Vec::new(),
            lmtp: Vec::new(),
            certificates: None,
            plain_login: PlainLogin::default(),
            trusted: Vec::new(),
            proxy_protocol: Vec::new(),
            proxy_header_timeout: Duration::from_secs(5),
            imap4rev2: true,
            message_bytes_max: MESSAGE_BYTES_MAX,
            lmtp_add_headers: true,
            lmtp_parallel: 16,
            spool_dir,
            spool_bytes_max: 4 * 1024 * 1024 * 1024,
            connections_max: 50_000,
            connections_per_address_max: 1_000,
            connections_per_user_and_address_max: 20,
            handshake_timeout: Duration::from_secs(30),
            lmtp_idle_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(60),
        }
    }

    /// True when a client may send its password without TLS. `peer` is what has connected, `client` the same or, where `peer` is a
    /// proxy, who the PROXY header told.
    pub(crate) fn plain_login_from(&self, peer: IpAddr, client: IpAddr) -> bool {
        let on_loopback = |address: IpAddr| address.to_canonical().is_loopback();
        let by_rule = match self.plain_login {
            PlainLogin::Always => true,
            PlainLogin::Never => false,
            // A client that is on the loopback of its proxy is not on ours.
            PlainLogin::Loopback => on_loopback(peer) && on_loopback(client),
        };
        by_rule || self.trusts(peer) || self.trusts(client)
    }

    /// True for a proxy that is believed.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        Network::any_contains(&self.trusted, address)
    }

    pub(crate) fn expects_proxy_header(&self, peer: IpAddr) -> bool {
        Network::any_contains(&self.proxy_protocol, peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_without_tls_come_from_loopback_and_trusted_proxies() {
        let mut options = FrontendOptions::new(NodeId(1), Boot(1), "mx.example", PathBuf::new());
        options.trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let from =
            |options: &FrontendOptions, peer: &str, client: &str| options.plain_login_from(peer.parse().unwrap(), client.parse().unwrap());
        assert!(from(&options, "127.0.0.1", "127.0.0.1") && from(&options, "::ffff:127.0.0.1", "::1"));
        assert!(!from(&options, "192.0.2.1", "127.0.0.1"), "the proxy's loopback is not ours");
        assert!(!from(&options, "127.0.0.1", "203.0.113.9"), "nor is who comes by a proxy here");
        assert!(from(&options, "10.0.0.1", "203.0.113.9") && from(&options, "192.0.2.1", "10.0.0.1"));
        options.plain_login = PlainLogin::Never;
        assert!(!from(&options, "127.0.0.1", "127.0.0.1") && from(&options, "10.0.0.1", "10.0.0.1"));
    }
}
