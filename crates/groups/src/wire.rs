//! Messages between replicas of one group. Versioned, bounded; everything decoded here comes from a peer and is checked.

use crate::codec::{CodecError, Reader, Writer};
use crate::records::{
    Applied, STORED_ENTRY_BYTES_MAX, decode_entry, encode_entry, get_log_id, get_optional_log_id, get_vote, put_log_id,
    put_optional_log_id, put_vote,
};
use crate::rest::Wish;
use crate::types::{SnapshotMeta, TypeConfig, Vote};
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

const VERSION: u8 = 1;
/// Entries of one append message.
const ENTRIES_MAX: usize = 4096;
/// Bytes of a refusal's reason.
const REASON_BYTES_MAX: usize = 512;

/// Which of a group's two independent streams to a peer a message belongs to: a replication stream that waits for a body
/// must not hold back heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Replication,
    Heartbeat,
}

impl Lane {
    pub(crate) const COUNT: usize = 2;
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Replication => 0,
            Self::Heartbeat => 1,
        }
    }
    fn get(reader: &mut Reader) -> Result<Self, CodecError> {
        Ok(if reader.flag()? { Self::Heartbeat } else { Self::Replication })
    }
    fn put(self, writer: &mut Writer) {
        writer.byte(u8::from(self == Self::Heartbeat));
    }
}

/// The head of an append message or answer: `version | lane | seq`. Answers repeat the message's number, by which the
/// sender knows answers to streams it has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
}

impl Head {
    pub(crate) fn decode(what: &'static str, bytes: Bytes) -> Result<(Self, Reader), CodecError> {
        let mut reader = Reader::versioned(what, VERSION, bytes)?;
        let lane = Lane::get(&mut reader)?;
        Ok((Self { lane, seq: reader.number()? }, reader))
    }
    fn encode(self, capacity: usize) -> Writer {
        let mut writer = Writer::versioned(VERSION, capacity);
        self.lane.put(&mut writer);
        writer.number(self.seq);
        writer
    }
}

pub(crate) fn encode_append(head: Head, request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let entries: Vec<Bytes> = request.entries.iter().map(encode_entry).collect();
    let size: usize = entries.iter().map(|e| e.len() + 10).sum();
    let mut writer = head.encode(size + 96);
    put_vote(&mut writer, &request.vote);
    put_optional_log_id(&mut writer, request.prev_log_id.as_ref());
    put_optional_log_id(&mut writer, request.leader_commit.as_ref());
    writer.number(entries.len() as u64);
    entries.iter().for_each(|entry| writer.bytes(entry));
    writer.finish()
}

/// Decodes what follows the head. Entries must follow each other by index, the first right after `prev_log_id`.
pub(crate) fn decode_append(mut reader: Reader) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let vote = get_vote(&mut reader)?;
    let prev_log_id = get_optional_log_id(&mut reader)?;
    let leader_commit = get_optional_log_id(&mut reader)?;
    let count = reader.count(ENTRIES_MAX)?;
    let mut entries = Vec::with_capacity(count);
    let mut next = match &prev_log_id {
        Some(prev) => prev.index().checked_add(1).ok_or(reader.error("index out of range"))?,
        None => 0,
    };
    for _ in 0..count {
        let entry = decode_entry(reader.bytes(STORED_ENTRY_BYTES_MAX)?)?;
        if entry.log_id.index() != next {
            return Err(reader.error("entries are not consecutive"));
        }
        next = next.checked_add(1).ok_or(reader.error("index out of range"))?;
        entries.push(entry);
    }
    reader.end()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// What a follower answers to one append message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AppendAnswer {
    /// Raft's own answer.
    Raft(StreamAppendResult<TypeConfig>),
    /// The follower could not take the message: a body did not come in time, or the group is not running there.
    Refused(String),
}

