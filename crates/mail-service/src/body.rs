//! Bodies between nodes: pushed ahead of the entries that name them, waited for at the append gate (I1), pulled when missing,
//! let go when nobody refers to them.

use crate::clock::boot_ms;
use crate::machine::BodyEvents;
use bytes::Bytes;
use futures::future::BoxFuture;
use parliament_bodies::{BodyFault, BodyStore, Receipt, Stage};
use parliament_groups::{BodyGate, GateOutcome, GateRequest};

use parliament_ids::{BodyHash, GroupId, NodeId, SessionKey};
use parliament_mail_api::{Rejection, Unserved, UploadId};
use parliament_mail_reads::{Bodies, ParsedCache, Unreadable, parsed_cache};
use parliament_rpc::{Peer, PeerPool};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the gate waits for a body that is on its way before it asks for it.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// How long the gate may take in all.
const GATE_MAX: Duration = Duration::from_secs(3);
/// How long a large body may take to a peer before the entry is proposed without waiting for it.
const PUSH_MAX: Duration = Duration::from_secs(15);
/// Bodies being pulled in the background at once.
const PULLS_MAX: usize = 64;
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
    pulling: Mutex<HashSet<BodyHash>>,
    uploads: Mutex<Uploads>,
    keeping: Mutex<Keeping>,
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
            pulling: Mutex::default(),
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
        let pushes = peers.iter().map(|peer| {
            let bytes = bytes.clone();
            async move { tokio::time::timeout(PUSH_MAX, peer.push_large_body(hash, bytes)).await }
        });
        // A push that fails is made good by the gate's pull.
        futures::future::join_all(pushes).await;
        Ok(Ok((bytes, receipt)))
    }

    /// A session is over: its uploads go.
    pub fn end_session(&self, session: SessionKey) {
        lock(&self.uploads).rows.retain(|upload, _| upload.session != session);
    }

    /// A peer pushed a small body.
    pub fn arrived(&self, hash: BodyHash, bytes: Bytes) {
        match self.store.put_expected(hash, bytes) {
            Ok(_) => self.came(hash),
            Err(error) => tracing::warn!(%hash, %error, "a pushed body was not kept"),
        }
    }

    /// A peer pushed a large body; true when it is durable here.
    pub async fn store_large(self: &Arc<Self>, hash: BodyHash, bytes: Bytes) -> bool {
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

    /// Pulls a body in the background, because a read met its absence.
    pub fn want(self: &Arc<Self>, hash: BodyHash) {
        let this = self.clone();
        {
            let mut pulling = lock(&self.pulling);
            if pulling.len() >= PULLS_MAX || !pulling.insert(hash) {
                return;
            }
        }
        self.runtime.spawn(async move {
            let got = this.pull(hash, None).await;
            lock(&this.pulling).remove(&hash);
            tracing::info!(%hash, got, "pulled a body that was missing here");
        });
    }

    /// Asks peers for a body, `first` first; true when it is here then.
    async fn pull(&self, hash: BodyHash, first: Option<NodeId>) -> bool {
        let mut peers = self.pool.all();
        peers.sort_by_key(|peer| (Some(peer.node()) != first, !peer.is_connected()));
        for peer in peers {
            if self.store.size(&hash).is_some() {
                return true;
            }
            if let Ok(Some(bytes)) = peer.fetch_body(hash).await {
                match self.keep_pulled(hash, bytes).await {
                    Ok(()) => {
                        self.came(hash);
                        return true;
                    }
                    Err(error) => tracing::warn!(%hash, from = %peer.node(), %error, "a pulled body was not kept"),
                }
            }
        }
        self.store.size(&hash).is_some()
    }

    async fn keep_pulled(&self, hash: BodyHash, bytes: Bytes) -> Result<(), BodyFault> {
        let store = self.store.clone();
        let put = tokio::task::spawn_blocking(move || store.put_expected(hash, bytes).map(drop));
        put.await.unwrap_or(Err(BodyFault::Missing(hash)))
    }

    /// An entry that names these may be appended here soon: they are not collected for [`HOLD_MS`].
    fn hold(&self, hashes: &[BodyHash]) {
        let until = boot_ms() + HOLD_MS;
        lock(&self.keeping).held.extend(hashes.iter().map(|hash| (*hash, until)));
    }

    /// Removes bodies that nobody has referred to for a while. `referenced` lists what the accounts of this node's replicas
    /// refer to; call this only when no replica here has an unapplied entry. How many bodies went.
    pub fn collect(&self, referenced: impl FnOnce() -> Option<HashSet<BodyHash>>) -> usize {
        let now = boot_ms();
        let held: HashSet<BodyHash> = {
            let mut keeping = lock(&self.keeping);
            keeping.held.retain(|_, until| now < *until);
            let orphans: Vec<BodyHash> =
                keeping.fresh.iter().filter(|(_, since)| **since + HOLD_MS <= now).map(|(hash, _)| *hash).collect();
            for hash in &orphans {
                keeping.fresh.remove(hash);
                self.store.release(*hash, now);
            }
            keeping.held.keys().copied().collect()
        };
        // A look that changes nothing tells whether there is anything to do.
        if self.store.collect(now, |_| true).referenced == 0 && self.store.collect(now, |_| true).waiting == 0 {
            return 0;
        }
        let Some(referenced) = referenced() else { return 0 };
        self.store.collect(now, |hash| held.contains(hash) || referenced.contains(hash)).removed
    }

    async fn pass(self: Arc<Self>, request: GateRequest) -> GateOutcome {
        for (_, hash) in &request.lenient {
            if self.store.size(hash).is_none() {
                self.want(*hash);
            }
        }
        let strict: Vec<BodyHash> = request.strict.iter().map(|(_, hash)| *hash).collect();
        let missing = self.store.wait_present(&strict, ON_ITS_WAY).await;
        let pulls = missing.iter().map(|hash| self.pull(*hash, Some(request.source)));
        let got = tokio::time::timeout(GATE_MAX, futures::future::join_all(pulls)).await;
        match got {
            Ok(got) if got.iter().all(|got| *got) => GateOutcome::Open,
            _ => GateOutcome::Closed(format!("{} of {} bodies are not to be had", missing.len(), strict.len())),
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
            keeping.held.remove(hash);
        }
    }
    fn referenced(&self, hash: BodyHash) {
        lock(&self.keeping).fresh.remove(&hash);
    }
    fn released(&self, hash: BodyHash) {
        self.store.release(hash, boot_ms());
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
