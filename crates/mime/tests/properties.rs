//! Properties that hold for every message, well-formed or not: nothing panics, everything told can be fetched, ranges lie within
//! the message, nothing takes more than linear time, and the wire forms are well-formed.

#![allow(clippy::unwrap_used, reason = "what a test unwraps is what it asserts")]

use parliament_mime::{
    BinaryError, Needle, PartKind, SectionKind, Structure, base_subject, binary, binary_size, body_contains, body_structure, decode_words,
    envelope, fold, header_contains, message_id, message_subject, parse_date, preview, references, section, sent_date, text_contains,
    thread_root,
};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Reads one parenthesised list of IMAP strings, numbers and NILs; returns what follows it, or where it is malformed.
fn read_list(text: &[u8]) -> Result<&[u8], &[u8]> {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'(' => depth += 1,
            b')' => {
                depth = depth.checked_sub(1).ok_or(after)?;
                if depth == 0 {
                    return Ok(after);
                }
            }
            b'"' => rest = read_quoted(after)?,
            b'{' => rest = read_literal(after)?,
            b' ' | b'N' | b'I' | b'L' | b'0'..=b'9' => {}
            _ => return Err(after),
        }
    }
    Err(rest)
}

fn read_quoted(text: &[u8]) -> Result<&[u8], &[u8]> {
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => return Ok(after),
            b'\\' if matches!(after.first(), Some(b'"' | b'\\')) => rest = &after[1..],
            b'\\' | b'\r' | b'\n' | 0 | 0x80.. => return Err(after),
            _ => {}
        }
    }
    Err(rest)
}

fn read_literal(text: &[u8]) -> Result<&[u8], &[u8]> {
    let end = text.windows(3).position(|w| w == b"}\r\n").ok_or(text)?;
    let size: usize = std::str::from_utf8(&text[..end]).ok().and_then(|digits| digits.parse().ok()).ok_or(text)?;
    let literal = text.get(end + 3..end + 3 + size).ok_or(text)?;
    if literal.contains(&0) { Err(text) } else { Ok(&text[end + 3 + size..]) }
}

/// Every path of part numbers that the structure has, with what it says of the part.
fn paths(structure: &Structure) -> Vec<(Vec<u32>, PartKind)> {
    fn below(structure: &Structure, id: parliament_mime::PartId, path: &[u32], out: &mut Vec<(Vec<u32>, PartKind)>) {
        let kind = structure.part(id).kind();
        match kind {
            PartKind::Multipart => {
                for (index, child) in structure.children(id).enumerate() {
                    let path = [path, &[index as u32 + 1]].concat();
                    out.push((path.clone(), structure.part(child).kind()));
                    match structure.part(child).kind() {
                        PartKind::Multipart => below(structure, child, &path, out),
                        PartKind::Message => below_message(structure, child, &path, out),
                        _ => {}
                    }
                }
            }
            _ => {
                let path = [path, &[1]].concat();
                out.push((path.clone(), kind));
                if kind == PartKind::Message {
                    below_message(structure, id, &path, out);
                }
            }
        }
    }
    fn below_message(structure: &Structure, id: parliament_mime::PartId, path: &[u32], out: &mut Vec<(Vec<u32>, PartKind)>) {
        for child in structure.children(id) {
            below(structure, child, path, out);
        }
    }
    let mut out = Vec::new();
    below(structure, structure.root(), &[], &mut out);
    out
}

fn check_everything(message: &[u8]) {
    let structure = Structure::parse(message);
    structure.check(message.len());
    for text in [envelope(message, &structure), body_structure(message, &structure, false), body_structure(message, &structure, true)] {
        assert_eq!(read_list(&text), Ok(&b""[..]), "{:?}", String::from_utf8_lossy(&text));
    }
    check_sections(message, &structure);
    let needle = Needle::new("Straße");
    assert!(header_contains(message, &structure, "subject", &Needle::new("")) || message_subject(message, &structure).text.is_empty());
    if body_contains(message, &structure, &needle) {
        assert!(text_contains(message, &structure, &needle));
    }
    assert!(preview(message, &structure).chars().count() <= 256);
    let root = thread_root(message, &structure);
    assert!(root.is_some() || (message_id(message, &structure).is_none() && references(message, &structure).is_empty()));
    if let Some(date) = sent_date(message, &structure) {
        assert!((1..=12).contains(&date.month) && (1..=31).contains(&date.day) && date.year <= 9999);
    }
}

