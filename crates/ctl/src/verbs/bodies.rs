//! Verbs about what the nodes keep.

use super::{Remote, dry};
use crate::api::{self, NodeScrub, Nothing, ScrubPass, ScrubStart, Scrubs};
use crate::cli::{Change, ScrubVerb};
use crate::error::{AdminError, exit};
use crate::output::{Report, size, table};

pub(crate) async fn scrub(remote: &mut Remote<'_>, verb: ScrubVerb) -> Result<Report, AdminError> {
    match verb {
        ScrubVerb::Start { name, change } => start(remote, name, change).await,
        ScrubVerb::Status => {
            let scrubs: Scrubs = remote.ask(api::BODY_SCRUB_STATUS, &Nothing {}).await?;
            Ok(Report::new(&scrubs, text(&scrubs)).exit(code(&scrubs)))
        }
    }
}

async fn start(remote: &mut Remote<'_>, node: Option<String>, change: Change) -> Result<Report, AdminError> {
    let request = ScrubStart { node, dry_run: change.dry_run };
    let scrubs: Scrubs = remote.ask(api::BODY_SCRUB_START, &request).await?;
    let names: Vec<&str> = scrubs.nodes.iter().map(|node| node.node.as_str()).collect();
    let bytes: u64 = scrubs.nodes.iter().map(|node| node.bytes_in_all).sum();
    let mut said = dry(change, &format!("read about {} again on {}\n", size(bytes), names.join(", ")));
    if !scrubs.unreachable.is_empty() {
        said.push_str(&format!("no answer from {}\n", scrubs.unreachable.join(", ")));
    }
    let code = if scrubs.unreachable.is_empty() { exit::OK } else { exit::WARNINGS };
    Ok(Report::new(&scrubs, said).exit(code))
}

fn code(scrubs: &Scrubs) -> u8 {
    let passes = scrubs.nodes.iter().filter_map(|node| node.now.as_ref().or(node.last.as_ref()));
    match passes.map(|pass| pass.not_repairable).sum::<u64>() {
        0 if scrubs.unreachable.is_empty() => exit::OK,
        0 => exit::WARNINGS,
        _ => exit::DATA,
    }
}

fn row(node: &NodeScrub) -> Vec<String> {
    let none = ScrubPass::default();
    let pass = node.now.as_ref().or(node.last.as_ref()).unwrap_or(&none);
    let doing = match (&node.doing, &node.last) {
        (Some(doing), _) => format!("{doing}, {} of {}", size(pass.bytes), size(node.bytes_in_all.max(pass.bytes))),
        (None, Some(_)) => "finished".to_owned(),
        (None, None) => "no pass yet".to_owned(),
    };
    let numbers = [pass.bodies, pass.records, pass.damaged, pass.repaired, pass.not_repairable];
    [node.node.clone(), doing].into_iter().chain(numbers.map(|number| number.to_string())).collect()
}

fn text(scrubs: &Scrubs) -> String {
    let rows: Vec<_> = scrubs.nodes.iter().map(row).collect();
    let mut text = table(&["NODE", "PASS", ">BODIES", ">RECORDS", ">DAMAGED", ">REPAIRED", ">NOT REPAIRABLE"], &rows);
    for node in &scrubs.nodes {
        let findings = node.now.as_ref().or(node.last.as_ref()).map(|pass| &pass.findings[..]).unwrap_or_default();
        findings.iter().for_each(|finding| text.push_str(&format!("{}: {finding}\n", node.node)));
    }
    if !scrubs.unreachable.is_empty() {
        text.push_str(&format!("no answer from {}\n", scrubs.unreachable.join(", ")));
    }
    text
}
