//! The sending end of a group's append stream to one peer. The link has one stream per group; replication and heartbeats
//! share it as two lanes, and each lane belongs to the latest session that claimed it.

use crate::link::{FrameSink, LinkError, PeerLink};
use crate::wire::{AppendAnswer, Head, Lane, decode_append_answer};
use crate::{WINDOW_MESSAGES, lock};
use bytes::Bytes;
use parliament_ids::GroupId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, mpsc};

/// Answers that a session still waits for arrive here; the channel closes when the stream is over or another session
/// claimed the lane.
pub(crate) type Answers = mpsc::UnboundedReceiver<(u64, AppendAnswer)>;

struct Claim {
    /// Answers to earlier messages belong to sessions that were given up.
    first: u64,
    answers: mpsc::UnboundedSender<(u64, AppendAnswer)>,
}

struct LaneState {
    claim: Mutex<Option<Claim>>,
    /// Free places in the window. A message takes one for good; its answer gives one back.
    window: Arc<Semaphore>,
}

/// One open stream. Sequence numbers ascend over both lanes.
pub(crate) struct OpenStream {
    frames: Box<dyn FrameSink>,
    lanes: [LaneState; Lane::COUNT],
    next_seq: AtomicU64,
    closed: AtomicBool,
}

impl OpenStream {
    fn new(frames: Box<dyn FrameSink>) -> Self {
        let lane = || LaneState { claim: Mutex::new(None), window: Arc::new(Semaphore::new(WINDOW_MESSAGES)) };
        Self { frames, lanes: [lane(), lane()], next_seq: AtomicU64::new(0), closed: AtomicBool::new(false) }
    }

    /// Takes the lane over from whichever session had it.
    pub(crate) fn claim(&self, lane: Lane) -> Answers {
        let (answers, receiver) = mpsc::unbounded_channel();
        let first = self.next_seq.load(Ordering::Relaxed);
        *lock(&self.lanes[lane.index()].claim) = Some(Claim { first, answers });
        if self.closed.load(Ordering::Acquire) {
            self.close();
        }
        receiver
    }

    pub(crate) fn window(&self, lane: Lane) -> Arc<Semaphore> {
        self.lanes[lane.index()].window.clone()
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn send(&self, frame: Bytes) -> Result<(), LinkError> {
        self.frames.send(frame).await
    }

    /// Ends all sessions; the next one opens a new stream.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for lane in &self.lanes {
            *lock(&lane.claim) = None;
        }
    }

    /// Hands an answer to the session that waits for it. False when the peer broke the protocol.
    fn deliver(&self, frame: Bytes) -> bool {
        let Ok((head, reader)) = Head::decode("append answer", frame) else { return false };
        let Ok(answer) = decode_append_answer(reader) else { return false };
        let lane = &self.lanes[head.lane.index()];
        if lane.window.available_permits() >= WINDOW_MESSAGES {
            return false;
        }
        lane.window.add_permits(1);
        if let Some(claim) = lock(&lane.claim).as_ref()
            && head.seq >= claim.first
        {
            // A session that ended without being replaced no longer listens; its answers are dropped.
            let _ = claim.answers.send((head.seq, answer));
        }
        true
    }
}

/// Opens streams to one peer for one group, one at a time.
pub(crate) struct Mux {
    group: GroupId,
    pub(crate) link: Arc<dyn PeerLink>,
    open: Mutex<Option<Arc<OpenStream>>>,
}

impl Mux {
    pub(crate) fn new(group: GroupId, link: Arc<dyn PeerLink>) -> Self {
        Self { group, link, open: Mutex::new(None) }
    }

    /// The open stream, or a new one when there is none, it is over, or the peer has not answered a whole window.
    pub(crate) fn stream(&self, lane: Lane) -> Result<Arc<OpenStream>, LinkError> {
        let mut slot = lock(&self.open);
        if let Some(open) = slot.as_ref() {
            let stuck = open.lanes[lane.index()].window.available_permits() == 0;
            if !open.closed.load(Ordering::Acquire) && !stuck {
                return Ok(open.clone());
            }
            open.close();
        }
        *slot = None;
        let stream = self.link.append_stream(self.group)?;
        let open = Arc::new(OpenStream::new(stream.frames));
        tokio::spawn(receive(stream.answers, open.clone()));
        *slot = Some(open.clone());
        Ok(open)
    }
}

async fn receive(mut answers: mpsc::UnboundedReceiver<Bytes>, open: Arc<OpenStream>) {
    while let Some(frame) = answers.recv().await {
        if open.closed.load(Ordering::Acquire) {
            return;
        }
        if !open.deliver(frame) {
            tracing::warn!("a peer's append answer breaks the protocol; its stream ends");
            break;
        }
    }
    open.close();
}
