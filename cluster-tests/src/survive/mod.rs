//! Sessions that must outlive the holders of their users: a run puts many sessions of all kinds on two nodes, brings their users to
//! the third, kills that one over and over, and judges every line that every session is told.

pub mod client;
pub mod handover;
pub mod holders;
pub mod judge;
pub mod mail;
pub mod real;
pub mod record;
pub mod setup;
pub mod tasks;
pub mod user;

use crate::Error;
use crate::demo::Demo;
use crate::random::Random;
use crate::run::replicas_equal;
use client::Client;
use real::Real;
use record::{Book, Costs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tasks::{ROLES, Role, Task};
use user::User;

/// The node whose users are taken away from it; no session is there.
const VICTIM: &str = "n3";
/// Violations that are shown.
const SHOWN_MAX: usize = 40;
/// How long sessions may take to end.
const END_WAIT: Duration = Duration::from_secs(90);
/// What the sessions on the large mailbox do.
const HUGE_ROLES: [Role; 5] = [Role::Store, Role::Search, Role::Idle, Role::Expunge, Role::Append];

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Sessions.
    pub sessions: usize,
    /// How long holders are tormented.
    pub time: Duration,
    /// For choices.
    pub seed: u64,
    /// Messages of the large mailbox.
    pub huge: usize,
}

impl Plan {
    /// Users of the ordinary sessions; one more has the large mailbox.
    fn users(&self) -> usize {
        self.sessions.saturating_sub(HUGE_ROLES.len()).div_ceil(ROLES.len()).max(1)
    }

    /// Accounts that the demo must have; the last one is the real clients'.
    pub fn accounts(&self) -> usize {
        self.users() + 2
    }

