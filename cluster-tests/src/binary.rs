//! The program under test: built once per process, in the profile that users run.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Path of `parliament`: the one that `PARLIAMENT_BINARY` names, else `cargo build --release -p parliament-node` makes it.
///
/// # Errors
/// What cargo said, when it fails.
pub fn parliament() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| std::env::var_os("PARLIAMENT_BINARY").map_or_else(build, |path| Ok(path.into()))).clone()
}

fn build() -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--release",
        "--package",
        "parliament-node",
        "--bin",
        "parliament",
        "--message-format",
        "json-render-diagnostics",
    ]);
    // Cargo tells tests about the package that is tested; build scripts of the other ones must not see that.
    for (name, _) in std::env::vars_os() {
        let ours = |n: &str| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_") || n == "CARGO_PRIMARY_PACKAGE";
        if name.to_str().is_some_and(ours) {
            cargo.env_remove(name);
        }
    }
    let output = cargo.current_dir(workspace()).stderr(Stdio::inherit()).output().map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo build --release -p parliament-node: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = |line: &str| {
        let message = serde_json::from_str::<Value>(line).ok()?;
        message["executable"].as_str().filter(|_| message["target"]["name"] == "parliament").map(PathBuf::from)
    };
    messages.lines().find_map(found).ok_or_else(|| "cargo built no program named parliament".to_owned())
}
