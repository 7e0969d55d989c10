use super::model::Workload;
use super::*;
use crate::sim::Mishap;

fn rounds(equal: bool) -> usize {
    if equal { 220 } else { 90 }
}

fn length(seed: u64, equal: bool) -> (u64, u64) {
    let disk = SimDisk::default();
    let (journal, mut driver) = open(&disk);
    Workload::new(seed, equal).run(&journal, &mut driver, rounds(equal));
    let stats = journal.stats();
    assert!(stats.rolls > 4 && stats.recycled > 0, "the workload must change and recycle segments: {stats:?}");
    (disk.operations(), stats.carried_bytes)
}

/// Cuts the power at one operation, recovers, works on, cuts again, recovers.
fn cut_at(operation: u64, seed: u64, equal: bool) {
    let disk = SimDisk::default();
    disk.plan(operation, Mishap::Cut);
    let mut workload = Workload::new(seed, equal);
    if let Ok((journal, mut driver)) = Journal::open_driven(options(&disk)) {
        workload.run(&journal, &mut driver, rounds(equal));
    }
    let disk = disk.after_cut(operation ^ seed);
    let (journal, mut driver) = open(&disk);
    workload.check(&journal);
    workload.resume(&journal);
    disk.plan(disk.operations() + 10 + operation % 17, Mishap::Cut);
    workload.run(&journal, &mut driver, 12);
    drop((journal, driver));
    let disk = disk.after_cut(operation);
    let (journal, _driver) = open(&disk);
    workload.check(&journal);
}

#[test]
fn cut_at_every_operation_loses_nothing_acknowledged() {
    let (operations, carried) = length(3, false);
    assert!(carried > 0);
    for operation in 1..=operations + 1 {
        cut_at(operation, 3, false);
    }
}

/// Rule 9: recycled segments full of stale frames of equal lengths.
#[test]
fn cut_over_stale_frames_of_equal_lengths_invents_nothing() {
    let (operations, _) = length(11, true);
    for operation in (1..=operations + 1).step_by(2) {
        cut_at(operation, 11, true);
    }
}

/// The process dies, the kernel lives: written and unsynced frames are seen by recovery, which must make them durable before it builds on them.
#[test]
fn kill_then_cut_keeps_what_recovery_saw() {
    for rounds in 1..60 {
        let disk = SimDisk::default();
        let mut workload = Workload::new(5, false);
        let (journal, mut driver) = open(&disk);
        workload.run(&journal, &mut driver, rounds);
        drop((journal, driver));
        let (journal, _driver) = open(&disk);
        workload.check(&journal);
        workload.resume(&journal);
        disk.turn_off();
        let (journal, _driver) = open(&disk.after_cut(rounds as u64));
        workload.check(&journal);
    }
}

/// A failed write or sync ends the journal; nothing after it is acknowledged, and recovery finds what was.
#[test]
fn failed_operation_is_final_and_loses_nothing_acknowledged() {
    let (operations, _) = length(7, false);
    let mut deaths = 0;
    for operation in (1..operations).step_by(3) {
        let disk = SimDisk::default();
        disk.plan(operation, Mishap::Fails);
        let mut workload = Workload::new(7, false);
        if let Ok((journal, mut driver)) = Journal::open_driven(options(&disk)) {
            workload.run(&journal, &mut driver, rounds(false));
            if let Some(fault) = journal.fault() {
                deaths += 1;
                let (done, result) = kept();
                journal.group(parliament_ids::GroupId(1)).save_vote(Bytes::new(), done);
                let later = result.lock().unwrap().take();
                assert_eq!(later.unwrap().unwrap_err().to_string(), fault.to_string());
            }
        }
        let (journal, _driver) = open(&disk.after_cut(operation));
        workload.check(&journal);
    }
    assert!(deaths > 50, "{deaths}");
}
