//! Packed encodings of records. Every value begins with a version byte.

pub(crate) mod codec;
pub(crate) mod packed;
pub(crate) mod reply;
pub(crate) mod runs;
