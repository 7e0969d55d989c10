//! Opening: what the files say becomes the writer's view and the handles' state.
//!
//! The last segment's leading checkpoint tells the state of all groups before it; only that segment is read through. Of the others the footers
//! are read. A frame that does not verify is a torn tail only if nothing proves that it had been synced; otherwise the groups that lost frames
//! are marked damaged, which outlives restarts until each is reset.

use crate::commit::Writer;
use crate::disk::{OpenMode, write_all};
use crate::fault::JournalFault;
use crate::frame::{BatchHead, FRAMES_START, Frame, HEAD, Kind, claimed_len, parse, u32_at, u64_at};
use crate::fresh::start_segment;
use crate::index::BodyIndex;
use crate::options::Options;
use crate::segment::{BodyAt, FORMAT_VERSION, Footer, Header, Loc, Seal, Segment, Tomb, number_in, segment_path};
use crate::state::{Core, GroupState, Spare, State, Stored};
use crate::stats::Counters;
use crate::view::View;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Condvar, Mutex};

const IDENTITY_MAGIC: [u8; 8] = *b"\x89PLident";
const IDENTITY_BYTES: usize = 32;

/// Which journal this is, and how often it was opened.
pub(crate) struct Identity {
    journal: u64,
    life: u64,
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut out = [0; IDENTITY_BYTES];
        out[..8].copy_from_slice(&IDENTITY_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..20].copy_from_slice(&self.journal.to_le_bytes());
        out[20..28].copy_from_slice(&self.life.to_le_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let good = bytes.len() == IDENTITY_BYTES && bytes[..8] == IDENTITY_MAGIC && u32_at(bytes, 28)? == crc32c::crc32c(&bytes[..28]);
        (good && u32_at(bytes, 8)? == FORMAT_VERSION).then_some(Self { journal: u64_at(bytes, 12)?, life: u64_at(bytes, 20)? })
    }

    /// Reads the identity, counts this opening, and makes both durable. Without segments the count stays, so that a life above 1 proves that
    /// segments have existed.
    fn take(options: &Options, any_segments: bool) -> Result<Self, JournalFault> {
        let path = options.dir.join("identity");
        let unusable = |what| JournalFault::Unusable { path: path.clone(), what };
        let mut identity = match options.disk.open(&path, OpenMode::Existing) {
            Ok(file) => {
                let mut bytes = [0; IDENTITY_BYTES];
                let read = crate::disk::read_exact(&*file, &mut bytes, 0);
                match read.ok().and_then(|()| Self::decode(&bytes)) {
                    Some(identity) => identity,
                    None => return Err(unusable("damaged, or of a newer format")),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if any_segments {
                    return Err(unusable("missing beside segments"));
                }
                Self { journal: options.journal_id.unwrap_or_else(|| RandomState::new().hash_one(0u8)), life: 0 }
            }
            Err(error) => return Err(JournalFault::disk("open", &path)(error)),
        };
        if !any_segments && identity.life > 1 {
            return Err(unusable("the segments are gone"));
        }
        if any_segments || identity.life == 0 {
            identity.life += 1;
            identity.store(options)?;
        }
        Ok(identity)
    }

    /// Reads the stored identity again; one that no longer verifies is written anew. False when it was damaged.
    pub(crate) fn check(options: &Options, journal: u64, life: u64) -> Result<bool, JournalFault> {
        let path = options.dir.join("identity");
        let mut bytes = [0; IDENTITY_BYTES];
        let file = options.disk.open(&path, OpenMode::Existing).map_err(JournalFault::disk("open", &path));
        let read = file.ok().and_then(|file| {
            file.forget_cached();
            crate::disk::read_exact(&*file, &mut bytes, 0).ok()
        });
        let good = read.and_then(|()| Self::decode(&bytes)).is_some_and(|found| (found.journal, found.life) == (journal, life));
        if !good {
            Self { journal, life }.store(options)?;
        }
        Ok(good)
    }

    fn store(&self, options: &Options) -> Result<(), JournalFault> {
        let (path, temporary) = (options.dir.join("identity"), options.dir.join("identity.new"));
        let write = || {
            let file = options.disk.open(&temporary, OpenMode::Create)?;
            write_all(&*file, &mut [IoSlice::new(&self.encode())], 0)?;
            file.sync()?;
            options.disk.rename(&temporary, &path)?;
            options.disk.sync_dir(&options.dir)
        };
        let in_place = || {
            let file = options.disk.open(&path, OpenMode::Existing)?;
            write_all(&*file, &mut [IoSlice::new(&self.encode())], 0)?;
            file.sync()
        };
        let stored = match write() {
            // A full disk must not keep a node from starting. So few bytes lie in one sector, which is written wholly or not at all.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.life > 1 => in_place(),
            other => other,
        };
        stored.map_err(JournalFault::disk("store", &path))
    }
}

/// A segment file as found.
struct Found {
    segment: Arc<Segment>,
    /// With the checksum that seeds the first frame; none when it does not verify.
    header: Option<(Header, u32)>,
    seal: Option<Seal>,
    /// Filled by reading it through or from its footer.
    footer: Option<Footer>,
    used: u32,
    last_crc: u32,
}

/// Opens a journal; also for the one that drives the writer itself.
pub(crate) fn open(options: Options) -> Result<(Arc<Core>, Writer), JournalFault> {
    let options = options.clamped();
    let dir = options.dir.clone();
    crate::disk::make_home(&*options.disk, &dir).map_err(JournalFault::disk("create", &dir))?;
    let lock = options.disk.lock(&dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => JournalFault::Unusable { path: dir.clone(), what: "another process has it open" },
        _ => JournalFault::disk("lock", &dir)(error),
    })?;
    let names = options.disk.list(&dir).map_err(JournalFault::disk("list", &dir))?;
    let mut sequences: Vec<u32> =
        names.iter().filter_map(|name| number_in(name, "segment-")).filter_map(|number| u32::try_from(number).ok()).collect();
    sequences.sort_unstable();
    let identity = Identity::take(&options, !sequences.is_empty())?;
    let mut found = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        found.push(look(&options, &identity, sequence)?);
    }
    let view = replay(&identity, &mut found)?;
    let hurt = verify_entries(&found, &view);
    for segment in &mut found {
        seal(&options, segment)?;
    }
    let (spares, next_spare) = spares(&options, &names);
    start(options, identity, found, (view, hurt), (spares, next_spare), lock)
}

