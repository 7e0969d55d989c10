//! BODY and BODYSTRUCTURE (RFC 9051 section 7.5.2, `body` in section 9).

use crate::content::{ContentType, Parameter, disposition, first_token, languages};
use crate::envelope::{Budget, write_envelope};
use crate::header::{Fields, unfold};
use crate::structure::{PartId, PartKind, Structure};
use crate::wire::{nstring, number, string};

/// The structure of a message as it goes on the wire, parentheses included: BODYSTRUCTURE when `extended`, else BODY.
/// Sizes and lines are of the body as it stands, transfer encoding included; lines are counted by their line feeds.
#[must_use]
pub fn body_structure(message: &[u8], structure: &Structure, extended: bool) -> Vec<u8> {
    let mut writer = Writer { message, structure, extended, out: Vec::with_capacity(512), budget: Budget::new() };
    writer.part(structure.root());
    writer.out
}

struct Writer<'m> {
    message: &'m [u8],
    structure: &'m Structure,
    extended: bool,
    out: Vec<u8>,
    budget: Budget,
}

/// The fields of a part's header that matter here; of each, the first.
#[derive(Default)]
struct Described<'m> {
    id: Option<&'m [u8]>,
    description: Option<&'m [u8]>,
    encoding: Option<&'m [u8]>,
    md5: Option<&'m [u8]>,
    disposition: Option<&'m [u8]>,
    language: Option<&'m [u8]>,
    location: Option<&'m [u8]>,
}

fn describe(header: &[u8]) -> Described<'_> {
    let mut found = Described::default();
    for field in Fields::new(header) {
        if !field.name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-")) {
            continue;
        }
        let slots = [
            ("Content-ID", &mut found.id),
            ("Content-Description", &mut found.description),
            ("Content-Transfer-Encoding", &mut found.encoding),
            ("Content-MD5", &mut found.md5),
            ("Content-Disposition", &mut found.disposition),
            ("Content-Language", &mut found.language),
            ("Content-Location", &mut found.location),
        ];
        if let Some((_, slot)) = slots.into_iter().find(|(name, _)| field.is(name)) {
            slot.get_or_insert(field.value);
        }
    }
    found
}

