//! The incremental state hash of an account: the sum, modulo 2^128, of the hashes of its records. Replicas compare it without
//! moving a record. The account's head counts without its last 16 bytes, where the sum itself is kept.

use crate::keys::Table;

/// Bytes of the sum at the end of an account's head.
pub(crate) const SUM_BYTES: usize = 16;

/// The hash of one record.
pub(crate) fn record(key: &[u8], value: &[u8]) -> u128 {
    let value = match key.first() {
        Some(&table) if table == Table::Account as u8 => &value[..value.len().saturating_sub(SUM_BYTES)],
        _ => value,
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}
