//! A node as a member of a cluster: its groups, its mail service, its listeners, and the small tasks that keep them in order.

use crate::identity::{Document, Identity};
use crate::links::PoolPeers;
use crate::mend::Aside;
use crate::node::{Fatal, Node, fatal};
use crate::opener::{OpenError, Opener};
use parliament_cluster_state::NodeState;
use parliament_config::Reads;
use parliament_frontend::{Certificates, Frontend, FrontendOptions, PlainLogin};
use parliament_groups::{Group, GroupSet, Machine, NodeConfig, NodeInfo, Ports, Role};
use parliament_ids::{BodyHash, Boot, GroupId, NodeId, NodeRole};
use parliament_mail_service::{Accounts, BodyExchange, Local, Router, Support, WatchHub, boot_ms};
use parliament_rpc::PeerPool;
use parliament_tables::GroupTables;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a look at a group waits for bodies on their way.
const BODIES_WAIT: Duration = Duration::from_secs(30);

/// What the last look at a group found.
#[derive(Clone, Copy, Debug, Default)]
struct Checked {
    under_way: bool,
    /// Nothing was missing of what is committed up to this index.
    complete: Option<u64>,
}

/// A member of a cluster at work.
pub(crate) struct Running {
    cluster: [u8; 16],
    /// The cluster as group 0 says, as far as this node has heard.
    document: watch::Sender<Arc<Document>>,
    pub(crate) groups: GroupSet,
    pub(crate) local: Arc<Local>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) frontend: OnceLock<Frontend>,
    pub(crate) started_ms: u64,
    pub(crate) boot: Boot,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) config: parliament_config::Config,
    pub(crate) journal: parliament_journal::Journal,
    /// Every group here has been seen up to date with its leader since this start.
    caught_up: AtomicBool,
    draining: AtomicBool,
    /// What looks for missing bodies found, by group.
    checks: Mutex<BTreeMap<GroupId, Checked>>,
    boots: Mutex<BTreeMap<NodeId, Boot>>,
    /// What the peers tell.
    pub(crate) hearsay: crate::pulse::Hearsay,
    /// Who holds whom, counted.
    pub(crate) census: crate::census::Cached,
    /// Told when a snapshot was installed: it names bodies that may not be here.
    pub(crate) installed: tokio::sync::Notify,
    /// Held while the document is written to the disk.
    keeping: Mutex<()>,
    /// Groups that have a copy here and cannot be opened.
    aside: Mutex<BTreeMap<GroupId, Aside>>,
    /// Whose snapshots alone may be taken for a group whose own records are wrong.
    rescuers: Mutex<BTreeMap<GroupId, Vec<NodeId>>>,
    pub(crate) scrubber: crate::scrub::Scrubber,
    /// Who serves alone beside a witness, and whom this node hears.
    pub(crate) alone: crate::alone::Beside,
}