fn look(options: &Options, identity: &Identity, sequence: u32) -> Result<Found, JournalFault> {
    let path = segment_path(&options.dir, sequence);
    let file = options.disk.open(&path, OpenMode::Existing).map_err(JournalFault::disk("open", &path))?;
    let mut block = vec![0; FRAMES_START as usize];
    let length = file.len().map_err(JournalFault::disk("measure", &path))?;
    let segment = Arc::new(Segment { sequence, path: path.clone(), file });
    if length >= u64::from(FRAMES_START) {
        segment.read(0, &mut block)?;
    }
    if Header::version(&block).is_some_and(|version| version > FORMAT_VERSION) {
        return Err(JournalFault::Unusable { path, what: "of a newer format" });
    }
    let header = Header::decode(&block).filter(|(header, _)| header.sequence == sequence);
    if header.as_ref().is_some_and(|(header, _)| header.journal != identity.journal) {
        return Err(JournalFault::Unusable { path, what: "of another journal" });
    }
    let seal = header.as_ref().and_then(|(header, _)| Seal::decode(&block, header));
    Ok(Found { segment, header, seal, footer: None, used: FRAMES_START, last_crc: 0 })
}

fn read_whole(segment: &Segment) -> Result<Vec<u8>, JournalFault> {
    let length = segment.file.len().map_err(JournalFault::disk("measure", &segment.path))?;
    let mut bytes = vec![0; length as usize];
    segment.read(0, &mut bytes)?;
    Ok(bytes)
}

/// True when the segment starts with a whole checkpoint.
fn has_checkpoint(bytes: &[u8], seed: u32) -> bool {
    let Some(batch) = bytes.get(FRAMES_START as usize..).and_then(parse).filter(|frame| frame.kind == Kind::Batch && frame.prev == seed)
    else {
        return false;
    };
    let check = bytes.get(FRAMES_START as usize + batch.size()..).and_then(parse);
    check.is_some_and(|frame| frame.kind == Kind::Checkpoint && frame.prev == batch.crc && View::decode(frame.payload).is_some())
}