pub(crate) fn encode_append_answer(head: Head, answer: &AppendAnswer) -> Bytes {
    let mut writer = head.encode(48);
    match answer {
        AppendAnswer::Raft(Ok(matched)) => {
            writer.byte(0);
            put_optional_log_id(&mut writer, matched.as_ref());
        }
        AppendAnswer::Raft(Err(StreamAppendError::Conflict(at))) => {
            writer.byte(1);
            put_log_id(&mut writer, at);
        }
        AppendAnswer::Raft(Err(StreamAppendError::HigherVote(vote))) => {
            writer.byte(2);
            put_vote(&mut writer, vote);
        }
        AppendAnswer::Refused(reason) => {
            writer.byte(3);
            let end = reason.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= REASON_BYTES_MAX).last().unwrap_or(0);
            writer.bytes(reason.get(..end).unwrap_or_default().as_bytes());
        }
    }
    writer.finish()
}

pub(crate) fn decode_append_answer(mut reader: Reader) -> Result<AppendAnswer, CodecError> {
    let answer = match reader.byte()? {
        0 => AppendAnswer::Raft(Ok(get_optional_log_id(&mut reader)?)),
        1 => AppendAnswer::Raft(Err(StreamAppendError::Conflict(get_log_id(&mut reader)?))),
        2 => AppendAnswer::Raft(Err(StreamAppendError::HigherVote(get_vote(&mut reader)?))),
        3 => AppendAnswer::Refused(reader.text(REASON_BYTES_MAX)?),
        _ => return Err(reader.error("unknown answer")),
    };
    reader.end()?;
    Ok(answer)
}

pub(crate) fn encode_vote_request(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 48);
    put_vote(&mut writer, &request.vote);
    put_optional_log_id(&mut writer, request.last_log_id.as_ref());
    writer.byte(u8::from(request.leadership_transfer));
    writer.finish()
}

pub(crate) fn decode_vote_request(bytes: Bytes) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let mut reader = Reader::versioned("vote request", VERSION, bytes)?;
    let mut request = VoteRequest::new(get_vote(&mut reader)?, get_optional_log_id(&mut reader)?);
    request.leadership_transfer = reader.flag()?;
    reader.end()?;
    Ok(request)
}

pub(crate) fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 48);
    put_vote(&mut writer, &response.vote);
    writer.byte(u8::from(response.vote_granted));
    put_optional_log_id(&mut writer, response.last_log_id.as_ref());
    writer.finish()
}

pub(crate) fn decode_vote_response(bytes: Bytes) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let mut reader = Reader::versioned("vote response", VERSION, bytes)?;
    let (vote, vote_granted) = (get_vote(&mut reader)?, reader.flag()?);
    let last_log_id = get_optional_log_id(&mut reader)?;
    reader.end()?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

pub(crate) fn encode_transfer_request(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 48);
    put_vote(&mut writer, request.from_leader());
    writer.number(*request.to_node_id());
    put_optional_log_id(&mut writer, request.last_log_id());
    writer.finish()
}

pub(crate) fn decode_transfer_request(bytes: Bytes) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let mut reader = Reader::versioned("transfer request", VERSION, bytes)?;
    let (vote, to) = (get_vote(&mut reader)?, reader.number()?);
    let last = get_optional_log_id(&mut reader)?;
    reader.end()?;
    Ok(TransferLeaderRequest::new(vote, to, last))
}

pub(crate) fn encode_transfer_response(response: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 48);
    match response {
        Ok(()) => writer.byte(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            writer.byte(1);
            put_vote(&mut writer, expected);
            put_vote(&mut writer, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            writer.byte(2);
            put_optional_log_id(&mut writer, expected.as_ref());
            put_optional_log_id(&mut writer, actual.as_ref());
        }
    }
    writer.finish()
}

pub(crate) fn decode_transfer_response(bytes: Bytes) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    let mut reader = Reader::versioned("transfer response", VERSION, bytes)?;
    let response = match reader.byte()? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged { expected: get_vote(&mut reader)?, actual: get_vote(&mut reader)? }),
        2 => {
            let expected = get_optional_log_id(&mut reader)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual: get_optional_log_id(&mut reader)? })
        }
        _ => return Err(reader.error("unknown answer")),
    };
    reader.end()?;
    Ok(response)
}