fn check_sections(message: &[u8], structure: &Structure) {
    let names = ["Subject".to_owned(), "content-TYPE".to_owned()];
    let get = |path: &[u32], kind| section(message, structure, path, kind).map(|content| content.bytes(message).to_vec());
    let header = get(&[], SectionKind::Header).unwrap();
    assert_eq!([header.clone(), get(&[], SectionKind::Text).unwrap()].concat(), message);
    let with = get(&[], SectionKind::HeaderFields(&names)).unwrap();
    let without = get(&[], SectionKind::HeaderFieldsNot(&names)).unwrap();
    let blank = get(&[], SectionKind::HeaderFields(&[])).unwrap();
    assert_eq!(with.len() + without.len(), header.len() + blank.len());
    assert_eq!(get(&[], SectionKind::Mime), None);
    let paths = paths(structure);
    // Of very many parts the first and last: finding each by its number takes as long as there are siblings.
    let edge = paths.len().min(200);
    for (path, kind) in paths.iter().take(edge).chain(paths.iter().rev().take(edge)) {
        let (path, kind) = (path.as_slice(), *kind);
        let body = get(path, SectionKind::Whole).unwrap();
        assert!(get(path, SectionKind::Mime).is_some());
        let embedded = get(path, SectionKind::Header).zip(get(path, SectionKind::Text));
        assert_eq!(embedded.is_some(), kind == PartKind::Message);
        if let Some((header, text)) = embedded {
            assert_eq!([header, text].concat(), body);
        }
        match binary(message, structure, path) {
            Ok(data) => assert_eq!(binary_size(message, structure, path).unwrap().unwrap(), data.unwrap().len()),
            Err(BinaryError::NotLeaf) => assert!(matches!(kind, PartKind::Message | PartKind::Multipart)),
            Err(BinaryError::UnknownEncoding) => assert!(matches!(kind, PartKind::Leaf)),
        }
    }
}

const PIECES: &[&str] = &[
    "\r\n",
    "\n",
    "\r\n\r\n",
    "\n\n",
    "--a",
    "--b",
    "--a--",
    "--b--",
    "\r\n--a\r\n",
    "\n--b\n",
    "\n--a--\n",
    "Content-Type: ",
    "text/plain",
    "text/html",
    "; charset=utf-8",
    "; charset=iso-2022-jp",
    "multipart/mixed; boundary=a",
    "multipart/digest; boundary=\"b\"",
    "multipart/alternative",
    "message/rfc822",
    "message/global",
    "Content-Transfer-Encoding: base64\r\n",
    "Content-Transfer-Encoding: quoted-printable\n",
    "Content-Transfer-Encoding: odd\n",
    "Content-Disposition: attachment; filename*0*=u''%41",
    "Content-Language: en, fr\n",
    "Subject: ",
    "Re: [x] ",
    "=?utf-8?Q?=C3=A4?= ",
    "=?utf-8?B?w6Q=?=",
    "From: ",
    "To: ",
    "A <a@b>, ",
    "g: x@y;",
    "\"",
    "(",
    ")",
    "<",
    ">",
    "@",
    ",",
    ":",
    ";",
    "\\",
    "*",
    "'",
    "%",
    "=",
    "?",
    "[",
    "]",
    " ",
    "\t",
    "\0",
    "ß",
    "Straße",
    "STRASSE",
    "aGVsbG8=",
    "Date: ",
    "1 Jan 2024 10:00:00 +0100",
    "-",
    "References: <a@b> <\"c\"@d>",
    "Message-ID: <e@f>\n",
    "<p>x</p><style>",
    "&amp;",
    "word",
];

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => prop::sample::select(PIECES).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ]
}

