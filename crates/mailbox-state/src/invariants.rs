//! The invariants of an account, as code: run after each step of the tests, before a snapshot is written and after it is read.

use crate::account::{self, AccountRecord, Head};
use crate::counters::{self, Counters};
use crate::keys::{self, Table};
use crate::names::{self, Node, ROOT};
use crate::port::{Record, TableFault, Tables};
use crate::references::{self, Prefix};
use crate::{dedupe, flags, keywords, messages, metadata, session_record, state_hash, vanished};
use parliament_ids::limits::RECORD_BYTES_MAX;
use parliament_ids::{AccountId, MailboxId, MailboxName, ModSeq, SystemFlags, Uid, UidSet};
use std::collections::{BTreeMap, BTreeSet};

/// Recounts everything an account holds. The group's index of sessions is [`check_sessions`]' matter.
///
/// # Errors
/// Every invariant that does not hold, in words; a record that cannot be read is one of them.
pub fn check(tables: &dyn Tables, account: AccountId) -> Result<(), Vec<String>> {
    let mut found = Findings(Vec::new());
    if let Err(fault) = check_account(tables, account, &mut found) {
        found.0.push(fault.to_string());
    }
    if found.0.is_empty() { Ok(()) } else { Err(found.0) }
}

/// Compares an account's sessions with the group's index of them. Reads the whole index, so that it is not for every account of a
/// group at work.
///
/// # Errors
/// As [`check`].
pub fn check_sessions(tables: &dyn Tables, account: AccountId) -> Result<(), Vec<String>> {
    let mut found = Findings(Vec::new());
    if let Err(fault) = check_session_index(tables, account, &mut found) {
        found.0.push(fault.to_string());
    }
    if found.0.is_empty() { Ok(()) } else { Err(found.0) }
}

struct Findings(Vec<String>);

impl Findings {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

fn check_account(tables: &dyn Tables, account: AccountId, found: &mut Findings) -> Result<(), TableFault> {
    let head = match account::read(tables, account)? {
        Some(AccountRecord::Live(head)) => *head,
        Some(AccountRecord::Absent(absent)) => {
            let (records, key) = (records(tables, account)?, account::key(account));
            let others = records.iter().filter(|(k, _)| *k != key);
            let sum = others.fold(0_u128, |sum, (key, value)| sum.wrapping_add(state_hash::record(key, value)));
            found.expect(sum == absent.sum, || format!("what is here of an absent account sums up to {sum:x}, not {:x}", absent.sum));
            return Ok(());
        }
        other => {
            let records = records(tables, account)?;
            let left = if other.is_some() { 1 } else { 0 };
            found.expect(records.len() == left, || format!("{} records of no living account", records.len()));
            return Ok(());
        }
    };
    check_records(tables, account, &head, found)?;
    found.expect(head.frozen_for.is_none() || head.lease.owner.is_none(), || "a frozen account has an owner".to_owned());
    let rows = counters::all(tables, account)?;
    let mut references = BTreeMap::new();
    let mut emails = BTreeMap::new();
    for (mailbox, row) in &rows {
        check_mailbox(&Place { tables, account, head: &head, mailbox: *mailbox, row }, &mut references, &mut emails, found)?;
    }
    found.expect(references == references::all(tables, account)?, || "references differ from a recount".to_owned());
    check_usage(tables, account, &head, &rows, found)?;
    check_names(tables, account, &head, &rows, found)
}

fn records(tables: &dyn Tables, account: AccountId) -> Result<Vec<Record>, TableFault> {
    let mut records = Vec::new();
    for table in Table::OF_ACCOUNT {
        let prefix = keys::of(table, account);
        tables.scan(&prefix, &keys::end(&prefix), &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            true
        })?;
    }
    Ok(records)
}

fn check_records(tables: &dyn Tables, account: AccountId, head: &Head, found: &mut Findings) -> Result<(), TableFault> {
    let mut sum = 0_u128;
    for (key, value) in records(tables, account)? {
        sum = sum.wrapping_add(state_hash::record(&key, &value));
        found.expect(value.len() <= RECORD_BYTES_MAX, || format!("record {key:?} has {} bytes", value.len()));
    }
    found.expect(sum == head.state_hash, || format!("state hash is {:x}, recount {sum:x}", head.state_hash));
    Ok(())
}

