//! One client's socket: reads without a buffer of its own, writes with a time limit.

use crate::stats::{FrontendStats, count};
use socket2::SockRef;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// One read takes at most this many bytes.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Closing politely may take this long.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    /// Shared by all connections of a thread, so that an idle one owns no read buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake failed.
    Gone,
}

/// A socket, plain or with TLS.
pub(crate) struct Socket {
    stream: Stream,
    stats: Arc<FrontendStats>,
    write_timeout: Duration,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, stats: Arc<FrontendStats>, write_timeout: Duration) -> Self {
        Self { stream: Stream::Plain(stream), stats, write_timeout }
    }

    /// Reads what is there, at least one byte; empty at the end of the stream. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self) -> io::Result<Vec<u8>> {
        let bytes = poll_fn(|context| self.poll_read(context)).await?;
        count(&self.stats.bytes_received, bytes.len() as u64);
        Ok(bytes)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(match &mut self.stream {
                Stream::Plain(stream) => Pin::new(stream).poll_read(context, &mut buffer),
                Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, &mut buffer),
                Stream::Gone => Poll::Ready(Ok(())),
            })?;
            Poll::Ready(Ok(buffer.filled().to_vec()))
        })
    }

    /// Acknowledges what was read at once instead of with the next reply: for when the client may send on only after that.
    /// The system forgets this soon, so it is said again before each read that waits for the rest of something.
    pub(crate) fn acknowledge(&self) {
        let stream = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
            Stream::Gone => return,
        };
        // It saves time and nothing else: without it the acknowledgement comes later.
        let _ = SockRef::from(stream).set_tcp_quickack(true);
    }

    /// Writes everything. Fails with `TimedOut` once the client takes no byte for the write time-out.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.limited(|stream, context| stream.poll_write(context, bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            count(&self.stats.bytes_sent, written as u64);
            bytes = bytes.get(written..).unwrap_or_default();
        }
        self.limited(|stream, context| stream.poll_flush(context)).await
    }

    async fn limited<T>(
        &mut self,
        mut step: impl FnMut(Pin<&mut dyn AsyncWrite>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        let stream = &mut self.stream;
        let polled = poll_fn(|context| match stream {
            Stream::Plain(stream) => step(Pin::<&mut TcpStream>::new(stream), context),
            Stream::Tls(stream) => step(Pin::<&mut TlsStream<TcpStream>>::new(stream.as_mut()), context),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        });
        if let Ok(result) = timeout(self.write_timeout, polled).await {
            return result;
        }
        count(&self.stats.write_timeouts, 1);
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Does the handshake as server. What the client sent in plain text before it is discarded by the caller.
    pub(crate) async fn start_tls(&mut self, acceptor: &TlsAcceptor, limit: Duration) -> io::Result<()> {
        let Stream::Plain(plain) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(io::Error::other("TLS inside TLS"));
        };
        let outcome = timeout(limit, acceptor.accept(plain)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let counter = if outcome.is_ok() { &self.stats.tls_handshakes } else { &self.stats.tls_handshakes_failed };
        count(counter, 1);
        self.stream = Stream::Tls(Box::new(outcome?));
        Ok(())
    }

    /// Ends the stream in the client's direction, then waits a little for the client to do the same: to close over bytes
    /// that were not read would reset the connection, and the last reply might never arrive.
    pub(crate) async fn close(mut self) {
        let closing = async {
            self.limited(|stream, context| stream.poll_shutdown(context)).await?;
            while !self.read().await?.is_empty() {}
            io::Result::Ok(())
        };
        // The connection is over either way; an error changes nothing.
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}
