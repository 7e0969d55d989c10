//! The pieces of an IMAP response: atoms, strings and lists (RFC 9051 section 4), and what FETCH and STATUS make of them.

use crate::Error;
use bytes::Bytes;

/// Deepest list that is read; BODYSTRUCTURE of a hostile mail is the deepest thing a server sends.
const DEPTH_MAX: usize = 200;

/// A piece of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// An atom, number, flag or section name such as `BODY[HEADER.FIELDS (Subject)]`.
    Atom(Bytes),
    /// The content of a quoted string or literal.
    Text(Bytes),
    /// A list.
    List(Vec<Token>),
}

impl Token {
    /// The bytes of an atom or string; empty for a list.
    pub fn bytes(&self) -> Bytes {
        match self {
            Token::Atom(b) | Token::Text(b) => b.clone(),
            Token::List(_) => Bytes::new(),
        }
    }

    /// An atom or string as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// An atom as a number.
    pub fn number(&self) -> Option<u64> {
        match self {
            Token::Atom(b) => std::str::from_utf8(b).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// The items of a list; empty for anything else.
    pub fn list(&self) -> &[Token] {
        match self {
            Token::List(items) => items,
            _ => &[],
        }
    }
}

/// Splits a response, whose literals are inside it, into its pieces.
///
/// # Errors
/// [`Error::Protocol`] for unbalanced lists, strings without an end and literals longer than the response.
pub fn tokens(line: &Bytes) -> Result<Vec<Token>, Error> {
    let mut reader = Reader { line, at: 0 };
    let items = reader.items(0)?;
    if reader.at < line.len() { Err(reader.error("closing bracket too many")) } else { Ok(items) }
}

struct Reader<'a> {
    line: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn error(&self, what: &str) -> Error {
        let shown = &self.line[..self.line.len().min(200)];
        Error::Protocol(format!("{what} at byte {} of {:?}", self.at, String::from_utf8_lossy(shown)))
    }

    /// Everything up to the end or a closing bracket.
    fn items(&mut self, depth: usize) -> Result<Vec<Token>, Error> {
        if depth > DEPTH_MAX {
            return Err(self.error("too deep a list"));
        }
        let mut items = Vec::new();
        while let Some(&byte) = self.line.get(self.at) {
            match byte {
                b' ' => self.at += 1,
                b')' => break,
                b'(' => {
                    self.at += 1;
                    let list = self.items(depth + 1)?;
                    if self.line.get(self.at) != Some(&b')') {
                        return Err(self.error("list without end"));
                    }
                    self.at += 1;
                    items.push(Token::List(list));
                }
                b'"' => items.push(self.quoted()?),
                b'{' => items.push(self.literal()?),
                b'~' if self.line.get(self.at + 1) == Some(&b'{') => {
                    self.at += 1;
                    items.push(self.literal()?);
                }
                _ => items.push(self.atom()?),
            }
        }
        Ok(items)
    }

    fn quoted(&mut self) -> Result<Token, Error> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            match self.line.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Token::Text(text.into()));
                }
                Some(b'\\') => {
                    text.extend(self.line.get(self.at + 1));
                    self.at += 2;
                }
                Some(&byte) => {
                    text.push(byte);
                    self.at += 1;
                }
                None => return Err(self.error("string without end")),
            }
        }
    }

    fn literal(&mut self) -> Result<Token, Error> {
        let rest = &self.line[self.at..];
        let end = memchr::memchr(b'\n', rest).ok_or_else(|| self.error("literal without end"))?;
        let length = literal_bytes(&rest[..end]).ok_or_else(|| self.error("literal"))?;
        let start = self.at + end + 1;
        if self.line.len() - start < length {
            return Err(self.error("literal longer than the response"));
        }
        self.at = start + length;
        Ok(Token::Text(self.line.slice(start..self.at)))
    }

    /// An atom ends at a space or bracket, except inside `[…]`, as in `BODY[HEADER.FIELDS (To)]<0>`.
    fn atom(&mut self) -> Result<Token, Error> {
        let start = self.at;
        while let Some(&byte) = self.line.get(self.at) {
            match byte {
                b' ' | b'(' | b')' => break,
                b'[' => {
                    let end = memchr::memchr(b']', &self.line[self.at..]).ok_or_else(|| self.error("section without end"))?;
                    self.at += end + 1;
                }
                _ => self.at += 1,
            }
        }
        Ok(Token::Atom(self.line.slice(start..self.at)))
    }
}

