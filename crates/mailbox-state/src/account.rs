//! The head record of an account (table A): its counters, lease, quota and state hash; or the tombstone of a deleted one; or where an
//! account lives that was here or is on its way here.

use crate::applied::{Owner, OwnerRecord};
use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, put};
use crate::state_hash::{self, SUM_BYTES};
use parliament_ids::{AccountId, Boot, EmailId, Fence, GroupId, MailboxId, ModSeq, MoveId, NodeId, OpNo, UidValidity};
use parliament_mail_api::{QuotaLimits, QuotaUsage, SpecialUse};

const VERSION: u8 = 1;
const LIVE: u8 = 1;
const TOMBSTONE: u8 = 2;
/// A living account that some move has touched: what the move left, then as [`LIVE`].
const LIVE_TOUCHED: u8 = 3;
const ABSENT: u8 = 4;

/// The head of a living account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The next mailbox's id.
    pub(crate) next_mailbox: MailboxId,
    /// The next name node's id; the root is 0.
    pub(crate) next_node: u32,
    /// The last UIDVALIDITY given to a mailbox: each is greater, so no (name, UIDVALIDITY) repeats.
    pub(crate) uid_validity: UidValidity,
    /// The last MODSEQ.
    pub(crate) modseq: ModSeq,
    /// The next EMAILID.
    pub(crate) next_email: EmailId,
    /// The lease.
    pub(crate) lease: OwnerRecord,
    /// Quota.
    pub(crate) limits: QuotaLimits,
    /// Exact usage.
    pub(crate) usage: QuotaUsage,
    /// Name nodes, those without a mailbox included.
    pub(crate) nodes: u32,
    /// Which mailbox has which special use; each use at most once, ascending by use.
    pub(crate) special: Vec<(SpecialUse, MailboxId)>,
    /// The current generation of delivery records.
    pub(crate) dedupe_generation: u32,
    /// Records in it.
    pub(crate) dedupe_count: u32,
    /// Bytes of server annotations.
    pub(crate) metadata_bytes: u64,
    /// The last move that touched the account here: neither it nor an earlier one begins again. 0 before the first.
    pub(crate) last_move: MoveId,
    /// The group that the last move takes it to. Until that is decided nothing about the account changes, and nobody owns its lease.
    pub(crate) frozen_for: Option<GroupId>,
    /// Sum of the hashes of all records.
    pub(crate) state_hash: u128,
}

/// An account that lives in another group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    /// The last move that this group knows of: what it leaves undecided here is told by `arriving`, every earlier one is over.
    pub(crate) last: MoveId,
    /// Where the account lives as far as this group knows: a hint, for ever good enough to find it by following hints.
    pub(crate) at: GroupId,
    /// Its records are being copied here by the move `last`, which this group has neither made good nor refused.
    pub(crate) arriving: bool,
    /// Sum of the hashes of its records here: copied already, or not yet swept away.
    pub(crate) sum: u128,
}

/// What table A holds for an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccountRecord {
    /// A living account.
    Live(Box<Head>),
    /// A deleted one: no UIDVALIDITY up to this may be used again by an account of the same name.
    Tombstone(UidValidity),
    /// One that lives elsewhere.
    Absent(Absent),
}

/// The key of the head.
pub(crate) fn key(account: AccountId) -> Vec<u8> {
    keys::of(Table::Account, account)
}

/// Reads the record of an account.
pub(crate) fn read(tables: &dyn Tables, account: AccountId) -> Result<Option<AccountRecord>, TableFault> {
    tables.get(&key(account))?.map(|value| decode(&value)).transpose()
}

/// The head of a living account.
pub(crate) fn head(tables: &dyn Tables, account: AccountId) -> Result<Option<Head>, TableFault> {
    Ok(match read(tables, account)? {
        Some(AccountRecord::Live(head)) => Some(*head),
        _ => None,
    })
}

impl Head {
    /// An account without mailboxes.
    pub(crate) fn new(floor: UidValidity) -> Self {
        Self {
            next_mailbox: MailboxId::INBOX,
            next_node: 1,
            uid_validity: floor,
            modseq: ModSeq(0),
            next_email: EmailId(1),
            lease: OwnerRecord { owner: None, fence: Fence(0), last_op_no: OpNo(0) },
            limits: QuotaLimits::default(),
            usage: QuotaUsage::default(),
            nodes: 0,
            special: Vec::new(),
            dedupe_generation: 1,
            dedupe_count: 0,
            metadata_bytes: 0,
            last_move: MoveId(0),
            frozen_for: None,
            state_hash: 0,
        }
    }

