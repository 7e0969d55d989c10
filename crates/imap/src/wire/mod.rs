//! Bytes: framing of what comes, writing of what goes, and the small encodings in between.

mod cursor;
mod date;
mod framer;
mod seq_set;
mod utf7;
mod writer;

pub(crate) use cursor::{Cursor, ParseError, Parsed, is_atom_or_bracket, is_tag_char};
pub(crate) use date::{internal_date, month_number, parse_internal_date};
pub(crate) use framer::{Announce, COMMAND_BYTES_MAX, Event, Framer};
pub(crate) use seq_set::{Num, SeqSet};
pub(crate) use utf7::{decode as utf7_decode, encode as utf7_encode};
pub(crate) use writer::Writer;
