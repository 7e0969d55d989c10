//! What runs of flags and of messages share: rows of ascending UIDs in one record keyed by the first of them.

use super::codec::damaged;
use crate::keys;
use crate::port::{TableFault, Tables};
use parliament_ids::{Uid, UidSet};

/// The version of both kinds of runs.
pub(crate) const VERSION: u8 = 1;
/// Version, count of rows (u16), last UID (u32): how every run begins.
pub(crate) const HEADER: usize = 7;

/// The common header of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunHeader {
    /// First UID, from the key.
    pub(crate) first: Uid,
    /// How many rows.
    pub(crate) count: u16,
    /// Last UID.
    pub(crate) last: Uid,
}

impl RunHeader {
    /// Reads it.
    pub(crate) fn read(key: &[u8], value: &[u8]) -> Result<Self, TableFault> {
        let first = keys::run_first(key).ok_or_else(|| damaged("key of a run"))?;
        match value {
            [VERSION, c0, c1, l0, l1, l2, l3, ..] => {
                Ok(Self { first, count: u16::from_le_bytes([*c0, *c1]), last: Uid(u32::from_le_bytes([*l0, *l1, *l2, *l3])) })
            }
            _ => Err(damaged("header of a run")),
        }
    }

    /// True when the rows are exactly the UIDs from first to last.
    pub(crate) fn is_dense(&self) -> bool {
        self.last.0.checked_sub(self.first.0) == Some(u32::from(self.count).wrapping_sub(1))
    }
}

/// Writes the common header over the first bytes of a value.
pub(crate) fn write_header(value: &mut [u8], count: u16, last: Uid) {
    value[0] = VERSION;
    value[1..3].copy_from_slice(&count.to_le_bytes());
    value[3..7].copy_from_slice(&last.0.to_le_bytes());
}

/// The first member of `uids` that is `from` or above.
pub(crate) fn member_from(uids: &UidSet, from: u32) -> Option<u32> {
    let ranges = uids.ranges();
    let at = ranges.partition_point(|r| r.1 < from);
    ranges.get(at).map(|r| r.0.max(from))
}

/// True when a run begins at `from` or above but below `to`.
pub(crate) fn any_between(tables: &dyn Tables, prefix: &[u8], from: Uid, to: Uid) -> Result<bool, TableFault> {
    let at = |uid: Uid| [prefix, &uid.0.to_be_bytes()].concat();
    Ok(tables.last(&at(from), &at(to))?.is_some())
}

/// How many runs without a wanted UID are read past before a new search is cheaper.
const MISSES_MAX: u32 = 2;

/// Sees a run's header, key and value; false ends the visit.
pub(crate) type VisitRun<'v> = dyn FnMut(&RunHeader, &[u8], &[u8]) -> Result<bool, TableFault> + 'v;

/// Visits the runs under `prefix` whose range of UIDs meets `uids`, ascending, until `visit` returns false. Each run is visited
/// once; runs far from any wanted UID are not read.
pub(crate) fn visit(tables: &dyn Tables, prefix: &[u8], uids: &UidSet, visit: &mut VisitRun<'_>) -> Result<(), TableFault> {
    let Some(last_wanted) = uids.last() else { return Ok(()) };
    let at = |uid: u32| {
        let mut key = prefix.to_vec();
        key.extend_from_slice(&uid.to_be_bytes());
        key
    };
    let to = if last_wanted.is_last() { keys::end(prefix) } else { at(last_wanted.0 + 1) };
    let mut wanted = uids.first().map(|u| u.0);
    while let Some(from) = wanted {
        let mut upper = at(from);
        upper.push(0);
        let start = tables.last(prefix, &upper)?.map_or(at(from), |(key, _)| key);
        let mut state = Seek { next: None, misses: 0, going: true, fault: None };
        tables.scan(&start, &to, &mut |key, value| state.step(uids, from, key, value, visit))?;
        if let Some(fault) = state.fault {
            return Err(fault);
        }
        wanted = if state.going { state.next } else { None };
    }
    Ok(())
}

struct Seek {
    next: Option<u32>,
    misses: u32,
    going: bool,
    fault: Option<TableFault>,
}

impl Seek {
    fn step(&mut self, uids: &UidSet, from: u32, key: &[u8], value: &[u8], visit: &mut VisitRun<'_>) -> bool {
        self.next = None;
        let result = RunHeader::read(key, value).and_then(|header| {
            let Some(wanted) = member_from(uids, header.first.0.max(from)) else { return Ok(false) };
            if wanted > header.last.0 {
                self.misses += 1;
                if self.misses > MISSES_MAX {
                    self.next = Some(wanted);
                    return Ok(false);
                }
                return Ok(true);
            }
            self.misses = 0;
            self.going = visit(&header, key, value)?;
            Ok(self.going)
        });
        result.unwrap_or_else(|fault| {
            self.fault = Some(fault);
            false
        })
    }
}
