//! ENVELOPE (RFC 9051 section 7.5.2) from the raw header.

use crate::address::{ADDRESSES_MAX, AddressItem, parse_addresses};
use crate::header::{Fields, unfold};
use crate::structure::Structure;
use crate::wire::nstring;

/// The ENVELOPE of a message as it goes on the wire, parentheses included. Text is not decoded; text with bytes above 0x7F goes
/// as a literal. Fields for lists that come several times (To, Cc, Bcc) are taken together, of others the first counts.
#[must_use]
pub fn envelope(message: &[u8], structure: &Structure) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write_envelope(&mut out, structure.header(message, structure.root()), &mut Budget::new());
    out
}

/// What SORT compares for FROM, TO and CC (RFC 5256 section 3): the mailbox name of the first address in the fields with this
/// name, or the name of the group that stands first. `None` without an address.
#[must_use]
pub fn first_mailbox(message: &[u8], structure: &Structure, field: &str) -> Option<Vec<u8>> {
    let fields = Fields::new(structure.header(message, structure.root())).filter(|f| f.is(field));
    let mut found = None;
    for field in fields {
        parse_addresses(field.value, |item| {
            found = match item {
                AddressItem::Mailbox { local, .. } => Some(local.to_vec()),
                AddressItem::GroupStart(name) => Some(name.to_vec()),
                AddressItem::GroupEnd => None,
            };
            false
        });
        if found.is_some() {
            break;
        }
    }
    found
}

/// How many address items may still be written.
pub(crate) struct Budget(usize);

impl Budget {
    pub(crate) const fn new() -> Self {
        Self(ADDRESSES_MAX)
    }

    fn spend(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

#[derive(Default)]
struct Picked<'m> {
    date: Option<&'m [u8]>,
    subject: Option<&'m [u8]>,
    in_reply_to: Option<&'m [u8]>,
    message_id: Option<&'m [u8]>,
    from: Vec<&'m [u8]>,
    sender: Vec<&'m [u8]>,
    reply_to: Vec<&'m [u8]>,
    to: Vec<&'m [u8]>,
    cc: Vec<&'m [u8]>,
    bcc: Vec<&'m [u8]>,
}

fn pick(header: &[u8]) -> Picked<'_> {
    let mut picked = Picked::default();
    for field in Fields::new(header) {
        let Some(slot) = field.name.first().map(u8::to_ascii_lowercase) else { continue };
        let value = field.value;
        match slot {
            b'd' if field.is("Date") => _ = picked.date.get_or_insert(value),
            b's' if field.is("Subject") => _ = picked.subject.get_or_insert(value),
            b's' if field.is("Sender") && picked.sender.is_empty() => picked.sender.push(value),
            b'i' if field.is("In-Reply-To") => _ = picked.in_reply_to.get_or_insert(value),
            b'm' if field.is("Message-ID") => _ = picked.message_id.get_or_insert(value),
            b'f' if field.is("From") && picked.from.is_empty() => picked.from.push(value),
            b'r' if field.is("Reply-To") && picked.reply_to.is_empty() => picked.reply_to.push(value),
            b't' if field.is("To") => picked.to.push(value),
            b'c' if field.is("Cc") => picked.cc.push(value),
            b'b' if field.is("Bcc") => picked.bcc.push(value),
            _ => {}
        }
    }
    picked
}

/// Appends the envelope that `header` makes.
pub(crate) fn write_envelope(out: &mut Vec<u8>, header: &[u8], budget: &mut Budget) {
    let picked = pick(header);
    let text = |out: &mut Vec<u8>, value: Option<&[u8]>| nstring(out, value.map(unfold).as_deref());
    out.push(b'(');
    text(out, picked.date);
    out.push(b' ');
    text(out, picked.subject);
    out.push(b' ');
    let from = write_addresses(out, &picked.from, budget);
    for given in [&picked.sender, &picked.reply_to] {
        out.push(b' ');
        // Absent or empty: the same as From.
        if write_addresses_or_nothing(out, given, budget).is_none() {
            out.extend_from_within(from.clone());
        }
    }
    for given in [&picked.to, &picked.cc, &picked.bcc] {
        out.push(b' ');
        write_addresses(out, given, budget);
    }
    out.push(b' ');
    text(out, picked.in_reply_to);
    out.push(b' ');
    text(out, picked.message_id);
    out.push(b')');
}

/// Writes a list or `NIL`; returns where it stands in `out`.
fn write_addresses(out: &mut Vec<u8>, values: &[&[u8]], budget: &mut Budget) -> std::ops::Range<usize> {
    write_addresses_or_nothing(out, values, budget).unwrap_or_else(|| {
        out.extend_from_slice(b"NIL");
        out.len() - 3..out.len()
    })
}

