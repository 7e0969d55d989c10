//! A whole cluster whose nodes keep their data on the file system of this crate: the power of all of them goes at once, under load.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::Recorder;
use parliament_cluster_tests::load::Load;
use parliament_cluster_tests::{checkers, run, scan};
use parliament_store_tests::{Loss, Mounted, mounted};
use serde_json::{Value, json};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NODES: usize = 3;
const READY_WAIT: Duration = Duration::from_secs(60);
/// How often the power goes, unless `PARLIAMENT_STORE_CUTS` says otherwise.
const CUTS: usize = 3;

fn losses() -> impl Iterator<Item = Loss> {
    let told = std::env::var("PARLIAMENT_STORE_CUTS").ok().and_then(|text| text.parse().ok());
    [Loss::All, Loss::Some].into_iter().cycle().take(told.unwrap_or(CUTS))
}

fn private_folder(path: &Path) {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).expect("folder");
}

/// The nodes' data lies on the volume, whatever else a demo keeps beside it.
fn lay_out(home: &Path, mounted: &Mounted) {
    for number in 1..=NODES {
        let (node, data) = (home.join("demo").join(format!("n{number}")), mounted.path().join(format!("n{number}")));
        private_folder(&node);
        private_folder(&data);
        symlink(&data, node.join("data")).expect("link");
    }
}

/// Cuts the power of all nodes, so many times.
async fn cut_all(demo: &Demo, mounted: &Mounted, recorder: &Recorder) -> Result<(), String> {
    let ids: Vec<&str> = demo.nodes.iter().map(|node| node.id.as_str()).collect();
    for loss in losses() {
        tokio::time::sleep(Duration::from_secs(2)).await;
        for id in &ids {
            recorder.nemesis("kill", id, json!({ "reason": "power cut of all" }));
        }
        mounted.volume.cut(loss);
        demo.kill_at_once(&ids).await?;
        mounted.volume.start();
        ids.iter().for_each(|id| recorder.nemesis("start", id, Value::Null));
        demo.start_nodes(&ids).await?;
        for id in &ids {
            demo.wait_ready(id, READY_WAIT).await?;
            recorder.nemesis("ready", id, Value::Null);
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

async fn judged(demo: &Demo, mounted: &Mounted) -> Result<Value, String> {
    let recorder = Arc::new(Recorder::new(None).map_err(|error| error.to_string())?);
    let accounts = demo.accounts();
    let load = Load {
        servers: run::servers(demo),
        accounts: accounts.clone(),
        password: demo.password.clone(),
        clients: 8,
        sizes: vec![300, 2000, 20_000, 70_000],
        pause: Duration::from_millis(5),
        seed: 9,
        name: "w".to_owned(),
    };
    run::note_setup(&recorder, demo, &load.keys(), 9);
    let running = load.start(&recorder);
    let cut = cut_all(demo, mounted, &recorder).await;
    running.stop().await;
    cut?;
    scan::everything(demo, &accounts, &recorder).await?;
    let history = recorder.finish();
    let (lawful, properties) = checkers::judge(&history);
    let pauses = checkers::pauses::measure(&history);
    if lawful && pauses.acknowledged > 0 && pauses.in_flight > 0 {
        Ok(pauses.to_json())
    } else {
        Err(format!("{properties:#} {:#}", pauses.to_json()))
    }
}

#[test]
fn power_cut_of_all_nodes_loses_nothing_acknowledged() {
    let Some(mounted) = mounted("the power cut of a whole cluster", 41) else { return };
    let home = tempfile::tempdir().expect("folder");
    lay_out(home.path(), &mounted);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let options = Options { users: 3, groups: Some(2), dir: Some(home.path().to_owned()), ..Options::default() };
    let demo = runtime.block_on(Demo::start(&options)).expect("a demo");
    // What setting up leaves is not what is tested here.
    mounted.volume.sync_all();
    let outcome = runtime.block_on(judged(&demo, &mounted));
    if outcome.is_err() {
        let kept = home.keep();
        panic!("{}\nlogs in {}", outcome.expect_err("an error"), kept.display());
    }
    println!("{:#}", outcome.expect("lawful"));
    runtime.block_on(demo.end()).expect("an end");
}