/// Replays from the newest good checkpoint, and fills every segment's footer.
fn replay(identity: &Identity, found: &mut [Found]) -> Result<View, JournalFault> {
    let mut view = View::default();
    let mut start = found.len();
    let mut whole: VecDeque<Vec<u8>> = VecDeque::new();
    let mut good = found.is_empty();
    while start > 0 && !good {
        start -= 1;
        let bytes = read_whole(&found[start].segment)?;
        good = found[start].header.as_ref().is_some_and(|(_, seed)| has_checkpoint(&bytes, *seed));
        whole.push_front(bytes);
    }
    if !good {
        view.damage(None);
    }
    for at in start..found.len() {
        let bytes = whole.pop_front().unwrap_or_default();
        let follows = at > start && found[at].segment.sequence != found[at - 1].segment.sequence + 1;
        if follows {
            tracing::error!(segment = found[at].segment.sequence, "a segment before this one is missing");
            view.damage(None);
        }
        let end = proven_end(found, at);
        scan(identity, &bytes, &mut found[at], end, &mut view);
    }
    for at in 0..start {
        let footer = found[at].seal.as_ref().and_then(|seal| found[at].segment.footer(seal));
        match (footer, found[at].seal) {
            (Some(footer), Some(seal)) => {
                (found[at].used, found[at].last_crc, found[at].footer) = (seal.frames_end, seal.last_crc, Some(footer));
            }
            _ => {
                // Only bodies matter here: the groups' state is in the checkpoint that came later.
                let bytes = read_whole(&found[at].segment)?;
                let end = proven_end(found, at);
                scan(identity, &bytes, &mut found[at], end, &mut View::default());
            }
        }
    }
    Ok(view)
}

/// Up to where a segment's frames are known to have been synced, from its own seal or its successor's header.
fn proven_end(found: &[Found], at: usize) -> Option<u32> {
    let next = found.get(at + 1).filter(|next| next.segment.sequence == found[at].segment.sequence + 1);
    let told = next.and_then(|next| next.header.as_ref()).map(|(header, _)| header.prev_end);
    told.or(found[at].seal.map(|seal| seal.frames_end))
}

/// Reads a segment's frames in order.
fn scan(identity: &Identity, bytes: &[u8], found: &mut Found, end: Option<u32>, view: &mut View) {
    let sequence = found.segment.sequence;
    let mut footer = Footer::default();
    let mut at = FRAMES_START as usize;
    // Without a header nothing seeds the first frame; batches are found by themselves.
    let mut prev = found.header.as_ref().map(|(_, seed)| *seed);
    // Where the current batch ends and whose frames it has; frames are only attributed while its head was seen.
    let mut batch: Option<BatchHead> = None;
    let mut batch_end = at;
    while end.is_none_or(|end| at < end as usize) {
        let frame = bytes.get(at..).and_then(parse).filter(|frame| Some(frame.prev) == prev);
        let good = frame.filter(|frame| (frame.kind == Kind::Batch) == (at == batch_end));
        if let Some(frame) = good {
            if frame.kind == Kind::Batch {
                batch = BatchHead::decode(frame.payload);
                batch_end = at + frame.size() + batch.as_ref().map_or(0, |batch| batch.bytes as usize);
            }
            take(&frame, Loc { segment: sequence, offset: at as u32, len: frame.payload.len() as u32 }, view, &mut footer);
            at += frame.size();
            prev = Some(frame.crc);
            continue;
        }
        let next = BatchHead::find(bytes, at + 1, identity.journal, u64::from(sequence));
        if next.is_none() && end.is_none() && prev.is_some() {
            break;
        }
        let known = batch.as_ref().filter(|_| at < batch_end && next.or(end.map(|end| end as usize)) == Some(batch_end));
        tracing::error!(segment = sequence, offset = at, groups = ?known.map(|batch| &batch.groups), "synced frames are damaged");
        view.damage(known.map(|batch| &batch.groups[..]));
        let Some(next) = next.filter(|next| end.is_none_or(|end| *next < end as usize)) else { break };
        prev = bytes.get(next..).and_then(parse).map(|frame| frame.prev);
        (at, batch_end, batch) = (next, next, None);
    }
    // What lies beyond belongs to a torn batch, or to nobody.
    found.used = end.unwrap_or(at as u32);
    found.last_crc = prev.unwrap_or(0);
    found.footer = Some(footer);
}

