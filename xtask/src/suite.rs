//! All tests, counted, and a loud word on what was not tested.
//!
//! Profiles: unit tests run as built for development, with debug assertions and overflow checks; the processes of the live tests run
//! as built for release, which is what users run. So dependencies are compiled twice. Clippy only checks them.

use crate::cargo::cargo;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the lines `test result: …` add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds what a line tells, if it is one of those.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result: ") else { return };
        let rest = rest.split_once(". ").map_or(rest, |(_, rest)| rest);
        for part in rest.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let number = number.parse::<u64>().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// Builds and runs everything.
pub(crate) fn test() -> Result<(), String> {
    let started = Instant::now();
    let skipped = SkippedFile::new();
    let mut counts = Counts::default();
    // Built first, so that no test waits for a compiler, nor a compiler disturbs a test that looks at the clock.
    let built = run("the program", &["build", "--release", "--locked", "--package", "parliament-node"], &skipped, &mut counts)?;
    let passed = built && run("tests", &["test", "--workspace", "--locked", "--no-fail-fast"], &skipped, &mut counts)?;
    let lines = skipped.lines();
    eprintln!(
        "\n== {} passed, {} failed, {} ignored, {} skipped, {} s",
        counts.passed,
        counts.failed,
        counts.ignored,
        lines.len(),
        started.elapsed().as_secs()
    );
    if !lines.is_empty() {
        eprintln!("== SKIPPED, so NOT TESTED on this machine:");
    }
    for line in &lines {
        eprintln!("==   {line}");
    }
    if !passed || counts.failed > 0 {
        return Err("FAILED: tests".to_owned());
    }
    if counts.passed == 0 {
        return Err("FAILED: no test ran".to_owned());
    }
    Ok(())
}

/// Runs cargo, passes its output on, and counts.
fn run(title: &str, arguments: &[&str], skipped: &SkippedFile, counts: &mut Counts) -> Result<bool, String> {
    eprintln!("== {title}");
    let mut command: Command = cargo();
    command.args(arguments).env("PARLIAMENT_SKIPPED_FILE", &skipped.0).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("cargo: {e}"))?;
    let mut out = std::io::stdout();
    for line in child.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n')) {
        let line = line.map_err(|e| format!("cargo's output: {e}"))?;
        counts.add(&String::from_utf8_lossy(&line));
        out.write_all(&line).and_then(|()| out.write_all(b"\n")).map_err(|e| e.to_string())?;
    }
    child.wait().map(|status| status.success()).map_err(|e| e.to_string())
}

/// Where tests say what they skip: a line each.
struct SkippedFile(PathBuf);

impl SkippedFile {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("parliament-skipped-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.0).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for SkippedFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 45 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.35s");
        counts.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 4.70s");
        counts.add("test something ... ok");
        assert_eq!(counts, Counts { passed: 48, failed: 2, ignored: 1 });
    }
}
