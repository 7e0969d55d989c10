//! Moves of users between groups: which are wanted, how they ended, and the one change of the directory that each makes.

use crate::account::account;
use crate::apply::{Applied, Refused, Reply};
use crate::node::ClusterRecord;
use crate::record::{self, all, get, key, put};
use parliament_ids::{AccountId, GroupId, MoveId};
use parliament_mailbox_state::{Overlay, TableFault, Tables};
use serde::{Deserialize, Serialize};

/// Bytes of a reason.
pub const WHY_BYTES_MAX: usize = 300;
/// Moves under way at once.
pub const MOVES_MAX: usize = 1000;

/// The last move of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Its number.
    pub id: MoveId,
    /// Who moves.
    pub account: AccountId,
    /// The source.
    pub from: GroupId,
    /// The target.
    pub to: GroupId,
    /// When it began, UTC seconds.
    pub began: i64,
    /// How far it is.
    pub stage: MoveStage,
}

/// How far a move is, as group 0 knows. What the two groups have done, they know themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStage {
    /// Under way.
    Wanted,
    /// To be given up, for this reason, unless the target has made it good already.
    Stopping(String),
    /// The directory names the target; what is left at the source goes.
    Arrived,
    /// Over: the user lives at the target.
    Done,
    /// Over: the user stays, for this reason.
    GivenUp(String),
}

impl MoveRecord {
    /// True until it is over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, MoveStage::Wanted | MoveStage::Stopping(_) | MoveStage::Arrived)
    }
}

fn key_of(account: AccountId) -> Vec<u8> {
    key(record::MOVES, &account.0.to_be_bytes())
}

fn open_key(account: AccountId) -> Vec<u8> {
    key(record::OPEN_MOVES, &account.0.to_be_bytes())
}

/// The last move of a user.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn last_move(tables: &dyn Tables, account: AccountId) -> Result<Option<MoveRecord>, TableFault> {
    get(tables, &key_of(account))
}

/// The moves under way, by account.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn open_moves(tables: &dyn Tables) -> Result<Vec<MoveRecord>, TableFault> {
    let accounts: Vec<AccountId> = all(tables, record::OPEN_MOVES)?;
    let rows: Result<Vec<Option<MoveRecord>>, TableFault> = accounts.into_iter().map(|account| last_move(tables, account)).collect();
    Ok(rows?.into_iter().flatten().collect())
}

pub(crate) fn is_moving(tables: &dyn Tables, account: AccountId) -> Result<bool, TableFault> {
    Ok(tables.get(&open_key(account))?.is_some())
}

fn write(tables: &mut Overlay<'_>, row: &MoveRecord) -> Result<(), TableFault> {
    if row.is_open() {
        put(tables, open_key(row.account), &row.account)?;
    } else {
        tables.delete(open_key(row.account));
    }
    put(tables, key_of(row.account), row)
}

pub(crate) fn begin(
    tables: &mut Overlay<'_>,
    formed: &ClusterRecord,
    id: AccountId,
    to: GroupId,
    time: i64,
) -> Result<Applied, TableFault> {
    let Some(row) = account(tables, id)? else { return Ok(Err(Refused::NoSuchAccount)) };
    if let Some(open) = last_move(tables, id)?.filter(MoveRecord::is_open) {
        let same = open.to == to && open.stage == MoveStage::Wanted;
        return Ok(if same { Ok(Reply::Move(open.id)) } else { Err(Refused::Moving) });
    }
    if to == GroupId::CLUSTER || to.0 > formed.groups {
        return Ok(Err(Refused::NoSuchGroup));
    }
    if row.group == to {
        return Ok(Err(Refused::SameGroup));
    }
    if all::<AccountId>(tables, record::OPEN_MOVES)?.len() >= MOVES_MAX {
        return Ok(Err(Refused::Limit));
    }
    let last: MoveId = get(tables, &[record::LAST_MOVE])?.unwrap_or_default();
    let move_id = last.next();
    put(tables, vec![record::LAST_MOVE], &move_id)?;
    write(tables, &MoveRecord { id: move_id, account: id, from: row.group, to, began: time, stage: MoveStage::Wanted })?;
    Ok(Ok(Reply::Move(move_id)))
}

/// The move, if it is the account's last one.
fn found(tables: &dyn Tables, account: AccountId, move_id: MoveId) -> Result<Result<MoveRecord, Refused>, TableFault> {
    Ok(last_move(tables, account)?.filter(|row| row.id == move_id).ok_or(Refused::NoSuchMove))
}

pub(crate) fn stop(tables: &mut Overlay<'_>, account: AccountId, move_id: MoveId, why: &str) -> Result<Applied, TableFault> {
    let mut row = match found(tables, account, move_id)? {
        Ok(row) => row,
        Err(refused) => return Ok(Err(refused)),
    };
    if why.len() > WHY_BYTES_MAX {
        return Ok(Err(Refused::Limit));
    }
    match row.stage {
        MoveStage::Wanted => {
            row.stage = MoveStage::Stopping(why.to_owned());
            write(tables, &row)?;
            Ok(Ok(Reply::Done))
        }
        MoveStage::Stopping(_) | MoveStage::GivenUp(_) => Ok(Ok(Reply::Done)),
        MoveStage::Arrived | MoveStage::Done => Ok(Err(Refused::NoSuchMove)),
    }
}

pub(crate) fn arrived(tables: &mut Overlay<'_>, id: AccountId, move_id: MoveId) -> Result<Applied, TableFault> {
    let mut row = match found(tables, id, move_id)? {
        Ok(row) => row,
        Err(refused) => return Ok(Err(refused)),
    };
    if !row.is_open() || row.stage == MoveStage::Arrived {
        return Ok(if matches!(row.stage, MoveStage::GivenUp(_)) { Err(Refused::NoSuchMove) } else { Ok(Reply::Done) });
    }
    let Some(mut user) = account(tables, id)? else { return Ok(Err(Refused::NoSuchAccount)) };
    if user.group != row.from {
        return Ok(Err(Refused::NoSuchMove));
    }
    user.group = row.to;
    put(tables, key(record::ACCOUNT, &id.0.to_be_bytes()), &user)?;
    row.stage = MoveStage::Arrived;
    write(tables, &row)?;
    Ok(Ok(Reply::Done))
}

pub(crate) fn end(tables: &mut Overlay<'_>, account: AccountId, move_id: MoveId) -> Result<Applied, TableFault> {
    let mut row = match found(tables, account, move_id)? {
        Ok(row) => row,
        Err(refused) => return Ok(Err(refused)),
    };
    row.stage = match row.stage {
        MoveStage::Arrived => MoveStage::Done,
        MoveStage::Stopping(why) => MoveStage::GivenUp(why),
        MoveStage::Wanted => MoveStage::GivenUp("the target had refused it".to_owned()),
        MoveStage::Done | MoveStage::GivenUp(_) => return Ok(Ok(Reply::Done)),
    };
    write(tables, &row)?;
    Ok(Ok(Reply::Done))
}