const NESTED: &str = "From: \"A\" <a@b>\r\nTo: g: x@y, z;\r\nSubject: =?utf-8?Q?Re:_x?=\r\nDate: 1 Jan 2024 10:00:00 +0100\r\n\
    Content-Type: multipart/mixed; boundary=a\r\n\r\npre\r\n--a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nStra\u{df}e\r\n--a\r\n\
    Content-Type: message/rfc822\r\n\r\nSubject: in\r\nContent-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: d\r\n\r\nx\r\n--b--\r\n\
    --a\r\nContent-Type: multipart/alternative; boundary=aa\r\n\r\n--aa\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n\
    PGI+eDwvYj4=\r\n--aa--\r\n--a--\r\nepilogue\r\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 700, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_heap_of_pieces_is_read(pieces in prop::collection::vec(piece(), 0..60)) {
        check_everything(&pieces.concat());
    }

    #[test]
    fn any_mutated_message_is_read(edits in prop::collection::vec((0..NESTED.len(), 0..20_usize, piece()), 0..8)) {
        let mut message = NESTED.as_bytes().to_vec();
        for (at, removed, inserted) in edits {
            let at = at.min(message.len());
            let end = (at + removed).min(message.len());
            message.splice(at..end, inserted);
        }
        check_everything(&message);
    }

    #[test]
    fn any_text_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,40}") {
        let _ = (decode_words(&bytes), parse_date(&bytes));
        let base = base_subject(&text).text;
        prop_assert_eq!(base_subject(&base).text, base);
        prop_assert!(Needle::new(&text).is_in(&text));
        prop_assert_eq!(fold(&fold(&text)), fold(&text));
    }
}

#[test]
fn the_nested_example_has_the_expected_paths() {
    let structure = Structure::parse(NESTED.as_bytes());
    let found: Vec<_> = paths(&structure).into_iter().map(|(path, _)| path).collect();
    let expected: [&[u32]; 7] = [&[1], &[2], &[2, 1], &[2, 1, 1], &[3], &[3, 1], &[]];
    assert_eq!(found, expected[..6]);
    check_everything(NESTED.as_bytes());
}

/// Anything quadratic in these would take minutes.
#[test]
fn hostile_messages_take_linear_time() {
    let head = "Content-Type: multipart/mixed; boundary=a\n\n";
    let nest = (0..70)
        .map(|n| format!("--{}\nContent-Type: multipart/mixed; boundary={}{n}\n\n", "x".repeat(n), "x".repeat(n)))
        .collect::<String>();
    for (name, start, unit) in [
        ("hyphens", head, "--\n"),
        ("boundaries", head, "--a\n"),
        ("containers", head, "--a\nContent-Type: multipart/mixed; boundary=b\n\n"),
        ("messages", "", "Content-Type: message/rfc822\n\n"),
        ("nested boundaries", nest.as_str(), "--xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"),
        ("fields", "", "A:b\n"),
        ("content types", "", "Content-Type: a\n"),
        ("recipients", "To: ", "a@b, "),
        ("groups", "To: ", "a:;"),
        ("comments", "To: ", "("),
        ("parameters", "Content-Type: a/b", "; a*0=b"),
        ("words", "Subject: ", "=?utf-8?q?a?= "),
        ("blobs", "Subject: ", "[x]"),
        ("ids", "References: ", "<a@b> "),
        ("tags", "Content-Type: text/html\n\n", "<a "),
        ("entities", "Content-Type: text/html\n\n", "&"),
    ] {
        let message = start.to_owned() + &unit.repeat(600_000 / unit.len());
        let began = Instant::now();
        check_everything(message.as_bytes());
        assert!(began.elapsed() < Duration::from_secs(8), "{name}: {:?}", began.elapsed());
    }
}
