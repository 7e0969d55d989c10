//! LIST patterns (RFC 9051 section 6.3.9): `*` matches anything, `%` anything but `/`. Matching is a walk over sets of positions,
//! so its time is bounded by name length × pattern length, whatever the wildcards.

/// A pattern, wildcards that stand together joined.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    bytes: Vec<u8>,
}

/// How far a name has matched: the positions in the pattern that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress(Vec<u64>);

impl Progress {
    fn new(len: usize) -> Self {
        Self(vec![0; len / 64 + 1])
    }
    fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }
    /// True when nothing longer can match.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl Pattern {
    /// Reads a pattern.
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(text.len());
        for byte in text.bytes() {
            match (bytes.last().copied(), byte) {
                (Some(b'*'), b'*' | b'%') | (Some(b'%'), b'%') => {}
                (Some(b'%'), b'*') => {
                    bytes.pop();
                    bytes.push(b'*');
                }
                _ => bytes.push(byte),
            }
        }
        Self { bytes }
    }

    /// Before the first byte of a name.
    pub(crate) fn start(&self) -> Progress {
        let mut progress = Progress::new(self.bytes.len());
        progress.set(0);
        self.skip_wildcards(&mut progress);
        progress
    }

    /// Wildcards may match nothing.
    fn skip_wildcards(&self, progress: &mut Progress) {
        for (at, byte) in self.bytes.iter().enumerate() {
            if matches!(byte, b'*' | b'%') && progress.has(at) {
                progress.set(at + 1);
            }
        }
    }

    /// Takes more of a name. `any_case`: letters match in either case, as in the first level INBOX.
    pub(crate) fn feed(&self, progress: &Progress, text: &str, any_case: bool) -> Progress {
        let mut now = progress.clone();
        for byte in text.bytes() {
            let mut next = Progress::new(self.bytes.len());
            for (at, pattern) in self.bytes.iter().enumerate().filter(|(at, _)| now.has(*at)) {
                match pattern {
                    b'*' => next.set(at),
                    b'%' if byte != b'/' => next.set(at),
                    b'%' => {}
                    _ if *pattern == byte || (any_case && pattern.eq_ignore_ascii_case(&byte)) => next.set(at + 1),
                    _ => {}
                }
            }
            self.skip_wildcards(&mut next);
            now = next;
        }
        now
    }

    /// True when what was taken is a whole match.
    pub(crate) fn accepts(&self, progress: &Progress) -> bool {
        progress.has(self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        let pattern = Pattern::new(pattern);
        pattern.accepts(&pattern.feed(&pattern.start(), name, false))
    }

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("*", "a/b/c", true),
            ("%", "a", true),
            ("%", "a/b", false),
            ("a/%", "a/b", true),
            ("a/%", "a", false),
            ("a*", "a/b", true),
            ("%/%", "a/b", true),
            ("*b", "a/b", true),
            ("%b", "a/b", false),
            ("", "", true),
            ("", "a", false),
            ("a%c", "abc", true),
            ("a%*c", "a/b/c", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn pathological_patterns_stay_fast() {
        let pattern = format!("{}z", "*a%".repeat(300));
        let name = "a/".repeat(120) + "a";
        assert!(!matches(&pattern, &name));
    }
}
