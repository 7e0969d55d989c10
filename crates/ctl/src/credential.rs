//! Passwords become `{SCHEME}hash` here, so that none ever travels or is stored in clear.

use crate::error::AdminError;
use argon2::password_hash::{PasswordHasher as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use std::io::Read as _;

/// Longest password, bytes.
const PASSWORD_BYTES_MAX: usize = 1024;
/// Letters of generated passwords: none that are mistaken for each other.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// What a hash costs to make and to check.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    /// 19 MiB and two passes: argon2's recommendation.
    Real,
    /// Next to nothing: for the demo's accounts, whose password is printed anyway.
    Demo,
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], AdminError> {
    let path = std::path::Path::new("/dev/urandom");
    let mut bytes = [0; N];
    std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut bytes)).map_err(|e| AdminError::file(path, e))?;
    Ok(bytes)
}

/// A password of 20 letters, 100 bits.
pub(crate) fn generate() -> Result<String, AdminError> {
    let letter = |b: u8| char::from(LETTERS[usize::from(b) % LETTERS.len()]);
    Ok(random::<20>()?.into_iter().map(letter).collect())
}

/// `{ARGON2ID}$argon2id$…` of a password.
pub(crate) fn hash(password: &str, cost: Cost) -> Result<String, AdminError> {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX || password.contains(['\0', '\r', '\n']) {
        let message = format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes, in one line, without NUL");
        return Err(AdminError::usage(message).with_hint("choose another one"));
    }
    let bug = |e: &dyn std::fmt::Display| AdminError::new(crate::code::REPLY, crate::exit::BUG, format!("hashing failed: {e}"));
    let params = match cost {
        Cost::Real => Params::default(),
        Cost::Demo => Params::new(64, 1, 1, None).map_err(|e| bug(&e))?,
    };
    let salt = SaltString::encode_b64(&random::<16>()?).map_err(|e| bug(&e))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let phc = argon2.hash_password(password.as_bytes(), &salt).map_err(|e| bug(&e))?;
    Ok(format!("{{ARGON2ID}}{phc}"))
}

/// Prefixes of crypt's own forms, and the schemes they mean.
const CRYPT_FORMS: [(&str, &str); 6] = [
    ("$argon2id$", "ARGON2ID"),
    ("$6$", "SHA512-CRYPT"),
    ("$5$", "SHA256-CRYPT"),
    ("$2a$", "BLF-CRYPT"),
    ("$2b$", "BLF-CRYPT"),
    ("$2y$", "BLF-CRYPT"),
];

/// One line of an import file: `name:{SCHEME}hash` or `name:$6$…`, as in passwd files; fields behind a further colon are
/// passed over, and so are empty lines and comments (`None`). `{PLAIN}secret` is hashed.
pub(crate) fn import_line(line: &str) -> Result<Option<(String, String)>, String> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, rest) = line.split_once(':').ok_or("no `:` between name and password hash")?;
    if name.is_empty() || name.len() > 320 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("no login name before the first `:`".to_owned());
    }
    if let Some(plain) = rest.strip_prefix("{PLAIN}") {
        return hash(plain, Cost::Real).map(|c| Some((name.to_owned(), c))).map_err(|e| e.message);
    }
    let stored = rest.split(':').next().unwrap_or_default();
    if stored.starts_with('{') {
        return Ok(Some((name.to_owned(), stored.to_owned())));
    }
    match CRYPT_FORMS.iter().find(|(prefix, _)| stored.starts_with(prefix)) {
        Some((_, scheme)) => Ok(Some((name.to_owned(), format!("{{{scheme}}}{stored}")))),
        None => {
            Err("the password has no scheme: write {ARGON2ID}, {SHA512-CRYPT}, {SHA256-CRYPT}, {BLF-CRYPT} or {PLAIN} before it".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::{PasswordHash, PasswordVerifier as _};

    #[test]
    fn hashes_verify_and_differ() {
        let (a, b) = (hash("secret", Cost::Demo).unwrap(), hash("secret", Cost::Demo).unwrap());
        assert_ne!(a, b, "the salt is random");
        let phc = a.strip_prefix("{ARGON2ID}").unwrap();
        let parsed = PasswordHash::new(phc).unwrap();
        assert!(Argon2::default().verify_password(b"secret", &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"secreT", &parsed).is_err());
        assert!(hash("", Cost::Demo).is_err() && hash("a\nb", Cost::Demo).is_err() && hash(&"x".repeat(1025), Cost::Demo).is_err());
    }

    #[test]
    fn generated_passwords_are_typed_easily() {
        let password = generate().unwrap();
        assert_eq!(password.len(), 20);
        assert!(password.bytes().all(|b| LETTERS.contains(&b)));
        assert_ne!(password, generate().unwrap());
    }

    #[test]
    fn import_lines() {
        let pair = |n: &str, c: &str| Ok(Some((n.to_owned(), c.to_owned())));
        assert_eq!(import_line("ann:{SHA512-CRYPT}$6$x$y:1000:1000::/home\r\n"), pair("ann", "{SHA512-CRYPT}$6$x$y"));
        assert_eq!(import_line("ann@a.org:$2y$05$abc"), pair("ann@a.org", "{BLF-CRYPT}$2y$05$abc"));
        assert_eq!(import_line("# comment"), Ok(None));
        assert_eq!(import_line("  \n"), Ok(None));
        assert!(import_line("ann").is_err() && import_line(":x").is_err() && import_line("ann:secret").is_err());
        let (_, hashed) = import_line("ann:{PLAIN}a:b").unwrap().unwrap();
        assert!(hashed.starts_with("{ARGON2ID}$argon2id$"));
    }
}
