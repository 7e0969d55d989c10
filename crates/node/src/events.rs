//! What happened in the cluster, in plain words: a pure reckoning over two looks at its facts, one after the other, and a bounded
//! ring that keeps the latest of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Events that a node remembers.
const EVENTS_MAX: usize = 200;
/// Groups change their leader, and users their holder, one by one: what is of one kind within this time is told as one event, ms.
const ONE_EVENT_MS: u64 = 10_000;

/// Whether a node serves, as another sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Answers and has caught up.
    Ready,
    /// Answers, and is starting or catching up.
    #[default]
    Starting,
    /// Answers, and gives up its users and leaderships.
    Draining,
    /// Does not answer.
    Silent,
}

/// A node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeSight {
    pub(crate) presence: Presence,
    /// Its start; 0 while unknown.
    pub(crate) boot: u64,
    /// Since when nothing was heard of it, ms; 0 while it answers.
    pub(crate) silent_ms: u64,
    /// Its disk is too full for messages.
    pub(crate) disk_full: bool,
    /// Groups that have stopped on it.
    pub(crate) stopped: BTreeSet<u32>,
    /// Take-overs by it since its start, by former holder: users, and the longest of the latest run, ms.
    pub(crate) taken: BTreeMap<u64, (u64, u64)>,
}

/// The cluster's facts at one moment, as one node sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Of the boot-time clock, ms.
    pub(crate) at_ms: u64,
    pub(crate) nodes: BTreeMap<u64, NodeSight>,
    /// Leader of each group; while there is none, the last one that was known.
    pub(crate) leaders: BTreeMap<u32, u64>,
    /// Groups of whose voters no majority answers.
    pub(crate) quorumless: BTreeSet<u32>,
    /// The data node that serves alone beside a witness.
    pub(crate) alone: Option<u64>,
}

impl Sight {
    /// Fills in what only an earlier look knows: the last leaders of groups that have none now.
    pub(crate) fn following(mut self, before: &Self) -> Self {
        for (group, leader) in &before.leaders {
            self.leaders.entry(*group).or_insert(*leader);
        }
        self
    }
}

/// One thing that happened. Numbers of nodes are turned into names by [`What::words`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The node that remembers all this began to look.
    Began {
        node: u64,
        boot: u64,
    },
    Silent {
        node: u64,
    },
    /// The same process answers again.
    Again {
        node: u64,
        after_ms: u64,
    },
    /// Another process answers.
    Back {
        node: u64,
        boot: u64,
        ready: bool,
    },
    Ready {
        node: u64,
    },
    CatchingUp {
        node: u64,
    },
    Draining {
        node: u64,
    },
    Leads {
        node: u64,
        groups: BTreeSet<u32>,
        before: Option<u64>,
    },
    TookOver {
        node: u64,
        from: u64,
        users: u64,
        took_ms: u64,
    },
    NoQuorum {
        groups: BTreeSet<u32>,
    },
    Quorum {
        groups: BTreeSet<u32>,
    },
    DiskFull {
        node: u64,
    },
    DiskFreed {
        node: u64,
    },
    Stopped {
        node: u64,
        group: u32,
    },
    Alone {
        node: u64,
    },
    NotAlone {
        node: u64,
    },
}

/// How an event is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Bad,
    Change,
    Good,
}

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Of the boot-time clock, ms.
    pub(crate) at_ms: u64,
    pub(crate) what: What,
}

/// What happened between two looks, the earlier one first.
pub(crate) fn derive(before: &Sight, after: &Sight) -> Vec<Event> {
    let mut events = Vec::new();
    let mut tell = |at_ms, what| events.push(Event { at_ms, what });
    for (node, now) in &after.nodes {
        let Some(was) = before.nodes.get(node) else { continue };
        if let Some(what) = presence(*node, was, now) {
            // Silence is noticed late, and began when the node was last heard.
            let at_ms = if now.presence == Presence::Silent { after.at_ms.saturating_sub(now.silent_ms) } else { after.at_ms };
            tell(at_ms, what);
        }
        if was.disk_full != now.disk_full && now.presence != Presence::Silent {
            let node = *node;
            tell(after.at_ms, if now.disk_full { What::DiskFull { node } } else { What::DiskFreed { node } });
        }
        for group in now.stopped.difference(&was.stopped) {
            tell(after.at_ms, What::Stopped { node: *node, group: *group });
        }
    }
    for what in
        leaders(before, after).into_iter().chain(quorums(before, after)).chain(take_overs(before, after)).chain(loners(before, after))
    {
        tell(after.at_ms, what);
    }
    events
}

