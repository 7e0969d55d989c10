//! What delivery remembers (table D, rule 16): in two generations, so that forgetting costs no time stamps. The holder rotates
//! them; a full generation rotates by itself, so an account's memory of deliveries is bounded.

use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, put};
use crate::records::packed::PackedMap;
use crate::work::Work;
use parliament_ids::{AccountId, BodyHash, MailboxId, Uid};

/// Records of one generation.
pub(crate) const GENERATION_MAX: u32 = 10_000;

fn map(account: AccountId, generation: u32) -> PackedMap {
    let mut prefix = keys::of(Table::Dedupe, account);
    prefix.extend_from_slice(&generation.to_be_bytes());
    PackedMap { prefix, bytes_max: 1024 }
}

/// Half of the hash is plenty: it need only be hard to collide by chance or by the sender against others' mail.
fn short(hash: &BodyHash) -> &[u8] {
    &hash.0[..16]
}

/// Where an equal delivery went.
pub(crate) fn find(
    tables: &dyn Tables,
    account: AccountId,
    generation: u32,
    hash: &BodyHash,
) -> Result<Option<(MailboxId, Uid)>, TableFault> {
    for generation in [generation, generation.wrapping_sub(1)] {
        if let Some(value) = map(account, generation).get(tables, short(hash))? {
            let mut r = Reader::new(&value, "delivery record");
            let found = (MailboxId(r.number()?), Uid(r.small()?));
            r.end()?;
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Remembers a delivery.
pub(crate) fn remember(work: &mut Work<'_, '_>, hash: &BodyHash, mailbox: MailboxId, uid: Uid) -> Result<(), TableFault> {
    if work.head.dedupe_count >= GENERATION_MAX {
        rotate(work)?;
    }
    let mut value = Vec::with_capacity(8);
    put(&mut value, mailbox.0);
    put(&mut value, u64::from(uid.0));
    work.head.dedupe_count += 1;
    map(work.account, work.head.dedupe_generation).set(work, short(hash), Some(&value))
}

/// Forgets the older generation and begins a new one.
pub(crate) fn rotate(work: &mut Work<'_, '_>) -> Result<(), TableFault> {
    let older = map(work.account, work.head.dedupe_generation.wrapping_sub(1)).prefix;
    work.delete_all(&older)?;
    work.head.dedupe_generation = work.head.dedupe_generation.wrapping_add(1);
    work.head.dedupe_count = 0;
    Ok(())
}

/// How many records a generation has, for the invariants.
pub(crate) fn count(tables: &dyn Tables, account: AccountId, generation: u32) -> Result<u32, TableFault> {
    let mut count = 0;
    map(account, generation).scan(tables, &mut |_, _| {
        count += 1;
        Ok(true)
    })?;
    Ok(count)
}
