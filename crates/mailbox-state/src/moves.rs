//! A user's move from one group to another (rule 13), as each of the two groups sees it.
//!
//! *Source*: [`crate::Op::Freeze`] by the holder; then [`MoveStep::Depart`] once the target has made the move good, or
//! [`MoveStep::Thaw`] once it has refused it. *Target*: any number of [`MoveStep::Import`], invisible to everybody; then
//! [`MoveStep::Activate`], the only commit point, or [`MoveStep::Refuse`]. What either leaves behind goes with [`MoveStep::Sweep`].
//!
//! Every step may be proposed again and may come late: the account's record remembers the greatest move that touched it, and a
//! decided move is never begun again. An Activate carries the frozen head and holds only when the sum of the records here is the one
//! that the head tells of: whatever was copied when, by whom, in which order, the account that appears is the one that was frozen.

use crate::account::{self, Absent, AccountRecord, Head};
use crate::applied::{Applied, Change};
use crate::apply::{done, rejected, sessions_over};
use crate::counters;
use crate::keys::{self, Table};
use crate::messages;
use crate::port::{Overlay, TableFault, Tables};
use crate::records::runs::RunHeader;
use crate::session_record;
use crate::state_hash;
use crate::work::Work;
use parliament_ids::limits::RECORD_BYTES_MAX;
use parliament_ids::{AccountId, BodyHash, Boot, GroupId, MoveId, NodeId};
use parliament_mail_api::Rejection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Records that one [`MoveStep::Import`] carries at most.
pub const IMPORT_RECORDS_MAX: usize = 4096;
/// Records that one [`MoveStep::Sweep`] removes.
pub const SWEEP_RECORDS: usize = 512;
/// Bytes of a key behind table and account.
const KEY_BYTES_MAX: usize = 384;
/// Marks of frontends that an activation carries at most: one a node.
const MARKS_MAX: usize = 4096;

/// A step of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveCommand {
    /// Who moves.
    pub account: AccountId,
    /// The move.
    pub move_id: MoveId,
    /// The step.
    pub step: MoveStep,
}

/// The steps that the holder has no part in: nobody holds the account where they apply. All reply `Done`, also when they were done
/// before, and are refused with `Cannot` where they do not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStep {
    /// At the target: writes records of the account, which nobody sees before it is activated.
    Import {
        /// The source.
        from: GroupId,
        /// At most [`IMPORT_RECORDS_MAX`].
        records: Vec<MovedRecord>,
    },
    /// At the target: the move is good. From now on the account lives here.
    Activate {
        /// The head record as the source has it while it is frozen.
        head: Vec<u8>,
        /// What the source knows of sessions that are over.
        over: Vec<SessionMark>,
    },
    /// At the target: the move will never be good.
    Refuse {
        /// The source, where the account stays.
        from: GroupId,
    },
    /// At the source, when the target has activated: from now on only a hint to the target is here.
    Depart,
    /// At the source, when the target has refused: the account is served here again. A freeze of this move that comes late does
    /// nothing any more.
    Thaw,
    /// Where the account does not live: removes up to [`SWEEP_RECORDS`] of what this move has left of it.
    Sweep,
}

/// A record of an account without the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRecord {
    /// First byte of its key.
    pub table: u8,
    /// Its key behind the account.
    pub key: Vec<u8>,
    /// Its value; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// A frontend's watermark (rule 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionMark {
    /// The frontend's node.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
    /// First session number that may still be alive.
    pub below: u64,
}

impl MovedRecord {
    fn full_key(&self, account: AccountId) -> Vec<u8> {
        let mut key = Vec::with_capacity(9 + self.key.len());
        key.push(self.table);
        key.extend_from_slice(&account.0.to_be_bytes());
        key.extend_from_slice(&self.key);
        key
    }

    /// True when it may be written: bytes from another node are checked before any of them reaches a table.
    fn is_well_formed(&self) -> bool {
        let of_account = Table::OF_ACCOUNT.iter().any(|table| *table as u8 == self.table && *table != Table::Account);
        let bounded = self.key.len() <= KEY_BYTES_MAX && self.value.as_ref().is_none_or(|value| value.len() <= RECORD_BYTES_MAX);
        let keyed = self.table != Table::Sessions as u8 || self.key.len() == SESSION_PART_KEY;
        of_account && bounded && keyed && bodies_of(&self.full_key(AccountId(0)), self.value.as_deref()).is_ok()
    }
}

/// Node, boot, session, part.
const SESSION_PART_KEY: usize = 26;

/// The bodies that a record names: none unless it is a run of messages.
pub(crate) fn bodies_of(key: &[u8], value: Option<&[u8]>) -> Result<BTreeSet<BodyHash>, TableFault> {
    match value {
        Some(value) if key.first() == Some(&(Table::Messages as u8)) => {
            let rows = messages::decode(&RunHeader::read(key, value)?, value)?;
            Ok(rows.into_iter().map(|row| row.hash).collect())
        }
        _ => Ok(BTreeSet::new()),
    }
}

