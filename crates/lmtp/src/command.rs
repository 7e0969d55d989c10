//! Command lines (RFC 5321 section 4.1.1, RFC 2033 section 4.1, RFC 3030 section 2, Postfix's XCLIENT).

use crate::address::{is_domain, parse_path};
use crate::replies as say;

/// A command with its arguments checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Lhlo { domain: String },
    Mail { from: String, size: u64, utf8: bool },
    Rcpt { to: String },
    Data,
    Bdat { size: u64, last: bool },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
    StartTls,
    Xclient { arguments: String },
}

/// Parses a line without its CRLF; the error is the reply's text.
pub(crate) fn parse(line: &[u8]) -> Result<Command, &'static str> {
    if line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(say::SYNTAX);
    }
    let line = std::str::from_utf8(line).map_err(|_| say::SYNTAX)?.trim_end_matches([' ', '\t']);
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let bare = |command| if rest.is_empty() { Ok(command) } else { Err(say::ARGUMENTS) };
    match verb.to_ascii_uppercase().as_str() {
        "LHLO" if is_domain(rest) => Ok(Command::Lhlo { domain: rest.to_owned() }),
        "LHLO" => Err(say::ARGUMENTS),
        "HELO" | "EHLO" => Err(say::NOT_SMTP),
        "MAIL" => mail(after_keyword(rest, "FROM:")?),
        "RCPT" => rcpt(after_keyword(rest, "TO:")?),
        "DATA" => bare(Command::Data),
        "BDAT" => bdat(rest),
        "RSET" => bare(Command::Rset),
        "NOOP" => Ok(Command::Noop),
        "QUIT" => bare(Command::Quit),
        "VRFY" => Ok(Command::Vrfy),
        "HELP" => Ok(Command::Help),
        "STARTTLS" => bare(Command::StartTls),
        "XCLIENT" => Ok(Command::Xclient { arguments: rest.to_owned() }),
        _ => Err(say::UNKNOWN_COMMAND),
    }
}

fn after_keyword<'a>(text: &'a str, keyword: &str) -> Result<&'a str, &'static str> {
    match text.split_at_checked(keyword.len()) {
        Some((head, rest)) if head.eq_ignore_ascii_case(keyword) => Ok(rest),
        _ => Err(say::ARGUMENTS),
    }
}

fn mail(text: &str) -> Result<Command, &'static str> {
    let (from, parameters) = parse_path(text).ok_or(say::BAD_SENDER)?;
    let (mut size, mut utf8) = (0, false);
    for parameter in split_parameters(parameters)? {
        let (name, value) = parameter.split_once('=').map_or((parameter, None), |(n, v)| (n, Some(v)));
        match (name.to_ascii_uppercase().as_str(), value) {
            ("SIZE", Some(digits)) => size = decimal(digits).ok_or(say::PARAMETER_VALUE)?,
            ("BODY", Some(kind)) if kind.eq_ignore_ascii_case("7BIT") || kind.eq_ignore_ascii_case("8BITMIME") => {}
            ("SMTPUTF8", None) => utf8 = true,
            ("SIZE" | "BODY" | "SMTPUTF8", _) => return Err(say::PARAMETER_VALUE),
            _ => return Err(say::PARAMETER),
        }
    }
    if !utf8 && !from.is_ascii() {
        return Err(say::NOT_ASCII);
    }
    Ok(Command::Mail { from, size, utf8 })
}

fn rcpt(text: &str) -> Result<Command, &'static str> {
    let (to, parameters) = parse_path(text).ok_or(say::BAD_RECIPIENT)?;
    if to.is_empty() {
        return Err(say::BAD_RECIPIENT);
    }
    if split_parameters(parameters)?.next().is_some() { Err(say::PARAMETER) } else { Ok(Command::Rcpt { to }) }
}

fn split_parameters(text: &str) -> Result<impl Iterator<Item = &str>, &'static str> {
    if text.is_empty() || text.starts_with(' ') { Ok(text.split(' ').filter(|p| !p.is_empty())) } else { Err(say::ARGUMENTS) }
}

fn bdat(text: &str) -> Result<Command, &'static str> {
    let (digits, last) = match text.split_once(' ') {
        None => (text, false),
        Some((digits, marker)) if marker.eq_ignore_ascii_case("LAST") => (digits, true),
        Some(_) => return Err(say::CHUNK),
    };
    decimal(digits).map(|size| Command::Bdat { size, last }).ok_or(say::CHUNK)
}

/// RFC 1870 section 5 and RFC 3030 section 2: up to 20 digits, nothing else.
fn decimal(digits: &str) -> Option<u64> {
    (digits.len() <= 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_in_any_case() {
        assert_eq!(parse(b"lhlo [127.0.0.1]"), Ok(Command::Lhlo { domain: "[127.0.0.1]".into() }));
        let from = Command::Mail { from: "a@b".into(), size: 7, utf8: true };
        assert_eq!(parse(b"Mail From:<a@b> size=7 BODY=8bitmime SMTPUTF8"), Ok(from));
        assert_eq!(parse(b"RCPT TO: <c@d> "), Ok(Command::Rcpt { to: "c@d".into() }));
        assert_eq!(parse(b"bdat 0 last"), Ok(Command::Bdat { size: 0, last: true }));
    }

    #[test]
    fn each_fault_has_its_reply() {
        let cases: [(&[u8], &str); 16] = [
            (b"EHLO x", say::NOT_SMTP),
            (b"LHLO", say::ARGUMENTS),
            (b"LHLO a b", say::ARGUMENTS),
            (b"MAIL <a@b>", say::ARGUMENTS),
            (b"MAIL FROM:a@b", say::BAD_SENDER),
            (b"MAIL FROM:<a@b>SIZE=1", say::ARGUMENTS),
            (b"MAIL FROM:<a@b> SIZE=-1", say::PARAMETER_VALUE),
            (b"MAIL FROM:<a@b> SIZE=99999999999999999999", say::PARAMETER_VALUE),
            (b"MAIL FROM:<a@b> BODY=BINARYMIME", say::PARAMETER_VALUE),
            (b"MAIL FROM:<a@b> RET=HDRS", say::PARAMETER),
            ("MAIL FROM:<ä@b>".as_bytes(), say::NOT_ASCII),
            (b"RCPT TO:<>", say::BAD_RECIPIENT),
            (b"RCPT TO:<a@b> NOTIFY=NEVER", say::PARAMETER),
            (b"BDAT", say::CHUNK),
            (b"NOOP \0", say::SYNTAX),
            (b"MAIL FROM:<\xff@b>", say::SYNTAX),
        ];
        for (line, reply) in cases {
            assert_eq!(parse(line), Err(reply), "{:?}", String::from_utf8_lossy(line));
        }
    }
}
