//! The group's time (table T): never runs back and never leaps, whatever a proposer's clock says. It dates messages and seeds
//! UIDVALIDITY; no decision rests on it.

use crate::keys;
use crate::port::{Overlay, TableFault, Tables};
use crate::records::codec::{Reader, put_signed};

const VERSION: u8 = 1;
/// The most that one command moves the group's time, seconds: 30 days.
pub(crate) const JUMP_SECONDS_MAX: i64 = 30 * 86_400;

/// Moves the group's time to a command's and gives it. Written at most once a second.
pub(crate) fn advance(tables: &mut Overlay<'_>, told: i64) -> Result<i64, TableFault> {
    let now = match tables.get(&keys::clock())? {
        Some(value) => {
            let last = Reader::versioned(&value, VERSION, "clock")?.signed()?;
            let now = told.clamp(last, last.saturating_add(JUMP_SECONDS_MAX));
            if now == last {
                return Ok(last);
            }
            now
        }
        None => told.max(0),
    };
    let mut value = vec![VERSION];
    put_signed(&mut value, now);
    tables.put(keys::clock(), value);
    Ok(now)
}
