//! Values: what a file, a variable or a flag says, checked against a setting's kind.

use crate::table::Kind;
use parliament_ids::Network;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value as it was given. Variables and flags give [`Raw::Text`] for every kind, so text is read as whatever is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Raw {
    Text(String),
    Integer(i128),
    Flag(bool),
    List(Vec<Raw>),
    /// Something no setting takes; the name of its type.
    Other(&'static str),
    /// Something that was reported when it was read.
    Reported,
}

impl Raw {
    fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(n) => n.to_string(),
            Self::Flag(on) => on.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(name) => format!("a {name}"),
            Self::Reported => "what was reported before".to_owned(),
        }
    }
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not set, and no default.
    Unset,
    /// A name, a word, any text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// A path.
    Path(PathBuf),
    /// An address.
    Address(SocketAddr),
    /// Several addresses.
    Addresses(Vec<SocketAddr>),
    /// Several networks.
    Networks(Vec<Network>),
    /// A whole number.
    Integer(u64),
    /// A number of bytes.
    Bytes(u64),
    /// Yes or no.
    Flag(bool),
}

impl fmt::Display for Value {
    /// Writes the value as TOML; [`Value::Unset`] as nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Texts(texts) => list(f, texts.iter().map(|t| quoted(t))),
            Self::Path(path) => f.write_str(&quoted(&path.to_string_lossy())),
            Self::Address(address) => write!(f, "\"{address}\""),
            Self::Addresses(addresses) => list(f, addresses.iter().map(|a| format!("\"{a}\""))),
            Self::Networks(networks) => list(f, networks.iter().map(|n| format!("\"{n}\""))),
            Self::Integer(n) => n.fmt(f),
            Self::Bytes(n) => f.write_str(&quoted(&bytes_text(*n))),
            Self::Flag(on) => on.fmt(f),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>) -> fmt::Result {
    write!(f, "[{}]", items.collect::<Vec<_>>().join(", "))
}

/// The text as a TOML string.
#[must_use]
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

const BYTE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

fn in_units(n: u64, units: &[(&str, u64)]) -> String {
    let unit = units.iter().find(|(_, size)| n != 0 && n.is_multiple_of(*size)).or(units.last());
    unit.map_or_else(|| n.to_string(), |(name, size)| format!("{}{name}", n / size))
}

/// A number of bytes in the largest unit that divides it: `64MiB`.
#[must_use]
pub fn bytes_text(n: u64) -> String {
    in_units(n, &BYTE_UNITS)
}

/// A span of time in the largest unit that divides it: `2m`.
#[must_use]
pub fn duration_text(span: Duration) -> String {
    in_units(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS)
}

/// Reads a number with a unit behind it. A bare number is of `bare` when that is given.
fn from_units(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim_start();
    let size = if unit.is_empty() { bare } else { units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, size)| *size) };
    number.checked_mul(size?)
}

/// Reads `500ms`, `10s`, `2m`, `1h` or `1d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    from_units(text, &TIME_UNITS, None).map(Duration::from_millis)
}

