//! What is made to go wrong.

use crate::tree::Loss;
use fuser::Errno;
use std::time::Duration;

/// What a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Syncing a file.
    Sync,
    /// Syncing a folder.
    SyncFolder,
    /// Changing names or lengths, or taking space.
    Change,
}

/// An action that fails with `EIO`. A sync that fails leaves the bytes readable and lost for every later
/// sync; each descriptor of that moment is told once.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which action.
    pub action: Action,
    /// Only on files and folders whose name starts so; names are those without folders.
    pub name: &'static str,
    /// How many such actions succeed before.
    pub after: u64,
    /// How many then fail.
    pub times: u64,
}

/// A power cut that will come.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// How many changes are left before it.
    left: u64,
    loss: Loss,
    /// The last change is carried out, and only its answer is lost.
    carried_out: bool,
}

/// What comes of an action.
pub(crate) enum Fate {
    Done,
    Fails,
    /// The power goes, after the action was carried out or instead of it.
    Cut {
        loss: Loss,
        carried_out: bool,
    },
}

#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) capacity: Option<u64>,
    pub(crate) latency: Duration,
    pub(crate) lying: bool,
    pub(crate) changes: u64,
    pub(crate) bitten: u64,
    faults: Vec<Fault>,
    cut: Option<Cut>,
}

impl Faults {
    pub(crate) fn plan_cut(&mut self, after: u64, loss: Loss, carried_out: bool) {
        self.cut = Some(Cut { left: after, loss, carried_out });
    }

    pub(crate) fn forget_cut(&mut self) {
        self.cut = None;
    }

    pub(crate) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(crate) fn heal(&mut self) {
        self.faults.clear();
    }

    /// Decides over an action on a file or folder of this name.
    pub(crate) fn meet(&mut self, action: Action, name: &str) -> Fate {
        if action != Action::Read {
            self.changes += 1;
            if let Some(cut) = &mut self.cut {
                if cut.left == 0 {
                    let Cut { loss, carried_out, .. } = *cut;
                    self.cut = None;
                    return Fate::Cut { loss, carried_out };
                }
                cut.left -= 1;
            }
        }
        let Some(fault) = self.faults.iter_mut().find(|fault| fault.action == action && fault.times > 0 && name.starts_with(fault.name))
        else {
            return Fate::Done;
        };
        if fault.after > 0 {
            fault.after -= 1;
            return Fate::Done;
        }
        fault.times -= 1;
        self.bitten += 1;
        Fate::Fails
    }
}

impl From<crate::tree::Refusal> for Errno {
    fn from(refusal: crate::tree::Refusal) -> Self {
        use crate::tree::Refusal;
        match refusal {
            Refusal::Stale => Errno::ESTALE,
            Refusal::Missing => Errno::ENOENT,
            Refusal::NotFolder => Errno::ENOTDIR,
            Refusal::IsFolder => Errno::EISDIR,
            Refusal::Exists => Errno::EEXIST,
            Refusal::NotEmpty => Errno::ENOTEMPTY,
        }
    }
}
