use super::*;
use crate::sim::Mishap;
use parliament_ids::GroupId;
use std::path::PathBuf;

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.to_string_lossy().contains("segment-")).collect()
}

/// One batch per entry, groups 1 and 2 in turn; the payload tells group and index.
fn fill(disk: &SimDisk, entries: u64) {
    let (journal, mut driver) = open(disk);
    journal.put_note(b"boot", b"1", nothing());
    for index in 0..entries {
        for group in [1u32, 2] {
            journal.group(GroupId(group)).append(vec![(index, text(group, index))], nothing());
            driver.write_all();
        }
    }
    // The power goes before the segment is completed.
    disk.plan(disk.operations() + 1, Mishap::Cut);
}

fn text(group: u32, index: u64) -> Bytes {
    Bytes::from(format!("entry {index} of group {group} {}", "x".repeat(300)))
}

fn position(disk: &SimDisk, path: &std::path::Path, needle: &[u8]) -> usize {
    memchr::memmem::find(&disk.bytes(path), needle).unwrap()
}

#[test]
fn flipped_entry_before_synced_ones_damages_its_group_alone_and_for_good() {
    let disk = SimDisk::default();
    fill(&disk, 5);
    let disk = disk.after_cut(1);
    let path = segments(&disk).pop().unwrap();
    let at = position(&disk, &path, b"entry 2 of group 1");
    disk.flip(&path, at, 4);
    for _ in 0..3 {
        let (journal, mut driver) = open(&disk);
        assert_eq!(journal.damage(), crate::Damage { groups: vec![GroupId(1)], ..Default::default() });
        assert!(matches!(journal.group(GroupId(1)).read(0, 1, 9999), Err(JournalFault::Corrupt { .. })));
        let (done, result) = kept();
        journal.group(GroupId(1)).append(vec![(5, Bytes::new())], done);
        assert!(matches!(*result.lock().unwrap(), Some(Err(JournalFault::Corrupt { .. }))));
        assert_eq!(journal.group(GroupId(2)).read(0, 5, usize::MAX).unwrap().len(), 5);
        assert_eq!(journal.note(b"boot"), Some(b"1".to_vec()));
        driver.write_all();
    }
    let (journal, mut driver) = open(&disk);
    journal.group(GroupId(1)).reset(nothing());
    driver.write_all();
    drop((journal, driver));
    let (journal, _driver) = open(&disk);
    assert_eq!(journal.damage(), crate::Damage::default());
    assert_eq!(journal.group(GroupId(1)).state(), crate::LogState::default());
}

#[test]
fn flips_anywhere_are_never_taken_for_a_torn_tail_unless_in_the_last_batch() {
    let disk = SimDisk::default();
    fill(&disk, 4);
    let disk = disk.after_cut(1);
    let path = segments(&disk).pop().unwrap();
    let bytes = disk.bytes(&path);
    let last = memchr::memmem::find(&bytes, b"entry 3 of group 2").unwrap() - 8 - crate::frame::HEAD - crate::frame::BatchHead::size(1);
    for at in (4096..last).step_by(7) {
        let disk = disk.after_cut(0);
        disk.flip(&path, at, 0x10);
        let (journal, _driver) = open(&disk);
        let damage = journal.damage();
        assert!(damage.strangers || !damage.groups.is_empty(), "a flip at {at} went unseen");
    }
    for at in last..last + 100 {
        let disk = disk.after_cut(0);
        disk.flip(&path, at, 0x10);
        let (journal, _driver) = open(&disk);
        assert_eq!(journal.damage(), crate::Damage::default());
        assert_eq!(journal.group(GroupId(2)).state().last_index, Some(2));
        assert_eq!(journal.group(GroupId(1)).read(0, 4, usize::MAX).unwrap().len(), 4);
    }
}

