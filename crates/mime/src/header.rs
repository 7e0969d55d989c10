//! Header fields as they stand in the message (RFC 5322 section 2.2), without decoding.

use memchr::memchr;

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'m> {
    /// Name without the colon; empty for a line that is no field (no colon, or blanks within the name).
    pub name: &'m [u8],
    /// What follows the colon, folds included, without the final line end.
    pub value: &'m [u8],
    /// The whole field with its line ends.
    pub lines: &'m [u8],
}

impl<'m> Field<'m> {
    /// True when the field has this name, without regard to ASCII case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value with line ends removed and blanks trimmed at both ends (RFC 5322 section 2.2.3), still encoded.
    #[must_use]
    pub fn unfolded(&self) -> Vec<u8> {
        unfold(self.value)
    }
}

/// Removes line ends and trims blanks at both ends. A CR that ends no line stays.
pub(crate) fn unfold(value: &[u8]) -> Vec<u8> {
    let value = value.trim_ascii();
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = memchr(b'\n', rest) {
        let (line, after) = rest.split_at(at);
        out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        rest = &after[1..];
    }
    out.extend_from_slice(rest);
    out
}

/// Iterates over the fields of a header; ends before the blank line.
#[derive(Clone, Debug)]
pub struct Fields<'m> {
    rest: &'m [u8],
}

impl<'m> Fields<'m> {
    /// Over the fields of `header`, which may or may not hold its blank line.
    #[must_use]
    pub const fn new(header: &'m [u8]) -> Self {
        Self { rest: header }
    }

    /// The value of the first field with this name.
    #[must_use]
    pub fn first(header: &'m [u8], name: &str) -> Option<&'m [u8]> {
        Self::new(header).find(|field| field.is(name)).map(|field| field.value)
    }

    /// What was not yet iterated over: at the end, the blank line or nothing.
    #[must_use]
    pub const fn rest(&self) -> &'m [u8] {
        self.rest
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Field<'m>;

    fn next(&mut self) -> Option<Field<'m>> {
        if self.rest.is_empty() || is_blank_line(self.rest) {
            return None;
        }
        let first_line = memchr(b'\n', self.rest).map_or(self.rest.len(), |at| at + 1);
        let mut end = first_line;
        while matches!(self.rest.get(end), Some(b' ' | b'\t')) {
            end = memchr(b'\n', &self.rest[end..]).map_or(self.rest.len(), |at| end + at + 1);
        }
        let (lines, rest) = self.rest.split_at(end);
        self.rest = rest;
        let (name, value) = match memchr(b':', &lines[..first_line]) {
            Some(colon) => (field_name(&lines[..colon]), &lines[colon + 1..]),
            None => (&lines[..0], lines),
        };
        Some(Field { name, value: without_line_end(value), lines })
    }
}

/// Blanks before the colon are obsolete but allowed (RFC 5322 section 4.5); anything else but printable ASCII is no name.
fn field_name(before_colon: &[u8]) -> &[u8] {
    let name = before_colon.trim_ascii_end();
    if name.iter().all(u8::is_ascii_graphic) { name } else { &name[..0] }
}

/// True when `text` begins with an empty line.
pub(crate) fn is_blank_line(text: &[u8]) -> bool {
    text.starts_with(b"\n") || text.starts_with(b"\r\n")
}

fn without_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_folds_junk_and_bare_line_feeds() {
        let header = b"Subject: a\r\n b\r\nno colon here\r\nX-Obs \t: v\nEmpty:\nbad name: x\n\nbody: no";
        let fields: Vec<_> = Fields::new(header).map(|f| (f.name, f.unfolded())).collect();
        let expected: Vec<(&[u8], Vec<u8>)> = vec![
            (b"Subject", b"a b".to_vec()),
            (b"", b"no colon here".to_vec()),
            (b"X-Obs", b"v".to_vec()),
            (b"Empty", vec![]),
            (b"", b"x".to_vec()),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn fields_give_every_byte_of_the_header() {
        let header = b" leading\nA: 1\r\n\t2\r\nB: 3";
        let joined: Vec<u8> = Fields::new(header).flat_map(|f| f.lines.to_vec()).collect();
        assert_eq!(joined, header);
        assert_eq!(Fields::first(header, "a").map(unfold), Some(b"1\t2".to_vec()));
        assert_eq!(Fields::first(header, "c"), None);
    }
}
