//! One byte-stream type for plain TCP, mutual TLS and the administrator's unix socket.

use crate::LinkError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::server::Connected;

/// Mutual TLS between nodes: both sides show a certificate of the cluster's CA.
#[derive(Clone)]
pub struct PeerTls {
    /// For accepting; must ask for and check client certificates.
    pub server: Arc<rustls::ServerConfig>,
    /// For connecting; must present the node's certificate.
    pub client: Arc<rustls::ClientConfig>,
    /// Tells nodes' certificates from operators': only a node's may serve.
    pub nodes: Arc<WebPkiServerVerifier>,
    /// The name every certificate of this cluster carries besides its own.
    pub cluster_name: String,
}

/// What a connection may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Everything: it showed a node's certificate, or the cluster has none.
    Node,
    /// Operators' commands only.
    Operator,
}

impl PeerTls {
    /// What a client may ask for whose certificate the handshake has found to be the authority's.
    fn rank(&self, stream: &tokio_rustls::server::TlsStream<TcpStream>) -> io::Result<Rank> {
        let refused = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let (cert, rest) = chain.split_first().ok_or_else(|| refused("no certificate".into()))?;
        let name = ServerName::try_from(self.cluster_name.as_str()).map_err(|e| refused(e.to_string()))?;
        let parsed = ParsedCertificate::try_from(cert).map_err(|e| refused(e.to_string()))?;
        rustls::client::verify_server_name(&parsed, &name).map_err(|e| refused(format!("a certificate of another cluster: {e}")))?;
        let serves = self.nodes.verify_server_cert(cert, rest, &name, &[], UnixTime::now());
        Ok(if serves.is_ok() { Rank::Node } else { Rank::Operator })
    }
}

/// A connection to or from a peer or an operator's command.
pub enum PeerStream {
    /// Plain TCP, loopback only.
    Plain(TcpStream),
    /// TLS, we connected.
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// TLS, we accepted.
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// The administrator's socket.
    Unix(UnixStream),
}

/// Sent data that the other host has not confirmed for so long ends a connection. Without it, a connection that outlived a
/// network partition sends nothing until its next retransmission, which may come as late after the partition's end as that lasted.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(3);
/// The same for a connection on which nothing is sent: asked after this time without data, and again.
const KEEPALIVE: Duration = Duration::from_secs(3);

fn set_options(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = socket2::SockRef::from(tcp);
    socket.set_tcp_user_timeout(Some(UNCONFIRMED_MAX))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

impl PeerStream {
    /// Connects to `address` (host:port, resolved now).
    ///
    /// # Errors
    /// When the peer cannot be reached or its certificate is not the cluster's.
    pub async fn connect(address: &str, tls: Option<&PeerTls>) -> Result<Self, LinkError> {
        let unreachable = |e: io::Error| LinkError::Unreachable(format!("{address}: {e}"));
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        set_options(&tcp).map_err(unreachable)?;
        match tls {
            None => Ok(Self::Plain(tcp)),
            Some(tls) => {
                let name =
                    ServerName::try_from(tls.cluster_name.clone()).map_err(|_| LinkError::Protocol("cluster name is no DNS name"))?;
                let connector = tokio_rustls::TlsConnector::from(tls.client.clone());
                let stream = connector.connect(name, tcp).await.map_err(unreachable)?;
                Ok(Self::Client(Box::new(stream)))
            }
        }
    }
    /// Takes an accepted TCP connection, with the TLS handshake where the cluster has TLS.
    ///
    /// # Errors
    /// When the handshake fails, or the certificate is another cluster's.
    pub async fn accept(tcp: TcpStream, tls: Option<&PeerTls>) -> io::Result<(Self, Rank)> {
        set_options(&tcp)?;
        match tls {
            None => Ok((Self::Plain(tcp), Rank::Node)),
            Some(tls) => {
                let acceptor = tokio_rustls::TlsAcceptor::from(tls.server.clone());
                let stream = acceptor.accept(tcp).await?;
                let rank = tls.rank(&stream)?;
                Ok((Self::Server(Box::new(stream)), rank))
            }
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $body:expr) => {
        match $self.get_mut() {
            PeerStream::Plain($stream) => $body,
            PeerStream::Client($stream) => $body,
            PeerStream::Server($stream) => $body,
            PeerStream::Unix($stream) => $body,
        }
    };
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }
    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A stream whose first bytes were read already, to tell who speaks.
pub(crate) struct Prefixed {
    pub(crate) prefix: Vec<u8>,
    pub(crate) rank: Rank,
    pub(crate) stream: PeerStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..n]);
            self.prefix.drain(..n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Prefixed {
    type ConnectInfo = Rank;
    fn connect_info(&self) -> Rank {
        self.rank
    }
}
