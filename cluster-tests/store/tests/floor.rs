//! The file system itself, through the kernel: what the other tests stand on.

use parliament_store_tests::{Action, Fault, Loss, mounted};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(folder: &Path) {
    File::open(folder).expect("open").sync_all().expect("sync");
}

#[test]
fn cut_leaves_what_was_synced_and_handles_of_before_stay_dead() {
    let Some(mounted) = mounted("the file system of the store tests", 1) else { return };
    let root = mounted.path();
    fs::create_dir(root.join("d")).expect("folder");
    put(&root.join("d/kept"), b"kept").expect("put");
    put(&root.join("d/nameless"), b"lost with its name").expect("put");
    let kept = File::options().write(true).read(true).open(root.join("d/kept")).expect("open");
    fs::remove_file(root.join("d/nameless")).expect("remove");
    sync(&root.join("d"));
    sync(&root);
    put(&root.join("d/nameless"), b"lost with its name").expect("put");
    kept.write_all_at(b"KEPT", 0).expect("write");
    assert_eq!(fs::read(root.join("d/kept")).expect("read"), b"KEPT");
    mounted.volume.cut(Loss::All);
    assert!(fs::read(root.join("d/kept")).is_err() && kept.write_all_at(b"late", 0).is_err());
    mounted.volume.start();
    assert!(kept.write_all_at(b"late", 0).is_err() && kept.sync_all().is_err());
    assert_eq!(fs::read(root.join("d/kept")).expect("read"), b"kept");
    let names: Vec<_> = fs::read_dir(root.join("d")).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names, ["kept"]);
}

#[test]
fn planned_cut_comes_before_or_after_the_operation_it_names() {
    let Some(mounted) = mounted("planned cuts", 2) else { return };
    let path = mounted.path().join("f");
    put(&path, b"old").expect("put");
    sync(&mounted.path());
    for (carried_out, expected) in [(false, b"old"), (true, b"new")] {
        let file = File::options().write(true).open(&path).expect("open");
        mounted.volume.cut_after(1, Loss::All, carried_out);
        file.write_all_at(b"new", 0).expect("write");
        assert!(file.sync_data().is_err() && mounted.volume.is_off());
        mounted.volume.start();
        assert_eq!(fs::read(&path).expect("read"), expected);
    }
}

#[test]
fn faults_space_and_latency() {
    let Some(mounted) = mounted("faults of the file system", 3) else { return };
    let (volume, path) = (&mounted.volume, mounted.path().join("file"));
    put(&path, b"first").expect("put");
    sync(&mounted.path());
    let file = File::options().read(true).write(true).open(&path).expect("open");

    let other = File::open(&path).expect("open");
    volume.fail(Fault { action: Action::Sync, name: "fi", after: 0, times: 1 });
    file.write_all_at(b"SECOND", 0).expect("write");
    assert!(file.sync_data().is_err());
    file.sync_data().expect("a later sync says yes and proves nothing");
    assert!(other.sync_data().is_err() && other.sync_data().is_ok(), "every descriptor of that moment is told once");
    assert_eq!(fs::read(&path).expect("read"), b"SECOND");
    volume.cut(Loss::All);
    volume.start();
    assert_eq!(fs::read(&path).expect("read"), b"first");

    for action in [Action::Read, Action::Write] {
        let file = File::options().read(true).write(true).open(&path).expect("open");
        volume.fail(Fault { action, name: "file", after: 1, times: 1 });
        let outcomes: Vec<bool> = (0..3)
            .map(|_| match action {
                Action::Read => file.read_at(&mut [0; 4], 0).is_ok(),
                _ => file.write_at(b"first", 0).is_ok(),
            })
            .collect();
        assert_eq!(outcomes, [true, false, true]);
    }
    assert_eq!(volume.bitten(), 3);

    volume.set_capacity(Some(volume.used() + 8192));
    let full = put(&mounted.path().join("large"), &[1; 20_000]).expect_err("full");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    fs::remove_file(mounted.path().join("large")).expect("remove");
    put(&mounted.path().join("small"), &[1; 8000]).expect("put");
    file_cannot_grow(&mounted.path().join("file"));

    volume.set_latency(Duration::from_millis(30));
    let start = Instant::now();
    File::options().write(true).open(&path).expect("open").sync_data().expect("sync");
    assert!(start.elapsed() >= Duration::from_millis(30));
}

fn file_cannot_grow(path: &Path) {
    let file = File::options().write(true).open(path).expect("open");
    assert!(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).is_err());
    assert_eq!(file.metadata().expect("metadata").len(), 5);
}
