//! Just enough IMAP, LMTP and HTTP to bring a demo up and to check on it. It speaks with our own nodes on loopback only; still,
//! every answer is bounded in size and time.

use crate::error::{AdminError, exit};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longest line, bytes.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Largest literal, bytes.
const LITERAL_BYTES_MAX: usize = 1024 * 1024;
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to a node, or why there is none (any more).
pub(crate) type Spoken<T> = Result<T, String>;

struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    async fn connect(address: &str) -> Spoken<Self> {
        let stream = bounded(async { TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}")) }).await?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self { stream: BufReader::new(stream) })
    }
    async fn read(&mut self) -> Spoken<String> {
        bounded(async {
            let mut line = Vec::new();
            let read = (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Err("the connection was closed".to_owned());
            }
            Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
        })
        .await
    }
    async fn write(&mut self, bytes: &[u8]) -> Spoken<()> {
        bounded(async { self.stream.write_all(bytes).await.map_err(|e| e.to_string()) }).await
    }
}

async fn bounded<T>(work: impl Future<Output = Spoken<T>>) -> Spoken<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// An IMAP connection.
pub(crate) struct Imap {
    line: Line,
    tag: u32,
}

/// What a command brought: untagged responses, literals in place, and the tagged one without its tag.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) untagged: Vec<String>,
    pub(crate) tagged: String,
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.tagged.get(..2).is_some_and(|word| word.eq_ignore_ascii_case("OK"))
    }
    /// What stands between `[NAME ` and `]`, in any response.
    pub(crate) fn code(&self, name: &str) -> Option<&str> {
        let open = format!("[{name} ");
        let mut all = std::iter::once(&self.tagged).chain(&self.untagged);
        all.find_map(|line| Some(line.split_once(&open)?.1.split_once(']')?.0))
    }
}

impl Imap {
    pub(crate) async fn connect(address: &str) -> Spoken<Self> {
        let mut line = Line::connect(address).await?;
        let greeting = line.read().await?;
        if !greeting.starts_with("* OK") {
            return Err(format!("{address}: {greeting}"));
        }
        Ok(Self { line, tag: 0 })
    }

    pub(crate) async fn login(address: &str, user: &str, password: &str) -> Spoken<Self> {
        let mut imap = Self::connect(address).await?;
        let answer = imap.command(&format!("LOGIN {} {}", quoted(user), quoted(password))).await?;
        if answer.is_ok() { Ok(imap) } else { Err(answer.tagged) }
    }

    pub(crate) async fn command(&mut self, text: &str) -> Spoken<Answer> {
        let tag = self.next_tag();
        self.line.write(format!("{tag} {text}\r\n").as_bytes()).await?;
        self.answer(&tag).await
    }

    /// APPEND with a synchronising literal.
    pub(crate) async fn append(&mut self, mailbox: &str, message: &[u8]) -> Spoken<Answer> {
        let tag = self.next_tag();
        self.line.write(format!("{tag} APPEND {} {{{}}}\r\n", quoted(mailbox), message.len()).as_bytes()).await?;
        loop {
            let line = self.line.read().await?;
            if line.starts_with('+') {
                break;
            }
            if let Some(tagged) = line.strip_prefix(&format!("{tag} ")) {
                return Ok(Answer { untagged: Vec::new(), tagged: tagged.to_owned() });
            }
        }
        self.line.write(message).await?;
        self.line.write(b"\r\n").await?;
        self.answer(&tag).await
    }

    fn next_tag(&mut self) -> String {
        self.tag += 1;
        format!("t{}", self.tag)
    }

    async fn answer(&mut self, tag: &str) -> Spoken<Answer> {
        let mut untagged = Vec::new();
        loop {
            let line = self.response().await?;
            if let Some(tagged) = line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
                return Ok(Answer { untagged, tagged: tagged.to_owned() });
            }
            untagged.push(line);
        }
    }

    /// One response, with the literals in it.
    async fn response(&mut self) -> Spoken<String> {
        let mut whole = self.line.read().await?;
        while let Some(size) = literal_size(&whole) {
            if size > LITERAL_BYTES_MAX || whole.len() > 2 * LITERAL_BYTES_MAX {
                return Err(format!("a literal of {size} bytes is more than was asked for"));
            }
            let mut bytes = vec![0; size];
            let stream = &mut self.line.stream;
            bounded(async { stream.read_exact(&mut bytes).await.map_err(|e| e.to_string()) }).await?;
            whole.push_str("\r\n");
            whole.push_str(&String::from_utf8_lossy(&bytes));
            whole.push_str(&self.line.read().await?);
        }
        Ok(whole)
    }
}

/// The size of the literal that a line announces at its end.
fn literal_size(line: &str) -> Option<usize> {
    let (_, size) = line.strip_suffix('}')?.rsplit_once('{')?;
    size.parse().ok()
}

