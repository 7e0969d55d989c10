//! APPEND: receiving its messages (RFC 9051 section 6.3.12, RFC 3502, RFC 7888, rule 27).
//!
//! Small messages are kept in memory. Larger ones are hashed, spooled by the driver and sent on in pieces while they are being
//! received; the spool is what a new holder gets should the present one die before the tagged reply.

use crate::Session;
use crate::parse::{AppendHead, AppendTail, parse_append_tail};
use crate::session::{Job, Outcome, Output, SpoolId};
use crate::wire::{Announce, Event, ParseError};
use bytes::{Bytes, BytesMut};
use parliament_ids::limits::{BODY_PIECE_BYTES, JOURNAL_BODY_BYTES_MAX};
use parliament_ids::{BodyHash, MailboxName, RequestId};
use parliament_mail_api::{Rejection, Request, UploadId, bytes_serde::BytesField};

/// Bytes of messages kept in memory for one APPEND; beyond that small ones are spooled too.
const INLINE_BYTES_MAX: usize = 1024 * 1024;
/// Messages of one APPEND.
const MESSAGES_MAX: usize = 1_000;

/// An APPEND under way.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) tag: String,
    pub(crate) to: MailboxName,
    pub(crate) messages: Vec<Message>,
    /// Bytes kept in memory.
    inline: usize,
    pub(crate) stage: Stage,
    /// The id of the APPEND proper, the same for every try.
    pub(crate) request: Option<RequestId>,
    /// How often large messages were sent anew.
    pub(crate) again: u32,
    /// The spool failed: nothing can be sent anew.
    pub(crate) spool_lost: bool,
}

/// A received message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) tail: AppendTail,
    pub(crate) body: Body,
}

/// Its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Inline(Bytes),
    Spooled(Spooled),
}

/// A large message: in the driver's spool, and at the holder as far as is known.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub(crate) spool: SpoolId,
    pub(crate) upload: UploadId,
    pub(crate) size: u64,
    pub(crate) hash: BodyHash,
    pub(crate) uploaded: bool,
}

/// What an APPEND waits for.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Room for the announced literal.
    Reserving(Incoming, Announce),
    /// Bytes of a literal, and pieces of it on their way.
    Receiving(Incoming),
    /// The rest of the line after a literal; `utf8` says that a parenthesis closes it.
    Tail { utf8: bool },
    /// A large message is sent anew: which, and the bytes of it that the holder has.
    Again { index: usize, offset: u64 },
    /// The answer.
    Sending,
}

/// A message being received.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    tail: AppendTail,
    size: u64,
    kind: Kind,
    complete: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Inline(BytesMut),
    Spool(Box<Upload>),
}

#[derive(Clone, Debug)]
struct Upload {
    spool: SpoolId,
    upload: UploadId,
    hasher: blake3::Hasher,
    /// Received, not yet sent on.
    piece: BytesMut,
    /// Bytes sent on, the piece in flight included.
    sent: u64,
    /// The holder changed meanwhile: sent anew from the spool once everything is here.
    lost: bool,
}

impl Append {
    fn new(tag: String, to: MailboxName) -> Self {
        let stage = Stage::Tail { utf8: false };
        Self { tag, to, messages: Vec::new(), inline: 0, stage, request: None, again: 0, spool_lost: false }
    }
    /// Bytes of the command are still to come.
    pub(crate) fn is_receiving(&self) -> bool {
        matches!(self.stage, Stage::Receiving(_) | Stage::Tail { .. })
    }
    /// Every spool this command holds.
    pub(crate) fn spools(&self) -> Vec<SpoolId> {
        let kept = self.messages.iter().filter_map(|message| match &message.body {
            Body::Spooled(spooled) => Some(spooled.spool),
            Body::Inline(_) => None,
        });
        let current = match &self.stage {
            Stage::Reserving(incoming, _) | Stage::Receiving(incoming) => match &incoming.kind {
                Kind::Spool(upload) => Some(upload.spool),
                Kind::Inline(_) => None,
            },
            _ => None,
        };
        kept.chain(current).collect()
    }
}

impl Session {
    /// The first message literal of an APPEND is announced.
    pub(crate) fn append_begin(&mut self, head: AppendHead, literal: Announce) {
        let limit = self.settings.message_bytes_max;
        if self.identity.is_none() {
            return self.discard(literal, format!("{} BAD Log in first", head.tag), crate::wire::COMMAND_BYTES_MAX as u64);
        }
        match head.body {
            Ok((to, tail)) => self.append_literal(Box::new(Append::new(head.tag, to)), tail, literal),
            Err(error) => self.discard(literal, refusal(&head.tag, &error), limit),
        }
    }

