//! Accounts and their leases.

use super::{Asked, CHANGE_DEADLINE_MS, Outcome, bug, damaged, document, no_such_user, unserved};
use crate::ask::{AccountFacts, Facts, Question, Reply, ask};
use crate::mask::matches;
use crate::running::Running;
use parliament_cluster_state::{
    AccountName, AccountRecord, Command, NewAccount, Refused, Reply as StateReply, account_named, accounts, last_move,
};
use parliament_ctl::{AdminError, api, exit};
use parliament_ids::{AccountId, GroupId, NodeId};
use parliament_mail_service::{boot_ms, is_known_scheme, unix_seconds};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the directory is asked again for a user who has left the group that it names, and the pause between: a move's last step
/// takes a few entries.
const HOME_TRIES: usize = 20;
const HOME_PAUSE: Duration = Duration::from_millis(100);

async fn barrier(asked: &Asked) -> Result<(), AdminError> {
    asked.running.local.read_barrier_within(GroupId::CLUSTER, 5_000).await.map_err(|e| unserved(&e))
}

pub(super) async fn find(asked: &Asked, name: &str) -> Result<AccountRecord, AdminError> {
    barrier(asked).await?;
    let login = AccountName::login(name, &asked.domain).map_err(|_| no_such_user(name))?;
    account_named(asked.running.local.cluster_tables(), &login).map_err(|f| damaged(&f))?.ok_or_else(|| no_such_user(login.as_str()))
}

async fn change(asked: &Asked, command: &Command) -> Result<StateReply, AdminError> {
    let done = asked.running.local.propose_cluster(command, boot_ms() + CHANGE_DEADLINE_MS).await.map_err(|e| unserved(&e))?;
    done.map_err(|refused| match refused {
        Refused::Moving => AdminError::new("PC331", exit::TRY_AGAIN, "the user is on the way to another group. Nothing was changed.")
            .with_hint("wait for the end of the move, which `parliament user show` tells"),
        refused => bug(format!("{refused:?}")),
    })
}

fn check_scheme(credential: &str) -> Result<(), AdminError> {
    if is_known_scheme(credential) {
        return Ok(());
    }
    Err(AdminError::new("PC302", exit::USAGE, "the credential's scheme is unknown")
        .with_hint("known are {ARGON2ID}, {SHA512-CRYPT}, {SHA256-CRYPT} and {BLF-CRYPT}"))
}

pub(super) async fn import(asked: &Asked, request: &api::UserImport) -> Outcome {
    barrier(asked).await?;
    if request.users.len() > api::IMPORT_USERS_MAX {
        return Err(AdminError::new("PC303", exit::USAGE, format!("at most {} users at once", api::IMPORT_USERS_MAX)));
    }
    let mut result = api::UserImported::default();
    let mut refuse = |name: &str, why: &str| result.refused.push(api::RefusedUser { name: name.to_owned(), why: why.to_owned() });
    let (mut new, mut existing) = (Vec::new(), Vec::new());
    for user in &request.users {
        let Ok(name) = AccountName::login(&user.name, &asked.domain) else {
            refuse(&user.name, "not a user name (local@domain)");
            continue;
        };
        if check_scheme(&user.credential).is_err() {
            refuse(name.as_str(), "the credential's scheme is unknown");
            continue;
        }
        match account_named(asked.running.local.cluster_tables(), &name).map_err(|f| damaged(&f))? {
            Some(row) => existing.push((row, user.credential.clone())),
            None => new.push(NewAccount { name: name.as_str().to_owned(), credential: user.credential.clone() }),
        }
    }
    if request.on_existing == api::OnExisting::Refuse {
        existing.iter().for_each(|(row, _)| refuse(&row.name, "exists already"));
    }
    if request.dry_run {
        result.created = new.len() as u64;
    } else if !new.is_empty() {
        match change(asked, &Command::AddAccounts { accounts: new, time: unix_seconds() }).await? {
            StateReply::Added { made, taken } => {
                result.created = made.len() as u64;
                for name in taken {
                    result.refused.push(api::RefusedUser { name, why: "exists already".into() });
                }
            }
            other => return Err(bug(format!("{other:?}"))),
        }
    }
    match request.on_existing {
        api::OnExisting::Refuse => {}
        api::OnExisting::Skip => result.skipped = existing.len() as u64,
        api::OnExisting::Update => {
            result.updated = existing.len() as u64;
            for (row, credential) in existing {
                if !request.dry_run && row.credential != credential {
                    change(asked, &Command::SetCredential { account: row.id, credential }).await?;
                }
            }
        }
    }
    document(&result)
}

fn row(account: &AccountRecord) -> api::User {
    let scheme = account.credential.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(scheme, _)| scheme);
    api::User { name: account.name.clone(), id: account.id.0, group: account.group.0, usage: None, scheme: scheme.to_owned(), moving: None }
}

