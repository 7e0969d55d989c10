//! A node from its start to its end: before it belongs to a cluster it only answers who it is; then it runs.

use crate::identity::{DataDir, Document, Identity};
use crate::running::Running;
use parliament_bodies::BodyStore;
use parliament_config::Config;
use parliament_ctl::exit;
use parliament_ids::{Boot, NodeId};
use parliament_journal::{Journal, Options};
use parliament_mail_service::next_boot;
use parliament_rpc::{PeerPool, PeerTls, v1};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// How long a starting node waits to hear which of its starts another has seen.
const SEEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the node must end: told to the log and by the exit code.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub(crate) struct Fatal {
    pub(crate) what: &'static str,
    pub(crate) why: String,
}

/// Why a node that was removed ends.
pub(crate) const REMOVED: &str = "this node was removed from the cluster; with an empty data directory and an invitation it may join anew";

/// What is wrong with data that only a new, empty node can mend.
pub(crate) const DAMAGED: &str = "this node's data cannot be used; replace it by an empty node";

impl Fatal {
    /// The exit code: supervisors should not start again what only an operator can mend.
    pub(crate) fn exit(&self) -> u8 {
        match self.what {
            DAMAGED | REMOVED => exit::DATA,
            what if ["tls.", "peer.", "http.", "--join"].iter().any(|section| what.starts_with(section)) => exit::CONFIG,
            _ => exit::UNEXPECTED,
        }
    }
}

/// For `map_err`: names what was being done.
pub(crate) fn fatal<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Fatal {
    move |why| Fatal { what, why: why.to_string() }
}

/// This process's node.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) data: DataDir,
    pub(crate) journal: Journal,
    pub(crate) bodies: BodyStore,
    pub(crate) tls: Option<PeerTls>,
    /// This start's number.
    pub(crate) boot: Boot,
    /// Everything that is not consensus.
    pub(crate) runtime: tokio::runtime::Handle,
    running: OnceLock<Arc<Running>>,
    adopting: Mutex<()>,
    /// A reason to end, from any task.
    pub(crate) ending: watch::Sender<Option<Fatal>>,
}

impl Node {
    /// Opens what lies in the data directory. Blocks.
    pub(crate) async fn open(config: Config, tls: Option<PeerTls>) -> Result<Arc<Self>, Fatal> {
        let data = DataDir::open(&config.node.data_dir).map_err(fatal("data directory"))?;
        parliament_tables::self_test_in(&data.path).map_err(fatal("self-test of the table store"))?;
        let mut options = Options::new(data.path.join("journal"));
        options.segment_bytes = config.storage.segment_bytes;
        let journal = tokio::task::spawn_blocking(move || Journal::open(options)).await;
        let journal = journal.map_err(fatal("journal"))?.map_err(fatal("journal"))?;
        if journal.damage().notes {
            let why = "the journal is damaged, and the boot counter may be lost".into();
            return Err(Fatal { what: DAMAGED, why });
        }
        let boot = next_boot(&journal).await.map_err(fatal("journal"))?;
        let mut options = parliament_bodies::Options::new(data.path.join("bodies"));
        // Headers that delivery puts in front come on top of the client's bytes.
        options.body_bytes_max = config.limits.message_bytes + 64 * 1024;
        let bodies = BodyStore::open(journal.clone(), options).map_err(fatal("bodies"))?;
        Ok(Arc::new(Self {
            config,
            data,
            journal,
            bodies,
            tls,
            boot,
            runtime: tokio::runtime::Handle::current(),
            running: OnceLock::new(),
            adopting: Mutex::new(()),
            ending: watch::Sender::new(None),
        }))
    }

    /// The cluster's part, once this node belongs to one and has started.
    pub(crate) fn running(&self) -> Option<Arc<Running>> {
        self.running.get().cloned()
    }

