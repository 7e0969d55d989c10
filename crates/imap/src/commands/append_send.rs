//! APPEND: sending it to the holder, and sending it again to the next one.

use super::append::{Append, Body, Stage};
use crate::Session;
use crate::session::{Job, Outcome, Output, SpoolId};
use bytes::Bytes;
use parliament_ids::limits::BODY_PIECE_BYTES;
use parliament_mail_api::{AppendMessage, BodySource, Rejection, Reply, Request, bytes_serde::BytesField};

/// How often the large messages of one APPEND are sent anew before the client is told to try later.
const AGAIN_MAX: u32 = 5;

impl Session {
    /// Everything is here: sends what a holder still lacks, then the APPEND itself under one request id for every try.
    pub(crate) fn append_send(&mut self, mut append: Box<Append>) {
        let lacking = append.messages.iter().position(|message| matches!(&message.body, Body::Spooled(spooled) if !spooled.uploaded));
        if let Some(index) = lacking {
            if append.spool_lost || append.again >= AGAIN_MAX {
                return self.append_fail(append, "NO [UNAVAILABLE] The mail store cannot serve this now, try again later");
            }
            return self.append_again(append, index, 0);
        }
        let messages = append.messages.iter().map(|message| AppendMessage {
            body: match &message.body {
                Body::Inline(bytes) => BodySource::Inline(BytesField(bytes.clone())),
                Body::Spooled(spooled) => BodySource::Uploaded { upload: spooled.upload, size: spooled.size, hash: spooled.hash },
            },
            flags: message.tail.flags.clone(),
            internal_date: message.tail.date,
        });
        let request = Request::Append { to: append.to.clone(), messages: messages.collect() };
        let id = *append.request.get_or_insert_with(|| self.next_request());
        append.stage = Stage::Sending;
        self.job = Job::Append(append);
        self.call_as(Some(id), request);
    }

    /// Reads back the piece at `offset` of a large message, or goes on when it has no more.
    fn append_again(&mut self, mut append: Box<Append>, index: usize, offset: u64) {
        let Some(Body::Spooled(spooled)) = append.messages.get_mut(index).map(|message| &mut message.body) else {
            return self.append_send(append);
        };
        let left = spooled.size.saturating_sub(offset);
        if left == 0 {
            spooled.uploaded = true;
            return self.append_send(append);
        }
        let spool = spooled.spool;
        append.stage = Stage::Again { index, offset };
        self.job = Job::Append(append);
        let length = u32::try_from(left.min(BODY_PIECE_BYTES as u64)).unwrap_or(u32::MAX);
        self.push(Output::SpoolRead { spool, offset, length });
    }

    pub(crate) fn on_spool_piece(&mut self, spool: SpoolId, bytes: Bytes) {
        if self.is_calling() {
            return;
        }
        let Job::Append(append) = &self.job else { return };
        let Stage::Again { index, offset } = append.stage else { return };
        let Some(Body::Spooled(spooled)) = append.messages.get(index).map(|message| &message.body) else { return };
        let expected = spooled.size.saturating_sub(offset).min(BODY_PIECE_BYTES as u64);
        if spooled.spool != spool {
            return;
        }
        if bytes.len() as u64 != expected {
            return self.on_spool_failed(spool);
        }
        let upload = spooled.upload;
        self.call(Request::Upload { upload, offset, bytes: BytesField(bytes) });
    }

    pub(crate) fn on_append(&mut self, mut append: Box<Append>, outcome: Outcome) {
        match append.stage {
            Stage::Reserving(..) | Stage::Receiving(_) => self.on_append_piece(append, outcome),
            Stage::Tail { .. } => self.job = Job::Append(append),
            Stage::Again { index, offset } => match outcome {
                Outcome::Reply(_) => self.append_again(append, index, offset + BODY_PIECE_BYTES as u64),
                Outcome::Rejected(Rejection::UploadLost) => self.append_lost(append),
                _ => self.append_fail(append, "NO [UNAVAILABLE] The mail store cannot serve this now, try again later"),
            },
            Stage::Sending => match outcome {
                Outcome::Reply(Reply::Appended { uid_validity, uids, .. }) => {
                    self.release(&append);
                    self.done(&append.tag, format_args!("OK [APPENDUID {uid_validity} {uids}] Append completed"));
                }
                Outcome::Rejected(Rejection::UploadLost) => self.append_lost(append),
                Outcome::Reply(_) => {
                    self.release(&append);
                    self.wrong_reply(&append.tag);
                }
                Outcome::Rejected(rejection) => {
                    self.release(&append);
                    append.messages.clear();
                    self.rejected(&append.tag, rejection, true, true);
                }
                Outcome::Unserved => {
                    self.release(&append);
                    self.unavailable(&append.tag);
                }
            },
        }
    }

    /// The holder knows the uploads no more: all of them are sent anew, from the spool.
    fn append_lost(&mut self, mut append: Box<Append>) {
        append.again += 1;
        for message in &mut append.messages {
            if let Body::Spooled(spooled) = &mut message.body {
                spooled.uploaded = false;
            }
        }
        self.append_send(append);
    }
}
