//! Bodies between nodes: pushed ahead of the entries that name them, waited for at the append gate (I1), pulled when missing,
//! let go when nobody refers to them.

use crate::clock::boot_ms;
use crate::machine::BodyEvents;
use crate::missing::Missing;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parliament_bodies::{BodyFault, BodyStore, Receipt, Stage};
use parliament_groups::{BodyGate, GateOutcome, GateRequest};

use parliament_ids::{BodyHash, GroupId, NodeId, SessionKey};
use parliament_mail_api::{Rejection, Unserved, UploadId};
use parliament_mail_reads::{Bodies, ParsedCache, Unreadable, parsed_cache};
use parliament_rpc::{LinkError, Peer, PeerPool};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long the gate waits for a body that is on its way before it asks for it.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// How long the gate may take in all.
const GATE_MAX: Duration = Duration::from_secs(3);
/// How long a large body may take to a peer before the entry is proposed without waiting for it.
const PUSH_MAX: Duration = Duration::from_secs(15);
/// How long it may take to the last few, once more than half of the nodes that should have it do.
const PUSH_GRACE: Duration = Duration::from_secs(1);
/// How long a peer that was asked for a body and sent nothing is asked after the others, ms.
const SLOW_MS: u64 = 5_000;
/// How long a body that an entry may name is kept without a reference, ms.
const HOLD_MS: u64 = 600_000;
/// How long a write may wait for the journal's queue.
const PUT_PATIENCE: Duration = Duration::from_secs(5);
/// Unfinished uploads of this node; beyond it the oldest goes, and its session sends it again.
const UPLOADS_MAX: usize = 4096;
/// ENVELOPEs and the like kept in memory, bytes.
const PARSED_BYTES: u64 = 32 * 1024 * 1024;

/// This node's bodies and those of its peers.
pub struct BodyExchange {
    store: BodyStore,
    pool: Arc<PeerPool>,
    parsed: ParsedCache,
    missing: Missing,
    uploads: Mutex<Uploads>,
    keeping: Mutex<Keeping>,
    /// Peers that did not answer, and until when they are asked last; as many rows as there are nodes.
    slow: Mutex<HashMap<NodeId, u64>>,
    /// This node keeps no bodies.
    empty: AtomicBool,
    /// Nobody sends bodies here by himself.
    unpushed: AtomicBool,
    runtime: tokio::runtime::Handle,
}

#[derive(Default)]
struct Uploads {
    rows: HashMap<UploadId, (u64, Stage)>,
    begun: u64,
}

/// Bodies that are here and not referenced yet.
#[derive(Default)]
struct Keeping {
    /// An entry that names it may be appended until then.
    held: HashMap<BodyHash, u64>,
    /// Came at this time, and no account has referred to it since.
    fresh: HashMap<BodyHash, u64>,
    /// Since when some body may be a candidate for collection; `None` while there is none.
    oldest: Option<u64>,
    /// While a collection looks for references: what was held or referred to meanwhile, since the look may have missed it.
    touched: Option<HashSet<BodyHash>>,
}

