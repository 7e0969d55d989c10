//! Modified UTF-7 of mailbox names (RFC 3501 section 5.1.3), both ways. Only the canonical form is taken, so that a name has one
//! spelling: no encoded printable ASCII, no empty or adjacent shifts, zero padding bits, paired surrogates.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// Writes text in modified UTF-7.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut run: Vec<u16> = Vec::new();
    let mut units = [0; 2];
    for c in text.chars() {
        if matches!(c, ' '..='~') {
            flush(&mut run, &mut out);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            run.extend_from_slice(c.encode_utf16(&mut units));
        }
    }
    flush(&mut run, &mut out);
    out
}

fn flush(run: &mut Vec<u16>, out: &mut String) {
    if run.is_empty() {
        return;
    }
    out.push('&');
    let (mut bits, mut held) = (0_u32, 0);
    for unit in run.drain(..) {
        bits = bits << 16 | u32::from(unit);
        held += 16;
        while held >= 6 {
            held -= 6;
            out.push(char::from(ALPHABET[(bits >> held & 63) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        out.push(char::from(ALPHABET[(bits << (6 - held) & 63) as usize]));
    }
    out.push('-');
}

/// Reads modified UTF-7; `None` when it is not in canonical form.
pub(crate) fn decode(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut after_shift = false;
    while let Some((&b, tail)) = rest.split_first() {
        match b {
            b'&' => {
                let end = memchr::memchr(b'-', tail)?;
                let (code, after) = (&tail[..end], &tail[end + 1..]);
                if code.is_empty() {
                    out.push('&');
                    after_shift = false;
                } else if after_shift {
                    return None;
                } else {
                    shifted(code, &mut out)?;
                    after_shift = true;
                }
                rest = after;
            }
            b' '..=b'~' => {
                out.push(char::from(b));
                after_shift = false;
                rest = tail;
            }
            _ => return None,
        }
    }
    Some(out)
}

fn shifted(code: &[u8], out: &mut String) -> Option<()> {
    let (mut bits, mut held) = (0_u32, 0);
    let mut units = Vec::with_capacity(code.len());
    for b in code {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b',' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 16 {
            held -= 16;
            units.push((bits >> held) as u16);
            bits &= (1 << held) - 1;
        }
    }
    if held >= 6 || bits != 0 {
        return None;
    }
    for c in char::decode_utf16(units) {
        let c = c.ok()?;
        if matches!(c, ' '..='~') {
            return None;
        }
        out.push(c);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_names() {
        for (text, wire) in [("Entwürfe", "Entw&APw-rfe"), ("A&B", "A&-B"), ("日本語", "&ZeVnLIqe-"), ("😀", "&2D3eAA-"), ("", "")] {
            assert_eq!(encode(text), wire);
            assert_eq!(decode(wire.as_bytes()).as_deref(), Some(text));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for bad in ["&AGE-", "&", "&APw", "&APx-", "&AP-", "&APw-&APw-", "&2D0-", "&A-", "&AAAA-x\u{7f}", "a\tb", "ü", "&A.A-", "&ADD8-A"]
        {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(text in "\\PC{0,40}") {
            let wire = encode(&text);
            prop_assert!(wire.is_ascii());
            prop_assert_eq!(decode(wire.as_bytes()), Some(text));
        }
        #[test]
        fn what_is_read_is_written_alike(bytes in prop::collection::vec(prop_oneof![Just(b'&'), Just(b'-'), 0x20_u8..0x7f], 0..20)) {
            if let Some(text) = decode(&bytes) {
                prop_assert_eq!(encode(&text).into_bytes(), bytes);
            }
        }
    }
}
