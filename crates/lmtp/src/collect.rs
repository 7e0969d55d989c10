//! The message of a transaction as it comes in: bounded memory, hashes on the way.

use crate::session::{Body, Output};
use crate::undot::Undot;
use crate::{INLINE_BYTES_MAX, replies};
use bytes::Bytes;
use parliament_ids::BodyHash;

/// Once a message is being spooled, pieces of about this many bytes are handed out.
const PIECE_BYTES: usize = 64 * 1024;

/// Invariant: once `refused` is set nothing of the message is kept, here or in the spool.
pub(crate) struct Collector {
    undot: Undot,
    /// Bytes not yet handed to the spool, at most [`INLINE_BYTES_MAX`] between two inputs.
    buffer: Vec<u8>,
    dedupe: blake3::Hasher,
    /// Hash of the bytes handed to the spool; present once there are any.
    spooled: Option<Box<blake3::Hasher>>,
    spooled_bytes: u64,
    /// Bytes of DATA so far, without the added header.
    data_bytes: u64,
    limit: u64,
    refused: Option<&'static str>,
}

impl Collector {
    /// Begins a message with `header` in front. The dedupe key covers the sender's length, the sender, and the data alone.
    pub(crate) fn new(header: String, from: &str, limit: u64) -> Self {
        let mut dedupe = blake3::Hasher::new();
        dedupe.update(&(from.len() as u64).to_le_bytes()).update(from.as_bytes());
        let buffer = header.into_bytes();
        Self { undot: Undot::LineStart, buffer, dedupe, spooled: None, spooled_bytes: 0, data_bytes: 0, limit, refused: None }
    }

    /// Takes bytes of DATA; returns how many were consumed and whether the message ended.
    pub(crate) fn data(&mut self, input: &[u8], out: &mut Vec<Output>) -> (usize, bool) {
        let mut undot = self.undot;
        let fed = undot.feed(input, |bytes| self.keep(bytes));
        self.undot = undot;
        self.hand_out(out);
        fed
    }

    /// Takes bytes of a BDAT chunk.
    pub(crate) fn chunk(&mut self, bytes: &[u8], out: &mut Vec<Output>) {
        self.keep(bytes);
        self.hand_out(out);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.data_bytes = self.data_bytes.saturating_add(bytes.len() as u64);
        if self.data_bytes > self.limit {
            self.refused.get_or_insert(replies::TOO_BIG);
        }
        if self.refused.is_none() {
            self.dedupe.update(bytes);
            self.buffer.extend_from_slice(bytes);
        }
    }

    fn hand_out(&mut self, out: &mut Vec<Output>) {
        if self.refused.is_some() {
            self.buffer = Vec::new();
            if self.spooled.take().is_some() {
                out.push(Output::DropSpool);
            }
            return;
        }
        let bound = if self.spooled.is_some() { PIECE_BYTES } else { INLINE_BYTES_MAX };
        if self.buffer.len() > bound {
            self.hand_out_buffer(out);
        }
    }

    fn hand_out_buffer(&mut self, out: &mut Vec<Output>) {
        let piece = std::mem::take(&mut self.buffer);
        self.spooled_bytes += piece.len() as u64;
        self.spooled.get_or_insert_default().update(&piece);
        out.push(Output::Spool(Bytes::from(piece)));
    }

    /// The message cannot be kept: it is read to its end and refused with `reply`.
    pub(crate) fn refuse(&mut self, reply: &'static str, out: &mut Vec<Output>) {
        self.refused.get_or_insert(reply);
        self.hand_out(out);
    }

    pub(crate) const fn refused(&self) -> Option<&'static str> {
        self.refused
    }

    /// True when more than twice the limit came in: reading on would only serve an attacker.
    pub(crate) const fn beyond_all_bounds(&self) -> bool {
        self.data_bytes > self.limit.saturating_mul(2)
    }

    /// The message is over without its end: what was spooled is dropped.
    pub(crate) fn abandon(mut self, out: &mut Vec<Output>) {
        self.refuse(replies::NO_SPACE, out);
    }

    /// The whole message and its dedupe key, or the reply that refuses it.
    pub(crate) fn finish(mut self, out: &mut Vec<Output>) -> Result<(Body, BodyHash), &'static str> {
        if let Some(reply) = self.refused {
            return Err(reply);
        }
        let dedupe = BodyHash(*self.dedupe.finalize().as_bytes());
        if self.spooled.is_none() {
            return Ok((Body::Inline(Bytes::from(self.buffer)), dedupe));
        }
        self.hand_out_buffer(out);
        let hash = self.spooled.take().unwrap_or_default().finalize();
        Ok((Body::Spooled { size: self.spooled_bytes, hash: BodyHash(*hash.as_bytes()) }, dedupe))
    }
}
