//! Rows, pages, what is missing, CHANGEDSINCE.

use super::*;
use parliament_ids::limits::FETCH_PAGE_BYTES;

fn flags_only() -> FetchItems {
    FetchItems { flags: true, ..FetchItems::default() }
}

fn sizes() -> FetchItems {
    FetchItems { size: true, ..FetchItems::default() }
}

#[test]
fn attributes_come_from_the_record_and_the_body_as_asked() {
    let mut bed = Bed::new();
    let body = "Subject: hello\r\nFrom: a@b.example\r\n\r\nIt is I.\r\n";
    let message = bed.shelve(body.as_bytes());
    bed.append(vec![arrived(message, 1_000, 90)]);
    bed.store("1", SystemFlags::SEEN, &["$Forwarded"]);
    let none = &bed.fetch(&fetch("1", FetchItems::default())).rows[0];
    assert_eq!((none.size, none.email_id.0, none.envelope.clone(), none.preview.clone()), (0, 0, None, None));
    assert_eq!(bed.reads(), 0, "flags need no body");

    let items = FetchItems {
        flags: true,
        internal_date: true,
        save_date: true,
        size: true,
        object_ids: true,
        envelope: true,
        body: true,
        body_structure: true,
        preview: true,
        sections: vec![section(&[], SectionKind::Text)],
    };
    let page = bed.fetch(&fetch("1:5", items.clone()));
    let row = &page.rows[0];
    assert_eq!(row.flags.system, SystemFlags::SEEN);
    assert_eq!((page.keywords[0].as_str(), row.flags.keywords), ("$Forwarded", 1));
    assert_eq!(row.internal_date, DateTime { seconds: 1_000, zone_minutes: 90 });
    assert_eq!((row.save_date, row.size), (T0, body.len() as u64));
    assert_eq!((row.hash, row.thread_id), (Some(BodyHash([1; 32])), ThreadId(9)));
    assert_ne!(row.email_id.0, 0);
    let text = |field: &Option<parliament_mail_api::bytes_serde::BytesField>| String::from_utf8(field.clone().unwrap().0.to_vec()).unwrap();
    assert!(text(&row.envelope).contains("\"hello\""));
    assert!(text(&row.body).starts_with("(\"text\" \"plain\""), "{}", text(&row.body));
    assert!(text(&row.body_structure).len() > text(&row.body).len(), "BODYSTRUCTURE has extension data");
    assert_eq!((row.preview.as_deref(), row.parts.len()), (Some("It is I."), 1));
    assert_eq!((page.missing.to_string().as_str(), page.next), ("2:5", None));
    assert_eq!(bed.reads(), 1, "one read serves sections and structure");
    bed.fetch(&fetch("1", FetchItems { sections: vec![], ..items }));
    assert_eq!(bed.reads(), 0, "what was computed once is remembered");
}

#[test]
fn pages_by_rows_tell_each_message_and_each_gap_once() {
    let mut bed = Bed::new();
    bed.append_many(20_000);
    bed.expunge("1:3,5000:5999,8192:8193,19999:20000");
    for items in [flags_only(), sizes()] {
        let pages = bed.fetch_all(&fetch("1:100000", items.clone()));
        assert_eq!(pages.len(), 3);
        assert!(pages[..2].iter().all(|page| page.rows.len() == 8192));
        let told: Vec<Uid> = pages.iter().flat_map(|page| &page.rows).map(|row| row.flags.uid).collect();
        assert!(told.is_sorted_by(|a, b| a < b));
        let told: UidSet = told.into_iter().collect();
        assert_eq!(told.to_string(), "4:4999,6000:8191,8194:19998");
        if items.size {
            assert!(pages.iter().flat_map(|page| &page.rows).all(|row| row.size == u64::from(row.flags.uid.0 - 1)));
        }
        let missing: Vec<String> = pages.iter().map(|page| page.missing.to_string()).collect();
        assert_eq!(missing[0], "1:3,5000:5999,8192:8193");
        assert_eq!(missing[1..], ["", "19999:100000"]);
    }
}

#[test]
fn a_gap_at_the_cut_belongs_to_the_page_before_it() {
    let mut bed = Bed::new();
    bed.append_many(9_000);
    bed.expunge("8193:8200");
    let pages = bed.fetch_all(&fetch("1:9000", flags_only()));
    assert_eq!((pages[0].next, pages[0].missing.to_string().as_str()), (Some(Uid(8201)), "8193:8200"));
    assert_eq!(pages[1].missing, UidSet::new());
}

#[test]
fn pages_by_bytes_end_before_the_next_body_is_read() {
    let mut bed = Bed::new();
    let body = "Subject: big\r\n\r\n".to_owned() + &"0123456789abcde\n".repeat(12_000);
    bed.append_bodies(&[body.as_str(); 14]);
    bed.expunge("3,6:7");
    let whole = with_sections(vec![section(&[], SectionKind::Whole)]);
    let pages = bed.fetch_all(&fetch("1:20", whole));
    let told: Vec<_> = pages.iter().map(|page| (uids(page), page.missing.to_string(), page.next.map(|next| next.0))).collect();
    let row = |uids: &str, missing: &str, next| (uids.to_owned(), missing.to_owned(), next);
    assert_eq!(told, [row("1:2,4:5,8:9", "3,6:7", Some(10)), row("10:14", "15:20", None)]);
    assert_eq!(bed.reads(), 11, "no body was read twice");
    let bytes: usize = pages[0].rows.iter().map(|_| body.len()).sum();
    assert!((FETCH_PAGE_BYTES..FETCH_PAGE_BYTES + body.len()).contains(&bytes));
}

