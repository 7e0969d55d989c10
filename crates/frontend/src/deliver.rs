//! Delivery of one message to one account: upload where it is large, then the delivery proper.

use crate::shared::Shared;
use crate::spool::SpoolFile;
use bytes::Bytes;
use parliament_ids::limits::BODY_PIECE_BYTES;
use parliament_ids::{AccountId, BodyHash, FlagSet, MailboxName, RequestId, RequestSeq};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{Answer, AppendMessage, BodySource, Call, Delivery, Rejection, Request, Unserved, UploadId};
use std::sync::Arc;

/// A holder that loses an upload (a fail-over) is given it again this many times.
const UPLOAD_TRIES: u32 = 4;

/// Where the message is; cheap to clone.
#[derive(Clone)]
pub(crate) enum Source {
    /// In memory.
    Inline(Bytes),
    /// In a spool file.
    Spooled { file: Arc<SpoolFile>, size: u64, hash: BodyHash },
}

/// Delivers into INBOX. Every try has a session number of its own: tries of several accounts, and a try after a lost
/// upload, then never share or skip a request number; `dedupe` is what makes a message arrive once.
pub(crate) async fn deliver(shared: &Shared, account: AccountId, source: Source, dedupe: BodyHash) -> Result<Answer, Unserved> {
    let mut tries = 0;
    loop {
        tries += 1;
        let number = shared.numbers.allocate();
        let session = number.key();
        let body = match &source {
            Source::Inline(bytes) => BodySource::Inline(BytesField(bytes.clone())),
            Source::Spooled { file, size, hash } => {
                let upload = UploadId { session, number: 1 };
                let answer = send_pieces(shared, account, upload, file, *size).await?;
                if let Some(refused) = answer.filter(|answer| answer.outcome.is_err()) {
                    if lost(&refused) && tries < UPLOAD_TRIES {
                        continue;
                    }
                    return Ok(refused);
                }
                BodySource::Uploaded { upload, size: *size, hash: *hash }
            }
        };
        let message = AppendMessage { body, flags: FlagSet::default(), internal_date: None };
        let delivery = Delivery { to: MailboxName::inbox(), message, dedupe };
        let request = Some(RequestId { session, seq: RequestSeq(1) });
        let call = Call { owner: account, actor: account, request, view: None, body: Request::Deliver(delivery) };
        let answer = shared.call(call).await?;
        if !lost(&answer) || tries >= UPLOAD_TRIES {
            return Ok(answer);
        }
    }
}

fn lost(answer: &Answer) -> bool {
    matches!(answer.outcome, Err(Rejection::UploadLost))
}

/// Sends all pieces in order; stops at the first refusal. Returns the last answer.
async fn send_pieces(
    shared: &Shared,
    account: AccountId,
    upload: UploadId,
    file: &SpoolFile,
    size: u64,
) -> Result<Option<Answer>, Unserved> {
    let (mut offset, mut last) = (0, None);
    while offset < size {
        let length = usize::try_from(size - offset).map_or(BODY_PIECE_BYTES, |left| left.min(BODY_PIECE_BYTES));
        let bytes = file.read(offset, length).await.map_err(|error| {
            tracing::warn!(%error, "spool");
            Unserved::Busy
        })?;
        let body = Request::Upload { upload, offset, bytes: BytesField(bytes) };
        let answer = shared.call(Call { owner: account, actor: account, request: None, view: None, body }).await?;
        offset += length as u64;
        let refused = answer.outcome.is_err();
        last = Some(answer);
        if refused {
            break;
        }
    }
    Ok(last)
}
