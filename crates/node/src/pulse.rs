//! What nodes tell each other every second: small, made without reading a table, and measured on the way. From it every node knows
//! the whole cluster without asking anything more: who hears whom, how long a round trip takes, how the clocks differ, and what
//! happened ([`crate::events`]).

use crate::ask::{Question, Reply, ask_within};
use crate::events::{self, Event, NodeSight, Presence, Ring, Sight, What};
use crate::running::Running;
use parliament_ids::{GroupId, NodeId};
use parliament_journal::Space;
use parliament_mail_service::{boot_ms, unix_millis};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// How often a node asks each peer.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it waits; less than [`PULSE_INTERVAL`], so that questions to a peer never pile up.
const PULSE_TIMEOUT: Duration = Duration::from_millis(900);
/// How often the facts are looked at for events.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A node that answered nothing for so long is silent, ms. One whose link is down and that asks for no support is silent at once.
const SILENT_MS: u64 = 2_000;
/// Round trips that the shortest and the clocks' difference are taken from.
const ROUND_TRIPS_MAX: usize = 16;
/// The rate of a peer's clock is told after so long, ms.
const RATE_SPAN_MS: u64 = 30_000;

/// What a node says of itself every second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pulse {
    pub(crate) version: String,
    pub(crate) boot: u64,
    pub(crate) caught_up: bool,
    pub(crate) draining: bool,
    pub(crate) disk_full: bool,
    /// Terms of the groups it leads.
    pub(crate) leads: BTreeMap<u32, u64>,
    pub(crate) stopped: BTreeSet<u32>,
    /// Groups that have a copy there and cannot be opened.
    #[serde(default)]
    pub(crate) aside: BTreeSet<u32>,
    /// The boot under which it may be handed leases now; `None` while it should not be.
    #[serde(default)]
    pub(crate) takes_under: Option<u64>,
    /// Entries that it proposed lately as a holder, by group, where it did so all the while.
    #[serde(default)]
    pub(crate) proposed: BTreeMap<u32, u64>,
    /// Take-overs since its start, by former holder: users, and the longest of the latest run, ms.
    pub(crate) taken: BTreeMap<u64, (u64, u64)>,
    /// What it hears of the others.
    pub(crate) hears: BTreeMap<u64, Hears>,
    /// Its boot-time clock and its wall clock, ms.
    pub(crate) boot_clock_ms: u64,
    pub(crate) wall_clock_ms: u64,
    /// How long it took to make this, µs: no part of the way.
    pub(crate) made_in_us: u64,
}

/// What one node hears of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hears {
    /// Since when it heard nothing, ms; 0 while it hears it.
    pub(crate) silent_ms: u64,
    /// Shortest of the latest round trips, µs.
    pub(crate) round_trip_us: Option<u64>,
    /// How far the other's wall clock is ahead, ms.
    pub(crate) ahead_ms: Option<i64>,
    /// Ticks of the other's clock for a million of its own.
    pub(crate) rate_ppm: Option<i64>,
}

/// What is known of one peer.
#[derive(Clone, Debug, Default)]
struct Peer {
    pulse: Option<Pulse>,
    /// When it last answered anything, ms of the boot-time clock.
    heard_ms: Option<u64>,
    /// When it was asked what it answered last, ms of the boot-time clock.
    asked_ms: u64,
    /// Its last answer was that it is starting.
    starting: bool,
    /// It fell silent, and has answered nothing since: a link that is up again says nothing of who is behind it.
    lost: bool,
    /// Round trip in µs, its wall clock's lead in ms; the newest last.
    trips: VecDeque<(u64, i64)>,
    /// Both boot-time clocks at the first pulse of this boot, and at the latest, ms.
    clocks: Option<((u64, u64), (u64, u64))>,
}

impl Peer {
    fn take(&mut self, pulse: Pulse, round_trip_us: u64, now_ms: u64, wall_ms: u64) {
        if self.pulse.as_ref().is_some_and(|known| known.boot != pulse.boot) {
            self.clocks = None;
            self.trips.clear();
        }
        let way_us = round_trip_us.saturating_sub(pulse.made_in_us);
        if self.trips.len() == ROUND_TRIPS_MAX {
            self.trips.pop_front();
        }
        // Its clock was read half a round trip before now.
        let ahead = i64::try_from(pulse.wall_clock_ms).unwrap_or(0) - i64::try_from(wall_ms).unwrap_or(0)
            + i64::try_from(round_trip_us / 2_000).unwrap_or(0);
        self.trips.push_back((way_us, ahead));
        let both = (now_ms, pulse.boot_clock_ms);
        self.clocks = Some((self.clocks.map_or(both, |(first, _)| first), both));
        self.pulse = Some(pulse);
        (self.heard_ms, self.starting, self.lost) = (Some(now_ms), false, false);
    }

