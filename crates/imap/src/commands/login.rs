//! What a proxy tells in ID, STARTTLS, LOGIN, AUTHENTICATE and ENABLE (RFC 9051 sections 6.2 and 6.3.1, RFC 4616, RFC 4959, RFC 5161).

use crate::Session;
use crate::session::{Job, Mechanism, Output, Secret};
use crate::wire::{COMMAND_BYTES_MAX, Event};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parliament_mail_api::{Forwarded, Identity, LoginError};

/// Failed logins of one connection.
const FAILED_LOGINS_MAX: u32 = 10;

/// A password is with the directory.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    tag: String,
}

/// An AUTHENTICATE waits for the client.
#[derive(Clone, Debug)]
pub(crate) struct Sasl {
    tag: String,
    step: Step,
}

#[derive(Clone, Debug)]
enum Step {
    Plain,
    LoginName,
    LoginPassword { name: String },
}

impl Session {
    /// True when passwords may travel on this link.
    pub(crate) fn may_send_password(&self) -> bool {
        self.settings.tls || self.settings.plain_login
    }

    /// Takes from an ID what a trusted proxy tells of its client. From anybody else, and once logged in, these are fields like all.
    pub(crate) fn believe(&mut self, pairs: &[(String, Option<String>)]) {
        if !self.settings.trusted || self.identity.is_some() {
            return;
        }
        let told = Forwarded::from_id(pairs.iter().filter_map(|(field, value)| Some((field.as_str(), value.as_deref()?))));
        if !told.is_empty() {
            self.push(Output::Forwarded(told));
        }
    }

    pub(crate) fn start_tls(&mut self, tag: &str) {
        if self.identity.is_some() || self.settings.tls || !self.settings.starttls {
            return self.tagged(tag, "BAD STARTTLS is not possible now");
        }
        self.tagged(tag, "OK Begin TLS negotiation now");
        // What was pipelined behind the command may come from someone in between: it never counts.
        self.framer.reset();
        self.job = Job::Tls;
        self.push(Output::StartTls);
    }

    pub(crate) fn on_tls_started(&mut self) {
        if matches!(self.job, Job::Tls) {
            self.framer.reset();
            self.job = Job::None;
            self.settings.tls = true;
        }
    }

    fn login_allowed(&mut self, tag: &str) -> bool {
        if self.identity.is_some() {
            self.tagged(tag, "BAD Logged in already");
            return false;
        }
        if !self.may_send_password() {
            self.tagged(tag, "NO [PRIVACYREQUIRED] Passwords are not taken on a plain connection");
            return false;
        }
        true
    }

    pub(crate) fn login(&mut self, tag: String, name: String, password: Secret) {
        if self.login_allowed(&tag) {
            self.check(tag, Mechanism::LoginCommand, name, password);
        }
    }

    fn check(&mut self, tag: String, mechanism: Mechanism, name: String, password: Secret) {
        self.job = Job::Login(Login { tag });
        self.push(Output::Login { mechanism, name, password });
    }

    pub(crate) fn authenticate(&mut self, tag: String, mechanism: &str, initial: Option<Vec<u8>>) {
        let step = match mechanism {
            "PLAIN" => Step::Plain,
            "LOGIN" => Step::LoginName,
            _ => return self.tagged(&tag, "NO [CANNOT] Unknown mechanism"),
        };
        if !self.login_allowed(&tag) {
            return;
        }
        let sasl = Sasl { tag, step };
        match initial {
            // A lone `=` is an empty initial response (RFC 4959 section 3).
            Some(initial) if initial == b"=" => self.sasl_response(sasl, b""),
            Some(initial) => self.sasl_response(sasl, &initial),
            None => self.sasl_ask(sasl),
        }
    }

    fn sasl_ask(&mut self, sasl: Sasl) {
        self.go_on(match sasl.step {
            Step::Plain => "",
            Step::LoginName => "VXNlcm5hbWU6",
            Step::LoginPassword { .. } => "UGFzc3dvcmQ6",
        });
        self.job = Job::Sasl(sasl);
    }

    pub(crate) fn next_sasl_line(&mut self) -> bool {
        let Some(event) = self.framer.next(true) else { return false };
        let Job::Sasl(sasl) = std::mem::take(&mut self.job) else { return false };
        match event {
            Event::Line(line) if line == b"*" => self.tagged(&sasl.tag, "BAD Authentication cancelled"),
            Event::Line(line) => self.sasl_response(sasl, &line),
            _ => self.tagged(&sasl.tag, "BAD Response is too long"),
        }
        true
    }

    fn sasl_response(&mut self, sasl: Sasl, line: &[u8]) {
        let Some(text) = BASE64.decode(line).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
            return self.tagged(&sasl.tag, "BAD Response is not valid base64 of UTF-8");
        };
        match sasl.step {
            Step::Plain => {
                let mut parts = text.split('\0');
                let (Some(acting), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
                    return self.tagged(&sasl.tag, "BAD Malformed PLAIN response");
                };
                if !acting.is_empty() && acting != name {
                    return self.tagged(&sasl.tag, "NO [AUTHORIZATIONFAILED] Acting for another user is not possible");
                }
                self.check(sasl.tag, Mechanism::Plain, name.to_owned(), Secret(password.to_owned()));
            }
            Step::LoginName => self.sasl_ask(Sasl { tag: sasl.tag, step: Step::LoginPassword { name: text } }),
            Step::LoginPassword { name } => self.check(sasl.tag, Mechanism::Login, name, Secret(text)),
        }
    }

    pub(crate) fn on_login_result(&mut self, result: Result<Identity, LoginError>) {
        let Job::Login(Login { tag }) = std::mem::take(&mut self.job) else { return };
        match result {
            Ok(identity) => {
                self.identity = Some(identity);
                self.framer.set_limit(COMMAND_BYTES_MAX);
                let capabilities = self.capabilities();
                self.tagged(&tag, &format!("OK [CAPABILITY {capabilities}] Logged in"));
            }
            Err(LoginError::Unavailable) => self.unavailable(&tag),
            Err(LoginError::Refused | LoginError::Throttled) => {
                self.tagged(&tag, "NO [AUTHENTICATIONFAILED] Authentication failed");
                self.failed_logins += 1;
                if self.failed_logins >= FAILED_LOGINS_MAX {
                    self.bye(format_args!("Too many failed logins"));
                }
            }
        }
    }

    pub(crate) fn enable(&mut self, tag: &str, names: &[String]) {
        if self.view.is_some() {
            return self.tagged(tag, "BAD ENABLE is not possible while a mailbox is selected");
        }
        let mut told = String::new();
        for name in names {
            let new = match name.as_str() {
                "CONDSTORE" => !std::mem::replace(&mut self.enabled.condstore, true),
                "UTF8=ACCEPT" => !std::mem::replace(&mut self.enabled.utf8, true),
                "IMAP4REV2" if self.settings.imap4rev2 => !std::mem::replace(&mut self.enabled.rev2, true),
                _ => false,
            };
            if new {
                told.push(' ');
                told.push_str(if name == "IMAP4REV2" { "IMAP4rev2" } else { name });
            }
        }
        self.w.utf8 = self.enabled.utf8 || self.enabled.rev2;
        self.w.fmt(format_args!("* ENABLED{told}\r\n"));
        self.done(tag, format_args!("OK Enable completed"));
    }
}