impl Keeping {
    fn touch(&mut self, hash: BodyHash) {
        if let Some(touched) = &mut self.touched {
            touched.insert(hash);
        }
    }
    fn keeps(&self, hash: &BodyHash) -> bool {
        self.held.contains_key(hash) || self.touched.as_ref().is_some_and(|touched| touched.contains(hash))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(fault: &BodyFault) -> Unserved {
    if !fault.is_busy() {
        tracing::error!(%fault, "body store");
    }
    Unserved::Busy
}

impl BodyExchange {
    /// An exchange over a store; work that waits for peers runs on `runtime`.
    #[must_use]
    pub fn new(store: BodyStore, pool: Arc<PeerPool>, runtime: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self {
            store,
            pool,
            parsed: parsed_cache(PARSED_BYTES),
            missing: Missing::default(),
            slow: Mutex::default(),
            empty: AtomicBool::new(false),
            unpushed: AtomicBool::new(false),
            uploads: Mutex::default(),
            keeping: Mutex::default(),
            runtime,
        })
    }
    /// The store.
    #[must_use]
    pub fn store(&self) -> &BodyStore {
        &self.store
    }
    /// This node is to keep no bodies of others (a witness): what is pushed here is dropped, and nothing is missing.
    pub fn keep_none(&self) {
        self.empty.store(true, Ordering::Release);
    }
    /// This node is sent no bodies (an asynchronous copy): it asks for them at once.
    pub fn ask_for_all(&self) {
        self.unpushed.store(true, Ordering::Release);
    }
    fn keeps_none(&self) -> bool {
        self.empty.load(Ordering::Acquire)
    }
    pub(crate) fn parsed(&self) -> &ParsedCache {
        &self.parsed
    }

    fn came(&self, hash: BodyHash) {
        lock(&self.keeping).fresh.insert(hash, boot_ms());
    }

    /// Stores a small body here and sends it to `others` on the link that will carry its entry.
    pub(crate) async fn put_small(&self, bytes: Bytes, others: impl Iterator<Item = NodeId>) -> Result<Receipt, Unserved> {
        let receipt = self.store.put_patiently(bytes.clone(), PUT_PATIENCE).await.map_err(|e| refused(&e))?;
        self.came(receipt.hash());
        for node in others {
            // What is dropped here is pulled at the gate.
            let _ = self.pool.get(node).is_some_and(|peer| peer.push_small_body(receipt.hash(), bytes.clone()));
        }
        Ok(receipt)
    }

    pub(crate) fn upload(&self, upload: UploadId, offset: u64, bytes: &[u8]) -> Result<(), Rejection> {
        let mut uploads = lock(&self.uploads);
        if offset == 0 {
            if uploads.rows.len() >= UPLOADS_MAX
                && let Some(oldest) = uploads.rows.iter().min_by_key(|(_, row)| row.0).map(|(id, _)| *id)
            {
                uploads.rows.remove(&oldest);
            }
            uploads.begun += 1;
            let begun = uploads.begun;
            uploads.rows.insert(upload, (begun, self.store.stage()));
        }
        let Some((_, stage)) = uploads.rows.get_mut(&upload) else { return Err(Rejection::UploadLost) };
        let end = offset.saturating_add(bytes.len() as u64);
        if end <= stage.len() {
            // Told again.
            return Ok(());
        }
        // A gap means that pieces were lost, and a full stage that there is no room: either way it must begin anew.
        if offset != stage.len() || stage.write(bytes).is_err() {
            uploads.rows.remove(&upload);
            return Err(Rejection::UploadLost);
        }
        Ok(())
    }

    /// Stores a finished upload here and at all of `others` that are connected (rule 31: at all live voters, with a bound).
    pub(crate) async fn put_upload(
        self: &Arc<Self>,
        upload: UploadId,
        size: u64,
        hash: BodyHash,
        others: impl Iterator<Item = NodeId>,
    ) -> Result<Result<(Bytes, Receipt), Rejection>, Unserved> {
        let stage = lock(&self.uploads).rows.remove(&upload).map(|(_, stage)| stage).filter(|stage| stage.len() == size);
        let stored = tokio::task::block_in_place(|| {
            let receipt = match stage {
                Some(stage) => stage.finish(Some(hash))?,
                // The request is repeated: the upload was made a body by an earlier try.
                None => self.store.receipt(&hash).ok_or(BodyFault::Missing(hash))?,
            };
            Ok((self.store.read(&hash)?, receipt))
        });
        let (bytes, receipt) = match stored {
            Ok(stored) => stored,
            Err(BodyFault::Missing(_)) => return Ok(Err(Rejection::UploadLost)),
            Err(BodyFault::WrongHash { .. }) => return Ok(Err(Rejection::BadBody)),
            Err(fault) => return Err(refused(&fault)),
        };
        if receipt.size() != size {
            return Ok(Err(Rejection::BadBody));
        }
        self.came(hash);
        let peers: Vec<Arc<Peer>> = others.filter_map(|node| self.pool.get(node)).filter(|peer| peer.is_connected()).collect();
        let pushes = peers.into_iter().map(|peer| {
            let bytes = bytes.clone();
            async move { peer.push_large_body(hash, bytes).await.is_ok_and(|stored| stored) }
        });
        // A push that fails is made good by the gate's pull.
        most_of(pushes.collect(), PUSH_MAX, PUSH_GRACE).await;
        Ok(Ok((bytes, receipt)))
    }

    /// A session is over: its uploads go.
    pub fn end_session(&self, session: SessionKey) {
        lock(&self.uploads).rows.retain(|upload, _| upload.session != session);
    }

    /// A peer pushed a small body.
    pub fn arrived(&self, hash: BodyHash, bytes: Bytes) {
        if self.keeps_none() {
            return;
        }
        match self.store.put_expected(hash, bytes) {
            Ok(_) => self.came(hash),
            Err(error) => tracing::warn!(%hash, %error, "a pushed body was not kept"),
        }
    }

    /// A peer pushed a large body; true when it is durable here.
    pub async fn store_large(self: &Arc<Self>, hash: BodyHash, bytes: Bytes) -> bool {
        if self.keeps_none() {
            return false;
        }
        let store = self.store.clone();
        let stored = tokio::task::spawn_blocking(move || store.put_expected(hash, bytes).map(drop)).await;
        match stored {
            Ok(Ok(())) => {
                self.came(hash);
                true
            }
            other => {
                tracing::warn!(%hash, ?other, "a large body was not kept");
                false
            }
        }
    }

    /// A body for a peer, if it is here and sound.
    pub async fn for_peer(&self, hash: BodyHash) -> Option<Bytes> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.read(&hash).ok()).await.ok().flatten()
    }

    /// Has a body pulled, because a client waits for it (`urgent`) or an entry here names it.
    pub fn want(&self, hash: BodyHash, urgent: bool) {
        if !self.keeps_none() {
            self.missing.add(hash, urgent);
        }
    }

    /// Bodies that this node lacks, as far as known, the damaged ones included.
    #[must_use]
    pub fn lacking(&self) -> usize {
        self.missing.len()
    }

    /// True once after more bodies were missing than could be remembered: look through the tables again.
    #[must_use]
    pub fn take_overflow(&self) -> bool {
        self.missing.take_overflow()
    }

    /// Pulls what is missing, for ever.
    pub async fn pull_missing(self: Arc<Self>) {
        self.missing.run(&self).await;
    }

    /// True when all peers can be asked: what none of them has then is not to be had.
    pub(crate) fn can_ask_all(&self) -> bool {
        self.pool.all().iter().all(|peer| peer.is_connected() && !self.is_slow(peer.node()))
    }

    fn is_slow(&self, node: NodeId) -> bool {
        lock(&self.slow).get(&node).is_some_and(|until| boot_ms() < *until)
    }

    /// Asks peers for a body, `first` first; true when it is here then.
    pub(crate) async fn pull(&self, hash: BodyHash, first: Option<NodeId>) -> bool {
        let mut peers = self.pool.all();
        peers.sort_by_key(|peer| (self.is_slow(peer.node()), Some(peer.node()) != first, !peer.is_connected()));
        for peer in peers {
            if self.store.size(&hash).is_some() {
                return true;
            }
            match peer.fetch_body(hash).await {
                Ok(Some(bytes)) => match self.keep_pulled(hash, bytes).await {
                    Ok(()) => {
                        self.came(hash);
                        return true;
                    }
                    Err(error) => tracing::warn!(%hash, from = %peer.node(), %error, "a pulled body was not kept"),
                },
                // It may be cut off with its connection up: what else is missing is asked for elsewhere first.
                Err(LinkError::TimedOut) => drop(lock(&self.slow).insert(peer.node(), boot_ms() + SLOW_MS)),
                Ok(None) | Err(_) => {}
            }
        }
        self.store.size(&hash).is_some()
    }

    async fn keep_pulled(&self, hash: BodyHash, bytes: Bytes) -> Result<(), BodyFault> {
        let store = self.store.clone();
        let put = tokio::task::spawn_blocking(move || store.put_expected(hash, bytes).map(drop));
        put.await.unwrap_or(Err(BodyFault::Missing(hash)))
    }

    /// An entry that names these may be appended here soon: they are not collected for [`HOLD_MS`]. Those that are here when this
    /// returns stay: the pins wait for a removal under way, and a later one sees that they are held.
    fn hold(&self, hashes: &[BodyHash]) {
        hashes.iter().for_each(|hash| self.store.pin(hash));
        let until = boot_ms() + HOLD_MS;
        {
            let mut keeping = lock(&self.keeping);
            for hash in hashes {
                keeping.held.insert(*hash, until);
                keeping.touch(*hash);
            }
        }
        hashes.iter().for_each(|hash| self.store.unpin(hash));
    }

    /// Removes bodies that nobody has referred to for a while. `referenced` lists what the accounts of this node's replicas
    /// refer to, each account at one moment; call this only when no replica here has an unapplied entry. How many bodies went.
    pub fn collect(&self, referenced: impl FnOnce() -> Option<HashSet<BodyHash>>) -> usize {
        self.collect_at(boot_ms(), referenced)
    }

    fn collect_at(&self, now: u64, referenced: impl FnOnce() -> Option<HashSet<BodyHash>>) -> usize {
        {
            let keeping = &mut *lock(&self.keeping);
            keeping.held.retain(|_, until| now < *until);
            let orphans: Vec<(BodyHash, u64)> =
                keeping.fresh.iter().filter(|(_, since)| **since + HOLD_MS <= now).map(|(hash, since)| (*hash, *since)).collect();
            for (hash, since) in orphans {
                keeping.fresh.remove(&hash);
                self.store.release(hash, since);
                keeping.oldest = Some(keeping.oldest.unwrap_or(since).min(since));
            }
            // To look through all accounts is worth it only when something may go.
            if keeping.oldest.is_none_or(|since| now < since + HOLD_MS) {
                return 0;
            }
            keeping.oldest = None;
            keeping.touched = Some(HashSet::new());
        }
        let collected = referenced().map(|known| self.store.collect(now, |hash| known.contains(hash) || lock(&self.keeping).keeps(hash)));
        let mut keeping = lock(&self.keeping);
        keeping.touched = None;
        // What is not old enough yet, or pinned, or could not be decided waits for another round.
        if collected.is_none_or(|collected| collected.waiting > 0) {
            keeping.oldest.get_or_insert(now);
        }
        collected.map_or(0, |collected| collected.removed)
    }

    async fn pass(self: Arc<Self>, request: GateRequest) -> GateOutcome {
        for (_, hash) in &request.lenient {
            if self.store.size(hash).is_none() {
                self.want(*hash, false);
            }
        }
        let strict: Vec<BodyHash> = request.strict.iter().map(|(_, hash)| *hash).collect();
        let on_its_way = if self.unpushed.load(Ordering::Acquire) { Duration::ZERO } else { ON_ITS_WAY };
        let missing = self.store.wait_present(&strict, on_its_way).await;
        let pulls = missing.iter().map(|hash| self.pull(*hash, Some(request.source)));
        let got = tokio::time::timeout(GATE_MAX, futures::future::join_all(pulls)).await;
        match got {
            Ok(got) if got.iter().all(|got| *got) => GateOutcome::Open,
            _ => GateOutcome::Closed(format!("{} of {} bodies are not to be had", missing.len(), strict.len())),
        }
    }
}