#[test]
fn a_row_that_does_not_fit_begins_the_next_page() {
    let mut bed = Bed::new();
    let body = "A: b\r\n\r\n".to_owned() + &"x".repeat(250_000);
    bed.append_bodies(&[body.as_str(); 3]);
    let thrice = with_sections(vec![section(&[], SectionKind::Whole), section(&[], SectionKind::Text), section(&[1], SectionKind::Whole)]);
    let pages = bed.fetch_all(&fetch("1:3", thrice.clone()));
    assert_eq!(pages.iter().map(uids).collect::<Vec<_>>(), ["1:2", "3"]);
    let many = with_sections(vec![section(&[], SectionKind::Whole); 9]);
    let page = bed.fetch(&fetch("1", many));
    let inline = page.rows[0].parts.iter().filter(|part| matches!(part.data, Some(parliament_mail_api::PartData::Inline(_)))).count();
    assert_eq!(inline, 4, "a row carries a page's worth of bytes, and the rest by reference");
}

#[test]
fn records_of_a_page_with_bodies_are_read_as_far_as_it_goes() {
    struct Counting<'a>(&'a MemoryTables, Cell<usize>);
    impl Tables for Counting<'_> {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, parliament_mailbox_state::TableFault> {
            self.0.get(key)
        }
        fn scan(
            &self,
            from: &[u8],
            to: &[u8],
            visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
        ) -> Result<(), parliament_mailbox_state::TableFault> {
            self.0.scan(from, to, &mut |key, value| {
                self.1.set(self.1.get() + usize::from(key[0] == b'M'));
                visit(key, value)
            })
        }
        fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, parliament_mailbox_state::TableFault> {
            self.0.last(from, to)
        }
    }
    let mut bed = Bed::new();
    let body = "A: b\r\n\r\n".to_owned() + &"x".repeat(200_000);
    let large = bed.shelve(body.as_bytes());
    bed.append(vec![large; 2_000]);
    let tables = Counting(&bed.tables, Cell::new(0));
    let request = fetch("1:2000", with_sections(vec![section(&[], SectionKind::Whole)]));
    let page = bed.try_fetch_on(&tables, &request).unwrap().unwrap();
    assert_eq!((page.rows.len(), page.next), (6, Some(Uid(7))));
    assert!(tables.1.get() <= 2, "{} of 32 records were read", tables.1.get());
}

#[test]
fn uids_that_never_were_are_missing() {
    let mut bed = Bed::new();
    assert_eq!(bed.fetch(&fetch("1:3,9", flags_only())).missing.to_string(), "1:3,9");
    assert_eq!(bed.fetch(&fetch("", flags_only())), FetchPage::default());
    bed.append_many(2);
    let page = bed.fetch(&fetch("2:3,4294967295", sizes()));
    assert_eq!((uids(&page).as_str(), page.missing.to_string().as_str()), ("2", "3,4294967295"));
}

#[test]
fn changed_since_tells_newer_rows_only_and_vanished_all_at_once() {
    let mut bed = Bed::new();
    bed.append_many(10);
    let since = bed.modseq();
    bed.store("2,4", SystemFlags::FLAGGED, &[]);
    bed.expunge("5:6");
    bed.append_many(1);
    let asked = |vanished| FetchRequest { changed_since: Some(since), vanished, ..fetch("1:8,11:20", sizes()) };
    let page = bed.fetch(&asked(false));
    assert_eq!((uids(&page).as_str(), page.vanished.is_empty(), page.missing.is_empty()), ("2,4,11", true, true));
    assert!(page.rows.iter().all(|row| row.flags.modseq > since));
    let page = bed.fetch(&asked(true));
    assert_eq!((uids(&page).as_str(), page.vanished.to_string().as_str(), page.missing.is_empty()), ("2,4,11", "5:6", true));
    let nothing = FetchRequest { changed_since: Some(bed.modseq()), ..fetch("1:20", sizes()) };
    assert_eq!(bed.fetch(&nothing), FetchPage::default());
}

#[test]
fn an_unreadable_body_ends_a_page_but_fails_an_empty_one() {
    let mut bed = Bed::new();
    bed.append_bodies(&["A: 1\r\n\r\n", "A: 2\r\n\r\n", "A: 3\r\n\r\n"]);
    let lost = BodyHash([2; 32]);
    bed.shelf.bodies.remove(&lost);
    for items in [with_sections(vec![section(&[], SectionKind::Header)]), FetchItems { envelope: true, ..FetchItems::default() }] {
        let page = bed.fetch(&fetch("1:4", items.clone()));
        assert_eq!((uids(&page).as_str(), page.next, page.missing.is_empty()), ("1", Some(Uid(2)), true));
        assert_eq!(bed.try_fetch(&fetch("2:4", items)), Err(ReadError::Body(lost)));
    }
    assert_eq!(uids(&bed.fetch(&fetch("1:3", sizes()))), "1:3", "records need no body");
}