impl Writer<'_> {
    /// Writes a part. Recurses as deep as the structure, which is bounded.
    fn part(&mut self, id: PartId) {
        let (message, structure) = (self.message, self.structure);
        let described = describe(structure.header(message, id));
        let content = structure.content_type(message, id);
        self.out.push(b'(');
        match structure.part(id).kind() {
            PartKind::Multipart => self.multipart(id, &content, &described),
            kind => self.single(id, kind, &content, &described),
        }
        self.out.push(b')');
    }

    fn multipart(&mut self, id: PartId, content: &ContentType, described: &Described<'_>) {
        let structure = self.structure;
        for child in structure.children(id) {
            self.part(child);
        }
        self.space();
        string(&mut self.out, &content.subtype);
        if self.extended {
            self.space();
            self.parameters(&content.parameters, None);
            self.extension(described);
        }
    }

    fn single(&mut self, id: PartId, kind: PartKind, content: &ContentType, described: &Described<'_>) {
        let part = *self.structure.part(id);
        string(&mut self.out, &content.kind);
        self.space();
        string(&mut self.out, &content.subtype);
        self.space();
        let default_charset = content.is_text().then_some((&b"charset"[..], &b"us-ascii"[..]));
        self.parameters(&content.parameters, default_charset);
        self.space();
        nstring(&mut self.out, described.id.map(unfold).as_deref());
        self.space();
        nstring(&mut self.out, described.description.map(unfold).as_deref());
        self.space();
        let encoding = if kind == PartKind::Opaque { None } else { described.encoding.and_then(first_token) };
        string(&mut self.out, encoding.unwrap_or(b"7bit"));
        self.space();
        number(&mut self.out, part.body().len());
        if kind == PartKind::Message {
            self.embedded(id);
        }
        if kind == PartKind::Message || content.is_text() {
            self.space();
            number(&mut self.out, part.lines() as usize);
        }
        if self.extended {
            self.space();
            nstring(&mut self.out, described.md5.map(unfold).as_deref());
            self.extension(described);
        }
    }

    fn embedded(&mut self, id: PartId) {
        let (message, structure) = (self.message, self.structure);
        for child in structure.children(id) {
            self.space();
            write_envelope(&mut self.out, structure.header(message, child), &mut self.budget);
            self.space();
            self.part(child);
        }
    }

    /// Disposition, language and location.
    fn extension(&mut self, described: &Described<'_>) {
        self.space();
        match described.disposition.and_then(disposition) {
            Some((kind, parameters)) => {
                self.out.push(b'(');
                string(&mut self.out, &kind);
                self.space();
                self.parameters(&parameters, None);
                self.out.push(b')');
            }
            None => nstring(&mut self.out, None),
        }
        self.space();
        match described.language.map(languages).as_deref() {
            None | Some([]) => nstring(&mut self.out, None),
            Some([tag]) => string(&mut self.out, tag),
            Some(tags) => self.list(tags),
        }
        self.space();
        nstring(&mut self.out, described.location.map(unfold).as_deref());
    }

    fn parameters(&mut self, parameters: &[Parameter], default: Option<(&[u8], &[u8])>) {
        let mut items: Vec<&[u8]> = parameters.iter().flat_map(|p| [p.name.as_slice(), p.value.as_slice()]).collect();
        if let Some((name, value)) = default
            && !parameters.iter().any(|p| p.name.eq_ignore_ascii_case(name))
        {
            items.extend([name, value]);
        }
        if items.is_empty() { nstring(&mut self.out, None) } else { self.list(&items) }
    }

    fn list(&mut self, items: &[&[u8]]) {
        self.out.push(b'(');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.space();
            }
            string(&mut self.out, item);
        }
        self.out.push(b')');
    }

    fn space(&mut self) {
        self.out.push(b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn expect(message: &str, basic: &str, extended: &str) {
        let structure = Structure::parse(message.as_bytes());
        let of = |extended| String::from_utf8(body_structure(message.as_bytes(), &structure, extended)).unwrap();
        assert_eq!(of(false), basic);
        assert_eq!(of(true), extended);
    }

    #[test]
    fn defaults() {
        let basic = r#"("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 4 1"#;
        expect("A: b\n\nhi\r\n", &format!("{basic})"), &format!("{basic} NIL NIL NIL NIL)"));
        let basic = r#"("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0"#;
        expect("", &format!("{basic})"), &format!("{basic} NIL NIL NIL NIL)"));
        let html = r#"("TEXT" "html" ("x" "y" "charset" "us-ascii") NIL NIL "x-odd" 1 0"#;
        expect(
            "Content-Type: TEXT/html; x=y\nContent-Transfer-Encoding: x-odd (?)\n\nb",
            &format!("{html})"),
            &format!("{html} NIL NIL NIL NIL)"),
        );
    }

    #[test]
    fn all_fields_of_a_leaf() {
        let basic = r#"("image" "png" ("name" "a\"b.png") "<id@x>" "a picture" "BASE64" 6"#;
        expect(
            "Content-Type: image/png; name=\"a\\\"b.png\"\nContent-ID: <id@x>\nContent-Description: a\n picture\n\
             Content-Transfer-Encoding: BASE64\nContent-MD5: Q2hlY2s=\nContent-Disposition: attachment; filename*0=\"a\"; filename*1=b\n\
             Content-Language: en, de\nContent-Location: http://x/\n\nAAAA\r\n",
            &format!("{basic})"),
            &format!(r#"{basic} "Q2hlY2s=" ("attachment" ("filename" "ab")) ("en" "de") "http://x/")"#),
        );
    }

    #[test]
    fn multipart_and_embedded_message() {
        let message = "Content-Type: multipart/mixed; boundary=o\nContent-Disposition: inline\n\n--o\n\none\n\n--o\n\
            Content-Type: message/rfc822\n\nSubject: in\n\nx\ny\n\n--o--\n";
        let text = |lines: &str| format!(r#"("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" {lines}"#);
        let envelope = r#"(NIL "in" NIL NIL NIL NIL NIL NIL NIL NIL)"#;
        expect(
            message,
            &format!(r#"({})("message" "rfc822" NIL NIL NIL "7bit" 17 {envelope} {}) 4) "mixed")"#, text("4 1"), text("4 2")),
            &format!(
                r#"({} NIL NIL NIL NIL)("message" "rfc822" NIL NIL NIL "7bit" 17 {envelope} {} NIL NIL NIL NIL) 4 NIL NIL NIL NIL) "mixed" ("boundary" "o") ("inline" NIL) NIL NIL)"#,
                text("4 1"),
                text("4 2")
            ),
        );
    }

    #[test]
    fn multipart_without_boundary() {
        expect(
            "Content-Type: multipart/related\n\nabc\n",
            r#"(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 4 1) "related")"#,
            r#"(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 4 1 NIL NIL NIL NIL) "related" NIL NIL NIL NIL)"#,
        );
    }
}