/// Waits for pushes to other nodes: for all, but only a little longer for the last ones once more than half of the nodes, this one
/// included, have the body. One that hangs must not hold up an entry that a quorum can take.
async fn most_of(mut pushes: FuturesUnordered<impl Future<Output = bool>>, most: Duration, grace: Duration) {
    let nodes = pushes.len() + 1;
    let mut have = 1;
    let mut until = Instant::now() + most;
    while let Ok(Some(stored)) = tokio::time::timeout_at(until, pushes.next()).await {
        have += usize::from(stored);
        if have * 2 > nodes {
            until = until.min(Instant::now() + grace);
        }
    }
}

/// The gate of a node.
pub struct Gate(pub Arc<BodyExchange>);

impl BodyGate for Gate {
    fn gate(&self, _: GroupId, request: GateRequest) -> BoxFuture<'_, GateOutcome> {
        // Pulling needs timers and sockets of the general runtime; the caller may be on another one.
        let exchange = self.0.clone();
        // Held before they are looked at, so that a collector that runs now leaves them.
        let strict: Vec<BodyHash> = request.strict.iter().map(|(_, hash)| *hash).collect();
        exchange.hold(&strict);
        if exchange.store.missing(&strict).is_empty() && request.lenient.is_empty() {
            return Box::pin(std::future::ready(GateOutcome::Open));
        }
        let task = self.0.runtime.spawn(exchange.pass(request));
        let guard = AbortOnDrop(task);
        Box::pin(async move { guard.wait().await })
    }
}

