//! A message's body, read at most once for one answer, and what is computed from it.

use crate::{Parsed, Parsing, ReadError};
use bytes::Bytes;
use parliament_ids::BodyHash;
use parliament_mime as mime;
use std::sync::Arc;

/// Bytes of bodies that one page reads before it ends: a page must be done long before its request's deadline.
pub(crate) const PAGE_READ_BYTES: u64 = 32 * 1024 * 1024;
/// Largest ENVELOPE, BODY and BODYSTRUCTURE, bytes: several of them and a page must fit what carries a page.
const WIRE_BYTES_MAX: usize = 512 * 1024;
/// Of a header with a larger ENVELOPE this much is regarded at first.
const HEADER_BYTES: usize = 64 * 1024;

/// A body that is read when it is first needed.
pub(crate) struct Body {
    hash: BodyHash,
    bytes: Option<Bytes>,
}

impl Body {
    pub(crate) fn new(hash: BodyHash) -> Self {
        Self { hash, bytes: None }
    }

    pub(crate) fn bytes(&mut self, parsing: &Parsing<'_>) -> Result<&Bytes, ReadError> {
        let bytes = match self.bytes.take() {
            Some(bytes) => bytes,
            None => parsing.bodies.read(&self.hash)?,
        };
        Ok(self.bytes.insert(bytes))
    }

    /// From memory, or computed and remembered.
    pub(crate) fn parsed(&mut self, parsing: &Parsing<'_>) -> Result<Arc<Parsed>, ReadError> {
        if let Some(parsed) = parsing.cache.get(&self.hash) {
            return Ok(parsed);
        }
        let hash = self.hash;
        let parsed = Arc::new(Parsed::of(self.bytes(parsing)?));
        parsing.cache.insert(hash, parsed.clone());
        Ok(parsed)
    }

    /// Bytes that were read, 0 when it was not.
    pub(crate) fn read(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }
}

impl Parsed {
    /// Computes everything that FETCH asks again and again. Each is at most 512 KiB: of a message whose ENVELOPE would be larger only
    /// the header's beginning is told, and one whose structure would be larger is told as opaque bytes.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let structure = mime::Structure::parse(body);
        Self {
            envelope: bounded_envelope(body, &structure).into(),
            body: bounded_structure(body, &structure, false).into(),
            body_structure: bounded_structure(body, &structure, true).into(),
            preview: mime::preview(body, &structure),
        }
    }
}

fn bounded_envelope(body: &[u8], structure: &mime::Structure) -> Vec<u8> {
    let mut envelope = mime::envelope(body, structure);
    let mut regarded = HEADER_BYTES;
    while envelope.len() > WIRE_BYTES_MAX {
        let beginning = body.get(..regarded).unwrap_or(body);
        envelope = mime::envelope(beginning, &mime::Structure::parse(beginning));
        regarded /= 2;
    }
    envelope
}

fn bounded_structure(body: &[u8], structure: &mime::Structure, extended: bool) -> Vec<u8> {
    let told = mime::body_structure(body, structure, extended);
    if told.len() <= WIRE_BYTES_MAX {
        return told;
    }
    let size = structure.body(body, structure.root()).len();
    let extension = if extended { " NIL NIL NIL NIL" } else { "" };
    format!("(\"APPLICATION\" \"OCTET-STREAM\" NIL NIL NIL \"BINARY\" {size}{extension})").into_bytes()
}
