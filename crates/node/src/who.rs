//! Client sessions on this node: who is connected, and ending some.

use crate::mask::matches;
use crate::running::Running;
use parliament_ctl::api;
use parliament_frontend::{Protocol, SessionState};
use parliament_mail_service::unix_seconds;
use parliament_mailbox_state::view;

/// At most `limit` of those whose user the mask means.
pub(crate) fn sessions(running: &Running, mask: &str, limit: usize) -> Vec<api::Session> {
    let Some(frontend) = running.frontend.get() else { return Vec::new() };
    let name = running.document().name_of(running.local.me);
    let now = unix_seconds();
    let listed = frontend.registry().list().into_iter().filter_map(|info| {
        let user = info.user.clone()?;
        matches(mask, &user).then(|| api::Session {
            selected: info.mailbox.map(|mailbox| mailbox_name(running, &user, mailbox)),
            user,
            protocol: match info.protocol {
                Protocol::Imap => "imap",
                Protocol::Pop3 => "pop3",
                Protocol::Lmtp => "lmtp",
            }
            .into(),
            node: name.clone(),
            remote: info.remote.to_string(),
            session: format!("{}.{}.{}", running.local.me, running.boot, info.id),
            age_s: u64::try_from(now - info.since).unwrap_or(0),
            doing: (info.state == SessionState::Busy).then(|| "busy".to_owned()),
        })
    });
    listed.take(limit).collect()
}

fn mailbox_name(running: &Running, user: &str, mailbox: parliament_ids::MailboxId) -> String {
    let found = parliament_cluster_state::AccountName::login(user, "").ok().and_then(|name| {
        let row = parliament_cluster_state::account_named(running.local.cluster_tables(), &name).ok().flatten()?;
        let shard = running.local.shard(row.group)?;
        view::name_of(shard.group.tables(), row.id, mailbox).ok().flatten()
    });
    found.map_or_else(|| format!("#{mailbox}"), |name| name.to_string())
}

/// Ends the sessions of the users whom the mask means, or counts them; how many.
pub(crate) fn kick(running: &Running, mask: &str, dry_run: bool) -> u64 {
    let Some(frontend) = running.frontend.get() else { return 0 };
    let is_meant = |info: &parliament_frontend::SessionInfo| info.user.as_deref().is_some_and(|user| matches(mask, user));
    if dry_run {
        return frontend.registry().list().iter().filter(|info| is_meant(info)).count() as u64;
    }
    frontend.registry().kick("ended by the administrator", is_meant) as u64
}
