//! openraft's log on one group's part of the node journal.
//!
//! Votes, entries, truncations and purges go to the journal in the order openraft issues them, and the journal keeps that
//! order on disk (openraft's `io_ordering`): an entry is never durable before the vote it was accepted under.

use crate::lock;
use crate::records::{decode_entry, decode_log_id, decode_vote, encode_entry, encode_log_id, encode_vote};
use crate::types::{Entry, LogId, TypeConfig, Vote};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parliament_journal::{GroupLog, JournalFault};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex};
use tokio::sync::{oneshot, watch};

/// Bytes of entries that one message to a peer, or one step of a replay, carries; a single larger entry goes alone.
pub(crate) const READ_BYTES: usize = 1024 * 1024;

/// The ends of the log, as openraft was told.
#[derive(Clone, Debug, Default)]
struct Ends {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
}

/// One group's log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
    ends: Arc<Mutex<Ends>>,
    /// The greatest entry known to be durable here. One of a later term is greater, whatever was truncated before it.
    durable: Arc<watch::Sender<Option<LogId>>>,
}

impl LogStore {
    /// Reads where the log stands.
    pub(crate) fn open(log: GroupLog) -> io::Result<Self> {
        let state = log.state();
        let purged = state.purged.map(|(_, marker)| decode_log_id(marker)).transpose().map_err(io::Error::other)?;
        let vote = state.vote.map(decode_vote).transpose().map_err(io::Error::other)?;
        let committed = state.committed.map(decode_log_id).transpose().map_err(io::Error::other)?;
        let ends = Arc::new(Mutex::new(Ends { vote, committed, purged, last: purged }));
        let store = Self { log, ends, durable: Arc::new(watch::Sender::new(purged)) };
        if let Some(index) = state.last_index.filter(|index| purged.is_none_or(|p| p.index() < *index)) {
            let last = store.entry(index)?.ok_or_else(|| io::Error::other(format!("the log lacks its last entry {index}")))?;
            lock(&store.ends).last = Some(last.log_id);
            store.durable.send_replace(Some(last.log_id));
        }
        Ok(store)
    }

    /// Waits until an entry is durable here.
    pub(crate) async fn wait_durable(&self, entry: LogId) {
        // The sender lives as long as this.
        let _ = self.durable.subscribe().wait_for(|durable| *durable >= Some(entry)).await;
    }

    fn ends(&self) -> Ends {
        lock(&self.ends).clone()
    }
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.ends().purged
    }
    pub(crate) fn last(&self) -> Option<LogId> {
        self.ends().last
    }

    /// The entry at `index`, if the log has it.
    pub(crate) fn entry(&self, index: u64) -> io::Result<Option<Entry>> {
        let entries = self.log.read(index, index.saturating_add(1), READ_BYTES).map_err(fault)?;
        entries.into_iter().next().map(decode).transpose()
    }

    /// Entries from `from` up to but not including `to`, as many as [`READ_BYTES`] allow and at least one if there is one.
    pub(crate) fn read(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(from, to, READ_BYTES).map_err(fault)?;
        entries.into_iter().map(decode).collect()
    }

    /// The part of a range that the log has.
    fn present(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let ends = self.ends();
        let first = self.log.first_index().unwrap_or(u64::MAX);
        let end = ends.last.map_or(0, |last| last.index() + 1);
        (from.max(first), to.min(end))
    }

    /// Drops entries from `index` on. For recovery, before openraft runs.
    pub(crate) async fn truncate_from(&self, index: u64) -> io::Result<()> {
        let (done, ended) = completion();
        self.log.truncate_from(index, done);
        ended.await.map_err(|_| gone())??;
        let last = match index.checked_sub(1) {
            Some(before) => self.entry(before)?.map(|entry| entry.log_id),
            None => None,
        };
        let mut ends = lock(&self.ends);
        ends.last = last.or(ends.purged);
        Ok(())
    }
}

fn fault(fault: JournalFault) -> io::Error {
    io::Error::other(fault)
}

