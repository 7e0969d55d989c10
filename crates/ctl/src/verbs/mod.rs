//! What each verb does. Each makes a [`Report`], which is printed here, once.

mod bodies;
mod cluster;
mod doctor;
mod leases;
mod local;
mod nodes;
mod users;
mod watch;

pub(crate) use local::small_config;

use crate::api::{self, AdminClient};
use crate::cli::{Change, Cli, Global, Verb};
use crate::discover::{Target, targets};
use crate::error::{AdminError, code, exit};
use crate::output::Report;
use crate::terminal::Terminal;
use crate::{Connect, Wiring};
use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Carries out a parsed command line; returns the exit code.
pub(crate) fn carry_out(cli: Cli, wiring: Wiring, terminal: &mut Terminal) -> Result<u8, AdminError> {
    let Cli { global, verb } = cli;
    let report = match verb {
        Verb::Server(args) => return local::server(args, global, wiring.serve, terminal),
        Verb::Demo(args) => return crate::demo::run(args, &global, &wiring.connect, terminal),
        Verb::Init(init) => local::init(init)?,
        Verb::Config(verb) => local::config(verb, global.config.clone(), terminal)?,
        verb => {
            let runtime = runtime()?;
            runtime.block_on(remote(verb, &global, &wiring.connect, terminal))?
        }
    };
    // What --watch has to say is printed already.
    if !report.json.is_null() {
        print(&report, global.json, terminal);
    }
    Ok(report.exit)
}

/// Prints a report in the form asked for.
pub(crate) fn print(report: &Report, json: bool, terminal: &mut Terminal) {
    if json {
        let text = serde_json::to_string_pretty(&report.json).unwrap_or_default();
        terminal.print(&format!("{text}\n"));
    } else {
        terminal.print(&report.text);
    }
}

/// A runtime for a client: one thread is plenty.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, AdminError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|e| AdminError::new(code::FILE, exit::UNEXPECTED, format!("no runtime: {e}")))
}

/// Verbs that ask a node.
async fn remote(verb: Verb, global: &Global, connect: &Connect, terminal: &mut Terminal) -> Result<Report, AdminError> {
    if let Verb::Doctor { collect } = verb {
        let asked = doctor::Asked { node: global.node.as_deref(), config: global.config.clone(), timeout: global.timeout, collect };
        return doctor::doctor(asked, connect, terminal).await;
    }
    // Monitoring wants an answer whatever happens.
    let check = matches!(verb, Verb::Check);
    let targets = match targets(global.node.as_deref(), global.config.clone(), terminal) {
        Err(error) if check => return Ok(cluster::check_failed(&error)),
        targets => targets?,
    };
    let client = Nodes { connect: connect.clone(), targets, timeout: global.timeout };
    let mut remote = Remote { client: &client, terminal, json: global.json, timeout: global.timeout };
    match verb {
        Verb::Cluster(verb) => cluster::cluster(&mut remote, verb).await,
        Verb::Status(args) => cluster::status(&mut remote, args).await,
        Verb::Check => Ok(cluster::check(&mut remote).await),
        Verb::Node(verb) => nodes::node(&mut remote, verb).await,
        Verb::Group(verb) => cluster::group(&mut remote, verb).await,
        Verb::Replication(_) => cluster::replication(&mut remote).await,
        Verb::Body(crate::cli::BodyVerb::Scrub(verb)) => bodies::scrub(&mut remote, verb).await,
        Verb::Metrics => cluster::metrics(&mut remote).await,
        Verb::User(verb) => users::user(&mut remote, verb).await,
        Verb::Lease(verb) => leases::lease(&mut remote, verb).await,
        Verb::Who { mask } => leases::who(&mut remote, mask).await,
        Verb::Kick { mask, change } => leases::kick(&mut remote, mask, change).await,
        Verb::Server(_) | Verb::Demo(_) | Verb::Init(_) | Verb::Config(_) | Verb::Doctor { .. } => {
            Err(AdminError::usage("this verb asks no node"))
        }
    }
}

/// Verbs that only look, and that any node answers soon.
const LOOKS: [&str; 6] = [api::STATUS, api::NODE_LIST, api::GROUP_LIST, api::REPLICATION_STATUS, api::SESSION_LIST, api::BODY_SCRUB_STATUS];
/// How long a node may take to answer one of them while there is another to ask.
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);