fn presence(node: u64, was: &NodeSight, now: &NodeSight) -> Option<What> {
    use Presence::{Draining, Ready, Silent, Starting};
    let another_process = was.boot != 0 && now.boot > was.boot;
    match (was.presence, now.presence) {
        (Silent, Silent) => None,
        (_, Silent) => Some(What::Silent { node }),
        (_, state) if another_process => Some(What::Back { node, boot: now.boot, ready: state == Ready }),
        // One that starts does not tell yet which start it is.
        (Silent, Starting) => Some(What::Back { node, boot: 0, ready: false }),
        (Silent, _) => Some(What::Again { node, after_ms: was.silent_ms }),
        (Ready | Starting, Draining) => Some(What::Draining { node }),
        (Starting | Draining, Ready) => Some(What::Ready { node }),
        (Ready | Draining, Starting) => Some(What::CatchingUp { node }),
        _ => None,
    }
}

/// Groups by new and former leader.
fn leaders(before: &Sight, after: &Sight) -> Vec<What> {
    let mut moved: BTreeMap<(u64, Option<u64>), BTreeSet<u32>> = BTreeMap::new();
    for (group, leader) in &after.leaders {
        let was = before.leaders.get(group).copied();
        if was != Some(*leader) {
            moved.entry((*leader, was)).or_default().insert(*group);
        }
    }
    moved.into_iter().map(|((node, before), groups)| What::Leads { node, groups, before }).collect()
}

fn quorums(before: &Sight, after: &Sight) -> Vec<What> {
    let lost: BTreeSet<u32> = after.quorumless.difference(&before.quorumless).copied().collect();
    let found: BTreeSet<u32> = before.quorumless.difference(&after.quorumless).copied().collect();
    let lost = (!lost.is_empty()).then_some(What::NoQuorum { groups: lost });
    let found = (!found.is_empty()).then_some(What::Quorum { groups: found });
    lost.into_iter().chain(found).collect()
}

fn take_overs(before: &Sight, after: &Sight) -> Vec<What> {
    let mut told = Vec::new();
    for (node, now) in &after.nodes {
        let Some(was) = before.nodes.get(node).filter(|was| was.boot == now.boot) else { continue };
        for (from, (users, took_ms)) in &now.taken {
            let earlier = was.taken.get(from).map_or(0, |row| row.0);
            if *users > earlier {
                told.push(What::TookOver { node: *node, from: *from, users: users - earlier, took_ms: *took_ms });
            }
        }
    }
    told
}

fn loners(before: &Sight, after: &Sight) -> Option<What> {
    match (before.alone, after.alone) {
        (was, Some(node)) if was != Some(node) => Some(What::Alone { node }),
        (Some(node), None) => Some(What::NotAlone { node }),
        _ => None,
    }
}