fn take(frame: &Frame<'_>, at: Loc, view: &mut View, footer: &mut Footer) {
    match frame.kind {
        Kind::Body => match frame.payload.first_chunk() {
            Some(hash) => footer.bodies.push(BodyAt { hash: parliament_ids::BodyHash(*hash), offset: at.offset, len: at.len }),
            None => tracing::error!(segment = at.segment, offset = at.offset, "a body frame without a hash"),
        },
        Kind::Tomb => footer.tombs.extend(Tomb::decode(frame.payload)),
        _ => {
            if !view.apply(frame, at) {
                tracing::error!(segment = at.segment, offset = at.offset, kind = ?frame.kind, "a frame that makes no sense");
                view.damage((frame.group < crate::frame::NOTES_GROUP).then_some(&[frame.group][..]));
            }
        }
    }
}

/// Reads every live entry of the segments that were not read through. Returns those that do not verify; what else there is of their groups
/// is known and sound.
fn verify_entries(found: &[Found], view: &View) -> BTreeMap<(u32, u64), Loc> {
    let segments: HashMap<u32, &Arc<Segment>> = found.iter().map(|found| (found.segment.sequence, &found.segment)).collect();
    let scanned = found.last().map_or(0, |last| last.segment.sequence);
    let mut hurt = BTreeMap::new();
    for (group, state) in &view.groups {
        for (skip, at) in state.entries.iter().enumerate().filter(|(_, at)| at.segment != scanned) {
            let index = state.first + skip as u64;
            if segments.get(&at.segment).is_none_or(|segment| read_entry(segment, *at, *group, index).is_err()) {
                tracing::error!(group, index, segment = at.segment, offset = at.offset, "an entry is damaged or missing");
                hurt.insert((*group, index), *at);
            }
        }
    }
    hurt
}

