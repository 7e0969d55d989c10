//! `parliament server`: from the configuration to a running node, and to its end.

use crate::admin::Operators;
use crate::node::{Fatal, Node, fatal};
use crate::page::Routes;
use crate::peers::Peers;
use crate::{http, tls};
use parliament_config::{Config, LogFormat, load};
use parliament_ctl::{Serve, exit};
use parliament_rpc::{Server, serve_admin_socket};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// How long clients may take to leave when the node stops.
const DRAIN_GRACE: Duration = Duration::from_secs(3);
/// How long the other nodes may take to hear that this one gives up its leases.
const LEASES_GRACE: Duration = Duration::from_secs(2);

type FilterHandle = reload::Handle<EnvFilter, Registry>;

/// Runs until a signal or a fatal fault; the exit code.
pub(crate) fn run(serve: Serve) -> u8 {
    let filter = match log(&serve.config) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: {error}");
            return exit::CONFIG;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("mail").build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return exit::UNEXPECTED;
        }
    };
    let ended = runtime.block_on(serve_until_end(serve, &filter));
    runtime.shutdown_timeout(Duration::from_secs(2));
    match ended {
        Ok(()) => exit::OK,
        Err(error) => {
            tracing::error!(%error, "the node cannot go on");
            error.exit()
        }
    }
}

fn log(config: &Config) -> Result<FilterHandle, String> {
    // Consensus tells of every vote; what operators need of it is told by the groups.
    let filter = EnvFilter::try_new(format!("openraft=error,sled=warn,{}", config.log.filter)).map_err(|e| format!("log.filter: {e}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let lines = match config.log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|e| e.to_string())?;
    Ok(handle)
}

async fn serve_until_end(serve: Serve, filter: &FilterHandle) -> Result<(), Fatal> {
    let mut terminate = signal(SignalKind::terminate()).map_err(fatal("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fatal("signals"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(fatal("signals"))?;
    let Serve { config, sources, join } = serve;
    let peer_tls = match &config.tls_cluster {
        Some(files) => Some(tls::load(files, &config.cluster.name)?),
        None => None,
    };
    let node = Node::open(config, peer_tls).await?;
    let mut tasks = listen(&node).await?;
    let resuming = node.clone();
    tasks.spawn(async move {
        let begun = match join {
            Some(token) => crate::join::join(&resuming, &token).await,
            None => resuming.resume().await.map(drop),
        };
        match begun {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    });
    // To the service manager a node is up once operators and peers can reach it: before that a cluster can neither be formed
    // nor come back. Whether it serves mail is told by /readyz.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("waiting for the cluster")]);
    let mut ending = node.ending.subscribe();
    let why = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => reload_settings(&node, &sources, filter),
            _ = ending.changed() => break ending.borrow().clone(),
            ended = tasks.join_next() => {
                let gone = |why: String| Fatal { what: "a task ended", why };
                break Some(ended.map_or_else(|| gone("none is left".into()), |ended| ended.unwrap_or_else(|e| gone(e.to_string()))));
            }
        }
    };
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    match why {
        None => {
            stop(&node).await;
            Ok(())
        }
        Some(fatal) => Err(fatal),
    }
}

/// Opens the peer port, the operators' socket and HTTP. Their tasks end only with a reason.
async fn listen(node: &Arc<Node>) -> Result<tokio::task::JoinSet<Fatal>, Fatal> {
    let mut tasks = tokio::task::JoinSet::new();
    let peer = TcpListener::bind(node.config.peer_listen).await.map_err(fatal("peer.listen"))?;
    let server = Server { peers: Arc::new(Peers(node.clone())), admin: Arc::new(Operators(node.clone())), tls: node.tls.clone() };
    tasks.spawn(async move { Fatal { what: "peer port", why: format!("{:?}", server.run(peer).await) } });
    let socket = serve_admin_socket(node.config.admin_socket(), Arc::new(Operators(node.clone())));
    tasks.spawn(async move { Fatal { what: "admin socket", why: format!("{:?}", socket.await) } });
    // One for all addresses, so that all who look at the page share one look at the cluster.
    let page = Routes::new(node.clone());
    for address in &node.config.http_listen {
        let listener = TcpListener::bind(address).await.map_err(fatal("http.listen"))?;
        let router = http::router(node.clone(), &page, *address).into_make_service_with_connect_info::<crate::nginx_auth::Ends>();
        tasks.spawn(async move { Fatal { what: "http", why: format!("{:?}", axum::serve(listener, router).await) } });
    }
    Ok(tasks)
}

fn reload_settings(node: &Node, sources: &parliament_config::Sources, filter: &FilterHandle) {
    match load(sources) {
        Ok(loaded) => {
            let text = format!("openraft=error,sled=warn,{}", loaded.config.log.filter);
            match EnvFilter::try_new(text) {
                Ok(new) => drop(filter.reload(new)),
                Err(error) => tracing::error!(%error, "log.filter stays as it was"),
            }
        }
        Err(problems) => tracing::error!(%problems, "the configuration stays as it was"),
    }
    if let Some(certificates) = node.running().and_then(|running| running.frontend.get().map(|f| f.reload_certificates())) {
        match certificates {
            Ok(()) => tracing::info!("certificates and log filter loaded again"),
            Err(error) => tracing::error!(%error, "certificates stay as they were"),
        }
    }
}

/// Leaderships and leases go to others, clients are told, tables and journal are made durable.
async fn stop(node: &Arc<Node>) {
    tracing::info!("stopping");
    if let Some(running) = node.running() {
        running.set_draining();
        // A free lease goes to the leader of its group, so leaderships are given up first.
        running.give_up_leaderships().await;
        if !running.local.give_up_leases(LEASES_GRACE).await {
            tracing::warn!("no majority of group 0 heard that this node stops: its users are taken over when its promises run out");
        }
        if let Some(frontend) = running.frontend.get() {
            frontend.begin_drain();
            frontend.drain(DRAIN_GRACE).await;
        }
        running.groups.shutdown().await;
    }
    node.journal.close();
}