#[test]
fn flip_in_an_older_segment_hurts_the_group_whose_entry_it_hits_until_that_is_purged() {
    let disk = SimDisk::default();
    fill(&disk, 300);
    let disk = disk.after_cut(1);
    let path = segments(&disk)[0].clone();
    let at = position(&disk, &path, b"entry 10 of group 2");
    disk.flip(&path, at, 1);
    let (journal, mut driver) = open(&disk);
    assert_eq!(journal.damage(), crate::Damage { hurt: vec![GroupId(2)], ..Default::default() });
    assert_eq!(journal.group(GroupId(2)).state().hurt, Some(10));
    let read = journal.group(GroupId(1)).read(0, 300, usize::MAX).unwrap();
    assert!(read.iter().enumerate().all(|(at, (index, bytes))| *index == at as u64 && *bytes == text(1, *index)));
    assert_eq!(read.len(), 300);
    // The group goes on, though nobody gets that entry from it.
    let log = journal.group(GroupId(2));
    assert!(matches!(log.read(10, 11, 9999), Err(JournalFault::Corrupt { .. })));
    let (done, result) = kept();
    log.append(vec![(300, text(2, 300))], done);
    driver.write_all();
    assert!(matches!(*result.lock().unwrap(), Some(Ok(()))));
    assert!(journal.condemned() == 1 && disk.files().contains(&path));
    log.purge_to(10, Bytes::new(), nothing());
    mend(&journal, &mut driver);
    assert!(journal.damage() == crate::Damage::default() && journal.condemned() == 0 && !disk.files().contains(&path));
    assert_eq!(log.read(11, 301, usize::MAX).unwrap().len(), 290);
    drop((log, journal, driver));
    assert_eq!(open(&disk).0.damage(), crate::Damage::default());
}

/// Lets the writer and the keeper do all they have to.
fn mend(journal: &Journal, driver: &mut crate::Driver) {
    for _ in 0..20 {
        driver.write_all();
        driver.keep_once();
    }
    assert_eq!(journal.fault().map(|fault| fault.to_string()), None);
}

fn scrub(journal: &Journal) -> (u64, usize) {
    let (mut scrub, mut damaged, mut sound) = (crate::Scrub::default(), 0, 0);
    loop {
        let step = journal.scrub(&mut scrub, 20_000);
        damaged += step.damaged;
        sound += step.sound.len();
        if step.finished {
            return (damaged, sound);
        }
    }
}

/// Bodies and entries of two groups over a few segments, purged in part, and a note.
fn mixed(disk: &SimDisk) -> (Journal, crate::Driver, Vec<(BodyHash, Bytes)>) {
    let (journal, mut driver) = open(disk);
    journal.put_note(b"boot", b"1", nothing());
    let mut bodies = Vec::new();
    for index in 0..60 {
        for group in [1u32, 2] {
            journal.group(GroupId(group)).append(vec![(index, text(group, index))], nothing());
            let (hash, bytes) = body((2 * index) as u8 + group as u8, 1500);
            journal.put_body(hash, bytes.clone(), nothing());
            bodies.push((hash, bytes));
            driver.write_all();
        }
        journal.group(GroupId(1)).save_vote(Bytes::from(format!("vote {index}")), nothing());
    }
    journal.remove_body(&bodies.pop().unwrap().0);
    driver.write_all();
    (journal, driver, bodies)
}

/// Every byte of every segment in use that a frame, header, seal or footer covers is watched, and the journal is whole again after a scrub
/// with the snapshot and the bodies that it asks for; nothing that was not hit itself is lost.
#[test]
fn a_flip_anywhere_is_found_by_a_scrub_and_mended_while_the_journal_works() {
    let whole = SimDisk::default();
    let (journal, driver, bodies) = mixed(&whole);
    assert_eq!(scrub(&journal), (0, bodies.len()));
    drop((journal, driver));
    let mut hit = (0, 0);
    for round in 0..90usize {
        let disk = SimDisk::default();
        let (journal, mut driver, bodies) = mixed(&disk);
        let paths = segments(&disk);
        let path = &paths[round % paths.len()];
        let used = journal.inner.core.lock().segments.iter().nth(round % paths.len()).map(|(_, stored)| stored.used).unwrap();
        // Head and seal in turn with frames at places without a pattern.
        let at = match round % 10 {
            0 => 20,
            1 if round % paths.len() + 1 < paths.len() => 530,
            2 if round % paths.len() + 1 < paths.len() => (used as usize).next_multiple_of(4096) + 50,
            _ => 4096 + (round * 7_919) % (used as usize - 4096),
        };
        disk.flip(path, at, 1 << (round % 8));
        assert!(scrub(&journal).0 > 0, "{path:?} {at}");
        mend(&journal, &mut driver);
        for (group, index) in journal.hurt_entries() {
            hit.0 += 1;
            journal.group(group).purge_to(index, Bytes::new(), nothing());
        }
        let lost = journal.take_lost_bodies();
        hit.1 += lost.len();
        for (hash, bytes) in bodies.iter().filter(|(hash, _)| journal.body_state(hash).is_none()) {
            assert!(lost.contains(hash) || round % 10 == 2, "a body that nobody was told of is missing");
            journal.put_body(*hash, bytes.clone(), nothing());
        }
        mend(&journal, &mut driver);
        assert_eq!((scrub(&journal), journal.condemned()), ((0, bodies.len()), 0), "{path:?} {at}");
        assert!(!disk.files().contains(path));
        drop((journal, driver));
        let (journal, _driver) = open(&disk);
        assert_eq!(journal.damage(), crate::Damage::default());
        assert_eq!(journal.note(b"boot"), Some(b"1".to_vec()));
        assert_eq!(journal.group(GroupId(1)).state().vote, Some(Bytes::from_static(b"vote 59")));
        assert!(bodies.iter().all(|(hash, bytes)| journal.read_body(hash).unwrap().as_ref() == Some(bytes)));
        for group in [1u32, 2] {
            let log = journal.group(GroupId(group));
            let first = log.first_index().unwrap_or(60);
            assert!(log.read(first, 60, usize::MAX).unwrap().iter().all(|(index, bytes)| *bytes == text(group, *index)));
            assert_eq!(log.state().last_index.unwrap_or(59), 59);
        }
    }
    assert!(hit.0 > 1 && hit.1 > 10, "{hit:?}");
}