    fn rate_ppm(&self) -> Option<i64> {
        let ((own_first, its_first), (own, its)) = self.clocks?;
        let (own, its) = (own.checked_sub(own_first)?, its.checked_sub(its_first)?);
        (own >= RATE_SPAN_MS).then(|| (i128::from(its) * 1_000_000 / i128::from(own)).try_into().unwrap_or(i64::MAX))
    }

    fn hears(&self, silent_ms: u64) -> Hears {
        let best = self.trips.iter().min();
        Hears {
            silent_ms,
            round_trip_us: best.map(|(us, _)| *us).filter(|_| silent_ms == 0),
            ahead_ms: best.map(|(_, ahead)| *ahead),
            rate_ppm: self.rate_ppm(),
        }
    }
}

/// All that this node was told by its peers, and what happened since its start.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    ring: Mutex<Ring>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hearsay {
    /// The newest events first.
    pub(crate) fn events(&self, limit: usize) -> Vec<Event> {
        lock(&self.ring).newest().take(limit).cloned().collect()
    }
    /// Rises with every event.
    pub(crate) fn version(&self) -> u64 {
        lock(&self.ring).version
    }
    /// How long ago a peer was asked, ms, and the term in which it then said to lead the group; `None` when nothing is known.
    pub(crate) fn leads(&self, node: NodeId, group: GroupId) -> Option<(u64, Option<u64>)> {
        let peers = lock(&self.peers);
        let peer = peers.get(&node)?;
        let asked = boot_ms().saturating_sub(peer.asked_ms);
        match &peer.pulse {
            _ if peer.starting => Some((asked, None)),
            Some(pulse) if pulse.stopped.contains(&group.0) => Some((asked, None)),
            Some(pulse) => Some((asked, pulse.leads.get(&group.0).copied())),
            None => None,
        }
    }
    /// The last pulse of a peer, however old.
    pub(crate) fn pulse(&self, node: NodeId) -> Option<Pulse> {
        lock(&self.peers).get(&node).and_then(|peer| peer.pulse.clone())
    }
}

impl Running {
    /// Since when nothing was heard of a peer, ms; 0 while it is heard.
    pub(crate) fn silent_ms(&self, node: NodeId) -> u64 {
        if node == self.local.me {
            return 0;
        }
        let now = boot_ms();
        let (answered, lost) = lock(&self.hearsay.peers).get(&node).map_or((None, false), |peer| (peer.heard_ms, peer.lost));
        let since = now.saturating_sub(answered.unwrap_or(self.started_ms));
        let linked = self.local.pool.get(node).is_some_and(|peer| peer.is_connected());
        let heard = !lost && since < SILENT_MS && (linked || self.local.support.is_live(node));
        if heard { 0 } else { since.max(1) }
    }