/// The accounts of a page in the order of names, and whether more may follow. Reads the whole directory: this is an operator's
/// command, not a client's.
pub(super) async fn page(asked: &Asked, request: &api::Page) -> Result<(Vec<AccountRecord>, bool), AdminError> {
    barrier(asked).await?;
    let limit = request.limit.clamp(1, api::PAGE_ROWS_MAX) as usize;
    let tables = asked.running.local.cluster_tables().clone();
    let (mask, after) = (request.mask.clone(), request.after.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut found: BTreeMap<String, AccountRecord> = BTreeMap::new();
        let mut from = AccountId(0);
        loop {
            let rows = accounts(&tables, from, 1000)?;
            let Some(last) = rows.last() else { break };
            from = AccountId(last.id.0 + 1);
            for row in rows {
                let wanted = matches(&mask, &row.name) && after.as_ref().is_none_or(|after| row.name > *after);
                if wanted {
                    found.insert(row.name.clone(), row);
                    if found.len() > limit + 1 {
                        found.pop_last();
                    }
                }
            }
        }
        Ok(found)
    });
    let found = work.await.map_err(bug)?.map_err(|f| damaged(&f))?;
    let more = found.len() > limit;
    Ok((found.into_values().take(limit).collect(), more))
}

pub(super) async fn list(asked: &Asked, request: &api::Page) -> Outcome {
    let (accounts, more) = page(asked, request).await?;
    document(&api::Users { users: accounts.iter().map(row).collect(), more })
}

pub(super) async fn show(asked: &Asked, request: &api::OneUser) -> Outcome {
    let account = find(asked, &request.user).await?;
    let mut user = row(&account);
    let known = known_of_one(asked, &account).await.ok();
    let moved = last_move(asked.running.local.cluster_tables(), account.id).map_err(|f| damaged(&f))?;
    user.moving = moved.filter(|moved| moved.is_open()).map(|moved| super::moves::told(&account.name, &moved));
    user.usage = known.map(|known| api::Usage { mailboxes: known.mailboxes, messages: known.messages, bytes: known.bytes });
    document(&user)
}

/// What a replica of their group knows of accounts, by id. A node without a copy of the group asks one that has it.
async fn known_of(asked: &Asked, group: GroupId, accounts: Vec<u64>, fresh: bool) -> Result<BTreeMap<u64, AccountFacts>, AdminError> {
    let mut voters = asked.running.document().voters(group);
    // This node first, and last those that will hardly answer.
    voters.sort_by_key(|node| (asked.running.silent_ms(*node) > 0, *node != asked.running.local.me));
    let question = Question::Accounts { group: group.0, accounts, fresh };
    let mut why = format!("no node with a copy of group {group} answers");
    for node in voters {
        match ask(&asked.running, node, &question).await {
            Ok(Reply::Accounts(rows)) => return Ok(rows.into_iter().map(|row| (row.account, row)).collect()),
            // Where this replica sees no quorum another may; one that does not answer is passed over.
            Ok(Reply::Order(Err(reason))) => why = reason,
            Ok(other) => return Err(bug(format!("{other:?}"))),
            Err(_) => {}
        }
    }
    Err(AdminError::new("PC201", exit::UNAVAILABLE, why).with_hint("`parliament status` tells which nodes are missing"))
}

/// A user with what the group says that the user lives in. The directory is the last to hear of a move: a group that the user has left
/// is no authority on what was used of UIDVALIDITY (rule 4), so the directory is asked again.
async fn found_at_home(asked: &Asked, name: &str) -> Result<(AccountRecord, AccountFacts), AdminError> {
    for _ in 0..HOME_TRIES {
        let account = find(asked, name).await?;
        let known = known_of_one(asked, &account).await?;
        if !known.elsewhere {
            return Ok((account, known));
        }
        tokio::time::sleep(HOME_PAUSE).await;
    }
    Err(AdminError::new("PC331", exit::TRY_AGAIN, "the user is on the way to another group. Nothing was changed.")
        .with_hint("wait for the end of the move, which `parliament user show` tells"))
}

async fn known_of_one(asked: &Asked, account: &AccountRecord) -> Result<AccountFacts, AdminError> {
    let mut known = known_of(asked, account.group, vec![account.id.0], true).await?;
    known.remove(&account.id.0).ok_or_else(|| bug("an answer about another account"))
}

pub(super) async fn passwd(asked: &Asked, request: &api::UserPasswd) -> Outcome {
    check_scheme(&request.credential)?;
    let account = find(asked, &request.user).await?;
    let message = format!("the password of {}", account.name);
    if request.dry_run {
        return document(&api::Done { message: format!("change {message}") });
    }
    change(asked, &Command::SetCredential { account: account.id, credential: request.credential.clone() }).await?;
    document(&api::Done { message: format!("changed {message}") })
}

pub(super) async fn delete(asked: &Asked, request: &api::UserDelete) -> Outcome {
    let (account, used) = found_at_home(asked, &request.user).await?;
    let cost = format!("{} with {} messages in {} mailboxes, {} bytes", account.name, used.messages, used.mailboxes, used.bytes);
    if request.dry_run {
        return document(&api::Done { message: format!("delete {cost}") });
    }
    // The name goes first, so that nobody logs in; then the mail. What the account has used of UIDVALIDITY stays known.
    let floor = used.uid_validity.max(account.uid_validity_floor);
    // Mailboxes made until the deletion is applied take at most a few more values.
    let floor = floor.max(u32::try_from(unix_seconds()).unwrap_or(0)).saturating_add(1000);
    change(asked, &Command::DeleteAccount { account: account.id, uid_validity_floor: floor }).await?;
    if !forget(asked, &account).await {
        let message = format!("{} is deleted; its mail goes once group {} has a quorum again", account.name, account.group);
        return Err(AdminError::new("PC202", exit::WARNINGS, message).with_hint("nothing is left to do: the group's leader sees to it"));
    }
    document(&api::Done { message: format!("deleted {cost}") })
}