    /// Longest rest between two commands of a session, ms: more sessions must not mean more work than the machine can do.
    fn rest_ms(&self) -> usize {
        (self.sessions * 5 / 2).clamp(400, 2500)
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True when nothing was violated and the faults bit.
    pub holds: bool,
    /// Costs.
    pub costs: Costs,
    /// Everything that is told about the run.
    pub document: Value,
}

#[derive(Clone)]
struct Shared {
    book: Book,
    over: Arc<AtomicBool>,
    comparisons: Arc<AtomicU64>,
    troubles: Arc<Mutex<Vec<String>>>,
}

/// Carries out a run.
///
/// # Errors
/// In words, when it could not be carried out to its end.
pub async fn carry_out(demo: &Demo, plan: &Plan) -> Result<Outcome, String> {
    let shared = Shared {
        book: Book::default(),
        over: Arc::new(AtomicBool::new(false)),
        comparisons: Arc::new(AtomicU64::new(0)),
        troubles: Arc::default(),
    };
    let mut accounts: Vec<String> = demo.accounts().into_iter().take(plan.accounts()).collect();
    let real_user = accounts.pop().ok_or("no accounts")?;
    let user = |name: &String| {
        let Shared { over, comparisons, troubles, .. } = shared.clone();
        Arc::new(User::new(name, &demo.password, over, comparisons, troubles))
    };
    let users: Vec<Arc<User>> = accounts.iter().map(user).collect();
    setup::fill(demo, &users, plan.huge).await?;
    eprintln!("{} users have their mail", users.len());
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..plan.sessions {
        sessions.spawn(session(Place::new(demo, plan, number, &users), shared.clone()));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let real = Real::start(demo, &real_user, plan.time).await.map_err(|e| format!("real clients: {e}"))?;
    let names: BTreeMap<String, usize> = accounts.iter().chain([&real_user]).enumerate().map(|(at, name)| (name.clone(), at)).collect();
    let mut random = Random::new(plan.seed);
    let faults = holders::torment(demo, &names, VICTIM, plan.time, &shared.book, &mut random).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    shared.over.store(true, Ordering::Relaxed);
    let ending = tokio::time::timeout(END_WAIT, async { while sessions.join_next().await.is_some() {} }).await;
    if ending.is_err() {
        note(&shared, format!("sessions did not end within {END_WAIT:?}"));
    }
    let (clients, failed) = real.end().await;
    for why in failed {
        note(&shared, why);
    }
    let kept = setup::look(demo, &users).await?;
    let equal = replicas_equal(demo).await?;
    let costs = record::costs(&shared.book.tracks(), &faults?);
    Ok(judge(plan, &shared, costs, kept, equal, &clients))
}

fn note(shared: &Shared, what: String) {
    shared.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

fn judge(plan: &Plan, shared: &Shared, costs: Costs, messages: u64, equal: bool, clients: &[(&str, u64)]) -> Outcome {
    let clients: BTreeMap<&str, u64> = clients.iter().copied().collect();
    let violations = shared.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let comparisons = shared.comparisons.load(Ordering::Relaxed);
    let bit = costs.session_kills() > 0 && costs.in_flight_not_idle > 0 && comparisons > 0 && messages > 0;
    let holds = violations.is_empty() && costs.broken == 0 && bit && equal;
    let document = json!({
        "holds": holds, "seed": plan.seed, "sessions": plan.sessions, "seconds": plan.time.as_secs(), "faults_bit": bit,
        "replicas_equal": equal, "views_compared": comparisons, "messages_accounted_for": messages, "real_clients": clients, "costs": costs.to_json(),
        "violations": violations.len(), "shown": violations.iter().take(SHOWN_MAX).collect::<Vec<_>>(),
    });
    Outcome { holds, costs, document }
}

/// Where a session is and what it does.
struct Place {
    role: Role,
    at: usize,
    user: Arc<User>,
    mailbox: &'static str,
    imap: String,
    pop3: String,
    lmtp: String,
    random: Random,
    rest_ms: usize,
    delay: Duration,
}

impl Place {
    fn new(demo: &Demo, plan: &Plan, number: usize, users: &[Arc<User>]) -> Self {
        let huge = number < HUGE_ROLES.len() && plan.sessions > ROLES.len();
        let other = number.saturating_sub(HUGE_ROLES.len());
        let (at, role) =
            if huge { (users.len() - 1, HUGE_ROLES[number]) } else { (other / ROLES.len() % plan.users(), ROLES[other % ROLES.len()]) };
        let node = demo.node(1 + number % 2);
        Self {
            role,
            at,
            user: users[at].clone(),
            mailbox: if huge { "Huge" } else { "Churn" },
            imap: node.imap.clone(),
            pop3: node.pop3.clone(),
            lmtp: node.lmtp.clone(),
            random: Random::new(plan.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9)),
            rest_ms: plan.rest_ms(),
            // Not all at once: each checks a password.
            delay: Duration::from_millis(number as u64 * 4),
        }
    }
}

/// A session, begun anew should it break, which is a violation.
async fn session(mut place: Place, shared: Shared) {
    tokio::time::sleep(place.delay).await;
    while !place.user.is_over() {
        let served = match place.role {
            Role::Pop3 => mail::pop3(&place.pop3, &place.user, shared.book.log(place.at), &mut place.random).await,
            Role::Lmtp => mail::lmtp(&place.lmtp, &place.user, shared.book.log(place.at), &mut place.random).await,
            _ => imap(&mut place, &shared).await,
        };
        if let Err(error) = served {
            note(&shared, format!("{} {:?} at {}: the session broke: {error}", place.user.name, place.role, place.imap));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn imap(place: &mut Place, shared: &Shared) -> Result<(), Error> {
    let log = shared.book.log(place.at);
    let login = Client::login(&place.imap, &place.user.name, &place.user.password, log, place.role == Role::Fetch).await;
    let mut client = match login {
        Ok(client) => client,
        // No session yet: the client tries again.
        Err(Error::Refused(_)) => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut task = Task {
        role: place.role,
        user: place.user.clone(),
        address: place.imap.clone(),
        mailbox: place.mailbox,
        random: place.random.clone(),
        rest_ms: place.rest_ms,
    };
    let worked = task.work(&mut client).await;
    place.random = task.random;
    if let Err(error) = &worked {
        client.broke(error);
    }
    for violation in client.judge.take_violations() {
        note(shared, format!("{} {:?} at {}: {violation}", place.user.name, place.role, place.imap));
    }
    Ok(())
}

/// The document as a page of text.
pub fn summary(document: &Value) -> String {
    let costs = &document["costs"];
    let mut page = format!(
        "{}\nsession-kills  {}   in flight {} ({} without IDLE)\npauses         {}\nby kind        {}\nviews compared {}   messages accounted for {}\nreal clients   {}\nunavailable    {}   broken {}   violations {}\n",
        if document["holds"] == true { "every session lived on lawfully" } else { "VIOLATED" },
        costs["session_kills"],
        costs["in_flight"],
        costs["in_flight_without_idle"],
        costs["pause_ms"],
        costs["in_flight_by_kind"],
        document["views_compared"],
        document["messages_accounted_for"],
        document["real_clients"],
        costs["unavailable"],
        costs["broken"],
        document["violations"],
    );
    for violation in document["shown"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        page.push_str(&format!("- {violation}\n"));
    }
    page
}