fn write_addresses_or_nothing(out: &mut Vec<u8>, values: &[&[u8]], budget: &mut Budget) -> Option<std::ops::Range<usize>> {
    let start = out.len();
    let mut in_group = false;
    out.push(b'(');
    for value in values {
        parse_addresses(value, |item| {
            in_group = match item {
                AddressItem::GroupStart(_) => true,
                AddressItem::GroupEnd => false,
                AddressItem::Mailbox { .. } => in_group,
            };
            write_item(out, item);
            budget.spend()
        });
        if std::mem::take(&mut in_group) {
            write_item(out, AddressItem::GroupEnd);
        }
        if budget.0 == 0 {
            break;
        }
    }
    if out.len() == start + 1 {
        out.truncate(start);
        return None;
    }
    out.push(b')');
    Some(start..out.len())
}

fn write_item(out: &mut Vec<u8>, item: AddressItem<'_>) {
    let parts = match item {
        AddressItem::Mailbox { name, route, local, domain } => [name, route, Some(local), Some(domain)],
        AddressItem::GroupStart(name) => [None, None, Some(name), None],
        AddressItem::GroupEnd => [None; 4],
    };
    out.push(b'(');
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        nstring(out, part);
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str) -> String {
        let structure = Structure::parse(message.as_bytes());
        String::from_utf8(envelope(message.as_bytes(), &structure)).unwrap()
    }

    #[test]
    fn rfc_9051_example() {
        let message = "Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\nFrom: Terry Gray <gray@cac.washington.edu>\r\n\
            Subject: IMAP4rev2 WG mtg summary and minutes\r\nTo: imap@cac.washington.edu\r\n\
            cc: minutes@CNRI.Reston.VA.US, John Klensin <KLENSIN@MIT.EDU>\r\nMessage-Id: <B27397-0100000@cac.washington.ed>\r\n\r\n";
        let gray = r#"(("Terry Gray" NIL "gray" "cac.washington.edu"))"#;
        let expected = format!(
            r#"("Wed, 17 Jul 1996 02:23:25 -0700 (PDT)" "IMAP4rev2 WG mtg summary and minutes" {gray} {gray} {gray} ((NIL NIL "imap" "cac.washington.edu")) ((NIL NIL "minutes" "CNRI.Reston.VA.US")("John Klensin" NIL "KLENSIN" "MIT.EDU")) NIL NIL "<B27397-0100000@cac.washington.ed>")"#
        );
        assert_eq!(of(message), expected);
    }

    #[test]
    fn absent_and_empty_fields() {
        assert_eq!(of("body"), "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
        assert_eq!(
            of("Date:\nSubject: \nFrom:\nSender: ,\nTo: \nMessage-ID:\nIn-Reply-To:\n\n"),
            r#"("" "" NIL NIL NIL NIL NIL NIL "" "")"#
        );
    }

    #[test]
    fn sender_and_reply_to_default_when_empty_and_lists_repeat() {
        assert_eq!(
            of("From: a@b\nSender: \nReply-To: c@d\nTo: e@f\nTo: g: h@i;\nBcc: :;\n\n"),
            r#"(NIL NIL ((NIL NIL "a" "b")) ((NIL NIL "a" "b")) ((NIL NIL "c" "d")) ((NIL NIL "e" "f")(NIL NIL "g" NIL)(NIL NIL "h" "i")(NIL NIL NIL NIL)) NIL ((NIL NIL "" NIL)(NIL NIL NIL NIL)) NIL NIL)"#
        );
    }

    #[test]
    fn folds_quotes_and_eight_bit_text() {
        assert_eq!(
            of("Subject: say \"hi\"\r\n\tto \\ü\r\nSubject: second\r\nIn-Reply-To: \"\\\r\n\r\n"),
            "(NIL {15}\r\nsay \"hi\"\tto \\ü NIL NIL NIL NIL NIL NIL \"\\\"\\\\\" NIL)"
        );
    }

    #[test]
    fn the_first_mailbox_sorts() {
        let message = b"To: \r\nTo: , Ann <ann@x>, b@c\r\nCc: friends: d@e;\r\nFrom: (none)\r\n\r\n";
        let structure = Structure::parse(message);
        let of = |field| first_mailbox(message, &structure, field);
        assert_eq!((of("to"), of("cc")), (Some(b"ann".to_vec()), Some(b"friends".to_vec())));
        assert_eq!((of("from"), of("bcc")), (None, None));
    }

    #[test]
    fn addresses_are_bounded() {
        let message = format!("From: {}\n\n", ":;".repeat(ADDRESSES_MAX));
        let out = of(&message);
        assert!(out.matches(r#"(NIL NIL "" NIL)(NIL NIL NIL NIL)"#).count() * 2 <= 3 * ADDRESSES_MAX + 8);
        assert!(out.ends_with(" NIL NIL NIL NIL NIL)"));
    }
}