impl Kind {
    /// What is wanted, in words, for messages and docs.
    #[must_use]
    pub fn wanted(self) -> String {
        match self {
            Self::Name => "a name of 1 to 63 letters, digits, '-', '_' and '.', starting with a letter or digit".into(),
            Self::Text => "text of at most 1024 bytes without control characters".into(),
            Self::Domain => "a mail domain such as \"example.org\", or \"\"".into(),
            Self::Delimiter => "one character, or \"\"".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Path => "an absolute path".into(),
            Self::Address => "an address such as \"127.0.0.1:7400\" or \"[::]:7400\"".into(),
            Self::Addresses => "a list of addresses such as [\"0.0.0.0:143\"], or [] for none".into(),
            Self::Networks => {
                "a list of networks such as [\"10.0.0.0/8\", \"192.0.2.7\"], each by its first address, or [] for none".into()
            }
            Self::Endpoint => "an address such as \"mx1.example.org:7400\"".into(),
            Self::Endpoints => "a list of addresses such as [\"mx1.example.org:7400\"]".into(),
            Self::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Self::Bytes(min, max) => format!("a size from {} to {}", bytes_text(min), bytes_text(max)),
            Self::Flag => "true or false".into(),
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// A sentence saying what was wanted and what came.
    pub(crate) fn check(self, raw: &Raw) -> Result<Value, String> {
        self.read(raw).ok_or_else(|| format!("wants {}, not {}", self.wanted(), raw.describe()))
    }

    fn read(self, raw: &Raw) -> Option<Value> {
        match self {
            Self::Addresses => {
                let addresses = texts(raw)?.iter().map(|t| t.parse().ok()).collect::<Option<Vec<SocketAddr>>>()?;
                Some(Value::Addresses(addresses))
            }
            Self::Networks => {
                let networks = texts(raw)?.iter().map(|t| t.parse().ok()).collect::<Option<Vec<Network>>>()?;
                Some(Value::Networks(networks))
            }
            Self::Endpoints => texts(raw).filter(|all| all.iter().all(|t| is_endpoint(t))).map(Value::Texts),
            Self::Integer(min, max) => number(raw, &[], 1).filter(|n| (min..=max).contains(n)).map(Value::Integer),
            Self::Bytes(min, max) => number(raw, &BYTE_UNITS, 1).filter(|n| (min..=max).contains(n)).map(Value::Bytes),
            Self::Flag => match raw {
                Raw::Flag(on) => Some(Value::Flag(*on)),
                Raw::Text(text) => text.parse().ok().map(Value::Flag),
                _ => None,
            },
            _ => match raw {
                Raw::Text(text) => self.read_text(text),
                _ => None,
            },
        }
    }

    fn read_text(self, text: &str) -> Option<Value> {
        let good = match self {
            Self::Name => is_name(text),
            Self::Domain => text.is_empty() || (is_name(text) && text.len() <= 255 && !text.contains('_')),
            Self::Delimiter => text.len() <= 1 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'@' && !b.is_ascii_alphanumeric()),
            Self::Choice(words) => words.contains(&text),
            Self::Path => return Some(Value::Path(text.into())).filter(|_| Path::new(text).is_absolute() && !text.contains('\0')),
            Self::Address => return text.parse().ok().map(Value::Address),
            Self::Endpoint => is_endpoint(text),
            _ => text.len() <= 1024 && !text.chars().any(char::is_control),
        };
        good.then(|| Value::Text(text.to_owned()))
    }
}

/// A list of texts; one text is a list of what its commas separate.
fn texts(raw: &Raw) -> Option<Vec<String>> {
    match raw {
        Raw::Text(text) => Some(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()),
        Raw::List(items) => items
            .iter()
            .map(|item| match item {
                Raw::Text(text) => Some(text.trim().to_owned()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn number(raw: &Raw, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    match raw {
        Raw::Integer(n) => u64::try_from(*n).ok(),
        Raw::Text(text) => from_units(text, units, Some(bare)),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=63).contains(&text.len()) && text.bytes().all(inside) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// True for `HOST:PORT` with a host name, an IPv4 address or an IPv6 address in brackets.
#[must_use]
pub fn is_endpoint(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok_and(|a| a.port() != 0) {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let labels = |host: &str| host.split('.').all(|label| !label.is_empty() && label.len() <= 63);
    let host_bytes = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    (1..=253).contains(&host.len()) && labels(host) && host_bytes(host) && port.parse::<u16>().is_ok_and(|p| p != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: Kind, given: &str) -> Result<Value, String> {
        kind.check(&Raw::Text(given.to_owned()))
    }

    #[test]
    fn sizes_and_times_carry_units() {
        let size = Kind::Bytes(1, 1 << 50);
        assert_eq!(text(size, "64MiB"), Ok(Value::Bytes(64 << 20)));
        assert_eq!(text(size, "64 mib"), Ok(Value::Bytes(64 << 20)));
        assert_eq!(text(size, "512"), Ok(Value::Bytes(512)));
        assert_eq!(size.check(&Raw::Integer(512)), Ok(Value::Bytes(512)));
        assert!(text(size, "64MB").is_err());
        assert!(text(size, "99999999999999999999").is_err());
        assert!(text(size, "17179869184TiB").is_err(), "overflow");
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("2"), None, "a time without a unit says nothing");
        assert_eq!(Value::Bytes(1536).to_string(), "\"1536B\"");
        assert_eq!(duration_text(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn out_of_bounds_says_the_bounds() {
        let error = Kind::Integer(1, 1024).check(&Raw::Integer(4096)).unwrap_err();
        assert_eq!(error, "wants a whole number from 1 to 1024, not 4096");
        assert!(Kind::Integer(1, 9).check(&Raw::Integer(-1)).is_err());
    }

    #[test]
    fn addresses_and_endpoints() {
        assert_eq!(text(Kind::Addresses, ""), Ok(Value::Addresses(vec![])));
        assert_eq!(
            text(Kind::Addresses, "127.0.0.1:1, [::1]:2"),
            Ok(Value::Addresses(vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]))
        );
        assert!(text(Kind::Addresses, "localhost:1").is_err(), "listening is on addresses, not names");
        assert!(is_endpoint("mx1.example.org:7400") && is_endpoint("[fe80::1]:7400"));
        assert!(!is_endpoint("mx1") && !is_endpoint(":7400") && !is_endpoint("a:0") && !is_endpoint("a..b:1") && !is_endpoint("::1:7400"));
    }

    #[test]
    fn networks_are_named_by_their_first_address() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        assert_eq!(text(Kind::Networks, ""), Ok(Value::Networks(vec![])));
        let read = text(Kind::Networks, "10.0.0.0/8, 192.0.2.7,2001:db8::/32").unwrap();
        assert_eq!(read, Value::Networks(vec![network("10.0.0.0/8"), network("192.0.2.7"), network("2001:db8::/32")]));
        assert_eq!(read.to_string(), "[\"10.0.0.0/8\", \"192.0.2.7/32\", \"2001:db8::/32\"]");
        assert!(text(Kind::Networks, "10.0.0.1/8").is_err() && text(Kind::Networks, "localhost").is_err());
    }

    #[test]
    fn names_and_words() {
        assert!(text(Kind::Name, "mx-1.eu").is_ok());
        assert!(text(Kind::Name, "-mx").is_err() && text(Kind::Name, "").is_err() && text(Kind::Name, "a b").is_err());
        assert!(text(Kind::Path, "var/lib").is_err());
        assert!(text(Kind::Delimiter, "+").is_ok() && text(Kind::Delimiter, "").is_ok() && text(Kind::Delimiter, "@").is_err());
        assert_eq!(text(Kind::Choice(&["a", "b"]), "c").unwrap_err(), "wants one of a, b, not \"c\"");
        assert!(text(Kind::Flag, "yes").is_err());
    }
}
