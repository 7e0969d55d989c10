//! The client side of the replication link: one connection, many groups, many requests.

use crate::frame::{FRAME_BYTES_MAX, Frame, PREFACE};
use crate::stream::{PeerStream, PeerTls};
use crate::{LinkError, Method};
use bytes::{Buf, Bytes, BytesMut};
use parliament_ids::{BodyHash, GroupId};
use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

/// Frames waiting for the socket. Append streams bound themselves by unanswered messages, requests by callers; bodies are
/// dropped when it is full (the follower then pulls them).
const QUEUE_FRAMES_MAX: usize = 4096;
/// Requests under way on one link.
const REQUESTS_MAX: usize = 16_384;
/// Frames that one write gathers.
const GATHER_FRAMES: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Waiting {
    connected: bool,
    appends: HashMap<GroupId, (u32, mpsc::UnboundedSender<Bytes>)>,
    next_stream: u32,
    requests: HashMap<u64, oneshot::Sender<Result<Bytes, LinkError>>>,
    next_id: u64,
}

impl Waiting {
    /// The connection is gone: nobody who waits on it will be answered.
    fn fail_all(&mut self) {
        self.connected = false;
        self.appends.clear();
        for (_, waiter) in self.requests.drain() {
            let _ = waiter.send(Err(LinkError::Unreachable("link broke".into())));
        }
    }
}

/// A link to one peer; reconnects for ever while it lives.
pub(crate) struct Link {
    queue: mpsc::Sender<Frame>,
    waiting: Arc<Mutex<Waiting>>,
    closed: watch::Sender<bool>,
}

/// Append messages of one group in order, and their answers in the same order. It ends (receives `None`) when the
/// connection breaks; ask for a new one then.
pub struct AppendStream {
    group: GroupId,
    stream: u32,
    queue: mpsc::Sender<Frame>,
    answers: mpsc::UnboundedReceiver<Bytes>,
}

impl AppendStream {
    /// Sends one message. The caller bounds how many are unanswered.
    ///
    /// # Errors
    /// When the link is being torn down.
    pub async fn send(&self, payload: Bytes) -> Result<(), LinkError> {
        self.queue
            .send(Frame::Append { group: self.group, stream: self.stream, payload })
            .await
            .map_err(|_| LinkError::Unreachable("link closed".into()))
    }
    /// The next answer; `None` when the connection broke.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.answers.recv().await
    }
    /// Splits into a sending and a receiving half.
    #[must_use]
    pub fn split(self) -> (AppendSender, mpsc::UnboundedReceiver<Bytes>) {
        (AppendSender { group: self.group, stream: self.stream, queue: self.queue }, self.answers)
    }
}

/// The sending half of an [`AppendStream`].
pub struct AppendSender {
    group: GroupId,
    stream: u32,
    queue: mpsc::Sender<Frame>,
}

impl AppendSender {
    /// As [`AppendStream::send`].
    ///
    /// # Errors
    /// When the link is being torn down.
    pub async fn send(&self, payload: Bytes) -> Result<(), LinkError> {
        self.queue
            .send(Frame::Append { group: self.group, stream: self.stream, payload })
            .await
            .map_err(|_| LinkError::Unreachable("link closed".into()))
    }
}

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Starts the link's task on `runtime`. `address` is asked at each connect.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        address: impl Fn() -> String + Send + Sync + 'static,
        hello: Bytes,
        tls: Option<PeerTls>,
    ) -> Self {
        let (queue, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let (closed, mut closing) = watch::channel(false);
        let (kept, told) = (waiting.clone(), waiting.clone());
        runtime.spawn(async move {
            let closed = async {
                // A link that is only dropped sends what is queued first.
                if closing.wait_for(|closed| *closed).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = keep_connected(frames, kept, address, hello, tls) => {}
                () = closed => lock(&told).fail_all(),
            }
        });
        Self { queue, waiting, closed }
    }

    /// Ends the link for good.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// A new append stream for a group, replacing an older one.
    pub(crate) fn append_stream(&self, group: GroupId) -> Result<AppendStream, LinkError> {
        let (sender, answers) = mpsc::unbounded_channel();
        let mut waiting = lock(&self.waiting);
        if !waiting.connected {
            return Err(LinkError::Unreachable("not connected".into()));
        }
        waiting.next_stream = waiting.next_stream.wrapping_add(1);
        let stream = waiting.next_stream;
        waiting.appends.insert(group, (stream, sender));
        Ok(AppendStream { group, stream, queue: self.queue.clone(), answers })
    }

    /// Queues a body; false when it was dropped because the queue is full or the peer is away.
    pub(crate) fn push_body(&self, hash: BodyHash, payload: Bytes) -> bool {
        lock(&self.waiting).connected && self.queue.try_send(Frame::Body { hash, payload }).is_ok()
    }

    pub(crate) fn is_connected(&self) -> bool {
        lock(&self.waiting).connected
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn request(&self, method: Method, payload: Bytes, timeout: Duration) -> Result<Bytes, LinkError> {
        if payload.len() + 64 > FRAME_BYTES_MAX {
            return Err(LinkError::Protocol("request too large"));
        }
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut waiting = lock(&self.waiting);
            if !waiting.connected {
                return Err(LinkError::Unreachable("not connected".into()));
            }
            if waiting.requests.len() >= REQUESTS_MAX {
                return Err(LinkError::Busy);
            }
            waiting.next_id += 1;
            let id = waiting.next_id;
            waiting.requests.insert(id, sender);
            id
        };
        let work = async {
            self.queue
                .send(Frame::Request { id, method: method as u8, payload })
                .await
                .map_err(|_| LinkError::Unreachable("link closed".into()))?;
            answer.await.unwrap_or_else(|_| Err(LinkError::Unreachable("link broke".into())))
        };
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => {
                lock(&self.waiting).requests.remove(&id);
                Err(LinkError::TimedOut)
            }
        }
    }
}