/// The bodies that a replica must have before it acknowledges the entry (I1).
pub(crate) fn bodies_named(command: &MoveCommand) -> Vec<BodyHash> {
    let MoveStep::Import { records, .. } = &command.step else { return Vec::new() };
    let named = records.iter().map(|record| bodies_of(&record.full_key(command.account), record.value.as_deref()).unwrap_or_default());
    named.flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

fn cannot() -> Applied {
    rejected(Rejection::Cannot)
}

/// Applies a step.
pub(crate) fn apply(tables: &mut Overlay<'_>, command: &MoveCommand) -> Result<Applied, TableFault> {
    let MoveCommand { account, move_id, step } = command;
    match step {
        MoveStep::Import { from, records } => import(tables, *account, *move_id, *from, records),
        MoveStep::Activate { head, over } => activate(tables, *account, *move_id, head, over),
        MoveStep::Refuse { from } => refuse(tables, *account, *move_id, *from),
        MoveStep::Depart => depart(tables, *account, *move_id),
        MoveStep::Thaw => thaw(tables, *account, *move_id),
        MoveStep::Sweep => sweep(tables, *account, *move_id),
    }
}

/// The account as the move finds it at its target while it is undecided there; `None` when it is decided, or the account lives here.
fn undecided(tables: &dyn Tables, account: AccountId, move_id: MoveId, from: GroupId) -> Result<Option<Absent>, TableFault> {
    let begun = |sum| Absent { last: move_id, at: from, arriving: true, sum };
    Ok(match account::read(tables, account)? {
        None => Some(begun(0)),
        // What an earlier move has left is as good as copied. An earlier one that is undecided is thereby refused for ever.
        Some(AccountRecord::Absent(absent)) if absent.last < move_id => Some(begun(absent.sum)),
        Some(AccountRecord::Absent(absent)) if absent.last == move_id && absent.arriving => Some(begun(absent.sum)),
        Some(_) => None,
    })
}

fn import(
    tables: &mut Overlay<'_>,
    account: AccountId,
    move_id: MoveId,
    from: GroupId,
    records: &[MovedRecord],
) -> Result<Applied, TableFault> {
    let Some(mut absent) = undecided(tables, account, move_id, from)? else { return Ok(cannot()) };
    if records.len() > IMPORT_RECORDS_MAX || !records.iter().all(MovedRecord::is_well_formed) {
        return Ok(cannot());
    }
    let mut bodies = Bodies::default();
    for record in records {
        replace(tables, account, record.full_key(account), record.value.clone(), &mut absent.sum, &mut bodies)?;
    }
    tables.put(account::key(account), account::encode_absent(&absent));
    Ok(done(bodies.changes(account)))
}

/// Bodies whose references came and went with records of an account that nobody sees.
#[derive(Default)]
struct Bodies {
    named: BTreeSet<BodyHash>,
    dropped: BTreeSet<BodyHash>,
}

impl Bodies {
    fn changes(self, account: AccountId) -> Vec<Change> {
        // Rows move between runs: what another record still names is found by the look that goes before each collection.
        let dropped: Vec<BodyHash> = self.dropped.difference(&self.named).copied().collect();
        let named = self.named.into_iter().map(|hash| Change::BodyReferenced { account, hash });
        named.chain(dropped.into_iter().map(|hash| Change::BodyReleased { account, hash })).collect()
    }
}

/// Writes or removes one record of an account that does not live here, and keeps its sum.
fn replace(
    tables: &mut Overlay<'_>,
    account: AccountId,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    sum: &mut u128,
    bodies: &mut Bodies,
) -> Result<(), TableFault> {
    let old = tables.get(&key)?;
    if let Some(old) = &old {
        *sum = sum.wrapping_sub(state_hash::record(&key, old));
        bodies.dropped.extend(bodies_of(&key, Some(old))?);
    }
    if key.first() == Some(&(Table::Sessions as u8)) && key.ends_with(&[0, 0]) {
        index_session(tables, account, &key, value.is_some());
    }
    match value {
        Some(value) => {
            *sum = sum.wrapping_add(state_hash::record(&key, &value));
            bodies.named.extend(bodies_of(&key, Some(&value))?);
            tables.put(key, value);
        }
        None if old.is_some() => tables.delete(key),
        None => {}
    }
    Ok(())
}

/// Keeps the group's index of sessions in step with part 0 of a session's record.
fn index_session(tables: &mut Overlay<'_>, account: AccountId, key: &[u8], present: bool) {
    let Some(session) = session_record::session_at(key, 9) else { return };
    let index = keys::session_index(&session, account);
    if present {
        tables.put(index, session_record::index_value());
    } else {
        tables.delete(index);
    }
}

fn activate(
    tables: &mut Overlay<'_>,
    account: AccountId,
    move_id: MoveId,
    head: &[u8],
    over: &[SessionMark],
) -> Result<Applied, TableFault> {
    let absent = match account::read(tables, account)? {
        Some(AccountRecord::Absent(absent)) if absent.last == move_id && absent.arriving => absent,
        Some(AccountRecord::Live(head)) if head.last_move == move_id && head.frozen_for.is_none() => return Ok(done(Vec::new())),
        _ => return Ok(cannot()),
    };
    let Ok(AccountRecord::Live(mut head)) = account::decode(head) else { return Ok(cannot()) };
    let is_of_this_move = head.last_move == move_id && head.frozen_for.is_some() && head.lease.owner.is_none();
    if !is_of_this_move || head.others(account) != absent.sum || over.len() > MARKS_MAX {
        return Ok(cannot());
    }
    head.frozen_for = None;
    let fence = head.lease.fence;
    tables.put(account::key(account), head.sealed(account, absent.sum));
    // A session that the source has forgotten must not be taken for a new one here.
    for SessionMark { node, boot, below } in over {
        sessions_over(tables, *node, *boot, *below)?;
    }
    let mut changes = everything(tables, account)?;
    changes.push(Change::Owner { account, owner: None, fence });
    Ok(done(changes))
}

/// For those who watch: look again, wherever the account is now.
fn everything(tables: &dyn Tables, account: AccountId) -> Result<Vec<Change>, TableFault> {
    let mailboxes = counters::all(tables, account)?;
    let mut changes = vec![Change::Names { account }];
    changes.extend(mailboxes.into_iter().map(|(mailbox, row)| Change::Mailbox { account, mailbox, modseq: row.highest_modseq }));
    Ok(changes)
}

fn refuse(tables: &mut Overlay<'_>, account: AccountId, move_id: MoveId, from: GroupId) -> Result<Applied, TableFault> {
    if let Some(absent) = undecided(tables, account, move_id, from)? {
        tables.put(account::key(account), account::encode_absent(&Absent { arriving: false, ..absent }));
        return Ok(done(Vec::new()));
    }
    Ok(match account::read(tables, account)? {
        Some(AccountRecord::Absent(absent)) if absent.last == move_id => done(Vec::new()),
        _ => cannot(),
    })
}

fn depart(tables: &mut Overlay<'_>, account: AccountId, move_id: MoveId) -> Result<Applied, TableFault> {
    let (head, to): (Head, GroupId) = match account::read(tables, account)? {
        Some(AccountRecord::Live(head)) if head.last_move == move_id => match head.frozen_for {
            Some(to) => (*head, to),
            None => return Ok(cannot()),
        },
        Some(AccountRecord::Absent(absent)) if absent.last == move_id && !absent.arriving => return Ok(done(Vec::new())),
        _ => return Ok(cannot()),
    };
    let absent = Absent { last: move_id, at: to, arriving: false, sum: head.others(account) };
    tables.put(account::key(account), account::encode_absent(&absent));
    Ok(done(everything(tables, account)?))
}

fn thaw(tables: &mut Overlay<'_>, account: AccountId, move_id: MoveId) -> Result<Applied, TableFault> {
    let Some(mut head) = account::head(tables, account)? else { return Ok(cannot()) };
    match head.frozen_for {
        Some(_) if head.last_move != move_id => return Ok(cannot()),
        None if head.last_move > move_id => return Ok(cannot()),
        _ => {}
    }
    (head.last_move, head.frozen_for) = (move_id, None);
    Ok(done(Work::begin(tables, account, head, 0).finish()?))
}

fn sweep(tables: &mut Overlay<'_>, account: AccountId, move_id: MoveId) -> Result<Applied, TableFault> {
    let mut absent = match account::read(tables, account)? {
        Some(AccountRecord::Absent(absent)) if absent.last == move_id && !absent.arriving => absent,
        _ => return Ok(cannot()),
    };
    let left = left_of(tables, account, SWEEP_RECORDS)?;
    let mut bodies = Bodies::default();
    for key in left {
        replace(tables, account, key, None, &mut absent.sum, &mut bodies)?;
    }
    tables.put(account::key(account), account::encode_absent(&absent));
    Ok(done(bodies.changes(account)))
}

/// Keys of records of an account, its head aside, at most so many.
pub(crate) fn left_of(tables: &dyn Tables, account: AccountId, most: usize) -> Result<Vec<Vec<u8>>, TableFault> {
    let mut left = Vec::new();
    for table in Table::OF_ACCOUNT.into_iter().filter(|table| *table != Table::Account) {
        let prefix = keys::of(table, account);
        if left.len() < most {
            tables.scan(&prefix, &keys::end(&prefix), &mut |key, _| {
                left.push(key.to_vec());
                left.len() < most
            })?;
        }
    }
    Ok(left)
}
