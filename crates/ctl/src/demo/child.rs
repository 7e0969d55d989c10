//! The process of a node: started, killed, paused, resumed; and never left behind.

use super::layout::{NodeEntry, State, config_path};
use crate::error::AdminError;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child as Process, Command};

/// Bytes of a log's end that an error quotes.
const LOG_TAIL_BYTES: usize = 2000;

/// How long a process may take to stop.
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// True when the kernel shows the process as stopped (state `T`, the field behind the name in brackets).
fn is_stopped(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// A node and its process.
pub(crate) struct Child {
    name: String,
    config: PathBuf,
    log: PathBuf,
    /// The running process. Its standard input is a pipe whose end tells it that the demo is gone.
    process: Option<Process>,
    /// Watches over the stopped process: it could not notice the pipe's end itself.
    guard: Option<Process>,
}

/// This program. After it was rebuilt its path leads to another file or nowhere; the kernel still knows the running one.
fn program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

impl Child {
    pub(crate) fn new(node: &NodeEntry) -> Self {
        Self { name: node.id.clone(), config: config_path(node), log: node.dir.join("log"), process: None, guard: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// 0 while there is no process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().and_then(Process::id).unwrap_or(0)
    }

    pub(crate) fn state(&self) -> State {
        match (&self.process, &self.guard) {
            (None, _) => State::Down,
            (Some(_), Some(_)) => State::Paused,
            (Some(_), None) => State::Up,
        }
    }

    /// Starts the node; nothing where it runs.
    pub(crate) fn start(&mut self) -> Result<(), AdminError> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = Command::new(program());
        command.arg("server").arg("--config").arg(&self.config).arg("--end-with-stdin");
        self.process = Some(self.spawn(command)?);
        Ok(())
    }

    /// Runs a command whose input is a pipe, whose output goes to the log, and which no signal of the terminal reaches.
    fn spawn(&self, mut command: Command) -> Result<Process, AdminError> {
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let (out, err) = open().and_then(|f| Ok((f.try_clone()?, f))).map_err(|e| AdminError::file(&self.log, e))?;
        // Settings in the environment are meant for a real node.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with(parliament_config::ENV_PREFIX)) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::piped()).stdout(out).stderr(err).process_group(0).kill_on_drop(true);
        command.spawn().map_err(|e| AdminError::demo(format!("{} could not be started: {e}", self.name)))
    }

    fn pid_of_process(&self) -> Result<Pid, AdminError> {
        let raw = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        raw.ok_or_else(|| {
            AdminError::demo(format!("{} is down", self.name)).with_hint(format!("`parliament demo start {}` starts it", self.name))
        })
    }

    fn signal(&self, signal: Signal) -> Result<(), AdminError> {
        let pid = self.pid_of_process()?;
        kill_process(pid, signal).map_err(|e| AdminError::demo(format!("{}: {e}", self.name)))
    }

    /// Signal 9, at once; returns when the process is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), AdminError> {
        let pid = self.pid_of_process()?;
        // The group too, for whatever the node may have started. It may be gone already.
        let _ = kill_process_group(pid, Signal::KILL);
        self.signal(Signal::KILL)?;
        if let Some(mut process) = self.process.take() {
            let _ = process.wait().await;
        }
        self.dismiss_guard().await;
        Ok(())
    }

    /// Stops the process where it stands; returns when it does, which takes the kernel a moment.
    pub(crate) async fn pause(&mut self) -> Result<(), AdminError> {
        if self.guard.is_some() {
            return Ok(());
        }
        let pid = self.pid_of_process()?;
        let mut command = Command::new(program());
        command.args(["demo", "guard", &pid.as_raw_nonzero().to_string()]);
        self.guard = Some(self.spawn(command)?);
        self.signal(Signal::STOP)?;
        let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
        while !is_stopped(pid) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Lets a stopped process go on.
    pub(crate) async fn resume(&mut self) -> Result<(), AdminError> {
        self.signal(Signal::CONT)?;
        self.dismiss_guard().await;
        Ok(())
    }

    async fn dismiss_guard(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        if let Some(mut pipe) = guard.stdin.take() {
            let _ = pipe.write_all(b"done\n").await;
        }
        let _ = guard.wait().await;
    }

    /// Asks the process to end. A stopped one is woken so that it hears.
    pub(crate) fn terminate(&self) {
        if self.process.is_some() {
            let _ = self.signal(Signal::TERM);
            let _ = self.signal(Signal::CONT);
        }
    }

    /// Notices a process that ended by itself; says how.
    pub(crate) async fn reap(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        self.dismiss_guard().await;
        Some(status.to_string())
    }

    /// The end of the node's log.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let start = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}

/// Waits on standard input: a line means that all is well; its end without a line means that the demo died, and so must `pid`.
pub(crate) fn guard(pid: i32) {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if !matches!(read, Ok(n) if n > 0)
        && let Some(pid) = Pid::from_raw(pid)
    {
        let _ = kill_process(pid, Signal::KILL);
    }
}
