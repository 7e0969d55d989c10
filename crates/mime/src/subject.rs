//! The base subject of SORT and THREAD (RFC 5256 section 2.1).

use crate::encoded_word::decode_words;
use crate::header::Fields;
use crate::structure::Structure;

/// A subject without what replies and forwards add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseSubject {
    /// The base subject; compare with [`crate::fold`].
    pub text: String,
    /// True when something told of a reply or a forward was removed (for THREAD=REFERENCES).
    pub is_reply: bool,
}

/// The base subject of a message; empty without a Subject field.
#[must_use]
pub fn message_subject(message: &[u8], structure: &Structure) -> BaseSubject {
    let value = Fields::first(structure.header(message, structure.root()), "Subject").unwrap_or_default();
    base_subject(&decode_words(value))
}

/// The base subject of decoded text. Linear in it.
#[must_use]
pub fn base_subject(subject: &str) -> BaseSubject {
    let collapsed = collapse_blanks(subject);
    let mut text = collapsed.as_str();
    let mut is_reply = false;
    loop {
        text = without_trailers(text, &mut is_reply);
        text = without_leaders(text, &mut is_reply);
        // Step 6.
        match strip_prefix_caseless(text, "[fwd:").and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => text = inner,
            None => break,
        }
        is_reply = true;
    }
    BaseSubject { text: text.to_owned(), is_reply }
}

/// Step 1: tabs and line ends become spaces, several spaces one.
fn collapse_blanks(subject: &str) -> String {
    let mut out = String::with_capacity(subject.len());
    for c in subject.chars() {
        match c {
            ' ' | '\t' | '\r' | '\n' if out.ends_with(' ') => {}
            ' ' | '\t' | '\r' | '\n' => out.push(' '),
            _ => out.push(c),
        }
    }
    out
}

fn strip_prefix_caseless<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// Step 2.
fn without_trailers<'a>(mut text: &'a str, is_reply: &mut bool) -> &'a str {
    const FORWARD: &str = "(fwd)";
    loop {
        text = text.trim_end_matches(' ');
        let Some(at) = text.len().checked_sub(FORWARD.len()) else { return text };
        match text.get(at..) {
            Some(end) if end.eq_ignore_ascii_case(FORWARD) => text = &text[..at],
            _ => return text,
        }
        *is_reply = true;
    }
}

/// Steps 3 to 5. Blobs before no `re:` are looked at once only, so that many of them take linear time.
fn without_leaders<'a>(mut text: &'a str, is_reply: &mut bool) -> &'a str {
    loop {
        text = text.trim_start_matches(' ');
        let (mut after_blobs, mut last_blob) = (text, text);
        while let Some(rest) = after_blob(after_blobs) {
            (last_blob, after_blobs) = (after_blobs, rest);
        }
        match after_refwd(after_blobs) {
            Some(rest) => text = rest,
            // Step 4: all blobs go, but one stays when else nothing would.
            None if after_blobs.is_empty() => return last_blob,
            None => return after_blobs,
        }
        *is_reply = true;
    }
}

/// What follows `subj-blob`: brackets without brackets in them, and blanks.
fn after_blob(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let end = inner.find(['[', ']'])?;
    inner[end..].strip_prefix(']').map(|rest| rest.trim_start_matches(' '))
}

/// What follows `subj-refwd`: `re`, `fw` or `fwd`, blanks, perhaps a blob, a colon.
fn after_refwd(text: &str) -> Option<&str> {
    let rest = ["re", "fwd", "fw"].iter().find_map(|prefix| strip_prefix_caseless(text, prefix))?;
    let rest = rest.trim_start_matches(' ');
    after_blob(rest).unwrap_or(rest).strip_prefix(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        for (subject, base, is_reply) in [
            ("hello", "hello", false),
            ("  Re: hello  ", "hello", true),
            ("RE: Fwd : re[2]: [list] fw [x] : hello (fwd) (FWD)", "hello", true),
            ("[list] hello", "hello", false),
            ("[a] [b] re: [c] [d]", "[d]", true),
            ("[a]", "[a]", false),
            ("[a] [b]", "[b]", false),
            ("[fwd: re: [x] inner (fwd)]", "inner", true),
            ("[FWD: [fwd: a]] (fwd)", "a", true),
            ("re", "re", false),
            ("re:", "", true),
            ("(fwd)", "", true),
            ("refer: x", "refer: x", false),
            ("re [open: x", "re [open: x", false),
            ("[a[b] x", "[a[b] x", false),
            ("a\t b\r\n  c", "a b c", false),
            ("ré: é", "ré: é", false),
            ("[fwd:]", "", true),
            ("", "", false),
        ] {
            let found = base_subject(subject);
            assert_eq!((found.text.as_str(), found.is_reply), (base, is_reply), "{subject:?}");
        }
    }

    #[test]
    fn hostile_subjects_take_linear_time() {
        for unit in ["[a]", "[", "re:", "re [", "[fwd:", "(fwd)", " ", "]", "re [x]:"] {
            let text = unit.repeat(300_000);
            assert!(base_subject(&text).text.len() <= text.len());
            assert!(base_subject(&(text.clone() + &"]".repeat(300_000))).text.len() <= 2 * text.len());
        }
    }
}