/// Every session with a record is found by the index, and no other.
fn check_session_index(tables: &dyn Tables, account: AccountId, found: &mut Findings) -> Result<(), TableFault> {
    let recorded: BTreeSet<_> = session_record::sessions(tables, account)?.into_iter().collect();
    let indexed: BTreeSet<_> = session_record::indexed(tables, account)?.into_iter().collect();
    found.expect(recorded == indexed, || format!("sessions {recorded:?}, in the index {indexed:?}"));
    Ok(())
}

struct Place<'a> {
    tables: &'a dyn Tables,
    account: AccountId,
    head: &'a Head,
    mailbox: MailboxId,
    row: &'a Counters,
}

fn check_mailbox(
    place: &Place<'_>,
    references: &mut BTreeMap<Prefix, u64>,
    emails: &mut BTreeMap<u64, messages::MessageRow>,
    found: &mut Findings,
) -> Result<(), TableFault> {
    let Place { tables, account, head, mailbox, row } = *place;
    let all = UidSet::range(Uid(1), Uid(u32::MAX));
    let rows = messages::rows(tables, account, mailbox, &all)?;
    let ascending = rows.is_sorted_by(|a, b| a.uid < b.uid);
    found.expect(ascending, || format!("mailbox {mailbox}: messages not in order"));
    found.expect(rows.len() == row.messages as usize, || format!("mailbox {mailbox}: {} messages, counter {}", rows.len(), row.messages));
    let bytes: u64 = rows.iter().map(|m| m.size).sum();
    found.expect(bytes == row.bytes, || format!("mailbox {mailbox}: {bytes} bytes, counter {}", row.bytes));
    found.expect(rows.last().is_none_or(|m| m.uid < row.uid_next), || format!("mailbox {mailbox}: a UID at UIDNEXT or above"));
    for message in &rows {
        *references.entry(references::prefix_of(&message.hash)).or_default() += 1;
        found.expect(message.email_id < head.next_email, || format!("mailbox {mailbox}: EMAILID {} not given yet", message.email_id));
        let first = emails.entry(message.email_id.0).or_insert(*message);
        let same = (first.hash, first.size, first.internal_date, first.thread_id)
            == (message.hash, message.size, message.internal_date, message.thread_id);
        found.expect(same, || format!("EMAILID {} names two messages", message.email_id));
    }
    let uids: Vec<Uid> = rows.iter().map(|m| m.uid).collect();
    check_flags(place, &uids, found)?;
    check_vanished(place, &uids.into_iter().collect(), found)?;
    found.expect(row.uid_validity <= head.uid_validity && row.uid_validity.0 > 0, || format!("mailbox {mailbox}: UIDVALIDITY"));
    found.expect(row.highest_modseq <= head.modseq, || format!("mailbox {mailbox}: HIGHESTMODSEQ above the account's"));
    let parts = [row.flags_modseq, row.vanished_modseq, row.keywords_modseq, row.vanished_floor];
    found.expect(parts.iter().all(|m| *m <= row.highest_modseq), || format!("mailbox {mailbox}: a MODSEQ above HIGHESTMODSEQ"));
    let metadata_bytes = metadata::total(tables, account, Some(mailbox))?;
    found.expect(metadata_bytes == row.metadata_bytes, || format!("mailbox {mailbox}: metadata bytes"));
    Ok(())
}

