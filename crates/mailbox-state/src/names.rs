//! The tree of names (tables N and B). A node is a level of a name; it may carry a mailbox, a subscription, or neither while
//! something lies below it. Children are packed by parent node, so that renaming a tree moves one entry.
//!
//! Each entry counts the mailboxes and subscriptions below it: `\HasChildren` and the pruning of LIST cost nothing. Invariant: a
//! node without mailbox, subscription and anything below does not exist.

use crate::keys::{self, Table};
use crate::port::{TableFault, Tables};
use crate::records::codec::{Reader, damaged, put};
use crate::records::packed::PackedMap;
use crate::work::Work;
use parliament_ids::limits::NAME_DEPTH_MAX;
use parliament_ids::{AccountId, MailboxId, MailboxName};

/// The node above all names.
pub(crate) const ROOT: u32 = 0;

/// A node as its parent lists it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its id, never reused.
    pub(crate) id: u32,
    /// Its mailbox.
    pub(crate) mailbox: Option<MailboxId>,
    /// The owner subscribed the name.
    pub(crate) subscribed: bool,
    /// Mailboxes below, at any depth.
    pub(crate) mailboxes_below: u32,
    /// Subscriptions below, at any depth.
    pub(crate) subscribed_below: u32,
}

impl Node {
    fn is_dead(&self) -> bool {
        self.mailbox.is_none() && !self.subscribed && self.mailboxes_below == 0 && self.subscribed_below == 0
    }
    /// Mailboxes and subscriptions here and below.
    fn weight(&self) -> (u32, u32) {
        (self.mailboxes_below + u32::from(self.mailbox.is_some()), self.subscribed_below + u32::from(self.subscribed))
    }
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8);
        put(&mut out, u64::from(self.id));
        put(&mut out, self.mailbox.map_or(0, |m| m.0));
        out.push(u8::from(self.subscribed));
        put(&mut out, u64::from(self.mailboxes_below));
        put(&mut out, u64::from(self.subscribed_below));
        out
    }
    fn decode(value: &[u8]) -> Result<Self, TableFault> {
        let mut r = Reader::new(value, "name node");
        let (id, mailbox) = (r.small()?, r.number()?);
        let node = Self {
            id,
            mailbox: (mailbox != 0).then_some(MailboxId(mailbox)),
            subscribed: r.byte()? != 0,
            mailboxes_below: r.small()?,
            subscribed_below: r.small()?,
        };
        r.end()?;
        Ok(node)
    }
}

fn children_map(account: AccountId, parent: u32) -> PackedMap {
    let mut prefix = keys::of(Table::Names, account);
    prefix.extend_from_slice(&parent.to_be_bytes());
    PackedMap { prefix, bytes_max: 2048 }
}

fn back_map(account: AccountId) -> PackedMap {
    PackedMap { prefix: keys::of(Table::Back, account), bytes_max: 2048 }
}

/// The child of a node with this leaf.
pub(crate) fn child(tables: &dyn Tables, account: AccountId, parent: u32, leaf: &str) -> Result<Option<Node>, TableFault> {
    children_map(account, parent).get(tables, leaf.as_bytes())?.map(|value| Node::decode(&value)).transpose()
}

/// The children of a node in the order of their leaves.
pub(crate) fn children(tables: &dyn Tables, account: AccountId, parent: u32) -> Result<Vec<(String, Node)>, TableFault> {
    let mut found = Vec::new();
    children_map(account, parent).scan(tables, &mut |leaf, value| {
        let leaf = std::str::from_utf8(leaf).map_err(|_| damaged("leaf of a name"))?;
        found.push((leaf.to_owned(), Node::decode(value)?));
        Ok(true)
    })?;
    Ok(found)
}

