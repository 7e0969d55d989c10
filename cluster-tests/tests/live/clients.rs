//! Clients that others wrote: Python's imaplib and curl write, flag and delete at one node and see it at another.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::message::Message;
use parliament_cluster_tests::skipped;
use std::io::Write as _;
use std::process::{Command, Stdio};

const IMAPLIB: &str = r#"
import imaplib, sys, time
one, two, user, password = sys.argv[1:]
def login(address):
    host, port = address.split(":")
    client = imaplib.IMAP4(host, int(port), timeout=20)
    client.login(user, password)
    return client
def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]
a, b = login(one), login(two)
text = b"Subject: from Python\r\n\r\nHello.\r\n"
ok(a.append("INBOX", r"(\Flagged)", imaplib.Time2Internaldate(time.time()), text))
ok(b.select("INBOX"))
assert ok(b.search(None, "SUBJECT", '"from Python"')) == [b"1"]
row = ok(b.fetch("1", "(FLAGS BODY.PEEK[])"))
assert row[0][1] == text and rb"\Flagged" in row[0][0] + row[1], row
ok(b.store("1", "+FLAGS", r"(\Seen \Deleted)"))
ok(a.select("INBOX"))
assert rb"\Seen" in ok(a.fetch("1", "(FLAGS)"))[0]
ok(a.expunge())
ok(b.noop())
assert ok(b.search(None, "ALL")) in ([b""], [None])
a.logout()
b.logout()
"#;

#[test]
fn clients() {
    super::with_demo(Options { users: 2, ..Options::default() }, async |demo| {
        let accounts = demo.accounts();
        imaplib(demo, &accounts[0]);
        curl(demo, &accounts[1]);
    });
}

/// Runs a client; `None` when it is not installed.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        skipped(&format!("{program} as a client"), "it is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

fn imaplib(demo: &Demo, user: &str) {
    let (one, two) = (&demo.node(1).imap, &demo.node(2).imap);
    run("python3", &["-", one, two, user, &demo.password], IMAPLIB.as_bytes());
}

fn curl(demo: &Demo, user: &str) {
    let message = Message::new("from-curl", b"Hello.\r\n");
    let login = format!("{user}:{}", demo.password);
    let url = |number: usize, rest: &str| format!("imap://{}/{rest}", demo.node(number).imap);
    let curl = |arguments: &[&str], input: &[u8]| run("curl", &[&["-sS", "--max-time", "20", "-u", &login], arguments].concat(), input);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &message.bytes).unwrap();
    let path = file.path().display().to_string();
    if curl(&["-T", &path, &url(1, "INBOX")], b"").is_none() {
        return;
    }
    let read = curl(&[&url(2, "INBOX;UID=1")], b"").unwrap();
    assert_eq!(read, message.bytes);
    curl(&["-X", "STORE 1 +FLAGS (\\Deleted)", &url(3, "INBOX")], b"");
    let flags = curl(&["-X", "FETCH 1 (FLAGS)", &url(1, "INBOX")], b"").unwrap();
    assert!(String::from_utf8_lossy(&flags).contains("\\Deleted"), "{flags:?}");
    curl(&["-X", "EXPUNGE", &url(2, "INBOX")], b"");
    let left = curl(&["-X", "SEARCH ALL", &url(3, "INBOX")], b"").unwrap();
    assert_eq!(String::from_utf8_lossy(&left).trim(), "* SEARCH");
}
