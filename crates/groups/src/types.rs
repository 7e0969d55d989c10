//! The types openraft is configured with.

use crate::codec::{CodecError, Reader, Writer};
use bytes::Bytes;
use parliament_ids::BodyHash;
use parliament_ids::limits::{ENTRY_BYTES_MAX, MESSAGES_PER_ENTRY_MAX};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

openraft::declare_raft_types!(
    /// One configuration serves all groups: commands and replies are opaque to consensus.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = NodeInfo,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

/// Where an entry stands: its leader's term and its index.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A candidate's or leader's claim to a term.
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// One log entry.
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Voters and learners.
pub(crate) type Membership = openraft::Membership<u64, NodeInfo>;
/// A membership with the entry that set it.
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// The log id of `index` in `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(openraft::vote::leader_id_std::CommittedLeaderId::new(term), index)
}

/// Where a node is found and what it may do; travels in the membership of each group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// `host:port` of the node's peer listener.
    pub addr: String,
    /// The failure domain the node stands in, for example a data centre.
    pub zone: String,
    /// True for a voter without bodies (rule 5).
    pub witness: bool,
}

impl fmt::Display for NodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}{}", self.addr, self.zone, if self.witness { " witness" } else { "" })
    }
}

const COMMAND_VERSION: u8 = 1;

/// Bodies that one command may name.
pub const BODIES_PER_COMMAND_MAX: usize = MESSAGES_PER_ENTRY_MAX;

/// An encoded command with the bodies it needs, readable without decoding the command:
/// `version u8 | n bodies u16 BE | n × 32 bytes | command`. At most [`ENTRY_BYTES_MAX`] bytes and
/// [`BODIES_PER_COMMAND_MAX`] bodies; a value of this type has been checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(Bytes);

impl Command {
    /// Frames a command and the bodies that must be durable on a replica before it acknowledges the entry.
    ///
    /// # Errors
    /// When a bound is broken.
    pub fn new(bodies: &[BodyHash], command: &[u8]) -> Result<Self, CodecError> {
        let bad = |why| CodecError { what: "command", why };
        let count = u16::try_from(bodies.len()).ok().filter(|n| usize::from(*n) <= BODIES_PER_COMMAND_MAX).ok_or(bad("too many bodies"))?;
        let mut writer = Writer::versioned(COMMAND_VERSION, 2 + bodies.len() * 32 + command.len());
        writer.raw(&count.to_be_bytes());
        bodies.iter().for_each(|body| writer.raw(&body.0));
        writer.raw(command);
        if writer.len() > ENTRY_BYTES_MAX {
            return Err(bad("too large"));
        }
        Ok(Self(writer.finish()))
    }

    /// Checks framed bytes, for example a command that another node relayed.
    ///
    /// # Errors
    /// When a bound is broken or the bytes end within the list of bodies.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::versioned("command", COMMAND_VERSION, bytes.clone())?;
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(reader.error("too large"));
        }
        let count = usize::from(u16::from_be_bytes([reader.byte()?, reader.byte()?]));
        if count > BODIES_PER_COMMAND_MAX {
            return Err(reader.error("too many bodies"));
        }
        reader.raw(count * 32)?;
        Ok(Self(bytes))
    }

    fn count(&self) -> usize {
        match self.0.get(1..3) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        }
    }
    /// The bodies this command needs, as the proposer listed them.
    pub fn bodies(&self) -> impl Iterator<Item = BodyHash> + '_ {
        let hashes = self.0.get(3..3 + self.count() * 32).unwrap_or_default();
        hashes.chunks_exact(32).filter_map(|hash| hash.try_into().ok().map(BodyHash))
    }
    /// The command without its frame.
    #[must_use]
    pub fn command(&self) -> Bytes {
        self.0.slice(3 + self.count() * 32..)
    }
    /// The framed bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes, {} bodies)", self.0.len(), self.count())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a group's machine answered to a command; nothing for entries without a command. Its type is known to the group's
/// handle alone.
#[derive(Clone, Default)]
pub struct Reply(Option<Arc<dyn Any + Send + Sync>>);

impl Reply {
    pub(crate) fn new<T: Send + Sync + 'static>(reply: T) -> Self {
        Self(Some(Arc::new(reply)))
    }
    pub(crate) fn take<T: Clone + Send + Sync + 'static>(self) -> Option<T> {
        let reply = self.0?.downcast::<T>().ok()?;
        Some(Arc::unwrap_or_clone(reply))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reply(…)" } else { "Reply(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_layout_is_fixed() {
        let command = Command::new(&[BodyHash([7; 32])], b"hello").unwrap();
        let mut golden = vec![1, 0, 1];
        golden.extend_from_slice(&[7; 32]);
        golden.extend_from_slice(b"hello");
        assert_eq!(command.as_bytes().as_ref(), golden);
        let again = Command::from_bytes(Bytes::from(golden)).unwrap();
        assert_eq!(again.bodies().collect::<Vec<_>>(), vec![BodyHash([7; 32])]);
        assert_eq!(again.command().as_ref(), b"hello");
    }

    #[test]
    fn broken_commands_are_refused() {
        let refused = |bytes: &[u8]| Command::from_bytes(Bytes::copy_from_slice(bytes)).unwrap_err().why;
        assert_eq!(refused(&[]), "too short");
        assert_eq!(refused(&[2, 0, 0]), "unknown version");
        assert_eq!(refused(&[1, 0]), "too short");
        assert_eq!(refused(&[1, 0, 1, 9]), "too short");
        assert_eq!(refused(&[1, 0xff, 0xff]), "too many bodies");
        assert_eq!(refused(&vec![1; ENTRY_BYTES_MAX + 1]), "too large");
        assert_eq!(Command::new(&[], &vec![0; ENTRY_BYTES_MAX - 2]).unwrap_err().why, "too large");
        assert_eq!(Command::new(&vec![BodyHash([0; 32]); BODIES_PER_COMMAND_MAX + 1], &[]).unwrap_err().why, "too many bodies");
    }

    #[test]
    fn replies_keep_their_type() {
        assert_eq!(Reply::new(5_u32).take::<u32>(), Some(5));
        assert_eq!(Reply::new(5_u32).take::<u64>(), None);
        assert_eq!(Reply::default().take::<u32>(), None);
    }
}
