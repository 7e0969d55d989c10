//! PREVIEW (RFC 8970): the first words a person would read.

use crate::charset::decode_text;
use crate::content::disposition;
use crate::header::Fields;
use crate::structure::{PartId, PartKind, Structure};
use mail_parser::decoders::html::html_to_text;

/// RFC 8970 section 3.3 recommends this many characters and forbids more than 256.
pub const PREVIEW_CHARS_MAX: usize = 200;

/// At most this much of a part is looked at, bytes: style sheets come before the words.
const BODY_BYTES: usize = 256 * 1024;

/// At most this many parts are tried.
const PARTS: usize = 20;

/// The beginning of the message's text on one line, at most [`PREVIEW_CHARS_MAX`] characters without control characters; markup
/// of HTML is removed. Plain text is preferred among alternatives. Empty when there is no text.
#[must_use]
pub fn preview(message: &[u8], structure: &Structure) -> String {
    let texts: Vec<PartId> = structure.ids().filter(|&id| is_readable(message, structure, id)).take(PARTS).collect();
    let first_of = |subtype: &str| {
        let is = |id: &&PartId| structure.content_type(message, **id).is("text", subtype);
        texts.iter().filter(is).map(|&id| words_of(message, structure, id)).find(|words| !words.is_empty())
    };
    first_of("plain").or_else(|| first_of("html")).unwrap_or_default()
}

/// A text part that is shown with the message rather than attached to it.
fn is_readable(message: &[u8], structure: &Structure, id: PartId) -> bool {
    if structure.part(id).kind() != PartKind::Leaf || !structure.content_type(message, id).is_text() {
        return false;
    }
    let header = structure.header(message, id);
    let disposition = Fields::first(header, "Content-Disposition").and_then(disposition);
    disposition.is_none_or(|(kind, _)| !kind.eq_ignore_ascii_case(b"attachment"))
}

fn words_of(message: &[u8], structure: &Structure, id: PartId) -> String {
    let body = structure.body(message, id);
    let body = &body[..body.len().min(BODY_BYTES)];
    let data = structure.transfer_encoding(message, id).decode(body);
    let content = structure.content_type(message, id);
    let text = decode_text(&data, content.parameter("charset").unwrap_or_default());
    if content.is("text", "html") { one_line(&html_to_text(&text)) } else { one_line(&text) }
}

/// Blanks and control characters become single spaces; characters that only take up room, as mailings put them before their
/// text, are left out.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    let mut count = 0;
    for c in text.chars() {
        let blank = c.is_whitespace() || c.is_control();
        if matches!(c, '\u{34F}' | '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FEFF}')
            || (blank && (out.is_empty() || out.ends_with(' ')))
        {
            continue;
        }
        if count == PREVIEW_CHARS_MAX {
            break;
        }
        out.push(if blank { ' ' } else { c });
        count += 1;
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str) -> String {
        preview(message.as_bytes(), &Structure::parse(message.as_bytes()))
    }

    #[test]
    fn plain_text_on_one_line() {
        assert_eq!(of("Subject: x\r\n\r\n  Hello,\r\n\r\n\tworld\u{200b}\0 \r\n"), "Hello, world");
        assert_eq!(of(&format!("\n{}", "ä".repeat(500))).chars().count(), PREVIEW_CHARS_MAX);
        assert_eq!(of("A: b\n"), "");
    }

    #[test]
    fn html_without_markup() {
        let html = "Content-Type: text/html\n\n<html><head><title>t</title><style>p{}</style></head><body><p>Gr&uuml;&#223;e<br>aus <b>K</b></p></body>";
        assert_eq!(of(html), "Grüße aus K");
    }

    #[test]
    fn plain_is_preferred_and_attachments_are_not_read() {
        let part = |head: &str, body: &str| format!("--b\n{head}\n\n{body}\n");
        let mail = |parts: &[String]| format!("Content-Type: multipart/alternative; boundary=b\n\n{}--b--\n", parts.concat());
        let html = part("Content-Type: text/html", "<p>markup");
        let empty = part("Content-Type: text/plain", " \n");
        let plain = part("Content-Type: text/plain\nContent-Transfer-Encoding: base64", "cGxhaW4=");
        let attached = part("Content-Type: text/plain\nContent-Disposition: ATTACHMENT; filename=x", "attached");
        let image = part("Content-Type: image/png", "not text");
        assert_eq!(of(&mail(&[html.clone(), plain, image.clone()])), "plain");
        assert_eq!(of(&mail(&[attached, empty, html])), "markup");
        assert_eq!(of(&mail(&[image])), "");
    }
}
