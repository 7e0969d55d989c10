//! `cargo xtask chaos`: a cluster of three nodes under load, nodes killed with signal 9 all the while, or (`--scenario partitions`, as root)
//! links cut and clocks wrong, and a verdict: exit code 0 when every property holds, 1 when one does not, 2 when the run could not be
//! carried out.

use parliament_cluster_tests::checkers;
use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::history::History;
use parliament_cluster_tests::nemesis::Kills;
use parliament_cluster_tests::netns::partitions::{Trial, Work, soak};
use parliament_cluster_tests::netns::{self, Cluster, partitions};
use parliament_cluster_tests::random::Random;
use parliament_cluster_tests::run::{Faults, Plan, carry_out, summary};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const USAGE: &str = "cargo xtask chaos [--minutes M] [--seed S] [--clients N] [--accounts N] [--pause MS] [--all-at-once TIMES | --crowned TIMES | --paused TIMES | --scenario partitions|witness] [--history FILE] [--json]\n\
     cargo xtask chaos --judge FILE    judges the history of an earlier run again";

/// Runs that are more than kills of any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// Faults of the network and of clocks.
    Partitions,
    /// Two data nodes and a witness: a data node is killed again and again.
    Witness,
}

/// A data node is killed so often, where both have everything again by then.
const BESIDE: Kills = Kills { every: Duration::from_secs(6), down: Duration::from_millis(3_500) };

#[derive(Debug)]
struct Arguments {
    minutes: f64,
    seed: u64,
    clients: usize,
    accounts: usize,
    pause: u64,
    all_at_once: Option<usize>,
    crowned: Option<usize>,
    paused: Option<usize>,
    scenario: Option<Scenario>,
    history: Option<PathBuf>,
    judge: Option<PathBuf>,
    json: bool,
}

fn arguments() -> Result<Arguments, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs());
    let mut found = Arguments {
        minutes: 5.0,
        seed: now,
        clients: 32,
        accounts: 8,
        pause: 25,
        all_at_once: None,
        crowned: None,
        paused: None,
        scenario: None,
        history: None,
        judge: None,
        json: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value\n{USAGE}"));
        let bad = || format!("{word}: no such value\n{USAGE}");
        match word.as_str() {
            "--minutes" => found.minutes = value()?.parse().ok().filter(|m| (0.1..=10_000.0).contains(m)).ok_or_else(bad)?,
            "--seed" => found.seed = value()?.parse().map_err(|_| bad())?,
            "--clients" => found.clients = value()?.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(bad)?,
            "--accounts" => found.accounts = value()?.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(bad)?,
            "--pause" => found.pause = value()?.parse().map_err(|_| bad())?,
            "--all-at-once" => found.all_at_once = Some(value()?.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
            "--crowned" => found.crowned = Some(value()?.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
            "--paused" => found.paused = Some(value()?.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
            "--scenario" => {
                found.scenario = match value()?.as_str() {
                    "partitions" => Some(Scenario::Partitions),
                    "witness" => Some(Scenario::Witness),
                    _ => return Err(bad()),
                }
            }
            "--history" => found.history = Some(value()?.into()),
            "--judge" => found.judge = Some(value()?.into()),
            "--json" => found.json = true,
            _ => return Err(format!("unknown: {word}\n{USAGE}")),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = arguments().and_then(|a| runtime.map_err(|e| e.to_string())?.block_on(chaos(&a)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("the run could not be carried out: {error}");
            ExitCode::from(2)
        }
    }
}

/// The properties and costs of a history that is kept; whether the replicas were equal is not in it.
fn judge(file: &Path) -> Result<bool, String> {
    let history = History::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let (lawful, properties) = checkers::judge(&history);
    let costs = checkers::pauses::measure(&history).to_json();
    println!("{:#}", json!({ "holds": lawful, "costs": costs, "properties": properties }));
    Ok(lawful)
}

async fn chaos(arguments: &Arguments) -> Result<bool, String> {
    if let Some(file) = &arguments.judge {
        return judge(file);
    }
    let history =
        arguments.history.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("parliament-history-{}.jsonl", arguments.seed)));
    eprintln!("seed {}, history in {}", arguments.seed, history.display());
    if arguments.scenario == Some(Scenario::Partitions) {
        return partitions(arguments, history).await;
    }
    let witness = arguments.scenario == Some(Scenario::Witness);
    let mut demo = Demo::start(&Options { users: arguments.accounts, witness, ..Options::default() }).await?;
    eprintln!("the demo was ready after {:?}", demo.ready_after);
    let seconds = arguments.minutes * 60.0;
    let faults = match (arguments.all_at_once, arguments.crowned, arguments.paused) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes are bounded")]
        (None, None, None) if witness => Faults::Beside(BESIDE, (seconds / BESIDE.every.as_secs_f64()).ceil() as usize),
        _ if witness => return Err(format!("one kind of fault at a time\n{USAGE}")),
        (None, None, None) => Faults::Kills(Kills::default(), Duration::from_secs_f64(arguments.minutes * 60.0)),
        (Some(times), None, None) => Faults::AllAtOnce(times, Duration::from_secs(3)),
        (None, Some(times), None) => Faults::Crowned(Kills::default(), times),
        (None, None, Some(times)) => Faults::Paused(times, Duration::from_secs(20)),
        _ => return Err(format!("one kind of fault at a time\n{USAGE}")),
    };
    let plan = Plan {
        faults,
        clients: arguments.clients,
        accounts: arguments.accounts,
        seed: arguments.seed,
        pause: Duration::from_millis(arguments.pause),
        history: Some(history.clone()),
    };
    let outcome = match carry_out(&demo, &plan).await {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("the nodes' data and logs are kept in {}", demo.keep().display());
            return Err(error);
        }
    };
    if arguments.json {
        println!("{}", outcome.document)
    } else {
        print!("{}", summary(&outcome.document))
    }
    if !outcome.holds {
        eprintln!("the nodes' data and logs are kept in {}", demo.keep().display());
    }
    demo.end().await?;
    Ok(outcome.holds)
}

/// Faults of the network and of clocks at random.
async fn partitions(arguments: &Arguments, history: PathBuf) -> Result<bool, String> {
    if (arguments.all_at_once, arguments.crowned, arguments.paused) != (None, None, None) {
        return Err(format!("one kind of fault at a time\n{USAGE}"));
    }
    if let Some(why) = netns::lacking() {
        return Err(format!("network namespaces: {why}"));
    }
    let options = netns::Options { users: arguments.accounts, clocks: true, ..netns::Options::default() };
    let mut cluster = Cluster::start(&options).await?;
    eprintln!("the cluster was ready after {:?}", cluster.ready_after);
    let work =
        Work { clients: arguments.clients, pause: Duration::from_millis(arguments.pause), seed: arguments.seed, history: Some(history) };
    let done = faults_at_random(&cluster, &work, Duration::from_secs_f64(arguments.minutes * 60.0)).await;
    if !matches!(&done, Ok(outcome) if outcome.holds) {
        eprintln!("the nodes' data and logs are kept in {}", cluster.keep().display());
    }
    let outcome = done?;
    if arguments.json {
        println!("{}", outcome.document)
    } else {
        print!("{}", partitions::summary(&outcome.document))
    }
    cluster.end().await?;
    Ok(outcome.holds)
}

async fn faults_at_random(cluster: &Cluster, work: &Work, time: Duration) -> Result<partitions::Outcome, String> {
    let mut trial = Trial::begin(cluster, work)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    soak(&mut trial, time, &mut Random::new(work.seed)).await?;
    trial.judge().await
}
