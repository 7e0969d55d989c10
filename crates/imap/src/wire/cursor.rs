//! A cursor over one framed command: the lexical rules of RFC 9051 section 9.

use std::borrow::Cow;

/// Why a command could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// Wrong syntax: `BAD` with this text.
    Bad(&'static str),
    /// Understood, and cannot be: `NO`, with a response code when it is not empty.
    No(&'static str, &'static str),
    /// A mailbox name that cannot exist; the command decides on the code.
    Name(&'static str),
}

/// Result of parsing.
pub(crate) type Parsed<T> = Result<T, ParseError>;

/// A position in a command.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

/// `ATOM-CHAR`
pub(crate) fn is_atom_char(b: u8) -> bool {
    b > b' ' && b < 0x7f && !b"(){%*\"\\]".contains(&b)
}

/// `ASTRING-CHAR`
pub(crate) fn is_astring_char(b: u8) -> bool {
    is_atom_char(b) || b == b']'
}

/// What a keyword is taken from before it is checked.
pub(crate) fn is_atom_or_bracket(b: u8) -> bool {
    is_astring_char(b)
}

/// `tag`: an astring without `+`.
pub(crate) fn is_tag_char(b: u8) -> bool {
    is_astring_char(b) && b != b'+'
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }
    pub(crate) fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }
    pub(crate) fn is_end(&self) -> bool {
        self.at >= self.data.len()
    }
    /// Takes `byte` when it is next.
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }
    /// Takes `word` when it is next, without regard to ASCII case.
    pub(crate) fn eat_word(&mut self, word: &str) -> bool {
        let next = self.rest().get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()));
        if next {
            self.at += word.len();
        }
        next
    }
    pub(crate) fn expect(&mut self, byte: u8, text: &'static str) -> Parsed<()> {
        if self.eat(byte) { Ok(()) } else { Err(ParseError::Bad(text)) }
    }
    /// One space.
    pub(crate) fn sp(&mut self) -> Parsed<()> {
        self.expect(b' ', "Missing space or argument")
    }
    /// The end of the command; trailing spaces are forgiven.
    pub(crate) fn end(&mut self) -> Parsed<()> {
        while self.eat(b' ') {}
        if self.is_end() { Ok(()) } else { Err(ParseError::Bad("Unexpected text at the end of the command")) }
    }
    /// The longest run of bytes that `accept` takes; may be empty.
    pub(crate) fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let n = rest.iter().position(|b| !accept(*b)).unwrap_or(rest.len());
        self.at += n;
        &rest[..n]
    }
    /// A non-empty run of ASCII bytes that `accept` takes.
    pub(crate) fn word(&mut self, accept: impl Fn(u8) -> bool, text: &'static str) -> Parsed<&'a str> {
        match std::str::from_utf8(self.take_while(|b| b.is_ascii() && accept(b))) {
            Ok(word) if !word.is_empty() => Ok(word),
            _ => Err(ParseError::Bad(text)),
        }
    }
    /// `atom`
    pub(crate) fn atom(&mut self) -> Parsed<&'a str> {
        self.word(is_atom_char, "Atom expected")
    }
    /// `number64`, at most 2^63 - 1.
    pub(crate) fn number64(&mut self) -> Parsed<u64> {
        let digits = self.word(|b| b.is_ascii_digit(), "Number expected")?;
        digits.parse().ok().filter(|n| i64::try_from(*n).is_ok()).ok_or(ParseError::Bad("Number out of range"))
    }
    /// `number`
    pub(crate) fn number(&mut self) -> Parsed<u32> {
        u32::try_from(self.number64()?).map_err(|_| ParseError::Bad("Number out of range"))
    }
    /// `nz-number`
    pub(crate) fn nz_number(&mut self) -> Parsed<u32> {
        match self.number()? {
            0 => Err(ParseError::Bad("Number must not be zero")),
            n => Ok(n),
        }
    }
    /// `quoted`, with UTF-8 allowed inside.
    pub(crate) fn quoted(&mut self) -> Parsed<Cow<'a, [u8]>> {
        self.expect(b'"', "Quoted string expected")?;
        let plain = self.take_while(|b| !matches!(b, b'"' | b'\\' | b'\r' | b'\n' | 0));
        if self.eat(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_vec();
        while self.eat(b'\\') {
            match self.peek() {
                Some(b @ (b'"' | b'\\')) => text.push(b),
                _ => return Err(ParseError::Bad("Only \\\" and \\\\ may be escaped in a quoted string")),
            }
            self.at += 1;
            text.extend_from_slice(self.take_while(|b| !matches!(b, b'"' | b'\\' | b'\r' | b'\n' | 0)));
        }
        self.expect(b'"', "Unterminated quoted string")?;
        Ok(Cow::Owned(text))
    }
    /// A literal that the framer has buffered into the command.
    fn literal(&mut self) -> Parsed<&'a [u8]> {
        const BAD: ParseError = ParseError::Bad("Malformed literal");
        self.eat(b'~');
        self.expect(b'{', "String expected")?;
        let size = usize::try_from(self.number64()?).map_err(|_| BAD)?;
        self.eat(b'+');
        if !(self.eat(b'}') && self.eat(b'\r') && self.eat(b'\n')) {
            return Err(BAD);
        }
        let bytes = self.rest().get(..size).ok_or(BAD)?;
        self.at += size;
        Ok(bytes)
    }
    /// `string`
    pub(crate) fn string(&mut self) -> Parsed<Cow<'a, [u8]>> {
        if self.peek() == Some(b'"') { self.quoted() } else { self.literal().map(Cow::Borrowed) }
    }
    /// `astring`
    pub(crate) fn astring(&mut self) -> Parsed<Cow<'a, [u8]>> {
        match self.peek() {
            Some(b'"' | b'{' | b'~') if self.peek() != Some(b'~') || self.rest().get(1) == Some(&b'{') => self.string(),
            _ => self.word(is_astring_char, "String expected").map(|word| Cow::Borrowed(word.as_bytes())),
        }
    }
    /// `nstring`
    pub(crate) fn nstring(&mut self) -> Parsed<Option<Cow<'a, [u8]>>> {
        if self.eat_word("NIL") { Ok(None) } else { self.string().map(Some) }
    }
    /// `list-mailbox`: an astring that may hold wildcards.
    pub(crate) fn list_mailbox(&mut self) -> Parsed<Cow<'a, [u8]>> {
        match self.peek() {
            Some(b'"' | b'{') => self.string(),
            _ => self.word(|b| is_astring_char(b) || b == b'%' || b == b'*', "Pattern expected").map(|word| Cow::Borrowed(word.as_bytes())),
        }
    }
    /// `astring` as UTF-8 text.
    pub(crate) fn text(&mut self) -> Parsed<String> {
        let bytes = self.astring()?.into_owned();
        String::from_utf8(bytes).map_err(|_| ParseError::Bad("String is not valid UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_in_their_three_forms() {
        let mut c = Cursor::new(b"ab]c \"q\\\"\\\\x\" {3}\r\na\r\n NIL ~x");
        assert_eq!(c.astring().unwrap().as_ref(), b"ab]c");
        c.sp().unwrap();
        assert_eq!(c.astring().unwrap().as_ref(), b"q\"\\x");
        c.sp().unwrap();
        assert_eq!(c.astring().unwrap().as_ref(), b"a\r\n");
        c.sp().unwrap();
        assert_eq!(c.nstring().unwrap(), None);
        c.sp().unwrap();
        assert_eq!(c.astring().unwrap().as_ref(), b"~x");
        c.end().unwrap();
    }

    #[test]
    fn hostile_strings_are_errors() {
        for bad in [&b"\"abc"[..], b"\"a\\n\"", b"{5}\r\nabc", b"{99999999999999999999}\r\n", b"", b"(", b"\"a\0\""] {
            assert!(Cursor::new(bad).astring().is_err(), "{bad:?}");
        }
        assert!(Cursor::new(b"4294967296").number().is_err());
        assert!(Cursor::new(b"9223372036854775808").number64().is_err());
        assert!(Cursor::new(b"0").nz_number().is_err());
    }
}
