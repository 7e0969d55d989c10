//! What `doctor` is told: a node looks at itself, and passes the question on to the others. Works without a quorum, and before the
//! node belongs to a cluster.

use crate::ask::{Question, Reply, ask_all_heard};
use crate::node::Node;
use crate::running::Running;
use parliament_config::{Config, check_files};
use parliament_ctl::{AdminError, api, certificate};
use parliament_ids::GroupId;
use parliament_journal::{Journal, Space};
use parliament_mail_service::unix_seconds;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long another node may take to look at itself: it reads a few small files.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers [`api::DOCTOR`].
pub(crate) async fn doctor(node: &Arc<Node>, request: &api::Examine) -> Result<serde_json::Value, AdminError> {
    let mut exam =
        api::Exam { cluster: node.config.cluster.name.clone(), answered_by: node.config.node.name.clone(), ..api::Exam::default() };
    match node.running() {
        None => {
            let looking = node.clone();
            let examined = tokio::task::spawn_blocking(move || examine(&looking.config, &looking.data.path, &looking.journal)).await;
            exam.nodes.extend(examined.map(|found| api::NodeExam { boot: node.boot.0, ..found }));
        }
        Some(running) => {
            describe(&mut exam, &running);
            if request.alone {
                let examined = tokio::task::spawn_blocking(move || examine_member(&running)).await;
                exam.nodes.extend(examined);
            } else {
                let answers = ask_all_heard(&running, &Question::Examine, ANSWER_TIMEOUT).await;
                exam.nodes.extend(answers.into_iter().filter_map(|(_, answer)| match answer {
                    Ok(Reply::Examined(found)) => Some(*found),
                    _ => None,
                }));
            }
        }
    }
    exam.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    super::admin::document(&exam)
}

fn describe(exam: &mut api::Exam, running: &Running) {
    let cluster = &*running.document();
    exam.formed = true;
    let member = |m: &crate::identity::Member| api::Member { name: m.name.clone(), zone: m.zone.clone(), address: m.address.clone() };
    exam.members = cluster.members.iter().map(member).collect();
    exam.members.sort_by(|a, b| a.name.cmp(&b.name));
    let voters = |group| cluster.voters(GroupId(group)).into_iter().map(|id| cluster.name_of(id)).collect();
    exam.voters = (0..=cluster.groups).map(voters).collect();
}

/// What every node can tell of itself. Reads files.
fn examine(config: &Config, data_dir: &Path, journal: &Journal) -> api::NodeExam {
    let (disk_free_bytes, disk_size_bytes) =
        rustix::fs::statvfs(data_dir).map_or((0, 0), |stat| (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize));
    api::NodeExam {
        name: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        unready: Some("it belongs to no cluster yet".to_owned()),
        disk_free_bytes,
        disk_size_bytes,
        disk_refuses: match journal.space() {
            Space::NoBodies => Some("messages".to_owned()),
            space if space > Space::NoBodies => Some("all but what frees space".to_owned()),
            _ => None,
        },
        certificates: certificate::of_config(config, unix_seconds()),
        config_problems: check_files(config).into_iter().map(|problem| problem.message).collect(),
        ..api::NodeExam::default()
    }
}

/// What a member of a cluster tells of itself.
pub(crate) fn examine_member(running: &Running) -> api::NodeExam {
    let cluster = &*running.document();
    let name = |id: u64| cluster.name_of(parliament_ids::NodeId(id));
    let heard = |(node, hears): (u64, crate::pulse::Hears)| api::Heard {
        node: name(node),
        silent_ms: hears.silent_ms,
        round_trip_us: hears.round_trip_us,
        ahead_ms: hears.ahead_ms,
        rate_ppm: hears.rate_ppm,
    };
    let copy = |group: GroupId| {
        let metrics = running.metrics(group)?;
        Some(api::CopyExam {
            group: group.0,
            leader: metrics.leader.map(|leader| name(leader.0)),
            term: metrics.term,
            last_log: metrics.last_log,
            committed: metrics.committed,
            applied: metrics.applied,
            stopped: metrics.stopped,
        })
    };
    api::NodeExam {
        boot: running.boot.0,
        unready: running.unready(),
        hears: running.hears().into_iter().map(heard).collect(),
        groups: running.group_ids().into_iter().filter_map(copy).collect(),
        damaged_bodies: running.local.bodies.store().damaged().len() as u64,
        missing_bodies: running.local.bodies.lacking() as u64,
        uid_regressions: running.local.counters.uid_regressions.load(Ordering::Relaxed),
        ..examine(&running.config, &running.data_dir, &running.journal)
    }
}
