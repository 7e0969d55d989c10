//! What an examination means: a pure reckoning, gravest finding first, that ends in exactly one next step.

use crate::api::{CopyExam, Exam, NodeExam};
use crate::error::exit;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Below so much free space a disk is told, as a share of a hundred. At 10 messages are refused.
const DISK_FREE_PERCENT_MIN: u64 = 15;
/// A certificate that ends within so many days is told.
const CERTIFICATE_DAYS_MIN: i64 = 21;
/// Wall clocks further apart are told, ms: mail gets wrong dates, nothing else.
const CLOCK_SKEW_MS_MAX: u64 = 2_000;
/// A rate outside this turns local reads off, ticks per million.
const CLOCK_RATE_PPM: std::ops::RangeInclusive<i64> = 900_000..=1_100_000;
/// A copy further behind than this is told, entries.
const LAG_ENTRIES_MAX: u64 = 1_000;

/// How grave a finding is; the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Data is damaged.
    Damage,
    /// Users cannot be served.
    Outage,
    /// The configuration of this machine cannot be used.
    Config,
    /// Everything is served, but something is missing.
    Degraded,
    /// Something will go wrong if nobody looks after it.
    Warning,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How grave.
    pub severity: Severity,
    /// What, in one sentence.
    pub what: String,
    /// What to do about it.
    pub next: String,
}

/// A group's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupState {
    /// The group.
    pub group: u32,
    /// Its leader, by the word of the copy of the highest term.
    pub leader: Option<String>,
    /// Voters that answered.
    pub answering: Vec<String>,
    /// Voters in all.
    pub voters: usize,
    /// True when a majority answered.
    pub quorum: bool,
    /// Entries that the copy furthest behind lacks.
    pub lag: u64,
}

/// What one node is to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// It hears it; the round trip in µs, where known.
    Hears(Option<u64>),
    /// It has not heard it for so long, ms.
    Silent(u64),
    /// The observer did not answer.
    Unknown,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The gravest first.
    pub findings: Vec<Finding>,
    /// The groups, by number.
    pub groups: Vec<GroupState>,
    /// Who sees whom: observer, observed, what.
    pub sees: Vec<(String, String, Sight)>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
    /// What to do now; exactly one thing.
    pub next_step: String,
}

impl Diagnosis {
    /// The exit code of `doctor`.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self.findings.first().map(|finding| finding.severity) {
            None => exit::OK,
            Some(Severity::Damage) => exit::DATA,
            Some(Severity::Outage) => exit::UNAVAILABLE,
            Some(Severity::Config) => exit::CONFIG,
            Some(Severity::Degraded) => exit::DEGRADED,
            Some(Severity::Warning) => exit::WARNINGS,
        }
    }
}

/// What is known besides what nodes say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// What is wrong with the configuration of this machine.
    pub config_problems: Vec<String>,
    /// Why no node could be asked, when none could.
    pub unreachable: Option<String>,
    /// Nodes that answered this command, though not the node that was asked first.
    pub reached_directly: BTreeSet<String>,
}

/// Draws the conclusion.
#[must_use]
pub fn diagnose(exam: &Exam, circumstances: &Circumstances) -> Diagnosis {
    let answered: BTreeMap<&str, &NodeExam> = exam.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let silent: Vec<String> = exam.members.iter().map(|m| m.name.clone()).filter(|name| !answered.contains_key(name.as_str())).collect();
    let groups = groups(exam, &answered);
    let mut findings = Findings::default();
    findings.reach(exam, circumstances, &silent, &groups);
    findings.links(exam, &answered, &circumstances.reached_directly);
    for node in &exam.nodes {
        findings.node(node);
        findings.clocks(node);
    }
    findings.versions(exam);
    findings.lag(&groups);
    let mut findings = findings.0;
    findings.sort_by_key(|finding| finding.severity);
    let next_step = match findings.first() {
        Some(finding) => finding.next.clone(),
        None => "nothing is left to do: all nodes answer, and nothing was found wrong".to_owned(),
    };
    Diagnosis { findings, groups, sees: sees(exam, &answered), silent, next_step }
}

fn sees(exam: &Exam, answered: &BTreeMap<&str, &NodeExam>) -> Vec<(String, String, Sight)> {
    let names: Vec<&str> = exam.members.iter().map(|m| m.name.as_str()).collect();
    let pairs = names.iter().flat_map(|from| names.iter().map(move |to| (*from, *to))).filter(|(from, to)| from != to);
    let sight = |from: &str, to: &str| match answered.get(from) {
        None => Sight::Unknown,
        Some(node) => match node.hears.iter().find(|heard| heard.node == to) {
            Some(heard) if heard.silent_ms == 0 => Sight::Hears(heard.round_trip_us),
            Some(heard) => Sight::Silent(heard.silent_ms),
            None => Sight::Unknown,
        },
    };
    pairs.map(|(from, to)| (from.to_owned(), to.to_owned(), sight(from, to))).collect()
}

