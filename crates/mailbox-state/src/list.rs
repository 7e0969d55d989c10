//! LIST (RFC 9051 section 6.3.9, RFC 5258): one walk over the tree of names, pruned by the patterns and by what the nodes count
//! below them.

use crate::account::{self, Head};
use crate::names::{self, Node};
use crate::pattern::{Pattern, Progress};
use crate::port::{TableFault, Tables};
use crate::records::codec::damaged;
use crate::{acl, counters};
use parliament_ids::{AccountId, MailboxName, Rights};
use parliament_mail_api::{ListRequest, ListRow};

/// Lists names, level by level in the order of their bytes.
///
/// Existing mailboxes are told, and names that have mailboxes below. With `subscribed` exactly the subscribed names are told, with
/// `special_use` those with a special use; with `recursive_match` also names that do not meet the selection but have descendants
/// that do and are not told themselves. An actor other than the owner sees only what the right `l` shows, and no subscriptions.
///
/// # Errors
/// [`TableFault`] when a record cannot be read.
pub fn list(tables: &dyn Tables, account: AccountId, actor: AccountId, request: &ListRequest) -> Result<Vec<ListRow>, TableFault> {
    let Some(head) = account::head(tables, account)? else { return Ok(Vec::new()) };
    let patterns: Vec<Pattern> = request.patterns.iter().map(|p| Pattern::new(&p.0)).collect();
    let start: Vec<Progress> = patterns.iter().map(Pattern::start).collect();
    let mut walk = Walk { tables, account, actor, request, head: &head, patterns: &patterns, rows: Vec::new() };
    walk.level(names::ROOT, "", &start)?;
    Ok(walk.rows)
}

struct Walk<'a> {
    tables: &'a dyn Tables,
    account: AccountId,
    actor: AccountId,
    request: &'a ListRequest,
    head: &'a Head,
    patterns: &'a [Pattern],
    rows: Vec<ListRow>,
}

/// What a subtree holds for its ancestors.
#[derive(Clone, Copy, Default)]
struct Below {
    /// A mailbox that the actor may see.
    visible: bool,
    /// A name that meets the selection.
    selected: bool,
    /// A name that meets the selection and is not told, because no pattern matches it.
    untold: bool,
}

impl Below {
    fn join(self, other: Self) -> Self {
        Self { visible: self.visible || other.visible, selected: self.selected || other.selected, untold: self.untold || other.untold }
    }
}

impl Walk<'_> {
    fn is_owner(&self) -> bool {
        self.account == self.actor
    }

    /// Walks the children of a node; `prefix` is its name with a `/`.
    fn level(&mut self, parent: u32, prefix: &str, progress: &[Progress]) -> Result<Below, TableFault> {
        let mut below = Below::default();
        for (leaf, node) in names::children(self.tables, self.account, parent)? {
            below = below.join(self.node(prefix, &leaf, &node, progress)?);
        }
        Ok(below)
    }

    fn node(&mut self, prefix: &str, leaf: &str, node: &Node, progress: &[Progress]) -> Result<Below, TableFault> {
        let name = format!("{prefix}{leaf}");
        let any_case = name == "INBOX";
        let fed: Vec<Progress> = self.patterns.iter().zip(progress).map(|(p, at)| p.feed(at, leaf, any_case)).collect();
        let matched = self.patterns.iter().zip(&fed).any(|(p, at)| p.accepts(at));
        let deeper: Vec<Progress> = self.patterns.iter().zip(&fed).map(|(p, at)| p.feed(at, "/", false)).collect();
        let at = self.rows.len();
        let below = if self.must_descend(node, &deeper) {
            self.level(node.id, &format!("{name}/"), &deeper)?
        } else {
            Below { visible: node.mailboxes_below > 0, ..Below::default() }
        };
        let visible = match node.mailbox {
            Some(mailbox) => self.is_owner() || acl::rights(self.tables, self.account, self.actor, mailbox)?.contains(Rights::LOOKUP),
            None => false,
        };
        let selected = self.selects(node, visible, below.visible);
        let child_matches = self.request.recursive_match && below.selected;
        if matched && (selected || (self.request.recursive_match && below.untold)) {
            let row = self.row(&name, node, visible, &below, child_matches)?;
            self.rows.insert(at, row);
        }
        let here = Below { visible, selected, untold: selected && !matched };
        Ok(here.join(below))
    }

    /// True when something below may be told, or must be known for what is told above. What others may see of a tree is known
    /// only from its ACLs.
    fn must_descend(&self, node: &Node, deeper: &[Progress]) -> bool {
        let candidates = if self.request.subscribed { node.subscribed_below > 0 } else { node.mailboxes_below > 0 };
        let may_tell_below = candidates && deeper.iter().any(|p| !p.is_dead());
        may_tell_below || (self.request.recursive_match && candidates) || (!self.is_owner() && node.mailboxes_below > 0)
    }

    /// True when the name meets the selection options.
    fn selects(&self, node: &Node, visible: bool, visible_below: bool) -> bool {
        let subscribed = !self.request.subscribed || (node.subscribed && self.is_owner());
        let special = !self.request.special_use || (visible && node.mailbox.is_some_and(|m| !self.head.uses_of(m).is_empty()));
        let exists = self.request.subscribed || visible || visible_below;
        subscribed && special && exists
    }

    fn row(&self, name: &str, node: &Node, visible: bool, below: &Below, child_matches: bool) -> Result<ListRow, TableFault> {
        let mailbox = node.mailbox.filter(|_| visible);
        let status = match mailbox {
            Some(id) if self.request.with_status => {
                let readable = acl::rights(self.tables, self.account, self.actor, id)?.contains(Rights::READ);
                counters::get(self.tables, self.account, id)?.filter(|_| readable).map(|row| row.status(id))
            }
            _ => None,
        };
        Ok(ListRow {
            name: MailboxName::new(name).map_err(|_| damaged("name"))?,
            mailbox,
            has_children: below.visible,
            subscribed: node.subscribed && self.is_owner(),
            child_matches,
            special_use: mailbox.map(|id| self.head.uses_of(id)).unwrap_or_default(),
            status,
        })
    }
}
