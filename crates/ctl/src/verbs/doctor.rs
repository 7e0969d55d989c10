//! `doctor`: asks whoever answers, looks at this machine, and ends in one next step. It works without a quorum, against nodes that
//! are down, and where no node answers at all.

use super::Nodes;
use crate::api::{self, Exam, Examine};
use crate::certificate;
use crate::diagnosis::{Circumstances, Diagnosis, Severity, Sight, diagnose};
use crate::discover::{Target, config_error, sources, targets};
use crate::error::{AdminError, code};
use crate::output::{Report, age, size, table};
use crate::terminal::Terminal;
use crate::{Connect, PeerTls};
use parliament_config::{Config, Problems, check_files, load, load_credentials};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long one node may take: it waits two seconds for the others.
const NODE_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// What the command line says.
pub(crate) struct Asked<'a> {
    pub(crate) node: Option<&'a str>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) timeout: Duration,
    pub(crate) collect: Option<PathBuf>,
}

pub(crate) async fn doctor(asked: Asked<'_>, connect: &Connect, terminal: &Terminal) -> Result<Report, AdminError> {
    let here = Here::look(asked.config.clone(), terminal);
    let mut circumstances = Circumstances { config_problems: here.problems.clone(), ..Circumstances::default() };
    let patience = asked.timeout.min(NODE_TIMEOUT_MAX);
    let targets = match targets(asked.node, asked.config.clone(), terminal) {
        Ok(targets) => targets,
        // With a configuration that is wrong there is something to say all the same.
        Err(_) if !here.problems.is_empty() => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut exam = Exam::default();
    match first_answer(&targets, connect, patience, &Examine { alone: false }).await {
        Ok(answer) => exam = answer,
        Err(error) => circumstances.unreachable = Some(error.message),
    }
    let tls = here.tls(&targets);
    if circumstances.unreachable.is_some() {
        // The node of this machine is down; another one may know the cluster.
        let seeds: Vec<Target> = here.seeds.iter().map(|address| Target::Peer { address: address.clone(), tls: tls.clone() }).collect();
        if let Ok(answer) = first_answer(&seeds, connect, patience, &Examine { alone: false }).await {
            (exam, circumstances.unreachable) = (answer, None);
        }
    }
    ask_the_silent(&mut exam, &mut circumstances, tls.as_ref(), connect, patience).await;
    let diagnosis = diagnose(&exam, &circumstances);
    let document = json!({ "exam": exam, "diagnosis": diagnosis, "here": here.document() });
    let mut text = text(&exam, &diagnosis, &here);
    if let Some(path) = &asked.collect {
        collect(path, &document, &targets, connect, patience).await?;
        text.push_str(&format!("collected into {} (no passwords, hashes, names of users, subjects or bodies)\n", path.display()));
    }
    Ok(Report::new(&document, text).exit(diagnosis.exit()))
}

/// The first target that answers. Unlike other verbs, this one goes on when a node hangs.
async fn first_answer(targets: &[Target], connect: &Connect, patience: Duration, request: &Examine) -> Result<Exam, AdminError> {
    let mut last = AdminError::new(code::UNREACHABLE, crate::exit::UNAVAILABLE, "there is no node to ask");
    for target in targets {
        let nodes = Nodes { connect: connect.clone(), targets: vec![target.clone()], timeout: patience };
        match api::ask(&nodes, api::DOCTOR, request).await {
            Ok(exam) => return Ok(exam),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Nodes that did not answer the one that was asked may answer this command: then the network between them is at fault.
async fn ask_the_silent(exam: &mut Exam, circumstances: &mut Circumstances, tls: Option<&PeerTls>, connect: &Connect, patience: Duration) {
    let silent: Vec<_> = exam.members.iter().filter(|m| exam.nodes.iter().all(|node| node.name != m.name)).cloned().collect();
    for member in silent {
        let target = Target::Peer { address: member.address.clone(), tls: tls.cloned() };
        if let Ok(alone) = first_answer(&[target], connect, patience, &Examine { alone: true }).await {
            circumstances.reached_directly.extend(alone.nodes.iter().map(|node| node.name.clone()));
            exam.nodes.extend(alone.nodes);
        }
    }
    exam.nodes.sort_by(|a, b| a.name.cmp(&b.name));
}

/// What this machine knows without asking anybody.
#[derive(Default)]
struct Here {
    config: Option<Config>,
    problems: Vec<String>,
    seeds: Vec<String>,
    credentials: Option<PeerTls>,
}

impl Here {
    fn look(file: Option<PathBuf>, terminal: &Terminal) -> Self {
        let sources = sources(file, terminal);
        if sources.file.is_none() {
            return Self::default();
        }
        let credentials = load_credentials(&sources).ok();
        let credentials = credentials.and_then(|c| c.tls.map(|files| PeerTls { files, cluster: c.cluster }));
        match load(&sources) {
            Ok(loaded) => {
                let problems = check_files(&loaded.config).into_iter().map(|problem| problem.message).collect();
                Self { seeds: loaded.config.cluster.seeds.clone(), problems, credentials, config: Some(loaded.config) }
            }
            // An operator's configuration names the cluster and a certificate, and is enough for that.
            Err(_) if credentials.is_some() => Self { credentials, ..Self::default() },
            Err(problems) => Self { problems: messages(&problems), ..Self::default() },
        }
    }

    fn tls(&self, targets: &[Target]) -> Option<PeerTls> {
        let given = targets.iter().find_map(|target| match target {
            Target::Peer { tls, .. } => tls.clone(),
            Target::Socket(_) => None,
        });
        given.or_else(|| self.credentials.clone())
    }

    fn document(&self) -> Value {
        let Some(config) = &self.config else { return json!({ "config_problems": self.problems }) };
        let disk = rustix::fs::statvfs(&config.node.data_dir).ok().map(|stat| stat.f_bavail * stat.f_frsize);
        json!({ "node": config.node.name, "data_dir": config.node.data_dir, "disk_free_bytes": disk, "config_problems": self.problems,
            "certificates": certificate::of_config(config, now()), "seeds": self.seeds })
    }
}

fn messages(problems: &Problems) -> Vec<String> {
    let first = config_error(problems);
    std::iter::once(first.message).chain(problems.0.iter().skip(1).map(|problem| problem.message.clone())).collect()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Writes everything into one file that must not exist yet.
async fn collect(path: &Path, document: &Value, targets: &[Target], connect: &Connect, patience: Duration) -> Result<(), AdminError> {
    let mut bundle = document.clone();
    bundle["written_at_unix_seconds"] = json!(now());
    bundle["written_by"] = json!(env!("CARGO_PKG_VERSION"));
    for (name, verb) in [("status", api::STATUS), ("replication", api::REPLICATION_STATUS), ("metrics", api::METRICS)] {
        let nodes = Nodes { connect: connect.clone(), targets: targets.to_vec(), timeout: patience };
        let answer: Result<Value, AdminError> = api::ask(&nodes, verb, &api::Nothing {}).await;
        bundle[name] = answer.unwrap_or_else(|error| json!({ "error": error.message }));
    }
    let text = serde_json::to_string_pretty(&bundle).unwrap_or_default();
    crate::pki::write_new(path, text.as_bytes(), 0o600)
}

fn text(exam: &Exam, diagnosis: &Diagnosis, here: &Here) -> String {
    let mut out = String::new();
    if exam.formed {
        out.push_str(&format!("cluster {} of {} nodes, as {} sees it\n\n", exam.cluster, exam.members.len(), exam.answered_by));
        out.push_str(&nodes_table(exam));
        out.push_str("\nwho sees whom (round trips)\n");
        out.push_str(&matrix(exam, diagnosis));
        out.push_str("\ngroups\n");
        out.push_str(&groups_table(diagnosis));
    }
    let certificates = certificates_table(exam, here);
    if !certificates.is_empty() {
        out.push_str(&format!("\ncertificates\n{certificates}"));
    }
    if !diagnosis.findings.is_empty() {
        out.push_str(&format!("\nfound\n{}", findings_text(diagnosis)));
    }
    out.push_str(&format!("\nnext step: {}\n", diagnosis.next_step));
    out.trim_start_matches('\n').to_owned()
}

fn nodes_table(exam: &Exam) -> String {
    let row = |member: &api::Member| {
        let known = exam.nodes.iter().find(|node| node.name == member.name);
        let dash = || "-".to_owned();
        let state = known.map_or("no answer", |node| if node.unready.is_none() { "ready" } else { "not ready" });
        vec![
            member.name.clone(),
            member.zone.clone(),
            member.address.clone(),
            state.to_owned(),
            known.map_or_else(dash, |node| node.version.clone()),
            known.map_or_else(dash, |node| node.boot.to_string()),
            known.map_or_else(dash, |node| format!("{} of {}", size(node.disk_free_bytes), size(node.disk_size_bytes))),
            known.map_or_else(dash, |node| clocks(node, exam)),
        ]
    };
    table(
        &["NODE", "ZONE", "ADDRESS", "STATE", "VERSION", ">BOOT", ">DISK FREE", "CLOCK"],
        &exam.members.iter().map(row).collect::<Vec<_>>(),
    )
}

/// The node's clock as the first other node sees it.
fn clocks(node: &api::NodeExam, exam: &Exam) -> String {
    let seen = exam.nodes.iter().filter(|other| other.name != node.name).find_map(|other| other.hears.iter().find(|h| h.node == node.name));
    let Some(ahead) = seen.and_then(|heard| heard.ahead_ms) else { return "-".to_owned() };
    let rate = seen.and_then(|heard| heard.rate_ppm).map_or_else(String::new, |ppm| format!(", rate {:.4}", ppm as f64 / 1e6));
    format!("{ahead:+} ms{rate}")
}

fn matrix(exam: &Exam, diagnosis: &Diagnosis) -> String {
    let names: Vec<&str> = exam.members.iter().map(|m| m.name.as_str()).collect();
    let sees: BTreeMap<(&str, &str), &Sight> =
        diagnosis.sees.iter().map(|(from, to, sight)| ((from.as_str(), to.as_str()), sight)).collect();
    let cell = |from: &str, to: &str| match sees.get(&(from, to)) {
        None if from == to => ".".to_owned(),
        None | Some(Sight::Unknown) => "?".to_owned(),
        Some(Sight::Hears(None)) => "yes".to_owned(),
        Some(Sight::Hears(Some(us))) => format!("{:.1} ms", *us as f64 / 1000.0),
        Some(Sight::Silent(ms)) => format!("silent {}", age(ms / 1000)),
    };
    let rows: Vec<Vec<String>> =
        names.iter().map(|from| std::iter::once((*from).to_owned()).chain(names.iter().map(|to| cell(from, to))).collect()).collect();
    let titles: Vec<String> = std::iter::once("FROM \\ TO".to_owned()).chain(names.iter().map(|name| format!(">{name}"))).collect();
    table(&titles.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
}

/// Groups that are alike stand in one row: with 64 of them nobody would read the others.
fn groups_table(diagnosis: &Diagnosis) -> String {
    let mut alike: BTreeMap<(bool, Option<&str>, String), Vec<u32>> = BTreeMap::new();
    for group in &diagnosis.groups {
        let answering = format!("{} of {} ({})", group.answering.len(), group.voters, group.answering.join(" "));
        alike.entry((group.quorum, group.leader.as_deref(), answering)).or_default().push(group.group);
    }
    let row = |((quorum, leader, answering), groups): ((bool, Option<&str>, String), Vec<u32>)| {
        let quorum = if quorum { "yes" } else { "NO" };
        let which = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        vec![leader.unwrap_or("nobody").to_owned(), quorum.to_owned(), answering, which]
    };
    table(&["LEADER", "QUORUM", "VOTERS THAT ANSWER", "GROUPS"], &alike.into_iter().map(row).collect::<Vec<_>>())
}

fn certificates_table(exam: &Exam, here: &Here) -> String {
    let of = |node: &str, certificate: &api::Certificate| {
        let ends = match (certificate.days_left, &certificate.problem) {
            (Some(days), _) if days < 0 => format!("ended {} days ago", -days),
            (Some(days), _) => format!("ends in {days} days"),
            (None, why) => why.clone().unwrap_or_default(),
        };
        vec![node.to_owned(), certificate.setting.clone(), ends]
    };
    let mut rows: Vec<_> = exam.nodes.iter().flat_map(|node| node.certificates.iter().map(|c| of(&node.name, c))).collect();
    if exam.nodes.is_empty()
        && let Some(config) = &here.config
    {
        rows.extend(certificate::of_config(config, now()).iter().map(|c| of("here", c)));
    }
    if rows.is_empty() { String::new() } else { table(&["NODE", "SETTING", ""], &rows) }
}

fn findings_text(diagnosis: &Diagnosis) -> String {
    let word = |severity| match severity {
        Severity::Damage => "DAMAGE",
        Severity::Outage => "OUTAGE",
        Severity::Config => "CONFIG",
        Severity::Degraded => "DEGRADED",
        Severity::Warning => "WARNING",
    };
    let rows: Vec<_> = diagnosis.findings.iter().map(|f| vec![format!("  {}", word(f.severity)), f.what.clone()]).collect();
    // Without titles: the first line of a table is its titles' line.
    table(&["", ""], &rows).lines().skip(1).map(|line| format!("{line}\n")).collect()
}