/// An entry's bytes from its place, verified.
pub(crate) fn read_entry(segment: &Segment, at: Loc, group: u32, index: u64) -> Result<bytes::Bytes, JournalFault> {
    let corrupt = || JournalFault::Corrupt {
        groups: vec![parliament_ids::GroupId(group)],
        segment: u64::from(at.segment),
        offset: u64::from(at.offset),
        what: "an entry does not verify",
    };
    let mut bytes = vec![0; HEAD + at.len as usize];
    match segment.read(u64::from(at.offset), &mut bytes) {
        Err(JournalFault::Disk { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => return Err(corrupt()),
        other => other?,
    }
    let fits = bytes.first_chunk::<HEAD>().is_some_and(|head| claimed_len(head) == at.len);
    let frame = parse(&bytes).filter(|frame| fits && matches!(frame.kind, Kind::Entry | Kind::CarriedEntry) && frame.group == group);
    if frame.and_then(|frame| u64_at(frame.payload, 0)) != Some(index) {
        return Err(corrupt());
    }
    Ok(bytes::Bytes::from(bytes).slice(HEAD + 8..))
}

/// Seals a segment that a crash or a plain close left open, and gives back the space behind it.
fn seal(options: &Options, found: &mut Found) -> Result<(), JournalFault> {
    let (Some((header, _)), Some(footer)) = (&found.header, &found.footer) else { return Ok(()) };
    let path = &found.segment.path;
    let stored = found.seal.filter(|seal| seal.frames_end == found.used).filter(|seal| found.segment.footer(seal).is_some());
    let seal = match stored {
        Some(seal) => seal,
        None => found.segment.seal(header.life, found.used, found.last_crc, footer)?,
    };
    found.seal = Some(seal);
    let end = seal.footer_at + seal.footer_len;
    if stored.is_some() && found.segment.file.len().map_err(JournalFault::disk("measure", path))? >= options.segment_bytes {
        // A whole segment, which can be used again as it is.
        return Ok(());
    }
    found.segment.file.set_len(end).map_err(JournalFault::disk("cut", path))?;
    if options.sync {
        found.segment.file.sync().map_err(JournalFault::disk("sync", path))?;
    }
    Ok(())
}

/// The ready files of an earlier life; those that are too short are removed.
fn spares(options: &Options, names: &[String]) -> (Vec<Spare>, u64) {
    let mut spares = Vec::new();
    let mut highest = 0;
    for name in names {
        let Some(number) = number_in(name, "spare-") else { continue };
        highest = highest.max(number);
        let path = options.dir.join(name);
        let file = options.disk.open(&path, OpenMode::Existing).ok();
        match file.filter(|file| file.len().is_ok_and(|length| length >= options.segment_bytes)) {
            Some(file) => spares.push(Spare { path, file }),
            None => {
                if let Err(error) = options.disk.unlink(&path) {
                    tracing::warn!(%error, path = %path.display(), "a useless file could not be removed");
                }
            }
        }
    }
    (spares, highest)
}

fn start(
    options: Options,
    identity: Identity,
    found: Vec<Found>,
    (view, hurt): (View, BTreeMap<(u32, u64), Loc>),
    (spares, next_spare): (Vec<Spare>, u64),
    lock: Box<dyn std::any::Any + Send + Sync>,
) -> Result<(Arc<Core>, Writer), JournalFault> {
    let header = match found.last() {
        Some(last) => Header {
            journal: identity.journal,
            life: identity.life,
            sequence: last.segment.sequence + 1,
            prev_end: last.used,
            prev_crc: last.last_crc,
        },
        None => Header { journal: identity.journal, life: identity.life, sequence: 1, prev_end: 0, prev_crc: 0 },
    };
    let mut state = State {
        queue: Vec::new(),
        marks: Vec::new(),
        writer_waits: false,
        writer_gathers: false,
        urgent: false,
        queued_body_bytes: 0,
        stamp: 0,
        groups: view.groups.iter().map(|(group, view)| (*group, GroupState::from_view(view))).collect(),
        strangers_damaged: view.strangers_damaged,
        notes: view.notes.clone(),
        notes_damaged: view.notes_damaged,
        pending: HashMap::new(),
        index: BodyIndex::new(),
        segments: BTreeMap::new(),
        active: header.sequence,
        spares,
        next_spare,
        retired: Vec::new(),
        durable_entries: view.live_entries.clone(),
        body_percent: None,
        dead: None,
        closing: false,
        counters: Counters::default(),
        roll: false,
        hurt,
        lost_bodies: Vec::new(),
    };
    fill_index(&mut state, &found);
    let spoiled: Vec<u32> = state.hurt.values().map(|at| at.segment).collect();
    for sequence in spoiled {
        if let Some(stored) = state.segments.get_mut(&sequence) {
            stored.condemned = true;
        }
    }
    let core = Arc::new(Core {
        journal_id: identity.journal,
        life: identity.life,
        state: Mutex::new(state),
        work: Condvar::new(),
        chores: Condvar::new(),
        space: AtomicU8::new(0),
        _lock: lock,
        options,
    });
    core.look_at_space();
    let taken = core.lock().spares.pop();
    let spare = match taken {
        Some(spare) => spare,
        None => core.make_spare(false)?,
    };
    let tail = start_segment(&core.options, spare, &header, &view)?;
    core.lock().segments.insert(tail.segment.sequence, Stored::active(&tail));
    let writer = Writer { core: core.clone(), view, tail, backlog: VecDeque::new() };
    Ok((core, writer))
}

/// Enters all bodies, then removes the copies that tombs name; the order of the segments does not matter, since places are unique for ever.
fn fill_index(state: &mut State, found: &[Found]) {
    for found in found {
        let sequence = found.segment.sequence;
        let footer = found.footer.as_ref();
        let stored = Stored {
            segment: found.segment.clone(),
            seal: found.seal,
            used: found.used,
            live_bodies: 0,
            live_bytes: 0,
            tombs_carried: footer.is_some_and(|footer| footer.tombs.is_empty()),
            // Without a header it could not be sealed, so it would stay for ever.
            condemned: found.seal.is_none(),
            emptied: false,
        };
        state.segments.insert(sequence, stored);
        for body in footer.iter().flat_map(|footer| &footer.bodies) {
            state.enter(&body.hash, Loc { segment: sequence, offset: body.offset, len: body.len });
        }
    }
    for tomb in found.iter().filter_map(|found| found.footer.as_ref()).flat_map(|footer| &footer.tombs) {
        state.bury(tomb);
    }
}
