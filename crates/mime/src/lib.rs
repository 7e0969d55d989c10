//! Everything IMAP needs to know from a message's bytes: its parts, ENVELOPE, BODYSTRUCTURE, sections, decoded text for SEARCH,
//! sort and thread keys, preview. Pure functions of the bytes.
//!
//! A message is hostile. Nothing here panics, runs in more than linear time or keeps more than a small multiple of the message;
//! what is malformed is read as leniently as can be done without guessing far, and what exceeds a bound ([`NESTING_MAX`],
//! [`PARTS_MAX`], [`ADDRESSES_MAX`], [`PARAMETERS_MAX`]) is opaque or left out.
//!
//! The message itself is never changed or copied: [`Structure`] holds offsets into it, and sections are ranges of it where they
//! can be. Lines may end in CRLF or in a bare LF.

mod address;
mod body_structure;
mod charset;
mod content;
mod date;
mod encoded_word;
mod envelope;
mod header;
mod message_id;
mod preview;
mod scan;
mod search;
mod section;
mod structure;
mod subject;
mod transfer;
mod wire;

pub use address::{ADDRESSES_MAX, AddressItem, parse_addresses};
pub use body_structure::body_structure;
pub use charset::decode_text;
pub use content::{ContentType, PARAMETERS_MAX, Parameter};
pub use date::{SentDate, parse_date, sent_date};
pub use encoded_word::decode_words;
pub use envelope::{envelope, first_mailbox};
pub use header::{Field, Fields};
pub use message_id::{REFERENCES_MAX, in_reply_to, message_id, references, thread_root};
pub use preview::{PREVIEW_CHARS_MAX, preview};
pub use search::{Needle, body_contains, fold, header_contains, header_values, text_contains};
pub use section::{BinaryError, Content, SectionKind, binary, binary_size, header_fields, partial, section};
pub use structure::{NESTING_MAX, PARTS_MAX, Part, PartId, PartKind, Structure};
pub use subject::{BaseSubject, base_subject, message_subject};
pub use transfer::TransferEncoding;
