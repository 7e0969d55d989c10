//! Accounts and the directory.

use crate::record;
use parliament_ids::{AccountId, GroupId};
use parliament_mailbox_state::{TableFault, Tables};
use serde::{Deserialize, Serialize};

/// An account as group 0 knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// Its id, never reused.
    pub id: AccountId,
    /// Its canonical name.
    pub name: String,
    /// `{SCHEME}hash`
    pub credential: String,
    /// +1 at each change of the credential, so that cached verifications end.
    pub credential_version: u64,
    /// The group that holds it.
    pub group: GroupId,
    /// Floor for its UIDVALIDITYs, from an earlier account of the same name.
    pub uid_validity_floor: u32,
    /// When it was made, UTC seconds.
    pub created: i64,
}

/// A canonical account name: `local@domain`, lower case, without detail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

/// Why an account name was refused: empty, longer than 254 bytes (RFC 5321 section 4.5.3.1), more than one `@`, or a
/// character that is no part of a login name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRefused;

impl AccountName {
    /// The canonical form of what a person types: lower case, `default_domain` added when there is none.
    ///
    /// # Errors
    /// [`NameRefused`].
    pub fn login(text: &str, default_domain: &str) -> Result<Self, NameRefused> {
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@').unwrap_or((text, default_domain));
        let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '@' | '"' | '<' | '>' | '/' | '\\' | '*' | '%');
        if local.is_empty() || domain.is_empty() || local.chars().chain(domain.chars()).any(bad) {
            return Err(NameRefused);
        }
        let name = format!("{}@{}", local.to_lowercase(), domain.to_lowercase());
        if name.len() > 254 { Err(NameRefused) } else { Ok(Self(name)) }
    }
    /// The same name without the detail behind `delimiter` in its local part; `None` when it has none.
    #[must_use]
    pub fn without_detail(&self, delimiter: char) -> Option<Self> {
        let (local, domain) = self.0.rsplit_once('@')?;
        let (base, _) = local.split_once(delimiter)?;
        if base.is_empty() { None } else { Some(Self(format!("{base}@{domain}"))) }
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The group of a new account: a fixed hash of its id over the groups of users, so that ids made one after the other spread.
#[must_use]
pub fn group_of(account: AccountId, groups: u32) -> GroupId {
    // Fibonacci hashing: consecutive ids land far apart and evenly.
    let mixed = account.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    GroupId(1 + u32::try_from(mixed % u64::from(groups.max(1))).unwrap_or(0))
}

/// An account by id.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn account(tables: &dyn Tables, id: AccountId) -> Result<Option<AccountRecord>, TableFault> {
    record::get(tables, &record::key(record::ACCOUNT, &id.0.to_be_bytes()))
}

/// An account by name.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn account_named(tables: &dyn Tables, name: &AccountName) -> Result<Option<AccountRecord>, TableFault> {
    match record::get::<AccountId>(tables, &record::key(record::NAME, name.as_str().as_bytes()))? {
        Some(id) => account(tables, id),
        None => Ok(None),
    }
}

/// Accounts in the order of their ids, at most `limit` from `from` on.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn accounts(tables: &dyn Tables, from: AccountId, limit: usize) -> Result<Vec<AccountRecord>, TableFault> {
    let mut rows = Ok(Vec::new());
    let start = record::key(record::ACCOUNT, &from.0.to_be_bytes());
    tables.scan(&start, &[record::ACCOUNT + 1], &mut |key, value| {
        if let Ok(list) = rows.as_mut() {
            match record::decode(key, value) {
                Ok(row) => list.push(row),
                Err(fault) => rows = Err(fault),
            }
        }
        rows.as_ref().is_ok_and(|list: &Vec<AccountRecord>| list.len() < limit)
    })?;
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_checked() {
        assert_eq!(AccountName::login("Alice", "demo.test").unwrap().as_str(), "alice@demo.test");
        assert_eq!(AccountName::login(" BOB@Example.ORG ", "demo.test").unwrap().as_str(), "bob@example.org");
        for bad in ["", "@x", "a b", "a@", "a@b@c", "a*", "a/b", &"x".repeat(255)] {
            assert_eq!(AccountName::login(bad, "demo.test"), Err(NameRefused), "{bad}");
        }
        let detailed = AccountName::login("ann+lists@x.org", "d").unwrap();
        assert_eq!(detailed.without_detail('+').unwrap().as_str(), "ann@x.org");
        assert_eq!(AccountName::login("+x@x.org", "d").unwrap().without_detail('+'), None);
    }

    #[test]
    fn consecutive_ids_spread_over_groups() {
        let mut counts = [0; 8];
        (1..=800).for_each(|id| counts[group_of(AccountId(id), 8).0 as usize - 1] += 1);
        assert!(counts.iter().all(|n| (80..=120).contains(n)), "{counts:?}");
        let first: std::collections::BTreeSet<_> = (1..=8).map(|id| group_of(AccountId(id), 8)).collect();
        assert!(first.len() >= 5, "{first:?}");
    }
}
