//! `cargo xtask bench`: what operations cost at a demo of three nodes, and at Dovecot in turn in the same run.

use parliament_cluster_tests::bench::dovecot::Dovecot;
use parliament_cluster_tests::bench::{ACCOUNTS, Measured, ROWS, Row, System};
use parliament_cluster_tests::demo::{Demo, Options};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "cargo xtask bench [--against dovecot] [--only parliament|dovecot] [--seconds S] [--rounds N] [--row NAME] [--json]";

#[derive(Debug)]
struct Arguments {
    ours: bool,
    dovecot: bool,
    seconds: f64,
    rounds: usize,
    row: Option<String>,
    json: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments { ours: true, dovecot: false, seconds: 3.0, rounds: 1, row: None, json: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--against" => match value()?.as_str() {
                "dovecot" => found.dovecot = true,
                other => return Err(format!("nothing is known about {other}\n{USAGE}")),
            },
            "--only" => match value()?.as_str() {
                "dovecot" => (found.ours, found.dovecot) = (false, true),
                "parliament" => (found.ours, found.dovecot) = (true, false),
                other => return Err(format!("nothing is known about {other}\n{USAGE}")),
            },
            "--seconds" => {
                found.seconds = value()?.parse().ok().filter(|s| (0.2..=600.0).contains(s)).ok_or("--seconds wants 0.2 to 600")?
            }
            "--rounds" => found.rounds = value()?.parse().ok().filter(|n| (1..=99).contains(n)).ok_or("--rounds wants 1 to 99")?,
            "--row" => found.row = Some(value()?),
            "--json" => found.json = true,
            _ => return Err(format!("unknown: {word}\n{USAGE}")),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = arguments().and_then(|a| runtime.map_err(|e| e.to_string())?.block_on(bench(&a)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(arguments: &Arguments) -> Result<(), String> {
    let dovecot = if arguments.dovecot { Some(Dovecot::start()?) } else { None };
    let demo = if arguments.ours { Some(Demo::start(&Options { users: ACCOUNTS, ..Options::default() }).await?) } else { None };
    let mut systems = Vec::new();
    if let Some(demo) = &demo {
        let mut system = System::demo(demo).await;
        system.fill().await?;
        let known = system.go_to_holders(demo).await;
        eprintln!("parliament: {known} of {ACCOUNTS} accounts are reached at their holder, the others in turn");
        systems.push(system);
    }
    if let Some(dovecot) = &dovecot {
        let system = System::dovecot(dovecot);
        system.fill().await?;
        systems.push(system);
    }
    let mut rows = Vec::new();
    if !arguments.json {
        println!(
            "{:<16}{:>5}  {:<11}{:>10}{:>10}{:>10}{:>11}{:>9}{:>11}{:>8}",
            "", "conn", "system", "/s", "p50 ms", "p99 ms", "CPU ms", "flushes", "written", "ratio"
        );
    }
    for row in ROWS.iter().filter(|row| arguments.row.as_ref().is_none_or(|name| name == row.name)) {
        let measured = turns(&systems, row, arguments).await?;
        let document = tell(row, &systems, &measured, !arguments.json);
        rows.push(document);
    }
    if arguments.json {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        println!(
            "{}",
            json!({ "cpus": cpus, "seconds": arguments.seconds, "rounds": arguments.rounds, "message_bytes": 20480, "rows": rows })
        );
    }
    drop(systems);
    match demo {
        Some(demo) => demo.end().await,
        None => Ok(()),
    }
}

/// Each system's round of median throughput, the systems in turn.
async fn turns(systems: &[System], row: &Row, arguments: &Arguments) -> Result<Vec<Measured>, String> {
    let mut all: Vec<Vec<Measured>> = systems.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.rounds {
        for (system, rounds) in systems.iter().zip(&mut all) {
            rounds.push(system.measure(row, Duration::from_secs_f64(arguments.seconds)).await?);
        }
    }
    Ok(all
        .into_iter()
        .filter_map(|mut rounds| {
            rounds.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
            let middle = rounds.len() / 2;
            (middle < rounds.len()).then(|| rounds.swap_remove(middle))
        })
        .collect())
}

fn tell(row: &Row, systems: &[System], measured: &[Measured], print: bool) -> Value {
    let mut document = json!({ "row": row.name, "connections": row.connections });
    let ratio = match measured {
        [ours, theirs] => Some((100.0 * ours.per_second() / theirs.per_second().max(1e-9)).round() / 100.0),
        _ => None,
    };
    for (n, (system, measured)) in systems.iter().zip(measured).enumerate() {
        let cost = measured.to_json();
        if print {
            let shown = ratio.filter(|_| n == 0).map(|r| format!("{r:.2}")).unwrap_or_default();
            let number = |key: &str| cost[key].as_f64().unwrap_or(0.0);
            println!(
                "{:<16}{:>5}  {:<11}{:>10.0}{:>10.2}{:>10.2}{:>11.3}{:>9.2}{:>11.0}{:>8}",
                row.name,
                row.connections,
                system.name,
                number("per_second"),
                number("p50_ms"),
                number("p99_ms"),
                number("cpu_ms_each"),
                number("flushes_each"),
                number("written_bytes_each"),
                shown
            );
        }
        document[system.name] = cost;
    }
    document["ratio"] = json!(ratio);
    document
}
