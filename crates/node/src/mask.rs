//! Masks by which operators name users.

/// Masks know `*` and `?` and ignore ASCII case; one without a domain also matches names of any domain. Linear but for the
/// usual restart at the last star.
pub(crate) fn matches(mask: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    let mask = mask.to_lowercase();
    let local = name.split('@').next().unwrap_or_default();
    glob(mask.as_bytes(), name.as_bytes()) || (!mask.contains('@') && glob(mask.as_bytes(), local.as_bytes()))
}

fn glob(mask: &[u8], text: &[u8]) -> bool {
    let (mut m, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if m < mask.len() && mask[m] == b'*' {
            star = Some((m, t));
            m += 1;
        } else if m < mask.len() && (mask[m] == b'?' || mask[m] == text[t]) {
            m += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            m = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    mask[m..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn masks() {
        for (mask, name, expected) in [
            ("*", "a@b", true),
            ("alice", "alice@demo.test", true),
            ("alice", "alice2@demo.test", false),
            ("user?", "user7@demo.test", true),
            ("*@demo.*", "bob@demo.test", true),
            ("A*E@*", "alice@x", true),
            ("", "a@b", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa@x", false),
        ] {
            assert_eq!(matches(mask, name), expected, "{mask} {name}");
        }
    }
}
