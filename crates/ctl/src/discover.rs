//! Which node a verb asks: the one of `--node`; else the one that the configuration's admin socket belongs to; else one of a
//! running demo.

use crate::demo::registry;
use crate::error::{AdminError, code, exit};
use crate::terminal::Terminal;
use parliament_config::{ClusterTls, Credentials, Sources, is_endpoint, load, load_credentials};
use std::path::PathBuf;

/// Where a node is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its admin socket.
    Socket(PathBuf),
    /// Its peer port.
    Peer {
        /// `HOST:PORT`
        address: String,
        /// The certificate to show and the name of the cluster that the node must prove to belong to; `None` on loopback of a
        /// cluster without certificates.
        tls: Option<PeerTls>,
    },
}

/// How an operator's command and a node prove themselves to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// Authority, certificate and key.
    pub files: ClusterTls,
    /// `cluster.name`, which the node's certificate must carry.
    pub cluster: String,
}

/// Targets to try in order; the next one only where one cannot be reached. Never empty.
pub(crate) fn targets(node: Option<&str>, config: Option<PathBuf>, terminal: &Terminal) -> Result<Vec<Target>, AdminError> {
    if let Some(address) = node {
        return node_target(address, config, terminal).map(|t| vec![t]);
    }
    let named = config.is_some() || terminal.env.contains_key("PARLIAMENT_CONFIG");
    let sources = sources(config, terminal);
    if named || sources.file.is_some() {
        let loaded = load(&sources).map_err(|problems| config_error(&problems))?;
        let socket = loaded.config.admin_socket();
        // A default configuration lying about must not hide a running demo.
        if named || socket.exists() {
            return Ok(vec![Target::Socket(socket)]);
        }
    }
    let demo = registry::find(&terminal.env, None)?;
    let peers = |address: String| Target::Peer { address, tls: None };
    demo.map(|demo| demo.peers.into_iter().map(peers).collect()).ok_or_else(|| {
        AdminError::new(code::UNREACHABLE, exit::UNAVAILABLE, "no node is named, configured on this machine or running in a demo")
            .with_hint("say --node HOST:PORT or --config FILE, or start `parliament demo`")
    })
}

fn node_target(address: &str, config: Option<PathBuf>, terminal: &Terminal) -> Result<Target, AdminError> {
    if address.starts_with('/') {
        return Ok(Target::Socket(address.into()));
    }
    if !is_endpoint(address) {
        return Err(AdminError::usage(format!("--node wants HOST:PORT or the path of an admin socket, not {address:?}")));
    }
    let loopback = address.parse().is_ok_and(|a: std::net::SocketAddr| a.ip().is_loopback()) || address.starts_with("localhost:");
    let named = config.is_some();
    let sources = sources(config, terminal);
    let tls = match load_credentials(&sources) {
        Ok(Credentials { cluster, tls }) => tls.map(|files| PeerTls { files, cluster }),
        Err(problems) if named => return Err(config_error(&problems)),
        Err(_) => None,
    };
    if tls.is_none() && !loopback {
        return Err(AdminError::new(
            code::UNREACHABLE,
            exit::PERMISSION,
            format!("{address} asks for a certificate, and none is configured"),
        )
        .with_hint("name a configuration with [tls.cluster] by --config; `parliament init ca --admin` makes certificates for operators"));
    }
    Ok(Target::Peer { address: address.to_owned(), tls })
}

/// The sources of a configuration, with the terminal's environment.
pub(crate) fn sources(file: Option<PathBuf>, terminal: &Terminal) -> Sources {
    let default = PathBuf::from(parliament_config::DEFAULT_FILE);
    let file = file.or_else(|| terminal.env.get("PARLIAMENT_CONFIG").map(PathBuf::from)).or_else(|| Some(default).filter(|p| p.exists()));
    Sources { file, env: terminal.env.clone(), flags: Vec::new() }
}

/// All problems of a configuration as one error.
pub(crate) fn config_error(problems: &parliament_config::Problems) -> AdminError {
    let first = problems.0.first();
    let mut error = AdminError::new(
        first.map_or(parliament_config::VALUE, |p| p.code),
        exit::CONFIG,
        first.map_or_else(|| "the configuration is wrong".to_owned(), |p| p.message.clone()),
    );
    error.hint = first.and_then(|p| p.hint.clone());
    if problems.0.len() > 1 {
        let more = format!("`parliament config check` tells of {} more", problems.0.len() - 1);
        error.hint = Some(error.hint.map_or(more.clone(), |hint| format!("{}; {more}", hint.trim_end_matches('.'))));
    }
    error
}
