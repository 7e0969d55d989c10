//! Quota (RFC 9208), decided in the entry and therefore exact.

use crate::decide::{Context, Decision, Stop};
use crate::event::Event;
use parliament_ids::UidValidity;
use parliament_ids::limits::MAILBOXES_PER_ACCOUNT_MAX;
use parliament_mail_api::{QuotaLimits, Rejection};

/// SETQUOTA. The holder lets only administrators ask for it.
pub(crate) fn decide(cx: &Context<'_>, limits: &QuotaLimits) -> Result<Decision, Stop> {
    debug_assert!(cx.head.usage.mailboxes > 0, "INBOX always exists");
    Ok(Decision::events(vec![Event::QuotaSet(*limits)]))
}

fn within(limit: Option<u64>, used: u64, more: u64) -> bool {
    limit.is_none_or(|limit| used.checked_add(more).is_some_and(|total| total <= limit))
}

/// Room for messages.
pub(crate) fn allow_messages(cx: &Context<'_>, count: u64, bytes: u64) -> Result<(), Rejection> {
    let (limits, usage) = (&cx.head.limits, &cx.head.usage);
    let fits = within(limits.storage_bytes, usage.storage_bytes, bytes) && within(limits.messages, usage.messages, count);
    if fits { Ok(()) } else { Err(Rejection::OverQuota) }
}

/// Room for mailboxes: the quota, and the bound of any account.
pub(crate) fn allow_mailboxes(cx: &Context<'_>, count: usize) -> Result<(), Rejection> {
    let more = count as u64;
    if cx.head.usage.mailboxes + more > u64::from(MAILBOXES_PER_ACCOUNT_MAX) || !allow_ids(cx, count) {
        return Err(Rejection::Limit);
    }
    if within(cx.head.limits.mailboxes, cx.head.usage.mailboxes, more) { Ok(()) } else { Err(Rejection::OverQuota) }
}

/// Enough node ids and UIDVALIDITY values are left for that many new mailboxes.
fn allow_ids(cx: &Context<'_>, count: usize) -> bool {
    let next = uid_validity_after(cx.head.uid_validity, cx.now);
    let more = count as u32 + 1;
    next.0.checked_add(more).is_some() && cx.head.next_node.checked_add(more).is_some()
}

/// Seconds above this do not seed UIDVALIDITY: a clock gone mad must not use its 32 bits up. Reached in 2097.
const UID_VALIDITY_SECONDS_MAX: i64 = 0xf000_0000;

/// The UIDVALIDITY of the next mailbox: above every earlier one, and the present second where that is more.
pub(crate) fn uid_validity_after(last: UidValidity, now: i64) -> UidValidity {
    let seconds = u32::try_from(now.clamp(1, UID_VALIDITY_SECONDS_MAX)).unwrap_or(1);
    last.next().max(UidValidity(seconds))
}
