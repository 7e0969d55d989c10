//! Search keys and pages.

use super::*;
use parliament_mail_api::{HeaderMatch, SearchDate};

fn header(field: &str, text: &str) -> SearchKey {
    SearchKey::Header(HeaderMatch { field: field.to_owned(), text: text.to_owned() })
}

fn not(key: SearchKey) -> SearchKey {
    SearchKey::Not(Box::new(key))
}

fn day(year: u16, month: u8, day: u8) -> SearchDate {
    SearchDate { year, month, day }
}

fn check(bed: &Bed, table: impl IntoIterator<Item = (SearchKey, &'static str)>) {
    for (key, expected) in table {
        let name = format!("{key:?}");
        assert_eq!(bed.search(key), expected, "{name}");
    }
}

#[test]
fn keys_of_flags_and_records() {
    let mut bed = Bed::new();
    bed.append_many(6);
    bed.store("1:2", SystemFlags::SEEN, &[]);
    bed.store("2:3", SystemFlags::FLAGGED, &["$Label1"]);
    let flagged_at = bed.modseq();
    bed.store("5", SystemFlags::DELETED, &["other"]);
    let keyword = |text| SearchKey::Keyword(Keyword::new(text).unwrap());
    let seen = || SearchKey::Flag(SystemFlags::SEEN);
    let flagged = || SearchKey::Flag(SystemFlags::FLAGGED);
    check(
        &bed,
        [
            (SearchKey::All, "1:6"),
            (SearchKey::Never, ""),
            (seen(), "1:2"),
            (not(seen()), "3:6"),
            (SearchKey::And(vec![seen(), flagged()]), "2"),
            (SearchKey::And(vec![]), "1:6"),
            (SearchKey::Or(vec![seen(), flagged()]), "1:3"),
            (SearchKey::Or(vec![]), ""),
            (not(SearchKey::Or(vec![seen(), not(flagged())])), "3"),
            (keyword("$LABEL1"), "2:3"),
            (keyword("other"), "5"),
            (keyword("unheard"), ""),
            (not(keyword("unheard")), "1:6"),
            (SearchKey::Uids(set("2:4,9")), "2:4"),
            (not(SearchKey::Uids(set("2:4,9"))), "1,5:6"),
            (SearchKey::And(vec![SearchKey::Uids(set("2:4")), SearchKey::Uids(set("4:6"))]), "4"),
            (SearchKey::Or(vec![SearchKey::Uids(set("1")), seen()]), "1:2"),
            (SearchKey::ModSeq(flagged_at), "2:3,5"),
            (SearchKey::Larger(3), "5:6"),
            (SearchKey::Smaller(3), "1:3"),
            (SearchKey::ThreadId(9), "1:6"),
            (SearchKey::ThreadId(8), ""),
        ],
    );
    assert_eq!(bed.reads(), 0, "no body was needed");
    let page = bed.try_search_on(&bed.tables, seen(), 1).unwrap();
    assert!(page.highest_modseq == flagged_at && page.next.is_none(), "the greatest MODSEQ of the matches alone");
    assert_eq!(bed.try_search_on(&bed.tables, SearchKey::Never, 1).unwrap(), SearchPage::default());
    assert_eq!(bed.try_search_on(&bed.tables, SearchKey::All, 5).unwrap().uids.to_string(), "5:6");
    let id = bed.fetch(&fetch("4", FetchItems { object_ids: true, ..FetchItems::default() })).rows[0].email_id.0;
    check(&bed, [(SearchKey::EmailId(id), "4"), (SearchKey::EmailId(u64::MAX), "")]);
}

#[test]
fn dates_of_arrival_are_days_in_the_zone_they_were_told_in() {
    let mut bed = Bed::new();
    // 2024-02-29T23:30:00Z: with +01:00 it is March there, with -01:00 still February.
    let moment = 1_709_249_400;
    let at = |seconds, zone| arrived(message(BodyHash([0; 32]), 1), seconds, zone);
    bed.append(vec![at(moment, 0), at(moment, 60), at(moment, -60), at(moment - 86_400, 0), at(-1, 0)]);
    check(
        &bed,
        [
            (SearchKey::On(day(2024, 2, 29)), "1,3"),
            (SearchKey::On(day(2024, 3, 1)), "2"),
            (SearchKey::Since(day(2024, 3, 1)), "2"),
            (SearchKey::Since(day(2024, 2, 29)), "1:3"),
            (SearchKey::Before(day(2024, 2, 29)), "4:5"),
            (SearchKey::Before(day(2024, 2, 28)), "5"),
            (SearchKey::On(day(1969, 12, 31)), "5"),
            (SearchKey::On(day(2024, 2, 31)), ""),
            (SearchKey::OlderThan(moment), "1:5"),
            (SearchKey::OlderThan(moment - 1), "4:5"),
            (SearchKey::YoungerThan(moment), "1:3"),
            (SearchKey::YoungerThan(moment + 1), ""),
            (SearchKey::SavedOn(day(2023, 11, 14)), "1:5"),
            (SearchKey::SavedSince(day(2023, 11, 15)), ""),
            (SearchKey::SavedBefore(day(2023, 11, 15)), "1:5"),
        ],
    );
}

#[test]
fn header_and_text_keys_read_decoded_bodies() {
    let mut bed = Bed::new();
    bed.append_bodies(&[
        "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\nFrom: Ann <ann@a.example>\r\nDate: Thu, 29 Feb 2024 23:30:00 -0800\r\n\r\nhallo Welt\r\n",
        "Subject: other\r\nTo: ann@a.example\r\nDate: Fri, 1 Mar 2024 00:10:00 +0900\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         aGFsbG8gd2VsdA==\r\n",
        "X-Empty:\r\n\r\nnothing\r\n",
    ]);
    check(
        &bed,
        [
            (header("Subject", "GRÜSSE"), "1"),
            (header("subject", ""), "1:2"),
            (not(header("subject", "")), "3"),
            (header("X-Empty", ""), "3"),
            (header("From", "ANN@"), "1"),
            (header("To", "ann"), "2"),
            (SearchKey::Text("ann@a".to_owned()), "1:2"),
            (SearchKey::Body("ann@a".to_owned()), ""),
            (SearchKey::Body("HALLO welt".to_owned()), "1:2"),
            (SearchKey::SentOn(day(2024, 2, 29)), "1"),
            (SearchKey::SentSince(day(2024, 3, 1)), "2"),
            (SearchKey::SentBefore(day(2024, 3, 1)), "1"),
            (not(SearchKey::SentBefore(day(2024, 3, 1))), "2:3"),
            (SearchKey::And(vec![SearchKey::Body("hallo".to_owned()), header("Subject", "other"), SearchKey::Larger(1)]), "2"),
        ],
    );
}

#[test]
fn bodies_are_read_once_and_only_when_cheap_keys_leave_the_question_open() {
    let mut bed = Bed::new();
    bed.append_bodies(&["A: needle\r\n\r\nneedle", "A: b\r\n\r\n", "A: c\r\n\r\n"]);
    bed.store("1", SystemFlags::SEEN, &[]);
    let seen = || SearchKey::Flag(SystemFlags::SEEN);
    let text = || SearchKey::Text("needle".to_owned());
    for (key, found, reads) in [
        (SearchKey::And(vec![text(), header("A", "needle"), SearchKey::Body("needle".to_owned()), seen()]), "1", 1),
        (SearchKey::Or(vec![text(), not(seen())]), "1:3", 1),
        (SearchKey::And(vec![text(), SearchKey::Uids(set("2:9"))]), "", 2),
        (SearchKey::And(vec![SearchKey::Or(vec![text(), seen()]), SearchKey::Larger(u64::MAX)]), "", 0),
        (text(), "1", 3),
    ] {
        let name = format!("{key:?}");
        assert_eq!((bed.search(key).as_str(), bed.reads()), (found, reads), "{name}");
    }
}

#[test]
fn searches_of_bodies_come_in_pages() {
    let mut bed = Bed::new();
    let hay = bed.shelve(b"A: b\r\n\r\nhay");
    let needle = bed.shelve(b"A: b\r\n\r\nneedle");
    let mut messages = vec![hay; 1_000];
    for at in [0, 255, 256, 511, 700, 999] {
        messages[at] = needle.clone();
    }
    bed.append(messages);
    bed.expunge("300:400");
    let key = SearchKey::Body("needle".to_owned());
    let (found, pages) = bed.search_pages(&key);
    assert_eq!((found.to_string().as_str(), pages), ("1,256:257,512,701,1000", 4));
    assert_eq!(bed.reads(), 899);
    let page = bed.try_search_on(&bed.tables, key.clone(), 1).unwrap();
    assert_eq!((page.uids.to_string().as_str(), page.next), ("1,256", Some(Uid(257))));
    // A page whose last body stands at the end of the mailbox is the last one.
    assert_eq!(bed.search_pages(&SearchKey::And(vec![SearchKey::Uids(set("745:1000")), key])).1, 1);
}

#[test]
fn searches_of_rows_come_in_pages_too() {
    let mut bed = Bed::new();
    bed.append_many(70_000);
    bed.store("69000", SystemFlags::FLAGGED, &[]);
    let (found, pages) = bed.search_pages(&SearchKey::Flag(SystemFlags::FLAGGED));
    assert_eq!((found.to_string().as_str(), pages), ("69000", 2));
    let narrow = SearchKey::And(vec![SearchKey::Uids(set("69000:69010")), SearchKey::Larger(0)]);
    assert_eq!(bed.search_pages(&narrow), (set("69000:69010"), 1));
}

#[test]
fn an_unreadable_body_ends_a_page_but_fails_an_empty_one() {
    let mut bed = Bed::new();
    bed.append_bodies(&["A: b\r\n\r\n", "A: b\r\n\r\n", "A: b\r\n\r\n"]);
    let lost = BodyHash([2; 32]);
    bed.shelf.bodies.remove(&lost);
    let page = bed.try_search_on(&bed.tables, header("A", "b"), 1).unwrap();
    assert_eq!((page.uids.to_string().as_str(), page.next), ("1", Some(Uid(2))));
    assert_eq!(bed.try_search_on(&bed.tables, header("A", "b"), 2), Err(ReadError::Body(lost)));
    assert_eq!(bed.try_search_on(&bed.tables, header("A", "b"), 3).unwrap().uids.to_string(), "3");
}
