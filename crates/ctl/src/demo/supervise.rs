//! The demo's own process: starts the nodes, waits until they serve, looks after them, and takes them down.

use super::act::list;
use super::control::{Cluster, listen};
use super::fill::fill;
use super::layout::{Plan, State, write_whole};
use super::load::Load;
use super::registry::Entry;
use crate::Connect;
use crate::cli::{DemoArgs, Global};
use crate::credential::{generate, random};
use crate::error::{AdminError, exit};
use crate::pki::make_private_dir;
use crate::terminal::Terminal;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// How long the demo waits for itself to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long nodes may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at the processes.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The folder of a demo. A made-up one is removed when this is dropped.
struct Folder {
    path: PathBuf,
    made_up: bool,
    /// Locked, so that no second demo uses the same folder.
    _lock: std::fs::File,
}

impl Folder {
    fn new(dir: Option<&Path>) -> Result<Self, AdminError> {
        let (path, made_up) = match dir {
            Some(dir) => (dir.to_owned(), false),
            None => {
                let id: String = random::<4>()?.iter().map(|b| format!("{b:02x}")).collect();
                (std::env::temp_dir().join(format!("parliament-demo.{id}")), true)
            }
        };
        make_private_dir(&path)?;
        let path = path.canonicalize().map_err(|e| AdminError::file(&path, e))?;
        let lock_path = path.join("lock");
        let lock = std::fs::File::create(&lock_path).map_err(|e| AdminError::file(&lock_path, e))?;
        lock.try_lock().map_err(|_| {
            AdminError::demo(format!("another demo runs in {}", path.display()))
                .with_hint("`parliament demo ls` shows it; choose another --dir")
        })?;
        Ok(Self { path, made_up, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.made_up {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Signals that end the demo.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, AdminError> {
        let on = |kind| signal(kind).map_err(|e| AdminError::demo(format!("signals: {e}")));
        Ok(Self([on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?]))
    }
    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Runs a demo until a signal ends it; returns the exit code.
pub(crate) async fn supervise(args: &DemoArgs, global: &Global, connect: &Connect, terminal: &mut Terminal) -> Result<u8, AdminError> {
    let begun = Instant::now();
    // Before anything is started: a signal in the middle must not leave things behind.
    let mut signals = Signals::new()?;
    if let Some(path) = &args.ready_file
        && path.exists()
    {
        // One of an earlier run would tell of readiness too soon.
        std::fs::remove_file(path).map_err(|e| AdminError::file(path, e))?;
    }
    let folder = Folder::new(args.dir.as_deref())?;
    let plan = Plan::new(&folder.path, args.nodes, args.groups, args.users, password(args, &folder.path)?)?;
    let plan = if args.witness { plan.with_witness()? } else { plan };
    if let Some(port) = plan.busy_port() {
        return Err(AdminError::demo(format!("something listens on {port} already"))
            .with_hint("`parliament demo ls` shows a running demo; end it with Ctrl-C in its terminal"));
    }
    plan.write()?;
    let cluster = Arc::new(Cluster::new(plan));
    let entry = Entry::new(&terminal.env)?;
    let result = run(&cluster, &entry, args, global, connect, terminal, &mut signals, begun).await;
    if !global.json {
        terminal.complain("ending the nodes …\n");
    }
    end_all(&cluster, &mut signals).await;
    result
}

/// The password asked for; else the one of an earlier run in this folder; else a new one.
fn password(args: &DemoArgs, dir: &Path) -> Result<String, AdminError> {
    let path = dir.join("password");
    let password = match (&args.password, std::fs::read_to_string(&path)) {
        (Some(given), _) => given.clone(),
        (None, Ok(kept)) if !kept.trim().is_empty() => kept.trim_end_matches('\n').to_owned(),
        (None, _) => generate()?,
    };
    write_whole(&path, &format!("{password}\n"))?;
    Ok(password)
}

#[allow(clippy::too_many_arguments, reason = "the parts of one run, which the caller must outlive")]
async fn run(
    cluster: &Arc<Cluster>,
    entry: &Entry,
    args: &DemoArgs,
    global: &Global,
    connect: &Connect,
    terminal: &mut Terminal,
    signals: &mut Signals,
    begun: Instant,
) -> Result<u8, AdminError> {
    for child in cluster.children.lock().await.iter_mut() {
        child.start()?;
    }
    listen(&entry.socket, cluster.clone())?;
    entry.publish(&cluster.plan.dir)?;
    tokio::select! {
        filled = fill(&cluster.plan, connect, begun + READY_TIMEOUT) => filled.map_err(|e| with_log(e, cluster))?,
        died = death(cluster) => return Err(died),
        () = signals.any() => return Ok(exit::OK),
    }
    let ready = cluster.ready(false).await;
    if let Some(path) = &args.ready_file {
        write_whole(path, &format!("{:#}\n", json!(ready)))?;
    }
    if global.json {
        terminal.print(&format!("{}\n", json!(ready)));
    } else {
        terminal.print(&greeting(&cluster.plan, &list(&ready.nodes), begun.elapsed(), args.dir.is_some()));
    }
    let load = if args.load {
        let run: String = random::<4>()?.iter().map(|b| format!("{b:02x}")).collect();
        Some(Load::start(&ready, &run))
    } else {
        None
    };
    watch(cluster, load.as_ref(), global.json, terminal, signals).await;
    let clean = load.is_none_or(|load| load.tally().is_clean());
    Ok(if clean { exit::OK } else { exit::BUG })
}

fn greeting(plan: &Plan, nodes: &str, took: Duration, kept: bool) -> String {
    let ready = &plan.ready;
    // As it was called, so that the lines below can be copied.
    let program = std::env::args().next().unwrap_or_else(|| "parliament".to_owned());
    let (names, more) = ready.users.split_at(ready.users.len().min(4));
    let more = if more.is_empty() { String::new() } else { format!(" … {}", more[more.len() - 1]) };
    let first = &ready.nodes[0];
    format!(
        "\nParliament is ready after {:.1} s: {} node{} on 127.0.0.1\n\n{nodes}\n\
         accounts   {}{more}  (the domain may be left out)\n\
         password   {}\n\
         IMAPS CA   {}\n\
         status     http://{}/  (metrics: /metrics)\n\n\
         In a second terminal:\n  \
         curl -s 'imap://{}/INBOX;MAILINDEX=1' -u 'alice:{}'\n  \
         {program} status\n  \
         {program} demo kill --holder-of alice\n\n\
         Ctrl-C ends it{}.\n",
        took.as_secs_f64(),
        ready.nodes.len(),
        if ready.nodes.len() == 1 { "" } else { "s" },
        names.join(", "),
        ready.password,
        ready.ca.display(),
        first.http,
        first.imap,
        ready.password,
        if kept { String::new() } else { " and removes its data".to_owned() },
    )
}

/// Returns when a node has ended by itself.
async fn death(cluster: &Cluster) -> AdminError {
    loop {
        for child in cluster.children.lock().await.iter_mut() {
            if let Some(how) = child.reap().await {
                let message = format!(
                    "{} ended while the demo started ({how}); its log {} ends:\n{}",
                    child.name(),
                    child.log().display(),
                    child.log_tail()
                );
                return AdminError::demo(message);
            }
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// Adds where to look, and the end of node 1's log: a made-up folder is gone when the operator reads this.
fn with_log(error: AdminError, cluster: &Cluster) -> AdminError {
    let Ok(children) = cluster.children.try_lock() else { return error };
    let tails: Vec<_> = children.iter().map(|c| format!("--- {}\n{}", c.log().display(), c.log_tail())).collect();
    AdminError { message: format!("{}\n{}", error.message, tails.join("\n")), ..error }
}

/// Looks after the nodes until a signal comes. A node that ends by itself is told, and stays down until somebody starts it:
/// a demo that mends itself would show nothing.
async fn watch(cluster: &Cluster, load: Option<&Load>, json: bool, terminal: &mut Terminal, signals: &mut Signals) {
    let mut look = interval(LOOK_PAUSE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tell = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = look.tick() => {
                for child in cluster.children.lock().await.iter_mut() {
                    if let Some(how) = child.reap().await {
                        terminal.complain(&format!("{} ended ({how}): see {}; `parliament demo start {0}` starts it\n", child.name(), child.log().display()));
                    }
                }
            }
            _ = tell.tick(), if load.is_some() => {
                if let Some(load) = load {
                    let tally = load.tally();
                    match (json, terminal.interactive) {
                        (true, _) => terminal.print(&format!("{}\n", json!(tally))),
                        (false, true) => terminal.print(&format!("\r{} ", tally.line())),
                        (false, false) => terminal.print(&format!("{}\n", tally.line())),
                    }
                }
            }
            () = signals.any() => return,
        }
    }
}

/// Ends all nodes: SIGTERM first, signal 9 after [`END_TIMEOUT`] or at a second signal.
async fn end_all(cluster: &Cluster, signals: &mut Signals) {
    let mut children = cluster.children.lock().await;
    for child in children.iter() {
        child.terminate();
    }
    let deadline = Instant::now() + END_TIMEOUT;
    while Instant::now() < deadline {
        for child in children.iter_mut() {
            let _ = child.reap().await;
        }
        if children.iter().all(|c| c.state() == State::Down) {
            return;
        }
        tokio::select! {
            () = sleep(LOOK_PAUSE) => {}
            () = signals.any() => break,
        }
    }
    for child in children.iter_mut() {
        let _ = child.kill().await;
    }
}