    fn append_literal(&mut self, mut append: Box<Append>, tail: AppendTail, literal: Announce) {
        let limit = self.settings.message_bytes_max;
        let refused = if literal.size > limit {
            Some("NO [TOOBIG] Message is too large")
        } else if literal.size == 0 {
            // An empty literal takes a MULTIAPPEND back (RFC 3502 section 6.3.11).
            Some("NO [CANNOT] An empty message ends the command")
        } else if append.messages.len() == MESSAGES_MAX {
            Some("NO [LIMIT] Too many messages in one command")
        } else {
            None
        };
        if let Some(text) = refused {
            let reply = format!("{} {text}", append.tag);
            self.release(&append);
            return self.discard(literal, reply, limit);
        }
        let in_memory = usize::try_from(literal.size).ok().filter(|size| *size <= JOURNAL_BODY_BYTES_MAX);
        match in_memory.filter(|size| append.inline + size <= INLINE_BYTES_MAX) {
            Some(size) => {
                append.inline += size;
                let kind = Kind::Inline(BytesMut::with_capacity(size));
                append.stage = Stage::Receiving(Incoming { tail, size: literal.size, kind, complete: false });
                self.job = Job::Append(append);
                self.append_receive(literal);
            }
            None => {
                self.spools += 1;
                self.uploads += 1;
                let (spool, number) = (SpoolId(self.spools), self.uploads);
                let upload = UploadId { session: self.settings.key, number };
                let hasher = blake3::Hasher::new();
                let upload = Upload { spool, upload, hasher, piece: BytesMut::new(), sent: 0, lost: false };
                let incoming = Incoming { tail, size: literal.size, kind: Kind::Spool(Box::new(upload)), complete: false };
                append.stage = Stage::Reserving(incoming, literal);
                self.job = Job::Append(append);
                self.push(Output::SpoolReserve { spool, bytes: literal.size });
            }
        }
    }

    /// The announced literal may come.
    fn append_receive(&mut self, literal: Announce) {
        drop(self.framer.stream());
        if literal.sync {
            self.go_on("Ready for the message");
        }
    }

    pub(crate) fn on_spool_reserved(&mut self, spool: SpoolId) {
        let Job::Append(append) = &mut self.job else { return };
        if let Stage::Reserving(Incoming { kind: Kind::Spool(upload), .. }, _) = &append.stage
            && upload.spool == spool
            && let Stage::Reserving(incoming, literal) = std::mem::replace(&mut append.stage, Stage::Sending)
        {
            append.stage = Stage::Receiving(incoming);
            self.append_receive(literal);
        }
    }

    pub(crate) fn on_spool_failed(&mut self, spool: SpoolId) {
        let Job::Append(mut append) = std::mem::take(&mut self.job) else { return };
        if !append.spools().contains(&spool) {
            self.job = Job::Append(append);
        } else if matches!(append.stage, Stage::Sending) {
            // The APPEND may be answered yet.
            append.spool_lost = true;
            self.job = Job::Append(append);
        } else {
            self.append_fail(append, "NO [UNAVAILABLE] No room to keep the message meanwhile");
        }
    }

    /// Ends an APPEND early, whatever of it is still to come.
    pub(crate) fn append_fail(&mut self, append: Box<Append>, text: &str) {
        let reply = format!("{} {text}", append.tag);
        self.release(&append);
        let limit = self.settings.message_bytes_max;
        match append.stage {
            Stage::Reserving(_, literal) => self.discard(literal, reply, limit),
            Stage::Receiving(Incoming { complete: false, .. }) => {
                self.framer.skip();
                self.job = Job::Discard(crate::session::Discard { reply, room: limit });
            }
            // The rest of the line, or further messages, are still to come.
            Stage::Receiving(_) | Stage::Tail { .. } => self.job = Job::Discard(crate::session::Discard { reply, room: limit }),
            Stage::Again { .. } | Stage::Sending => self.w.fmt(format_args!("{reply}\r\n")),
        }
    }

    /// Lets go of everything spooled.
    pub(crate) fn release(&mut self, append: &Append) {
        for spool in append.spools() {
            self.push(Output::SpoolRelease(spool));
        }
    }

    pub(crate) fn next_append_event(&mut self) -> bool {
        let calling = self.is_calling();
        let Job::Append(append) = &mut self.job else { return false };
        match &mut append.stage {
            Stage::Receiving(incoming) if !incoming.complete => {
                // Memory is bounded by holding back the client while a whole piece waits behind the one in flight.
                if calling && matches!(&incoming.kind, Kind::Spool(upload) if upload.piece.len() >= BODY_PIECE_BYTES) {
                    return false;
                }
                let Some(event) = self.framer.next(false) else { return false };
                self.append_event(event);
                true
            }
            Stage::Tail { .. } => {
                let Some(event) = self.framer.next(false) else { return false };
                self.append_tail(event);
                true
            }
            _ => false,
        }
    }

