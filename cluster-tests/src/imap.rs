//! A small IMAP client that trusts nothing: tags must match, lines must end in CRLF, literals must be whole. It keeps the
//! untagged responses of each command, and never repeats a command by itself.

use crate::Error;
use crate::token::{Fetched, Token, fetched, literal_bytes, numbered, tokens};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Largest response that is read, literals included, bytes.
const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Imap {
    stream: TcpStream,
    input: BytesMut,
    output: Vec<u8>,
    tag: u32,
    /// How long a whole command may take, 30 s at first.
    pub patience: Duration,
    /// Responses that came unasked since the last command, in [`Imap::idle_wait`] or before a reply was awaited.
    pub unasked: Vec<Bytes>,
    /// A client as slow as this: it rests so long after each read.
    pub rest: Option<Duration>,
    /// The longest wait for bytes since this was last set to `None`.
    pub waited: Option<(Instant, Instant)>,
}

/// What came of a command that was answered OK.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Text behind `OK `.
    pub text: String,
    /// Untagged responses, whole, without their final CRLF.
    pub untagged: Vec<Bytes>,
}

/// A mailbox as SELECT, EXAMINE or STATUS tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mailbox {
    /// Messages.
    pub exists: u32,
    /// UIDVALIDITY.
    pub uidvalidity: u32,
    /// UIDNEXT.
    pub uidnext: u32,
}

/// What the OK of an APPEND tells (RFC 4315).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// UIDVALIDITY.
    pub uidvalidity: u32,
    /// The message's UID.
    pub uid: u32,
}

impl Reply {
    /// The FETCH responses.
    ///
    /// # Errors
    /// [`Error::Protocol`] when one cannot be read.
    pub fn fetched(&self) -> Result<Vec<Fetched>, Error> {
        self.untagged.iter().filter_map(|line| fetched(line).transpose()).collect()
    }

    /// The value of a response code, such as `UIDNEXT` in `* OK [UIDNEXT 7]` or in the tagged text; empty for one without value.
    pub fn code(&self, name: &str) -> Option<String> {
        let untagged = self.untagged.iter().filter_map(|line| code_in(&String::from_utf8_lossy(line.strip_prefix(b"* OK ")?), name));
        code_in(&self.text, name).or_else(|| untagged.last())
    }

    /// The number of the last `* n WORD`, such as EXISTS.
    pub fn number(&self, word: &str) -> Option<u32> {
        let numbers = self.untagged.iter().filter_map(|line| numbered(line).filter(|(_, w, _)| w.eq_ignore_ascii_case(word)));
        numbers.last().map(|(n, ..)| n)
    }

    /// The pieces of the responses `* WORD …`, such as LIST or SEARCH.
    ///
    /// # Errors
    /// [`Error::Protocol`] when one cannot be read.
    pub fn data(&self, word: &str) -> Result<Vec<Vec<Token>>, Error> {
        let prefix = format!("* {word}");
        let ours = |line: &&Bytes| {
            let end = line.get(prefix.len());
            line.len() >= prefix.len() && line[..prefix.len()].eq_ignore_ascii_case(prefix.as_bytes()) && matches!(end, None | Some(b' '))
        };
        self.untagged.iter().filter(ours).map(|line| tokens(&line.slice(prefix.len()..))).collect()
    }
}

fn code_in(text: &str, name: &str) -> Option<String> {
    let inner = text.strip_prefix('[')?.split_once(']')?.0;
    let (key, value) = inner.split_once(' ').unwrap_or((inner, ""));
    key.eq_ignore_ascii_case(name).then(|| value.to_owned())
}

fn number<T: std::str::FromStr>(text: Option<String>, what: &str) -> Result<T, Error> {
    let parsed = text.as_deref().and_then(|t| t.parse().ok());
    parsed.ok_or_else(|| Error::Protocol(format!("{what} missing or no number: {text:?}")))
}

