//! Random histories against a naive model: after each step the tables hold exactly what the model holds, the invariants hold, a
//! retry changes nothing, sessions that follow by deltas see the truth; and at the end a replay gives identical tables.
#![allow(clippy::unwrap_used)] // A test that meets an unexpected value should stop there.

mod common;
mod model;
use common::*;
use model::{Draw, Model};
use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;
use std::collections::BTreeMap;

/// A session that knows of a mailbox only what SELECT and deltas told it.
struct Follower {
    mark: Mark,
    rows: BTreeMap<Uid, FlagRow>,
}

impl Follower {
    fn select(bed: &Bed, mailbox: MailboxId) -> Self {
        let selected = view::select(&bed.tables, ANN, ANN, &MailboxRef::Id(mailbox)).unwrap().unwrap();
        let rows: BTreeMap<Uid, FlagRow> = bed.flag_rows(mailbox).into_iter().map(|row| (row.uid, row)).collect();
        assert_eq!(selected.uids, rows.keys().copied().collect());
        assert_eq!(selected.first_unseen, rows.values().find(|r| !r.system.contains(SystemFlags::SEEN)).map(|r| r.uid));
        Self { mark: Mark { mailbox, modseq: selected.highest_modseq, uid_next: selected.uid_next }, rows }
    }

    /// Catches up; false when the mailbox is gone.
    fn follow(&mut self, bed: &Bed) -> bool {
        let delta = view::delta(&bed.tables, ANN, ANN, &self.mark).unwrap();
        if delta.gone {
            return false;
        }
        self.rows.retain(|uid, _| !delta.vanished.contains(*uid));
        view::flag_rows(&bed.tables, ANN, self.mark.mailbox, &delta.arrived, None, &mut |row| {
            self.rows.insert(row.uid, row);
            true
        })
        .unwrap();
        for row in &delta.changed {
            assert!(self.rows.insert(row.uid, *row).is_some(), "a change of a message that the session knew");
        }
        self.mark = Mark { modseq: delta.modseq, uid_next: delta.uid_next, ..self.mark };
        let truth: BTreeMap<Uid, FlagRow> = bed.flag_rows(self.mark.mailbox).into_iter().map(|row| (row.uid, row)).collect();
        assert_eq!(self.rows, truth);
        true
    }
}

fn without_heads(tables: &MemoryTables) -> Vec<(Vec<u8>, Vec<u8>)> {
    tables.iter().filter(|(key, _)| key[0] != b'A').map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn run(seed: u64, steps: u64, burst: u64) {
    let mut draw = Draw(seed);
    let mut bed = Bed::new();
    let mut model = Model::new(&bed);
    model.burst = burst;
    let mut followers: Vec<Follower> = Vec::new();
    for step in 1..=steps {
        let op = model.draw_op(&mut draw);
        let mut command = bed.user(op.clone());
        command.request = Some(request(draw.below(3), step));
        let applied = bed.raw(Command::User(command.clone()));
        let outcome = match applied.outcome.clone() {
            Ok(reply) => Ok(reply),
            Err(Refusal::Rejected(rejection)) => Err(rejection),
            Err(other) => panic!("seed {seed} step {step}: {other:?}"),
        };
        let expected = model.apply(&op, &outcome);
        assert_eq!(outcome, expected, "seed {seed} step {step} {op:?}");
        model.hear(&applied.changes);
        model.compare(&bed);
        if draw.below(4) == 0 {
            let before = without_heads(&bed.tables);
            command.op_no = bed.user(Op::Noop).op_no;
            let again = bed.raw(Command::User(command));
            assert_eq!((again.outcome, again.changes), (applied.outcome, vec![]), "seed {seed} step {step}: the retry");
            assert_eq!(without_heads(&bed.tables), before, "seed {seed} step {step}: the retry");
        }
        if draw.below(5) == 0 {
            followers.retain_mut(|follower| follower.follow(&bed));
        }
        if draw.below(8) == 0 && followers.len() < 6 {
            let mailboxes = view::mailboxes(&bed.tables, ANN).unwrap();
            let at = draw.below(mailboxes.len() as u64) as usize;
            followers.push(Follower::select(&bed, mailboxes[at].mailbox));
        }
    }
    replay(&bed, &mut draw);
}

/// The same log in chunks of other sizes gives the same tables.
fn replay(bed: &Bed, draw: &mut Draw) {
    let mut tables = MemoryTables::new();
    let mut rest = bed.log.as_slice();
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(rest.len().min(1 + draw.below(20) as usize));
        let mut overlay = Overlay::new(&tables);
        for command in chunk {
            apply(&mut overlay, draw.below(1000), command).unwrap();
        }
        let writes = overlay.into_writes();
        tables.commit(writes);
        rest = later;
    }
    assert_eq!(tables, bed.tables, "a replay gives identical tables");
}

#[test]
fn random_histories_agree_with_the_model() {
    for seed in 0..24 {
        run(seed, 120, 90);
    }
}

#[test]
fn a_history_of_large_mailboxes_agrees_with_the_model() {
    run(4711, 250, 900);
}