    fn append_event(&mut self, event: Event) {
        let Job::Append(append) = &mut self.job else { return };
        let Stage::Receiving(incoming) = &mut append.stage else { return };
        match event {
            Event::Chunk(bytes) => match &mut incoming.kind {
                Kind::Inline(buffer) => buffer.extend_from_slice(&bytes),
                Kind::Spool(upload) => {
                    upload.hasher.update(&bytes);
                    upload.piece.extend_from_slice(&bytes);
                    let spool = upload.spool;
                    self.push(Output::SpoolWrite { spool, bytes });
                }
            },
            _ => incoming.complete = true,
        }
        self.append_upload();
    }

    /// Sends the next piece of a large message when one is due, and ends the message when all is sent.
    fn append_upload(&mut self) {
        let calling = self.is_calling();
        let Job::Append(append) = &mut self.job else { return };
        let Stage::Receiving(incoming) = &mut append.stage else { return };
        if let Kind::Spool(upload) = &mut incoming.kind {
            if upload.lost {
                upload.piece.clear();
            }
            let due = upload.piece.len() >= BODY_PIECE_BYTES || (incoming.complete && !upload.piece.is_empty());
            if due && !calling {
                let bytes = upload.piece.split_to(upload.piece.len().min(BODY_PIECE_BYTES)).freeze();
                let offset = upload.sent;
                upload.sent += bytes.len() as u64;
                let upload = upload.upload;
                return self.call(Request::Upload { upload, offset, bytes: BytesField(bytes) });
            }
            if calling || !upload.piece.is_empty() {
                return;
            }
        }
        if incoming.complete
            && let Stage::Receiving(incoming) = std::mem::replace(&mut append.stage, Stage::Sending)
        {
            let utf8 = incoming.tail.utf8;
            append.messages.push(incoming.finish());
            append.stage = Stage::Tail { utf8 };
        }
    }

    /// An answer came while a literal is received: of a piece of it.
    pub(crate) fn on_append_piece(&mut self, mut append: Box<Append>, outcome: Outcome) {
        match outcome {
            Outcome::Reply(_) => {}
            Outcome::Rejected(Rejection::UploadLost) => {
                if let Stage::Receiving(Incoming { kind: Kind::Spool(upload), .. }) = &mut append.stage {
                    upload.lost = true;
                }
            }
            Outcome::Rejected(Rejection::OverQuota) => return self.append_fail(append, "NO [OVERQUOTA] Quota exceeded"),
            Outcome::Rejected(_) => return self.append_fail(append, "NO [UNAVAILABLE] The message cannot be taken now"),
            Outcome::Unserved => return self.append_fail(append, "NO [UNAVAILABLE] The mail store cannot serve this now"),
        }
        self.job = Job::Append(append);
        self.append_upload();
    }

    /// What follows a message: another one, or the end of the command.
    fn append_tail(&mut self, event: Event) {
        let Job::Append(append) = std::mem::take(&mut self.job) else { return };
        let Stage::Tail { utf8 } = append.stage else { return };
        match event {
            Event::Line(line) => match parse_append_tail(&line, utf8, false) {
                Ok(_) => self.append_send(append),
                Err(error) => {
                    let reply = refusal(&append.tag, &error);
                    self.release(&append);
                    self.w.fmt(format_args!("{reply}\r\n"));
                }
            },
            Event::Literal(literal) => match parse_append_tail(self.framer.text(), utf8, true) {
                Ok(tail) => self.append_literal(append, tail.unwrap_or_default(), literal),
                Err(error) => {
                    let reply = refusal(&append.tag, &error);
                    self.release(&append);
                    self.discard(literal, reply, self.settings.message_bytes_max);
                }
            },
            Event::Overlong { head, literal } => {
                self.release(&append);
                self.on_overlong(&[append.tag.as_bytes(), b" ", &head].concat(), literal);
            }
            Event::Chunk(_) | Event::LiteralEnd => self.job = Job::Append(append),
        }
    }
}

impl Incoming {
    fn finish(self) -> Message {
        let body = match self.kind {
            Kind::Inline(bytes) => Body::Inline(bytes.freeze()),
            Kind::Spool(upload) => Body::Spooled(Spooled {
                spool: upload.spool,
                upload: upload.upload,
                size: self.size,
                hash: BodyHash(*upload.hasher.finalize().as_bytes()),
                uploaded: !upload.lost,
            }),
        };
        Message { tail: self.tail, body }
    }
}

/// The whole tagged response to an APPEND that cannot be understood.
fn refusal(tag: &str, error: &ParseError) -> String {
    match error {
        ParseError::Bad(text) => format!("{tag} BAD {text}"),
        ParseError::No("", text) => format!("{tag} NO {text}"),
        ParseError::No(code, text) => format!("{tag} NO [{code}] {text}"),
        ParseError::Name(text) => format!("{tag} NO [CANNOT] {text}"),
    }
}
