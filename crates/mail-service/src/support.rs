//! The promises of [`parliament_routing`] in motion: asks the voters of group 0 for support, answers as a voter, gathers
//! withdrawals for a take-over, and begins a new boot when this one was withdrawn.

use crate::clock::boot_ms;
use crate::pace::Pace;
use parliament_ids::limits::{SUPPORT_INTERVAL_MS, SUPPORT_MS};
use parliament_ids::{Boot, NodeId, VotersVersion};
use parliament_journal::Journal;
use parliament_routing::{Granted, OwnSupport, Promises, Reading, VoterList, Withdrawn};
use parliament_rpc::PeerPool;
use parliament_rpc::v1::{SupportReply, WithdrawReply};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::oneshot;

/// The journal note under which the boot counter is kept.
const BOOT_NOTE: &[u8] = b"boot";
/// Prefix of the notes of withdrawals, followed by the node.
const WITHDRAWN_NOTE: &[u8] = b"withdrawn/";
/// The journal note of the oldest list of voters whose requests are answered.
pub(crate) const OLDEST_LIST_NOTE: &[u8] = b"oldest-list";
/// How often a take-over asks a voter whose promise still runs.
const WITHDRAW_RETRY_MS: u64 = 25;

/// This node's side of all promises.
pub struct Support {
    pub(crate) me: NodeId,
    /// The voters of group 0, whose promises count. Changed only with `own` locked.
    pub(crate) list: RwLock<Arc<VoterList>>,
    /// When this node was told that it votes, its clock; it knows of nobody then.
    pub(crate) votes_since_ms: AtomicU64,
    /// The nodes that are supported: those of the cluster.
    members: RwLock<BTreeSet<NodeId>>,
    pool: Arc<PeerPool>,
    pub(crate) journal: Journal,
    pub(crate) own: Mutex<OwnSupport>,
    pub(crate) book: Mutex<Promises>,
    /// The durable withdrawals. Held while one is journaled, so that the note of a node only rises. The journal tells of a note
    /// before it is durable, and a caller may leave before it is, so the journal is not asked.
    pub(crate) withdrawn: tokio::sync::Mutex<BTreeMap<NodeId, Boot>>,
    /// Copy of `own`'s majority time, for the read path.
    pub(crate) trusted_until: AtomicU64,
    /// Which of the promises count for reads.
    pace: Pace,
    /// Copy of `own`'s boot.
    boot: AtomicU64,
    /// This node wants to begin a new boot.
    renounced: AtomicBool,
    /// Wakes [`Support::run`] for that at once.
    hurry: tokio::sync::Notify,
    /// The greatest boot that a majority of the voters has promised anything to.
    supported: tokio::sync::watch::Sender<Boot>,
}

/// Journals a note and waits until it is durable.
///
/// # Errors
/// When the journal has failed: the node must stop.
pub async fn put_note(journal: &Journal, key: &[u8], value: &[u8]) -> Result<(), String> {
    let (sender, done) = oneshot::channel();
    journal.put_note(key, value, Box::new(move |result| drop(sender.send(result))));
    match done.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fault)) => Err(fault.to_string()),
        Err(_) => Err("the journal is closed".into()),
    }
}

pub(crate) fn withdrawn_note(node: NodeId) -> Vec<u8> {
    [WITHDRAWN_NOTE, &node.0.to_le_bytes()].concat()
}

fn number(note: Option<Vec<u8>>) -> Option<u64> {
    note.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
}

/// Takes the next boot number, durably.
///
/// # Errors
/// When the journal has failed.
pub async fn next_boot(journal: &Journal) -> Result<Boot, String> {
    let boot = number(journal.note(BOOT_NOTE)).unwrap_or(0) + 1;
    put_note(journal, BOOT_NOTE, &boot.to_le_bytes()).await?;
    Ok(Boot(boot))
}

