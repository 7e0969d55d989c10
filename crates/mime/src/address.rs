//! Address lists (RFC 5322 section 3.4, obsolete forms of 4.4 included) read in one pass, encoded words left as they are.

use crate::content::Scanner;

/// An ENVELOPE or BODYSTRUCTURE tells at most this many addresses and group marks; the rest is left out. A two-byte address
/// becomes thirty bytes on the wire, so that a hostile header would otherwise grow to a gigabyte.
pub const ADDRESSES_MAX: usize = 600_000;

/// Stands for the part that a malformed address lacks: NIL there would mean a group. Clients know these names.
const MISSING_MAILBOX: &[u8] = b"MISSING_MAILBOX";
const MISSING_DOMAIN: &[u8] = b"MISSING_DOMAIN";

/// What an address list is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressItem<'a> {
    /// A mailbox.
    Mailbox {
        /// Display name; a comment stands in for one that is absent.
        name: Option<&'a [u8]>,
        /// Obsolete source route, such as `@a,@b`.
        route: Option<&'a [u8]>,
        /// Local part, unquoted.
        local: &'a [u8],
        /// Domain.
        domain: &'a [u8],
    },
    /// A group begins; its name.
    GroupStart(&'a [u8]),
    /// The group ends.
    GroupEnd,
}

/// Calls `emit` for each item of the list in a field's value, until it returns false. Each group that was begun is ended unless
/// `emit` stopped before. Linear in `value`.
pub fn parse_addresses(value: &[u8], emit: impl FnMut(AddressItem<'_>) -> bool) {
    let mut parser = Parser { input: Scanner { rest: value }, emit, in_group: false, words: Words::default() };
    // The error is `emit`'s wish to stop.
    let _ = parser.list();
}

/// `emit` asked to stop.
struct Stopped;

/// What was read of an address so far; reused from address to address.
#[derive(Default)]
struct Words {
    /// All words, as they would be displayed.
    phrase: Vec<u8>,
    /// The last run of words joined by dots: the local part if an at sign follows.
    run: Vec<u8>,
    /// Length of `phrase` before that run.
    before_run: usize,
    /// A dot was last.
    after_dot: bool,
    /// The last comment.
    comment: Vec<u8>,
    route: Vec<u8>,
    local: Vec<u8>,
    domain: Vec<u8>,
}

impl Words {
    fn clear(&mut self) {
        for buffer in [&mut self.phrase, &mut self.run, &mut self.comment, &mut self.route, &mut self.local, &mut self.domain] {
            buffer.clear();
        }
        self.before_run = 0;
        self.after_dot = false;
    }

    /// Adds a word, which blanks or comments precede if `spaced`.
    fn add(&mut self, word: &[u8], spaced: bool) {
        let is_dot = word == b".";
        if spaced && !is_dot && !self.after_dot {
            self.before_run = self.phrase.len();
            self.run.clear();
        }
        if spaced && !self.phrase.is_empty() {
            self.phrase.push(b' ');
        }
        self.phrase.extend_from_slice(word);
        self.run.extend_from_slice(word);
        self.after_dot = is_dot;
    }
}

struct Parser<'m, F> {
    input: Scanner<'m>,
    emit: F,
    in_group: bool,
    words: Words,
}