fn groups(exam: &Exam, answered: &BTreeMap<&str, &NodeExam>) -> Vec<GroupState> {
    let one = |(number, voters): (usize, &Vec<String>)| {
        let group = u32::try_from(number).unwrap_or(u32::MAX);
        let here: Vec<(&String, &CopyExam)> = voters
            .iter()
            .filter_map(|name| Some((name, answered.get(name.as_str())?.groups.iter().find(|copy| copy.group == group)?)))
            .collect();
        let leader = here.iter().max_by_key(|(_, copy)| (copy.term, copy.leader.is_some())).and_then(|(_, copy)| copy.leader.clone());
        let committed = here.iter().filter_map(|(_, copy)| copy.committed).max().unwrap_or(0);
        let least = here.iter().map(|(_, copy)| copy.applied.unwrap_or(0)).min().unwrap_or(committed);
        GroupState {
            group,
            // One that does not answer leads nobody.
            leader: leader.filter(|name| answered.contains_key(name.as_str())),
            quorum: here.iter().filter(|(_, copy)| copy.stopped.is_none()).count() > voters.len() / 2,
            answering: here.into_iter().map(|(name, _)| name.clone()).collect(),
            voters: voters.len(),
            lag: committed.saturating_sub(least),
        }
    };
    exam.voters.iter().enumerate().map(one).collect()
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, what: impl Into<String>, next: impl Into<String>) {
        self.0.push(Finding { severity, what: what.into(), next: next.into() });
    }

    /// Whether nodes can be reached, and groups have their majorities.
    fn reach(&mut self, exam: &Exam, circumstances: &Circumstances, silent: &[String], groups: &[GroupState]) {
        for problem in &circumstances.config_problems {
            self.add(
                Severity::Config,
                format!("the configuration here: {problem}"),
                "mend it; `parliament config check` tells when it is right",
            );
        }
        if let Some(why) = &circumstances.unreachable {
            self.add(
                Severity::Outage,
                format!("no node answers: {why}"),
                "start the node of this machine (`systemctl start parliament`), or name one that runs with --node HOST:PORT",
            );
            return;
        }
        if !exam.formed {
            self.add(
                Severity::Outage,
                format!("{} belongs to no cluster yet", exam.answered_by),
                "start all nodes of cluster.seeds, then `parliament cluster init` on one of them",
            );
            return;
        }
        let names = silent.join(", ");
        let without = groups.iter().filter(|group| !group.quorum).count();
        if without > 0 {
            let what = format!("{without} of {} groups have no quorum: fewer than a majority of their voters answer", groups.len());
            let next = if silent.is_empty() {
                "look at the groups that have stopped, in the log of their nodes".to_owned()
            } else {
                format!("start {names}; nothing that was acknowledged is lost, and service comes back by itself")
            };
            self.add(Severity::Outage, what, next);
        }
        for name in silent {
            let address = exam.members.iter().find(|m| m.name == *name).map(|m| m.address.clone()).unwrap_or_default();
            self.add(
                Severity::Degraded,
                format!("{name} does not answer at {address}"),
                format!("start {name}, or if it runs, look at the way to {address} and at its log"),
            );
        }
        let leaderless: Vec<String> = groups.iter().filter(|g| g.quorum && g.leader.is_none()).map(|g| g.group.to_string()).collect();
        if !leaderless.is_empty() {
            let next = "ask again in a few seconds; where it stays so, look who sees whom above: voters must reach each other";
            self.add(Severity::Degraded, format!("groups {} have a quorum and no leader", leaderless.join(" ")), next);
        }
    }

    /// Ways that are open in one direction only, and nodes that only this command reaches.
    fn links(&mut self, exam: &Exam, answered: &BTreeMap<&str, &NodeExam>, reached_directly: &BTreeSet<String>) {
        for name in reached_directly {
            let what = format!("{name} answers this command, and does not answer {}", exam.answered_by);
            self.add(
                Severity::Degraded,
                what,
                format!("look at the network and the certificates between {name} and {}: both run", exam.answered_by),
            );
        }
        for node in &exam.nodes {
            for heard in node.hears.iter().filter(|heard| heard.silent_ms > 0) {
                let Some(other) = answered.get(heard.node.as_str()) else { continue };
                let back = other.hears.iter().find(|h| h.node == node.name).is_some_and(|h| h.silent_ms == 0);
                let how = if back { "in one direction only" } else { "at all" };
                let (from, to) = (&node.name, &heard.node);
                let what = format!("{from} does not hear {to}, which runs: they are not connected {how}");
                self.add(
                    Severity::Degraded,
                    what,
                    format!("look at firewalls and routes from {from} to {to} (the peer port, 7400 unless told otherwise)"),
                );
            }
        }
    }

    fn node(&mut self, node: &NodeExam) {
        let name = &node.name;
        for copy in &node.groups {
            if let Some(why) = &copy.stopped {
                let what = format!("group {} has stopped on {name}: {why}", copy.group);
                self.add(Severity::Damage, what, format!("keep the other nodes running, keep the log of {name}, then restart {name}"));
            }
        }
        if node.uid_regressions > 0 {
            let what = format!("{} UIDs were given twice or out of order on {name}", node.uid_regressions);
            self.add(Severity::Damage, what, "report this as a bug, with what `parliament doctor --collect FILE` writes");
        }
        if node.damaged_bodies > 0 {
            let what = format!("{} bodies are damaged on {name}, and wait to be replaced from other nodes", node.damaged_bodies);
            self.add(Severity::Damage, what, format!("see that the other nodes run; if it stays, look at the disk of {name}"));
        }
        if node.missing_bodies > node.damaged_bodies {
            let what = format!("{name} lacks {} bodies and pulls them from the others", node.missing_bodies - node.damaged_bodies);
            self.add(Severity::Degraded, what, format!("leave the other nodes running until {name} has them"));
        }
        if let Some(refused) = &node.disk_refuses {
            let what = format!("the disk of {name} is full: it refuses {refused}");
            self.add(Severity::Degraded, what, format!("make room on the file system of {name}'s data, or let it grow"));
        } else if node.disk_size_bytes > 0 && node.disk_free_bytes.saturating_mul(100) / node.disk_size_bytes < DISK_FREE_PERCENT_MIN {
            let what = format!(
                "the disk of {name} has {} of {} free",
                crate::output::size(node.disk_free_bytes),
                crate::output::size(node.disk_size_bytes)
            );
            self.add(Severity::Warning, what, format!("make room on the file system of {name}'s data before messages are refused"));
        }
        for certificate in &node.certificates {
            self.certificate(name, certificate);
        }
        for problem in &node.config_problems {
            self.add(Severity::Warning, format!("{name}: {problem}"), format!("mend it, then `parliament config check` on {name}"));
        }
        if let Some(why) = node.unready.as_ref().filter(|why| !why.contains("no cluster")) {
            self.add(
                Severity::Degraded,
                format!("{name} does not serve: {why}"),
                format!("wait until {name} has caught up; `parliament status --watch` shows it"),
            );
        }
    }

    fn certificate(&mut self, node: &str, certificate: &crate::api::Certificate) {
        let setting = &certificate.setting;
        let renew = if setting.starts_with("tls.mail") {
            format!("replace {setting} on {node} by a newer one, then `systemctl reload parliament` there")
        } else {
            format!("sign a new one with `parliament init ca`, replace {setting} on {node}, then restart {node}")
        };
        match (certificate.days_left, &certificate.problem) {
            (Some(days), _) if days < 0 => self.add(Severity::Degraded, format!("{setting} on {node} has ended {} days ago", -days), renew),
            (Some(days), _) if days < CERTIFICATE_DAYS_MIN => {
                self.add(Severity::Warning, format!("{setting} on {node} ends in {days} days"), renew);
            }
            (None, Some(why)) => self.add(Severity::Warning, format!("{setting} on {node}: {why}"), renew),
            _ => {}
        }
    }

    fn clocks(&mut self, node: &NodeExam) {
        for heard in &node.hears {
            if let Some(ahead) = heard.ahead_ms.filter(|ms| ms.unsigned_abs() > CLOCK_SKEW_MS_MAX) {
                let than = if ahead > 0 { "ahead of" } else { "behind" };
                let what = format!(
                    "the wall clock of {} is {:.1} s {than} that of {}",
                    heard.node,
                    ahead.unsigned_abs() as f64 / 1000.0,
                    node.name
                );
                self.add(Severity::Warning, what, "let all nodes set their clocks by NTP: dates of mail come from them");
            }
            if let Some(rate) = heard.rate_ppm.filter(|rate| !CLOCK_RATE_PPM.contains(rate)) {
                let what = format!("the clock of {} runs at {:.2} times the rate of that of {}", heard.node, rate as f64 / 1e6, node.name);
                self.add(Severity::Degraded, what, "look at the time source of both hosts: leases rest on clocks that run alike");
            }
        }
    }

    fn versions(&mut self, exam: &Exam) {
        let versions: BTreeSet<&str> = exam.nodes.iter().map(|node| node.version.as_str()).collect();
        if versions.len() > 1 {
            let all = versions.into_iter().collect::<Vec<_>>().join(", ");
            self.add(Severity::Warning, format!("nodes run different versions: {all}"), "finish the upgrade, one node at a time");
        }
    }

    fn lag(&mut self, groups: &[GroupState]) {
        if let Some(worst) = groups.iter().filter(|group| group.lag > LAG_ENTRIES_MAX).max_by_key(|group| group.lag) {
            let what = format!("a copy of group {} lacks {} entries", worst.group, worst.lag);
            self.add(Severity::Degraded, what, "let it catch up; `parliament replication status` shows how far it is");
        }
    }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
pub(crate) mod tests;
