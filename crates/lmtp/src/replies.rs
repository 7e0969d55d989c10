//! Texts of replies with their codes (RFC 5321 section 4.2, RFC 3463) and what an outcome says to the client.

use parliament_mail_api::{Answer, RecipientError, Rejection, Unserved};

pub(crate) const SYNTAX: &str = "500 5.5.2 Syntax error";
pub(crate) const LINE_TOO_LONG: &str = "500 5.5.2 Line too long";
pub(crate) const BARE_LF: &str = "500 5.5.2 Commands end with CRLF, closing";
pub(crate) const NOT_SMTP: &str = "500 5.5.1 This is LMTP, say LHLO";
pub(crate) const UNKNOWN_COMMAND: &str = "500 5.5.1 Unknown command";
pub(crate) const ARGUMENTS: &str = "501 5.5.4 Bad arguments";
pub(crate) const PARAMETER_VALUE: &str = "501 5.5.4 Bad parameter value";
pub(crate) const PARAMETER: &str = "555 5.5.4 Unsupported parameter";
pub(crate) const CHUNK: &str = "501 5.5.4 Bad BDAT arguments, closing";
pub(crate) const CHUNK_TOO_LONG: &str = "552 5.3.4 Chunk exceeds all bounds, closing";
pub(crate) const BAD_SENDER: &str = "501 5.1.7 Bad sender address";
pub(crate) const BAD_RECIPIENT: &str = "501 5.1.3 Bad recipient address";
pub(crate) const NOT_ASCII: &str = "553 5.6.7 Address needs SMTPUTF8";
pub(crate) const LHLO_FIRST: &str = "503 5.5.1 LHLO first";
pub(crate) const NESTED_MAIL: &str = "503 5.5.1 Sender already given";
pub(crate) const MAIL_FIRST: &str = "503 5.5.1 MAIL first";
pub(crate) const NO_RECIPIENTS: &str = "503 5.5.1 No valid recipients";
pub(crate) const AFTER_BDAT: &str = "503 5.5.1 DATA and BDAT do not mix";
pub(crate) const NO_TLS: &str = "502 5.5.1 STARTTLS not available";
pub(crate) const NOT_TRUSTED: &str = "550 5.7.14 You are not from a trusted network";
pub(crate) const XCLIENT_VALUE: &str = "501 5.5.4 Bad XCLIENT value";
pub(crate) const XCLIENT_NAME: &str = "501 5.5.4 Unknown XCLIENT attribute";
pub(crate) const IN_TRANSACTION: &str = "503 5.5.1 Not within a mail transaction";
pub(crate) const TOO_MANY_RECIPIENTS: &str = "452 4.5.3 Too many recipients";
pub(crate) const TOO_BIG: &str = "552 5.3.4 Message too big";
pub(crate) const NO_SPACE: &str = "452 4.3.1 No space for the message now";
pub(crate) const TOO_MANY_ERRORS: &str = "421 4.7.0 Too many errors";
pub(crate) const TOO_MANY_CONNECTIONS: &str = "421 4.7.0 Too many connections";
pub(crate) const IDLE: &str = "421 4.4.2 Idle too long";
pub(crate) const SHUTDOWN: &str = "421 4.3.2 Shutting down";
pub(crate) const OK: &str = "250 2.0.0 OK";
pub(crate) const SENDER_OK: &str = "250 2.1.0 Sender OK";
pub(crate) const RECIPIENT_OK: &str = "250 2.1.5 Recipient OK";
pub(crate) const GO_AHEAD: &str = "354 End with <CRLF>.<CRLF>";
pub(crate) const VRFY: &str = "252 2.5.0 Try to deliver";
pub(crate) const HELP: &str = "214 2.0.0 LMTP, RFC 2033";
pub(crate) const START_TLS: &str = "220 2.0.0 Start TLS";
pub(crate) const BYE: &str = "221 2.0.0 Bye";

/// The answer to RCPT for an address that was not found.
pub(crate) const fn recipient(error: RecipientError) -> &'static str {
    match error {
        RecipientError::Unknown => "550 5.1.1 No such user",
        RecipientError::Unavailable => "451 4.3.0 Directory not available now",
    }
}

/// What is told after DATA for one recipient. Whatever may succeed later, or may have succeeded unheard, is 4xx: the next
/// try carries the same dedupe key.
pub(crate) fn delivery(result: &Result<Answer, Unserved>) -> &'static str {
    let outcome = match result {
        Ok(answer) => &answer.outcome,
        Err(_) => return "451 4.3.0 Mailbox not available now",
    };
    match outcome {
        Ok(_) => "250 2.0.0 Saved",
        Err(Rejection::OverQuota) => "452 4.2.2 Mailbox over quota",
        Err(Rejection::TooBig) => TOO_BIG,
        Err(Rejection::NoSuchAccount) => "550 5.1.1 No such user",
        Err(Rejection::NoPermission) => "550 5.7.1 Not permitted",
        Err(Rejection::Limit | Rejection::Exhausted) => "452 4.2.0 Mailbox at its limits",
        Err(_) => "451 4.3.0 Not delivered now",
    }
}
