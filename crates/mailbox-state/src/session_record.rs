//! What a frontend session asked last and what it was answered (table W, rule 2), and the watermark below which sessions are over.
//!
//! A record is cut into parts of at most a record's bytes: part 0 begins with the request's number, the reply follows.

use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, damaged, put};
use crate::records::reply;
use crate::work::Work;
use parliament_ids::limits::RECORD_BYTES_MAX;
use parliament_ids::{AccountId, Boot, NodeId, RequestId, RequestSeq, SessionKey};
use parliament_mail_api::{Rejection, Reply};

const VERSION: u8 = 1;
const PART_BYTES: usize = RECORD_BYTES_MAX - 96;

/// The last outcome of a session.
pub(crate) type Outcome = Result<Reply, Rejection>;

/// The session's last request and its outcome.
pub(crate) fn last(tables: &dyn Tables, account: AccountId, session: &SessionKey) -> Result<Option<(RequestSeq, Outcome)>, TableFault> {
    let prefix = keys::session(account, session);
    let mut bytes = Vec::new();
    tables.scan(&prefix, &keys::end(&prefix), &mut |_, part| {
        bytes.extend_from_slice(part);
        true
    })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut r = Reader::versioned(&bytes, VERSION, "session record")?;
    let seq = RequestSeq(r.number()?);
    let len = r.size()?;
    let outcome = reply::decode(r.bytes(len)?)?;
    r.end()?;
    Ok(Some((seq, outcome)))
}

/// Replaces a session's record.
pub(crate) fn record(work: &mut Work<'_, '_>, request: &RequestId, outcome: &Outcome) -> Result<(), TableFault> {
    let reply = reply::encode(outcome);
    let mut bytes = vec![VERSION];
    put(&mut bytes, request.seq.0);
    put(&mut bytes, reply.len() as u64);
    bytes.extend_from_slice(&reply);
    let prefix = keys::session(work.account, &request.session);
    let parts: Vec<&[u8]> = bytes.chunks(PART_BYTES).collect();
    let part_key = |n: usize| [prefix.as_slice(), &(n as u16).to_be_bytes()].concat();
    let is_new = work.get(&part_key(0))?.is_none();
    let surplus_from = part_key(parts.len());
    let mut surplus = Vec::new();
    if !is_new {
        work.scan(&surplus_from, &keys::end(&prefix), &mut |key, _| {
            surplus.push(key.to_vec());
            true
        })?;
    }
    surplus.into_iter().try_for_each(|key| work.delete(key))?;
    for (n, part) in parts.into_iter().enumerate() {
        work.put(part_key(n), part.to_vec())?;
    }
    if is_new {
        work.put_group_wide(keys::session_index(&request.session, work.account), index_value());
    }
    Ok(())
}

/// The value of an entry of the session index.
pub(crate) fn index_value() -> Vec<u8> {
    vec![VERSION]
}

/// The watermarks of all frontends.
pub(crate) fn watermarks(tables: &dyn Tables) -> Result<Vec<(NodeId, Boot, u64)>, TableFault> {
    let prefix = [Table::Watermark as u8];
    let mut nodes = Vec::new();
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, _| {
        nodes.push(keys::number_at(key, 1).map(NodeId));
        true
    })?;
    let one = |node: Option<NodeId>| {
        let node = node.ok_or_else(|| damaged("key of a watermark"))?;
        watermark(tables, node).map(|(boot, below)| (node, boot, below))
    };
    nodes.into_iter().map(one).collect()
}

/// Forgets a session's record.
pub(crate) fn forget(work: &mut Work<'_, '_>, session: &SessionKey) -> Result<(), TableFault> {
    let prefix = keys::session(work.account, session);
    work.delete_all(&prefix)?;
    work.delete_group_wide(keys::session_index(session, work.account));
    Ok(())
}

/// All sessions that have a record with an account.
pub(crate) fn sessions(tables: &dyn Tables, account: AccountId) -> Result<Vec<SessionKey>, TableFault> {
    let prefix = keys::of(Table::Sessions, account);
    let mut sessions: Vec<Option<SessionKey>> = Vec::new();
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, _| {
        let session = session_at(key, prefix.len());
        if sessions.last() != Some(&session) {
            sessions.push(session);
        }
        true
    })?;
    sessions.into_iter().map(|s| s.ok_or_else(|| damaged("key of a session record"))).collect()
}

/// The session whose key begins at `at`.
pub(crate) fn session_at(key: &[u8], at: usize) -> Option<SessionKey> {
    let number = |n: usize| keys::number_at(key, at + 8 * n);
    Some(SessionKey { node: NodeId(number(0)?), boot: Boot(number(1)?), session: number(2)? })
}

/// The watermark of a frontend: its sessions of smaller boots, and of this boot below this number, are over.
pub(crate) fn watermark(tables: &dyn Tables, node: NodeId) -> Result<(Boot, u64), TableFault> {
    let Some(value) = tables.get(&keys::watermark(node))? else { return Ok((Boot(0), 0)) };
    let mut r = Reader::versioned(&value, VERSION, "watermark")?;
    let mark = (Boot(r.number()?), r.number()?);
    r.end()?;
    Ok(mark)
}

/// True when the session is known to be over.
pub(crate) fn is_over(tables: &dyn Tables, session: &SessionKey) -> Result<bool, TableFault> {
    Ok((session.boot, session.session) < watermark(tables, session.node)?)
}

/// The bytes of a watermark.
pub(crate) fn encode_watermark(boot: Boot, below: u64) -> Vec<u8> {
    let mut out = vec![VERSION];
    put(&mut out, boot.0);
    put(&mut out, below);
    out
}

/// The sessions that the index has of an account, for the invariants. Reads the whole index.
pub(crate) fn indexed(tables: &dyn Tables, account: AccountId) -> Result<Vec<SessionKey>, TableFault> {
    let prefix = [Table::SessionIndex as u8];
    let mut found = Vec::new();
    tables.scan(&prefix, &keys::end(&prefix), &mut |key, _| {
        if keys::number_at(key, 25) == Some(account.0) {
            found.extend(session_at(key, 1));
        }
        true
    })?;
    Ok(found)
}

/// The records, by account, of a frontend's sessions below a watermark.
pub(crate) fn below(tables: &dyn Tables, node: NodeId, boot: Boot, below: u64) -> Result<Vec<(AccountId, SessionKey)>, TableFault> {
    let mut from = vec![Table::SessionIndex as u8];
    from.extend_from_slice(&node.0.to_be_bytes());
    let to = [from.as_slice(), &boot.0.to_be_bytes(), &below.to_be_bytes()].concat();
    let mut found = Vec::new();
    tables.scan(&from, &to, &mut |key, _| {
        found.push(session_at(key, 1).zip(keys::number_at(key, 25)).map(|(session, account)| (AccountId(account), session)));
        true
    })?;
    let mut found: Vec<_> = found.into_iter().map(|f| f.ok_or_else(|| damaged("key of the session index"))).collect::<Result<_, _>>()?;
    found.sort_unstable();
    Ok(found)
}