/// A client that goes on to the next target where one cannot be reached, and waits no longer than it was told.
pub(crate) struct Nodes {
    pub(crate) connect: Connect,
    pub(crate) targets: Vec<Target>,
    pub(crate) timeout: Duration,
}

#[async_trait]
impl AdminClient for Nodes {
    async fn call(&self, verb: &str, request: Value) -> Result<Value, AdminError> {
        let mut last = None;
        let looks = LOOKS.contains(&verb);
        for (number, target) in self.targets.iter().enumerate() {
            // A node that hangs must not hide what the next one knows; only a change may not be asked for twice.
            let goes_on = looks && number + 1 < self.targets.len();
            let timeout = if goes_on { self.timeout.min(LOOK_TIMEOUT) } else { self.timeout };
            let call = async { (self.connect)(target, timeout)?.call(verb, request.clone()).await };
            match tokio::time::timeout(timeout, call).await {
                Ok(Err(error)) if error.is_unreachable() => last = Some(error),
                Ok(Err(error)) if goes_on && error.code == code::TIMEOUT => last = Some(error),
                Ok(result) => return result,
                Err(_) if goes_on => {}
                Err(_) => {
                    let waited = parliament_config::duration_text(timeout);
                    return Err(AdminError::new(code::TIMEOUT, exit::TRY_AGAIN, format!("no answer to {verb} within {waited}")).with_hint(
                        "whether it was done is not known: look with the matching `show` or `list`, or wait longer with --timeout",
                    ));
                }
            }
        }
        Err(last.unwrap_or_else(|| AdminError::new(code::UNREACHABLE, exit::UNAVAILABLE, "there is no node to ask")))
    }
}

/// What a verb works with: a node to ask and the operator to ask back.
pub(crate) struct Remote<'a> {
    pub(crate) client: &'a dyn AdminClient,
    pub(crate) terminal: &'a mut Terminal,
    pub(crate) json: bool,
    /// How long a verb that waits for the end of something waits.
    pub(crate) timeout: Duration,
}

impl Remote<'_> {
    /// Carries out a verb with typed documents.
    pub(crate) async fn ask<Q: Serialize, R: DeserializeOwned>(&self, verb: &str, request: &Q) -> Result<R, AdminError> {
        api::ask(self.client, verb, request).await
    }

    /// Carries out a change that destroys something: unless told not to ask, it first has the node say what the change would
    /// cost, and asks. `request` makes the request with `dry_run` set or not.
    pub(crate) async fn destroy<Q, R>(
        &mut self,
        verb: &str,
        change: Change,
        request: impl Fn(bool) -> Q,
        cost: impl Fn(&R) -> String,
    ) -> Result<R, AdminError>
    where
        Q: Serialize,
        R: DeserializeOwned,
    {
        if change.dry_run {
            return self.ask(verb, &request(true)).await;
        }
        if !change.yes {
            let would: R = self.ask(verb, &request(true)).await?;
            self.terminal.confirm(&format!("{}\nGo ahead?", cost(&would)))?;
        }
        self.ask(verb, &request(false)).await
    }

    /// All pages of a list. `rows` takes a page apart into its rows, the last row's name, and whether more may follow.
    pub(crate) async fn pages<R: DeserializeOwned, T>(
        &self,
        verb: &str,
        mask: &str,
        rows: impl FnMut(R) -> (Vec<T>, Option<String>, bool),
    ) -> Result<Vec<T>, AdminError> {
        self.pages_of(verb, mask, |page| page, rows).await
    }

    /// As [`Remote::pages`], where a page is asked for in a document of its own.
    pub(crate) async fn pages_of<Q: Serialize, R: DeserializeOwned, T>(
        &self,
        verb: &str,
        mask: &str,
        request: impl Fn(api::Page) -> Q,
        mut rows: impl FnMut(R) -> (Vec<T>, Option<String>, bool),
    ) -> Result<Vec<T>, AdminError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = api::Page { mask: mask.to_owned(), after: after.clone(), limit: api::PAGE_ROWS_MAX };
            let (mut some, last, more) = rows(self.ask(verb, &request(page)).await?);
            all.append(&mut some);
            // A page that does not get further would be asked for for ever.
            if !more || last.is_none() || last == after {
                return Ok(all);
            }
            after = last;
        }
    }
}

/// Says in front of a sentence that nothing was done.
pub(crate) fn dry(change: Change, sentence: &str) -> String {
    if change.dry_run { format!("would: {sentence}") } else { sentence.to_owned() }
}
