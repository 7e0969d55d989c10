//! The tables change while a page is made.

use super::*;
use parliament_mailbox_state::TableFault;
use std::cell::RefCell;

/// Tables that become others just before the scans of one table, and whose first scans of it may see nothing: as when rows have
/// moved to a run that the scan has passed already.
struct Racing {
    now: RefCell<MemoryTables>,
    later: RefCell<Option<MemoryTables>>,
    table: u8,
    blind: Cell<u32>,
}

impl Racing {
    fn new(now: &MemoryTables, later: Option<MemoryTables>, table: u8, blind: u32) -> Self {
        Self { now: RefCell::new(now.clone()), later: RefCell::new(later), table, blind: Cell::new(blind) }
    }
}

impl Tables for Racing {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableFault> {
        self.now.borrow().get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        if from[0] == self.table {
            if let Some(later) = self.later.borrow_mut().take() {
                *self.now.borrow_mut() = later;
            }
            if self.blind.get() > 0 {
                self.blind.set(self.blind.get() - 1);
                return Ok(());
            }
        }
        self.now.borrow().scan(from, to, visit)
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, TableFault> {
        self.now.borrow().last(from, to)
    }
}

const MESSAGES: u8 = b'M';
const FLAGS: u8 = b'F';

fn sizes() -> FetchItems {
    FetchItems { size: true, ..FetchItems::default() }
}

#[test]
fn messages_expunged_between_flags_and_records_are_missing() {
    let mut bed = Bed::new();
    bed.append_many(600);
    let before = bed.tables.clone();
    bed.expunge("1:5,100:400,600");
    let tables = Racing::new(&before, Some(bed.tables.clone()), MESSAGES, 0);
    let page = bed.try_fetch_on(&tables, &fetch("1:700", sizes())).unwrap().unwrap();
    assert_eq!((uids(&page).as_str(), page.missing.to_string().as_str()), ("6:99,401:599", "1:5,100:400,600:700"));
    let tables = Racing::new(&before, Some(bed.tables.clone()), MESSAGES, 0);
    let page = bed.try_search_on(&tables, SearchKey::Smaller(1_000), 1).unwrap();
    assert_eq!(page.uids.to_string(), "6:99,401:599");
}

#[test]
fn with_changed_since_the_expunged_are_left_out_silently() {
    let mut bed = Bed::new();
    bed.append_many(6);
    let before = bed.tables.clone();
    bed.expunge("2");
    let tables = Racing::new(&before, Some(bed.tables.clone()), MESSAGES, 0);
    let request = FetchRequest { changed_since: Some(ModSeq(0)), ..fetch("1:6", sizes()) };
    let page = bed.try_fetch_on(&tables, &request).unwrap().unwrap();
    assert_eq!((uids(&page).as_str(), page.missing.is_empty()), ("1,3:6", true));
}

#[test]
fn rows_that_a_scan_passed_by_are_found_at_the_second_look() {
    let mut bed = Bed::new();
    bed.append_many(300);
    let tables = Racing::new(&bed.tables, None, MESSAGES, 1);
    let page = bed.try_fetch_on(&tables, &fetch("1:300", sizes())).unwrap().unwrap();
    assert_eq!((uids(&page).as_str(), page.missing.is_empty()), ("1:300", true));
    assert!(page.rows.iter().all(|row| row.size == u64::from(row.flags.uid.0 - 1)));

    let before = bed.tables.clone();
    bed.store("7", SystemFlags::SEEN, &[]);
    let tables = Racing::new(&before, Some(bed.tables.clone()), FLAGS, 1);
    let page = bed.try_fetch_on(&tables, &fetch("1:300", FetchItems::default())).unwrap().unwrap();
    assert_eq!((uids(&page).as_str(), page.rows[6].flags.system), ("1:300", SystemFlags::SEEN));
}