impl<'m, F: FnMut(AddressItem<'_>) -> bool> Parser<'m, F> {
    fn list(&mut self) -> Result<(), Stopped> {
        loop {
            self.words.clear();
            let spaced = self.skip();
            let Some(&byte) = self.input.rest.first() else { break };
            match byte {
                b',' => {
                    self.input.take(b',');
                }
                b';' => {
                    self.input.take(b';');
                    self.end_group()?;
                }
                _ => self.address(spaced)?,
            }
        }
        self.end_group()
    }

    fn emit(&mut self, item: AddressItem<'_>) -> Result<(), Stopped> {
        if (self.emit)(item) { Ok(()) } else { Err(Stopped) }
    }

    fn end_group(&mut self) -> Result<(), Stopped> {
        if !std::mem::take(&mut self.in_group) {
            return Ok(());
        }
        self.emit(AddressItem::GroupEnd)
    }

    /// Reads one address, or a group's beginning. Takes at least one byte.
    fn address(&mut self, mut spaced: bool) -> Result<(), Stopped> {
        loop {
            let Some((&byte, rest)) = self.input.rest.split_first() else { return self.bare() };
            match byte {
                b',' | b';' => return self.bare(),
                b'<' => {
                    self.input.rest = rest;
                    return self.angle();
                }
                b'@' => {
                    self.input.rest = rest;
                    return self.domain_after_words();
                }
                b':' => {
                    self.input.rest = rest;
                    return self.begin_group();
                }
                b'"' => {
                    self.input.rest = rest;
                    let mut word = Vec::new();
                    self.input.quoted(&mut word);
                    self.words.add(&word, spaced);
                }
                // Stray closing marks.
                b'>' | b')' => self.input.rest = rest,
                _ => {
                    let word = self.atom();
                    self.words.add(word, spaced);
                }
            }
            spaced = self.skip();
        }
    }

    /// A dot, or everything up to a special character. Brackets and backslashes count as ordinary.
    fn atom(&mut self) -> &'m [u8] {
        let is_end =
            |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'"' | b'.');
        let length = self.input.rest.iter().position(is_end).unwrap_or(self.input.rest.len());
        // Of the special characters, only the dot comes here.
        let (word, rest) = self.input.rest.split_at(length.max(1).min(self.input.rest.len()));
        self.input.rest = rest;
        word
    }

    /// Skips blanks and comments, and keeps the last comment. True when there were any.
    fn skip(&mut self) -> bool {
        let before = self.input.rest;
        self.input.skip_cfws();
        let skipped = &before[..before.len() - self.input.rest.len()];
        if let Some(start) = memchr::memchr(b'(', skipped) {
            self.words.comment = comment_text(&skipped[start..]);
        }
        !skipped.is_empty()
    }

    /// Words without an at sign.
    fn bare(&mut self) -> Result<(), Stopped> {
        if self.words.phrase.is_empty() {
            return Ok(());
        }
        let local = std::mem::take(&mut self.words.phrase);
        self.words.local = local;
        self.mailbox()
    }

    /// The at sign of an address without angle brackets was taken.
    fn domain_after_words(&mut self) -> Result<(), Stopped> {
        self.domain();
        self.skip();
        if self.input.rest.starts_with(b"<") {
            // What looks like an address is the display name of another: `a@b <a@b>`.
            self.words.phrase.push(b'@');
            let domain = std::mem::take(&mut self.words.domain);
            self.words.phrase.extend_from_slice(&domain);
            self.input.take(b'<');
            return self.angle();
        }
        self.words.local = std::mem::take(&mut self.words.run);
        self.words.phrase.truncate(self.words.before_run);
        self.mailbox()
    }

    /// The opening angle bracket was taken; the phrase is the display name.
    fn angle(&mut self) -> Result<(), Stopped> {
        self.skip();
        if self.input.rest.starts_with(b"@") {
            self.route();
        }
        loop {
            self.skip();
            let Some((&byte, rest)) = self.input.rest.split_first() else { break };
            match byte {
                b'>' | b',' | b';' => break,
                b'@' => {
                    self.input.rest = rest;
                    self.domain();
                }
                b'"' => {
                    self.input.rest = rest;
                    self.input.quoted(&mut self.words.local);
                }
                b'<' | b')' | b':' => self.input.rest = rest,
                _ => {
                    let word = self.atom();
                    self.words.local.extend_from_slice(word);
                }
            }
        }
        self.input.take(b'>');
        self.words.comment.clear();
        self.skip();
        self.mailbox()
    }

    /// `@a,@b:` up to the colon, without blanks. Without a colon, the first domain is the address's.
    fn route(&mut self) {
        while let Some((&byte, rest)) = self.input.rest.split_first() {
            match byte {
                b'@' | b',' => {
                    self.words.route.push(byte);
                    self.input.rest = rest;
                }
                b':' => {
                    self.input.rest = rest;
                    return;
                }
                b'>' | b'<' | b';' | b'"' | b')' => break,
                _ => {
                    let word = self.atom();
                    self.words.route.extend_from_slice(word);
                }
            }
            self.skip();
        }
        let domain = std::mem::take(&mut self.words.route);
        self.words.domain.extend_from_slice(domain.strip_prefix(b"@").unwrap_or(&domain));
    }

    /// A domain or domain literal, without blanks and comments. Ends at a blank that no dot follows.
    fn domain(&mut self) {
        self.words.domain.clear();
        loop {
            let spaced = self.skip();
            let ends_in_dot = self.words.domain.last().is_none_or(|&b| b == b'.');
            match self.input.rest.first() {
                Some(b'[') if ends_in_dot => {
                    let end = memchr::memchr3(b']', b'>', b',', self.input.rest).unwrap_or(self.input.rest.len());
                    let end = if self.input.rest.get(end) == Some(&b']') { end + 1 } else { end };
                    let (literal, rest) = self.input.rest.split_at(end);
                    self.words.domain.extend(literal.iter().filter(|b| !b.is_ascii_whitespace()));
                    self.input.rest = rest;
                }
                None | Some(b'<' | b'>' | b'@' | b',' | b';' | b':' | b'"' | b')') => return,
                Some(&byte) if spaced && byte != b'.' && !ends_in_dot => return,
                Some(_) => {
                    let word = self.atom();
                    self.words.domain.extend_from_slice(word);
                }
            }
        }
    }

    fn mailbox(&mut self) -> Result<(), Stopped> {
        let Words { phrase, comment, route, local, domain, .. } = &self.words;
        let name = [phrase, comment].into_iter().map(|text| text.trim_ascii()).find(|text| !text.is_empty());
        let or = |text: &'static [u8], given: &[u8]| given.is_empty().then_some(text);
        let item = AddressItem::Mailbox {
            name,
            route: (!route.is_empty()).then_some(route),
            local: or(MISSING_MAILBOX, local).unwrap_or(local),
            domain: or(MISSING_DOMAIN, domain).unwrap_or(domain),
        };
        if (self.emit)(item) { Ok(()) } else { Err(Stopped) }
    }

    /// The colon was taken. Groups do not nest: one within another ends it.
    fn begin_group(&mut self) -> Result<(), Stopped> {
        self.end_group()?;
        self.in_group = true;
        let name = std::mem::take(&mut self.words.phrase);
        self.emit(AddressItem::GroupStart(name.trim_ascii()))
    }
}

