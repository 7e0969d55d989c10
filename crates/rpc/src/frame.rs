//! Length-prefixed frames of the replication link: `length u32 | kind u8 | fields | payload`, all integers little-endian,
//! `length` counting what follows it. Payloads are shared with their sender and receiver and never copied on the way out.

use crate::LinkError;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parliament_ids::{BodyHash, GroupId};

/// What a client of the link sends before the first frame; a gRPC client's first byte differs.
pub(crate) const PREFACE: &[u8; 13] = b"PARLIAMENT/1\n";
/// Largest frame, bytes: an append message (1 MiB of entries, bounded by the log's reader) or a relayed request with an
/// inline body, with room for their own framing.
pub(crate) const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Entries or a heartbeat for one group. `stream` tells the answers of an earlier stream of the group from this one's.
    Append { group: GroupId, stream: u32, payload: Bytes },
    /// The answer to the oldest unanswered [`Frame::Append`] of the group's stream.
    AppendReply { group: GroupId, stream: u32, payload: Bytes },
    /// A body that an entry sent later names.
    Body { hash: BodyHash, payload: Bytes },
    /// A request; answered by the [`Frame::Reply`] of the same id.
    Request { id: u64, method: u8, payload: Bytes },
    /// The answer; `failed` payloads are a reason in UTF-8.
    Reply { id: u64, failed: bool, payload: Bytes },
}

const APPEND: u8 = 1;
const APPEND_REPLY: u8 = 2;
const BODY: u8 = 3;
const REQUEST: u8 = 4;
const REPLY: u8 = 5;

impl Frame {
    /// The head's bytes and the payload.
    pub(crate) fn encode(self, head: &mut BytesMut) -> Bytes {
        let start = head.len();
        head.put_u32_le(0);
        let payload = match self {
            Self::Append { group, stream, payload } => {
                head.put_u8(APPEND);
                head.put_u32_le(group.0);
                head.put_u32_le(stream);
                payload
            }
            Self::AppendReply { group, stream, payload } => {
                head.put_u8(APPEND_REPLY);
                head.put_u32_le(group.0);
                head.put_u32_le(stream);
                payload
            }
            Self::Body { hash, payload } => {
                head.put_u8(BODY);
                head.put_slice(&hash.0);
                payload
            }
            Self::Request { id, method, payload } => {
                head.put_u8(REQUEST);
                head.put_u64_le(id);
                head.put_u8(method);
                payload
            }
            Self::Reply { id, failed, payload } => {
                head.put_u8(REPLY);
                head.put_u64_le(id);
                head.put_u8(u8::from(failed));
                payload
            }
        };
        let length = head.len() - start - 4 + payload.len();
        debug_assert!(length <= FRAME_BYTES_MAX);
        head[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
        payload
    }

    /// Takes one whole frame from the front of `buffer`; `None` asks for more bytes.
    pub(crate) fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, LinkError> {
        let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(LinkError::Protocol("frame length"));
        }
        if buffer.len() < 4 + length {
            buffer.reserve(4 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(4);
        let mut frame = buffer.split_to(length).freeze();
        Self::parse(frame.get_u8(), frame).map(Some)
    }

    fn parse(kind: u8, mut rest: Bytes) -> Result<Self, LinkError> {
        let need = match kind {
            APPEND | APPEND_REPLY => 8,
            BODY => 32,
            REQUEST | REPLY => 9,
            _ => return Err(LinkError::Protocol("frame kind")),
        };
        if rest.len() < need {
            return Err(LinkError::Protocol("frame too short"));
        }
        Ok(match kind {
            APPEND => Self::Append { group: GroupId(rest.get_u32_le()), stream: rest.get_u32_le(), payload: rest },
            APPEND_REPLY => Self::AppendReply { group: GroupId(rest.get_u32_le()), stream: rest.get_u32_le(), payload: rest },
            BODY => {
                let mut hash = [0; 32];
                rest.copy_to_slice(&mut hash);
                Self::Body { hash: BodyHash(hash), payload: rest }
            }
            REQUEST => Self::Request { id: rest.get_u64_le(), method: rest.get_u8(), payload: rest },
            _ => Self::Reply { id: rest.get_u64_le(), failed: rest.get_u8() != 0, payload: rest },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        let payload = Bytes::from_static(b"payload");
        vec![
            Frame::Append { group: GroupId(7), stream: 1, payload: payload.clone() },
            Frame::AppendReply { group: GroupId(0), stream: 2, payload: Bytes::new() },
            Frame::Body { hash: BodyHash([3; 32]), payload: payload.clone() },
            Frame::Request { id: u64::MAX, method: 9, payload: payload.clone() },
            Frame::Reply { id: 1, failed: true, payload },
        ]
    }

    #[test]
    fn frames_survive_any_split_of_the_stream() {
        let mut wire = BytesMut::new();
        for frame in all() {
            let payload = frame.encode(&mut wire);
            wire.put(payload);
        }
        for step in 1..wire.len() {
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(step) {
                buffer.put_slice(piece);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, all());
        }
    }

    #[test]
    fn hostile_lengths_and_kinds_are_refused() {
        for bytes in [&[0, 0, 0, 0, 1][..], &[255, 255, 255, 255], &[1, 0, 0, 0, 99], &[2, 0, 0, 0, BODY, 1], &[1, 0, 0, 0, REQUEST]] {
            assert!(Frame::decode(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }
}
