//! Keys of the tables: table byte, account (big-endian), then what the table needs. The table byte comes first so that small hot
//! records never share a leaf of the store with large cold ones.

use parliament_ids::{AccountId, MailboxId, ModSeq, NodeId, SessionKey, Uid};

/// The tables. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Table {
    /// Account heads and tombstones.
    Account = b'A',
    /// Node → parent and leaf.
    Back = b'B',
    /// Delivery-dedupe records by generation.
    Dedupe = b'D',
    /// Flag runs.
    Flags = b'F',
    /// Keyword lists.
    Keywords = b'K',
    /// ACLs.
    Acl = b'L',
    /// Message runs.
    Messages = b'M',
    /// Names by parent node.
    Names = b'N',
    /// METADATA values.
    Metadata = b'O',
    /// References to bodies.
    References = b'R',
    /// Counters of mailboxes.
    Counters = b'S',
    /// The group's clock; group-wide.
    Clock = b'T',
    /// Vanished history.
    Vanished = b'V',
    /// Session records.
    Sessions = b'W',
    /// Which accounts a session has records in; group-wide, derived from [`Table::Sessions`].
    SessionIndex = b'X',
    /// Watermarks of frontends; group-wide.
    Watermark = b'Y',
}

impl Table {
    /// Every table whose keys begin with an account and whose records count in the account's state hash.
    pub(crate) const OF_ACCOUNT: [Self; 13] = [
        Self::Account,
        Self::Back,
        Self::Dedupe,
        Self::Flags,
        Self::Keywords,
        Self::Acl,
        Self::Messages,
        Self::Names,
        Self::Metadata,
        Self::References,
        Self::Counters,
        Self::Vanished,
        Self::Sessions,
    ];
}

/// Table and account.
pub(crate) fn of(table: Table, account: AccountId) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.push(table as u8);
    key.extend_from_slice(&account.0.to_be_bytes());
    key
}

/// Table, account, mailbox.
pub(crate) fn of_mailbox(table: Table, account: AccountId, mailbox: MailboxId) -> Vec<u8> {
    let mut key = of(table, account);
    key.extend_from_slice(&mailbox.0.to_be_bytes());
    key
}

/// A run of flags or messages.
pub(crate) fn run(table: Table, account: AccountId, mailbox: MailboxId, first: Uid) -> Vec<u8> {
    let mut key = of_mailbox(table, account, mailbox);
    key.extend_from_slice(&first.0.to_be_bytes());
    key
}

/// A run of vanished history: its first entry's MODSEQ and first UID.
pub(crate) fn vanished(account: AccountId, mailbox: MailboxId, modseq: ModSeq, first: Uid) -> Vec<u8> {
    let mut key = of_mailbox(Table::Vanished, account, mailbox);
    key.extend_from_slice(&modseq.0.to_be_bytes());
    key.extend_from_slice(&first.0.to_be_bytes());
    key
}

/// All parts of a session's record.
pub(crate) fn session(account: AccountId, session: &SessionKey) -> Vec<u8> {
    let mut key = of(Table::Sessions, account);
    push_session(&mut key, session);
    key
}

/// The index entry of a session's record.
pub(crate) fn session_index(session: &SessionKey, account: AccountId) -> Vec<u8> {
    let mut key = vec![Table::SessionIndex as u8];
    push_session(&mut key, session);
    key.extend_from_slice(&account.0.to_be_bytes());
    key
}

fn push_session(key: &mut Vec<u8>, session: &SessionKey) {
    key.extend_from_slice(&session.node.0.to_be_bytes());
    key.extend_from_slice(&session.boot.0.to_be_bytes());
    key.extend_from_slice(&session.session.to_be_bytes());
}

/// A frontend's watermark.
pub(crate) fn watermark(node: NodeId) -> Vec<u8> {
    let mut key = vec![Table::Watermark as u8];
    key.extend_from_slice(&node.0.to_be_bytes());
    key
}

/// The group's clock.
pub(crate) fn clock() -> Vec<u8> {
    vec![Table::Clock as u8]
}

/// The least key that no key with this prefix reaches. `prefix` is not all 0xff, because it begins with a table byte.
pub(crate) fn end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The big-endian number at `at` of a key, if the key is long enough.
pub(crate) fn number_at(key: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?))
}

/// The UID that ends the key of a run.
pub(crate) fn run_first(key: &[u8]) -> Option<Uid> {
    Some(Uid(u32::from_be_bytes(key.get(17..21)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_above_every_key_with_the_prefix() {
        assert_eq!(end(&[1, 2]), vec![1, 3]);
        assert_eq!(end(&[1, 0xff, 0xff]), vec![2]);
    }
}