#[test]
fn a_damaged_identity_is_written_anew() {
    let disk = SimDisk::default();
    let (journal, driver, _) = mixed(&disk);
    let path = disk.files().into_iter().find(|path| path.ends_with("identity")).unwrap();
    disk.flip(&path, 14, 1);
    assert_eq!(scrub(&journal).0, 1);
    assert_eq!(scrub(&journal).0, 0);
    drop((journal, driver));
    drop(open(&disk));
}

fn flip_checkpoint(disk: &SimDisk, path: &std::path::Path) {
    disk.flip(path, 4096 + crate::frame::BatchHead::size(0) + crate::frame::HEAD + 6, 1);
}

#[test]
fn damaged_checkpoint_falls_back_to_the_segment_before() {
    let disk = SimDisk::default();
    fill(&disk, 300);
    let disk = disk.after_cut(1);
    assert!(segments(&disk).len() > 2);
    flip_checkpoint(&disk, &segments(&disk).pop().unwrap());
    let (journal, _driver) = open(&disk);
    assert_eq!(journal.damage(), crate::Damage::default());
    assert_eq!(journal.group(GroupId(2)).read(0, 300, usize::MAX).unwrap().len(), 300);
}

#[test]
fn without_any_checkpoint_nobody_is_cleared() {
    let disk = SimDisk::default();
    fill(&disk, 300);
    let disk = disk.after_cut(1);
    segments(&disk).iter().for_each(|path| flip_checkpoint(&disk, path));
    for _ in 0..2 {
        let (journal, _driver) = open(&disk);
        assert!(journal.damage().strangers && journal.damage().notes);
        assert_eq!(journal.damage().groups, vec![GroupId(1), GroupId(2)]);
        assert!(journal.group(GroupId(9)).state().damaged);
    }
}

#[test]
fn missing_segments_are_not_an_empty_journal() {
    let disk = SimDisk::default();
    fill(&disk, 3);
    let disk = disk.after_cut(1);
    drop(open(&disk));
    for path in segments(&disk) {
        crate::disk::Disk::unlink(&disk, &path).unwrap();
    }
    assert!(matches!(Journal::open_driven(options(&disk)), Err(JournalFault::Unusable { .. })));
}

#[test]
fn damaged_body_is_quarantined_and_can_be_put_again() {
    let disk = SimDisk::default();
    let (hash, bytes) = body(9, 5000);
    let (journal, mut driver) = open(&disk);
    journal.put_body(hash, bytes.clone(), nothing());
    driver.write_all();
    let path = segments(&disk).pop().unwrap();
    let at = position(&disk, &path, &bytes[..200]);
    disk.flip(&path, at + 4000, 8);
    assert!(matches!(journal.read_body(&hash), Err(JournalFault::CorruptBody { .. })));
    assert_eq!((journal.body_state(&hash), journal.read_body(&hash).unwrap()), (None, None));
    journal.put_body(hash, bytes.clone(), nothing());
    driver.write_all();
    assert_eq!(journal.read_body(&hash).unwrap(), Some(bytes.clone()));
    drop((journal, driver));
    let (journal, _driver) = open(&disk);
    assert_eq!(journal.read_body(&hash).unwrap(), Some(bytes));
}
