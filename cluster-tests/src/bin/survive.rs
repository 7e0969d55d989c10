//! `cargo xtask survive`: a demo of three nodes with many sessions on two of them, whose users' holders are killed, stopped and moved
//! all the while; or, with `--handover`, what moving a user costs. Exit code 0 when every session lived on lawfully, 1 when one did
//! not, 2 when the run could not be carried out.

use parliament_cluster_tests::demo::{Demo, Options};
use parliament_cluster_tests::survive::{Plan, carry_out, handover, summary};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const USAGE: &str = "cargo xtask survive [--minutes M] [--sessions N] [--seed S] [--huge MESSAGES] [--json]\n\
     cargo xtask survive --handover TIMES [--json]";

struct Arguments {
    plan: Plan,
    handover: Option<usize>,
    json: bool,
}

fn arguments() -> Result<Arguments, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs());
    let plan = Plan { sessions: 1000, time: Duration::from_secs(300), seed: now, huge: 10_000 };
    let mut found = Arguments { plan, handover: None, json: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value\n{USAGE}"));
        let bad = || format!("{word}: no such value\n{USAGE}");
        match word.as_str() {
            "--minutes" => {
                let minutes: f64 = value()?.parse().ok().filter(|m| (0.1..=10_000.0).contains(m)).ok_or_else(bad)?;
                found.plan.time = Duration::from_secs_f64(minutes * 60.0);
            }
            "--sessions" => found.plan.sessions = value()?.parse().ok().filter(|n| (12..=1800).contains(n)).ok_or_else(bad)?,
            "--seed" => found.plan.seed = value()?.parse().map_err(|_| bad())?,
            "--huge" => found.plan.huge = value()?.parse().ok().filter(|n| (500..=1_000_000).contains(n)).ok_or_else(bad)?,
            "--handover" => found.handover = Some(value()?.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
            "--json" => found.json = true,
            _ => return Err(format!("unknown: {word}\n{USAGE}")),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = arguments().and_then(|a| runtime.map_err(|e| e.to_string())?.block_on(survive(&a)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("the run could not be carried out: {error}");
            ExitCode::from(2)
        }
    }
}

async fn survive(arguments: &Arguments) -> Result<bool, String> {
    let plan = &arguments.plan;
    let users = if arguments.handover.is_some() { 1 } else { plan.accounts() };
    eprintln!("seed {}", plan.seed);
    let mut demo = Demo::start(&Options { users, ..Options::default() }).await?;
    eprintln!("the demo was ready after {:?}", demo.ready_after);
    let done = match arguments.handover {
        Some(times) => handover::measure(&demo, times).await.map(|(holds, document)| (holds, format!("{document:#}\n"), document)),
        None => carry_out(&demo, plan).await.map(|outcome| (outcome.holds, summary(&outcome.document), outcome.document)),
    };
    if !matches!(done, Ok((true, ..))) {
        eprintln!("the nodes' data and logs are kept in {}", demo.keep().display());
    }
    let (holds, page, document) = done?;
    if arguments.json {
        println!("{document}")
    } else {
        print!("{page}")
    }
    demo.end().await?;
    Ok(holds)
}
