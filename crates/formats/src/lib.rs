//! Versioned bytes of log entries and of requests relayed between nodes: a version byte, then postcard. Variants and
//! fields are only ever added at the end; the golden tests hold every byte of what older programs wrote.

mod image;

pub use image::{ImageAnswer, ImageQuestion};

use bytes::Bytes;
use parliament_mail_api::{Answer, Call, Unserved};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of a command of a group of users.
const USERS_VERSION: u8 = 1;
/// Version of a command of group 0.
const CLUSTER_VERSION: u8 = 1;
/// Version of a relayed request and its answer.
const RELAY_VERSION: u8 = 1;

/// The bytes are not what this program knows: an entry like this stops its group, a request like this is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {what}: {why}")]
pub struct FormatError {
    /// What was being read or written.
    pub what: &'static str,
    /// Why not.
    pub why: String,
}

fn encode<T: Serialize>(what: &'static str, version: u8, value: &T) -> Result<Bytes, FormatError> {
    let bytes = postcard::to_extend(value, vec![version]).map_err(|e| FormatError { what, why: e.to_string() })?;
    Ok(Bytes::from(bytes))
}

fn decode<T: DeserializeOwned>(what: &'static str, version: u8, bytes: &[u8]) -> Result<T, FormatError> {
    let fail = |why: String| FormatError { what, why };
    match bytes.split_first() {
        Some((found, rest)) if *found == version => {
            let (value, left) = postcard::take_from_bytes(rest).map_err(|e| fail(e.to_string()))?;
            if left.is_empty() { Ok(value) } else { Err(fail(format!("{} bytes too many", left.len()))) }
        }
        Some((found, _)) => Err(fail(format!("version {found}, this program knows {version}"))),
        None => Err(fail("empty".into())),
    }
}

macro_rules! format {
    ($(#[$doc:meta])* $type:ty, $encode:ident, $decode:ident, $what:literal, $version:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the value cannot be encoded, which only a bug can cause.
        pub fn $encode(value: &$type) -> Result<Bytes, FormatError> {
            encode($what, $version, value)
        }
        $(#[$doc])*
        ///
        /// # Errors
        /// [`FormatError`] on an unknown version, damage or trailing bytes.
        pub fn $decode(bytes: &[u8]) -> Result<$type, FormatError> {
            decode($what, $version, bytes)
        }
    };
}

format!(/// A command of a group of users.
    parliament_mailbox_state::Command, encode_users, decode_users, "command of a group of users", USERS_VERSION);
format!(/// A command of group 0.
    parliament_cluster_state::Command, encode_cluster, decode_cluster, "command of group 0", CLUSTER_VERSION);
format!(/// A request for a user's holder.
    Call, encode_call, decode_call, "relayed request", RELAY_VERSION);
format!(/// What the holder answered.
    Result<Answer, Unserved>, encode_answer, decode_answer, "relayed answer", RELAY_VERSION);
format!(/// What a command of group 0 came to, told to the node that sent it to the leader.
    parliament_cluster_state::Applied, encode_cluster_applied, decode_cluster_applied, "outcome of a command of group 0", RELAY_VERSION);

format!(/// A question about a user on the move.
    ImageQuestion, encode_image_question, decode_image_question, "question about an image", RELAY_VERSION);
format!(/// Its answer.
    ImageAnswer, encode_image_answer, decode_image_answer, "part of an image", RELAY_VERSION);

#[cfg(test)]
mod golden;
