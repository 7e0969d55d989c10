//! Content-Type and the fields of its shape: a value and parameters (RFC 2045 section 5.1, RFC 2183), continued and encoded
//! parameters (RFC 2231).

use crate::charset::decode_text;
use crate::header::{Fields, unfold};
use crate::transfer::hex_escapes;

/// A field has at most this many parameters; the rest is left out.
pub const PARAMETERS_MAX: usize = 256;

/// A parameter, its name as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name. Ends in `*` when the value was given in an extended form (RFC 2231 section 4).
    pub name: Vec<u8>,
    /// Value without quotes.
    pub value: Vec<u8>,
}

/// A media type with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    /// Type, as given.
    pub kind: Vec<u8>,
    /// Subtype, as given.
    pub subtype: Vec<u8>,
    /// Parameters in order, continuations joined.
    pub parameters: Vec<Parameter>,
}

impl ContentType {
    fn new(kind: &str, subtype: &str) -> Self {
        Self { kind: kind.into(), subtype: subtype.into(), parameters: Vec::new() }
    }

    pub(crate) fn octet_stream() -> Self {
        Self::new("application", "octet-stream")
    }

    /// The type told by a part's header. The default is plain text in US-ASCII, within a digest a message (RFC 2046 section
    /// 5.1.5); a type that cannot be read counts as absent outside a digest (RFC 2045 section 5.2).
    #[must_use]
    pub fn of_header(header: &[u8], in_digest: bool) -> Self {
        let value = Fields::first(header, "Content-Type");
        match value.and_then(Self::parse) {
            Some(found) => found,
            None if in_digest && value.is_none() => Self::new("message", "rfc822"),
            None => {
                let charset = Parameter { name: b"charset".to_vec(), value: b"us-ascii".to_vec() };
                Self { parameters: vec![charset], ..Self::new("text", "plain") }
            }
        }
    }

    /// Reads the value of a Content-Type field. `None` when it begins with no `type/subtype`; only `text` and `multipart` may
    /// stand without a subtype, as some senders write them.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut scanner = Scanner { rest: value };
        scanner.skip_cfws();
        let kind = scanner.token(b"/;")?.to_vec();
        scanner.skip_cfws();
        let subtype = if scanner.take(b'/') {
            scanner.skip_cfws();
            scanner.token(b";")?.to_vec()
        } else if kind.eq_ignore_ascii_case(b"text") {
            b"plain".to_vec()
        } else if kind.eq_ignore_ascii_case(b"multipart") {
            b"mixed".to_vec()
        } else {
            return None;
        };
        Some(Self { kind, subtype, parameters: join_continuations(scanner.parameters()) })
    }

    /// The value of the first parameter with this name, or of its extended form.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        let is = |p: &&Parameter| p.name.strip_suffix(b"*").unwrap_or(&p.name).eq_ignore_ascii_case(name.as_bytes());
        self.parameters.iter().find(is).map(|p| p.value.as_slice())
    }

    /// `text/*`
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.kind.eq_ignore_ascii_case(b"text")
    }

    /// `multipart/*`
    #[must_use]
    pub fn is_multipart(&self) -> bool {
        self.kind.eq_ignore_ascii_case(b"multipart")
    }

    /// `message/rfc822` or `message/global`: an embedded message.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.is("message", "rfc822") || self.is("message", "global")
    }

    /// True for this type and subtype.
    #[must_use]
    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind.as_bytes()) && self.subtype.eq_ignore_ascii_case(subtype.as_bytes())
    }
}

/// The value of Content-Disposition: its type and parameters. `None` when it begins with no token.
pub(crate) fn disposition(value: &[u8]) -> Option<(Vec<u8>, Vec<Parameter>)> {
    let mut scanner = Scanner { rest: value };
    scanner.skip_cfws();
    let kind = scanner.token(b";")?.to_vec();
    Some((kind, join_continuations(scanner.parameters())))
}

/// The first token of a field such as Content-Transfer-Encoding.
pub(crate) fn first_token(value: &[u8]) -> Option<&[u8]> {
    let mut scanner = Scanner { rest: value };
    scanner.skip_cfws();
    scanner.token(b";")
}

/// The tags of a Content-Language field (RFC 3282), at most [`PARAMETERS_MAX`].
pub(crate) fn languages(value: &[u8]) -> Vec<&[u8]> {
    let mut scanner = Scanner { rest: value };
    let mut tags = Vec::new();
    while tags.len() < PARAMETERS_MAX {
        scanner.skip_cfws();
        match scanner.token(b",;") {
            Some(tag) => tags.push(tag),
            None if scanner.rest.is_empty() => break,
            None => scanner.rest = &scanner.rest[1..],
        }
    }
    tags
}