/// `version | vote | last entry | membership`: what travels ahead of a snapshot file.
pub(crate) fn encode_snapshot_head(vote: &Vote, meta: &SnapshotMeta) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 160);
    put_vote(&mut writer, vote);
    let applied = Applied::of_meta(meta).encode();
    writer.bytes(&applied);
    writer.finish()
}

pub(crate) fn decode_snapshot_head(bytes: Bytes) -> Result<(Vote, SnapshotMeta), CodecError> {
    let mut reader = Reader::versioned("snapshot head", VERSION, bytes)?;
    let vote = get_vote(&mut reader)?;
    let applied = Applied::decode(reader.bytes(STORED_ENTRY_BYTES_MAX)?)?;
    reader.end()?;
    Ok((vote, applied.meta()))
}

pub(crate) fn encode_snapshot_response(response: &SnapshotResponse<TypeConfig>) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 24);
    put_vote(&mut writer, &response.vote);
    writer.finish()
}

pub(crate) fn decode_snapshot_response(bytes: Bytes) -> Result<SnapshotResponse<TypeConfig>, CodecError> {
    let mut reader = Reader::versioned("snapshot response", VERSION, bytes)?;
    let vote = get_vote(&mut reader)?;
    reader.end()?;
    Ok(SnapshotResponse::new(vote))
}

/// `version | vote | last entry`.
pub(crate) fn encode_wish(wish: &Wish) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 48);
    put_vote(&mut writer, &wish.vote);
    put_log_id(&mut writer, &wish.last);
    writer.finish()
}

pub(crate) fn decode_wish(bytes: Bytes) -> Result<Wish, CodecError> {
    let mut reader = Reader::versioned("wish to rest", VERSION, bytes)?;
    let wish = Wish { vote: get_vote(&mut reader)?, last: get_log_id(&mut reader)? };
    reader.end()?;
    Ok(wish)
}

/// `version | vote`: which leader a member wishes to hear.
pub(crate) fn encode_rouse(vote: &Vote) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 24);
    put_vote(&mut writer, vote);
    writer.finish()
}

pub(crate) fn decode_rouse(bytes: Bytes) -> Result<Vote, CodecError> {
    let mut reader = Reader::versioned("wish to hear", VERSION, bytes)?;
    let vote = get_vote(&mut reader)?;
    reader.end()?;
    Ok(vote)
}

/// The answer to either wish.
pub(crate) fn encode_yes(yes: bool) -> Bytes {
    let mut writer = Writer::versioned(VERSION, 1);
    writer.byte(u8::from(yes));
    writer.finish()
}

