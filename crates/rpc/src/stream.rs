//! One byte-stream type for plain TCP, mutual TLS and the administrator's unix socket.

use crate::LinkError;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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
    /// The name every node certificate of this cluster carries besides its own.
    pub cluster_name: String,
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

impl PeerStream {
    /// Connects to `address` (host:port, resolved now).
    ///
    /// # Errors
    /// When the peer cannot be reached or its certificate is not the cluster's.
    pub async fn connect(address: &str, tls: Option<&PeerTls>) -> Result<Self, LinkError> {
        let unreachable = |e: io::Error| LinkError::Unreachable(format!("{address}: {e}"));
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
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
    /// When the handshake fails.
    pub async fn accept(tcp: TcpStream, tls: Option<&PeerTls>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        match tls {
            None => Ok(Self::Plain(tcp)),
            Some(tls) => {
                let acceptor = tokio_rustls::TlsAcceptor::from(tls.server.clone());
                Ok(Self::Server(Box::new(acceptor.accept(tcp).await?)))
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

impl Connected for PeerStream {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

/// A stream whose first bytes were read already, to tell who speaks.
pub(crate) struct Prefixed {
    pub(crate) prefix: Vec<u8>,
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
    type ConnectInfo = ();
    fn connect_info(&self) {}
}