impl Running {
    /// Opens all groups and puts the mail service on top. Nothing is served yet.
    pub(crate) async fn start(node: &Arc<Node>, identity: Identity) -> Result<Arc<Self>, Fatal> {
        let me = identity.me();
        let document = identity.document.clone();
        let mut config = NodeConfig::new(me);
        config.cluster.clone_from(&document.cluster);
        config.snapshots.entries_max = config.snapshots.entries_max.max(node.config.storage.snapshot_entries);
        config.snapshots.entries_min = node.config.storage.snapshot_entries;
        let lazy: Arc<OnceLock<Arc<PeerPool>>> = Arc::default();
        let groups = GroupSet::new(config, Ports { peers: Arc::new(LazyPeers(lazy.clone())) }).map_err(fatal("consensus"))?;
        let pool = Arc::new(PeerPool::new(groups.runtime().clone(), identity.cluster_id(), me, node.boot, node.tls.clone()));
        let _ = lazy.set(pool.clone());
        for member in document.members.iter().filter(|member| member.id != me.0) {
            pool.set(NodeId(member.id), &member.address);
        }
        let nodes: Vec<NodeId> = document.members.iter().map(|member| NodeId(member.id)).collect();
        let support = Support::new(me, node.boot, &nodes, document.voter_list(), pool.clone(), node.journal.clone());
        if node.config.node.reads == Reads::Quorum {
            support.read_by_quorum();
        }
        let bodies = BodyExchange::new(node.bodies.clone(), pool.clone(), node.runtime.clone());
        let role = document.role(me);
        match role {
            NodeRole::Data => {}
            NodeRole::Copy => bodies.ask_for_all(),
            NodeRole::Witness | NodeRole::Frontend => bodies.keep_none(),
        }
        let alone = crate::alone::Beside::new(role);
        let hub = Arc::new(WatchHub::default());
        let opener = Opener { node, groups: &groups, groups_in_all: document.groups, support: &support, witness: alone.rule() };
        let cluster_group = opener.cluster(&pool, &document.voters(GroupId::CLUSTER)).await?;
        let (mut shards, mut aside) = (BTreeMap::new(), BTreeMap::new());
        for group in (1..=document.groups).map(GroupId).filter(|group| document.holds(*group, me)) {
            // The damage of one group is that group's alone.
            match opener.shard(group, &hub, &bodies).await {
                Ok(shard) => drop(shards.insert(group, shard)),
                Err(OpenError::Aside(why)) => {
                    tracing::error!(%group, %why, "the group is set aside here");
                    aside.insert(group, why);
                }
                Err(OpenError::Fatal(fatal)) => return Err(fatal),
            }
        }
        let mut thread_key = [0; 32];
        thread_key[..16].copy_from_slice(&identity.cluster_id());
        let local = Local::new(me, pool, support, cluster_group, shards, document.layout(), bodies, hub, thread_key);
        if node.config.node.follow_users {
            local.follow_users();
        }
        let domain = node.config.auth.default_domain.clone().unwrap_or_default();
        let accounts = Arc::new(Accounts::new(local.clone(), &domain, node.config.lmtp.recipient_delimiter));
        Ok(Arc::new(Self {
            cluster: identity.cluster_id(),
            document: watch::Sender::new(Arc::new(document)),
            groups,
            local,
            accounts,
            frontend: OnceLock::new(),
            started_ms: boot_ms(),
            boot: node.boot,
            data_dir: node.data.path.clone(),
            config: node.config.clone(),
            journal: node.journal.clone(),
            caught_up: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            checks: Mutex::default(),
            boots: Mutex::default(),
            hearsay: crate::pulse::Hearsay::default(),
            census: crate::census::Cached::default(),
            installed: tokio::sync::Notify::new(),
            keeping: Mutex::default(),
            aside: Mutex::new(aside),
            rescuers: Mutex::default(),
            scrubber: crate::scrub::Scrubber::default(),
            alone,
        }))
    }

    /// Starts the listeners and the background tasks.
    pub(crate) async fn serve(self: &Arc<Self>, node: &Arc<Node>) -> Result<(), Fatal> {
        let (support, ending) = (self.local.support.clone(), node.clone());
        // Promises must not wait behind mail: they run where consensus runs.
        self.groups.runtime().spawn(async move {
            let fault = support.run().await;
            ending.end(Fatal { what: "journal", why: fault });
        });
        let options = frontend_options(node, self.local.me)?;
        let router = Arc::new(Router::new(self.local.clone()));
        let frontend = Frontend::start(options, router, self.accounts.clone()).await.map_err(fatal("listeners"))?;
        let _ = self.frontend.set(frontend);
        node.runtime.spawn(crate::tasks::catch_up(self.clone(), node.clone()));
        node.runtime.spawn(crate::tasks::care(self.clone(), node.clone()));
        node.runtime.spawn(crate::tasks::links(self.clone()));
        node.runtime.spawn(crate::rest::mind_leaders(self.clone()));
        node.runtime.spawn(crate::membership::follow(self.clone(), node.clone()));
        node.runtime.spawn(crate::membership::give_away(self.clone()));
        node.runtime.spawn(crate::voters::follow(self.clone()));
        node.runtime.spawn(crate::follow::run(self.clone()));
        node.runtime.spawn(crate::control::run(self.clone()));
        node.runtime.spawn(crate::alone::listen(self.clone()));
        node.runtime.spawn(crate::alone::decide(self.clone()));
        node.runtime.spawn(crate::alone::witness(self.clone()));
        node.runtime.spawn(crate::tasks::faults(self.clone(), node.clone()));
        node.runtime.spawn(self.local.bodies.clone().pull_missing());
        node.runtime.spawn(self.local.clone().hear_of_changes());
        node.runtime.spawn(crate::tasks::look_for_missing(self.clone()));
        node.runtime.spawn(crate::mend::run(self.clone()));
        node.runtime.spawn(crate::scrub::run(self.clone(), node.clone()));
        node.runtime.spawn(crate::pulse::ask_peers(self.clone()));
        node.runtime.spawn(crate::pulse::look(self.clone()));
        Ok(())
    }

