//! Wrong clocks: a node's process gets a clock whose rate and wall time the test sets while it runs (`clock.c`, built with gcc and loaded
//! under the program).

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Builds the library into a folder.
///
/// # Errors
/// In words, when there is no gcc, or what it said.
pub(super) fn build(dir: &Path) -> Result<PathBuf, String> {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    std::fs::write(&source, include_str!("clock.c")).map_err(|e| format!("{}: {e}", source.display()))?;
    let output = Command::new("gcc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source).output();
    let output = output.map_err(|e| format!("gcc: {e}"))?;
    if output.status.success() { Ok(library) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The clock of one node.
#[derive(Debug)]
pub struct Clock {
    file: std::fs::File,
    pub(super) path: PathBuf,
}

impl Clock {
    /// A true clock, for now.
    pub(super) fn new(path: PathBuf) -> Result<Self, String> {
        let options = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let clock = Self { file: options.map_err(|e| format!("{}: {e}", path.display()))?, path };
        clock.write(8, 0)?;
        clock.write(0, 1_000_000)?;
        Ok(clock)
    }

    fn write(&self, at: u64, value: i64) -> Result<(), String> {
        self.file.write_all_at(&value.to_ne_bytes(), at).map_err(|e| format!("{}: {e}", self.path.display()))
    }

    /// From now on the clock runs at so many millionths of the true rate.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn run_at(&self, millionths: i64) -> Result<(), String> {
        self.write(0, millionths)
    }

    /// The wall clock is ahead by so much, or behind.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn jump(&self, by: Duration, back: bool) -> Result<(), String> {
        let ns = i64::try_from(by.as_nanos()).map_err(|e| e.to_string())?;
        self.write(8, if back { -ns } else { ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program's clock says of a second of the true one.
    #[test]
    fn a_process_gets_another_clock() {
        let dir = tempfile::tempdir().unwrap();
        let library = match build(dir.path()) {
            Ok(library) => library,
            Err(why) => return crate::skipped("wrong clocks", &why),
        };
        let clock = Clock::new(dir.path().join("clock")).unwrap();
        let date = || {
            let mut command = Command::new("date");
            command.arg("+%s").env("LD_PRELOAD", &library).env("PARLIAMENT_TEST_CLOCK", &clock.path);
            String::from_utf8(command.output().unwrap().stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        let before = date();
        clock.jump(Duration::from_secs(3600), false).unwrap();
        assert!((3599..3700).contains(&(date() - before)));
        clock.jump(Duration::from_secs(3600), true).unwrap();
        assert!((-3700..-3500).contains(&(date() - before)));
        clock.jump(Duration::ZERO, false).unwrap();
        let slept = |millionths| {
            clock.run_at(millionths).unwrap();
            let mut command = Command::new("sleep");
            command.arg("1").env("LD_PRELOAD", &library).env("PARLIAMENT_TEST_CLOCK", &clock.path);
            let began = std::time::Instant::now();
            assert!(command.status().unwrap().success());
            began.elapsed()
        };
        let (fast, slow) = (slept(4_000_000), slept(500_000));
        assert!(fast >= Duration::from_millis(250) && fast < Duration::from_secs(1), "{fast:?}");
        assert!(slow >= Duration::from_secs(2), "{slow:?}");
    }
}
