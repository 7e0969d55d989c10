//! Stored forms of votes, log ids, memberships, entries and the applied mark. All are versioned and have golden tests;
//! messages between nodes are built from the same pieces.

use crate::codec::{CodecError, Reader, Writer};
use crate::types::{Command, Entry, LogId, Membership, NodeInfo, SnapshotMeta, StoredMembership, Vote, log_id};
use bytes::Bytes;
use openraft::EntryPayload;
use parliament_ids::limits::ENTRY_BYTES_MAX;
use std::collections::{BTreeMap, BTreeSet};

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Voter sets of one membership; joint consensus has two.
const CONFIGS_MAX: usize = 4;
/// Nodes of one group.
const NODES_MAX: usize = 1024;
/// Bytes of a node's address or zone.
const NODE_TEXT_BYTES_MAX: usize = 512;
/// Largest encoded entry: a command, or the largest membership, with its head.
pub(crate) const STORED_ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MAX + 2 * NODES_MAX * NODE_TEXT_BYTES_MAX + 64 * 1024;

pub(crate) fn put_log_id(writer: &mut Writer, id: &LogId) {
    writer.number(id.committed_leader_id().term);
    writer.number(id.index());
}

pub(crate) fn get_log_id(reader: &mut Reader) -> Result<LogId, CodecError> {
    Ok(log_id(reader.number()?, reader.number()?))
}

pub(crate) fn put_optional_log_id(writer: &mut Writer, id: Option<&LogId>) {
    writer.byte(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(writer, id);
    }
}

pub(crate) fn get_optional_log_id(reader: &mut Reader) -> Result<Option<LogId>, CodecError> {
    if reader.flag()? { get_log_id(reader).map(Some) } else { Ok(None) }
}

pub(crate) fn put_vote(writer: &mut Writer, vote: &Vote) {
    writer.number(vote.leader_id.term);
    writer.number(vote.leader_id.voted_for);
    writer.byte(u8::from(vote.committed));
}

pub(crate) fn get_vote(reader: &mut Reader) -> Result<Vote, CodecError> {
    let (term, node, committed) = (reader.number()?, reader.number()?, reader.flag()?);
    Ok(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

fn put_membership(writer: &mut Writer, membership: &Membership) {
    let configs = membership.get_joint_config();
    writer.number(configs.len() as u64);
    for config in configs {
        writer.number(config.len() as u64);
        config.iter().for_each(|id| writer.number(*id));
    }
    writer.number(membership.nodes().count() as u64);
    for (id, node) in membership.nodes() {
        writer.number(*id);
        writer.bytes(node.addr.as_bytes());
        writer.bytes(node.zone.as_bytes());
        writer.byte(u8::from(node.witness));
    }
}

fn get_membership(reader: &mut Reader) -> Result<Membership, CodecError> {
    let mut configs = Vec::new();
    for _ in 0..reader.count(CONFIGS_MAX)? {
        let voters = reader.count(NODES_MAX)?;
        configs.push((0..voters).map(|_| reader.number()).collect::<Result<BTreeSet<u64>, _>>()?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.count(NODES_MAX)? {
        let id = reader.number()?;
        let node = NodeInfo { addr: reader.text(NODE_TEXT_BYTES_MAX)?, zone: reader.text(NODE_TEXT_BYTES_MAX)?, witness: reader.flag()? };
        nodes.insert(id, node);
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| reader.error("inconsistent membership"))
}

fn put_stored_membership(writer: &mut Writer, stored: &StoredMembership) {
    put_optional_log_id(writer, stored.log_id().as_ref());
    put_membership(writer, stored.membership());
}

fn get_stored_membership(reader: &mut Reader) -> Result<StoredMembership, CodecError> {
    let id = get_optional_log_id(reader)?;
    Ok(StoredMembership::new(id, get_membership(reader)?))
}

/// `version | kind | term | index | payload`.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let hint = if let EntryPayload::Normal(command) = &entry.payload { command.as_bytes().len() } else { 256 };
    let mut writer = Writer::versioned(VERSION, hint + 24);
    writer.byte(match &entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Normal(_) => NORMAL,
        EntryPayload::Membership(_) => MEMBERSHIP,
    });
    put_log_id(&mut writer, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(command) => writer.raw(command.as_bytes()),
        EntryPayload::Membership(membership) => put_membership(&mut writer, membership),
    }
    writer.finish()
}

/// Reverses [`encode_entry`]; a command shares the memory of `bytes`.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, CodecError> {
    let mut reader = Reader::versioned("entry", VERSION, bytes)?;
    let kind = reader.byte()?;
    let log_id = get_log_id(&mut reader)?;
    let payload = match kind {
        BLANK => {
            reader.end()?;
            EntryPayload::Blank
        }
        NORMAL => EntryPayload::Normal(Command::from_bytes(reader.rest())?),
        MEMBERSHIP => {
            let membership = get_membership(&mut reader)?;
            reader.end()?;
            EntryPayload::Membership(membership)
        }
        _ => return Err(reader.error("unknown kind")),
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 24);
    put_vote(&mut writer, vote);
    writer.finish()
}

pub(crate) fn decode_vote(bytes: Bytes) -> Result<Vote, CodecError> {
    let mut reader = Reader::versioned("vote", VERSION, bytes)?;
    let vote = get_vote(&mut reader)?;
    reader.end()?;
    Ok(vote)
}

pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 24);
    put_log_id(&mut writer, id);
    writer.finish()
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Result<LogId, CodecError> {
    let mut reader = Reader::versioned("log id", VERSION, bytes)?;
    let id = get_log_id(&mut reader)?;
    reader.end()?;
    Ok(id)
}