/// A string as an IMAP quoted string.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Imap {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// [`Error::Refused`] when the greeting is BYE; [`Error::Io`] and [`Error::Timeout`] when there is none within 5 s.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(address, None).await
    }

    /// Connects with a receive buffer of so many bytes, so that a slow reader is felt at the other end.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_with(address: &str, buffer: Option<u32>) -> Result<Self, Error> {
        let wait = Duration::from_secs(5);
        let connecting = async {
            let to = address.parse().map_err(|_| Error::Protocol(format!("address {address:?}")));
            match buffer {
                Some(bytes) => {
                    let socket = TcpSocket::new_v4()?;
                    socket.set_recv_buffer_size(bytes)?;
                    Ok::<_, Error>(socket.connect(to?).await?)
                }
                None => Ok(TcpStream::connect(address).await?),
            }
        };
        let stream = tokio::time::timeout(wait, connecting).await.map_err(|_| Error::Timeout(wait))??;
        Self::over(stream).await
    }

    /// Takes a connection that stands and reads the greeting.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn over(stream: TcpStream) -> Result<Self, Error> {
        let wait = Duration::from_secs(5);
        let greeted = async {
            stream.set_nodelay(true)?;
            let (input, output, patience) = (BytesMut::with_capacity(16 * 1024), Vec::new(), Duration::from_secs(30));
            let mut imap = Self { stream, input, output, tag: 0, patience, unasked: Vec::new(), rest: None, waited: None };
            let greeting = imap.response().await?;
            match greeting.get(..5) {
                Some(b"* OK ") => Ok(imap),
                Some(b"* BYE") => Err(Error::Refused(String::from_utf8_lossy(&greeting[2..]).into_owned())),
                _ => Err(Error::Protocol(format!("greeting {greeting:?}"))),
            }
        };
        tokio::time::timeout(wait, greeted).await.map_err(|_| Error::Timeout(wait))?
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// As [`Self::connect`] and [`Self::command`].
    pub async fn login(address: &str, user: &str, password: &str) -> Result<Self, Error> {
        let mut imap = Self::connect(address).await?;
        imap.command(&format!("LOGIN {} {}", quote(user), quote(password))).await?;
        Ok(imap)
    }

    /// Sends a command without literals and waits for its tagged reply.
    ///
    /// # Errors
    /// [`Error::Refused`] for NO and BAD, with the text behind the tag; after any other error the connection is of no more use.
    pub async fn command(&mut self, command: &str) -> Result<Reply, Error> {
        self.send(command).await?;
        self.reply().await
    }

    /// Sends a command and does not wait; [`Self::reply`] must follow.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Timeout`].
    pub async fn send(&mut self, command: &str) -> Result<(), Error> {
        self.start();
        self.output.extend_from_slice(command.as_bytes());
        self.flush().await
    }

    /// Sends an APPEND with a non-synchronising literal (`literal8` when the message holds NUL) and does not wait.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Timeout`].
    pub async fn send_append(&mut self, mailbox: &str, flags: &str, message: &[u8]) -> Result<(), Error> {
        self.start();
        let tilde = if memchr::memchr(0, message).is_some() { "~" } else { "" };
        let flags = if flags.is_empty() { String::new() } else { format!("({flags}) ") };
        let head = format!("APPEND {} {flags}{tilde}{{{}+}}\r\n", quote(mailbox), message.len());
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(message);
        self.flush().await
    }

    fn start(&mut self) {
        self.tag += 1;
        self.output.clear();
        self.output.extend_from_slice(format!("t{} ", self.tag).as_bytes());
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.output.extend_from_slice(b"\r\n");
        let writing = self.stream.write_all(&self.output);
        tokio::time::timeout(self.patience, writing).await.map_err(|_| Error::Timeout(self.patience))??;
        Ok(())
    }

    /// Waits for the tagged reply of the last command.
    ///
    /// # Errors
    /// As [`Self::command`]. An untagged BYE outside LOGOUT is [`Error::Io`]: the server gave the session up.
    pub async fn reply(&mut self) -> Result<Reply, Error> {
        let (wait, tag) = (self.patience, format!("t{} ", self.tag));
        let reading = async {
            let mut untagged = std::mem::take(&mut self.unasked);
            loop {
                let line = self.response().await?;
                if line.starts_with(b"* ") {
                    untagged.push(line);
                } else if let Some(rest) = line.strip_prefix(tag.as_bytes()) {
                    let text = String::from_utf8_lossy(rest).into_owned();
                    return match text.split_once(' ') {
                        Some(("OK", text)) => Ok(Reply { text: text.to_owned(), untagged }),
                        Some(("NO" | "BAD", _)) => Err(Error::Refused(text)),
                        _ => Err(Error::Protocol(format!("reply {text:?}"))),
                    };
                } else {
                    return Err(Error::Protocol(format!("awaiting {tag:?}, got {:?}", String::from_utf8_lossy(&line))));
                }
            }
        };
        tokio::time::timeout(wait, reading).await.map_err(|_| Error::Timeout(wait))?
    }

    /// Appends a message.
    ///
    /// # Errors
    /// As [`Self::command`]; [`Error::Protocol`] when the OK has no APPENDUID.
    pub async fn append(&mut self, mailbox: &str, flags: &str, message: &[u8]) -> Result<Appended, Error> {
        self.send_append(mailbox, flags, message).await?;
        self.append_reply().await
    }

    /// Waits for the reply of [`Self::send_append`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn append_reply(&mut self) -> Result<Appended, Error> {
        let reply = self.reply().await?;
        let code = reply.code("APPENDUID").ok_or_else(|| Error::Protocol(format!("no APPENDUID in {:?}", reply.text)))?;
        let (validity, uid) = code.split_once(' ').unwrap_or(("", &code));
        Ok(Appended { uidvalidity: number(Some(validity.to_owned()), "APPENDUID")?, uid: number(Some(uid.to_owned()), "APPENDUID")? })
    }

    /// SELECT, or EXAMINE when `read_only`.
    ///
    /// # Errors
    /// As [`Self::command`]; [`Error::Protocol`] when EXISTS, UIDVALIDITY or UIDNEXT is not told.
    pub async fn select(&mut self, mailbox: &str, read_only: bool) -> Result<Mailbox, Error> {
        let verb = if read_only { "EXAMINE" } else { "SELECT" };
        let reply = self.command(&format!("{verb} {}", quote(mailbox))).await?;
        let exists = reply.number("EXISTS").ok_or_else(|| Error::Protocol("no EXISTS".to_owned()))?;
        Ok(Mailbox {
            exists,
            uidvalidity: number(reply.code("UIDVALIDITY"), "UIDVALIDITY")?,
            uidnext: number(reply.code("UIDNEXT"), "UIDNEXT")?,
        })
    }

    /// STATUS (MESSAGES UIDNEXT UIDVALIDITY).
    ///
    /// # Errors
    /// As [`Self::command`]; [`Error::Protocol`] when an item is not told.
    pub async fn status(&mut self, mailbox: &str) -> Result<Mailbox, Error> {
        self.send(&format!("STATUS {} (MESSAGES UIDNEXT UIDVALIDITY)", quote(mailbox))).await?;
        self.status_reply().await
    }

    /// Waits for the reply of a STATUS that was sent.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn status_reply(&mut self) -> Result<Mailbox, Error> {
        status_in(&self.reply().await?)
    }

    /// FETCH by UIDs, such as `1:*` and `(FLAGS)`.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn uid_fetch(&mut self, uids: &str, items: &str) -> Result<Vec<Fetched>, Error> {
        self.command(&format!("UID FETCH {uids} {items}")).await?.fetched()
    }

    /// Starts IDLE and waits for the `+`.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn idle(&mut self) -> Result<(), Error> {
        self.send("IDLE").await?;
        let wait = self.patience;
        let reading = async {
            loop {
                let line = self.response().await?;
                match line.first() {
                    Some(b'+') => return Ok(()),
                    Some(b'*') => self.unasked.push(line),
                    _ => return Err(Error::Refused(String::from_utf8_lossy(&line).into_owned())),
                }
            }
        };
        tokio::time::timeout(wait, reading).await.map_err(|_| Error::Timeout(wait))?
    }

    /// Waits for one untagged response while idle.
    ///
    /// # Errors
    /// [`Error::Timeout`] when none comes within `wait`; the connection stays usable then.
    pub async fn idle_wait(&mut self, wait: Duration) -> Result<Bytes, Error> {
        tokio::time::timeout(wait, self.response()).await.map_err(|_| Error::Timeout(wait))?
    }

    /// Ends IDLE.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn idle_done(&mut self) -> Result<Reply, Error> {
        self.stream.write_all(b"DONE\r\n").await?;
        self.reply().await
    }

    /// LOGOUT. The connection is of no more use afterwards, whatever came of it.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn logout(mut self) -> Result<(), Error> {
        self.send("LOGOUT").await?;
        self.reply().await.map(|_| ())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// One whole response, without its final CRLF. What was read is kept when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] when the connection ends, [`Error::Protocol`] for what is no response.
    pub async fn response(&mut self) -> Result<Bytes, Error> {
        let (mut start, mut seen) = (0, 0);
        loop {
            if let Some(found) = memchr::memchr(b'\n', &self.input[seen..]) {
                let end = seen + found;
                if end == start || self.input[end - 1] != b'\r' {
                    return Err(Error::Protocol("line without CR".to_owned()));
                }
                let Some(literal) = literal_bytes(&self.input[start..end]).filter(|_| takes_literals(&self.input)) else {
                    let mut line = self.input.split_to(end + 1);
                    line.truncate(end - 1);
                    return Ok(line.freeze());
                };
                start = end + 1 + literal;
                if start > RESPONSE_BYTES_MAX {
                    return Err(Error::Protocol(format!("response of {start} bytes")));
                }
                self.input.reserve(start.saturating_sub(self.input.len()) + 256);
                while self.input.len() < start {
                    self.fill().await?;
                }
                seen = start;
            } else {
                seen = self.input.len();
                if seen > RESPONSE_BYTES_MAX {
                    return Err(Error::Protocol(format!("line of {seen} bytes")));
                }
                self.fill().await?;
            }
        }
    }

    async fn fill(&mut self) -> Result<(), Error> {
        self.input.reserve(16 * 1024);
        let began = Instant::now();
        let read = self.stream.read_buf(&mut self.input).await?;
        let ended = Instant::now();
        if self.waited.is_none_or(|(from, to)| to - from < ended - began) {
            self.waited = Some((began, ended));
        }
        if let Some(rest) = self.rest {
            tokio::time::sleep(rest).await;
        }
        match read {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}

/// Human-readable text after OK, NO, BAD or BYE may end in `{5}` and mean no literal.
fn takes_literals(response: &[u8]) -> bool {
    let prose = |word: &[u8]| response.get(2..2 + word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word));
    response.starts_with(b"* ") && ![&b"OK "[..], b"NO ", b"BAD ", b"BYE "].iter().any(|word| prose(word))
}

