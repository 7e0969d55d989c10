//! The packed form of recorded replies: those that mutations can have.

use super::codec::{Reader, put, put_set};
use crate::port::TableFault;
use parliament_ids::{MailboxId, ModSeq, Uid, UidValidity};
use parliament_mail_api::{Rejection, Reply};

const VERSION: u8 = 1;

/// Rejections by their number in records. Appended to only.
const REJECTIONS: [Rejection; 15] = [
    Rejection::NoSuchMailbox,
    Rejection::AlreadyExists,
    Rejection::NoPermission,
    Rejection::OverQuota,
    Rejection::Limit,
    Rejection::Cannot,
    Rejection::UseAttribute,
    Rejection::TooBig,
    Rejection::StaleRequest,
    Rejection::UploadLost,
    Rejection::BadBody,
    Rejection::UnknownEncoding,
    Rejection::NoSuchAccount,
    Rejection::Exhausted,
    Rejection::Expunged,
];

/// Encodes an outcome. Replies of reads are never recorded; they become `Done`.
pub(crate) fn encode(outcome: &Result<Reply, Rejection>) -> Vec<u8> {
    let mut out = vec![VERSION];
    match outcome {
        Err(rejection) => {
            out.push(0);
            let number = REJECTIONS.iter().position(|r| r == rejection);
            debug_assert!(number.is_some(), "every rejection has a number");
            put(&mut out, number.unwrap_or(0) as u64);
        }
        Ok(Reply::Created { mailbox }) => {
            out.push(2);
            put(&mut out, mailbox.0);
        }
        Ok(Reply::Appended { mailbox, uid_validity, uids }) => {
            out.push(3);
            put(&mut out, mailbox.0);
            put(&mut out, u64::from(uid_validity.0));
            put_set(&mut out, uids);
        }
        Ok(Reply::Copied { uid_validity, source, target }) => {
            out.push(4);
            put(&mut out, u64::from(uid_validity.0));
            put_set(&mut out, source);
            put_set(&mut out, target);
        }
        Ok(Reply::Stored { modseq, modified, missing }) => {
            out.push(5);
            put(&mut out, modseq.map_or(0, |m| m.0));
            put_set(&mut out, modified);
            out.push(u8::from(*missing));
        }
        Ok(Reply::Expunged { uids, modseq }) => {
            out.push(6);
            put_set(&mut out, uids);
            put(&mut out, modseq.map_or(0, |m| m.0));
        }
        Ok(Reply::Delivered { mailbox, uid, duplicate }) => {
            out.push(7);
            put(&mut out, mailbox.0);
            put(&mut out, uid.map_or(0, |u| u64::from(u.0)));
            out.push(u8::from(*duplicate));
        }
        Ok(_) => out.push(1),
    }
    out
}

/// Decodes what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Result<Result<Reply, Rejection>, TableFault> {
    let mut r = Reader::versioned(bytes, VERSION, "recorded reply")?;
    let some_modseq = |n: u64| (n != 0).then_some(ModSeq(n));
    let outcome = match r.byte()? {
        0 => {
            let number = r.size()?;
            Err(*REJECTIONS.get(number).ok_or_else(|| r.fault())?)
        }
        1 => Ok(Reply::Done),
        2 => Ok(Reply::Created { mailbox: MailboxId(r.number()?) }),
        3 => Ok(Reply::Appended { mailbox: MailboxId(r.number()?), uid_validity: UidValidity(r.small()?), uids: r.set()? }),
        4 => Ok(Reply::Copied { uid_validity: UidValidity(r.small()?), source: r.set()?, target: r.set()? }),
        5 => Ok(Reply::Stored { modseq: some_modseq(r.number()?), modified: r.set()?, missing: r.byte()? != 0 }),
        6 => Ok(Reply::Expunged { uids: r.set()?, modseq: some_modseq(r.number()?) }),
        7 => {
            let mailbox = MailboxId(r.number()?);
            let uid = r.small()?;
            Ok(Reply::Delivered { mailbox, uid: (uid != 0).then_some(Uid(uid)), duplicate: r.byte()? != 0 })
        }
        _ => return Err(r.fault()),
    };
    r.end()?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parliament_ids::UidSet;

    #[test]
    fn every_recorded_outcome_round_trips() {
        let set = UidSet::from_ranges([(1, 5), (9, 9)]);
        let mut outcomes: Vec<Result<Reply, Rejection>> = REJECTIONS.iter().map(|r| Err(*r)).collect();
        outcomes.extend([
            Ok(Reply::Done),
            Ok(Reply::Created { mailbox: MailboxId(300) }),
            Ok(Reply::Appended { mailbox: MailboxId(1), uid_validity: UidValidity(u32::MAX), uids: set.clone() }),
            Ok(Reply::Copied { uid_validity: UidValidity(7), source: set.clone(), target: UidSet::from_ranges([(20, 25)]) }),
            Ok(Reply::Stored { modseq: Some(ModSeq(9)), modified: set.clone(), missing: true }),
            Ok(Reply::Stored { modseq: None, modified: UidSet::new(), missing: false }),
            Ok(Reply::Expunged { uids: set, modseq: Some(ModSeq(1 << 40)) }),
            Ok(Reply::Delivered { mailbox: MailboxId(2), uid: None, duplicate: true }),
            Ok(Reply::Delivered { mailbox: MailboxId(2), uid: Some(Uid(4)), duplicate: false }),
        ]);
        for outcome in outcomes {
            assert_eq!(decode(&encode(&outcome)).unwrap(), outcome);
        }
        assert!(decode(&[1, 99]).is_err());
        assert!(decode(&[1, 0, 99]).is_err());
    }
}