impl What {
    /// The event as a sentence without its full stop.
    pub(crate) fn words(&self, name: &dyn Fn(u64) -> String) -> String {
        match self {
            Self::Began { node, boot } => format!("{} started (start {boot}); it remembers nothing from before", name(*node)),
            Self::Silent { node } => format!("{} stopped answering", name(*node)),
            Self::Again { node, after_ms } => format!("{} answers again after {}", name(*node), seconds(*after_ms)),
            Self::Back { node, boot: 0, .. } => format!("{} is back, catching up", name(*node)),
            Self::Back { node, boot, ready } => {
                format!("{} is back (start {boot}), {}", name(*node), if *ready { "ready" } else { "catching up" })
            }
            Self::Ready { node } => format!("{} is ready", name(*node)),
            Self::CatchingUp { node } => format!("{} is catching up", name(*node)),
            Self::Draining { node } => format!("{} is stopping: it hands its groups and users over", name(*node)),
            Self::Leads { node, groups, before } => {
                let instead = before.map(|before| format!(" instead of {}", name(before))).unwrap_or_default();
                format!("{} leads {}{instead}", name(*node), listed(groups))
            }
            Self::TookOver { node, from, users, took_ms } => {
                let many = if *users == 1 { "1 user".to_owned() } else { format!("{users} users") };
                format!("{} took over {many} of {} in {}", name(*node), name(*from), seconds(*took_ms))
            }
            Self::NoQuorum { groups } => format!("no majority answers for {}: their users have to wait", listed(groups)),
            Self::Quorum { groups } => format!("a majority answers again for {}", listed(groups)),
            Self::DiskFull { node } => format!("the disk of {} is nearly full: it takes no messages", name(*node)),
            Self::DiskFreed { node } => format!("{} takes messages again: its disk has room", name(*node)),
            Self::Stopped { node, group } => format!("group {group} has stopped on {}", name(*node)),
            Self::Alone { node } => format!("{} serves alone: what it takes from now on is on its disk only", name(*node)),
            Self::NotAlone { node } => format!("{} serves alone no more: everything is on both disks", name(*node)),
        }
    }

    pub(crate) fn tone(&self) -> Tone {
        match self {
            Self::Silent { .. } | Self::NoQuorum { .. } | Self::DiskFull { .. } | Self::Stopped { .. } | Self::Alone { .. } => Tone::Bad,
            Self::Ready { .. }
            | Self::Again { .. }
            | Self::Quorum { .. }
            | Self::DiskFreed { .. }
            | Self::NotAlone { .. }
            | Self::Back { ready: true, .. } => Tone::Good,
            _ => Tone::Change,
        }
    }

    /// Takes a later event in, where both are parts of one.
    fn absorb(&mut self, later: &Self) -> bool {
        match (self, later) {
            (Self::Leads { node, groups, before }, Self::Leads { node: n, groups: more, before: b }) if (*node, *before) == (*n, *b) => {
                groups.extend(more);
                true
            }
            (Self::TookOver { node, from, users, took_ms }, Self::TookOver { node: n, from: f, users: more, took_ms: took })
                if (*node, *from) == (*n, *f) =>
            {
                *users += more;
                *took_ms = (*took_ms).max(*took);
                true
            }
            _ => false,
        }
    }
}

/// `0.8 s`, `12 s`.
pub(crate) fn seconds(ms: u64) -> String {
    if ms < 10_000 { format!("{}.{} s", ms / 1000, ms % 1000 / 100) } else { format!("{} s", ms / 1000) }
}

/// `group 3`, `groups 3 5`, `groups 1 to 4, 7`.
pub(crate) fn listed(groups: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for group in groups {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*group) => *last = *group,
            _ => runs.push((*group, *group)),
        }
    }
    let run = |(first, last): &(u32, u32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    let many = if groups.len() == 1 { "group" } else { "groups" };
    format!("{many} {}", runs.iter().map(run).collect::<Vec<_>>().join(", "))
}

/// The latest events, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    events: VecDeque<Event>,
    /// Rises with every change.
    pub(crate) version: u64,
}

impl Ring {
    pub(crate) fn add(&mut self, event: Event) {
        self.version += 1;
        // Not across anything else: what follows a death is another event than the same before it.
        let is_part = |e: &Event| matches!(e.what, What::Leads { .. } | What::TookOver { .. });
        let recent = self.events.iter_mut().rev().take_while(|e| is_part(e) && event.at_ms.saturating_sub(e.at_ms) < ONE_EVENT_MS);
        for earlier in recent {
            if earlier.what.absorb(&event.what) {
                return;
            }
        }
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().rev()
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
