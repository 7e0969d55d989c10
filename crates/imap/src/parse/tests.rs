//! Commands as values, and hostile ones as errors.

use super::*;
use proptest::prelude::*;

fn parsed(text: &str) -> Command {
    parse_command(text.as_bytes(), false).unwrap_or_else(|error| panic!("{text}: {error:?}")).command
}

fn error(text: &str) -> ParseError {
    parse_command(text.as_bytes(), false).expect_err(text).1
}

/// One lawful command of each form; the mutation test starts from these.
const LAWFUL: &[&str] = &[
    "a CAPABILITY",
    "a NOOP",
    "a LOGOUT",
    "a STARTTLS",
    "a NAMESPACE",
    "a CHECK",
    "a CLOSE",
    "a UNSELECT",
    "a EXPUNGE",
    "a IDLE",
    "a ID NIL",
    "a ID (\"name\" \"x\" \"version\" NIL)",
    "a ENABLE CONDSTORE IMAP4rev2",
    "a LOGIN u \"p w\"",
    "a LOGIN {1+}\r\nu {3}\r\np w",
    "a AUTHENTICATE PLAIN",
    "a AUTHENTICATE PLAIN =",
    "a SELECT INBOX",
    "a EXAMINE \"&APw-\" (CONDSTORE)",
    "a CREATE x/ (USE (\\Sent \\Trash))",
    "a DELETE x",
    "a RENAME x y",
    "a SUBSCRIBE x",
    "a UNSUBSCRIBE x",
    "a LIST \"\" *",
    "a LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (a% b*) RETURN (CHILDREN STATUS (MESSAGES SIZE))",
    "a LSUB \"\" %",
    "a STATUS x (MESSAGES UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE RECENT HIGHESTMODSEQ MAILBOXID APPENDLIMIT)",
    "a UID EXPUNGE 1:*",
    "a COPY 1,3 x",
    "a UID MOVE $ x",
    "a STORE 1:* +FLAGS.SILENT (\\Seen kw)",
    "a UID STORE 1 (UNCHANGEDSINCE 7) FLAGS \\Seen \\Deleted",
    "a FETCH 1 ALL",
    "a FETCH 1 FULL",
    "a UID FETCH 1:* (FLAGS UID MODSEQ EMAILID THREADID SAVEDATE PREVIEW (LAZY)) (CHANGEDSINCE 5)",
    "a FETCH 1 (BODY[] BODY.PEEK[1.2.HEADER.FIELDS (From \"To\")]<0.10> BODY[1.MIME] BINARY.SIZE[1] BINARY.PEEK[1]<1.2> RFC822.TEXT)",
    "a SEARCH RETURN (MIN MAX COUNT ALL SAVE) CHARSET UTF-8 OR (1:3 UNSEEN) NOT FROM \"x\" UID 1:* SINCE 1-Jan-2026 MODSEQ \"/flags/\\\\Seen\" all 7 HEADER X \"\" OLDER 5 KEYWORD k",
    "a UID SEARCH $",
    "a GETQUOTA \"\"",
    "a GETQUOTAROOT INBOX",
];

#[test]
fn lawful_commands_are_understood() {
    for text in LAWFUL {
        parsed(text);
    }
}

#[test]
fn commands_become_values() {
    let Command::Select { name, read_only, condstore } = parsed("a examine inbox (condstore)") else { panic!() };
    assert_eq!((name.as_str(), read_only, condstore), ("INBOX", true, true));
    let Command::Create { name, special_use } = parsed("a CREATE \"a&APw-/\" (USE (\\Sent))") else { panic!() };
    assert_eq!((name.as_str(), special_use), ("aü", vec![SpecialUse::Sent]));
    let Command::List(list) = parsed("a LIST \"x/\" *%*%*") else { panic!() };
    assert_eq!(list.patterns[0].0, "x/*");
    let Command::List(list) = parsed("a LIST \"\" inbox/%") else { panic!() };
    assert_eq!(list.patterns[0].0, "INBOX/%");
    let Command::Fetch(fetch) = parsed("a FETCH 2:4 (BODY[1.2.TEXT]<3.4> BODY.PEEK[1.2.TEXT]<3.4>)") else { panic!() };
    assert_eq!((fetch.atts.sections.len(), fetch.atts.sections[0].peek), (1, false));
    assert_eq!((fetch.atts.sections[0].section.path.clone(), fetch.atts.sections[0].section.partial), (vec![1, 2], Some((3, 4))));
    let Command::Search(search) = parsed("a SEARCH RETURN () NEW") else { panic!() };
    assert!(search.result.is_some_and(|result| result.all && !result.save));
    let Command::Store(store) = parsed("a STORE 1 -FLAGS.SILENT $Junk") else { panic!() };
    assert_eq!((store.silent, store.change.mode), (true, parliament_mail_api::FlagMode::Remove));
    // Composed and decomposed spellings are one name.
    let name = |text: &[u8]| match parse_command(text, true).unwrap().command {
        Command::Delete(name) => name,
        _ => panic!(),
    };
    assert_eq!(name("a DELETE \"u\u{308}\"".as_bytes()), name("a DELETE \"\u{fc}\"".as_bytes()));
}

