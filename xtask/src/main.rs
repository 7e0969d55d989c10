//! Chores: `cargo xtask check | test | fix | bench | chaos | survive`. `check` and `test` edit nothing; `test` is what continuous
//! integration runs.

mod cargo;
mod suite;
#[cfg(test)]
mod tidy;

use cargo::{Step, cargo};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask check    formatting, clippy and documentation without a warning, tidy rules; edits nothing
cargo xtask test     check, then all tests of all crates, those with real processes included
cargo xtask fix      formats, and lets clippy mend what it can
cargo xtask bench    [--against dovecot] [--only parliament|dovecot] [--seconds S] [--rounds N] [--row NAME] [--json]
cargo xtask chaos    [--minutes M] [--seed S] [--clients N] [--accounts N] [--pause MS] [--all-at-once TIMES | --crowned TIMES | --paused TIMES | --scenario partitions|witness] [--history FILE] [--json]
cargo xtask chaos    --judge FILE
cargo xtask survive  [--minutes M] [--sessions N] [--seed S] [--huge MESSAGES] [--json]
cargo xtask survive  --handover TIMES [--json]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => check().and_then(|()| tidy_tests()),
        ["test"] => check().and_then(|()| suite::test()),
        ["fix"] => fix(),
        ["bench", rest @ ..] => tool("parliament-cluster-tests", "bench", rest),
        ["chaos", rest @ ..] => tool("parliament-jepsen", "chaos", rest),
        ["survive", rest @ ..] => tool("parliament-cluster-tests", "survive", rest),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<(), String> {
    Step::new("formatting", &["fmt", "--all", "--check"]).run()?;
    Step::new("clippy", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]).run()?;
    Step::new("documentation", &["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings").run()
}

/// The tidy rules are tests of this package; `test` runs them with all others.
fn tidy_tests() -> Result<(), String> {
    Step::new("tidy rules", &["test", "--quiet", "--package", "xtask", "--locked"]).run()
}

fn fix() -> Result<(), String> {
    Step::new("clippy", &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]).run()?;
    Step::new("formatting", &["fmt", "--all"]).run()
}

/// Tools live with the clients they use, and run as built for release: their own cost is part of what they measure. Their exit code
/// is passed on.
fn tool(package: &str, name: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", package, "--bin", name, "--"]).args(arguments);
    let status = command.status().map_err(|e| format!("cargo: {e}"))?;
    match status.code() {
        Some(0) => Ok(()),
        code => std::process::exit(code.unwrap_or(1)),
    }
}