/// Reads structured fields token by token.
pub(crate) struct Scanner<'m> {
    pub(crate) rest: &'m [u8],
}

impl<'m> Scanner<'m> {
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((&first, rest)) if first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Skips blanks, line ends and comments (RFC 5322 section 3.2.2), which nest.
    pub(crate) fn skip_cfws(&mut self) {
        let mut depth = 0_usize;
        while let Some((&byte, rest)) = self.rest.split_first() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
                _ if depth > 0 => {}
                _ => return,
            }
            self.rest = rest;
        }
    }

    /// Everything up to a blank, a comment, a quote or one of `ends`; `None` when that is nothing.
    pub(crate) fn token(&mut self, ends: &[u8]) -> Option<&'m [u8]> {
        let is_end = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b'"') || ends.contains(b);
        let length = self.rest.iter().position(is_end).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        (length > 0).then_some(token)
    }

    /// A quoted string whose opening quote was taken; unescaped and unfolded. A missing closing quote is at the end.
    pub(crate) fn quoted(&mut self, out: &mut Vec<u8>) {
        while let Some((&byte, rest)) = self.rest.split_first() {
            self.rest = rest;
            match byte {
                b'"' => return,
                b'\\' => {
                    if let Some((&escaped, rest)) = rest.split_first() {
                        out.push(escaped);
                        self.rest = rest;
                    }
                }
                b'\r' | b'\n' => {}
                _ => out.push(byte),
            }
        }
    }

    fn skip_past_semicolon(&mut self) {
        let end = memchr::memchr(b';', self.rest).map_or(self.rest.len(), |at| at + 1);
        self.rest = &self.rest[end..];
    }

    /// All parameters from here, wherever the value before them ended.
    fn parameters(&mut self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        self.skip_past_semicolon();
        while !self.rest.is_empty() && parameters.len() < PARAMETERS_MAX {
            self.skip_cfws();
            let name = self.token(b"=;").map(<[u8]>::to_vec);
            self.skip_cfws();
            if !self.take(b'=') {
                self.skip_past_semicolon();
                continue;
            }
            let value = self.parameter_value();
            if let Some(name) = name {
                parameters.push(Parameter { name, value });
            }
            self.skip_past_semicolon();
        }
        parameters
    }

    /// A token, a quoted string, or what senders write without the quotes it needs: everything up to the semicolon.
    fn parameter_value(&mut self) -> Vec<u8> {
        self.skip_cfws();
        if self.take(b'"') {
            let mut value = Vec::new();
            self.quoted(&mut value);
            return value;
        }
        let start = self.rest;
        let token = self.token(b";").unwrap_or_default();
        self.skip_cfws();
        if self.rest.is_empty() || self.rest.starts_with(b";") {
            return token.to_vec();
        }
        let end = memchr::memchr(b';', self.rest).unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
        unfold(&start[..start.len() - self.rest.len()])
    }
}

/// A parameter's name in the parts RFC 2231 gives it: base, section number, whether the value is encoded.
fn section_of(name: &[u8]) -> Option<(&[u8], usize, bool)> {
    let star = memchr::memchr(b'*', name)?;
    let (base, section) = (&name[..star], &name[star + 1..]);
    let (digits, encoded) = match section.strip_suffix(b"*") {
        Some(digits) => (digits, true),
        None => (section, false),
    };
    let number = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    (!base.is_empty()).then_some((base, number, encoded))
}

/// Joins continued parameters (RFC 2231 section 3) in place of their first piece: `foo*0`, `foo*1` become `foo`; where a piece is
/// encoded, the whole becomes `foo*` in UTF-8 (RFC 9051 section 7.5.2). A lone `foo*=…` stays as it was sent, which is what
/// clients decode themselves.
fn join_continuations(parameters: Vec<Parameter>) -> Vec<Parameter> {
    if !parameters.iter().any(|p| section_of(&p.name).is_some()) {
        return parameters;
    }
    let mut joined: Vec<Parameter> = Vec::new();
    let mut done: Vec<&[u8]> = Vec::new();
    for parameter in &parameters {
        let Some((base, ..)) = section_of(&parameter.name) else {
            joined.push(parameter.clone());
            continue;
        };
        if done.iter().any(|name| name.eq_ignore_ascii_case(base)) {
            continue;
        }
        done.push(base);
        joined.push(join_sections(base, &parameters));
    }
    joined
}

