//! Paths of MAIL and RCPT (RFC 5321 section 4.1.2, RFC 6531 section 3.3).

use crate::ADDRESS_BYTES_MAX;

/// Parses `<path>` at the start of `text`. Returns the address in canonical form (empty for `<>`) and what follows.
///
/// Canonical: a quoted local part that needs no quotes loses them, any other keeps them with the fewest escapes, so that
/// the last `@` outside quotes is the only separator and equal addresses are equal text. A source route is dropped, as
/// RFC 5321 section 3.6.1 allows. The domain may be absent; finding the default is the directory's matter.
pub(crate) fn parse_path(text: &str) -> Option<(String, &str)> {
    let inner = text.trim_start_matches(' ').strip_prefix('<')?;
    if let Some(rest) = inner.strip_prefix('>') {
        return Some((String::new(), rest));
    }
    let inner = if inner.starts_with('@') { skip_route(inner)? } else { inner };
    let (local, rest) = if let Some(quoted) = inner.strip_prefix('"') { quoted_local(quoted)? } else { dot_local(inner)? };
    let (address, rest) = match rest.strip_prefix('@') {
        Some(rest) => {
            let end = rest.find('>')?;
            let (domain, rest) = rest.split_at(end);
            (is_domain(domain).then(|| format!("{local}@{domain}"))?, rest)
        }
        None => (local, rest),
    };
    (address.len() <= ADDRESS_BYTES_MAX).then_some(())?;
    Some((address, rest.strip_prefix('>')?))
}

fn skip_route(text: &str) -> Option<&str> {
    let (route, rest) = text.split_once(':')?;
    route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(is_domain)).then_some(rest)
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

/// Dots in odd places (`a..b`, `a.`) are taken: such senders exist, and the directory decides about recipients.
fn is_dot_string(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| is_atext(c) || c == '.')
}

fn dot_local(text: &str) -> Option<(String, &str)> {
    let end = text.find(['@', '>'])?;
    let (local, rest) = text.split_at(end);
    is_dot_string(local).then(|| (local.to_owned(), rest))
}

fn quoted_local(text: &str) -> Option<(String, &str)> {
    let (mut local, mut chars) = (String::new(), text.char_indices());
    let end = loop {
        match chars.next()? {
            (at, '"') => break at,
            (_, '\\') => local.push(chars.next()?.1),
            (_, c) => local.push(c),
        }
    };
    if local.chars().any(char::is_control) {
        return None;
    }
    let rest = text.get(end + 1..)?;
    if is_dot_string(&local) {
        return Some((local, rest));
    }
    let escaped: String = local.chars().flat_map(|c| [matches!(c, '"' | '\\').then_some('\\'), Some(c)]).flatten().collect();
    Some((format!("\"{escaped}\""), rest))
}

/// A domain or an address literal, by its characters only: whether it exists is not asked here.
pub(crate) fn is_domain(text: &str) -> bool {
    let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    match literal {
        Some(inner) => !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-".contains(&b)),
        None => {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c) || (!c.is_ascii() && !c.is_control()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_in_canonical_form() {
        let cases = [
            ("<>", ""),
            ("<ann@x.org>", "ann@x.org"),
            (" <ann+lists@x.org>", "ann+lists@x.org"),
            ("<@a.org,@b.org:ann@x.org>", "ann@x.org"),
            ("<\"ann\"@x.org>", "ann@x.org"),
            ("<\"an\\n\"@x.org>", "ann@x.org"),
            ("<\"a b\\\"c\\@d\">", "\"a b\\\"c@d\""),
            ("<\"a>b\"@x.org>", "\"a>b\"@x.org"),
            ("<ann>", "ann"),
            ("<ann@[127.0.0.1]>", "ann@[127.0.0.1]"),
            ("<ann@[IPv6:::1]>", "ann@[IPv6:::1]"),
            ("<jürgen@exämple.org>", "jürgen@exämple.org"),
        ];
        for (text, canonical) in cases {
            assert_eq!(parse_path(text), Some((canonical.to_owned(), "")), "{text}");
        }
        assert_eq!(parse_path("<a@b> SIZE=3"), Some(("a@b".to_owned(), " SIZE=3")));
    }

    #[test]
    fn bad_paths_are_refused() {
        for text in
            ["", "a@b", "<a@b", "<a@>", "<@b>", "<a b@c>", "<a@b c>", "<\"a\tb\"@c>", "<\"a@c>", "<a@b@c>", "<@a:>", "<a@[]>", "<(a)@b>"]
        {
            assert_eq!(parse_path(text), None, "{text}");
        }
        assert_eq!(parse_path(&format!("<{}@x>", "a".repeat(ADDRESS_BYTES_MAX))), None);
    }

    proptest! {
        #[test]
        fn canonical_form_is_stable(text in "<[\"\\\\a@>. é:]{0,12}>") {
            if let Some((address, "")) = parse_path(&text) && !address.is_empty() {
                let again = format!("<{address}>");
                prop_assert_eq!(parse_path(&again), Some((address, "")));
            }
        }
    }
}