    /// The special uses of a mailbox, ascending.
    pub(crate) fn uses_of(&self, mailbox: MailboxId) -> Vec<SpecialUse> {
        self.special.iter().filter(|(_, m)| *m == mailbox).map(|(u, _)| *u).collect()
    }

    /// True when this mailbox is the account's Trash.
    pub(crate) fn is_trash(&self, mailbox: MailboxId) -> bool {
        self.special.contains(&(SpecialUse::Trash, mailbox))
    }

    /// The bytes of the record, the state hash last.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        if self.last_move == MoveId(0) {
            out.extend_from_slice(&[VERSION, LIVE]);
        } else {
            out.extend_from_slice(&[VERSION, LIVE_TOUCHED]);
            put(&mut out, self.last_move.0);
            put_option(&mut out, self.frozen_for.map(|group| u64::from(group.0)));
        }
        put(&mut out, self.next_mailbox.0);
        put(&mut out, u64::from(self.next_node));
        put(&mut out, u64::from(self.uid_validity.0));
        put(&mut out, self.modseq.0);
        put(&mut out, self.next_email.0);
        put_lease(&mut out, &self.lease);
        for limit in [self.limits.storage_bytes, self.limits.messages, self.limits.mailboxes] {
            put_option(&mut out, limit);
        }
        for number in [self.usage.storage_bytes, self.usage.messages, self.usage.mailboxes, u64::from(self.nodes)] {
            put(&mut out, number);
        }
        out.push(self.special.len() as u8);
        for (special_use, mailbox) in &self.special {
            out.push(use_number(*special_use));
            put(&mut out, mailbox.0);
        }
        put(&mut out, u64::from(self.dedupe_generation));
        put(&mut out, u64::from(self.dedupe_count));
        put(&mut out, self.metadata_bytes);
        out.extend_from_slice(&self.state_hash.to_le_bytes());
        out
    }

    /// The bytes of the record of an account whose other records sum up to `others`.
    pub(crate) fn sealed(mut self, account: AccountId, others: u128) -> Vec<u8> {
        self.state_hash = others.wrapping_add(state_hash::record(&key(account), &self.encode()));
        self.encode()
    }

    /// Sum of the hashes of all records but this one.
    pub(crate) fn others(&self, account: AccountId) -> u128 {
        self.state_hash.wrapping_sub(state_hash::record(&key(account), &self.encode()))
    }
}

/// The record of an account that lives elsewhere.
pub(crate) fn encode_absent(absent: &Absent) -> Vec<u8> {
    let mut out = vec![VERSION, ABSENT];
    put(&mut out, absent.last.0);
    put(&mut out, u64::from(absent.at.0));
    out.push(u8::from(absent.arriving));
    out.extend_from_slice(&absent.sum.to_le_bytes());
    out
}

/// The record of a deleted account.
pub(crate) fn encode_tombstone(floor: UidValidity) -> Vec<u8> {
    let mut out = vec![VERSION, TOMBSTONE];
    put(&mut out, u64::from(floor.0));
    out.extend_from_slice(&[0; SUM_BYTES]);
    out
}

fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn read_option(r: &mut Reader<'_>) -> Result<Option<u64>, TableFault> {
    match r.byte()? {
        0 => Ok(None),
        1 => Ok(Some(r.number()?)),
        _ => Err(r.fault()),
    }
}

fn put_lease(out: &mut Vec<u8>, lease: &OwnerRecord) {
    out.push(u8::from(lease.owner.is_some()));
    if let Some(owner) = lease.owner {
        put(out, owner.node.0);
        put(out, owner.boot.0);
    }
    put(out, lease.fence.0);
    put(out, lease.last_op_no.0);
}

fn read_lease(r: &mut Reader<'_>) -> Result<OwnerRecord, TableFault> {
    let owner = match r.byte()? {
        0 => None,
        1 => Some(Owner { node: NodeId(r.number()?), boot: Boot(r.number()?) }),
        _ => return Err(r.fault()),
    };
    Ok(OwnerRecord { owner, fence: Fence(r.number()?), last_op_no: OpNo(r.number()?) })
}

