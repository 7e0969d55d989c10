//! Large bodies: what is told by reference, what is bounded.

use super::*;
use parliament_ids::limits::{FETCH_INLINE_BYTES_MAX, FETCH_PAGE_BYTES};
use parliament_mail_api::PartData;

fn bed_of(body: &[u8]) -> Bed {
    let mut bed = Bed::new();
    let message = bed.shelve(body);
    bed.append(vec![message]);
    bed
}

fn tell(bed: &Bed, sections: Vec<Section>) -> Vec<Option<PartData>> {
    let page = bed.fetch(&fetch("1", with_sections(sections)));
    page.rows[0].parts.iter().map(|part| part.data.clone()).collect()
}

fn range(offset: usize, length: usize) -> Option<PartData> {
    Some(PartData::Range { offset: offset as u64, length: length as u64 })
}

#[test]
fn the_whole_of_a_large_message_is_told_without_reading_it() {
    let size = FETCH_INLINE_BYTES_MAX + 10;
    let bed = bed_of(&vec![b'x'; size]);
    let whole = |partial| Section { partial, ..section(&[], SectionKind::Whole) };
    let asked = vec![
        whole(None),
        whole(Some((5, 100))),
        whole(Some((0, u32::MAX))),
        whole(Some((size as u32 - 1, 100))),
        whole(Some((u32::MAX, 100))),
    ];
    let told = tell(&bed, asked);
    assert_eq!(told, [range(0, size), range(5, 100), range(0, size), range(size - 1, 1), range(size, 0)]);
    assert_eq!(bed.reads(), 0);
}

#[test]
fn a_message_of_the_inline_bound_is_inline() {
    let bed = bed_of(&vec![b'x'; FETCH_INLINE_BYTES_MAX]);
    let told = tell(&bed, vec![section(&[], SectionKind::Whole)]);
    assert!(matches!(&told[0], Some(PartData::Inline(bytes)) if bytes.0.len() == FETCH_INLINE_BYTES_MAX));
}

#[test]
fn large_sections_are_ranges_of_the_stored_body() {
    let head = "A: b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n";
    let large = "y".repeat(FETCH_INLINE_BYTES_MAX + 1);
    let body = format!("{head}{large}\r\n--b--\r\n");
    let bed = bed_of(body.as_bytes());
    let header = body.find("--b").unwrap();
    let part = |partial, kind| Section { partial, ..section(&[1], kind) };
    let told = tell(
        &bed,
        vec![
            section(&[], SectionKind::Text),
            part(None, SectionKind::Whole),
            part(Some((3, FETCH_INLINE_BYTES_MAX as u32)), SectionKind::Whole),
            part(None, SectionKind::Binary),
            part(None, SectionKind::BinarySize),
        ],
    );
    assert_eq!(told[0], range(header, body.len() - header));
    assert_eq!(told[1], range(head.len(), large.len()));
    assert!(matches!(&told[2], Some(PartData::Inline(bytes)) if bytes.0.len() == FETCH_INLINE_BYTES_MAX - 2));
    assert_eq!(told[3], range(head.len(), large.len()), "what needs no decoding is not copied");
    assert_eq!(told[4], Some(PartData::Size(large.len() as u64)));
}

#[test]
fn decoded_parts_larger_than_a_page_are_had_by_partials() {
    let encoded = "QUJD\r\n".repeat(FETCH_PAGE_BYTES / 3 + 2);
    let body = format!("Content-Type: application/x-a\r\nContent-Transfer-Encoding: base64\r\n\r\n{encoded}");
    let bed = bed_of(body.as_bytes());
    let binary = |partial| with_sections(vec![Section { partial, ..section(&[1], SectionKind::Binary) }]);
    assert_eq!(bed.try_fetch(&fetch("1", binary(None))), Ok(Err(Rejection::Limit)));
    let page = bed.fetch(&fetch("1", binary(Some((3_000, 65_536)))));
    assert!(matches!(&page.rows[0].parts[0].data, Some(PartData::Inline(bytes)) if bytes.0.len() == 65_536 && bytes.0.starts_with(b"ABC")));
}

#[test]
fn hostile_headers_do_not_stop_a_listing() {
    let to = format!("To: {}\r\n", "a@b,".repeat(300_000));
    let fields: String = (0..40_000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let body = format!("Subject: s\r\n{fields}{to}\r\nbody");
    let bed = bed_of(body.as_bytes());
    let asked = vec![section(&[], SectionKind::HeaderFieldsNot(vec!["To".to_owned()]))];
    let page = bed.fetch(&fetch("1", FetchItems { envelope: true, body_structure: true, ..with_sections(asked) }));
    let row = &page.rows[0];
    let envelope = row.envelope.clone().unwrap().0;
    assert!(envelope.len() <= 512 * 1024 && envelope.starts_with(b"(NIL \"s\"") && envelope.ends_with(b")"));
    let Some(PartData::Inline(told)) = &row.parts[0].data else { panic!("{:?}", row.parts) };
    assert!(told.0.len() <= FETCH_INLINE_BYTES_MAX && told.0.starts_with(b"Subject: s\r\nX-0: 0\r\n") && told.0.ends_with(b"\r\n\r\n"));
}

#[test]
fn a_structure_beyond_bounds_is_opaque() {
    let parameters: String = (0..200).map(|n| format!("; p{n}={}", "v".repeat(3_000))).collect();
    let body = format!("Content-Type: text/plain{parameters}\r\n\r\nbody");
    let bed = bed_of(body.as_bytes());
    let page = bed.fetch(&fetch("1", FetchItems { body: true, body_structure: true, ..FetchItems::default() }));
    let told = |field: &Option<parliament_mail_api::bytes_serde::BytesField>| String::from_utf8(field.clone().unwrap().0.to_vec()).unwrap();
    assert_eq!(told(&page.rows[0].body), "(\"APPLICATION\" \"OCTET-STREAM\" NIL NIL NIL \"BINARY\" 4)");
    assert_eq!(told(&page.rows[0].body_structure), "(\"APPLICATION\" \"OCTET-STREAM\" NIL NIL NIL \"BINARY\" 4 NIL NIL NIL NIL)");
}

#[test]
fn a_page_ends_after_32_mib_of_bodies() {
    let mut bed = Bed::new();
    let body = "A: b\r\n\r\n".to_owned() + &"x".repeat(9 * 1024 * 1024);
    bed.append_bodies(&[body.as_str(); 5]);
    let header = with_sections(vec![section(&[], SectionKind::Header)]);
    let pages = bed.fetch_all(&fetch("1:5", header));
    assert_eq!(pages.iter().map(uids).collect::<Vec<_>>(), ["1:4", "5"]);
    assert_eq!(bed.search_pages(&SearchKey::Body("y".to_owned())), (UidSet::new(), 2));
}