fn status_in(reply: &Reply) -> Result<Mailbox, Error> {
    let data = reply.data("STATUS")?;
    let items = data.last().and_then(|tokens| tokens.last()).map(Token::list).unwrap_or_default();
    let find = |name: &str| {
        let pair = items.chunks(2).find(|pair| pair[0].text().eq_ignore_ascii_case(name));
        let value = pair.and_then(|pair| pair.get(1)?.number()).and_then(|n| u32::try_from(n).ok());
        value.ok_or_else(|| Error::Protocol(format!("STATUS without {name}")))
    };
    Ok(Mailbox { exists: find("MESSAGES")?, uidvalidity: find("UIDVALIDITY")?, uidnext: find("UIDNEXT")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that says its lines whatever it is told.
    async fn says(text: &'static [u8]) -> Imap {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for chunk in text.chunks(7) {
                stream.write_all(chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let mut imap = Imap::connect(&address).await.unwrap();
        imap.patience = Duration::from_millis(300);
        imap
    }

    #[tokio::test]
    async fn replies_come_with_their_untagged_responses() {
        let mut imap = says(
            b"* OK hi\r\n* 3 EXISTS\r\n* OK [UIDVALIDITY 9] ends like a literal {4}\r\n* OK [UIDNEXT 5] n\r\nt1 OK [READ-ONLY] done\r\n\
              * 1 FETCH (UID 4 BODY[] {4}\r\nt2 x)\r\nt2 OK done\r\nt3 OK [APPENDUID 9 6] done\r\nt4 NO [UNAVAILABLE] later\r\n",
        )
        .await;
        assert_eq!(imap.select("INBOX", true).await.unwrap(), Mailbox { exists: 3, uidvalidity: 9, uidnext: 5 });
        assert_eq!(imap.uid_fetch("4", "BODY[]").await.unwrap()[0].body.as_ref().unwrap(), "t2 x");
        assert_eq!(imap.append("INBOX", "", b"x").await.unwrap(), Appended { uidvalidity: 9, uid: 6 });
        let error = imap.command("NOOP").await.unwrap_err();
        assert!(error.is_unknown() && !error.is_fatal());
        assert!(matches!(imap.command("NOOP").await, Err(Error::Timeout(_))));
    }

    #[tokio::test]
    async fn foreign_tags_and_bare_line_feeds_are_errors() {
        let mut imap = says(b"* OK hi\r\nt7 OK done\r\n").await;
        assert!(matches!(imap.command("NOOP").await, Err(Error::Protocol(_))));
        let mut imap = says(b"* OK hi\r\n* 1 EXISTS\nt1 OK done\r\n").await;
        assert!(matches!(imap.command("NOOP").await, Err(Error::Protocol(_))));
    }

    #[tokio::test]
    async fn status_is_read_by_name() {
        let mut imap = says(b"* OK hi\r\n* STATUS \"a b\" (UIDNEXT 4 MESSAGES 2 UIDVALIDITY 8)\r\nt1 OK done\r\n").await;
        assert_eq!(imap.status("a b").await.unwrap(), Mailbox { exists: 2, uidvalidity: 8, uidnext: 4 });
    }
}