fn use_number(special_use: SpecialUse) -> u8 {
    SpecialUse::NAMES.iter().position(|(u, _)| *u == special_use).map_or(u8::MAX, |n| n as u8)
}

/// Decodes a record of table A.
pub(crate) fn decode(value: &[u8]) -> Result<AccountRecord, TableFault> {
    let mut r = Reader::versioned(value, VERSION, "account")?;
    let record = match r.byte()? {
        LIVE => AccountRecord::Live(Box::new(decode_head(&mut r, MoveId(0), None)?)),
        LIVE_TOUCHED => {
            let last_move = MoveId(r.number()?);
            let frozen_for = read_option(&mut r)?.map(|group| group_id(&r, group)).transpose()?;
            AccountRecord::Live(Box::new(decode_head(&mut r, last_move, frozen_for)?))
        }
        ABSENT => {
            let last = MoveId(r.number()?);
            let at = GroupId(r.small()?);
            let arriving = r.byte()? != 0;
            AccountRecord::Absent(Absent { last, at, arriving, sum: u128::from_le_bytes(r.array()?) })
        }
        TOMBSTONE => {
            let floor = UidValidity(r.small()?);
            r.array::<SUM_BYTES>()?;
            AccountRecord::Tombstone(floor)
        }
        _ => return Err(r.fault()),
    };
    r.end()?;
    Ok(record)
}

fn group_id(r: &Reader<'_>, number: u64) -> Result<GroupId, TableFault> {
    u32::try_from(number).map(GroupId).map_err(|_| r.fault())
}

fn decode_head(r: &mut Reader<'_>, last_move: MoveId, frozen_for: Option<GroupId>) -> Result<Head, TableFault> {
    Ok(Head {
        next_mailbox: MailboxId(r.number()?),
        next_node: r.small()?,
        uid_validity: UidValidity(r.small()?),
        modseq: ModSeq(r.number()?),
        next_email: EmailId(r.number()?),
        lease: read_lease(r)?,
        limits: QuotaLimits { storage_bytes: read_option(r)?, messages: read_option(r)?, mailboxes: read_option(r)? },
        usage: QuotaUsage { storage_bytes: r.number()?, messages: r.number()?, mailboxes: r.number()? },
        nodes: r.small()?,
        special: {
            let count = r.byte()?;
            let mut special = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let number = usize::from(r.byte()?);
                let special_use = SpecialUse::NAMES.get(number).ok_or_else(|| r.fault())?.0;
                special.push((special_use, MailboxId(r.number()?)));
            }
            special
        },
        dedupe_generation: r.small()?,
        dedupe_count: r.small()?,
        metadata_bytes: r.number()?,
        last_move,
        frozen_for,
        state_hash: u128::from_le_bytes(r.array()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_tombstones_round_trip() {
        let mut head = Head::new(UidValidity(9));
        assert_eq!(decode(&head.encode()).unwrap(), AccountRecord::Live(Box::new(head.clone())));
        head.lease.owner = Some(Owner { node: NodeId(3), boot: Boot(4) });
        head.limits = QuotaLimits { storage_bytes: Some(0), messages: None, mailboxes: Some(u64::MAX) };
        head.special = vec![(SpecialUse::Drafts, MailboxId(4)), (SpecialUse::Important, MailboxId(1 << 40))];
        head.state_hash = u128::MAX - 5;
        for (last_move, frozen_for) in [(MoveId(0), None), (MoveId(3), None), (MoveId(1 << 40), Some(GroupId(u32::MAX)))] {
            (head.last_move, head.frozen_for) = (last_move, frozen_for);
            let bytes = head.encode();
            assert_eq!(decode(&bytes).unwrap(), AccountRecord::Live(Box::new(head.clone())));
            assert!((0..bytes.len()).all(|n| decode(&bytes[..n]).is_err()), "every cut is noticed");
        }
        let absent = Absent { last: MoveId(9), at: GroupId(7), arriving: true, sum: u128::MAX - 1 };
        assert_eq!(decode(&encode_absent(&absent)).unwrap(), AccountRecord::Absent(absent));
        assert_eq!(decode(&encode_tombstone(UidValidity(77))).unwrap(), AccountRecord::Tombstone(UidValidity(77)));
    }
}