/// Has a node with a copy of the account's group remove its mail.
async fn forget(asked: &Asked, account: &AccountRecord) -> bool {
    let mut voters = asked.running.document().voters(account.group);
    voters.sort_by_key(|node| *node != asked.running.local.me);
    let order = Question::Forget { group: account.group.0, account: account.id.0 };
    for node in voters {
        if let Ok(Reply::Order(Ok(()))) = ask(&asked.running, node, &order).await {
            return true;
        }
    }
    false
}

fn lease_row(asked: &Asked, account: &AccountRecord, known: &AccountFacts) -> api::Lease {
    let cluster = &*asked.running.document();
    api::Lease {
        user: account.name.clone(),
        group: account.group.0,
        holder: known.owner.map(|(node, _)| cluster.name_of(NodeId(node))),
        boot: known.owner.map_or(0, |(_, boot)| boot),
        fence: known.fence,
        live: known.live,
        candidates: cluster.keepers(account.group).into_iter().map(|node| cluster.name_of(node)).collect(),
    }
}

pub(super) async fn lease(asked: &Asked, request: &api::OneUser) -> Outcome {
    let account = find(asked, &request.user).await?;
    document(&lease_row(asked, &account, &known_of_one(asked, &account).await?))
}

/// Who holds a user, as far as is known without asking for a majority; why not, in words.
pub(crate) async fn look_up(running: &Arc<Running>, domain: &str, user: &str) -> Result<api::Lease, String> {
    let asked = Asked { running: running.clone(), domain: domain.to_owned() };
    let login = AccountName::login(user, domain).map_err(|_| format!("{user} is no user name (local@domain)"))?;
    let found = account_named(running.local.cluster_tables(), &login).map_err(|fault| fault.to_string())?;
    let account = found.ok_or_else(|| format!("this node knows of no user {}", login.as_str()))?;
    let mut known = known_of(&asked, account.group, vec![account.id.0], false).await.map_err(|error| error.message)?;
    let row = known.remove(&account.id.0).unwrap_or_default();
    Ok(lease_row(&asked, &account, &row))
}

pub(super) async fn leases(asked: &Asked, request: &api::Page) -> Outcome {
    let (accounts, more) = page(asked, request).await?;
    let mut by_group: BTreeMap<GroupId, Vec<u64>> = BTreeMap::new();
    accounts.iter().for_each(|account| by_group.entry(account.group).or_default().push(account.id.0));
    let mut known = BTreeMap::new();
    for (group, ids) in by_group {
        known.extend(known_of(asked, group, ids, false).await?);
    }
    let rows = accounts.iter().filter_map(|account| Some(lease_row(asked, account, known.get(&account.id.0)?)));
    document(&api::Leases { leases: rows.collect(), more })
}

pub(super) async fn move_lease(asked: &Asked, request: &api::LeaseMove) -> Outcome {
    let account = find(asked, &request.user).await?;
    let cluster = &*asked.running.document();
    let known = known_of_one(asked, &account).await?;
    let to = cluster.named(&request.to).filter(|node| cluster.keepers(account.group).contains(node)).ok_or_else(|| {
        AdminError::new("PC320", exit::USAGE, format!("{} cannot hold {}", request.to, account.name))
            .with_hint(format!("candidates are {}", lease_row(asked, &account, &known).candidates.join(", ")))
    })?;
    let try_again = |why: String| {
        AdminError::new("PC321", exit::TRY_AGAIN, why).with_hint("try again; `parliament lease show` tells who holds the user")
    };
    let facts: Facts = match ask(&asked.running, to, &Question::Facts).await {
        Ok(Reply::Facts(facts)) => facts,
        _ => return Err(try_again(format!("{} does not answer", request.to))),
    };
    if request.dry_run || known.owner == Some((to.0, facts.lease_boot)) {
        return document(&lease_row(asked, &account, &known));
    }
    let Some((owner, _)) = known.owner else {
        return Err(try_again(format!("nobody holds {} yet; the first request of a client takes the lease", account.name)));
    };
    let order = Question::HandOver { account: account.id.0, to: to.0, to_boot: facts.lease_boot };
    match ask(&asked.running, NodeId(owner), &order).await {
        Ok(Reply::Order(Ok(()))) => {}
        Ok(Reply::Order(Err(why))) | Err(why) => {
            return Err(try_again(format!("{} did not hand over: {why}", cluster.name_of(NodeId(owner)))));
        }
        Ok(other) => return Err(bug(format!("{other:?}"))),
    }
    document(&lease_row(asked, &account, &known_of_one(asked, &account).await?))
}
