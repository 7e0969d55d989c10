//! Steps that are told and timed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Cargo, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    // What cargo told this program about its own package would make build scripts of others run again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// A run of cargo.
pub(crate) struct Step {
    title: &'static str,
    command: Command,
}

impl Step {
    pub(crate) fn new(title: &'static str, arguments: &[&str]) -> Self {
        let mut command = cargo();
        command.args(arguments);
        Self { title, command }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn run(mut self) -> Result<(), String> {
        eprintln!("== {}", self.title);
        let started = Instant::now();
        let status = self.command.status().map_err(|e| format!("cargo: {e}"))?;
        eprintln!("== {}: {} s", self.title, started.elapsed().as_secs());
        if status.success() { Ok(()) } else { Err(format!("FAILED: {} (`cargo xtask fix` mends what can be mended)", self.title)) }
    }
}