/// What stands in the outermost parentheses of the last comment in `text`, which begins with one.
fn comment_text(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut depth = 0_usize;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'(' => {
                depth += 1;
                if depth == 1 {
                    out.clear();
                    continue;
                }
            }
            b')' if depth > 0 => {
                depth -= 1;
            }
            b'\\' if depth > 0 => {
                out.extend(bytes.next());
                continue;
            }
            b'\r' | b'\n' => continue,
            _ => {}
        }
        if depth > 0 {
            out.push(byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> String {
        let mut out = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        parse_addresses(value.as_bytes(), |item| {
            out.push(match item {
                AddressItem::Mailbox { name, route, local, domain } => {
                    let name = name.map_or("-".into(), text);
                    let route = route.map_or(String::new(), |r| format!(" via {}", text(r)));
                    format!("{name}|{}|{}{route}", text(local), text(domain))
                }
                AddressItem::GroupStart(name) => format!("{{{}", text(name)),
                AddressItem::GroupEnd => "}".into(),
            });
            true
        });
        out.join(" ; ")
    }

    #[test]
    fn lists() {
        for (value, expected) in [
            ("", ""),
            (" , ,\r\n ,", ""),
            ("a@b", "-|a|b"),
            ("a@b (Ann (the) \\(X\\))", "Ann (the) (X)|a|b"),
            ("\"Doe, \\\"J\\\"\"  <j@x.y>, <k@z>", "Doe, \"J\"|j|x.y ; -|k|z"),
            ("John Q. Public <j@x>", "John Q. Public|j|x"),
            ("=?utf-8?Q?J=C3=B6rg?=\r\n =?utf-8?Q?_X?= <j@x>", "=?utf-8?Q?J=C3=B6rg?= =?utf-8?Q?_X?=|j|x"),
            ("Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", "Pete|pete|silly.test"),
            ("john . doe @ x . y", "-|john.doe|x.y"),
            ("<@a.b,@c : joe@d.e>", "-|joe|d.e via @a.b,@c"),
            ("A Group:Ed <e@f>,joe@x; , z@z", "{A Group ; Ed|e|f ; -|joe|x ; } ; -|z|z"),
            ("Undisclosed recipients:;", "{Undisclosed recipients ; }"),
            ("open: a@b", "{open ; -|a|b ; }"),
            ("a: b: c@d;", "{a ; } ; {b ; -|c|d ; }"),
            ("a@[1.2.3.4] <b@[IPv6:::1]>", "a@[1.2.3.4]|b|[IPv6:::1]"),
            ("x@y <a@b>", "x@y|a|b"),
            ("Foo Bar foo@bar", "Foo Bar|foo|bar"),
            ("\"a b\"@c", "-|a b|c"),
            ("a@b c@d", "-|a|b ; -|c|d"),
            ("A <a@b> B <c@d>", "A|a|b ; B|c|d"),
            ("Joe", "-|Joe|MISSING_DOMAIN"),
            ("Joe Doe <>", "Joe Doe|MISSING_MAILBOX|MISSING_DOMAIN"),
            ("<joe>", "-|joe|MISSING_DOMAIN"),
            ("@x", "-|MISSING_MAILBOX|x"),
            ("<@x>", "-|MISSING_MAILBOX|x"),
            ("a@", "-|a|MISSING_DOMAIN"),
            ("Jörg <j@ü>", "Jörg|j|ü"),
            ("\"open", "-|open|MISSING_DOMAIN"),
            ("(open", ""),
            ("<a@b", "-|a|b"),
            ("<<a@b>>", "-|a|b"),
            (">)a@b", "-|a|b"),
            ("\"\" <a@b>", "-|a|b"),
        ] {
            assert_eq!(shown(value), expected, "{value:?}");
        }
    }

    #[test]
    fn many_addresses_take_linear_time() {
        for unit in ["a@b,", "a:", "(", "\"", "<", "<@", "a.", ",", "@", "a b ", "[", "a <b@c> (d)"] {
            let value = unit.repeat(500_000);
            let mut count = 0_usize;
            parse_addresses(value.as_bytes(), |_| {
                count += 1;
                true
            });
            assert!(count <= 1_000_001, "{unit}: {count}");
        }
    }
}
