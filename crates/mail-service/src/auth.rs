//! Logins and recipients from group 0's accounts.
//!
//! A login first passes a read barrier of group 0, so that a changed password and a deleted account are in force on every node
//! at once; without a quorum it is *unavailable*, never refused. Unknown users cost the same work as wrong passwords.

use crate::clock::boot_ms;
use crate::node::Local;
use argon2::Argon2;
use argon2::password_hash::rand_core::{OsRng, RngCore};
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use async_trait::async_trait;
use parliament_cluster_state::{AccountName, AccountRecord, account_named};
use parliament_ids::GroupId;
use parliament_mail_api::{Directory, Identity, LoginError, RecipientError};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// How long a successful verification is remembered, ms.
const REMEMBER_MS: u64 = 3_600_000;
/// Verifications remembered at once (40 bytes each).
const REMEMBER_MAX: usize = 100_000;
/// Passwords beyond this are refused unread: argon2's cost must not be the client's to choose.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Hashes a password for storage: `{ARGON2ID}` and a PHC string (m = 19 MiB, t = 2, p = 1, as OWASP advises).
///
/// # Errors
/// When the password is empty or longer than 1,024 bytes.
pub fn hash_password(password: &str) -> Result<String, String> {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes"));
    }
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|e| e.to_string())?;
    Ok(format!("{{ARGON2ID}}{hash}"))
}

/// True when this credential is one that a login understands.
#[must_use]
pub fn is_known_scheme(credential: &str) -> bool {
    let (scheme, hash) = split(credential);
    match scheme.as_str() {
        "ARGON2ID" | "ARGON2I" => PasswordHash::new(hash).is_ok(),
        "SHA512-CRYPT" => hash.starts_with("$6$"),
        "SHA256-CRYPT" => hash.starts_with("$5$"),
        "BLF-CRYPT" => hash.starts_with("$2"),
        _ => false,
    }
}

fn split(credential: &str) -> (String, &str) {
    match credential.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((scheme, hash)) => (scheme.to_ascii_uppercase(), hash),
        None => (String::new(), credential),
    }
}

/// Compares a password with a stored credential. Costs tens of milliseconds of one core.
fn verify(credential: &str, password: &str) -> bool {
    let (scheme, hash) = split(credential);
    match scheme.as_str() {
        "ARGON2ID" | "ARGON2I" => {
            PasswordHash::new(hash).is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
        }
        "SHA512-CRYPT" => sha_crypt::sha512_check(password, hash).is_ok(),
        "SHA256-CRYPT" => sha_crypt::sha256_check(password, hash).is_ok(),
        "BLF-CRYPT" => bcrypt::verify(password, hash).unwrap_or(false),
        _ => false,
    }
}

/// A credential that no password opens, so that unknown users take as long as known ones.
static NOBODY: LazyLock<String> = LazyLock::new(|| hash_password("nobody has this password").unwrap_or_default());

/// The directory that frontends ask.
pub struct Accounts {
    local: Arc<Local>,
    default_domain: String,
    delimiter: Option<char>,
    key: [u8; 32],
    remembered: Mutex<HashMap<[u8; 32], u64>>,
    verifying: Arc<Semaphore>,
}

impl Accounts {
    /// A directory over this node's replica of group 0.
    #[must_use]
    pub fn new(local: Arc<Local>, default_domain: &str, delimiter: Option<char>) -> Self {
        let mut key = [0; 32];
        OsRng.fill_bytes(&mut key);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            local,
            default_domain: default_domain.to_owned(),
            delimiter,
            key,
            remembered: Mutex::new(HashMap::new()),
            verifying: Arc::new(Semaphore::new(cores)),
        }
    }

    fn find(&self, name: &AccountName) -> Result<Option<AccountRecord>, LoginError> {
        account_named(self.local.cluster_tables(), name).map_err(|fault| {
            tracing::error!(%fault, "directory");
            LoginError::Unavailable
        })
    }

    /// What is remembered of a verification: never the password, and nothing once the credential has changed.
    fn token(&self, row: &AccountRecord, password: &str) -> [u8; 32] {
        let mut mac = blake3::Hasher::new_keyed(&self.key);
        mac.update(&row.id.0.to_le_bytes()).update(&row.credential_version.to_le_bytes()).update(password.as_bytes());
        *mac.finalize().as_bytes()
    }

    fn remembers(&self, token: &[u8; 32]) -> bool {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(token).is_some_and(|until| boot_ms() < *until)
    }

    fn remember(&self, token: [u8; 32]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBER_MAX {
            let now = boot_ms();
            remembered.retain(|_, until| now < *until);
            if remembered.len() >= REMEMBER_MAX {
                remembered.clear();
            }
        }
        remembered.insert(token, boot_ms() + REMEMBER_MS);
    }

    async fn verify(&self, credential: String, password: &str) -> Result<bool, LoginError> {
        let permit = self.verifying.clone().acquire_owned().await.map_err(|_| LoginError::Unavailable)?;
        let password = password.to_owned();
        let work = tokio::task::spawn_blocking(move || {
            let right = verify(&credential, &password);
            drop(permit);
            right
        });
        work.await.map_err(|_| LoginError::Unavailable)
    }
}

#[async_trait]
impl Directory for Accounts {
    async fn login(&self, name: &str, password: &str, _: std::net::IpAddr) -> Result<Identity, LoginError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(LoginError::Refused);
        }
        self.local.read_barrier_within(GroupId::CLUSTER, 5_000).await.map_err(|_| LoginError::Unavailable)?;
        let row = match AccountName::login(name, &self.default_domain) {
            Ok(name) => self.find(&name)?,
            Err(_) => None,
        };
        let Some(row) = row else {
            self.verify(NOBODY.clone(), password).await?;
            return Err(LoginError::Refused);
        };
        let token = self.token(&row, password);
        if !self.remembers(&token) {
            if !self.verify(row.credential.clone(), password).await? {
                return Err(LoginError::Refused);
            }
            self.remember(token);
        }
        Ok(Identity { account: row.id, name: row.name })
    }

    async fn recipient(&self, address: &str) -> Result<Identity, RecipientError> {
        let Ok(name) = AccountName::login(address, &self.default_domain) else { return Err(RecipientError::Unknown) };
        let barrier = self.local.read_barrier_within(GroupId::CLUSTER, 5_000).await;
        barrier.map_err(|_| RecipientError::Unavailable)?;
        let find = |name: &AccountName| self.find(name).map_err(|_| RecipientError::Unavailable);
        let mut found = find(&name)?;
        if found.is_none()
            && let Some(base) = self.delimiter.and_then(|delimiter| name.without_detail(delimiter))
        {
            found = find(&base)?;
        }
        found.map(|row| Identity { account: row.id, name: row.name }).ok_or(RecipientError::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_verify_their_own_hashes_only() {
        let own = hash_password("secret").unwrap();
        assert!(is_known_scheme(&own) && verify(&own, "secret") && !verify(&own, "Secret"));
        // The first test vector of Drepper's specification.
        let crypt = "{SHA512-CRYPT}$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
        assert!(is_known_scheme(crypt) && verify(crypt, "Hello world!") && !verify(crypt, "hello"));
        assert!(!is_known_scheme("{PLAIN}secret") && !verify("{PLAIN}secret", "secret"));
        assert!(!is_known_scheme("secret") && !verify("secret", "secret"));
        assert!(hash_password("").is_err() && hash_password(&"x".repeat(1025)).is_err());
    }
}