    /// Starts as the member that the data directory names; false when it names none yet.
    pub(crate) async fn resume(self: &Arc<Self>) -> Result<bool, Fatal> {
        let _adopting = self.adopting.lock().await;
        match self.data.identity().map_err(fatal("cluster.json"))? {
            Some(identity) => {
                self.start(identity).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn start(self: &Arc<Self>, identity: Identity) -> Result<(), Fatal> {
        identity.document.check().map_err(fatal("cluster.json"))?;
        if identity.document.name != self.config.cluster.name {
            let why = format!("it belongs to cluster {:?}, the configuration says {:?}", identity.document.name, self.config.cluster.name);
            return Err(Fatal { what: "data directory", why });
        }
        let (known, wanted) = (identity.document.role(identity.me()), self.config.node.role);
        if known != wanted {
            let why = format!(
                "this node entered the cluster as a {known}, node.role says {wanted}: a role is for ever; begin with an empty data directory"
            );
            return Err(Fatal { what: "node.role", why });
        }
        self.refuse_an_old_copy(&identity).await?;
        let running = Running::start(self, identity).await?;
        // Set before anything of it runs that looks for it.
        let _ = self.running.set(running.clone());
        running.serve(self).await
    }

    /// Asks the other nodes which start of this one they have seen. One that is not below this start means that the data
    /// directory is an old copy: it lacks what this node has promised since, so it must not take part (rule 6).
    async fn refuse_an_old_copy(&self, identity: &Identity) -> Result<(), Fatal> {
        let pool = PeerPool::new(self.runtime.clone(), [0; 16], NodeId(0), self.boot, self.tls.clone());
        let others = identity.document.members.iter().filter(|member| member.id != identity.node);
        let asked = others.map(|member| {
            let peer = pool.connect(NodeId(member.id), &member.address);
            async move { tokio::time::timeout(SEEN_TIMEOUT, peer.hello()).await.ok()?.ok() }
        });
        for hello in futures::future::join_all(asked).await.into_iter().flatten() {
            let seen = hello.seen.iter().find(|seen| seen.node_id == identity.node && hello.cluster_id == identity.cluster_id()[..]);
            if let Some(seen) = seen.filter(|seen| seen.boot >= self.boot.0) {
                let why = format!(
                    "{} has seen start {} of this node and this would be start {}: the data directory was restored or copied",
                    hello.name, seen.boot, self.boot.0
                );
                return Err(Fatal { what: DAMAGED, why });
            }
        }
        Ok(())
    }

    /// Becomes a member of a cluster; refused when it belongs to one already, unless it is the same membership again.
    pub(crate) async fn adopt(self: &Arc<Self>, document: &[u8], id: NodeId) -> Result<(), String> {
        let document: Document = serde_json::from_slice(document).map_err(|e| e.to_string())?;
        document.check()?;
        let member = document.member(id).ok_or("the document does not name this node")?;
        if member.name != self.config.node.name || member.disk != crate::identity::hex(&self.data.disk) {
            return Err(format!("this is {} with another disk", self.config.node.name));
        }
        let _adopting = self.adopting.lock().await;
        let identity = Identity { node: id.0, document };
        match self.data.identity().map_err(|e| e.to_string())? {
            Some(known) if known == identity && self.running().is_some() => return Ok(()),
            Some(known) if known != identity => return Err(format!("{} belongs to a cluster already", self.config.node.name)),
            _ => {}
        }
        self.data.keep_identity(&identity).map_err(|e| e.to_string())?;
        self.start(identity).await.map_err(|e| e.to_string())
    }

    /// Who this is.
    pub(crate) fn hello(&self) -> v1::HelloReply {
        let running = self.running();
        let identity = running.as_ref().map(|running| (running.cluster_id(), running.local.me));
        let seen = running.map(|running| running.boots_seen()).unwrap_or_default();
        v1::HelloReply {
            name: self.config.node.name.clone(),
            cluster_id: identity.map(|(cluster, _)| cluster.to_vec()).unwrap_or_default().into(),
            node_id: identity.map_or(0, |(_, node)| node.0),
            boot: self.boot.0,
            zone: self.config.node.zone.clone(),
            disk_id: self.data.disk.to_vec().into(),
            advertise: self.config.node.advertise.clone(),
            seen: seen.into_iter().map(|(node, boot)| v1::SeenBoot { node_id: node.0, boot: boot.0 }).collect(),
            imap: self.config.imap.listen.first().map(ToString::to_string).unwrap_or_default(),
            role: self.config.node.role.name().to_owned(),
        }
    }

    /// Asks the process to end.
    pub(crate) fn end(&self, why: Fatal) {
        self.ending.send_if_modified(|ending| {
            let first = ending.is_none();
            if first {
                *ending = Some(why);
            }
            first
        });
    }
}