impl Support {
    /// Support for `boot`, which [`next_boot`] has just made. `nodes` are all nodes, `list` has the voters of group 0.
    #[must_use]
    pub fn new(me: NodeId, boot: Boot, nodes: &[NodeId], list: VoterList, pool: Arc<PeerPool>, journal: Journal) -> Arc<Self> {
        // All that were ever journaled: of a node that joined, too, whose entry this node has not seen again yet.
        let floor = |(key, value): (Vec<u8>, Vec<u8>)| {
            let node = number(key.get(WITHDRAWN_NOTE.len()..).map(<[u8]>::to_vec))?;
            Some((NodeId(node), Boot(number(Some(value))?)))
        };
        let floors: BTreeMap<NodeId, Boot> = journal.notes(WITHDRAWN_NOTE).into_iter().filter_map(floor).collect();
        let oldest_list = VotersVersion(number(journal.note(OLDEST_LIST_NOTE)).unwrap_or(0));
        let book = Promises::new(boot_ms(), floors.clone(), oldest_list);
        Arc::new(Self {
            me,
            own: Mutex::new(OwnSupport::new(boot, list.nodes.iter().copied())),
            book: Mutex::new(book),
            list: RwLock::new(Arc::new(list)),
            votes_since_ms: AtomicU64::new(0),
            members: RwLock::new(nodes.iter().copied().collect()),
            pool,
            journal,
            withdrawn: tokio::sync::Mutex::new(floors),
            trusted_until: AtomicU64::new(0),
            pace: Pace::default(),
            boot: AtomicU64::new(boot.0),
            renounced: AtomicBool::new(false),
            hurry: tokio::sync::Notify::new(),
            supported: tokio::sync::watch::Sender::new(Boot(0)),
        })
    }

    /// The boot under which leases are held now.
    #[must_use]
    pub fn boot(&self) -> Boot {
        Boot(self.boot.load(Ordering::Acquire))
    }

    /// True while a majority's promises to `boot` hold: this node is not cut off. Whether it may answer from its own tables is said by
    /// [`Support::reads_locally`].
    #[must_use]
    pub fn trusted(&self, boot: Boot) -> bool {
        boot_ms() < self.trusted_until.load(Ordering::Acquire) && self.boot() == boot
    }

    /// True when the node was heard from within [`SUPPORT_MS`] (always for this node).
    #[must_use]
    pub fn is_live(&self, node: NodeId) -> bool {
        if node == self.me {
            return true;
        }
        // Nodes ask the voters of group 0 only; another node judges by its link, as does one that was not asked yet.
        let (now, since) = (boot_ms(), self.votes_since_ms.load(Ordering::Acquire));
        if self.list().nodes.contains(&self.me) && (since == 0 || now >= since + SUPPORT_MS) {
            self.book.lock().unwrap_or_else(PoisonError::into_inner).is_live(node, now)
        } else {
            self.pool.get(node).is_some_and(|peer| peer.is_connected())
        }
    }

    /// True when a greater boot of the node is known.
    #[must_use]
    pub fn boot_ended(&self, node: NodeId, boot: Boot) -> bool {
        if node == self.me {
            return boot < self.boot();
        }
        self.book.lock().unwrap_or_else(PoisonError::into_inner).boot_of(node).is_some_and(|known| known > boot)
    }