fn join_sections(base: &[u8], parameters: &[Parameter]) -> Parameter {
    let mut pieces: Vec<(usize, bool, &[u8])> = parameters
        .iter()
        .filter_map(|p| {
            section_of(&p.name).filter(|(name, ..)| name.eq_ignore_ascii_case(base)).map(|(_, n, e)| (n, e, p.value.as_slice()))
        })
        .collect();
    pieces.sort_by_key(|&(number, ..)| number);
    pieces.dedup_by_key(|&mut (number, ..)| number);
    let mut charset: &[u8] = b"utf-8";
    let mut value = Vec::new();
    let any_encoded = pieces.iter().any(|&(_, encoded, _)| encoded);
    for (index, &(_, encoded, text)) in pieces.iter().enumerate() {
        let mut text = text;
        if index == 0 && encoded {
            let mut fields = text.splitn(3, |&b| b == b'\'');
            if let (Some(name), Some(_), Some(rest)) = (fields.next(), fields.next(), fields.next()) {
                (charset, text) = (name, rest);
            }
        }
        if encoded { hex_escapes(text, b'%', &mut value) } else { value.extend_from_slice(text) }
    }
    let mut name = base.to_vec();
    if any_encoded {
        name.push(b'*');
        value = decode_text(&value, charset).into_owned().into_bytes();
    }
    Parameter { name, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> String {
        let Some(found) = ContentType::parse(value.as_bytes()) else { return "none".into() };
        let mut out = format!("{}/{}", String::from_utf8_lossy(&found.kind), String::from_utf8_lossy(&found.subtype));
        for p in found.parameters {
            out += &format!(" [{}]=[{}]", String::from_utf8_lossy(&p.name), String::from_utf8_lossy(&p.value));
        }
        out
    }

    #[test]
    fn types_and_parameters() {
        for (value, expected) in [
            ("text/plain; charset=us-ascii (Plain (nested) text)", "text/plain [charset]=[us-ascii]"),
            ("text / plain ;charset=\"us\\-ascii\";;x", "text/plain [charset]=[us-ascii]"),
            ("TEXT/Html;\r\n\tcharset=utf-8;name=my file (1).txt", "TEXT/Html [charset]=[utf-8] [name]=[my file (1).txt]"),
            ("text/plain charset=utf-8; format=flowed", "text/plain [format]=[flowed]"),
            ("multipart/mixed; boundary=\"a;b", "multipart/mixed [boundary]=[a;b]"),
            ("text", "text/plain"),
            ("multipart; boundary=x", "multipart/mixed [boundary]=[x]"),
            ("image/png; name=; =x; y=z", "image/png [name]=[] [y]=[z]"),
            ("application/", "none"),
            ("garbage", "none"),
            ("", "none"),
            ("(comment", "none"),
        ] {
            assert_eq!(shown(value), expected, "{value:?}");
        }
    }

    #[test]
    fn continuations_are_joined_as_rfc_9051_says() {
        for (value, expected) in [
            ("a/b; baz*1=two; x=y; baz*0=\"one \"; BAZ*2=three", "a/b [baz]=[one twothree] [x]=[y]"),
            ("a/b; foo*0*=iso-8859-1'en'%A3%20; foo*1*=%80; foo*2=\"%41\"", "a/b [foo*]=[£ €%41]"),
            ("a/b; foo*=utf-8''%e2%82%ac", "a/b [foo*]=[utf-8''%e2%82%ac]"),
            ("a/b; foo*x=1; *0=2; foo*0*=%zz%4", "a/b [foo*x]=[1] [*0]=[2] [foo*]=[%zz%4]"),
        ] {
            assert_eq!(shown(value), expected, "{value:?}");
        }
    }

    #[test]
    fn defaults() {
        assert!(ContentType::of_header(b"A: b\n\n", true).is_message());
        assert!(ContentType::of_header(b"Content-Type: junk\n\n", true).is("text", "plain"));
        assert_eq!(ContentType::of_header(b"", false).parameter("CHARSET"), Some(b"us-ascii".as_slice()));
        assert_eq!(languages(b"en, de (German) ,,fr"), [b"en", b"de", b"fr"]);
        assert_eq!(languages(b" \"\" (x"), Vec::<&[u8]>::new());
    }
}