    /// The cluster's id.
    pub(crate) fn cluster_id(&self) -> [u8; 16] {
        self.cluster
    }
    /// The cluster as this node knows it now.
    pub(crate) fn document(&self) -> Arc<Document> {
        self.document.borrow().clone()
    }
    /// Takes what group 0 says anew: peers come and go, and requests are routed by it from now on.
    fn adopt(&self, document: Document) {
        self.local.set_layout(document.layout());
        self.local.support.set_members(document.members.iter().map(|member| NodeId(member.id)));
        for member in document.members.iter().filter(|member| member.id != self.local.me.0) {
            self.local.pool.set(NodeId(member.id), &member.address);
        }
        self.document.send_replace(Arc::new(document));
    }

    /// Calls `keep` with who this node is, while nobody else writes that to the disk.
    pub(crate) fn with_document_kept<T>(&self, keep: impl FnOnce(&Identity) -> T) -> T {
        let _alone = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        keep(&Identity { node: self.local.me.0, document: (*self.document()).clone() })
    }
    /// Keeps what group 0 says anew, and goes by it then.
    pub(crate) fn keep_document(&self, now: Document, keep: impl FnOnce(&Identity) -> std::io::Result<()>) -> std::io::Result<()> {
        let _alone = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        keep(&Identity { node: self.local.me.0, document: now.clone() })?;
        self.adopt(now);
        Ok(())
    }

    /// True when a peer may link to this node: a member, and not an older boot than one seen (rule 6).
    pub(crate) fn admits(&self, cluster: [u8; 16], node: NodeId, boot: Boot) -> bool {
        if cluster != self.cluster || self.document().member(node).is_none() {
            return false;
        }
        let mut boots = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        let last = boots.entry(node).or_insert(boot);
        *last = boot.max(*last);
        *last == boot
    }

