//! The file of a snapshot, and of a redo: records in ascending key order, in compressed and checked blocks.
//!
//! ```text
//! header   magic "PTABLE01" | meta length u32 | applied length u32 | meta | applied | CRC-32C of all before
//! block    'B' | raw length u32 | stored length u32 | CRC-32C of stored | stored: LZ4 of
//!              (key length u32 | value length u32 or 2^32-1 for "removed" | key | value)*
//! trailer  'E' | records u64 | key and value bytes u64 | BLAKE3 of everything before the trailer
//! ```
//! Integers are little-endian. The same records, meta and mark give the same bytes. "Removed" occurs in redo files only.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::TableError;
use crate::directory::{add_suffix, sync_dir};
use crate::record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// The longest meta of a snapshot, and the longest applied mark, in bytes.
pub const META_BYTES_MAX: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"PTABLE01";
const REMOVED: u32 = u32::MAX;
/// A block is closed once it holds this much.
const BLOCK_BYTES: usize = 256 << 10;
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + 8 + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// What a verified snapshot file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The caller's description, as given when the snapshot was taken.
    pub meta: Vec<u8>,
    /// The applied mark of the tables at that moment; empty if nothing had been applied.
    pub applied: Vec<u8>,
    /// Number of records.
    pub records: u64,
    /// Bytes of all keys and values, uncompressed.
    pub bytes: u64,
    /// BLAKE3 of the file without its trailer.
    pub hash: [u8; 32],
}

/// Reads a snapshot file to its end and checks every length, checksum and hash.
///
/// # Errors
/// [`TableError::Damaged`] for any difference, [`TableError::Io`] if it cannot be read.
pub fn verify_snapshot(path: &Path) -> Result<SnapshotInfo, TableError> {
    let mut reader = Reader::open(path)?;
    while let Some((_, value)) = reader.next()? {
        if value.is_none() {
            return Err(reader.damaged("a removal in a snapshot"));
        }
    }
    reader.info()
}

/// The caller's description in a snapshot file; only the header is checked.
///
/// # Errors
/// As [`verify_snapshot`].
pub fn read_snapshot_meta(path: &Path) -> Result<Vec<u8>, TableError> {
    Ok(Reader::open(path)?.meta)
}

/// Writes a file under a temporary name; [`Writer::finish`] gives it its own.
pub(crate) struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    info: SnapshotInfo,
    block: Vec<u8>,
}

impl Writer {
    pub(crate) fn create(path: &Path, meta: &[u8], applied: &[u8]) -> Result<Self, TableError> {
        for (what, bytes) in [("meta", meta.len()), ("applied mark", applied.len())] {
            if bytes > META_BYTES_MAX {
                return Err(TableError::Size { what, bytes, max: META_BYTES_MAX });
            }
        }
        let temporary = add_suffix(path, "tmp");
        let file = File::create(&temporary).map_err(TableError::io("create", &temporary))?;
        let info = SnapshotInfo { meta: meta.to_vec(), applied: applied.to_vec(), records: 0, bytes: 0, hash: [0; 32] };
        let mut writer = Self {
            path: path.to_owned(),
            temporary,
            out: BufWriter::with_capacity(128 << 10, file),
            hasher: blake3::Hasher::new(),
            info,
            block: Vec::new(),
        };
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&(meta.len() as u32).to_le_bytes());
        header.extend_from_slice(&(applied.len() as u32).to_le_bytes());
        header.extend_from_slice(meta);
        header.extend_from_slice(applied);
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        writer.emit(&header)?;
        Ok(writer)
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(TableError::io("write", &self.temporary))
    }

    /// Adds a record (value None: a removal). Keys ascend.
    pub(crate) fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), TableError> {
        let value_bytes = value.map_or(0, <[u8]>::len);
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&value.map_or(REMOVED, |value| value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value.unwrap_or_default());
        self.info.records += 1;
        self.info.bytes += (key.len() + value_bytes) as u64;
        if self.block.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> Result<(), TableError> {
        let raw = std::mem::take(&mut self.block);
        let stored = lz4_flex::block::compress(&raw);
        let mut head = [0; 13];
        head[0] = b'B';
        head[1..5].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        head[5..9].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        head[9..].copy_from_slice(&crc32c::crc32c(&stored).to_le_bytes());
        self.emit(&head)?;
        self.emit(&stored)?;
        self.block = raw;
        self.block.clear();
        Ok(())
    }

    /// Completes, syncs, reads back if asked, renames and syncs the folder.
    pub(crate) fn finish(mut self, read_back: bool) -> Result<SnapshotInfo, TableError> {
        if !self.block.is_empty() {
            self.close_block()?;
        }
        self.info.hash = *self.hasher.finalize().as_bytes();
        let mut trailer = vec![b'E'];
        trailer.extend_from_slice(&self.info.records.to_le_bytes());
        trailer.extend_from_slice(&self.info.bytes.to_le_bytes());
        trailer.extend_from_slice(&self.info.hash);
        self.out.write_all(&trailer).map_err(TableError::io("write", &self.temporary))?;
        self.out.flush().map_err(TableError::io("write", &self.temporary))?;
        self.out.get_ref().sync_all().map_err(TableError::io("sync", &self.temporary))?;
        if read_back && verify_snapshot(&self.temporary)? != self.info {
            return Err(TableError::Damaged(format!("{} reads back differently", self.temporary.display())));
        }
        std::fs::rename(&self.temporary, &self.path).map_err(TableError::io("rename", &self.temporary))?;
        sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(self.info)
    }
}

/// A record: the value is None for a removal.
pub(crate) type Entry = (Vec<u8>, Option<Vec<u8>>);

