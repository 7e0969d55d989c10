//! New segments: the files for them, and their first bytes.

use crate::commit::Tail;
use crate::disk::{OpenMode, fill_zeros, write_all};
use crate::fault::JournalFault;
use crate::frame::{BatchHead, FRAMES_START, HEAD, Kind, NO_GROUP, head};
use crate::options::Options;
use crate::segment::{Footer, Header, Segment, segment_path, spare_path};
use crate::state::{Core, Spare};
use crate::view::View;
use std::io::IoSlice;
use std::sync::Arc;

impl Core {
    /// A new file for a segment, its space taken. `NoSpace` when the disk has none.
    pub(crate) fn make_spare(&self, zeroed: bool) -> Result<Spare, JournalFault> {
        let number = {
            let mut state = self.lock();
            state.next_spare += 1;
            state.next_spare
        };
        let options = &self.options;
        let path = spare_path(&options.dir, number);
        let made = (|| {
            let file = options.disk.open(&path, OpenMode::Create).map_err(JournalFault::disk("create", &path))?;
            file.allocate(options.segment_bytes).map_err(JournalFault::disk("allocate", &path))?;
            if zeroed {
                fill_zeros(&*file, options.segment_bytes).map_err(JournalFault::disk("fill", &path))?;
                self.lock().counters.bytes_written += options.segment_bytes;
            }
            file.sync().map_err(JournalFault::disk("sync", &path))?;
            Ok(file)
        })();
        match made {
            Ok(file) => Ok(Spare { path, file }),
            Err(fault) => {
                let fault: JournalFault = fault;
                if let Err(error) = options.disk.unlink(&path) {
                    tracing::debug!(%error, "a segment file that got no space was not there to remove");
                }
                Err(if fault.is_no_space() { JournalFault::NoSpace } else { fault })
            }
        }
    }
}

/// Makes a segment out of a ready file: header and leading checkpoint durable first, the name after.
pub(crate) fn start_segment(options: &Options, spare: Spare, header: &Header, view: &View) -> Result<Tail, JournalFault> {
    let checkpoint = view.encode();
    let batch = BatchHead {
        journal: header.journal,
        life: header.life,
        segment: u64::from(header.sequence),
        offset: FRAMES_START,
        bytes: (HEAD + checkpoint.len()) as u32,
        groups: Vec::new(),
    }
    .encode();
    let (header_bytes, seed) = header.encode();
    let (batch_head, batch_crc) = head(seed, NO_GROUP, Kind::Batch, &[&batch]);
    let (check_head, crc) = head(batch_crc, NO_GROUP, Kind::Checkpoint, &[&checkpoint]);
    let failed = |fault| move |source| JournalFault::disk(fault, &segment_path(&options.dir, header.sequence))(source);
    let parts: [&[u8]; 4] = [&batch_head, &batch, &check_head, &checkpoint];
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    // The whole first block, so that no seal of the file's earlier life remains.
    let mut block = vec![0u8; FRAMES_START as usize];
    block[..header_bytes.len()].copy_from_slice(&header_bytes);
    let mut slices = vec![IoSlice::new(&block)];
    slices.extend(parts.iter().map(|part| IoSlice::new(part)));
    write_all(&*spare.file, &mut slices, 0).map_err(failed("write"))?;
    if options.sync {
        spare.file.sync().map_err(failed("sync"))?;
    }
    let path = segment_path(&options.dir, header.sequence);
    options.disk.rename(&spare.path, &path).map_err(failed("rename to"))?;
    if options.sync {
        options.disk.sync_dir(&options.dir).map_err(failed("sync the folder of"))?;
    }
    Ok(Tail {
        segment: Arc::new(Segment { sequence: header.sequence, path, file: spare.file }),
        offset: FRAMES_START + bytes as u32,
        crc,
        footer: Footer::default(),
        body_bytes: 0,
        sealed: None,
    })
}
