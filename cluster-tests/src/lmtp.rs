//! A small LMTP client (RFC 2033): one reply per recipient, and bytes go as they are but for the dots.

use crate::Error;
use bytes::BytesMut;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Largest reply, bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Lmtp {
    stream: TcpStream,
    input: BytesMut,
    /// How long a whole delivery may take, 30 s at first.
    pub patience: Duration,
    /// A client that stops so long in the middle of DATA.
    pub stops: Option<Duration>,
}

impl Lmtp {
    /// Connects and says LHLO.
    ///
    /// # Errors
    /// [`Error::Refused`] for a 4xx or 5xx, [`Error::Io`] and [`Error::Timeout`] when there is no answer within 5 s.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let wait = Duration::from_secs(5);
        let stream = tokio::time::timeout(wait, TcpStream::connect(address)).await.map_err(|_| Error::Timeout(wait))??;
        Self::over(stream).await
    }

    /// Takes a connection that stands and says LHLO.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn over(stream: TcpStream) -> Result<Self, Error> {
        let wait = Duration::from_secs(5);
        let greeted = async {
            stream.set_nodelay(true)?;
            let mut lmtp = Self { stream, input: BytesMut::new(), patience: Duration::from_secs(30), stops: None };
            lmtp.expect(b'2').await?;
            lmtp.stream.write_all(b"LHLO tests.example\r\n").await?;
            lmtp.expect(b'2').await?;
            Ok(lmtp)
        };
        tokio::time::timeout(wait, greeted).await.map_err(|_| Error::Timeout(wait))?
    }

    /// Delivers a message; one result per recipient, in their order. The message should end in CRLF: DATA cannot carry one that
    /// does not, so a CRLF is added.
    ///
    /// # Errors
    /// As [`Self::connect`], for the whole transaction; a single recipient's refusal is in its own result.
    pub async fn deliver(&mut self, from: &str, to: &[&str], message: &[u8]) -> Result<Vec<Result<String, Error>>, Error> {
        let wait = self.patience;
        tokio::time::timeout(wait, self.transaction(from, to, message)).await.map_err(|_| Error::Timeout(wait))?
    }

    async fn transaction(&mut self, from: &str, to: &[&str], message: &[u8]) -> Result<Vec<Result<String, Error>>, Error> {
        let mut envelope = format!("MAIL FROM:<{from}>\r\n");
        for recipient in to {
            envelope.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        envelope.push_str("DATA\r\n");
        self.stream.write_all(envelope.as_bytes()).await?;
        let mail = self.expect(b'2').await;
        let mut results = Vec::with_capacity(to.len());
        for _ in to {
            results.push(self.expect(b'2').await);
        }
        if let Err(error) = self.expect(b'3').await {
            // Pipelined: what was refused first is what matters; nothing was delivered.
            mail?;
            return if results.iter().all(Result::is_err) { Ok(results) } else { Err(error) };
        }
        let data = dotted(message);
        let (first, rest) = data.split_at(if self.stops.is_some() { data.len() / 2 } else { 0 });
        self.stream.write_all(first).await?;
        tokio::time::sleep(self.stops.unwrap_or_default()).await;
        self.stream.write_all(rest).await?;
        for result in results.iter_mut().filter(|r| r.is_ok()) {
            *result = match self.expect(b'2').await {
                Err(error) if error.is_fatal() => return Err(error),
                other => other,
            };
        }
        Ok(results)
    }

    /// Reads a reply; its text when the first digit is the wanted one.
    async fn expect(&mut self, digit: u8) -> Result<String, Error> {
        let reply = self.read_reply().await?;
        match reply.as_bytes().first() {
            Some(&first) if first == digit => Ok(reply),
            Some(b'4' | b'5') => Err(Error::Refused(reply)),
            _ => Err(Error::Protocol(format!("reply {reply:?}"))),
        }
    }

    async fn read_reply(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        loop {
            while let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                let line = self.input.split_to(end + 2);
                text.push_str(&String::from_utf8_lossy(&line[..end]));
                let more = line.get(3) == Some(&b'-');
                if !more {
                    return Ok(text);
                }
                text.push('\n');
            }
            if self.input.len() + text.len() > REPLY_BYTES_MAX {
                return Err(Error::Protocol("endless reply".to_owned()));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// The bytes of DATA: a dot before each line that begins with one (RFC 5321 section 4.5.2), and the final dot. Only CRLF ends a line.
fn dotted(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 50 + 8);
    let mut rest = message;
    loop {
        if rest.first() == Some(&b'.') {
            out.push(b'.');
        }
        match memchr::memmem::find(rest, b"\r\n") {
            Some(end) => {
                out.extend_from_slice(&rest[..end + 2]);
                rest = &rest[end + 2..];
            }
            None => break,
        }
    }
    out.extend_from_slice(rest);
    if !rest.is_empty() {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_stuffed_after_crlf_alone() {
        assert_eq!(dotted(b".a\r\n..b\r\n\n.c\r.d\r\n"), b"..a\r\n...b\r\n\n.c\r.d\r\n.\r\n");
        assert_eq!(dotted(b""), b".\r\n");
        assert_eq!(dotted(b"no end"), b"no end\r\n.\r\n");
    }
}