/// Reads a file, checking as it goes.
pub(crate) struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    hasher: blake3::Hasher,
    /// The caller's description.
    pub(crate) meta: Vec<u8>,
    /// The applied mark.
    pub(crate) applied: Vec<u8>,
    block: Vec<u8>,
    at: usize,
    last_key: Option<Vec<u8>>,
    records: u64,
    bytes: u64,
    /// The hash of the file, once its trailer has been read and found right.
    done: Option<[u8; 32]>,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, TableError> {
        let file = File::open(path).map_err(TableError::io("open", path))?;
        let mut reader = Self {
            path: path.to_owned(),
            input: BufReader::with_capacity(128 << 10, file),
            hasher: blake3::Hasher::new(),
            meta: Vec::new(),
            applied: Vec::new(),
            block: Vec::new(),
            at: 0,
            last_key: None,
            records: 0,
            bytes: 0,
            done: None,
        };
        let mut header = reader.take(16)?;
        if header.get(..8) != Some(MAGIC) {
            return Err(reader.damaged("not a snapshot of this format"));
        }
        let (meta_bytes, applied_bytes) = (u32_at(&header, 8) as usize, u32_at(&header, 12) as usize);
        if meta_bytes > META_BYTES_MAX || applied_bytes > META_BYTES_MAX {
            return Err(reader.damaged("header beyond its bounds"));
        }
        reader.meta = reader.take(meta_bytes)?;
        reader.applied = reader.take(applied_bytes)?;
        header.extend_from_slice(&reader.meta);
        header.extend_from_slice(&reader.applied);
        let crc = reader.take(4)?;
        if u32_at(&crc, 0) != crc32c::crc32c(&header) {
            return Err(reader.damaged("wrong checksum of the header"));
        }
        Ok(reader)
    }

    pub(crate) fn damaged(&self, why: &str) -> TableError {
        TableError::Damaged(format!("{}: {why}", self.path.display()))
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, TableError> {
        let mut taken = vec![0; bytes];
        self.fill(&mut taken)?;
        self.hasher.update(&taken);
        Ok(taken)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), TableError> {
        self.input.read_exact(into).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged("cut off"),
            _ => TableError::io("read", &self.path)(source),
        })
    }

    /// The next record; None only after the trailer has been found right.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TableError> {
        while self.at == self.block.len() {
            if self.done.is_some() || !self.read_block()? {
                return Ok(None);
            }
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let (head, rest) = rest.split_at_checked(8).ok_or_else(|| self.damaged("a record is cut off"))?;
        let (key_bytes, value_bytes) = (u32_at(head, 0) as usize, u32_at(head, 4));
        let removed = value_bytes == REMOVED;
        let value_bytes = if removed { 0 } else { value_bytes as usize };
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(self.damaged("a record beyond its bounds"));
        }
        let record = rest.get(..key_bytes + value_bytes).ok_or_else(|| self.damaged("a record is cut off"))?;
        let (key, value) = record.split_at(key_bytes);
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(self.damaged("keys out of order"));
        }
        let entry = (key.to_vec(), (!removed).then(|| value.to_vec()));
        self.at += 8 + key_bytes + value_bytes;
        self.records += 1;
        self.bytes += (key_bytes + value_bytes) as u64;
        self.last_key = Some(entry.0.clone());
        Ok(Some(entry))
    }

    /// Reads the next block; false at a right trailer.
    fn read_block(&mut self) -> Result<bool, TableError> {
        let mut tag = [0];
        self.fill(&mut tag)?;
        match tag {
            [b'B'] => self.hasher.update(&tag),
            [b'E'] => return self.read_trailer().map(|()| false),
            _ => return Err(self.damaged("neither block nor trailer")),
        };
        let head = self.take(12)?;
        let (raw_bytes, stored_bytes) = (u32_at(&head, 0) as usize, u32_at(&head, 4) as usize);
        if raw_bytes == 0 || raw_bytes > BLOCK_BYTES_MAX || stored_bytes > lz4_flex::block::get_maximum_output_size(BLOCK_BYTES_MAX) {
            return Err(self.damaged("a block beyond its bounds"));
        }
        let stored = self.take(stored_bytes)?;
        if crc32c::crc32c(&stored) != u32_at(&head, 8) {
            return Err(self.damaged("wrong checksum of a block"));
        }
        self.block.resize(raw_bytes, 0);
        self.at = 0;
        match lz4_flex::block::decompress_into(&stored, &mut self.block) {
            Ok(bytes) if bytes == raw_bytes => Ok(true),
            _ => Err(self.damaged("a block cannot be unpacked")),
        }
    }

    fn read_trailer(&mut self) -> Result<(), TableError> {
        let mut trailer = [0; 48];
        self.fill(&mut trailer)?;
        let hash = *self.hasher.finalize().as_bytes();
        let mut expected = [0; 48];
        expected[..8].copy_from_slice(&self.records.to_le_bytes());
        expected[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        expected[16..].copy_from_slice(&hash);
        if trailer != expected {
            return Err(self.damaged("wrong trailer"));
        }
        if self.input.read(&mut [0]).map_err(TableError::io("read", &self.path))? != 0 {
            return Err(self.damaged("bytes after the trailer"));
        }
        self.done = Some(hash);
        Ok(())
    }

    /// What was read, once [`Reader::next`] has returned None.
    pub(crate) fn info(self) -> Result<SnapshotInfo, TableError> {
        let hash = self.done.ok_or_else(|| self.damaged("not read to its end"))?;
        Ok(SnapshotInfo { meta: self.meta, applied: self.applied, records: self.records, bytes: self.bytes, hash })
    }
}

/// The integer at an offset of a slice whose length the caller has checked.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}