fn gone() -> io::Error {
    io::Error::other("the journal is closed")
}

fn decode((index, bytes): (u64, Bytes)) -> io::Result<Entry> {
    let entry = decode_entry(bytes).map_err(io::Error::other)?;
    if entry.log_id.index() == index {
        Ok(entry)
    } else {
        Err(io::Error::other(format!("the log has entry {} at index {index}", entry.log_id)))
    }
}

type Completion = parliament_journal::Done;

/// A completion that can be awaited.
fn completion() -> (Completion, oneshot::Receiver<io::Result<()>>) {
    let (sender, ended) = oneshot::channel();
    let done: Completion = Box::new(move |result| {
        let _ = sender.send(result.map_err(fault));
    });
    (done, ended)
}

/// For writes whose completion nobody awaits: later writes of the group complete after them, and fail when they failed.
fn unawaited(what: &'static str) -> Completion {
    Box::new(move |result| {
        if let Err(error) = result {
            tracing::error!(%error, what, "journal write failed");
        }
    })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (mut from, to) = self.present(&range);
        let mut entries = Vec::new();
        while from < to {
            let piece = self.read(from, to)?;
            from = piece.last().ok_or_else(|| io::Error::other(format!("the log lacks entry {from}")))?.log_id.index() + 1;
            entries.extend(piece);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.ends().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = self.present(&(start..end));
        if from < to { self.read(from, to) } else { Ok(Vec::new()) }
    }

    /// Reads piece by piece: after a restart the range may be the whole log.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = self.present(&range);
        let store = self.clone();
        let pieces = futures::stream::unfold(from, move |from| {
            let piece = (from < to).then(|| store.read(from, to));
            async move {
                let piece = piece?.and_then(|piece| {
                    if piece.is_empty() { Err(io::Error::other(format!("the log lacks entry {from}"))) } else { Ok(piece) }
                });
                let next = piece.as_ref().map_or(to, |piece| piece.last().map_or(to, |entry| entry.log_id.index() + 1));
                Some((piece, next))
            }
        });
        pieces
            .flat_map(|piece| {
                let items: Vec<Result<Entry, io::Error>> = match piece {
                    Ok(entries) => entries.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                futures::stream::iter(items)
            })
            .boxed()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let ends = self.ends();
        Ok(LogState { last_purged_log_id: ends.purged, last_log_id: ends.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, ended) = completion();
        lock(&self.ends).vote = Some(*vote);
        self.log.save_vote(encode_vote(vote), done);
        ended.await.map_err(|_| gone())?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            lock(&self.ends).committed = Some(committed);
            self.log.save_committed(encode_log_id(&committed));
        }
        Ok(())
    }

    /// Never beyond the log: a leader may commit what it has not flushed itself.
    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let ends = self.ends();
        Ok(ends.committed.min(ends.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut last = None;
        let encoded: Vec<(u64, Bytes)> = entries
            .into_iter()
            .map(|entry| {
                last = Some(entry.log_id);
                (entry.log_id.index(), encode_entry(&entry))
            })
            .collect();
        let durable = self.durable.clone();
        let done: Completion = Box::new(move |result| {
            if result.is_ok() {
                durable.send_if_modified(|known| last > *known && std::mem::replace(known, last) != last);
            }
            callback.io_completed(result.map_err(fault));
        });
        self.log.append(encoded, done);
        // Only now: a reader must find all that the ends promise.
        if last.is_some() {
            lock(&self.ends).last = last;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |last| last.index() + 1);
        let mut ends = lock(&self.ends);
        if ends.last.is_some_and(|last| last.index() >= from) {
            ends.last = last_log_id.or(ends.purged);
        }
        drop(ends);
        self.log.truncate_from(from, unawaited("truncation"));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut ends = lock(&self.ends);
        ends.purged = Some(upto);
        ends.last = ends.last.max(Some(upto));
        drop(ends);
        self.log.purge_to(upto.index(), encode_log_id(&upto), unawaited("purge"));
        Ok(())
    }
}
