//! Every bound of the mail store, with its unit. A setting may lower some of them; nothing raises them.

/// Largest message accepted by default, bytes (APPENDLIMIT, RFC 7889; LMTP SIZE).
pub const MESSAGE_BYTES_MAX: u64 = 50 * 1024 * 1024;
/// Mailboxes per account.
pub const MAILBOXES_PER_ACCOUNT_MAX: u32 = 20_000;
/// Levels of a mailbox name.
pub const NAME_DEPTH_MAX: usize = 32;
/// Bytes of one level of a mailbox name, UTF-8.
pub const NAME_LEAF_BYTES_MAX: usize = 255;
/// Keywords per mailbox; they are bits of a u128.
pub const KEYWORDS_PER_MAILBOX_MAX: usize = 128;
/// Bytes of one keyword.
pub const KEYWORD_BYTES_MAX: usize = 64;
/// Bytes of one METADATA or ANNOTATE value.
pub const METADATA_BYTES_MAX: usize = 1024 * 1024;
/// Messages that one log entry may touch; larger COPY, MOVE, STORE and EXPUNGE go in chunks.
pub const MESSAGES_PER_ENTRY_MAX: usize = 10_000;
/// Bodies up to this travel inside the node journal, bytes; larger ones have files of their own.
pub const JOURNAL_BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest value of a table record, bytes (sled stores larger ones in files that it never syncs).
pub const RECORD_BYTES_MAX: usize = 4096;
/// Largest encoded log entry, bytes.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of rows that one page of a FETCH reply carries before the page ends.
pub const FETCH_PAGE_BYTES: usize = 1024 * 1024;
/// A section result above this is told by reference and read in pieces, bytes.
pub const FETCH_INLINE_BYTES_MAX: usize = 256 * 1024;
/// One piece of a body read or upload, bytes.
pub const BODY_PIECE_BYTES: usize = 256 * 1024;
/// How long a node's promise of support lasts, ms (rule 23: D).
pub const SUPPORT_MS: u64 = 600;
/// How often a node asks for support, ms.
pub const SUPPORT_INTERVAL_MS: u64 = 100;
/// A holder stops trusting support at this share of [`SUPPORT_MS`], counted from before sending, percent.
pub const SUPPORT_TRUST_PERCENT: u64 = 90;
/// How long a request waits for a holder before the client is told `NO [UNAVAILABLE]`, ms.
pub const REQUEST_DEADLINE_MS: u64 = 20_000;

const _: () = assert!(SUPPORT_INTERVAL_MS * 3 <= SUPPORT_MS);
const _: () = assert!(FETCH_INLINE_BYTES_MAX <= FETCH_PAGE_BYTES);
const _: () = assert!(KEYWORDS_PER_MAILBOX_MAX <= 128);
