//! Reads that moves between groups need: where an account is, and its image, record by record.

use crate::account::{self, AccountRecord};
use crate::keys::{self, Table};
use crate::moves::{SessionMark, bodies_of, left_of};
use crate::port::{TableFault, Tables};
use crate::records::codec::damaged;
use crate::{session_record, state_hash};
use parliament_ids::{AccountId, BodyHash, GroupId, MoveId};
use serde::{Deserialize, Serialize};

type Read<T> = Result<T, TableFault>;

/// What a group has of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Nothing: it never was here, nor has it been used.
    Unknown,
    /// It lives here.
    Here {
        /// The last move that touched it here; 0 before the first.
        last: MoveId,
        /// Where that move takes it, while that is undecided.
        frozen_for: Option<GroupId>,
    },
    /// It lives in another group.
    Absent {
        /// The last move that this group knows of.
        last: MoveId,
        /// Where it lives, as far as is known here.
        at: GroupId,
        /// That move brings it here and is undecided.
        arriving: bool,
        /// Records of it are here.
        left: bool,
    },
    /// It was deleted.
    Deleted,
}

/// What this group has of an account.
///
/// # Errors
/// As all functions here: [`TableFault`] when a record cannot be read.
pub fn presence(tables: &dyn Tables, account: AccountId) -> Read<Presence> {
    Ok(match account::read(tables, account)? {
        None => Presence::Unknown,
        Some(AccountRecord::Live(head)) => Presence::Here { last: head.last_move, frozen_for: head.frozen_for },
        Some(AccountRecord::Absent(absent)) => {
            Presence::Absent { last: absent.last, at: absent.at, arriving: absent.arriving, left: !left_of(tables, account, 1)?.is_empty() }
        }
        Some(AccountRecord::Tombstone(_)) => Presence::Deleted,
    })
}

/// The accounts of which records are here, living here or not, ascending: whatever refers to bodies.
///
/// # Errors
/// [`TableFault`].
pub fn accounts_with_records(tables: &dyn Tables) -> Read<Vec<AccountId>> {
    let prefix = [Table::Account as u8];
    let mut found = Vec::new();
    let mut fault = None;
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, value| {
        match (keys::number_at(key, 1), account::decode(value)) {
            (Some(id), Ok(AccountRecord::Live(_) | AccountRecord::Absent(_))) => found.push(AccountId(id)),
            (Some(_), Ok(AccountRecord::Tombstone(_))) => {}
            (None, _) => fault = Some(damaged("key of an account")),
            (_, Err(e)) => fault = Some(e),
        }
        fault.is_none()
    })?;
    fault.map_or(Ok(found), Err)
}

/// Visits the body of every message of an account, whether it lives here or not.
///
/// # Errors
/// [`TableFault`].
pub fn bodies(tables: &dyn Tables, account: AccountId, visit: &mut dyn FnMut(BodyHash)) -> Read<()> {
    let prefix = keys::of(Table::Messages, account);
    let mut fault = None;
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, value| {
        match bodies_of(key, Some(value)) {
            Ok(hashes) => hashes.into_iter().for_each(&mut *visit),
            Err(e) => fault = Some(e),
        }
        fault.is_none()
    })?;
    fault.map_or(Ok(()), Err)
}

/// Where a page of an image begins: a table and a key in it, behind the account. The least is the beginning.
pub type ImagePlace = (u8, Vec<u8>);

/// A record of an image and its hash.
pub type ImageEntry = (ImagePlace, u128);

/// The hashes of an account's records, its head aside, from `from` on in order, at most `most`; and where the next page begins.
///
/// # Errors
/// [`TableFault`].
pub fn image_page(tables: &dyn Tables, account: AccountId, from: &ImagePlace, most: usize) -> Read<(Vec<ImageEntry>, Option<ImagePlace>)> {
    let (mut page, mut next) = (Vec::new(), None);
    for table in Table::OF_ACCOUNT.into_iter().filter(|table| *table != Table::Account && *table as u8 >= from.0) {
        let prefix = keys::of(table, account);
        let mut begin = prefix.clone();
        if table as u8 == from.0 {
            begin.extend_from_slice(&from.1);
        }
        tables.scan(&begin, &keys::end(&prefix), &mut |key, value| {
            let place = (table as u8, key.get(prefix.len()..).unwrap_or_default().to_vec());
            if page.len() >= most {
                next = Some(place);
                return false;
            }
            page.push((place, state_hash::record(key, value)));
            true
        })?;
        if next.is_some() {
            break;
        }
    }
    Ok((page, next))
}

/// One record of an image.
///
/// # Errors
/// [`TableFault`].
pub fn image_record(tables: &dyn Tables, account: AccountId, place: &ImagePlace) -> Read<Option<Vec<u8>>> {
    let mut key = vec![place.0];
    key.extend_from_slice(&account.0.to_be_bytes());
    key.extend_from_slice(&place.1);
    tables.get(&key)
}

/// The head of the image of an account that is frozen by this move.
///
/// # Errors
/// [`TableFault`].
pub fn image_head(tables: &dyn Tables, account: AccountId, move_id: MoveId) -> Read<Option<Vec<u8>>> {
    let frozen = matches!(presence(tables, account)?, Presence::Here { last, frozen_for: Some(_) } if last == move_id);
    // Nothing changes the record while it is frozen; should it be thawed between the two reads, the target has refused already.
    if frozen { tables.get(&account::key(account)) } else { Ok(None) }
}

/// What the group knows of sessions that are over.
///
/// # Errors
/// [`TableFault`].
pub fn session_marks(tables: &dyn Tables) -> Read<Vec<SessionMark>> {
    let marks = session_record::watermarks(tables)?;
    Ok(marks.into_iter().map(|(node, boot, below)| SessionMark { node, boot, below }).collect())
}