    /// Group 0 says anew which nodes belong to the cluster. Those that were removed get no support any more.
    pub fn set_members(&self, nodes: impl IntoIterator<Item = NodeId>) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = nodes.into_iter().collect();
    }

    /// Answers a request for support.
    #[must_use]
    pub fn on_support(&self, node: NodeId, boot: Boot, list: VotersVersion) -> SupportReply {
        if !self.members.read().unwrap_or_else(PoisonError::into_inner).contains(&node) {
            return SupportReply::default();
        }
        let now = boot_ms();
        let granted = self.book.lock().unwrap_or_else(PoisonError::into_inner).support(node, boot, list, now);
        SupportReply { granted: granted == Granted::Yes, withdrawn: granted == Granted::Never, clock_ms: now }
    }

    /// Answers a request to withdraw; journals the withdrawal before it says so.
    pub async fn on_withdraw(&self, node: NodeId, boot: Boot, list: VotersVersion) -> WithdrawReply {
        let book = || self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let outdated = WithdrawReply { withdrawn: false, remaining_ms: WITHDRAW_RETRY_MS };
        let answer = book().withdraw(node, boot, list, boot_ms());
        match answer {
            Withdrawn::NotYet(remaining_ms) => WithdrawReply { withdrawn: false, remaining_ms },
            Withdrawn::Outdated => outdated,
            // Also when the floor rose in an earlier call: that call's journal write may still be under way, or may have failed.
            Withdrawn::Yes { .. } => {
                let mut withdrawn = self.withdrawn.lock().await;
                // What is told from here on, a list that is settled later knows of.
                if !book().answers(list) {
                    return outdated;
                }
                let durable = match withdrawn.get(&node) {
                    Some(floor) if *floor >= boot => Ok(()),
                    _ => put_note(&self.journal, &withdrawn_note(node), &boot.0.to_le_bytes()).await.map(|()| {
                        withdrawn.insert(node, boot);
                    }),
                };
                WithdrawReply { withdrawn: durable.is_ok(), remaining_ms: SUPPORT_MS }
            }
        }
    }

    /// Gathers withdrawals of `(node, boot)` until a majority of group 0's voters has withdrawn or `deadline_ms` of the
    /// boot-time clock has come. The voters that withdrew, when they are a majority, and how many voters there are.
    pub async fn withdrawals(self: &Arc<Self>, node: NodeId, boot: Boot, deadline_ms: u64) -> Option<(Vec<NodeId>, u32)> {
        let list = self.list();
        let (sender, mut withdrew) = tokio::sync::mpsc::unbounded_channel();
        let mut asking = tokio::task::JoinSet::new();
        for voter in list.nodes.iter().copied() {
            let (this, sender, version) = (self.clone(), sender.clone(), list.version);
            asking.spawn(async move {
                while boot_ms() < deadline_ms {
                    let answer = this.ask_withdrawal(voter, node, boot, version).await;
                    if answer.as_ref().is_some_and(|a| a.withdrawn) {
                        let _ = sender.send(voter);
                        return;
                    }
                    let wait = answer.map_or(WITHDRAW_RETRY_MS, |a| a.remaining_ms.clamp(1, WITHDRAW_RETRY_MS));
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
            });
        }
        drop(sender);
        let gathering = async {
            let mut voters = Vec::new();
            while let Some(voter) = withdrew.recv().await {
                voters.push(voter);
                if list.is_majority(voters.len()) {
                    return Some((voters, u32::try_from(list.nodes.len()).unwrap_or(u32::MAX)));
                }
            }
            None
        };
        // A voter that does not answer must not hold up the next look at the facts.
        let left = Duration::from_millis(deadline_ms.saturating_sub(boot_ms()));
        tokio::time::timeout(left, gathering).await.ok().flatten()
    }

    async fn ask_withdrawal(&self, voter: NodeId, node: NodeId, boot: Boot, list: VotersVersion) -> Option<WithdrawReply> {
        if voter == self.me {
            return Some(self.on_withdraw(node, boot, list).await);
        }
        self.pool.get(voter)?.withdraw(node, boot, list).await.ok()
    }

    /// Asks for support every [`SUPPORT_INTERVAL_MS`] until dropped; begins a new boot when this one was withdrawn. Ends with
    /// a reason when the journal has failed.
    pub async fn run(self: Arc<Self>) -> String {
        let mut interval = tokio::time::interval(Duration::from_millis(SUPPORT_INTERVAL_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.hurry.notified() => {}
            }
            let withdrawn = self.own.lock().unwrap_or_else(PoisonError::into_inner).is_withdrawn(boot_ms());
            if self.renounced.swap(false, Ordering::AcqRel) || withdrawn {
                match next_boot(&self.journal).await {
                    Ok(boot) => self.begin(boot),
                    Err(fault) => return fault,
                }
            }
            let list = self.list();
            for voter in list.nodes.iter().copied() {
                let (this, version) = (self.clone(), list.version);
                tokio::spawn(async move { this.ask_support(voter, version).await });
            }
        }
    }

    /// Gives up all leases of this boot, soon: what this node still can serve it takes again.
    pub fn renounce(&self) {
        self.renounced.store(true, Ordering::Release);
        self.hurry.notify_one();
    }

    /// Returns when a majority of the voters supports a greater boot: they know by then that `boot` is over.
    pub async fn begun_after(&self, boot: Boot) {
        // The sender lives as long as this.
        let _ = self.supported.subscribe().wait_for(|supported| *supported > boot).await;
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    fn begin(&self, boot: Boot) {
        tracing::warn!(old = %self.boot(), new = %boot, "a new boot begins: all leases of the old one are over");
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        *own = OwnSupport::new(boot, self.list().nodes.iter().copied());
        self.trusted_until.store(0, Ordering::Release);
        self.pace.reset();
        self.boot.store(boot.0, Ordering::Release);
    }

    async fn ask_support(&self, voter: NodeId, list: VotersVersion) {
        let (boot, sent) = (self.boot(), boot_ms());
        let reply = if voter == self.me {
            self.on_support(self.me, boot, list)
        } else {
            let Some(peer) = self.pool.get(voter) else { return };
            match peer.support(self.me, boot, list, Duration::from_millis(SUPPORT_MS)).await {
                Ok(reply) => reply,
                Err(_) => return,
            }
        };
        self.pace.observe(voter, Reading { sent_ms: sent, received_ms: boot_ms(), peer_ms: reply.clock_ms });
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if reply.granted {
            own.granted(voter, boot, sent);
        } else if reply.withdrawn {
            own.refused(voter, boot);
        }
        // Under the lock, so that a new boot's reset cannot be overwritten by an old boot's grant.
        if own.boot() == self.boot() {
            let until = own.trusted_until_ms();
            self.trusted_until.store(until, Ordering::Release);
            self.pace.update(self.me, &own);
            if until > 0 {
                self.supported.send_if_modified(|supported| own.boot() > std::mem::replace(supported, own.boot()));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use futures::FutureExt;
    use parliament_journal::sim::SimDisk;
    use parliament_journal::{Driver, Options};

    const LIST: VotersVersion = VotersVersion(3);

    pub(crate) fn voter(disk: &SimDisk) -> (Arc<Support>, Driver) {
        let options =
            Options { disk: Arc::new(disk.clone()), journal_id: Some(1), segment_bytes: 512 * 1024, ..Options::new("/n/journal") };
        let (journal, driver) = Journal::open_driven(options).unwrap();
        let me = NodeId(1);
        let pool = Arc::new(PeerPool::new(tokio::runtime::Handle::current(), [0; 16], me, Boot(1), None));
        (Support::new(me, Boot(1), &[me, NodeId(2)], VoterList { version: LIST, nodes: vec![me] }, pool, journal), driver)
    }

    /// A voter that tells of a withdrawal before it is on the disk may, after a power cut, support that boot again.
    #[tokio::test]
    async fn a_withdrawal_is_told_only_once_it_is_durable_even_if_an_earlier_caller_left() {
        let disk = SimDisk::default();
        let (support, mut driver) = voter(&disk);
        tokio::time::sleep(Duration::from_millis(SUPPORT_MS + 5)).await;
        assert!(support.on_withdraw(NodeId(2), Boot(7), LIST).now_or_never().is_none(), "the first caller left while the journal wrote");
        assert!(support.on_withdraw(NodeId(2), Boot(7), LIST).now_or_never().is_none(), "told before it was durable");
        let asking = tokio::spawn(async move { support.on_withdraw(NodeId(2), Boot(7), LIST).await });
        tokio::task::yield_now().await;
        driver.write_all();
        assert!(asking.await.unwrap().withdrawn);
        let disk = disk.after_cut(1);
        let (support, _driver) = voter(&disk);
        assert!(support.on_support(NodeId(2), Boot(7), LIST).withdrawn, "never again, after a power cut too");
        support.set_members([NodeId(1)]);
        let reply = support.on_support(NodeId(2), Boot(9), LIST);
        assert!(!reply.granted && !reply.withdrawn, "a node that was removed gets no support");
        assert!(
            support.on_withdraw(NodeId(2), Boot(6), LIST).now_or_never().is_some_and(|reply| reply.withdrawn),
            "smaller boots need no write"
        );
    }
}