/// A gate that nobody waits for any more stops pulling.
struct AbortOnDrop(tokio::task::JoinHandle<GateOutcome>);

impl AbortOnDrop {
    async fn wait(mut self) -> GateOutcome {
        (&mut self.0).await.unwrap_or_else(|e| GateOutcome::Closed(e.to_string()))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl BodyEvents for BodyExchange {
    fn applied(&self, hashes: &[BodyHash]) {
        let mut keeping = lock(&self.keeping);
        for hash in hashes {
            // Refused entries leave bodies that nobody refers to.
            if keeping.held.remove(hash).is_some() {
                keeping.fresh.insert(*hash, boot_ms());
            }
            keeping.touch(*hash);
        }
    }
    fn referenced(&self, hash: BodyHash) {
        let mut keeping = lock(&self.keeping);
        keeping.fresh.remove(&hash);
        keeping.touch(hash);
    }
    fn released(&self, hash: BodyHash) {
        let now = boot_ms();
        self.store.release(hash, now);
        lock(&self.keeping).oldest.get_or_insert(now);
    }
}

impl Bodies for BodyExchange {
    fn read(&self, hash: &BodyHash) -> Result<Bytes, Unreadable> {
        self.store.read(hash).map_err(|error| {
            tracing::warn!(%hash, %error, "a body cannot be read");
            Unreadable(*hash)
        })
    }
}

impl BodyExchange {
    pub(crate) fn read_range(&self, hash: &BodyHash, offset: u64, length: usize) -> Result<Bytes, Unreadable> {
        self.store.read_range(hash, offset, length as u64).map_err(|error| {
            tracing::warn!(%hash, %error, "a body cannot be read");
            Unreadable(*hash)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parliament_bodies::Options;
    use parliament_ids::Boot;
    use parliament_journal::Journal;
    use parliament_journal::sim::SimDisk;

    const LATER: u64 = 2 * HOLD_MS;

    #[tokio::test]
    async fn a_push_that_hangs_is_not_waited_for_once_a_majority_has_the_body() {
        let waited = async |pushes: &[(u64, bool)]| {
            let began = Instant::now();
            let push = |(ms, stored): (u64, bool)| async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                stored
            };
            most_of(pushes.iter().copied().map(push).collect(), Duration::from_secs(2), Duration::from_millis(300)).await;
            began.elapsed().as_millis()
        };
        assert!(waited(&[]).await < 200);
        assert!((200..2_000).contains(&waited(&[(10, true), (200, true)]).await), "all live nodes have it");
        assert!((310..2_000).contains(&waited(&[(10, true), (60_000, true)]).await), "one hangs");
        assert!(waited(&[(10, false), (60_000, true)]).await >= 2_000, "too few have it");
        assert!((320..2_000).contains(&waited(&[(10, true), (20, true), (60_000, true), (60_000, true)]).await));
    }

    /// An exchange without peers, and a body in it that was released a while ago.
    async fn with_released_body() -> (Arc<BodyExchange>, BodyHash) {
        let disk = Arc::new(SimDisk::default());
        let journal =
            parliament_journal::Options { disk: disk.clone(), segment_bytes: 512 * 1024, ..parliament_journal::Options::new("/j") };
        let (journal, mut driver) = Journal::open_driven(journal).unwrap();
        let store = BodyStore::open(journal, Options { disk, ..Options::new("/b") }).unwrap();
        let runtime = tokio::runtime::Handle::current();
        let pool = Arc::new(PeerPool::new(runtime.clone(), [0; 16], NodeId(1), Boot(1), None));
        let exchange = BodyExchange::new(store, pool, runtime);
        let receipt = exchange.put_small(Bytes::from_static(b"mail"), std::iter::empty()).await.unwrap();
        let hash = receipt.hash();
        driver.write_all();
        exchange.referenced(hash);
        exchange.released(hash);
        drop(receipt);
        (exchange, hash)
    }

    #[tokio::test]
    async fn a_body_that_nobody_refers_to_goes_and_one_that_somebody_refers_to_stays() {
        let (exchange, hash) = with_released_body().await;
        assert_eq!(exchange.collect_at(boot_ms(), || panic!("nothing is old enough")), 0);
        assert_eq!(exchange.collect_at(boot_ms() + LATER, || Some(HashSet::from([hash]))), 0);
        assert!(exchange.store.size(&hash).is_some());
        exchange.released(hash);
        assert_eq!(exchange.collect_at(boot_ms() + LATER, || Some(HashSet::new())), 1);
        assert!(exchange.store.size(&hash).is_none());
    }

    #[tokio::test]
    async fn orphans_go_too() {
        let (exchange, _) = with_released_body().await;
        let orphan = exchange.put_small(Bytes::from_static(b"of an entry that was refused"), std::iter::empty()).await.unwrap().hash();
        assert_eq!(exchange.collect_at(boot_ms() + LATER, || Some(HashSet::new())), 2);
        assert!(exchange.store.size(&orphan).is_none());
    }

    /// The references are listed before the message that names the body anew is in the tables.
    #[tokio::test]
    async fn a_body_named_again_while_a_collection_looks_around_stays() {
        for applied_before_removal in [false, true] {
            let (exchange, hash) = with_released_body().await;
            let during = exchange.clone();
            let removed = exchange.collect_at(boot_ms() + LATER, || {
                let request = GateRequest { strict: vec![(9, hash)], lenient: Vec::new(), source: NodeId(2) };
                let gate = Gate(during.clone());
                let outcome = futures::FutureExt::now_or_never(gate.gate(GroupId(1), request));
                assert_eq!(outcome, Some(GateOutcome::Open), "acknowledged: the body is here");
                if applied_before_removal {
                    during.applied(&[hash]);
                    during.referenced(hash);
                }
                Some(HashSet::new())
            });
            assert_eq!((removed, exchange.store.size(&hash).is_some()), (0, true), "{applied_before_removal}");
        }
    }
}
