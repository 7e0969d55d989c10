//! The conformance suite of the storage port: what any implementation of [`Tables`] must do.

use parliament_mailbox_state::{MemoryTables, Tables, Writes};

/// Runs the suite. `commit` applies a batch to `tables`, which must be empty.
///
/// # Panics
/// At the first difference from the reference in memory.
pub fn conformance<T: Tables>(tables: &mut T, mut commit: impl FnMut(&mut T, Writes)) {
    empty_has_nothing(tables);
    let mut model = MemoryTables::new();
    let mut step = |tables: &mut T, writes: Writes| {
        commit(tables, writes.clone());
        model.commit(writes);
        same(tables, &model);
    };
    step(tables, puts(&[(b"b", b"1"), (b"", b"empty key"), (b"\xff\xff", b"last"), (b"b\0", b"2"), (b"c", b"")]));
    step(tables, Writes::from([(b"b".to_vec(), None), (b"never".to_vec(), None), (b"c".to_vec(), Some(b"3".to_vec()))]));
    step(tables, Writes::new());
    let many = (0..700_u32).map(|n| (format!("m{n:05}").into_bytes(), Some(vec![n as u8; n as usize % 300]))).collect();
    step(tables, many);
    step(tables, (0..700_u32).filter(|n| n % 3 == 0 || (200..600).contains(n)).map(|n| (format!("m{n:05}").into_bytes(), None)).collect());
    step(tables, Writes::from([(b"long".to_vec(), Some(vec![7; 100_000])), (vec![b'k'; 390], Some(vec![8; 4000]))]));
    step(tables, Writes::from([(b"long".to_vec(), Some(vec![9; 5_000])), (vec![b'k'; 390], None)]));
    step(tables, Writes::from([(b"long".to_vec(), Some(b"short".to_vec()))]));
    stops_when_told(tables);
}

fn puts(records: &[(&[u8], &[u8])]) -> Writes {
    records.iter().map(|(key, value)| (key.to_vec(), Some(value.to_vec()))).collect()
}

fn empty_has_nothing<T: Tables>(tables: &T) {
    assert_eq!(tables.get(b"").expect("get"), None);
    assert_eq!(tables.last(b"", b"\xff").expect("last"), None);
    assert_eq!(records(tables, b"", b"\xff\xff\xff"), Vec::new());
}

/// All records of a range, as a scan visits them.
///
/// # Panics
/// If the scan fails.
pub fn records<T: Tables>(tables: &T, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    tables
        .scan(from, to, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            true
        })
        .expect("scan");
    found
}

/// Compares every record and the ranges around some of them.
///
/// # Panics
/// At the first difference.
pub fn same<T: Tables>(tables: &T, model: &MemoryTables) {
    let mut marks: Vec<Vec<u8>> = model.iter().map(|(key, _)| key.clone()).collect();
    for key in &marks {
        assert_eq!(tables.get(key).expect("get"), model.get(key).expect("get"), "{key:?}");
    }
    let thin = marks.len() / 12 + 1;
    marks = marks.into_iter().step_by(thin).flat_map(|key| [[key.as_slice(), b"\0"].concat(), key]).collect();
    marks.extend([b"".to_vec(), b"a".to_vec(), b"m003".to_vec(), b"z".to_vec(), b"\xff\xff\xff".to_vec()]);
    for from in &marks {
        assert_eq!(tables.get(from).expect("get"), model.get(from).expect("get"), "{from:?}");
        for to in &marks {
            assert_eq!(records(tables, from, to), records(model, from, to), "{from:?} to {to:?}");
            assert_eq!(tables.last(from, to).expect("last"), model.last(from, to).expect("last"), "{from:?} to {to:?}");
        }
    }
}

fn stops_when_told<T: Tables>(tables: &T) {
    for limit in [1, 2, 17, 40] {
        let mut visits = 0;
        tables
            .scan(b"", b"\xff\xff\xff", &mut |_, _| {
                visits += 1;
                visits < limit
            })
            .expect("scan");
        assert_eq!(visits, limit);
    }
}
