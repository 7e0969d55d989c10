//! Gathers what the page shows: once a second at most, whoever looks.

use super::view::{Held, LookUp, View, Way, add_up};
use crate::admin::{cluster, users};
use crate::ask::{Board as Told, Question, Reply, ask_all_heard};
use crate::node::Node;
use crate::pulse::Hears;
use crate::running::Running;
use parliament_ctl::verdict;
use parliament_ids::NodeId;
use parliament_mail_service::{boot_ms, unix_seconds};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long what was gathered is shown again, ms. Less than the interval of listeners, so that each of them sees each second.
const FRESH_MS: u64 = 900;
/// How long a node may take to answer; what it said last is shown otherwise, as long as it is heard.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// Users whose look-up is kept for [`FRESH_MS`].
const LOOK_UPS_MAX: usize = 64;
/// Sessions that are shown.
const SESSIONS_MAX: usize = 200;

/// What was gathered last.
#[derive(Default)]
pub(crate) struct Board {
    gathered: Mutex<Option<Gathered>>,
    look_ups: Mutex<BTreeMap<String, (u64, Arc<LookUp>)>>,
}

struct Gathered {
    at_ms: u64,
    /// Of the events that were known then.
    version: u64,
    view: Arc<View>,
    told: BTreeMap<NodeId, Told>,
}

impl Board {
    /// The cluster now. Those who ask while it is gathered wait for that one gathering.
    pub(crate) async fn view(&self, node: &Arc<Node>) -> Arc<View> {
        let mut gathered = self.gathered.lock().await;
        let Some(running) = node.running() else { return Arc::new(unformed(node)) };
        let version = running.hearsay.version();
        if let Some(known) = gathered.as_ref().filter(|known| boot_ms().saturating_sub(known.at_ms) < FRESH_MS && known.version == version)
        {
            return known.view.clone();
        }
        let earlier = gathered.take().map(|known| known.told).unwrap_or_default();
        let told = ask(&running, earlier).await;
        let view = Arc::new(assemble(node, &running, &told));
        *gathered = Some(Gathered { at_ms: boot_ms(), version, view: view.clone(), told });
        view
    }

    /// Where a user is.
    pub(crate) async fn look_up(&self, node: &Arc<Node>, user: Option<String>) -> Option<Arc<LookUp>> {
        let (asked, running) = (user?, node.running()?);
        let mut look_ups = self.look_ups.lock().await;
        if let Some((at_ms, known)) = look_ups.get(&asked)
            && boot_ms().saturating_sub(*at_ms) < FRESH_MS
        {
            return Some(known.clone());
        }
        let domain = node.config.auth.default_domain.clone().unwrap_or_default();
        let found = users::look_up(&running, &domain, &asked).await;
        let look_up = Arc::new(LookUp { asked: asked.clone(), found });
        if look_ups.len() >= LOOK_UPS_MAX {
            look_ups.clear();
        }
        look_ups.insert(asked, (boot_ms(), look_up.clone()));
        Some(look_up)
    }
}

async fn ask(running: &Arc<Running>, mut earlier: BTreeMap<NodeId, Told>) -> BTreeMap<NodeId, Told> {
    let mut told = BTreeMap::new();
    for (id, answer) in ask_all_heard(running, &Question::Board, ANSWER_TIMEOUT).await {
        match answer {
            Ok(Reply::Board(board)) => drop(told.insert(id, board)),
            _ if running.silent_ms(id) == 0 => told.extend(earlier.remove(&id).map(|board| (id, board))),
            _ => {}
        }
    }
    told
}

fn unformed(node: &Node) -> View {
    let status = cluster::unformed(node);
    View {
        verdict: verdict(&status),
        status,
        at: clock(unix_seconds()),
        latency: BTreeMap::new(),
        leases: Vec::new(),
        held: BTreeMap::new(),
        sessions: Vec::new(),
    }
}

fn assemble(node: &Node, running: &Running, told: &BTreeMap<NodeId, Told>) -> View {
    let members = &running.document().members;
    let facts = members.iter().map(|member| NodeId(member.id)).map(|id| (id, told.get(&id).map(|board| board.facts.clone()))).collect();
    let status = cluster::status_of(node, running, &facts);
    let held = held(running, told);
    let mut sessions: Vec<_> = told.values().flat_map(|board| board.sessions.iter().cloned()).collect();
    sessions.sort_by(|a, b| a.user.cmp(&b.user).then_with(|| a.session.cmp(&b.session)));
    sessions.truncate(SESSIONS_MAX);
    View { verdict: verdict(&status), status, at: clock(unix_seconds()), latency: latency(running), leases: add_up(&held), held, sessions }
}

/// Of each group the count of the node that has applied most of it.
fn held(running: &Running, told: &BTreeMap<NodeId, Told>) -> BTreeMap<u32, Vec<Held>> {
    let cluster = &*running.document();
    let is_live = |node: u64, boot: u64| told.get(&NodeId(node)).is_some_and(|board| board.facts.lease_boot == boot);
    let one = |group: u32| {
        let applied = |board: &&Told| board.facts.groups.get(&group).and_then(|row| row.applied);
        let best = told.values().filter(|board| board.facts.groups.contains_key(&group)).max_by_key(applied)?;
        let rows = best.held.iter().filter(|row| row.0 == group).map(|(_, holder, users)| Held {
            holder: holder.map(|(node, _)| cluster.name_of(NodeId(node))),
            live: holder.is_some_and(|(node, boot)| is_live(node, boot)),
            users: *users,
        });
        Some((group, add_up(&BTreeMap::from([(group, rows.collect())]))))
    };
    (1..=cluster.groups).filter_map(one).collect()
}

/// What each node that is heard says of its ways to the others.
fn latency(running: &Running) -> BTreeMap<String, BTreeMap<String, Way>> {
    let cluster = &*running.document();
    let ways = |hears: BTreeMap<u64, Hears>| -> BTreeMap<String, Way> {
        let way = |hears: &Hears| if hears.silent_ms > 0 { Way::Silent(hears.silent_ms) } else { Way::Open(hears.round_trip_us) };
        hears.iter().map(|(node, hears)| (cluster.name_of(NodeId(*node)), way(hears))).collect()
    };
    let mut rows = BTreeMap::new();
    for member in &cluster.members {
        let id = NodeId(member.id);
        let hears = if id == running.local.me { Some(running.hears()) } else { running.hearsay.pulse(id).map(|pulse| pulse.hears) };
        if let Some(hears) = hears.filter(|_| running.silent_ms(id) == 0) {
            rows.insert(member.name.clone(), ways(hears));
        }
    }
    rows
}

/// The time of day.
fn clock(unix_seconds: i64) -> String {
    let s = unix_seconds.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02} UTC", s / 3600, s % 3600 / 60, s % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_of_day_is_told() {
        assert_eq!([super::clock(0), super::clock(1_795_834_987)], ["00:00:00 UTC", "03:03:07 UTC"]);
    }
}
