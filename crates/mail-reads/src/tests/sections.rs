//! Sections, partials and BINARY of ordinary messages.

use super::*;
use parliament_mail_api::PartData;

const MAIL: &str = "Subject: parts\r\nFrom: a@b.example\r\nX-Odd: 1\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
    Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=20b\r\n--b\r\n\
    Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAw==\r\n--b\r\n\
    Content-Type: text/plain\r\nContent-Transfer-Encoding: x-unheard-of\r\n\r\n???\r\n--b\r\n\
    Content-Type: text/plain\r\n\r\nplain\r\n--b--\r\n";

fn told(bed: &Bed, asked: Section) -> Result<Option<PartData>, Rejection> {
    let page = bed.try_fetch(&fetch("1", with_sections(vec![asked]))).unwrap()?;
    assert_eq!(page.rows[0].parts.len(), 1);
    Ok(page.rows[0].parts[0].data.clone())
}

fn text(bed: &Bed, asked: Section) -> String {
    match told(bed, asked).unwrap() {
        Some(PartData::Inline(bytes)) => String::from_utf8(bytes.0.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.append_bodies(&[MAIL]);
    bed
}

#[test]
fn every_kind_of_section() {
    let bed = bed();
    let names = vec!["SUBJECT".to_owned(), "from".to_owned()];
    assert_eq!(text(&bed, section(&[], SectionKind::Whole)), MAIL);
    let header = text(&bed, section(&[], SectionKind::Header));
    let body = text(&bed, section(&[], SectionKind::Text));
    assert_eq!(header + &body, MAIL);
    let fields = text(&bed, section(&[], SectionKind::HeaderFields(names.clone())));
    assert_eq!(fields, "Subject: parts\r\nFrom: a@b.example\r\n\r\n");
    let others = text(&bed, section(&[], SectionKind::HeaderFieldsNot(names)));
    assert_eq!(others, "X-Odd: 1\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n");
    assert_eq!(text(&bed, section(&[1], SectionKind::Whole)), "a=20b");
    assert_eq!(text(&bed, section(&[4], SectionKind::Mime)), "Content-Type: text/plain\r\n\r\n");
    assert_eq!(text(&bed, section(&[4], SectionKind::Whole)), "plain");
    for absent in [section(&[5], SectionKind::Whole), section(&[1], SectionKind::Header), section(&[], SectionKind::Mime)] {
        assert_eq!(told(&bed, absent), Ok(None));
    }
}

#[test]
fn results_stand_in_the_order_asked() {
    let asked = vec![section(&[4], SectionKind::Whole), section(&[9], SectionKind::Whole), section(&[1], SectionKind::BinarySize)];
    let page = bed().fetch(&fetch("1", with_sections(asked)));
    let parts: Vec<_> = page.rows[0].parts.iter().map(|part| part.data.clone()).collect();
    assert!(matches!(&parts[0], Some(PartData::Inline(bytes)) if bytes.0 == "plain"));
    assert_eq!(parts[1..], [None, Some(PartData::Size(3))]);
}

#[test]
fn partials_are_cut_to_what_is_there() {
    let bed = bed();
    let cut =
        |path: &[u32], kind: SectionKind, offset, count| text(&bed, Section { partial: Some((offset, count)), ..section(path, kind) });
    assert_eq!(cut(&[], SectionKind::Whole, 9, 5), "parts");
    assert_eq!(cut(&[4], SectionKind::Whole, 2, u32::MAX), "ain");
    assert_eq!(cut(&[4], SectionKind::Whole, 5, 1), "");
    assert_eq!(cut(&[], SectionKind::Whole, u32::MAX, u32::MAX), "");
    assert_eq!(cut(&[], SectionKind::HeaderFields(vec!["X-Odd".to_owned()]), 7, 3), "1\r\n");
    assert_eq!(cut(&[1], SectionKind::Binary, 1, 5), " b");
}

#[test]
fn binary_is_decoded_and_an_unknown_encoding_fails_the_fetch() {
    let bed = bed();
    assert_eq!(text(&bed, section(&[1], SectionKind::Binary)), "a b");
    assert_eq!(text(&bed, section(&[2], SectionKind::Binary)), "\0\u{1}\u{2}\u{3}");
    assert_eq!(text(&bed, section(&[4], SectionKind::Binary)), "plain");
    assert_eq!(text(&bed, section(&[], SectionKind::Binary)), MAIL);
    assert_eq!(told(&bed, section(&[2], SectionKind::BinarySize)), Ok(Some(PartData::Size(4))));
    assert_eq!(told(&bed, section(&[], SectionKind::BinarySize)), Ok(Some(PartData::Size(MAIL.len() as u64))));
    assert_eq!(told(&bed, section(&[7], SectionKind::Binary)), Ok(None));
    assert_eq!(told(&bed, section(&[7], SectionKind::BinarySize)), Ok(None));
    for kind in [SectionKind::Binary, SectionKind::BinarySize] {
        assert_eq!(told(&bed, section(&[3], kind)), Err(Rejection::UnknownEncoding));
    }
    assert_eq!(text(&bed, section(&[3], SectionKind::Whole)), "???", "as it stands it can be had");
}