    /// The latest start of a node that has linked to this one.
    pub(crate) fn boot_met(&self, node: NodeId) -> Option<Boot> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    /// The latest start of each node that this one has met or that group 0 has recorded.
    pub(crate) fn boots_seen(&self) -> BTreeMap<NodeId, Boot> {
        let mut seen = self.boots.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for record in parliament_cluster_state::nodes(self.local.cluster_tables()).unwrap_or_default() {
            let boot = seen.entry(record.id).or_insert(record.boot);
            *boot = record.boot.max(*boot);
        }
        seen
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, Checked>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The index up to which this node has shown to have everything of a group.
    pub(crate) fn complete(&self, group: GroupId) -> Option<u64> {
        self.checks().get(&group).and_then(|checked| checked.complete)
    }
    /// A group was closed here: what was found of it says nothing of a later copy.
    pub(crate) fn forget_check(&self, group: GroupId) {
        self.checks().remove(&group);
    }
    /// Begins to look whether anything of a group is missing here, unless that is under way.
    pub(crate) fn check(self: &Arc<Self>, group: GroupId) {
        if std::mem::replace(&mut self.checks().entry(group).or_default().under_way, true) {
            return;
        }
        let running = self.clone();
        tokio::spawn(async move {
            let complete = running.look_through(group).await;
            if let Some(checked) = running.checks().get_mut(&group) {
                *checked = Checked { under_way: false, complete };
            }
        });
    }
    /// Waits for all that is committed, then looks for every body that the tables name.
    async fn look_through(self: &Arc<Self>, group: GroupId) -> Option<u64> {
        self.local.read_barrier(group).await.ok()?;
        if group == GroupId::CLUSTER {
            // It names no bodies, and its entries were durable before they were applied.
            return *self.local.cluster.watch_applied().borrow();
        }
        let shard = self.local.shard(group)?;
        let upto = (*shard.group.watch_applied().borrow())?;
        if !self.document().role(self.local.me).keeps_bodies() {
            return Some(upto);
        }
        let running = self.clone();
        let missing = tokio::task::spawn_blocking(move || crate::tasks::fill_in_bodies(&running, group)).await.ok()??;
        if missing.len() > crate::tasks::MISSING_REMEMBERED {
            return None;
        }
        // What is just arriving, or being pulled, is waited for.
        let missing: Vec<BodyHash> = missing.into_iter().collect();
        if !self.local.bodies.store().wait_present(&missing, BODIES_WAIT).await.is_empty() {
            return None;
        }
        // What is here counts once it is durable.
        let (sender, flushed) = tokio::sync::oneshot::channel();
        self.journal.flush(Box::new(move |result| drop(sender.send(result))));
        flushed.await.ok()?.ok()?;
        Some(upto)
    }

    pub(crate) fn set_caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
    }
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why this node should get no new connections now; `None` when it serves.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining".into());
        }
        let document = self.document();
        if document.state(self.local.me) != NodeState::Active {
            return Some("draining by the operator's order".into());
        }
        if !self.caught_up.load(Ordering::Acquire) {
            return Some("starting or catching up".into());
        }
        // A replica that is cut off still remembers a leader; promises run out.
        if !self.local.support.trusted(self.local.support.boot()) {
            return Some("no majority of the voters of group 0 in reach".into());
        }
        let stopped: Vec<String> =
            self.local.shards().iter().filter(|(_, shard)| shard.has_stopped()).map(|(group, _)| group.to_string()).collect();
        if !stopped.is_empty() {
            return Some(format!("groups {} have stopped here", stopped.join(" ")));
        }
        // A copy that is being made here has no leader at first, and serves nobody.
        let serving = self.group_ids().into_iter().filter(|group| self.serves(*group));
        let leaderless: Vec<String> = serving.filter(|group| self.local.leader(*group).is_none()).map(|group| group.to_string()).collect();
        if !leaderless.is_empty() {
            return Some(format!("no leader in sight for groups {}", leaderless.join(" ")));
        }
        let alone: Vec<String> = self.without_quorum().iter().map(ToString::to_string).collect();
        if alone.is_empty() { None } else { Some(format!("no quorum in sight for groups {}", alone.join(" "))) }
    }

    /// Groups here of whose voters this node does not hear a majority.
    pub(crate) fn without_quorum(&self) -> Vec<GroupId> {
        let hears = |node: &NodeId| {
            let linked = *node == self.local.me || self.local.pool.get(*node).is_some_and(|peer| peer.is_connected());
            linked && self.local.support.is_live(*node)
        };
        let document = self.document();
        let lacks = |group: &GroupId| {
            let voters = document.voters(*group);
            voters.iter().filter(|node| hears(node)).count() <= voters.len() / 2
        };
        self.group_ids().into_iter().filter(lacks).collect()
    }

    /// True when the group has a replica here that serves: group 0, and every group in which this node votes.
    pub(crate) fn serves(&self, group: GroupId) -> bool {
        group == GroupId::CLUSTER || (self.local.shard(group).is_some() && self.document().voters(group).contains(&self.local.me))
    }

    /// Groups with a replica here, group 0 first.
    pub(crate) fn group_ids(&self) -> Vec<GroupId> {
        std::iter::once(GroupId::CLUSTER).chain(self.local.shards().into_iter().map(|(group, _)| group)).collect()
    }

    /// What a group's members are told of each other.
    pub(crate) fn infos(&self, group: GroupId) -> BTreeMap<NodeId, NodeInfo> {
        let document = self.document();
        let voters = document.voters(group);
        let mut infos = document.infos();
        infos.retain(|node, _| voters.contains(node));
        infos
    }

    /// Makes the groups whose first leader this node is, in a new cluster.
    pub(crate) async fn initialize(&self) -> Result<(), String> {
        for group in self.group_ids() {
            if self.document().voters(group).first() != Some(&self.local.me) {
                continue;
            }
            let members = self.infos(group);
            let made = match self.local.shard(group) {
                Some(shard) => initialize(&shard.group, members).await,
                None if group == GroupId::CLUSTER => initialize(&self.local.cluster, members).await,
                None => continue,
            };
            made.map_err(|e| format!("group {group}: {e}"))?;
        }
        Ok(())
    }

    fn set_aside(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, Aside>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Groups that have a copy here and cannot be opened, and why.
    pub(crate) fn aside(&self) -> BTreeMap<GroupId, Aside> {
        self.set_aside().clone()
    }
    /// Why a group cannot be opened here, if so.
    pub(crate) fn aside_of(&self, group: GroupId) -> Option<Aside> {
        self.set_aside().get(&group).cloned()
    }
    /// The own records of a group are wrong: until it is open again only these nodes' snapshots may replace them, none of its own.
    pub(crate) fn rescue_from(&self, group: GroupId, nodes: Option<Vec<NodeId>>) {
        let mut rescuers = self.rescuers.lock().unwrap_or_else(PoisonError::into_inner);
        match nodes {
            Some(nodes) => drop(rescuers.insert(group, nodes)),
            None => drop(rescuers.remove(&group)),
        }
    }
    /// See [`Running::rescue_from`].
    pub(crate) fn rescuers(&self, group: GroupId) -> Option<Vec<NodeId>> {
        self.rescuers.lock().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }
    /// True when every group that has a copy here, as the document says, is open: what a closed one refers to is not known.
    pub(crate) fn all_open(&self) -> bool {
        let document = self.document();
        let open = |group: GroupId| !document.holds(group, self.local.me) || self.local.shard(group).is_some();
        self.set_aside().is_empty() && (1..=document.groups).map(GroupId).all(open)
    }
    /// Remembers that a group cannot be opened here, or that it can.
    pub(crate) fn put_aside(&self, group: GroupId, why: Option<Aside>) {
        let mut aside = self.set_aside();
        match why {
            Some(why) => drop(aside.insert(group, why)),
            None => drop(aside.remove(&group)),
        }
    }

    /// A group's tables on this node.
    pub(crate) fn tables(&self, group: GroupId) -> Option<GroupTables> {
        match self.local.shard(group) {
            Some(shard) => Some(shard.group.tables().clone()),
            None if group == GroupId::CLUSTER => Some(self.local.cluster_tables().clone()),
            None => None,
        }
    }
    /// Where a group's newest snapshot file lies on this node.
    pub(crate) fn snapshot_path(&self, group: GroupId) -> Option<std::path::PathBuf> {
        let file = match self.local.shard(group) {
            Some(shard) => shard.group.snapshot(),
            None if group == GroupId::CLUSTER => self.local.cluster.snapshot(),
            None => None,
        };
        file.map(|file| file.path().to_owned())
    }

    /// A group's metrics on this node.
    pub(crate) fn metrics(&self, group: GroupId) -> Option<parliament_groups::GroupMetrics> {
        match self.local.shard(group) {
            Some(shard) => Some(shard.group.metrics()),
            None if group == GroupId::CLUSTER => Some(self.local.cluster.metrics()),
            None => None,
        }
    }

    /// How many groups this node leads.
    pub(crate) fn leads(&self) -> usize {
        self.group_ids().into_iter().filter(|group| self.local.leader(*group) == Some(self.local.me)).count()
    }

    /// True when every entry in every log here is applied here: nothing on its way can name a body.
    pub(crate) fn is_settled(&self) -> bool {
        self.group_ids().into_iter().filter_map(|group| self.metrics(group)).all(|m| m.applied == m.last_log && m.role != Role::Stopping)
    }

    /// Hands the lead of each group led here to another voter that is up, not all to the same.
    pub(crate) async fn give_up_leaderships(&self) {
        for group in self.group_ids() {
            self.give_up_leadership(group).await;
        }
    }

    /// Hands the lead of a group, if it is here, to another voter that is up: to those that stay in turn, when there are any.
    pub(crate) async fn give_up_leadership(&self, group: GroupId) {
        if self.local.leader(group) != Some(self.local.me) {
            return;
        }
        let document = self.document();
        let leaving = document.leaving(group);
        let up = |node: &NodeId| self.local.pool.get(*node).is_some_and(|peer| peer.is_connected());
        let others: Vec<NodeId> = document.keepers(group).into_iter().filter(up).collect();
        let stays = |node: &NodeId| !leaving.contains(node) && document.state(*node) == NodeState::Active;
        let staying: Vec<NodeId> = others.iter().copied().filter(stays).collect();
        let among = if staying.is_empty() { &others } else { &staying };
        let Some(to) = among.get(group.0 as usize % among.len().max(1)) else { return };
        if let Err(error) = self.transfer(group, *to).await {
            tracing::debug!(%group, %error, "leadership not handed over");
        }
    }

    /// Asks the group's leader, which must be this node, to hand over to `to`.
    pub(crate) async fn transfer(&self, group: GroupId, to: NodeId) -> Result<(), String> {
        let asked = match self.local.shard(group) {
            Some(shard) => shard.group.transfer_leader(to).await,
            None if group == GroupId::CLUSTER => self.local.cluster.transfer_leader(to).await,
            None => return Err(format!("group {group} has no copy here")),
        };
        asked.map_err(|error| error.to_string())
    }
}

