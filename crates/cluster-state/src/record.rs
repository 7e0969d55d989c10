//! Keys and record bytes: a table byte, then the key; values are a version byte and postcard.

use parliament_mailbox_state::{Overlay, TableFault, Tables};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) const CLUSTER: u8 = b'C';
pub(crate) const NODE: u8 = b'N';
pub(crate) const PLACEMENT: u8 = b'P';
pub(crate) const ACCOUNT: u8 = b'A';
pub(crate) const NAME: u8 = b'U';
pub(crate) const FLOOR: u8 = b'F';
pub(crate) const COUNTERS: u8 = b'K';
pub(crate) const SETTING: u8 = b'S';
pub(crate) const STATE: u8 = b'M';
pub(crate) const COPIES: u8 = b'G';
pub(crate) const INVITES: u8 = b'I';
/// The last move of each user.
pub(crate) const MOVES: u8 = b'V';
/// The users whose move is under way.
pub(crate) const OPEN_MOVES: u8 = b'W';
/// The number of the last move of all.
pub(crate) const LAST_MOVE: u8 = b'X';
/// Roles of nodes that are no data nodes.
pub(crate) const ROLE: u8 = b'R';
/// Which data node serves alone.
pub(crate) const ALONE: u8 = b'L';

/// The version of every record's value.
const VERSION: u8 = 1;

pub(crate) fn key(table: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(table);
    key.extend_from_slice(rest);
    key
}

pub(crate) fn put<T: Serialize>(tables: &mut Overlay<'_>, key: Vec<u8>, value: &T) -> Result<(), TableFault> {
    let bytes = postcard::to_extend(value, vec![VERSION]).map_err(|e| TableFault { what: format!("encoding a record: {e}") })?;
    tables.put(key, bytes);
    Ok(())
}

pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, TableFault> {
    let fault = |why: String| TableFault { what: format!("cluster record {key:02x?}: {why}") };
    match value.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| fault(e.to_string())),
        Some((version, _)) => Err(fault(format!("version {version}"))),
        None => Err(fault("empty".into())),
    }
}

pub(crate) fn get<T: DeserializeOwned>(tables: &dyn Tables, key: &[u8]) -> Result<Option<T>, TableFault> {
    tables.get(key)?.map(|value| decode(key, &value)).transpose()
}

/// All records of a table, ascending by key.
pub(crate) fn all<T: DeserializeOwned>(tables: &dyn Tables, table: u8) -> Result<Vec<T>, TableFault> {
    let mut rows = Ok(Vec::new());
    tables.scan(&[table], &[table + 1], &mut |key, value| {
        if let Ok(list) = rows.as_mut() {
            match decode(key, value) {
                Ok(row) => list.push(row),
                Err(fault) => rows = Err(fault),
            }
        }
        rows.is_ok()
    })?;
    rows
}
