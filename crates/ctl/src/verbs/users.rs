//! Verbs about accounts.

use super::{Remote, dry};
use crate::api::{
    self, Done, MoveStage, NewUser, OnExisting, OneUser, Repaired, User, UserDelete, UserImport, UserImported, UserMove, UserMoving,
    UserPasswd, UserRepair, Users, Verified, Verify,
};
use crate::cli::{Change, Existing, PasswordArgs, UserVerb};
use crate::credential::{Cost, generate, hash, import_line};
use crate::error::{AdminError, code, exit};
use crate::output::{Report, size, table};
use serde_json::json;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

/// How often it is looked how far a move is.
const MOVE_LOOK: std::time::Duration = std::time::Duration::from_millis(100);
/// Longest line of an import file, bytes.
const LINE_BYTES_MAX: u64 = 4096;
/// Users that are verified by one request: each is recounted on every replica.
const VERIFIED_AT_ONCE: u32 = 100;
/// Likewise where every body is read.
const HASHED_AT_ONCE: u32 = 10;
/// Refused names that are printed one by one.
const REFUSED_SHOWN_MAX: usize = 20;

pub(crate) async fn user(remote: &mut Remote<'_>, verb: UserVerb) -> Result<Report, AdminError> {
    match verb {
        UserVerb::Add { user, password, change } => add(remote, user, &password, change).await,
        UserVerb::Import { file, existing, change } => import(remote, &file, existing, change).await,
        UserVerb::List { mask } => list(remote, &mask).await,
        UserVerb::Show { user } => show(remote, user).await,
        UserVerb::Passwd { user, password, change } => passwd(remote, user, &password, change).await,
        UserVerb::Delete { user, change } => delete(remote, user, change).await,
        UserVerb::Verify { mask, bodies } => verify(remote, &mask, bodies).await,
        UserVerb::Repair { mask, change } => repair(remote, &mask, change).await,
        UserVerb::Move { user, group, change } => move_to(remote, user, group, change).await,
    }
}

/// Begins a move and waits for its end, telling each stage on the way.
async fn move_to(remote: &mut Remote<'_>, user: String, group: u32, change: Change) -> Result<Report, AdminError> {
    let until = tokio::time::Instant::now() + remote.timeout;
    let request = |dry_run| UserMove { user: user.clone(), group, dry_run };
    let cost =
        |would: &UserMoving| format!("{} moves from group {} to {}; its clients wait for a moment", would.user, would.from, would.to);
    let mut moving: UserMoving = remote.destroy(api::USER_MOVE, change, request, cost).await?;
    if change.dry_run {
        return Ok(Report::new(&moving, dry(change, &format!("move {} from group {} to {}", moving.user, moving.from, moving.to))));
    }
    let mut told = None;
    while !moving.stage.is_over() {
        if told != Some(moving.stage) && !remote.json {
            remote.terminal.complain(&format!("{}: {}\n", moving.user, moving.stage.word()));
            told = Some(moving.stage);
        }
        if tokio::time::Instant::now() >= until {
            let message = format!("{} is still on the way to group {} ({})", moving.user, moving.to, moving.stage.word());
            return Err(AdminError::new(code::TIMEOUT, exit::TRY_AGAIN, message)
                .with_hint("the move goes on by itself; `parliament user show` tells how far it is"));
        }
        tokio::time::sleep(MOVE_LOOK).await;
        match remote.ask(api::USER_MOVING, &OneUser { user: user.clone() }).await {
            Ok(now) => moving = now,
            // The node asked may die; the move does not.
            Err(error) if error.exit == exit::UNAVAILABLE || error.exit == exit::TRY_AGAIN => {}
            Err(error) => return Err(error),
        }
    }
    if moving.stage == MoveStage::GivenUp {
        let why = moving.why.clone().unwrap_or_default();
        return Err(AdminError::new("PC335", exit::TRY_AGAIN, format!("{} stays in group {}: {why}", moving.user, moving.from))
            .with_hint("nothing was lost; try again when the reason is gone"));
    }
    Ok(Report::new(&moving, format!("{} is in group {}", moving.user, moving.to)))
}

