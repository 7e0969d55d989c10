//! The ledger of a mailbox: a hash chain over every assignment of a UID. Replicas and backups must agree on its head, and an
//! auditor who keeps the stream of assignments can prove that no UID was ever reused, reordered or reassigned.

use parliament_ids::{BodyHash, ModSeq, Uid};

/// A head of the chain; all zero before the first assignment.
pub(crate) type Head = [u8; 16];

/// The first 16 bytes of BLAKE3 over head, UID (u32), MODSEQ (u64), both big-endian, and body hash.
pub(crate) fn extend(head: &Head, uid: Uid, modseq: ModSeq, hash: &BodyHash) -> Head {
    let mut input = [0_u8; 60];
    input[..16].copy_from_slice(head);
    input[16..20].copy_from_slice(&uid.0.to_be_bytes());
    input[20..28].copy_from_slice(&modseq.0.to_be_bytes());
    input[28..].copy_from_slice(&hash.0);
    let mut next = [0; 16];
    next.copy_from_slice(&blake3::hash(&input).as_bytes()[..16]);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_depends_on_every_part() {
        let base = extend(&[0; 16], Uid(1), ModSeq(2), &BodyHash([3; 32]));
        assert_ne!(base, extend(&[1; 16], Uid(1), ModSeq(2), &BodyHash([3; 32])));
        assert_ne!(base, extend(&[0; 16], Uid(2), ModSeq(2), &BodyHash([3; 32])));
        assert_ne!(base, extend(&[0; 16], Uid(1), ModSeq(3), &BodyHash([3; 32])));
        assert_ne!(base, extend(&[0; 16], Uid(1), ModSeq(2), &BodyHash([4; 32])));
    }
}