#[test]
fn unlawful_commands_are_refused() {
    for text in [
        "a",
        "a ",
        "a FROB",
        "a UID NOOP",
        "a NOOP x",
        "a LOGIN u",
        "a SELECT",
        "a FETCH 0 FLAGS",
        "a FETCH 1",
        "a FETCH 1 (ALL)",
        "a FETCH 1 BODY[MIME]",
        "a FETCH 1 BODY[1.]",
        "a FETCH 1 BODY[]<1>",
        "a FETCH 1 BODY[HEADER.FIELDS ()]",
        "a FETCH 1 BODY",
        "a STORE 1 FLAGS",
        "a STORE 1 FLAGS (\\Recent)",
        "a STORE 1 *FLAGS ()",
        "a SEARCH",
        "a SEARCH NOT",
        "a SEARCH SINCE 32-Jan-2026",
        "a SEARCH ON 1-Foo-2026",
        "a SEARCH (ALL",
        "a SEARCH FROB",
        "a LIST (RECURSIVEMATCH) \"\" *",
        "a LIST \"\"",
        "a STATUS x ()",
        "a ENABLE",
        "a ID (\"a\")",
        "a APPEND x",
        "a COPY 1:x y",
        "a LOGIN \"u p",
        "a SEARCH RETURN (FOO) ALL",
        "a LOGIN {99}\r\nu p",
    ] {
        if text == "a FETCH 1 BODY" {
            parsed(text);
        } else {
            assert!(matches!(error(text), ParseError::Bad(_)), "{text}: {:?}", error(text));
        }
    }
    assert!(matches!(error("a SELECT &AGE-"), ParseError::Name(_)));
    assert!(matches!(error("a SELECT a//b"), ParseError::Name(_)));
    assert!(matches!(error("a SEARCH CHARSET KOI8-R ALL"), ParseError::No("BADCHARSET (US-ASCII UTF-8)", _)));
    assert!(matches!(error("a CREATE x (USE (\\Foo))"), ParseError::No("USEATTR", _)));
    assert_eq!(parse_command(b"* NOOP", false).unwrap_err().0, "*");
    assert_eq!(parse_command(b"", false).unwrap_err().0, "*");
}

#[test]
fn nesting_and_counts_are_bounded() {
    assert!(matches!(error(&format!("a SEARCH {}ALL{}", "(".repeat(40), ")".repeat(40))), ParseError::Bad(_)));
    assert!(matches!(error(&format!("a SEARCH {}ALL", "NOT ".repeat(5_000))), ParseError::Bad(_)));
    assert!(matches!(error(&format!("a SEARCH {}", "ALL ".repeat(2_000))), ParseError::Bad(_)));
    assert!(matches!(error(&format!("a FETCH 1 BODY[{}1]", "1.".repeat(40))), ParseError::Bad(_)));
    let sections: Vec<String> = (1..80).map(|n| format!("BODY[{n}]")).collect();
    assert!(matches!(error(&format!("a FETCH 1 ({})", sections.join(" "))), ParseError::Bad(_)));
    assert!(matches!(error(&format!("a LIST \"\" {}", "a%".repeat(40))), ParseError::No("LIMIT", _)));
}

#[test]
fn append_is_seen_before_its_literal() {
    let head = |text: &str| parse_append_head(text.as_bytes(), false);
    let (to, tail) = head("a APPEND INBOX (\\Seen kw) \"17-Jul-1996 02:44:25 -0700\" {310}").unwrap().body.unwrap();
    assert_eq!((to.as_str(), tail.flags.keywords.len(), tail.date.unwrap().zone_minutes), ("INBOX", 1, -420));
    assert!(head("a APPEND x UTF8 (~{310+}").unwrap().body.unwrap().1.utf8);
    assert!(head("a APPEND {5}").is_none());
    assert!(head("a LOGIN x {5}").is_none());
    assert!(head("a APPEND x (\\Recent) {5}").unwrap().body.is_err());
    assert!(head("a APPEND x \"yesterday\" {5}").unwrap().body.is_err());
    assert_eq!(parse_append_tail(b"", false, false), Ok(None));
    assert_eq!(parse_append_tail(b")", true, false), Ok(None));
    assert!(parse_append_tail(b" (\\Seen) {5}", false, true).unwrap().unwrap().flags.system.contains(parliament_ids::SystemFlags::SEEN));
    assert!(parse_append_tail(b" x", false, false).is_err());
}

proptest! {
    #[test]
    fn mutated_commands_never_panic(at in 0..LAWFUL.len(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..8), utf8: bool) {
        let mut text = LAWFUL[at].as_bytes().to_vec();
        for (index, byte, how) in edits {
            if text.is_empty() {
                break;
            }
            let at = index.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => { text.remove(at); }
            }
        }
        let _ = parse_command(&text, utf8);
        let _ = parse_append_head(&text, utf8);
        let _ = parse_append_tail(&text, utf8, true);
    }
}