/// A quoted string of IMAP.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Delivers a message to one recipient; returns the last reply.
///
/// # Errors
/// By the reply: 550 no such user, 4xx try again.
pub(crate) async fn deliver(address: &str, recipient: &str, message: &str) -> Result<String, AdminError> {
    let talk = async {
        let mut line = Line::connect(address).await?;
        let mut reply = lmtp_reply(&mut line).await?;
        let recipient = format!("RCPT TO:<{recipient}>");
        for command in ["LHLO localhost", "MAIL FROM:<postmaster@demo.test>", &recipient, "DATA"] {
            if !reply.starts_with(['2', '3']) {
                return Ok(reply);
            }
            line.write(format!("{command}\r\n").as_bytes()).await?;
            reply = lmtp_reply(&mut line).await?;
        }
        if reply.starts_with("354") {
            line.write(format!("{}\r\n.\r\n", message.replace("\r\n.", "\r\n..")).as_bytes()).await?;
            reply = lmtp_reply(&mut line).await?;
        }
        Ok(reply)
    };
    let reply: Spoken<String> = talk.await;
    let failed = |exit, why: &str| Err(AdminError::new(crate::code::DEMO, exit, format!("{recipient}: not delivered: {why}")));
    match reply {
        Ok(reply) if reply.starts_with("250") => Ok(reply),
        Ok(reply) if reply.starts_with("550") => failed(exit::NO_USER, &reply),
        Ok(reply) if reply.starts_with('4') => failed(exit::TRY_AGAIN, &reply),
        Ok(reply) => failed(exit::UNEXPECTED, &reply),
        Err(why) => failed(exit::UNAVAILABLE, &why),
    }
}

/// The last line of a reply.
async fn lmtp_reply(line: &mut Line) -> Spoken<String> {
    loop {
        let reply = line.read().await?;
        if reply.as_bytes().get(3) != Some(&b'-') {
            return Ok(reply);
        }
    }
}

/// The status of `GET path`; `None` when nobody answers within a second.
pub(crate) async fn http_status(address: &str, path: &str) -> Option<u16> {
    let ask = async {
        let mut line = Line::connect(address).await.ok()?;
        line.write(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
        line.read().await.ok()?.split(' ').nth(1)?.parse().ok()
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn literals_and_quotes() {
        assert_eq!(literal_size("* 1 FETCH (BODY[] {12}"), Some(12));
        assert_eq!(literal_size("* OK {x}"), None);
        assert_eq!(quoted("a\"b\\c"), "\"a\\\"b\\\\c\"");
    }

    /// A server that says `script` line by line: lines with `S:` are sent, lines with `C:` are awaited.
    async fn server(script: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut line = Line { stream: BufReader::new(stream) };
            for step in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
                match step.split_once(' ') {
                    Some(("S:", text)) => line.write(format!("{text}\r\n").as_bytes()).await.unwrap(),
                    Some(("C:", text)) => assert_eq!(line.read().await.unwrap(), text),
                    _ => unreachable!("{step}"),
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn imap_logs_in_appends_and_fetches() {
        let address = server(
            "S: * OK ready
             C: t1 LOGIN \"ann\" \"p\"
             S: t1 OK done
             C: t2 APPEND \"Load\" {2}
             S: + go on
             C: hi
             S: * 1 EXISTS
             S: t2 OK [APPENDUID 900 7] done
             C: t3 UID FETCH 7 (UID BODY[])
             S: * 1 FETCH (UID 7 BODY[] {4}
             S: hi
             S: )
             S: t3 OK done",
        )
        .await;
        let mut imap = Imap::login(&address, "ann", "p").await.unwrap();
        let appended = imap.append("Load", b"hi").await.unwrap();
        assert_eq!(appended.code("APPENDUID"), Some("900 7"));
        let fetched = imap.command("UID FETCH 7 (UID BODY[])").await.unwrap();
        assert!(fetched.is_ok());
        assert_eq!(fetched.untagged, ["* 1 FETCH (UID 7 BODY[] {4}\r\nhi\r\n)"]);
        assert!(imap.command("NOOP").await.is_err(), "the server has gone");
    }

    #[tokio::test]
    async fn lmtp_replies_become_exit_codes() {
        let head =
            "S: 220-hello\nS: 220 there\nC: LHLO localhost\nS: 250-n1\nS: 250 SIZE\nC: MAIL FROM:<postmaster@demo.test>\nS: 250 ok\n";
        let talk = |rest: &str| Box::leak(format!("{head}C: RCPT TO:<a@b>\n{rest}").into_boxed_str()) as &'static str;
        let good = server(talk("S: 250 ok\nC: DATA\nS: 354 go\nC: a\nC: ..b\nC: .\nS: 250 2.0.0 kept")).await;
        assert_eq!(deliver(&good, "a@b", "a\r\n.b").await.unwrap(), "250 2.0.0 kept");
        let unknown = server(talk("S: 550 5.1.1 unknown")).await;
        assert_eq!(deliver(&unknown, "a@b", "x").await.unwrap_err().exit, exit::NO_USER);
        let later = server(talk("S: 451 4.3.0 later")).await;
        assert_eq!(deliver(&later, "a@b", "x").await.unwrap_err().exit, exit::TRY_AGAIN);
    }

    #[tokio::test]
    async fn http_status_is_read() {
        let address = server("S: HTTP/1.1 503 Service Unavailable").await;
        assert_eq!(http_status(&address, "/readyz").await, Some(503));
        assert_eq!(http_status("127.0.0.1:1", "/readyz").await, None);
    }
}