/// The mark that tables carry with each chunk, and the description of a snapshot file: last entry in it, membership in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Applied {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::versioned(VERSION, 128);
        put_optional_log_id(&mut writer, self.last.as_ref());
        put_stored_membership(&mut writer, &self.membership);
        writer.finish()
    }
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::versioned("applied mark", VERSION, bytes)?;
        let applied = Self::get(&mut reader)?;
        reader.end()?;
        Ok(applied)
    }
    pub(crate) fn get(reader: &mut Reader) -> Result<Self, CodecError> {
        Ok(Self { last: get_optional_log_id(reader)?, membership: get_stored_membership(reader)? })
    }
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
    pub(crate) fn of_meta(meta: &SnapshotMeta) -> Self {
        Self { last: meta.last_log_id, membership: meta.last_membership.clone() }
    }
    /// The index of the last entry, if there is one.
    pub(crate) fn index(&self) -> Option<u64> {
        self.last.as_ref().map(LogId::index)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample_membership() -> Membership {
        let info = |n: u8| NodeInfo { addr: format!("n{n}:1"), zone: "z".into(), witness: n == 3 };
        let nodes = BTreeMap::from([(1, info(1)), (2, info(2)), (3, info(3))]);
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn golden(entry: &Entry, text: &str) {
        let bytes = encode_entry(entry);
        assert_eq!(hex(&bytes), text);
        assert_eq!(&decode_entry(bytes).unwrap(), entry);
    }

    #[test]
    fn entries_are_golden() {
        golden(&Entry { log_id: log_id(3, 300), payload: EntryPayload::Blank }, "010003ac02");
        let command = Command::new(&[], b"hi").unwrap();
        golden(&Entry { log_id: log_id(1, 2), payload: EntryPayload::Normal(command) }, "010101020100006869");
        golden(
            &Entry { log_id: log_id(1, 0), payload: EntryPayload::Membership(sample_membership()) },
            "01020100020201020202030301046e313a31017a0002046e323a31017a0003046e333a31017a01",
        );
    }

    #[test]
    fn votes_and_marks_are_golden() {
        let vote = Vote::new_committed(5, 2);
        assert_eq!(hex(&encode_vote(&vote)), "01050201");
        assert_eq!(decode_vote(encode_vote(&vote)).unwrap(), vote);
        assert_eq!(hex(&encode_log_id(&log_id(7, 128))), "01078001");
        assert_eq!(decode_log_id(encode_log_id(&log_id(7, 128))).unwrap(), log_id(7, 128));
        assert_eq!(hex(&Applied::default().encode()), "0100000000");
        let applied = Applied { last: Some(log_id(2, 9)), membership: StoredMembership::new(Some(log_id(1, 0)), sample_membership()) };
        assert_eq!(hex(&applied.encode()), "01010209010100020201020202030301046e313a31017a0002046e323a31017a0003046e333a31017a01");
        assert_eq!(Applied::decode(applied.encode()).unwrap(), applied);
    }

    #[test]
    fn damaged_records_are_refused() {
        let entry = encode_entry(&Entry { log_id: log_id(1, 0), payload: EntryPayload::Membership(sample_membership()) });
        for len in 0..entry.len() {
            assert!(decode_entry(entry.slice(..len)).is_err(), "cut at {len}");
        }
        assert!(decode_entry(Bytes::from_static(&[1, 3, 1, 1])).is_err());
        assert!(decode_entry(Bytes::from_static(&[1, 0, 1, 1, 9])).is_err());
        // A voter that is no node.
        assert!(decode_entry(Bytes::from_static(&[1, 2, 1, 0, 1, 1, 7, 0])).is_err());
        assert!(decode_vote(Bytes::from_static(&[1, 1, 1, 2])).is_err());
    }
}
