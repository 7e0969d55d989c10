//! What one kind of group does with a committed command. Consensus below is the same for all kinds, so the machine's reply
//! type is erased here and restored in [`crate::Group`].

use crate::types::Reply;
use bytes::Bytes;
use parliament_mailbox_state::{Overlay, TableFault};
use parliament_tables::GroupTables;
use std::fmt::Debug;
use std::sync::Arc;

/// The replicated state machine of one kind of group: a pure function of tables and command.
pub trait Machine: Send + Sync + 'static {
    /// What a proposer is told; computed alike on all replicas.
    type Reply: Send + Sync + Clone + Debug + 'static;

    /// Applies the command at `index`: no clock, no randomness, nothing from outside. A command that is refused changes
    /// nothing and says so in its reply.
    ///
    /// # Errors
    /// When a record cannot be read or the command cannot be decoded. The group stops here: an entry is never skipped.
    fn apply(&self, tables: &mut Overlay<'_>, index: u64, command: &[u8]) -> Result<Self::Reply, TableFault>;

    /// Called before the tables are rebuilt beside their readers, because something in them is damaged: what this node answers from them alone
    /// must be earned anew (rule 7). Must not block.
    fn rebuilding(&self) {}

    /// Called once per chunk, in order, after the chunk is in the tables and before any proposer is told. `index` is the
    /// last entry's. Must not block for long.
    fn committed(&self, tables: &GroupTables, index: u64, replies: &[Self::Reply]);
}

/// The command of one entry in a chunk.
pub(crate) struct Applicable {
    pub(crate) index: u64,
    pub(crate) command: Bytes,
}

/// A fault at an entry.
pub(crate) struct ApplyFault {
    pub(crate) index: u64,
    pub(crate) fault: TableFault,
}

/// Replies of a chunk whose writes are not in the tables yet.
pub(crate) trait Replies: Send {
    /// Tells the machine that the chunk is in the tables.
    fn committed(&self, tables: &GroupTables, index: u64);
    /// The reply to the command at a position of the chunk.
    fn reply(&self, position: usize) -> Reply;
}

/// [`Machine`] without its reply type.
pub(crate) trait AnyMachine: Send + Sync {
    fn rebuilding(&self);
    fn apply(self: Arc<Self>, tables: &mut Overlay<'_>, chunk: &[Applicable]) -> Result<Box<dyn Replies>, ApplyFault>;
}

struct Chunk<M: Machine> {
    machine: Arc<M>,
    replies: Vec<M::Reply>,
}

impl<M: Machine> AnyMachine for M {
    fn rebuilding(&self) {
        Machine::rebuilding(self);
    }
    fn apply(self: Arc<Self>, tables: &mut Overlay<'_>, chunk: &[Applicable]) -> Result<Box<dyn Replies>, ApplyFault> {
        let mut replies = Vec::with_capacity(chunk.len());
        for entry in chunk {
            let reply = Machine::apply(&*self, tables, entry.index, &entry.command);
            replies.push(reply.map_err(|fault| ApplyFault { index: entry.index, fault })?);
        }
        Ok(Box::new(Chunk { machine: self, replies }))
    }
}

impl<M: Machine> Replies for Chunk<M> {
    fn committed(&self, tables: &GroupTables, index: u64) {
        self.machine.committed(tables, index, &self.replies);
    }
    fn reply(&self, position: usize) -> Reply {
        self.replies.get(position).cloned().map(Reply::new).unwrap_or_default()
    }
}