/// A credential, and the password where it was made up.
fn credential(remote: &mut Remote<'_>, user: &str, args: &PasswordArgs) -> Result<(String, Option<String>), AdminError> {
    if let Some(hash) = &args.hash {
        let line = import_line(&format!("x:{hash}")).map_err(|why| AdminError::usage(format!("--hash: {why}")))?;
        return line.map(|(_, credential)| (credential, None)).ok_or_else(|| AdminError::usage("--hash is empty"));
    }
    if args.generate {
        let password = generate()?;
        return Ok((hash(&password, Cost::Real)?, Some(password)));
    }
    let password = if args.password_stdin { remote.terminal.read_line()? } else { remote.terminal.new_password(user)? };
    Ok((hash(&password, Cost::Real)?, None))
}

fn with_password(mut text: String, password: Option<&String>) -> String {
    if let Some(password) = password {
        text.push_str(&format!("\npassword: {password}"));
    }
    text
}

async fn add(remote: &mut Remote<'_>, user: String, args: &PasswordArgs, change: Change) -> Result<Report, AdminError> {
    let (credential, made) = credential(remote, &user, args)?;
    let users = vec![NewUser { name: user.clone(), credential }];
    let request = UserImport { users, on_existing: OnExisting::Refuse, dry_run: change.dry_run };
    let outcome: UserImported = remote.ask(api::USER_IMPORT, &request).await?;
    if let Some(refused) = outcome.refused.first() {
        return Err(AdminError::usage(format!("{user} was not made: {}", refused.why)).with_hint("nothing was changed"));
    }
    let text = if change.dry_run { format!("would: make {user}") } else { format!("made {user}") };
    let shown = made.as_ref().filter(|_| !change.dry_run);
    Ok(Report::new(&json!({ "user": user, "created": outcome.created, "password": shown }), with_password(text, shown)))
}

async fn import(remote: &mut Remote<'_>, file: &Path, existing: Existing, change: Change) -> Result<Report, AdminError> {
    let on_existing = match existing {
        Existing::Refuse => OnExisting::Refuse,
        Existing::Skip => OnExisting::Skip,
        Existing::Update => OnExisting::Update,
    };
    let mut lines = Lines::open(remote, file)?;
    let mut total = UserImported::default();
    loop {
        let users = lines.chunk()?;
        if users.is_empty() {
            break;
        }
        let request = UserImport { users, on_existing, dry_run: change.dry_run };
        let mut some: UserImported = remote.ask(api::USER_IMPORT, &request).await.map_err(|mut error| {
            let so_far = total.created + total.updated + total.skipped;
            error.message.push_str(&format!(" ({so_far} accounts of {} were done before)", file.display()));
            error.with_hint("run it again with --existing skip: what is done is passed over")
        })?;
        total.created += some.created;
        total.updated += some.updated;
        total.skipped += some.skipped;
        total.refused.append(&mut some.refused);
        if remote.terminal.interactive && !remote.json {
            let done = format!("\r{} accounts", total.created + total.updated + total.skipped);
            remote.terminal.complain(&done);
        }
    }
    if remote.terminal.interactive && !remote.json {
        remote.terminal.complain("\r");
    }
    let mut text = dry(
        change,
        &format!("{} made, {} updated, {} left as they were, {} refused", total.created, total.updated, total.skipped, total.refused.len()),
    );
    for refused in total.refused.iter().take(REFUSED_SHOWN_MAX) {
        text.push_str(&format!("\n  {}: {}", refused.name, refused.why));
    }
    if total.refused.len() > REFUSED_SHOWN_MAX {
        text.push_str(&format!("\n  and {} more; --json tells all", total.refused.len() - REFUSED_SHOWN_MAX));
    }
    let code = if total.refused.is_empty() { exit::OK } else { exit::WARNINGS };
    Ok(Report::new(&total, text).exit(code))
}

