//! The demo's side of its control socket.

use super::child::Child;
use super::layout::{Plan, Ready};
use crate::error::AdminError;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

/// Longest request, bytes.
const REQUEST_BYTES_MAX: u64 = 4096;

/// The nodes of a demo, shared by its main loop and the control socket.
pub(crate) struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) children: Mutex<Vec<Child>>,
}

impl Cluster {
    pub(crate) fn new(plan: Plan) -> Self {
        let children = plan.ready.nodes.iter().map(Child::new).collect();
        Self { plan, children: Mutex::new(children) }
    }

    /// The ready file's content with current pids; `states` adds who is up.
    pub(crate) async fn ready(&self, states: bool) -> Ready {
        let mut ready = self.plan.ready.clone();
        let children = self.children.lock().await;
        for (node, child) in ready.nodes.iter_mut().zip(children.iter()) {
            node.pid = child.pid();
            node.state = states.then(|| child.state());
        }
        ready
    }

    /// Does something with a node; the answer is the node as it is afterwards.
    async fn act(&self, verb: &str, name: &str) -> Result<Value, AdminError> {
        let mut children = self.children.lock().await;
        let names: Vec<String> = children.iter().map(|c| c.name().to_owned()).collect();
        let child = children.iter_mut().find(|c| c.name() == name).ok_or_else(|| {
            AdminError::usage(format!("this demo has no node {name}")).with_hint(format!("its nodes are {}", names.join(", ")))
        })?;
        let pid = child.pid();
        match verb {
            "kill" => child.kill().await?,
            "pause" => child.pause().await?,
            "resume" => child.resume().await?,
            "start" => child.start()?,
            _ => return Err(AdminError::usage(format!("a demo cannot {verb}"))),
        }
        let pid = if child.pid() == 0 { pid } else { child.pid() };
        Ok(json!({ "node": name, "pid": pid, "state": child.state() }))
    }

    async fn answer(&self, request: &str) -> Value {
        let request: Value = serde_json::from_str(request).unwrap_or_default();
        let text = |key: &str| request.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("verb") {
            "ls" => json!(self.ready(true).await),
            verb => self.act(verb, text("node")).await.unwrap_or_else(|error| json!({ "error": error })),
        }
    }
}

/// Listens on the control socket until dropped with the runtime.
pub(crate) fn listen(socket: &Path, cluster: Arc<Cluster>) -> Result<(), AdminError> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(|e| AdminError::file(socket, e))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let cluster = cluster.clone();
                    tokio::spawn(async move { talk(stream, &cluster).await });
                }
                // Out of file descriptors: wait for some to be closed.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

async fn talk(stream: UnixStream, cluster: &Cluster) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if (&mut stream).take(REQUEST_BYTES_MAX).read_line(&mut line).await.is_ok() {
        let answer = cluster.answer(&line).await;
        let _ = stream.write_all(format!("{answer}\n").as_bytes()).await;
    }
}