async fn keep_connected(
    mut frames: mpsc::Receiver<Frame>,
    waiting: Arc<Mutex<Waiting>>,
    address: impl Fn() -> String + Send + Sync + 'static,
    hello: Bytes,
    tls: Option<PeerTls>,
) {
    let mut backoff = BACKOFF_MIN;
    while !frames.is_closed() || !frames.is_empty() {
        let connect = async {
            let mut stream = PeerStream::connect(&address(), tls.as_ref()).await?;
            stream.write_all(&hello).await.map_err(|e| LinkError::Unreachable(e.to_string()))?;
            let accepted = stream.read_u8().await.map_err(|e| LinkError::Unreachable(e.to_string()))?;
            if accepted == 1 { Ok(stream) } else { Err(LinkError::Refused("the peer refused the link".into())) }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => {
                backoff = BACKOFF_MIN;
                // Frames queued for the broken connection belong to streams and requests that were failed already.
                while frames.try_recv().is_ok() {}
                lock(&waiting).connected = true;
                let end = run(stream, &mut frames, &waiting).await;
                lock(&waiting).fail_all();
                tracing::debug!(peer = address(), ?end, "link broke");
            }
            Ok(Err(error)) => tracing::trace!(peer = address(), %error, "link not up"),
            Err(_) => tracing::trace!(peer = address(), "link connect timed out"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn run(stream: PeerStream, frames: &mut mpsc::Receiver<Frame>, waiting: &Mutex<Waiting>) -> Result<(), LinkError> {
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = async {
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        loop {
            while let Some(frame) = Frame::decode(&mut buffer)? {
                deliver(frame, waiting)?;
            }
            fill(&mut read, &mut buffer).await?;
        }
    };
    tokio::select! {
        end = reading => end,
        end = write_frames(frames, &mut write) => end,
    }
}

fn deliver(frame: Frame, waiting: &Mutex<Waiting>) -> Result<(), LinkError> {
    match frame {
        Frame::AppendReply { group, stream, payload } => {
            let mut waiting = lock(waiting);
            if let Some((current, sender)) = waiting.appends.get(&group)
                && *current == stream
                && sender.send(payload).is_err()
            {
                waiting.appends.remove(&group);
            }
            Ok(())
        }
        Frame::Reply { id, failed, payload } => {
            let waiter = lock(waiting).requests.remove(&id);
            if let Some(waiter) = waiter {
                let reply = if failed { Err(LinkError::Refused(String::from_utf8_lossy(&payload).into_owned())) } else { Ok(payload) };
                let _ = waiter.send(reply);
            }
            Ok(())
        }
        _ => Err(LinkError::Protocol("a client's frame from a server")),
    }
}

/// Reads more bytes; an end of the stream is an error.
pub(crate) async fn fill(read: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<(), LinkError> {
    if buffer.capacity() - buffer.len() < 16 * 1024 {
        buffer.reserve(64 * 1024);
    }
    match read.read_buf(buffer).await {
        Ok(0) => Err(LinkError::Unreachable("closed by the peer".into())),
        Ok(_) => Ok(()),
        Err(e) => Err(LinkError::Unreachable(e.to_string())),
    }
}

/// Writes queued frames, as many as are ready with one vectored write.
pub(crate) async fn write_frames(frames: &mut mpsc::Receiver<Frame>, write: &mut (impl AsyncWrite + Unpin)) -> Result<(), LinkError> {
    let mut ready = Vec::with_capacity(GATHER_FRAMES);
    let mut heads = BytesMut::new();
    loop {
        if frames.recv_many(&mut ready, GATHER_FRAMES).await == 0 {
            return Ok(());
        }
        let mut pieces: Vec<Bytes> = Vec::with_capacity(ready.len() * 2);
        for frame in ready.drain(..) {
            let payload = frame.encode(&mut heads);
            pieces.push(heads.split().freeze());
            if !payload.is_empty() {
                pieces.push(payload);
            }
        }
        write_all(write, pieces).await.map_err(|e| LinkError::Unreachable(e.to_string()))?;
    }
}

async fn write_all(write: &mut (impl AsyncWrite + Unpin), mut pieces: Vec<Bytes>) -> std::io::Result<()> {
    let mut first = 0;
    while first < pieces.len() {
        let slices: Vec<IoSlice<'_>> = pieces[first..].iter().map(|p| IoSlice::new(p)).collect();
        let mut written = write.write_vectored(&slices).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while first < pieces.len() && written >= pieces[first].len() {
            written -= pieces[first].len();
            first += 1;
        }
        if written > 0 {
            pieces[first].advance(written);
        }
    }
    write.flush().await
}

/// The first bytes of a link: preface, cluster, node, boot.
pub(crate) fn hello(cluster: [u8; 16], node: u64, boot: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFACE.len() + 32);
    bytes.extend_from_slice(PREFACE);
    bytes.extend_from_slice(&cluster);
    bytes.extend_from_slice(&node.to_le_bytes());
    bytes.extend_from_slice(&boot.to_le_bytes());
    bytes.freeze()
}