/// The lines of an import file, read as they are needed.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    name: String,
    number: u64,
}

impl Lines {
    fn open(remote: &mut Remote<'_>, file: &Path) -> Result<Self, AdminError> {
        let reader: Box<dyn BufRead + Send> = if file == Path::new("-") {
            std::mem::replace(&mut remote.terminal.input, Box::new(std::io::empty()))
        } else {
            Box::new(BufReader::new(std::fs::File::open(file).map_err(|e| AdminError::file(file, e))?))
        };
        Ok(Self { reader, name: file.display().to_string(), number: 0 })
    }

    /// The next accounts, as many as one request takes; none at the end.
    fn chunk(&mut self) -> Result<Vec<NewUser>, AdminError> {
        let mut users = Vec::new();
        while users.len() < api::IMPORT_USERS_MAX {
            let mut line = String::new();
            let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX);
            let read = bounded.read_line(&mut line).map_err(|e| AdminError::file(Path::new(&self.name), e))?;
            if read == 0 {
                break;
            }
            self.number += 1;
            let parsed = if read as u64 == LINE_BYTES_MAX { Err("the line is too long".to_owned()) } else { import_line(&line) };
            let wrong = |why: String| {
                AdminError::new(code::FILE, exit::DATA, format!("{}:{}: {why}", self.name, self.number))
                    .with_hint("mend the line and run it again with --existing skip")
            };
            if let Some((name, credential)) = parsed.map_err(wrong)? {
                users.push(NewUser { name, credential });
            }
        }
        Ok(users)
    }
}

async fn list(remote: &mut Remote<'_>, mask: &str) -> Result<Report, AdminError> {
    let users = remote
        .pages(api::USER_LIST, mask, |page: Users| {
            let last = page.users.last().map(|u| u.name.clone());
            (page.users, last, page.more)
        })
        .await?;
    let row = |u: &User| vec![u.name.clone(), u.id.to_string(), u.group.to_string(), u.scheme.clone()];
    let text = table(&["USER", ">ID", ">GROUP", "SCHEME"], &users.iter().map(row).collect::<Vec<_>>());
    Ok(Report::new(&json!({ "users": users }), text))
}

async fn show(remote: &mut Remote<'_>, user: String) -> Result<Report, AdminError> {
    let user: User = remote.ask(api::USER_SHOW, &OneUser { user }).await?;
    let usage = user.usage.as_ref().map_or_else(
        || "not known: the user's group does not answer".to_owned(),
        |u| format!("{} messages, {} in {} mailboxes", u.messages, size(u.bytes), u.mailboxes),
    );
    let mut text =
        format!("name    {}\nid      {}\ngroup   {}\nscheme  {}\nusage   {usage}\n", user.name, user.id, user.group, user.scheme);
    if let Some(moving) = &user.moving {
        text.push_str(&format!("moves   from group {} to {}: {}\n", moving.from, moving.to, moving.stage.word()));
    }
    Ok(Report::new(&user, text))
}

async fn passwd(remote: &mut Remote<'_>, user: String, args: &PasswordArgs, change: Change) -> Result<Report, AdminError> {
    let (credential, made) = credential(remote, &user, args)?;
    let done: Done = remote.ask(api::USER_PASSWD, &UserPasswd { user, credential, dry_run: change.dry_run }).await?;
    let shown = made.as_ref().filter(|_| !change.dry_run);
    let text = with_password(dry(change, &done.message), shown);
    Ok(Report::new(&json!({ "message": done.message, "password": shown }), text))
}

async fn delete(remote: &mut Remote<'_>, user: String, change: Change) -> Result<Report, AdminError> {
    let request = |dry_run| UserDelete { user: user.clone(), dry_run };
    let done: Done = remote.destroy(api::USER_DELETE, change, request, |would: &Done| would.message.clone()).await?;
    Ok(Report::new(&done, dry(change, &done.message)))
}

