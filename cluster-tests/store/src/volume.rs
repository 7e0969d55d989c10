//! The file system's state and the commands that tests give.

use crate::faults::{Action, Fate, Fault, Faults};
use crate::random::Random;
use crate::tree::{Loss, Tree};
use fuser::Errno;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An open file or folder.
pub(crate) struct Handle {
    pub(crate) node: u64,
    /// How many failed syncs of it are known to whoever holds this.
    pub(crate) failures_seen: u64,
    /// The names of a folder when it was opened, with their kinds.
    pub(crate) listing: Vec<(String, u64, bool)>,
}

pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) faults: Faults,
    pub(crate) handles: HashMap<u64, Handle>,
    pub(crate) next_handle: u64,
    /// How often everything was lost; tells an action that took time that it came too late.
    pub(crate) life: u64,
    off: bool,
    random: Random,
}

/// A file system in memory, to be [`crate::mounted`]. A cheap handle.
#[derive(Clone)]
pub struct Volume(Arc<Mutex<State>>);

impl State {
    /// Decides over an action on this file or folder; nothing is done yet. The error is the answer.
    pub(crate) fn meet(&mut self, action: Action, node: u64) -> Result<Verdict, Errno> {
        if self.off {
            return Err(Errno::EIO);
        }
        let name = self.tree.node(node)?.name.clone();
        match self.faults.meet(action, &name) {
            Fate::Done => Ok(Verdict::Do),
            Fate::Fails => Ok(Verdict::Fail),
            Fate::Cut { loss, carried_out: true } => Ok(Verdict::DoAndCut(loss)),
            Fate::Cut { loss, carried_out: false } => {
                self.lose(loss);
                Err(Errno::EIO)
            }
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off
    }

    pub(crate) fn lose(&mut self, loss: Loss) {
        self.tree.lose(loss, &mut self.random);
        self.handles.clear();
        self.life += 1;
        self.off = true;
    }

    /// Files that are held open.
    pub(crate) fn open(&self) -> BTreeSet<u64> {
        self.handles.values().map(|handle| handle.node).collect()
    }

    /// Whether so many more bytes fit.
    pub(crate) fn fits(&self, more: u64) -> bool {
        self.faults.capacity.is_none_or(|capacity| self.tree.used(&self.open()) + more <= capacity)
    }
}

/// What is to be done with an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Do,
    Fail,
    /// Do it, but nobody hears of it.
    DoAndCut(Loss),
}

impl Volume {
    /// An empty one. The seed chooses what a tearing keeps.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            tree: Tree::new(),
            faults: Faults::default(),
            handles: HashMap::new(),
            next_handle: 1,
            life: 0,
            off: false,
            random: Random::new(seed),
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the life of everything that uses the volume, now: open files stay dead, every request fails until [`Volume::start`].
    pub fn cut(&self, loss: Loss) {
        let mut state = self.lock();
        state.faults.forget_cut();
        if !state.off {
            state.lose(loss);
        }
    }

    /// The same, after so many more writes, syncs and changes of names: instead of the next one, or right after it, before its answer.
    pub fn cut_after(&self, changes: u64, loss: Loss, carried_out: bool) {
        self.lock().faults.plan_cut(changes, loss, carried_out);
    }

    /// True from a cut until [`Volume::start`].
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Serves what the cut left. A planned cut that has not come is forgotten, and faults are healed.
    pub fn start(&self) {
        let mut state = self.lock();
        state.off = false;
        state.faults.forget_cut();
        state.faults.heal();
    }

    /// Makes everything durable, as `sync(1)` does.
    pub fn sync_all(&self) {
        self.lock().tree.sync_all();
    }

    /// Makes an action fail.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.add(fault);
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.lock().faults.heal();
    }

    /// How many actions have failed by a [`Fault`] so far.
    #[must_use]
    pub fn bitten(&self) -> u64 {
        self.lock().faults.bitten
    }

    /// The size of the volume in bytes; beyond it writes and allocations end with `ENOSPC`. None: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().faults.capacity = bytes;
    }

    /// Bytes that files take, whole blocks.
    #[must_use]
    pub fn used(&self) -> u64 {
        let state = self.lock();
        state.tree.used(&state.open())
    }

    /// Whether syncs say yes and do nothing: the disk on which every test of durability has to fail.
    pub fn set_lying(&self, lying: bool) {
        self.lock().faults.lying = lying;
    }

    /// How long every sync takes.
    pub fn set_latency(&self, sync: Duration) {
        self.lock().faults.latency = sync;
    }

    /// Writes, syncs and changes of names so far.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().faults.changes
    }
}
