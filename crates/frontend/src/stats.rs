//! Counters of the frontend.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the frontend did since it started. Counters only grow, gauges (`…_now`) go up and down; each is read on its own.
        #[derive(Debug, Default)]
        pub struct FrontendStats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }
        impl FrontendStats {
            /// Every value with its name, in a fixed order.
            #[must_use]
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

stats! {
    /// Gauge: IMAP connections.
    imap_connections_now,
    /// Gauge: POP3 connections.
    pop3_connections_now,
    /// Gauge: LMTP connections.
    lmtp_connections_now,
    /// Connections accepted and served.
    connections_accepted,
    /// Connections refused by a limit.
    connections_refused,
    /// Connections of proxies that were closed because no lawful PROXY header came.
    proxy_headers_refused,
    /// Clients that a trusted proxy told by ID or XCLIENT.
    clients_forwarded,
    /// Logins verified for a proxy; those that fail count below.
    logins_verified_for_proxies,
    /// TLS handshakes completed.
    tls_handshakes,
    /// TLS handshakes that failed or took too long.
    tls_handshakes_failed,
    /// Logins that succeeded.
    logins_accepted,
    /// Logins refused by the directory.
    logins_refused,
    /// Logins refused unasked after too many failures, or over the limit of connections per user and address.
    logins_throttled,
    /// Logins that could not be decided.
    logins_unavailable,
    /// Requests given to the mail service.
    calls,
    /// Requests that it could not serve.
    calls_unserved,
    /// Recipients answered 250.
    lmtp_delivered,
    /// Of these, suppressed as duplicates.
    lmtp_duplicates,
    /// Recipients answered otherwise after DATA.
    lmtp_not_delivered,
    /// Plain-text bytes received.
    bytes_received,
    /// Plain-text bytes sent.
    bytes_sent,
    /// Connections closed because the client did not read for too long.
    write_timeouts,
    /// Sessions ended by an operator.
    sessions_kicked,
    /// Gauge: bytes reserved in the spool.
    spool_bytes_now,
    /// Literals and messages refused because the spool was full or failed.
    spool_refusals,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Lowers a gauge.
pub(crate) fn lower(gauge: &AtomicU64, by: u64) {
    gauge.fetch_sub(by, Ordering::Relaxed);
}
