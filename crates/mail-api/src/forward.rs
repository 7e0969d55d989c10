//! What a trusted proxy tells of the client behind it: IMAP's ID and the XCLIENT of POP3 and LMTP, as Dovecot and Postfix send
//! them. Values that cannot be read are passed over where the proxy could not be told, and refused where it can.

use std::net::{IpAddr, Ipv6Addr};

/// Longest name that a proxy may give a session, bytes; longer ones are cut.
const SESSION_BYTES_MAX: usize = 128;

/// The client behind a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Its address.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
    /// The proxy's name for the session, for logs: printable ASCII without spaces.
    pub session: Option<String>,
}

/// Why an XCLIENT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XclientError {
    /// No `NAME=value`, or a value that its name does not take.
    Value,
    /// A name that nobody uses.
    Name,
}

impl Forwarded {
    /// True when nothing is told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What an ID command tells (Dovecot's `x-originating-ip`, `x-originating-port`, `x-session-id`; its other `x-` fields are of
    /// no use here).
    pub fn from_id<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut told = Self::default();
        for (field, value) in pairs {
            match field.to_ascii_lowercase().as_str() {
                "x-originating-ip" => told.address = address(value).or(told.address),
                "x-originating-port" => told.port = port(value).or(told.port),
                "x-session-id" => told.session = session(value).or(told.session),
                _ => {}
            }
        }
        told
    }

    /// What the arguments of XCLIENT tell. A value in brackets (`[UNAVAILABLE]`) tells nothing.
    ///
    /// # Errors
    /// [`XclientError`]: nothing of the command counts then.
    pub fn from_xclient(arguments: &str) -> Result<Self, XclientError> {
        let mut told = Self::default();
        for argument in arguments.split(' ').filter(|argument| !argument.is_empty()) {
            let (name, value) = argument.split_once('=').ok_or(XclientError::Value)?;
            let is_absent = value.starts_with('[') && value.ends_with(']');
            match name.to_ascii_uppercase().as_str() {
                _ if is_absent => {}
                "ADDR" => told.address = Some(address(value).ok_or(XclientError::Value)?),
                "PORT" => told.port = Some(port(value).ok_or(XclientError::Value)?),
                "SESSION" => told.session = session(value),
                // Postfix's and Dovecot's other names: nothing here depends on them.
                "NAME" | "HELO" | "LOGIN" | "PROTO" | "REVERSE_NAME" | "DESTADDR" | "DESTPORT" | "TTL" | "TIMEOUT" | "FORWARD"
                | "CLIENT-TRANSPORT" => {}
                _ => return Err(XclientError::Name),
            }
        }
        Ok(told)
    }
}

/// An address, also with Postfix's `IPV6:` in front.
fn address(text: &str) -> Option<IpAddr> {
    let after_prefix = text.split_at_checked(5).filter(|(prefix, _)| prefix.eq_ignore_ascii_case("IPV6:"));
    let address = match after_prefix {
        Some((_, rest)) => IpAddr::V6(rest.parse::<Ipv6Addr>().ok()?),
        None => text.parse().ok()?,
    };
    Some(address.to_canonical())
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// It goes into log lines, so it is held to characters that cannot make up another line or field.
fn session(text: &str) -> Option<String> {
    let kept: String = text.chars().filter(char::is_ascii_graphic).take(SESSION_BYTES_MAX).collect();
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_what_dovecot_sends() {
        let pairs = [
            ("name", "Dovecot"),
            ("X-Originating-IP", "203.0.113.9"),
            ("x-originating-port", "40000"),
            ("x-connected-ip", "192.0.2.1"),
            ("x-connected-port", "143"),
            ("x-proxy-ttl", "5"),
            ("x-session-id", "a b\r\nc"),
            ("x-forward-tls", "yes"),
        ];
        let told = Forwarded::from_id(pairs);
        let expected = Forwarded { address: "203.0.113.9".parse().ok(), port: Some(40000), session: Some("abc".into()) };
        assert_eq!(told, expected);
        assert!(Forwarded::from_id([("x-originating-ip", "mx1"), ("x-originating-port", "-1"), ("x-session-id", "")]).is_empty());
    }

    #[test]
    fn an_xclient_tells_what_dovecot_and_postfix_send() {
        let told = Forwarded::from_xclient("ADDR=203.0.113.9 PORT=40000 SESSION=x/1 TTL=5 FORWARD=YQ== PROTO=LMTP").unwrap();
        let expected = Forwarded { address: "203.0.113.9".parse().ok(), port: Some(40000), session: Some("x/1".into()) };
        assert_eq!(told, expected);
        let told = Forwarded::from_xclient("addr=IPv6:2001:db8::1 name=[UNAVAILABLE] port=[TEMPUNAVAIL]").unwrap();
        assert_eq!((told.address, told.port), ("2001:db8::1".parse().ok(), None));
        assert_eq!(Forwarded::from_xclient("ADDR=::ffff:192.0.2.1").unwrap().address, "192.0.2.1".parse().ok());
        assert_eq!(Forwarded::from_xclient(""), Ok(Forwarded::default()));
        for (arguments, error) in [
            ("ADDR", XclientError::Value),
            ("ADDR=", XclientError::Value),
            ("ADDR=mx1", XclientError::Value),
            ("ADDR=IPV6:192.0.2.1", XclientError::Value),
            ("PORT=65536", XclientError::Value),
            ("PORT=+1", XclientError::Value),
            ("ADDR=192.0.2.1 COLOUR=red", XclientError::Name),
        ] {
            assert_eq!(Forwarded::from_xclient(arguments), Err(error), "{arguments}");
        }
    }

    #[test]
    fn names_of_sessions_are_bounded() {
        let told = Forwarded::from_id([("x-session-id", "é".repeat(500).as_str())]);
        assert_eq!(told.session, None);
        let told = Forwarded::from_id([("x-session-id", "x".repeat(500).as_str())]);
        assert_eq!(told.session.map(|s| s.len()), Some(SESSION_BYTES_MAX));
    }
}