async fn initialize<M: Machine>(group: &Group<M>, members: BTreeMap<NodeId, NodeInfo>) -> Result<(), String> {
    if group.metrics().last_log.is_some() {
        return Ok(());
    }
    group.initialize(members).await.map_err(|e| e.to_string())
}

/// Peers that are known only after consensus has its runtime.
struct LazyPeers(Arc<OnceLock<Arc<PeerPool>>>);

impl parliament_groups::Peers for LazyPeers {
    fn link(&self, node: NodeId, info: &NodeInfo) -> Arc<dyn parliament_groups::PeerLink> {
        PoolPeers(self.0.wait().clone()).link(node, info)
    }
}

fn frontend_options(node: &Arc<Node>, me: NodeId) -> Result<FrontendOptions, Fatal> {
    let config = &node.config;
    let mut options = FrontendOptions::new(me, node.boot, &config.node.name, node.data.path.join("spool"));
    options.imap4rev2 = config.imap.imap4rev2;
    options.imap.clone_from(&config.imap.listen);
    options.imaps.clone_from(&config.imap.listen_tls);
    options.pop3.clone_from(&config.pop3.listen);
    options.pop3s.clone_from(&config.pop3.listen_tls);
    options.lmtp.clone_from(&config.lmtp.listen);
    options.trusted.clone_from(&config.frontend.trusted);
    options.proxy_protocol.clone_from(&config.frontend.proxy_protocol);
    options.lmtp_add_headers = config.lmtp.add_headers;
    options.plain_login = if config.auth.plaintext_on_loopback { PlainLogin::Loopback } else { PlainLogin::Never };
    options.message_bytes_max = config.limits.message_bytes;
    options.connections_max = config.limits.connections;
    options.connections_per_user_and_address_max = config.limits.connections_per_user_and_address;
    options.connections_per_address_max = config.limits.connections_per_user_and_address.max(options.connections_per_address_max);
    options.spool_bytes_max = config.limits.spool_bytes;
    if let Some(tls) = &config.tls_mail {
        let certificates = Certificates::load(&tls.cert, &tls.key_file).map_err(fatal("tls.mail"))?;
        options.certificates = Some(Arc::new(certificates));
    }
    Ok(options)
}