/// The length that the end of a line announces: `{n}`, perhaps with a CR behind it.
pub(crate) fn literal_bytes(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let inner = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let digits = &inner[open + 1..];
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What a FETCH response tells of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Sequence number.
    pub seq: u32,
    /// UID, when told.
    pub uid: Option<u32>,
    /// Flags, when told.
    pub flags: Option<Vec<String>>,
    /// The first body section told, whichever it is.
    pub body: Option<Bytes>,
    /// All items with their names in capitals.
    pub items: Vec<(String, Token)>,
}

/// Reads `* n FETCH (…)`; `None` when the response is something else.
///
/// # Errors
/// [`Error::Protocol`] when it is a FETCH response that cannot be read.
pub fn fetched(line: &Bytes) -> Result<Option<Fetched>, Error> {
    let Some((seq, keyword, rest)) = numbered(line) else { return Ok(None) };
    if !keyword.eq_ignore_ascii_case("FETCH") {
        return Ok(None);
    }
    let list = tokens(&rest)?;
    let bad = || Error::Protocol(format!("FETCH response of message {seq}"));
    let [Token::List(pairs)] = list.as_slice() else { return Err(bad()) };
    let mut message = Fetched { seq, ..Fetched::default() };
    for pair in pairs.chunks(2) {
        let [name, value] = pair else { return Err(bad()) };
        let name = name.text().to_ascii_uppercase();
        match name.as_str() {
            "UID" => message.uid = Some(value.number().and_then(|n| u32::try_from(n).ok()).ok_or_else(bad)?),
            "FLAGS" => message.flags = Some(value.list().iter().map(Token::text).collect()),
            _ if name.starts_with("BODY[") || name.starts_with("BINARY[") => {
                message.body.get_or_insert_with(|| value.bytes());
            }
            _ => {}
        }
        message.items.push((name, value.clone()));
    }
    Ok(Some(message))
}

/// Splits `* 12 WORD rest`.
pub(crate) fn numbered(line: &Bytes) -> Option<(u32, &str, Bytes)> {
    let rest = line.strip_prefix(b"* ")?;
    let space = memchr::memchr(b' ', rest)?;
    let number = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    let rest = &rest[space + 1..];
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let word = std::str::from_utf8(&rest[..end]).ok()?;
    let tail = line.slice_ref(&rest[(end + 1).min(rest.len())..]);
    Some((number, word, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_fetch_response_is_read_with_its_literals() {
        let text =
            line("* 7 FETCH (UID 9 FLAGS (\\Seen \"x\") BODY[HEADER.FIELDS (TO X)] {5}\r\na)\"\r\n BODY[1]<0> ~{2}\r\n\0\n RFC822.SIZE 4)");
        let message = fetched(&text).unwrap().unwrap();
        assert_eq!((message.seq, message.uid), (7, Some(9)));
        assert_eq!(message.flags.unwrap(), ["\\Seen", "x"]);
        assert_eq!(message.body.unwrap(), &b"a)\"\r\n"[..]);
        assert_eq!(message.items[3], ("BODY[1]<0>".into(), Token::Text(Bytes::from_static(b"\0\n"))));
        assert_eq!(message.items[4].1.number(), Some(4));
    }

    #[test]
    fn other_responses_are_no_fetch() {
        assert_eq!(fetched(&line("* 3 EXISTS")).unwrap(), None);
        assert_eq!(fetched(&line("* OK [UIDNEXT 4] (hm")).unwrap(), None);
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        for text in ["(a", "a)", "\"a", "{3}\r\nab", "{x}", "a[b"] {
            assert!(tokens(&line(text)).is_err(), "{text}");
        }
        assert!(tokens(&Bytes::from("(".repeat(1000))).is_err());
        assert!(fetched(&line("* 3 FETCH (UID)")).is_err());
    }
}