pub(crate) fn decode_yes(bytes: Bytes) -> Result<bool, CodecError> {
    let mut reader = Reader::versioned("answer to a wish", VERSION, bytes)?;
    let yes = reader.flag()?;
    reader.end()?;
    Ok(yes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::sample_membership;
    use crate::types::{Command, Entry, StoredMembership, log_id};
    use openraft::EntryPayload;

    fn request() -> AppendEntriesRequest<TypeConfig> {
        let normal = Entry { log_id: log_id(2, 6), payload: EntryPayload::Normal(Command::new(&[], b"x").unwrap()) };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 4)),
            entries: vec![Entry { log_id: log_id(2, 5), payload: EntryPayload::Blank }, normal],
            leader_commit: Some(log_id(1, 4)),
        }
    }

    #[test]
    fn append_is_golden_and_round_trips() {
        let head = Head { lane: Lane::Heartbeat, seq: 200 };
        let bytes = encode_append(head, &request());
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text, "0101c80102010101010401010402040100020508010102060100007".to_owned() + "8");
        let (got, reader) = Head::decode("append", bytes).unwrap();
        assert_eq!(got, head);
        let decoded = decode_append(reader).unwrap();
        assert_eq!(decoded.entries, request().entries);
        assert_eq!(
            (decoded.vote, decoded.prev_log_id, decoded.leader_commit),
            (request().vote, request().prev_log_id, request().leader_commit)
        );
    }

    #[test]
    fn gaps_between_entries_are_refused() {
        let mut gap = request();
        gap.entries.remove(0);
        let (_, reader) = Head::decode("append", encode_append(Head { lane: Lane::Replication, seq: 0 }, &gap)).unwrap();
        assert_eq!(decode_append(reader).unwrap_err().why, "entries are not consecutive");
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = encode_append(Head { lane: Lane::Replication, seq: 1 }, &request());
        for len in 0..bytes.len() {
            let cut = Head::decode("append", bytes.slice(..len)).and_then(|(_, reader)| decode_append(reader));
            assert!(cut.is_err(), "cut at {len}");
        }
    }

    #[test]
    fn answers_round_trip() {
        let answers = [
            AppendAnswer::Raft(Ok(None)),
            AppendAnswer::Raft(Ok(Some(log_id(3, 9)))),
            AppendAnswer::Raft(Err(StreamAppendError::Conflict(log_id(3, 9)))),
            AppendAnswer::Raft(Err(StreamAppendError::HigherVote(Vote::new(9, 3)))),
            AppendAnswer::Refused("no body".into()),
        ];
        for answer in answers {
            let (head, reader) = Head::decode("answer", encode_append_answer(Head { lane: Lane::Replication, seq: 7 }, &answer)).unwrap();
            assert_eq!(head.seq, 7);
            assert_eq!(decode_append_answer(reader).unwrap(), answer);
        }
        let long = AppendAnswer::Refused("ü".repeat(600));
        let (_, reader) = Head::decode("answer", encode_append_answer(Head { lane: Lane::Replication, seq: 7 }, &long)).unwrap();
        assert_eq!(decode_append_answer(reader).unwrap(), AppendAnswer::Refused("ü".repeat(256)));
    }

    #[test]
    fn votes_transfers_and_snapshot_heads_round_trip() {
        let mut vote = VoteRequest::new(Vote::new(4, 2), Some(log_id(3, 8)));
        vote.leadership_transfer = true;
        assert_eq!(decode_vote_request(encode_vote_request(&vote)).unwrap(), vote);
        let response = VoteResponse { vote: Vote::new(4, 2), vote_granted: true, last_log_id: None };
        assert_eq!(decode_vote_response(encode_vote_response(&response)).unwrap(), response);
        let transfer = TransferLeaderRequest::new(Vote::new_committed(4, 2), 3, Some(log_id(4, 9)));
        assert_eq!(decode_transfer_request(encode_transfer_request(&transfer)).unwrap(), transfer);
        let answers = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: Vote::new(1, 1), actual: Vote::new(2, 2) }),
            Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 1)), actual: None }),
        ];
        for answer in answers {
            assert_eq!(decode_transfer_response(encode_transfer_response(&answer)).unwrap(), answer);
        }
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 7)),
            last_membership: StoredMembership::new(Some(log_id(1, 0)), sample_membership()),
        };
        let vote = Vote::new_committed(2, 1);
        assert_eq!(decode_rouse(encode_rouse(&vote)).unwrap(), vote);
        let wish = Wish { vote, last: log_id(2, 9) };
        assert_eq!(decode_wish(encode_wish(&wish)).unwrap(), wish);
        assert_eq!([true, false].map(|yes| decode_yes(encode_yes(yes)).unwrap()), [true, false]);
        assert_eq!(decode_snapshot_head(encode_snapshot_head(&vote, &meta)).unwrap(), (vote, meta));
        assert_eq!(decode_snapshot_response(encode_snapshot_response(&SnapshotResponse::new(vote))).unwrap().vote, vote);
    }
}