fn check_flags(place: &Place<'_>, uids: &[Uid], found: &mut Findings) -> Result<(), TableFault> {
    let Place { tables, account, mailbox, row, .. } = *place;
    let keyword_count = keywords::list(tables, account, mailbox)?.len() as u32;
    let (mut seen_uids, mut unseen, mut deleted) = (Vec::new(), 0, 0);
    let all = UidSet::range(Uid(1), Uid(u32::MAX));
    flags::visit_runs(tables, account, mailbox, &all, &mut |header, value| {
        let rows = flags::decode(header, value)?;
        let run_unseen = rows.iter().filter(|r| !r.system.contains(SystemFlags::SEEN)).count();
        let run_deleted = rows.iter().filter(|r| r.system.contains(SystemFlags::DELETED)).count();
        let counted = (usize::from(header.unseen), usize::from(header.deleted), usize::from(header.run.count));
        found.expect(counted == (run_unseen, run_deleted, rows.len()), || format!("mailbox {mailbox}: header of a flag run"));
        let within = rows.iter().all(|r| r.modseq >= header.low && r.modseq <= header.high && r.modseq <= row.highest_modseq);
        found.expect(within, || format!("mailbox {mailbox}: a message's MODSEQ out of bounds"));
        let ends = (rows.first().map(|r| r.uid), rows.last().map(|r| r.uid));
        found.expect(ends == (Some(header.run.first), Some(header.run.last)), || format!("mailbox {mailbox}: ends of a flag run"));
        let known = rows.iter().all(|r| keyword_count >= 128 - r.keywords.leading_zeros());
        found.expect(known, || format!("mailbox {mailbox}: a keyword bit without keyword"));
        unseen += run_unseen as u32;
        deleted += run_deleted as u32;
        seen_uids.extend(rows.iter().map(|r| r.uid));
        Ok(true)
    })?;
    found.expect(seen_uids == uids, || format!("mailbox {mailbox}: flags and messages have different UIDs"));
    found.expect(unseen == row.unseen, || format!("mailbox {mailbox}: {unseen} unseen, counter {}", row.unseen));
    found.expect(deleted == row.deleted, || format!("mailbox {mailbox}: {deleted} deleted, counter {}", row.deleted));
    Ok(())
}

fn check_vanished(place: &Place<'_>, uids: &UidSet, found: &mut Findings) -> Result<(), TableFault> {
    let Place { tables, account, mailbox, row, .. } = *place;
    let (runs, entries) = vanished::all(tables, account, mailbox)?;
    found.expect(runs == row.vanished_runs && runs <= vanished::RUNS_MAX, || format!("mailbox {mailbox}: runs of vanished history"));
    found.expect(entries.is_sorted_by_key(|e| e.0), || format!("mailbox {mailbox}: vanished history not in order"));
    let last = entries.last().map_or(ModSeq(0), |e| e.0);
    found.expect(last <= row.vanished_modseq, || format!("mailbox {mailbox}: vanished above its MODSEQ"));
    let mut gone = UidSet::new();
    for (_, vanished) in &entries {
        found.expect(gone.intersection(vanished).is_empty(), || format!("mailbox {mailbox}: a UID vanished twice"));
        gone = gone.union(vanished);
    }
    found.expect(gone.intersection(uids).is_empty(), || format!("mailbox {mailbox}: a vanished UID is a message"));
    found.expect(gone.last().is_none_or(|uid| uid < row.uid_next), || format!("mailbox {mailbox}: a UID vanished before it was"));
    if row.vanished_floor == ModSeq(0) {
        let assigned = u64::from(row.uid_next.0) - 1;
        found.expect(gone.len() + uids.len() == assigned, || format!("mailbox {mailbox}: UIDs are neither messages nor vanished"));
    }
    Ok(())
}

