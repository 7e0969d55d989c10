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

/// One open stream.
pub(crate) struct OpenStream {
    frames: Box<dyn FrameSink>,
    lanes: [LaneState; Lane::COUNT],
    /// Numbers ascend over both lanes and over all streams of the group: a transport may deliver an answer that belongs to an
    /// earlier stream, and it must never pass for the answer to a message of this one.
    next_seq: Arc<AtomicU64>,
    first_seq: u64,
    closed: AtomicBool,
}

impl OpenStream {
    fn new(frames: Box<dyn FrameSink>, next_seq: Arc<AtomicU64>) -> Self {
        let first_seq = next_seq.load(Ordering::Relaxed);
        let lane = || LaneState { claim: Mutex::new(None), window: Arc::new(Semaphore::new(WINDOW_MESSAGES)) };
        Self { frames, lanes: [lane(), lane()], next_seq, first_seq, closed: AtomicBool::new(false) }
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
        if head.seq < self.first_seq {
            return true;
        }
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
    next_seq: Arc<AtomicU64>,
    open: Mutex<Option<Arc<OpenStream>>>,
}

impl Mux {
    /// `next_seq` counts the messages of all streams of the group from this node since it started.
    pub(crate) fn new(group: GroupId, link: Arc<dyn PeerLink>, next_seq: Arc<AtomicU64>) -> Self {
        Self { group, link, next_seq, open: Mutex::new(None) }
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
        let open = Arc::new(OpenStream::new(stream.frames, self.next_seq.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode_append_answer;
    use futures::future::BoxFuture;
    use std::path::PathBuf;

    /// Hands its frames out; the answers of every stream go to the latest, as a transport may do.
    #[derive(Default)]
    struct Link(Mutex<Vec<mpsc::UnboundedSender<Bytes>>>);

    impl PeerLink for Link {
        fn call(&self, _: GroupId, _: crate::CallKind, _: Bytes) -> BoxFuture<'_, Result<Bytes, LinkError>> {
            Box::pin(std::future::pending())
        }
        fn append_stream(&self, _: GroupId) -> Result<crate::AppendStream, LinkError> {
            let (answer, answers) = mpsc::unbounded_channel();
            lock(&self.0).push(answer);
            let (frames, _) = mpsc::channel::<Bytes>(1);
            Ok(crate::AppendStream { frames: Box::new(frames), answers })
        }
        fn send_snapshot(&self, _: GroupId, _: Bytes, _: PathBuf) -> BoxFuture<'_, Result<Bytes, LinkError>> {
            Box::pin(std::future::pending())
        }
    }

    fn answer(seq: u64) -> Bytes {
        encode_append_answer(Head { lane: Lane::Replication, seq }, &AppendAnswer::Raft(Ok(None)))
    }

    fn take_place(open: &OpenStream) -> u64 {
        open.window(Lane::Replication).try_acquire_owned().unwrap().forget();
        open.next_seq()
    }

    #[tokio::test]
    async fn an_answer_of_an_earlier_stream_never_counts_for_a_later_one() {
        let link = Arc::new(Link::default());
        let mux = Mux::new(GroupId(1), link.clone(), Arc::default());
        let first = mux.stream(Lane::Replication).unwrap();
        let _given_up = first.claim(Lane::Replication);
        let old = take_place(&first);
        first.close();
        let second = mux.stream(Lane::Replication).unwrap();
        let mut answers = second.claim(Lane::Replication);
        let new = take_place(&second);
        let latest = lock(&link.0).last().unwrap().clone();
        latest.send(answer(old)).unwrap();
        latest.send(answer(new)).unwrap();
        assert_eq!(answers.recv().await.unwrap().0, new);
        assert_eq!(second.window(Lane::Replication).available_permits(), WINDOW_MESSAGES);
    }

    #[tokio::test]
    async fn a_session_hears_nothing_of_its_predecessors_and_unasked_answers_end_the_stream() {
        let link = Arc::new(Link::default());
        let mux = Mux::new(GroupId(1), link.clone(), Arc::default());
        let open = mux.stream(Lane::Replication).unwrap();
        let mut before = open.claim(Lane::Replication);
        let stale = take_place(&open);
        let mut after = open.claim(Lane::Replication);
        assert!(before.recv().await.is_none(), "the lane was taken over");
        let fresh = take_place(&open);
        let peer = lock(&link.0).last().unwrap().clone();
        peer.send(answer(stale)).unwrap();
        peer.send(answer(fresh)).unwrap();
        assert_eq!(after.recv().await.unwrap().0, fresh);
        peer.send(answer(fresh + 1)).unwrap();
        assert!(after.recv().await.is_none(), "more answers than messages");
        assert!(!Arc::ptr_eq(&open, &mux.stream(Lane::Replication).unwrap()));
    }
}
