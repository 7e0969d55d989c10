//! Header decoding agrees with another parser on well-formed headers.

use mail_parser::MessageParser;
use parliament_mime::{Structure, header_values, message_id, parse_date, references, sent_date};
use proptest::prelude::*;

/// An encoded word in one of a few charsets, and what it says.
fn word() -> impl Strategy<Value = (String, String)> {
    prop::sample::select(vec![
        ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?UTF-8?B?w6TDtsO8?=", "äöü"),
        ("=?iso-8859-1?q?caf=E9_noir?=", "café noir"),
        ("=?iso-8859-2?Q?=B1=BF?=", "ąż"),
        ("=?koi8-r?B?8NLJ18XU?=", "Привет"),
        ("=?iso-2022-jp?B?GyRCJDMkcxsoQg==?=", "こん"),
        ("=?windows-1251?Q?=CF=F0?=", "Пр"),
        ("=?gb2312?B?xOO6ww==?=", "你好"),
    ])
    .prop_map(|(encoded, text)| (encoded.to_owned(), text.to_owned()))
}

/// A piece of a subject: an encoded word or a plain one, and what it says.
fn piece() -> impl Strategy<Value = (String, String, bool)> {
    prop_oneof![word().prop_map(|(e, t)| (e, t, true)), "[a-zA-Z0-9.,!-]{1,8}".prop_map(|text| (text.clone(), text, false))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn subjects_agree(pieces in prop::collection::vec(piece(), 1..8), fold in any::<bool>()) {
        let blank = if fold { "\r\n " } else { " " };
        let encoded = pieces.iter().map(|(e, ..)| e.as_str()).collect::<Vec<_>>().join(blank);
        let mut said = String::new();
        for (index, (_, text, is_word)) in pieces.iter().enumerate() {
            if index > 0 && !(*is_word && pieces[index - 1].2) {
                said.push(' ');
            }
            said += text;
        }
        let message = format!("Subject: {encoded}\r\n\r\n");
        let structure = Structure::parse(message.as_bytes());
        let ours = header_values(message.as_bytes(), &structure, "Subject").next();
        let theirs = MessageParser::new().parse(message.as_bytes()).and_then(|m| m.subject().map(str::to_owned));
        prop_assert_eq!(ours.as_ref(), Some(&said));
        prop_assert_eq!(theirs, ours);
    }

    #[test]
    fn dates_agree(
        (day, month, year) in (1..29_u8, 0..12_usize, 1970..2100_u16),
        (hour, minute, second) in (0..24_u8, 0..60_u8, 0..60_u8),
        (sign, zone_hours, zone_minutes) in (prop::sample::select(vec!['+', '-']), 0..14_u8, prop::sample::select(vec![0_u8, 30, 45])),
    ) {
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let text = format!(
            "{day} {} {year} {hour:02}:{minute:02}:{second:02} {sign}{zone_hours:02}{zone_minutes:02}", months[month]
        );
        let message = format!("Date: {text}\r\n\r\n");
        let ours = sent_date(message.as_bytes(), &Structure::parse(message.as_bytes())).expect("a date");
        let theirs = MessageParser::new().parse(message.as_bytes()).and_then(|m| m.date().map(mail_parser::DateTime::to_timestamp));
        prop_assert_eq!(Some(ours.unix_seconds), theirs);
        prop_assert_eq!((ours.year, usize::from(ours.month), ours.day), (year, month + 1, day));
        prop_assert_eq!(parse_date(text.as_bytes()), Some(ours));
    }

    #[test]
    fn ids_agree(ids in prop::collection::vec("[a-z0-9.]{1,10}@[a-z]{1,8}\\.org", 1..6)) {
        let list = ids.iter().map(|id| format!("<{id}>")).collect::<Vec<_>>().join("\r\n ");
        let message = format!("References: {list}\r\nMessage-ID: <{}>\r\n\r\n", ids[0]);
        let structure = Structure::parse(message.as_bytes());
        let text = |id: Vec<u8>| String::from_utf8(id).expect("ASCII");
        let ours: Vec<String> = references(message.as_bytes(), &structure).into_iter().map(text).collect();
        let parsed = MessageParser::new().parse(message.as_bytes()).expect("a message");
        prop_assert_eq!(&ours, &ids);
        let theirs: Vec<String> = parsed.references().as_text_list().unwrap_or_default().iter().map(|id| id.to_string()).collect();
        prop_assert_eq!(theirs, ours);
        prop_assert_eq!(message_id(message.as_bytes(), &structure).map(text), parsed.message_id().map(str::to_owned));
    }
}