fn check_usage(
    tables: &dyn Tables,
    account: AccountId,
    head: &Head,
    rows: &[(MailboxId, Counters)],
    found: &mut Findings,
) -> Result<(), TableFault> {
    let messages: u64 = rows.iter().map(|(_, row)| u64::from(row.messages)).sum();
    let bytes: u64 = rows.iter().map(|(_, row)| row.bytes).sum();
    let counted = (rows.len() as u64, messages, bytes);
    let usage = &head.usage;
    found.expect(counted == (usage.mailboxes, usage.messages, usage.storage_bytes), || format!("usage {usage:?}, recount {counted:?}"));
    found.expect(rows.first().is_some_and(|(id, _)| *id == MailboxId::INBOX), || "no INBOX".to_owned());
    found.expect(rows.last().is_none_or(|(id, _)| *id < head.next_mailbox), || "a mailbox id not given yet".to_owned());
    let validities: BTreeSet<_> = rows.iter().map(|(_, row)| row.uid_validity).collect();
    found.expect(validities.len() == rows.len(), || "two mailboxes with one UIDVALIDITY".to_owned());
    let uses_ok = head.special.iter().all(|(_, id)| rows.iter().any(|(m, _)| m == id));
    let uses: BTreeSet<_> = head.special.iter().map(|(u, _)| *u).collect();
    found.expect(uses_ok && uses.len() == head.special.len(), || "special uses".to_owned());
    found.expect(metadata::total(tables, account, None)? == head.metadata_bytes, || "metadata bytes of the account".to_owned());
    let remembered = dedupe::count(tables, account, head.dedupe_generation)?;
    found.expect(remembered == head.dedupe_count, || "delivery records differ from a recount".to_owned());
    Ok(())
}

fn check_names(
    tables: &dyn Tables,
    account: AccountId,
    head: &Head,
    rows: &[(MailboxId, Counters)],
    found: &mut Findings,
) -> Result<(), TableFault> {
    let mut nodes = BTreeMap::new();
    weigh(tables, account, ROOT, "", &mut nodes, found)?;
    found.expect(nodes.len() == head.nodes as usize, || format!("{} name nodes, counter {}", nodes.len(), head.nodes));
    let back: BTreeMap<u32, (u32, String)> =
        names::back_references(tables, account)?.into_iter().map(|(id, parent, leaf)| (id, (parent, leaf))).collect();
    let forward: BTreeMap<u32, (u32, String)> = nodes.iter().map(|(id, at)| (*id, (at.parent, at.leaf.clone()))).collect();
    found.expect(back == forward, || "back references differ from the tree".to_owned());
    found.expect(nodes.keys().all(|id| *id < head.next_node), || "a node id not given yet".to_owned());
    let mut of_names: Vec<(MailboxId, u32)> = nodes.iter().filter_map(|(id, at)| at.mailbox.map(|m| (m, *id))).collect();
    of_names.sort_unstable();
    let of_rows: Vec<(MailboxId, u32)> = rows.iter().map(|(id, row)| (*id, row.node)).collect();
    found.expect(of_names == of_rows, || format!("names {of_names:?}, counters {of_rows:?}"));
    let inbox = names::find(tables, account, &MailboxName::inbox())?.and_then(|node| node.mailbox);
    found.expect(inbox == Some(MailboxId::INBOX), || "INBOX is another mailbox".to_owned());
    Ok(())
}

struct At {
    parent: u32,
    leaf: String,
    mailbox: Option<MailboxId>,
}

/// Collects the nodes below one and compares what each counts below itself; gives the mailboxes and subscriptions found.
fn weigh(
    tables: &dyn Tables,
    account: AccountId,
    top: u32,
    prefix: &str,
    nodes: &mut BTreeMap<u32, At>,
    found: &mut Findings,
) -> Result<(u32, u32), TableFault> {
    let mut total = (0, 0);
    for (leaf, node) in names::children(tables, account, top)? {
        let name = format!("{prefix}{leaf}");
        let below = weigh(tables, account, node.id, &format!("{name}/"), nodes, found)?;
        let Node { mailbox, subscribed, mailboxes_below, subscribed_below, .. } = node;
        found.expect(below == (mailboxes_below, subscribed_below), || format!("{name}: counts of what is below"));
        let alive = mailbox.is_some() || subscribed || below != (0, 0);
        found.expect(alive, || format!("{name}: a node for nothing"));
        found.expect(MailboxName::new(&name).is_ok_and(|n| n.as_str() == name), || format!("{name}: not a name"));
        total = (total.0 + below.0 + u32::from(mailbox.is_some()), total.1 + below.1 + u32::from(subscribed));
        found.expect(nodes.insert(node.id, At { parent: top, leaf, mailbox }).is_none(), || format!("{name}: a node id twice"));
    }
    Ok(total)
}