    /// Whether a node serves, as far as this one was told.
    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        let told = |caught_up, draining| match (draining, caught_up) {
            (true, _) => Presence::Draining,
            (false, true) => Presence::Ready,
            (false, false) => Presence::Starting,
        };
        if node == self.local.me {
            return told(self.is_caught_up(), self.is_draining());
        }
        if self.silent_ms(node) > 0 {
            return Presence::Silent;
        }
        match lock(&self.hearsay.peers).get(&node) {
            Some(Peer { starting: false, pulse: Some(pulse), .. }) => told(pulse.caught_up, pulse.draining),
            _ => Presence::Starting,
        }
    }

    /// What this node hears of each of the others.
    pub(crate) fn hears(&self) -> BTreeMap<u64, Hears> {
        let document = self.document();
        let others = document.members.iter().map(|member| NodeId(member.id)).filter(|node| *node != self.local.me);
        let one = |node: NodeId| {
            let silent_ms = self.silent_ms(node);
            let known = lock(&self.hearsay.peers).get(&node).map(|peer| peer.hears(silent_ms));
            (node.0, known.unwrap_or(Hears { silent_ms, ..Hears::default() }))
        };
        others.map(one).collect()
    }

    /// What this node says of itself.
    pub(crate) fn pulse(&self) -> Pulse {
        let began = Instant::now();
        let (mut leads, mut stopped) = (BTreeMap::new(), BTreeSet::new());
        for group in self.group_ids() {
            let (term, has_stopped) = match self.local.shard(group) {
                Some(shard) => (shard.group.leads_in_term(), shard.group.stopped().is_some()),
                None => (self.local.cluster.leads_in_term(), self.local.cluster.stopped().is_some()),
            };
            if let Some(term) = term {
                leads.insert(group.0, term);
            }
            // A node that stops ends its groups itself.
            if has_stopped && !self.is_draining() {
                stopped.insert(group.0);
            }
        }
        let taken = self.local.counters.taken_from.rows().into_iter();
        Pulse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot.0,
            caught_up: self.is_caught_up(),
            draining: self.is_draining(),
            disk_full: self.journal.space() >= Space::NoBodies,
            leads,
            stopped,
            aside: self.aside().keys().map(|group| group.0).collect(),
            takes_under: self.takes_under(),
            proposed: self.local.proposed_lately().into_iter().map(|(group, entries)| (group.0, entries)).collect(),
            taken: taken.map(|(node, row)| (node.0, (row.users, row.took_ms))).collect(),
            hears: self.hears(),
            boot_clock_ms: boot_ms(),
            wall_clock_ms: unix_millis(),
            made_in_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// The boot under which this node may be handed leases: not while it stops, catches up, lacks room, or is cut off.
    fn takes_under(&self) -> Option<u64> {
        let boot = self.local.support.boot();
        let fit = self.is_caught_up() && !self.is_draining() && self.journal.space() < Space::NoBodies && self.local.support.trusted(boot);
        fit.then_some(boot.0)
    }

    /// What every node says of itself by now: of the others those that are heard and serve.
    pub(crate) fn pulses(&self) -> BTreeMap<NodeId, Pulse> {
        let members = self.document().members.iter().map(|member| NodeId(member.id)).collect::<Vec<_>>();
        let told = |node| self.hearsay.pulse(node).filter(|_| self.presence(node) == Presence::Ready);
        let one = |node| if node == self.local.me { Some(self.pulse()) } else { told(node) };
        members.into_iter().filter_map(|node| Some((node, one(node)?))).collect()
    }

    /// Notes who fell silent, and who is still there: requests for support, which come ten times a second to the voters of group 0,
    /// show it between two pulses.
    fn note_presence(&self) {
        let votes = self.document().voters(GroupId::CLUSTER).contains(&self.local.me);
        for peer in self.local.pool.all() {
            let node = peer.node();
            let silent = self.silent_ms(node) > 0;
            let promises = votes && peer.is_connected() && self.local.support.is_live(node);
            if let Some(known) = lock(&self.hearsay.peers).get_mut(&node) {
                known.lost |= silent;
                if promises && !known.lost {
                    known.heard_ms = Some(boot_ms());
                }
            }
        }
    }

    /// The cluster's facts now.
    fn sight(&self) -> Sight {
        let own = self.pulse();
        let (mut nodes, mut led) = (BTreeMap::new(), BTreeMap::new());
        for member in &self.document().members {
            let node = NodeId(member.id);
            let presence = self.presence(node);
            let starting = lock(&self.hearsay.peers).get(&node).is_some_and(|peer| peer.starting);
            let told = if node == self.local.me { Some(own.clone()) } else { self.hearsay.pulse(node) };
            let told = told.filter(|_| !starting).unwrap_or_default();
            if presence != Presence::Silent {
                for (group, term) in &told.leads {
                    let row = led.entry(*group).or_insert((*term, member.id));
                    *row = (*row).max((*term, member.id));
                }
            }
            let sight = NodeSight {
                presence,
                boot: told.boot,
                silent_ms: self.silent_ms(node),
                disk_full: told.disk_full,
                stopped: told.stopped,
                taken: told.taken,
            };
            nodes.insert(member.id, sight);
        }
        let document = self.document();
        let lacks = |group: &u32| {
            let voters = document.voters(GroupId(*group));
            let answer = |id: &NodeId| nodes.get(&id.0).is_some_and(|node: &NodeSight| node.presence != Presence::Silent);
            voters.iter().filter(|id| answer(id)).count() <= voters.len() / 2
        };
        let quorumless = (0..=document.groups).filter(lacks).collect();
        let alone = crate::alone::known(self).node.map(|node| node.0);
        Sight { alone, at_ms: boot_ms(), leaders: led.into_iter().map(|(group, (_, node))| (group, node)).collect(), quorumless, nodes }
    }
}

