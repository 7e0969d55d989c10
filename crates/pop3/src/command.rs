//! Command lines (RFC 1939 sections 5 to 7, RFC 2449 section 5, RFC 2595 section 4, Dovecot's XCLIENT) and SASL PLAIN (RFC 4616).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Capa,
    User(String),
    Pass(String),
    /// AUTH PLAIN with its initial response, if any.
    AuthPlain(Option<String>),
    AuthUnknown,
    Stls,
    /// XCLIENT with its arguments.
    Xclient(String),
    Stat,
    List(Option<u32>),
    Uidl(Option<u32>),
    Retr(u32),
    Top(u32, u64),
    Dele(u32),
    Rset,
    Noop,
    Quit,
}

/// Parses a line without its end; the error is the text after `-ERR`.
pub(crate) fn parse(line: &[u8]) -> Result<Command, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "Not UTF-8")?;
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let bare = |command| if rest.trim().is_empty() { Ok(command) } else { Err("No arguments here") };
    match verb.to_ascii_uppercase().as_str() {
        "CAPA" => bare(Command::Capa),
        "USER" if !rest.is_empty() => Ok(Command::User(rest.to_owned())),
        // Spaces belong to a password.
        "PASS" => Ok(Command::Pass(rest.to_owned())),
        "AUTH" => Ok(auth(rest.trim())),
        "STLS" => bare(Command::Stls),
        "XCLIENT" => Ok(Command::Xclient(rest.trim().to_owned())),
        "STAT" => bare(Command::Stat),
        "LIST" => optional_number(rest).map(Command::List),
        "UIDL" => optional_number(rest).map(Command::Uidl),
        "RETR" => number(rest.trim()).map(Command::Retr),
        "DELE" => number(rest.trim()).map(Command::Dele),
        "TOP" => top(rest.trim()),
        "RSET" => bare(Command::Rset),
        "NOOP" => bare(Command::Noop),
        "QUIT" => bare(Command::Quit),
        _ => Err("Unknown command"),
    }
}

fn auth(text: &str) -> Command {
    let (mechanism, initial) = text.split_once(' ').map_or((text, None), |(m, i)| (m, Some(i.to_owned())));
    if mechanism.eq_ignore_ascii_case("PLAIN") { Command::AuthPlain(initial) } else { Command::AuthUnknown }
}

fn number(text: &str) -> Result<u32, &'static str> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().map_err(|_| "No such message") } else { Err("Message number expected") }
}

fn optional_number(text: &str) -> Result<Option<u32>, &'static str> {
    match text.trim() {
        "" => Ok(None),
        text => number(text).map(Some),
    }
}

fn top(text: &str) -> Result<Command, &'static str> {
    let (message, lines) = text.split_once(' ').ok_or("Message number and lines expected")?;
    let lines = lines.trim();
    if lines.is_empty() || !lines.bytes().all(|b| b.is_ascii_digit()) {
        return Err("Message number and lines expected");
    }
    // More digits than fit mean the whole message.
    Ok(Command::Top(number(message)?, lines.parse().unwrap_or(u64::MAX)))
}

/// Name and password out of a response of PLAIN: `[authzid] NUL authcid NUL passwd` in base64. To act for another user is
/// not offered, so `authzid` must be empty or the same.
pub(crate) fn plain(response: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(response).ok()?).ok()?;
    let mut parts = text.split('\0');
    let (act_for, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && !name.is_empty() && (act_for.is_empty() || act_for == name);
    whole.then(|| (name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_faults() {
        assert_eq!(parse(b"pass a  b "), Ok(Command::Pass("a  b ".into())));
        assert_eq!(parse(b"LIST "), Ok(Command::List(None)));
        assert_eq!(parse(b"Top 2 0"), Ok(Command::Top(2, 0)));
        assert_eq!(parse(b"TOP 2 99999999999999999999"), Ok(Command::Top(2, u64::MAX)));
        assert_eq!(parse(b"auth plain AGE="), Ok(Command::AuthPlain(Some("AGE=".into()))));
        for line in [&b"RETR"[..], b"RETR -1", b"RETR 99999999999", b"TOP 1", b"TOP 1 x", b"QUIT now", b"USER", b"APOP a b", b"\xff", b""] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn plain_responses() {
        let response = |text: &str| plain(&STANDARD.encode(text));
        assert_eq!(response("\0ann\0secret"), Some(("ann".into(), "secret".into())));
        assert_eq!(response("ann\0ann\0"), Some(("ann".into(), String::new())));
        assert_eq!(response("root\0ann\0secret"), None);
        assert_eq!(response("\0\0secret"), None);
        assert_eq!(response("\0ann\0a\0b"), None);
        assert_eq!(plain("%%%"), None);
    }
}