async fn verify(remote: &mut Remote<'_>, mask: &str, bodies: bool) -> Result<Report, AdminError> {
    let users = remote
        .pages_of(
            api::USER_VERIFY,
            mask,
            |page| Verify { page: api::Page { limit: if bodies { HASHED_AT_ONCE } else { VERIFIED_AT_ONCE }, ..page }, bodies },
            |page: Verified| {
                let last = page.users.last().map(|u| u.name.clone());
                (page.users, last, page.more)
            },
        )
        .await?;
    let (mut differ, mut missing, mut wrong) = (0usize, 0usize, 0usize);
    let mut text = String::new();
    for user in &users {
        if !user.equal {
            differ += 1;
            let hashes: Vec<_> = user.hashes.iter().map(|(node, hash)| format!("{node} {hash}")).collect();
            text.push_str(&format!("{}: replicas differ: {}\n", user.name, hashes.join(", ")));
        } else if !user.problems.is_empty() {
            wrong += 1;
        } else if !user.missing.is_empty() {
            missing += 1;
            text.push_str(&format!("{}: no answer from {}\n", user.name, user.missing.join(", ")));
        }
        for problem in &user.problems {
            text.push_str(&format!("{}: on {}: {}\n", user.name, problem.node, problem.what));
        }
    }
    let equal = users.len() - differ - missing - wrong;
    let tail = if wrong > 0 { format!(", {wrong} equal but not as they should be") } else { String::new() };
    text.push_str(&format!("{equal} of {} users equal on all replicas, {differ} differ, {missing} not fully seen{tail}\n", users.len()));
    let code = match (differ + wrong, missing) {
        (0, 0) => exit::OK,
        (0, _) => exit::WARNINGS,
        _ => exit::DATA,
    };
    let json = json!({ "users": users, "equal": equal, "differ": differ, "missing": missing, "wrong": wrong });
    Ok(Report::new(&json, text).exit(code))
}

async fn repair(remote: &mut Remote<'_>, mask: &str, change: Change) -> Result<Report, AdminError> {
    if !change.yes && !change.dry_run {
        let would = repair_pages(remote, mask, true).await?;
        if would.done.is_empty() {
            return Ok(repaired(&would, true));
        }
        remote.terminal.confirm(&format!("would:\n{}\nGo ahead?", would.done.join("\n")))?;
    }
    let outcome = repair_pages(remote, mask, change.dry_run).await?;
    Ok(repaired(&outcome, change.dry_run))
}

async fn repair_pages(remote: &Remote<'_>, mask: &str, dry_run: bool) -> Result<Repaired, AdminError> {
    let mut total = Repaired::default();
    loop {
        let page = api::Page { mask: mask.to_owned(), after: total.last.clone(), limit: HASHED_AT_ONCE };
        let mut some: Repaired = remote.ask(api::USER_REPAIR, &UserRepair { page, dry_run }).await?;
        total.users += some.users;
        total.done.append(&mut some.done);
        total.left.append(&mut some.left);
        // A page that does not get further would be asked for for ever.
        if !some.more || some.last.is_none() || some.last == total.last {
            return Ok(total);
        }
        total.last = some.last;
    }
}

fn repaired(outcome: &Repaired, dry_run: bool) -> Report {
    let mut text = String::new();
    for done in &outcome.done {
        text.push_str(&format!("{}{done}\n", if dry_run { "would: " } else { "" }));
    }
    outcome.left.iter().for_each(|left| text.push_str(&format!("not mended: {left}\n")));
    text.push_str(&format!("{} users looked at, {} to do, {} left\n", outcome.users, outcome.done.len(), outcome.left.len()));
    Report::new(outcome, text).exit(if outcome.left.is_empty() { exit::OK } else { exit::DATA })
}