/// The node of a name.
pub(crate) fn find(tables: &dyn Tables, account: AccountId, name: &MailboxName) -> Result<Option<Node>, TableFault> {
    let mut at = Node { id: ROOT, ..Node::default() };
    for leaf in name.levels() {
        match child(tables, account, at.id, leaf)? {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The mailbox of a name.
pub(crate) fn resolve(tables: &dyn Tables, account: AccountId, name: &MailboxName) -> Result<Option<MailboxId>, TableFault> {
    if name.is_inbox() {
        return Ok(Some(MailboxId::INBOX));
    }
    Ok(find(tables, account, name)?.and_then(|node| node.mailbox))
}

/// The parent and leaf of a node.
pub(crate) fn parent_of(tables: &dyn Tables, account: AccountId, node: u32) -> Result<Option<(u32, String)>, TableFault> {
    let Some(value) = back_map(account).get(tables, &node.to_be_bytes())? else { return Ok(None) };
    let mut r = Reader::new(&value, "back reference of a name");
    let parent = r.small()?;
    let len = r.size()?;
    let leaf = std::str::from_utf8(r.bytes(len)?).map_err(|_| r.fault())?;
    Ok(Some((parent, leaf.to_owned())))
}

/// The whole name of a node.
pub(crate) fn name_of(tables: &dyn Tables, account: AccountId, node: u32) -> Result<MailboxName, TableFault> {
    let mut levels = Vec::new();
    let mut at = node;
    while at != ROOT {
        let (parent, leaf) = parent_of(tables, account, at)?.ok_or_else(|| damaged("name without a back reference"))?;
        levels.push(leaf);
        if levels.len() > NAME_DEPTH_MAX {
            return Err(damaged("name deeper than names can be"));
        }
        at = parent;
    }
    levels.reverse();
    MailboxName::new(&levels.join("/")).map_err(|_| damaged("name"))
}

/// Every node of the account with its back reference, for the invariants.
pub(crate) fn back_references(tables: &dyn Tables, account: AccountId) -> Result<Vec<(u32, u32, String)>, TableFault> {
    let mut ids = Vec::new();
    back_map(account).scan(tables, &mut |key, _| {
        ids.push(u32::from_be_bytes(key.try_into().map_err(|_| damaged("key of a back reference"))?));
        Ok(true)
    })?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let (parent, leaf) = parent_of(tables, account, id)?.ok_or_else(|| damaged("back reference"))?;
        found.push((id, parent, leaf));
    }
    Ok(found)
}

/// A level of a name on the way down: parent node, leaf, the node there (or to be made).
struct Step {
    parent: u32,
    leaf: String,
    node: Node,
    before: Option<Node>,
}

/// Walks down a name, planning the nodes that it lacks.
fn path(work: &mut Work<'_, '_>, name: &MailboxName) -> Result<Vec<Step>, TableFault> {
    let mut steps: Vec<Step> = Vec::new();
    let mut parent = ROOT;
    for leaf in name.levels() {
        let exists = steps.last().is_none_or(|step| step.before.is_some());
        let before = if exists { child(work, work.account, parent, leaf)? } else { None };
        let node = before.unwrap_or_else(|| {
            let id = work.head.next_node;
            work.head.next_node += 1;
            Node { id, ..Node::default() }
        });
        parent = node.id;
        steps.push(Step { parent: steps.last().map_or(ROOT, |s| s.node.id), leaf: leaf.to_owned(), node, before });
    }
    Ok(steps)
}

/// Writes the nodes of a path that changed, makes new ones and removes dead ones.
fn write_path(work: &mut Work<'_, '_>, steps: &[Step]) -> Result<(), TableFault> {
    for step in steps {
        let dead = step.node.is_dead();
        match (step.before, dead) {
            (None, true) => {}
            (Some(before), false) if before == step.node => {}
            (before, false) => {
                if before.is_none() {
                    work.head.nodes += 1;
                    set_back(work, step.node.id, step.parent, &step.leaf)?;
                }
                children_map(work.account, step.parent).set(work, step.leaf.as_bytes(), Some(&step.node.encode()))?;
            }
            (Some(_), true) => {
                work.head.nodes -= 1;
                back_map(work.account).set(work, &step.node.id.to_be_bytes(), None)?;
                children_map(work.account, step.parent).set(work, step.leaf.as_bytes(), None)?;
            }
        }
    }
    Ok(())
}

fn set_back(work: &mut Work<'_, '_>, node: u32, parent: u32, leaf: &str) -> Result<(), TableFault> {
    let mut value = Vec::with_capacity(leaf.len() + 8);
    put(&mut value, u64::from(parent));
    crate::records::codec::put_bytes(&mut value, leaf.as_bytes());
    back_map(work.account).set(work, &node.to_be_bytes(), Some(&value))
}

/// Adds what became heavier, subtracts what became lighter, on every step but the last.
fn reweigh(steps: &mut [Step], before: (u32, u32), after: (u32, u32)) {
    let above = steps.len().saturating_sub(1);
    for step in &mut steps[..above] {
        step.node.mailboxes_below = step.node.mailboxes_below + after.0 - before.0;
        step.node.subscribed_below = step.node.subscribed_below + after.1 - before.1;
    }
}

/// Changes the node of a name, making what is missing and removing what becomes dead. Gives the node's id.
pub(crate) fn edit(work: &mut Work<'_, '_>, name: &MailboxName, edit: impl FnOnce(&mut Node)) -> Result<u32, TableFault> {
    let first_new = work.head.next_node;
    let mut steps = path(work, name)?;
    let Some(last) = steps.last_mut() else { return Err(damaged("empty name")) };
    let before = last.node.weight();
    edit(&mut last.node);
    let (after, id) = (last.node.weight(), last.node.id);
    reweigh(&mut steps, before, after);
    if steps.iter().all(|step| step.before.is_some() || step.node.is_dead()) {
        work.head.next_node = first_new;
    }
    write_path(work, &steps)?;
    Ok(id)
}

/// Moves the node of a name, with all below, to another name where no node is.
pub(crate) fn move_tree(work: &mut Work<'_, '_>, from: &MailboxName, to: &MailboxName) -> Result<(), TableFault> {
    let mut source = path(work, from)?;
    let Some(moved) = source.last().and_then(|step| step.before) else { return Err(damaged("moved name")) };
    reweigh(&mut source, moved.weight(), (0, 0));
    let taken = source.pop();
    let leaf_parent = taken.as_ref().map_or(ROOT, |step| step.parent);
    children_map(work.account, leaf_parent).set(work, from.leaf().as_bytes(), None)?;
    write_path(work, &source)?;
    let mut target = path(work, to)?;
    reweigh(&mut target, (0, 0), moved.weight());
    let Some(place) = target.pop() else { return Err(damaged("empty name")) };
    debug_assert!(place.before.is_none(), "the target is free");
    write_path(work, &target)?;
    children_map(work.account, place.parent).set(work, place.leaf.as_bytes(), Some(&moved.encode()))?;
    set_back(work, moved.id, place.parent, &place.leaf)
}

/// A visitor of [`walk_below`]: the leaves from the top to this node, and the node.
type Visit<'v> = dyn FnMut(&[String], &Node) -> bool + 'v;

/// Visits every node below one, parents first, until `visit` returns false.
pub(crate) fn walk_below(
    tables: &dyn Tables,
    account: AccountId,
    top: u32,
    trail: &mut Vec<String>,
    visit: &mut Visit<'_>,
) -> Result<bool, TableFault> {
    for (leaf, node) in children(tables, account, top)? {
        trail.push(leaf);
        let going = visit(trail, &node)
            && (node.mailboxes_below == 0 && node.subscribed_below == 0 || walk_below(tables, account, node.id, trail, visit)?);
        trail.pop();
        if !going {
            return Ok(false);
        }
    }
    Ok(true)
}