/// Asks every peer for its pulse, again and again; one question per peer at a time.
pub(crate) async fn ask_peers(running: Arc<Running>) {
    let mut interval = tokio::time::interval(PULSE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let asked = running.local.pool.all().into_iter().map(|peer| ask_one(&running, peer.node()));
        futures::future::join_all(asked).await;
    }
}

async fn ask_one(running: &Arc<Running>, node: NodeId) {
    let (began, asked_ms) = (Instant::now(), boot_ms());
    let answer = ask_within(running, node, &Question::Pulse, PULSE_TIMEOUT).await;
    let round_trip_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut peers = lock(&running.hearsay.peers);
    let peer = peers.entry(node).or_default();
    match answer {
        Ok(Reply::Pulse(pulse)) => peer.take(pulse, round_trip_us, boot_ms(), unix_millis()),
        Err(why) if why.contains(crate::peers::STARTING) => (peer.heard_ms, peer.starting, peer.lost) = (Some(boot_ms()), true, false),
        _ => return,
    }
    peer.asked_ms = asked_ms;
}

/// Looks for what happened, again and again.
pub(crate) async fn look(running: Arc<Running>) {
    let began = What::Began { node: running.local.me.0, boot: running.boot.0 };
    lock(&running.hearsay.ring).add(Event { at_ms: running.started_ms, what: began });
    // Until the others have been asked once, they are unknown rather than silent.
    tokio::time::sleep(PULSE_INTERVAL).await;
    let mut before = running.sight();
    let mut interval = crate::tasks::beat(LOOK_INTERVAL);
    loop {
        interval.tick().await;
        running.note_presence();
        let after = running.sight().following(&before);
        let happened = events::derive(&before, &after);
        let mut ring = lock(&running.hearsay.ring);
        happened.into_iter().for_each(|event| ring.add(event));
        drop(ring);
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(boot: u64, boot_clock_ms: u64, wall_clock_ms: u64) -> Pulse {
        Pulse { boot, boot_clock_ms, wall_clock_ms, made_in_us: 100, ..Pulse::default() }
    }

    #[test]
    fn what_a_node_leads_is_as_old_as_the_question() {
        let hearsay = Hearsay::default();
        let (node, group) = (NodeId(2), GroupId(5));
        assert_eq!(hearsay.leads(node, group), None);
        let told = Pulse { leads: BTreeMap::from([(5, 7)]), ..pulse(1, 1, 1) };
        lock(&hearsay.peers).insert(node, Peer { pulse: Some(told), asked_ms: boot_ms().saturating_sub(400), ..Peer::default() });
        let (asked, leads) = hearsay.leads(node, group).unwrap();
        assert!((400..2_000).contains(&asked) && leads == Some(7), "{asked}");
        assert_eq!(hearsay.leads(node, GroupId(6)).unwrap().1, None);
        lock(&hearsay.peers).entry(node).and_modify(|peer| peer.starting = true);
        assert_eq!(hearsay.leads(node, group).unwrap().1, None, "who starts leads nothing");
    }

    #[test]
    fn the_shortest_round_trip_tells_latency_and_clock() {
        let mut peer = Peer::default();
        peer.take(pulse(1, 500, 5_000_040), 80_100, 1_000, 5_000_000);
        peer.take(pulse(1, 1_500, 5_001_020), 300, 2_000, 5_001_000);
        let hears = peer.hears(0);
        assert_eq!((hears.round_trip_us, hears.ahead_ms, hears.rate_ppm), (Some(200), Some(20), None));
        assert_eq!(peer.hears(9).round_trip_us, None, "nothing is claimed of a silent peer");
        for n in 0..100 {
            peer.take(pulse(1, 2_000, 0), 1_000 + n, 3_000, 0);
        }
        assert_eq!(peer.trips.len(), ROUND_TRIPS_MAX);
        assert!(peer.hears(0).round_trip_us > Some(200), "old round trips are forgotten");
    }

    #[test]
    fn a_clock_that_runs_twice_as_fast_is_seen() {
        let mut peer = Peer::default();
        peer.take(pulse(1, 0, 0), 100, 0, 0);
        peer.take(pulse(1, 80_000, 0), 100, 40_000, 0);
        assert_eq!(peer.rate_ppm(), Some(2_000_000));
        peer.take(pulse(2, 90_000, 0), 100, 41_000, 0);
        assert_eq!(peer.rate_ppm(), None, "another start is measured anew");
    }
}
